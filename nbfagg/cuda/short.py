"""Forward kernels for tokens too short for a thread's loads: one exponential a logit.

Threads read 16 bytes at a time, wherever tokens begin, and keep the logits in shared memory, where their
exponentials relative to the row's maximum take their place; then one thread sums the few of a token.
Logarithms take the logits again, relative to the token's own maximum, for a token may lie where
exponentials relative to the row's are all alike.

They come through registers, not by cp.async, which puts 16 bytes of memory into shared memory as they are.
Halves would have to be widened there, rows that begin between two multiples of 16 bytes could not come that
way, and to look for the maximum would take a load from shared memory for the store that is saved. What it is
good for, more loads in flight, is not short: plan.Limits.block has the numbers.

`short` has whole rows: it looks for the maximum while it reads. Of larger rows `pieces` finds the totals
first, and `short_pieces` reads the logits again, from L2 where not too many rows come between the two.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nbfagg.cuda import absorb, finish, formulas, geometry, staged
from nbfagg.cuda.kinds import Kind

(ROWS, TOKENS, TERMS, ROW_PITCH, BLOCK_ROWS, ROW_ROOM, WRITERS, LOG, WANT_LSE, BEGIN, FIRST, BLOCK_CELLS,
 ROW_BLOCKS, PARTS, PIECE_TOKENS) = (
    geometry.ROWS, geometry.TOKENS, geometry.TERMS, geometry.ROW_PITCH, geometry.BLOCK_ROWS,
    geometry.ROW_ROOM, geometry.WRITERS, geometry.LOG, geometry.WANT_LSE, geometry.BEGIN, geometry.FIRST,
    geometry.BLOCK_CELLS, geometry.ROW_BLOCKS, geometry.PARTS, geometry.PIECE_TOKENS,
)  # fmt: skip


def make(P: SimpleNamespace, kind: Kind, aligned: bool, block: int) -> Any:
    """Give the kernel for whole rows, as many a block as there is room for."""
    F = formulas.make(P, kind)
    group = staged.make_group(P, F, kind, block)
    done = finish.make(P, F, kind, block)
    logits = staged.make(P, F, done, kind, aligned)
    copy, sums, included, write = logits.copy, logits.sums, logits.included, logits.write
    highest_of_all, sum_of_all = group.highest, group.sum
    row_inverse, row_lse = done.row_inverse, done.row_lse
    thread, number, sync, get, put, divide = P.thread, P.block, P.sync, P.get, P.put, P.divide
    fine_point = F.fine_point
    area = P.dynamic(kind.real)
    maxima, totals, rests, inverses = (P.shared(block, kind.real) for _ in range(4))
    BLOCK = block

    def short(a, limits, alpha, lse, law, geo):
        # As rows.py has it: a is (ROWS, TOKENS, TERMS), alpha (ROWS, TOKENS), lse (ROWS,).
        tid = thread()
        stage, tops, wholes, lost, inverse = area(), maxima(), totals(), rests(), inverses()
        first = number() * geo[BLOCK_ROWS]
        span = divide(BLOCK, geo[BLOCK_ROWS])
        r = divide(tid, span)
        t = tid - r * span
        row = first + r
        live = row < geo[ROWS]
        count = included(limits, row, geo) * geo[TERMS] if live else 0
        place = r * geo[ROW_ROOM]
        m = copy(a, geo[BEGIN] + row * geo[ROW_PITCH], count, stage, place, t, span)
        M = highest_of_all(m, tid, t, span)
        s, rest = sums(count, stage, place, t, span, fine_point(M, law), law, geo[LOG] == 0)
        total, rest = sum_of_all(s, rest, tid, t, span)
        if t == 0:
            put(tops, r, M)
            put(wholes, r, total)
            put(lost, r, rest)
            put(inverse, r, row_inverse(M, total))
            if live and geo[WANT_LSE]:
                put(lse, row, row_lse(M, total, rest, law))
        sync()
        # Tokens side by side fall to threads side by side.
        r = divide(tid, geo[WRITERS])
        t = tid - r * geo[WRITERS]
        while r < geo[BLOCK_ROWS] and first + r < geo[ROWS]:
            row = first + r
            write(
                stage, r * geo[ROW_ROOM] + t * geo[TERMS], t, included(limits, row, geo), geo[TOKENS], alpha,
                row * geo[TOKENS], geo[WRITERS], get(tops, r), get(wholes, r), get(lost, r), get(inverse, r),
                law, geo,
            )  # fmt: skip
            r += divide(BLOCK, geo[WRITERS])

    return short


def make_pieces(P: SimpleNamespace, kind: Kind, aligned: bool, block: int) -> Any:
    """Give the kernel that finds the totals of a piece of a row, whatever its tokens are."""
    F = formulas.make(P, kind)
    done = finish.make(P, F, kind, block)
    share = absorb.make_share(P, F, kind, aligned).share
    included = staged.make(P, F, done, kind, aligned).included
    meet = done.meet
    thread, number, put, divide = P.thread, P.block, P.put, P.divide
    maxima, sums, rests = (P.shared(block, kind.real) for _ in range(3))
    BLOCK = block

    def pieces(a, limits, work, law, geo):
        tid = thread()
        scratch = maxima(), sums(), rests()
        place = number() + geo[FIRST] * geo[ROW_BLOCKS]
        row = divide(place, geo[ROW_BLOCKS])
        first = (place - row * geo[ROW_BLOCKS]) * geo[BLOCK_CELLS]
        count = max(0, min(geo[BLOCK_CELLS], included(limits, row, geo) - first)) * geo[TERMS]
        start = geo[BEGIN] + row * geo[ROW_PITCH] + first * geo[TERMS]
        m, s, rest = share(a, start, count, tid, BLOCK, law)
        M, total, rest = meet(m, s, rest, tid, tid, BLOCK, scratch, law)
        if tid == 0:
            parts = geo[ROWS] * geo[ROW_BLOCKS]
            put(work, geo[PARTS] + place, M)
            put(work, geo[PARTS] + parts + place, total)
            put(work, geo[PARTS] + 2 * parts + place, rest)

    return pieces


def make_short_pieces(P: SimpleNamespace, kind: Kind, aligned: bool, block: int) -> Any:
    """Give the kernel that writes the weights of a piece of a row, from its logits and the row's totals."""
    F = formulas.make(P, kind)
    done = finish.make(P, F, kind, block)
    logits = staged.make(P, F, done, kind, aligned)
    copy, sums, included, write = logits.copy, logits.sums, logits.included, logits.write
    whole_row, row_inverse, row_lse = done.whole_row, done.row_inverse, done.row_lse
    thread, number, sync, put, divide = P.thread, P.block, P.sync, P.put, P.divide
    fine_point = F.fine_point
    area = P.dynamic(kind.real)
    maxima, totals, rests = (P.shared(block, kind.real) for _ in range(3))
    BLOCK = block

    def short_pieces(a, limits, alpha, lse, work, law, geo):
        tid = thread()
        stage, scratch = area(), (maxima(), totals(), rests())
        in_row = divide(geo[TOKENS] + geo[PIECE_TOKENS] - 1, geo[PIECE_TOKENS])
        row = divide(number(), in_row)
        first = (number() - row * in_row) * geo[PIECE_TOKENS]
        row += geo[FIRST]
        M, total, rest = whole_row(work, row, tid, scratch, law, geo)
        tokens = min(geo[PIECE_TOKENS], geo[TOKENS] - first)
        count = max(0, min(tokens, included(limits, row, geo) - first))
        start = geo[BEGIN] + row * geo[ROW_PITCH] + first * geo[TERMS]
        copy(a, start, count * geo[TERMS], stage, 0, tid, BLOCK)
        if geo[LOG] == 0:
            sums(count * geo[TERMS], stage, 0, tid, BLOCK, fine_point(M, law), law, True)
        if tid == 0 and first == 0 and geo[WANT_LSE]:
            put(lse, row, row_lse(M, total, rest, law))
        sync()
        write(
            stage, tid * geo[TERMS], tid, count, tokens, alpha, row * geo[TOKENS] + first, geo[WRITERS],
            M, total, rest, row_inverse(M, total), law, geo,
        )  # fmt: skip

    return short_pieces
