"""The vector exponential by itself: how far off it is, and what it makes of -inf and NaN."""

import math

import mpmath
import numba
import numpy as np
import pytest
from helpers import DTYPES

from nbfagg.cpu import exp
from nbfagg.cpu.tiles import lanes, point_of
from nbfagg.cpu.vector import BYTES, fused, load, mul, store
from nbfagg.plan import law_of

MP = mpmath.MPContext()
MP.dps = 40
LN_2 = math.log(2)
SCALES = [1.0, 1 / math.sqrt(7), 1000.0]
# What s and s*q together are off by at most, as the docstring has it, of either type. Without FMA, products
# are rounded too: f * P(f), up to 0.21, by 2**-3 units of 0.7; the last in P, up to 0.15, by 2**-4, times f.
BOUND = 0.8 if fused() else 0.8 + (2**-3 + 2**-4 / 2) / 0.7
# What the polynomial alone is off by, as the docstring has it too.
POLYNOMIAL = {np.float32: 0.05, np.float64: 0.04}
UNIT = {np.float32: 2.0**-24, np.float64: 2.0**-53}
LIFT = {np.float32: exp.LIFT_F32, np.float64: exp.LIFT_F64}
FLOOR = {np.float32: exp.FLOOR_F32, np.float64: exp.FLOOR_F64}


@numba.njit(error_model="numpy")
def _parts(like, source, count, maximum, law, s, sq):
    point = point_of(like, maximum, law)
    for i in range(0, count // lanes(like) * BYTES, BYTES):
        power, rest = exp.exp_parts(load(like, source + i), *point)
        store(s + i, power)
        store(sq + i, mul(power, rest))


def parts(x, maximum, scale=1.0):
    """Give s and s*q of exp(scale * x), relative to the reference point of `maximum`."""
    dtype = x.dtype.type
    padded = np.concatenate([x, np.zeros(-len(x) % 16, dtype)])
    s, sq = np.empty_like(padded), np.empty_like(padded)
    law = law_of(scale, x.dtype)
    _parts(dtype(0), padded.ctypes.data, len(padded), maximum, law, s.ctypes.data, sq.ctypes.data)
    return s[: len(x)], sq[: len(x)]


def units_off(x, maximum, scale=1.0):
    """Give the errors, in units of half an ulp of 1, by 40 digits."""
    s, sq = parts(x, maximum, scale)
    # What the parts are relative to: 2**-shift, and LIFT more.
    shift = 2 * math.ceil(maximum * float(MP.mpf(scale) / MP.ln(2)) / 2)
    down = MP.mpf(2) ** (shift - int(LIFT[x.dtype.type]))
    factor = MP.mpf(scale)
    ratio = [
        (MP.mpf(float(power)) + MP.mpf(float(rest))) * down / MP.exp(factor * MP.mpf(float(value))) - 1
        for value, power, rest in zip(x, s, sq, strict=True)
    ]
    return np.array([float(r) for r in ratio]) / UNIT[x.dtype.type]


def polynomial_off(dtype, limit):
    """Give what the polynomial alone is off by at |f| <= limit, its arithmetic exact."""
    coefficients = [MP.mpf(float(c)) for c in (exp.P_F32 if dtype == np.float32 else exp.P_F64)]
    worst = 0
    for i in range(-1000, 1001):
        f = MP.mpf(limit) * i / 1000
        p = sum(c * f**power for power, c in enumerate(coefficients))
        worst = max(worst, abs((1 + f + f * p) / MP.power(2, f) - 1))
    return float(worst) / UNIT[dtype]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_polynomial(dtype):
    assert polynomial_off(dtype, 0.5) <= POLYNOMIAL[dtype]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("sign", [1, -1])
def test_every_exponent_of_float32(sign, scale):
    # Each power of two down to the smallest subnormal: the ends of its binade, and numbers within. As far as
    # one row goes, from 87 down to 0 or from 0 down to -87.
    random = np.random.default_rng(0)
    found = []
    for exponent in range(-149, math.ceil(math.log2(87 / scale))):
        start = np.ldexp(1.0, exponent).astype(np.float32)
        within = np.ldexp(1 + random.random(400), exponent).astype(np.float32)
        found += [within, np.array([start, np.nextafter(start, np.float32(np.inf))])]
    x = np.concatenate(found)
    x = sign * x[x * scale < 87]
    maximum = max(0, sign * 87) / scale
    s, sq = parts(x, maximum, scale)
    # The rounding of x * scale in longdouble is a thousandth of a unit.
    exact = np.exp(x.astype(np.longdouble) * np.longdouble(scale))
    shift = 2 * math.ceil(maximum * scale / LN_2 / 2)
    given = np.ldexp(s.astype(np.longdouble) + sq.astype(np.longdouble), shift - int(LIFT[np.float32]))
    assert (abs(given / exact - 1) / UNIT[np.float32]).max() <= BOUND


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", SCALES)
def test_around_the_turning_points(scale, dtype):
    # Between two powers of two, at odd multiples of ln 2 / 2, n goes from one integer to the next.
    depth = 170 if dtype == np.float32 else 1100
    steps = np.unique(np.linspace(-2 * depth, 0, 200).astype(int)) * (LN_2 / 2 / scale)
    middle = steps.astype(dtype)
    x = np.concatenate([middle, np.nextafter(middle, dtype(1)), np.nextafter(middle, dtype(-1e9))])
    assert abs(units_off(np.minimum(x, 0), 0.0, scale)).max() <= BOUND


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("top", [0.01, 1, 88, 110, 1e3, 1e4, 1e5, 1.8e5])
def test_rows_far_from_0(top, scale, dtype):
    # Each row goes down from its maximum by as much as can count.
    random = np.random.default_rng(1)
    depth = 100 if dtype == np.float32 else 700
    # f is what is left of the product as it was rounded, and what it lost: more than 1/2, by half an ulp of
    # the product. (That is 1/64 at 1.8e5 in float32, 2**-36 in float64.)
    beyond = top / LN_2 * float(np.finfo(dtype).eps) / 2
    bound = BOUND + (polynomial_off(dtype, 0.5 + beyond) if beyond > 2**-10 else 0)
    for maximum in (top / scale, -top / scale):
        x = (maximum - random.uniform(0, depth, 160) / scale).astype(dtype)
        assert abs(units_off(x, float(x.max()), scale)).max() <= bound


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_bounds_are_near(dtype):
    # A bound that nothing comes near would not be worth much.
    x = np.random.default_rng(2).uniform(-60, 0, 4000).astype(dtype)
    off = abs(units_off(x, 0.0))
    assert 0.4 < off.max() <= BOUND
    assert off.mean() < 0.25


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", SCALES)
def test_powers_of_two_in_the_two_parts(scale, dtype):
    # s is a power of two and |q| less than sqrt(2) - 1 (and what f may be above 1/2), so s*q is exact.
    x = np.random.default_rng(3).uniform(-100 / scale, 0, 1000).astype(dtype)
    s, sq = parts(x, 0.0, scale)
    assert (np.frexp(s)[0] == 0.5).all()
    assert (abs(sq / s) < 0.4143).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_too_small_counts_as_the_floor(dtype):
    lowest = 2.0 ** FLOOR[dtype]
    for maximum in (0.0, 1e4, -1e4):
        x = np.array([-np.inf, np.finfo(dtype).min, maximum - 5000], dtype)
        s, sq = parts(x, maximum)
        np.testing.assert_array_equal(s, lowest)
        # At the floor itself q is what rounding leaves of 0, at logits of 1e4 in type.
        assert (abs(sq) <= lowest * 1e4 * np.finfo(dtype).eps).all()
    # Far enough down: 1e8 of them are less than half of the smallest subnormal number.
    info = np.finfo(dtype)
    assert math.log2(1e8) + FLOOR[dtype] - LIFT[dtype] < info.minexp - info.nmant - 1


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_stays(dtype):
    x = np.zeros(64, dtype)
    x[::3] = np.nan
    x[1] = -np.nan
    s, sq = parts(x, 0.0)
    np.testing.assert_array_equal(np.isnan(s + sq), np.isnan(x))
    np.testing.assert_array_equal((s + sq)[~np.isnan(x)], dtype(2.0 ** LIFT[dtype]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_summed_is_subnormal(dtype):
    # Products with the smallest power of two are normal numbers: subnormal ones would be slow.
    assert 2.0 ** FLOOR[dtype] * float(np.finfo(dtype).eps) > float(np.finfo(dtype).tiny)
    # And a sum of 2**27 of the largest ones is no infinity.
    assert LIFT[dtype] + 27 < np.finfo(dtype).maxexp
