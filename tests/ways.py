"""One array for each way through the plan; test_plan.py proves that each goes the way it is named for."""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np

from nbfagg import fields


@functools.cache
def _normal(shape, seed):
    return np.random.default_rng([seed, math.prod(shape)]).normal(0, 3, shape)


class Way(NamedTuple):
    """A shape, batch first, and how it lies in memory."""

    shape: tuple[int, ...]
    keep: int = 1
    order: tuple[int, ...] | None = None  # axes in memory's order, outermost first
    gap: bool = False  # the innermost axis is a slice of a longer one
    swapped: bool = False  # the other byte order

    def normal(self, dtype, seed=0):
        """Give logits of N(0, 3), not yet in their layout."""
        return _normal(self.shape, seed).astype(dtype)

    def lay(self, values):
        """Give `values` in this layout. Between them is NaN, so that what reads too much is found out."""
        order = self.order or tuple(range(values.ndim))
        turned = values.transpose(order)
        *outer, inner = turned.shape
        dtype = values.dtype.newbyteorder("S" if self.swapped else "=")
        memory = np.full((*outer, inner + self.gap), np.nan, dtype)
        memory[..., :inner] = turned
        return memory[..., :inner].transpose(np.argsort(order))


WAYS = {
    # Rows taken token by token.
    "small": Way((3, 10, 5, 20)),
    "tiny": Way((11, 10, 2, 10)),
    "tiny tokens": Way((900, 3, 1)),
    "blocks": Way((3, 700, 3, 10)),
    "tokens of whole vectors": Way((3, 200, 32)),
    "tokens of one term": Way((3, 5000, 1)),
    "pieces": Way((3, 2, 2, 4200)),
    "sums in the result": Way((3, fields.SUMS_TOKENS + 21, 1)),
    "parts": Way((1, 3, 2, 80_000)),
    "parts of tokens": Way((1, 30_000, 3, 4)),
    "parts in the result": Way((1, fields.SUMS_TOKENS + 4000, 5)),
    "gathered": Way((3, 30, 3, 5), swapped=True),
    "gathered strided": Way((3, 30, 3, 5), swapped=True, order=(3, 1, 0, 2), gap=True),
    "gathered pieces": Way((3, 2, 3, 2900), swapped=True, order=(0, 3, 1, 2)),
    # Axes walked in memory's order: lanes are terms.
    "runs": Way((3, 7, 4, 40), gap=True),
    "runs side by side": Way((3, 7, 4, 40), order=(0, 2, 1, 3)),
    "runs in pieces": Way((3, 2, 2, 5000), order=(2, 0, 1, 3)),
    "runs of batch rows side by side": Way((20, 7, 3, 64), order=(1, 2, 0, 3)),
    "short runs side by side": Way((3, 21, 6, 5), order=(0, 2, 1, 3)),
    "copies": Way((2, 3, 300, 1300), order=(0, 2, 1, 3)),
    # Lanes are tokens or batch rows.
    "columns of tokens": Way((3, 6, 5, 37), keep=3),
    "columns of batch rows": Way((37, 6, 5, 4), order=(1, 2, 3, 0)),
    "columns of a few tokens": Way((3, 100, 5), keep=2),
    "columns apart": Way((3, 20, 6, 5), gap=True),
    "many steps": Way((3, 5, 70, 20), keep=3),
    "copies of columns": Way((1, 1100, 1100), keep=2),
    # A single axis cut in chunks, for there is nothing else to share out.
    "chunks of tokens": Way((1, 15_000, 3, 20), gap=True),
    "chunks of columns": Way((1, 50, 6000), keep=2),
}
