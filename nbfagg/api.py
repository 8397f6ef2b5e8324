"""The public functions: checked, planned, run."""

from __future__ import annotations

import functools
import math
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from nbfagg import inputs, results
from nbfagg.frameworks import adapter
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
    a : array_like, torch.Tensor, dask.array.Array, xarray.DataArray or GPU array
        Logits, of any rank that has the axes named, and any strides; read in
        place and never written. float16, bfloat16 (`ml_dtypes`), float32 and
        float64 keep their type, half precision being computed in float32 and
        rounded once at the end; integers and booleans are computed in float64.
        Other byte orders are taken. What comes back is of the kind of `a`: a
        tensor carries gradients; a Dask array is lazy; a DataArray's axes may be
        given by name; a GPU's array stays there. `where`, `lengths` and `out`
        may then be of that kind too.
    batch_axis : int or tuple of ints, default 0
        Axes along which each index is aggregated by itself; ``()`` for none.
        Negative axes count from the end. Names of dimensions for a DataArray.
    keep_axis : int or tuple of ints, default 1
        Axes that the result keeps; ``()`` for none. All others are summed over.
    where : array_like of bool, optional
        Broadcast to `a`; True includes a logit. What is left out is not looked
        at: a NaN there changes nothing. Never expanded in memory. With
        `lengths`, what both include counts.
    lengths : array_like of int, optional
        (B,): how many entries of the kept axis each batch row has, for one
        batch axis and one kept axis. Nothing beyond is read.
    scale : float, default 1.0
        Multiplies the logits: 1/sqrt(d), 1/temperature. Positive, from
        2**-900 to 2**900. Applied exactly, not by rounding ``scale * a``. A
        number: for a temperature that is learned, multiply the logits by it.
    log : bool, default False
        Give the natural logarithm of alpha, right also where alpha underflows.
    return_lse : bool, default False
        Also give each batch row's log-sum-exp of ``scale * a``.
    out : numpy.ndarray, optional
        Written in full and returned; of the result's shape and dtype.
    workers : int, optional
        Threads, at most; None for Numba's own setting, for tensors PyTorch's
        (`torch.set_num_threads`); negative as in `scipy.fft`. A small call uses
        fewer. The result's bits do not depend on it.

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
    has weight 0. float32 weights are within 2 ulp of the exact value, float64
    ones within 3; logarithms within 4 and 5 ulp of it, or of 1 where it is smaller.

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
        if (framework := adapter(a)) is not None:
            return framework.fagg(
                a,
                batch_axis=batch_axis,
                keep_axis=keep_axis,
                where=where,
                lengths=lengths,
                scale=scale,
                log=log,
                return_lse=return_lse,
                out=out,
                workers=workers,
            )
        a = inputs.as_array(a)
    widened = False
    if type(scale) is not float or scale != 1.0:
        scale, widened = inputs.as_scale(scale, a.dtype)
    if type(batch_axis) is not int or type(keep_axis) is not int:
        batch_axis = inputs.hashable_axes("batch_axis", batch_axis, a.shape)
        keep_axis = inputs.hashable_axes("keep_axis", keep_axis, a.shape)
    log = inputs.as_flag("log", log)
    flags = a.flags
    if where is None and lengths is None:
        plan = inputs.plan_for(
            a.shape, a.strides, a.dtype, flags.aligned, batch_axis, keep_axis, log, widened
        )
    else:
        where, lengths = _included(a, batch_axis, keep_axis, where, lengths)
        mask = None if where is None else where.strides
        plan = inputs.plan_for(
            a.shape,
            a.strides,
            a.dtype,
            flags.aligned,
            batch_axis,
            keep_axis,
            log,
            widened,
            mask,
            lengths is not None,
        )
    return_lse = inputs.as_flag("return_lse", return_lse)
    if workers is not None:
        workers = inputs.as_workers(workers)
    if out is not None:
        inputs.check_out(out, a, plan, where=where, lengths=lengths)
    in_place = out is None or (type(out) is np.ndarray and out.flags.carray)
    if plan.small and in_place and flags.writeable:
        out = np.empty(plan.shape, plan.kind) if out is None else out
        lse = np.empty(plan.batch_shape, plan.kind) if return_lse else None
        launcher().run_small(plan, a, scale, log, out, lse)
        if lse is None:
            return out
        results.settle_infinite(lse, a, plan, None, None)
        return out, lse
    return _run(plan, a, scale, log, return_lse, out, workers, where, lengths)


def fagg_vjp(
    grad: Any,
    a: npt.ArrayLike,
    alpha: npt.ArrayLike,
    lse: npt.ArrayLike,
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
    """Give the gradient of `fagg` with respect to its logits: a vector-Jacobian product.

    With p = exp(scale * a - lse), and sums over the tokens of a batch row::

        grad_a = scale * p * (grad - sum(grad * alpha))               alpha
        grad_a = scale * (p / alpha * grad - p * sum(grad))           log alpha

    Logits are read once and the gradient is written once, with nothing else of
    that size (a token longer than the caches is read twice).

    Parameters
    ----------
    grad : array_like, or a pair of them with `return_lse`
        The gradient with respect to what `fagg` gave: of alpha's shape, and
        with `return_lse` another one, of lse's.
    a : array_like
        The logits, as `fagg` takes them.
    alpha : array_like
        What `fagg` gave; with `log`, its logarithm. (Weights are taken there as
        well, being above 0; `grad` then has to be 0 for a token that holds
        nothing.)
    lse : array_like
        The rows' log-sum-exp, as `fagg` gives it: of its shape. Part of what a
        backward pass saves by convention; its values do not matter here, for
        exponentials are normalised by alpha, which is more exact.
    batch_axis, keep_axis, where, lengths, scale, log, workers
        As `fagg` was called with.
    return_lse : bool, default False
        Whether `grad` is a pair.
    out : numpy.ndarray, optional
        Written in full and returned; of the shape of `a` and the result's
        dtype. May be `a` itself.

    Returns
    -------
    grad_a : numpy.ndarray
        Of the shape of `a`, and of its dtype (float64 for integers). 0 where a
        logit is -inf or is left out, and in a row that holds nothing; NaN in a
        row that holds a NaN or +inf.

    Raises
    ------
    TypeError, ValueError
        As `fagg` does; nothing is written before. An `out` that shares memory
        with `a` otherwise than element by element, or with any other argument,
        is refused.

    See Also
    --------
    fagg : The function itself.

    Notes
    -----
    Weights below 2**-178 (float64: 2**-1198) of the largest among the tokens that
    are read at a time count as 0. With alpha as `fagg` gives it, float32 gradients
    are within 4 ulp of the exact value relative to the largest term of the formula,
    float64 ones within 8. With `log` the rounding of log alpha, a number as large
    as |log alpha|, adds |log alpha| ulp at most.

    That holds while ``scale * grad`` stays below 2**100 (float64: 2**900); beyond
    it a factor may overflow where the result does not. With `log`, what alpha loses
    below the smallest number of its type is lost times the row's sum of `grad`.
    Gradients that are subnormal may differ in their last bits with what other rows
    the array has.

    Examples
    --------
    >>> import numpy as np
    >>> import nbfagg
    >>> a = np.log(np.array([[[[1.0, 2.0]], [[3.0, 4.0]]]]))  # (B, L, N, H) = (1, 2, 1, 2)
    >>> alpha, lse = nbfagg.fagg(a, return_lse=True)
    >>> nbfagg.fagg_vjp(np.array([[1.0, 0.0]]), a, alpha, lse).round(6)  # of alpha[0, 0]
    array([[[[ 0.07,  0.14]],
    <BLANKLINE>
            [[-0.09, -0.12]]]])
    """
    if type(a) is not np.ndarray and (framework := adapter(a)) is not None:
        return framework.fagg_vjp(
            grad,
            a,
            alpha,
            lse,
            batch_axis=batch_axis,
            keep_axis=keep_axis,
            where=where,
            lengths=lengths,
            scale=scale,
            log=log,
            return_lse=return_lse,
            out=out,
            workers=workers,
        )
    a = inputs.as_array(a)
    scale, widened = inputs.as_scale(scale, a.dtype)
    batch_axis = inputs.hashable_axes("batch_axis", batch_axis, a.shape)
    keep_axis = inputs.hashable_axes("keep_axis", keep_axis, a.shape)
    log = inputs.as_flag("log", log)
    where, lengths = _included(a, batch_axis, keep_axis, where, lengths)
    return_lse = inputs.as_flag("return_lse", return_lse)
    if workers is not None:
        workers = inputs.as_workers(workers)
    axes = batch_axis, keep_axis, log, widened, None if where is None else where.strides, lengths is not None
    result = inputs.plan_for(a.shape, a.strides, a.dtype, a.flags.aligned, *axes)
    grad, of_lse = inputs.as_gradients(grad, return_lse, result.shape, result.batch_shape, a)
    alpha = inputs.as_weights(alpha, log, result.shape, a)
    lse = inputs.as_given("lse", lse, result.batch_shape, a)
    if out is None:
        out = results.laid_out_like(a, result.dtype)
    else:
        others = {"grad": grad, "grad of lse": of_lse, "alpha": alpha, "lse": lse, "where": where}
        inputs.check_gradient_out(out, a, result.dtype, lengths=lengths, **others)
    plan = inputs.plan_for(a.shape, a.strides, a.dtype, a.flags.aligned, *axes, np.asarray(out).strides)
    if plan.way == "empty":
        return out
    if log:
        grad, alpha = without_log(grad, alpha)
    with np.errstate(all="ignore"):
        given = (
            np.ascontiguousarray(grad.transpose(plan.inverse), plan.kind),
            np.ascontiguousarray(alpha.transpose(plan.inverse), plan.kind),
            None if of_lse is None else np.ascontiguousarray(of_lse, plan.kind),
        )
    launcher().run_gradient(plan, a, scale, log, given, np.asarray(out), workers, where, lengths)
    return out


def without_log(grad: npt.NDArray[Any], alpha: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Give the gradient of log alpha as it counts, and alpha, from its logarithm or as it is."""
    # A logarithm is never above 0, and weights that are all 0 belong to rows without a gradient.
    if (alpha > 0.0).any():
        return grad, alpha
    # Of a token that holds nothing, no gradient counts.
    nothing = alpha == -math.inf
    if nothing.any():
        grad = np.where(nothing, 0, grad)
    with np.errstate(under="ignore"):
        return grad, np.exp(alpha.astype(np.float64))


def _included(
    a: npt.NDArray[Any], batch_axis: Any, keep_axis: Any, where: Any, lengths: Any
) -> tuple[npt.NDArray[np.bool_] | None, npt.NDArray[np.int64] | None]:
    """Give mask and lengths in the form that kernels take."""
    return (
        None if where is None else inputs.as_mask(where, a.shape),
        None if lengths is None else inputs.as_lengths(lengths, a.shape, batch_axis, keep_axis),
    )


def warmup(dtypes: str | tuple[str, ...] = ("float32",)) -> None:
    """Compile the kernels of `fagg`, or load them from the disk cache, before they are needed.

    Parameters
    ----------
    dtypes : tuple of str, default ("float32",)
        Which to make ready: "float32", "float64"; half precision shares the
        kernels of float32.

    Raises
    ------
    TypeError
        For a dtype that `fagg` does not take.

    Examples
    --------
    >>> import nbfagg
    >>> nbfagg.warmup(("float32", "float64"))
    """
    for dtype in inputs.as_dtypes(dtypes):
        small = np.zeros((2, 2, 2, 2), dtype)
        fagg(small)
        fagg(small, workers=1, return_lse=True)
        fagg(small.transpose(0, 2, 1, 3), workers=1)
        # Large enough for threads: whole rows, the parts of one (1 MiB each), a walk over other axes.
        fagg(np.zeros((32, 64, 1, 64), dtype))
        fagg(np.zeros((1, 4096, 1, 512), dtype))
        fagg(np.zeros((2, 64, 2, 256), dtype), keep_axis=2)


@functools.cache
def launcher() -> ModuleType:
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
        turned = np.asarray(out).transpose(plan.inverse)
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
        launcher().run(plan, a, scale, log, alpha, lse, workers, where, lengths)
    result = results.of_type(alpha, plan.dtype).transpose(plan.layout)
    if out is not None:
        if not direct:
            np.copyto(np.asarray(out), result)
        result = out
    if lse is None:
        return result
    results.settle_infinite(lse, a, plan, where, lengths)
    return result, results.lse_of_type(lse, plan)
