"""A tile whose lanes do not meet: they lie across a batch or a kept axis, side by side or any way apart.

Each column keeps a state of its own: a maximum, whose reference point its sum
is relative to, and the sum. It takes in a stretch of the summed axis at a time.
The maximum that a state is relative to is raised only when a stretch exceeds it
by REACH octaves: a power of two more or less rounds nothing, and most stretches
leave all points as they are.

float32 columns go two ways, lane by lane, as tiles do: where a stretch lies
within CLOSE octaves its powers of two add exactly in float32; elsewhere
they are widened before they are added. In a vector whose
lanes go both ways, both are computed. Which way a lane goes depends on that
lane alone.
"""

import math

import numpy as np
from numba import types
from numba.extending import overload

from nbfagg import scalar
from nbfagg.cpu.exp import FLOOR_F32, FLOOR_F64, LIFT_F32, LIFT_F64, MAGIC_F32, MAGIC_F64, exp_near, exp_parts
from nbfagg.cpu.finish import to_sums
from nbfagg.cpu.jit import inlined, jit
from nbfagg.cpu.sums import add_exactly, include, include_exps, nothing
from nbfagg.cpu.vector import (
    BYTES,
    absolute,
    add,
    all_below,
    any_above,
    lanes,
    larger,
    load,
    load_apart,
    load_first,
    mul,
    muladd,
    narrow,
    negative,
    peek,
    poke,
    power_of_two,
    prefetch,
    round_up,
    select_above,
    smaller,
    splat,
    store,
    sub,
    type_as,
    widened,
)

# Octaves by which a stretch may exceed its column's reference point: 16 terms of
# 2**(LIFT + REACH) are far from the largest float32. Not in float64: a factor for
# what lies 1074 octaves below its row's maximum is just within its range.
REACH_F32, REACH_F64 = 30.0, 0.0
# Octaves by which it may lie below it without a look at each exponent: down to
# LIFT - DEPTH - CLOSE = -37, where 2**-126 is the smallest normal number.
DEPTH = 100.0
# Octaves within which COLUMN_STEPS powers of two add exactly in float32: 24 bits,
# less 4 for the sum and 1 for the rounding of each exponent, and 2 to spare.
CLOSE = 17.0
# Steps whose small parts s*q are added in float32: each addition rounds, by up to a
# quarter of a unit where one term outweighs the others.
CHAIN = 8

LARGEST_F32 = float(np.finfo(np.float32).max)
LARGEST_F64 = float(np.finfo(np.float64).max)


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


def reach(like):
    """Give REACH of the type of `like`."""
    raise NotImplementedError("for compiled code")


@overload(reach)
def _reach(like):
    octaves = REACH_F32 if like == types.float32 else REACH_F64
    return lambda like: octaves


@jit
def shifts_of(like, tops, law):
    """Give scalar.shift of every lane, as float64."""
    y = mul(to_sums(tops), splat(widened(like), law[0]))
    even = mul(round_up(mul(y, splat(y, 0.5))), splat(y, 2.0))
    return select_above(absolute(y), splat(y, law[4]), splat(y, 0.0), even)


@jit
def points_of(like, tops, shifts, law):
    """Make each lane's origin, and the vectors that exp_parts wants, each lane with its own maximum."""
    magic, depth, greatest = constants(like)
    rate, inverse, high, low, far = law
    y = mul(to_sums(tops), splat(shifts, rate))
    none = splat(like, type_as(like, 0.0))
    finite = select_above(absolute(tops), splat(like, type_as(like, greatest)), none, tops)
    origin = select_above(absolute(y), splat(y, far), finite, none)
    return origin, (
        to_type(like, mul(sub(shifts, splat(shifts, depth)), splat(shifts, inverse))),
        splat(like, high),
        splat(like, low),
        to_type(like, sub(splat(shifts, magic), shifts)),
    )


@jit
def magics_of(like, tops, shifts, law):
    """Give each lane's magic number, or infinity where it has an origin to take out, or no logit yet."""
    y = absolute(mul(to_sums(tops), splat(shifts, law[0])))
    beyond = splat(y, math.inf)
    magics = sub(splat(y, constants(like)[0]), shifts)
    return to_type(like, select_above(y, splat(y, law[4]), beyond, magics))


@jit
def factors_of(like, old, old_shifts, new_shifts):
    """Give scalar.rescale of every lane, no maximum being far off: 0 where the old one is -inf."""
    distance = larger(sub(old_shifts, new_shifts), splat(old_shifts, -1000.0))
    factors = power_of_two(add(distance, splat(distance, MAGIC_F64)))
    return select_above(to_sums(old), splat(factors, -math.inf), factors, splat(factors, 0.0))


@jit
def any_far(like, tops, law):
    """Say whether a maximum (-inf is none) is too far off for a power of two."""
    y = mul(to_sums(tops), splat(widened(like), law[0]))
    finite = select_above(y, splat(y, -math.inf), y, splat(y, 0.0))
    return any_above(absolute(finite), law[4])


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
def rescale_each(like, old, new, sums, rests, law, count):
    """Rescale sums lane by lane, whatever their maxima (at the addresses `old` and `new`)."""
    size = BYTES // lanes(like)
    for i in range(count):
        factor = scalar.rescale(
            np.float64(peek(like, old + i * size)), np.float64(peek(like, new + i * size)), law
        )
        poke(sums + 8 * i, peek(0.0, sums + 8 * i) * factor)
        if lanes(like) == 8:
            poke(rests + 8 * i, peek(0.0, rests + 8 * i) * factor)


@jit
def clear_columns(like, tops, magics, sums, rests):
    """Make the states of a vector of columns empty."""
    store(tops, splat(like, type_as(like, -np.inf)))
    store(magics, splat(like, type_as(like, np.inf)))
    for i in range(0, 8 * lanes(like), BYTES):
        store(sums + i, splat(0.0, 0.0))
        if lanes(like) == 8:
            store(rests + i, splat(0.0, 0.0))


@jit
def raise_points(like, top, reached, tops, magics, sums, rests, law, work):
    """Raise the points of those lanes that a stretch exceeds by more than REACH (or by NaN)."""
    old = load(like, tops)
    limit = splat(like, type_as(like, constants(like)[0] + reach(like) + 0.5))
    new = select_above(limit, reached, old, larger(top, old))
    shifts = shifts_of(like, new, law)
    if any_far(like, new, law) or any_far(like, old, law):
        store(work, new)
        rescale_each(like, tops, work, sums, rests, law, lanes(like))
    else:
        factors = factors_of(like, old, shifts_of(like, old, law), shifts)
        store(sums, mul(load(factors, sums), factors))
        if lanes(like) == 8:
            store(rests, mul(load(factors, rests), factors))
    store(tops, new)
    store(magics, magics_of(like, new, shifts, law))


@inlined
def take_columns(like, p, apart, count):
    """Load a vector of columns `apart` bytes from one another, or the first `count` and zeros."""
    if apart == BYTES // lanes(like):
        if count == lanes(like):
            return load(like, p)
        return load_first(like, p, count, type_as(like, 0.0))
    return load_apart(like, p, apart, count, type_as(like, 0.0))


@inlined
def pack_columns(like, p, apart, count, steps, pitch, pack):
    """Put `steps` rows of a vector of columns side by side; give each lane's largest and smallest number.

    Steps may lie a power of two apart, and then no cache would hold them until they are read again.
    """
    lowest = splat(like, type_as(like, -np.inf))
    top = lowest
    other = lowest
    bottom = negative(lowest)
    last = bottom
    for _ in range(steps // 2):
        x = take_columns(like, p, apart, count)
        y = take_columns(like, p + pitch, apart, count)
        store(pack, x)
        store(pack + BYTES, y)
        top = larger(x, top)
        other = larger(y, other)
        bottom = smaller(x, bottom)
        last = smaller(y, last)
        p += 2 * pitch
        pack += 2 * BYTES
    if steps % 2:
        x = take_columns(like, p, apart, count)
        store(pack, x)
        top = larger(x, top)
        bottom = smaller(x, bottom)
    return larger(top, other), smaller(bottom, last)


@inlined
def sum_close(like, pack, steps, magic, law, q, pitch):
    """Sum the exponentials of packed float32 columns, each of which lies within CLOSE octaves; prefetch q."""
    none = splat(like, type_as(like, 0.0))
    high, rest = splat(like, law[2]), splat(like, law[3])
    total = none
    wide = nothing(like)
    for step in range(0, steps, CHAIN):
        even = none
        odd = none
        here = min(CHAIN, steps - step)
        for _ in range(here // 2):
            prefetch(q)
            prefetch(q + pitch)
            s, f = exp_near(load(like, pack), none, high, rest, magic)
            t, g = exp_near(load(like, pack + BYTES), none, high, rest, magic)
            total = add(total, add(s, t))
            even = muladd(s, f, even)
            odd = muladd(t, g, odd)
            pack += 2 * BYTES
            q += 2 * pitch
        if here % 2:
            prefetch(q)
            s, f = exp_near(load(like, pack), none, high, rest, magic)
            total = add(total, s)
            even = muladd(s, f, even)
        wide = include(wide, add(even, odd))
    return include(wide, total)


@jit
def sum_any(like, pack, steps, tops, distance, law, q, pitch):
    """Sum the exponentials of packed columns of any kind; those lanes that are close as `sum_close` does.

    `distance` is how many octaves apart a lane's logits lie; infinite or NaN if that does not matter.
    """
    refs = load(like, tops)
    origin, point = points_of(like, refs, shifts_of(like, refs, law), law)
    none = splat(like, type_as(like, 0.0))
    total = none
    close = nothing(like)
    wide = close
    for step in range(0, steps, CHAIN):
        even = none
        odd = none
        here = min(CHAIN, steps - step)
        for _ in range(here // 2):
            prefetch(q)
            prefetch(q + pitch)
            s, f = exp_parts(sub(load(like, pack), origin), *point)
            t, g = exp_parts(sub(load(like, pack + BYTES), origin), *point)
            wide = include_exps(wide, s, f, t, g)
            total = add(total, add(s, t))
            even = muladd(s, f, even)
            odd = muladd(t, g, odd)
            pack += 2 * BYTES
            q += 2 * pitch
        if here % 2:
            prefetch(q)
            s, f = exp_parts(sub(load(like, pack), origin), *point)
            wide = include(include(wide, s), mul(s, f))
            total = add(total, s)
            even = muladd(s, f, even)
        close = include(close, add(even, odd))
    return either(like, distance, include(close, total), wide)


def either(like, distance, close, wide):
    """Give `close` where float32 lanes are, `wide` elsewhere and for float64."""
    raise NotImplementedError("for compiled code")


@overload(either)
def _either(like, distance, close, wide):
    if like == types.float32:
        return lambda like, distance, close, wide: select_above(
            splat(like, type_as(like, CLOSE + 0.5)), distance, close, wide
        )
    return lambda like, distance, close, wide: wide


@jit
def add_columns(like, p, width, apart, steps, pitch, states, first, law, ahead, work):
    """Take `steps` rows of `width` columns into the columns' states; `first` says that these are empty.

    Columns are `apart` bytes from one another, rows `pitch`. `states` holds the addresses of maxima, magic
    numbers, sums, and what the sums of float64 lost; their width is padded to whole vectors.
    """
    lane_count = lanes(like)
    tops, magics, sums, rests = states
    pack = work + BYTES
    none = constants(like)[0]  # the magic number of what is at its reference point
    rate = splat(like, law[2])
    for column in range(0, width, lane_count):
        count = min(lane_count, width - column)
        if first:
            clear_columns(like, tops, magics, sums, rests)
        top, bottom = pack_columns(like, p, apart, count, steps, pitch, pack)
        magic = load(like, magics)
        reached = muladd(top, rate, magic)
        if not all_below(reached, type_as(like, none + reach(like) + 0.5)):
            raise_points(like, top, reached, tops, magics, sums, rests, law, work)
            magic = load(like, magics)
            reached = muladd(top, rate, magic)
        # Infinite or NaN where a lane is not close, or is so far below its point that exponents would wrap.
        far_off = splat(like, type_as(like, np.inf))
        distance = sub(reached, muladd(bottom, rate, magic))
        distance = select_above(reached, splat(like, type_as(like, none - DEPTH)), distance, far_off)
        if lane_count == 16 and all_below(distance, type_as(like, CLOSE + 0.5)):
            wide = sum_close(like, pack, steps, magic, law, p + ahead, pitch)
        else:
            wide = sum_any(like, pack, steps, tops, distance, law, p + ahead, pitch)
        update(like, sums, rests, wide)
        p += lane_count * apart
        tops += BYTES
        magics += BYTES
        sums += 8 * lane_count
        rests += 8 * lane_count
