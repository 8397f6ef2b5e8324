"""The formulas, once: plain functions of numbers, compiled by each target.

A row's sums are kept relative to a reference point that follows from its
maximum alone. The point is a power of two, 2**shift, so that moving a sum from
one point to another is exact. Logits too large for that (their product with
log2 e leaves the range in which an integer and its fraction both fit) are first
moved by their maximum itself, which is exact there.
"""

import math

LOG2_E = 1.4426950408889634
LOG2_E_REST = 2.0355273740931033e-17  # log2 e - LOG2_E
LN_2 = 0.6931471805599453

# Above this |logit * scale * log2 e| the maximum is subtracted first. float32
# holds integer and exponent in the 22 bits below its magic number, float64 in 51;
# there the fraction asks for what `rate` in two parts still gives beyond 2**40.
# What is left beside float32's integer passes 1/2 by 2**-5 at 2**18, which costs the polynomial 0.2
# units; by 0.19 at 2**21, where weights were 6 ulp off.
FAR_F32 = 2.0**18
FAR_F64 = 2.0**40


# Sums are kept 2**LIFT above the maximum's power of two and an exponential below
# 2**FLOOR counts as 2**FLOOR: LIFT - FLOOR (180, 1200) is further down than the
# smallest subnormal (149, 1074) with 1e8 terms, so that -inf has weight 0 to the
# bit, and what is summed is never subnormal, which would be slow.
LIFT_F32, FLOOR_F32 = 80.0, -100.0
LIFT_F64, FLOOR_F64 = 300.0, -900.0

# Added to a number, these leave its nearest integer, with the exponent's bias, in the low bits.
MAGIC_F32 = 1.5 * 2.0**23 + 127.0
MAGIC_F64 = 1.5 * 2.0**52 + 1023.0

# 2**f = 1 + f + f*P(f) for f in [-1/2, 1/2], lowest coefficient first. Those of P_F32
# are float32 numbers; cpu/exp.py says how both were found.
P_F32 = tuple(
    float.fromhex(h)
    for h in (
        "-0x1.3a379ep-2",
        "0x1.ebfbdep-3",
        "0x1.c6aea8p-5",
        "0x1.3b2beep-7",
        "0x1.5f555ep-10",
        "0x1.42f246p-13",
    )
)
P_F64 = tuple(
    float.fromhex(h)
    for h in (
        "-0x1.3a37a020b8c21p-2",
        "0x1.ebfbdff82c5a5p-3",
        "0x1.c6b08d7049f67p-5",
        "0x1.3b2ab6fb9ffacp-7",
        "0x1.5d87fe78dfcd1p-10",
        "0x1.4309130f15aaap-13",
        "0x1.ffcbfb6030941p-17",
        "0x1.62bfc718a6b8bp-20",
        "0x1.b52701d1c7706p-24",
        "0x1.e61c1b770458dp-28",
        "0x1.e6e82d5091cfep-32",
    )
)

# What a scale and a type make of the formulas: rate = scale * log2 e, 1 / rate,
# rate's high and low part in the type of the arithmetic, and FAR of that type.
Law = tuple[float, float, float, float, float]


def origin(maximum: float, law: Law) -> float:
    """Give what is subtracted from a logit: 0, or the maximum where it is far off.

    A maximum of -inf or +inf has no origin but 0.
    """
    if math.isinf(maximum) or abs(maximum * law[0]) <= law[4]:
        return 0.0
    return maximum


def shift(maximum: float, law: Law) -> float:
    """Give the exponent of the reference point: the even integer next above the maximum's base-2 logarithm.

    Even, so that a logit half-way between two integers is rounded to the same one at every point.
    """
    if math.isinf(maximum) or abs(maximum * law[0]) > law[4]:
        return 0.0
    return 2.0 * math.ceil(maximum * law[0] * 0.5)


def distance(old: float, new: float, law: Law) -> tuple[float, float]:
    """Give the base-2 logarithm of the factor that moves a sum from the point of `old` to that of `new`.

    In two parts, for it may be what is left of two large numbers: one maximum is far off and the other is
    not, or not by much. One of several times FAR need not be exact.
    """
    octaves = shift(old, law) - shift(new, law)
    apart = origin(old, law) - origin(new, law)
    if apart == 0.0:
        return octaves, apart
    if not abs(apart * law[0]) < 4.0 * law[4]:
        return octaves + apart * law[0], apart * 0.0
    product, lost = multiply_exactly(apart, law[2])
    whole, rest = add_exactly(octaves, product)
    return add_exactly(whole, rest + (lost + apart * law[3]))


def log_distance(old: float, new: float, law: Law) -> float:
    """Give the natural logarithm of that factor; unlike `distance` it holds for any two finite maxima."""
    whole, rest = distance(old, new, law)
    if math.isinf(whole):
        # Halves, since the distance of the two largest numbers is none.
        return 2.0 * ((0.5 * origin(old, law) - 0.5 * origin(new, law)) * (law[0] * LN_2))
    return (whole + rest) * LN_2


def two_to(exponent: int) -> float:
    """Give 2**exponent for -1022 <= exponent <= 1023; kernels put its bits together instead."""
    return math.ldexp(1.0, exponent)


def rescale(old: float, new: float, law: Law) -> float:
    """Give the factor that moves a sum from the point of maximum `old` to that of `new` >= `old`.

    Guarded at the reference point, not at the result: nothing (a maximum of
    -inf) gets the factor 0, so that it adds nothing, while a NaN times 0 stays
    a NaN.
    """
    if old == -math.inf:
        return 0.0
    if old == new:
        return 1.0
    whole, rest = distance(old, new, law)
    if not whole > -1075.0:
        return 0.0
    if whole > -1020.0 and whole == math.floor(whole) and rest == 0.0:
        return two_to(int(whole))
    factor = math.pow(2.0, whole)
    return factor + factor * (rest * LN_2)


def merge(
    max_a: float, sum_a: float, rest_a: float, max_b: float, sum_b: float, rest_b: float, law: Law
) -> tuple[float, float, float]:
    """Merge (maximum, sum) b into a: the bigger maximum wins, the other's sum is rescaled.

    sum + rest is an unevaluated sum, so that a long chain of merges loses
    nothing. The identity is (-inf, 0, 0).
    """
    if max_b > max_a:
        factor = rescale(max_a, max_b, law)
        max_a = max_b
        sum_a *= factor
        rest_a *= factor
    else:
        factor = rescale(max_b, max_a, law)
        sum_b *= factor
        rest_b *= factor
    whole, lost = add_exactly(sum_a, sum_b)
    return max_a, whole, rest_a + rest_b + lost


def add_exactly(x: float, y: float) -> tuple[float, float]:
    """Give the rounded sum and what it lost (Knuth's two-sum: any order of magnitudes)."""
    whole = x + y
    part = whole - x
    return whole, (x - (whole - part)) + (y - part)


def multiply_exactly(x: float, y: float) -> tuple[float, float]:
    """Give the rounded product of two float64 numbers and what it lost (Dekker's)."""
    product = x * y
    x_high, x_low = split(x)
    y_high, y_low = split(y)
    return product, x_low * y_low - (((product - x_high * y_high) - x_low * y_high) - x_high * y_low)


def split(x: float) -> tuple[float, float]:
    """Give the upper and the lower half of a number's bits (Veltkamp's)."""
    part = 134217729.0 * x  # 2**27 + 1
    high = part - (part - x)
    return high, x - high


def log_sum_exp(maximum: float, total: float, law: Law, scale: float) -> float:
    """Give the natural logarithm of a total kept relative to the point of `maximum`.

    The total's own exponent joins the point's, so that the result does not depend on which point it was.
    """
    if math.isinf(maximum) and not math.isnan(total):
        return maximum
    if math.isinf(maximum):
        return maximum if maximum > 0.0 else total
    mantissa, exponent = math.frexp(total)
    return (
        math.log(2.0 * mantissa)
        + (exponent - 1.0 + shift(maximum, law)) * LN_2
        + origin(maximum, law) * scale
    )


FORMULAS = (
    *(add_exactly, multiply_exactly, split),
    *(origin, shift, distance, log_distance, rescale, merge, log_sum_exp),
)
