"""From sums to results: each token's sum over the row's total, rounded once."""

import math

import numpy as np
from numba import types
from numba.extending import overload

from nbfagg import scalar
from nbfagg.cpu.exp import LIFT_F32, LIFT_F64
from nbfagg.cpu.jit import inlined, jit
from nbfagg.cpu.vector import (
    BYTES,
    F32,
    first_lane,
    fma,
    lanes,
    load,
    mul,
    muladd,
    narrow,
    negative,
    peek,
    poke,
    splat,
    store,
    store_first,
    type_as,
    widen,
    widened,
)


def lift_down(like):
    """Give 2**-LIFT for the type of `like`."""
    raise NotImplementedError("for compiled code")


@overload(lift_down)
def _lift_down(like):
    value = 2.0**-LIFT_F32 if like == types.float32 else 2.0**-LIFT_F64
    return lambda like: value


def weigh(like, sums, lows, total, inverse, factor):
    """Give sums / total * factor for a vector of float64 sums, in the type of `like`.

    total is a pair, (rounded, what that lost), and so are sums and lows. factor
    is a power of two (or moves between far-off origins) and inverse is 1 / total.
    float64 corrects the product's rounding by the quotient's residual; float32
    has 29 bits to spare, and no lows.
    """
    raise NotImplementedError("for compiled code")


@overload(weigh)
def _weigh(like, sums, lows, total, inverse, factor):
    if like == types.float32:
        return lambda like, sums, lows, total, inverse, factor: narrow(
            mul(sums, splat(sums, inverse * factor))
        )

    def double(like, sums, lows, total, inverse, factor):
        reciprocal = splat(sums, inverse)
        # The factor first: a sum, lifted, is far from subnormal where its quotient is not.
        scaled = mul(sums, splat(sums, factor))
        quotient = mul(scaled, reciprocal)
        residual = fma(negative(splat(sums, total[0])), quotient, scaled)
        residual = fma(negative(splat(sums, total[1])), quotient, residual)
        residual = muladd(lows, splat(sums, factor), residual)
        return muladd(residual, reciprocal, quotient)

    return double


def lows_at(like, place):
    """Load what a vector of sums lost; float32 sums lose nothing that counts, and have no such place."""
    raise NotImplementedError("for compiled code")


@overload(lows_at)
def _lows_at(like, place):
    if like == types.float32:
        return lambda like, place: widened(like)
    return lambda like, place: load(0.0, place)


@jit
def weigh_one(like, token_sum, low, total, inverse, factor):
    """Give the weight of one sum: 0 of nothing."""
    sums = splat(widened(like), token_sum)
    return type_as(like, first_lane(weigh(like, sums, splat(sums, low), total, inverse, factor)))


def to_sums(x):
    """Give the lanes of x as float64."""
    raise NotImplementedError("for compiled code")


@overload(to_sums)
def _to_sums(x):
    if x == F32:
        return lambda x: widen(x)
    return lambda x: x


@jit
def finish(like, sums, lows, out, count, total, inverse, factor):
    """Write `count` weights to `out` from float64 sums, and what they lost."""
    width = lanes(like)
    for _ in range(count // width):
        low = lows_at(like, lows)
        store(out, weigh(like, load(widened(like), sums), low, total, inverse, factor))
        sums += width * 8
        lows += width * 8
        out += BYTES
    rest = count % width
    if rest:
        low = lows_at(like, lows)
        store_first(out, weigh(like, load(widened(like), sums), low, total, inverse, factor), rest)


@inlined
def finish_over(like, sums, lows, out, count, total, inverse):
    """As `finish`, with a factor of 1 and in whole vectors: up to one less one number is written beyond.

    A masked store takes some 20 cycles on AMD's cores before Zen 4.
    """
    width = lanes(like)
    for _ in range(0, count, width):
        store(out, weigh(like, load(widened(like), sums), lows_at(like, lows), total, inverse, 1.0))
        sums += width * 8
        lows += width * 8
        out += BYTES


@jit
def finish_in_place(like, out, count, total, inverse, factor):
    """Turn `count` sums that wait in the result itself into weights."""
    width = lanes(like)
    for _ in range(count // width):
        sums = to_sums(load(like, out))
        store(out, weigh(like, sums, splat(sums, 0.0), total, inverse, factor))
        out += BYTES
    for i in range(count % width):
        place = out + i * (BYTES // width)
        poke(place, weigh_one(like, np.float64(peek(like, place)), 0.0, total, inverse, factor))


@jit
def finish_log(like, total_sum, maximum, row_maximum, total, law):
    """Give log(sum / total) of one token whose sum is relative to `maximum`."""
    if total_sum == 0.0 or maximum == -math.inf:
        return type_as(like, -math.inf if total == total else total)
    value = math.log(total_sum / total) + scalar.log_distance(maximum, row_maximum, law)
    # Where sums wait rounded, one of them may be above the total.
    return type_as(like, 0.0 if value > 0.0 else value)


@jit
def put_lse(like, lse, row, top, total, law, scale, apart):
    """Write a row's log-sum-exp; or, if apart, its maximum and its total (a pair) as state.py keeps them."""
    if apart:
        poke(lse + 24 * row, top)
        poke(lse + 24 * row + 8, total[0] * lift_down(like))
        poke(lse + 24 * row + 16, total[1] * lift_down(like))
    else:
        poke(lse + row * (BYTES // lanes(like)), finish_lse(like, top, total[0], law, scale))


@jit
def finish_lse(like, maximum, total, law, scale):
    """Give a row's natural log-sum-exp."""
    return type_as(like, scalar.log_sum_exp(maximum, total * lift_down(like), law, scale))
