"""DataArrays: axes by name, coordinates kept, on NumPy and on Dask."""

import numpy as np
import pytest

import nbfagg

xr = pytest.importorskip("xarray")
da = pytest.importorskip("dask.array")

DIMS = ("token", "head", "batch", "unit")


def logits(chunks=None):
    data = np.random.default_rng(0).normal(0, 3, (12, 4, 3, 5))
    if chunks:
        data = da.from_array(data, chunks=chunks)
    coords = {
        "token": np.arange(12) * 10,
        "batch": ["x", "y", "z"],
        "word": ("token", [f"w{i}" for i in range(12)]),
        "where_from": (("batch", "token"), np.arange(36).reshape(3, 12)),
        "of_heads": ("head", range(4)),
        "both": (("head", "token"), np.zeros((4, 12))),
        "model": "mini",
    }
    return xr.DataArray(data, dims=DIMS, coords=coords, name="logits", attrs={"units": "nat"})


@pytest.mark.parametrize("chunks", [None, (5, 4, 2, 5), (12, 2, 3, 2)])
def test_axes_by_name_and_coordinates_kept(chunks):
    a = logits(chunks)
    wanted, wanted_lse = nbfagg.fagg(logits().values, batch_axis=2, keep_axis=0, return_lse=True, log=True)
    alpha, lse = nbfagg.fagg(a, batch_axis="batch", keep_axis="token", return_lse=True, log=True)
    assert isinstance(alpha, xr.DataArray)
    assert isinstance(alpha.data, np.ndarray if chunks is None else da.Array)
    assert (alpha.dims, lse.dims) == (("token", "batch"), ("batch",))
    np.testing.assert_allclose(alpha.values, wanted, rtol=0, atol=1e-15)
    np.testing.assert_allclose(lse.values, wanted_lse, rtol=1e-15)
    assert set(alpha.coords) == {"token", "batch", "word", "where_from", "model"}
    assert set(lse.coords) == {"batch", "model"}
    for name in alpha.coords:
        xr.testing.assert_equal(alpha.coords[name].variable, a.coords[name].variable)
        assert (name in alpha.indexes) == (name in a.indexes)
    assert (alpha.name, alpha.attrs) == ("logits", {"units": "nat"})
    assert alpha.sel(token=30, batch="y").values == alpha.values[3, 1]


def test_several_axes_numbers_and_none():
    a = logits()
    found = nbfagg.fagg(a, batch_axis=("batch", -1), keep_axis=["token"])
    np.testing.assert_array_equal(found, nbfagg.fagg(a.values, batch_axis=(2, 3), keep_axis=0))
    assert found.dims == ("token", "batch", "unit")
    assert nbfagg.fagg(a, batch_axis=(), keep_axis="head").dims == ("head",)
    both = nbfagg.fagg(a)  # by number, as for arrays
    assert both.dims == ("token", "head")
    np.testing.assert_array_equal(both, nbfagg.fagg(a.values))


@pytest.mark.parametrize("chunks", [None, (5, 2, 2, 5)])
def test_masks_and_lengths_by_name(chunks):
    a = logits(chunks)
    rng = np.random.default_rng(1)
    mask = rng.random((3, 12)) < 0.6
    lengths = np.array([12, 0, 5])
    axes = {"batch_axis": "batch", "keep_axis": "token"}
    wanted = nbfagg.fagg(
        logits().values, batch_axis=2, keep_axis=0, where=mask.T[:, None, :, None], lengths=lengths
    )
    where, counts = xr.DataArray(mask, dims=("batch", "token")), xr.DataArray(lengths, dims="batch")
    found = nbfagg.fagg(a, where=where, lengths=counts, **axes)
    np.testing.assert_allclose(found, wanted, rtol=1e-15)
    found = nbfagg.fagg(a, where=mask.T[:, None, :, None], lengths=lengths, **axes)
    np.testing.assert_allclose(found, wanted, rtol=1e-15)
    state = nbfagg.State.of(logits(), where=where, lengths=counts, **axes)
    np.testing.assert_allclose(state.finalize(), wanted, rtol=1e-15)
    with pytest.raises(ValueError, match="where has dimensions"):
        nbfagg.fagg(a, where=xr.DataArray(mask, dims=("batch", "time")), **axes)


def test_what_is_given_lies_by_name():
    """Whatever the order of its dimensions: a square one would show no other shape."""
    rng = np.random.default_rng(2)
    a = xr.DataArray(rng.normal(size=(3, 3, 4)), dims=("batch", "token", "head"))
    grad = xr.DataArray(rng.normal(size=(3, 3)), dims=("batch", "token"))
    alpha, lse = nbfagg.fagg(a, return_lse=True)
    wanted = nbfagg.fagg_vjp(grad.values, a.values, alpha.values, lse.values)
    np.testing.assert_array_equal(nbfagg.fagg_vjp(grad, a, alpha, lse), wanted)
    np.testing.assert_array_equal(nbfagg.fagg_vjp(grad.T, a, alpha.T, lse), wanted)
    both = nbfagg.fagg_vjp((grad.T, lse * 0), a, alpha.T, lse, return_lse=True)
    np.testing.assert_allclose(both, wanted, rtol=1e-15)
    for wrong in (grad.rename(token="time"), grad[0]):
        with pytest.raises(ValueError, match=r"grad has dimensions .*; want \('batch', 'token'\)"):
            nbfagg.fagg_vjp(wrong, a, alpha, lse)
    for dim in ("token", "time"):
        with pytest.raises(ValueError, match=rf"lengths has dimensions \('{dim}',\); want \('batch',\)"):
            nbfagg.fagg(a, lengths=xr.DataArray([1, 2, 3], dims=dim))


def test_coordinates_have_to_agree():
    a = logits()
    axes = {"batch_axis": "batch", "keep_axis": "token"}
    lengths = xr.DataArray([12, 0, 5], dims="batch", coords={"batch": ["x", "y", "z"]})
    mask = xr.DataArray(np.arange(12) < 7, dims="token", coords={"token": np.arange(12) * 10})
    wanted = nbfagg.fagg(a.values, batch_axis=2, keep_axis=0, lengths=lengths.values)
    np.testing.assert_array_equal(nbfagg.fagg(a, lengths=lengths, **axes), wanted)
    alpha, lse = nbfagg.fagg(a, where=mask, return_lse=True, **axes)
    turned = {"lengths": lengths[::-1], "where": mask[::-1]}
    for name, value in (*turned.items(), ("where", mask.assign_coords(token=np.arange(12)))):
        with pytest.raises(ValueError, match=f"{name} has other coordinates along"):
            nbfagg.fagg(a, **{name: value}, **axes)
        with pytest.raises(ValueError, match=f"{name} has other coordinates along"):
            nbfagg.State.of(a, **{name: value}, **axes)
    with pytest.raises(ValueError, match="grad has other coordinates along 'token'"):
        nbfagg.fagg_vjp(alpha[::-1], a, alpha, lse, where=mask, **axes)
    found = nbfagg.fagg(a, where=turned["where"].reindex_like(a), **axes)
    np.testing.assert_array_equal(found, alpha)


@pytest.mark.parametrize("chunks", [None, (5, 2, 2, 5)])
def test_gradients_and_packed_rows(chunks):
    a, plain = logits(chunks), logits().values
    axes = {"batch_axis": "batch", "keep_axis": "token"}
    alpha, lse = nbfagg.fagg(a, return_lse=True, **axes)
    found = nbfagg.fagg_vjp((alpha * 2, lse), a, alpha, lse, return_lse=True, **axes)
    assert found.dims == a.dims
    assert set(found.coords) == set(a.coords)
    numbers = {"batch_axis": 2, "keep_axis": 0}
    weights, sums = nbfagg.fagg(plain, return_lse=True, **numbers)
    wanted = nbfagg.fagg_vjp((weights * 2, sums), plain, weights, sums, return_lse=True, **numbers)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-14)

    offsets = [0, 5, 5, 12]
    packed, rows = nbfagg.fagg_packed(a, xr.DataArray(offsets), return_lse=True)
    np.testing.assert_allclose(packed, nbfagg.fagg_packed(plain, offsets), rtol=1e-15)
    assert packed.dims == ("token",)
    assert set(packed.coords) == {"token", "word", "model"}
    assert nbfagg.fagg_packed(a, offsets).identical(packed) or chunks
    found = nbfagg.fagg_packed_vjp(packed, a, offsets, packed, rows)
    weights, sums = nbfagg.fagg_packed(plain, offsets, return_lse=True)
    wanted = nbfagg.fagg_packed_vjp(weights, plain, offsets, weights, sums)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-14)


def test_apply_ufunc():
    """The general way of xarray, whose core dimensions come last."""
    for chunks in (None, {"token": 12, "head": 4, "batch": 1, "unit": 5}):
        a = logits(chunks and tuple(chunks.values()))
        found = xr.apply_ufunc(
            nbfagg.fagg,
            a,
            input_core_dims=[["token", "head", "unit"]],
            output_core_dims=[["token"]],
            kwargs={"batch_axis": 0, "keep_axis": 1},
            dask="parallelized",
            output_dtypes=[a.dtype],
        )
        assert found.dims == ("batch", "token")
        wanted = nbfagg.fagg(logits().values, batch_axis=2, keep_axis=0)
        np.testing.assert_allclose(found.values, wanted.T, rtol=1e-15)
        assert "word" in found.coords


def test_what_is_refused():
    a = logits()
    with pytest.raises(ValueError, match=r"keep_axis='time'; want dimensions of a, which has \('token'"):
        nbfagg.fagg(a, batch_axis="batch", keep_axis="time")
    with pytest.raises(ValueError, match="share an axis"):
        nbfagg.fagg(a, batch_axis="batch", keep_axis="batch")
    with pytest.raises(ValueError, match="out of range"):
        nbfagg.fagg(a, keep_axis=4)
    with pytest.raises(TypeError, match="complex128"):
        nbfagg.fagg(a.astype(complex))
