"""A tile whose lanes do not meet: the innermost axis is a batch or a kept one.

Each column keeps a state of its own, (maximum, sum) relative to the maximum's
reference point, and takes in a stretch of the summed axis at a time.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from nbfagg import scalar
from nbfagg.cpu.exp import FLOOR_F32, FLOOR_F64, LIFT_F32, LIFT_F64, MAGIC_F32, MAGIC_F64, exp_parts
from nbfagg.cpu.sums import add_exactly, include, nothing
from nbfagg.cpu.vector import (
    BYTES,
    F32,
    absolute,
    add,
    any_above,
    fma,
    jit,
    lanes,
    larger,
    load,
    load_apart,
    load_first,
    mul,
    narrow,
    peek,
    poke,
    power_of_two,
    prefetch,
    round_up,
    select_above,
    splat,
    store,
    sub,
    type_as,
    widen,
    widened,
)

LARGEST_F32 = float(np.finfo(np.float32).max)
LARGEST_F64 = float(np.finfo(np.float64).max)


def to_double(x):
    """Give the lanes of x as float64."""
    raise NotImplementedError("for compiled code")


@overload(to_double)
def _to_double(x):
    return (lambda x: widen(x)) if x == F32 else (lambda x: x)


def to_type(like, x):
    """Give the float64 lanes of x in the type of `like`."""
    raise NotImplementedError("for compiled code")


@overload(to_type)
def _to_type(like, x):
    return (lambda like, x: narrow(x)) if like == types.float32 else (lambda like, x: x)


def constants(like):
    """Give (magic + LIFT, LIFT - FLOOR, largest finite) for the type of `like`."""
    raise NotImplementedError("for compiled code")


@overload(constants)
def _constants(like):
    if like == types.float32:
        single = (MAGIC_F32 + LIFT_F32, LIFT_F32 - FLOOR_F32, LARGEST_F32)
        return lambda like: single
    double = (MAGIC_F64 + LIFT_F64, LIFT_F64 - FLOOR_F64, LARGEST_F64)
    return lambda like: double


@jit
def shifts_of(like, tops, law):
    """Give scalar.shift of every lane, as float64."""
    y = mul(to_double(tops), splat(widened(like), law[0]))
    return select_above(absolute(y), splat(y, scalar.FAR), splat(y, 0.0), round_up(y))


@jit
def points_of(like, tops, shifts, law):
    """Make each lane's origin, and the vectors that exp_parts wants, each lane with its own maximum."""
    magic, depth, greatest = constants(like)
    rate, inverse, high, low = law
    y = mul(to_double(tops), splat(shifts, rate))
    none = splat(like, type_as(like, 0.0))
    finite = select_above(absolute(tops), splat(like, type_as(like, greatest)), none, tops)
    origin = select_above(absolute(y), splat(y, scalar.FAR), finite, none)
    return origin, (
        to_type(like, mul(sub(shifts, splat(shifts, depth)), splat(shifts, inverse))),
        splat(like, high),
        splat(like, low),
        to_type(like, sub(splat(shifts, magic), shifts)),
    )


@jit
def factors_of(like, old, old_shifts, new_shifts, law):
    """Give scalar.rescale of every lane, no new maximum being far off: 0 where the old one is, or is -inf."""
    distance = larger(sub(old_shifts, new_shifts), splat(old_shifts, -1000.0))
    factors = power_of_two(add(distance, splat(distance, MAGIC_F64)))
    y = mul(to_double(old), splat(distance, law[0]))
    return select_above(y, splat(y, -scalar.FAR), factors, splat(y, 0.0))


@jit
def any_far(like, tops, law):
    """Say whether a maximum (-inf is none) is too far off for a power of two."""
    y = mul(to_double(tops), splat(widened(like), law[0]))
    finite = select_above(y, splat(y, -math.inf), y, splat(y, 0.0))
    return any_above(absolute(finite), scalar.FAR)


def update(like, sums, rests, wide):
    """Add a wide sum to the sums at an address (and what they lost, at another)."""
    raise NotImplementedError("for compiled code")


@overload(update)
def _update(like, sums, rests, wide):
    if like == types.float32:

        def single(like, sums, rests, wide):
            store(sums, add(load(widened(like), sums), wide))

        return single

    def double(like, sums, rests, wide):
        high, low = add_exactly((load(0.0, sums), load(0.0, rests)), wide[0])
        store(sums, high)
        store(rests, add(low, wide[1]))

    return double


@jit
def rescale_sums(like, sums, rests, factors):
    """Multiply a vector of sums, and what they lost, by factors."""
    store(sums, mul(load(factors, sums), factors))
    store(rests, mul(load(factors, rests), factors))


@jit
def rescale_each(like, old, new, sums, rests, law, count):
    """Rescale sums lane by lane, whatever their maxima (at the addresses `old` and `new`)."""
    size = BYTES // lanes(like)
    for i in range(count):
        factor = scalar.rescale(
            np.float64(peek(like, old + i * size)), np.float64(peek(like, new + i * size)), law[0]
        )
        poke(sums + 8 * i, peek(0.0, sums + 8 * i) * factor)
        poke(rests + 8 * i, peek(0.0, rests + 8 * i) * factor)


@jit
def take_columns(like, p, apart, count):
    """Load a vector of columns `apart` bytes from one another, or the first `count`."""
    if apart == BYTES // lanes(like):
        if count == lanes(like):
            return load(like, p)
        return load_first(like, p, count, type_as(like, -np.inf))
    return load_apart(like, p, apart, count, type_as(like, -np.inf))


@jit
def add_columns(like, p, width, apart, steps, pitch, tops, sums, rests, first, law, ahead, work):
    """Take `steps` rows of `width` columns into the columns' states; `first` says that these are empty.

    Columns are `apart` bytes from one another, rows `pitch`.
    The states' width is padded to whole vectors.
    """
    lane_count = lanes(like)
    lowest = splat(like, type_as(like, -np.inf))
    pack = work + BYTES
    for column in range(0, width, lane_count):
        count = min(lane_count, width - column)
        # What is read is put side by side: steps may lie a power of two apart, and
        # then no cache could hold them until the second pass.
        top = lowest
        other = lowest
        q = p
        for step in range(0, steps - 1, 2):
            x = take_columns(like, q, apart, count)
            y = take_columns(like, q + pitch, apart, count)
            store(pack + step * BYTES, x)
            store(pack + (step + 1) * BYTES, y)
            top = larger(x, top)
            other = larger(y, other)
            q += 2 * pitch
        if steps % 2:
            x = take_columns(like, q, apart, count)
            store(pack + (steps - 1) * BYTES, x)
            top = larger(x, top)
        top = larger(top, other)
        if first:
            shifts = shifts_of(like, top, law)
            for i in range(0, 8 * lane_count, BYTES):
                store(sums + i, splat(0.0, 0.0))
                store(rests + i, splat(0.0, 0.0))
        else:
            old = load(like, tops)
            top = larger(top, old)
            shifts = shifts_of(like, top, law)
            if any_above(sub(top, old), type_as(like, 0.0)):
                if any_far(like, top, law):
                    store(work, top)
                    rescale_each(like, tops, work, sums, rests, law, count)
                else:
                    old_shifts = shifts_of(like, old, law)
                    rescale_sums(like, sums, rests, factors_of(like, old, old_shifts, shifts, law))
        store(tops, top)
        origin, point = points_of(like, top, shifts, law)
        wide = nothing(like)
        q = p + ahead
        for step in range(0, steps - 1, 2):
            prefetch(q)
            prefetch(q + pitch)
            s, f = exp_parts(sub(load(like, pack + step * BYTES), origin), *point)
            t, g = exp_parts(sub(load(like, pack + (step + 1) * BYTES), origin), *point)
            wide = include(wide, add(s, t))
            wide = include(wide, fma(t, g, mul(s, f)))
            q += 2 * pitch
        if steps % 2:
            prefetch(q)
            s, f = exp_parts(sub(load(like, pack + (steps - 1) * BYTES), origin), *point)
            wide = include(include(wide, s), mul(s, f))
        update(like, sums, rests, wide)
        p += lane_count * apart
        tops += BYTES
        sums += 8 * lane_count
        rests += 8 * lane_count
