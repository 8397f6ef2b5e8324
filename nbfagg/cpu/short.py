"""Short tokens: exponentials are spread out in scratch memory, then summed for a vector of tokens at once.

A loop over a runtime number of few terms costs 0.3 to 0.6 ns an element; sums
laid out at compile time, or crosswise over as many tokens as there are lanes,
cost 0.03 to 0.1.
"""

import numpy as np
from numba import types
from numba.extending import overload

from nbfagg import scalar
from nbfagg.cpu.exp import exp_near, exp_parts, exp_wide, point_of, wide_point
from nbfagg.cpu.jit import jit, jit_as
from nbfagg.cpu.sums import add_exactly, apart, lost_by_meet, meet
from nbfagg.cpu.vector import (
    BYTES,
    F32,
    add,
    groups_lost,
    lanes,
    load,
    load_doubled,
    load_first,
    load_first_doubled,
    mul,
    muladd,
    prefetch,
    rows_lost,
    splat,
    store,
    sum_groups,
    sum_rows,
    type_as,
)
from nbfagg.fields import AREA

# Octaves within which so many powers of two add exactly in float32: 24 bits, less
# what the sum takes, less 1 for the rounding of each exponent, and 1 to spare. The
# small parts s*q are rounded up to six times, which stays below 1 unit.
CLOSE = 22


# float64 sums need no closeness; but tiny rows that share a reference point stay
# within what keeps their smallest exponentials from the floor.
NEAR = 200


def are_close(like, terms, top, bottom, law):
    """Say whether sums of `terms` exponentials between bottom and top are exact enough in their own type."""
    raise NotImplementedError("for compiled code")


@overload(are_close)
def _are_close(like, terms, top, bottom, law):
    if like == types.float32:

        def single(like, terms, top, bottom, law):
            bits = 0
            while terms > 1 << bits:
                bits += 1
            return (top - bottom) * law[0] <= CLOSE - bits

        return single
    return lambda like, terms, top, bottom, law: (top - bottom) * law[0] <= NEAR


def store_met(s, small, sums, lows):
    """Write s + small to sums, and what that lost to lows; float32 sums lose nothing and have no lows."""
    raise NotImplementedError("for compiled code")


@overload(store_met)
def _store_met(s, small, sums, lows):
    if s == F32:
        return lambda s, small, sums, lows: store(sums, meet(s, small))

    def double(s, small, sums, lows):
        store(sums, meet(s, small))
        store(lows, lost_by_meet(s, small))

    return double


def exp_here(x, low, rate_high, rate_low, magic):
    """Give s and q; float32 logits are close to one another here, float64 ones need not be."""
    raise NotImplementedError("for compiled code")


@overload(exp_here)
def _exp_here(x, low, rate_high, rate_low, magic):
    if x == F32:
        return lambda x, low, rate_high, rate_low, magic: exp_near(x, low, rate_high, rate_low, magic)
    return lambda x, low, rate_high, rate_low, magic: exp_parts(x, low, rate_high, rate_low, magic)


@jit
def single_parts(like, p, count, point, sums, lows, ahead):
    """Write `count` exponentials to sums as float64, and what that lost of float64 to lows."""
    width = lanes(like)
    for _ in range(count // width):
        prefetch(p + ahead)
        s, q = exp_here(load(like, p), *point)
        store_met(s, mul(s, q), sums, lows)
        p += BYTES
        sums += 8 * width
        lows += 8 * width
    rest = count % width
    if rest:
        s, q = exp_parts(load_first(like, p, rest, type_as(like, -np.inf)), *point)
        store_met(s, mul(s, q), sums, lows)


@jit
def spread_parts(like, p, count, point, scratch, gap, ahead):
    """Write what `apart` makes of `count` exponentials to scratch and scratch + gap; give the first's end."""
    width = lanes(like)
    for _ in range(count // width):
        prefetch(p + ahead)
        s, q = exp_here(load(like, p), *point)
        whole, small = apart(s, q)
        store(scratch, whole)
        store(scratch + gap, small)
        p += BYTES
        scratch += BYTES
    rest = count % width
    if rest:
        s, q = exp_parts(load_first(like, p, rest, type_as(like, -np.inf)), *point)
        whole, small = apart(s, q)
        store(scratch, whole)
        store(scratch + gap, small)
    return scratch + rest * (BYTES // width)


@jit
def spread_wide(p, count, point, scratch, ahead):
    """Write `count` exponentials of float32 numbers to scratch as float64; give the end."""
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


def with_lost(small, unit, address, width):
    """Add what sums of groups at `address` lose to the groups' small parts: float64 need not add exactly."""
    raise NotImplementedError("for compiled code")


@overload(with_lost, prefer_literal=True)
def _with_lost(small, unit, address, width):
    if small == F32:
        return lambda small, unit, address, width: small
    return lambda small, unit, address, width: add(small, groups_lost(unit, address, width))


def _grouper(width):
    """Make the loop that sums groups of `width` neighbours, as many at a time as there are lanes."""

    @jit_as(f"sum_groups_of_{width}")
    def sum_groups_of(unit, address, gap, groups, sums, lows):
        count = lanes(unit)
        for _ in range(0, groups, count):
            value = sum_groups(unit, address, width)
            # Apart, the powers of two of float32 add exactly, and the rest is small.
            other = splat(unit, type_as(unit, 0.0))
            if gap:
                other = with_lost(sum_groups(unit, address + gap, width), unit, address, width)
                store_met(value, other, sums, lows)
                lows += 8 * count
            else:
                store(sums, meet(value, other))
            address += width * BYTES
            sums += 8 * count

    return sum_groups_of


_group1, _group2, _group3, _group4 = _grouper(1), _grouper(2), _grouper(3), _grouper(4)
_group5, _group6, _group7, _group8 = _grouper(5), _grouper(6), _grouper(7), _grouper(8)


def _shrinker(width):
    """Make the loop that replaces groups of `width` neighbours by their sums, and so beyond a gap."""

    @jit_as(f"shrink_{width}")
    def shrink(unit, address, gap, groups):
        target = address
        for _ in range(0, groups, lanes(unit)):
            value = sum_groups(unit, address, width)
            if gap:
                small = with_lost(sum_groups(unit, address + gap, width), unit, address, width)
                store(target + gap, small)
            store(target, value)
            address += width * BYTES
            target += BYTES

    return shrink


_shrink2, _shrink4, _shrink8 = _shrinker(2), _shrinker(4), _shrinker(8)


@jit
def shrink_by(unit, address, gap, groups, width):
    """Replace groups of 2, 4 or 8 neighbours by their sums, in place, and so beyond a gap."""
    if width == 2:
        _shrink2(unit, address, gap, groups)
    elif width == 4:
        _shrink4(unit, address, gap, groups)
    else:
        _shrink8(unit, address, gap, groups)


@jit
def fold_crosswise(unit, address, terms, work):
    """Add up each of as many groups of `terms` neighbours as there are lanes to a vector, at work."""
    count = lanes(unit)
    size = BYTES // count
    zero = type_as(unit, 0.0)
    for j in range(count):
        end = address + terms // count * BYTES
        value = load_first(unit, end, terms % count, zero)
        for p in range(address, end, BYTES):
            value = add(value, load(unit, p))
        store(work + j * BYTES, value)
        address += terms * size


def small_crosswise(unit, address, terms, work):
    """Give what `fold_crosswise` and `sum_rows` of it lose; nothing of float32."""
    raise NotImplementedError("for compiled code")


@overload(small_crosswise)
def _small_crosswise(unit, address, terms, work):
    if unit == types.float32:
        return lambda unit, address, terms, work: splat(unit, np.float32(0.0))

    def double(unit, address, terms, work):
        lost = rows_lost(unit, work)
        count = lanes(unit)
        for j in range(count):
            end = address + terms // count * BYTES
            wide = load_first(unit, end, terms % count, 0.0), splat(unit, 0.0)
            for p in range(address, end, BYTES):
                wide = add_exactly(wide, load(unit, p))
            store(work + j * BYTES, wide[1])
            address += terms * 8
        return add(lost, sum_rows(unit, work))

    return double


@jit
def sum_neighbours(unit, address, gap, groups, terms, sums, lows, work):
    """Write the float64 sums of groups of `terms` neighbours at address, and beyond a gap if there is one.

    With a gap, what float64 sums lose where the two meet goes to lows.
    `unit` is a scalar of their type. As many groups as there are lanes go
    together, so there must be room for a multiple of that.
    """
    if terms > 8:
        # 20 terms: groups of 4, then 5 of their sums; a third of the time of
        # crosswise. Only what halves: each odd width takes a second to compile.
        for width in (4, 8, 2):
            if terms % width == 0 and terms // width <= 8:
                terms //= width
                shrink_by(unit, address, gap, groups * terms, width)
                break
    if terms == 1:
        _group1(unit, address, gap, groups, sums, lows)
    elif terms == 2:
        _group2(unit, address, gap, groups, sums, lows)
    elif terms == 3:
        _group3(unit, address, gap, groups, sums, lows)
    elif terms == 4:
        _group4(unit, address, gap, groups, sums, lows)
    elif terms == 5:
        _group5(unit, address, gap, groups, sums, lows)
    elif terms == 6:
        _group6(unit, address, gap, groups, sums, lows)
    elif terms == 7:
        _group7(unit, address, gap, groups, sums, lows)
    elif terms == 8:
        _group8(unit, address, gap, groups, sums, lows)
    else:
        count = lanes(unit)
        for _ in range(0, groups, count):
            fold_crosswise(unit, address, terms, work)
            value = sum_rows(unit, work)
            if gap:
                small = small_crosswise(unit, address, terms, work)
                fold_crosswise(unit, address + gap, terms, work)
                store_met(value, add(small, sum_rows(unit, work)), sums, lows)
                lows += 8 * count
            else:
                store(sums, meet(value, splat(unit, type_as(unit, 0.0))))
            address += terms * BYTES
            sums += 8 * count


@jit
def fill_up(end, stop, gap):
    """Write zeros from `end` to `stop`, and as far beyond the gap."""
    zero = splat(0.0, 0.0)
    while end < stop:
        store(end, zero)
        store(end + gap, zero)
        end += BYTES


@jit
def fold_parts(like, p, tokens, terms, point, sums, lows, work, ahead):
    """Sum the exponentials of each of `tokens` groups of `terms` neighbours that fill whole vectors.

    A group is added up lane by lane, and as many as there are lanes are then
    summed crosswise: a third of what sums cost where exponentials are spread
    out. Not for float64, whose powers of two need not add exactly.
    """
    count = lanes(like)
    smalls = work + count * BYTES
    zero = splat(like, type_as(like, 0.0))
    for token in range(0, tokens, count):
        here = min(count, tokens - token)
        for i in range(here):
            prefetch(p + ahead)
            total, q = exp_here(load(like, p), *point)
            small = mul(total, q)
            p += BYTES
            for _ in range(terms // count - 1):
                prefetch(p + ahead)
                s, q = exp_here(load(like, p), *point)
                total = add(total, s)
                small = muladd(s, q, small)
                p += BYTES
            store(work + i * BYTES, total)
            store(smalls + i * BYTES, small)
        for i in range(here, count):
            store(work + i * BYTES, zero)
            store(smalls + i * BYTES, zero)
        store_met(sum_rows(like, work), sum_rows(like, smalls), sums, lows)
        sums += 8 * count
        lows += 8 * count


@jit
def short_parts(like, p, tokens, terms, top, law, sums, lows, scratch, ahead):
    """Sum the exponentials of each of `tokens` groups of `terms` neighbours, in their own type."""
    point = point_of(like, top, law)
    if terms == 1:
        single_parts(like, p, tokens, point, sums, lows, ahead)
        return
    if lanes(like) == 16 and terms % 16 == 0:
        fold_parts(like, p, tokens, terms, point, sums, lows, scratch, ahead)
        return
    gap = AREA + BYTES
    count = lanes(like)
    size = BYTES // count
    chunk = AREA // (size * terms) // count * count
    for token in range(0, tokens, chunk):
        here = min(chunk, tokens - token)
        groups = (here + count - 1) // count * count
        end = spread_parts(like, p, here * terms, point, scratch, gap, ahead)
        fill_up(end, scratch + groups * terms * size, gap)
        sum_neighbours(like, scratch, gap, groups, terms, sums, lows, scratch + 2 * gap)
        p += here * terms * size
        sums += 8 * here
        lows += 8 * here


@jit
def short_wide(p, tokens, terms, top, law, sums, scratch, ahead):
    """Sum the exponentials of each of `tokens` groups of `terms` float32 neighbours, in float64."""
    point = wide_point(scalar.shift(top, law), law[0], law[1])
    if terms == 1:
        spread_wide(p, tokens, point, sums, ahead)
        return
    work = scratch + 2 * (AREA + BYTES)
    chunk = AREA // (8 * terms) // 8 * 8
    for token in range(0, tokens, chunk):
        here = min(chunk, tokens - token)
        groups = (here + 7) // 8 * 8
        end = spread_wide(p, here * terms, point, scratch, ahead)
        fill_up(end, scratch + groups * terms * 8, AREA + BYTES)
        sum_neighbours(0.0, scratch, 0, groups, terms, sums, 0, work)
        p += here * terms * 4
        sums += 8 * here


def short_sums(like, p, tokens, terms, top, bottom, law, sums, lows, scratch, ahead):
    """Sum the exponentials of each of `tokens` groups of `terms` <= SHORT neighbours.

    What float64 sums lost goes to lows. Both have room for a whole vector after the last token.
    """
    raise NotImplementedError("for compiled code")


@overload(short_sums)
def _short_sums(like, p, tokens, terms, top, bottom, law, sums, lows, scratch, ahead):
    if like == types.float32:

        def single(like, p, tokens, terms, top, bottom, law, sums, lows, scratch, ahead):
            if are_close(like, terms, top, bottom, law):
                short_parts(like, p, tokens, terms, top, law, sums, lows, scratch, ahead)
            else:
                short_wide(p, tokens, terms, top, law, sums, scratch, ahead)

        return single

    def double(like, p, tokens, terms, top, bottom, law, sums, lows, scratch, ahead):
        short_parts(like, p, tokens, terms, top, law, sums, lows, scratch, ahead)

    return double
