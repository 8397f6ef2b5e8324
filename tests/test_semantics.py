"""-inf, NaN, +inf and empty axes: the table of what each row gives, on every way through the kernels."""

import functools
import itertools

import numpy as np
import pytest
from helpers import DTYPES, check, check_all
from ways import WAYS

import nbfagg

every_way = pytest.mark.parametrize("name", WAYS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
NAN, INF = np.nan, np.inf


def everything(a, keep):
    """Give alpha, log alpha and lse."""
    alpha = nbfagg.fagg(a, keep_axis=keep)
    log, lse = nbfagg.fagg(a, keep_axis=keep, log=True, return_lse=True)
    again, lse_again = nbfagg.fagg(a, keep_axis=keep, return_lse=True)
    np.testing.assert_array_equal(again, alpha)
    np.testing.assert_array_equal(lse_again, lse)
    return alpha, log, lse


def places(shape):
    """Some places of a batch row: its corners, and some within."""
    row = shape[1:]
    within = np.random.default_rng(len(row)).integers(row, size=(2, len(row)))
    return [(0,) * len(row), tuple(n - 1 for n in row), *(tuple(place) for place in within.tolist())]


@functools.cache
def usual(way, dtype):
    return everything(way.lay(way.normal(dtype)), way.keep)


def assert_row(way, values, row, wanted):
    """Assert what one batch row gives, and that its neighbours give what they did."""
    given = everything(way.lay(values), way.keep)
    others = np.arange(len(values)) != row
    for result, value, without in zip(given, wanted, usual(way, values.dtype), strict=True):
        np.testing.assert_array_equal(result[row], np.full(result.shape[1:], value))
        np.testing.assert_array_equal(result[others], without[others])


@every_dtype
@every_way
def test_nothing_included(name, dtype):
    way = WAYS[name]
    for row in (0, way.shape[0] - 1):
        values = way.normal(dtype)
        values[row] = -INF
        assert_row(way, values, row, (0, -INF, -INF))


@every_dtype
@every_way
def test_nothing_included_anywhere(name, dtype):
    way = WAYS[name]
    a = way.lay(np.full(way.shape, -INF, dtype))
    for result, value in zip(everything(a, way.keep), (0, -INF, -INF), strict=True):
        np.testing.assert_array_equal(result, np.full(result.shape, value))


@every_dtype
@every_way
def test_minus_infinity_at_some_places(name, dtype):
    way = WAYS[name]
    values = way.normal(dtype)
    random = np.random.default_rng(1)
    values[random.random(values.shape) < 0.3] = -INF
    # Whole tokens, among them the first and the last.
    tokens = np.moveaxis(values, way.keep, 1)
    gone = random.random(tokens.shape[1]) < 0.4
    gone[[0, -1]] = True
    gone[tokens.shape[1] // 2] = False
    tokens[:, gone] = -INF
    a = way.lay(values)
    alpha = check_all(a, keep_axis=way.keep)
    log = nbfagg.fagg(a, keep_axis=way.keep, log=True)
    summed = tuple(axis for axis in range(1, a.ndim) if axis != way.keep)
    nothing = np.isneginf(a).all(axis=summed)
    assert nothing[:, gone].all()
    assert not nothing.all()
    np.testing.assert_array_equal(alpha == 0, nothing)
    np.testing.assert_array_equal(np.isneginf(log), nothing)


@every_dtype
@every_way
def test_one_logit_left(name, dtype):
    way = WAYS[name]
    for place in places(way.shape):
        values = np.full(way.shape, -INF, dtype)
        values[(0, *place)] = -1000
        token = place[way.keep - 1]
        alpha, log, lse = everything(way.lay(values), way.keep)
        hot = np.arange(way.shape[way.keep]) == token
        np.testing.assert_array_equal(alpha[0], hot)
        np.testing.assert_array_equal(np.isneginf(log[0]), ~hot)
        # Of a sum that is rounded: once where it waits in the result.
        assert abs(log[0, token]) <= np.finfo(dtype).eps / 2
        # A logarithm of two, and the power of two that was split off.
        np.testing.assert_allclose(lse[0], -1000, rtol=2 * np.finfo(dtype).eps)
        np.testing.assert_array_equal(lse[1:], -INF)


@every_dtype
@every_way
@pytest.mark.parametrize(("poison", "lse"), [(NAN, NAN), (INF, INF)])
def test_nan_and_infinity_spoil_their_row_alone(name, dtype, poison, lse):
    way = WAYS[name]
    for row, place in zip(itertools.cycle((0, way.shape[0] - 1)), places(way.shape), strict=False):
        values = way.normal(dtype)
        values[(row, *place)] = poison
        assert_row(way, values, row, (NAN, NAN, lse))


@every_dtype
@every_way
@pytest.mark.parametrize(("poison", "lse"), [(NAN, NAN), (INF, INF)])
def test_nan_and_infinity_among_minus_infinities(name, dtype, poison, lse):
    way = WAYS[name]
    for place in places(way.shape)[1:3]:
        values = way.normal(dtype)
        values[0] = -INF
        values[(0, *place)] = poison
        assert_row(way, values, 0, (NAN, NAN, lse))


@every_dtype
@every_way
def test_nothing_but_infinity(name, dtype):
    way = WAYS[name]
    for poison in (NAN, INF):
        values = way.normal(dtype)
        values[0] = poison
        assert_row(way, values, 0, (NAN, NAN, poison))


@every_dtype
@every_way
def test_nan_outweighs_infinity(name, dtype):
    way = WAYS[name]
    first, last, one, other = places(way.shape)
    for nan, inf in ((first, last), (last, first), (one, other)):
        values = way.normal(dtype)
        values[(0, *inf)] = INF
        values[(0, *nan)] = NAN
        assert_row(way, values, 0, (NAN, NAN, NAN))
        if way.shape[0] > 1:
            # In two rows each keeps its own.
            values[(1, *inf)] = INF
            _, _, lse = everything(way.lay(values), way.keep)
            np.testing.assert_array_equal(lse[:2], [NAN, INF])


@every_dtype
def test_nan_and_infinity_at_every_place(dtype):
    # Whichever lane, and whichever loop takes it.
    for shape in ((2, 3, 1), (2, 3, 5), (2, 2, 16), (2, 2, 35), (1, 1, 70), (2, 70, 1)):
        for place in itertools.product(*map(range, shape)):
            for poison in (NAN, INF):
                values = np.zeros(shape, dtype)
                values[place] = poison
                spoilt = np.arange(shape[0]) == place[0]
                for a, keep in ((values, 1), (values, 2), (values.transpose(0, 2, 1), 1)):
                    alpha, lse = nbfagg.fagg(a, keep_axis=keep, return_lse=True)
                    assert np.isnan(alpha[spoilt]).all()
                    assert np.isfinite(alpha[~spoilt]).all()
                    np.testing.assert_equal(lse[spoilt], np.full(1, poison, dtype))
                    assert np.isfinite(lse[~spoilt]).all()


@every_dtype
def test_the_sign_and_payload_of_a_nan_do_not_matter(dtype):
    bits = np.array([0xFFC00001, 0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF], np.uint32)
    if dtype == np.float64:
        bits = np.array([0xFFF8 << 48 | 1, 0x7FF0 << 48 | 1, (1 << 63) - 1, (1 << 64) - 1], np.uint64)
    for nan in bits.view(dtype):
        for shape in ((2, 3, 4), (2, 2, 50), (1, 1, 9000)):
            a = np.zeros(shape, dtype)
            a.reshape(-1)[-1:].view(bits.dtype)[:] = np.array([nan]).view(bits.dtype)
            for keep in (1, 2):
                alpha, log, lse = everything(a, keep)
                for result in (alpha[-1], log[-1], lse[-1:]):
                    assert np.isnan(result).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, bool])
@pytest.mark.parametrize(
    "shape", [(0, 3, 2), (2, 0, 2), (2, 3, 0), (0, 0, 2), (0, 3, 0), (2, 0, 0), (0, 0, 0), (4, 0), (0, 4)]
)
def test_empty_axes(shape, dtype):
    a = np.zeros(shape, dtype)
    for log in (False, True):
        for layout in (a, np.asfortranarray(a)):
            check(layout, log=log, return_lse=True, workers=2)
            check(layout, log=log, keep_axis=-1, return_lse=True)
        out = np.full(shape[:2], 5, nbfagg.fagg(a).dtype)
        assert nbfagg.fagg(a, log=log, out=out) is out
        np.testing.assert_array_equal(out, np.full(shape[:2], -INF if log else 0))


def test_empty_without_batch_or_kept_axes():
    for keep in (0, ()):
        check(np.zeros(0), batch_axis=(), keep_axis=keep, return_lse=True)
    assert nbfagg.fagg(np.zeros((0, 3)), batch_axis=(), keep_axis=()) == 0
    alpha = nbfagg.fagg(np.zeros((2, 0, 3)), keep_axis=2)
    np.testing.assert_array_equal(alpha, np.zeros((2, 3)))


@every_dtype
@pytest.mark.parametrize("depth", [100, 650, 700, 709])
def test_an_empty_piece_adds_nothing(depth, dtype):
    # Its sum of next to nothing must not be moved up to where a row far below 0 has its point.
    a = np.full((1, 2, 9000), -INF, dtype)
    a[0, 0, 0] = -depth
    alpha, lse = nbfagg.fagg(a, return_lse=True)
    np.testing.assert_array_equal(alpha, [[1, 0]])
    np.testing.assert_allclose(lse, -depth, rtol=2 * np.finfo(dtype).eps)
