"""Kernels as Python calls them: one thread, or all of them drawing tasks from a queue."""

from numba import prange

from nbfagg.cpu.cache import compiled
from nbfagg.cpu.nest import finish_row, walk
from nbfagg.cpu.rows import finish_task, reduce_task, whole_rows
from nbfagg.cpu.tasks import take
from nbfagg.cpu.vector import poke
from nbfagg.fields import RESULT_ROWS


@compiled()
def rows_small(like, flat, plan, law, scale, log, out, work, tasks):
    """Take a small array's rows: given as arrays, since Python needs 0.8 us to tell an address."""
    source, result, space = (flat.ctypes.data, 0, 0), out.ctypes.data, work.ctypes.data
    for task in range(tasks):
        whole_rows(like, source, plan, law, scale, log, result, 0, space, task)


@compiled()
def rows_serial(like, source, plan, law, scale, log, out, lse, work, tasks, thread_bytes):
    """Take whole rows, task by task."""
    for task in range(tasks):
        whole_rows(like, source, plan, law, scale, log, out, lse, work, task)


@compiled(parallel=True)
def rows_parallel(like, source, plan, law, scale, log, out, lse, work, tasks, thread_bytes, workers):
    """Take whole rows, each thread drawing its next task when it is done with one."""
    poke(work, 0)
    for worker in prange(workers):
        mine = work + 64 + worker * thread_bytes
        task = take(work)
        while task < tasks:
            whole_rows(like, source, plan, law, scale, log, out, lse, mine, task)
            task = take(work)


@compiled(parallel=True)
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


@compiled(parallel=True)
def nest_parallel(like, source, plan, law, scale, log, out, lse, work, tasks, thread_bytes, workers):
    """Walk every task, then finish every row."""
    poke(work, 0)
    poke(work + 8, 0)
    shared = work + 64 + workers * thread_bytes
    rows = plan[RESULT_ROWS]
    for worker in prange(workers):
        mine = work + 64 + worker * thread_bytes
        task = take(work)
        while task < tasks:
            walk(like, source, plan, law, shared, mine, task)
            task = take(work)
    for worker in prange(workers):
        mine = work + 64 + worker * thread_bytes
        row = take(work + 8)
        while row < rows:
            finish_row(like, plan, law, scale, log, out, lse, shared, mine, row)
            row = take(work + 8)


@compiled()
def nest_serial(like, source, plan, law, scale, log, out, lse, work, tasks, thread_bytes):
    """Walk every task, then finish every row."""
    shared = work + 64 + thread_bytes
    for task in range(tasks):
        walk(like, source, plan, law, shared, work + 64, task)
    for row in range(plan[RESULT_ROWS]):
        finish_row(like, plan, law, scale, log, out, lse, shared, work + 64, row)
