"""The threads of a call: what each is given, and whose they are."""

from types import SimpleNamespace

import numba
import numpy as np
import pytest
from numba import types

from nbfagg.cpu import drive, team
from nbfagg.cpu.tasks import Task

usleep = types.ExternalFunction("usleep", types.int32(types.uint32))


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize(
    ("tasks", "nbytes"), [(1, 1 << 40), (4, 1 << 28), (1000, 1 << 30), (7, 1 << 28), (5, 10), (3, 0)]
)
def test_a_call_is_cut_in_slices(tasks, nbytes, count):
    """So that Ctrl-C waits for 64 MiB, or for a task a thread where that is more; each task is in one.

    No thread of a slice is without a task, or has one more than another, but in the last one.
    """
    slices = list(team.slices(tasks, nbytes, count))
    assert [task for begin, end in slices for task in range(begin, end)] == list(range(tasks))
    assert all(end - begin <= count or (end - begin) * nbytes / tasks <= 64 << 20 for begin, end in slices)
    assert all((end - begin) % count == 0 for begin, end in slices[:-1])


def test_each_thread_of_our_own_has_memory_of_its_own(monkeypatch):
    taken = []

    def work(do, count, most):
        for worker in range(count):
            do(worker)

    def drawn(function, arguments, memory, queue, end):
        taken.append(memory)

    monkeypatch.setattr(team, "_numbas", lambda: False)
    monkeypatch.setattr(team, "crew", SimpleNamespace(work=work))
    monkeypatch.setattr(team, "drive", SimpleNamespace(drawn=drawn))
    team.do(team.Job(0, 0, 4096, 640, np.zeros(2, np.int64)), 3, 0, 9)
    assert taken == [4096, 4096 + 640, 4096 + 2 * 640]


@Task
def tardy(like):
    """Take 30 ms for task 0, and no time for any other."""

    def function(arguments, memory, number):
        if number == 0:
            usleep(30_000)

    return function


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread")
@pytest.mark.parametrize(("tasks", "waits"), [(range(2), True), (range(1, 9), False)])
def test_how_long_threads_wait_for_one_another_is_known(tasks, waits):
    memory, queue = np.zeros(32, np.int64), np.zeros(2, np.int64)
    waited = [
        drive.parallel(
            *(tardy.address(np.float32(0)), 0, memory.ctypes.data, 128),
            *(queue.ctypes.data, tasks.start, tasks.stop, 2),
        )
        for _ in range(5)
    ]
    assert min(waited) >= 0
    # On a busy machine any of them may be late.
    assert max(waited) > 20_000_000 if waits else min(waited) < 20_000_000


def test_a_thread_that_is_waited_for(monkeypatch):
    """Numba's threads have a rest after it."""
    threads, now, waits = [], 100.0, [team.STALL, team.STALL + 1, 0]
    monkeypatch.setattr(team, "_layer", "omp")
    monkeypatch.setattr(team, "_respite_until", 0.0)
    monkeypatch.setattr(team, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(
        team, "drive", SimpleNamespace(parallel=lambda *_: threads.append("Numba's") or waits.pop(0))
    )
    monkeypatch.setattr(team, "crew", SimpleNamespace(work=lambda *_: threads.append("ours")))
    job = team.Job(0, 0, 4096, 640, np.zeros(2, np.int64))
    for seconds in (0, 0, team.RESPITE / 2, team.RESPITE / 2):
        now += seconds
        team.do(job, 2, 0, 9)
    assert threads == ["Numba's", "Numba's", "ours", "Numba's"]
