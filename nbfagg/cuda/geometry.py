"""Where a launch's integers lie in the tuple that kernels get; plan.py writes them by the same names."""

(
    ROWS,  # batch rows
    TOKENS,  # of a row
    TERMS,  # of a token
    SPLITS,  # cells of a token, each a chunk of its terms
    CHUNK,  # terms of a cell; of a token's last one, what is left
    CELLS,  # of a row: TOKENS * SPLITS
    LANES,  # threads that share a cell, a power of two
    ROW_PITCH,  # numbers from one row to the next, where tokens lie side by side
    TOKEN_PITCH,
    BLOCK_ROWS,  # whole rows of a block, a power of two; 0 where a row has several blocks
    BLOCK_CELLS,  # cells of a block, of one row
    ROW_BLOCKS,  # blocks of a row
    LAST,  # 1: the last block of a row to finish writes its weights
    ROOM,  # where sums begin in dynamic shared memory, behind as many maxima
    SUMS,  # where the sums of all cells begin in the workspace, behind their maxima
    PARTS,  # where the maxima of a row's blocks begin, then sums, then what these lost
    LIMITED,  # 1: rows have lengths; 2: rows are packed, and have offsets
    MASKED,  # 1: there is a mask
    ACROSS,  # 1: neighbouring threads take neighbouring cells, not terms
    LOG,  # 1: logarithms are wanted
    WANT_LSE,  # 1: so is the log-sum-exp
    PIECE_CELLS,  # cells of a row that a block of `totals` takes
    PIECE_TOKENS,  # tokens of a row that a block of `weights` takes
    KEPT_FROM,  # first axis of the tokens in memory's order
    ALL_TOKENS,  # of all packed rows together
    OF_LSE,  # 1: a gradient with respect to lse comes with that of alpha
) = range(26)
HEAD = 26
# Then three tables of AXES axes each: of cells (batch and kept, in memory's order), of terms. An
# axis is its size, its pitch in the logits, in the mask and in the gradient, and its step in cells.
AXES = 4
FIELDS = 5
CELL_AXES = HEAD
TERM_AXES = HEAD + 2 * AXES * FIELDS
LENGTH = TERM_AXES + AXES * FIELDS
