"""What a kernel wrote, made what the caller gets: rounded to its type, NaN told from +inf."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from nbfagg.plan import BRAIN, Plan


def laid_out_like(a: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Make an array for the gradient of `a`, whose axes lie as those of `a` do.

    Repeated logits say nothing of that: np.empty_like puts an axis of stride 0 innermost, where a gradient
    of two billion halves took eight times as long as in C order, which is what np.exp gives of them.
    """
    return np.empty_like(a, dtype, order="C" if 0 in a.strides else "K", subok=False)


def lse_of_type(lse: npt.NDArray[Any], plan: Plan) -> npt.NDArray[Any]:
    """Round to the result's type; of half precision, to float32."""
    return of_type(lse, plan.dtype if plan.dtype.itemsize > 2 else np.dtype(np.float32))


def of_type(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Round to a type that may be narrower than that of the arithmetic."""
    if array.dtype == dtype:
        return array
    if dtype == BRAIN or (dtype.itemsize == 2 and array.itemsize == 4 and array.size > 64):
        from nbfagg.cpu import launch

        return launch.rounded(np.asarray(array, np.float32, order="C"), dtype)
    with np.errstate(all="ignore"):
        return array.astype(dtype)


def holds_nan(a: npt.NDArray[Any], places: tuple[Any, ...], where: npt.NDArray[np.bool_] | None) -> bool:
    """Say whether an included logit among those at `places` is a NaN."""
    values = a[places]
    nan = _is_brain_nan(values) if values.dtype == BRAIN else np.isnan(values)
    return bool(np.any(nan, where=True if where is None else where[places]))


def _is_brain_nan(values: npt.NDArray[Any]) -> Any:
    return (values["bfloat16"] & 0x7FFF) > 0x7F80


def settle_infinite(
    lse: npt.NDArray[Any],
    a: npt.NDArray[Any],
    plan: Plan,
    where: npt.NDArray[np.bool_] | None,
    lengths: npt.NDArray[np.int64] | None,
) -> None:
    """Make lse NaN in rows that hold a NaN beside +inf: the kernels look for the larger of the two only."""
    infinite = lse == math.inf
    if not np.count_nonzero(infinite):
        return
    for place in np.argwhere(infinite):
        index: list[Any] = [slice(None)] * a.ndim
        for axis, number in zip(plan.batch_axes, place, strict=True):
            index[axis] = number
        if lengths is not None:
            (axis,) = plan.keep_axes
            index[axis] = slice(lengths[place[0]])
        if holds_nan(a, tuple(index), where):
            lse[tuple(place)] = math.nan


def settle_infinite_rows(lse: npt.NDArray[Any], a: npt.NDArray[Any], offsets: npt.NDArray[np.int64]) -> None:
    """Do the same to packed rows."""
    for row in np.flatnonzero(lse == math.inf):
        if holds_nan(a, (slice(offsets[row], offsets[row + 1]),), None):
            lse[row] = math.nan


def settle_infinite_cells(
    cells: npt.NDArray[np.float64],
    a: npt.NDArray[Any],
    axes: tuple[int, ...],
    where: npt.NDArray[np.bool_] | None,
) -> None:
    """Do the same to a state's cells, the places of which along `axes` have (maximum, sum, rest)."""
    for place in np.argwhere(cells[..., 0] == math.inf):
        index: list[Any] = [slice(None)] * a.ndim
        for axis, number in zip(axes, place, strict=True):
            index[axis] = number
        if holds_nan(a, tuple(index), where):
            cells[tuple(place)] = -math.inf, math.nan, 0.0
