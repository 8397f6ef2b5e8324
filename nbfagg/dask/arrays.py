"""Dask arrays checked, and what belongs to them cut like them; nothing is computed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.utils import is_cupy_type

from nbfagg import inputs


@dataclass(frozen=True)
class Call:
    """What `fagg` was called with, checked: indices are those of the axes of `a`."""

    a: Any
    batch: tuple[int, ...]
    keep: tuple[int, ...]
    summed: tuple[int, ...]
    options: dict[str, Any]  # of each chunk's call: axes, scale, workers
    dtype: np.dtype[Any]  # of the result
    kind: np.dtype[Any]  # of the arithmetic
    where: Any  # a Dask array cut like `a`, or None
    lengths: Any  # a Dask array cut like the batch axis, or None

    @property
    def result(self) -> tuple[int, ...]:
        """The axes of the result."""
        return tuple(sorted(self.batch + self.keep))

    @property
    def given(self) -> np.dtype[Any]:
        """That in which a gradient's kernel gets what comes with the logits."""
        return given_dtype(self.a, self.dtype, self.kind)

    @property
    def lse_dtype(self) -> np.dtype[Any]:
        """That of the log-sum-exp."""
        return lse_dtype(self.dtype)

    def is_cut(self, axes: tuple[int, ...]) -> bool:
        """Say whether one of these axes is cut into chunks."""
        return any(self.a.numblocks[axis] > 1 for axis in axes)

    def mask_axes(self) -> tuple[int, ...]:
        """Give the axes of the mask, the last ones of `a`."""
        return tuple(range(self.a.ndim))[self.a.ndim - (0 if self.where is None else self.where.ndim) :]


def checked(
    a: Any,
    batch_axis: Any,
    keep_axis: Any,
    where: Any,
    lengths: Any,
    scale: Any,
    out: Any,
    workers: Any,
) -> Call:
    """Check the arguments of a call, as far as they are known before anything is computed."""
    like = check_logits(a)
    scale, widened = inputs.as_scale(scale, a.dtype)
    batch, keep = inputs.as_axes(a.shape, batch_axis, keep_axis, lengths is not None)
    workers = share(workers)
    check_no_out(out)
    dtype, kind = dtypes_of(a, widened)
    summed = tuple(axis for axis in range(a.ndim) if axis not in batch + keep)
    options = {"batch_axis": batch, "keep_axis": keep, "scale": scale, "workers": workers}
    if where is not None:
        where = as_mask(where, a, like)
    if lengths is not None:
        if not isinstance(lengths, da.Array):
            lengths = inputs.as_lengths(on_host(lengths), a.shape, batch, keep)
        else:
            _check_known("lengths", lengths)
            # Their values are looked at chunk by chunk.
            inputs.as_lengths(np.zeros(lengths.shape, lengths.dtype), a.shape, batch, keep)
        lengths = _cut(lengths, tuple(a.chunks[axis] for axis in batch))
    return Call(a, batch, keep, summed, options, dtype, kind, where, lengths)


def check_logits(a: Any) -> npt.NDArray[Any]:
    """Refuse logits whose shape is unknown or whose dtype is not taken; give an array that is like them."""
    _check_known("a", a)
    # One number, seen everywhere: nothing of the size of `a`.
    like: npt.NDArray[Any] = np.broadcast_to(np.zeros((), a.dtype), a.shape)
    # Other kinds of chunks check themselves.
    if isinstance(a._meta, np.ma.MaskedArray | np.matrix):
        inputs.as_array(a._meta)
    return inputs.as_array(like)


def _check_known(name: str, array: Any) -> None:
    if any(math.isnan(size) for size in array.shape):
        raise ValueError(
            f"nbfagg: {name} is a Dask array of shape {array.shape}, with chunks of unknown size; want known "
            f"ones ({name}.compute_chunk_sizes() finds them out)"
        )


def _check_place(name: str, array: Any, a: Any) -> None:
    """Refuse an array of the logits' size, or the result's, on the host beside logits on a GPU."""
    there, here = is_cupy_type(a._meta), is_cupy_type(getattr(array, "_meta", array))
    if there != here:
        places = "the host", "a GPU"
        raise TypeError(
            f"nbfagg: {name} is on {places[here]}, a of shape {a.shape} on {places[there]}; want both on the "
            "same side (nothing of that size is moved)"
        )


def on_host(array: Any) -> Any:
    """Give what may be CuPy's as NumPy's, a copy."""
    return array.get() if is_cupy_type(array) else array


def check_no_out(out: Any) -> None:
    """Refuse `out`: a lazy result has no place yet."""
    if out is not None:
        raise TypeError(
            f"nbfagg: out is a {type(out).__name__}; want None for a Dask array, whose result is lazy "
            "(dask.array.store writes it)"
        )


def share(workers: Any) -> int:
    """Give how many threads a task may use.

    Dask runs as many tasks at a time as a worker has threads, so that one each keeps every core busy.
    """
    found = inputs.as_workers(workers)
    return 1 if found is None else found


def dtypes_of(a: Any, widened: bool) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """Give the dtypes of the result and of the arithmetic."""
    none = (0,) * a.ndim
    plan = inputs.plan_for(none, none, a.dtype, True, (), (), False, widened)
    return plan.dtype, plan.kind


def given_dtype(a: Any, dtype: np.dtype[Any], kind: np.dtype[Any]) -> np.dtype[Any]:
    """Give the arithmetic's dtype; on a GPU, whose kernels convert nothing, the result's."""
    return dtype if is_cupy_type(a._meta) else kind


def lse_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Give the dtype of the log-sum-exp, by that of the result."""
    return dtype if dtype.itemsize > 2 else np.dtype(np.float32)


def as_mask(where: Any, a: Any, like: npt.NDArray[Any]) -> Any:
    """Give a mask as a Dask array that is cut like the logits, where it tells them apart."""
    _check_place("where", where, a)
    if isinstance(where, da.Array) or is_cupy_type(where):
        _check_known("where", where)
        inputs.as_mask(np.broadcast_to(np.zeros((), where.dtype), where.shape), like.shape)
    else:
        where = inputs.plain_array("where", where, "want booleans")
        inputs.as_mask(where, like.shape)
    first = a.ndim - where.ndim
    chunks = tuple(
        (1,) if size == 1 else cut for size, cut in zip(where.shape, a.chunks[first:], strict=True)
    )
    return _cut(where, chunks)


def cut_like(name: str, array: Any, a: Any, axes: tuple[int, ...]) -> Any:
    """Give an array over some of the axes of `a` as a Dask array, cut like those."""
    _check_place(name, array, a)
    array = _given(name, array, tuple(a.shape[axis] for axis in axes), a)
    return _cut(array, tuple(a.chunks[axis] for axis in axes))


def in_one_piece(name: str, array: Any, shape: tuple[int, ...], a: Any) -> Any:
    """Give a small array as a Dask array of one chunk; tasks take it to where they need it."""
    return _cut(_given(name, array, shape, a), tuple((size,) for size in shape))


def _given(name: str, array: Any, shape: tuple[int, ...], a: Any) -> Any:
    """Check what came with the logits; the values of Dask arrays are not looked at."""
    if not isinstance(array, da.Array) and not is_cupy_type(array):
        return inputs.as_given(name, array, shape, a)
    _check_known(name, array)
    inputs.as_given(name, np.broadcast_to(np.zeros((), array.dtype), array.shape), shape, a)
    return array


def _cut(array: Any, chunks: tuple[tuple[int, ...], ...]) -> Any:
    if isinstance(array, da.Array):
        return array if array.chunks == chunks else array.rechunk(chunks)
    return da.from_array(array, chunks=chunks)


def meta_of(a: Any, dtype: np.dtype[Any], ndim: int) -> Any:
    """Give an empty array of the kind that the chunks of a result will be."""
    return np.empty_like(a._meta, shape=(0,) * ndim, dtype=dtype)
