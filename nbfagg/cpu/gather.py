"""Where a block's logits lie side by side; if nowhere, they are brought together in a tile.

Read in place are float32 and float64 logits in one piece, of which nothing is
left out. Everything else goes through the tile: half precision, integers,
other byte orders, strides of any kind, masks. What is left out becomes -inf
there, which weighs nothing to the bit, and is not looked at.

`source` is three addresses, of the logits, of the mask's bytes (0: all are
included) and of the rows' lengths (0: whole rows), and whether a row's maximum
and total are wanted apart, for a state.
"""

import numpy as np

from nbfagg.cpu.formats import is_fast, keep_where, load_formatted, number, peek_byte
from nbfagg.cpu.jit import jit
from nbfagg.cpu.vector import BYTES, lanes, peek, poke, prefetch, store, type_as
from nbfagg.fields import (
    BESIDE,
    BY_TOKEN,
    GATHERED,
    ITEM,
    KIND,
    MASK_STEP,
    MASKED,
    ROW_AXIS,
    ROWS_AXES,
    ROWS_BATCH,
    ROWS_KEPT,
    ROWS_SUMMED,
    TERMS,
    WHOLE,
)

# Bytes from what is brought together to what is prefetched.
AHEAD = 1024


@jit
def offset_of(plan, first, axes, index, field):
    """Give the byte offset of number `index` among `axes` axes from `first` on, the last running fastest.

    field is 1 for an offset in the logits, 2 for one in their mask, 3 for one in the gradient.
    """
    offset = 0
    for a in range(first + axes - 1, first - 1, -1):
        size = plan[ROWS_AXES + ROW_AXIS * a]
        pitch = plan[ROWS_AXES + ROW_AXIS * a + field]
        if a == first:
            offset += index * pitch
        else:
            offset += index % size * pitch
            index //= size
    return offset


@jit
def leave_out(like, target, count):
    """Write `count` times -inf at `target`."""
    for i in range(count):
        poke(target + i * (BYTES // lanes(like)), type_as(like, -np.inf))


@jit
def copy_run(like, kind, item, p, pitch, mask, apart, count, target):
    """Bring `count` numbers `pitch` bytes apart side by side at `target`, as far as their mask includes them.

    mask is the address of the mask's bytes, `apart` from one another, or 0.
    """
    size = BYTES // lanes(like)
    if mask and apart == 0:
        if peek_byte(mask) == 0:
            leave_out(like, target, count)
            return
        mask = 0
    done = 0
    if pitch == item and is_fast(like, kind) and (mask == 0 or apart == 1):
        width = lanes(like)
        for _ in range(count // width):
            prefetch(p + AHEAD)
            x = load_formatted(like, kind, p)
            if mask:
                x = keep_where(x, mask)
                mask += width
            store(target, x)
            p += width * item
            target += BYTES
            done += width
    for i in range(count - done):
        value = type_as(like, -np.inf)
        if mask == 0 or peek_byte(mask + i * apart) != 0:
            value = type_as(like, number(kind, p + i * pitch))
        poke(target + i * size, value)


@jit
def gather(like, plan, p, mask, term, terms, target):
    """Bring terms `term` ... of the token at p side by side at `target`."""
    size = BYTES // lanes(like)
    first = plan[ROWS_BATCH] + plan[ROWS_KEPT]
    axes = plan[ROWS_SUMMED]
    kind, item = plan[KIND], plan[ITEM]
    if axes == 0:
        copy_run(like, kind, item, p, item, mask, 0, 1, target)
        return
    inner = ROWS_AXES + ROW_AXIS * (first + axes - 1)
    run, pitch, apart = plan[inner], plan[inner + 1], plan[inner + 2]
    done = 0
    while done < terms:
        index = (term + done) % run
        count = min(run - index, terms - done)
        q = p + offset_of(plan, first, axes - 1, (term + done) // run, 1) + index * pitch
        m = mask
        if mask:
            m += offset_of(plan, first, axes - 1, (term + done) // run, 2) + index * apart
        copy_run(like, kind, item, q, pitch, m, apart, count, target + done * size)
        done += count


@jit
def ahead_of(source, plan, row, index, p, buffer, usual):
    """Give the bytes from what is summed at p to what is prefetched meanwhile.

    Usually that is as far on in memory as a block is long. What was brought
    together lies in the buffer, but its successor, number `index` of the row,
    does not: without this the memory bus idles during the arithmetic.
    """
    if p != buffer or not plan[WHOLE]:
        return usual
    return source[0] + offset_of(plan, 0, plan[ROWS_BATCH], row, 1) + index * plan[ITEM] - p


@jit
def count_included(plan, source, row, token, tokens):
    """Give how many of `tokens` tokens a row's length leaves, from the first on."""
    if source[2] == 0:
        return tokens
    return max(0, min(peek(0, source[2] + 8 * row) - token, tokens))


@jit
def token_mask(plan, mask, row, token, tokens):
    """Count the tokens that a mask by token includes."""
    m = mask + offset_of(plan, 0, plan[ROWS_BATCH], row, 2) + token * plan[MASK_STEP]
    count = 0
    for t in range(tokens):
        count += peek_byte(m + t * plan[MASK_STEP]) != 0
    return count


@jit
def locate(like, source, plan, row, token, tokens, term, terms, buffer):
    """Give the address at which `terms` terms of each of `tokens` tokens lie side by side.

    0 says that they are all left out.
    """
    size = BYTES // lanes(like)
    p, mask = source[0], source[1]
    here = count_included(plan, source, row, token, tokens)
    if here == 0:
        return 0
    staged = plan[GATHERED] != 0 or here < tokens
    by_token = plan[MASKED] == BY_TOKEN
    if by_token:
        included = token_mask(plan, mask, row, token, here)
        if included == 0:
            return 0
        if included == here:
            by_token = False
            mask = 0
        else:
            staged = True
    elif mask:
        staged = True
    p += offset_of(plan, 0, plan[ROWS_BATCH], row, 1)
    if mask:
        mask += offset_of(plan, 0, plan[ROWS_BATCH], row, 2)
    step = terms * size
    if plan[WHOLE] and (mask == 0 or by_token or plan[MASKED] == BESIDE):
        # One stretch of memory, as terms are only a part of one token's at most.
        index = token * plan[TERMS] + term
        p += index * plan[ITEM]
        if not staged:
            return p
        beside = 0 if by_token or mask == 0 else mask + index
        copy_run(like, plan[KIND], plan[ITEM], p, plan[ITEM], beside, 1, here * terms, buffer)
        if by_token:
            for t in range(here):
                if peek_byte(mask + (token + t) * plan[MASK_STEP]) == 0:
                    leave_out(like, buffer + t * step, terms)
    else:
        for t in range(here):
            place = p + offset_of(plan, plan[ROWS_BATCH], plan[ROWS_KEPT], token + t, 1)
            m = mask
            if mask:
                m += offset_of(plan, plan[ROWS_BATCH], plan[ROWS_KEPT], token + t, 2)
            gather(like, plan, place, m, term, terms, buffer + t * step)
    leave_out(like, buffer + here * step, (tokens - here) * terms)
    return buffer
