"""xarray: `nbfagg.fagg` of a DataArray, its axes named by dimensions, its coordinates kept.

Imported by `nbfagg` when a DataArray shows up. What lies in it, NumPy or Dask, is aggregated as it is.
"""

from __future__ import annotations

from typing import Any

import xarray

import nbfagg
from nbfagg.inputs import as_axes, hashable_axes


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
        A DataArray's dimensions are found by their names: of a mask some of those of `a`, of lengths those of
        the batch. Along each its coordinates have to be those of `a`, in the same order: nothing is aligned.
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
        As `nbfagg.fagg` does, and for names of no dimension, or other coordinates than those of `a`.

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
    axes = _Axes(a, batch_axis, keep_axis)
    found = nbfagg.fagg(a.data, **axes.numbers, **axes.included(where, lengths), **options)
    if not options.get("return_lse"):
        return _labelled(found, a, axes.result)
    return _labelled(found[0], a, axes.result), _labelled(found[1], a, axes.batch)


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
    """Give the gradient by a DataArray's logits, labelled as they are, see `nbfagg.fagg_vjp`.

    DataArrays among the arguments are laid out by the names of their dimensions, as in `fagg`.
    """
    axes = _Axes(a, batch_axis, keep_axis)
    if isinstance(grad, tuple | list):
        names = zip(grad, (axes.result, axes.batch), strict=False)
        grad = tuple(_laid_out("grad", one, a, dims) for one, dims in names) + tuple(grad[2:])
    else:
        grad = _laid_out("grad", grad, a, axes.result)
    alpha, lse = _laid_out("alpha", alpha, a, axes.result), _laid_out("lse", lse, a, axes.batch)
    given = axes.included(where, lengths)
    found = nbfagg.fagg_vjp(grad, a.data, alpha, lse, **axes.numbers, **given, **options)
    return _labelled(found, a, a.dims)


def fagg_packed(a: Any, offsets: Any, **options: Any) -> Any:
    """Aggregate packed rows of a DataArray, see `nbfagg.fagg_packed`; lse has no labels."""
    found = nbfagg.fagg_packed(a.data, _plain(offsets), **options)
    if not options.get("return_lse"):
        return _labelled(found, a, a.dims[:1])
    return _labelled(found[0], a, a.dims[:1]), found[1]


def fagg_packed_vjp(grad: Any, a: Any, offsets: Any, alpha: Any, lse: Any, **options: Any) -> Any:
    """Give the gradient by packed rows of a DataArray, see `nbfagg.fagg_packed_vjp`."""
    tokens = a.dims[:1]
    if isinstance(grad, tuple | list):
        grad = tuple(_laid_out("grad", one, a, tokens) for one in grad[:1]) + tuple(map(_plain, grad[1:]))
    else:
        grad = _laid_out("grad", grad, a, tokens)
    given = grad, a.data, _plain(offsets), _laid_out("alpha", alpha, a, tokens), _plain(lse)
    return _labelled(nbfagg.fagg_packed_vjp(*given, **options), a, a.dims)


def state_of(
    a: Any, *, batch_axis: Any = 0, keep_axis: Any = 1, where: Any = None, lengths: Any = None, **options: Any
) -> nbfagg.State:
    """Take in a chunk of a DataArray's logits, see `nbfagg.State.of`; states have no labels."""
    axes = _Axes(a, batch_axis, keep_axis)
    return nbfagg.State.of(a.data, **axes.numbers, **axes.included(where, lengths), **options)


class _Axes:
    """The axes of a call, by number and by name, each in the order of `a`."""

    def __init__(self, a: Any, batch_axis: Any, keep_axis: Any) -> None:
        self.a = a
        self.numbers = {
            name: hashable_axes(name, _numbers(name, axes, a), a.shape)
            for name, axes in (("batch_axis", batch_axis), ("keep_axis", keep_axis))
        }
        batch, keep = as_axes(a.shape, **self.numbers, limited=False)
        self.batch = tuple(a.dims[axis] for axis in batch)
        self.result = tuple(a.dims[axis] for axis in sorted(batch + keep))

    def included(self, where: Any, lengths: Any) -> dict[str, Any]:
        """Give the arguments that say what is included."""
        return {
            "where": _laid_out("where", where, self.a, self.a.dims, some=True),
            "lengths": _laid_out("lengths", lengths, self.a, self.batch),
        }


def _numbers(name: str, axes: Any, a: Any) -> Any:
    """Give axes by their numbers where they are named."""
    if isinstance(axes, tuple | list):
        return tuple(_numbers(name, axis, a) for axis in axes)
    if not isinstance(axes, str):
        return axes
    if axes not in a.dims:
        raise ValueError(f"nbfagg: {name}={axes!r}; want dimensions of a, which has {a.dims}")
    return a.dims.index(axes)


def _plain(value: Any) -> Any:
    """Give what lies in a DataArray."""
    return value.data if isinstance(value, xarray.DataArray) else value


def _laid_out(name: str, value: Any, a: Any, dims: tuple[Any, ...], *, some: bool = False) -> Any:
    """Give what lies in a DataArray, its axes in the order of `dims`; of some, the others have size 1."""
    if not isinstance(value, xarray.DataArray):
        return value
    if not set(value.dims) <= set(dims) or (len(value.dims) < len(dims) and not some):
        raise ValueError(f"nbfagg: {name} has dimensions {value.dims}; want {'some of ' * some}{dims}")
    for dim in value.dims:
        mine, its = a.indexes.get(dim), value.indexes.get(dim)
        # Of another size, the call says so.
        if mine is not None and its is not None and len(mine) == len(its) and not mine.equals(its):
            raise ValueError(
                f"nbfagg: {name} has other coordinates along {dim!r} than a, or in another order; "
                f"want the same ({name}.reindex_like(a))"
            )
    turned = value.transpose(*(dim for dim in dims if dim in value.dims))
    return turned.data[tuple(slice(None) if dim in turned.dims else None for dim in dims)]


def _labelled(data: Any, a: Any, dims: tuple[Any, ...]) -> Any:
    """Give a result with what `a` says about the dimensions that it has."""
    gone = [dim for dim in a.dims if dim not in dims]
    coords = a.coords.to_dataset().drop_dims(gone, errors="ignore").coords
    result = xarray.DataArray(data, coords=coords, dims=dims, attrs=a.attrs)
    # Else a Dask array without a name would give its own.
    result.name = a.name
    return result
