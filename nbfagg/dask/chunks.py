"""What a task does: to one chunk of the logits, or to what is known of several."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from dask.utils import is_cupy_type

import nbfagg
from nbfagg import State, inputs
from nbfagg.dask.arrays import on_host


def alone(block: Any) -> Any:
    """Give the one chunk of axes that are not cut; Dask wraps it in a list for each of them."""
    while isinstance(block, list):
        (block,) = block
    return block


def beside(a: Any, array: Any) -> Any:
    """Give an array as of the library of a chunk's logits, on their GPU if they are on one."""
    if not is_cupy_type(a):
        return array
    with a.device:
        return np.asarray(np.asarray(array, order="C"), like=a)


def whole(a: Any, where: Any, lengths: Any, **options: Any) -> Any:
    """Aggregate a chunk that holds whole batch rows."""
    a = alone(a)
    return nbfagg.fagg(a, where=alone(where), lengths=whole_lengths(a, lengths, options), **options)


def whole_lengths(a: Any, lengths: Any, options: dict[str, Any]) -> Any:
    """Give the lengths of a chunk of whole rows beside it."""
    if lengths is None:
        return None
    axes = options["batch_axis"], options["keep_axis"]
    return beside(a, inputs.as_lengths(on_host(alone(lengths)), a.shape, *axes))


def state_of(a: Any, where: Any, lengths: Any, start: Any, *, tokens: int, **options: Any) -> State:
    """Take in a chunk of rows that are cut; of the kept axis it holds what comes after `start` tokens."""
    a, where = alone(a), alone(where)
    if lengths is not None:
        lengths = lengths_here(a, lengths, start, tokens, options["keep_axis"])
    return State.of(a, where=where, lengths=lengths, **options)


def lengths_here(a: Any, lengths: Any, start: Any, tokens: int, keep: tuple[int, ...]) -> Any:
    """Give how many tokens of a chunk each row's length leaves; rows have `tokens` in all."""
    lengths = inputs.as_lengths(on_host(lengths), (len(lengths), tokens), 0, 1)
    return beside(a, inputs.lengths_here(lengths, int(start[0]), a.shape[keep[0]]))


def itself(block: Any, axis: Any, keepdims: Any) -> Any:
    """Give what is reduced, chunk by chunk, as it is."""
    return block


def flattened(blocks: Any) -> list[Any]:
    """Give what is in nested lists, in order."""
    if not isinstance(blocks, list):
        return [blocks]
    return [one for block in blocks for one in flattened(block)]


def merged(blocks: Any, axis: Any, keepdims: Any) -> State:
    """Merge states of chunks."""
    states: list[State] = flattened(blocks)
    return functools.reduce(State.merge, states)


def added(blocks: Any, axis: Any, keepdims: Any) -> npt.NDArray[np.float64]:
    """Add the dots of chunks, as pairs of a sum and what it lost."""
    from nbfagg.scalar import add_exactly

    first, *others = flattened(blocks)
    whole, rest = first
    for value, lost in others:
        whole, rounded = add_exactly(whole, value)
        rest = rest + lost + rounded
    return np.stack((whole, rest))


def total_of(state: State) -> State:
    """Give the state of each batch row of a chunk."""
    return state.total()


def finish(state: State, total: State, *, log: bool) -> Any:
    """Give a chunk's weights."""
    return state.finalize(log, total)


def lse_of(total: State) -> Any:
    """Give the log-sum-exp of a chunk's batch rows."""
    return total.lse


def cell_by_cell(state: State) -> State:
    """Give a state every token of which is a batch row of its own."""
    return replace(state, batch_dims=tuple(range(len(state.shape))))
