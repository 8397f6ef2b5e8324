"""Rows so small that many of them make one tile: a step at a time, each over all of the tile's rows.

Taking them one by one costs 100 ns a row before the first exponential. Every
number is computed as it would be for the row alone, so a row's neighbours
change no bit.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from nbfagg import scalar
from nbfagg.cpu.exp import point_of, wide_point
from nbfagg.cpu.finish import finish, finish_lse
from nbfagg.cpu.gather import offset_of
from nbfagg.cpu.short import fill_up, spread_parts, spread_wide, sum_neighbours
from nbfagg.cpu.sums import sum_of
from nbfagg.cpu.vector import BYTES, jit, lanes, larger, largest, load, load_first, peek, poke, splat, type_as
from nbfagg.fields import AREA, ROWS_BATCH, TERMS, TOKENS

# Bytes from what is computed to what is prefetched: a few tiles of rows.
AHEAD = 8 * 1024


@jit
def is_far(top, rate):
    """Say whether a row needs an origin, which the general way knows how to take out."""
    return scalar.origin(top, rate) != 0.0


@jit
def highest(like, p, count):
    """Give the largest of `count` numbers at p, NaN passed over."""
    width = lanes(like)
    none = type_as(like, -np.inf)
    top = splat(like, none)
    for _ in range(count // width):
        top = larger(load(like, p), top)
        p += BYTES
    if count % width:
        top = larger(load_first(like, p, count % width, none), top)
    return np.float64(largest(top))


def spread_row(like, p, count, top, law, scratch, gap):
    """Write a row's exponentials to scratch (s*q of them to scratch + gap); give the end."""
    raise NotImplementedError("for compiled code")


@overload(spread_row)
def _spread_row(like, p, count, top, law, scratch, gap):
    if like == types.float32:

        def single(like, p, count, top, law, scratch, gap):
            point = wide_point(scalar.shift(top, law[0]), law[0], law[1])
            return spread_wide(p, count, point, scratch, AHEAD)

        return single

    def double(like, p, count, top, law, scratch, gap):
        return spread_parts(like, p, count, point_of(like, top, law), scratch, gap, AHEAD)

    return double


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
        top = highest(like, p, length)
        poke(tops + 8 * (row - first), top)
        if is_far(top, law[0]):
            last = row
            break
    gap = AREA + BYTES
    end = scratch
    for row in range(first, last):
        p = source + offset_of(plan, 0, plan[ROWS_BATCH], row)
        end = spread_row(like, p, length, peek(0.0, tops + 8 * (row - first)), law, end, gap)
    groups = ((last - first) * tokens + 7) // 8 * 8
    fill_up(end, scratch + groups * terms * 8, gap)
    apart = gap if lanes(like) == 8 else 0
    sum_neighbours(0.0, scratch, apart, groups, terms, sums, scratch + 2 * gap)
    for row in range(first, last):
        top = peek(0.0, tops + 8 * (row - first))
        total = sum_of(like, sums, tokens)
        if top == -math.inf:
            total *= 0.0
        inverse = 1.0 / total if total != 0.0 else 0.0
        finish(like, sums, out + row * tokens * size, tokens, total, inverse, 1.0)
        if lse:
            poke(lse + row * size, finish_lse(like, top, total, law, scale))
        sums += 8 * tokens
    return last - first
