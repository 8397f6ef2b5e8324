"""The table of axes that are walked in memory's order (cpu/nest.py), and the workspace that they want."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nbfagg import fields
from nbfagg.fields import SCRATCH_BYTES, TILE
from nbfagg.plan.axes import Axis, in_order, product
from nbfagg.plan.grain import COLUMN_CHUNK, TASK

# A batch row is split along a summed axis from this size on, if it has but few tokens to split by.
COPY_ROW = 4 * 1024 * 1024
COPY_RESULT = 64 * 1024
# Each copy takes 16 bytes a token of the whole batch, for what suits a row must not
# depend on how many there are: 64 took 80 MiB for 256 MiB of logits.
MOST_COPIES = 16

# An axis as the kernel reads it: size, bytes of a step, cells of a step, and whether it is summed.
Entry = tuple[int, int, int, int]

# What there is where no axis is.
STILL = Axis(1, 0, "k", -1)


@dataclass
class Walk:
    """What is visited at once, and along which axes one goes from there."""

    columns: bool  # lanes are batch rows or tokens; otherwise the terms of a run
    inner: Axis  # the columns, or the run
    steps: Axis  # summed: columns are walked down it, and runs of it taken together
    walked: list[Axis]  # all others, outermost first
    tokens: int = 1  # runs side by side that are taken together
    beside: int | None = None  # which axis theirs is
    step: dict[int, int] = dataclasses.field(default_factory=dict)  # cells to the next along an axis
    cells: int = 1

    def entry(self, axis: Axis) -> Entry:
        """Give an axis as the kernel reads it."""
        if axis.role == "k":
            return axis.size, axis.pitch, 0, 1
        tokens = self.tokens if axis.order == self.beside else 1
        return axis.size, axis.pitch, self.step[axis.order] * tokens, 0


@dataclass
class Tasks:
    """The axes that tell tasks apart; of the last, each takes `chunk` of `total` steps."""

    axes: list[Entry]
    chunk: int = 1
    total: int = 1
    of: int = 0  # nothing, a walked axis, the columns: 0, 1, 2
    chunked: int | None = None  # which axis that walked one is


def plan_nest(axes: list[Axis], item: int, log: bool) -> tuple[npt.NDArray[np.int64], int]:
    """Fill the table of axes walked in memory's order; give it, and how many tasks there are."""
    row = [axis for axis in axes if axis.role != "b"]
    walk = _innermost(axes, row, item, log)
    _number_cells(walk, axes)
    copies = _copy_cells(walk, row, item)
    tasks = _share(walk, item)
    walked: list[Entry] = []
    for axis in walk.walked:
        entry = walk.entry(axis)
        walked.append((-1, *entry[1:]) if axis.order == tasks.chunked else entry)
    result = [[(a.size, 0, walk.step[a.order], 0) for a in in_order(axes, role)] for role in "bl"]
    entries = [*copies, *tasks.axes, *walked, *result[0], *result[1]]
    table = np.zeros(fields.AXES + fields.AXIS_FIELDS * len(entries), np.int64)
    table[fields.COLUMNS] = walk.columns
    table[fields.WIDTH] = walk.inner.size
    table[fields.APART] = walk.inner.pitch
    table[fields.STEPS] = walk.steps.size
    table[fields.STEP_PITCH] = walk.steps.pitch
    table[fields.RUN_TOKENS] = walk.tokens
    table[fields.AHEAD] = _ahead(walk, walked, item)
    table[fields.CELLS] = walk.cells
    table[fields.COPIES] = copies[0][0] if copies else 1
    table[fields.RESULT_ROWS] = product([a for a in axes if a.role == "b"])
    table[fields.RESULT_TOKENS] = product([a for a in axes if a.role == "l"])
    table[fields.CHUNK] = tasks.chunk
    table[fields.CHUNK_TOTAL] = tasks.total
    table[fields.CHUNK_OF] = tasks.of
    table[fields.TASK_AXES] = len(copies) + len(tasks.axes)
    table[fields.WALK_AXES] = len(walked)
    table[fields.BATCH_AXES] = len(result[0])
    table[fields.KEPT_AXES] = len(result[1])
    table[fields.AXES :] = [number for entry in entries for number in entry]
    return table, math.prod(entry[0] for entry in [*copies, *tasks.axes])


def _innermost(axes: list[Axis], row: list[Axis], item: int, log: bool) -> Walk:
    """Choose what is visited at once: a run of terms, if that fills a vector, or columns."""
    inner = row[-1]
    if inner.role == "k" and inner.pitch == item:
        # A shared reference point can lose a token's logarithm, see rows.DOUBT.
        neighbour, tokens = (inner, 1) if log else _side_by_side(axes, inner, item)
        if inner.size * tokens >= 64 // item:
            return _runs(axes, row, item, neighbour, tokens)
    return _columns(axes, row, item)


def _side_by_side(axes: list[Axis], run: Axis, item: int) -> tuple[Axis, int]:
    """Give the axis along which runs lie side by side, and how many a tile takes: a divisor of its size.

    1 where there is none. Of several, which only strides that overlap can make, the first.
    """
    # Whether short runs are columns must not depend on how many batch rows there are.
    roles = "l" if run.size < 64 // item else "bl"
    neighbours = [a for a in axes if a.role in roles and a.pitch == run.size * item]
    if not neighbours or run.size * item * 2 > TILE:
        return run, 1
    size = neighbours[0].size
    most = min(TILE // (run.size * item), size)
    return neighbours[0], max(d for d in range(1, most + 1) if size % d == 0)


def _runs(axes: list[Axis], row: list[Axis], item: int, neighbour: Axis, tokens: int) -> Walk:
    """Visit runs of terms: of several tokens that lie side by side, or several of one cell."""
    inner = row[-1]
    walk = Walk(False, inner, STILL, [axis for axis in axes if axis is not inner], tokens)
    if tokens > 1:
        walk.beside = neighbour.order
        at = walk.walked.index(neighbour)
        outer = dataclasses.replace(neighbour, size=neighbour.size // tokens, pitch=neighbour.pitch * tokens)
        walk.walked[at : at + 1] = [outer] if outer.size > 1 else []
        return walk
    # Runs that fall into one cell are taken together while they fit a tile.
    others = [axis for axis in row[:-1] if axis.role == "k" and axis.pitch]
    if others and inner.size * item * 2 <= TILE:
        walk.steps = others[-1]
        walk.walked.remove(walk.steps)
    return walk


def _columns(axes: list[Axis], row: list[Axis], item: int) -> Walk:
    """Visit columns, side by side if any are; go down the innermost summed axis."""
    walked = list(axes)
    steps = STILL
    summed = [axis for axis in row if axis.role == "k" and axis.pitch]
    if summed:
        steps = summed[-1]
        walked.remove(steps)
    across = [axis for axis in walked if axis.role != "k" and axis.pitch == item]
    across = across or sorted((a for a in walked if a.role != "k"), key=lambda a: a.size)
    inner = across[-1] if across else Axis(1, item, "l", -1)
    if across:
        walked.remove(inner)
    # Batch and kept axes that lie side by side make one long row of columns.
    step = {inner.order: 1}
    width = inner.size
    for axis in reversed([a for a in walked if a.role != "k" and inner.pitch == item]):
        if axis.pitch == width * item:
            step[axis.order] = width
            width *= axis.size
            walked.remove(axis)
    lanes = 64 // item
    row_of_columns = Axis(width, inner.pitch, inner.role, inner.order)
    return Walk(True, row_of_columns, steps, walked, step=step, cells=-(-width // lanes) * lanes)


def _number_cells(walk: Walk, axes: list[Axis]) -> None:
    """Give the cells numbers, in memory's order, the columns, or tokens side by side, innermost.

    Strides that overlap may have put another axis behind those tokens'.
    """
    of_result = [axis for axis in reversed(axes) if axis.role != "k"]
    for axis in sorted(of_result, key=lambda a: a.order != walk.beside):
        if axis.order not in walk.step:
            walk.step[axis.order] = walk.cells
            walk.cells *= axis.size


def _copy_cells(walk: Walk, row: list[Axis], item: int) -> list[Entry]:
    """Split the longest summed axis of a large row, if need be, each part with a copy of all cells."""
    tokens = product([axis for axis in row if axis.role == "l"])
    if product(row) * item < COPY_ROW or tokens * item >= COPY_RESULT:
        return []
    summed = [axis for axis in [*walk.walked, walk.steps] if axis.role == "k"]
    longest = max(summed, key=lambda axis: axis.size)
    copies = max(d for d in range(1, MOST_COPIES + 1) if longest.size % d == 0)
    if copies == 1:
        return []
    part = Axis(longest.size // copies, longest.pitch, "k", longest.order)
    if longest is walk.steps:
        walk.steps = part
    else:
        walk.walked[walk.walked.index(longest)] = part
    return [(copies, part.size * part.pitch, walk.cells, 1)]


def _share(walk: Walk, item: int) -> Tasks:
    """Share the work out: whole batch and kept axes, outermost first, while there is enough for a task.

    Then chunks of one of them, or of the columns.
    """
    # Bytes that are left of a task.
    left = product(walk.walked) * walk.inner.size * walk.steps.size * walk.tokens * item
    tasks = Tasks([])
    for axis in [axis for axis in walk.walked if axis.role != "k"]:
        size, pitch, cell, summed = walk.entry(axis)
        if left // size >= TASK // 2:
            tasks.axes.append((size, pitch, cell, summed))
            walk.walked.remove(axis)
            left //= size
            continue
        if left > 2 * TASK:
            chunk = max(1, size * TASK // left)
            tasks.axes.append((-(-size // chunk), pitch * chunk, cell * chunk, summed))
            tasks.chunk, tasks.total, tasks.of, tasks.chunked = chunk, size, 1, axis.order
            return tasks
        break
    width, pitch = walk.inner.size, walk.inner.pitch
    if walk.columns and left > 2 * TASK and width * item > COLUMN_CHUNK:
        chunk = COLUMN_CHUNK // item
        tasks.axes.append((-(-width // chunk), pitch * chunk, chunk, 0))
        tasks.chunk, tasks.total, tasks.of = chunk, width, 2
    else:
        tasks.axes.append((1, 0, 0, 0))
    return tasks


def _ahead(walk: Walk, walked: list[Entry], item: int) -> int:
    """Give how far ahead to prefetch: about a tile, along the way that is walked next."""
    if walk.columns:
        # Along a long row of columns; from short ones on to the next steps.
        return 256 if walk.inner.size * item >= 1024 else fields.COLUMN_STEPS * walk.steps.pitch
    visited = walk.inner.size * walk.tokens * item
    pitch = walked[-1][1] if walked else visited
    return max(1, TILE // visited) * pitch


def nest_space(table: npt.NDArray[np.int64], lanes: int) -> tuple[int, int]:
    """Give the workspace, shared and of a thread, of a walk over axes in any order."""
    item = 64 // lanes
    cells = int(table[fields.CELLS]) * int(table[fields.COPIES]) + 64
    # Maximum, magic number of a column, sum, what a sum of float64 lost.
    cell = item + item * int(table[fields.COLUMNS]) + 8 + 8 * (item == 8)
    counters = 8 * (int(table[fields.WALK_AXES]) + int(table[fields.KEPT_AXES]) + 1)
    runs = max(int(table[fields.RUN_TOKENS]), TILE // (int(table[fields.WIDTH]) * item))
    totals = 8 * (lanes + runs) + 4 * 64
    return cell * cells, counters + TILE + totals + SCRATCH_BYTES
