"""Rows so small that many of them make one tile: a step at a time, each over all of the tile's rows.

Taking them one by one costs 100 ns a row before the first exponential. Every
number is computed as it would be for the row alone, so a row's neighbours
change no bit.
"""

import math

from nbfagg import scalar
from nbfagg.cpu.finish import finish, finish_lse
from nbfagg.cpu.gather import offset_of
from nbfagg.cpu.sums import add_exactly, collapse
from nbfagg.cpu.tiles import extremes, jit, lanes, spread, sum_neighbours
from nbfagg.cpu.vector import BYTES, load, load_first, peek, poke, splat, store
from nbfagg.fields import AREA, ROWS_BATCH, TERMS, TOKENS

# Bytes from what is computed to what is prefetched: a few tiles of rows.
AHEAD = 8 * 1024


@jit
def is_far(top, rate):
    """Say whether a row needs an origin, which the general way knows how to take out."""
    return scalar.origin(top, rate) != 0.0


@jit
def row_total(sums, count):
    """Sum `count` float64 numbers, with what each addition loses."""
    wide = (splat(0.0, 0.0), splat(0.0, 0.0))
    for _ in range(count // 8):
        wide = add_exactly(wide, load(0.0, sums))
        sums += BYTES
    if count % 8:
        wide = add_exactly(wide, load_first(0.0, sums, count % 8, 0.0))
    return collapse(wide)


@jit
def tiny_rows(like, source, plan, law, scale, out, lse, first, last, buffer, scratch):
    """Write the results of rows first ... last - 1, which fit a tile, and give how many were done.

    A row far from zero is not done, and neither are those after it.
    """
    size = BYTES // lanes(like)
    tokens, terms = plan[TOKENS], plan[TERMS]
    length = tokens * terms
    sums = buffer
    tops = buffer + AREA + BYTES
    for row in range(first, last):
        p = source + offset_of(plan, 0, plan[ROWS_BATCH], row)
        top, _ = extremes(like, p, length)
        poke(tops + 8 * (row - first), top)
        if is_far(top, law[0]):
            last = row
            break
    gap = AREA + BYTES
    end = scratch
    for row in range(first, last):
        p = source + offset_of(plan, 0, plan[ROWS_BATCH], row)
        end = spread(like, p, length, peek(0.0, tops + 8 * (row - first)), law, end, gap, AHEAD)
    groups = ((last - first) * tokens + 7) // 8 * 8
    zero = splat(0.0, 0.0)
    while end < scratch + groups * terms * 8:
        store(end, zero)
        store(end + gap, zero)
        end += BYTES
    sum_neighbours(like, scratch, gap, groups, terms, sums, (zero, zero), scratch + 2 * gap)
    for row in range(first, last):
        top = peek(0.0, tops + 8 * (row - first))
        total = row_total(sums, tokens)
        if top == -math.inf:
            total *= 0.0
        inverse = 1.0 / total if total != 0.0 else 0.0
        finish(like, sums, out + row * tokens * size, tokens, total, inverse, 1.0)
        if lse:
            poke(lse + row * size, finish_lse(like, top, total, law, scale))
        sums += 8 * tokens
    return last - first
