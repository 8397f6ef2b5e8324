"""States of CuPy's arrays, and Dask's graphs over chunks of them, on the simulated GPU."""

import sys

import fakecupy
import numpy as np
import pytest
from test_cuda_host import COMPILER, gpu, standin  # noqa: F401

import nbfagg
from nbfagg import reference

da = pytest.importorskip("dask.array")
import dask  # noqa: E402

pytestmark = pytest.mark.skipif(COMPILER is None, reason="no C compiler")
NAN, INF = np.nan, np.inf
# Relative errors of alpha: 2.1 units of float32 (2**-23; 4 are promised), 4.5 of float64 (3, and the
# roundings of merged states), 1.2 of float16's half unit (its own rounding, and that of a float32).
BOUND = {np.float32: 2.5e-7, np.float64: 1e-15, np.float16: 6e-4}
every_dtype = pytest.mark.parametrize("dtype", BOUND)


@pytest.fixture(autouse=True)
def cupy(gpu, monkeypatch):  # noqa: F811
    monkeypatch.setitem(sys.modules, "cupy", fakecupy.module())
    with dask.config.set(scheduler="synchronous"):
        yield sys.modules["cupy"]


def normal(*shape, dtype=np.float32, spread=3.0, seed=0):
    return np.random.default_rng([seed, *shape]).normal(0, spread, shape).astype(dtype)


def on_gpu(a, chunks=None):
    """Give an array on the GPU; with chunks, a Dask array of those."""
    a = sys.modules["cupy"].asarray(a)
    return a if chunks is None else da.from_array(a, chunks=chunks, name=False)


def values_of(result):
    """Compute; everything has to be on the GPU."""
    result = result.compute()
    assert type(result) is fakecupy.ndarray
    return result.get()


def assert_near(found, exact, dtype, **keywords):
    np.testing.assert_allclose(
        found.astype(float), np.asarray(exact, float), rtol=BOUND[dtype], atol=1e-7, **keywords
    )


# --- states ---------------------------------------------------------------------------


@every_dtype
@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((3, 5, 2, 34), {}),
        ((3, 5, 7), {}),
        ((5, 3, 40), {"batch_axis": 1, "keep_axis": 0}),
        ((4, 3, 5), {"batch_axis": 2, "keep_axis": 0}),
        ((2, 3, 260), {}),  # tokens that are split
        ((4, 6), {"batch_axis": (), "keep_axis": 1}),
        ((2, 0, 3), {}),
        ((2, 3, 0), {}),
    ],
)
def test_states(shape, axes, dtype):
    a = normal(*shape, dtype=dtype)
    state, plain = nbfagg.State.of(on_gpu(a), **axes), nbfagg.State.of(a, **axes)
    assert (state.shape, state.dtype, state.kind, state.batch_dims, state.framework) == (
        *(plain.shape, plain.dtype, plain.kind, plain.batch_dims),
        "cupy",
    )
    np.testing.assert_array_equal(state.cells[..., 0], plain.cells[..., 0])
    np.testing.assert_allclose(state.cells[..., 1], plain.cells[..., 1], rtol=max(BOUND[dtype], 1e-15) / 2)
    result = state.finalize()
    assert type(result) is type(state.lse) is fakecupy.ndarray
    assert_near(result.get(), reference.oracle(a, **axes), dtype)


@pytest.mark.parametrize("splits", [1, 2])
def test_states_of_special_numbers(splits):
    a = normal(6, 4, 250 * splits)
    a[0, 1, -1], a[1, 2, 3], a[2, 0] = NAN, INF, -INF
    a[3, 1, 5], a[3, 1, -2] = NAN, INF
    a[4] = -INF
    state = nbfagg.State.of(on_gpu(a))
    for log in (False, True):
        assert_near(state.finalize(log).get(), nbfagg.fagg(a, log=log), np.float32)
    np.testing.assert_allclose(state.lse.get(), nbfagg.fagg(a, return_lse=True)[1], rtol=1e-6)
    # Merged with the same it lasts.
    both = state.merge(state)
    np.testing.assert_allclose(both.lse.get()[:5], [NAN, INF, both.lse.get()[2], NAN, -INF])


@pytest.mark.parametrize("scale", [1.0, 0.37, 1e3])
@every_dtype
def test_states_at_the_edges_of_reference_points(scale, dtype):
    # Where the product with log2 e, rounded to the arithmetic's type, comes to lie on the other side of an
    # even number, or of where logits count as far off.
    rate = scale * np.log2(np.e)
    edges = [2.0, 4.0, 10.0, 64.0, 1024.0, 4096.0] + [2.0**18] * (dtype is not np.float16 or scale > 100)
    a = np.array([[e / rate, np.nextafter(dtype(e / rate), dtype(INF)), -e / rate] for e in edges])
    a = np.where(abs(a) < np.finfo(dtype).max, a, 1.0).astype(dtype)
    parts = [nbfagg.State.of(on_gpu(a[:, i : i + 1, None]), scale=scale) for i in range(3)]
    state = parts[0].merge(parts[1], "keep").merge(parts[2], "keep")
    exact, lse = reference.oracle(a[..., None], scale=scale, return_lse=True)
    assert_near(state.finalize().get(), exact, dtype)
    np.testing.assert_allclose(state.lse.get(), np.asarray(lse, float), rtol=BOUND[dtype])


def test_states_with_masks_and_lengths():
    a = normal(3, 5, 2, 4)
    where = np.random.default_rng(1).random((3, 1, 2, 4)) < 0.7
    lengths = np.array([5, 2, 0])
    state = nbfagg.State.of(on_gpu(a), where=on_gpu(where), lengths=on_gpu(lengths), scale=0.5)
    exact = reference.oracle(a, where=where, lengths=lengths, scale=0.5)
    assert_near(state.finalize().get(), exact, np.float32)


def test_a_state_waits_for_its_stream(gpu):  # noqa: F811
    nbfagg.State.of(on_gpu(normal(2, 3, 40)))
    assert {launch[5] for launch in gpu} == {7}
    gpu.library.standin_fail(b"cuStreamSynchronize", 700)
    with pytest.raises(nbfagg.cuda.driver.DriverError, match="copying"):
        nbfagg.State.of(on_gpu(normal(2, 3, 40)))


# --- graphs ---------------------------------------------------------------------------

CUTS = [(2, 5, 2, 20), (3, 2, 2, 20), (3, 5, 1, 20), (3, 5, 2, 7), (2, 3, 1, 13)]


@every_dtype
@pytest.mark.parametrize("chunks", CUTS)
def test_fagg(chunks, dtype):
    a = normal(3, 5, 2, 20, dtype=dtype)
    x = on_gpu(a, chunks)
    for log in (False, True):
        alpha, lse = nbfagg.fagg(x, log=log, return_lse=True)
        assert type(alpha._meta) is type(lse._meta) is fakecupy.ndarray
        exact, exact_lse = reference.oracle(a, log=log, return_lse=True)
        assert_near(values_of(alpha), exact, dtype)
        assert_near(values_of(lse), exact_lse, np.float32 if dtype is np.float16 else dtype)


@pytest.mark.parametrize("chunks", CUTS)
def test_masks_and_lengths(chunks):
    a = normal(3, 5, 2, 20)
    where = np.random.default_rng(1).random(a.shape) < 0.7
    lengths = np.array([5, 3, 0])
    exact = reference.oracle(a, where=where, lengths=lengths)
    x = on_gpu(a, chunks)
    for mask in (on_gpu(where), on_gpu(where, (1, 5, 2, 4))):
        for counts in (lengths, on_gpu(lengths), da.from_array(lengths, chunks=1), on_gpu(lengths, 2)):
            assert_near(values_of(nbfagg.fagg(x, where=mask, lengths=counts)), exact, np.float32)
    with pytest.raises(ValueError, match=r"lengths from . to 9; want 0 to 5"):
        nbfagg.fagg(x, lengths=da.from_array(np.array([5, 9, 0]), chunks=3)).compute()


@pytest.mark.parametrize("log", [False, True])
@every_dtype
@pytest.mark.parametrize("chunks", CUTS)
def test_gradient(chunks, dtype, log):
    a = normal(3, 5, 2, 20, dtype=dtype)
    lengths = np.array([5, 3, 0])
    alpha, lse = nbfagg.fagg(a, lengths=lengths, log=log, return_lse=True)
    grad, of_lse = normal(3, 5, dtype=dtype, seed=1), normal(3, dtype=lse.dtype.type, seed=2)
    x = on_gpu(a, chunks)
    found = nbfagg.fagg_vjp(
        (on_gpu(grad), on_gpu(of_lse)), x, on_gpu(alpha, 2), on_gpu(lse, 2), lengths=lengths, log=log,
        return_lse=True,
    )  # fmt: skip
    assert type(found._meta) is fakecupy.ndarray
    assert found.chunks == x.chunks
    exact, largest = reference.fagg_vjp_terms(
        grad.astype(float), a.astype(float), lengths=lengths, log=log, grad_lse=of_lse.astype(float)
    )
    # Alpha, or its logarithm, came rounded.
    bound = 8 * BOUND[dtype] * (1 + (abs(alpha[np.isfinite(alpha)]).max() if log else 0))
    error = abs(values_of(found).astype(float) - np.asarray(exact, float))
    assert (error <= bound * np.asarray(largest, float) + 1e-7).all()


@pytest.mark.parametrize(
    ("shape", "chunks", "axes"),
    [
        # Parts of grad and alpha, and of the gradient of lse, that do not lie in one piece.
        ((4, 6, 5, 3), (4, 2, 5, 3), {"batch_axis": (0, 1), "keep_axis": 2}),
        ((5, 4, 6, 3), (5, 4, 2, 3), {"batch_axis": (1, 2), "keep_axis": 0}),
        ((5, 3, 6), (2, 3, 6), {"batch_axis": 1, "keep_axis": 0}),
        ((5, 3, 6), (5, 2, 6), {"batch_axis": 1, "keep_axis": 0}),
        ((5, 3, 6), (5, 3, 6), {"batch_axis": (), "keep_axis": 0}),
    ],
)
def test_gradient_in_pieces_of_any_order(shape, chunks, axes):
    a = normal(*shape)
    alpha, lse = nbfagg.fagg(a, return_lse=True, **axes)
    # Another type, and another order.
    grad = np.asfortranarray(normal(*alpha.shape, dtype=np.float64, seed=1))
    of_lse = normal(*lse.shape, seed=2) if lse.shape else np.float32(0.3) * np.ones(())
    found = nbfagg.fagg_vjp(
        (on_gpu(grad), on_gpu(of_lse)), on_gpu(a, chunks), on_gpu(alpha), on_gpu(lse), return_lse=True, **axes
    )
    wide = a.astype(float)
    exact = nbfagg.fagg_vjp(
        (grad, of_lse), wide, *nbfagg.fagg(wide, return_lse=True, **axes), return_lse=True, **axes
    )
    np.testing.assert_allclose(values_of(found), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunks", [(12, 2, 9), (5, 2, 9), (5, 1, 4)])
def test_packed(chunks):
    offsets = np.array([0, 4, 4, 10, 12])
    a = normal(12, 2, 9)
    x = on_gpu(a, chunks)
    alpha, lse = nbfagg.fagg_packed(x, offsets, return_lse=True)
    exact, exact_lse = reference.fagg_packed(a, offsets, return_lse=True)
    assert_near(values_of(alpha), exact, np.float32)
    assert_near(values_of(lse), exact_lse, np.float32)
    grad = normal(12, seed=1)
    found = nbfagg.fagg_packed_vjp(on_gpu(grad), x, offsets, alpha, lse)
    plain = nbfagg.fagg_packed_vjp(grad.astype(float), a.astype(float), offsets, *(
        nbfagg.fagg_packed(a.astype(float), offsets, return_lse=True)
    ))  # fmt: skip
    np.testing.assert_allclose(values_of(found), plain, rtol=1e-5, atol=1e-6)


def test_what_is_on_the_other_side_is_refused():
    a = normal(3, 5, 4)
    x, y, alpha = on_gpu(a, (3, 2, 4)), da.from_array(a, chunks=(3, 2, 4)), nbfagg.fagg(a)
    mask = np.ones(a.shape, bool)
    with pytest.raises(TypeError, match=r"where is on the host, a of shape \(3, 5, 4\) on a GPU"):
        nbfagg.fagg(x, where=mask)
    with pytest.raises(TypeError, match=r"where is on a GPU, a of shape .* on the host"):
        nbfagg.fagg(y, where=on_gpu(mask))
    with pytest.raises(TypeError, match="grad is on the host"):
        nbfagg.fagg_vjp(alpha, x, on_gpu(alpha), on_gpu(alpha[:, 0]))
    with pytest.raises(NotImplementedError, match=r"State.of takes CuPy's arrays"):
        nbfagg.State.of(nbfagg.cuda.arrays.DeviceArray.of(a))
