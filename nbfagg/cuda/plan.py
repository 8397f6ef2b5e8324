"""How a device array is walked: which kernels, how many blocks, what of a row falls to which thread.

What decides the order of a sum follows from one batch row's shape and layout, as
on the CPU; the number of rows decides only how many blocks there are.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from dataclasses import dataclass

from nbfagg.cuda import geometry
from nbfagg.cuda.kinds import Kind
from nbfagg.plan.axes import Axis, axes_of, c_strides, in_one_piece, in_order


@dataclass(frozen=True)
class Limits:
    """Where one way ends and another begins; tests make them small, so that small arrays go every way.

    None of these was tuned on hardware: each follows from the reason beside it.

    Attributes
    ----------
    block : int
        Threads of a block. 256 with 5 (float32), 4 (half), 2 (float64) blocks a multiprocessor keep 32 to
        80 KB of loads in flight, where the memory's latency asks for 26.
    whole_row : int
        Terms of a row up to which a block has whole rows: 64 KB of float32, 2 us for one multiprocessor;
        above it a row is shared.
    block_terms : int
        Terms of a block of whole rows, at least, if there are as many: 32 KB of float32, some ten times what
        starting a block costs.
    shared : int
        Bytes of shared memory of a block, at most: 48 KB are what a launch gets without asking. Whole rows of
        short tokens lie there.
    short : int
        Bytes of a token from which it is worth a thread's loads: 32 neighbouring threads that read 16 bytes
        each of tokens of less take part of 32-byte sectors, or a vector each and its state's cost.
    again : int
        Bytes of a token up to which a row too large for one block is read twice: its tokens' states, 8 or 16
        bytes each, written and read back, would be more.
    group : int
        Bytes of the rows between the two, if a row is no larger: 12 MB and the weights written meanwhile stay
        in an L2 of 40 (A100) or 50, and a launch of them takes longer than the host to queue it.
    groups : int
        Groups of rows at most, for a plan keeps 1 KB for each launch.
    chunk : int
        Terms of a cell, at least, where a token is split: four batches for each of 32 lanes.
    row_cells : int
        Cells of a split row, about: enough for 132 multiprocessors of 40 warps, few enough that their states
        (8 bytes for 4 KB of logits at least) do not count.
    row_blocks : int
        Blocks of a row, about, where it has more cells than that: each block that writes weights reads the
        states of them all.
    block_cells : int
        Cells whose states a block keeps in shared memory, at most: 16 KB (float64 32).
    last_tokens : int
        Tokens up to which the last block of a row writes its weights alone: 4096 tokens are 32 KB of states
        to read from L2, some 2 us for one block; another launch costs 3.
    last_cells : int
        The same of cells.
    piece : int
        Cells, and tokens, of a row that a block takes where weights have a launch of their own.
    share : int
        Numbers of a packed row of short tokens for each of its threads, at most, before it gets four times as
        many: beside 32 of them a thread's fixed cost, some 200 instructions, is a fifth, and rows that fill
        the shared memory keep all of a block's threads at work.
    blocks : int
        Blocks to have, at least, where packed rows could all be in fewer: four for each of 132
        multiprocessors.
    list_blocks : int
        Blocks that share the pieces of larger packed rows, of which the host cannot know the number. A prime:
        of long rows each second, or third, piece has work for `packed_pieces`, which is not to fall to the
        same few blocks.
    """

    block: int = 256
    whole_row: int = 16384
    block_terms: int = 8192
    shared: int = 49152
    short: int = 128
    again: int = 16
    group: int = 12 << 20
    groups: int = 256
    chunk: int = 1024
    row_cells: int = 4096
    row_blocks: int = 1024
    block_cells: int = 2048
    last_tokens: int = 4096
    last_cells: int = 16384
    piece: int = 2048
    share: int = 32
    blocks: int = 528
    list_blocks: int = 523


STANDARD = Limits()


@dataclass(frozen=True)
class Step:
    """One launch: a kernel, how many blocks, numbers of the arithmetic in shared memory, the first row."""

    kernel: str
    grid: int
    room: int
    first: int = 0


@dataclass(frozen=True, eq=False)
class Plan:
    """How an array of one shape, stride set and kind is walked; one of a kind, for `make_plan` keeps them."""

    kind: Kind
    steps: tuple[Step, ...]
    geometry: tuple[int, ...]
    space: int  # numbers of the arithmetic in the workspace
    listed: int  # integers of the list of packed rows' pieces
    rows: int
    tokens: int
    block: int
    shape: tuple[int, ...]  # of the result
    batch_shape: tuple[int, ...]
    layout: tuple[int, ...]  # axes of (batch axes, kept axes) in the result's order
    sizes: tuple[int, ...]  # of the axes as kernels write them: batch axes, then kept ones
    strides: tuple[int, ...]  # in bytes, of such a result in one piece, its axes in the result's order

    @property
    def turned(self) -> bool:
        """Whether the result's axes lie in another order than kernels write them."""
        return self.sizes != self.shape or self.layout != tuple(range(len(self.layout)))

    def __str__(self) -> str:
        """Tell which kernels an array goes through."""
        steps = ", ".join(f"{step.kernel}[{step.grid}]" for step in self.steps) or "nothing"
        return f"cuda: {self.kind} -> {self.kind.result} {self.shape}, {steps}"


def power_below(number: int) -> int:
    """Give the largest power of two that is not above a number, or 1."""
    return 1 << max(0, number.bit_length() - 1)


def lanes_for(terms: int, vector: int, most: int = 32) -> int:
    """Give how many lanes share a cell: those that leave fewest of their batches of four vectors empty."""
    vectors = -(-terms // vector)
    if vectors <= 1:
        return 1
    choices = [1 << i for i in range(most.bit_length()) if (1 << i) <= vectors]

    def taken(lanes: int) -> tuple[int, int]:
        # Vectors one by one count four times a batch's: each has a reference point of its own to find.
        full, left = divmod(vectors, 4 * lanes)
        return 4 * lanes * full + 4 * lanes * -(-left // lanes), -lanes

    return min(choices, key=taken)


def _row_steps(
    kind: Kind,
    rows: int,
    tokens: int,
    terms: int,
    limits: Limits,
    aligned: bool,
    apart: bool,
    head: list[int],
) -> tuple[tuple[Step, ...], int]:
    """Decide for tokens that lie in one piece; fill the head of the geometry.

    `apart`: each token's state is wanted, whatever row it belongs to, and nothing is finished.
    """
    block = limits.block
    row_terms = tokens * terms
    chunk, splits = _split(tokens, terms, limits, apart)
    cells = tokens * splits
    lanes = lanes_for(chunk, kind.vector, min(32, block))
    teams = block // lanes
    head[geometry.SPLITS], head[geometry.CHUNK], head[geometry.CELLS] = splits, chunk, cells
    head[geometry.LANES] = lanes
    name = "rows" if aligned else "rows_unaligned"
    if row_terms <= limits.whole_row and cells <= limits.block_cells and not apart:
        most = min(limits.block_cells // cells, block, max(1, limits.block_terms // row_terms))
        block_rows = power_below(most)
        head[geometry.BLOCK_ROWS] = block_rows
        head[geometry.ROOM] = block_rows * cells
        return (Step(name, -(-rows // block_rows), 2 * block_rows * cells),), 0
    block_cells = -(-max(teams, -(-cells // limits.row_blocks)) // teams) * teams
    block_cells = min(block_cells, max(teams, limits.block_cells // teams * teams))
    row_blocks = -(-cells // block_cells)
    head[geometry.BLOCK_CELLS], head[geometry.ROW_BLOCKS] = block_cells, row_blocks
    head[geometry.ROOM] = block_cells
    head[geometry.SUMS] = rows * cells
    head[geometry.PARTS] = 2 * rows * cells
    last = tokens <= limits.last_tokens and cells <= limits.last_cells and not apart
    head[geometry.LAST] = int(last)
    space = 2 * rows * cells + 3 * rows * row_blocks
    first = Step(name, rows * row_blocks, 2 * block_cells)
    if last or apart:
        return (first,), space
    return (first, _weights_step(rows, tokens, limits, head)), space


def _short_steps(
    kind: Kind, rows: int, tokens: int, terms: int, limits: Limits, aligned: bool, head: list[int]
) -> tuple[Step, ...]:
    """Decide for rows that are kept in shared memory, filling the geometry; none where they do not fit."""
    room = _room_of_rows(kind, limits)
    vectors = -(-tokens * terms // kind.vector)
    choices = []
    for span in (1 << i for i in range(limits.block.bit_length())):
        # Rows begin in different banks: what their first threads read at once lies side by side.
        pitch = vectors + (span - vectors) % 8 if span < 8 else vectors
        block_rows = limits.block // span
        if block_rows * pitch * kind.vector <= room:
            # At least four loads a thread where there are as many; then few idle threads, then neighbours.
            slots = span * -(-vectors // span)
            choices.append((max(0, 4 * span - max(4, vectors)), slots, -span, pitch))
    if not choices:
        return ()
    _, _, least, pitch = min(choices)
    block_rows = limits.block // -least
    head[geometry.BLOCK_ROWS], head[geometry.ROW_ROOM] = block_rows, pitch * kind.vector
    head[geometry.WRITERS] = _writers(block_rows, tokens, limits.block)
    name = "short" if aligned else "short_unaligned"
    return (Step(name, -(-rows // block_rows), block_rows * head[geometry.ROW_ROOM]),)


def _room_of_rows(kind: Kind, limits: Limits) -> int:
    """Give the numbers of rows in shared memory beside four for each thread, three for each warp."""
    return limits.shared // (8 if kind.wide else 4) - 4 * limits.block - 3 * max(1, limits.block // 32)


def _short_packed_steps(
    kind: Kind, rows: int, tokens: int, terms: int, limits: Limits, aligned: bool, head: list[int]
) -> tuple[tuple[Step, ...], int]:
    """Decide for packed rows of short tokens, of which only the number is known."""
    # The list of larger rows lies beside them, and what aligns it.
    own = (8 + 3 * limits.block) * 4 // (8 if kind.wide else 4)
    room = (_room_of_rows(kind, limits) - own) // kind.vector * kind.vector
    head[geometry.ROWS], head[geometry.ROW_ROOM] = rows, room
    head[geometry.SHARE] = limits.share
    # As many as there is room for if all are as long; others take the block two turns.
    together = room * rows // (tokens * terms + rows * kind.vector)
    block_rows = max(1, min(together, limits.block, -(-rows // limits.blocks)))
    head[geometry.BLOCK_ROWS] = block_rows
    end = "" if aligned else "_unaligned"
    steps = (Step(f"short_packed{end}", -(-rows // block_rows), room),)
    if tokens * terms <= room - kind.vector:
        return steps, 0
    # No row on the list is less than a piece, and so none has more than twice the pieces that it fills.
    most = (room - kind.vector) // (terms * kind.vector) * kind.vector
    tokens_of = max(kind.vector, min(_piece_room(kind, terms, limits), most))
    listed = 2 * (tokens // tokens_of)
    head[geometry.PIECE_TOKENS], head[geometry.ROW_BLOCKS] = tokens_of, limits.row_blocks
    head[geometry.LISTED], head[geometry.LIST_BLOCKS] = listed, min(listed, limits.list_blocks)
    blocks = head[geometry.LIST_BLOCKS]
    pieces = (
        Step(f"packed_pieces{end}", blocks, 0),
        Step(f"short_packed_pieces{end}", blocks, tokens_of * terms),
    )
    return (*steps, *pieces), 3 * listed


def _piece_room(kind: Kind, terms: int, limits: Limits) -> int:
    """Give how many short tokens of a row a block takes: vectors, in two thirds of the shared memory."""
    # The kernels' own areas have room beside them.
    room = 2 * limits.shared // (3 * (8 if kind.wide else 4))
    return max(kind.vector, room // (terms * kind.vector) * kind.vector)


def _short_gradient_step(
    kind: Kind, rows: int, tokens: int, terms: int, limits: Limits, aligned: bool, head: list[int]
) -> tuple[Step, ...]:
    """Decide which tokens a block takes: those of `_short_steps`, or a piece of a larger row."""
    head[geometry.SPLITS] = 1
    if found := _short_steps(kind, rows, tokens, terms, limits, aligned, head):
        return found
    tokens_of = _piece_room(kind, terms, limits)
    head[geometry.PIECE_TOKENS], head[geometry.WRITERS] = tokens_of, limits.block
    name = "short" if aligned else "short_unaligned"
    return (Step(name, rows * -(-tokens // tokens_of), tokens_of * terms),)


def _piece_steps(
    kind: Kind, rows: int, tokens: int, terms: int, limits: Limits, aligned: bool, head: list[int]
) -> tuple[tuple[Step, ...], int]:
    """Decide for large rows of tiny tokens, which are read twice; fill the geometry."""
    vector = kind.vector
    tokens_of = _piece_room(kind, terms, limits)
    cells = max(tokens_of, -(-tokens // (limits.row_blocks * vector)) * vector)
    blocks, pieces = -(-tokens // cells), -(-tokens // tokens_of)
    head[geometry.PIECE_TOKENS], head[geometry.BLOCK_CELLS] = tokens_of, cells
    head[geometry.ROW_BLOCKS], head[geometry.WRITERS] = blocks, limits.block
    group = max(1, limits.group // (tokens * terms * kind.item), -(-rows // limits.groups))
    end = "" if aligned else "_unaligned"
    steps: list[Step] = []
    for first in range(0, rows, group):
        count = min(group, rows - first)
        steps.append(Step(f"pieces{end}", count * blocks, 0, first))
        steps.append(Step(f"short_pieces{end}", count * pieces, tokens_of * terms, first))
    return tuple(steps), 3 * rows * blocks


def _writers(block_rows: int, tokens: int, block: int) -> int:
    """Give how many threads write a row's tokens: eight or more side by side, in the fewest turns."""

    def turns(writers: int) -> tuple[int, int]:
        return -(-block_rows // (block // writers)) * -(-tokens // writers), -writers

    least = min(8, 1 << (tokens - 1).bit_length())
    return min((1 << i for i in range(block.bit_length()) if (1 << i) >= least), key=turns)


def _weights_step(rows: int, tokens: int, limits: Limits, head: list[int]) -> Step:
    head[geometry.PIECE_TOKENS] = min(tokens, limits.piece)
    return Step("weights", rows * -(-tokens // head[geometry.PIECE_TOKENS]), 0)


def _split(tokens: int, terms: int, limits: Limits, apart: bool) -> tuple[int, int]:
    """Give the terms of a cell, and the cells of a token; a packed row's length is not known."""
    row_terms = terms * (1 if apart else tokens)
    if row_terms <= limits.whole_row or terms <= limits.chunk:
        return terms, 1
    chunk = max(limits.chunk, 1 << (row_terms // limits.row_cells).bit_length())
    return min(chunk, terms), -(-terms // chunk)


def _walk_steps(
    rows: int, tokens: int, terms: int, axes: list[Axis], step: dict[int, int], kind: Kind, masked: bool,
    apart: bool, limits: Limits, head: list[int],
) -> tuple[tuple[Step, ...], int]:  # fmt: skip
    """Decide for any strides; fill the geometry."""
    cell_axes = [axis for axis in reversed(axes) if axis.role != "k"]
    term_axes = [axis for axis in reversed(axes) if axis.role == "k"] if terms else []
    for base, few, most, of in (
        (geometry.CELL_AXES, cell_axes, 2 * geometry.AXES, "batch and kept"),
        (geometry.TERM_AXES, term_axes, geometry.AXES, "summed"),
    ):
        if len(few) > most:
            raise NotImplementedError(
                f"nbfagg: a has {len(few)} {of} axes, no two of which can be walked as one; a GPU takes up "
                f"to {most}; want a contiguous copy"
            )
        for i in range(most):
            entry = (1, 0, 0, 0, 0)
            if i < len(few):
                axis = few[i]
                pitch, out = axis.pitch // kind.item, axis.out // int(kind.result[1])
                entry = (axis.size, pitch, axis.mask, out, step.get(axis.order, 0))
            head[base + geometry.FIELDS * i : base + geometry.FIELDS * (i + 1)] = entry
    block = limits.block
    inner = [axis for axis in axes if axis.pitch]
    across = bool(inner) and inner[-1].role != "k"
    # A warp's cells lie side by side; or its lanes have four terms each, at least.
    most = max(1, block // 32) if across else 32
    lanes = min(most, power_below(max(1, terms // (16 if across else 4))))
    teams = block // lanes
    chunk, splits = _split(tokens, terms, limits, apart)
    cells = tokens * splits
    head[geometry.SPLITS], head[geometry.CHUNK], head[geometry.CELLS] = splits, chunk, cells
    head[geometry.LANES], head[geometry.ACROSS] = lanes, int(across)
    head[geometry.PART_BLOCKS] = -(-rows * tokens // teams)
    head[geometry.SUMS], head[geometry.PARTS] = rows * cells, 2 * rows * cells
    space = 2 * rows * cells
    steps = (Step("walk_masked" if masked else "walk", head[geometry.PART_BLOCKS] * splits, 0),)
    return steps, space


def _finish_steps(rows: int, tokens: int, limits: Limits, head: list[int]) -> tuple[tuple[Step, ...], int]:
    """Decide how rows are finished whose cells' states lie in the workspace."""
    cells = head[geometry.CELLS]
    if cells <= limits.piece:
        head[geometry.BLOCK_ROWS] = power_below(min(limits.block, limits.piece // max(1, cells)))
        return (Step("small", -(-rows // head[geometry.BLOCK_ROWS]), 0),), 0
    head[geometry.PIECE_CELLS] = limits.piece
    head[geometry.ROW_BLOCKS] = -(-cells // limits.piece)
    totals = Step("totals", rows * head[geometry.ROW_BLOCKS], 0)
    return (totals, _weights_step(rows, tokens, limits, head)), 3 * rows * head[geometry.ROW_BLOCKS]


def _gradient_steps(
    rows: int, tokens: int, packed_rows: int, out_row: int, steps: tuple[Step, ...], space: int,
    limits: Limits, head: list[int],
) -> tuple[tuple[Step, ...], int]:  # fmt: skip
    """Decide for a gradient, from the steps of the forward pass: these come first where tokens are split."""
    if not steps:
        return (), 0
    forward = steps[0]
    head[geometry.LAST] = 0
    head[geometry.DOTS] = space
    head[geometry.DOT_TOKENS] = 4 * limits.piece
    split = (forward,) if head[geometry.SPLITS] > 1 else ()
    before: tuple[Step, ...]
    if packed_rows >= 0:
        head[geometry.PACKED] = 1
        before = (Step("packed_dots", packed_rows, 0),)
        space += tokens
    else:
        pieces = -(-tokens // head[geometry.DOT_TOKENS])
        before = (Step("dots", rows * pieces, 0),)
        if pieces > 1:
            before = (*before, Step("dot_sums", rows, 0))
        space += 2 * rows * pieces
    name, _, rest = forward.kernel.partition("_")
    grid, room = forward.grid, 0
    head[geometry.OUT_ROW_PITCH] = out_row
    if name == "rows":
        teams = limits.block // head[geometry.LANES]
        grid = rows * -(-tokens * head[geometry.SPLITS] // teams)
    elif name == "short":
        room = forward.room
    kernel = f"{name}_gradient" + (f"_{rest}" if rest else "")
    return (*split, *before, Step(kernel, grid, room)), space


@functools.lru_cache(maxsize=512)
def make_plan(
    kind: Kind,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    aligned: bool,
    batch: tuple[int, ...],
    keep: tuple[int, ...],
    log: bool,
    mask: tuple[int, ...] | None = None,
    limited: bool = False,
    packed_rows: int = -1,
    out: tuple[int, ...] | None = None,
    limits: Limits | None = None,
    states: bool = False,
) -> Plan:
    """Plan the walk over an array.

    Strides are in bytes, `aligned` says that the array begins at a multiple of 16.

    `mask` and `out` are the strides of a mask and a gradient, `limited` says that rows have lengths,
    `packed_rows` that there are so many packed ones: batch and kept axes are then () and (0,).
    `states`: no more than the states of all cells is wanted, in the workspace.
    """
    packed = packed_rows >= 0
    apart = packed or states
    limits = limits or STANDARD
    both = batch + keep
    axes, begin = axes_of(shape, strides, batch, keep, mask, out)
    rows = math.prod(shape[i] for i in batch)
    tokens = math.prod(shape[i] for i in keep)
    terms = math.prod(shape) // (rows * tokens) if rows * tokens else 0
    head = [0] * geometry.LENGTH
    head[geometry.ROWS], head[geometry.TOKENS], head[geometry.TERMS] = rows, tokens, terms
    head[geometry.LOG], head[geometry.LIMITED] = int(log), int(limited)
    steps: tuple[Step, ...] = ()
    space = 0
    item = kind.item
    batches = in_order(axes, "b")
    in_piece = in_one_piece(axes, item) and mask is None and kind.storage[0] in "fb"
    if out is not None:
        row = [dataclasses.replace(axis, pitch=axis.out) for axis in axes]
        in_piece = in_piece and in_one_piece(row, item)
    if rows and tokens and terms and in_piece and len(batches) <= 1:
        pitch = batches[0].pitch if batches else 0
        head[geometry.ROW_PITCH], head[geometry.TOKEN_PITCH] = pitch // item, terms
        # Where an axis runs backwards the walk begins elsewhere than the array does.
        lines = aligned and pitch % 16 == begin[0] % 16 == 0
        if out is not None:
            lines = lines and begin[2] % 16 == 0 and not (batches and batches[0].out % 16)
        if out is not None and terms * item < limits.short:
            steps = _short_gradient_step(kind, rows, tokens, terms, limits, lines, head)
        elif out is None and packed and terms * item < limits.short:
            vectors = lines and terms * item % 16 == 0
            steps, space = _short_packed_steps(kind, packed_rows, tokens, terms, limits, vectors, head)
        elif out is None and not apart and terms * item < limits.short:
            steps = _short_steps(kind, rows, tokens, terms, limits, lines, head)
            if not steps and terms * item <= limits.again:
                steps, space = _piece_steps(kind, rows, tokens, terms, limits, lines, head)
        if not steps:
            vectors = lines and terms * item % 16 == 0
            steps, space = _row_steps(kind, rows, tokens, terms, limits, vectors, apart, head)
    elif rows and tokens:
        order = [*both]
        step = {axis: math.prod(shape[i] for i in order[n + 1 :]) for n, axis in enumerate(order)}
        steps, space = _walk_steps(
            rows, tokens, terms, axes, step, kind, mask is not None, apart, limits, head
        )
    head[geometry.ALL_TOKENS] = tokens
    if out is not None:
        out_row = batches[0].out // int(kind.result[1]) if len(batches) == 1 else 0
        steps, space = _gradient_steps(rows, tokens, packed_rows, out_row, steps, space, limits, head)
    elif packed and not (steps and steps[0].kernel.startswith("short")):
        steps = (*steps, Step("packed", packed_rows, 0))
    elif not states and rows and (not steps or steps[0].kernel.startswith("walk")):
        more, further = _finish_steps(rows, tokens, limits, head)
        steps, space = steps + more, space + further
    head[geometry.BEGIN], head[geometry.MASK_BEGIN], head[geometry.OUT_BEGIN] = (
        begin[0] // item, begin[1], begin[2] // int(kind.result[1]),
    )  # fmt: skip
    # Of packed rows there may be none.
    steps = tuple(step for step in steps if step.grid)
    if any(step.grid >= 1 << 31 for step in steps) or packed_rows >= 1 << 31:
        raise NotImplementedError(
            f"nbfagg: a has shape {shape}, {max(rows, packed_rows)} batch rows; want parts of fewer than "
            "2**31 blocks each"
        )
    # Tokens are divided into pieces in 32 bits, but of packed rows on the way forward.
    if tokens > (1 << 32) - (1 << 16) and not (packed and out is None):
        raise NotImplementedError(
            f"nbfagg: a has shape {shape}, rows of {tokens} tokens; want fewer than 2**32, or parts' states"
        )
    sizes = tuple(shape[i] for i in both)
    written = c_strides(sizes, int(kind.result[1]))
    layout = tuple(both.index(i) for i in sorted(both))
    return Plan(
        sizes=sizes,
        strides=tuple(written[i] for i in layout),
        kind=kind,
        steps=steps,
        geometry=tuple(head),
        space=space,
        listed=1 + 2 * head[geometry.LISTED] if head[geometry.LISTED] else 0,
        rows=rows,
        tokens=tokens,
        block=limits.block,
        shape=tuple(shape[i] for i in sorted(both)),
        batch_shape=tuple(shape[i] for i in batch),
        layout=layout,
    )
