"""Tokens of one term each, close float32 ones: softmax.

Every exponential is a token's sum, so writing float64 sums and narrowing them
again costs as much as the exponentials. The two float32 parts of each, s and
s*q, take the same room and no conversion: they lie side by side in a block,
first all s, then all s*q, and meet in the last operation on them.
"""

import numpy as np

from nbfagg.cpu.exp import LIFT_F32, exp_near, exp_parts, point_of
from nbfagg.cpu.jit import jit
from nbfagg.cpu.sums import collapse, include, nothing
from nbfagg.cpu.vector import (
    BYTES,
    add,
    fma,
    load,
    load_first,
    mul,
    muladd,
    peek,
    prefetch,
    splat,
    store,
    store_first,
)

LANES = 16
# Vectors whose s add exactly in float32 where logits lie within tiles.NARROW octaves.
CHAIN = 8
DOWN = np.float32(2.0**-LIFT_F32)


@jit
def gap_of(count):
    """Give the bytes from a block's s to its s*q."""
    return (count + LANES - 1) // LANES * BYTES


@jit
def write_parts(like, p, count, top, law, parts, ahead):
    """Write the parts of `count` exponentials to a block; give their total."""
    point = point_of(like, top, law)
    gap = gap_of(count)
    wide = nothing(like)
    vectors = count // LANES
    for first in range(0, vectors, CHAIN):
        total = splat(like, np.float32(0.0))
        small = total
        for _ in range(min(CHAIN, vectors - first)):
            prefetch(p + ahead)
            s, q = exp_near(load(like, p), *point)
            part = mul(s, q)
            store(parts, s)
            store(parts + gap, part)
            total = add(total, s)
            small = add(small, part)
            p += BYTES
            parts += BYTES
        wide = include(include(wide, total), small)
    rest = count % LANES
    if rest:
        s, q = exp_parts(load_first(like, p, rest, np.float32(-np.inf)), *point)
        store(parts, s)
        store(parts + gap, mul(s, q))
        wide = include(include(wide, s), mul(s, q))
    return collapse(wide)


@jit
def sum_at(parts, count, index):
    """Give the sum of one token of a block."""
    zero = np.float32(0.0)
    s = np.float64(peek(zero, parts + 4 * index))
    return s + np.float64(peek(zero, parts + gap_of(count) + 4 * index))


@jit
def finish_parts(like, parts, out, count, total, factor):
    """Write the weights of a block: (s + s*q) / total * factor, a power of two.

    1 / total is a pair too, so that only the last addition rounds. It is taken
    of 2**-LIFT * total, for what is subnormal is slow on some processors.
    """
    inverse = 1.0 / (total * 2.0**-LIFT_F32) if total != 0.0 else 0.0
    high = splat(like, np.float32(inverse))
    low = splat(like, np.float32(inverse - np.float64(np.float32(inverse))))
    down = splat(like, DOWN)
    scale = splat(like, np.float32(factor))
    gap = gap_of(count)
    for first in range(0, count, LANES):
        s, small = load(like, parts), load(like, parts + gap)
        weight = mul(mul(fma(s, high, muladd(small, high, mul(s, low))), down), scale)
        if first + LANES <= count:
            store(out, weight)
        else:
            store_first(out, weight, count - first)
        parts += BYTES
        out += BYTES
