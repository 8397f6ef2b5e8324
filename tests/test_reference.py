"""The oracle against 50 digits, and against what must hold whatever the digits are."""

import itertools
import math

import mpmath
import numpy as np
import pytest

from nbfagg import reference
from nbfagg.reference import exponential, oracle, ulp_error

LONG = np.finfo(np.longdouble)
EPS = float(LONG.eps)
WIDE = LONG.nmant > np.finfo(np.float64).nmant
MP = mpmath.MPContext()
MP.dps = 50

needs_wide = pytest.mark.skipif(not WIDE, reason="longdouble is float64 here")

# Roundings in eps / 2, for K <= 64 and L <= 8. An exponential: 3 (an ulp of expl, one more for its
# correction). A sum of K: 10 (eight lanes of eight, then three levels). A token's mass: 13; times an
# exponential, the weight: 17. The row's sum: 8 more, 25. The ratio: 17 + 25 + 1 = 43. A logarithm, at most
# log(K * L) < 7, has its argument's error as an absolute one, and 2 * 7 of its own. What it is added to is
# at most 7 larger than the result: a difference and a product are 14 absolute and 2 relative, a product
# alone half of that, and the addition is 1 relative. So log alpha: (13 + 25 + 1) + 14 + 14 = 67, over at
# least log 2, and 3; the lse: 25 + 14 + 7, and 2.
ALPHA_TOLERANCE = 22 * EPS
LOG_TOLERANCE = 50 * EPS
LSE_TOLERANCE = 24 * EPS


def exact(value):
    """A number as it is, in 50 digits; also far outside of float64's range."""
    assert np.isfinite(value)
    rest, exponent = np.frexp(np.longdouble(value))
    digits = MP.mpf(0)
    while rest:  # float64 takes the leading 53 bits each time
        digits += MP.mpf(float(rest))
        rest -= np.longdouble(float(rest))
    return MP.ldexp(digits, int(exponent))


def in_digits(a, scale):
    """alpha, log alpha and lse of a (B, L, K), by the definition and with no shift, for mpf has no range."""
    alpha, log_alpha, lse = [], [], []
    for row in a:
        weights = [
            MP.fsum(MP.exp(exact(value) * exact(scale)) for value in token if value != -np.inf)
            for token in row
        ]
        total = MP.fsum(weights)
        lse.append(MP.log(total))
        for i, weight in enumerate(weights):
            rest = MP.fsum(weights[:i] + weights[i + 1 :])
            alpha.append(weight / total)
            # 50 digits do not hold 1 - 1e-60, but log1p needs no 1.
            log_alpha.append(-MP.log1p(rest / weight) if weight > rest else MP.log(weight / total))
    return alpha, log_alpha, lse


def normal(rng):
    return rng.normal(size=(3, 8, 64)), 1.0


def normal_30(rng):
    return 30 * rng.normal(size=(3, 8, 64)), 1.0


def uniform_110(rng):
    return rng.uniform(-110, 110, (3, 8, 64)), 1.0


def offset_1e4(rng):
    return 1e4 + rng.normal(size=(3, 8, 64)), 1.0


def offset_scaled(rng):
    return -1e8 + rng.normal(size=(3, 8, 64)), 1 / math.sqrt(7)


def float32_scaled(rng):
    return rng.normal(size=(3, 8, 64)).astype(np.float32), 1 / math.sqrt(7)


def far_apart(rng):
    # Here exponents need more than longdouble has: alpha is 1e-1641, and 64 bits of its logarithm hold 52
    # of it.
    a = rng.normal(size=(3, 8, 64))
    a[0, 0] += 1e4
    a[1:, 0] -= 1e4
    return a, 1 / math.sqrt(7)


def minus_infinities(rng):
    a = rng.normal(size=(3, 8, 64))
    a[rng.random(a.shape) < 0.3] = -np.inf
    return a, 1.0


def near_one_hot(rng):
    a = rng.normal(size=(3, 8, 64)) - 60
    a[:, 3, 5] = 0.1
    return a, 1.0


def underflow(rng):
    return rng.normal(size=(3, 8, 64)) - 900.0 * np.arange(8)[:, None], 1.0


KINDS = [
    normal,
    normal_30,
    uniform_110,
    offset_1e4,
    offset_scaled,
    float32_scaled,
    pytest.param(far_apart, marks=needs_wide),
    minus_infinities,
    near_one_hot,
    pytest.param(underflow, marks=needs_wide),
]


@pytest.mark.parametrize("kind", KINDS)
def test_against_50_digits(kind):
    a, scale = kind(np.random.default_rng(1))
    alpha, lse = oracle(a, scale=scale, return_lse=True)
    log_alpha = oracle(a, scale=scale, log=True)
    want_alpha, want_log, want_lse = in_digits(a, scale)
    assert alpha.dtype == log_alpha.dtype == lse.dtype == np.longdouble
    for got, want in zip(alpha.flat, want_alpha, strict=True):
        assert abs(exact(got) - want) <= ALPHA_TOLERANCE * want
    for got, want in zip(log_alpha.flat, want_log, strict=True):
        assert abs(exact(got) - want) <= LOG_TOLERANCE * abs(want)
    for got, want in zip(lse.flat, want_lse, strict=True):
        assert abs(exact(got) - want) <= LSE_TOLERANCE * max(1, abs(want))


def test_float64_would_not_do():
    # The tolerance above can fail: the stable form in float64 misses it.
    a = np.random.default_rng(2).normal(size=(1, 8, 8, 8))
    off = abs(reference.fagg_stable(a) / oracle(a.reshape(1, 8, 64)) - 1)
    if WIDE:
        assert off.max() > 10 * ALPHA_TOLERANCE
    assert off.max() < 1e-14


def test_log_where_alpha_is_0():
    log_alpha = oracle(np.array([[0.0, -3e7, -1e300]]), log=True)
    np.testing.assert_array_equal(log_alpha, np.array([[0.0, -3e7, -1e300]], np.longdouble))
    assert not np.signbit(log_alpha[0, 0])


def test_log_where_alpha_is_nearly_1():
    # log(1 - x) is -x to within x**2: where alpha itself is 1, its logarithm still has all its digits.
    log_alpha = oracle(np.array([[0.0, -60.0]]), log=True)
    np.testing.assert_allclose(log_alpha[0, 0], -np.exp(np.longdouble(-60)), rtol=4 * EPS)


def test_rows_sum_to_1():
    alpha = oracle(np.random.default_rng(3).normal(0, 30, (50, 8, 64)))
    # Eight terms with a relative error each, seven additions.
    np.testing.assert_allclose(alpha.sum(axis=1), 1, rtol=ALPHA_TOLERANCE + 4 * EPS)


@pytest.mark.parametrize("shift", [-(2.0**40), -110.0, 110.0, 2.0**40])
def test_an_exact_shift_changes_no_bit(shift):
    # Multiples of 2**-9 that stay exact at 2**40: 49 bits of float64's 53.
    a = np.round(np.random.default_rng(4).normal(size=(4, 6, 30)) * 2**9) / 2**9
    a = np.clip(a, -4, 4)
    assert np.array_equal((a + shift) - shift, a)
    for log in (False, True):
        for scale in (1.0, 0.3):
            np.testing.assert_array_equal(
                oracle(a + shift, scale=scale, log=log), oracle(a, scale=scale, log=log)
            )


def test_lse_moves_with_the_shift():
    a = np.zeros((1, 4, 1))
    for shift in (0.0, 1e4, -1e4):
        _, lse = oracle(a + shift, scale=0.5, return_lse=True)
        want = np.longdouble(shift) / 2 + np.log(np.longdouble(4))
        np.testing.assert_allclose(lse, [want], rtol=4 * EPS)


def test_the_scale_is_not_rounded():
    # Float64 products are 0.125 apart here; the difference of the exact ones is 0.1 * 2.
    a = np.array([[1e16, 1e16 + 2]])
    want = 1 / (1 + MP.exp(exact(0.1) * 2))
    assert abs(exact(oracle(a, scale=0.1)[0, 0]) - want) <= ALPHA_TOLERANCE * want


def test_blocks_change_nothing_but_roundings(monkeypatch):
    a = np.random.default_rng(5).normal(size=(3, 5, 40))
    a[1, 2] = -np.inf
    whole = oracle(a)
    for block in (1, 7, 40, 90, 1000):
        monkeypatch.setattr(exponential, "BLOCK", block)
        # Forty sequential additions instead of a sum in pairs.
        np.testing.assert_allclose(oracle(a), whole, rtol=ALPHA_TOLERANCE + 40 * EPS)


def axis_choices(rank):
    axes = range(rank)
    for keep_count, batch_count in itertools.product(range(rank + 1), repeat=2):
        for keep in itertools.permutations(axes, keep_count):
            for batch in itertools.permutations(sorted(set(axes) - set(keep)), batch_count):
                yield batch, keep


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
def test_every_choice_of_axes(rank):
    a = np.random.default_rng(6).normal(size=(3, 2, 4, 5)[:rank])
    e = np.exp(a)
    for batch, keep in axis_choices(rank):
        kept = tuple(sorted(batch + keep))
        over = tuple(axis for axis in range(rank) if axis not in kept)
        not_batch = tuple(axis for axis in range(rank) if axis not in batch)
        total = e.sum(axis=not_batch, keepdims=True)
        want = (e.sum(axis=over, keepdims=True) / total).squeeze(axis=over)
        want_lse = np.log(total).squeeze(axis=not_batch)
        alpha, lse = oracle(a, batch_axis=batch, keep_axis=keep, return_lse=True)
        assert alpha.shape == want.shape
        assert lse.shape == want_lse.shape
        # Sums of up to 120 float64 terms, and their quotient.
        np.testing.assert_allclose(alpha.astype(float), want, rtol=1e-14)
        np.testing.assert_allclose(lse.astype(float), want_lse, rtol=1e-14)


def test_axes_as_integers_and_from_the_end():
    a = np.random.default_rng(7).normal(size=(3, 4, 5, 6))
    np.testing.assert_array_equal(
        oracle(a, batch_axis=-4, keep_axis=-1), oracle(a, batch_axis=(0,), keep_axis=3)
    )
    np.testing.assert_array_equal(oracle(a, batch_axis=2, keep_axis=0).T, oracle(a.transpose(2, 0, 1, 3)))


def test_nothing_included():
    a = np.random.default_rng(8).normal(size=(4, 3, 5))
    a[0] = -np.inf
    where = np.ones(a.shape, bool)
    where[1] = False
    alpha, lse = oracle(a, where=where, lengths=[3, 3, 0, 3], return_lse=True)
    log_alpha = oracle(a, where=where, lengths=[3, 3, 0, 3], log=True)
    np.testing.assert_array_equal(alpha[:3], 0)
    np.testing.assert_array_equal(log_alpha[:3], -np.inf)
    np.testing.assert_array_equal(lse[:3], -np.inf)
    np.testing.assert_array_equal(alpha[3:], oracle(a[3:]))


def test_minus_infinity_weighs_nothing():
    a = np.array([[[0.0, -np.inf], [-np.inf, -np.inf], [0.0, -np.inf]]])
    np.testing.assert_array_equal(oracle(a), [[0.5, 0, 0.5]])
    assert oracle(a, log=True)[0, 1] == -np.inf


@pytest.mark.parametrize(
    ("bad", "want_lse"),
    [([np.nan], np.nan), ([np.inf], np.inf), ([np.inf, np.nan], np.nan), ([np.inf, np.inf], np.inf)],
)
def test_nan_and_infinity_spoil_their_row_alone(bad, want_lse):
    a = np.random.default_rng(9).normal(size=(3, 4, 5))
    clean = oracle(a)
    a[1, 2, : len(bad)] = bad
    for log in (False, True):
        alpha, lse = oracle(a, log=log, return_lse=True)
        assert np.isnan(alpha[1]).all()
        np.testing.assert_equal(lse[1], np.longdouble(want_lse))
        assert np.isfinite(alpha[[0, 2]]).all()
    np.testing.assert_array_equal(oracle(a)[[0, 2]], clean[[0, 2]])


def test_nan_outweighs_infinity_wherever_they_are():
    a = np.zeros((1, 4, 5))
    a[0, 1, 2] = np.inf
    a[0, 3, 0] = np.nan
    assert np.isnan(oracle(a, return_lse=True)[1]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_what_is_excluded_is_as_if_it_were_not_there(bad):
    rng = np.random.default_rng(10)
    a = rng.normal(size=(3, 4, 5))
    lengths = np.array([4, 0, 2])
    where = rng.random((4, 1)) < 0.7
    included = where & (np.arange(4)[:, None] < lengths[:, None, None])
    for log in (False, True):
        want = oracle(np.where(included, a, -np.inf), log=log, return_lse=True)
        spoilt = np.where(included, a, bad)
        for got, one in zip(
            oracle(spoilt, where=where, lengths=lengths, log=log, return_lse=True), want, strict=True
        ):
            np.testing.assert_array_equal(got, one)


def test_lengths_follow_the_axes():
    a = np.random.default_rng(11).normal(size=(4, 6, 3))
    got = oracle(a, batch_axis=2, keep_axis=0, lengths=[1, 4, 2])
    assert np.array_equal(got > 0, np.arange(4)[:, None] < [1, 4, 2])


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2), (2, 3, 0), (0, 0, 0)])
def test_empty_axes(shape):
    for log in (False, True):
        alpha, lse = oracle(np.zeros(shape), log=log, return_lse=True)
        assert alpha.shape == shape[:2]
        assert (alpha == (-np.inf if log else 0)).all()
        np.testing.assert_array_equal(lse, np.full(shape[0], -np.inf))


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f4", ">f8", "i1", ">i4", "u8", "?"])
def test_dtypes_are_taken_exactly(dtype):
    a = (
        np.random.default_rng(12)
        .normal(0, 3, (2, 3, 4))
        .astype("f2" if np.dtype(dtype).kind == "f" else "i1")
    )
    a = abs(a).astype(dtype)
    np.testing.assert_array_equal(oracle(a), oracle(a.astype(np.float64)))


def test_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    a = np.random.default_rng(13).normal(size=(2, 3, 4)).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(oracle(a), oracle(a.astype(np.float64)))


@needs_wide
def test_integers_beyond_float64():
    big = 2**62
    np.testing.assert_array_equal(oracle(np.array([[big, big + 1]])), oracle([[0.0, 1.0]]))
    np.testing.assert_array_equal(oracle(np.array([[2**64 - 2, 2**64 - 1]], np.uint64)), oracle([[0.0, 1.0]]))


def test_inputs_are_not_written():
    a = np.random.default_rng(14).normal(size=(2, 3, 4))
    before = a.copy()
    a.flags.writeable = False
    oracle(a, where=a > 0, lengths=[1, 3], log=True)
    np.testing.assert_array_equal(a, before)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, "scale", {"scale": 0.0}),
        (ValueError, "scale", {"scale": -1.0}),
        (ValueError, "scale", {"scale": math.inf}),
        (ValueError, "scale", {"scale": math.nan}),
        (ValueError, "twice", {"keep_axis": 0}),
        (ValueError, "twice", {"keep_axis": (1, -2)}),
        (IndexError, "range", {"keep_axis": 3}),
        (ValueError, "broadcast", {"where": np.ones((2, 2))}),
        (ValueError, "lengths must have shape", {"lengths": [1]}),
        (ValueError, "lengths needs one", {"keep_axis": (), "lengths": [1, 1]}),
    ],
)
def test_errors(error, message, call):
    with pytest.raises(error, match=message):
        oracle(np.zeros((2, 3, 4)), **call)


@pytest.mark.parametrize("a", [np.zeros((2, 2), complex), np.array([["a"]]), np.array([[None]])])
def test_not_real(a):
    with pytest.raises(TypeError, match="real"):
        oracle(a)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
class TestUlpError:
    def test_neighbours_are_one_ulp_away(self, dtype):
        info = np.finfo(dtype)
        exact = np.array(
            [1.5, -1.5, 1e-3, info.tiny, info.smallest_subnormal, 0, 5 * info.smallest_subnormal], dtype
        )
        for towards in (-1e3, 1e3):
            near = np.nextafter(exact, dtype(towards))
            np.testing.assert_array_equal(ulp_error(near, exact), 1)
        np.testing.assert_array_equal(ulp_error(exact, exact), 0)

    def test_the_ulp_is_the_exact_values(self, dtype):
        # Below a power of two the spacing is half of what it is above: 1 is two ulp from its second
        # neighbour below, seen from there, and one ulp of its own.
        below = np.nextafter(dtype(1), dtype(0))
        assert ulp_error(dtype(1), below) == 1
        assert ulp_error(below, dtype(1)) == 0.5

    @needs_wide
    def test_fractions(self, dtype):
        eps = np.longdouble(np.finfo(dtype).eps)
        assert ulp_error(dtype(1), 1 + eps / 4) == 0.25
        assert ulp_error(dtype(0), np.longdouble(np.finfo(dtype).smallest_subnormal) / 2) == 0.5

    def test_not_finite(self, dtype):
        got = np.array([np.nan, np.inf, -np.inf, np.nan, 1, np.inf, 1, np.inf, np.inf], dtype)
        want = [np.nan, np.inf, -np.inf, 1, np.nan, 1, np.inf, -np.inf, np.nan]
        np.testing.assert_array_equal(ulp_error(got, want), [0, 0, 0, *[np.inf] * 6])

    def test_shape_and_dtype(self, dtype):
        error = ulp_error(np.ones((3, 1), dtype), np.ones(4))
        assert error.shape == (3, 4)
        assert error.dtype == np.float64
        assert ulp_error(dtype(1), 1).shape == ()


def test_ulp_error_of_integers():
    with pytest.raises(TypeError, match="floating"):
        ulp_error([1, 2], [1, 2])


def test_correct_rounding_is_half_an_ulp():
    exact = oracle(np.random.default_rng(15).normal(0, 40, (200, 8, 4)))
    for dtype in (np.float16, np.float32):
        assert ulp_error(exact.astype(dtype), exact).max() <= 0.5


@pytest.mark.parametrize("form", [reference.fagg, reference.fagg_global, reference.fagg_stable])
def test_the_plain_forms_where_nothing_breaks(form):
    a = np.random.default_rng(16).normal(size=(3, 10, 2, 10))
    # Two sums, of 20 and of 200 terms, and exponents below 8 that are rounded once.
    np.testing.assert_allclose(form(a), oracle(a).astype(float), rtol=20 * np.finfo(float).eps)


def test_one_maximum_for_all_is_not_enough_in_float64_either():
    a = np.random.default_rng(17).normal(size=(2, 10, 2, 10))
    a[1] += 1000
    assert np.isnan(reference.fagg_global(a)[0]).all()
    np.testing.assert_allclose(
        reference.fagg_stable(a), oracle(a).astype(float), rtol=20 * np.finfo(float).eps
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30, -np.inf])
@pytest.mark.parametrize("form", [oracle, reference.fagg_stable])
def test_masks_of_the_forms_that_take_them(form, bad):
    rng = np.random.default_rng(18)
    a = rng.normal(size=(3, 4, 2, 5))
    lengths = np.array([4, 1, 0])
    where = rng.random((4, 1, 5)) < 0.7
    where[0, 0, 0] = True
    short = np.arange(4)[:, None, None] < lengths[:, None, None, None]
    for keywords, included in [
        ({"where": where}, np.broadcast_to(where, a.shape)),
        ({"lengths": lengths}, np.broadcast_to(short, a.shape)),
        ({"where": where.tolist(), "lengths": lengths.tolist()}, where & short),
    ]:
        e = np.where(included, np.exp(a), 0)
        total = e.sum(axis=(1, 2, 3))[:, None]
        want = e.sum(axis=(2, 3)) / np.where(total == 0, 1, total)
        got = form(np.where(included, a, bad), **keywords)
        # Two sums, of 10 and of 40 terms, and exponents below 8 that are rounded once.
        np.testing.assert_allclose(got.astype(float), want, rtol=20 * np.finfo(float).eps)
        np.testing.assert_array_equal(got, form(np.where(included, a, -np.inf)))


@pytest.mark.parametrize("bad", [[np.nan], [np.inf], [np.inf, np.nan], [np.inf, np.inf]])
def test_rows_without_an_answer_in_the_stable_form(bad):
    a = np.random.default_rng(19).normal(size=(4, 3, 2, 2))
    a[0] = -np.inf
    a[1, 1].flat[: len(bad)] = bad
    a[2, 1] = -np.inf
    alpha = reference.fagg_stable(a)
    np.testing.assert_array_equal(alpha[0], 0)
    assert np.isnan(alpha[1]).all()
    assert alpha[2, 1] == 0
    np.testing.assert_array_equal(alpha[2:], reference.fagg_stable(a[2:]))
    alone = reference.fagg_stable(a, lengths=[1, 1, 1, 1])[1:]
    np.testing.assert_allclose(alone, [[1, 0, 0]] * 3, rtol=4 * np.finfo(float).eps)


@pytest.mark.parametrize("shape", [(0, 3, 2, 2), (2, 0, 2, 2), (2, 3, 0, 2), (2, 3, 2, 0)])
def test_empty_axes_of_the_stable_form(shape):
    np.testing.assert_array_equal(reference.fagg_stable(np.zeros(shape)), np.zeros(shape[:2]))


def test_errors_of_the_stable_form():
    with pytest.raises(ValueError, match="broadcast"):
        reference.fagg_stable(np.zeros((2, 3, 1, 1)), where=np.ones((2, 2)))
    with pytest.raises(ValueError, match="lengths must have shape"):
        reference.fagg_stable(np.zeros((2, 3, 1, 1)), lengths=[1])


def test_dtypes_of_the_plain_forms():
    for dtype, want in [("f2", "f2"), ("f4", "f4"), ("f8", "f8"), ("i4", "f8"), ("?", "f8")]:
        a = np.ones((1, 2, 1, 1), dtype)
        assert reference.fagg(a).dtype == reference.fagg_global(a).dtype == want
        assert reference.fagg_stable(a).dtype == np.float64
