"""Sides timed in turns in one process, the only comparison of times that means something on any machine."""

from __future__ import annotations

import gc
import itertools
import math
import statistics
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

Call = Callable[[], Any]
Side = TypeVar("Side", bound=Hashable)

# A turn is SETTLE seconds of calls that nobody times, then BLOCK seconds of calls that are. The first part is
# for the threads of the side before: libgomp's spin for some 6 ms after their last task, and caches hold the
# other's data.
ROUNDS = 9
SETTLE = 0.02
BLOCK = 0.01

# ONNX Runtime's threads spin for 2**20 pauses after a run, some 25 to 50 ms: where it takes part, nobody is
# timed until they sleep.
SETTLE_PEERS = 0.06


def alternate(
    sides: Mapping[Side, Call],
    *,
    rounds: int | None = None,
    settle: float | None = None,
    block: float | None = None,
    note: Callable[[], object] | None = None,
) -> dict[Side, list[float]]:
    """Time each side once a round, the sides taking turns.

    Every other round goes backwards, so that no side always follows the same one.

    Parameters
    ----------
    sides : mapping to callables
        Calls without arguments, by name.
    rounds : int, optional
        Turns of each side.
    settle, block : float, optional
        Seconds of a turn that are not timed, and that are; one call each at least.
    note : callable, optional
        Called after each side's first calls, and after every turn.

    Returns
    -------
    dict of lists
        Seconds a call, by name, a figure a round.
    """
    rounds = ROUNDS if rounds is None else rounds
    settle = SETTLE if settle is None else settle
    block = BLOCK if block is None else block
    calls = {}
    for name, call in sides.items():
        calls[name] = _calls_a_block(call, block)
        if note:
            note()
    seconds: dict[Side, list[float]] = {name: [] for name in sides}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(rounds):
            for name in list(sides)[:: -1 if turn % 2 else 1]:
                seconds[name].append(_turn(sides[name], calls[name], settle))
                if note:
                    note()
    finally:
        if collecting:
            gc.enable()
    return seconds


def _calls_a_block(call: Call, block: float) -> int:
    call()  # compiles, allocates, starts threads
    start = time.perf_counter()
    call()
    took = time.perf_counter() - start
    return max(1, math.ceil(block / max(took, 1e-7)))


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
    """Give the side of the smallest median."""
    return min(among, key=lambda name: statistics.median(seconds[name]))


def ratio(over: Iterable[float], under: Iterable[float]) -> float:
    """Give the median of the rounds' ratios: a machine that slows down for a while slows both of a round."""
    return statistics.median(x / y for x, y in zip(over, under, strict=True))


def spread(seconds: list[float]) -> float:
    """Give half the distance between the quartiles, as a part of the median; 0 for a single figure."""
    if len(seconds) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return (high - low) / 2 / middle
