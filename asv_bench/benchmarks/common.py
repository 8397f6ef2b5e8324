"""What the benchmarks share: named shapes, their data, and sides timed in turns in one process."""

from __future__ import annotations

import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy as np

Call = Callable[[], Any]
Side = TypeVar("Side", bound=Hashable)

# A turn is SETTLE seconds of calls that nobody times, then BLOCK seconds of calls that are. The first part is
# for the threads of the side before: libgomp's spin for some 6 ms after their last task, and caches hold the
# other's data.
ROUNDS = 9
SETTLE = 0.02
BLOCK = 0.01


@dataclass(frozen=True)
class Case:
    """A shape, the axis that is kept, and the order of the axes in memory, outermost first."""

    shape: tuple[int, ...]
    keep_axis: int = 1
    order: tuple[int, ...] = ()

    @property
    def result_shape(self) -> tuple[int, ...]:
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


def views(shape: tuple[int, ...], shortest: int) -> list[Case]:
    """Every order of `shape`'s axes in memory whose innermost axis has `shortest` elements or more."""
    orders = itertools.permutations(range(len(shape)))
    return [Case(shape, order=order) for order in orders if shape[order[-1]] >= shortest]


@lru_cache(maxsize=2)
def logits(case: Case, dtype: str = "float32") -> np.ndarray:
    """N(0, 1); writable, for a read-only array costs some of the peers a copy."""
    order = case.order or tuple(range(len(case.shape)))
    inner = tuple(case.shape[axis] for axis in order)
    memory = np.random.default_rng(20240607).standard_normal(inner, dtype=np.dtype(dtype))
    return memory.transpose(np.argsort(order))


def fagg() -> Callable[..., Any]:
    """The installed nbfagg's function; asv shows n/a for a version without it."""
    import nbfagg

    if not hasattr(nbfagg, "fagg"):
        raise NotImplementedError("this version has no fagg")
    return nbfagg.fagg


def ours(case: Case, a: np.ndarray, **options: Any) -> Call:
    return partial(fagg(), a, keep_axis=case.keep_axis, **options)


def alternate(
    sides: Mapping[Side, Call], *, rounds: int | None = None, settle: float | None = None
) -> dict[Side, list[float]]:
    """Seconds a call of each side, one figure a round, the sides taking turns.

    Every other round goes backwards, so that no side always follows the same one.
    """
    settle = SETTLE if settle is None else settle
    calls = {name: _calls_a_block(call) for name, call in sides.items()}
    seconds: dict[Side, list[float]] = {name: [] for name in sides}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds or ROUNDS):
            for name in list(sides)[:: -1 if turn % 2 else 1]:
                seconds[name].append(_turn(sides[name], calls[name], settle))
    finally:
        if collecting:
            gc.enable()
    return seconds


def _calls_a_block(call: Call) -> int:
    call()  # compiles, allocates, starts threads
    start = time.perf_counter()
    call()
    took = time.perf_counter() - start
    return max(1, math.ceil(BLOCK / max(took, 1e-7)))


def _turn(call: Call, calls: int, settle: float) -> float:
    until = time.perf_counter() + settle
    call()
    while time.perf_counter() < until:
        call()
    again = itertools.repeat(None, calls)
    start = time.perf_counter()
    for _ in again:
        call()
    return (time.perf_counter() - start) / calls


def fastest(seconds: Mapping[Side, list[float]], among: Iterable[Side]) -> Side:
    return min(among, key=lambda name: statistics.median(seconds[name]))


def ratio(over: Iterable[float], under: Iterable[float]) -> float:
    """The median of the rounds' ratios: a machine that slows down for a while slows both sides of a round."""
    return statistics.median(x / y for x, y in zip(over, under, strict=True))
