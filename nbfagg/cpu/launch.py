"""From a plan and an array to a kernel: threads and workspace."""

from __future__ import annotations

import threading
from typing import Any

import numba
import numpy as np
import numpy.typing as npt

from nbfagg import fields
from nbfagg.cpu import drive
from nbfagg.plan import SERIAL, Plan, law_of

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
    if kept is not None and kept[0].nbytes >= nbytes + 64:
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
        plan.table,
        law_of(scale, plan.kind),
        scale,
        log,
        out.ravel(),
        _workspace(plan.space[1])[0],
        plan.tasks,
    )
    return out


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
) -> None:
    """Aggregate `a` into `out`, (batch axes, kept axes) in one piece, and its log-sum-exp into `lse`."""
    source = (
        a.ctypes.data + plan.offset,
        0 if mask is None else mask.ctypes.data + plan.mask_offset,
        0 if lengths is None else lengths.ctypes.data,
    )
    count = threads(workers, plan.nbytes)
    arguments = (
        plan.like,
        source,
        plan.table,
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
    mine += -mine % 64
    memory, address = _workspace(64 + count * mine + shared)
    if count == 1:
        kernel(*arguments, address, tasks, mine)
    else:
        before = numba.get_num_threads()
        if before != count:
            numba.set_num_threads(count)
        try:
            kernel(*arguments, address, tasks, mine, count)
        finally:
            if before != count:
                numba.set_num_threads(before)
    del memory
