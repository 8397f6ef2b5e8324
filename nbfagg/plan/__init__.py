"""How an array is walked: decided from its shape, strides, dtype and axes, before a kernel runs.

A plan is cached, and can be printed to see which way an array goes. What
decides the order of a sum follows from one batch row's shape and layout; what
follows from the number of rows or threads decides only who sums it.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt

from nbfagg import fields, scalar
from nbfagg.fields import KINDS, SWAPPED
from nbfagg.plan.axes import axes_of, c_strides, in_one_piece
from nbfagg.plan.grain import SERIAL
from nbfagg.plan.nest import nest_space, plan_nest
from nbfagg.plan.rows import plan_rows, rows_space


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

    in_c_order = strides == c_strides(shape, item)
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


def row_space(plan: Plan, tokens: int) -> int:
    """Give the workspace of a thread that takes packed rows of up to so many tokens, in bytes."""
    table = plan.table.copy()
    table[fields.TOKENS] = tokens
    table[fields.BLOCKS] = tokens * table[fields.PIECES]
    # Either side of the limit may ask for more.
    table[fields.SUMS_IN_RESULT] = 0
    return rows_space(table, 64 // plan.kind.itemsize)[0][1]


@functools.lru_cache(maxsize=64)
def law_of(scale: float, kind: np.dtype[Any]) -> tuple[float, float, float, float, float]:
    """Give what the formulas want of a scale and a type: scalar.Law."""
    exact = Fraction(scale) * (Fraction(scalar.LOG2_E) + Fraction(scalar.LOG2_E_REST))
    high = float(kind.type(float(exact)))
    low = float(kind.type(float(exact - Fraction(high))))
    far = scalar.FAR_F32 if kind.itemsize == 4 else scalar.FAR_F64
    return float(exact), 1.0 / float(exact), high, low, far
