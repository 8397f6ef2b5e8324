"""Kernels that finish rows of many tokens, over as many blocks as it takes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nbfagg.cuda import finish, formulas, geometry
from nbfagg.cuda.kinds import Kind


def make_totals(P: SimpleNamespace, kind: Kind, block: int) -> Any:
    """Give the kernel that merges the cells of a piece of a row."""
    F = formulas.make(P, kind)
    done = finish.make(P, F, kind, block)
    gather, meet = done.gather, done.meet
    thread, number, put, divide, limits_of = P.thread, P.block, P.put, P.divide, done.limits_of
    maxima, sums, rests = (P.shared(block, kind.real) for _ in range(3))
    BLOCK = block
    ROWS, SPLITS, ROW_BLOCKS, SUMS, PARTS, PIECE_CELLS = (
        geometry.ROWS, geometry.SPLITS, geometry.ROW_BLOCKS, geometry.SUMS, geometry.PARTS,
        geometry.PIECE_CELLS,
    )  # fmt: skip

    def totals(limits, work, law, geo):
        tid = thread()
        scratch = maxima(), sums(), rests()
        row = divide(number(), geo[ROW_BLOCKS])
        piece = number() - row * geo[ROW_BLOCKS]
        base, tokens = limits_of(limits, row, geo)
        first = piece * geo[PIECE_CELLS]
        last = min(first + geo[PIECE_CELLS], tokens * geo[SPLITS])
        m, s, rest = gather(work, base * geo[SPLITS], geo[SUMS], first, last, tid, BLOCK, law)
        M, total, rest = meet(m, s, rest, tid, tid, BLOCK, scratch, law)
        if tid == 0:
            parts = geo[ROWS] * geo[ROW_BLOCKS]
            put(work, geo[PARTS] + number(), M)
            put(work, geo[PARTS] + parts + number(), total)
            put(work, geo[PARTS] + 2 * parts + number(), rest)

    return totals


def make_weights(P: SimpleNamespace, kind: Kind, block: int) -> Any:
    """Give the kernel that writes a piece of a row's weights, from the totals of all its pieces."""
    F = formulas.make(P, kind)
    done = finish.make(P, F, kind, block)
    whole_row, write_tokens, row_lse, limits_of = (
        done.whole_row, done.write_tokens, done.row_lse, done.limits_of,
    )  # fmt: skip
    thread, number, put, divide = P.thread, P.block, P.put, P.divide
    maxima, sums, rests = (P.shared(block, kind.real) for _ in range(3))
    BLOCK = block
    TOKENS, SPLITS, SUMS, LOG, WANT_LSE, PIECE_TOKENS = (
        geometry.TOKENS, geometry.SPLITS, geometry.SUMS, geometry.LOG, geometry.WANT_LSE,
        geometry.PIECE_TOKENS,
    )  # fmt: skip

    def weights(limits, alpha, lse, work, law, geo):
        tid = thread()
        scratch = maxima(), sums(), rests()
        pieces = divide(geo[TOKENS] + geo[PIECE_TOKENS] - 1, geo[PIECE_TOKENS])
        row = divide(number(), pieces)
        piece = number() - row * pieces
        M, total, rest = whole_row(work, row, tid, scratch, law, geo)
        base, tokens = limits_of(limits, row, geo)
        first = piece * geo[PIECE_TOKENS]
        last = min(first + geo[PIECE_TOKENS], tokens)
        write_tokens(
            work, base * geo[SPLITS], geo[SUMS], first, last, tid, BLOCK, geo[SPLITS], M, total, rest,
            geo[LOG], law, alpha, base,
        )  # fmt: skip
        if tid == 0 and piece == 0 and geo[WANT_LSE]:
            put(lse, row, row_lse(M, total, rest, law))

    return weights
