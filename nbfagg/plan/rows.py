"""The table of rows that are taken token by token (cpu/rows.py), and the workspace that they want."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nbfagg import fields
from nbfagg.fields import AREA, GRADIENT_TILE, KINDS, SCRATCH_BYTES, TILE
from nbfagg.plan.axes import Axis, in_one_piece, in_order, product, steady
from nbfagg.plan.grain import PART_BLOCKS, TASK


def plan_rows(
    axes: list[Axis], item: int, kind_item: int, code: int, ways: tuple[bool, bool], out_code: int
) -> tuple[npt.NDArray[np.int64], int, int]:
    """Fill the table of rows taken token by token.

    `code` is that of the numbers in memory. `ways` says whether they are brought together in a tile, and
    whether there is a mask. `out_code` is that of a gradient's numbers, -1 without.
    """
    gathered, masked = ways
    batch, kept, summed = in_order(axes, "b"), in_order(axes, "l"), [a for a in axes if a.role == "k"]
    rows, tokens, terms = product(batch), product(kept), product(summed)
    lanes = 64 // kind_item
    tile = (TILE if out_code < 0 else GRADIENT_TILE) // kind_item
    pieces = -(-terms // tile) if terms > tile else 1
    block_tokens = max(1, tile // terms)
    if block_tokens > lanes:
        block_tokens -= block_tokens % lanes
    block_tokens = min(block_tokens, tokens)
    blocks = tokens * pieces if pieces > 1 else -(-tokens // block_tokens)
    # A token's pieces stay in one part.
    part_blocks = -(-PART_BLOCKS // pieces) * pieces
    row_bytes = tokens * terms * item
    table = np.zeros(fields.ROWS_AXES + fields.ROW_AXIS * (len(batch) + len(kept) + len(summed)), np.int64)
    table[fields.ROWS] = rows
    table[fields.TOKENS] = tokens
    table[fields.TERMS] = terms
    table[fields.BLOCK_TOKENS] = block_tokens
    table[fields.PIECES] = pieces
    table[fields.PIECE_TERMS] = tile
    table[fields.BLOCKS] = blocks
    table[fields.PART_BLOCKS] = part_blocks
    table[fields.PARTS] = -(-blocks // part_blocks)
    table[fields.SUMS_IN_RESULT] = tokens > fields.SUMS_TOKENS
    table[fields.ROWS_A_TASK] = max(1, TASK // row_bytes)
    # Their tokens, filled up to a vector, fit the area that exponentials are spread to.
    tile_rows = min(AREA // (8 * terms) // 8 * 8 // tokens, fields.TILE_ROWS_MOST)
    table[fields.TILE_ROWS] = tile_rows if terms <= fields.SHORT and tile_rows > 1 else 0
    table[fields.GATHERED] = gathered
    table[fields.WHOLE] = in_one_piece(axes, item)
    table[fields.MASKED], table[fields.MASK_STEP] = _mask_way(axes) if masked else (fields.NO_MASK, 0)
    table[fields.KIND] = code
    table[fields.ITEM] = item
    if out_code >= 0:
        out_item = int(KINDS[out_code][1])
        row = [axis for axis in axes if axis.role != "b"]
        table[fields.OUT_WHOLE] = in_one_piece(axes, item) and steady(
            [(a.size, a.out) for a in row], out_item
        )
        table[fields.OUT_KIND] = out_code
        table[fields.OUT_ITEM] = out_item
    table[fields.ROWS_BATCH] = len(batch)
    table[fields.ROWS_KEPT] = len(kept)
    table[fields.ROWS_SUMMED] = len(summed)
    entries = [(axis.size, axis.pitch, axis.mask, axis.out) for axis in batch + kept + summed]
    table[fields.ROWS_AXES :] = [number for entry in entries for number in entry]
    tasks = -(-rows // int(table[fields.ROWS_A_TASK]))
    return table, tasks, rows * int(table[fields.PARTS])


def _mask_way(axes: list[Axis]) -> tuple[int, int]:
    """Give how a row's mask lies, and the bytes from one token's to the next."""
    row = [axis for axis in axes if axis.role != "b"]
    if steady([(axis.size, axis.mask) for axis in row], 1):
        return fields.BESIDE, 0
    kept = [axis for axis in row if axis.role == "l"]
    if len(kept) <= 1 and not any(axis.mask for axis in row if axis.role == "k"):
        return fields.BY_TOKEN, kept[0].mask if kept else 0
    return fields.ANYHOW, 0


def rows_space(table: npt.NDArray[np.int64], lanes: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Give the workspace, shared and of a thread, for whole rows and for shared parts of rows."""
    room = SCRATCH_BYTES + TILE
    # Sums of float64, and what they lost.
    each = 16 if lanes == 8 else 8
    block = each * (int(table[fields.BLOCK_TOKENS]) + lanes)
    row = each * (int(table[fields.TOKENS]) + lanes)
    notes = fields.NOTE * int(table[fields.BLOCKS])
    in_result = bool(table[fields.SUMS_IN_RESULT])
    whole = (0, notes + (block if in_result else row) + room)
    shared = int(table[fields.ROWS]) * (
        fields.NOTE * int(table[fields.PARTS]) + notes + (0 if in_result else row)
    )
    return whole, (shared, (block if in_result else 0) + room)
