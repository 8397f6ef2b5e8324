"""Kernels as Python calls them: one thread, or all of them drawing tasks from a queue."""

import numba
from numba import prange

from nbfagg.cpu.rows import finish_task, reduce_task, whole_rows
from nbfagg.cpu.tasks import take
from nbfagg.cpu.vector import poke

entry = numba.njit(error_model="numpy", cache=True, nogil=True)
parallel_entry = numba.njit(error_model="numpy", cache=True, nogil=True, parallel=True)


@entry
def rows_serial(like, source, plan, law, scale, log, out, lse, work, tasks):
    """Take whole rows, task by task."""
    for task in range(tasks):
        whole_rows(like, source, plan, law, scale, log, out, lse, work, task)


@parallel_entry
def rows_parallel(like, source, plan, law, scale, log, out, lse, work, tasks, thread_bytes, workers):
    """Take whole rows, each thread drawing its next task when it is done with one."""
    poke(work, 0)
    for worker in prange(workers):
        mine = work + 64 + worker * thread_bytes
        task = take(work)
        while task < tasks:
            whole_rows(like, source, plan, law, scale, log, out, lse, mine, task)
            task = take(work)


@parallel_entry
def parts_parallel(like, source, plan, law, scale, log, out, lse, work, tasks, thread_bytes, workers):
    """Reduce every part of every row, then finish every part."""
    poke(work, 0)
    poke(work + 8, 0)
    shared = work + 64 + workers * thread_bytes
    for worker in prange(workers):
        mine = work + 64 + worker * thread_bytes
        task = take(work)
        while task < tasks:
            reduce_task(like, source, plan, law, out, shared, mine, task)
            task = take(work)
    for worker in prange(workers):
        mine = work + 64 + worker * thread_bytes
        task = take(work + 8)
        while task < tasks:
            finish_task(like, source, plan, law, scale, log, out, lse, shared, mine, task)
            task = take(work + 8)
