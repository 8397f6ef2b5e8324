"""What each row gives, and what must hold of any call, of everything at once: weights, logarithms, lse,
gradients, states."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from test_properties import assert_near, calls, steady, summed_axes

import nbfagg
from nbfagg import State, reference

NAN, INF = np.nan, np.inf
DTYPES = [np.float16, np.float32, np.float64]
# A row taken with others in a tile, one block, tokens in several pieces, and blocks.
SHAPES = {"tiny": (9, 3, 4), "short": (4, 6, 2, 10), "long": (4, 3, 5000), "blocks": (4, 900, 5)}
WAYS = ["alpha", "log", "lse", "gradient", "log gradient", "state", "state log", "state lse"]
GRADIENTS = [way for way in WAYS if way.endswith("gradient")]


def give(way, a, **keywords):
    """Give one of the things that can be asked of logits."""
    if way.startswith("state"):
        state = State.of(a, **keywords)
        return state.lse if way == "state lse" else state.finalize(log=way == "state log")
    log = way.startswith("log")
    alpha, lse = nbfagg.fagg(a, log=log, return_lse=True, **keywords)
    if way == "lse":
        return lse
    if way not in GRADIENTS:
        return alpha
    grad = np.random.default_rng(alpha.shape).normal(size=alpha.shape).astype(alpha.dtype)
    return nbfagg.fagg_vjp(grad, a, alpha, lse, log=log, **keywords)


def normal(shape, dtype):
    return np.random.default_rng(shape).normal(size=shape).astype(dtype)


def nothing_of(way):
    """Give what a row gives that holds nothing."""
    if way in GRADIENTS:
        return 0
    return -INF if way.endswith(("log", "lse")) else 0


every_way = pytest.mark.parametrize("way", WAYS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float16", "float32", "float64"])
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def assert_row(result, others, value):
    """Assert what row 1 gives, and that the others give what they did."""
    np.testing.assert_array_equal(result[1], np.full(result.shape[1:], value))
    np.testing.assert_array_equal(np.delete(result, 1, axis=0), np.delete(others, 1, axis=0))


@every_shape
@every_dtype
@every_way
def test_nothing_included(way, dtype, shape):
    a = normal(shape, dtype)
    usual = give(way, a)
    assert np.isfinite(usual).all()
    low = a.copy()
    low[1] = -INF
    assert_row(give(way, low), usual, nothing_of(way))
    where = np.ones((shape[0],) + (1,) * (len(shape) - 1), bool)
    where[1] = False
    lengths = np.full(shape[0], shape[1])
    lengths[1] = 0
    for value in (0, NAN, INF, -INF):
        a[1] = value
        assert_row(give(way, a, where=where), usual, nothing_of(way))
        assert_row(give(way, a, lengths=lengths), usual, nothing_of(way))


@every_dtype
@every_way
def test_a_summed_axis_of_size_0(way, dtype):
    result = give(way, np.zeros((2, 3, 0), dtype))
    if way in GRADIENTS:
        assert result.shape == (2, 3, 0)
    else:
        np.testing.assert_array_equal(result, np.full(result.shape, nothing_of(way)))
        assert result.shape == ((2,) if way.endswith("lse") else (2, 3))


@every_dtype
@every_way
@pytest.mark.parametrize("shape", [(0, 3, 2), (3, 0, 2), (0, 0, 2), (0, 3), (3, 0)])
def test_no_rows_or_no_tokens(shape, way, dtype):
    result = give(way, np.zeros(shape, dtype))
    want = shape if way in GRADIENTS else shape[:1] if way.endswith("lse") else shape[:2]
    assert result.shape == want
    assert result.dtype == (np.float32 if way.endswith("lse") and dtype == np.float16 else dtype)
    np.testing.assert_array_equal(result, np.full(want, -INF))


@every_shape
@every_dtype
@every_way
def test_minus_infinity_at_some_places(way, dtype, shape):
    a = normal(shape, dtype)
    gone = np.random.default_rng(1).random(shape) < 0.4
    gone[:, 1] = True
    gone[:, 0].flat[0] = False
    a[gone] = -INF
    result = give(way, a)
    if way in GRADIENTS:
        assert (result[gone] == 0).all()
        # Of float16 some are 0 by rounding; of tokens with anything in them not all are.
        assert (result[:, 0] != 0).any()
        assert np.isfinite(result).all()
    elif way.endswith("lse"):
        assert np.isfinite(result).all()
    else:
        np.testing.assert_array_equal(result[:, 1], nothing_of(way))
        assert np.isfinite(
            np.delete(result, np.flatnonzero(gone.reshape(*shape[:2], -1).all(axis=(0, 2))), 1)
        ).any()
    # As if it were left out.
    np.testing.assert_array_equal(give(way, np.where(gone, 7, a).astype(dtype), where=~gone), result)


@every_shape
@every_dtype
@every_way
@pytest.mark.parametrize("bad", [NAN, INF, -NAN])
def test_nan_and_infinity_at_an_included_place(bad, way, dtype, shape):
    a = normal(shape, dtype)
    usual = give(way, a)
    lse = INF if bad == INF else NAN
    for place in ((1, 0) + (0,) * (len(shape) - 2), (1, *(size - 1 for size in shape[1:]))):
        b = a.copy()
        b[place] = bad
        assert_row(give(way, b), usual, lse if way.endswith("lse") else NAN)
        b[1, 2] = -INF
        b[place] = bad
        result = give(way, b)
        if way in GRADIENTS:
            np.testing.assert_array_equal(np.isnan(result[1]), b[1] != -INF)
        else:
            assert_row(result, usual, lse if way.endswith("lse") else NAN)


@every_shape
@every_dtype
@every_way
@pytest.mark.parametrize("bad", [NAN, INF, 3e4])
def test_anything_at_an_excluded_place(bad, way, dtype, shape):
    a = normal(shape, dtype)
    where = np.random.default_rng(2).random(shape) < 0.7
    lengths = np.full(shape[0], shape[1] - 1)
    lengths[0] = 1
    for keywords in ({"where": where}, {"lengths": lengths}, {"where": where, "lengths": lengths}):
        out = ~np.broadcast_to(keywords.get("where", True), shape)
        if "lengths" in keywords:
            out = out | (np.arange(shape[1]) >= lengths[:, None]).reshape(
                *shape[:2], *(1,) * (len(shape) - 2)
            )
        b = a.copy()
        b[out] = bad
        result = give(way, b, **keywords)
        np.testing.assert_array_equal(result, give(way, a, **keywords))
        # As -inf would be.
        b[out] = -INF
        np.testing.assert_array_equal(result, give(way, b))
        if way in GRADIENTS:
            assert (result[out] == 0).all()


@every_dtype
@every_way
def test_nan_outweighs_infinity(way, dtype):
    for shape in SHAPES.values():
        a = normal(shape, dtype)
        usual = give(way, a)
        for one, other in ((0, -1), (-1, 0)):
            b = a.copy()
            b[1].flat[one], b[1].flat[other] = NAN, INF
            assert_row(give(way, b), usual, NAN)


@every_dtype
@every_way
def test_the_largest_and_the_smallest_numbers(way, dtype):
    most = np.finfo(dtype).max
    for row, weights in (
        ([most, -most, 0], [1, 0, 0]),
        ([most, most, -most], [0.5, 0.5, 0]),
        ([-most, -most, -INF], [0.5, 0.5, 0]),
        ([0, np.finfo(dtype).smallest_subnormal, -most], [0.5, 0.5, 0]),
    ):
        a = np.array([row], dtype)[..., None]
        result = give(way, a).reshape(-1)
        if way in ("alpha", "state"):
            np.testing.assert_array_equal(result, np.array(weights, dtype))
        elif way.endswith("lse"):
            # Half a logarithm of 2 is lost beside such numbers.
            np.testing.assert_allclose(result[0], max(row) + np.log(sum(w > 0 for w in weights)), rtol=1e-6)
        elif way in GRADIENTS:
            assert np.isfinite(result).all()
        else:
            with np.errstate(over="ignore", divide="ignore"):
                exact = reference.oracle(a, log=True).astype(dtype).reshape(-1)
            np.testing.assert_allclose(result, exact, rtol=1e-3 if dtype == np.float16 else 1e-6)


# --- what must hold of any call -----------------------------------------------------------

EPS = {"f": float(np.finfo("f").eps), "d": float(np.finfo("d").eps)}


def assert_close(way, result, other, ulps=16):
    """Assert that two results of the same exact values differ by rounding alone."""
    np.testing.assert_array_equal(np.isfinite(result), np.isfinite(other))
    there = np.isfinite(result)
    result, other = result[there].astype(np.longdouble), other[there].astype(np.longdouble)
    size = 1.0 if way not in ("alpha", "state") else abs(other)
    if way in ("log", "lse", "state log", "state lse"):
        size = np.maximum(1, abs(other))
    if way == "log gradient":
        # Random numbers of size 1, some hundreds of them added up at most.
        size = 1024.0
    eps = EPS["f" if ulps < 0 else "d"]
    assert (abs(result - other) <= abs(ulps) * eps * size).all()


def ulps(a, count=16):
    return -count if a.dtype == np.float32 else count


@st.composite
def masked_calls(draw):
    call = draw(calls())
    return call, draw(st.integers(0, 2**32)), draw(st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0]))


def mask_of(a, seed, share):
    return np.random.default_rng(seed).random(a.shape) < share


@steady
@given(masked_calls())
def test_rows_sum_to_1_or_hold_nothing(drawn):
    call, seed, share = drawn
    a, axes = call
    where = mask_of(a, seed, share)
    over = [axis for axis in range(a.ndim) if axis not in axes["batch_axis"]]
    there = where.any(axis=tuple(over))
    kept = sorted(axes["batch_axis"] + axes["keep_axis"])
    tokens = tuple(i for i, axis in enumerate(kept) if axis in axes["keep_axis"])
    for way in ("alpha", "state"):
        total = give(way, a, where=where, **axes).astype(np.longdouble).reshape([a.shape[i] for i in kept])
        total = total.sum(axis=tokens)
        assert (abs(total - there) <= 3 * EPS[a.dtype.char] + 1e-37).all()
        assert (total[~there] == 0).all()
    for way in GRADIENTS:
        total = give(way, a, where=where, **axes).astype(np.longdouble).sum(axis=tuple(over))
        bound = 64 * EPS[a.dtype.char] * (1 if way == "gradient" else 100)
        assert (abs(total) <= bound).all()


@steady
@given(masked_calls())
def test_a_mask_is_minus_infinity(drawn):
    call, seed, share = drawn
    a, axes = call
    where = mask_of(a, seed, share)
    low = np.where(where, a, -INF).astype(a.dtype)
    for way in WAYS:
        assert_close(way, give(way, a, where=where, **axes), give(way, low, **axes), ulps(a))


@steady
@given(calls(), st.data())
def test_a_mask_is_a_slice(call, data):
    a, axes = call
    axis = data.draw(st.integers(0, a.ndim - 1))
    assume(axis not in axes["batch_axis"])
    first = data.draw(st.integers(0, a.shape[axis] - 1))
    last = data.draw(st.integers(first + 1, a.shape[axis]))
    index = (*[slice(None)] * axis, slice(first, last))
    where = np.zeros(a.shape, bool)
    where[index] = True
    kept = sorted(axes["batch_axis"] + axes["keep_axis"])
    for way in WAYS:
        if way in GRADIENTS:
            continue
        result, part = give(way, a, where=where, **axes), give(way, a[index], **axes)
        if axis in axes["keep_axis"] and not way.endswith("lse"):
            inside = (*[slice(None)] * kept.index(axis), slice(first, last))
            rest = np.ones(result.shape, bool)
            rest[inside] = False
            np.testing.assert_array_equal(result[rest], nothing_of(way))
            result = result[inside]
        assert_close(way, result.reshape(part.shape), part, ulps(a))


@steady
@given(
    st.integers(1, 6), st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32), st.sampled_from("fd")
)
def test_lengths_are_masks_slices_and_packed_rows(rows, tokens, terms, seed, dtype):
    random = np.random.default_rng(seed)
    a = random.normal(0, 3, (rows, tokens, terms)).astype(dtype)
    lengths = random.integers(0, tokens + 1, rows)
    where = np.arange(tokens) < lengths[:, None]
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    for way in WAYS:
        result = give(way, a, lengths=lengths)
        assert_close(way, result, give(way, a, where=where[..., None]), ulps(a))
        if way in ("alpha", "log"):
            packed = nbfagg.fagg_packed(a[where], offsets, log=way == "log")
            assert_close(way, result[where], packed, ulps(a))
        if way == "lse":
            assert_close(way, result, nbfagg.fagg_packed(a[where], offsets, return_lse=True)[1], ulps(a))
        for row, length in enumerate(lengths):
            if length and way not in GRADIENTS:
                part = give(way, a[row : row + 1, :length])[0]
                mine = result[row] if way.endswith("lse") else result[row, :length]
                assert_close(way, np.asarray(mine), np.asarray(part), ulps(a))


@steady
@given(masked_calls(), st.integers(-4, 4))
def test_a_shift_changes_lse_alone(drawn, steps):
    call, seed, share = drawn
    a, axes = call
    where = mask_of(a, seed, share)
    # An exact one: twenty of float32's bits.
    a = np.clip(np.round(a * 2**8) / 2**8, -64, 64).astype(a.dtype)
    moved = a + a.dtype.type(1024 * steps)
    for way in WAYS:
        result, other = give(way, moved, where=where, **axes), give(way, a, where=where, **axes)
        if way.endswith("lse"):
            assert_close(way, result, other + other.dtype.type(1024 * steps), ulps(a))
        else:
            assert_close(way, result, other, ulps(a, 32))


@steady
@given(calls(), st.floats(1e-3, 10))
def test_scale_is_a_factor_of_the_logits(call, scale):
    a, axes = call
    # In float64, for a product that is rounded moves a logit.
    a = a.astype(np.float32).astype(float)
    scale = float(np.float32(scale))
    for way in WAYS:
        result, other = give(way, a, scale=scale, **axes), give(way, scale * a, **axes)
        if way in GRADIENTS:
            other = scale * other
            assert_close(way, result, other, 64)
        else:
            assert_close(way, result, other, 32)


@steady
@given(calls(), st.randoms(use_true_random=False))
def test_the_order_of_summed_terms_is_within_rounding(call, random):
    a, axes = call
    order = [
        random.sample(range(a.shape[axis]), a.shape[axis])
        if axis in summed_axes(a, axes)
        else range(a.shape[axis])
        for axis in range(a.ndim)
    ]
    index = np.ix_(*order)
    for way in WAYS:
        result, other = give(way, a[index], **axes), give(way, a, **axes)
        assert_close(way, result, other[index] if way in GRADIENTS else other, ulps(a))


@steady
@given(masked_calls())
def test_inputs_are_not_written(drawn):
    call, seed, share = drawn
    a, axes = call
    where = mask_of(a, seed, share)
    before = a.copy(), where.copy()
    a.flags.writeable = where.flags.writeable = False
    for way in WAYS:
        give(way, a, where=where, **axes)
        np.testing.assert_array_equal(a, before[0])
        np.testing.assert_array_equal(where, before[1])


@steady
@given(masked_calls())
def test_states_are_near(drawn):
    call, seed, share = drawn
    a, axes = call
    where = mask_of(a, seed, share)
    for way in ("alpha", "log", "lse"):
        state = give({"alpha": "state"}.get(way, f"state {way}"), a, where=where, **axes)
        result = give(way, a, where=where, **axes)
        if way == "alpha":
            assert_near(state.reshape(result.shape), result)
        else:
            assert_close(way, state.reshape(result.shape), result, ulps(a))
