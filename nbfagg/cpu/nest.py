"""Axes in any order, the innermost contiguous: walked in memory's order, whichever axis is kept.

Every (batch row, token) pair has a cell: the maximum so far and the sum so far,
relative to that maximum's reference point. A task owns a set of cells (or, of
a summed axis split over tasks, a copy of them) and walks all logits that fall
into them, outermost axis first. When all tasks are done the rows are finished,
from their cells.

Which cells a task owns changes no bit: a cell meets its logits in memory's
order, in stretches that the row's shape decides.
"""

import math

import numpy as np

from nbfagg import scalar
from nbfagg.cpu.columns import add_columns
from nbfagg.cpu.finish import finish_log, finish_lse
from nbfagg.cpu.tiles import extremes, move_origin, run_sum, token_sums
from nbfagg.cpu.vector import BYTES, jit, lanes, peek, poke, type_as
from nbfagg.fields import (
    AHEAD,
    APART,
    AXES,
    AXIS_FIELDS,
    BATCH_AXES,
    CELLS,
    CHUNK,
    CHUNK_OF,
    CHUNK_TOTAL,
    COLUMN_STEPS,
    COLUMNS,
    COPIES,
    KEPT_AXES,
    RESULT_TOKENS,
    RUN_TOKENS,
    STEP_PITCH,
    STEPS,
    TASK_AXES,
    TILE,
    WALK_AXES,
    WIDTH,
)


@jit
def states(like, plan, shared):
    """Give the addresses of the cells' maxima, sums, and what the sums lost."""
    cells = plan[CELLS] * plan[COPIES] + 64
    sums = shared + 8 * cells
    return shared, sums, sums + 8 * cells


@jit
def add_to_cell(like, cell, top, total, first, shared, plan, law):
    """Merge (top, total) into a cell's state."""
    tops, sums, rests = states(like, plan, shared)
    size = BYTES // lanes(like)
    if first:
        poke(tops + size * cell, type_as(like, top))
        poke(sums + 8 * cell, total)
        poke(rests + 8 * cell, 0.0)
        return
    old = np.float64(peek(like, tops + size * cell))
    new, whole, rest = scalar.merge(
        old, peek(0.0, sums + 8 * cell), peek(0.0, rests + 8 * cell), top, total, law[0]
    )
    poke(tops + size * cell, type_as(like, new))
    poke(sums + 8 * cell, whole)
    poke(rests + 8 * cell, rest)


@jit
def add_runs(like, p, steps, pitch, width, law, ahead, work):
    """Give maximum and sum of `steps` runs, `pitch` bytes apart, that fall into one cell."""
    top, bottom = -math.inf, math.inf
    for step in range(steps):
        highest, lowest = extremes(like, p + step * pitch, width)
        top, bottom = max(top, highest), min(bottom, lowest)
    whole, rest = 0.0, 0.0
    for step in range(steps):
        q = move_origin(like, p + step * pitch, width, top, law, work)
        value = run_sum(like, q, width, top, bottom, law, ahead)
        grown = whole + value
        part = grown - whole
        rest += (whole - (grown - part)) + (value - part)
        whole = grown
    return top, whole + rest


@jit
def visit(like, p, cell, first, width, plan, law, shared, work):
    """Take in what lies at the innermost axes at p."""
    size = BYTES // lanes(like)
    if plan[COLUMNS]:
        tops, sums, rests = states(like, plan, shared)
        pitch = plan[STEP_PITCH]
        for step in range(0, plan[STEPS], COLUMN_STEPS):
            add_columns(
                like,
                p + step * pitch,
                width,
                plan[APART],
                min(COLUMN_STEPS, plan[STEPS] - step),
                pitch,
                tops + size * cell,
                sums + 8 * cell,
                rests + 8 * cell,
                first and step == 0,
                law,
                plan[AHEAD],
                work,
            )
        return
    piece = TILE // size
    if width > piece:
        for term in range(0, width, piece):
            q, count = p + term * size, min(piece, width - term)
            top, bottom = extremes(like, q, count)
            q = move_origin(like, q, count, top, law, work)
            total = run_sum(like, q, count, top, bottom, law, plan[AHEAD])
            add_to_cell(like, cell, top, total, first and term == 0, shared, plan, law)
        return
    tokens = plan[RUN_TOKENS]
    if tokens == 1:
        pitch = plan[STEP_PITCH]
        together = max(1, piece // width)
        for step in range(0, plan[STEPS], together):
            steps = min(together, plan[STEPS] - step)
            top, total = add_runs(like, p + step * pitch, steps, pitch, width, law, plan[AHEAD], work)
            add_to_cell(like, cell, top, total, first and step == 0, shared, plan, law)
        return
    top, bottom = extremes(like, p, tokens * width)
    p = move_origin(like, p, tokens * width, top, law, work)
    totals = work + TILE
    token_sums(
        like, p, tokens, width, top, bottom, law, totals, totals + 8 * (lanes(like) + tokens), plan[AHEAD]
    )
    for i in range(tokens):
        add_to_cell(like, cell + i, top, peek(0.0, totals + 8 * i), first, shared, plan, law)


@jit
def axis(plan, number):
    """Give size, pitch, cell step and role of an axis of the plan."""
    i = AXES + AXIS_FIELDS * number
    return plan[i], plan[i + 1], plan[i + 2], plan[i + 3]


@jit
def walk(like, source, plan, law, shared, work, task):
    """Visit all that one task owns, outermost axis first."""
    p, cell = source, 0
    width = plan[WIDTH]
    count = 0
    for a in range(plan[TASK_AXES] - 1, -1, -1):
        size, pitch, step, summed = axis(plan, a)
        index = task % size
        task //= size
        p += index * pitch
        cell += index * step
        if a == plan[TASK_AXES] - 1:
            count = min(plan[CHUNK], plan[CHUNK_TOTAL] - index * plan[CHUNK])
    if plan[CHUNK_OF] == 2:
        width = count
    start = plan[TASK_AXES]
    axes = plan[WALK_AXES]
    counters = work
    work += 8 * axes
    for a in range(axes):
        poke(counters + 8 * a, 0)
    beyond = 0  # summed axes that are past their first step
    while True:
        visit(like, p, cell, beyond == 0, width, plan, law, shared, work)
        a = axes - 1
        while a >= 0:
            size, pitch, step, summed = axis(plan, start + a)
            if size < 0:
                size = count
            index = peek(0, counters + 8 * a) + 1
            p += pitch
            cell += step
            if index < size:
                poke(counters + 8 * a, index)
                if index == 1:
                    beyond += summed
                break
            p -= size * pitch
            cell -= size * step
            if size > 1:
                beyond -= summed
            poke(counters + 8 * a, 0)
            a -= 1
        if a < 0:
            return


@jit
def merge_copies(like, plan, law, shared, cell):
    """Bring the copies of a cell together in the first."""
    tops, sums, rests = states(like, plan, shared)
    size = BYTES // lanes(like)
    for copy in range(1, plan[COPIES]):
        other = cell + copy * plan[CELLS]
        top = np.float64(peek(like, tops + size * other))
        total = peek(0.0, sums + 8 * other) + peek(0.0, rests + 8 * other)
        add_to_cell(like, cell, top, total, False, shared, plan, law)


@jit
def cells_of(plan, row, counters):
    """Give the first cell of a batch row, and set the counters of its tokens to 0."""
    first = plan[TASK_AXES] + plan[WALK_AXES]
    cell = 0
    for a in range(first + plan[BATCH_AXES] - 1, first - 1, -1):
        size, _, step, _ = axis(plan, a)
        cell += row % size * step
        row //= size
    for a in range(plan[KEPT_AXES]):
        poke(counters + 8 * a, 0)
    return cell


@jit
def next_cell(plan, cell, counters):
    """Give the cell of the next token in the result's order."""
    first = plan[TASK_AXES] + plan[WALK_AXES] + plan[BATCH_AXES]
    a = plan[KEPT_AXES] - 1
    while a >= 0:
        size, _, step, _ = axis(plan, first + a)
        index = peek(0, counters + 8 * a) + 1
        cell += step
        if index < size:
            poke(counters + 8 * a, index)
            break
        cell -= size * step
        poke(counters + 8 * a, 0)
        a -= 1
    return cell


@jit
def finish_row(like, plan, law, scale, log, out, lse, shared, work, row):
    """Turn a batch row's cells into its results."""
    tops, sums, rests = states(like, plan, shared)
    size = BYTES // lanes(like)
    tokens = plan[RESULT_TOKENS]
    top, whole, rest = -math.inf, 0.0, 0.0
    cell = cells_of(plan, row, work)
    for _ in range(tokens):
        if plan[COPIES] > 1:
            merge_copies(like, plan, law, shared, cell)
        top = max(top, np.float64(peek(like, tops + size * cell)))
        cell = next_cell(plan, cell, work)
    cell = cells_of(plan, row, work)
    for _ in range(tokens):
        here = np.float64(peek(like, tops + size * cell))
        value = (peek(0.0, sums + 8 * cell) + peek(0.0, rests + 8 * cell)) * scalar.rescale(here, top, law[0])
        grown = whole + value
        part = grown - whole
        rest += (whole - (grown - part)) + (value - part)
        whole = grown
        if not log:
            poke(sums + 8 * cell, value)
        cell = next_cell(plan, cell, work)
    total = whole + rest
    cell = cells_of(plan, row, work)
    out += row * tokens * size
    for token in range(tokens):
        value = peek(0.0, sums + 8 * cell)
        if log:
            here = np.float64(peek(like, tops + size * cell))
            value += peek(0.0, rests + 8 * cell)
            poke(out + token * size, finish_log(like, value, here, top, total, law))
        elif total == 0.0:
            poke(out + token * size, type_as(like, value * 0.0))
        else:
            poke(out + token * size, type_as(like, value / total))
        cell = next_cell(plan, cell, work)
    if lse:
        poke(lse + row * size, finish_lse(like, top, total, law, scale))
