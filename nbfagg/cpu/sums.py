"""Sums of vectors, wider than their terms: float64 for float32, a compensated pair for float64."""

import numpy as np
from numba import types
from numba.extending import overload

from nbfagg.cpu.jit import jit
from nbfagg.cpu.vector import (
    BYTES,
    F32,
    add,
    load,
    load_first,
    mul,
    muladd,
    splat,
    sub,
    total,
    total_exactly,
    total_lost,
    widen,
)


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


def include_two(wide, x, y):
    """Add two vectors to a wide sum; float32 lanes may be added to each other first."""
    raise NotImplementedError("for compiled code")


@overload(include_two)
def _include_two(wide, x, y):
    if x == F32:
        return lambda wide, x, y: add(wide, widen(add(x, y)))
    return lambda wide, x, y: add_exactly(add_exactly(wide, x), y)


def apart(s, q):
    """Give an exponential s + s*q as two vectors that add well, the small one last.

    float32 keeps its powers of two to themselves: close ones add exactly. float64 rounds the whole, and keeps
    what that loses: sums of s*q would be rounded once an addition, by up to 0.4 units in the last place.
    """
    raise NotImplementedError("for compiled code")


@overload(apart)
def _apart(s, q):
    if s == F32:
        return lambda s, q: (s, mul(s, q))

    def double(s, q):
        whole = muladd(s, q, s)
        return whole, muladd(s, q, sub(s, whole))

    return double


def include_exps(wide, s, q, t, r):
    """Add the exponentials s + s*q and t + t*r, far from one another, to a wide sum."""
    raise NotImplementedError("for compiled code")


@overload(include_exps)
def _include_exps(wide, s, q, t, r):
    if s == F32:
        # Powers of two 24 octaves from one another lose half a unit in the last place as float32.
        return lambda wide, s, q, t, r: include(include(include(wide, s), t), muladd(t, r, mul(s, q)))

    def double(wide, s, q, t, r):
        e, low = apart(s, q)
        g, rest = apart(t, r)
        high, lost = add_exactly(add_exactly(wide, e), g)
        return high, add(lost, add(low, rest))

    return double


def collapse(wide):
    """Give the sum of a wide sum's lanes, and what that lost."""
    raise NotImplementedError("for compiled code")


@overload(collapse)
def _collapse(wide):
    if isinstance(wide, types.BaseTuple):
        return lambda wide: (total_exactly(wide[0], wide[1]), total_lost(wide[0], wide[1]))
    return lambda wide: (total(wide), 0.0)


def meet(s, sq):
    """Give s + sq as float64 lanes."""
    raise NotImplementedError("for compiled code")


@overload(meet)
def _meet(s, sq):
    if s == F32:
        return lambda s, sq: add(widen(s), widen(sq))
    return lambda s, sq: add(s, sq)


def lost_by_meet(s, sq):
    """Give what `meet` loses as float64 lanes: nothing of float32; |sq| is below s."""
    raise NotImplementedError("for compiled code")


@overload(lost_by_meet)
def _lost_by_meet(s, sq):
    if s == F32:
        return lambda s, sq: widen(splat(s, np.float32(0.0)))
    return lambda s, sq: sub(sq, sub(add(s, sq), s))


def sum_of(like, sums, lows, count):
    """Give the total of `count` float64 sums, with what sums of float64 logits lost; and what it lost."""
    raise NotImplementedError("for compiled code")


@overload(sum_of)
def _sum_of(like, sums, lows, count):
    if like == types.float32:

        def single(like, sums, lows, count):
            value = splat(0.0, 0.0)
            v1 = value
            v2 = value
            v3 = value
            for _ in range(count // 32):
                value = add(value, load(0.0, sums))
                v1 = add(v1, load(0.0, sums + BYTES))
                v2 = add(v2, load(0.0, sums + 2 * BYTES))
                v3 = add(v3, load(0.0, sums + 3 * BYTES))
                sums += 4 * BYTES
            value = add(add(value, v1), add(v2, v3))
            for _ in range(count % 32 // 8):
                value = add(value, load(0.0, sums))
                sums += BYTES
            if count % 8:
                value = add(value, load_first(0.0, sums, count % 8, 0.0))
            return total(value), 0.0

        return single

    def double(like, sums, lows, count):
        wide = (splat(0.0, 0.0), splat(0.0, 0.0))
        for _ in range(count // 8):
            high, low = add_exactly(wide, load(0.0, sums))
            wide = high, add(low, load(0.0, lows))
            sums += BYTES
            lows += BYTES
        if count % 8:
            high, low = add_exactly(wide, load_first(0.0, sums, count % 8, 0.0))
            wide = high, add(low, load_first(0.0, lows, count % 8, 0.0))
        return collapse(wide)

    return double


def sum_few(like, sums, lows, count):
    """Give what `sum_of` gives, for at most 16 sums."""
    raise NotImplementedError("for compiled code")


@overload(sum_few)
def _sum_few(like, sums, lows, count):
    if like == types.float32:

        def single(like, sums, lows, count):
            first = load_first(0.0, sums, count, 0.0)
            return total(add(first, load_first(0.0, sums + BYTES, count - 8, 0.0))), 0.0

        return single
    return lambda like, sums, lows, count: sum_of(like, sums, lows, count)
