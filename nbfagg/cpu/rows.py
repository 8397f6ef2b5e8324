"""Rows taken token by token: each token's terms side by side, or gathered to lie so.

A row is cut into blocks of whole tokens that fit a tile (or, where a token is
longer than a tile, tokens into pieces), and blocks are grouped into parts. The
cuts follow from the row's shape alone and sums are merged in the order of the
cuts, so a row's bits depend neither on the number of threads nor on its
neighbours.

`reduce_part` takes maximum and sums of every block while it is in L1. The
row's reference point and total then follow from its parts', and `finish_part`
turns sums into results. A thread that has a whole row does both in one go; the
parts of a long row are shared by all threads, one phase after the other.
"""

import math

import numpy as np

from nbfagg import scalar
from nbfagg.cpu.finish import finish, finish_in_place, finish_log, lift_down, put_lse, weigh_one
from nbfagg.cpu.gather import ahead_of, locate, offset_of
from nbfagg.cpu.jit import jit
from nbfagg.cpu.single import finish_parts, gap_of, sum_at, write_parts
from nbfagg.cpu.sums import sum_of
from nbfagg.cpu.tiles import NARROW, extremes, move_origin, run_sum, token_sums
from nbfagg.cpu.tiny import tiny_rows
from nbfagg.cpu.vector import BYTES, lanes, peek, poke
from nbfagg.fields import (
    BLOCK_TOKENS,
    BLOCKS,
    GATHERED,
    NOTE,
    PART_BLOCKS,
    PARTS,
    PIECE_TERMS,
    PIECES,
    ROWS,
    ROWS_A_TASK,
    ROWS_BATCH,
    SHORT,
    SUMS_IN_RESULT,
    TERMS,
    TILE,
    TILE_ROWS,
    TOKENS,
    WHOLE,
)

# A token that is this much smaller than its block's largest exponential has lost
# bits to the block's reference point; its logarithm is taken anew.
DOUBT = 2.0**-60
# Bytes of rows, each by itself, from the one that is summed to the one that is prefetched.
STATES_AHEAD = 4096


@jit
def reduce_part(like, source, plan, law, row, part, notes, sums, lows, out, buffer):
    """Reduce the blocks of one part of a row; give the part's maximum and total, with what that lost.

    notes is the address of the row's notes, one a block: the same three. sums
    is that of the row's token sums, float64, and lows what they lost; where the
    sums wait in the result, there is room for one block and they are rounded to
    `out`.
    """
    size = BYTES // lanes(like)
    tokens, terms = plan[TOKENS], plan[TERMS]
    block_tokens, pieces = plan[BLOCK_TOKENS], plan[PIECES]
    scratch = buffer + TILE
    part_maximum, whole, rest = -math.inf, 0.0, 0.0
    for block in range(part * plan[PART_BLOCKS], min((part + 1) * plan[PART_BLOCKS], plan[BLOCKS])):
        if pieces == 1:
            token = block * block_tokens
            count = min(block_tokens, tokens - token)
            p = locate(like, source, plan, row, token, count, 0, terms, buffer)
            place, low = (sums, lows) if plan[SUMS_IN_RESULT] else (sums + 8 * token, lows + 8 * token)
            if p == 0:
                top, bottom, total, lost = -math.inf, math.inf, 0.0, 0.0
                clear_sums(like, plan, place, low, count, law)
            else:
                top, bottom = extremes(like, p, count * terms)
                p = move_origin(like, p, count * terms, top, law, buffer)
                usual = block_tokens * terms * size
                ahead = ahead_of(source, plan, row, (token + count) * terms, p, buffer, usual)
                if in_parts(like, plan, top, bottom, law):
                    total, lost = write_parts(like, p, count, top, law, place, ahead)
                else:
                    total, lost = token_sums(
                        like, p, count, terms, top, bottom, law, place, low, scratch, ahead
                    )
            if plan[SUMS_IN_RESULT]:
                if lanes(like) == 8:
                    # The total of what is kept: a token that is all of it has weight 1.
                    for i in range(count):
                        poke(lows + 8 * i, 0.0)
                    total, lost = sum_of(like, sums, lows, count)
                finish(like, sums, lows, out + token * size, count, (1.0, 0.0), 1.0, 1.0)
        else:
            term = block % pieces * plan[PIECE_TERMS]
            count = min(plan[PIECE_TERMS], terms - term)
            p = locate(like, source, plan, row, block // pieces, 1, term, count, buffer)
            top, bottom, total, lost = -math.inf, math.inf, 0.0, 0.0
            if p != 0:
                top, bottom = extremes(like, p, count)
                p = move_origin(like, p, count, top, law, buffer)
                index = block // pieces * terms + term + count
                ahead = ahead_of(source, plan, row, index, p, buffer, plan[PIECE_TERMS] * size)
                total, lost = run_sum(like, p, count, top, bottom, law, ahead)
        write_note(notes + NOTE * block, top, bottom, total, lost)
        part_maximum, whole, rest = scalar.merge(part_maximum, whole, rest, top, total, lost, law)
    return part_maximum, whole, rest


@jit
def clear_sums(like, plan, sums, lows, count, law):
    """Write the sums of `count` tokens that are left out, in either form."""
    if in_parts(like, plan, -math.inf, math.inf, law):
        for i in range(0, 2 * gap_of(count), 8):
            poke(sums + i, 0.0)
        return
    for i in range(count):
        poke(sums + 8 * i, 0.0)
        if lanes(like) == 8:
            poke(lows + 8 * i, 0.0)


@jit
def in_parts(like, plan, top, bottom, law):
    """Say whether a block's sums lie there as the two parts of each."""
    if lanes(like) == 8 or plan[TERMS] > 1 or plan[SUMS_IN_RESULT]:
        return False
    return scalar.origin(top, law) == 0.0 and (top - bottom) * law[0] <= NARROW


@jit
def write_note(note, top, bottom, total, lost):
    """Write a maximum and a total, with what that lost, to a note; and a minimum."""
    poke(note, top)
    poke(note + 8, total)
    poke(note + 16, lost)
    poke(note + 24, bottom)


@jit
def merge_notes(notes, first, last, law):
    """Merge notes first ... last - 1."""
    top, whole, rest = -math.inf, 0.0, 0.0
    for i in range(first, last):
        note = notes + NOTE * i
        top, whole, rest = scalar.merge(
            top, whole, rest, peek(0.0, note), peek(0.0, note + 8), peek(0.0, note + 16), law
        )
    return top, whole, rest


@jit
def log_token(like, source, plan, law, row, token, total_sum, top, row_top, total, buffer):
    """Give a token's logarithm, from a sum of its own where the block's may have lost it."""
    terms = plan[TERMS]
    if total_sum * lift_down(like) < DOUBT:
        p = locate(like, source, plan, row, token, 1, 0, terms, buffer)
        if p == 0:
            return finish_log(like, 0.0, -math.inf, row_top, total, law)
        top, bottom = extremes(like, p, terms)
        p = move_origin(like, p, terms, top, law, buffer)
        total_sum, _ = run_sum(like, p, terms, top, bottom, law, 0)
    return finish_log(like, total_sum, top, row_top, total, law)


@jit
def finish_part(like, source, plan, law, log, row, part, notes, sums, lows, out, row_top, total, buffer):
    """Write the results of one part of a row from its sums."""
    size = BYTES // lanes(like)
    tokens, pieces = plan[TOKENS], plan[PIECES]
    block_tokens = plan[BLOCK_TOKENS]
    whole, _ = total
    inverse = 1.0 / whole if whole != 0.0 else 0.0
    first = part * plan[PART_BLOCKS]
    last = min(first + plan[PART_BLOCKS], plan[BLOCKS])
    if pieces > 1:
        # A token belongs to the part that holds its last piece.
        for token in range(first // pieces, last // pieces):
            top, token_sum, lost = merge_notes(notes, token * pieces, (token + 1) * pieces, law)
            if log:
                value = finish_log(like, token_sum + lost, top, row_top, whole, law)
            else:
                value = weigh_one(like, token_sum, lost, total, inverse, scalar.rescale(top, row_top, law))
            poke(out + token * size, value)
        return
    for block in range(first, last):
        token = block * block_tokens
        count = min(block_tokens, tokens - token)
        top = peek(0.0, notes + NOTE * block)
        parts = in_parts(like, plan, top, peek(0.0, notes + NOTE * block + 24), law)
        if log:
            for i in range(token, token + count):
                if plan[SUMS_IN_RESULT]:
                    token_sum = np.float64(peek(like, out + i * size))
                elif parts:
                    token_sum = sum_at(sums + 8 * token, count, i - token)
                else:
                    token_sum = peek(0.0, sums + i * 8)
                value = log_token(like, source, plan, law, row, i, token_sum, top, row_top, whole, buffer)
                poke(out + i * size, value)
        else:
            factor = scalar.rescale(top, row_top, law)
            if plan[SUMS_IN_RESULT]:
                finish_in_place(like, out + token * size, count, total, inverse, factor)
            elif parts:
                finish_parts(like, sums + 8 * token, out + token * size, count, whole, factor)
            else:
                finish(
                    like,
                    sums + 8 * token,
                    lows + 8 * token,
                    out + token * size,
                    count,
                    total,
                    inverse,
                    factor,
                )


@jit
def row_result(like, plan, base, row):
    """Give the address of a row's results, which lie in one piece."""
    return base + row * plan[TOKENS] * (BYTES // lanes(like))


@jit
def are_tokens(source, plan):
    """Say whether rows are single tokens, read in place, of which the states are wanted and nothing else."""
    if source[3] == 0 or plan[TOKENS] > 1 or plan[PIECES] > 1 or plan[TERMS] <= SHORT:
        return False
    return plan[WHOLE] != 0 and plan[GATHERED] == 0 and source[1] == 0 and source[2] == 0


@jit
def states_of_tokens(like, source, plan, law, scale, states, row, last, buffer):
    """Write the states of rows that are single tokens, to the bit what the general way gives.

    What is prefetched are the rows to come, wherever they lie: between two tokens of a chunk lie those of
    other chunks, and to fetch them took half of the bus. So, and without notes and weights, tokens of 256
    terms that lie 32 KiB apart take 0.4 of the general way's time. With the next row alone that was 0.55.
    """
    terms = plan[TERMS]
    ahead = max(2, STATES_AHEAD // (terms * (BYTES // lanes(like))))
    for one in range(row, last):
        p = source[0] + offset_of(plan, 0, plan[ROWS_BATCH], one, 1)
        later = source[0] + offset_of(plan, 0, plan[ROWS_BATCH], min(one + ahead, last - 1), 1)
        top, bottom = extremes(like, p, terms)
        q = move_origin(like, p, terms, top, law, buffer)
        value, lost = run_sum(like, q, terms, top, bottom, law, later - q)
        top, whole, rest = scalar.merge(-math.inf, 0.0, 0.0, top, value, lost, law)
        put_lse(like, states, one, top, scalar.add_exactly(whole, rest), law, scale, 1)


@jit
def whole_rows(like, source, plan, law, scale, log, out, lse, work, task):
    """Reduce and finish one task's rows, one after the other; sums and notes stay in this thread's cache."""
    sums = work + NOTE * plan[BLOCKS]
    room = plan[BLOCK_TOKENS] if plan[SUMS_IN_RESULT] else plan[TOKENS]
    lows = sums + 8 * (room + lanes(like))
    buffer = lows + (8 * (room + lanes(like)) if lanes(like) == 8 else 0)
    row = task * plan[ROWS_A_TASK]
    last = min(row + plan[ROWS_A_TASK], plan[ROWS])
    if are_tokens(source, plan):
        states_of_tokens(like, source, plan, law, scale, lse, row, last, buffer)
        return
    while row < last:
        if plan[TILE_ROWS] and not log:
            end = min(row + plan[TILE_ROWS], last)
            row += tiny_rows(like, source, plan, law, scale, out, lse, row, end, buffer, buffer + TILE)
            if row == end:
                continue
        result = row_result(like, plan, out, row)
        top, whole, rest = -math.inf, 0.0, 0.0
        for part in range(plan[PARTS]):
            part_top, part_whole, part_rest = reduce_part(
                like, source, plan, law, row, part, work, sums, lows, result, buffer
            )
            top, whole, rest = scalar.merge(top, whole, rest, part_top, part_whole, part_rest, law)
        total = scalar.add_exactly(whole, rest)
        for part in range(plan[PARTS]):
            finish_part(like, source, plan, law, log, row, part, work, sums, lows, result, top, total, buffer)
        if lse:
            put_lse(like, lse, row, top, total, law, scale, source[3])
        row += 1


@jit
def reduce_task(like, source, plan, law, out, shared, thread, task):
    """Reduce one part of one row into the workspace that all threads share."""
    row, part = task // plan[PARTS], task % plan[PARTS]
    part_notes, notes, sums, lows, buffer = shared_places(like, plan, shared, thread, row)
    top, whole, rest = reduce_part(
        like, source, plan, law, row, part, notes, sums, lows, row_result(like, plan, out, row), buffer
    )
    write_note(part_notes + NOTE * part, top, top, whole, rest)


@jit
def finish_task(like, source, plan, law, scale, log, out, lse, shared, thread, task):
    """Finish one part of one row, once all of its parts are reduced."""
    row, part = task // plan[PARTS], task % plan[PARTS]
    part_notes, notes, sums, lows, buffer = shared_places(like, plan, shared, thread, row)
    top, whole, rest = merge_notes(part_notes, 0, plan[PARTS], law)
    total = scalar.add_exactly(whole, rest)
    result = row_result(like, plan, out, row)
    finish_part(like, source, plan, law, log, row, part, notes, sums, lows, result, top, total, buffer)
    if lse and part == 0:
        put_lse(like, lse, row, top, total, law, scale, source[3])


@jit
def shared_places(like, plan, shared, thread, row):
    """Give the addresses of a row's part notes, block notes, sums and lows, and of the thread's buffer."""
    blocks = shared + NOTE * plan[PARTS] * plan[ROWS]
    sums = blocks + NOTE * plan[BLOCKS] * plan[ROWS]
    notes = blocks + NOTE * plan[BLOCKS] * row
    part_notes = shared + NOTE * plan[PARTS] * row
    wide = lanes(like) == 8
    if plan[SUMS_IN_RESULT]:
        room = 8 * (plan[BLOCK_TOKENS] + lanes(like))
        return part_notes, notes, thread, thread + room, thread + (2 * room if wide else room)
    room = 8 * (plan[TOKENS] + lanes(like))
    sums += (2 * room if wide else room) * row
    return part_notes, notes, sums, sums + room, thread
