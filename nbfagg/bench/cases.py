"""Named shapes and their logits."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Random numbers are made once and repeated: time does not depend on them, and 2**26 new ones take longer than
# the calls that are timed. A prime, so that rows differ.
RANDOM = 1_000_003


@dataclass(frozen=True)
class Case:
    """A shape (B, L, N, H), the axis that is kept, and the order of the axes in memory, outermost first.

    Attributes
    ----------
    shape : tuple of int
        Of the logits; the batch axis is the first.
    keep_axis : int
        As `nbfagg.fagg` takes it.
    order : tuple of int
        () for that of the shape.
    """

    shape: tuple[int, ...]
    keep_axis: int = 1
    order: tuple[int, ...] = ()

    @property
    def result_shape(self) -> tuple[int, ...]:
        """Give the shape of alpha."""
        return self.shape[0], self.shape[self.keep_axis]


# Appended to, never changed: asv tells its series apart by these names.
CASES = {
    "small call": Case((3, 10, 2, 10)),
    "heads": Case((32, 512, 12, 64)),
    "long rows": Case((4, 32768, 8, 64)),
    "pose": Case((8, 4096, 2, 10)),
    "long pose": Case((16, 65536, 2, 10)),
    "tiny rows": Case((65536, 16, 4, 1)),
    "many tiny rows": Case((2**20, 16, 4, 1)),
    "four tokens": Case((1, 4, 1, 2**24)),
    "one row": Case((1, 2**24, 1, 4)),
    "softmax": Case((4096, 4096, 1, 1)),
    "heat map, first": Case((64, 64, 64, 64), keep_axis=1),
    "heat map, middle": Case((64, 64, 64, 64), keep_axis=2),
    "heat map, last": Case((64, 64, 64, 64), keep_axis=3),
    "heads, reversed": Case((32, 512, 12, 64), order=(3, 2, 1, 0)),
    "heads, tokens innermost": Case((32, 512, 12, 64), order=(0, 2, 3, 1)),
}

# Those that everybody is compared at: a call with next to nothing to do, large and small rows in and out of
# the caches.
COMPARED = ("small call", "heads", "pose", "tiny rows", "long rows")


def comparable() -> list[str]:
    """Name the shapes that peers take: in memory's order, their tokens kept."""
    return [name for name, case in CASES.items() if case.keep_axis == 1 and not case.order]


def views(shape: tuple[int, ...], shortest: int) -> list[Case]:
    """Give every order of `shape`'s axes in memory whose innermost axis has `shortest` elements or more."""
    orders = itertools.permutations(range(len(shape)))
    return [Case(shape, order=order) for order in orders if shape[order[-1]] >= shortest]


@lru_cache(maxsize=2)
def logits(case: Case, dtype: str = "float32") -> NDArray[Any]:
    """Give N(0, 1) logits; writable, for a read-only array costs some of the peers a copy."""
    order = case.order or tuple(range(len(case.shape)))
    inner = tuple(case.shape[axis] for axis in order)
    random = np.random.default_rng(20240607).standard_normal(
        min(RANDOM, math.prod(inner)), dtype=np.dtype(dtype).type
    )
    memory = np.resize(random, inner)
    return memory.transpose(np.argsort(order))
