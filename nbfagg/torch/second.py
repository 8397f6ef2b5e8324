"""Derivatives of the gradient, and along tangents, in PyTorch's own operators: right to any order.

With p the weight of each logit in its row, w that in its token, and sums over a
token's terms (k) or a row's tokens (l)::

    alpha:      grad_a = s p (g - dot + h),  dot = sum_l g alpha
    log alpha:  grad_a = s (w g - p (sum_l g - h))

g and h being the gradients of alpha and lse, s the scale. `derivatives` writes
down the product of a cotangent v of grad_a with the derivatives of that by g, h
and a; those by g and h are also what a tangent v of a makes of alpha and lse.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


def within(lengths: Tensor, shape: Any, batch: int, keep: int) -> Tensor:
    """Give the mask that lengths stand for, of size 1 along all axes but two."""
    inside = torch.arange(shape[keep], device=lengths.device) < lengths.unsqueeze(-1)
    if batch > keep:
        inside = inside.transpose(0, 1)
    size = [1] * len(shape)
    size[batch], size[keep] = shape[batch], shape[keep]
    return inside.reshape(size)


def included(
    a: Tensor, batch: list[int], keep: list[int], where: Tensor | None, lengths: Tensor | None
) -> Tensor | None:
    """Give what mask and lengths include together; None for everything."""
    if lengths is None:
        return where
    inside = within(lengths, a.shape, batch[0], keep[0])
    return inside if where is None else where & inside


class Rows(Protocol):
    """How logits make tokens and rows: what is summed keeps its axes, so that it broadcasts."""

    def token(self, x: Tensor) -> Tensor:
        """Sum over the terms of each token."""

    def row(self, x: Tensor) -> Tensor:
        """Sum what tokens have, or all terms, over each row."""

    def tops(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give each token's and each row's maximum."""

    def spread(self, grad: Tensor, of_row: bool) -> Tensor:
        """Give a gradient of alpha (or lse) with axes of size 1 for those that were summed over."""

    def gather(self, x: Tensor) -> Tensor:
        """Give what tokens have in the shape of alpha."""

    def total(self, x: Tensor) -> Tensor:
        """Sum what tokens have over each row, in the shape of lse."""


class Padded(NamedTuple):
    """Rows along whole axes."""

    ndim: int
    batch: list[int]
    keep: list[int]

    def _axes(self, *kept: int) -> list[int]:
        return [axis for axis in range(self.ndim) if axis not in kept]

    def token(self, x: Tensor) -> Tensor:
        """Sum over the terms of each token."""
        axes = self._axes(*self.batch, *self.keep)
        return x.sum(axes, keepdim=True) if axes else x

    def row(self, x: Tensor) -> Tensor:
        """Sum over each row."""
        axes = self._axes(*self.batch)
        return x.sum(axes, keepdim=True) if axes else x

    def tops(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give each token's and each row's maximum."""
        token, row = self._axes(*self.batch, *self.keep), self._axes(*self.batch)
        return _top(x, token), _top(x, row)

    def spread(self, grad: Tensor, of_row: bool) -> Tensor:
        """Add the axes that were summed over."""
        for axis in self._axes(*self.batch, *(() if of_row else self.keep)):
            grad = grad.unsqueeze(axis)
        return grad

    def gather(self, x: Tensor) -> Tensor:
        """Drop the axes that were summed over."""
        return x.reshape([x.shape[axis] for axis in range(self.ndim) if axis in {*self.batch, *self.keep}])

    def total(self, x: Tensor) -> Tensor:
        """Sum what tokens have over each row."""
        return self.row(x).reshape([x.shape[axis] for axis in range(self.ndim) if axis in self.batch])


def _top(x: Tensor, axes: list[int]) -> Tensor:
    if x.numel() == 0:
        # Of nothing, there is no maximum; nor is there anything that it would be taken from.
        return x.sum(axes, keepdim=True) if axes else x
    return x.amax(axes, keepdim=True) if axes else x


class Packed:
    """Rows that follow one another along the first axis."""

    def __init__(self, a: Tensor, offsets: Tensor) -> None:
        self.tail = (1,) * (a.ndim - 1)
        self.terms = list(range(1, a.ndim))
        self.count = offsets.shape[0] - 1
        tokens = torch.arange(a.shape[0], device=a.device)
        self.of_token = torch.searchsorted(offsets.long(), tokens, right=True) - 1

    def token(self, x: Tensor) -> Tensor:
        """Sum over the terms of each token."""
        return x.sum(self.terms, keepdim=True) if self.terms else x

    def row(self, x: Tensor) -> Tensor:
        """Sum over each row, for each of its tokens."""
        return self.spread(self.total(x), True)

    def tops(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Give each token's maximum, and for each token its row's."""
        token = _top(x, self.terms)
        rows = x.new_full((self.count,), -torch.inf)
        return token, self.spread(rows.scatter_reduce(0, self.of_token, self.gather(token), "amax"), True)

    def spread(self, grad: Tensor, of_row: bool) -> Tensor:
        """Give each token's, or for each token its row's."""
        return (grad[self.of_token] if of_row else grad).reshape(-1, *self.tail)

    def gather(self, x: Tensor) -> Tensor:
        """Give what tokens have, without their terms' axes."""
        return x.reshape(len(self.of_token))

    def total(self, x: Tensor) -> Tensor:
        """Sum what tokens or terms have over each row."""
        return x.new_zeros(self.count).index_add(0, self.of_token, self.gather(self.token(x)))


def _weights(x: Tensor, top: Tensor, add: Any) -> Tensor:
    """Give the exponentials over their sum; 0 where that is of nothing."""
    e = torch.exp(x - torch.where(top == -torch.inf, 0.0, top.detach()))
    total = add(e)
    return e / torch.where(total == 0.0, 1.0, total)


def derivatives(
    v: Tensor,
    grad: Tensor | None,
    grad_lse: Tensor | None,
    a: Tensor,
    rows: Rows,
    mask: Tensor | None,
    scale: float,
    log: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Give the derivatives of sum(v * grad_a) by the gradients of alpha and of lse, and by a."""
    kind = torch.promote_types(a.dtype, torch.float32)
    x, v = scale * a.to(kind), v.to(kind)
    if mask is not None:
        x = torch.where(mask, x, -torch.inf)
        # Beyond the mask there may be anything, also in v.
        v = torch.where(mask, v, 0.0)
    token_top, row_top = rows.tops(x)
    p = _weights(x, row_top, rows.row)
    zero = torch.zeros((), dtype=kind)
    g = zero if grad is None else rows.spread(grad.to(kind), False)
    h = zero if grad_lse is None else rows.spread(grad_lse.to(kind), True)
    shares = rows.token(v * p)
    whole = rows.row(shares)
    if log:
        # Of a token that holds nothing, neither gradient nor logarithm changes anything.
        holds = token_top != -torch.inf
        g = torch.where(holds, g, 0.0)
        w = _weights(x, token_top, rows.token)
        own = rows.token(v * w)
        rest = rows.row(g.expand_as(own)) - h
        by_grad = torch.where(holds, scale * (own - whole), 0.0)
        by_a = scale**2 * (w * g * (v - own) - rest * p * (v - whole))
    else:
        alpha = rows.token(p)
        dot = rows.row(g * alpha)
        factor = g - dot + h
        by_grad = scale * (shares - alpha * whole)
        by_a = scale**2 * p * (v * factor - rows.row(shares * factor) - whole * (g - dot))
    return rows.gather(by_grad), rows.total(scale * shares), by_a.to(a.dtype)
