"""Tensors as NumPy arrays and back, without a copy; what is refused, by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nbfagg.plan import BRAIN

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
# That of a result, by that of logits.
RESULT = {dtype: dtype for dtype in FLOATS} | dict.fromkeys(INTEGERS, torch.float64)
# What NumPy has too.
_DIRECT = frozenset((torch.float32, torch.float64, torch.float16, torch.bool, torch.int64))
# A log-sum-exp is at least float32.
LSE = {dtype: dtype if dtype.itemsize > 2 else torch.float32 for dtype in FLOATS}


def on_gpu(tensor: Tensor) -> Any:
    """Give the module for tensors on a GPU, if this is one; it is imported for those alone."""
    if tensor.is_cpu:
        return None
    from nbfagg.torch import device

    return device if device.is_on_gpu(tensor) else None


def check(name: str, tensor: Tensor) -> None:
    """Refuse a tensor that cannot be read as an array, naming its device, layout or dtype."""
    if not (tensor.is_cpu or tensor.is_cuda):
        wanted = "CPU and CUDA tensors are taken (a.cpu() makes one)"
        raise NotImplementedError(f"nbfagg: {name} is a tensor on device '{tensor.device}'; {wanted}")
    if tensor.is_nested:
        raise TypeError(
            f"nbfagg: {name} is a nested tensor; want its rows one after the other, for nbfagg.fagg_packed"
        )
    if tensor.layout != torch.strided:
        raise TypeError(f"nbfagg: {name} has layout {tensor.layout}; want torch.strided")


def check_logits(a: Tensor) -> None:
    """Refuse logits of a device, layout or dtype that is not taken, and scalars."""
    check("a", a)
    if a.dtype not in RESULT:
        raise TypeError(
            f"nbfagg: a of shape {tuple(a.shape)} has dtype {a.dtype}; want torch.float16, torch.bfloat16, "
            "torch.float32, torch.float64, an integer or torch.bool"
        )
    if a.ndim == 0:
        raise ValueError("nbfagg: a is a scalar tensor; want one of rank 1 or more")


def to_array(tensor: Tensor) -> npt.NDArray[Any]:
    """Give a tensor's memory as an array."""
    if not tensor.requires_grad and tensor.dtype in _DIRECT and not tensor.is_neg():
        return tensor.numpy()  # type: ignore[no-any-return]
    tensor = tensor.detach()
    if tensor.is_neg() or tensor.is_conj():
        tensor = tensor.resolve_neg().resolve_conj()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(BRAIN)
    array: npt.NDArray[Any] = tensor.numpy()
    return array


def to_tensor(array: npt.NDArray[Any]) -> Tensor:
    """Give an array's memory as a tensor."""
    if array.dtype == BRAIN:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def to_plain(name: str, value: Any) -> Any:
    """Give a mask, lengths or offsets as an array where it is a tensor; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    check(name, value)
    return to_array(value)


def threads(workers: int | None) -> int | None:
    """Give how many threads a call may use: PyTorch's setting, unless the caller has another wish."""
    return torch.get_num_threads() if workers is None else workers
