"""`nbfagg.fagg` and its kin for PyTorch tensors.

A call that no one differentiates, traces or maps goes straight to the NumPy
form on the tensor's memory. One that only autograd watches calls the kernels
too, with their derivative (eager.py); any other becomes an operator
(operators.py), or what torch.func asks for in its place (transforms.py).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

import nbfagg
from nbfagg import inputs
from nbfagg.torch.arrays import (
    INTEGERS,
    LSE,
    RESULT,
    check,
    check_logits,
    on_gpu,
    threads,
    to_array,
    to_plain,
    to_tensor,
)
from nbfagg.torch.eager import is_watched
from nbfagg.torch.transforms import operator


def _tensor(name: str, value: Any) -> Tensor | None:
    """Give a mask, lengths or offsets as a tensor; an array's is the caller's to change, and is copied."""
    if value is None:
        return None
    if not isinstance(value, Tensor):
        array = inputs.plain_array(name, value, "want a tensor or an array")
        if name == "where":
            # What is broadcast stays so.
            array = array[tuple(slice(None) if stride else slice(1) for stride in array.strides)]
        value = torch.from_numpy(array.astype(np.int64 if array.dtype.kind in "iu" else array.dtype))
    check(name, value)
    return value.long() if value.dtype in (torch.uint16, torch.uint32, torch.uint64) else value


def _checked(a: Tensor, out: Any) -> None:
    if not isinstance(a, Tensor):
        raise TypeError(f"nbfagg: a is a {type(a).__name__}; want a tensor, or nbfagg's function for arrays")
    check_logits(a)
    if out is not None and not isinstance(out, Tensor):
        raise TypeError(f"nbfagg: out is a {type(out).__name__}; want a tensor, as a is one")
    if out is not None and out.is_neg():
        raise ValueError("nbfagg: out is a view with the negative bit; want out.resolve_neg()")


def _no_gradient(name: str, *tensors: Any) -> None:
    if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in tensors):
        raise RuntimeError(
            f"nbfagg: {name} does not support automatic differentiation, but an argument requires grad; "
            "detach it, or call under torch.no_grad()"
        )


def _given_back(results: Any, return_lse: bool, out: Tensor | None) -> Any:
    """Give an operator's results as `fagg` does."""
    alpha, lse = results
    if out is not None:
        alpha = out.copy_(alpha)
    return (alpha, lse) if return_lse else alpha


def check_scale(scale: Any) -> None:
    """Refuse a scale that is to be learned."""
    if isinstance(scale, Tensor):
        raise TypeError(
            "nbfagg: scale is a tensor, through which no gradient passes; want a number, and logits that are "
            "multiplied by what is to be learned"
        )


def _options(scale: Any, log: Any, workers: Any) -> tuple[float, bool, int | None]:
    """Check what an operator takes besides tensors, as it would not name what is wrong."""
    check_scale(scale)
    return scale, inputs.as_flag("log", log), None if workers is None else inputs.as_workers(workers)


def _from_array(found: Any, return_lse: bool, out: Tensor | None) -> Any:
    """Give what came of arrays as tensors; autograd is told that `out` has changed."""
    alpha = found[0] if return_lse else found
    if out is not None:
        torch.autograd.graph.increment_version(out)
    result = to_tensor(alpha) if out is None else out
    return (result, to_tensor(found[1])) if return_lse else result


def _long(value: Any) -> Any:
    """Give lengths or offsets as int64 where they are a tensor, as kernels on a GPU read them."""
    return value.long() if isinstance(value, Tensor) and value.dtype in INTEGERS[1:] else value


def _from_gpu(found: Any, a: Tensor, return_lse: bool, out: Tensor | None) -> Any:
    """Give what came of a GPU's kernels as `fagg` does; autograd is told that `out` has changed."""
    if out is not None:
        torch.autograd.graph.increment_version(out)
    if not return_lse:
        return found
    alpha, lse = found
    return alpha, lse.to(LSE[RESULT[a.dtype]])


def _check_out(out: Tensor, shape: list[int], a: Tensor) -> None:
    """Refuse an out that cannot take the result, where a kernel does not see it."""
    if list(out.shape) != shape:
        raise ValueError(f"nbfagg: out has shape {tuple(out.shape)}; want {tuple(shape)}")
    if out.dtype != RESULT[a.dtype]:
        raise TypeError(f"nbfagg: out has dtype {out.dtype}; want {RESULT[a.dtype]}")


def fagg(
    a: Tensor,
    *,
    batch_axis: Any = 0,
    keep_axis: Any = 1,
    where: Any = None,
    lengths: Any = None,
    scale: float = 1.0,
    log: bool = False,
    return_lse: bool = False,
    out: Tensor | None = None,
    workers: int | None = None,
) -> Any:
    """Aggregate a tensor's logits, see `nbfagg.fagg`."""
    _checked(a, out)
    if out is not None:
        _no_gradient("fagg with out=", a, out)
    if not (is_watched(a) or (a.requires_grad and torch.is_grad_enabled())):
        if (gpu := on_gpu(a)) is not None:
            found = gpu.functions.fagg(
                a,
                batch_axis=batch_axis,
                keep_axis=keep_axis,
                where=where,
                lengths=_long(lengths),
                scale=scale,
                log=log,
                return_lse=return_lse,
                out=out,
            )
            return _from_gpu(found, a, return_lse, out)
        found = nbfagg.fagg(
            to_array(a),
            batch_axis=batch_axis,
            keep_axis=keep_axis,
            where=to_plain("where", where),
            lengths=to_plain("lengths", lengths),
            scale=scale,
            log=log,
            return_lse=return_lse,
            out=None if out is None else to_array(out),
            workers=threads(workers),
        )
        return _from_array(found, return_lse, out)
    options = _options(scale, log, workers)
    axes = inputs.as_axes(tuple(a.shape), batch_axis, keep_axis, lengths is not None)
    batch, keep = map(list, axes)
    if out is not None:
        _check_out(out, [a.shape[i] for i in sorted([*batch, *keep])], a)
    mask, counts = _tensor("where", where), _tensor("lengths", lengths)
    results = operator("fagg", a)(a, batch, keep, mask, counts, *options)
    return _given_back(results, inputs.as_flag("return_lse", return_lse), out)


def fagg_packed(
    a: Tensor,
    offsets: Any,
    *,
    scale: float = 1.0,
    log: bool = False,
    return_lse: bool = False,
    out: Tensor | None = None,
    workers: int | None = None,
) -> Any:
    """Aggregate packed rows of a tensor's logits, see `nbfagg.fagg_packed`."""
    _checked(a, out)
    if out is not None:
        _no_gradient("fagg_packed with out=", a, out)
    if not (is_watched(a) or (a.requires_grad and torch.is_grad_enabled())):
        if (gpu := on_gpu(a)) is not None:
            found = gpu.functions.fagg_packed(
                a, _long(offsets), scale=scale, log=log, return_lse=return_lse, out=out
            )
            return _from_gpu(found, a, return_lse, out)
        found = nbfagg.fagg_packed(
            to_array(a),
            to_plain("offsets", offsets),
            scale=scale,
            log=log,
            return_lse=return_lse,
            out=None if out is None else to_array(out),
            workers=threads(workers),
        )
        return _from_array(found, return_lse, out)
    if out is not None:
        _check_out(out, [a.shape[0]], a)
    bounds = _tensor("offsets", offsets)
    results = operator("fagg_packed", a)(a, bounds, *_options(scale, log, workers))
    return _given_back(results, inputs.as_flag("return_lse", return_lse), out)


def fagg_vjp(
    grad: Any, a: Tensor, alpha: Tensor, lse: Tensor, *, out: Tensor | None = None, **keywords: Any
) -> Tensor:
    """Give the gradient by a tensor's logits, see `nbfagg.fagg_vjp`. Autograd does not see this call."""
    return _gradient(nbfagg.fagg_vjp, grad, a, (alpha, lse), out, keywords)


def fagg_packed_vjp(
    grad: Any,
    a: Tensor,
    offsets: Any,
    alpha: Tensor,
    lse: Tensor,
    *,
    out: Tensor | None = None,
    **keywords: Any,
) -> Tensor:
    """Give the gradient by packed rows of a tensor's logits, see `nbfagg.fagg_packed_vjp`."""
    return _gradient(nbfagg.fagg_packed_vjp, grad, a, (offsets, alpha, lse), out, keywords)


def _gradient(
    function: Any, grad: Any, a: Tensor, given: tuple[Any, ...], out: Tensor | None, keywords: dict[str, Any]
) -> Tensor:
    _checked(a, out)
    grads = grad if isinstance(grad, tuple | list) else (grad,)
    _no_gradient(function.__name__, a, *given, *grads)
    result = torch.empty_like(a, dtype=RESULT[a.dtype]) if out is None else out
    if (gpu := on_gpu(a)) is not None:
        gpu.gradient(function.__name__, grad, a, given, result, keywords)
        if out is not None:
            torch.autograd.graph.increment_version(out)
        return result
    plain = [_small(value) for value in grads]
    function(
        tuple(plain) if isinstance(grad, tuple | list) else plain[0],
        to_array(a),
        *map(_small, given),
        out=to_array(result),
        **{name: to_plain(name, value) for name, value in keywords.items()}
        | {"workers": threads(keywords["workers"])},
    )
    if out is not None:
        torch.autograd.graph.increment_version(out)
    return result


def _small(value: Any) -> Any:
    """Give what is of a result's size as an array, bfloat16 widened."""
    if not isinstance(value, Tensor):
        return value
    return to_array(value.float() if value.dtype == torch.bfloat16 else value)


def state_of(a: Tensor, **keywords: Any) -> nbfagg.State:
    """Take in a chunk of a tensor's logits, see `nbfagg.State.of`."""
    check_logits(a)
    _no_gradient("State.of", a)
    if (gpu := on_gpu(a)) is not None:
        return gpu.functions.state_of(a)
    plain = {name: to_plain(name, value) for name, value in keywords.items()}
    plain["workers"] = threads(plain["workers"])
    return dataclasses.replace(nbfagg.State.of(to_array(a), **plain), framework="torch")
