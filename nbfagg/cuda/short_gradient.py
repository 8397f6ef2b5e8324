"""The gradient for short tokens (short.py): logits in shared memory, where gradients take their place.

A block has whole rows, or a piece of one. A thread has a token: its maximum, its exponentials, and their
products with what gradient.py says; memory is read and written 16 bytes at a time, wherever tokens begin.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nbfagg.cuda import absorb, finish, formulas, geometry, gradient, staged
from nbfagg.cuda.kinds import Kind


def make(P: SimpleNamespace, kind: Kind, aligned: bool, block: int) -> Any:
    """Give the kernel."""
    F = formulas.make(P, kind)
    done = finish.make(P, F, kind, block)
    logits = staged.make(P, F, done, kind, aligned)
    copy, included = logits.copy, logits.included
    read = absorb.make_apart(P, F, kind).read
    token = gradient.make_token(P, F, kind, block)
    factor_of, differentiate = token.factor_of, _make_token(P, F, kind, token.coefficient_of)
    thread, number, sync, get, put, divide = P.thread, P.block, P.sync, P.get, P.put, P.divide
    jit, store, store_vector = P.jit, P.store, P.store_vector
    area = P.dynamic(kind.real)
    ZERO, V, BLOCK = F.ZERO, kind.vector, block
    (ROWS, TOKENS, TERMS, ROW_PITCH, BLOCK_ROWS, ROW_ROOM, WRITERS, BEGIN, PIECE_TOKENS,
     OUT_ROW_PITCH, OUT_BEGIN) = (
        geometry.ROWS, geometry.TOKENS, geometry.TERMS, geometry.ROW_PITCH, geometry.BLOCK_ROWS,
        geometry.ROW_ROOM, geometry.WRITERS, geometry.BEGIN, geometry.PIECE_TOKENS,
        geometry.OUT_ROW_PITCH, geometry.OUT_BEGIN,
    )  # fmt: skip

    if aligned:

        @jit
        def write(stage, place, count, out, to, t, span):
            """Write a thread's share of a row."""
            at = t * V
            while at + V <= count:
                store_vector(out, to + at, read(stage, place + at))
                at += span * V
            while at < count:
                # The thread whose vector is not full.
                store(out, to + at, get(stage, place + at))
                at += 1
    else:

        @jit
        def write(stage, place, count, out, to, t, span):
            """Write a thread's share of a row."""
            at = t
            while at < count:
                store(out, to + at, get(stage, place + at))
                at += span

    @jit
    def clear(stage, at, terms):
        i = 0
        while i < terms:
            put(stage, at + i, ZERO)
            i += 1

    def short_gradient(a, grad, alpha, limits, out, work, law, geo):
        tid, stage = thread(), area()
        rows, first, begin, tokens = geo[BLOCK_ROWS], number() * geo[BLOCK_ROWS], 0, geo[TOKENS]
        if rows == 0:
            pieces = divide(geo[TOKENS] + geo[PIECE_TOKENS] - 1, geo[PIECE_TOKENS])
            rows, first = 1, divide(number(), pieces)
            begin = (number() - first * pieces) * geo[PIECE_TOKENS]
            tokens = min(geo[PIECE_TOKENS], geo[TOKENS] - begin)
        span = divide(BLOCK, rows)
        r = divide(tid, span)
        t = tid - r * span
        row, place = first + r, r * geo[ROW_ROOM]
        live = row < geo[ROWS]
        count = max(0, min(tokens, included(limits, row, geo) - begin)) if live else 0
        start = geo[BEGIN] + row * geo[ROW_PITCH] + begin * geo[TERMS]
        copy(a, start, count * geo[TERMS], stage, place, t, span)
        sync()
        q = divide(tid, geo[WRITERS])
        p = tid - q * geo[WRITERS]
        while q < rows and first + q < geo[ROWS]:
            count = max(0, min(tokens, included(limits, first + q, geo) - begin))
            cell = (first + q) * geo[TOKENS] + begin
            i = p
            while i < tokens:
                at = q * geo[ROW_ROOM] + i * geo[TERMS]
                if i < count:
                    value = factor_of(grad, alpha, work, first + q, cell + i, law, geo)
                    differentiate(stage, at, geo[TERMS], value, law)
                else:
                    clear(stage, at, geo[TERMS])
                i += geo[WRITERS]
            q += divide(BLOCK, geo[WRITERS])
        sync()
        if live:
            to = geo[OUT_BEGIN] + row * geo[OUT_ROW_PITCH] + begin * geo[TERMS]
            write(stage, place, tokens * geo[TERMS], out, to, t, span)

    return short_gradient


def _make_token(P: SimpleNamespace, F: SimpleNamespace, kind: Kind, coefficient_of: Any) -> Any:
    """Give the device function that puts a token's gradient in the place of its logits."""
    jit, get, put, top = P.jit, P.get, P.put, staged.make_top(P, F)
    deep, point_for, far_down, join = F.deep, F.deep_point, F.far_down, staged.make_join(P, F, kind)
    ZERO, ONE, NINF, LIFT = F.ZERO, F.ONE, F.NINF, F.DEEP_UNLIFTED

    @jit
    def differentiate(stage, at, terms, value, law):
        point = point_for(top(stage, at, terms), law)
        s, rest = ZERO, ZERO
        i = 0
        while i < terms:
            x = get(stage, at + i)
            # -inf has no gradient, whatever the factor; no exponential is below 0.
            e = -ONE
            if x != NINF:
                e = far_down(deep(x, point, law))
                s, rest = join(s, rest, e)
            put(stage, at + i, e)
            i += 1
        c = coefficient_of(value, s * LIFT, rest * LIFT)
        i = 0
        while i < terms:
            e = get(stage, at + i)
            put(stage, at + i, ZERO if e == -ONE else e * c[0] * c[1])
            i += 1

    return differentiate
