"""Where a plan's integers lie in the one array that kernels get.

The kernels read them by these names; plan.py writes them by the same.
"""

# Rows taken token by token (cpu/rows.py).
(
    ROWS,  # batch rows
    ROW_PITCH,  # bytes from one row to the next
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
    TILE_BYTES,  # of a gathered block; 0 where logits are read in place
) = range(13)
ROWS_FIELDS = 13

# Axes of any order, innermost contiguous (cpu/nest.py).
