"""From a plan and an array to a kernel: threads and workspace."""

from __future__ import annotations

import threading
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from nbfagg import fields
from nbfagg.cpu import drive
from nbfagg.plan import SERIAL, TASK, Plan, format_of, law_of, packed_plan, row_space

# Whole rows are shared out while each thread gets this many tasks; fewer would
# wait for the last one, so the parts of rows are shared instead.
TASKS_A_THREAD = 4
# A workspace up to this size is kept for the thread's next call: fresh pages
# cost 0.1 us a KiB.
KEPT_BYTES = 4 * 1024 * 1024

_local = threading.local()


def _workspace(nbytes: int) -> tuple[npt.NDArray[np.uint8], int]:
    """Give memory of at least `nbytes`, with its address, at the start of a cache line."""
    kept: tuple[npt.NDArray[np.uint8], int] | None = getattr(_local, "workspace", None)
    if kept is not None and kept[0].nbytes >= nbytes:
        return kept
    memory = np.empty(nbytes + 64, np.uint8)
    start = memory.ctypes.data
    result = memory[-start % 64 :], start + -start % 64
    if nbytes <= KEPT_BYTES:
        _local.workspace = result
    return result


def threads(workers: int | None, nbytes: int) -> int:
    """Give how many threads an array of this size is worth, at most `workers`."""
    if nbytes <= SERIAL:
        return 1
    most: int = numba.get_num_threads()
    if workers is not None:
        most = min(workers, numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]  # set at run time
    return max(1, min(most, nbytes // SERIAL))


def run_small(
    plan: Plan, a: npt.NDArray[Any], scale: float, log: bool, out: npt.NDArray[Any] | None
) -> npt.NDArray[Any]:
    """Aggregate a small array that lies in one piece and can be written (a type of its own to Numba).

    So does `out`, if it is given.
    """
    if out is None:
        out = np.empty(plan.shape, plan.kind)
    drive.rows_small(
        plan.like,
        a.ravel(),
        plan.numbers,
        law_of(scale, plan.kind),
        scale,
        log,
        out.ravel(),
        _workspace(plan.space[1])[0],
        plan.tasks,
    )
    return out


def rounded(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Give a float32 array, which lies in one piece, in half precision: NumPy takes 20 ns for one number."""
    result = np.empty(array.shape, dtype)
    like, kind = array.dtype.type(0), format_of(dtype)
    drive.round_serial(like, array.ctypes.data, array.size, kind, dtype.itemsize, result.ctypes.data)
    return result


def _source(
    plan: Plan,
    a: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_] | None,
    lengths: npt.NDArray[np.int64] | None,
    apart: bool = False,
) -> tuple[int, int, int, int]:
    """Give the addresses that gather.py reads by."""
    return (
        a.ctypes.data + plan.begin[0],
        0 if mask is None else mask.ctypes.data + plan.begin[1],
        0 if lengths is None else lengths.ctypes.data,
        int(apart),
    )


def run(
    plan: Plan,
    a: npt.NDArray[Any],
    scale: float,
    log: bool,
    out: npt.NDArray[Any],
    lse: npt.NDArray[Any] | None,
    workers: int | None,
    mask: npt.NDArray[np.bool_] | None = None,
    lengths: npt.NDArray[np.int64] | None = None,
    apart: bool = False,
) -> None:
    """Aggregate `a` into `out`, (batch axes, kept axes) in one piece, and its log-sum-exp into `lse`.

    If apart, `lse` receives each row's maximum, total, and what that lost, as float64.
    """
    count = threads(workers, plan.nbytes)
    arguments = (
        plan.like,
        _source(plan, a, mask, lengths, apart),
        plan.numbers,
        law_of(scale, plan.kind),
        scale,
        log,
        out.ctypes.data,
        0 if lse is None else lse.ctypes.data,
    )
    tasks = plan.tasks
    shared, mine = plan.space
    kernel: Any
    if plan.way == "nest":
        kernel = drive.nest_parallel if count > 1 else drive.nest_serial
    elif count == 1:
        kernel = drive.rows_serial
    elif tasks < TASKS_A_THREAD * count and plan.parts > int(plan.table[fields.ROWS]):
        kernel, tasks = drive.parts_parallel, plan.parts
        shared, mine = plan.parts_space
    else:
        kernel = drive.rows_parallel
    _start(kernel, arguments, tasks, mine, shared, count, ())


def run_gradient(
    plan: Plan,
    a: npt.NDArray[Any],
    scale: float,
    log: bool,
    given: list[npt.NDArray[Any] | None],
    out: npt.NDArray[Any],
    workers: int | None,
    mask: npt.NDArray[np.bool_] | None,
    lengths: npt.NDArray[np.int64] | None,
) -> None:
    """Write the gradient into `out` from those given: of alpha, alpha, lse, and of lse or None."""
    count = threads(workers, 2 * plan.nbytes)
    arguments = (
        plan.like,
        _source(plan, a, mask, lengths),
        plan.numbers,
        law_of(scale, plan.kind),
        scale,
        log,
        tuple(0 if array is None else array.ctypes.data for array in given),
        out.ctypes.data + plan.begin[2],
    )
    mine = 8 * fields.GRADIENT_ROOM + fields.SCRATCH_BYTES
    parts = plan.tasks < TASKS_A_THREAD * count and plan.parts > int(plan.table[fields.ROWS])
    rows = int(plan.table[fields.ROWS])
    tasks, shared = (plan.parts, 16 * (plan.parts + rows)) if parts else (plan.tasks, 0)
    if count == 1:
        _start(drive.gradient_serial, arguments, plan.tasks, mine, 0, count, ())
    else:
        _start(drive.gradient_parallel, arguments, tasks, mine, shared, count, (parts,))


def run_packed(
    plan: Plan,
    a: npt.NDArray[Any],
    offsets: npt.NDArray[np.int64],
    scale: float,
    log: bool,
    out: npt.NDArray[Any],
    lse: npt.NDArray[Any] | None,
    workers: int | None,
) -> None:
    """Aggregate packed rows into `out`, and their log-sum-exp into `lse`; the plan is that of one row of all.

    Rows so long that a thread with one of them would keep the others waiting
    are taken one by one, their parts shared; then the others, whole.
    """
    count = threads(workers, plan.nbytes)
    tokens = a.shape[0]
    lengths = np.diff(offsets)
    most = tokens if count == 1 else max(1, tokens // (TASKS_A_THREAD * count))
    for row in np.flatnonzero(lengths > most):
        one = a[np.newaxis, offsets[row] : offsets[row + 1]]
        shared = packed_plan(one, plan.kind, log)
        place = None if lse is None else lse[row : row + 1]
        run(shared, one, scale, log, out[offsets[row] : offsets[row + 1]], place, workers)
    longest = int(np.max(lengths, where=lengths <= most, initial=0))
    if longest == 0 and lse is None:
        return
    # A task ends with the row in which its share of the tokens ends.
    share = max(1, TASK * tokens // max(1, plan.nbytes))
    ends = np.searchsorted(offsets, np.arange(share, tokens + share, share)).clip(max=len(lengths))
    cuts = np.unique(np.concatenate(([0], ends, [len(lengths)]))).astype(np.int64)
    arguments = (
        plan.like,
        a.ctypes.data + plan.begin[0],
        plan.numbers,
        law_of(scale, plan.kind),
        scale,
        log,
        out.ctypes.data,
        0 if lse is None else lse.ctypes.data,
    )
    tables = np.empty((count, plan.table.size), np.int64)
    more = (a.strides[0], tables, offsets.ctypes.data, most, cuts.ctypes.data)
    kernel = drive.packed_serial if count == 1 else drive.packed_parallel
    _start(kernel, arguments, len(cuts) - 1, row_space(plan, longest), 0, count, more)


def _start(
    kernel: Any,
    arguments: tuple[Any, ...],
    tasks: int,
    mine: int,
    shared: int,
    count: int,
    more: tuple[Any, ...],
) -> None:
    """Start a kernel on `count` threads with `mine` bytes of workspace each, and `shared` for all."""
    mine += -mine % 64
    memory, address = _workspace(64 + count * mine + shared)
    if count == 1:
        kernel(*arguments, address, tasks, mine, *more)
    else:
        before = numba.get_num_threads()
        if before != count:
            numba.set_num_threads(count)
        try:
            kernel(*arguments, address, tasks, mine, count, *more)
        finally:
            if before != count:
                numba.set_num_threads(before)
    del memory
