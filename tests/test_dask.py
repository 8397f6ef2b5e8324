"""Dask arrays, cut anywhere: what the plain call gives, lazily, within a unit in the last place of float64.

How far apart the two may be: both take exponentials to the same bits (a chunk's reference point is another
power of two) and sum them in pairs of float64, so that they differ by far less than a unit before they are
rounded. Long tokens whose logits lie within 48 octaves lose up to a quarter of one in each of two sums; rows
of more than 65,536 tokens are rounded once more, and may be 2 apart. For float32, summed in lanes of float32
first, each is within the bounds of `helpers`. Logarithms: units of the value, or of 1 where it is smaller.
Gradients: `gradient_bound`.
"""

import numpy as np
import pytest
from helpers import DTYPES, run_python, share_of_bound
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import nbfagg
from nbfagg import promises, reference

da = pytest.importorskip("dask.array")
import dask  # noqa: E402

from nbfagg.dask import chunks as tasks  # noqa: E402
from nbfagg.dask.packed import rows_of  # noqa: E402

NAN, INF = np.nan, np.inf
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
unhurried = settings(
    deadline=None, max_examples=40, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@pytest.fixture(autouse=True)
def _in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def normal(shape, dtype=np.float64, seed=0, spread=3.0):
    return np.random.default_rng([seed, *shape]).normal(0, spread, shape).astype(dtype)


def cut(a, *chunks):
    return da.from_array(a, chunks=chunks)


def apart(one, other, log=False):
    """Give the largest difference, in units in the last place of `other` (of 1, for small logarithms)."""
    with np.errstate(invalid="ignore"):
        size = np.where(np.isfinite(other), np.maximum(abs(other), 1.0 if log else 0.0), 1).astype(
            other.dtype
        )
        steps = abs(one - other) / np.spacing(size)
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.where(same, 0.0, np.where(np.isnan(steps), INF, steps)).max(initial=0)


def assert_beside_the_plain_call(x, a, log=False, bits=False, **keywords):
    """Compare alpha and lse of the Dask array x with those of the array a; give them."""
    plain = {name: _computed(value) for name, value in keywords.items()}
    lazy = nbfagg.fagg(x, log=log, return_lse=True, **keywords)
    wanted = nbfagg.fagg(a, log=log, return_lse=True, **plain)
    found = dask.compute(*lazy)
    for result, promised, exact in zip(found, lazy, wanted, strict=True):
        assert isinstance(promised, da.Array)
        assert promised.shape == result.shape == exact.shape
        assert promised.dtype == result.dtype == exact.dtype
        assert type(result) is np.ndarray
    batch, keep = nbfagg.inputs.as_axes(
        a.shape, keywords.get("batch_axis", 0), keywords.get("keep_axis", 1), False
    )
    assert lazy[0].chunks == tuple(x.chunks[axis] for axis in sorted(batch + keep))
    assert lazy[1].chunks == tuple(x.chunks[axis] for axis in batch)
    np.testing.assert_array_equal(nbfagg.fagg(x, log=log, **keywords), found[0])
    if bits:
        np.testing.assert_array_equal(found[0], wanted[0])
        np.testing.assert_array_equal(found[1], wanted[1])
    elif wanted[0].dtype == np.float64:
        assert apart(found[0], wanted[0], log) <= 1
        assert apart(found[1], wanted[1], True) <= 1
    else:
        exact, lse = reference.oracle(a, log=log, return_lse=True, **plain)
        assert share_of_bound(found[0], exact, "log" if log else "alpha").max(initial=0) <= 1
        assert share_of_bound(found[1], np.asarray(lse), "lse").max(initial=0) <= 1
    return found


def _computed(value):
    return value.compute() if isinstance(value, da.Array) else value


@st.composite
def cuts(draw, size):
    """Sizes of chunks, some of which may be 0."""
    edges = draw(st.lists(st.integers(0, size), max_size=3))
    return tuple(np.diff([0, *sorted(edges), size]).tolist())


@st.composite
def cut_calls(draw):
    """Give an array, chunks, and the axes of a call."""
    shape = draw(st.lists(st.integers(1, 7), min_size=1, max_size=4))
    if draw(st.booleans()):
        shape[draw(st.integers(0, len(shape) - 1))] = draw(st.integers(60, 200))
    roles = draw(st.lists(st.sampled_from("blk"), min_size=len(shape), max_size=len(shape)))
    spread = draw(st.sampled_from([1.0, 5.0, 40.0]))
    a = normal(shape, np.float64, draw(st.integers(0, 99)), spread)
    if draw(st.booleans()):
        a[np.random.default_rng(len(shape)).random(shape) < 0.2] = draw(st.sampled_from([-INF, 0.0, NAN]))
    axes = {
        "batch_axis": tuple(i for i, role in enumerate(roles) if role == "b"),
        "keep_axis": tuple(i for i, role in enumerate(roles) if role == "l"),
    }
    return a, tuple(draw(cuts(size)) for size in shape), axes


# --- values ---------------------------------------------------------------------------


@unhurried
@given(cut_calls(), st.booleans(), st.sampled_from([1.0, 0.3]), st.integers(2, 5))
def test_any_cut_of_any_axes(call, log, scale, split_every):
    a, chunks, axes = call
    with dask.config.set(split_every=split_every):
        assert_beside_the_plain_call(da.from_array(a, chunks=chunks), a, log, scale=scale, **axes)


@pytest.mark.parametrize("spread", [1.0, 3.0, 10.0, 30.0])
@pytest.mark.parametrize("shape", [(16, 100, 6, 20), (4, 5000, 5), (2, 400, 50, 3), (2, 2, 20_000)])
def test_long_rows_of_large_logits(shape, spread):
    a = normal(shape, spread=spread)
    plain = nbfagg.fagg(a)
    for parts in (2, 3):
        chunks = [-(-size // parts) for size in shape]
        for axes in ((1,), tuple(range(2, len(shape))), range(1, len(shape))):
            x = cut(a, *(chunks[axis] if axis in axes else -1 for axis in range(len(shape))))
            assert apart(nbfagg.fagg(x).compute(), plain) <= 1


@unhurried
@given(cut_calls(), st.data())
def test_masks_and_lengths_cut_otherwise(call, data):
    a, chunks, axes = call
    rng = np.random.default_rng(a.size)
    mask_shape = tuple(data.draw(st.sampled_from([1, size])) for size in a.shape)
    mask = rng.random(mask_shape[data.draw(st.integers(0, a.ndim - 1)) :]) < 0.7
    keywords = {"where": mask}
    if data.draw(st.booleans()):
        keywords["where"] = da.from_array(mask, chunks=2)
    if len(axes["batch_axis"]) == len(axes["keep_axis"]) == 1:
        rows, tokens = a.shape[axes["batch_axis"][0]], a.shape[axes["keep_axis"][0]]
        lengths = rng.integers(0, tokens, rows, endpoint=True)
        keywords["lengths"] = data.draw(st.sampled_from([lengths, da.from_array(lengths, chunks=2)]))
    assert_beside_the_plain_call(da.from_array(a, chunks=chunks), a, **keywords, **axes)


@every_dtype
@pytest.mark.parametrize("log", [False, True])
def test_cutting_the_batch_axis_alone_changes_no_bit(dtype, log):
    a = normal((7, 30, 6, 8), dtype)
    where = np.random.default_rng(0).random((7, 30, 1, 8)) < 0.9
    lengths = np.array([30, 0, 1, 29, 5, 6, 7])
    for keywords in ({}, {"where": where}, {"lengths": lengths}, {"scale": 0.3, "where": where[0]}):
        assert_beside_the_plain_call(cut(a, 3, 30, 6, 8), a, log, bits=True, **keywords)
    turned = {"batch_axis": (1, 3), "keep_axis": 0}
    assert_beside_the_plain_call(cut(a, 7, 4, 6, (1, 7)), a, log, bits=True, **turned)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", ">f8", "int16", "bool"])
def test_every_dtype_in_every_kind_of_chunk(name):
    dtype = pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else np.dtype(name)
    a = (abs(normal((4, 12, 6, 5))) % 2).astype(dtype)
    wanted, wanted_lse = nbfagg.fagg(a, return_lse=True)
    for chunks in ((2, 12, 6, 5), (4, 5, 6, 5), (4, 12, 4, 2), (1, 5, 3, 2)):
        alpha, lse = nbfagg.fagg(cut(a, *chunks), return_lse=True)
        found, found_lse = dask.compute(alpha, lse)
        assert alpha.dtype == found.dtype == wanted.dtype
        assert lse.dtype == found_lse.dtype == wanted_lse.dtype
        # Each within its bound of the exact value (2 ulp; half precision rounded once): so of each other.
        steps = 1 if wanted.dtype.itemsize == 8 else 4
        eps = 2.0**-7 if name == "bfloat16" else np.finfo(wanted.dtype).eps
        np.testing.assert_allclose(found.astype(float), wanted.astype(float), rtol=steps * eps)
        np.testing.assert_allclose(found_lse, wanted_lse, rtol=10 * np.finfo(wanted_lse.dtype).eps)


@every_dtype
def test_the_semantics_table(dtype):
    a = normal((6, 8, 4, 6), dtype)
    a[0] = -INF
    a[1, 3] = -INF
    a[2, 5, 1, 2] = NAN
    a[3, 5, 1, 2] = INF
    a[4, 5, 1, 2], a[4, 2, 3, 5] = INF, NAN
    for chunks in ((6, 3, 4, 6), (6, 8, 2, 5), (2, 3, 3, 4)):
        for log in (False, True):
            alpha, lse = assert_beside_the_plain_call(cut(a, *chunks), a, log)
            assert (alpha[0] == (-INF if log else 0)).all()
            assert np.isnan(alpha[2:5]).all()
            assert np.isfinite(alpha[5]).all()
        np.testing.assert_array_equal(lse[[0, 2, 3, 4]], [-INF, NAN, INF, NAN])
        assert_beside_the_plain_call(cut(a, *chunks), a, where=np.isfinite(a))


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2), (2, 3, 0), (3,), (2, 3)])
def test_empty_and_low_ranks(shape):
    a = normal(shape)
    keep = {"batch_axis": (), "keep_axis": 0} if len(shape) == 1 else {}
    assert_beside_the_plain_call(da.from_array(a, chunks=2), a, **keep)
    assert_beside_the_plain_call(da.from_array(a, chunks=2), a, batch_axis=(), keep_axis=())


def test_logarithms_survive_where_a_whole_chunk_underflows():
    a = normal((2, 12, 5, 4))
    a[:, :4] -= 5000
    a[:, :, 3:] -= 3000
    for chunks in ((2, 4, 5, 4), (2, 12, 3, 4), (1, 4, 3, 2)):
        assert_beside_the_plain_call(cut(a, *chunks), a, log=True)
        alpha, _ = assert_beside_the_plain_call(cut(a, *chunks), a)
        assert (alpha[:, :4] == 0).all()


# --- gradients ---------------------------------------------------------------------------


def gradient_bound(dtype):
    """Ulp of the largest term: the kernel's own 4 (float64: 8), and what a cut chunk rounds more.

    These are the weight of the chunk's part in each gradient, a local weight, and the dot of the other
    chunks: half a unit each, of a term no larger than the formula's.
    """
    return promises.GRADIENT_BOUND[np.dtype(dtype).name] + 1.5


def terms(grad, a, alpha, lse, log, of_lse, scale=1.0):
    """Give the exact gradient, in longdouble, and for each place the size of the formula's terms."""
    a, alpha, lse, grad, of_lse = (np.asarray(x, np.longdouble) for x in (a, alpha, lse, grad, of_lse))
    p = np.exp(scale * a - lse[:, None, None, None])
    share = p / np.exp(alpha)[..., None, None] if log else p
    dot = grad.sum(1) if log else (grad * alpha).sum(1)
    exact = scale * (share * grad[..., None, None] - p * (dot - of_lse)[:, None, None, None])
    each = abs(grad) if log else abs(grad * alpha)
    largest = scale * (
        share * abs(grad)[..., None, None] + p * (each.sum(1) + abs(of_lse))[:, None, None, None]
    )
    return exact, largest


@every_dtype
@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(
    "chunks", [(2, 12, 6, 8), (4, 5, 6, 8), (4, 12, 4, 8), (4, 12, 6, 3), (1, 5, 4, 3), (4, 1, 1, 1)]
)
def test_gradient_of_any_cut(dtype, log, chunks):
    a = normal((4, 12, 6, 8), dtype)
    a[1] += dtype(3)
    exact_alpha, exact_lse = reference.oracle(a, log=log, return_lse=True)
    alpha, lse = (np.asarray(x, dtype) for x in (exact_alpha, exact_lse))
    grad, of_lse = normal(alpha.shape, dtype, 1), normal(lse.shape, dtype, 2)
    x = cut(a, *chunks)
    found = nbfagg.fagg_vjp((grad, of_lse), x, alpha, lse, log=log, return_lse=True)
    assert (found.shape, found.dtype, found.chunks) == (x.shape, x.dtype, x.chunks)
    if chunks == (2, 12, 6, 8):
        wanted = nbfagg.fagg_vjp((grad, of_lse), a, alpha, lse, log=log, return_lse=True)
        np.testing.assert_array_equal(found, wanted)
    # Given is what is rounded; of logarithms that adds half a unit of |log alpha|.
    exact, largest = terms(grad, a, exact_alpha, exact_lse, log, of_lse)
    bound = gradient_bound(dtype) + (abs(alpha).max() / 2 if log else 0)
    assert (abs(found.compute() - exact) / (largest * np.finfo(dtype).eps)).max() <= bound
    # Without a gradient of lse; that of others does not matter.
    plain = nbfagg.fagg_vjp(grad, x, alpha, lse, log=log)
    exact, largest = terms(grad, a, exact_alpha, exact_lse, log, 0 * of_lse)
    assert (abs(plain.compute() - exact) / (largest * np.finfo(dtype).eps)).max() <= bound


@unhurried
@given(cut_calls(), st.booleans(), st.data())
def test_gradient_beside_the_plain_one(call, log, data):
    a, chunks, axes = call
    rng = np.random.default_rng(a.size)
    keywords = dict(axes)
    if data.draw(st.booleans()):
        keywords["where"] = rng.random(a.shape) < 0.7
    if len(axes["batch_axis"]) == len(axes["keep_axis"]) == 1 and data.draw(st.booleans()):
        rows, tokens = a.shape[axes["batch_axis"][0]], a.shape[axes["keep_axis"][0]]
        keywords["lengths"] = rng.integers(0, tokens, rows, endpoint=True)
    alpha, lse = nbfagg.fagg(a, log=log, return_lse=True, **keywords)
    grad = rng.standard_normal(alpha.shape)
    wanted = nbfagg.fagg_vjp(grad, a, alpha, lse, log=log, **keywords)
    # Sums of terms up to the row's largest gradient; rows with a NaN are NaN where the plain one is.
    found = nbfagg.fagg_vjp(grad, da.from_array(a, chunks=chunks), alpha, lse, log=log, **keywords).compute()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    depth = abs(alpha[np.isfinite(alpha)]).max(initial=0) if log else 0
    scale = max(1.0, abs(grad).sum()) * np.finfo(float).eps
    assert np.nanmax(abs(found - wanted), initial=0) <= (2 * gradient_bound(float) + depth) * scale


def test_gradient_takes_what_is_lazy():
    a = normal((4, 12, 6, 8))
    x = cut(a, 2, 5, 4, 8)
    alpha, lse = nbfagg.fagg(x, return_lse=True)
    found = nbfagg.fagg_vjp(2 * alpha.rechunk(3), x, alpha, lse)
    alpha, lse = nbfagg.fagg(a, return_lse=True)
    np.testing.assert_allclose(found, nbfagg.fagg_vjp(2 * alpha, a, alpha, lse), rtol=0, atol=1e-15)


# --- packed rows ---------------------------------------------------------------------------

OFFSETS = [
    [0, 0, 10, 10, 30, 60, 60],
    [0, 60],
    [0, 20, 40, 60],
    [0, 1, 2, 59, 60, 60, 60],
    [0, *range(3, 61, 3)],
]
PACKED_CHUNKS = [(20, 4, 6), (7, 4, 6), ((0, 20, 0, 20, 20, 0), 3, 4), (60, 4, 3), (1, 4, 6)]


@pytest.mark.parametrize("chunks", PACKED_CHUNKS)
@pytest.mark.parametrize("offsets", OFFSETS)
def test_packed_rows_cut_anywhere(offsets, chunks):
    a = normal((60, 4, 6))
    x = cut(a, *chunks)
    for log in (False, True):
        lazy = nbfagg.fagg_packed(x, offsets, log=log, return_lse=True, scale=0.7)
        wanted = nbfagg.fagg_packed(a, offsets, log=log, return_lse=True, scale=0.7)
        found = dask.compute(*lazy)
        whole = x.numblocks[1:] == (1, 1) and not set(np.cumsum(x.chunks[0])) - set(offsets)
        for result, promised, exact in zip(found, lazy, wanted, strict=True):
            assert promised.shape == result.shape == exact.shape
            assert promised.dtype == result.dtype == exact.dtype
            assert apart(result, exact, log) <= (0 if whole else 1)
        assert lazy[0].chunks == x.chunks[:1]
        sizes = [len(block) for block in dask.compute(*lazy[1].to_delayed())]
        assert (tuple(sizes),) == lazy[1].chunks
        np.testing.assert_array_equal(nbfagg.fagg_packed(x, offsets, log=log, scale=0.7), found[0])

        alpha, lse = wanted
        grad, of_lse = normal(alpha.shape, seed=1), normal(lse.shape, seed=2)
        for given_grad, pair in ((grad, False), ((grad, of_lse), True)):
            keywords = {"log": log, "return_lse": pair, "scale": 0.7}
            lazy = nbfagg.fagg_packed_vjp(given_grad, x, offsets, *dask.compute(alpha, lse), **keywords)
            exact = nbfagg.fagg_packed_vjp(given_grad, a, offsets, alpha, lse, **keywords)
            assert (lazy.chunks, lazy.dtype) == (x.chunks, x.dtype)
            bound = (
                2 * gradient_bound(float) + (abs(alpha[np.isfinite(alpha)]).max() if log else 0)
            ) * 2.0**-52
            assert abs(lazy.compute() - exact).max() <= bound * (abs(grad).sum() + abs(of_lse).max())


def test_packed_rows_with_nan_and_nothing():
    a = normal((30, 3))
    a[4], a[12:20], a[25, 1] = NAN, -INF, INF
    offsets = [0, 8, 12, 20, 30, 30]
    alpha, lse = dask.compute(*nbfagg.fagg_packed(cut(a, 5, 2), offsets, return_lse=True))
    wanted, wanted_lse = nbfagg.fagg_packed(a, offsets, return_lse=True)
    assert apart(alpha, wanted) <= 1
    assert apart(lse, wanted_lse) <= 1


def test_rows_of_chunks():
    found = rows_of(np.array([0, 0, 4, 9, 9]), (3, 3, 0, 3))
    assert [(rows.first, rows.begins, rows.cut, rows.offsets.tolist()) for rows in found] == [
        (0, 2, (1,), [0, 0, 3]),
        (1, 1, (0, 1), [0, 1, 3]),
        (2, 0, (0,), [0, 0]),
        (2, 1, (0,), [0, 3, 3]),
    ]


# --- graphs ---------------------------------------------------------------------------


def test_nothing_is_computed_before_it_is_asked_for():
    def fail(*_, **__):
        raise AssertionError("computed")

    x = da.map_blocks(fail, chunks=((2, 2), (5, 5), (3, 3)), dtype=float, meta=np.empty((0, 0, 0)))
    alpha, lse = nbfagg.fagg(x, return_lse=True, log=True)
    nbfagg.fagg_vjp(alpha, x, alpha, lse, log=True)
    nbfagg.fagg_packed(x, [0, 3, 4])
    with pytest.raises(AssertionError, match="computed"):
        alpha.compute()


def test_a_graph_has_a_few_tasks_a_chunk():
    """And a layer for each step and level of a tree: what is done chunk by chunk is done by Dask alone."""
    x = da.zeros((100, 1000, 100), chunks=(10, 10, 10))
    assert x.npartitions == 10_000
    graph = nbfagg.fagg(x).__dask_graph__()
    assert len(graph.layers) <= 12
    assert 2 * x.npartitions < len(dict(graph)) <= 6 * x.npartitions


def test_nothing_is_merged_where_the_summed_axes_are_whole():
    """Only totals are, one a row: the state of a chunk is that of its tokens."""
    whole, cut = (da.zeros((4, 8, 6), chunks=(4, 2, size)) for size in (6, 3))
    merges = [
        [key for key in dict(nbfagg.fagg(x).__dask_graph__()) if "fagg-merge" in str(key)]
        for x in (whole, cut)
    ]
    assert merges[0] == []
    assert merges[1]


def test_names_follow_from_what_is_computed():
    a = normal((4, 12, 6))
    for chunks in ((2, 12, 6), (2, 5, 4)):
        names = [nbfagg.fagg(cut(a, *chunks), **kw).name for kw in ({}, {}, {"log": True}, {"scale": 0.5})]
        assert names[0] == names[1]
        assert len(set(names)) == 3


def test_no_task_holds_more_than_a_chunk_of_logits(monkeypatch):
    seen = []
    real = nbfagg.State.of.__func__

    def spy(cls, a, **keywords):
        seen.append(a.shape)
        return real(cls, a, **keywords)

    monkeypatch.setattr(nbfagg.State, "of", classmethod(spy))
    a = normal((4, 12, 6, 8))
    nbfagg.fagg(cut(a, 2, 5, 3, 4)).compute()
    assert set(seen) == {(2, 5, 3, 4), (2, 2, 3, 4)}
    assert len(seen) == 2 * 3 * 2 * 2


def test_states_merge_in_a_tree(monkeypatch):
    widths = []
    real = tasks.merged

    def spy(blocks, axis, keepdims):
        widths.append(len(tasks.flattened(blocks)))
        return real(blocks, axis, keepdims)

    monkeypatch.setattr(tasks, "merged", spy)
    a = normal((2, 4, 64))
    for width in (2, 4, 8):
        widths.clear()
        nbfagg.dask.fagg(cut(a, 2, 4, 1), split_every=width).compute()
        assert max(widths) == width
        widths.clear()
        with dask.config.set(split_every=width):
            nbfagg.fagg(cut(a, 2, 4, 1)).compute()
        assert max(widths) == width


def test_a_task_stays_in_its_thread():
    """No team of Numba's threads is started unless it is asked for, whatever the size of a chunk."""
    code = """
import dask, numpy as np, dask.array as da, nbfagg
from nbfagg.cpu import team
size = team.size
def counted(workers, nbytes):
    count = size(workers, nbytes)
    counts.add(count)
    return count
counts, team.size = set(), counted
a = np.zeros((4, 256, 64, 16), np.float32)
for chunks in ((2, 256, 64, 16), (2, 100, 64, 16), (2, 256, 30, 16)):
    x = da.from_array(a, chunks=chunks)
    alpha, lse = nbfagg.fagg(x, return_lse=True)
    dask.compute(alpha, nbfagg.fagg_vjp(alpha, x, alpha, lse), scheduler="threads")
print(counts)
counts.clear()
nbfagg.fagg(da.from_array(a, chunks=(4, 256, 64, 16)), workers=2).compute(scheduler="synchronous")
print(counts)
"""
    assert run_python(code, NUMBA_NUM_THREADS="2") == "{1}\n{2}\n"


# --- what is refused -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "parts", "keywords"),
    [
        (ValueError, ["keep_axis=3", "(2, 3, 4)"], {"keep_axis": 3}),
        (ValueError, ["share an axis"], {"keep_axis": 0}),
        (ValueError, ["scale=0"], {"scale": 0}),
        (TypeError, ["out is a ndarray", "lazy"], {"out": np.zeros((2, 3))}),
        (TypeError, ["log is a str"], {"log": "yes"}),
        (TypeError, ["return_lse is a str"], {"return_lse": "yes"}),
        (ValueError, ["workers=0"], {"workers": 0}),
        (ValueError, ["where has shape (5,)"], {"where": np.ones(5, bool)}),
        (ValueError, ["where has shape (5,)"], {"where": da.ones(5, dtype=bool)}),
        (TypeError, ["where has dtype int64"], {"where": da.ones(4, dtype=int)}),
        (ValueError, ["lengths from 0 to 4"], {"lengths": [0, 4]}),
        (ValueError, ["lengths has shape (3,)"], {"lengths": da.ones(3, dtype=int)}),
        (TypeError, ["lengths has dtype float64"], {"lengths": da.ones(2)}),
        (ValueError, ["lengths", "one kept axis"], {"lengths": da.ones(2, dtype=int), "keep_axis": (1, 2)}),
    ],
)
def test_errors_come_before_anything_is_computed(error, parts, keywords):
    for chunks in ((1, 3, 4), (2, 2, 2)):
        with pytest.raises(error) as caught:
            nbfagg.fagg(da.zeros((2, 3, 4), chunks=chunks), **keywords)
        for part in parts:
            assert part in str(caught.value)


def test_unknown_chunks_are_refused():
    x = da.ones((6, 4), chunks=3)
    unknown = x[x[:, 0] > 0]
    for call in (nbfagg.fagg, lambda a: nbfagg.fagg_vjp(a, a, a, a), lambda a: nbfagg.fagg_packed(a, [0, 6])):
        with pytest.raises(ValueError, match=r"a is a Dask array of shape \(nan, 4\).*compute_chunk_sizes"):
            call(unknown)
    with pytest.raises(ValueError, match=r"where is a Dask array.*unknown"):
        nbfagg.fagg(x, where=unknown > 0)
    assert nbfagg.fagg(unknown.compute_chunk_sizes()).shape == (6, 4)


def test_other_refusals():
    x = da.zeros((6, 4, 3), chunks=2)
    with pytest.raises(TypeError, match="dtype complex128"):
        nbfagg.fagg(x.astype(complex))
    with pytest.raises(TypeError, match="masked array"):
        nbfagg.fagg(da.ma.masked_equal(x, 1))
    with pytest.raises(TypeError, match=r"State\.of: a is a Dask array of shape"):
        nbfagg.State.of(x)
    with pytest.raises(TypeError, match="offsets is a Dask array"):
        nbfagg.fagg_packed(x, da.zeros(3, dtype=int))
    with pytest.raises(ValueError, match="offsets from 0 to 5; want"):
        nbfagg.fagg_packed(x, [0, 5])
    with pytest.raises(ValueError, match=r"grad has shape \(6,\); want \(6, 4\)"):
        nbfagg.fagg_vjp(np.zeros(6), x, np.zeros((6, 4)), np.zeros(6))
    with pytest.raises(ValueError, match=r"lse has shape \(4,\); want \(6,\)"):
        nbfagg.fagg_vjp(np.zeros((6, 4)), x, np.zeros((6, 4)), da.zeros(4))
    with pytest.raises(TypeError, match="want a pair"):
        nbfagg.fagg_vjp(np.zeros((6, 4)), x, np.zeros((6, 4)), np.zeros(6), return_lse=True)
    weights = np.full((6, 4), 0.25)
    with pytest.raises(ValueError, match="alpha holds positive numbers"):
        nbfagg.fagg_vjp(weights, x, weights, np.zeros(6), log=True).compute()
    with pytest.raises(ValueError, match="alpha holds negative numbers"):
        nbfagg.fagg_vjp(weights, x, -weights, np.zeros(6)).compute()
    for chunks in ((2, 4, 3), (6, 2, 3)):
        lengths = da.from_array(np.array([0, 1, 2, 3, 4, 5]), chunks=2)
        with pytest.raises(ValueError, match=r"lengths from .* to 5; want 0 to 4"):
            nbfagg.fagg(x.rechunk(chunks), lengths=lengths).compute()


def test_nothing_of_dask_is_imported_for_arrays():
    code = "import sys, numpy as np, nbfagg; nbfagg.fagg(np.zeros((2, 3))); print('dask' in sys.modules)"
    assert run_python(code) == "False\n"
