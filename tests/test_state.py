"""States of chunks: of, merge, finalize, lse. However an array is cut, they give what the oracle does."""

import copy
import dataclasses
import functools
import pickle
import tracemalloc

import numpy as np
import pytest
from helpers import DTYPES, in_memory_order, share_of_bound
from hypothesis import assume, given
from hypothesis import strategies as st
from test_properties import calls, steady

import nbfagg
from nbfagg import State, reference, scalar

NAN, INF = np.nan, np.inf
every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def normal(shape, dtype, seed=0, spread=3.0):
    return np.random.default_rng([seed, *shape]).normal(0, spread, shape).astype(dtype)


def assert_exact(state, a, **keywords):
    """Compare what a state gives with what the oracle gives of all logits; its bounds are fagg's."""
    for log in (False, True):
        exact, lse = reference.oracle(a, log=log, return_lse=True, **keywords)
        given = state.finalize(log=log)
        assert given.shape == state.shape == exact.shape
        assert given.dtype == state.dtype
        share = share_of_bound(given, exact, "log" if log else "alpha")
        assert share.max(initial=0) <= 1, (log, share.max(), a.shape)
    assert state.lse.shape == lse.shape
    share = share_of_bound(state.lse, np.asarray(lse), "lse")
    assert share.max(initial=0) <= 1, ("lse", share.max(), a.shape)


def assert_same(one, other):
    """Assert that two states give the same bits."""
    for log in (False, True):
        np.testing.assert_array_equal(one.finalize(log), other.finalize(log))
    np.testing.assert_array_equal(one.lse, other.lse)


def merge_all(states, axis="summed"):
    return functools.reduce(lambda one, other: one.merge(other, axis=axis), states)


# --- of one array --------------------------------------------------------------------


@pytest.mark.parametrize("spread", [3.0, 300.0])
@pytest.mark.parametrize("special", [0.0, np.nan, np.inf, -np.inf, 1e30, -1e30])
@every_dtype
def test_rows_that_take_turns(dtype, special, spread):
    """The kept axis before the batch axis: the same bits, and a special row changes those of no other."""
    usual = (normal((5, 200, 3), np.float64) / 3 * spread).astype(dtype)
    a = usual.copy()
    with np.errstate(over="ignore"):
        a[2, 7:] = np.float64(special).astype(dtype)
    rows, turned = State.of(a), State.of(a.transpose(1, 0, 2), batch_axis=1, keep_axis=0)
    np.testing.assert_array_equal(turned.total().cells, rows.total().cells)
    for log in (False, True):
        np.testing.assert_array_equal(turned.finalize(log).T, rows.finalize(log))
    others = [0, 1, 3, 4]
    np.testing.assert_array_equal(turned.total().cells[others], State.of(usual).total().cells[others])
    assert_exact(turned, a.transpose(1, 0, 2), batch_axis=1, keep_axis=0)


SHAPES = [(3, 10, 5, 20), (2, 300, 3), (900, 3, 1), (3, 5000, 1), (3, 4, 5000), (2, 40, 64), (1, 3, 90_000)]


@every_dtype
@pytest.mark.parametrize("shape", SHAPES)
def test_of_one_array(shape, dtype):
    a = normal(shape, dtype)
    assert_exact(State.of(a), a)
    assert_exact(State.of(a, scale=0.3), a, scale=0.3)
    turned = in_memory_order(a, (*range(1, a.ndim), 0))
    assert_exact(State.of(turned), a)
    assert_exact(State.of(a[:, :, ::-1][:, ::-1]), a[:, :, ::-1][:, ::-1])


@steady
@given(calls())
def test_any_axes_and_layout(call):
    a, axes = call
    assume(axes["batch_axis"] + axes["keep_axis"])
    assert_exact(State.of(a, **axes), a, **axes)


def test_neither_batch_nor_kept_axes():
    state = State.of(np.zeros(5), batch_axis=(), keep_axis=())
    assert state.shape == state.lse.shape == ()
    assert state.finalize().shape == ()


@every_dtype
def test_workers_and_other_rows_change_no_bit(dtype):
    for shape in ((6, 50, 2000), (6, 3, 1), (6, 3, 5000)):
        a = normal(shape, dtype)
        whole = State.of(a, workers=1)
        np.testing.assert_array_equal(State.of(a, workers=2).cells, whole.cells)
        for rows in (np.s_[:1], np.s_[2:], np.s_[::-1], np.s_[::2]):
            part = State.of(a[rows])
            np.testing.assert_array_equal(part.cells, whole.cells[rows])
            for log in (False, True):
                np.testing.assert_array_equal(part.finalize(log), whole.finalize(log)[rows])
            np.testing.assert_array_equal(part.lse, whole.lse[rows])


def test_no_memory_of_the_arrays_size():
    a = np.zeros((4, 64, 16, 512), np.float32)
    State.of(a)
    tracemalloc.start()
    try:
        State.of(a)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < a.nbytes / 10


def test_inputs_may_be_read_only_and_are_not_written():
    a = normal((3, 10, 5), np.float32)
    where = a < 3
    before = a.copy()
    a.flags.writeable = where.flags.writeable = False
    assert_exact(State.of(a, where=where, lengths=[3, 0, 10]), before, where=where, lengths=[3, 0, 10])
    np.testing.assert_array_equal(a, before)


@pytest.mark.parametrize("dtype", ["i2", ">f4", "bool", "u8"])
def test_other_dtypes(dtype):
    a = (abs(normal((3, 10, 5), float)) % 2).astype(dtype)
    state = State.of(a)
    assert state.dtype == (np.float32 if dtype == ">f4" else np.float64)
    assert_exact(state.merge(State.of(a)), np.concatenate((a, a), axis=2))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once(name):
    dtype = np.dtype(np.float16 if name == "float16" else pytest.importorskip("ml_dtypes").bfloat16)
    bits = 10 if name == "float16" else 7
    a = normal((3, 40, 60), np.float32).astype(dtype)
    state = merge_all([State.of(a[..., first : first + 20]) for first in (0, 20, 40)])
    assert state.dtype == dtype
    assert state.lse.dtype == np.float32
    for log in (False, True):
        exact, lse = reference.oracle(a, log=log, return_lse=True)
        given = state.finalize(log)
        assert given.dtype == dtype
        # Half a unit of its own, and float32's bound before.
        half = np.ldexp(0.5, np.maximum(np.frexp(exact)[1] - 1, -14 if name == "float16" else -126) - bits)
        near = (4 if log else 2) * np.maximum(log, abs(exact)) * 2.0**-23
        assert (abs(given.astype(np.longdouble) - exact) <= half + near).all()
    assert share_of_bound(state.lse, lse, "lse").max() <= 1


# --- merged -----------------------------------------------------------------------------


@st.composite
def cuts(draw, size):
    """Places to cut an axis at, some of them twice: chunks may hold nothing."""
    inner = draw(st.lists(st.integers(0, size), max_size=4))
    return [0, *sorted(inner), size]


def merge_in_any_order(states, random, axis):
    """Merge neighbours, or, of summed chunks, any two, until one is left."""
    states = list(states)
    while len(states) > 1:
        if axis == "keep":
            at = random.randrange(len(states) - 1)
            states[at : at + 2] = [states[at].merge(states[at + 1], axis="keep")]
        else:
            random.shuffle(states)
            states.append(states.pop().merge(states.pop()))
    return states[0]


@steady
@given(calls(), st.data(), st.randoms(use_true_random=False))
def test_any_cut_of_summed_axes_in_any_order(call, data, random):
    a, axes = call
    assume(axes["batch_axis"] + axes["keep_axis"])
    summed = [axis for axis in range(a.ndim) if axis not in axes["batch_axis"] + axes["keep_axis"]]
    chunks = [a]
    for axis in summed[:2]:
        edges = data.draw(cuts(a.shape[axis]))
        chunks = [part for chunk in chunks for part in np.split(chunk, edges[1:-1], axis=axis)]
    states = [State.of(chunk, **axes) for chunk in chunks]
    assert_exact(merge_in_any_order(states, random, "summed"), a, **axes)


@steady
@given(calls(), st.data(), st.randoms(use_true_random=False))
def test_any_cut_of_the_kept_axis(call, data, random):
    a, axes = call
    rest = [axis for axis in range(a.ndim) if axis not in axes["batch_axis"]]
    assume(rest)
    keep = data.draw(st.sampled_from(rest))
    axes = {"batch_axis": axes["batch_axis"], "keep_axis": keep}
    tokens = np.split(a, data.draw(cuts(a.shape[keep]))[1:-1], axis=keep)
    states = []
    for chunk in tokens:
        others = [axis for axis in rest if axis != keep]
        parts = [chunk]
        if others:
            parts = np.split(chunk, data.draw(cuts(a.shape[others[0]]))[1:-1], axis=others[0])
        states.append(merge_in_any_order([State.of(part, **axes) for part in parts], random, "summed"))
    assert_exact(merge_in_any_order(states, random, "keep"), a, **axes)


@every_dtype
def test_many_chunks_lose_nothing(dtype):
    # Each merge rounds a pair of float64; a thousand of them are not seen.
    a = normal((2, 5, 3000), dtype, spread=1.0)
    forth = merge_all([State.of(a[..., i : i + 3]) for i in range(0, 3000, 3)])
    assert_exact(forth, a)
    assert_exact(merge_all([State.of(a[..., i : i + 3]) for i in range(2997, -1, -3)]), a)


@every_dtype
@pytest.mark.parametrize("offset", [1e4, -1e4, 1e7, -1e7])
def test_far_off(dtype, offset):
    a = (8 * normal((3, 12, 40), float) + offset).astype(dtype)
    halves = [State.of(a[..., :10]), State.of(a[..., 10:])]
    assert_exact(merge_all(halves), a)
    # Beside chunks that are not, which then weigh nothing or all.
    b = normal((3, 12, 7), dtype)
    for order in (1, -1):
        states = [*halves, State.of(b)][::order]
        assert_exact(merge_all(states), np.concatenate((a, b), axis=2))
    tokens = [State.of(a[..., :7]), State.of(b)]
    assert_exact(merge_all(tokens, "keep"), np.concatenate((a[..., :7], b), axis=1))


@every_dtype
def test_the_logarithm_survives_where_weights_underflow(dtype):
    a = normal((2, 6, 30), dtype)
    a[:, 1] -= 5000
    a[:, 2, 10:] -= 3000
    state = merge_all([State.of(a[..., i : i + 10]) for i in (0, 10, 20)])
    assert (state.finalize()[:, 1] == 0).all()
    assert (state.finalize(log=True)[:, 1] < -4000).all()
    assert_exact(state, a)


@every_dtype
def test_order_of_two_changes_no_bit(dtype):
    one, other = State.of(normal((3, 10, 5), dtype)), State.of(normal((3, 10, 5), dtype, 1) + dtype(9))
    assert_same(one.merge(other), other.merge(one))


@every_dtype
def test_what_holds_nothing_changes_no_bit(dtype):
    a = normal((3, 10, 5, 4), dtype)
    state = State.of(a)
    nothing = [State.of(a[:, :, :0]), State.of(np.full_like(a, -INF)), State.of(a, where=False)]
    nothing.append(State.of(a, lengths=[0, 0, 0]))
    for one in nothing:
        assert (one.finalize() == 0).all()
        assert (one.finalize(log=True) == -INF).all()
        assert (one.lse == -INF).all()
        assert_same(state.merge(one), state)
        assert_same(one.merge(state), state)
        assert_same(one.merge(one), one)
    assert_same(state.merge(State.of(a[:, :0]), axis="keep"), state)
    assert_same(State.of(a[:, :0]).merge(state, axis="keep"), state)


def test_kept_before_batch():
    a = normal((4, 12, 3), np.float32)
    axes = {"batch_axis": 1, "keep_axis": 0}
    states = [State.of(a[i : i + 2], **axes) for i in (0, 2)]
    assert_exact(merge_all(states, "keep"), a, **axes)
    axes = {"batch_axis": (0, 2), "keep_axis": (1,)}
    states = [State.of(a[:, i : i + 4], **axes) for i in (0, 4, 8)]
    assert_exact(merge_all(states, "keep"), a, **axes)
    # No batch at all.
    states = [State.of(a[:, i : i + 4], batch_axis=(), keep_axis=1) for i in (0, 4, 8)]
    assert_exact(merge_all(states, "keep"), a, batch_axis=(), keep_axis=1)


@every_dtype
def test_masks_and_lengths_are_those_of_the_chunk(dtype):
    a = normal((4, 12, 5, 6), dtype)
    where = np.random.default_rng(0).random(a.shape) < 0.5
    where[0, 3] = False
    lengths = np.array([12, 5, 0, 7])
    beyond = np.arange(12) >= lengths[:, None]
    a[~where] = NAN
    a[beyond] = INF
    whole = {"where": where, "lengths": lengths}
    assert_exact(State.of(a, **whole), a, **whole)
    heads = [State.of(a[:, :, i:j], where=where[:, :, i:j], lengths=lengths) for i, j in ((0, 2), (2, 5))]
    assert_exact(merge_all(heads), a, **whole)
    tokens = [
        State.of(a[:, i:j], where=where[:, i:j], lengths=np.clip(lengths - i, 0, j - i))
        for i, j in ((0, 4), (4, 6), (6, 12))
    ]
    assert_exact(merge_all(tokens, "keep"), a, **whole)
    # Along axes that lie the other way, and by token.
    axes = {"batch_axis": 1, "keep_axis": 0}
    turned, lengths = a.transpose(1, 0, 2, 3), {"lengths": lengths, "where": where.transpose(1, 0, 2, 3)}
    assert_exact(State.of(turned, **axes, **lengths), turned, **axes, **lengths)
    b = normal((4, 12, 5, 6), dtype)
    assert_exact(State.of(b, where=where[:, :, :1, :1]), b, where=where[:, :, :1, :1])


@every_dtype
@pytest.mark.parametrize("axis", ["summed", "keep"])
@pytest.mark.parametrize(
    ("one", "other", "lse"),
    [
        *((NAN, 0, NAN), (0, NAN, NAN), (INF, 0, INF), (0, INF, INF), (NAN, INF, NAN), (INF, NAN, NAN)),
        *((INF, INF, INF), (NAN, NAN, NAN), (NAN, -INF, NAN), (INF, -INF, INF)),
    ],
)
def test_nan_and_infinity(one, other, lse, axis, dtype):
    a, b = normal((3, 4, 5), dtype), normal((3, 4, 5), dtype, 1)
    clean = State.of(a).merge(State.of(b), axis)
    a[1, 2, 3], b[1, 2, 1] = one, other
    state = State.of(a).merge(State.of(b), axis)
    for log in (False, True):
        assert np.isnan(state.finalize(log)[1]).all()
        np.testing.assert_array_equal(state.finalize(log)[::2], clean.finalize(log)[::2])
    np.testing.assert_array_equal(state.lse[1], lse)
    np.testing.assert_array_equal(state.lse[::2], clean.lse[::2])
    # It lasts, whatever comes after.
    more = State.of(np.full((*state.shape, 1), 1000, dtype))
    np.testing.assert_array_equal(state.merge(more).lse[1], lse)
    assert np.isnan(more.merge(state).finalize()[1]).all()
    # What is left out counts for nothing.
    left = State.of(a, where=np.isfinite(a)).merge(State.of(b, where=np.isfinite(b)), axis)
    assert np.isfinite(left.finalize()).all()


@every_dtype
def test_nan_beside_infinity_in_one_chunk(dtype):
    a = normal((3, 4, 5), dtype)
    a[1, 2, :2] = NAN, INF
    a[2, 1, 0], a[2, 3, 1] = INF, NAN
    where = np.ones(a.shape, bool)
    assert np.isnan(State.of(a).lse[1:]).all()
    where[1, 2, 0] = where[2, 3, 1] = False
    np.testing.assert_array_equal(State.of(a, where=where).lse[1:], INF)
    np.testing.assert_array_equal(State.of(a, lengths=[4, 4, 2]).lse[1:], [NAN, INF])


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2), (2, 3, 0), (0, 0, 0), (2, 0), (0, 4)])
def test_empty(shape):
    a = np.zeros(shape, np.float32)
    state = State.of(a)
    assert_exact(state, a)
    assert_exact(state.merge(State.of(a)), a)
    assert_exact(state.merge(State.of(a), "keep"), np.concatenate((a, a), axis=1))


# --- nothing changes a state -----------------------------------------------------------------


@every_dtype
def test_finalize_and_merge_change_nothing(dtype):
    a, b = normal((3, 10, 5), dtype), normal((3, 10, 5), dtype, 1)
    one, other = State.of(a), State.of(b)
    before = one.cells.copy(), other.cells.copy()
    first = one.finalize(), one.finalize(log=True), one.lse
    one.merge(other)
    other.merge(one)
    one.merge(other, axis="keep")
    for again, result in zip((one.finalize(), one.finalize(log=True), one.lse), first, strict=True):
        np.testing.assert_array_equal(again, result)
        # Nor is a result part of a state.
        assert not np.shares_memory(result, one.cells)
        result[...] = 5
    np.testing.assert_array_equal(one.cells, before[0])
    np.testing.assert_array_equal(other.cells, before[1])
    assert_exact(one, a)
    # Nor does the array, once it has been taken in.
    copied = a.copy()
    a[...] = 0
    assert_exact(one, copied)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.scale = 2.0


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i4", "bfloat16"])
def test_pickle_and_copy(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    a = normal((3, 10, 5), float).astype(dtype)
    a[1] = 0
    state, other = State.of(a, scale=0.5), State.of(a[:, ::-1], scale=0.5)
    for again in (pickle.loads(pickle.dumps(state)), copy.copy(state), copy.deepcopy(state)):
        assert_same(again, state)
        assert (again.scale, again.dtype, again.kind) == (0.5, state.dtype, state.kind)
        assert_same(again.merge(other), state.merge(other))
        assert_same(other.merge(again, "keep"), other.merge(state, "keep"))


@every_dtype
def test_beside_fagg(dtype):
    # Of one array they differ by rounding alone; so the bound of both.
    a = normal((3, 10, 5, 20), dtype)
    given, lse = nbfagg.fagg(a, return_lse=True)
    state = State.of(a)
    np.testing.assert_allclose(state.finalize(), given, rtol=6 * np.finfo(dtype).eps)
    np.testing.assert_allclose(state.lse, lse, rtol=6 * np.finfo(dtype).eps)


# --- errors ---------------------------------------------------------------------------------


def refused(error, *parts, of=None, merge=None):
    """Assert that making a state, or merging, is refused by a message that has every part."""
    arguments = {"a": np.zeros((2, 3, 4), np.float32)} | (of or {})
    call = (
        functools.partial(merge[0].merge, *merge[1:]) if merge else functools.partial(State.of, **arguments)
    )
    with pytest.raises(error) as caught:
        call()
    assert type(caught.value) is error
    for part in parts:
        assert part in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("error", "parts", "of"),
    [
        (TypeError, ["a of shape", "complex128"], {"a": np.zeros((2, 3), complex)}),
        (ValueError, ["a is a scalar"], {"a": 1.0}),
        (ValueError, ["keep_axis=3", "(2, 3, 4)"], {"keep_axis": 3}),
        (ValueError, ["share an axis"], {"keep_axis": 0}),
        (TypeError, ["batch_axis=None"], {"batch_axis": None}),
        (ValueError, ["scale=0"], {"scale": 0}),
        (TypeError, ["scale='x'"], {"scale": "x"}),
        (ValueError, ["where has shape (5,)"], {"where": np.ones(5, bool)}),
        (TypeError, ["where has dtype int64"], {"where": np.ones(4, int)}),
        (ValueError, ["lengths has shape (3,)"], {"lengths": [1, 1, 1]}),
        (ValueError, ["lengths from 0 to 4"], {"lengths": [0, 4]}),
        (TypeError, ["lengths has dtype float64"], {"lengths": [1.0, 2.0]}),
        (ValueError, ["lengths", "one kept axis"], {"lengths": [1, 1], "keep_axis": (1, 2)}),
        (ValueError, ["workers=0"], {"workers": 0}),
        (TypeError, ["workers='2'"], {"workers": "2"}),
    ],
)
def test_errors_of(error, parts, of):
    refused(error, *parts, of=of)


def test_errors_of_merging():
    a = np.zeros((2, 3, 4), np.float32)
    state = State.of(a)
    for other in (a, None, 0, "state", state.cells):
        refused(TypeError, type(other).__name__, "want a State", merge=(state, other))
    for axis in ("sum", "kept", 1, None, "", "SUMMED"):
        refused(ValueError, f"axis={axis!r}", '"summed" or "keep"', merge=(state, state, axis))
    for axis in ("summed", "keep"):
        refused(ValueError, "scale", "1.0", "0.5", merge=(state, State.of(a, scale=0.5), axis))
        refused(ValueError, "dtype", "float32", "float64", merge=(state, State.of(a.astype(float)), axis))
        half = State.of(a.astype(np.float16))
        refused(ValueError, "dtype", "float32", "float16", merge=(state, half, axis))
        integers = State.of(a.astype(int))
        assert integers.merge(State.of(a.astype(float)), axis).dtype == np.float64
        other = State.of(a[:, :, :2], batch_axis=1, keep_axis=0)
        refused(ValueError, "batch", merge=(state, other, axis))
    refused(ValueError, "(2, 3)", "(2, 2)", "want the same", merge=(state, State.of(a[:, :2])))
    refused(ValueError, "(2, 3)", "(1, 3)", "want the same", merge=(state, State.of(a[:1])))
    refused(ValueError, "(2, 3)", "(1, 3)", "batch axes", merge=(state, State.of(a[:1]), "keep"))
    for keep in ((1, 2), ()):
        one = State.of(a, keep_axis=keep)
        refused(ValueError, "one kept axis", merge=(one, one, "keep"))
    refused(ValueError, "one kept axis", merge=(state, State.of(a, keep_axis=(1, 2)), "keep"))


def test_arguments_by_name():
    with pytest.raises(TypeError, match="positional"):
        State.of(np.zeros((2, 3)), 0)


@pytest.mark.parametrize("depth", [600, 690, 700, 708, 715, 730, 744])
def test_weights_near_and_below_the_smallest_normal_number(depth):
    rng = np.random.default_rng(depth)
    for _ in range(50):
        a = np.array([[[4 * rng.random() - depth], [4 * rng.random()]]])
        assert_exact(State.of(a), a)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("terms", [70, 256, 1000])
def test_tokens_by_themselves_have_the_bits_of_the_general_way(dtype, terms):
    """Masked arrays take that one; the row of which the mask leaves something out is not compared."""
    a = np.random.default_rng(terms).normal(0, 20, (6, 40, 3, terms)).astype(dtype)
    a[0] += 1e7
    a[1, 1], a[1, 2, :2], a[1, 3, 1, 3], a[1, 4, 2, 5] = -np.inf, -np.inf, np.inf, np.nan
    for part in (
        a[:, :, 1],
        a[::2, 3:, 0],
        a[:, :, :, : terms - 1][:, :, 2],
        np.ascontiguousarray(a[:, :, 0]),
    ):
        included = np.ones(part.shape, bool)
        included[0, 0, 0] = False
        general = nbfagg.State.of(part, where=included).cells
        found = nbfagg.State.of(part).cells
        assert np.array_equal(found.view(np.int64)[1:], general.view(np.int64)[1:])


@pytest.mark.parametrize("scale", [1.0, 1 / 3, 2.0**-30])
@pytest.mark.parametrize(("dtype", "far"), [(np.float32, scalar.FAR_F32), (np.float64, scalar.FAR_F64)])
def test_tokens_on_both_sides_of_where_logits_are_far_off(dtype, far, scale):
    """What is subtracted from one and not from the other is large, and their distance is not."""
    edge = far / scalar.LOG2_E / scale
    shares = np.random.default_rng(0).uniform(0.97, 1.03, (200, 2, 1))
    for sign in (1, -1):
        a = (sign * edge * shares).astype(dtype)
        exact, lse = reference.oracle(a, scale=scale, log=True, return_lse=True)
        state = State.of(a, scale=scale)
        for log_alpha in (nbfagg.fagg(a, scale=scale, log=True), state.finalize(log=True)):
            assert share_of_bound(log_alpha, exact, "log").max() <= 1
        assert share_of_bound(state.lse, lse, "lse").max() <= 1


def test_what_a_state_says_of_itself():
    state = nbfagg.State.of(np.zeros((2, 6, 4), np.float32), scale=0.5)
    assert repr(state) == "<State shape=(2, 6), batch_dims=(0,), dtype=float32, scale=0.5>"


def test_a_total_of_other_arithmetic_is_refused():
    a = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    total = State.of(a.astype(np.float64)).total()
    with pytest.raises(ValueError, match="total with dtype float64; want float32"):
        State.of(a).finalize(total=total)
    with pytest.raises(ValueError, match="total with kind float64; want float32"):
        State.of(a).finalize(total=State.of(a, scale=2.0**200).total())


def test_workers_are_checked_in_empty_chunks_too():
    with pytest.raises(TypeError, match="workers='x'"):
        State.of(np.zeros((0, 2, 3)), workers="x")
