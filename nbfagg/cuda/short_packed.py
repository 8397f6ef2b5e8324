"""Forward kernels for packed rows of short tokens (short.py), of any lengths: one exponential a logit.

Only the device knows where rows end. `short_packed` gives a block a few rows side by side, and they come to
shared memory as many at a time as there is room for; eight threads, a warp, four warps or the block take a
row, as its own length says, so that its sums are those of a row alone. A row that never fits is put on a
list, piece by piece. `packed_pieces` finds the totals of the pieces on the list, `short_packed_pieces` reads
them again and writes their weights: as many blocks as the device runs at once, whosesoever they are.

The list, `listed`: how many pieces are on it, which is 0 before a call, then row and piece of each. A row's
pieces stand side by side, in order; which row comes first is chance, and shows in no result.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nbfagg.cuda import absorb, finish, formulas, geometry, staged
from nbfagg.cuda.kinds import Kind

(ROWS, TERMS, BLOCK_ROWS, ROW_ROOM, LOG, WANT_LSE, BEGIN, ALL_TOKENS, ROW_BLOCKS, PIECE_TOKENS, SHARE,
 LISTED, LIST_BLOCKS) = (
    geometry.ROWS, geometry.TERMS, geometry.BLOCK_ROWS, geometry.ROW_ROOM, geometry.LOG, geometry.WANT_LSE,
    geometry.BEGIN, geometry.ALL_TOKENS, geometry.ROW_BLOCKS, geometry.PIECE_TOKENS, geometry.SHARE,
    geometry.LISTED, geometry.LIST_BLOCKS,
)  # fmt: skip


def make(P: SimpleNamespace, kind: Kind, aligned: bool, block: int) -> Any:
    """Give the kernel for the rows that fit into shared memory."""
    F = formulas.make(P, kind)
    group = staged.make_group(P, F, kind, block)
    done = finish.make(P, F, kind, block)
    logits = staged.make(P, F, done, kind, aligned)
    copy, sums, write = logits.copy, logits.sums, logits.write
    highest_of_all, sum_of_all = group.highest, group.sum
    row_inverse, row_lse, limits_of = done.row_inverse, done.row_lse, done.limits_of
    jit, thread, number, sync, get, put = P.jit, P.thread, P.block, P.sync, P.get, P.put
    divide, integer, draw = P.divide, P.integer, P.draw
    fine_point = F.fine_point
    area, last_one, rows_of_more = P.dynamic(kind.real), P.shared(1, int), P.shared(3 + 3 * block, int)
    maxima, totals, rests, inverses = (P.shared(block, kind.real) for _ in range(4))
    BLOCK, HALF, V = block, min(block, 128), kind.vector

    @jit
    def put_on_list(listed, row, tokens, note, tid, geo):
        pieces = (tokens + geo[PIECE_TOKENS] - 1) // geo[PIECE_TOKENS]
        if tid == 0:
            # There is room for all, unless offsets make rows share tokens: then no count may run over.
            drawn = draw(listed, 0, 0)
            put(note, 0, draw(listed, 0, pieces) if drawn <= geo[LISTED] else drawn)
        sync()
        first = get(note, 0)
        known = row if first + pieces <= geo[LISTED] else -1
        i = first + tid
        while i < min(first + pieces, geo[LISTED]):
            put(listed, 1 + 2 * i, known)
            put(listed, 2 + 2 * i, i - first)
            i += BLOCK
        sync()

    @jit
    def tokens_of(limits, row, begin, end, geo):
        """Give where a row's tokens begin and how many it has; whatever offsets hold, they were copied."""
        first, tokens = limits_of(limits, row, geo)
        first = min(max(first, begin), end)
        return first, min(tokens, end - first)

    def short_packed(a, limits, alpha, lse, listed, law, geo):
        # a is (ALL_TOKENS, TERMS), alpha (ALL_TOKENS,), lse (ROWS,).
        tid, stage, note = thread(), area(), last_one()
        tops, wholes, lost, inverse = maxima(), totals(), rests(), inverses()
        # Rows of more than eight threads: how many want 32, 128, all of them; then which.
        larger = rows_of_more()
        terms, room = geo[TERMS], geo[ROW_ROOM]
        row = number() * geo[BLOCK_ROWS]
        last = min(row + geo[BLOCK_ROWS], geo[ROWS])
        while row < last:
            begin, tokens = limits_of(limits, row, geo)
            if tokens * terms > room - V:
                put_on_list(listed, row, tokens, note, tid, geo)
                row += 1
                continue
            # As many rows as there is room for, each from a multiple of 16 bytes on.
            rows = last - row
            end = min(max(integer(limits, last), begin), geo[ALL_TOKENS])
            while (end - begin) * terms + rows * V > room:
                rows -= max(1, rows >> 2)
                end = min(max(integer(limits, row + rows), begin), geo[ALL_TOKENS])
            if tid < 3:
                put(larger, tid, 0)
            sync()
            if tid < rows:
                _, tokens = tokens_of(limits, row + tid, begin, end, geo)
                if tokens * terms > 8 * geo[SHARE]:
                    size = 0 if tokens * terms <= 32 * geo[SHARE] else 1
                    size = size if tokens * terms <= 128 * geo[SHARE] else 2
                    put(larger, 3 + size * BLOCK + draw(larger, size, 1), tid)
            sync()
            writing = 0
            while writing < 2:
                size = -1
                while size < 3:
                    span = 8 if size < 0 else 32 if size == 0 else HALF if size == 1 else BLOCK
                    among = rows if size < 0 else get(larger, size)
                    group, groups = divide(tid, span), divide(BLOCK, span)
                    t = tid - group * span
                    turn = 0
                    while turn < among:
                        live = turn + group < among
                        r, first, tokens = 0, begin, 0
                        if live:
                            r = turn + group if size < 0 else get(larger, 3 + size * BLOCK + turn + group)
                            first, tokens = tokens_of(limits, row + r, begin, end, geo)
                            live = size >= 0 or tokens * terms <= 8 * geo[SHARE]
                        place = ((first - begin) * terms & -V) + r * V
                        if writing == 1:
                            if live:
                                write(
                                    stage, place + t * terms, t, tokens, tokens, alpha, first, span,
                                    get(tops, r), get(wholes, r), get(lost, r), get(inverse, r), law, geo,
                                )  # fmt: skip
                        else:
                            # All threads come here together, though some may have no row.
                            count = tokens * terms if live else 0
                            m = copy(a, geo[BEGIN] + first * terms, count, stage, place, t, span)
                            m = highest_of_all(m, tid, t, span)
                            s, rest = sums(
                                count, stage, place, t, span, fine_point(m, law), law, geo[LOG] == 0
                            )
                            s, rest = sum_of_all(s, rest, tid, t, span)
                            if t == 0 and live:
                                put(tops, r, m)
                                put(wholes, r, s)
                                put(lost, r, rest)
                                put(inverse, r, row_inverse(m, s))
                                if geo[WANT_LSE]:
                                    put(lse, row + r, row_lse(m, s, rest, law))
                        turn += groups
                    size += 1
                sync()
                writing += 1
            row += rows

    return short_packed


def _make_cell(P: SimpleNamespace) -> Any:
    """Give the device function for how many tokens of a row on the list share their totals: whole pieces."""

    @P.jit
    def cell_of(tokens, geo):
        pieces = (tokens + geo[PIECE_TOKENS] - 1) // geo[PIECE_TOKENS]
        return (pieces + geo[ROW_BLOCKS] - 1) // geo[ROW_BLOCKS] * geo[PIECE_TOKENS]

    return cell_of


def make_pieces(P: SimpleNamespace, kind: Kind, aligned: bool, block: int) -> Any:
    """Give the kernel that finds the totals of what is on the list."""
    F = formulas.make(P, kind)
    done = finish.make(P, F, kind, block)
    share = absorb.make_share(P, F, kind, aligned).share
    limits_of, meet, cell_of = done.limits_of, done.meet, _make_cell(P)
    thread, number, put, integer = P.thread, P.block, P.put, P.integer
    maxima, sums, rests = (P.shared(block, kind.real) for _ in range(3))
    BLOCK = block

    def packed_pieces(a, limits, work, listed, law, geo):
        tid = thread()
        scratch = maxima(), sums(), rests()
        i = number()
        while i < min(integer(listed, 0), geo[LISTED]):
            row, piece = integer(listed, 1 + 2 * i), integer(listed, 2 + 2 * i)
            first, tokens = limits_of(limits, max(row, 0), geo)
            size, begin = cell_of(tokens, geo), piece * geo[PIECE_TOKENS]
            # Totals of several pieces of a long row stand where the first of them does.
            if row >= 0 and begin % size == 0:
                count = min(size, tokens - begin) * geo[TERMS]
                m, s, rest = share(a, geo[BEGIN] + (first + begin) * geo[TERMS], count, tid, BLOCK, law)
                # The first thread alone wants to know, and overwrites what it read: no barrier is needed.
                m, s, rest = meet(m, s, rest, tid, tid, BLOCK, scratch, law)
                if tid == 0:
                    put(work, i, m)
                    put(work, geo[LISTED] + i, s)
                    put(work, 2 * geo[LISTED] + i, rest)
            i += geo[LIST_BLOCKS]

    return packed_pieces


def make_short_pieces(P: SimpleNamespace, kind: Kind, aligned: bool, block: int) -> Any:
    """Give the kernel that writes the weights of what is on the list."""
    F = formulas.make(P, kind)
    done = finish.make(P, F, kind, block)
    logits = staged.make(P, F, done, kind, aligned)
    copy, sums, write = logits.copy, logits.sums, logits.write
    limits_of, merge_all, cell_of = done.limits_of, done.merge_all, _make_cell(P)
    row_inverse, row_lse = done.row_inverse, done.row_lse
    thread, number, sync, put, integer = P.thread, P.block, P.sync, P.put, P.integer
    fine_point = F.fine_point
    area = P.dynamic(kind.real)
    maxima, totals, rests = (P.shared(block, kind.real) for _ in range(3))
    BLOCK = block

    def short_packed_pieces(a, limits, alpha, lse, work, listed, law, geo):
        tid = thread()
        stage, scratch = area(), (maxima(), totals(), rests())
        i = number()
        while i < min(integer(listed, 0), geo[LISTED]):
            row, piece = integer(listed, 1 + 2 * i), integer(listed, 2 + 2 * i)
            if row >= 0:
                first, tokens = limits_of(limits, row, geo)
                size = cell_of(tokens, geo)
                M, total, rest = merge_all(
                    work, i - piece, size // geo[PIECE_TOKENS], (tokens + size - 1) // size, geo[LISTED], tid,
                    scratch, law,
                )  # fmt: skip
                begin = piece * geo[PIECE_TOKENS]
                count = min(geo[PIECE_TOKENS], tokens - begin)
                begin += first
                copy(a, geo[BEGIN] + begin * geo[TERMS], count * geo[TERMS], stage, 0, tid, BLOCK)
                if geo[LOG] == 0:
                    sums(count * geo[TERMS], stage, 0, tid, BLOCK, fine_point(M, law), law, True)
                if tid == 0 and piece == 0 and geo[WANT_LSE]:
                    put(lse, row, row_lse(M, total, rest, law))
                sync()
                write(
                    stage, tid * geo[TERMS], tid, count, count, alpha, begin, BLOCK, M, total, rest,
                    row_inverse(M, total), law, geo,
                )  # fmt: skip
            # The next one begins with barriers.
            i += geo[LIST_BLOCKS]

    return short_packed_pieces
