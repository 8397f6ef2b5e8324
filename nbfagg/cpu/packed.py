"""Rows without padding, each of its own number of tokens: a plan's table is fitted to one after the other."""

import math

from nbfagg.cpu.rows import whole_rows
from nbfagg.cpu.vector import BYTES, jit, lanes, peek, poke, type_as
from nbfagg.fields import (
    AREA,
    BLOCK_TOKENS,
    BLOCKS,
    PART_BLOCKS,
    PARTS,
    PIECES,
    SHORT,
    SUMS_IN_RESULT,
    SUMS_TOKENS,
    TERMS,
    TILE_ROWS,
    TILE_ROWS_MOST,
    TOKENS,
)


@jit
def fit(plan, table, tokens):
    """Write to a table what plan.plan_rows would for rows of so many tokens."""
    table[:] = plan
    block_tokens = min(plan[BLOCK_TOKENS], tokens)
    blocks = tokens * plan[PIECES]
    if plan[PIECES] == 1:
        blocks = (tokens + block_tokens - 1) // block_tokens
    table[TOKENS] = tokens
    table[BLOCK_TOKENS] = block_tokens
    table[BLOCKS] = blocks
    table[PARTS] = (blocks + plan[PART_BLOCKS] - 1) // plan[PART_BLOCKS]
    table[SUMS_IN_RESULT] = tokens > SUMS_TOKENS
    tile_rows = min(AREA // (8 * plan[TERMS]) // 8 * 8 // tokens, TILE_ROWS_MOST)
    table[TILE_ROWS] = 0
    if plan[TERMS] <= SHORT and tile_rows > 1:
        # A row alone makes the tile: the same bits as in company.
        table[TILE_ROWS] = tile_rows


@jit
def packed_task(
    like, source, pitch, plan, table, law, scale, log, out, lse, offsets, most, work, first, last
):
    """Take rows first ... last - 1 but for those of more than `most` tokens, `pitch` bytes apart."""
    size = BYTES // lanes(like)
    for row in range(first, last):
        start = peek(0, offsets + 8 * row)
        tokens = peek(0, offsets + 8 * row + 8) - start
        here = lse + row * size if lse else 0
        if tokens == 0:
            if lse:
                poke(here, type_as(like, -math.inf))
        elif tokens <= most:
            fit(plan, table, tokens)
            nothing = start * 0
            place = source + start * pitch, nothing, nothing, nothing
            whole_rows(like, place, table, law, scale, log, out + start * size, here, work, 0)
