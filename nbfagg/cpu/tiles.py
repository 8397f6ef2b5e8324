"""Kernels for one tile: a stretch of logits that stays in the L1 cache while it is passed over twice.

First the maximum, which fixes the reference point, then the exponentials and
their sum. `like` is a scalar of the logits' type; p, sums, scratch are byte
addresses; `point` is what `point_of` makes of the tile's maximum.

Sums of exponentials are float64, relative to 2**(shift - LIFT): see exp.py.

float32 tiles go two ways. Where a tile's logits lie within NARROW octaves,
powers of two add exactly in float32, and long runs are summed there. Otherwise,
and where tokens are short, exponentials are computed and summed in float64.
"""

import numba
import numpy as np
from numba import types
from numba.extending import overload, register_jitable

from nbfagg import scalar
from nbfagg.cpu.exp import exp_parts, exp_wide, lowest, magic, wide_point
from nbfagg.cpu.sums import add_exactly, collapse, include, include_two, nothing
from nbfagg.cpu.vector import (
    BYTES,
    add,
    fma,
    larger,
    largest,
    load,
    load_doubled,
    load_first,
    load_first_doubled,
    mul,
    negative,
    peek,
    poke,
    prefetch,
    smaller,
    splat,
    store,
    sum_groups,
    sum_rows,
    total,
)
from nbfagg.fields import AREA, SHORT

# Octaves within which four powers of two add exactly in float32 (24 bits, less 2),
# and 2 more to spare.
NARROW = 20.0

jit = numba.njit(error_model="numpy")

for formula in scalar.FORMULAS:
    register_jitable(error_model="numpy")(formula)


def lanes(like):
    """Give the number of lanes of a vector of the type of `like`."""
    raise NotImplementedError("for compiled code")


@overload(lanes)
def _lanes(like):
    count = 16 if like == types.float32 else 8
    return lambda like: count


@jit
def point_of(like, maximum, law):
    """Make the vectors that exp_parts wants for a tile with this maximum.

    `law` is (rate, 1 / rate, rate's high part, rate's low part).
    """
    rate, inverse, high, low = law
    exponent = scalar.shift(maximum, rate)
    return (
        splat(like, lowest(like, exponent, inverse)),
        splat(like, high),
        splat(like, low),
        splat(like, magic(like, exponent)),
    )


def type_as(like, value):
    """Convert `value` to the type of `like`."""
    raise NotImplementedError("for compiled code")


@overload(type_as)
def _type_as(like, value):
    if like == types.float32:
        return lambda like, value: np.float32(value)
    return lambda like, value: np.float64(value)


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
    origin = scalar.origin(top, law[0])
    if origin == 0.0:
        return p
    size = BYTES // lanes(like)
    for i in range(count):
        poke(buffer + i * size, type_as(like, np.float64(peek(like, p + i * size)) - origin))
    return buffer


# --- exponentials and their sums -------------------------------------------------


@jit
def narrow_sum(like, p, count, top, law, ahead):
    """Sum the exponentials of `count` numbers within NARROW octaves; prefetch `ahead` bytes further on.

    Four vectors of float32 are added in a tree before they go to the wide sum;
    pairs would cost 20 % more arithmetic. Without the prefetch the memory bus
    idles while a tile is in the arithmetic: 33 GB/s instead of 43 on two Zen 5
    cores that read 46.
    """
    point = point_of(like, top, law)
    wide = nothing(like)
    width = lanes(like)
    vectors = count // width
    for _ in range(vectors // 4):
        prefetch(p + ahead)
        prefetch(p + BYTES + ahead)
        prefetch(p + 2 * BYTES + ahead)
        prefetch(p + 3 * BYTES + ahead)
        s0, q0 = exp_parts(load(like, p), *point)
        s1, q1 = exp_parts(load(like, p + BYTES), *point)
        s2, q2 = exp_parts(load(like, p + 2 * BYTES), *point)
        s3, q3 = exp_parts(load(like, p + 3 * BYTES), *point)
        wide = include(wide, add(add(s0, s1), add(s2, s3)))
        wide = include_two(wide, fma(s1, q1, mul(s0, q0)), fma(s3, q3, mul(s2, q2)))
        p += 4 * BYTES
    for _ in range(vectors % 4):
        prefetch(p + ahead)
        s, q = exp_parts(load(like, p), *point)
        wide = include(include(wide, s), mul(s, q))
        p += BYTES
    rest = count % width
    if rest:
        s, q = exp_parts(load_first(like, p, rest, type_as(like, -np.inf)), *point)
        wide = include(include(wide, s), mul(s, q))
    return collapse(wide)


@jit
def wide_sum(p, count, top, law, ahead):
    """Sum the exponentials of `count` float32 numbers in float64."""
    point = wide_point(scalar.shift(top, law[0]), law[0], law[1])
    one = splat(0.0, 0.0)
    other = one
    for _ in range(count // 16):
        prefetch(p + ahead)
        s, e = exp_wide(load_doubled(p), *point)
        t, g = exp_wide(load_doubled(p + 32), *point)
        one = fma(s, e, one)
        other = fma(t, g, other)
        p += 64
    rest = count % 16
    if rest >= 8:
        s, e = exp_wide(load_doubled(p), *point)
        one = fma(s, e, one)
        p += 32
    if rest % 8:
        s, e = exp_wide(load_first_doubled(p, rest % 8), *point)
        other = fma(s, e, other)
    return total(add(one, other))


def run_sum(like, p, count, top, bottom, law, ahead):
    """Sum the exponentials of `count` numbers at p, which lie between bottom and top."""
    raise NotImplementedError("for compiled code")


@overload(run_sum)
def _run_sum(like, p, count, top, bottom, law, ahead):
    if like == types.float32:

        def single(like, p, count, top, bottom, law, ahead):
            if (top - bottom) * law[0] <= NARROW:
                return narrow_sum(like, p, count, top, law, ahead)
            return wide_sum(p, count, top, law, ahead)

        return single
    return lambda like, p, count, top, bottom, law, ahead: narrow_sum(like, p, count, top, law, ahead)


def spread(like, p, count, top, law, scratch, gap, ahead):
    """Write `count` exponentials to scratch as float64, or s there and s*q to scratch + gap; give the end."""
    raise NotImplementedError("for compiled code")


@overload(spread)
def _spread(like, p, count, top, law, scratch, gap, ahead):
    if like == types.float32:

        def single(like, p, count, top, law, scratch, gap, ahead):
            point = wide_point(scalar.shift(top, law[0]), law[0], law[1])
            for _ in range(count // 16):
                prefetch(p + ahead)
                s, e = exp_wide(load_doubled(p), *point)
                t, g = exp_wide(load_doubled(p + 32), *point)
                store(scratch, mul(s, e))
                store(scratch + BYTES, mul(t, g))
                p += BYTES
                scratch += 2 * BYTES
            rest = count % 16
            for i in range(0, rest, 8):
                s, e = exp_wide(load_first_doubled(p + 4 * i, min(8, rest - i)), *point)
                store(scratch + 8 * i, mul(s, e))
            return scratch + 8 * rest

        return single

    def double(like, p, count, top, law, scratch, gap, ahead):
        point = point_of(like, top, law)
        for _ in range(count // 8):
            prefetch(p + ahead)
            s, q = exp_parts(load(like, p), *point)
            store(scratch, s)
            store(scratch + gap, mul(s, q))
            p += BYTES
            scratch += BYTES
        rest = count % 8
        if rest:
            s, q = exp_parts(load_first(like, p, rest, -np.inf), *point)
            store(scratch, s)
            store(scratch + gap, mul(s, q))
        return scratch + 8 * rest

    return double


def parts_of(like):
    """Say in how many parts spread writes an exponential."""
    raise NotImplementedError("for compiled code")


@overload(parts_of)
def _parts_of(like):
    count = 1 if like == types.float32 else 2
    return lambda like: count


def _grouper(width):
    """Make the loop that sums groups of `width` float64 neighbours, eight groups at a time.

    A loop over a runtime number of few terms costs 0.3 to 0.6 ns an element,
    shuffles laid out at compile time 0.03 to 0.06.
    """

    @jit
    def sum_neighbours(like, address, gap, groups, sums, wide):
        for _ in range(0, groups, 8):
            value = sum_groups(0.0, address, width)
            if parts_of(like) == 2:
                # Apart, the powers of two add exactly and the rest is small.
                value = add(value, sum_groups(0.0, address + gap, width))
            store(sums, value)
            wide = add_exactly(wide, value)
            address += width * BYTES
            sums += BYTES
        return wide

    return sum_neighbours


_group1, _group2, _group3, _group4 = _grouper(1), _grouper(2), _grouper(3), _grouper(4)
_group5, _group6, _group7, _group8 = _grouper(5), _grouper(6), _grouper(7), _grouper(8)


@jit
def sum_crosswise(address, terms, work):
    """Give the sums of eight groups of `terms` > 8 float64 neighbours: each fills a vector by itself."""
    rest = terms % 8
    for j in range(8):
        value = load(0.0, address)
        end = address + terms // 8 * BYTES
        for p in range(address + BYTES, end, BYTES):
            value = add(value, load(0.0, p))
        if rest:
            value = add(value, load_first(0.0, end, rest, 0.0))
        store(work + j * BYTES, value)
        address += terms * 8
    return sum_rows(0.0, work)


@jit
def sum_neighbours(like, address, gap, groups, terms, sums, wide, work):
    """Sum groups of `terms` neighbours at address (and at address + gap) into sums and a wide sum."""
    if terms == 1:
        return _group1(like, address, gap, groups, sums, wide)
    if terms == 2:
        return _group2(like, address, gap, groups, sums, wide)
    if terms == 3:
        return _group3(like, address, gap, groups, sums, wide)
    if terms == 4:
        return _group4(like, address, gap, groups, sums, wide)
    if terms == 5:
        return _group5(like, address, gap, groups, sums, wide)
    if terms == 6:
        return _group6(like, address, gap, groups, sums, wide)
    if terms == 7:
        return _group7(like, address, gap, groups, sums, wide)
    if terms == 8:
        return _group8(like, address, gap, groups, sums, wide)
    for _ in range(0, groups, 8):
        value = sum_crosswise(address, terms, work)
        if parts_of(like) == 2:
            value = add(value, sum_crosswise(address + gap, terms, work))
        store(sums, value)
        wide = add_exactly(wide, value)
        address += terms * BYTES
        sums += BYTES
    return wide


@jit
def short_sums(like, p, tokens, terms, top, law, sums, scratch, ahead):
    """Sum the exponentials of each of `tokens` groups of `terms` <= SHORT neighbours; give their total.

    sums has room for a whole vector after the last token.
    """
    wide = (splat(0.0, 0.0), splat(0.0, 0.0))
    zero = splat(0.0, 0.0)
    gap = AREA + BYTES
    work = scratch + 2 * gap
    chunk = AREA // (8 * terms) // 8 * 8
    for token in range(0, tokens, chunk):
        count = min(chunk, tokens - token)
        groups = (count + 7) // 8 * 8
        end = spread(like, p, count * terms, top, law, scratch, gap, ahead)
        while end < scratch + groups * terms * 8:
            store(end, zero)
            store(end + gap, zero)
            end += BYTES
        wide = sum_neighbours(like, scratch, gap, groups, terms, sums, wide, work)
        p += count * terms * (BYTES // lanes(like))
        sums += 8 * count
    return collapse(wide)


@jit
def token_sums(like, p, tokens, terms, top, bottom, law, sums, scratch, ahead):
    """Sum the exponentials of each of `tokens` groups of `terms` neighbours; give their total."""
    if terms <= SHORT:
        return short_sums(like, p, tokens, terms, top, law, sums, scratch, ahead)
    whole = 0.0
    lost = 0.0
    step = terms * (BYTES // lanes(like))
    for _ in range(tokens):
        value = run_sum(like, p, terms, top, bottom, law, ahead)
        poke(sums, value)
        grown = whole + value
        lost += (whole - grown) + value if whole >= value else (value - grown) + whole
        whole = grown
        p += step
        sums += 8
    return whole + lost
