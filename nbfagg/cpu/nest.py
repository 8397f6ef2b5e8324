"""Axes in any order, on any strides: walked in memory's order, whichever axis is kept.

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
from numba import types
from numba.extending import overload

from nbfagg import scalar
from nbfagg.cpu.columns import add_columns, any_far, shifts_of
from nbfagg.cpu.exp import MAGIC_F64
from nbfagg.cpu.finish import finish_log, put_lse, weigh_one
from nbfagg.cpu.jit import jit
from nbfagg.cpu.sums import add_exactly
from nbfagg.cpu.tiles import are_alike, extremes, move_origin, run_sum, token_sums
from nbfagg.cpu.vector import (
    BYTES,
    absolute,
    add,
    all_below,
    lanes,
    lanes_of,
    load,
    load_first,
    mul,
    muladd,
    peek,
    poke,
    power_of_two,
    splat,
    store,
    store_first,
    sub,
    type_as,
    widened,
)
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
    LOWS,
    RESULT_TOKENS,
    RUN_TOKENS,
    STEP_PITCH,
    STEPS,
    TASK_AXES,
    TILE,
    WALK_AXES,
    WIDTH,
)

# Octaves between a cell's point and a tile's over which sums move by a power of two.
OCTAVES = 400.0


@jit
def states(like, plan, shared):
    """Give the addresses of the cells' maxima, magic numbers (columns), sums, and what float64 sums lost."""
    cells = plan[CELLS] * plan[COPIES] + 64
    numbers = cells * (BYTES // lanes(like))
    magics = shared + numbers
    sums = magics + (numbers if plan[COLUMNS] else 0)
    return shared, magics, sums, sums + 8 * cells


@jit
def add_to_cell(like, cell, top, total, lost, first, places, law):
    """Merge (top, total), and what the total lost, into a cell's state."""
    tops, _, sums, rests = places
    size = BYTES // lanes(like)
    wide = lanes(like) == 8
    if first:
        poke(tops + size * cell, type_as(like, top))
        poke(sums + 8 * cell, total)
        if wide:
            poke(rests + 8 * cell, lost)
        return
    old = np.float64(peek(like, tops + size * cell))
    old_rest = peek(0.0, rests + 8 * cell) if wide else 0.0
    new, whole, rest = scalar.merge(old, peek(0.0, sums + 8 * cell), old_rest, top, total, lost, law)
    poke(tops + size * cell, type_as(like, new))
    poke(sums + 8 * cell, whole)
    # Of float32 logits, what float64 loses here is 2**-29 of the last bit.
    if wide:
        poke(rests + 8 * cell, rest)


@jit
def add_to_cells(like, cell, count, top, totals, lows, first, places, law):
    """Merge (top, total) into `count` neighbouring cells, totals and what they lost lying at addresses."""
    tops, _, sums, rests = places
    size = BYTES // lanes(like)
    width = lanes(like)
    done = 0
    if scalar.origin(top, law) == 0.0 and not math.isinf(top):
        tops += size * cell
        sums += 8 * cell
        rests += 8 * cell
        while done < count:
            here = min(width, count - done)
            place, low = totals + 8 * done, lows + 8 * done
            if not add_vector(like, top, place, low, here, first, tops, sums, rests, law):
                break
            tops += BYTES
            sums += 8 * width
            rests += 8 * width
            done += width
    for i in range(done, count):
        lost = peek(0.0, lows + 8 * i) if lanes(like) == 8 else 0.0
        add_to_cell(like, cell + i, top, peek(0.0, totals + 8 * i), lost, first, places, law)


@jit
def add_vector(like, top, totals, lows, count, first, tops, sums, rests, law):
    """Merge into the first cells of a vector, if only powers of two are in between; say whether they were."""
    value = load(widened(like), totals)
    if first:
        put(tops, splat(like, type_as(like, top)), count)
        put(sums, value, count)
        if lanes(like) == 8:
            put(rests, load(0.0, lows), count)
        return True
    old = load_first(like, tops, count, type_as(like, top)) if count < lanes(like) else load(like, tops)
    shifts = shifts_of(like, old, law)
    distance = sub(splat(value, scalar.shift(top, law)), shifts)
    # A cell's own maximum may be none (-inf), infinite, or so far off that it has an origin.
    if any_far(like, old, law) or not all_below(absolute(old), type_as(like, np.inf)):
        return False
    # Nor may a sum of float64 grow beyond its point: see columns.REACH_F64.
    if not all_below(absolute(distance), OCTAVES) or (lanes(like) == 8 and not all_below(distance, 0.5)):
        return False
    factors = power_of_two(add(distance, splat(value, MAGIC_F64)))
    grow(like, sums, rests, value, lows, factors, count)
    return True


@jit
def put(place, vector, count):
    """Store the first `count` lanes of a vector; masked, that takes some 20 cycles on AMD before Zen 4."""
    if count < lanes_of(vector):
        store_first(place, vector, count)
    else:
        store(place, vector)


@jit
def get(like, place, count):
    """Load the first `count` lanes of a float64 vector of the type of `like`, and zeros."""
    if count < lanes_of(like):
        return load_first(like, place, count, 0.0)
    return load(like, place)


def grow(like, sums, rests, value, lows, factors, count):
    """Add value * factors to the first `count` sums; of float64, with what it lost (at an address)."""
    raise NotImplementedError("for compiled code")


@overload(grow)
def _grow(like, sums, rests, value, lows, factors, count):
    if like == types.float32:

        def single(like, sums, rests, value, lows, factors, count):
            put(sums, muladd(value, factors, get(value, sums, count)), count)

        return single

    def double(like, sums, rests, value, lows, factors, count):
        high, low = add_exactly((get(value, sums, count), get(value, rests, count)), mul(value, factors))
        put(sums, high, count)
        put(rests, muladd(get(value, lows, count), factors, low), count)

    return double


@jit
def add_runs(like, p, runs, pitch, width, cell, apart, first, plan, law, places, work):
    """Take in `runs` runs, `pitch` bytes apart, which fall into cells `apart` from one another: 0 or 1.

    Each run is summed by itself, in float32 or float64 as its own logits ask for, and its sum is added to its
    cell's: which runs are taken together changes no bit.
    """
    size = BYTES // lanes(like)
    totals = work + TILE
    scratch = totals + 8 * (lanes(like) + runs)
    lows = scratch + LOWS
    ahead = plan[AHEAD]
    if pitch == width * size:
        top, bottom = extremes(like, p, runs * width)
    else:
        top, bottom = -math.inf, math.inf
        for run in range(runs):
            highest, lowest = extremes(like, p + run * pitch, width)
            top, bottom = max(top, highest), min(bottom, lowest)
    if scalar.origin(top, law) == 0.0 and are_alike(like, width, top, bottom, law):
        if pitch == width * size:
            token_sums(like, p, runs, width, top, bottom, law, totals, lows, scratch, ahead)
        else:
            # Each writes a vector; the next one's first number overwrites what is beyond its own.
            for run in range(runs):
                place, low = totals + 8 * run, lows + 8 * run
                token_sums(like, p + run * pitch, 1, width, top, bottom, law, place, low, scratch, ahead)
        if apart == 1:
            add_to_cells(like, cell, runs, top, totals, lows, first, places, law)
            return
        for run in range(runs):
            total = peek(0.0, totals + 8 * run)
            lost = peek(0.0, lows + 8 * run) if lanes(like) == 8 else 0.0
            add_to_cell(like, cell, top, total, lost, first and run == 0, places, law)
        return
    for run in range(runs):
        q = p + run * pitch
        top, bottom = extremes(like, q, width)
        q = move_origin(like, q, width, top, law, work)
        token_sums(like, q, 1, width, top, bottom, law, totals, lows, scratch, ahead)
        lost = peek(0.0, lows) if lanes(like) == 8 else 0.0
        new = first and (apart == 1 or run == 0)
        add_to_cell(like, cell + apart * run, top, peek(0.0, totals), lost, new, places, law)


@jit
def visit(like, p, cell, first, width, plan, law, places, work):
    """Take in what lies at the innermost axes at p."""
    size = BYTES // lanes(like)
    if plan[COLUMNS]:
        tops, magics, sums, rests = places
        pitch = plan[STEP_PITCH]
        mine = (tops + size * cell, magics + size * cell, sums + 8 * cell, rests + 8 * cell)
        for step in range(0, plan[STEPS], COLUMN_STEPS):
            add_columns(
                like,
                p + step * pitch,
                width,
                plan[APART],
                min(COLUMN_STEPS, plan[STEPS] - step),
                pitch,
                mine,
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
            total, lost = run_sum(like, q, count, top, bottom, law, plan[AHEAD])
            add_to_cell(like, cell, top, total, lost, first and term == 0, places, law)
        return
    if plan[RUN_TOKENS] > 1:
        add_runs(like, p, plan[RUN_TOKENS], width * size, width, cell, 1, first, plan, law, places, work)
        return
    pitch = plan[STEP_PITCH]
    together = max(1, piece // width)
    for step in range(0, plan[STEPS], together):
        runs = min(together, plan[STEPS] - step)
        q = p + step * pitch
        add_runs(like, q, runs, pitch, width, cell, 0, first and step == 0, plan, law, places, work)


@jit
def axis(plan, number):
    """Give size, pitch, cell step and role of an axis of the plan."""
    i = AXES + AXIS_FIELDS * number
    return plan[i], plan[i + 1], plan[i + 2], plan[i + 3]


@jit
def walk(like, source, plan, law, shared, work, task):
    """Visit all that one task owns, outermost axis first."""
    p, cell = source[0], 0
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
    places = states(like, plan, shared)
    beyond = 0  # summed axes that are past their first step
    while True:
        visit(like, p, cell, beyond == 0, width, plan, law, places, work)
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
    places = states(like, plan, shared)
    tops, _, sums, rests = places
    size = BYTES // lanes(like)
    for copy in range(1, plan[COPIES]):
        other = cell + copy * plan[CELLS]
        top = np.float64(peek(like, tops + size * other))
        lost = peek(0.0, rests + 8 * other) if lanes(like) == 8 else 0.0
        add_to_cell(like, cell, top, peek(0.0, sums + 8 * other), lost, False, places, law)


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
def finish_row(like, plan, law, scale, log, out, lse, apart, shared, work, row):
    """Turn a batch row's cells into its results."""
    tops, _, sums, rests = states(like, plan, shared)
    wide = lanes(like) == 8
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
        factor = scalar.rescale(here, top, law)
        value, lost = peek(0.0, sums + 8 * cell), 0.0
        if wide:
            value, lost = scalar.add_exactly(value, peek(0.0, rests + 8 * cell))
        whole, rounded = scalar.add_exactly(whole, value * factor)
        rest += lost * factor + rounded
        if not log:
            poke(sums + 8 * cell, value * factor)
            if wide:
                poke(rests + 8 * cell, lost * factor)
        cell = next_cell(plan, cell, work)
    total = scalar.add_exactly(whole, rest)
    inverse = 1.0 / total[0] if total[0] != 0.0 else 0.0
    cell = cells_of(plan, row, work)
    out += row * tokens * size
    for token in range(tokens):
        value = peek(0.0, sums + 8 * cell)
        lost = peek(0.0, rests + 8 * cell) if wide else 0.0
        if log:
            here = np.float64(peek(like, tops + size * cell))
            poke(out + token * size, finish_log(like, value + lost, here, top, total[0], law))
        else:
            poke(out + token * size, weigh_one(like, value, lost, total, inverse, 1.0))
        cell = next_cell(plan, cell, work)
    if lse:
        put_lse(like, lse, row, top, total, law, scale, apart)
