"""Kernels as Python calls them: one thread, or all of them drawing tasks from a queue."""

import numpy as np
from numba import prange

from nbfagg.cpu.cache import compiled
from nbfagg.cpu.formats import write_run
from nbfagg.cpu.gradient import dot_task, gradient_rows, gradient_task
from nbfagg.cpu.nest import finish_row, walk
from nbfagg.cpu.packed import packed_task
from nbfagg.cpu.rows import finish_task, reduce_task, whole_rows
from nbfagg.cpu.tasks import take
from nbfagg.cpu.vector import peek, poke
from nbfagg.fields import RESULT_ROWS


@compiled()
def rows_small(like, flat, plan, law, scale, log, out, work, tasks):
    """Take a small array's rows: given as arrays, since Python needs 0.8 us to tell an address."""
    # As signed integers that are no constants: other kernels take them so, and share what is compiled.
    nothing = np.intp(0)
    source = np.intp(flat.ctypes.data), nothing, nothing, nothing
    result, space = np.intp(out.ctypes.data), np.intp(work.ctypes.data)
    for task in range(tasks):
        whole_rows(like, source, plan, law, scale, log, result, 0, space, task)


@compiled()
def round_serial(like, source, count, kind, item, target):
    """Round `count` numbers of the type of `like` to those of another kind."""
    write_run(like, kind, item, source, count, target, item)


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
            finish_row(like, plan, law, scale, log, out, lse, source[3], shared, mine, row)
            row = take(work + 8)


@compiled()
def nest_serial(like, source, plan, law, scale, log, out, lse, work, tasks, thread_bytes):
    """Walk every task, then finish every row."""
    shared = work + 64 + thread_bytes
    for task in range(tasks):
        walk(like, source, plan, law, shared, work + 64, task)
    for row in range(plan[RESULT_ROWS]):
        finish_row(like, plan, law, scale, log, out, lse, source[3], shared, work + 64, row)


@compiled()
def gradient_serial(like, source, plan, law, scale, log, given, out, work, tasks, thread_bytes):
    """Write the gradient of whole rows, task by task."""
    for task in range(tasks):
        gradient_rows(like, source, plan, law, scale, log, given, out, work, task)


@compiled(parallel=True)
def gradient_parallel(
    like, source, plan, law, scale, log, given, out, work, tasks, thread_bytes, workers, parts
):
    """Write the gradient of whole rows, or, if parts, all shares of dots and then that of parts of rows."""
    poke(work, 0)
    poke(work + 8, 0)
    shared = work + 64 + workers * thread_bytes
    if parts:
        for worker in prange(workers):
            mine = work + 64 + worker * thread_bytes
            task = take(work)
            while task < tasks:
                dot_task(like, source, plan, law, given, log, shared, mine, task)
                task = take(work)
    for worker in prange(workers):
        mine = work + 64 + worker * thread_bytes
        task = take(work + 8)
        while task < tasks:
            if parts:
                gradient_task(like, source, plan, law, scale, log, given, out, shared, mine, task)
            else:
                gradient_rows(like, source, plan, law, scale, log, given, out, mine, task)
            task = take(work + 8)


@compiled()
def packed_serial(
    like,
    source,
    plan,
    law,
    scale,
    log,
    out,
    lse,
    work,
    tasks,
    thread_bytes,
    pitch,
    tables,
    offsets,
    most,
    cuts,
):
    """Take packed rows, all but the long ones."""
    for task in range(tasks):
        packed_task(
            like,
            source,
            pitch,
            plan,
            tables[0],
            law,
            scale,
            log,
            out,
            lse,
            offsets,
            most,
            work,
            peek(0, cuts + 8 * task),
            peek(0, cuts + 8 * task + 8),
        )


@compiled(parallel=True)
def packed_parallel(
    like,
    source,
    plan,
    law,
    scale,
    log,
    out,
    lse,
    work,
    tasks,
    thread_bytes,
    workers,
    pitch,
    tables,
    offsets,
    most,
    cuts,
):
    """Take packed rows, all but the long ones, each thread drawing its next task."""
    poke(work, 0)
    for worker in prange(workers):
        mine = work + 64 + worker * thread_bytes
        task = take(work)
        while task < tasks:
            packed_task(
                like,
                source,
                pitch,
                plan,
                tables[worker],
                law,
                scale,
                log,
                out,
                lse,
                offsets,
                most,
                mine,
                peek(0, cuts + 8 * task),
                peek(0, cuts + 8 * task + 8),
            )
            task = take(work)
