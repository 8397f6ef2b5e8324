"""Rows without padding, each of its own number of tokens: a plan's table is fitted to one after the other."""

import math

from nbfagg import fields
from nbfagg.cpu.jit import jit
from nbfagg.cpu.tasks import argument, call, table_of
from nbfagg.cpu.vector import BYTES, lanes, peek, poke, type_as
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
    """Write to a table what plan/rows.py would for rows of so many tokens."""
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
def move(arguments, target, field, distance):
    """Write an address of the arguments, moved by so many bytes, to those of one row; 0 stays 0."""
    address = argument(arguments, field)
    poke(target + 8 * field, address + distance if address else 0)


@jit
def packed_rows(like, arguments, memory, number):
    """Take the rows of one task but for the long ones; arguments of their own, and a table, are in memory."""
    size = BYTES // lanes(like)
    plan = table_of(arguments)
    cuts = argument(arguments, fields.CUTS) + 8 * number
    offsets, most = argument(arguments, fields.OFFSETS), argument(arguments, fields.MOST)
    lse = argument(arguments, fields.LSE)
    for field in range(fields.ARGUMENTS):
        poke(memory + 8 * field, argument(arguments, field))
    poke(memory + 8 * fields.TABLE, memory + 8 * fields.ARGUMENTS)
    table = table_of(memory)
    rest = memory + 8 * (fields.ARGUMENTS + len(plan))
    for row in range(peek(0, cuts), peek(0, cuts + 8)):
        start = peek(0, offsets + 8 * row)
        tokens = peek(0, offsets + 8 * row + 8) - start
        if tokens == 0:
            if lse:
                poke(lse + row * size, type_as(like, -math.inf))
        elif tokens <= most:
            fit(plan, table, tokens)
            move(arguments, memory, fields.PLACE, start * argument(arguments, fields.PITCH))
            move(arguments, memory, fields.OUT, start * argument(arguments, fields.OUT_PITCH))
            move(arguments, memory, fields.LSE, row * size)
            move(arguments, memory, fields.GIVEN, start * size)
            move(arguments, memory, fields.GIVEN + 1, start * size)
            move(arguments, memory, fields.GIVEN + 2, row * size)
            call(argument(arguments, fields.ROW_TASK), memory, rest, 0)
