"""The operators ``torch.ops.nbfagg.*``: what autograd, torch.compile, export, vmap and autocast see.

Each has a kernel for CPU and CUDA tensors, a fake one that tells shapes and dtypes, its
derivative, and a rule for vmap. Saved for the backward pass: a, alpha, lse, and
what left logits out; nothing else of the size of a.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import nbfagg
from nbfagg import inputs
from nbfagg.torch import second
from nbfagg.torch.arrays import LSE, RESULT, on_gpu, threads, to_array, to_tensor

LIBRARY = torch.library.Library("nbfagg", "DEF")
_OPTIONS = "float scale, bool log, int? workers"
_AXES = "int[] batch, int[] keep, Tensor? where, Tensor? lengths"
_TAGS = (torch.Tag.pt2_compliant_tag,)
LIBRARY.define(f"fagg(Tensor a, {_AXES}, {_OPTIONS}) -> (Tensor, Tensor)", tags=_TAGS)
LIBRARY.define(
    f"fagg_backward(Tensor? grad, Tensor? grad_lse, Tensor a, Tensor alpha, Tensor lse, {_AXES}, {_OPTIONS})"
    " -> Tensor",
    tags=_TAGS,
)
LIBRARY.define(f"fagg_packed(Tensor a, Tensor offsets, {_OPTIONS}) -> (Tensor, Tensor)", tags=_TAGS)
LIBRARY.define(
    "fagg_packed_backward(Tensor? grad, Tensor? grad_lse, Tensor a, Tensor offsets, Tensor alpha, Tensor lse,"
    f" {_OPTIONS}) -> Tensor",
    tags=_TAGS,
)


# --- kernels -----------------------------------------------------------------


def _plain(tensor: Tensor | None) -> Any:
    return None if tensor is None else to_array(tensor)


def _options(batch: Any, keep: Any, where: Tensor | None, lengths: Tensor | None) -> dict[str, Any]:
    return {
        "batch_axis": tuple(batch),
        "keep_axis": tuple(keep),
        "where": _plain(where),
        "lengths": _plain(lengths),
    }


def fagg(
    a: Tensor,
    batch: list[int],
    keep: list[int],
    where: Tensor | None,
    lengths: Tensor | None,
    scale: float,
    log: bool,
    workers: int | None,
) -> tuple[Tensor, Tensor]:
    """Give alpha and lse of a tensor."""
    if (gpu := on_gpu(a)) is not None:
        return gpu.fagg(a, batch, keep, where, lengths, scale, log)
    alpha, lse = nbfagg.fagg(
        to_array(a),
        **_options(batch, keep, where, lengths),
        scale=scale,
        log=log,
        return_lse=True,
        workers=threads(workers),
    )
    return to_tensor(np.asarray(alpha, order="C")), to_tensor(lse)


def _gradients(grad: Tensor | None, grad_lse: Tensor | None, alpha: Tensor) -> dict[str, Any]:
    """Give the two gradients as `fagg_vjp` takes them; a missing one is 0."""
    of_alpha = np.zeros(tuple(alpha.shape), np.float32) if grad is None else to_array(_wide(grad))
    if grad_lse is None:
        return {"grad": of_alpha}
    return {"grad": (of_alpha, to_array(grad_lse)), "return_lse": True}


def _wide(tensor: Tensor) -> Tensor:
    """Widen what is in half precision: it is of a result's size only."""
    return tensor.float() if tensor.dtype.itemsize == 2 else tensor


def fagg_backward(
    grad: Tensor | None,
    grad_lse: Tensor | None,
    a: Tensor,
    alpha: Tensor,
    lse: Tensor,
    batch: list[int],
    keep: list[int],
    where: Tensor | None,
    lengths: Tensor | None,
    scale: float,
    log: bool,
    workers: int | None,
) -> Tensor:
    """Give the gradient by a tensor."""
    if (gpu := on_gpu(a)) is not None:
        return gpu.fagg_backward(grad, grad_lse, a, alpha, batch, keep, where, lengths, scale, log)
    result = torch.empty_like(a, dtype=RESULT[a.dtype])
    nbfagg.fagg_vjp(
        **_gradients(grad, grad_lse, alpha),
        a=to_array(a),
        alpha=to_array(_wide(alpha)),
        lse=to_array(lse),
        **_options(batch, keep, where, lengths),
        scale=scale,
        log=log,
        out=to_array(result),
        workers=threads(workers),
    )
    return result


def fagg_packed(
    a: Tensor, offsets: Tensor, scale: float, log: bool, workers: int | None
) -> tuple[Tensor, Tensor]:
    """Give alpha and lse of packed rows."""
    if (gpu := on_gpu(a)) is not None:
        return gpu.fagg_packed(a, offsets, scale, log)
    alpha, lse = nbfagg.fagg_packed(
        to_array(a), to_array(offsets), scale=scale, log=log, return_lse=True, workers=threads(workers)
    )
    return to_tensor(alpha), to_tensor(lse)


def fagg_packed_backward(
    grad: Tensor | None,
    grad_lse: Tensor | None,
    a: Tensor,
    offsets: Tensor,
    alpha: Tensor,
    lse: Tensor,
    scale: float,
    log: bool,
    workers: int | None,
) -> Tensor:
    """Give the gradient by packed rows."""
    if (gpu := on_gpu(a)) is not None:
        return gpu.fagg_packed_backward(grad, grad_lse, a, offsets, alpha, scale, log)
    result = torch.empty_like(a, dtype=RESULT[a.dtype])
    nbfagg.fagg_packed_vjp(
        **_gradients(grad, grad_lse, alpha),
        a=to_array(a),
        offsets=to_array(offsets),
        alpha=to_array(_wide(alpha)),
        lse=to_array(lse),
        scale=scale,
        log=log,
        out=to_array(result),
        workers=threads(workers),
    )
    return result


# --- shapes and dtypes -------------------------------------------------------


def _fake_fagg(a: Tensor, batch: list[int], keep: list[int], *rest: Any) -> tuple[Tensor, Tensor]:
    result = RESULT[a.dtype]
    alpha = a.new_empty([a.shape[i] for i in sorted([*batch, *keep])], dtype=result)
    return alpha, a.new_empty([a.shape[i] for i in sorted(batch)], dtype=LSE[result])


def _fake_backward(grad: Tensor | None, grad_lse: Tensor | None, a: Tensor, *rest: Any) -> Tensor:
    return torch.empty_like(a, dtype=RESULT[a.dtype])


def _fake_packed(a: Tensor, offsets: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    result = RESULT[a.dtype]
    alpha = a.new_empty([a.shape[0]], dtype=result)
    return alpha, a.new_empty([offsets.shape[0] - 1], dtype=LSE[result])


# --- derivatives -------------------------------------------------------------


def _backward(name: str) -> Any:
    """Give the operator for a gradient, as an autograd function if a tangent or a transform is to pass it."""
    from nbfagg.torch import transforms

    return transforms.gradient(name)


def save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Save what the derivative of fagg reads."""
    a, batch, keep, where, lengths, *options = inputs
    ctx.save_for_backward(a, *output, where, lengths)
    ctx.rest = batch, keep, options
    ctx.set_materialize_grads(False)


def derive(
    ctx: Any, grad: Tensor | None, grad_lse: Tensor | None, backward: Any = None
) -> tuple[Tensor | None, ...]:
    """Give the gradient by a."""
    grad_a = None
    if ctx.needs_input_grad[0] and not (grad is None and grad_lse is None):
        a, alpha, lse, where, lengths = ctx.saved_tensors
        batch, keep, options = ctx.rest
        backward = backward or _backward("fagg_backward")
        grad_a = backward(grad, grad_lse, a, alpha, lse, batch, keep, where, lengths, *options)
    return grad_a, None, None, None, None, None, None, None


def save_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Save what the derivative of fagg_backward reads."""
    grad, grad_lse, a, _, _, batch, keep, where, lengths, scale, log, _ = inputs
    ctx.save_for_backward(grad, grad_lse, a, where, lengths)
    ctx.rest = batch, keep, scale, log
    ctx.set_materialize_grads(False)


def derive_backward(ctx: Any, cotangent: Tensor | None) -> tuple[Tensor | None, ...]:
    """Give the derivatives of the gradient."""
    if cotangent is None:
        return (None,) * 12
    grad, grad_lse, a, where, lengths = ctx.saved_tensors
    batch, keep, scale, log = ctx.rest
    mask = second.included(a, batch, keep, where, lengths)
    rows = second.Padded(a.ndim, batch, keep)
    return _second(
        second.derivatives(cotangent, grad, grad_lse, a, rows, mask, scale, log), grad, grad_lse, 12
    )


def _second(
    found: tuple[Tensor, Tensor, Tensor], grad: Tensor | None, grad_lse: Tensor | None, count: int
) -> tuple[Tensor | None, ...]:
    """Give derivatives for as many inputs: what alpha and lse, functions of a, contribute is in that by a."""
    by_grad, by_lse, by_a = found
    return (
        None if grad is None else by_grad.to(grad.dtype),
        None if grad_lse is None else by_lse.to(grad_lse.dtype),
        by_a,
        *(None,) * (count - 3),
    )


def save_packed(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    """Save what the derivative of fagg_packed reads."""
    a, offsets, *options = inputs
    ctx.save_for_backward(a, offsets, *output)
    ctx.options = options
    ctx.set_materialize_grads(False)


def derive_packed(
    ctx: Any,
    grad: Tensor | None,
    grad_lse: Tensor | None,
    backward: Any = None,
) -> tuple[Tensor | None, ...]:
    """Give the gradient by a."""
    grad_a = None
    if ctx.needs_input_grad[0] and not (grad is None and grad_lse is None):
        backward = backward or _backward("fagg_packed_backward")
        grad_a = backward(grad, grad_lse, *ctx.saved_tensors, *ctx.options)
    return grad_a, None, None, None, None


def save_packed_backward(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    """Save what the derivative of fagg_packed_backward reads."""
    grad, grad_lse, a, offsets, _, _, scale, log, _ = inputs
    ctx.save_for_backward(grad, grad_lse, a, offsets)
    ctx.rest = scale, log
    ctx.set_materialize_grads(False)


def derive_packed_backward(ctx: Any, cotangent: Tensor | None) -> tuple[Tensor | None, ...]:
    """Give the derivatives of the gradient of packed rows."""
    if cotangent is None:
        return (None,) * 9
    grad, grad_lse, a, offsets = ctx.saved_tensors
    rows = second.Packed(a, offsets)
    found = second.derivatives(cotangent, grad, grad_lse, a, rows, None, *ctx.rest)
    return _second(found, grad, grad_lse, 9)


# --- vmap --------------------------------------------------------------------


def _first(tensor: Tensor | None, dim: int | None, size: int) -> Tensor | None:
    """Give a tensor with the axis that vmap maps over in front; one that is not mapped repeats itself."""
    if tensor is None:
        return None
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _mapped_mask(
    where: Tensor | None, where_dim: int | None, lengths: Tensor | None, lengths_dim: int | None,
    a: Tensor, batch: list[int], keep: list[int], size: int,
) -> Tensor | None:  # fmt: skip
    """Give one mask for mask and lengths; `a` has the mapped axis in front, the axes count from behind it."""
    mask = None
    if where is not None and where.ndim - (where_dim is not None) > a.ndim - 1:
        raise ValueError(
            f"nbfagg: where has shape {tuple(where.shape)}; want one that broadcasts to a of shape "
            f"{tuple(a.shape[1:])}"
        )
    if where is not None:
        mask = where if where_dim is None else where.movedim(where_dim, 0)
        if where_dim is not None:
            mask = mask.reshape(size, *(1,) * (a.ndim - mask.ndim), *mask.shape[1:])
    if lengths is not None:
        counts = lengths.unsqueeze(0) if lengths_dim is None else lengths.movedim(lengths_dim, 0)
        for count in counts.unbind(0):
            if torch._C._functorch.maybe_get_level(count) < 0:
                inputs.as_lengths(to_array(count), tuple(a.shape[1:]), tuple(batch), tuple(keep))
        inside = torch.stack(
            [second.within(count, a.shape[1:], batch[0], keep[0]) for count in counts.unbind(0)]
        )
        mask = inside if mask is None else mask & inside
    return mask


def _behind(batch: list[int], keep: list[int]) -> tuple[list[int], list[int]]:
    """Give the axes of a sample as they are with the mapped axis, one more batch axis, in front."""
    return [0, *(axis + 1 for axis in batch)], [axis + 1 for axis in keep]


def map_fagg(
    info: Any, in_dims: Any, a: Any, batch: Any, keep: Any, where: Any, lengths: Any, *options: Any,
    operator: Any = torch.ops.nbfagg.fagg,
) -> Any:  # fmt: skip
    """Make the axis that vmap maps over one more batch axis."""
    a = _first(a, in_dims[0], info.batch_size)
    mask = _mapped_mask(where, in_dims[3], lengths, in_dims[4], a, batch, keep, info.batch_size)
    return operator(a, *_behind(batch, keep), mask, None, *options), (0, 0)


def map_backward(
    info: Any, in_dims: Any, grad: Any, grad_lse: Any, a: Any, alpha: Any, lse: Any, batch: Any, keep: Any,
    where: Any, lengths: Any, *options: Any, operator: Any = torch.ops.nbfagg.fagg_backward,
) -> Any:  # fmt: skip
    """Make the axis that vmap maps over one more batch axis."""
    mapped = [
        _first(tensor, dim, info.batch_size)
        for tensor, dim in zip((grad, grad_lse, a, alpha, lse), in_dims, strict=False)
    ]
    where_dim, lengths_dim = in_dims[7:9]
    mask = _mapped_mask(where, where_dim, lengths, lengths_dim, mapped[2], batch, keep, info.batch_size)
    return operator(*mapped, *_behind(batch, keep), mask, None, *options), 0


def one_by_one(operator: Any, outputs: int) -> Any:
    """Make a rule for vmap that takes one sample after the other: each is many rows already."""

    def rule(info: Any, in_dims: Any, *inputs: Any) -> Any:
        samples = [
            operator(
                *(
                    value if dim is None or not isinstance(value, Tensor) else value.select(dim, i)
                    for value, dim in zip(inputs, in_dims, strict=True)
                )
            )
            for i in range(info.batch_size)
        ]
        if outputs == 1:
            return torch.stack(samples), 0
        return tuple(map(torch.stack, zip(*samples, strict=True))), (0,) * outputs

    return rule


for _name, _kernel, _fake, _saver, _derivative, _rule in (
    ("fagg", fagg, _fake_fagg, save, derive, map_fagg),
    ("fagg_backward", fagg_backward, _fake_backward, save_backward, derive_backward, map_backward),
    ("fagg_packed", fagg_packed, _fake_packed, save_packed, derive_packed, None),
    ("fagg_packed_backward", fagg_packed_backward, _fake_backward, save_packed_backward,
     derive_packed_backward, None),
):  # fmt: skip
    _full = f"nbfagg::{_name}"
    LIBRARY.impl(_name, _kernel, "CPU")
    LIBRARY.impl(_name, _kernel, "CUDA")
    torch.library.register_fake(_full, _fake, lib=LIBRARY)
    torch.library.register_autograd(_full, _derivative, setup_context=_saver, lib=LIBRARY)
    if _rule is None:
        _rule = one_by_one(getattr(torch.ops.nbfagg, _name), 2 if _name == "fagg_packed" else 1)
    torch.library.register_vmap(_full, _rule, lib=LIBRARY)
