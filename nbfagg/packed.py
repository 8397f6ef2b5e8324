"""Ragged rows that are packed one after the other: the public functions."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from nbfagg import inputs, results
from nbfagg.api import launcher, without_log
from nbfagg.frameworks import adapter


def fagg_packed(
    a: npt.ArrayLike,
    offsets: npt.ArrayLike,
    *,
    scale: float = 1.0,
    log: bool = False,
    return_lse: bool = False,
    out: npt.NDArray[Any] | None = None,
    workers: int | None = None,
) -> Any:
    """Aggregate the logits of ragged batch rows that are packed one after the other, without padding.

    Row b is ``a[offsets[b]:offsets[b + 1]]``, and may be empty.

    Parameters
    ----------
    a : array_like or torch.Tensor
        Logits (T, N, H): the tokens of all rows on the first axis, and any
        number of axes that are summed over. Dtypes and strides as in `fagg`.
    offsets : array_like of int
        (B + 1,) integers that rise, not strictly, from 0 to T.
    scale, log, return_lse, workers
        As in `fagg`.
    out : numpy.ndarray, optional
        Written in full and returned; (T,), of the result's dtype.

    Returns
    -------
    alpha : numpy.ndarray
        (T,): the weights of each row sum to 1.
    lse : numpy.ndarray
        With `return_lse`: (B,), -inf for a row that holds nothing.

    Raises
    ------
    TypeError
        For offsets that are no integers, and as `fagg` does.
    ValueError
        For offsets of another shape, that fall, that do not begin at 0 or do
        not end at T, and as `fagg` does. Nothing is written before.

    See Also
    --------
    fagg : The same for padded rows, with `lengths`.

    Examples
    --------
    >>> import numpy as np
    >>> import nbfagg
    >>> a = np.log(np.array([[1.0], [3.0], [2.0], [2.0], [4.0]]))  # five tokens
    >>> nbfagg.fagg_packed(a, [0, 2, 2, 5]).round(6)  # rows of two, none and three
    array([0.25, 0.75, 0.25, 0.25, 0.5 ])
    """
    if type(a) is not np.ndarray and (framework := adapter(a)) is not None:
        return framework.fagg_packed(
            a, offsets, scale=scale, log=log, return_lse=return_lse, out=out, workers=workers
        )
    a = inputs.as_array(a)
    scale, widened = inputs.as_scale(scale, a.dtype)
    log = inputs.as_flag("log", log)
    return_lse = inputs.as_flag("return_lse", return_lse)
    offsets = inputs.as_offsets(offsets, a.shape)
    if workers is not None:
        workers = inputs.as_workers(workers)
    one = a[np.newaxis]
    plan = inputs.plan_for(one.shape, one.strides, a.dtype, a.flags.aligned, 0, 1, log, widened, None, True)
    if out is not None:
        inputs.check_packed_out(out, a, plan, offsets=offsets)
    alpha = None if out is None or plan.kind != plan.dtype else np.asarray(out)
    if alpha is None or not alpha.flags.carray:
        alpha = np.empty(len(a), plan.kind)
    lse = np.empty(len(offsets) - 1, plan.kind) if return_lse else None
    if plan.way == "empty":
        alpha.fill(-math.inf if log else 0.0)
        if lse is not None:
            lse.fill(-math.inf)
    else:
        launcher().run_packed(plan, a, offsets, scale, log, alpha, lse, workers)
    result = results.of_type(alpha, plan.dtype)
    if out is not None:
        if not np.may_share_memory(result, np.asarray(out)):
            np.copyto(np.asarray(out), result)
        result = out
    if lse is None:
        return result
    results.settle_infinite_rows(lse, a, offsets)
    return result, results.lse_of_type(lse, plan)


def fagg_packed_vjp(
    grad: Any,
    a: npt.ArrayLike,
    offsets: npt.ArrayLike,
    alpha: npt.ArrayLike,
    lse: npt.ArrayLike,
    *,
    scale: float = 1.0,
    log: bool = False,
    return_lse: bool = False,
    out: npt.NDArray[Any] | None = None,
    workers: int | None = None,
) -> Any:
    """Give the gradient of `fagg_packed` with respect to its logits: a vector-Jacobian product.

    Parameters
    ----------
    grad : array_like, or a pair of them with `return_lse`
        The gradient with respect to what `fagg_packed` gave: (T,), and with
        `return_lse` another one, (B,).
    a, offsets : array_like
        As `fagg_packed` takes them.
    alpha, lse : array_like
        What it gave.
    scale, log, workers
        As it was called with.
    return_lse : bool, default False
        Whether `grad` is a pair.
    out : numpy.ndarray, optional
        Written in full and returned; of the shape of `a` and the result's
        dtype. May be `a` itself.

    Returns
    -------
    grad_a : numpy.ndarray
        Of the shape of `a`: to the bit what `fagg_vjp` gives for each row.

    Raises
    ------
    TypeError, ValueError
        As `fagg_packed` and `fagg_vjp` do; nothing is written before.

    See Also
    --------
    fagg_vjp : The same for padded rows, with what is computed.

    Examples
    --------
    >>> import numpy as np
    >>> import nbfagg
    >>> a = np.log(np.array([[1.0], [3.0], [2.0], [2.0], [4.0]]))
    >>> offsets = [0, 2, 5]
    >>> alpha, lse = nbfagg.fagg_packed(a, offsets, return_lse=True)
    >>> nbfagg.fagg_packed_vjp(np.array([1.0, 0, 0, 0, 1.0]), a, offsets, alpha, lse).ravel().round(4)
    array([ 0.1875, -0.1875, -0.125 , -0.125 ,  0.25  ])
    """
    if type(a) is not np.ndarray and (framework := adapter(a)) is not None:
        return framework.fagg_packed_vjp(
            *(grad, a, offsets, alpha, lse),
            scale=scale,
            log=log,
            return_lse=return_lse,
            out=out,
            workers=workers,
        )
    a = inputs.as_array(a)
    scale, widened = inputs.as_scale(scale, a.dtype)
    log = inputs.as_flag("log", log)
    return_lse = inputs.as_flag("return_lse", return_lse)
    offsets = inputs.as_offsets(offsets, a.shape)
    if workers is not None:
        workers = inputs.as_workers(workers)
    one = a[np.newaxis]
    kind = inputs.plan_for(one.shape, one.strides, a.dtype, a.flags.aligned, 0, 1, log, widened, None, True)
    rows = (len(offsets) - 1,)
    grad, of_lse = inputs.as_gradients(grad, return_lse, a.shape[:1], rows, a)
    alpha = inputs.as_weights(alpha, log, a.shape[:1], a)
    lse = inputs.as_given("lse", lse, rows, a)
    if out is None:
        out = results.laid_out_like(a, kind.dtype)
    else:
        others = {"grad": grad, "grad of lse": of_lse, "alpha": alpha, "lse": lse, "offsets": offsets}
        inputs.check_gradient_out(out, a, kind.dtype, **others)
    target = np.asarray(out)
    plan = inputs.plan_for(
        *(
            one.shape,
            one.strides,
            a.dtype,
            a.flags.aligned,
            0,
            1,
            log,
            widened,
            None,
            True,
            target[np.newaxis].strides,
        )
    )
    if plan.way == "empty":
        return out
    if log:
        grad, alpha = without_log(grad, alpha)
    with np.errstate(all="ignore"):
        given = (
            np.ascontiguousarray(grad, plan.kind),
            np.ascontiguousarray(alpha, plan.kind),
            None if of_lse is None else np.ascontiguousarray(of_lse, plan.kind),
        )
    launcher().run_packed_gradient(plan, a, offsets, scale, log, given, target, workers)
    return out
