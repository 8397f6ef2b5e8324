"""Loops over tasks, on one thread or on all of them, and the functions of these tasks."""

import numpy as np
from numba import prange

from nbfagg import fields
from nbfagg.cpu.cache import compiled
from nbfagg.cpu.clock import NEVER, now
from nbfagg.cpu.environment import enter, leave
from nbfagg.cpu.tasks import Later, Task, call, lower_to, take, unpack
from nbfagg.cpu.vector import peek, poke

formats, gradient, nest, packed, rows = map(Later, ("formats", "gradient", "nest", "packed", "rows"))


@compiled()
def small(function, flat, table, table_size, law, scale, log, out, lse, memory, tasks):
    """Take a small array's rows: given as arrays, since Python needs 0.8 us to tell an address."""
    for field in range(fields.ARGUMENTS):
        poke(memory + 8 * field, 0)
    poke(memory + 8 * fields.PLACE, np.intp(flat.ctypes.data))
    poke(memory + 8 * fields.TABLE, table)
    poke(memory + 8 * fields.TABLE_SIZE, table_size)
    for i in range(5):
        poke(memory + 8 * (fields.LAW + i), law[i])
    poke(memory + 8 * fields.SCALE, scale)
    poke(memory + 8 * fields.LOG, np.intp(log))
    poke(memory + 8 * fields.OUT, np.intp(out.ctypes.data))
    if len(lse):
        poke(memory + 8 * fields.LSE, np.intp(lse.ctypes.data))
    for task in range(tasks):
        call(function, memory, memory + 8 * fields.ARGUMENTS, task)


@compiled()
def serial(function, arguments, memory, begin, end):
    """Do one task after the other."""
    for task in range(begin, end):
        call(function, arguments, memory, task)


@compiled()
def drawn(function, arguments, memory, queue, end):
    """Draw tasks and do them, beside other threads that do the same."""
    task = take(queue)
    while task < end:
        call(function, arguments, memory, task)
        task = take(queue)


@compiled(parallel=True)
def parallel(function, arguments, memory, thread_bytes, queue, begin, end, workers):
    """Do all tasks on Numba's threads, each of which draws its next one when it is done with one.

    Gives the nanoseconds from when one of them found nothing left to do until all were done. `queue` has room
    for two numbers.
    """
    poke(queue, begin)
    first = queue + 8
    poke(first, NEVER)
    for worker in prange(workers):
        mine = memory + worker * thread_bytes
        task = take(queue)
        while task < end:
            call(function, arguments, mine, task)
            task = take(queue)
        lower_to(first, now(mine))
    return now(memory) - peek(0, first)


@compiled()
def round_serial(like, source, count, kind, item, target):
    """Round `count` numbers of the type of `like` to those of another kind."""
    before = enter()
    formats.write_run(like, kind, item, source, count, target, item)
    leave(before)


@Task
def whole(like):
    """Take whole rows."""

    def function(arguments, memory, number):
        source, plan, law, scale, log, out, lse, shared = unpack(like, arguments)
        rows.whole_rows(like, source, plan, law, scale, log, out, lse, memory, number)

    return function


@Task
def reduced_part(like):
    """Reduce one part of one row."""

    def function(arguments, memory, number):
        source, plan, law, scale, log, out, lse, shared = unpack(like, arguments)
        rows.reduce_task(like, source, plan, law, out, shared, memory, number)

    return function


@Task
def finished_part(like):
    """Finish one part of one row, once all are reduced."""

    def function(arguments, memory, number):
        source, plan, law, scale, log, out, lse, shared = unpack(like, arguments)
        rows.finish_task(like, source, plan, law, scale, log, out, lse, shared, memory, number)

    return function


@Task
def walked(like):
    """Walk over axes of any order."""

    def function(arguments, memory, number):
        source, plan, law, scale, log, out, lse, shared = unpack(like, arguments)
        nest.walk(like, source, plan, law, shared, memory, number)

    return function


@Task
def finished_row(like):
    """Finish one row of what was walked."""

    def function(arguments, memory, number):
        source, plan, law, scale, log, out, lse, shared = unpack(like, arguments)
        nest.finish_row(like, plan, law, scale, log, out, lse, source[3], shared, memory, number)

    return function


@Task
def gradient_rows(like):
    """Write the gradient of whole rows."""

    def function(arguments, memory, number):
        source, plan, law, scale, log, out, lse, shared = unpack(like, arguments)
        given = gradient.given_of(arguments)
        gradient.gradient_rows(like, source, plan, law, scale, log, given, out, memory, number)

    return function


@Task
def gradient_dots(like):
    """Write one part's share of a row's dot."""

    def function(arguments, memory, number):
        source, plan, law, scale, log, out, lse, shared = unpack(like, arguments)
        given = gradient.given_of(arguments)
        gradient.dot_task(like, source, plan, law, given, log, shared, memory, number)

    return function


@Task
def gradient_part(like):
    """Write the gradient of one part of one row, once all shares of dots are there."""

    def function(arguments, memory, number):
        source, plan, law, scale, log, out, lse, shared = unpack(like, arguments)
        given = gradient.given_of(arguments)
        gradient.gradient_task(like, source, plan, law, scale, log, given, out, shared, memory, number)

    return function


@Task
def packed_rows(like):
    """Take packed rows, all but the long ones."""

    def function(arguments, memory, number):
        packed.packed_rows(like, arguments, memory, number)

    return function
