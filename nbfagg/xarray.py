"""xarray: `nbfagg.fagg` of a DataArray, its axes named by dimensions, its coordinates kept.

Imported by `nbfagg` when a DataArray shows up. What lies in it, NumPy or Dask, is aggregated as it is.
"""

from __future__ import annotations

from typing import Any

import xarray

import nbfagg


def fagg(
    a: Any, *, batch_axis: Any = 0, keep_axis: Any = 1, where: Any = None, lengths: Any = None, **options: Any
) -> Any:
    """Aggregate a DataArray's logits, see `nbfagg.fagg`.

    Parameters
    ----------
    a : xarray.DataArray
        Logits.
    batch_axis, keep_axis : str, int, or a tuple of them
        Names of dimensions, or axes.
    where, lengths : array_like or xarray.DataArray, optional
        A DataArray's dimensions are found by their names.
    **options
        As in `nbfagg.fagg`.

    Returns
    -------
    alpha : xarray.DataArray
        With the name, the attributes, and those coordinates of `a` that have no dimension which is gone.
    lse : xarray.DataArray
        With ``return_lse=True``, the same on the batch dimensions.

    Raises
    ------
    TypeError, ValueError
        As `nbfagg.fagg` does, and for names of no dimension.

    Examples
    --------
    >>> import numpy as np
    >>> import xarray as xr
    >>> import nbfagg
    >>> a = xr.DataArray(np.zeros((2, 4, 3)), dims=("batch", "token", "head"), coords={"token": list("wxyz")})
    >>> alpha = nbfagg.fagg(a, batch_axis="batch", keep_axis="token")
    >>> alpha.dims, alpha.sel(token="x").values
    (('batch', 'token'), array([0.25, 0.25]))
    """
    batch, keep = _axes("batch_axis", batch_axis, a), _axes("keep_axis", keep_axis, a)
    found = nbfagg.fagg(
        a.data,
        batch_axis=batch,
        keep_axis=keep,
        where=_laid_out("where", where, a),
        lengths=_plain(lengths),
        **options,
    )
    # The call has checked the axes.
    rows = _dims(a, batch)
    kept = _dims(a, _several(batch) + _several(keep))
    if not options.get("return_lse"):
        return _labelled(found, a, kept)
    return _labelled(found[0], a, kept), _labelled(found[1], a, rows)


def fagg_vjp(
    grad: Any,
    a: Any,
    alpha: Any,
    lse: Any,
    *,
    batch_axis: Any = 0,
    keep_axis: Any = 1,
    where: Any = None,
    lengths: Any = None,
    **options: Any,
) -> Any:
    """Give the gradient by a DataArray's logits, labelled as they are, see `nbfagg.fagg_vjp`."""
    grad = tuple(map(_plain, grad)) if isinstance(grad, tuple | list) else _plain(grad)
    found = nbfagg.fagg_vjp(
        *(grad, a.data, _plain(alpha), _plain(lse)),
        batch_axis=_axes("batch_axis", batch_axis, a),
        keep_axis=_axes("keep_axis", keep_axis, a),
        where=_laid_out("where", where, a),
        lengths=_plain(lengths),
        **options,
    )
    return _labelled(found, a, a.dims)


def fagg_packed(a: Any, offsets: Any, **options: Any) -> Any:
    """Aggregate packed rows of a DataArray, see `nbfagg.fagg_packed`; lse has no labels."""
    found = nbfagg.fagg_packed(a.data, _plain(offsets), **options)
    if not options.get("return_lse"):
        return _labelled(found, a, a.dims[:1])
    return _labelled(found[0], a, a.dims[:1]), found[1]


def fagg_packed_vjp(grad: Any, a: Any, offsets: Any, alpha: Any, lse: Any, **options: Any) -> Any:
    """Give the gradient by packed rows of a DataArray, see `nbfagg.fagg_packed_vjp`."""
    grad = tuple(map(_plain, grad)) if isinstance(grad, tuple | list) else _plain(grad)
    given = grad, a.data, _plain(offsets), _plain(alpha), _plain(lse)
    return _labelled(nbfagg.fagg_packed_vjp(*given, **options), a, a.dims)


def state_of(
    a: Any, *, batch_axis: Any = 0, keep_axis: Any = 1, where: Any = None, lengths: Any = None, **options: Any
) -> nbfagg.State:
    """Take in a chunk of a DataArray's logits, see `nbfagg.State.of`; states have no labels."""
    return nbfagg.State.of(
        a.data,
        batch_axis=_axes("batch_axis", batch_axis, a),
        keep_axis=_axes("keep_axis", keep_axis, a),
        where=_laid_out("where", where, a),
        lengths=_plain(lengths),
        **options,
    )


def _axes(name: str, axes: Any, a: Any) -> Any:
    """Give axes by their numbers where they are named."""
    if isinstance(axes, tuple | list):
        return tuple(_axes(name, axis, a) for axis in axes)
    if not isinstance(axes, str):
        return axes
    if axes not in a.dims:
        raise ValueError(f"nbfagg: {name}={axes!r}; want dimensions of a, which has {a.dims}")
    return a.dims.index(axes)


def _several(axes: Any) -> tuple[int, ...]:
    return axes if isinstance(axes, tuple) else (axes,)


def _dims(a: Any, axes: Any) -> tuple[Any, ...]:
    """Give the names of axes, in the order of `a`."""
    return tuple(a.dims[axis] for axis in sorted(axis % a.ndim for axis in _several(axes)))


def _plain(value: Any) -> Any:
    """Give what lies in a DataArray."""
    return value.data if isinstance(value, xarray.DataArray) else value


def _laid_out(name: str, value: Any, a: Any) -> Any:
    """Give a mask with the dimensions of `a`, by name; those that it has not have size 1."""
    if not isinstance(value, xarray.DataArray):
        return value
    if not set(value.dims) <= set(a.dims):
        raise ValueError(f"nbfagg: {name} has dimensions {value.dims}; want some of {a.dims}")
    turned = value.transpose(*(dim for dim in a.dims if dim in value.dims))
    return turned.data[tuple(slice(None) if dim in turned.dims else None for dim in a.dims)]


def _labelled(data: Any, a: Any, dims: tuple[Any, ...]) -> Any:
    """Give a result with what `a` says about the dimensions that it has."""
    gone = [dim for dim in a.dims if dim not in dims]
    coords = a.coords.to_dataset().drop_dims(gone, errors="ignore").coords
    return xarray.DataArray(data, coords=coords, dims=dims, name=a.name, attrs=a.attrs)
