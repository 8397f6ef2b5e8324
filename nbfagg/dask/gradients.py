"""The gradient of one chunk, which may hold a part of its rows.

Let a chunk's part of a row weigh W, and its part of a token r of that token. For the weights of the row's
tokens, with p = alpha * r * w (w the softmax of the token's terms in the chunk), ::

    grad_a = scale * p * (g - dot)         = W * scale * p / W * (g - dot)

is what W * g gives through the chunk's own weights, alpha * r / W, which sum to 1, once their own dot is
exchanged for the row's. `fagg_vjp` takes such a difference as a gradient of lse. For logarithms a token is
normalised by its own sum: ::

    grad_a = scale * w * (r * g - alpha * r * dot)
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from dask.utils import is_cupy_type

import nbfagg
from nbfagg.dask.arrays import lse_dtype, on_host
from nbfagg.dask.chunks import alone, beside, cell_by_cell, lengths_here, whole_lengths

Floats = npt.NDArray[np.float64]


def whole(
    a: Any,
    where: Any,
    lengths: Any,
    grad: Any,
    alpha: Any,
    lse: Any,
    of_lse: Any,
    *,
    kind: np.dtype[Any],
    **options: Any,
) -> Any:
    """Give the gradient of a chunk that holds whole batch rows."""
    grad, alpha, lengths = alone(grad), alone(alpha), whole_lengths(a, lengths, options)
    if is_cupy_type(a):
        # Kernels convert nothing, and want these in one piece, which a part of a larger array is not.
        grad, alpha = (array.astype(kind, order="C", copy=False) for array in (grad, alpha))
        of_lse = None if of_lse is None else of_lse.astype(lse_dtype(kind), order="C", copy=False)
    pair = (grad, of_lse) if of_lse is not None else grad
    return nbfagg.fagg_vjp(
        *(pair, a, alpha, lse), where=where, lengths=lengths, return_lse=of_lse is not None, **options
    )


def dots(grad: Any, alpha: Any, *, log: bool, batch_dims: tuple[int, ...]) -> Any:
    """Give a chunk's share of each row's dot, as a sum and what it lost."""
    rows = _Rows(grad.shape, batch_dims)
    grad, weights = (rows.flat(array) for array in counted(grad, alpha, log))
    dot = row_dots(grad, weights, rows.offsets, log).reshape(rows.shape)
    return np.stack((dot, np.zeros_like(dot)))


def part(
    a: Any,
    where: Any,
    lengths: Any,
    grad: Any,
    alpha: Any,
    lse: Any,
    of_lse: Any,
    start: Any,
    dot: Any,
    state: Any,
    tokens: Any,
    *,
    batch_axis: tuple[int, ...],
    keep_axis: tuple[int, ...],
    tokens_in_all: int,
    kind: np.dtype[Any],
    log: bool,
    **options: Any,
) -> Any:
    """Give the gradient of a chunk that holds a part of its rows."""
    if lengths is not None:
        lengths = lengths_here(a, lengths, start, tokens_in_all, keep_axis)
    result = sorted(batch_axis + keep_axis)
    rows = _Rows(grad.shape, tuple(result.index(axis) for axis in batch_axis))
    grad, weights = (rows.flat(array) for array in counted(grad, alpha, log))
    dot = dot[0] + dot[1]
    if of_lse is not None:
        dot = dot - np.asarray(on_host(of_lse), np.float64)
    held = None
    if state is not None:
        held = rows.flat(cell_by_cell(state).weights(log, cell_by_cell(tokens)))
    grad, weights, difference = localised(grad, weights, held, dot.reshape(-1), rows.offsets, log, kind)
    grad, weights, difference = beside_logits(
        a, kind, rows.unflat(grad), rows.unflat(weights), difference.reshape(rows.shape)
    )
    return nbfagg.fagg_vjp(
        *((grad, difference), a, weights, lse),
        where=where,
        lengths=lengths,
        batch_axis=batch_axis,
        keep_axis=keep_axis,
        log=log,
        return_lse=True,
        **options,
    )


def beside_logits(
    a: Any, kind: np.dtype[Any], grad: Floats, weights: Floats, difference: Floats
) -> tuple[Any, Any, Any]:
    """Give what `localised` gave as a kernel takes it: on a GPU, with numbers of the result's types."""
    if not is_cupy_type(a):
        return grad, weights, difference
    given = grad.astype(kind), weights.astype(kind), difference.astype(lse_dtype(kind))
    return beside(a, given[0]), beside(a, given[1]), beside(a, given[2])


class _Rows:
    """How an array of a result's shape lies row by row."""

    def __init__(self, shape: tuple[int, ...], batch_dims: tuple[int, ...]) -> None:
        self.order = (*batch_dims, *(axis for axis in range(len(shape)) if axis not in batch_dims))
        self.turned = tuple(shape[axis] for axis in self.order)
        self.shape = self.turned[: len(batch_dims)]
        tokens = math.prod(self.turned[len(batch_dims) :])
        self.offsets = np.arange(math.prod(self.shape) + 1, dtype=np.int64) * tokens

    def flat(self, array: Any) -> Any:
        """Give the tokens of all rows one after the other."""
        return np.ascontiguousarray(array.transpose(self.order)).reshape(-1)

    def unflat(self, array: Any) -> Any:
        """Give them back in the result's shape."""
        return array.reshape(self.turned).transpose(np.argsort(self.order))


def localised(
    grad: Floats,
    weights: Floats,
    held: Floats | None,
    dot: Floats,
    offsets: npt.NDArray[np.int64],
    log: bool,
    kind: np.dtype[Any],
) -> tuple[Floats, Floats, Floats]:
    """Give gradient and weights (or their logarithms) of a chunk's own rows, and a gradient of their lse.

    `held` is how much of each token (or its logarithm) the chunk holds, None for all; `dot` belongs to whole
    rows. What the kernel takes in is rounded here, to `kind`, so that its own dots are these.
    """
    if log:
        with np.errstate(under="ignore", invalid="ignore"):
            if held is not None:
                grad = np.where(held > -math.inf, grad * np.exp(held), 0.0)
                weights = weights + held
            grad = grad.astype(kind).astype(np.float64)
        return grad, weights, row_dots(grad, weights, offsets, log) - dot
    if held is not None:
        weights = weights * held
    mass = row_dots(np.ones_like(weights), weights, offsets, log)
    spread = np.repeat(mass, np.diff(offsets))
    with np.errstate(all="ignore"):
        weights = np.where(weights != 0.0, weights / spread, 0.0).astype(kind).astype(np.float64)
        grad = np.where(weights != 0.0, grad * spread, 0.0).astype(kind).astype(np.float64)
        return grad, weights, row_dots(grad, weights, offsets, log) - mass * dot


def counted(grad: Any, alpha: Any, log: bool) -> tuple[Floats, Floats]:
    """Give gradient and weights, or logarithms, as float64; of an empty token no gradient counts."""
    grad, alpha = (np.asarray(on_host(array)).astype(np.float64) for array in (grad, alpha))
    if not log:
        if (alpha < 0.0).any():
            raise ValueError("nbfagg: alpha holds negative numbers; want weights, or log=True")
        return grad, alpha
    if (alpha > 0.0).any():
        raise ValueError(
            "nbfagg: alpha holds positive numbers; want logarithms of weights, as log=True gives"
        )
    return np.where(alpha == -math.inf, 0.0, grad), alpha


def row_dots(grad: Floats, weights: Floats, offsets: npt.NDArray[np.int64], log: bool) -> Floats:
    """Give each row's dot: the sum of grad * weight, or of grad alone."""
    from nbfagg.cpu import states

    found = np.empty(len(offsets) - 1)
    states.dots_of(grad, np.ones_like(weights) if log else weights, offsets, found)
    return found
