"""Kernels for arrays of any strides, masked or not: the states of all cells, and the gradient.

Cells (batch rows and tokens, and chunks of a token's terms) and terms are walked
in memory's order, whichever axis is kept. LANES threads share a cell; where the
innermost axis is a batch or a kept one, neighbouring threads take neighbouring
cells instead (ACROSS), so that a warp's loads lie side by side either way. Lanes
meet in shared memory, in the order of their numbers.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nbfagg.cuda import absorb, formulas, geometry
from nbfagg.cuda.kinds import Kind


def make_places(P: SimpleNamespace) -> SimpleNamespace:
    """Give the device functions that find cells and terms in memory."""
    jit, divide, integer = P.jit, P.divide, P.integer
    CELL_AXES, TERM_AXES, FIELDS = geometry.CELL_AXES, geometry.TERM_AXES, geometry.FIELDS
    TOKENS, LIMITED = geometry.TOKENS, geometry.LIMITED
    BEGIN, MASK_BEGIN, OUT_BEGIN = geometry.BEGIN, geometry.MASK_BEGIN, geometry.OUT_BEGIN
    NARROW = 1 << 32

    @jit
    def over(x, y):
        """Give x // y; few numbers need Numba's own."""
        if x < y:
            return 0
        return divide(x, y) if x < NARROW else x // y

    def axis(base, over):
        @jit
        def step(left, place, mask, out, cell, geo):
            """Split an axis off an index: what is left, and how far along it everything lies."""
            size = geo[base]
            if size == 1:
                return left, place, mask, out, cell
            rest = over(left, size)
            i = left - rest * size
            return (
                rest,
                place + i * geo[base + 1],
                mask + i * geo[base + 2],
                out + i * geo[base + 3],
                cell + i * geo[base + 4],
            )

        return step

    a0, a1, a2, a3, a4, a5, a6, a7 = (axis(CELL_AXES + FIELDS * i, over) for i in range(8))
    # The plan sees to it that these indices are narrow.
    t1, t2, t3 = (axis(TERM_AXES + FIELDS * i, divide) for i in range(1, 4))
    SIZE, PITCH, MASK_PITCH, OUT_PITCH = (TERM_AXES + i for i in range(4))

    @jit
    def find(index, limits, geo):
        """Give where a cell begins in logits, mask and gradient, its place in the result, and if it is in."""
        left, place, mask, out, cell = a0(index, geo[BEGIN], geo[MASK_BEGIN], geo[OUT_BEGIN], 0, geo)
        left, place, mask, out, cell = a1(left, place, mask, out, cell, geo)
        left, place, mask, out, cell = a2(left, place, mask, out, cell, geo)
        left, place, mask, out, cell = a3(left, place, mask, out, cell, geo)
        left, place, mask, out, cell = a4(left, place, mask, out, cell, geo)
        left, place, mask, out, cell = a5(left, place, mask, out, cell, geo)
        left, place, mask, out, cell = a6(left, place, mask, out, cell, geo)
        left, place, mask, out, cell = a7(left, place, mask, out, cell, geo)
        counts = True
        if geo[LIMITED] == 1:
            row = over(cell, geo[TOKENS])
            counts = cell - row * geo[TOKENS] < integer(limits, row)
        return place, mask, out, cell, counts

    @jit
    def outer(o, geo):
        """Give how far the outer axes of the terms take logits, mask and gradient at their o-th step."""
        left, place, mask, out, _ = t1(o, 0, 0, 0, 0, geo)
        left, place, mask, out, _ = t2(left, place, mask, out, 0, geo)
        left, place, mask, out, _ = t3(left, place, mask, out, 0, geo)
        return place, mask, out

    @jit
    def term_at(i, o, geo):
        """Give a term from its place on the innermost axis and the step of the others."""
        place, mask, out = outer(o, geo)
        return i, o, place + i * geo[PITCH], mask + i * geo[MASK_PITCH], out + i * geo[OUT_PITCH]

    @jit
    def begin(j, geo):
        """Give the j-th term: its place on the innermost axis, the others' step, and where it lies."""
        o = over(j, geo[SIZE])
        return term_at(j - o * geo[SIZE], o, geo)

    @jit
    def advance(term, lanes, geo):
        """Go `lanes` terms on."""
        i, o, place, mask, out = term
        i += lanes
        if i >= geo[SIZE]:
            more = 1 if geo[SIZE] > lanes else divide(i, geo[SIZE])
            return term_at(i - more * geo[SIZE], o + more, geo)
        return i, o, place + lanes * geo[PITCH], mask + lanes * geo[MASK_PITCH], out + lanes * geo[OUT_PITCH]

    @jit
    def onward(term, count, geo):
        """Go `count` terms on, which are known to be there on the innermost axis."""
        i, o, place, mask, out = term
        return (
            i + count, o, place + count * geo[PITCH], mask + count * geo[MASK_PITCH],
            out + count * geo[OUT_PITCH],
        )  # fmt: skip

    return SimpleNamespace(find=find, begin=begin, advance=advance, onward=onward)


def make_share(P: SimpleNamespace, F: SimpleNamespace, kind: Kind, masked: bool) -> SimpleNamespace:
    """Give the device functions that take in a lane's share of a cell."""
    jit, load, integer = P.jit, P.load, P.integer
    ZERO, NINF, lifted, point_for = F.ZERO, F.NINF, F.lifted, F.point_for
    few = absorb.make(P, F, kind)
    one, four = few.one, few.four
    places = make_places(P)
    begin, advance, onward = places.begin, places.advance, places.onward
    SIZE, PITCH, MASK_PITCH = (geometry.TERM_AXES + i for i in range(3))

    if masked:

        @jit
        def value(a, mask, place, hidden):
            """Read a term, or -inf where the mask leaves it out."""
            x = load(a, place)
            return x if integer(mask, hidden) else NINF
    else:

        @jit
        def value(a, mask, place, hidden):
            """Read a term."""
            return load(a, place)

    @jit
    def read(a, mask, place, hidden, step, mask_step):
        """Read four terms, each one step from the last."""
        return (
            value(a, mask, place, hidden),
            value(a, mask, place + step, hidden + mask_step),
            value(a, mask, place + 2 * step, hidden + 2 * mask_step),
            value(a, mask, place + 3 * step, hidden + 3 * mask_step),
        )

    @jit
    def share(a, mask, place, hidden, first, last, lane, lanes, law, geo):
        """Give the state of every `lanes`-th of the terms [first, last)."""
        m, s, rest = NINF, ZERO, ZERO
        point = point_for(m, law)
        j = first + lane
        term = begin(j, geo)
        step, mask_step = lanes * geo[PITCH], lanes * geo[MASK_PITCH]
        while j < last:
            left = min((last - j + lanes - 1), (geo[SIZE] - term[0] + lanes - 1))
            if left >= 16 * lanes:
                # None of sixteen is beyond the end of the innermost axis.
                p, h = place + term[2], hidden + term[3]
                v0 = read(a, mask, p, h, step, mask_step)
                p, h = p + 4 * step, h + 4 * mask_step
                v1 = read(a, mask, p, h, step, mask_step)
                p, h = p + 4 * step, h + 4 * mask_step
                v2 = read(a, mask, p, h, step, mask_step)
                p, h = p + 4 * step, h + 4 * mask_step
                v3 = read(a, mask, p, h, step, mask_step)
                m, s, rest, point = four(m, s, rest, point, v0, v1, v2, v3, law)
                term = onward(term, 15 * lanes, geo)
                j += 15 * lanes
            else:
                x0, x1, x2, x3 = value(a, mask, place + term[2], hidden + term[3]), NINF, NINF, NINF
                if j + lanes < last:
                    term = advance(term, lanes, geo)
                    j += lanes
                    x1 = value(a, mask, place + term[2], hidden + term[3])
                if j + lanes < last:
                    term = advance(term, lanes, geo)
                    j += lanes
                    x2 = value(a, mask, place + term[2], hidden + term[3])
                if j + lanes < last:
                    term = advance(term, lanes, geo)
                    j += lanes
                    x3 = value(a, mask, place + term[2], hidden + term[3])
                m, s, rest, point = one(m, s, rest, point, (x0, x1, x2, x3), law)
            term = advance(term, lanes, geo)
            j += lanes
        return m, lifted(s), lifted(rest)

    return SimpleNamespace(share=share, value=value, places=places)


def make_meeting(P: SimpleNamespace, F: SimpleNamespace) -> Any:
    """Give the device function that merges the states of a cell's lanes in shared memory."""
    jit, get, put, sync, merge = P.jit, P.get, P.put, P.sync, F.merge

    @jit
    def meet(m, s, rest, lane, lanes, team, teams, scratch, law):
        """Give a cell's state to its lane 0; every thread of the block has to come here."""
        a, b, c = scratch
        if lanes > 1:
            i = lane * teams + team
            put(a, i, m)
            put(b, i, s)
            put(c, i, rest)
            sync()
            if lane == 0:
                q = 1
                while q < lanes:
                    i = q * teams + team
                    m, s, rest = merge(m, s, rest, get(a, i), get(b, i), get(c, i), law)
                    q += 1
        return m, s, rest

    return meet


def make(P: SimpleNamespace, kind: Kind, masked: bool, block: int) -> Any:
    """Give the kernel that writes the states of all cells to the workspace."""
    F = formulas.make(P, kind)
    part = make_share(P, F, kind, masked)
    meet, share, find = make_meeting(P, F), part.share, part.places.find
    thread, number, put, divide = P.thread, P.block, P.put, P.divide
    maxima, sums, rests = (P.shared(block, kind.real) for _ in range(3))
    BLOCK = block
    ROWS, TOKENS, TERMS, SPLITS, CHUNK, LANES, SUMS, ACROSS, PART_BLOCKS = (
        geometry.ROWS, geometry.TOKENS, geometry.TERMS, geometry.SPLITS, geometry.CHUNK, geometry.LANES,
        geometry.SUMS, geometry.ACROSS, geometry.PART_BLOCKS,
    )  # fmt: skip

    def walk(a, mask, limits, work, law, geo):
        tid = thread()
        scratch = maxima(), sums(), rests()
        lanes = geo[LANES]
        teams = divide(BLOCK, lanes)
        if geo[ACROSS]:
            lane = divide(tid, teams)
            team = tid - lane * teams
        else:
            team = divide(tid, lanes)
            lane = tid - team * lanes
        split = divide(number(), geo[PART_BLOCKS])
        index = (number() - split * geo[PART_BLOCKS]) * teams + team
        live = index < geo[ROWS] * geo[TOKENS]
        place, hidden, _, cell, counts = find(index if live else 0, limits, geo)
        first = split * geo[CHUNK]
        last = min(first + geo[CHUNK], geo[TERMS]) if live and counts else 0
        m, s, rest = share(a, mask, place, hidden, first, last, lane, lanes, law, geo)
        m, s, rest = meet(m, s, rest, lane, lanes, team, teams, scratch, law)
        if live and lane == 0:
            put(work, cell * geo[SPLITS] + split, m)
            put(work, geo[SUMS] + cell * geo[SPLITS] + split, s + rest)

    return walk
