"""Tensors on a GPU, as nbfagg.cuda reads them: their memory, PyTorch's current stream and its allocator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nbfagg.cuda import arrays, functions, geometry
from nbfagg.cuda.arrays import View
from nbfagg.cuda.plan import Plan
from nbfagg.torch.arrays import LSE, RESULT

STORAGE = {
    torch.float32: "f4", torch.float64: "f8", torch.float16: "f2", torch.bfloat16: "b2", torch.bool: "b1",
    torch.uint8: "u1", torch.int8: "i1", torch.int16: "i2", torch.int32: "i4", torch.int64: "i8",
}  # fmt: skip
DTYPES = {storage: dtype for dtype, storage in STORAGE.items()}


# Three questions that only a PyTorch with a GPU answers; tests answer them otherwise.
def is_on_gpu(tensor: Tensor) -> bool:
    """Say whether a tensor lies in CUDA's memory."""
    return bool(tensor.is_cuda)


def number_of(tensor: Tensor) -> int:
    """Give the number of a tensor's GPU."""
    return int(tensor.device.index)


def stream_of(tensor: Tensor) -> int:
    """Give the handle of PyTorch's current stream on a tensor's GPU."""
    return int(torch.cuda.current_stream(tensor.device).cuda_stream)


def is_capturing() -> bool:
    """Say whether a CUDA graph is being captured."""
    return bool(torch.cuda.is_current_stream_capturing())


def view_of(name: str, tensor: Tensor) -> View:
    """Read where a tensor lies."""
    if not is_on_gpu(tensor):
        raise TypeError(
            f"nbfagg: {name} is a tensor on device '{tensor.device}', a is on a GPU; want one there too "
            "(nothing is moved between them)"
        )
    if tensor.layout != torch.strided:
        raise TypeError(f"nbfagg: {name} has layout {tensor.layout}; want torch.strided")
    if tensor.dtype not in STORAGE:
        raise TypeError(f"nbfagg: {name} has dtype {tensor.dtype}; want a float, an integer or torch.bool")
    tensor = tensor.detach()
    if tensor.is_neg():
        raise ValueError(f"nbfagg: {name} is a view that negates; want {name}.resolve_neg()")
    item = tensor.dtype.itemsize
    return View(
        tensor.data_ptr(), tuple(tensor.shape), tuple(stride * item for stride in tensor.stride()),
        STORAGE[tensor.dtype], True, number_of(tensor), stream_of(tensor),
    )  # fmt: skip


def empty(like: Tensor, shape: tuple[int, ...], storage: str) -> tuple[Tensor, int]:
    """Give a new tensor on the same GPU, and its address."""
    made = torch.empty(shape, dtype=DTYPES[storage], device=like.device)
    return made, made.data_ptr()


def turn(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Give a tensor's axes in another order."""
    return tensor.permute(axes)


def spaces(like: Tensor, plan: Plan) -> tuple[dict[str, int], Any]:
    """Give the workspace of a call that is captured, from the graph's own memory, and what keeps it.

    Any other call uses what nbfagg.cuda keeps for the stream.
    """
    if not is_capturing():
        return {}, None
    real = torch.float64 if plan.kind.wide else torch.float32
    work = torch.empty(max(1, plan.space), dtype=real, device=like.device)
    last = plan.rows if plan.geometry[geometry.LAST] else 1
    tickets = torch.zeros(last, dtype=torch.int32, device=like.device)
    listed = torch.empty(max(1, plan.listed), dtype=torch.int32, device=like.device)
    found = {"work": work.data_ptr(), "tickets": tickets.data_ptr(), "listed": listed.data_ptr()}
    return found, (work, tickets, listed)


arrays.LIBRARIES[Tensor] = arrays.Library(view_of, empty, turn, spaces)
arrays.LIBRARIES[torch.nn.Parameter] = arrays.LIBRARIES[Tensor]


def _axes(batch: Any, keep: Any, where: Tensor | None, lengths: Tensor | None) -> dict[str, Any]:
    return {
        "batch_axis": tuple(batch),
        "keep_axis": tuple(keep),
        "where": where,
        "lengths": None if lengths is None else lengths.long(),
    }


def fagg(
    a: Tensor, batch: list[int], keep: list[int], where: Tensor | None, lengths: Tensor | None, scale: float,
    log: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Give alpha and lse, as the operator does."""
    options = _axes(batch, keep, where, lengths)
    alpha, lse = functions.fagg(a, **options, scale=scale, log=log, return_lse=True)
    return alpha.contiguous(), lse.to(LSE[RESULT[a.dtype]])


def _gradients(
    grad: Tensor | None, grad_lse: Tensor | None, a: Tensor, alpha: Tensor, scale: float
) -> dict[str, Any]:
    """Give the gradients as `functions.fagg_vjp` takes them; a missing one of alpha is 0."""
    of_alpha = torch.zeros_like(alpha) if grad is None else grad.to(alpha.dtype).contiguous()
    if grad_lse is None:
        return {"grad": of_alpha}
    real = DTYPES[functions.lse_storage(STORAGE[a.dtype], scale)]
    return {"grad": (of_alpha, grad_lse.to(real).contiguous()), "return_lse": True}


def fagg_backward(
    grad: Tensor | None, grad_lse: Tensor | None, a: Tensor, alpha: Tensor, batch: list[int], keep: list[int],
    where: Tensor | None, lengths: Tensor | None, scale: float, log: bool,
) -> Tensor:  # fmt: skip
    """Give the gradient, as the operator does."""
    result = torch.empty_like(a, dtype=RESULT[a.dtype])
    functions.fagg_vjp(
        **_gradients(grad, grad_lse, a, alpha, scale), a=a, alpha=alpha.contiguous(), lse=None,
        **_axes(batch, keep, where, lengths), scale=scale, log=log, out=result,
    )  # fmt: skip
    return result


def fagg_packed(a: Tensor, offsets: Tensor, scale: float, log: bool) -> tuple[Tensor, Tensor]:
    """Give alpha and lse of packed rows, as the operator does."""
    alpha, lse = functions.fagg_packed(a, offsets.long(), scale=scale, log=log, return_lse=True)
    return alpha, lse.to(LSE[RESULT[a.dtype]])


def fagg_packed_backward(
    grad: Tensor | None, grad_lse: Tensor | None, a: Tensor, offsets: Tensor, alpha: Tensor, scale: float,
    log: bool,
) -> Tensor:  # fmt: skip
    """Give the gradient by packed rows, as the operator does."""
    result = torch.empty_like(a, dtype=RESULT[a.dtype])
    functions.fagg_packed_vjp(
        **_gradients(grad, grad_lse, a, alpha, scale), a=a, offsets=offsets.long(), alpha=alpha.contiguous(),
        lse=None, scale=scale, log=log, out=result,
    )  # fmt: skip
    return result


def gradient(
    name: str, grad: Any, a: Tensor, given: tuple[Any, ...], out: Tensor, keywords: dict[str, Any]
) -> None:
    """Write the gradient that a function of `functions` gives; small tensors may be of any type."""
    *offsets, alpha, lse = given
    result, real = RESULT[a.dtype], DTYPES[functions.lse_storage(STORAGE[a.dtype], keywords["scale"])]

    def small(value: Any, dtype: torch.dtype) -> Any:
        return value.to(dtype).contiguous() if isinstance(value, Tensor) and is_on_gpu(value) else value

    if isinstance(grad, tuple | list):
        grad = tuple(small(value, dtype) for value, dtype in zip(grad, (result, real), strict=False))
    else:
        grad = small(grad, result)
    offsets = [small(value, torch.int64) for value in offsets]
    options = dict(keywords)
    if isinstance(options.get("lengths"), Tensor):
        options["lengths"] = options["lengths"].long()
    getattr(functions, name)(grad, a, *offsets, small(alpha, result), lse, out=out, **options)
