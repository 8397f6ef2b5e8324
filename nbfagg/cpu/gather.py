"""Where a block's logits lie side by side; if nowhere, they are brought together in a tile.

That is the way of last resort: strides that no kernel can read in place,
integers, other byte orders.
"""

import numpy as np
from numba import types
from numba.extending import overload

from nbfagg.cpu.vector import BYTES, jit, jit_as, lanes, peek, peek_swapped, poke, type_as
from nbfagg.fields import (
    GATHERED,
    KIND,
    KINDS,
    ROWS_AXES,
    ROWS_BATCH,
    ROWS_KEPT,
    ROWS_SUMMED,
    SWAPPED,
    TERMS,
)


@jit
def offset_of(plan, first, axes, index):
    """Give the byte offset of number `index` among `axes` axes from `first` on, the last running fastest."""
    offset = 0
    for a in range(first + axes - 1, first - 1, -1):
        size = plan[ROWS_AXES + 2 * a]
        if a == first:
            offset += index * plan[ROWS_AXES + 2 * a + 1]
        else:
            offset += index % size * plan[ROWS_AXES + 2 * a + 1]
            index //= size
    return offset


def _copier(code, peek_as):
    """Make the loop that brings numbers of one type, `pitch` bytes apart, side by side at `target`."""
    zero = np.dtype(code).type(0)

    @jit_as(f"copy_{code}_{peek_as.__name__}")
    def copy(like, p, pitch, count, target):
        size = BYTES // lanes(like)
        for i in range(count):
            poke(target + i * size, type_as(like, peek_as(zero, p + i * pitch)))

    return copy


_native = [_copier(code, peek) for code in KINDS]
_swapped = [_copier(code, peek_swapped) for code in KINDS]
_f4, _f8, _i1, _i2, _i4, _i8, _u1, _u2, _u4, _u8 = _native
_sf4, _sf8, _, _si2, _si4, _si8, _, _su2, _su4, _su8 = _swapped


def copy_run(like, kind, p, pitch, count, target):
    """Bring `count` numbers of KINDS[kind], `pitch` bytes apart, side by side at `target`."""
    raise NotImplementedError("for compiled code")


@overload(copy_run)
def _copy_run(like, kind, p, pitch, count, target):
    if like == types.float32:

        def single(like, kind, p, pitch, count, target):
            if kind == SWAPPED:
                _sf4(like, p, pitch, count, target)
            else:
                _f4(like, p, pitch, count, target)

        return single

    def double(like, kind, p, pitch, count, target):
        if kind == 0:
            _f4(like, p, pitch, count, target)
        elif kind == 1:
            _f8(like, p, pitch, count, target)
        elif kind == 2:
            _i1(like, p, pitch, count, target)
        elif kind == 3:
            _i2(like, p, pitch, count, target)
        elif kind == 4:
            _i4(like, p, pitch, count, target)
        elif kind == 5:
            _i8(like, p, pitch, count, target)
        elif kind == 6:
            _u1(like, p, pitch, count, target)
        elif kind == 7:
            _u2(like, p, pitch, count, target)
        elif kind == 8:
            _u4(like, p, pitch, count, target)
        elif kind == 9:
            _u8(like, p, pitch, count, target)
        elif kind == SWAPPED:
            _sf4(like, p, pitch, count, target)
        elif kind == SWAPPED + 1:
            _sf8(like, p, pitch, count, target)
        elif kind == SWAPPED + 3:
            _si2(like, p, pitch, count, target)
        elif kind == SWAPPED + 4:
            _si4(like, p, pitch, count, target)
        elif kind == SWAPPED + 5:
            _si8(like, p, pitch, count, target)
        elif kind == SWAPPED + 7:
            _su2(like, p, pitch, count, target)
        elif kind == SWAPPED + 8:
            _su4(like, p, pitch, count, target)
        elif kind == SWAPPED + 9:
            _su8(like, p, pitch, count, target)

    return double


@jit
def gather(like, plan, p, term, terms, target):
    """Bring terms `term` ... of the token at p side by side at `target`."""
    size = BYTES // lanes(like)
    first = plan[ROWS_BATCH] + plan[ROWS_KEPT]
    axes = plan[ROWS_SUMMED]
    if axes == 0:
        copy_run(like, plan[KIND], p, 0, 1, target)
        return
    inner = ROWS_AXES + 2 * (first + axes - 1)
    run, pitch = plan[inner], plan[inner + 1]
    done = 0
    while done < terms:
        index = (term + done) % run
        count = min(run - index, terms - done)
        outer = offset_of(plan, first, axes - 1, (term + done) // run)
        copy_run(like, plan[KIND], p + outer + index * pitch, pitch, count, target + done * size)
        done += count


@jit
def locate(like, source, plan, row, token, tokens, term, terms, buffer):
    """Give the address at which `terms` terms of each of `tokens` tokens lie side by side."""
    size = BYTES // lanes(like)
    p = source + offset_of(plan, 0, plan[ROWS_BATCH], row)
    if not plan[GATHERED]:
        return p + (token * plan[TERMS] + term) * size
    for t in range(tokens):
        place = p + offset_of(plan, plan[ROWS_BATCH], plan[ROWS_KEPT], token + t)
        gather(like, plan, place, term, terms, buffer + t * terms * size)
    return buffer
