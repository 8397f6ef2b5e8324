"""Rows so small that many of them make one tile: a step at a time, each over all of the tile's rows.

Taking them one by one costs 100 ns a row before the first exponential. Every
number is computed as it would be for the row alone, so a row's neighbours
change no bit: where all of a tile's float32 logits are close to one another, so
are those of each row, and the rows may share a reference point, since a power
of two multiplies every sum and every rounding alike. Elsewhere each row has its
own point, and float32 or float64 arithmetic as its own logits ask for.
"""

import math

from nbfagg import scalar
from nbfagg.cpu.exp import wide_point
from nbfagg.cpu.finish import finish, finish_over, put_lse
from nbfagg.cpu.gather import ahead_of, copy_run, leave_out, locate, offset_of
from nbfagg.cpu.jit import jit
from nbfagg.cpu.short import are_close, fill_up, short_parts, short_sums, spread_wide, sum_neighbours
from nbfagg.cpu.sums import sum_few, sum_of
from nbfagg.cpu.tiles import extremes
from nbfagg.cpu.vector import BYTES, lanes, peek, poke
from nbfagg.fields import (
    AREA,
    BESIDE,
    DOUBLE,
    GATHERED,
    ITEM,
    KIND,
    LOWS,
    MASKED,
    ROWS_AXES,
    ROWS_BATCH,
    SINGLE,
    STAGE,
    TERMS,
    TILE_ROWS_MOST,
    TOKENS,
    WHOLE,
)

# Bytes from what is computed to what is prefetched: a few tiles of rows.
AHEAD = 8 * 1024


@jit
def row_at(source, plan, row):
    """Give the address of a row's logits."""
    return source[0] + offset_of(plan, 0, plan[ROWS_BATCH], row, 1)


@jit
def side_by_side(plan):
    """Say whether the rows themselves lie in one piece."""
    length = plan[TOKENS] * plan[TERMS]
    return plan[WHOLE] and plan[ROWS_BATCH] == 1 and plan[ROWS_AXES + 1] == length * plan[ITEM]


@jit
def tile_at(like, source, plan, first, last, buffer):
    """Give the address at which rows first ... last - 1 lie side by side: in memory, or in the buffer."""
    size = BYTES // lanes(like)
    tokens, terms = plan[TOKENS], plan[TERMS]
    length = tokens * terms
    if source[2] == 0 and side_by_side(plan):
        p = row_at(source, plan, first)
        if source[1] == 0 and not plan[GATHERED]:
            return p
        if source[1] == 0 or (plan[MASKED] == BESIDE and plan[ROWS_AXES + 2] == length):
            mask = source[1] + offset_of(plan, 0, 1, first, 2) if source[1] else 0
            copy_run(like, plan[KIND], plan[ITEM], p, plan[ITEM], mask, 1, (last - first) * length, buffer)
            return buffer
    own = SINGLE if lanes(like) == 16 else DOUBLE
    for row in range(first, last):
        target = buffer + (row - first) * length * size
        p = locate(like, source, plan, row, 0, tokens, 0, terms, target)
        if p == 0:
            leave_out(like, target, length)
        elif p != target:
            copy_run(like, own, size, p, size, 0, 0, length, target)
    return buffer


@jit
def sums_apart(like, p, plan, law, rows, sums, lows, tops, scratch, ahead):
    """Write the sums of rows that each have a reference point of their own; give how many were done.

    A row far from zero is not done, and neither are those after it: the
    general way knows how to take its origin out.
    """
    tokens, terms = plan[TOKENS], plan[TERMS]
    length = tokens * terms
    step = length * (BYTES // lanes(like))
    bottoms = tops + 8 * TILE_ROWS_MOST
    close = 0
    for row in range(rows):
        top, bottom = extremes(like, p + row * step, length)
        if scalar.origin(top, law) != 0.0:
            rows = row
            break
        poke(tops + 8 * row, top)
        poke(bottoms + 8 * row, bottom)
        close += are_close(like, terms, top, bottom, law)
    if close > 0 or lanes(like) == 8:
        for row in range(rows):
            top, bottom = peek(0.0, tops + 8 * row), peek(0.0, bottoms + 8 * row)
            place, low = sums + 8 * tokens * row, lows + 8 * tokens * row
            here = p + row * step
            short_sums(like, here, tokens, terms, top, bottom, law, place, low, scratch, ahead)
        return rows
    end = scratch
    for row in range(rows):
        point = wide_point(scalar.shift(peek(0.0, tops + 8 * row), law), law[0], law[1])
        end = spread_wide(p + row * step, length, point, end, ahead)
    groups = (rows * tokens + 7) // 8 * 8
    fill_up(end, scratch + groups * terms * 8, AREA + BYTES)
    sum_neighbours(0.0, scratch, 0, groups, terms, sums, 0, scratch + 2 * (AREA + BYTES))
    return rows


@jit
def tile_sums(like, source, plan, law, first, last, sums, lows, tops, scratch):
    """Write the sums of rows first ... last - 1, and each row's maximum; give how many were done."""
    tokens, terms = plan[TOKENS], plan[TERMS]
    count = (last - first) * tokens
    p = tile_at(like, source, plan, first, last, scratch + STAGE)
    ahead = ahead_of(source, plan, last, 0, p, scratch + STAGE, AHEAD)
    top, bottom = extremes(like, p, count * terms)
    # A state is of the row's own maximum.
    if not source[3] and are_close(like, terms, top, bottom, law) and scalar.origin(top, law) == 0.0:
        short_parts(like, p, count, terms, top, law, sums, lows, scratch, ahead)
        for i in range(last - first):
            poke(tops + 8 * i, top)
        return last - first
    return sums_apart(like, p, plan, law, last - first, sums, lows, tops, scratch, ahead)


@jit
def tiny_rows(like, source, plan, law, scale, out, lse, first, last, buffer, scratch):
    """Write the results of rows first ... last - 1, which fit a tile, and give how many were done."""
    size = BYTES // lanes(like)
    tokens = plan[TOKENS]
    sums = buffer
    # The last row's sums are written in whole vectors of float64.
    tops = buffer + AREA + 2 * BYTES
    lows = scratch + LOWS
    last = first + tile_sums(like, source, plan, law, first, last, sums, lows, tops, scratch)
    whole = (tokens + lanes(like) - 1) // lanes(like) * lanes(like)
    for row in range(first, last):
        top = peek(0.0, tops + 8 * (row - first))
        if tokens > 16:
            total, rest = sum_of(like, sums, lows, tokens)
        else:
            total, rest = sum_few(like, sums, lows, tokens)
        if top == -math.inf:
            total *= 0.0
        inverse = 1.0 / total if total != 0.0 else 0.0
        place = out + row * tokens * size
        if (last - row) * tokens >= whole:
            # Beyond this row's tokens lie those of rows that are written next.
            finish_over(like, sums, lows, place, tokens, (total, rest), inverse)
        else:
            finish(like, sums, lows, place, tokens, (total, rest), inverse, 1.0)
        if lse:
            put_lse(like, lse, row, top, (total, rest), law, scale, source[3])
        sums += 8 * tokens
        lows += 8 * tokens
    return last - first
