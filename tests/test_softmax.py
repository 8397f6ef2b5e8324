"""fagg as softmax, log-softmax and log-sum-exp: what suites of such functions look at, asked of this one.

With every axis that is no batch axis kept, fagg is softmax over these axes; with log, log-softmax. With none
kept, lse is log-sum-exp.
"""

import itertools
import math

import numpy as np
import pytest
from helpers import check

import nbfagg
from nbfagg import State

NAN, INF = np.nan, np.inf
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def axes_for(a, axis):
    """Give the axes of a softmax over `axis`: an int, a tuple, or None for all."""
    over = range(a.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    over = {one % a.ndim for one in over}
    return {
        "batch_axis": tuple(i for i in range(a.ndim) if i not in over),
        "keep_axis": tuple(sorted(over)),
    }


def softmax(a, axis=None, **keywords):
    a = np.asarray(a)
    return nbfagg.fagg(a, **axes_for(a, axis), **keywords)


def log_softmax(a, axis=None, **keywords):
    return softmax(a, axis, log=True, **keywords)


def logsumexp(a, axis=None, **keywords):
    a = np.asarray(a)
    axes = axes_for(a, axis)["batch_axis"]
    return nbfagg.fagg(a, batch_axis=axes, keep_axis=(), return_lse=True, **keywords)[1]


def near(result, want, dtype=np.float64, ulps=4):
    np.testing.assert_allclose(result, want, rtol=ulps * np.finfo(dtype).eps, atol=0)


# --- values that are known ----------------------------------------------------------------


@every_dtype
def test_one_number_has_all_the_weight(dtype):
    for value in (0, 1, -1, 1000, -1000, np.finfo(dtype).max, np.finfo(dtype).min):
        a = np.array([value], dtype)
        np.testing.assert_array_equal(softmax(a), [1])
        np.testing.assert_array_equal(log_softmax(a), [0])
        near(logsumexp(a), a[0], dtype)


@every_dtype
def test_equal_numbers_share_evenly(dtype):
    for count in (1, 2, 3, 7, 64, 1000, 100_000):
        for value in (0, 1, -3.5, 1e4, -1e4, 1e30):
            a = np.full(count, value, dtype)
            near(softmax(a), np.full(count, 1 / count), dtype, 2)
            near(log_softmax(a), np.full(count, -math.log(count)), dtype, 2)
            # value + log(count), where the sum of the two is rounded.
            size = max(abs(value), math.log(count))
            assert abs(float(logsumexp(a)) - float(a[0]) - math.log(count)) <= 4 * np.finfo(dtype).eps * size


@every_dtype
def test_logarithms_of_integers(dtype):
    # The softmax of log(1), log(2), ... is 1, 2, ... over their sum: known without an exponential.
    a = np.log(np.arange(1, 10, dtype=dtype))
    for shift in (0, 1, -1):
        # A logarithm up to 4 is rounded by half a unit of 4, four of 1.
        near(softmax(a + dtype(shift)), np.arange(1, 10) / 45, dtype, 8)
    near(logsumexp(a), math.log(45), dtype)
    near(log_softmax(a)[-1], math.log(9 / 45), dtype, 8)


@every_dtype
def test_one_far_above_the_others(dtype):
    a = np.array([1000, 1], dtype)
    np.testing.assert_array_equal(softmax(a), [1, 0])
    np.testing.assert_array_equal(log_softmax(a), [0, -999])
    assert logsumexp(a) == 1000
    a = np.array([-1000, 0, 1000, 999], dtype)
    rest = math.exp(-1)
    near(softmax(a), [0, 0, 1 / (1 + rest), rest / (1 + rest)], dtype)
    near(log_softmax(a)[[2, 3]], [-math.log1p(rest), -1 - math.log1p(rest)], dtype)
    near(logsumexp(a), 1000 + math.log1p(rest), dtype)


@every_dtype
def test_a_logarithm_near_0(dtype):
    # log(1 / (1 + e)) = -e: the difference of two logarithms would be 0.
    for depth in (20, 30, 60, 80):
        given = log_softmax(np.array([[0, -depth], [-depth, 0]], dtype), 1)
        near(given[[0, 1], [1, 0]], [-depth - math.exp(-depth)] * 2, dtype)
        if depth == 20:
            np.testing.assert_allclose(
                given[[0, 1], [0, 1]], [-math.exp(-depth)] * 2, atol=np.finfo(dtype).eps
            )


def test_sums_that_overflow_or_underflow_otherwise():
    for value in (710.0, 1e4, 1e300, -746.0, -1e4, -1e300):
        a = np.full(4, value)
        np.testing.assert_array_equal(softmax(a), 0.25)
        near(logsumexp(a), value + math.log(4))
        near(log_softmax(a), -math.log(4))
    for value in (89.0, 1e4, 3e38, -104.0, -3e38):
        a = np.full(4, value, np.float32)
        np.testing.assert_array_equal(softmax(a), np.float32(0.25))
        near(logsumexp(a), np.float32(value) + np.log(4), np.float32)


def test_a_long_sum_of_small_numbers():
    # 1 and a million of 1e-6: added up in float32, one by one, most would be lost.
    a = np.full(1_000_001, np.log(1e-6), np.float32)
    a[0] = 0
    exact = 1 + 1e6 * math.exp(float(a[1]))
    near(softmax(a)[:2], [1 / exact, (exact - 1) / 1e6 / exact], np.float32)
    near(logsumexp(a), math.log(exact), np.float32)


# --- -inf, +inf, NaN ---------------------------------------------------------------------


@every_dtype
def test_minus_infinity(dtype):
    a = np.array([[-INF, 0, 0], [-INF, -INF, 5], [-INF, -INF, -INF]], dtype)
    np.testing.assert_array_equal(softmax(a, 1), [[0, 0.5, 0.5], [0, 0, 1], [0, 0, 0]])
    near(log_softmax(a, 1)[0], [-INF, -math.log(2), -math.log(2)], dtype)
    np.testing.assert_array_equal(log_softmax(a, 1)[1:], [[-INF, -INF, 0], [-INF] * 3])
    near(logsumexp(a, 1), [math.log(2), 5, -INF], dtype)
    # Over all, and over columns.
    near(logsumexp(a), math.log(2 + math.exp(5)), dtype)
    np.testing.assert_array_equal(softmax(a, 0)[:, 0], [0, 0, 0])


@every_dtype
def test_infinity_and_nan(dtype):
    a = np.array([[INF, 0, 1], [NAN, 0, 1], [INF, NAN, 0], [INF, INF, 0], [INF, -INF, 0], [0, 0, 0]], dtype)
    for result in (softmax(a, 1), log_softmax(a, 1)):
        np.testing.assert_array_equal(np.isnan(result).all(axis=1), [True] * 5 + [False])
        assert np.isfinite(result[5]).all()
    np.testing.assert_array_equal(logsumexp(a, 1)[:5], [INF, NAN, NAN, INF, INF])


# --- axes and shapes ------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize(
    "axis",
    [
        None,
        0,
        1,
        2,
        3,
        -1,
        -2,
        -3,
        -4,
        *itertools.combinations(range(4), 2),
        (0, 1, 2),
        (1, 2, 3),
        (-1, 0),
        (0, 1, 2, 3),
    ],
    ids=str,
)
def test_over_any_axes(axis, dtype):
    a = np.random.default_rng(0).normal(0, 3, (3, 4, 5, 6)).astype(dtype)
    axes = axes_for(a, axis)
    given = check(a, **axes, return_lse=True)[0]
    check(a, **axes, log=True)
    assert given.shape == a.shape
    near(given.astype(float).sum(axis=axes["keep_axis"]), 1, dtype)
    assert logsumexp(a, axis).shape == tuple(a.shape[i] for i in axes["batch_axis"])
    # As the axes moved to the end and made one.
    moved = np.moveaxis(a, axes["keep_axis"], range(-len(axes["keep_axis"]), 0))
    flat = softmax(moved.reshape(*moved.shape[: len(axes["batch_axis"])], -1), -1)
    np.testing.assert_allclose(
        np.moveaxis(flat.reshape(moved.shape), range(-len(axes["keep_axis"]), 0), axes["keep_axis"]),
        given,
        rtol=8 * np.finfo(dtype).eps,
    )


@pytest.mark.parametrize(
    "shape", [(1,), (7,), (1, 1), (1, 9), (9, 1), (1, 1, 9, 1), (2, 1, 2, 1, 2, 1), (2,) * 10]
)
def test_shapes(shape):
    a = np.random.default_rng(0).normal(size=shape)
    for axis in (None, *range(len(shape))):
        given = check(a, **axes_for(a, axis))
        assert given.shape == shape
        np.testing.assert_allclose(logsumexp(a, axis), np.log(np.exp(a).sum(axis=axis)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)])
def test_empty(shape):
    a = np.zeros(shape, np.float32)
    for axis in (None, *range(len(shape))):
        for of in (softmax, log_softmax):
            assert of(a, axis).shape == shape
            assert of(a, axis).dtype == np.float32
        np.testing.assert_array_equal(logsumexp(a, axis), np.full(np.sum(a, axis=axis).shape, -INF))


def test_a_softmax_over_no_axis():
    a = np.array([[1.0, -5.0, -INF]])
    np.testing.assert_array_equal(softmax(a, ()), [[1, 1, 0]])
    np.testing.assert_array_equal(log_softmax(a, ()), [[0, 0, -INF]])
    np.testing.assert_array_equal(logsumexp(a, ()), a)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64", "int8", "uint64", "bool"])
def test_dtypes(name):
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name
    a = np.arange(12).reshape(3, 4).astype(dtype)
    want = a.dtype if a.dtype.kind not in "iub" else np.dtype(float)
    exact = np.exp(a.astype(float) - a.astype(float).max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    eps = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}.get(name, 2.0**-52)
    for of, right in ((softmax, exact), (log_softmax, np.log(exact))):
        given = of(a, 1)
        assert given.dtype == want
        np.testing.assert_allclose(given.astype(float), right, rtol=4 * eps)
    assert logsumexp(a, 1).dtype == (np.float32 if want.itemsize < 4 else want)


def test_lists_and_numbers_of_python():
    near(softmax([1, 2, 3]), np.exp([-2, -1, 0]) / np.exp([-2, -1, 0]).sum())
    near(logsumexp([[1.0, 2.0], [3.0, 4.0]]), math.log(sum(map(math.exp, (1, 2, 3, 4)))))


def test_steps_and_orders():
    a = np.random.default_rng(0).normal(size=(6, 8, 10))
    for view in (a[::2, ::-1, 1::3], a.T, np.asfortranarray(a), np.broadcast_to(a[:, :1], a.shape)):
        for axis in (None, 0, 1, 2, (0, 2)):
            check(view, **axes_for(view, axis))
            near(softmax(view, axis), softmax(view.copy(), axis), ulps=6)


# --- masks ----------------------------------------------------------------------------------


@every_dtype
def test_where_is_the_softmax_of_what_is_left(dtype):
    random = np.random.default_rng(0)
    a = random.normal(size=(4, 5, 6)).astype(dtype)
    for axis in (None, 0, 2, (0, 2), (1, 2)):
        for where in (random.random(a.shape) < 0.7, random.random(6) < 0.7, random.random((5, 1)) < 0.7):
            low = np.where(where, a, -INF).astype(dtype)
            for of in (softmax, log_softmax, logsumexp):
                np.testing.assert_allclose(
                    of(a, axis, where=where),
                    of(low, axis),
                    rtol=8 * np.finfo(dtype).eps,
                    atol=np.finfo(dtype).eps,
                )
    # What is left out may be anything; of nothing there is nothing.
    where = np.array([True, False, True])
    a = np.array([[1, NAN, 1], [0, INF, -INF], [NAN, NAN, 2]], dtype)
    given = softmax(a, 1, where=where)
    np.testing.assert_array_equal(given[:2], [[0.5, 0, 0.5], [1, 0, 0]])
    assert np.isnan(given[2]).all()
    np.testing.assert_array_equal(softmax(a, 1, where=False), np.zeros((3, 3)))
    np.testing.assert_array_equal(logsumexp(a, 1, where=False), [-INF] * 3)


def test_a_causal_mask():
    # Each query sees itself and what is before it.
    a = np.random.default_rng(0).normal(size=(2, 3, 8, 8))
    where = np.tril(np.ones((8, 8), bool))
    given = check(a, batch_axis=(0, 1, 2), keep_axis=3, where=where)
    np.testing.assert_array_equal(given[..., 0, 0], 1)
    assert (given[..., ~where] == 0).all()
    near(given.sum(axis=-1), 1)
    for query in range(8):
        near(given[..., query, : query + 1], softmax(a[..., query, : query + 1], -1), ulps=6)


# --- gradients --------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [None, 0, 1, 2, (0, 2)], ids=str)
@pytest.mark.parametrize("log", [False, True], ids=["softmax", "log_softmax"])
def test_gradients_beside_differences(axis, log):
    random = np.random.default_rng(0)
    a = random.normal(size=(3, 4, 2))
    where = random.random(a.shape) < 0.9
    axes = axes_for(a, axis)
    for keywords in ({}, {"scale": 0.3}, {"where": where}):
        of, lse = nbfagg.fagg(a, **axes, log=log, return_lse=True, **keywords)
        grad, of_lse = random.normal(size=of.shape), random.normal(size=lse.shape)

        def number(logits, grad=grad, of_lse=of_lse, keywords=keywords):
            value, lse = nbfagg.fagg(logits, **axes, log=log, return_lse=True, **keywords)
            return (
                np.where(np.isfinite(value), value, 0).ravel() @ grad.ravel()
                + np.where(np.isfinite(lse), lse, 0).ravel() @ of_lse.ravel()
            )

        got = nbfagg.fagg_vjp((grad, of_lse), a, of, lse, **axes, log=log, return_lse=True, **keywords)
        for place in np.ndindex(a.shape):
            step = np.zeros_like(a)
            step[place] = 1e-5
            # What the step's square and float64 leave: 1e-10.
            np.testing.assert_allclose(
                got[place], (number(a + step) - number(a - step)) / 2e-5, atol=1e-8, rtol=1e-8
            )


@every_dtype
def test_gradients_that_are_known(dtype):
    # Two equal numbers: p (1 - p) and its opposite. Of lse: the softmax.
    a = np.zeros((1, 2), dtype)
    alpha, lse = nbfagg.fagg(a, return_lse=True)
    np.testing.assert_array_equal(nbfagg.fagg_vjp([[1, 0]], a, alpha, lse), [[0.25, -0.25]])
    log = nbfagg.fagg(a, log=True)
    near(nbfagg.fagg_vjp([[1, 0]], a, log, lse, log=True), [[0.5, -0.5]], dtype)
    a = np.random.default_rng(0).normal(size=(3, 40)).astype(dtype)
    alpha, lse = nbfagg.fagg(a, return_lse=True)
    got = nbfagg.fagg_vjp((np.zeros_like(alpha), np.ones(3)), a, alpha, lse, return_lse=True)
    near(got, alpha, dtype, 6)
    # Cross entropy: the softmax less one at the target.
    log = nbfagg.fagg(a, log=True)
    grad = np.zeros_like(a)
    grad[:, 7] = -1
    got = nbfagg.fagg_vjp(grad, a, log, lse, log=True)
    # The logarithms, up to 8, are within four units each.
    np.testing.assert_allclose(got, alpha + grad, rtol=40 * np.finfo(dtype).eps, atol=4 * np.finfo(dtype).eps)
    # A gradient that is the same everywhere moves no weight.
    got = nbfagg.fagg_vjp(np.ones_like(a), a, alpha, lse)
    assert (abs(got) <= 4 * np.finfo(dtype).eps * alpha).all()


# --- a stream ---------------------------------------------------------------------------------


@every_dtype
def test_a_running_logsumexp(dtype):
    a = np.random.default_rng(0).normal(0, 10, (5, 200)).astype(dtype)
    state = State.of(a[:, :0], keep_axis=())
    for first in range(0, 200, 7):
        state = state.merge(State.of(a[:, first : first + 7], keep_axis=()))
        seen = a[:, : first + 7]
        near(state.lse, logsumexp(seen, 1), dtype, 8)
    np.testing.assert_array_equal(state.finalize(), 1)
