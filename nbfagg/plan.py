"""How an array is walked: decided from its shape, strides, dtype and axes, before a kernel runs.

A plan is cached, and can be printed to see which way an array goes. What
decides the order of a sum follows from one batch row's shape and layout; what
follows from the number of rows or threads decides only who sums it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from nbfagg import fields, scalar
from nbfagg.fields import AREA, GRADIENT_TILE, KINDS, SCRATCH_BYTES, SWAPPED, TILE

# Blocks of a part: 1 MiB, small enough to share a single row evenly.
PART_BLOCKS = 64
# A task that a thread draws; much smaller ones queue, much larger ones wait for the last.
TASK = 128 * 1024
# Below this one thread is done before others are awake (about 2 us).
SERIAL = 64 * 1024
# Columns of a task where nothing else divides the work: runs of 4 KiB.
COLUMN_CHUNK = 4 * 1024
# A batch row is split along a summed axis from this size on, if it has but few tokens to split by.
COPY_ROW = 4 * 1024 * 1024
COPY_RESULT = 64 * 1024
# Each copy takes 16 bytes a token of the whole batch, for what suits a row must not
# depend on how many there are: 64 took 80 MiB for 256 MiB of logits.
MOST_COPIES = 16


@dataclass(frozen=True)
class Axis:
    """One axis, or several that walk memory as one."""

    size: int
    pitch: int  # bytes
    role: str  # "b"atch, "l" kept, "k" summed
    order: int  # of the axis in the array
    mask: int = 0  # bytes from one step to the next in the mask
    out: int = 0  # and in the gradient


@dataclass(frozen=True)
class Plan:
    """How an array of one shape, stride set and dtype is walked."""

    way: str  # "empty", "rows" or "nest"
    shape: tuple[int, ...]  # of the result
    batch_shape: tuple[int, ...]
    layout: tuple[int, ...]  # axes of (batch axes, kept axes) in the result's order
    dtype: np.dtype[Any]  # of the result
    kind: np.dtype[Any]  # of the arithmetic: float32 or float64
    # Bytes from the first element to where the walk begins: logits, mask, gradient.
    begin: tuple[int, int, int]
    table: npt.NDArray[np.int64]
    address: int  # of the table
    tasks: int
    parts: int  # tasks where the parts of a row are shared
    nbytes: int
    batch_axes: tuple[int, ...]
    keep_axes: tuple[int, ...]
    inverse: tuple[int, ...]  # the result's axes in the order (batch axes, kept axes)
    small: bool  # one task or a few, in one piece: the shortest way through Python
    space: tuple[int, int]  # workspace in bytes: shared by all threads, and of each
    parts_space: tuple[int, int]  # where the parts of a row are shared
    like: Any  # a scalar of `kind`

    def __str__(self) -> str:
        """Tell which way an array goes, with the head of the plan's table by name."""
        heads = {"rows": fields.ROW_NAMES, "nest": fields.NEST_NAMES, "empty": ()}[self.way]
        lines = [f"{self.way}: {self.kind} -> {self.dtype} {self.shape}, {self.tasks} tasks"]
        lines += [f"  {name} = {number}" for name, number in zip(heads, self.table, strict=False)]
        return "\n".join(lines)


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


def _product(axes: list[Axis]) -> int:
    return math.prod(axis.size for axis in axes)


def _in_order(axes: list[Axis], role: str) -> list[Axis]:
    return sorted((axis for axis in axes if axis.role == role), key=lambda axis: axis.order)


def plan_rows(
    axes: list[Axis], item: int, kind_item: int, code: int, ways: tuple[bool, bool], out_code: int
) -> tuple[npt.NDArray[np.int64], int, int]:
    """Fill the table of rows taken token by token.

    `code` is that of the numbers in memory. `ways` says whether they are brought together in a tile, and
    whether there is a mask. `out_code` is that of a gradient's numbers, -1 without.
    """
    gathered, masked = ways
    batch, kept, summed = _in_order(axes, "b"), _in_order(axes, "l"), [a for a in axes if a.role == "k"]
    rows, tokens, terms = _product(batch), _product(kept), _product(summed)
    lanes = 64 // kind_item
    tile = (TILE if out_code < 0 else GRADIENT_TILE) // kind_item
    pieces = -(-terms // tile) if terms > tile else 1
    block_tokens = max(1, tile // terms)
    if block_tokens > lanes:
        block_tokens -= block_tokens % lanes
    block_tokens = min(block_tokens, tokens)
    blocks = tokens * pieces if pieces > 1 else -(-tokens // block_tokens)
    # A token's pieces stay in one part.
    part_blocks = -(-PART_BLOCKS // pieces) * pieces
    row_bytes = tokens * terms * item
    table = np.zeros(fields.ROWS_AXES + fields.ROW_AXIS * (len(batch) + len(kept) + len(summed)), np.int64)
    table[fields.ROWS] = rows
    table[fields.TOKENS] = tokens
    table[fields.TERMS] = terms
    table[fields.BLOCK_TOKENS] = block_tokens
    table[fields.PIECES] = pieces
    table[fields.PIECE_TERMS] = tile
    table[fields.BLOCKS] = blocks
    table[fields.PART_BLOCKS] = part_blocks
    table[fields.PARTS] = -(-blocks // part_blocks)
    table[fields.SUMS_IN_RESULT] = tokens > fields.SUMS_TOKENS
    table[fields.ROWS_A_TASK] = max(1, TASK // row_bytes)
    # Their tokens, filled up to a vector, fit the area that exponentials are spread to.
    tile_rows = min(AREA // (8 * terms) // 8 * 8 // tokens, fields.TILE_ROWS_MOST)
    table[fields.TILE_ROWS] = tile_rows if terms <= fields.SHORT and tile_rows > 1 else 0
    table[fields.GATHERED] = gathered
    table[fields.WHOLE] = in_one_piece(axes, item)
    table[fields.MASKED], table[fields.MASK_STEP] = _mask_way(axes) if masked else (fields.NO_MASK, 0)
    table[fields.KIND] = code
    table[fields.ITEM] = item
    if out_code >= 0:
        out_item = int(KINDS[out_code][1])
        row = [axis for axis in axes if axis.role != "b"]
        table[fields.OUT_WHOLE] = in_one_piece(axes, item) and _steady(
            [(a.size, a.out) for a in row], out_item
        )
        table[fields.OUT_KIND] = out_code
        table[fields.OUT_ITEM] = out_item
    table[fields.ROWS_BATCH] = len(batch)
    table[fields.ROWS_KEPT] = len(kept)
    table[fields.ROWS_SUMMED] = len(summed)
    entries = [(axis.size, axis.pitch, axis.mask, axis.out) for axis in batch + kept + summed]
    table[fields.ROWS_AXES :] = [number for entry in entries for number in entry]
    tasks = -(-rows // int(table[fields.ROWS_A_TASK]))
    return table, tasks, rows * int(table[fields.PARTS])


def _mask_way(axes: list[Axis]) -> tuple[int, int]:
    """Give how a row's mask lies, and the bytes from one token's to the next."""
    row = [axis for axis in axes if axis.role != "b"]
    if _steady([(axis.size, axis.mask) for axis in row], 1):
        return fields.BESIDE, 0
    kept = [axis for axis in row if axis.role == "l"]
    if len(kept) <= 1 and not any(axis.mask for axis in row if axis.role == "k"):
        return fields.BY_TOKEN, kept[0].mask if kept else 0
    return fields.ANYHOW, 0


def _steady(sizes: list[tuple[int, int]], pitch: int) -> bool:
    """Say whether axes (size, pitch), the last running fastest, walk memory in steps of one pitch."""
    for size, step in reversed(sizes):
        if step != pitch:
            return False
        pitch *= size
    return True


def rows_space(table: npt.NDArray[np.int64], lanes: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Give the workspace, shared and of a thread, for whole rows and for shared parts of rows."""
    room = SCRATCH_BYTES + TILE
    # Sums of float64, and what they lost.
    each = 16 if lanes == 8 else 8
    block = each * (int(table[fields.BLOCK_TOKENS]) + lanes)
    row = each * (int(table[fields.TOKENS]) + lanes)
    notes = fields.NOTE * int(table[fields.BLOCKS])
    in_result = bool(table[fields.SUMS_IN_RESULT])
    whole = (0, notes + (block if in_result else row) + room)
    shared = int(table[fields.ROWS]) * (
        fields.NOTE * int(table[fields.PARTS]) + notes + (0 if in_result else row)
    )
    return whole, (shared, (block if in_result else 0) + room)


def row_space(plan: Plan, tokens: int) -> int:
    """Give the workspace of a thread that takes packed rows of up to so many tokens, in bytes."""
    table = plan.table.copy()
    table[fields.TOKENS] = tokens
    table[fields.BLOCKS] = tokens * table[fields.PIECES]
    # Either side of the limit may ask for more.
    table[fields.SUMS_IN_RESULT] = 0
    return rows_space(table, 64 // plan.kind.itemsize)[0][1]


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


def in_one_piece(axes: list[Axis], item: int) -> bool:
    """Say whether every row's tokens lie side by side in the result's order, and each one's terms."""
    row = [axis for axis in axes if axis.role != "b"]
    kept = [axis.order for axis in row if axis.role == "l"]
    if [axis.role for axis in row] != ["l"] * len(kept) + ["k"] * (len(row) - len(kept)):
        return False
    return kept == sorted(kept) and _steady([(axis.size, axis.pitch) for axis in row], item)


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


def plan_nest(axes: list[Axis], item: int, log: bool) -> tuple[npt.NDArray[np.int64], int]:
    """Fill the table of axes walked in memory's order."""
    row = [axis for axis in axes if axis.role != "b"]
    lanes = 64 // item
    inner = row[-1]
    tokens = 1
    if inner.role == "k" and inner.pitch == item:
        # A shared reference point can lose a token's logarithm, see rows.DOUBT.
        neighbour, tokens = (inner, 1) if log else _side_by_side(axes, inner, item)
    columns = not (inner.role == "k" and inner.pitch == item and inner.size * tokens >= lanes)
    walked = list(axes)
    steps = Axis(1, 0, "k", -1)
    if columns:
        tokens = 1
        summed = [axis for axis in row if axis.role == "k" and axis.pitch]
        if summed:
            steps = summed[-1]
            walked.remove(steps)
        across = [axis for axis in walked if axis.role != "k" and axis.pitch == item]
        across = across or sorted((a for a in walked if a.role != "k"), key=lambda a: a.size)
        inner = across[-1] if across else Axis(1, item, "l", -1)
    if inner in walked:
        walked.remove(inner)
    # Batch and kept axes that lie side by side make one long row of columns.
    step: dict[int, int] = {}
    cells = 1
    if columns:
        step[inner.order] = 1
        width = inner.size
        for axis in reversed([a for a in walked if a.role != "k" and inner.pitch == item]):
            if axis.pitch == width * item:
                step[axis.order] = width
                width *= axis.size
                walked.remove(axis)
        inner = Axis(width, inner.pitch, inner.role, inner.order)
        cells = -(-width // lanes) * lanes
    elif tokens == 1:
        # Runs that fall into one cell are taken together while they fit a tile.
        others = [axis for axis in row[:-1] if axis.role == "k" and axis.pitch]
        if others and inner.size * item * 2 <= TILE:
            steps = others[-1]
            walked.remove(steps)
    if tokens > 1:
        at = walked.index(neighbour)
        outer = Axis(neighbour.size // tokens, neighbour.pitch * tokens, neighbour.role, neighbour.order)
        walked[at : at + 1] = [outer] if outer.size > 1 else []
    # Cells lie in memory's order, the columns (or tokens side by side) innermost: strides that overlap
    # may have put another axis behind those tokens'.
    beside = neighbour.order if tokens > 1 else None
    for axis in sorted(reversed([a for a in axes if a.role != "k"]), key=lambda a: a.order != beside):
        if axis.order not in step:
            step[axis.order] = cells
            cells *= axis.size
    copies = 1
    row_bytes = _product(row) * item
    if row_bytes >= COPY_ROW and _product([a for a in row if a.role == "l"]) * item < COPY_RESULT:
        longest = max([a for a in [*walked, steps] if a.role == "k"], key=lambda a: a.size, default=steps)
        copies = max(d for d in range(1, MOST_COPIES + 1) if longest.size % d == 0)
    rows: list[tuple[int, int, int, int]] = []
    if copies > 1:
        part = Axis(longest.size // copies, longest.pitch, "k", longest.order)
        rows.append((copies, part.size * part.pitch, cells, 1))
        if longest is steps:
            steps = part
        else:
            walked[walked.index(longest)] = part
    # Tasks: whole batch and kept axes, outermost first, while there is enough left for a task.
    left = _product(walked) * inner.size * steps.size * tokens * item
    chunk = chunk_total = chunk_of = 0
    chunked: tuple[int, int, int, int] | None = None
    tasks = []
    for axis in [a for a in walked if a.role != "k"]:
        cell = step[axis.order] * (tokens if axis.order == beside else 1)
        if left // axis.size >= TASK // 2:
            tasks.append((axis.size, axis.pitch, cell, 0))
            walked.remove(axis)
            left //= axis.size
        elif left > 2 * TASK:
            chunk, chunk_total, chunk_of = max(1, axis.size * TASK // left), axis.size, 1
            tasks.append((-(-axis.size // chunk), axis.pitch * chunk, cell * chunk, 0))
            chunked = (-1, axis.pitch, cell, 0)
            at = walked.index(axis)
            left = 0
            break
        else:
            break
    if columns and not chunk_of and left > 2 * TASK and inner.size * item > COLUMN_CHUNK:
        chunk, chunk_total, chunk_of = COLUMN_CHUNK // item, inner.size, 2
        tasks.append((-(-inner.size // chunk), inner.pitch * chunk, chunk, 0))
    if not chunk_of:
        tasks.append((1, 0, 0, 0))
        chunk = chunk_total = 1
    walk = []
    for i, axis in enumerate(walked):
        if chunked is not None and i == at:
            walk.append(chunked)
        elif axis.role == "k":
            walk.append((axis.size, axis.pitch, 0, 1))
        else:
            cell = step[axis.order] * (tokens if axis.order == beside else 1)
            walk.append((axis.size, axis.pitch, cell, 0))
    batch = [(a.size, 0, step[a.order], 0) for a in _in_order(axes, "b")]
    kept = [(a.size, 0, step[a.order], 0) for a in _in_order(axes, "l")]
    table = np.zeros(fields.AXES + fields.AXIS_FIELDS * (len(rows + tasks + walk + batch + kept)), np.int64)
    table[fields.COLUMNS] = columns
    table[fields.WIDTH] = inner.size
    table[fields.APART] = inner.pitch
    table[fields.STEPS] = steps.size
    table[fields.STEP_PITCH] = steps.pitch
    table[fields.RUN_TOKENS] = tokens
    table[fields.AHEAD] = _ahead(columns, inner, steps, tokens, walk, item)
    table[fields.CELLS] = cells
    table[fields.COPIES] = copies
    table[fields.RESULT_ROWS] = _product([a for a in axes if a.role == "b"])
    table[fields.RESULT_TOKENS] = _product([a for a in axes if a.role == "l"])
    table[fields.CHUNK] = chunk
    table[fields.CHUNK_TOTAL] = chunk_total
    table[fields.CHUNK_OF] = chunk_of
    table[fields.TASK_AXES] = len(rows + tasks)
    table[fields.WALK_AXES] = len(walk)
    table[fields.BATCH_AXES] = len(batch)
    table[fields.KEPT_AXES] = len(kept)
    flat = [number for entry in rows + tasks + walk + batch + kept for number in entry]
    table[fields.AXES :] = flat
    return table, math.prod(entry[0] for entry in rows + tasks)


def _ahead(
    columns: bool, inner: Axis, steps: Axis, tokens: int, walk: list[tuple[int, int, int, int]], item: int
) -> int:
    """Give how far ahead to prefetch: about a tile, along the way that is walked next."""
    if columns:
        # Along a long row of columns; from short ones on to the next steps.
        return 256 if inner.size * item >= 1024 else fields.COLUMN_STEPS * steps.pitch
    visited = inner.size * tokens * item
    pitch = walk[-1][1] if walk else visited
    return max(1, TILE // visited) * pitch


# bfloat16 where ml_dtypes is not at hand, which has NumPy's own.
BRAIN = np.dtype([("bfloat16", np.uint16)])


@functools.cache
def format_of(dtype: np.dtype[Any]) -> int:
    """Give the number of a format in KINDS, SWAPPED further on for the other byte order; -1 for any other."""
    letter = "b" if dtype.name == "bfloat16" or dtype == BRAIN else "u" if dtype.kind == "b" else dtype.kind
    name = f"{letter}{dtype.itemsize}"
    if name not in KINDS:
        return -1
    return KINDS.index(name) + (0 if dtype.isnative else SWAPPED)


@functools.lru_cache(maxsize=512)
def make_plan(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: np.dtype[Any],
    aligned: bool,
    batch: tuple[int, ...],
    keep: tuple[int, ...],
    log: bool,
    widened: bool,
    mask: tuple[int, ...] | None = None,
    limited: bool = False,
    out: tuple[int, ...] | None = None,
) -> Plan:
    """Plan the walk over an array.

    `widened` asks for float64 arithmetic on narrower logits; `mask` holds a mask's strides, if there is one;
    `limited` says that rows have lengths; `out` holds a gradient's strides, if one is to be taken.
    """
    code = format_of(dtype)
    floating = KINDS[code % SWAPPED][0] in "fb"
    result = dtype.newbyteorder("=") if floating else np.dtype(np.float64)
    kind = np.dtype(np.float32 if floating and dtype.itemsize <= 4 and not widened else np.float64)
    both = batch + keep
    item = dtype.itemsize
    gathered = code != format_of(kind) or not aligned
    apart = gathered or mask is not None or limited
    way, begin, tasks, parts = "empty", (0, 0, 0), 0, 0
    space = parts_space = (0, 0)
    lanes = 64 // kind.itemsize
    table = np.zeros(1, np.int64)
    nbytes = math.prod(shape) * item
    if nbytes:
        axes, begin = axes_of(shape, strides, batch, keep, mask, out)
        if apart or out is not None or in_one_piece(axes, item):
            way = "rows"
            ways = gathered, mask is not None
            out_code = -1 if out is None else format_of(result)
            table, tasks, parts = plan_rows(axes, item, kind.itemsize, code, ways, out_code)
            space, parts_space = rows_space(table, lanes)
        else:
            way = "nest"
            table, tasks = plan_nest(axes, item, log)
            space = nest_space(table, lanes)
    table.flags.writeable = False

    in_c_order = strides == _c_strides(shape, item)
    in_order = both == tuple(sorted(both))
    return Plan(
        way=way,
        shape=tuple(shape[i] for i in sorted(both)),
        batch_shape=tuple(shape[i] for i in batch),
        layout=tuple(both.index(i) for i in sorted(both)),
        dtype=result,
        kind=kind,
        begin=begin,
        table=table,
        address=table.ctypes.data,
        tasks=tasks,
        parts=parts,
        nbytes=nbytes,
        batch_axes=batch,
        keep_axes=keep,
        small=way == "rows" and not apart and nbytes <= SERIAL and in_order and in_c_order,
        space=space,
        parts_space=parts_space,
        inverse=tuple(sorted(both).index(axis) for axis in both),
        like=kind.type(0),
    )


def packed_plan(
    a: npt.NDArray[Any], kind: np.dtype[Any], log: bool, out: tuple[int, ...] | None = None
) -> Plan:
    """Plan the walk over one row (a batch of one) of packed rows, in arithmetic of this kind."""
    widened = kind.itemsize == 8 and a.dtype.itemsize < 8 and a.dtype.kind not in "iub"
    return make_plan(a.shape, a.strides, a.dtype, a.flags.aligned, (0,), (1,), log, widened, None, True, out)


def _c_strides(shape: tuple[int, ...], item: int) -> tuple[int, ...]:
    strides = []
    for size in reversed(shape):
        strides.append(item)
        item *= size
    return tuple(reversed(strides))


@functools.lru_cache(maxsize=64)
def law_of(scale: float, kind: np.dtype[Any]) -> tuple[float, float, float, float, float]:
    """Give what the formulas want of a scale and a type: scalar.Law."""
    exact = Fraction(scale) * (Fraction(scalar.LOG2_E) + Fraction(scalar.LOG2_E_REST))
    high = float(kind.type(float(exact)))
    low = float(kind.type(float(exact - Fraction(high))))
    far = scalar.FAR_F32 if kind.itemsize == 4 else scalar.FAR_F64
    return float(exact), 1.0 / float(exact), high, low, far
