"""A gradient's two factors: the exponential of a logit, and what belongs to its token (gradient.py)."""

import math

import numpy as np
from numba import types
from numba.extending import overload

from nbfagg.cpu.columns import to_type
from nbfagg.cpu.exp import LIFT_F32, LIFT_F64, exp_near, exp_parts, point_of
from nbfagg.cpu.finish import lift_down, to_sums
from nbfagg.cpu.jit import jit
from nbfagg.cpu.sums import add_exactly, collapse, include, include_two, nothing
from nbfagg.cpu.vector import (
    BYTES,
    absolute,
    add,
    all_below,
    div,
    fma,
    lanes,
    load,
    load_first,
    mul,
    muladd,
    negative,
    peek,
    poke,
    prefetch,
    select_above,
    splat,
    store,
    store_first,
    sub,
    total,
    type_as,
    widened,
)
from nbfagg.fields import (
    SHORT,
)

# Factors below this take the short way: no product of a lifted exponential overflows.
LARGE_F32, LARGE_F64 = 2.0**40, 2.0**700
# Where the alphas of a block add up to less, they have lost bits.
FEW_F32, FEW_F64 = 2.0**-100, 2.0**-960
# A token whose sum is this much smaller than its block's largest exponential is taken
# anew: 155 (1100) octaves are left below every other one's maximum.
DOUBT_F32, DOUBT_F64 = 2.0**-25, 2.0**-100
# Tiny rows within so many octaves share a reference point.
SHARED_F32, SHARED_F64 = 120.0, 900.0


def limits(like):
    """Give (2**-LIFT, LARGE, FEW, DOUBT, SHARED) for the type of `like`."""
    raise NotImplementedError("for compiled code")


@overload(limits)
def _limits(like):
    if like == types.float32:
        single = (np.float32(2.0**-LIFT_F32), np.float32(LARGE_F32), FEW_F32, DOUBT_F32, SHARED_F32)
        return lambda like: single
    double = (2.0**-LIFT_F64, LARGE_F64, FEW_F64, DOUBT_F64, SHARED_F64)
    return lambda like: double


@jit
def write_near(like, p, vectors, point, target, ahead):
    """Write the exponentials of four vectors at a time, none of them near the floor; give their wide sum."""
    wide = nothing(like)
    for _ in range(vectors // 4):
        s, q = exp_near(load(like, p), *point)
        t, r = exp_near(load(like, p + BYTES), *point)
        e, g = muladd(s, q, s), muladd(t, r, t)
        prefetch(p + ahead)
        prefetch(p + BYTES + ahead)
        store(target, e)
        store(target + BYTES, g)
        left = add(e, g)
        s, q = exp_near(load(like, p + 2 * BYTES), *point)
        t, r = exp_near(load(like, p + 3 * BYTES), *point)
        e, g = muladd(s, q, s), muladd(t, r, t)
        prefetch(p + 2 * BYTES + ahead)
        prefetch(p + 3 * BYTES + ahead)
        store(target + 2 * BYTES, e)
        store(target + 3 * BYTES, g)
        wide = include_two(wide, left, add(e, g))
        p += 4 * BYTES
        target += 4 * BYTES
    return wide


@jit
def write_exps(like, p, count, top, bottom, law, target, ahead):
    """Write the exponentials of `count` logits from bottom to top, less their origin; give their total.

    Those of -inf are 0. There must be room for whole vectors.
    """
    point = point_of(like, top, law)
    floor = point[0]
    zero = splat(like, type_as(like, 0.0))
    wide = nothing(like)
    if (top - bottom) * law[0] <= limits(like)[4]:
        wide = write_near(like, p, count // lanes(like), point, target, ahead)
        done = count // (4 * lanes(like)) * 4
        p += done * BYTES
        target += done * BYTES
        count -= done * lanes(like)
    for i in range(0, count, lanes(like)):
        prefetch(p + ahead)
        x = load(like, p)
        if count - i < lanes(like):
            x = load_first(like, p, count - i, type_as(like, -np.inf))
        s, q = exp_parts(x, *point)
        e = select_above(floor, x, zero, muladd(s, q, s))
        store(target, e)
        wide = include(wide, e)
        p += BYTES
        target += BYTES
    return collapse(wide)[0]


@jit
def take(like, p, count):
    """Load the first `count` lanes as float64, and zeros."""
    if count >= lanes(like):
        return to_sums(load(like, p))
    return to_sums(load_first(like, p, count, type_as(like, 0.0)))


@jit
def product(g, a):
    """Give g * a, and 0 for no weight: a token that is left out has any gradient, NaN too."""
    zero = splat(a, 0.0)
    return select_above(absolute(a), zero, mul(g, a), mul(a, zero))


def dot_of(like, grad, alpha, count, log):
    """Give the sum of grad * alpha, or of grad alone, over `count` tokens; and what it lost."""
    raise NotImplementedError("for compiled code")


@overload(dot_of)
def _dot_of(like, grad, alpha, count, log):
    if like == types.float32:

        def single(like, grad, alpha, count, log):
            value = splat(widened(like), 0.0)
            for first in range(0, count, lanes(like)):
                g = take(like, grad, count - first)
                if not log:
                    g = product(g, take(like, alpha, count - first))
                value = add(value, g)
                grad += BYTES
                alpha += BYTES
            return total(value), 0.0

        return single

    def double(like, grad, alpha, count, log):
        pair = splat(like, 0.0), splat(like, 0.0)
        for first in range(0, count, lanes(like)):
            g = take(like, grad, count - first)
            if log:
                pair = add_exactly(pair, g)
            else:
                a = take(like, alpha, count - first)
                x = product(g, a)
                high, low = add_exactly(pair, x)
                # What the product lost; of no weight, nothing.
                pair = (
                    high,
                    add(low, select_above(absolute(x), splat(x, 0.0), fma(g, a, negative(x)), splat(x, 0.0))),
                )
            grad += BYTES
            alpha += BYTES
        return collapse(pair)

    return double


@jit
def total_of(like, exps, count):
    """Give the sum of `count` exponentials."""
    wide = nothing(like)
    vectors = count // lanes(like)
    # Of float32, four to a chain before they are widened.
    for _ in range(vectors // 4 if lanes(like) == 16 else 0):
        left = add(load(like, exps), load(like, exps + BYTES))
        right = add(load(like, exps + 2 * BYTES), load(like, exps + 3 * BYTES))
        wide = include_two(wide, left, right)
        exps += 4 * BYTES
    for _ in range(vectors % 4 if lanes(like) == 16 else vectors):
        wide = include(wide, load(like, exps))
        exps += BYTES
    rest = count % lanes(like)
    if rest:
        wide = include(wide, load_first(like, exps, rest, type_as(like, 0.0)))
    return collapse(wide)[0]


@jit
def write_factors(like, grad, count, dot, norm, factors):
    """Write norm * (g - dot) of `count` tokens; norm belongs to the block."""
    for first in range(0, count, lanes(like)):
        g = take(like, grad, count - first)
        store(factors, to_type(like, mul(sub(g, splat(g, dot)), splat(g, norm))))
        grad += BYTES
        factors += BYTES


@jit
def write_log_factors(like, grad, alpha, sums, count, dot, scale, factors):
    """Write scale * (g - alpha * dot) / sum of `count` tokens, sums being lifted."""
    for first in range(0, count, lanes(like)):
        g, a = take(like, grad, count - first), take(like, alpha, count - first)
        coefficient = muladd(a, splat(g, -dot), g)
        value = div(coefficient, mul(load(widened(like), sums), splat(g, lift_down(like))))
        value = mul(value, splat(g, scale))
        store(factors, to_type(like, value))
        grad += BYTES
        alpha += BYTES
        sums += 8 * lanes(like)
        factors += BYTES


@jit
def all_smaller(like, p, count, limit):
    """Say whether `count` factors at p are numbers of less than this size."""
    for first in range(0, count, lanes(like)):
        x = load_first(like, p, min(lanes(like), count - first), type_as(like, 0.0))
        if not all_below(absolute(x), limit):
            return False
        p += BYTES
    return True


@jit
def all_moderate(like, p, count):
    """Say whether `count` factors at p are numbers below LARGE."""
    return all_smaller(like, p, count, limits(like)[1])


@jit
def repeat(like, factors, tokens, terms, target):
    """Write each of `tokens` factors `terms` times; vectors run over into the next token's place."""
    step = terms * (BYTES // lanes(like))
    for token in range(tokens):
        value = splat(like, peek(like, factors + token * (BYTES // lanes(like))))
        for i in range(0, step, BYTES):
            store(target + i, value)
        target += step


@jit
def multiply(like, x, y, count, target):
    """Write 2**-LIFT times the products of `count` numbers at x and y."""
    down = splat(like, limits(like)[0])
    for _ in range(count // lanes(like)):
        store(target, mul(mul(load(like, x), load(like, y)), down))
        x += BYTES
        y += BYTES
        target += BYTES
    rest = count % lanes(like)
    if rest:
        store_first(target, mul(mul(load(like, x), load(like, y)), down), rest)


@jit
def multiply_by(like, x, factor, count, target):
    """Write 2**-LIFT times the products of `count` numbers at x and a factor."""
    y, down = splat(like, factor), splat(like, limits(like)[0])
    for _ in range(count // lanes(like)):
        store(target, mul(mul(load(like, x), y), down))
        x += BYTES
        target += BYTES
    rest = count % lanes(like)
    if rest:
        store_first(target, mul(mul(load(like, x), y), down), rest)


@jit
def large_product(like, e, factor):
    """Give 2**-LIFT * e * factor, where the factor is large; 0 where e is 0, whatever the factor."""
    down = np.float64(limits(like)[0])
    if e == 0.0:
        return 0.0
    # Neither of a large and a small number is brought near the end of its range first.
    return e * factor * down if e < 1.0 else e * down * factor


@jit
def apply(like, moderate, p, exps, factors, tokens, terms, repeated, target):
    """Write exponentials times their tokens' factors; 0 where a logit, at p, is -inf, whatever the factor.

    `moderate` says whether all factors are.
    """
    size = BYTES // lanes(like)
    if not moderate:
        # Token by token, so that one's bits do not depend on its neighbours'.
        for token in range(tokens):
            factor = peek(like, factors + token * size)
            for i in range(token * terms, (token + 1) * terms):
                e = peek(like, exps + i * size)
                if abs(factor) < limits(like)[1]:
                    value = type_as(like, type_as(like, e * factor) * limits(like)[0])
                else:
                    value = type_as(like, large_product(like, np.float64(e), np.float64(factor)))
                    if math.isnan(factor) and peek(like, p + i * size) != -np.inf:
                        value = type_as(like, math.nan)
                poke(target + i * size, value)
        return
    if terms == 1:
        multiply(like, exps, factors, tokens, target)
    elif terms < SHORT:
        repeat(like, factors, tokens, terms, repeated)
        multiply(like, exps, repeated, tokens * terms, target)
    else:
        step = terms * size
        for token in range(tokens):
            place = token * step
            multiply_by(like, exps + place, peek(like, factors + token * size), terms, target + place)
