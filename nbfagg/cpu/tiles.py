"""Kernels for one tile: a stretch of logits that stays in the L1 cache while it is passed over twice.

First the maximum, which fixes the reference point, then the exponentials and
their sum. `like` is a scalar of the logits' type; p, sums, scratch are byte
addresses; `point` is what `point_of` makes of the tile's maximum.

Sums of exponentials are float64, relative to 2**(shift - LIFT): see exp.py.

float32 tiles go two ways. Where a tile's logits lie within NARROW octaves,
powers of two add exactly in float32, and long runs are summed there. Otherwise,
and where tokens are short, exponentials are computed and summed in float64.
"""

import numpy as np
from numba import types
from numba.extending import overload

from nbfagg import scalar
from nbfagg.cpu.exp import exp_near, exp_parts, exp_wide, point_of, wide_point
from nbfagg.cpu.jit import jit
from nbfagg.cpu.short import are_close, short_sums
from nbfagg.cpu.sums import collapse, include, include_exps, include_two, nothing, sum_of
from nbfagg.cpu.vector import (
    BYTES,
    add,
    lanes,
    larger,
    largest,
    load,
    load_doubled,
    load_first,
    load_first_doubled,
    mul,
    muladd,
    negative,
    peek,
    poke,
    prefetch,
    smaller,
    splat,
    total,
    type_as,
)
from nbfagg.fields import SHORT

# Octaves within which eight powers of two add exactly in float32: 24 bits, less 3
# for the sum, less 1 for the rounding of each exponent.
NARROW = 20.0
# Octaves within which four of them do in float64: 53 bits, less 2, less 1, and 2 to spare.
ALIKE = 48.0

# --- the maximum ---------------------------------------------------------------


@jit
def extremes(like, p, count):
    """Give the largest and the smallest of `count` numbers at p, NaN passed over; of none, -inf and inf."""
    none = splat(like, type_as(like, -np.inf))
    m0 = none
    m1 = none
    n0 = negative(none)
    n1 = n0
    width = lanes(like)
    vectors = count // width
    for _ in range(vectors // 4):
        x0 = load(like, p)
        x1 = load(like, p + BYTES)
        x2 = load(like, p + 2 * BYTES)
        x3 = load(like, p + 3 * BYTES)
        m0 = larger(x0, larger(x2, m0))
        m1 = larger(x1, larger(x3, m1))
        n0 = smaller(x0, smaller(x2, n0))
        n1 = smaller(x1, smaller(x3, n1))
        p += 4 * BYTES
    for _ in range(vectors % 4):
        x0 = load(like, p)
        m0 = larger(x0, m0)
        n0 = smaller(x0, n0)
        p += BYTES
    rest = count % width
    if rest:
        m1 = larger(load_first(like, p, rest, type_as(like, -np.inf)), m1)
        n1 = smaller(load_first(like, p, rest, type_as(like, np.inf)), n1)
    return np.float64(largest(larger(m0, m1))), -np.float64(largest(negative(smaller(n0, n1))))


@jit
def move_origin(like, p, count, top, law, buffer):
    """Give where `count` numbers less their origin lie: at p, or in the buffer if that is not 0."""
    origin = scalar.origin(top, law)
    if origin == 0.0:
        return p
    size = BYTES // lanes(like)
    for i in range(count):
        poke(buffer + i * size, type_as(like, np.float64(peek(like, p + i * size)) - origin))
    return buffer


# --- exponentials and their sums -------------------------------------------------


@jit
def narrow_sum(like, p, count, top, law, ahead):
    """Sum the exponentials of `count` float32 close numbers, prefetching `ahead` bytes further on.

    Eight vectors are added in float32 before they go to the wide sum: with four
    that costs 8 % more on AVX2, where widening a vector takes eight
    instructions. Without the prefetch the memory bus idles while a tile is in
    the arithmetic: 33 GB/s instead of 43 on two Zen 5 cores that read 46.
    """
    point = point_of(like, top, law)
    wide = nothing(like)
    vectors = count // lanes(like)
    for _ in range(vectors // 8):
        s, q = exp_near(load(like, p), *point)
        even = mul(s, q)
        t, r = exp_near(load(like, p + BYTES), *point)
        odd = mul(t, r)
        s = add(s, t)
        prefetch(p + ahead)
        prefetch(p + BYTES + ahead)
        p += 2 * BYTES
        for _ in range(3):
            t, r = exp_near(load(like, p), *point)
            s = add(s, t)
            even = muladd(t, r, even)
            t, r = exp_near(load(like, p + BYTES), *point)
            s = add(s, t)
            odd = muladd(t, r, odd)
            prefetch(p + ahead)
            prefetch(p + BYTES + ahead)
            p += 2 * BYTES
        wide = include(include(wide, s), add(even, odd))
    for _ in range(vectors % 8):
        prefetch(p + ahead)
        s, q = exp_near(load(like, p), *point)
        wide = include(include(wide, s), mul(s, q))
        p += BYTES
    rest = count % lanes(like)
    if rest:
        s, q = exp_parts(load_first(like, p, rest, type_as(like, -np.inf)), *point)
        wide = include(include(wide, s), mul(s, q))
    return collapse(wide)


@jit
def double_sum(like, p, count, top, bottom, law, ahead):
    """Sum the exponentials of `count` float64 numbers; prefetch `ahead` bytes further on."""
    point = point_of(like, top, law)
    wide = nothing(like)
    vectors = count // lanes(like)
    if (top - bottom) * law[0] <= ALIKE:
        for _ in range(vectors // 4):
            s0, q0 = exp_near(load(like, p), *point)
            s1, q1 = exp_near(load(like, p + BYTES), *point)
            s2, q2 = exp_near(load(like, p + 2 * BYTES), *point)
            s3, q3 = exp_near(load(like, p + 3 * BYTES), *point)
            wide = include(wide, add(add(s0, s1), add(s2, s3)))
            wide = include_two(wide, muladd(s1, q1, mul(s0, q0)), muladd(s3, q3, mul(s2, q2)))
            prefetch(p + ahead)
            prefetch(p + BYTES + ahead)
            prefetch(p + 2 * BYTES + ahead)
            prefetch(p + 3 * BYTES + ahead)
            p += 4 * BYTES
    else:
        for _ in range(vectors // 4):
            s0, q0 = exp_parts(load(like, p), *point)
            s1, q1 = exp_parts(load(like, p + BYTES), *point)
            wide = include_exps(wide, s0, q0, s1, q1)
            s2, q2 = exp_parts(load(like, p + 2 * BYTES), *point)
            s3, q3 = exp_parts(load(like, p + 3 * BYTES), *point)
            wide = include_exps(wide, s2, q2, s3, q3)
            prefetch(p + ahead)
            prefetch(p + BYTES + ahead)
            prefetch(p + 2 * BYTES + ahead)
            prefetch(p + 3 * BYTES + ahead)
            p += 4 * BYTES
    for _ in range(vectors % 4):
        prefetch(p + ahead)
        s, q = exp_parts(load(like, p), *point)
        wide = include(include(wide, s), mul(s, q))
        p += BYTES
    rest = count % lanes(like)
    if rest:
        s, q = exp_parts(load_first(like, p, rest, type_as(like, -np.inf)), *point)
        wide = include(include(wide, s), mul(s, q))
    return collapse(wide)


@jit
def wide_sum(p, count, top, law, ahead):
    """Sum the exponentials of `count` float32 numbers in float64."""
    point = wide_point(scalar.shift(top, law), law[0], law[1])
    one = splat(0.0, 0.0)
    other = one
    for _ in range(count // 16):
        prefetch(p + ahead)
        s, e = exp_wide(load_doubled(p), *point)
        t, g = exp_wide(load_doubled(p + 32), *point)
        one = muladd(s, e, one)
        other = muladd(t, g, other)
        p += 64
    rest = count % 16
    if rest >= 8:
        s, e = exp_wide(load_doubled(p), *point)
        one = muladd(s, e, one)
        p += 32
    if rest % 8:
        s, e = exp_wide(load_first_doubled(p, rest % 8), *point)
        other = muladd(s, e, other)
    return total(add(one, other)), 0.0


def run_sum(like, p, count, top, bottom, law, ahead):
    """Give the sum of the exponentials of `count` numbers between bottom and top, and what it lost."""
    raise NotImplementedError("for compiled code")


@overload(run_sum)
def _run_sum(like, p, count, top, bottom, law, ahead):
    if like == types.float32:

        def single(like, p, count, top, bottom, law, ahead):
            if (top - bottom) * law[0] <= NARROW:
                return narrow_sum(like, p, count, top, law, ahead)
            return wide_sum(p, count, top, law, ahead)

        return single
    return lambda like, p, count, top, bottom, law, ahead: double_sum(like, p, count, top, bottom, law, ahead)


def are_alike(like, terms, top, bottom, law):
    """Say whether `terms` numbers are summed in their own type, at any point they share."""
    raise NotImplementedError("for compiled code")


@overload(are_alike)
def _are_alike(like, terms, top, bottom, law):
    if like == types.float32:

        def single(like, terms, top, bottom, law):
            if terms <= SHORT:
                return are_close(like, terms, top, bottom, law)
            return (top - bottom) * law[0] <= NARROW

        return single
    return lambda like, terms, top, bottom, law: are_close(like, terms, top, bottom, law)


@jit
def token_sums(like, p, tokens, terms, top, bottom, law, sums, lows, scratch, ahead):
    """Write the sums of the exponentials of `tokens` groups of `terms` neighbours; give their total.

    What sums of float64 lost is written to lows; the total comes with what it lost.
    """
    if terms <= SHORT:
        short_sums(like, p, tokens, terms, top, bottom, law, sums, lows, scratch, ahead)
    else:
        step = terms * (BYTES // lanes(like))
        for i in range(tokens):
            value, lost = run_sum(like, p, terms, top, bottom, law, ahead)
            poke(sums + 8 * i, value)
            if lanes(like) == 8:
                poke(lows + 8 * i, lost)
            p += step
    return sum_of(like, sums, lows, tokens)
