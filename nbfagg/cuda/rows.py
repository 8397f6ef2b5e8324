"""Forward kernel for tokens that lie in one piece: 16 bytes a load, several loads in flight.

A cell is a token, or a chunk of a long one. LANES threads share it: each takes
16 bytes in turn, four at a time, and keeps (maximum, sum, rest) of what it saw.
The maximum of a batch of four comes first, then its exponentials, over numbers in
registers; memory is read once. A block has whole rows (small ones) or a
part of one; then the states of all cells go to the workspace, and the last block
of the row to finish writes the weights, where the row's tokens are few.

Which thread takes which logit does not depend on the address: unaligned tokens
are read by the same lanes in the same order, to the same bits.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nbfagg.cuda import absorb, finish, formulas, geometry
from nbfagg.cuda.kinds import Kind


def make(P: SimpleNamespace, kind: Kind, aligned: bool, block: int) -> Any:
    """Give the kernel."""
    F = formulas.make(P, kind)
    cell = absorb.make_share(P, F, kind, aligned)
    done = finish.make(P, F, kind, block)
    share, together = cell.share, cell.together
    gather, meet, whole_row = done.gather, done.meet, done.whole_row
    write_tokens, row_lse = done.write_tokens, done.row_lse
    thread, number, sync, get, put = P.thread, P.block, P.sync, P.get, P.put
    divide, integer, fence, draw = P.divide, P.integer, P.fence, P.draw
    area, last_one = P.dynamic(kind.real), P.shared(1, int)
    maxima, sums, rests = (P.shared(block, kind.real) for _ in range(3))
    BLOCK = block
    (ROWS, TOKENS, TERMS, SPLITS, CHUNK, CELLS, LANES, ROW_PITCH, TOKEN_PITCH, BLOCK_ROWS, BLOCK_CELLS,
     ROW_BLOCKS, LAST, ROOM, SUMS, PARTS, LIMITED, LOG, WANT_LSE,
     BEGIN) = (
        geometry.ROWS, geometry.TOKENS, geometry.TERMS, geometry.SPLITS, geometry.CHUNK, geometry.CELLS,
        geometry.LANES, geometry.ROW_PITCH, geometry.TOKEN_PITCH, geometry.BLOCK_ROWS, geometry.BLOCK_CELLS,
        geometry.ROW_BLOCKS, geometry.LAST, geometry.ROOM, geometry.SUMS, geometry.PARTS, geometry.LIMITED,
        geometry.LOG, geometry.WANT_LSE, geometry.BEGIN,
    )  # fmt: skip

    def rows(a, limits, alpha, lse, work, tickets, law, geo):
        # a is (ROWS, TOKENS, TERMS), a token's terms side by side; alpha is (ROWS, TOKENS), lse (ROWS,).
        tid = thread()
        scratch = maxima(), sums(), rests()
        lanes, splits, cells = geo[LANES], geo[SPLITS], geo[CELLS]
        whole = geo[BLOCK_ROWS] > 0
        if whole:
            first, begin = number() * geo[BLOCK_ROWS], 0
            count = min(geo[BLOCK_ROWS], geo[ROWS] - first) * cells
        else:
            first = divide(number(), geo[ROW_BLOCKS])
            begin = (number() - first * geo[ROW_BLOCKS]) * geo[BLOCK_CELLS]
            count = min(geo[BLOCK_CELLS], cells - begin)
        states = area()
        lane = tid & (lanes - 1)
        team, teams = divide(tid, lanes), divide(BLOCK, lanes)
        c = team
        while c - team < count:
            row, place = first, begin + c
            if whole:
                row += divide(c, cells)
                place -= (row - first) * cells
            token = divide(place, splits) if splits > 1 else place
            part = place - token * splits
            terms = min(geo[CHUNK], geo[TERMS] - part * geo[CHUNK])
            if c >= count or (geo[LIMITED] == 1 and token >= integer(limits, row)):
                terms = 0
            start = geo[BEGIN] + row * geo[ROW_PITCH] + token * geo[TOKEN_PITCH] + part * geo[CHUNK]
            m, s, rest = share(a, start, terms, lane, lanes, law)
            m, s, rest = together(m, s, rest, lanes, law)
            if lane == 0 and c < count:
                put(states, c, m)
                put(states, geo[ROOM] + c, s + rest)
            c += teams
        sync()
        if whole:
            span = divide(BLOCK, geo[BLOCK_ROWS])
            r = divide(tid, span)
            t = tid - r * span
            row = first + r
            live = row < geo[ROWS]
            base = r * cells
            m, s, rest = gather(states, base, geo[ROOM], 0, cells if live else 0, t, span, law)
            M, total, rest = meet(m, s, rest, tid, t, span, scratch, law)
            if live:
                write_tokens(
                    states, base, geo[ROOM], 0, geo[TOKENS], t, span, splits, M, total, rest,
                    geo[LOG], law, alpha, row * geo[TOKENS],
                )  # fmt: skip
                if t == 0 and geo[WANT_LSE]:
                    put(lse, row, row_lse(M, total, rest, law))
            return
        base = first * cells
        i = tid
        while i < count:
            put(work, base + begin + i, get(states, i))
            put(work, geo[SUMS] + base + begin + i, get(states, geo[ROOM] + i))
            i += BLOCK
        # Seen by whoever sees the ticket that this block draws: barriers follow, then thread 0's own fence.
        fence()
        m, s, rest = gather(states, 0, geo[ROOM], 0, count, tid, BLOCK, law)
        M, total, rest = meet(m, s, rest, tid, tid, BLOCK, scratch, law)
        note = last_one()
        parts = geo[ROWS] * geo[ROW_BLOCKS]
        if tid == 0:
            put(work, geo[PARTS] + number(), M)
            put(work, geo[PARTS] + parts + number(), total)
            put(work, geo[PARTS] + 2 * parts + number(), rest)
            if geo[LAST]:
                fence()
                put(note, 0, draw(tickets, first, 1))
        if not geo[LAST]:
            return
        sync()
        if get(note, 0) != geo[ROW_BLOCKS] - 1:
            return
        fence()
        M, total, rest = whole_row(work, first, tid, scratch, law, geo)
        write_tokens(
            work, base, geo[SUMS], 0, geo[TOKENS], tid, BLOCK, splits, M, total, rest,
            geo[LOG], law, alpha, first * geo[TOKENS],
        )  # fmt: skip
        if tid == 0:
            # Ready for the next call.
            put(tickets, first, 0)
            if geo[WANT_LSE]:
                put(lse, first, row_lse(M, total, rest, law))

    return rows
