"""exp of a vector: float32 and float64 in two parts each, and float32 computed in float64.

With y = x * scale * log2 e, n = y rounded to an integer and f = y - n,

    exp(scale * x) = 2**n * 2**f = s + s*q,   s = 2**n,   q = 2**f - 1.

s is exact and |q| < 0.415, so the pair has a rounding error of at most 0.8
units of 2**-24 (2**-53), where s*(1 + q) in one float would have up to 1.8.
(The worst found is 0.76 among all float32 at six scales, where scale * |x| is
2**-12 to 87, and 0.78 among 150 million float64 at five, mostly where n changes.
Farther from 0 float32's product has few bits beside its integer, so that |f| may
pass 1/2, for which P is not made: 0.90 to 1e4. From 1.8e5 on the maximum is
subtracted first. Without FMA: 0.91.)
The kernels sum s and s*q apart and meet in a wider format (`exp_parts`); float64, which has none, sums
s + s*q rounded and what that lost (sums.py), save where powers of two are known to add exactly.

* n comes from adding the magic number 1.5 * 2**23 (2**52): the sum's low bits
  are n. With the exponent's bias and the shift of the reference point added to
  it, the low bits are those of the float 2**(n - shift), one instruction away.
* y - n is exact for the rounded y, what the product lost comes back by FMA, and
  `rate`, split in two parts of 24 (53) bits, brings its own low part: f is
  rounded once, at any logit up to 2**18, and `scale` costs nothing. Two FMAs
  from n, three instructions shorter, round f twice (0.17 units more) and are
  5 % faster in cache. Cody-Waite with three parts of ln 2 is as exact only up
  to 1e4, and would multiply by scale first, at the cost of |y| * 2**-24.
* q = f + f*P(f): P fitted on 160 Chebyshev nodes to the relative error of 2**f,
  each coefficient rounded in turn and the rest fitted again; the polynomial's
  own error is 0.05 (0.04) units. tests/test_exp.py measures both.

Sums of float32 pairs are still rounded in float32. Where terms of one token
differ much that costs up to 5 units, so there `exp_wide` works on float64
lanes: 0.04 units at 1.5 times the arithmetic. (Widening s and s*q one by one
costs as much as that and is less exact.)
"""

import numpy as np
from numba import types
from numba.extending import overload, register_jitable

from nbfagg import scalar
from nbfagg.cpu.jit import jit
from nbfagg.cpu.vector import add, float_of_bits, fma, larger, mul, muladd, negative, power_of_two, splat, sub
from nbfagg.scalar import FLOOR_F32, FLOOR_F64, LIFT_F32, LIFT_F64, MAGIC_F32, MAGIC_F64, P_F64

for formula in scalar.FORMULAS:
    register_jitable(error_model="numpy")(formula)


@overload(scalar.two_to)
def _two_to(exponent):
    # The bits of a normal float64, where ldexp is a call of 5 ns.
    return lambda exponent: float_of_bits((exponent + 1023) << 52)


# float32 logits in float64 lanes: the lift of their other sums, a floor of their own.
FLOOR_WIDE = -900.0

P_F32 = tuple(np.float32(c) for c in scalar.P_F32)
P_WIDE = tuple(
    float.fromhex(h)
    for h in (
        "-0x1.3a379e72ee258p-2",
        "0x1.ebfbdcf8b4486p-3",
        "0x1.c6aed61c2af16p-5",
        "0x1.3b2cc347135d2p-7",
        "0x1.5f44dc126b0e5p-10",
        "0x1.4258d7d758223p-13",
    )
)


def polynomial(f):
    """Give P(f) for a vector f in [-1/2, 1/2]."""
    raise NotImplementedError("for compiled code")


@overload(polynomial)
def _polynomial(f):
    if f.dtype == types.float32:
        c0, c1, c2, c3, c4, c5 = P_F32

        def single(f):
            p = muladd(splat(f, c5), f, splat(f, c4))
            p = muladd(p, f, splat(f, c3))
            p = muladd(p, f, splat(f, c2))
            p = muladd(p, f, splat(f, c1))
            return muladd(p, f, splat(f, c0))

        return single
    d0, d1, d2, d3, d4, d5, d6, d7, d8, d9, d10 = P_F64

    def double(f):
        p = muladd(splat(f, d10), f, splat(f, d9))
        p = muladd(p, f, splat(f, d8))
        p = muladd(p, f, splat(f, d7))
        p = muladd(p, f, splat(f, d6))
        p = muladd(p, f, splat(f, d5))
        p = muladd(p, f, splat(f, d4))
        p = muladd(p, f, splat(f, d3))
        p = muladd(p, f, splat(f, d2))
        p = muladd(p, f, splat(f, d1))
        return muladd(p, f, splat(f, d0))

    return double


def magic(like, shift):
    """Give the magic number of a reference point 2**(shift - LIFT), as a scalar of the type of `like`."""
    raise NotImplementedError("for compiled code")


@overload(magic)
def _magic(like, shift):
    if like == types.float32:
        return lambda like, shift: np.float32(MAGIC_F32 + LIFT_F32 - shift)
    return lambda like, shift: MAGIC_F64 + LIFT_F64 - shift


def lowest(like, shift, inverse):
    """Give the logit (less its origin) at and below which an exponential counts as 2**FLOOR."""
    raise NotImplementedError("for compiled code")


@overload(lowest)
def _lowest(like, shift, inverse):
    if like == types.float32:
        depth = LIFT_F32 - FLOOR_F32
        return lambda like, shift, inverse: np.float32((shift - depth) * inverse)
    depth = LIFT_F64 - FLOOR_F64
    return lambda like, shift, inverse: (shift - depth) * inverse


@jit
def exp_parts(x, low, rate_high, rate_low, magic):
    """Give s and q for the logits x, less their origin; the other arguments are vectors.

    A NaN in x stays one (in q); x = -inf gives s = 2**FLOOR.
    """
    return exp_near(larger(low, x), low, rate_high, rate_low, magic)


@jit
def exp_near(x, low, rate_high, rate_low, magic):
    """Give s and q for logits x that are known to lie above `low`, or to be NaN."""
    y = mul(x, rate_high)
    t = add(y, magic)
    n = sub(t, magic)
    rest = muladd(x, rate_low, fma(x, rate_high, negative(y)))
    f = add(sub(y, n), rest)
    return power_of_two(t), muladd(f, polynomial(f), f)


@jit
def exp_wide(x, low, rate, magic):
    """Give s and p = 2**f, whose product is the exponential, for float32 logits x in float64 lanes.

    `rate` in one part is off by 2**-54 of y, which is 2**-40 at a logit of 1e4: nothing needs to come back.
    """
    x = larger(low, x)
    t = muladd(x, rate, magic)
    f = muladd(x, rate, sub(magic, t))
    c0, c1, c2, c3, c4, c5 = P_WIDE
    p = muladd(splat(f, c5), f, splat(f, c4))
    p = muladd(p, f, splat(f, c3))
    p = muladd(p, f, splat(f, c2))
    p = muladd(p, f, splat(f, c1))
    p = muladd(p, f, splat(f, 1.0 + c0))
    return power_of_two(t), muladd(p, f, splat(f, 1.0))


@jit
def wide_point(shift, rate, inverse):
    """Make the vectors that exp_wide wants."""
    return (
        splat(0.0, (shift - (LIFT_F32 - FLOOR_WIDE)) * inverse),
        splat(0.0, rate),
        splat(0.0, MAGIC_F64 + LIFT_F32 - shift),
    )


@jit
def point_of(like, maximum, law):
    """Make the vectors that exp_parts wants for a tile with this maximum.

    `law` is scalar.Law.
    """
    _, inverse, high, low, _ = law
    exponent = scalar.shift(maximum, law)
    return (
        splat(like, lowest(like, exponent, inverse)),
        splat(like, high),
        splat(like, low),
        splat(like, magic(like, exponent)),
    )
