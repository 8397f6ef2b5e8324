"""Where a plan's integers lie in the one array that kernels get.

The kernels read them by these names; nbfagg/plan writes them by the same.
"""

# Rows taken token by token (cpu/rows.py).
(
    ROWS,  # batch rows
    TOKENS,  # in a row
    TERMS,  # of a token
    BLOCK_TOKENS,  # whole tokens in a block; 1 where a token has pieces
    PIECES,  # of a token: more than 1 where it is longer than a tile
    PIECE_TERMS,  # terms of a piece
    BLOCKS,  # in a row
    PART_BLOCKS,  # blocks in a part
    PARTS,  # in a row
    SUMS_IN_RESULT,  # 1: a row's sums wait in the result, rounded; 0: in the workspace
    ROWS_A_TASK,  # where a thread has whole rows
    TILE_ROWS,  # rows so small that several make a tile; 0 where they are taken one by one
    GATHERED,  # 1: logits are brought together in a tile; 0: they are read in place
    WHOLE,  # 1: a row's logits lie in one piece
    MASKED,  # how the mask of a row lies: a number below
    MASK_STEP,  # bytes from one token's mask to the next, where it is BY_TOKEN
    KIND,  # of the numbers in memory, where they are gathered: KINDS
    ITEM,  # bytes of such a number
    OUT_WHOLE,  # of a gradient: 1 if a row of it lies in one piece
    OUT_KIND,  # its numbers: KINDS
    OUT_ITEM,  # bytes of such a number
    ROWS_BATCH,  # axes in the table of the batch, from ROWS_AXES on
    ROWS_KEPT,  # axes in the table of the tokens, next
    ROWS_SUMMED,  # axes in the table of the terms, last
) = range(24)
ROWS_AXES = 24
# An axis is four integers: its size, and its pitch in bytes in the logits, in
# their mask, in the gradient.
ROW_AXIS = 4
# Of a mask: none, beside the logits number by number, the same for all terms of a token, any other.
NO_MASK, BESIDE, BY_TOKEN, ANYHOW = range(4)
# What a gather reads: NumPy's type codes, and bfloat16; a swapped one is SWAPPED further on.
KINDS = ("f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "b2")
SWAPPED = len(KINDS)
SINGLE, DOUBLE, HALF, BRAIN = (KINDS.index(name) for name in ("f4", "f8", "f2", "b2"))

# Axes of any order, innermost contiguous (cpu/nest.py).
# A head, then three tables of axes from AXES on: those that tell tasks apart,
# those that a task walks, and those of the result (batch, then kept).
(
    COLUMNS,  # 1: lanes are batch rows or tokens; 0: lanes are the terms of a contiguous run
    WIDTH,  # columns, or terms of a run
    APART,  # bytes from one column to the next
    STEPS,  # of the summed axis that columns are walked down; 1 for runs
    STEP_PITCH,  # bytes from one such step to the next
    RUN_TOKENS,  # runs: tokens that lie side by side and share a reference point
    AHEAD,  # bytes to prefetch ahead
    CELLS,  # (batch row, token) pairs, padded
    COPIES,  # of all cells' states, where a summed axis is split over tasks
    RESULT_ROWS,  # batch rows
    RESULT_TOKENS,  # tokens of a row
    CHUNK,  # steps of the last task axis that make a task
    CHUNK_TOTAL,  # steps of that axis in all
    CHUNK_OF,  # what is cut in chunks: 0 nothing, 1 the walked axis of negative size, 2 the columns
    TASK_AXES,
    WALK_AXES,
    BATCH_AXES,
    KEPT_AXES,
) = range(18)
AXES = 18
# An axis is four integers: its size, its pitch in bytes, its step in cells, and
# 1 if it is summed over (its step is then 0, or that between copies).
AXIS_FIELDS = 4

# What all tasks of a call share (cpu/tasks.py): addresses and numbers in one block, 8 bytes each.
(
    PLACE,  # address of the logits, where the walk begins
    MASK,  # of their mask, or 0
    LENGTHS,  # of the rows' lengths, or 0
    APART_LSE,  # 1: lse receives a row's maximum, total, and what that lost
    TABLE,  # address of the plan's table
    TABLE_SIZE,  # its integers
    SCALE,  # float64
    LOG,  # 1: logarithms are wanted
    OUT,  # address of the result
    LSE,  # of the log-sum-exp, or 0
    SHARED,  # of the workspace that all threads share
    OFFSETS,  # packed rows: address of their offsets
    PITCH,  # bytes from one token to the next
    OUT_PITCH,  # the same of the result or the gradient
    MOST,  # tokens of a row that is taken whole
    CUTS,  # address of each task's first row
    ROW_TASK,  # of the function that takes one of them
) = range(17)
GIVEN = 17  # a gradient's: addresses of the gradient of alpha, of alpha, of the gradient of lse or 0
LAW = 20  # scalar.Law, five float64
ARGUMENTS = 25
# As Python writes it.
ARGUMENTS_FORMAT = "=6qd10q3q5d"

# Up to this many terms a token's exponentials go through a scratch area and are
# summed for a vector of tokens at once; above it each token sums its own vectors.
SHORT = 64
# A tile: a block of whole tokens, or a piece of one; with its scratch it stays in
# 32 KiB of L1. 16 KiB were as fast as 4 and faster than 64, within noise.
TILE = 16 * 1024
# A tile of the gradient, which has as much beside it for exponentials and for factors.
GRADIENT_TILE = 8 * 1024
GRADIENT_ROOM = GRADIENT_TILE + 2 * 64
# Up to so many tokens a row's sums wait as float64 in a workspace (512 KiB, half
# of a usual L2); above it they wait in the result, at the cost of one more
# rounding, since reading the logits twice moves more bytes from K = 3 on.
SUMS_TOKENS = 1 << 16
# Steps that columns are walked down at a time. The same for every shape, since a
# cell's bits depend on it. 32 are 3 % faster in cache, and up to 1.6 times as slow out of
# it: lines a power of two apart then meet in too few sets of L1.
COLUMN_STEPS = 16
# Exponentials that are spread out before they are summed in groups: 1024 of them,
# at least a vector of tokens of SHORT terms each.
AREA = 8 * 1024
# Tiny rows of a tile, at most: each has two numbers in what its sums leave of TILE.
TILE_ROWS_MOST = 256
# The scratch: two areas with a spare vector each, sixteen vectors for sums
# crosswise, and, from LOWS on, what each of a tile's float64 sums lost.
LOWS = 2 * (AREA + 64) + 16 * 64
SCRATCH_BYTES = LOWS + TILE + 2 * 64
# Where a tile of tiny rows is brought together, beyond what their sums lost.
STAGE = LOWS + AREA + 2 * 64
# Bytes of a note on a block or a part of a row: its maximum, its total, what that
# lost, its minimum.
NOTE = 32

# The heads by name, to print a plan.
ROW_NAMES = (
    *("rows", "tokens", "terms", "block_tokens", "pieces", "piece_terms", "blocks", "part_blocks", "parts"),
    *("sums_in_result", "rows_a_task", "tile_rows", "gathered", "whole", "masked", "mask_step", "kind"),
    *("item", "out_whole", "out_kind", "out_item", "rows_batch", "rows_kept", "rows_summed"),
)
NEST_NAMES = (
    *("columns", "width", "apart", "steps", "step_pitch", "run_tokens", "ahead", "cells", "copies"),
    *("result_rows", "result_tokens", "chunk", "chunk_total", "chunk_of"),
    *("task_axes", "walk_axes", "batch_axes", "kept_axes"),
)
