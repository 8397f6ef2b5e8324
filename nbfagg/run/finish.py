"""From the states of a region to its weights, in parts that threads take.

One thread took 0.3 s for five million tokens, as long as two take to read 6 GB. How many parts there are does
not depend on the threads, nor does any bit of the result.
"""

from __future__ import annotations

import functools
import itertools
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

import numpy as np

from nbfagg import State

PARTS = 16


def weights(state: State, total: State | None, log: bool, pool: Executor) -> Any:
    """Give what ``state.finalize(log, total)`` does; `total` is that of whole rows, or None if these are."""
    size = state.shape[0] if state.shape else 0
    cuts = sorted({size * part // PARTS for part in range(PARTS + 1)})
    if len(cuts) < 3:
        return state.finalize(log, total)
    places = [slice(low, high) for low, high in itertools.pairwise(cuts)]
    parts = [replace(state, cells=state.cells[place]) for place in places]
    totals: list[State | None]
    if 0 in state.batch_dims:
        row = state.batch_dims.index(0)
        totals = [None if total is None else _rows(total, row, place) for place in places]
    else:
        if total is None:
            total = functools.reduce(State.merge, pool.map(State.total, parts))
        totals = [total] * len(parts)
    return np.concatenate(list(pool.map(lambda part, its: part.finalize(log, its), parts, totals)))


def _rows(total: State, axis: int, place: slice) -> State:
    """Give the totals of a part of the rows."""
    return replace(total, cells=total.cells[(slice(None),) * axis + (place,)])
