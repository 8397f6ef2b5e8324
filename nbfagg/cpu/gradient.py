"""The gradient: one read of the logits, one write, block by block as the sums are taken.

With w the softmax of a token's own terms, p = alpha * w, so that ::

    grad_a = w * scale * alpha * (g - dot),   dot = sum of g * alpha over the row's tokens
    grad_a = w * scale * (g - alpha * dot),   dot = sum of g, for log alpha

and either is an exponential times a factor of its token. (A gradient of lse,
h, is dot - h in dot's place.) No log-sum-exp enters, whose rounding in float32
would be |lse| * 2**-24 of the result: a block's exponentials are normalised by
the alphas of its own tokens. For log alpha each token is normalised by its own
sum, so that nothing is lost where alpha underflows.
"""

import math

import numpy as np

from nbfagg import fields, scalar
from nbfagg.cpu.factors import (
    all_moderate,
    all_smaller,
    apply,
    dot_of,
    limits,
    total_of,
    write_exps,
    write_factors,
    write_log_factors,
)
from nbfagg.cpu.finish import lift_down
from nbfagg.cpu.formats import write_run
from nbfagg.cpu.gather import ahead_of, locate, offset_of
from nbfagg.cpu.jit import inlined, jit
from nbfagg.cpu.tasks import argument
from nbfagg.cpu.tiles import extremes, move_origin, run_sum, token_sums
from nbfagg.cpu.tiny import AHEAD, tile_at
from nbfagg.cpu.vector import (
    BYTES,
    lanes,
    load,
    peek,
    poke,
    store,
    type_as,
)
from nbfagg.fields import (
    BLOCK_TOKENS,
    BLOCKS,
    GRADIENT_ROOM,
    OUT_ITEM,
    OUT_KIND,
    OUT_WHOLE,
    PART_BLOCKS,
    PARTS,
    PIECE_TERMS,
    PIECES,
    ROW_AXIS,
    ROWS,
    ROWS_A_TASK,
    ROWS_AXES,
    ROWS_BATCH,
    ROWS_KEPT,
    ROWS_SUMMED,
    SHORT,
    TERMS,
    TILE_ROWS,
    TOKENS,
)

# Octaves within which a tile's sums are taken in one and the same way as each of its rows' by itself: less
# than short.CLOSE for the longest tokens, and no token is in doubt.
ALIKE = 15.0


@jit
def place_of(like, plan, out, row, token, term):
    """Give where the gradient of a block is written as it is computed, or 0 if it is not."""
    if not plan[OUT_WHOLE] or plan[OUT_ITEM] != BYTES // lanes(like):
        return 0
    return out + offset_of(plan, 0, plan[ROWS_BATCH], row, 3) + (token * plan[TERMS] + term) * plan[OUT_ITEM]


@jit
def write_out(like, plan, out, row, token, tokens, term, terms, values):
    """Write the gradient of terms of tokens, which lies side by side at `values`, to where it belongs."""
    size = BYTES // lanes(like)
    kind, item = plan[OUT_KIND], plan[OUT_ITEM]
    out += offset_of(plan, 0, plan[ROWS_BATCH], row, 3)
    if plan[OUT_WHOLE]:
        place = out + (token * plan[TERMS] + term) * item
        write_run(like, kind, item, values, tokens * terms, place, item)
        return
    first = plan[ROWS_BATCH] + plan[ROWS_KEPT]
    axes = plan[ROWS_SUMMED]
    run, pitch = 1, item
    if axes:
        inner = ROWS_AXES + ROW_AXIS * (first + axes - 1)
        run, pitch = plan[inner], plan[inner + 3]
    for t in range(tokens):
        place = out + offset_of(plan, plan[ROWS_BATCH], plan[ROWS_KEPT], token + t, 3)
        done = 0
        while done < terms:
            index = (term + done) % run
            count = min(run - index, terms - done)
            q = place + index * pitch
            if axes:
                q += offset_of(plan, first, axes - 1, (term + done) // run, 3)
            write_run(like, kind, item, values + done * size, count, q, pitch)
            done += count
        values += terms * size


@jit
def stretch(plan, token):
    """Give how many tokens, and how many terms of each at a time, are normalised together from `token` on."""
    if plan[PIECES] > 1:
        return 1, plan[PIECE_TERMS]
    return min(plan[BLOCK_TOKENS], plan[TOKENS] - token), plan[TERMS]


@jit
def row_norm(like, source, plan, law, given, row, log, room):
    """Give (maximum, share of the row / sum of exponentials) of the stretch that has most of a row.

    For stretches whose alphas have lost their bits: that one's sum, moved from point to point by powers of
    two, normalises them as exactly. The row's lse would do so to |lse| * 2**-24. Taken before anything of a
    row is written, for the gradient may be written over the logits; (0, 0) where no stretch needs it.
    """
    size = BYTES // lanes(like)
    if log or (plan[PIECES] == 1 and plan[BLOCKS] == 1):
        return 0.0, 0.0
    alpha = given[1] + row * plan[TOKENS] * size
    least, most, found, token = math.inf, -1.0, 0, 0
    while token < plan[TOKENS]:
        count, terms = stretch(plan, token)
        share, _ = dot_of(like, alpha + token * size, 0, count, True)
        least = min(least, share)
        if share > most:
            most, found = share, token
        token += count
    if not least < limits(like)[2]:
        return 0.0, 0.0
    count, terms = stretch(plan, found)
    top, whole, rest = -math.inf, 0.0, 0.0
    for term in range(0, plan[TERMS], terms):
        here = min(terms, plan[TERMS] - term)
        p = locate(like, source, plan, row, found, count, term, here, room)
        if p != 0:
            highest, bottom = extremes(like, p, count * here)
            p = move_origin(like, p, count * here, highest, law, room)
            value = write_exps(like, p, count * here, highest, bottom, law, room + GRADIENT_ROOM, 0)
            top, whole, rest = scalar.merge(top, whole, rest, highest, value, 0.0, law)
    whole = (whole + rest) * lift_down(like)
    return top, most / whole if whole > 0.0 else whole


@jit
def lone_token(like, source, plan, law, row, token, exps, room):
    """Write a token's exponentials relative to its own maximum; give that, and their sum as run_sum does.

    A token that is left out keeps the exponentials that it has: zeros.
    """
    terms = plan[TERMS]
    p = locate(like, source, plan, row, token, 1, 0, terms, room)
    if p == 0:
        return -math.inf, 0.0
    top, bottom = extremes(like, p, terms)
    p = move_origin(like, p, terms, top, law, room)
    # What is beyond the token belongs to the next one.
    kept = load(like, exps + terms * (BYTES // lanes(like)))
    write_exps(like, p, terms, top, bottom, law, exps, 0)
    store(exps + terms * (BYTES // lanes(like)), kept)
    value, _ = run_sum(like, p, terms, top, bottom, law, 0)
    return top, value


@jit
def lone_tokens(like, source, plan, law, row, token, count, exps, sums, room):
    """Take anew, each by itself, those of `count` tokens that lost bits to the block's reference point."""
    step = plan[TERMS] * (BYTES // lanes(like))
    for t in range(count):
        if peek(0.0, sums + 8 * t) * lift_down(like) < limits(like)[3]:
            top, value = lone_token(like, source, plan, law, row, token + t, exps + t * step, room)
            # Of a token that holds nothing all exponentials are 0.
            poke(sums + 8 * t, value if top > -math.inf or math.isnan(value) else 1.0)


@jit
def block_gradient(like, source, plan, law, scale, log, given, out, row, token, count, dot, reference, room):
    """Write the gradient of a block of whole tokens."""
    size = BYTES // lanes(like)
    terms = plan[TERMS]
    grad, alpha = given[0], given[1]
    start = (row * plan[TOKENS] + token) * size
    buffer, exps, repeated = room, room + GRADIENT_ROOM, room + 2 * GRADIENT_ROOM
    factors, sums, lows = room + 3 * GRADIENT_ROOM, room + 4 * GRADIENT_ROOM, room + 6 * GRADIENT_ROOM
    scratch = room + 8 * GRADIENT_ROOM
    target = place_of(like, plan, out, row, token, 0)
    direct = target != 0
    if not direct:
        target = exps
    share, norm = 1.0, 0.0
    if not log and count < plan[TOKENS]:
        # (A whole row's weights add up to 1.)
        share, _ = dot_of(like, alpha + start, 0, count, True)
    p = locate(like, source, plan, row, token, count, 0, terms, buffer)
    if p == 0:
        for i in range(count * terms):
            poke(target + i * size, type_as(like, 0.0))
    else:
        top, bottom = extremes(like, p, count * terms)
        p = move_origin(like, p, count * terms, top, law, buffer)
        ahead = ahead_of(source, plan, row, (token + count) * terms, p, buffer, count * terms * size)
        whole = write_exps(like, p, count * terms, top, bottom, law, exps, ahead) * lift_down(like)
        if log:
            if terms > SHORT:
                for t in range(count):
                    poke(sums + 8 * t, total_of(like, exps + t * terms * size, terms))
            else:
                token_sums(like, p, count, terms, top, bottom, law, sums, lows, scratch, ahead)
            lone_tokens(like, source, plan, law, row, token, count, exps, sums, repeated)
            write_log_factors(like, grad + start, alpha + start, sums, count, dot, scale, factors)
        else:
            if share < limits(like)[2]:
                norm = reference[1] * scalar.rescale(top, reference[0], law)
            elif whole != 0.0:
                norm = share / whole
            write_factors(like, grad + start, count, dot, scale * norm, factors)
        moderate = all_moderate(like, factors, count)
        apply(like, moderate, p, exps, factors, count, terms, repeated, target)
    if not direct:
        write_out(like, plan, out, row, token, count, 0, terms, exps)


@jit
def long_gradient(like, source, plan, law, scale, log, given, out, row, token, dot, reference, room):
    """Write the gradient of a token longer than a tile, which is read twice: from L2 if it fits there."""
    size = BYTES // lanes(like)
    terms, piece = plan[TERMS], plan[PIECE_TERMS]
    buffer, exps = room, room + GRADIENT_ROOM
    top, lowest, whole, rest = -math.inf, math.inf, 0.0, 0.0
    for term in range(0, terms, piece):
        count = min(piece, terms - term)
        p = locate(like, source, plan, row, token, 1, term, count, buffer)
        if p != 0:
            highest, bottom = extremes(like, p, count)
            lowest = min(lowest, bottom)
            p = move_origin(like, p, count, highest, law, buffer)
            total, lost = run_sum(like, p, count, highest, bottom, law, piece * size)
            top, whole, rest = scalar.merge(top, whole, rest, highest, total, lost, law)
    place = (row * plan[TOKENS] + token) * size
    g, a = np.float64(peek(like, given[0] + place)), np.float64(peek(like, given[1] + place))
    token_sum = (whole + rest) * lift_down(like)
    if log:
        factor = scale * (g - a * dot) / token_sum
    elif a < limits(like)[2]:
        factor = scale * (g - dot) * reference[1] * scalar.rescale(top, reference[0], law)
    else:
        factor = scale * a * (g - dot) / token_sum
    if token_sum == 0.0:
        factor = 0.0
    place, repeated = room + 3 * GRADIENT_ROOM, room + 2 * GRADIENT_ROOM
    poke(place, type_as(like, factor))
    moderate = all_moderate(like, place, 1)
    for term in range(0, terms, piece):
        count = min(piece, terms - term)
        target = place_of(like, plan, out, row, token, term)
        direct = target != 0
        if not direct:
            target = exps
        p = locate(like, source, plan, row, token, 1, term, count, buffer)
        if p == 0:
            for i in range(count):
                poke(target + i * size, type_as(like, 0.0))
        else:
            p = move_origin(like, p, count, top, law, buffer)
            write_exps(like, p, count, top, lowest, law, exps, piece * size)
            apply(like, moderate, p, exps, place, 1, count, repeated, target)
        if not direct:
            write_out(like, plan, out, row, token, 1, term, count, exps)


@inlined
def given_of(arguments):
    """Give the addresses of the gradient of alpha, of alpha, and of that of lse, which may be none."""
    return (
        argument(arguments, fields.GIVEN),
        argument(arguments, fields.GIVEN + 1),
        argument(arguments, fields.GIVEN + 2),
    )


@jit
def part_tokens(plan, part):
    """Give the first token of a part of a row, and the first one after it."""
    first = part * plan[PART_BLOCKS]
    last = min(first + plan[PART_BLOCKS], plan[BLOCKS])
    if plan[PIECES] > 1:
        return first // plan[PIECES], last // plan[PIECES]
    return first * plan[BLOCK_TOKENS], min(last * plan[BLOCK_TOKENS], plan[TOKENS])


@jit
def part_dot(like, plan, given, row, part, log):
    """Give a part's share of a row's dot, and what it lost."""
    token, end = part_tokens(plan, part)
    place = (row * plan[TOKENS] + token) * (BYTES // lanes(like))
    return dot_of(like, given[0] + place, given[1] + place, end - token, log)


@jit
def part_gradient(like, source, plan, law, scale, log, given, out, row, part, dot, reference, room):
    """Write the gradient of one part of a row."""
    token, end = part_tokens(plan, part)
    if given[2]:
        dot -= np.float64(peek(like, given[2] + row * (BYTES // lanes(like))))
    while token < end:
        if plan[PIECES] > 1:
            long_gradient(like, source, plan, law, scale, log, given, out, row, token, dot, reference, room)
            token += 1
        else:
            count = min(plan[BLOCK_TOKENS], end - token)
            block_gradient(
                like, source, plan, law, scale, log, given, out, row, token, count, dot, reference, room
            )
            token += count


@jit
def tiny_gradient(like, source, plan, law, scale, log, given, out, first, last, room):
    """Write the gradient of rows so small that many make a tile; say whether it could be done.

    Rows far from zero are left to the general way.
    """
    size = BYTES // lanes(like)
    tokens, terms = plan[TOKENS], plan[TERMS]
    length, rows = tokens * terms, last - first
    step = length * size
    grad, alpha = given[0], given[1]
    exps, repeated = room + GRADIENT_ROOM, room + 2 * GRADIENT_ROOM
    factors, sums, lows = room + 3 * GRADIENT_ROOM, room + 4 * GRADIENT_ROOM, room + 6 * GRADIENT_ROOM
    scratch = room + 8 * GRADIENT_ROOM
    p = tile_at(like, source, plan, first, last, room)
    top, bottom = extremes(like, p, rows * length)
    # Whether together or each by itself must not show in a row's bits.
    near = (top - bottom) * law[0] <= (ALIKE if log else limits(like)[4])
    if near:
        if scalar.origin(top, law) != 0.0 or scalar.origin(bottom, law) != 0.0:
            return False
    else:
        # Infinities of one row hide how far off the others are.
        for i in range(rows):
            top_of_row, _ = extremes(like, p + i * step, length)
            if scalar.origin(top_of_row, law) != 0.0:
                return False
    if near:
        write_exps(like, p, rows * length, top, bottom, law, exps, AHEAD)
        if log:
            token_sums(like, p, rows * tokens, terms, top, bottom, law, sums, lows, scratch, AHEAD)
    else:
        for i in range(rows):
            top, bottom = extremes(like, p + i * step, length)
            write_exps(like, p + i * step, length, top, bottom, law, exps + i * step, AHEAD)
            if log:
                place, low = sums + 8 * tokens * i, lows + 8 * tokens * i
                token_sums(like, p + i * step, tokens, terms, top, bottom, law, place, low, scratch, AHEAD)
    for i in range(rows):
        start = (first + i) * tokens * size
        whole, rest = dot_of(like, grad + start, alpha + start, tokens, log)
        dot = whole + rest
        if given[2]:
            dot -= np.float64(peek(like, given[2] + (first + i) * size))
        place = factors + i * tokens * size
        if log:
            here = sums + 8 * tokens * i
            lone_tokens(like, source, plan, law, first + i, 0, tokens, exps + i * step, here, repeated)
            write_log_factors(like, grad + start, alpha + start, here, tokens, dot, scale, place)
        else:
            whole = total_of(like, exps + i * step, length) * lift_down(like)
            norm = scale / whole if whole != 0.0 else 0.0
            write_factors(like, grad + start, tokens, dot, norm, place)
    moderate = all_moderate(like, factors, rows * tokens)
    if rows > 1 and not moderate and not all_smaller(like, factors, rows * tokens, type_as(like, np.inf)):
        # To move a row to the point that all share may have been too much.
        return False
    target = place_of(like, plan, out, first, 0, 0)
    if target == 0 or plan[ROWS_BATCH] != 1 or plan[ROWS_AXES + 3] != step:
        apply(like, moderate, p, exps, factors, rows * tokens, terms, repeated, exps)
        for i in range(rows):
            write_out(like, plan, out, first + i, 0, tokens, 0, terms, exps + i * step)
    else:
        apply(like, moderate, p, exps, factors, rows * tokens, terms, repeated, target)
    return True


@jit
def gradient_rows(like, source, plan, law, scale, log, given, out, room, task):
    """Write the gradient of one task's rows."""
    row = task * plan[ROWS_A_TASK]
    last = min(row + plan[ROWS_A_TASK], plan[ROWS])
    while row < last:
        end = row + 1
        if plan[TILE_ROWS]:
            end = min(row + plan[TILE_ROWS], last)
            if tiny_gradient(like, source, plan, law, scale, log, given, out, row, end, room):
                row = end
                continue
        for one in range(row, end):
            # As it would be alone, whatever else is in the tile.
            if end - row > 1 and tiny_gradient(
                like, source, plan, law, scale, log, given, out, one, one + 1, room
            ):
                continue
            reference = row_norm(like, source, plan, law, given, one, log, room)
            whole, rest = 0.0, 0.0
            for part in range(plan[PARTS]):
                share, lost = part_dot(like, plan, given, one, part, log)
                whole, rounded = scalar.add_exactly(whole, share)
                rest += lost + rounded
            dot = whole + rest
            for part in range(plan[PARTS]):
                part_gradient(
                    like, source, plan, law, scale, log, given, out, one, part, dot, reference, room
                )
        row = end


@jit
def dot_task(like, source, plan, law, given, log, shared, room, task):
    """Write one part's share of a row's dot, and a row's norm, to the workspace that all threads share."""
    row, part = task // plan[PARTS], task % plan[PARTS]
    share, lost = part_dot(like, plan, given, row, part, log)
    poke(shared + 16 * task, share)
    poke(shared + 16 * task + 8, lost)
    if part == 0:
        top, norm = row_norm(like, source, plan, law, given, row, log, room)
        place = shared + 16 * (plan[PARTS] * plan[ROWS] + row)
        poke(place, top)
        poke(place + 8, norm)


@jit
def gradient_task(like, source, plan, law, scale, log, given, out, shared, room, task):
    """Write the gradient of one part of one row, once all shares of dots are there."""
    row, part = task // plan[PARTS], task % plan[PARTS]
    whole, rest = 0.0, 0.0
    for unit in range(row * plan[PARTS], (row + 1) * plan[PARTS]):
        whole, rounded = scalar.add_exactly(whole, peek(0.0, shared + 16 * unit))
        rest += peek(0.0, shared + 16 * unit + 8) + rounded
    place = shared + 16 * (plan[PARTS] * plan[ROWS] + row)
    reference = peek(0.0, place), peek(0.0, place + 8)
    part_gradient(like, source, plan, law, scale, log, given, out, row, part, whole + rest, reference, room)
