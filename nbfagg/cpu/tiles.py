"""Kernels for one tile: a stretch of logits that stays in the L1 cache while it is passed over twice.

First the maximum, which fixes the reference point, then the exponentials and
their sum. `like` is a scalar of the logits' type; p, sums, scratch are byte
addresses; `point` is what `point_of` makes of the tile's maximum.

Sums of exponentials are float64, relative to 2**(shift - LIFT): see exp.py.
"""

import numba
import numpy as np
from numba import types
from numba.extending import overload, register_jitable

from nbfagg import scalar
from nbfagg.cpu.exp import exp_parts, lowest, magic
from nbfagg.cpu.vector import (
    BYTES,
    F32,
    add,
    fma,
    fold,
    larger,
    largest,
    load,
    load_first,
    mul,
    poke,
    prefetch,
    splat,
    store,
    sub,
    sum_groups,
    sum_rows,
    total,
    total_exactly,
    widen,
)
from nbfagg.fields import SHORT

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
        splat(like, type_as(like, scalar.origin(maximum, rate))),
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


# --- wide sums: float64 for float32 terms, a compensated pair for float64 ones ---


def nothing(like):
    """Give an empty wide sum."""
    raise NotImplementedError("for compiled code")


@overload(nothing)
def _nothing(like):
    if like == types.float32:
        return lambda like: widen(splat(like, np.float32(0.0)))
    return lambda like: (splat(like, 0.0), splat(like, 0.0))


@jit
def add_exactly(pair, x):
    """Add x to the unevaluated sum high + low (Knuth's two-sum: any order of magnitudes)."""
    high, low = pair
    whole = add(high, x)
    part = sub(whole, high)
    return whole, add(low, add(sub(high, sub(whole, part)), sub(x, part)))


def include(wide, x):
    """Add the vector x of the logits' type to a wide sum."""
    raise NotImplementedError("for compiled code")


@overload(include)
def _include(wide, x):
    if x == F32:
        return lambda wide, x: add(wide, widen(x))
    return lambda wide, x: add_exactly(wide, x)


def collapse(wide):
    """Give the sum of a wide sum's lanes."""
    raise NotImplementedError("for compiled code")


@overload(collapse)
def _collapse(wide):
    if isinstance(wide, types.BaseTuple):
        return lambda wide: total_exactly(wide[0], wide[1])
    return lambda wide: total(wide)


def widen_pair(s, sq):
    """Give s + sq as float64 lanes."""
    raise NotImplementedError("for compiled code")


@overload(widen_pair)
def _widen_pair(s, sq):
    if s == F32:
        return lambda s, sq: add(widen(s), widen(sq))
    return lambda s, sq: add(s, sq)


@jit
def put_sums(address, s, sq):
    """Store s + sq as float64, and give what was stored."""
    sums = widen_pair(s, sq)
    store(address, sums)
    return sums


def include_sums(wide, sums):
    """Add what put_sums gave to a wide sum."""
    raise NotImplementedError("for compiled code")


@overload(include_sums)
def _include_sums(wide, sums):
    if isinstance(wide, types.BaseTuple):
        return lambda wide, sums: add_exactly(wide, sums)
    return lambda wide, sums: add(wide, sums)


# --- the maximum ---------------------------------------------------------------


@jit
def maximum(like, p, count):
    """Give the largest of `count` numbers at p, NaN passed over; -inf if there is none."""
    m0 = splat(like, type_as(like, -np.inf))
    m1 = m0
    m2 = m0
    m3 = m0
    width = lanes(like)
    vectors = count // width
    for _ in range(vectors // 4):
        m0 = larger(load(like, p), m0)
        m1 = larger(load(like, p + BYTES), m1)
        m2 = larger(load(like, p + 2 * BYTES), m2)
        m3 = larger(load(like, p + 3 * BYTES), m3)
        p += 4 * BYTES
    for _ in range(vectors % 4):
        m0 = larger(load(like, p), m0)
        p += BYTES
    rest = count % width
    if rest:
        m1 = larger(load_first(like, p, rest, type_as(like, -np.inf)), m1)
    return largest(larger(larger(m0, m1), larger(m2, m3)))


# --- exponentials and their sums -------------------------------------------------


@jit
def run_sum(like, p, count, point, ahead):
    """Sum the exponentials of `count` numbers at p, and prefetch those `ahead` bytes further on.

    Two vectors are added in their own type before they go to the wide sum: one
    rounding, where chains of eight, 6 % faster in cache and no faster out of
    it, cost up to 2 ulp if one term dominates a token.

    Without the prefetch the memory bus idles while a tile is in the
    arithmetic: 33 GB/s instead of 43 on two Zen 5 cores that read 46.
    """
    wide = nothing(like)
    width = lanes(like)
    vectors = count // width
    for _ in range(vectors // 4):
        for _ in range(2):
            prefetch(p + ahead)
            prefetch(p + BYTES + ahead)
            s, q = exp_parts(load(like, p), *point)
            t, r = exp_parts(load(like, p + BYTES), *point)
            wide = include(wide, add(s, t))
            wide = include(wide, fma(t, r, mul(s, q)))
            p += 2 * BYTES
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
def spread(like, p, count, point, scratch, gap, ahead):
    """Write s of `count` exponentials to scratch and s*q to scratch + gap; give where s ends."""
    width = lanes(like)
    for _ in range(count // width):
        prefetch(p + ahead)
        s, q = exp_parts(load(like, p), *point)
        store(scratch, s)
        store(scratch + gap, mul(s, q))
        p += BYTES
        scratch += BYTES
    rest = count % width
    if rest:
        s, q = exp_parts(load_first(like, p, rest, type_as(like, -np.inf)), *point)
        store(scratch, s)
        store(scratch + gap, mul(s, q))
        scratch += rest * (BYTES // width)
    return scratch


@jit
def sum_each(like, address, terms):
    """Give the sums of as many groups of `terms` neighbours as there are lanes.

    A loop over a runtime number of terms costs 0.3 to 0.6 ns an element for
    few terms; shuffles laid out at compile time 0.03 to 0.06.
    """
    if terms == 2:
        return sum_groups(like, address, 2)
    if terms == 3:
        return sum_groups(like, address, 3)
    if terms == 4:
        return sum_groups(like, address, 4)
    if terms == 5:
        return sum_groups(like, address, 5)
    if terms == 6:
        return sum_groups(like, address, 6)
    if terms == 7:
        return sum_groups(like, address, 7)
    if terms == 8:
        return sum_groups(like, address, 8)
    return sum_groups(like, address, 8)


def fold_groups(like, address, gap, terms, work):
    """Give the float64 sums of s + s*q over eight groups of `terms` neighbours, as a vector.

    From nine terms on a group fills a vector by itself: it is folded to one
    float64 vector, and eight of these are added crosswise.
    """
    raise NotImplementedError("for compiled code")


@overload(fold_groups)
def _fold_groups(like, address, gap, terms, work):
    if like == types.float32:

        def single(like, address, gap, terms, work):
            zero = np.float32(0.0)
            rest = terms % 16
            for j in range(8):
                end = address + terms // 16 * BYTES
                value = widen_pair(load_first(like, end, rest, zero), load_first(like, end + gap, rest, zero))
                for p in range(address, end, BYTES):
                    value = add(value, widen_pair(load(like, p), load(like, p + gap)))
                store(work + j * BYTES, fold(value))
                address += terms * 4
            return sum_rows(0.0, work)

        return single

    def double(like, address, gap, terms, work):
        # Apart, the powers of two add exactly and the rest is small.
        whole = fold_doubles(address, terms, work)
        return add(whole, fold_doubles(address + gap, terms, work))

    return double


@jit
def fold_doubles(address, terms, work):
    """Give the sums of eight groups of `terms` float64 neighbours."""
    for j in range(8):
        end = address + terms // 8 * BYTES
        value = load_first(0.0, end, terms % 8, 0.0)
        for p in range(address, end, BYTES):
            value = add(value, load(0.0, p))
        store(work + j * BYTES, value)
        address += terms * 8
    return sum_rows(0.0, work)


@jit
def single_sums(like, p, tokens, point, sums, ahead):
    """Write the exponentials of `tokens` numbers; give their total."""
    wide = nothing(like)
    width = lanes(like)
    for _ in range(tokens // width):
        prefetch(p + ahead)
        s, q = exp_parts(load(like, p), *point)
        wide = include_sums(wide, put_sums(sums, s, mul(s, q)))
        p += BYTES
        sums += width * 8
    rest = tokens % width
    if rest:
        s, q = exp_parts(load_first(like, p, rest, type_as(like, -np.inf)), *point)
        wide = include_sums(wide, put_sums(sums, s, mul(s, q)))
    return collapse(wide)


@jit
def short_sums(like, p, tokens, terms, point, sums, scratch, ahead):
    """Sum the exponentials of each of `tokens` groups of `terms` <= SHORT neighbours; give their total.

    sums has room for a whole vector after the last token.
    """
    wide = nothing(like)
    eights = (splat(0.0, 0.0), splat(0.0, 0.0))
    width = lanes(like)
    zero = splat(like, type_as(like, 0.0))
    step = width * terms * (BYTES // width)
    gap = step + BYTES
    work = scratch + 2 * gap
    for token in range(0, tokens, width):
        count = min(width, tokens - token)
        end = spread(like, p, count * terms, point, scratch, gap, ahead)
        while end < scratch + step:
            store(end, zero)
            store(end + gap, zero)
            end += BYTES
        if terms <= 8:
            s = sum_each(like, scratch, terms)
            sq = sum_each(like, scratch + gap, terms)
            wide = include_sums(wide, put_sums(sums, s, sq))
        else:
            for i in range(0, width, 8):
                row = scratch + i * terms * (BYTES // width)
                folded = fold_groups(like, row, gap, terms, work)
                store(sums + 8 * i, folded)
                eights = add_exactly(eights, folded)
        p += step
        sums += width * 8
    return collapse(wide) + collapse(eights)


@jit
def token_sums(like, p, tokens, terms, point, sums, scratch, ahead):
    """Sum the exponentials of each of `tokens` groups of `terms` neighbours; give their total."""
    if terms == 1:
        return single_sums(like, p, tokens, point, sums, ahead)
    if terms <= SHORT:
        return short_sums(like, p, tokens, terms, point, sums, scratch, ahead)
    whole = 0.0
    lost = 0.0
    step = terms * (BYTES // lanes(like))
    for _ in range(tokens):
        value = run_sum(like, p, terms, point, ahead)
        poke(sums, value)
        grown = whole + value
        lost += (whole - grown) + value if whole >= value else (value - grown) + whole
        whole = grown
        p += step
        sums += 8
    return whole + lost
