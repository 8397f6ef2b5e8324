"""The formulas of scalar.py and the exponential, for one type of arithmetic on the device or its twin.

No float64 instruction may reach a float32 kernel, and Numba takes every
constant that Python writes for float64. So each formula is compiled from its own
code with its constants, and what it looks up, in the type of the arithmetic.
"""

from __future__ import annotations

import math
from types import FunctionType, SimpleNamespace
from typing import Any

from nbfagg import scalar
from nbfagg.cuda.kinds import Kind

# The exponential of x, which comes without its origin, as s + s*q with s = 2**n (cpu/exp.py has
# the reasons and the other form):
#
#     t = x*high + magic,  n = t - magic,  f = (x*high - n) + x*low,  q = f + f*P(f)
#
# Two FMAs from n round f twice, 0.17 units of 2**-24 worse than the CPU's form and three
# instructions shorter: 14 to here, with a clamp, and 2 to sum s and s*q apart.


def typed(formula: FunctionType, real: Any, names: dict[str, Any]) -> FunctionType:
    """Give a formula with its constants of one type; `names` are what it looks up besides."""
    code = formula.__code__
    constants = tuple(real(c) if type(c) is float else c for c in code.co_consts)
    looked_up = {
        name: real(value) if isinstance(value, float) else value
        for name, value in formula.__globals__.items()
        if name in code.co_names
    }
    looked_up |= {name: value for name, value in names.items() if name in code.co_names}
    twin = FunctionType(code.replace(co_consts=constants), looked_up, formula.__name__)
    twin.__module__ = formula.__module__
    return twin


def make(P: SimpleNamespace, kind: Kind) -> SimpleNamespace:
    """Give the formulas on the primitives P."""
    real = kind.real
    jit, fma, larger, power, ex2, maximum = P.jit, P.fma, P.larger, P.power, P.ex2, P.maximum
    wide = kind.wide
    lift = scalar.LIFT_F64 if wide else scalar.LIFT_F32
    floor = scalar.FLOOR_F64 if wide else scalar.FLOOR_F32
    MAGIC = real((scalar.MAGIC_F64 if wide else scalar.MAGIC_F32) + lift)
    LIFT, DEPTH, UP, UNLIFT = real(lift), real(lift - floor), real(2.0**lift), real(2.0**-lift)
    ZERO, ONE, NINF = real(0), real(1), real(-math.inf)
    FLOOR = real(2.0 ** (floor + 1))
    # Indices of a law: scalar.Law and the scale.
    INVERSE, HIGH, LOW = 1, 2, 3

    @jit
    def multiply_exactly(x: Any, y: Any) -> tuple[Any, Any]:
        product = x * y
        return product, fma(x, y, -product)

    names: dict[str, Any] = {"math": P.math, "multiply_exactly": multiply_exactly}
    once = scalar.origin, scalar.shift, scalar.add_exactly, scalar.distance, scalar.log_distance
    for formula in (*once, scalar.log_sum_exp):
        names[formula.__name__] = jit(typed(formula, real, names))
    origin, shift, log_distance = names["origin"], names["shift"], names["log_distance"]
    add_exactly, log_sum_exp = names["add_exactly"], names["log_sum_exp"]

    if wide:
        C0, C1, C2, C3, C4, C5, C6, C7, C8, C9, C10 = (real(c) for c in scalar.P_F64)

        @jit
        def polynomial(f):
            p = fma(C10, f, C9)
            p = fma(p, f, C8)
            p = fma(p, f, C7)
            p = fma(p, f, C6)
            p = fma(p, f, C5)
            p = fma(p, f, C4)
            p = fma(p, f, C3)
            p = fma(p, f, C2)
            p = fma(p, f, C1)
            return fma(p, f, C0)
    else:
        C0, C1, C2, C3, C4, C5 = (real(c) for c in scalar.P_F32)

        @jit
        def polynomial(f):
            p = fma(C5, f, C4)
            p = fma(p, f, C3)
            p = fma(p, f, C2)
            p = fma(p, f, C1)
            return fma(p, f, C0)

    @jit
    def parts(x, low, magic, law):
        """Give s and q for a logit without its origin."""
        x = larger(low, x)
        t = fma(x, law[HIGH], magic)
        n = t - magic
        f = fma(x, law[LOW], fma(x, law[HIGH], -n))
        return power(t), fma(f, polynomial(f), f)

    @jit
    def point_of(m, law):
        """Give what exponentials relative to the point of a maximum want: origin, low, magic."""
        exponent = shift(m, law)
        return origin(m, law), (exponent - DEPTH) * law[INVERSE], MAGIC - exponent

    if kind.half:

        @jit
        def exponential(x, point, law):
            """Give exp(scale * x) relative to a point, by the hardware's 2**x: good for half precision.

            A law's low part is above 0 here, so that -inf times both parts stays -inf.
            """
            x -= point[0]
            return ex2(fma(x, law[LOW], fma(x, law[HIGH], point[2])))

        @jit
        def point_for(m, law):
            """Give the point that `exponential` wants: not lifted, for a float32 near 80 is coarse."""
            exponent = shift(m, law)
            return origin(m, law), (exponent - DEPTH) * law[INVERSE], -exponent

        @jit
        def lifted(s):
            return s * UP

        # A gradient's factor may be large, and the hardware gives 0 below 2**-126. At 60 a float32 has lost
        # 2**-18, which is nothing to either half.
        DEEP = 60.0
        deep, UP_TO_DEEP = exponential, real(DEEP)

        @jit
        def deep_point(m, law):
            exponent = shift(m, law)
            return origin(m, law), (exponent - DEPTH) * law[INVERSE], UP_TO_DEEP - exponent

        if kind.storage == "f2":
            # Weights below 2**-25 are 0: what a float32 near 25 has lost does not show.
            fine_point, fine = point_for, exponential
        else:
            fine_point = point_of

            @jit
            def fine(x, point, law):
                """Give exp(scale * x) relative to a point far above, where a float32 has few bits left."""
                x = larger(point[1], x - point[0])
                t = fma(x, law[HIGH], point[2])
                n = t - point[2]
                return ex2(fma(x, law[LOW], fma(x, law[HIGH], -n))) * power(t)

    else:
        point_for = fine_point = point_of

        @jit
        def lifted(s):
            """Give a cell's sum 2**LIFT above its point, which it already is."""
            return s

        @jit
        def exponential(x, point, law):
            """Give exp(scale * x) relative to a point, rounded to one number."""
            s, q = parts(x - point[0], point[1], point[2], law)
            return fma(s, q, s)

        fine = deep = exponential
        deep_point, DEEP = point_of, lift

    if kind.half:

        @jit
        def far_down(e):
            return e
    else:

        @jit
        def far_down(e):
            """Give 0 for an exponential at the floor, which a large factor would show."""
            return ZERO if e < FLOOR else e

    @jit
    def pair(x, point, law):
        """Give the same as two numbers, the sum of which is rounded once."""
        s, q = parts(x - point[0], point[1], point[2], law)
        return s, s * q

    @jit
    def lifted_factor(old, new, law):
        """Give 2**LIFT times the factor that moves a sum from one maximum's point to another's."""
        apart = origin(old, law) - origin(new, law)
        exponent = shift(new, law) - shift(old, law)
        s, q = parts(apart, (exponent - DEPTH) * law[INVERSE], MAGIC - exponent, law)
        return fma(s, q, s)

    @jit
    def rescale(old, new, law):
        """Give the factor that moves a sum from the point of `old` to that of `new`, as scalar.rescale.

        By the exponential, which is exact where the points are powers of two: float32 cannot hold
        a distance of 2**18 and its fraction. 0 for a maximum of -inf, which holds nothing.
        """
        return ZERO if old == NINF else lifted_factor(old, new, law) * UNLIFT

    @jit
    def merge(m, s, rest, other, t, less, law):
        """Merge two states (maximum, sum, rest) as scalar.merge does; a maximum of NaN stays."""
        new = maximum(m, other)
        if m != new:
            factor = rescale(m, new, law)
            s, rest = s * factor, rest * factor
        if other != new:
            factor = rescale(other, new, law)
            t, less = t * factor, less * factor
        whole, lost = add_exactly(s, t)
        return new, whole, rest + (less + lost)

    @jit
    def quotient(s, total, rest, inverse):
        """Give s / (total + rest) within 0.6 units; `inverse` is 1 / total, and what it lost comes back."""
        found = s * inverse
        left = fma(-found, total, s) - found * rest
        return found + left * inverse

    # What brings an exponential to the lift of its sum.
    FINE_UNLIFTED = UP if fine_point is not point_of else ONE
    DEEP_UNLIFTED = real(2.0 ** (lift - DEEP))
    return SimpleNamespace(
        FINE_UNLIFTED=FINE_UNLIFTED, fine_point=fine_point, fine=fine,
        DEEP_UNLIFTED=DEEP_UNLIFTED, deep_point=deep_point, deep=deep, far_down=far_down, origin=origin,
        shift=shift, log_distance=log_distance, add_exactly=add_exactly, log_sum_exp=log_sum_exp,
        point_for=point_for, exponential=exponential, pair=pair, lifted=lifted, lifted_factor=lifted_factor,
        rescale=rescale, merge=merge, quotient=quotient, ZERO=ZERO, ONE=ONE, NINF=NINF, LIFT=LIFT,
    )  # fmt: skip
