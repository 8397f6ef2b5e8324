"""The short way: kernels called by Python, where nothing but autograd watches.

PyTorch takes some 60 us to bring an operator and its derivative from Python to
Python; an autograd function that calls the kernels itself takes a third of that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function, forward_ad

from nbfagg.torch import operators


def is_watched(a: Tensor) -> bool:
    """Say whether something traces, maps or overloads a call on `a`: it then has to see an operator."""
    return bool(
        torch.compiler.is_compiling()
        or type(a) not in (Tensor, torch.nn.Parameter)
        or are_transforms_active()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._get_tracing_state() is not None
    )


def are_transforms_active() -> bool:
    """Say whether a transform of torch.func runs, or forward-mode AD."""
    return bool(torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0)


class Eager(Function):
    """`operators` fagg with its derivative."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        """Give alpha and lse."""
        output = operators.fagg(*inputs)
        operators.save(ctx, inputs, output)
        return output

    @staticmethod
    def backward(ctx: Any, grad: Any, grad_lse: Any) -> Any:
        """Give the gradient by a; by the operator, if that is to be differentiated or is watched."""
        given = grad if grad_lse is None else grad_lse
        if given is None or torch.is_grad_enabled() or is_watched(given) or _is_batched(given):
            return operators.derive(ctx, grad, grad_lse)
        return operators.derive(ctx, grad, grad_lse, backward=operators.fagg_backward)


def _is_batched(grad: Tensor) -> bool:
    """Say whether autograd maps over gradients (is_grads_batched), which is no transform of torch.func."""
    try:
        grad.data_ptr()
    except RuntimeError:
        return True
    return False
