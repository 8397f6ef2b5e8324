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
    thread, number, put, divide = P.thread, P.block, P.put, P.divide
    maxima, sums, rests = (P.shared(block, kind.real) for _ in range(3))
    BLOCK = block
    ROWS, CELLS, ROW_BLOCKS, SUMS, PARTS, PIECE_CELLS = (
        geometry.ROWS, geometry.CELLS, geometry.ROW_BLOCKS, geometry.SUMS, geometry.PARTS,
        geometry.PIECE_CELLS,
    )  # fmt: skip

    def totals(work, law, geo):
        tid = thread()
        scratch = maxima(), sums(), rests()
        row = divide(number(), geo[ROW_BLOCKS])
        piece = number() - row * geo[ROW_BLOCKS]
        first = piece * geo[PIECE_CELLS]
        last = min(first + geo[PIECE_CELLS], geo[CELLS])
        m, s, rest = gather(work, row * geo[CELLS], geo[SUMS], first, last, tid, BLOCK, law)
        M, total, rest = meet(m, s, rest, tid, tid, BLOCK, scratch, law)
        if tid == 0:
            parts = geo[ROWS] * geo[ROW_BLOCKS]
            put(work, geo[PARTS] + number(), M)
            put(work, geo[PARTS] + parts + number(), total)
            put(work, geo[PARTS] + 2 * parts + number(), rest)

    return totals


def make_small(P: SimpleNamespace, kind: Kind, block: int) -> Any:
    """Give the kernel that finishes small rows, several a block, from the states of their cells."""
    F = formulas.make(P, kind)
    done = finish.make(P, F, kind, block)
    gather, meet, write_tokens, row_lse = done.gather, done.meet, done.write_tokens, done.row_lse
    thread, number, put, divide = P.thread, P.block, P.put, P.divide
    maxima, sums, rests = (P.shared(block, kind.real) for _ in range(3))
    BLOCK = block
    ROWS, TOKENS, CELLS, SPLITS, BLOCK_ROWS, SUMS, LOG, WANT_LSE = (
        geometry.ROWS, geometry.TOKENS, geometry.CELLS, geometry.SPLITS, geometry.BLOCK_ROWS, geometry.SUMS,
        geometry.LOG, geometry.WANT_LSE,
    )  # fmt: skip

    def small(alpha, lse, work, law, geo):
        tid = thread()
        scratch = maxima(), sums(), rests()
        span = divide(BLOCK, geo[BLOCK_ROWS])
        r = divide(tid, span)
        t = tid - r * span
        row = number() * geo[BLOCK_ROWS] + r
        live = row < geo[ROWS]
        base = row * geo[CELLS]
        m, s, rest = gather(work, base, geo[SUMS], 0, geo[CELLS] if live else 0, t, span, law)
        M, total, rest = meet(m, s, rest, tid, t, span, scratch, law)
        if live:
            write_tokens(
                work, base, geo[SUMS], 0, geo[TOKENS], t, span, geo[SPLITS], M, total, rest,
                geo[LOG], law, alpha, row * geo[TOKENS],
            )  # fmt: skip
            if t == 0 and geo[WANT_LSE]:
                put(lse, row, row_lse(M, total, rest, law))

    return small


def make_packed(P: SimpleNamespace, kind: Kind, block: int) -> Any:
    """Give the kernel that finishes packed rows, a block each: only the device knows their lengths."""
    F = formulas.make(P, kind)
    done = finish.make(P, F, kind, block)
    gather, meet, write_tokens, row_lse, limits_of = (
        done.gather, done.meet, done.write_tokens, done.row_lse, done.limits_of,
    )  # fmt: skip
    thread, number, put = P.thread, P.block, P.put
    maxima, sums, rests = (P.shared(block, kind.real) for _ in range(3))
    BLOCK = block
    SPLITS, SUMS, LOG, WANT_LSE = geometry.SPLITS, geometry.SUMS, geometry.LOG, geometry.WANT_LSE

    def packed(limits, alpha, lse, work, law, geo):
        tid = thread()
        scratch = maxima(), sums(), rests()
        first, tokens = limits_of(limits, number(), geo)
        base = first * geo[SPLITS]
        m, s, rest = gather(work, base, geo[SUMS], 0, tokens * geo[SPLITS], tid, BLOCK, law)
        M, total, rest = meet(m, s, rest, tid, tid, BLOCK, scratch, law)
        write_tokens(
            work, base, geo[SUMS], 0, tokens, tid, BLOCK, geo[SPLITS], M, total, rest,
            geo[LOG], law, alpha, first,
        )  # fmt: skip
        if tid == 0 and geo[WANT_LSE]:
            put(lse, number(), row_lse(M, total, rest, law))

    return packed


def make_weights(P: SimpleNamespace, kind: Kind, block: int) -> Any:
    """Give the kernel that writes a piece of a row's weights, from the totals of all its pieces."""
    F = formulas.make(P, kind)
    done = finish.make(P, F, kind, block)
    whole_row, write_tokens, row_lse = done.whole_row, done.write_tokens, done.row_lse
    thread, number, put, divide = P.thread, P.block, P.put, P.divide
    maxima, sums, rests = (P.shared(block, kind.real) for _ in range(3))
    BLOCK = block
    TOKENS, CELLS, SPLITS, SUMS, LOG, WANT_LSE, PIECE_TOKENS = (
        geometry.TOKENS, geometry.CELLS, geometry.SPLITS, geometry.SUMS, geometry.LOG, geometry.WANT_LSE,
        geometry.PIECE_TOKENS,
    )  # fmt: skip

    def weights(alpha, lse, work, law, geo):
        tid = thread()
        scratch = maxima(), sums(), rests()
        pieces = divide(geo[TOKENS] + geo[PIECE_TOKENS] - 1, geo[PIECE_TOKENS])
        row = divide(number(), pieces)
        piece = number() - row * pieces
        M, total, rest = whole_row(work, row, tid, scratch, law, geo)
        first = piece * geo[PIECE_TOKENS]
        last = min(first + geo[PIECE_TOKENS], geo[TOKENS])
        write_tokens(
            work, row * geo[CELLS], geo[SUMS], first, last, tid, BLOCK, geo[SPLITS], M, total, rest,
            geo[LOG], law, alpha, row * geo[TOKENS],
        )  # fmt: skip
        if tid == 0 and piece == 0 and geo[WANT_LSE]:
            put(lse, row, row_lse(M, total, rest, law))

    return weights
