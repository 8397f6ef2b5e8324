"""float16 and bfloat16: what float32 gives, rounded once."""

import ml_dtypes
import numpy as np
import pytest
from helpers import run_python
from ways import WAYS, Way

import nbfagg
from nbfagg import fields, reference

HALVES = [np.float16, ml_dtypes.bfloat16]
every_half = pytest.mark.parametrize("half", HALVES)
NAN, INF = np.nan, np.inf

SOME = {
    name: WAYS[name]
    for name in (
        *("small", "tiny", "tiny tokens", "blocks", "tokens of one term", "pieces", "sums in the result"),
        *("parts", "parts in the result", "runs", "runs side by side", "columns of tokens", "copies"),
        *("columns of batch rows", "columns apart", "chunks of columns"),
    )
}
SOME |= {"whole vectors": Way((3, 70, 2, 32)), "many rows": Way((3000, 16, 4))}


def bits(array):
    """Give an array of 16 bits each as integers: NaNs can be compared then, and 0 is not -0."""
    assert array.dtype.itemsize == 2
    return np.ascontiguousarray(array).view(np.uint16)


def as_rows(values, way):
    """Give logits as float32, of the same order of terms: rows in one piece, terms in memory's order."""
    order = way.order or tuple(range(values.ndim))
    summed = [axis for axis in order if axis not in (0, way.keep)]
    return np.ascontiguousarray(values.astype(np.float32).transpose(0, way.keep, *summed))


def assert_rounded_once(half, a, single, keep=1, where=None, lengths=None, single_where=None, **keywords):
    """Assert what halves give, `single` being the same logits in float32."""
    for log in (False, True):
        more = {"log": log, "return_lse": True, **keywords}
        alpha, lse = nbfagg.fagg(a, keep_axis=keep, where=where, lengths=lengths, **more)
        want, want_lse = nbfagg.fagg(single, where=single_where, lengths=lengths, **more)
        assert alpha.dtype == half
        assert lse.dtype == np.float32
        with np.errstate(all="ignore"):
            np.testing.assert_array_equal(bits(alpha), bits(want.astype(half)))
        np.testing.assert_array_equal(lse, want_lse)
        del more["return_lse"]
        again = nbfagg.fagg(a, keep_axis=keep, where=where, lengths=lengths, **more)
        np.testing.assert_array_equal(bits(again), bits(alpha))


@every_half
@pytest.mark.parametrize("name", SOME)
def test_the_result_of_float32_rounded_once(name, half):
    way = SOME[name]
    values = way.normal(half)
    assert_rounded_once(half, way.lay(values), as_rows(values, way), way.keep)


@every_half
@pytest.mark.parametrize("scale", [0.125, 1 / 3, 100.0])
def test_scale(scale, half):
    for name in ("tiny", "blocks", "pieces"):
        way = SOME[name]
        values = way.normal(half)
        assert_rounded_once(half, values, as_rows(values, way), scale=scale)


@every_half
def test_close_to_the_exact_value(half):
    # Whatever float32 gives is within 2 ulp, 2**-22 of it; so is the result of one number in that range.
    for seed, shape in enumerate([(20, 7, 3), (3, 300, 20), (2, 3, 9000), (2, 70_000, 1)]):
        for spread in (1, 5, 30):
            a = np.random.default_rng(seed).normal(0, spread, shape).astype(half)
            exact = reference.oracle(a)
            alpha = nbfagg.fagg(a).astype(np.float32)
            low, high = (
                (exact * factor).astype(np.float32).astype(half) for factor in (1 - 2.0**-21, 1 + 2.0**-21)
            )
            assert (low.astype(np.float32) <= alpha).all()
            assert (alpha <= high.astype(np.float32)).all()


# --- reading ---------------------------------------------------------------------


def numbers_of(half):
    """Give what all 65536 patterns stand for, from the definition of the format."""
    fraction, bias = (10, 15) if half == np.float16 else (7, 127)
    pattern = np.arange(65536)
    exponent, rest = (pattern & 0x7FFF) >> fraction, pattern & (1 << fraction) - 1
    value = np.where(
        exponent == 0,
        np.ldexp(rest.astype(np.float64), 1 - bias - fraction),
        np.ldexp(
            (rest + (1 << fraction)).astype(np.float64), np.minimum(exponent, 2 * bias) - bias - fraction
        ),
    )
    value = np.where(exponent == 2 * bias + 1, np.where(rest == 0, INF, NAN), value)
    return np.where(pattern >= 1 << 15, -value, value)


PATTERNS = np.arange(65536, dtype=np.uint16)


def assert_each_is_read(logits, half, want):
    """Assert that the log-sum-exp of each row, which has one number in it, is that number.

    It is right to some 1e-7 of itself or of 1: so scaled that numbers of every size are told from the next.
    """
    for scale in (1.0, 2.0**24) if half == np.float16 else (1.0, 2.0**60, 2.0**140):
        with np.errstate(over="ignore"):
            scaled = (want * scale).astype(np.float32)
        # Beyond float32 it is infinite.
        kept = np.isfinite(scaled) | ~np.isfinite(want)
        for where in (None, True):
            alpha, lse = nbfagg.fagg(logits[kept], return_lse=True, scale=scale, where=where)
            assert alpha.dtype == half
            assert alpha.dtype.isnative
            np.testing.assert_allclose(lse, scaled[kept], rtol=1e-6, atol=1e-6)


@every_half
def test_every_pattern_is_read_as_what_it_stands_for(half):
    want = numbers_of(half)
    assert np.isnan(want).sum() == 2 * ((1 << (10 if half == np.float16 else 7)) - 1)
    a = PATTERNS.view(half)
    apart = np.full((65536, 3), 0x5A5A, np.uint16)
    apart[:, 1] = PATTERNS
    swapped = PATTERNS.byteswap().view(np.dtype(half).newbyteorder("S"))
    moved = np.frombuffer(b"\0" + a.tobytes(), np.uint8)[1:].view(half)
    for logits in (a[:, None], a[:, None, None], apart[:, 1:2].view(half), moved[:, None], swapped[:, None]):
        assert_each_is_read(logits, half, want)
    # And found among others that are less than any: in a vector, and in what remains beyond vectors.
    for width, place in ((16, 3), (37, 36)):
        assert_each_is_read(beside(a, width, place), half, want)
    assert_each_is_read(beside(swapped, 37, 36), half, want)


def beside(a, width, place):
    """Give each logit as a row of one token, the others being -inf."""
    row = np.full((len(a), 1, width), -INF, a.dtype)
    row[:, 0, place] = a
    return row


@every_half
def test_every_pattern_is_a_weight_of_its_own(half):
    # All finite ones as the tokens of one row, beside float32, scaled so that all their weights count.
    want = numbers_of(half)
    finite = np.isfinite(want)
    a = PATTERNS[finite].view(half)
    scale = 2.0**-10 if half == np.float16 else 2.0**-100 * 1e-28
    scale = max(scale, 2.0**-100)
    assert_rounded_once(half, a[None], want[finite].astype(np.float32)[None], scale=scale)
    log = nbfagg.fagg(a[None], scale=scale, log=True)
    assert len(np.unique(bits(log))) > 300


@every_half
def test_other_byte_order(half):
    for name in ("tiny", "blocks", "pieces"):
        values = WAYS[name].normal(half)
        swapped = bits(values).byteswap().view(np.dtype(half).newbyteorder("S"))
        assert_rounded_once(half, swapped, as_rows(values, WAYS[name]))


def test_the_two_are_not_taken_for_each_other():
    # The same bits in the same shape, in turns: plans are kept by dtype.
    pattern = np.array([[0x3F80, 0x4000, 0x3C00, 0x4200]], np.uint16)
    expected = {half: numbers_of(half)[pattern] for half in HALVES}
    for half in HALVES * 2:
        log, lse = nbfagg.fagg(pattern.view(half), log=True, return_lse=True)
        want = reference.oracle(expected[half], log=True).astype(np.float32)
        assert log.dtype == half
        np.testing.assert_allclose(log.astype(np.float32), want, rtol=0.01)
        np.testing.assert_allclose(
            lse, reference.oracle(expected[half], return_lse=True)[1].astype(float), rtol=1e-6
        )
    wrong = np.array([[0x3F80, 0x4000]], np.uint16)
    assert not np.array_equal(*(nbfagg.fagg(wrong.view(half)).astype(np.float32) for half in HALVES))


def test_two_bytes_of_anything_else_are_refused():
    for dtype in ("V2", "S2", ">V2", ml_dtypes.float8_e5m2, ml_dtypes.float8_e4m3fn, ml_dtypes.int4):
        with pytest.raises(
            TypeError, match=r"fagg: a of shape \(2, 3\) has dtype .*; want float16, bfloat16"
        ):
            nbfagg.fagg(np.zeros((2, 3), dtype))


@every_half
def test_subnormal_results(half):
    # Weights from 1 down to below the smallest subnormal of either.
    info = ml_dtypes.finfo(half)
    assert float(info.smallest_subnormal) > 0
    low = np.log(float(info.smallest_subnormal)) - 2
    for shape in ((3, 400, 1), (2, 300, 4), (1, 5, 9000)):
        spread = np.linspace(0, low, int(np.prod(shape[1:]))).reshape(1, *shape[1:])
        a = (np.zeros(shape) + spread).astype(half)
        assert_rounded_once(half, a, a.astype(np.float32))
    alpha = nbfagg.fagg(np.array([[0, low + 1.9, low + 1, low]]).astype(half))
    assert 0 < alpha.astype(float)[0, 1] < float(info.smallest_normal)
    assert alpha.astype(float)[0, 3] == 0


@every_half
def test_logarithms_out_of_range(half):
    # float32 holds the logarithm, float16 does not.
    a = np.array([[6e4, -6e4, -INF]]).astype(half)
    log, lse = nbfagg.fagg(a, log=True, return_lse=True)
    want = nbfagg.fagg(a.astype(np.float32), log=True)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(bits(log), bits(want.astype(half)))
    assert np.isneginf(log[0, 1].astype(np.float32)) == (half == np.float16)
    np.testing.assert_array_equal(lse, a[:, 0].astype(np.float32))


@every_half
@pytest.mark.parametrize("name", ["small", "tiny", "tiny tokens", "blocks", "pieces", "columns of tokens"])
def test_infinities_and_nan(name, half):
    way = SOME[name]
    values = way.normal(half)
    summed = tuple(axis for axis in range(1, values.ndim) if axis != way.keep)
    usual = nbfagg.fagg(way.lay(values), keep_axis=way.keep)
    last = (0,) + (-1,) * (values.ndim - 1)
    first = (0,) * values.ndim
    for places, want, want_lse in (
        ({last: NAN}, NAN, NAN),
        ({first: INF}, NAN, INF),
        ({0: -INF}, 0, -INF),
    ):
        spoilt = values.copy()
        for place, value in places.items():
            spoilt[place] = value
        alpha, lse = nbfagg.fagg(way.lay(spoilt), keep_axis=way.keep, return_lse=True)
        np.testing.assert_array_equal(alpha[0].astype(np.float32), np.full(alpha.shape[1:], want, np.float32))
        np.testing.assert_array_equal(bits(alpha[1:]), bits(usual[1:]))
        np.testing.assert_equal(lse[0], np.float32(want_lse))
    values[0] = np.where(np.random.default_rng(0).random(values.shape[1:]) < 0.5, values[0], half(-INF))
    alpha = nbfagg.fagg(way.lay(values), keep_axis=way.keep)
    gone = np.isneginf(values.astype(np.float32)).all(axis=summed)
    assert (alpha[gone] == 0).all()
    assert_rounded_once(half, way.lay(values), as_rows(values, way), way.keep)


# --- arguments ---------------------------------------------------------------------


@every_half
@pytest.mark.parametrize("log", [False, True])
def test_out(log, half):
    for shape in ((3, 10, 4), (300, 3, 2), (2, 300, 90), (1, 2, 9000), (2, 66_000, 1)):
        a = np.random.default_rng(0).normal(0, 3, shape).astype(half)
        want, want_lse = nbfagg.fagg(a, log=log, return_lse=True)
        out = np.full(shape[:2], 7, half)
        assert nbfagg.fagg(a, log=log, out=out) is out
        np.testing.assert_array_equal(bits(out), bits(want))
        spaced = np.full((shape[0], 2 * shape[1] + 1), 7, half)
        given, lse = nbfagg.fagg(a, log=log, out=spaced[:, 1::2], return_lse=True)
        assert given.base is spaced
        np.testing.assert_array_equal(bits(given), bits(want))
        assert (spaced[:, ::2] == 7).all()
        np.testing.assert_array_equal(lse, want_lse)
        memory = np.zeros(2 * out.size + 1, np.uint8)
        moved = np.ndarray(shape[:2], half, memory, offset=1)
        nbfagg.fagg(a, log=log, out=moved)
        np.testing.assert_array_equal(bits(moved), bits(want))
        turned = np.zeros((shape[1], shape[0]), half).T
        nbfagg.fagg(a, log=log, out=turned)
        np.testing.assert_array_equal(bits(turned), bits(want))


@every_half
def test_out_of_another_dtype(half):
    a = np.zeros((2, 3, 4), half)
    others = {np.float32, np.float64, np.uint16, *HALVES} - {half}
    for dtype in others:
        out = np.full((2, 3), 7, dtype)
        with pytest.raises(
            TypeError, match=rf"out has dtype .*; want shape \(2, 3\) and dtype {np.dtype(half)}"
        ):
            nbfagg.fagg(a, out=out)
        assert (out == 7).all()


@every_half
@pytest.mark.parametrize("name", ["small", "tiny", "blocks", "pieces", "parts", "runs", "columns of tokens"])
def test_masks(name, half):
    way = SOME[name]
    values = way.normal(half)
    random = np.random.default_rng(4)
    rows, tokens = way.shape[0], way.shape[way.keep]
    lengths = random.integers(1, tokens + 1, size=rows)
    whole = random.random(way.shape) < 0.7
    by_token = random.random([n if axis in (0, way.keep) else 1 for axis, n in enumerate(way.shape)]) < 0.7
    for where in (None, whole, by_token):
        mask = np.broadcast_to(True if where is None else where, way.shape)
        a = way.lay(np.where(mask, values, half(NAN)))
        single = as_rows(np.where(mask, values, half(-INF)), way)
        for limit in (None, lengths):
            if where is not None or limit is not None:
                # All is included of the float32 ones: what is not has become -inf there.
                assert_rounded_once(half, a, single, way.keep, where, limit, True)


@every_half
def test_one_row_in_company_or_on_any_number_of_threads(half):
    for name in ("tiny", "many rows", "blocks", "parts", "parts in the result", "columns of batch rows"):
        way = SOME[name]
        a = way.lay(way.normal(half))
        want = nbfagg.fagg(a, keep_axis=way.keep, workers=1)
        for workers in (2, None):
            np.testing.assert_array_equal(
                bits(nbfagg.fagg(a, keep_axis=way.keep, workers=workers)), bits(want)
            )
        for rows in (slice(0, 1), slice(1, 4), slice(None, None, -2)):
            np.testing.assert_array_equal(bits(nbfagg.fagg(a[rows], keep_axis=way.keep)), bits(want[rows]))


@every_half
def test_empty_axes(half):
    for shape in ((0, 3, 2), (2, 0, 2), (2, 3, 0), (4, 0)):
        a = np.zeros(shape, half)
        for log in (False, True):
            alpha, lse = nbfagg.fagg(a, log=log, return_lse=True)
            assert alpha.dtype == half
            assert lse.dtype == np.float32
            np.testing.assert_array_equal(bits(alpha), bits(np.full(shape[:2], -INF if log else 0, half)))
            np.testing.assert_array_equal(lse, np.full(shape[0], -INF))


@every_half
def test_nan_outweighs_infinity(half):
    for shape in ((2, 5, 3), (2, 300, 20), (2, 2, 9000)):
        a = np.zeros(shape, half)
        a[:, 0, 0] = INF
        a[1, -1, -1] = NAN
        alpha, lse = nbfagg.fagg(a, return_lse=True)
        assert np.isnan(alpha.astype(np.float32)).all()
        np.testing.assert_array_equal(lse, [INF, NAN])
        # What is left out does not count there either.
        alpha, lse = nbfagg.fagg(a, return_lse=True, lengths=[shape[1], shape[1] - 1])
        np.testing.assert_array_equal(lse, [INF, INF])


@pytest.mark.parametrize(
    ("tokens", "half"),
    [
        (5, np.float16),
        (5, ml_dtypes.bfloat16),
        (500, np.float16),
        (500, ml_dtypes.bfloat16),
    ],
)
def test_a_weight_that_is_too_small_is_no_error(tokens, half):
    a = np.full((1, tokens), -95 if half == ml_dtypes.bfloat16 else -15).astype(half)
    a[0, 0] = 0
    with np.errstate(all="raise"):
        assert nbfagg.fagg(a)[0, 0] > 0.9


def test_bfloat16_is_not_needed():
    code = """
import sys
import numpy as np
import nbfagg
alpha = nbfagg.fagg(np.zeros((2, 4, 3), np.float16))
assert alpha.dtype == np.float16 and (alpha == 0.25).all()
assert "ml_dtypes" not in sys.modules
print("done")
"""
    assert run_python(code) == "done\n"


def test_the_ways_are_several():
    assert SOME["sums in the result"].shape[1] > fields.SUMS_TOKENS
    assert np.prod(SOME["pieces"].shape[2:]) > fields.TILE // 4
