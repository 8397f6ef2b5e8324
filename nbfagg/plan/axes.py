"""The axes of an array as memory has them, and what tells how they lie."""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """One axis, or several that walk memory as one."""

    size: int
    pitch: int  # bytes
    role: str  # "b"atch, "l" kept, "k" summed
    order: int  # of the axis in the array
    mask: int = 0  # bytes from one step to the next in the mask
    out: int = 0  # and in the gradient


def axes_of(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    batch: tuple[int, ...],
    keep: tuple[int, ...],
    mask: tuple[int, ...] | None = None,
    out: tuple[int, ...] | None = None,
) -> tuple[list[Axis], tuple[int, int, int]]:
    """Give the axes in memory's order, outermost first, joined where they walk as one, and three offsets.

    These are where the walk begins: in the logits, in the mask, in the gradient,
    of which `mask` and `out` are the strides. Axes of one step drop out. A summed axis that
    runs backwards is turned round, which changes no sum; an axis that stands
    still (stride 0) goes outermost.
    """
    none = (0,) * len(shape)
    axes, begin = [], [0, 0, 0]
    for order, (size, *pitches) in enumerate(zip(shape, strides, mask or none, out or none, strict=True)):
        role = "b" if order in batch else "l" if order in keep else "k"
        if size == 1:
            continue
        if role == "k" and pitches[0] < 0:
            begin = [start + (size - 1) * pitch for start, pitch in zip(begin, pitches, strict=True)]
            pitches = [-pitch for pitch in pitches]
        axes.append(Axis(size, pitches[0], role, order, *pitches[1:]))
    axes.sort(key=lambda axis: (axis.pitch != 0, -abs(axis.pitch), axis.order))
    # Which kept (batch) axis follows which in the result.
    follows: dict[int, int] = {}
    for role in "bl":
        orders = sorted(axis.order for axis in axes if axis.role == role)
        follows.update(zip(orders[1:], orders, strict=False))
    joined: list[Axis] = []
    for axis in axes:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.role == axis.role
            and last.pitch == axis.size * axis.pitch
            and last.mask == axis.size * axis.mask
            and last.out == axis.size * axis.out
            and (axis.role == "k" or follows.get(axis.order) == last.order)
        ):
            joined[-1] = dataclasses.replace(axis, size=last.size * axis.size)
        else:
            joined.append(axis)
    return joined, (begin[0], begin[1], begin[2])


def product(axes: list[Axis]) -> int:
    """Give how many steps axes make together."""
    return math.prod(axis.size for axis in axes)


def in_order(axes: list[Axis], role: str) -> list[Axis]:
    """Give the axes of one role in the array's order."""
    return sorted((axis for axis in axes if axis.role == role), key=lambda axis: axis.order)


def in_one_piece(axes: list[Axis], item: int) -> bool:
    """Say whether every row's tokens lie side by side in the result's order, and each one's terms."""
    row = [axis for axis in axes if axis.role != "b"]
    kept = [axis.order for axis in row if axis.role == "l"]
    if [axis.role for axis in row] != ["l"] * len(kept) + ["k"] * (len(row) - len(kept)):
        return False
    return kept == sorted(kept) and steady([(axis.size, axis.pitch) for axis in row], item)


def steady(sizes: list[tuple[int, int]], pitch: int) -> bool:
    """Say whether axes (size, pitch), the last running fastest, walk memory in steps of one pitch."""
    for size, step in reversed(sizes):
        if step != pitch:
            return False
        pitch *= size
    return True


@functools.lru_cache(maxsize=512)
def c_strides(shape: tuple[int, ...], item: int) -> tuple[int, ...]:
    """Give the strides in bytes of an array in C order."""
    strides = []
    for size in reversed(shape):
        strides.append(item)
        item *= size
    return tuple(reversed(strides))
