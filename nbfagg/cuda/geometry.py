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
    LIMITED,  # 1: rows have lengths
    ACROSS,  # 1: neighbouring threads take neighbouring cells, not terms
    LOG,  # 1: logarithms are wanted
    WANT_LSE,  # 1: so is the log-sum-exp
    PIECE_CELLS,  # cells of a row that a block of `totals` takes
    PIECE_TOKENS,  # tokens of a row that a block of `weights` takes
    PART_BLOCKS,  # blocks of all cells of one split, in a walk
    BEGIN,  # where the walk begins, in numbers from the first: of the logits
    MASK_BEGIN,  # of the mask
    OUT_BEGIN,  # of the gradient
    ALL_TOKENS,  # of all packed rows together
    DOTS,  # where a gradient's sums over rows begin in the workspace, two numbers for each piece
    DOT_TOKENS,  # tokens of such a piece
    PACKED,  # 1: of a gradient, rows are packed, and the workspace has a factor for each token instead
    OUT_ROW_PITCH,  # of the gradient, where tokens lie side by side
    OF_LSE,  # 1: a gradient with respect to lse comes with that of alpha
    ROW_ROOM,  # numbers of dynamic shared memory for a row that lies there
    WRITERS,  # threads that write such a row's tokens, a power of two
    FIRST,  # row with which a launch begins, where rows have several
    SHARE,  # numbers of a packed row for a thread, at most, before the row gets more threads
    LISTED,  # pieces of packed rows for which the list has room
    LIST_BLOCKS,  # blocks that share what is on it
) = range(38)
HEAD = 38
# Then three tables of AXES axes each: of cells (batch and kept, in memory's order), of terms. An
# axis is its size, its pitch in the logits, in the mask and in the gradient, and its step in cells.
AXES = 4
FIELDS = 5
CELL_AXES = HEAD
TERM_AXES = HEAD + 2 * AXES * FIELDS
LENGTH = TERM_AXES + AXES * FIELDS
