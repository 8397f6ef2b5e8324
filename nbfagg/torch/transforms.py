"""The operators as autograd functions for torch.func: grad, vmap of it, jvp, and forward-mode AD.

An operator's registered derivative serves autograd, torch.compile and export;
transforms of functions, and tangents, ask for a `torch.autograd.Function`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from nbfagg.torch import operators, second
from nbfagg.torch.arrays import LSE, RESULT
from nbfagg.torch.eager import Eager, are_transforms_active, is_watched

_ops = torch.ops.nbfagg


class Fagg(Function):
    """`operators` fagg, of (a, batch, keep, where, lengths, scale, log, workers)."""

    @staticmethod
    def forward(*inputs: Any) -> Any:
        """Give alpha and lse."""
        return _ops.fagg(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save what the derivatives read."""
        operators.save(ctx, inputs, output)
        ctx.save_for_forward(inputs[0], inputs[3], inputs[4])

    @staticmethod
    def backward(ctx: Any, grad: Any, grad_lse: Any) -> Any:
        """Give the gradient by a."""
        return operators.derive(ctx, grad, grad_lse, backward=FaggBackward.apply)

    @staticmethod
    def jvp(ctx: Any, tangent: Any, *rest: Any) -> Any:
        """Give what a tangent of a makes of alpha and lse."""
        a, where, lengths = ctx.saved_tensors
        batch, keep, (scale, log, _) = ctx.rest
        mask = second.included(a, batch, keep, where, lengths)
        rows = second.Padded(a.ndim, batch, keep)
        by_alpha, by_lse, _ = second.derivatives(tangent, None, None, a, rows, mask, scale, log)
        return by_alpha.to(RESULT[a.dtype]), by_lse.to(LSE[RESULT[a.dtype]])

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        """Make the mapped axis one more batch axis."""
        return operators.map_fagg(info, in_dims, *inputs, operator=Fagg.apply)


class FaggBackward(Function):
    """`operators` fagg_backward."""

    @staticmethod
    def forward(*inputs: Any) -> Any:
        """Give the gradient by a."""
        return _ops.fagg_backward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save what the derivatives read."""
        operators.save_backward(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:5], *inputs[7:9])

    @staticmethod
    def backward(ctx: Any, cotangent: Any) -> Any:
        """Give the derivatives by the gradients of alpha and lse, and by a."""
        return operators.derive_backward(ctx, cotangent)

    @staticmethod
    def jvp(ctx: Any, of_grad: Any, of_lse: Any, of_a: Any, *rest: Any) -> Any:
        """Give what tangents make of the gradient, which is linear in those of alpha and lse."""
        grad, grad_lse, a, alpha, lse, where, lengths = ctx.saved_tensors
        batch, keep, scale, log = ctx.rest
        mask = second.included(a, batch, keep, where, lengths)
        rows = second.Padded(a.ndim, batch, keep)
        along = _along(of_a, grad, grad_lse, a, rows, mask, scale, log)
        options = batch, keep, where, lengths, scale, log, None
        return along + FaggBackward.apply(of_grad, of_lse, a, alpha, lse, *options)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        """Make the mapped axis one more batch axis."""
        return operators.map_backward(info, in_dims, *inputs, operator=FaggBackward.apply)


class FaggPacked(Function):
    """`operators` fagg_packed, of (a, offsets, scale, log, workers)."""

    @staticmethod
    def forward(*inputs: Any) -> Any:
        """Give alpha and lse."""
        return _ops.fagg_packed(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save what the derivatives read."""
        operators.save_packed(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Any, grad_lse: Any) -> Any:
        """Give the gradient by a."""
        return operators.derive_packed(ctx, grad, grad_lse, backward=FaggPackedBackward.apply)

    @staticmethod
    def jvp(ctx: Any, tangent: Any, *rest: Any) -> Any:
        """Give what a tangent of a makes of alpha and lse."""
        a, offsets = ctx.saved_tensors
        scale, log, _ = ctx.options
        rows = second.Packed(a, offsets)
        by_alpha, by_lse, _ = second.derivatives(tangent, None, None, a, rows, None, scale, log)
        return by_alpha.to(RESULT[a.dtype]), by_lse.to(LSE[RESULT[a.dtype]])

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        """Take one sample after the other."""
        return operators.one_by_one(FaggPacked.apply, 2)(info, in_dims, *inputs)


class FaggPackedBackward(Function):
    """`operators` fagg_packed_backward."""

    @staticmethod
    def forward(*inputs: Any) -> Any:
        """Give the gradient by a."""
        return _ops.fagg_packed_backward(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save what the derivatives read."""
        operators.save_packed_backward(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:6])

    @staticmethod
    def backward(ctx: Any, cotangent: Any) -> Any:
        """Give the derivatives by the gradients of alpha and lse, and by a."""
        return operators.derive_packed_backward(ctx, cotangent)

    @staticmethod
    def jvp(ctx: Any, of_grad: Any, of_lse: Any, of_a: Any, *rest: Any) -> Any:
        """Give what tangents make of the gradient, which is linear in those of alpha and lse."""
        grad, grad_lse, a, offsets, alpha, lse = ctx.saved_tensors
        along = _along(of_a, grad, grad_lse, a, second.Packed(a, offsets), None, *ctx.rest)
        return along + FaggPackedBackward.apply(of_grad, of_lse, a, offsets, alpha, lse, *ctx.rest, None)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        """Take one sample after the other."""
        return operators.one_by_one(FaggPackedBackward.apply, 1)(info, in_dims, *inputs)


def _along(of_a: Any, grad: Any, grad_lse: Any, a: Any, *rest: Any) -> Any:
    """Give what a tangent of a makes of its gradient: the product with a Hessian, which is symmetric."""
    if of_a is None:
        return torch.zeros_like(a, dtype=RESULT[a.dtype])
    return second.derivatives(of_a, grad, grad_lse, a, *rest)[2]


def _refuse_nested_tangents() -> None:
    """Refuse what PyTorch gets wrong: it loses second tangents on the way through an autograd function.

    See github.com/pytorch/pytorch/issues/197867: the second derivative comes out as 0.
    """
    stack = torch._C._functorch.get_interpreter_stack() or []
    if sum(level.key() == torch._C._functorch.TransformType.Jvp for level in stack) > 1:
        raise NotImplementedError(
            "nbfagg: forward mode within forward mode (jacfwd of jacfwd, jvp of jvp) gives wrong derivatives "
            "of custom functions in PyTorch; take torch.func.hessian, or jacrev of either"
        )


def gradient(name: str) -> Any:
    """Give an operator for a gradient, as an autograd function if a transform or a tangent asks for it."""
    functions: dict[str, Any] = {"fagg_backward": FaggBackward, "fagg_packed_backward": FaggPackedBackward}
    return functions[name].apply if are_transforms_active() else getattr(_ops, name)


def operator(name: str, a: Tensor) -> Any:
    """Give an operator of `a`, as the autograd function that serves best."""
    if torch.compiler.is_compiling() and not a.requires_grad:
        # Dynamo follows vmap into an operator, but not into a function.
        return getattr(_ops, name)
    if are_transforms_active():
        _refuse_nested_tangents()
        functions: dict[str, Any] = {"fagg": Fagg, "fagg_packed": FaggPacked}
        return functions[name].apply
    if name == "fagg" and not is_watched(a):
        return Eager.apply
    return getattr(_ops, name)
