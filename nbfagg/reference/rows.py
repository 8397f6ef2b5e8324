"""Arrays of any rank as rows, tokens and what is summed; and what of them is included."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray: TypeAlias = NDArray[np.floating[Any]]
LongArray: TypeAlias = NDArray[np.longdouble]


@dataclass(frozen=True)
class Rows:
    """Logits as (B, L, K), rows by tokens by what is summed, and the way back."""

    x: FloatArray  # -inf where excluded
    included: NDArray[np.bool_]  # of the shape of x
    scale: np.longdouble
    shape: tuple[int, ...]  # of the caller's array
    batch: tuple[int, ...]  # its axes, each group in ascending order
    keep: tuple[int, ...]
    summed: tuple[int, ...]

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """The shape of what there is one of for each row."""
        return tuple(self.shape[axis] for axis in self.batch)

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The batch and the kept axes, in the caller's order."""
        return tuple(self.shape[axis] for axis in sorted(self.batch + self.keep))

    def to_result(self, values: LongArray) -> LongArray:
        """Bring values (B, L) into the result's shape."""
        axes = self.batch + self.keep
        apart = values.reshape(tuple(self.shape[axis] for axis in axes))
        return apart.transpose(np.argsort(axes))

    def from_result(self, values: FloatArray) -> FloatArray:
        """Bring values of the result's shape into (B, L)."""
        axes = self.batch + self.keep
        apart = values.transpose(np.argsort(np.argsort(axes)))
        return apart.reshape(self.x.shape[:2])

    def to_places(self, values: LongArray) -> LongArray:
        """Bring values (B, L, K) into the shape of the caller's array."""
        axes = self.batch + self.keep + self.summed
        apart = values.reshape(tuple(self.shape[axis] for axis in axes))
        return apart.transpose(np.argsort(axes))


def as_rows(
    a: ArrayLike,
    batch_axis: int | tuple[int, ...],
    keep_axis: int | tuple[int, ...],
    scale: float,
    where: ArrayLike | None,
    lengths: ArrayLike | None,
) -> Rows:
    """Check what every function of the oracle takes, and arrange it."""
    factor = np.longdouble(scale)
    if not (np.isfinite(factor) and factor > 0):
        raise ValueError(f"scale must be positive and finite, got {scale!r}")
    logits = real("a", a)
    batch = _axes(batch_axis, logits.ndim)
    keep = _axes(keep_axis, logits.ndim)
    if len({*batch, *keep}) != len(batch) + len(keep):
        raise ValueError(f"batch_axis={batch_axis!r} and keep_axis={keep_axis!r} name an axis twice")
    included: NDArray[np.bool_] = np.broadcast_to(np.True_, logits.shape)
    for mask in masks(where, lengths, logits.shape, batch, keep):
        included = included & mask
        logits = np.where(mask, logits, logits.dtype.type(-np.inf))

    summed = tuple(axis for axis in range(logits.ndim) if axis not in batch + keep)
    order = batch + keep + summed
    as_three = tuple(math.prod(logits.shape[axis] for axis in axes) for axes in (batch, keep, summed))
    return Rows(
        logits.transpose(order).reshape(as_three),
        included.transpose(order).reshape(as_three),
        factor,
        logits.shape,
        batch,
        keep,
        summed,
    )


def real(name: str, a: ArrayLike) -> FloatArray:
    """Return `a` in a floating dtype of NumPy's that holds it exactly."""
    x = np.asarray(a)
    if x.dtype.kind in "biu":
        return x.astype(np.longdouble)  # 64 bits hold every int64 and uint64; float64's 53 would not
    if x.dtype.name == "bfloat16":  # not NumPy's own, so of kind V
        return x.astype(np.float32)
    if x.dtype.kind != "f":
        raise TypeError(f"{name} must be an array of real numbers, got {x.dtype}")
    return x


def masks(
    where: ArrayLike | None,
    lengths: ArrayLike | None,
    shape: tuple[int, ...],
    batch: tuple[int, ...],
    keep: tuple[int, ...],
) -> Iterator[NDArray[np.bool_]]:
    """Yield what is included, each mask of `shape`."""
    if where is not None:
        yield np.broadcast_to(np.asarray(where, np.bool_), shape)
    if lengths is not None:
        if len(batch) != 1 or len(keep) != 1:
            raise ValueError(f"lengths needs one batch and one kept axis, got axes {batch} and {keep}")
        count = np.asarray(lengths)
        if count.shape != (shape[batch[0]],):
            raise ValueError(f"lengths must have shape ({shape[batch[0]]},), got {count.shape}")
        along_batch, along_keep = (
            tuple(-1 if axis == one else 1 for axis in range(len(shape))) for one in (batch[0], keep[0])
        )
        token = np.arange(shape[keep[0]]).reshape(along_keep)
        yield np.broadcast_to(token < count.reshape(along_batch), shape)


def _axes(axis: int | tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Return the axes in ascending order, counted from the front."""
    wanted = axis if isinstance(axis, tuple) else (axis,)
    return tuple(sorted(range(ndim)[operator.index(one)] for one in wanted))
