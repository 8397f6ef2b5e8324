"""The threads of a call: how many it is worth, and whose.

Numba's are used where that is safe. Where it is not, threads of our own (crew.py)
do the same tasks to the same bits:

* `workqueue` aborts the process if two threads start its team at once, or one starts it from inside;
* GNU OpenMP ends a forked child that starts a team after its parent did, and TBB may be of no use there;
* there may be no threading layer at all, or no thread to be had: GNU OpenMP then ends the process, TBB
  aborts it or waits for ever;
* threads that wait in a loop, as GNU OpenMP's do, use up their share of a core that another program wants
  too. Then one is without a core for milliseconds, in the middle of a task, and the others wait for it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from nbfagg.cpu import crew, drive
from nbfagg.cpu.forks import forked
from nbfagg.plan.grain import SERIAL

_SAFE = ("omp", "tbb")

# A call is cut into slices of this size: 20 ms at 3 GB/s, and starting threads again takes some 5 us.
SLICE = 64 * 1024 * 1024
# Of each thread of our own: a wake on another core took 80 us, in which a core reads 1 MiB.
OURS = 2 * 1024 * 1024

# Nanoseconds that one of Numba's threads may be waited for at the end. For so many seconds after a longer
# wait the threads are our own, which sleep.
# Beside a program that had one of two cores, calls of 1.3 and 2.1 ms took 6.2 and 3.9 times as long in one of
# ten cases, and take 2.0 and 2.3 times as long. To sleep before the barrier changed nothing: it is the others
# that have used up their share.
STALL = 1_000_000
RESPITE = 0.25

_respite_until = 0.0
_layer: str | None = None  # "none" where none can be loaded, or started


def layer() -> str:
    """Give the name of Numba's threading layer, which is loaded if it is not; or "none"."""
    global _layer
    if _layer is None:
        # Some more than Numba has, which takes memory beside their stacks; TBB starts them when it is loaded.
        if not crew.can_start(2 * _most()):
            _layer = "none"
            return _layer
        try:
            numba.get_num_threads()
            _layer = str(numba.threading_layer())  # type: ignore[attr-defined]
        except (ValueError, ImportError):
            _layer = "none"
    return _layer


def _most() -> int:
    return numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined,no-any-return]  # set at run time


def _numbas() -> bool:
    """Say whether Numba's threads may start."""
    return not forked() and layer() in _SAFE and time.monotonic() >= _respite_until


def size(workers: int | None, nbytes: int) -> int:
    """Give how many threads an array of this size is worth, at most `workers`."""
    # What follows loads Numba's threading layer.
    if nbytes <= SERIAL or workers == 1:
        return 1
    if workers is None and layer() != "none":
        most = int(numba.get_num_threads())
    else:
        most = min(workers or _most(), _most())
    return max(1, min(most, nbytes // (SERIAL if _numbas() else OURS)))


def slices(tasks: int, nbytes: int, count: int) -> Iterator[tuple[int, int]]:
    """Cut a call's tasks where Python gets to look for signals: Ctrl-C waits for one slice.

    Each but the last has as many tasks for every one of `count` threads: four tokens of 64 MiB were a slice
    each, in which a second thread had nothing to do.
    """
    step = tasks * SLICE // max(1, nbytes)
    step = max(count, step - step % count)
    for begin in range(0, tasks, step):
        yield begin, min(tasks, begin + step)


class Job(NamedTuple):
    """What threads are to do, and where: addresses, as drive.py takes them."""

    function: int
    arguments: int
    memory: int  # of the first thread
    thread_bytes: int
    queue: npt.NDArray[np.int64]  # two numbers


def do(job: Job, count: int, begin: int, end: int) -> None:
    """Do the tasks from `begin` to `end` on `count` threads at most."""
    if count == 1:
        drive.serial(job.function, job.arguments, job.memory, begin, end)
    elif not _numbas():
        job.queue[0] = begin
        crew.work(functools.partial(_draw, job, end), count, _most() - 1)
    else:
        _do_numbas(job, count, begin, end)


def _do_numbas(job: Job, count: int, begin: int, end: int) -> None:
    """Do the tasks on Numba's threads, and see whether one of them kept the others waiting."""
    global _respite_until
    before: Any = numba.get_num_threads()
    try:
        if before != count:
            numba.set_num_threads(count)
        waited = drive.parallel(
            *(job.function, job.arguments, job.memory, job.thread_bytes),
            *(job.queue.ctypes.data, begin, end, count),
        )
    finally:
        if before != count:
            numba.set_num_threads(before)
    if waited > STALL:
        _respite_until = time.monotonic() + RESPITE


def _draw(job: Job, end: int, worker: int) -> None:
    """Do tasks as long as there are any."""
    memory = job.memory + worker * job.thread_bytes
    drive.drawn(job.function, job.arguments, memory, job.queue.ctypes.data, end)
