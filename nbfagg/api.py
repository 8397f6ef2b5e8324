"""The public functions: checked, planned, run."""

from __future__ import annotations

import functools
import math
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from nbfagg import inputs
from nbfagg.plan import Plan


def fagg(
    a: npt.ArrayLike,
    *,
    batch_axis: int | tuple[int, ...] = 0,
    keep_axis: int | tuple[int, ...] = 1,
    where: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    scale: float = 1.0,
    log: bool = False,
    return_lse: bool = False,
    out: npt.NDArray[Any] | None = None,
    workers: int | None = None,
) -> Any:
    """Aggregate attention logits: the marginal of a joint softmax.

    For logits of shape (B, L, N, H)::

        alpha[b, l] = sum_{n,h} exp(a[b,l,n,h]) / sum_{l,n,h} exp(a[b,l,n,h])

    that is softmax over every axis that is not a batch axis, together, then a
    sum over every axis that is not kept. Each batch row is taken relative to
    its own maximum, so that no finite logit overflows or gives 0/0.

    Parameters
    ----------
    a : array_like
        Logits, of any rank from 1 on and any strides; read in place and never
        written. float16, bfloat16 (`ml_dtypes`), float32 and float64 keep their
        type, half precision being computed in float32 and rounded once at the
        end; integers and booleans are computed in float64. Other byte orders
        are taken.
    batch_axis : int or tuple of ints, default 0
        Axes along which each index is aggregated by itself; ``()`` for none.
        Negative axes count from the end.
    keep_axis : int or tuple of ints, default 1
        Axes that the result keeps; ``()`` for none. All others are summed over.
    where : array_like of bool, optional
        Broadcast to `a`; True includes a logit. What is left out is not looked
        at: a NaN there changes nothing. Never expanded in memory.
    lengths : array_like of int, optional
        (B,): how many entries of the kept axis each batch row has, for one
        batch axis and one kept axis. Nothing beyond is read.
    scale : float, default 1.0
        Multiplies the logits: 1/sqrt(d), 1/temperature. Positive and finite.
        Applied exactly, not by rounding ``scale * a``.
    log : bool, default False
        Give the natural logarithm of alpha, right also where alpha underflows.
    return_lse : bool, default False
        Also give each batch row's log-sum-exp of ``scale * a``.
    out : numpy.ndarray, optional
        Written in full and returned; of the result's shape and dtype.
    workers : int, optional
        Threads, at most; None for Numba's own setting, negative as in
        `scipy.fft`. A small call uses fewer. The result's bits do not depend
        on it.

    Returns
    -------
    alpha : numpy.ndarray
        The batch and the kept axes, in the order in which `a` has them. Each
        batch row sums to 1, or is 0 where it holds nothing but -inf.
    lse : numpy.ndarray
        With `return_lse`: natural logarithm, of the batch axes' shape; -inf
        for a row that holds nothing.

    Raises
    ------
    TypeError
        For a dtype or an argument of a kind that is not taken.
    ValueError
        For axes out of range or in both sets, a `scale` that is not positive
        and finite, an `out` of another shape, not writeable or overlapping
        `a`. Nothing is written before an error is raised.

    Notes
    -----
    A NaN makes its batch row NaN, and so does +inf (lse is then +inf); -inf
    has weight 0. float32 results are within 2 ulp of the exact value, float64
    ones within 3.

    Examples
    --------
    >>> import numpy as np
    >>> import nbfagg
    >>> a = np.log(np.array([[[[1.0, 2.0]], [[3.0, 4.0]]]]))  # (B, L, N, H) = (1, 2, 1, 2)
    >>> nbfagg.fagg(a).round(6)
    array([[0.3, 0.7]])
    >>> nbfagg.fagg(a + 1000.0).round(6)  # exp(1000) overflows, the weights do not change
    array([[0.3, 0.7]])
    >>> alpha, lse = nbfagg.fagg(a, return_lse=True)
    >>> lse.round(6)  # log(1 + 2 + 3 + 4)
    array([2.302585])
    """
    if type(a) is not np.ndarray or a.dtype.char not in "fd" or a.ndim == 0:
        a = inputs.as_array(a)
    widened = False
    if type(scale) is not float or scale != 1.0:
        scale, widened = inputs.as_scale(scale, a.dtype)
    if type(batch_axis) is not int or type(keep_axis) is not int:
        batch_axis = inputs.hashable_axes("batch_axis", batch_axis, a.shape)
        keep_axis = inputs.hashable_axes("keep_axis", keep_axis, a.shape)
    log = bool(log)
    flags = a.flags
    if where is None and lengths is None:
        plan = inputs.plan_for(
            a.shape, a.strides, a.dtype, flags.aligned, batch_axis, keep_axis, log, widened
        )
    else:
        if where is not None:
            where = inputs.as_mask(where, a.shape)
        if lengths is not None:
            lengths = inputs.as_lengths(lengths, a.shape, batch_axis, keep_axis)
        plan = inputs.plan_for(
            a.shape,
            a.strides,
            a.dtype,
            flags.aligned,
            batch_axis,
            keep_axis,
            log,
            widened,
            None if where is None else where.strides,
            lengths is not None,
        )
    if workers is not None:
        workers = inputs.as_workers(workers)
    if out is not None:
        inputs.check_out(out, a, plan, where)
    in_place = out is None or (type(out) is np.ndarray and out.flags.carray)
    if plan.small and in_place and not return_lse and flags.writeable:
        return _launch().run_small(plan, a, scale, log, out)
    return _run(plan, a, scale, log, return_lse, out, workers, where, lengths)


def warmup(dtypes: tuple[str, ...] = ("float32",)) -> None:
    """Compile the kernels, or load them from the disk cache, before they are needed.

    Parameters
    ----------
    dtypes : tuple of str, default ("float32",)
        Which of "float32" and "float64" to make ready.

    Raises
    ------
    TypeError
        For a dtype that `fagg` does not take.

    Examples
    --------
    >>> import nbfagg
    >>> nbfagg.warmup(("float32", "float64"))
    """
    for dtype in (dtypes,) if isinstance(dtypes, str) else dtypes:
        inputs.as_array(np.empty(1, dtype))
        small = np.zeros((2, 2, 2, 2), dtype)
        fagg(small)
        fagg(small, workers=1, return_lse=True)
        fagg(small.transpose(0, 2, 1, 3), workers=1)
        # Large enough for threads: a row, whole rows, a walk over other axes.
        large = np.zeros((2, 64, 2, 256), dtype)
        fagg(large)
        fagg(large.reshape(1, -1, 1, 256))
        fagg(large, keep_axis=2)


@functools.cache
def _launch() -> ModuleType:
    """Import what starts kernels, and Numba with it, at the first call."""
    from nbfagg.cpu import launch

    return launch


def _run(
    plan: Plan,
    a: npt.NDArray[Any],
    scale: float,
    log: bool,
    return_lse: bool,
    out: npt.NDArray[Any] | None,
    workers: int | None,
    where: npt.NDArray[np.bool_] | None,
    lengths: npt.NDArray[np.int64] | None,
) -> Any:
    """Run a plan into `out`, or into a new array."""
    # Kernels write (batch axes, kept axes) in one piece.
    alpha = None
    if out is not None and plan.kind == plan.dtype:
        turned = out.transpose(plan.inverse)
        alpha = turned if turned.flags.c_contiguous and turned.flags.aligned else None
    direct = alpha is not None
    if alpha is None:
        alpha = np.empty([plan.shape[i] for i in plan.inverse], plan.kind)
    lse = np.empty(plan.batch_shape, plan.kind) if return_lse else None
    if plan.way == "empty":
        alpha.fill(-math.inf if log else 0.0)
        if lse is not None:
            lse.fill(-math.inf)
    else:
        _launch().run(plan, a, scale, log, alpha, lse, workers, where, lengths)
    result = _of_type(alpha.transpose(plan.layout), plan.dtype)
    if out is not None:
        if not direct:
            np.copyto(out, result)
        result = out
    if lse is None:
        return result
    _settle_infinite(lse, a, plan, where, lengths)
    # Of half precision, lse stays float32.
    return result, _of_type(lse, plan.dtype) if plan.dtype.itemsize > 2 else lse


def _of_type(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Round to a type that may be narrower than that of the arithmetic."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        return array.astype(dtype)


def _settle_infinite(
    lse: npt.NDArray[Any],
    a: npt.NDArray[Any],
    plan: Plan,
    where: npt.NDArray[np.bool_] | None,
    lengths: npt.NDArray[np.int64] | None,
) -> None:
    """Make lse NaN in rows that hold a NaN beside +inf: the kernels look for the larger of the two only."""
    for place in np.argwhere(np.isposinf(lse)):
        index: list[Any] = [slice(None)] * a.ndim
        for axis, number in zip(plan.batch_axes, place, strict=True):
            index[axis] = number
        if lengths is not None:
            (axis,) = plan.keep_axes
            index[axis] = slice(lengths[place[0]])
        row = a[tuple(index)]
        included = True if where is None else where[tuple(index)]
        if np.isnan(np.max(row, where=included, initial=-math.inf)):
            lse[tuple(place)] = math.nan
