"""From a plan and an array to a kernel: threads and workspace."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from nbfagg import fields
from nbfagg.cpu import drive, team
from nbfagg.cpu.tasks import Task
from nbfagg.plan import Plan, format_of, law_of, packed_plan, row_space
from nbfagg.plan.grain import TASK

# Whole rows are shared out while each thread gets this many tasks; fewer would
# wait for the last one, so the parts of rows are shared instead.
TASKS_A_THREAD = 4
# A workspace up to this size is kept for the thread's next call: fresh pages
# cost 0.1 us a KiB.
KEPT_BYTES = 4 * 1024 * 1024

# Workspace of a thread that writes gradients.
GRADIENT_BYTES = 8 * fields.GRADIENT_ROOM + fields.SCRATCH_BYTES

# The gradient of alpha, alpha, and the gradient of lse or None.
Given = tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any] | None]

Workspace = tuple[npt.NDArray[np.uint8], int]

_ARGUMENTS = struct.Struct(fields.ARGUMENTS_FORMAT)

_NO_LSE = {kind: np.empty(0, kind) for kind in "fd"}

_local = threading.local()


def take_workspace(nbytes: int) -> Workspace:
    """Give memory of at least `nbytes`, with its address, at the start of a cache line.

    It is the caller's until `keep_workspace`: a signal's handler may call in between.
    """
    kept: Workspace | None = getattr(_local, "workspace", None)
    if kept is not None:
        _local.workspace = None
        if kept[0].nbytes >= nbytes:
            return kept
    memory = np.empty(nbytes + 64, np.uint8)
    start = memory.ctypes.data
    return memory[-start % 64 :], start + -start % 64


def keep_workspace(workspace: Workspace) -> None:
    """Keep memory for the thread's next call."""
    if workspace[0].nbytes <= KEPT_BYTES:
        _local.workspace = workspace


def run_small(
    plan: Plan,
    a: npt.NDArray[Any],
    scale: float,
    log: bool,
    out: npt.NDArray[Any],
    lse: npt.NDArray[Any] | None,
) -> None:
    """Aggregate a small array that lies in one piece and can be written (a type of its own to Numba).

    So do `out` and `lse`.
    """
    workspace = take_workspace(_ARGUMENTS.size + plan.space[1])
    drive.small(
        drive.whole.address(plan.like),
        a.ravel(),
        plan.address,
        plan.table.size,
        law_of(scale, plan.kind),
        scale,
        log,
        out.ravel(),
        _NO_LSE[plan.kind.char] if lse is None else lse.ravel(),
        workspace[1],
        plan.tasks,
    )
    keep_workspace(workspace)


def rounded(array: npt.NDArray[Any], dtype: np.dtype[Any]) -> npt.NDArray[Any]:
    """Give a float32 array, which lies in one piece, in half precision: NumPy takes 20 ns for one number."""
    result = np.empty(array.shape, dtype)
    like, kind = array.dtype.type(0), format_of(dtype)
    drive.round_serial(like, array.ctypes.data, array.size, kind, dtype.itemsize, result.ctypes.data)
    return result


class _Call:
    """What all tasks of a call share, and the threads that do them."""

    def __init__(
        self,
        plan: Plan,
        places: tuple[int, ...],
        scale: float,
        log: bool,
        out: int,
        lse: npt.NDArray[Any] | None,
        *,
        thread_bytes: int,
        shared_bytes: int = 0,
        count: int,
        packed: tuple[int, ...] = (0,) * 6,
        given: tuple[int, ...] = (0,) * 3,
    ) -> None:
        self.count, self.nbytes = count, plan.nbytes
        self.like = plan.like
        self.thread_bytes = thread_bytes + -thread_bytes % 64
        threads_bytes = count * self.thread_bytes
        self.workspace = take_workspace(64 + _ARGUMENTS.size + threads_bytes + shared_bytes)
        memory, start = self.workspace
        # Its first cache line is the queue.
        self.arguments, self.threads = start + 64, start + 64 + _ARGUMENTS.size
        _ARGUMENTS.pack_into(
            memory.data,
            64,
            *places,
            plan.address,
            plan.table.size,
            scale,
            log,
            out,
            0 if lse is None else lse.ctypes.data,
            self.threads + threads_bytes,
            *packed,
            *given,
            *law_of(scale, plan.kind),
        )

    def do(self, *kinds: tuple[Task, int]) -> None:
        """Do all tasks of each kind, one kind after the other, and end the call."""
        queue = self.workspace[0][:16].view(np.int64)
        for task, tasks in kinds:
            function = task.address(self.like)
            job = team.Job(function, self.arguments, self.threads, self.thread_bytes, queue)
            for begin, end in team.slices(tasks, self.nbytes, self.count):
                team.do(job, self.count, begin, end)
        keep_workspace(self.workspace)


def _places(
    plan: Plan,
    a: npt.NDArray[Any],
    mask: npt.NDArray[np.bool_] | None,
    lengths: npt.NDArray[np.int64] | None,
    apart: bool = False,
) -> tuple[int, ...]:
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
    count = team.size(workers, plan.nbytes)
    rows = int(plan.table[fields.RESULT_ROWS if plan.way == "nest" else fields.ROWS])
    parts = plan.way == "rows" and _shares_parts(plan, count)
    shared, mine = plan.parts_space if parts else plan.space
    places = _places(plan, a, mask, lengths, apart)
    call = _Call(
        *(plan, places, scale, log, out.ctypes.data, lse),
        thread_bytes=mine,
        shared_bytes=shared,
        count=count,
    )
    if plan.way == "nest":
        call.do((drive.walked, plan.tasks), (drive.finished_row, rows))
    elif parts:
        call.do((drive.reduced_part, plan.parts), (drive.finished_part, plan.parts))
    else:
        call.do((drive.whole, plan.tasks))


def _shares_parts(plan: Plan, count: int) -> bool:
    """Say whether the parts of rows are shared: for want of whole ones, or since one takes too long."""
    several = plan.parts > int(plan.table[fields.ROWS])
    few = count > 1 and plan.tasks < TASKS_A_THREAD * count
    return several and (few or plan.nbytes > plan.tasks * team.SLICE)


def run_gradient(
    plan: Plan,
    a: npt.NDArray[Any],
    scale: float,
    log: bool,
    given: Given,
    out: npt.NDArray[Any],
    workers: int | None,
    mask: npt.NDArray[np.bool_] | None,
    lengths: npt.NDArray[np.int64] | None,
) -> None:
    """Write the gradient into `out` from those given: of alpha, alpha, and of lse or None."""
    count = team.size(workers, 2 * plan.nbytes)
    parts = _shares_parts(plan, count)
    call = _Call(
        *(plan, _places(plan, a, mask, lengths), scale, log, out.ctypes.data + plan.begin[2], None),
        thread_bytes=GRADIENT_BYTES,
        shared_bytes=16 * (plan.parts + int(plan.table[fields.ROWS])) if parts else 0,
        count=count,
        given=_addresses(given),
    )
    if parts:
        call.do((drive.gradient_dots, plan.parts), (drive.gradient_part, plan.parts))
    else:
        call.do((drive.gradient_rows, plan.tasks))


def _addresses(arrays: Given) -> tuple[int, ...]:
    return tuple(0 if array is None else array.ctypes.data for array in arrays)


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
    """Aggregate packed rows into `out`, their log-sum-exp into `lse`; the plan is that of one row of all."""
    packing = _Packing(plan, a, offsets, team.size(workers, plan.nbytes))
    for row, begin, end in packing.long_rows():
        one = a[np.newaxis, begin:end]
        shared = packed_plan(one, plan.kind, log)
        place = None if lse is None else lse[row : row + 1]
        run(shared, one, scale, log, out[begin:end], place, workers)
    if packing.longest or lse is not None:
        call = _Call(
            *(plan, _places(plan, a, None, None), scale, log, out.ctypes.data, lse),
            thread_bytes=packing.own_bytes + row_space(plan, packing.longest),
            count=packing.count,
            packed=packing.arguments(out, drive.whole),
        )
        call.do((drive.packed_rows, packing.tasks))


def run_packed_gradient(
    plan: Plan,
    a: npt.NDArray[Any],
    offsets: npt.NDArray[np.int64],
    scale: float,
    log: bool,
    given: Given,
    out: npt.NDArray[Any],
    workers: int | None,
) -> None:
    """Write the gradient of packed rows into `out`; the plan is that of one row of all."""
    packing = _Packing(plan, a, offsets, team.size(workers, 2 * plan.nbytes))
    grad, alpha, of_lse = given
    for row, begin, end in packing.long_rows():
        one, target = a[np.newaxis, begin:end], out[np.newaxis, begin:end]
        shared = packed_plan(one, plan.kind, log, target.strides)
        of_row = None if of_lse is None else of_lse[row : row + 1]
        mine = grad[begin:end], alpha[begin:end], of_row
        run_gradient(shared, one, scale, log, mine, target, workers, None, None)
    if packing.longest:
        call = _Call(
            *(plan, _places(plan, a, None, None), scale, log, out.ctypes.data + plan.begin[2], None),
            thread_bytes=packing.own_bytes + GRADIENT_BYTES,
            count=packing.count,
            packed=packing.arguments(out, drive.gradient_rows),
            given=_addresses(given),
        )
        call.do((drive.packed_rows, packing.tasks))


class _Packing:
    """How packed rows are shared out.

    Rows so long that a thread with one of them would keep the others (or
    Ctrl-C) waiting are taken one by one, their parts shared; then the others, whole.
    """

    def __init__(self, plan: Plan, a: npt.NDArray[Any], offsets: npt.NDArray[np.int64], count: int) -> None:
        tokens = a.shape[0]
        self.plan, self.a, self.offsets, self.count = plan, a, offsets, count
        self.lengths = np.diff(offsets)
        shares = 1 if count == 1 else TASKS_A_THREAD * count
        self.most = max(1, tokens // max(shares, plan.nbytes // team.SLICE))
        self.longest = int(np.max(self.lengths, where=self.lengths <= self.most, initial=0))
        # A task ends with the row in which its share of the tokens ends.
        share = max(1, TASK * tokens // max(1, plan.nbytes))
        rows = len(self.lengths)
        ends = np.searchsorted(offsets, np.arange(share, tokens + share, share)).clip(max=rows)
        self.cuts = np.unique(np.concatenate(([0], ends, [rows]))).astype(np.int64)
        self.tasks = len(self.cuts) - 1
        # Of a thread, for arguments and a table of its own.
        self.own_bytes = _ARGUMENTS.size + 8 * plan.table.size

    def long_rows(self) -> Iterator[tuple[int, int, int]]:
        """Give the number of each long row, and where it begins and ends."""
        for row in np.flatnonzero(self.lengths > self.most):
            yield int(row), int(self.offsets[row]), int(self.offsets[row + 1])

    def arguments(self, out: npt.NDArray[Any], task: Task) -> tuple[int, ...]:
        """Give what packed.py reads beyond a row's own arguments."""
        return (
            self.offsets.ctypes.data,
            self.a.strides[0],
            out.strides[0],
            self.most,
            self.cuts.ctypes.data,
            task.address(self.plan.like),
        )
