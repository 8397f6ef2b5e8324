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
from nbfagg.cpu.gather import offset_of
from nbfagg.cpu.short import are_close, fill_up, short_parts, short_sums, spread_wide, sum_neighbours
from nbfagg.cpu.sums import sum_few, sum_of
from nbfagg.cpu.tiles import extremes
from nbfagg.cpu.vector import BYTES, jit, lanes, peek, poke
from nbfagg.fields import AREA, LOWS, ROWS_AXES, ROWS_BATCH, TERMS, TILE_ROWS_MOST, TOKENS

# Bytes from what is computed to what is prefetched: a few tiles of rows.
AHEAD = 8 * 1024


@jit
def row_at(source, plan, row):
    """Give the address of a row's logits."""
    return source[0] + offset_of(plan, 0, plan[ROWS_BATCH], row, 1)


@jit
def side_by_side(plan, size):
    """Say whether the rows themselves lie in one piece."""
    return plan[ROWS_BATCH] == 1 and plan[ROWS_AXES + 1] == plan[TOKENS] * plan[TERMS] * size


@jit
def sums_apart(like, source, plan, law, first, last, sums, lows, tops, scratch):
    """Write the sums of rows that each have a reference point of their own; give how many were done.

    A row far from zero is not done, and neither are those after it: the
    general way knows how to take its origin out.
    """
    tokens, terms = plan[TOKENS], plan[TERMS]
    length = tokens * terms
    bottoms = tops + 8 * TILE_ROWS_MOST
    close = 0
    for row in range(first, last):
        top, bottom = extremes(like, row_at(source, plan, row), length)
        if scalar.origin(top, law) != 0.0:
            last = row
            break
        poke(tops + 8 * (row - first), top)
        poke(bottoms + 8 * (row - first), bottom)
        close += are_close(like, terms, top, bottom, law)
    if close > 0 or lanes(like) == 8:
        for row in range(first, last):
            top = peek(0.0, tops + 8 * (row - first))
            bottom = peek(0.0, bottoms + 8 * (row - first))
            place = sums + 8 * tokens * (row - first)
            short_sums(
                like,
                row_at(source, plan, row),
                tokens,
                terms,
                top,
                bottom,
                law,
                place,
                lows + 8 * tokens * (row - first),
                scratch,
                AHEAD,
            )
        return last - first
    end = scratch
    for row in range(first, last):
        top = peek(0.0, tops + 8 * (row - first))
        point = wide_point(scalar.shift(top, law), law[0], law[1])
        end = spread_wide(row_at(source, plan, row), length, point, end, AHEAD)
    groups = ((last - first) * tokens + 7) // 8 * 8
    fill_up(end, scratch + groups * terms * 8, AREA + BYTES)
    sum_neighbours(0.0, scratch, 0, groups, terms, sums, 0, scratch + 2 * (AREA + BYTES))
    return last - first


@jit
def tile_sums(like, source, plan, law, first, last, sums, lows, tops, scratch):
    """Write the sums of rows first ... last - 1, and each row's maximum; give how many were done."""
    tokens, terms = plan[TOKENS], plan[TERMS]
    count = (last - first) * tokens
    if side_by_side(plan, BYTES // lanes(like)) and not source[3]:
        p = row_at(source, plan, first)
        top, bottom = extremes(like, p, count * terms)
        if are_close(like, terms, top, bottom, law) and scalar.origin(top, law) == 0.0:
            short_parts(like, p, count, terms, top, law, sums, lows, scratch, AHEAD)
            for i in range(last - first):
                poke(tops + 8 * i, top)
            return last - first
    return sums_apart(like, source, plan, law, first, last, sums, lows, tops, scratch)


@jit
def tiny_rows(like, source, plan, law, scale, out, lse, first, last, buffer, scratch):
    """Write the results of rows first ... last - 1, which fit a tile, and give how many were done."""
    size = BYTES // lanes(like)
    tokens = plan[TOKENS]
    sums = buffer
    tops = buffer + AREA + BYTES
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
