"""Ragged rows: the packed oracle against the one that takes a row at a time."""

import itertools

import numpy as np
import pytest
from test_reference import ALPHA_TOLERANCE, EPS, LOG_TOLERANCE, LSE_TOLERANCE

from nbfagg.reference import fagg_packed, oracle

OFFSETS = [0, 3, 3, 4, 9, 9, 12, 12]


def row_by_row(a, offsets, **keywords):
    alpha, lse = [], []
    for first, end in itertools.pairwise(offsets):
        row, row_lse = oracle(a[None, first:end], return_lse=True, **keywords)
        alpha += list(row[0])
        lse += list(row_lse)
    return np.array(alpha, np.longdouble), np.array(lse, np.longdouble)


@pytest.mark.parametrize("shape", [(12,), (12, 5), (12, 3, 4), (12, 2, 3, 2)])
@pytest.mark.parametrize("log", [False, True])
def test_rows_are_those_of_the_oracle(shape, log):
    a = np.random.default_rng(1).normal(0, 30, shape)
    alpha, lse = fagg_packed(a, OFFSETS, scale=0.3, log=log, return_lse=True)
    assert alpha.dtype == lse.dtype == np.longdouble
    want, want_lse = row_by_row(a, OFFSETS, scale=0.3, log=log)
    # Rows of a length are summed together, so the order of a sum may be another one.
    np.testing.assert_allclose(alpha, want, rtol=LOG_TOLERANCE if log else ALPHA_TOLERANCE)
    np.testing.assert_allclose(lse, want_lse, rtol=0, atol=LSE_TOLERANCE * abs(a).max())
    np.testing.assert_array_equal(fagg_packed(a, OFFSETS, scale=0.3, log=log), alpha)


def test_rows_are_those_of_a_padded_array():
    rng = np.random.default_rng(2)
    sizes = np.diff(OFFSETS)
    a = rng.normal(size=(12, 2, 3))
    padded = np.full((len(sizes), sizes.max(), 2, 3), np.nan)
    there = np.arange(sizes.max()) < sizes[:, None]
    padded[there] = a
    alpha, lse = fagg_packed(a, OFFSETS, return_lse=True)
    want, want_lse = oracle(padded, lengths=sizes, return_lse=True)
    np.testing.assert_allclose(alpha, want[there], rtol=ALPHA_TOLERANCE)
    np.testing.assert_allclose(lse, want_lse, rtol=0, atol=LSE_TOLERANCE * 4)


def test_every_row_by_itself():
    a = np.random.default_rng(3).normal(size=(12, 2, 2))
    clean, clean_lse = fagg_packed(a, OFFSETS, return_lse=True)
    for b, (value, want_lse) in enumerate([(np.nan, np.nan), (np.inf, np.inf), (1e30, 1e30)]):
        first, end = [(0, 3), (3, 4), (4, 9)][b]
        spoilt = a.copy()
        spoilt[end - 1, 1, 0] = value
        alpha, lse = fagg_packed(spoilt, OFFSETS, return_lse=True)
        others = np.r_[0:first, end:12]
        np.testing.assert_array_equal(alpha[others], clean[others])
        if value == 1e30:
            np.testing.assert_array_equal(alpha[first:end], [0] * (end - first - 1) + [1])
        else:
            assert np.isnan(alpha[first:end]).all()
        row = [0, 2, 3][b]
        np.testing.assert_equal(lse[row], np.longdouble(want_lse))
        np.testing.assert_array_equal(np.delete(lse, row), np.delete(clean_lse, row))


def test_rows_with_nothing_in_them():
    a = np.zeros((12, 2))
    a[:3] = -np.inf
    a[5] = -np.inf
    alpha, lse = fagg_packed(a, OFFSETS, return_lse=True)
    np.testing.assert_array_equal(alpha[:4], [0, 0, 0, 1])
    np.testing.assert_array_equal(alpha[4:9], [0.25, 0, 0.25, 0.25, 0.25])
    np.testing.assert_array_equal(np.isneginf(lse), [True, True, False, False, True, False, True])
    log_alpha = fagg_packed(a, OFFSETS, log=True)
    np.testing.assert_array_equal(np.isneginf(log_alpha), alpha == 0)


@pytest.mark.parametrize(
    ("shape", "offsets"), [((0,), [0]), ((0, 2), [0, 0, 0]), ((3, 0), [0, 3]), ((0, 0), [0, 0])]
)
def test_empty_axes(shape, offsets):
    for log in (False, True):
        alpha, lse = fagg_packed(np.zeros(shape), offsets, log=log, return_lse=True)
        np.testing.assert_array_equal(alpha, np.full(shape[0], -np.inf if log else 0))
        np.testing.assert_array_equal(lse, np.full(len(offsets) - 1, -np.inf))


@pytest.mark.parametrize("dtype", ["i4", ">i8", "u8", "u1"])
def test_dtypes_of_offsets(dtype):
    a = np.random.default_rng(4).normal(size=(12, 2))
    np.testing.assert_array_equal(fagg_packed(a, np.array(OFFSETS, dtype)), fagg_packed(a, OFFSETS))


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "i4", "?", "bfloat16"])
def test_dtypes_are_taken_exactly(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    a = np.random.default_rng(5).normal(0, 3, (12, 4)).astype(dtype)
    np.testing.assert_array_equal(fagg_packed(a, OFFSETS), fagg_packed(a.astype(np.float64), OFFSETS))


def test_each_row_sums_to_1():
    a = np.random.default_rng(6).normal(0, 30, (1000, 6))
    offsets = np.r_[0, np.sort(np.random.default_rng(7).choice(np.arange(1, 1000), 99, replace=False)), 1000]
    sums = np.add.reduceat(fagg_packed(a, offsets), offsets[:-1])
    # The tolerance is for eight tokens; a row's tokens share its error, of a few more levels.
    np.testing.assert_allclose(sums, 1, rtol=ALPHA_TOLERANCE + 100 * EPS)


@pytest.mark.parametrize(
    ("error", "message", "a", "offsets"),
    [
        (ValueError, "from 0 to 4", np.zeros(4), [0, 3]),
        (ValueError, "from 0 to 4", np.zeros(4), [1, 4]),
        (ValueError, "from 0 to 4", np.zeros(4), [0, 5]),
        (ValueError, "never fall", np.zeros(4), [0, 3, 2, 4]),
        (ValueError, "never fall", np.zeros(4), [0, -1, 4]),
        (ValueError, "from 0 to 0", np.zeros(0), []),
        (ValueError, "shape", np.zeros(4), [[0, 4]]),
        (ValueError, "shape", np.zeros(4), 4),
        (ValueError, "scalar", 0.0, [0]),
        (TypeError, "integer", np.zeros(4), [0.0, 4.0]),
        (TypeError, "a must be", np.zeros(4, complex), [0, 4]),
    ],
)
def test_errors(error, message, a, offsets):
    with pytest.raises(error, match=message):
        fagg_packed(a, offsets)


def test_scale_is_checked():
    with pytest.raises(ValueError, match="scale"):
        fagg_packed(np.zeros(4), [0, 4], scale=0)
