"""The gradient: each logit is read, and its place written, once (twice where a token is split into cells).

With p = exp(scale*a - lse), alpha the weight of a token, e its exponentials and S
their sum, p = alpha * e / S: normalised by alpha, which is more exact than by lse. So

    grad_a = scale * e/S * alpha * (g - t)            of alpha,      t = sum(g * alpha) - g_lse
    grad_a = scale * e/S * (g - alpha * t)            of log alpha,  t = sum(g) - g_lse

t is taken first, by `dots` (and `dot_sums` over the pieces of a long row). Then
each cell's lanes take its state as in the forward pass and go over it again, from
the cache; the states of a split token come from the forward kernels.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nbfagg.cuda import absorb, finish, formulas, geometry, walk
from nbfagg.cuda.kinds import Kind


def _make_sum(P: SimpleNamespace, F: SimpleNamespace, block: int) -> Any:
    """Give the device function that adds up what each thread of a block has."""
    jit, get, put, sync, add_exactly = P.jit, P.get, P.put, P.sync, F.add_exactly
    HALF = block // 2

    @jit
    def add_up(s, rest, tid, scratch):
        """Give the sum to thread 0; every thread of the block has to come here."""
        a, b, _ = scratch
        put(a, tid, s)
        put(b, tid, rest)
        sync()
        d = HALF
        while d > 0:
            if tid < d:
                s, lost = add_exactly(s, get(a, tid + d))
                rest = rest + get(b, tid + d) + lost
                put(a, tid, s)
                put(b, tid, rest)
            sync()
            d >>= 1
        return s, rest

    return add_up


def make_dots(P: SimpleNamespace, kind: Kind, block: int) -> Any:
    """Give the kernel that sums g * alpha (log: g) over a piece of a row."""
    F = formulas.make(P, kind)
    add_up, add_exactly = _make_sum(P, F, block), F.add_exactly
    thread, number, get, put, divide = P.thread, P.block, P.get, P.put, P.divide
    load, fma = P.load_result, P.fma
    ZERO, NINF = F.ZERO, F.NINF
    maxima, sums, rests = (P.shared(block, kind.real) for _ in range(3))
    BLOCK = block
    TOKENS, LOG, OF_LSE, DOT_TOKENS, DOTS = (
        geometry.TOKENS, geometry.LOG, geometry.OF_LSE, geometry.DOT_TOKENS, geometry.DOTS,
    )  # fmt: skip

    def dots(grad, grad_lse, alpha, work, geo):
        tid = thread()
        scratch = maxima(), sums(), rests()
        pieces = divide(geo[TOKENS] + geo[DOT_TOKENS] - 1, geo[DOT_TOKENS])
        row = divide(number(), pieces)
        piece = number() - row * pieces
        s, rest = ZERO, ZERO
        token = piece * geo[DOT_TOKENS] + tid
        last = min((piece + 1) * geo[DOT_TOKENS], geo[TOKENS])
        while token < last:
            g, w = load(grad, row * geo[TOKENS] + token), load(alpha, row * geo[TOKENS] + token)
            if geo[LOG]:
                # Of a token that holds nothing, no gradient counts.
                s, lost = add_exactly(s, ZERO if w == NINF else g)
                rest += lost
            else:
                # Of a token without weight any gradient is taken, NaN too.
                g = ZERO if w == ZERO else g
                product = g * w
                s, lost = add_exactly(s, product)
                rest += lost + fma(g, w, -product)
            token += BLOCK
        s, rest = add_up(s, rest, tid, scratch)
        if tid == 0:
            if geo[OF_LSE] and piece == 0:
                s, lost = add_exactly(s, -get(grad_lse, row))
                rest += lost
            put(work, geo[DOTS] + 2 * number(), s)
            put(work, geo[DOTS] + 2 * number() + 1, rest)

    return dots


def make_dot_sums(P: SimpleNamespace, kind: Kind, block: int) -> Any:
    """Give the kernel that adds up the pieces of each row, a block each, into the row's first one."""
    F = formulas.make(P, kind)
    add_up, add_exactly = _make_sum(P, F, block), F.add_exactly
    thread, number, get, put, divide = P.thread, P.block, P.get, P.put, P.divide
    ZERO = F.ZERO
    maxima, sums, rests = (P.shared(block, kind.real) for _ in range(3))
    BLOCK = block
    TOKENS, DOT_TOKENS, DOTS = geometry.TOKENS, geometry.DOT_TOKENS, geometry.DOTS

    def dot_sums(work, geo):
        tid = thread()
        scratch = maxima(), sums(), rests()
        pieces = divide(geo[TOKENS] + geo[DOT_TOKENS] - 1, geo[DOT_TOKENS])
        first = geo[DOTS] + 2 * pieces * number()
        s, rest = ZERO, ZERO
        i = tid
        while i < pieces:
            s, lost = add_exactly(s, get(work, first + 2 * i))
            rest += lost + get(work, first + 2 * i + 1)
            i += BLOCK
        s, rest = add_up(s, rest, tid, scratch)
        if tid == 0:
            put(work, first, s)
            put(work, first + 1, rest)

    return dot_sums


def make_packed_dots(P: SimpleNamespace, kind: Kind, block: int) -> Any:
    """Give the kernel that sums g * alpha (log: g) over a packed row, and notes each token's factor."""
    F = formulas.make(P, kind)
    add_up, add_exactly = _make_sum(P, F, block), F.add_exactly
    limits_of = finish.make(P, F, kind, block).limits_of
    factor, whole = make_factor(P, F), make_whole(P, F)
    thread, number, get, put, sync, load, fma = (
        P.thread, P.block, P.get, P.put, P.sync, P.load_result, P.fma,
    )  # fmt: skip
    ZERO, NINF = F.ZERO, F.NINF
    maxima, sums, rests = (P.shared(block, kind.real) for _ in range(3))
    BLOCK = block
    LOG, OF_LSE, DOTS = geometry.LOG, geometry.OF_LSE, geometry.DOTS

    def packed_dots(grad, grad_lse, alpha, limits, work, law, geo):
        tid = thread()
        scratch = maxima(), sums(), rests()
        first, tokens = limits_of(limits, number(), geo)
        s, rest = ZERO, ZERO
        token = tid
        while token < tokens:
            g, w = load(grad, first + token), load(alpha, first + token)
            if geo[LOG]:
                s, lost = add_exactly(s, ZERO if w == NINF else g)
                rest += lost
            else:
                # Of a token without weight any gradient is taken, NaN too.
                g = ZERO if w == ZERO else g
                product = g * w
                s, lost = add_exactly(s, product)
                rest += lost + fma(g, w, -product)
            token += BLOCK
        s, rest = add_up(s, rest, tid, scratch)
        a, b, _ = scratch
        if tid == 0 and geo[OF_LSE]:
            s, lost = add_exactly(s, -get(grad_lse, number()))
            put(a, 0, s)
            put(b, 0, rest + lost)
        sync()
        t = whole(get(a, 0), get(b, 0))
        token = tid
        while token < tokens:
            value = factor(load(grad, first + token), load(alpha, first + token), t, geo[LOG], law)
            put(work, geo[DOTS] + first + token, value)
            token += BLOCK

    return packed_dots


def make_whole(P: SimpleNamespace, F: SimpleNamespace) -> Any:
    """Give the device function for a sum in two parts; beside an infinite one the other is NaN."""
    INF = -F.NINF

    @P.jit
    def whole(s, rest):
        return s + rest if abs(s) < INF else s

    return whole


def make_factor(P: SimpleNamespace, F: SimpleNamespace) -> Any:
    """Give the device function for what a token's e/S is multiplied by."""
    jit, exp, NINF, ZERO = P.jit, P.math.exp, F.NINF, F.ZERO
    SCALE = 5

    @jit
    def factor(g, weight, t, logarithm, law):
        if logarithm:
            if weight == NINF:
                return ZERO
            return law[SCALE] * (g - exp(weight) * t)
        return ZERO if weight == ZERO else law[SCALE] * (weight * (g - t))

    return factor


def make_token(P: SimpleNamespace, F: SimpleNamespace, kind: Kind, block: int) -> SimpleNamespace:
    """Give the device functions for a token's factor and a split token's state."""
    jit, get, load, divide = P.jit, P.get, P.load_result, P.divide
    factor = make_factor(P, F)
    gather = finish.make(P, F, kind, block).gather
    deep, point_for, far_down, whole = F.deep, F.deep_point, F.far_down, make_whole(P, F)
    ZERO, ONE, NINF, UP = F.ZERO, F.ONE, F.NINF, F.DEEP_UNLIFTED
    TOKENS, LOG, SUMS, SPLITS, DOTS, DOT_TOKENS, PACKED = (
        geometry.TOKENS, geometry.LOG, geometry.SUMS, geometry.SPLITS, geometry.DOTS, geometry.DOT_TOKENS,
        geometry.PACKED,
    )  # fmt: skip

    @jit
    def factor_of(grad, alpha, work, row, cell, law, geo):
        """Give a token's factor; `cell` is its place in the result."""
        if geo[PACKED]:
            return get(work, geo[DOTS] + cell)
        pieces = divide(geo[TOKENS] + geo[DOT_TOKENS] - 1, geo[DOT_TOKENS])
        at = geo[DOTS] + 2 * row * pieces
        t = whole(get(work, at), get(work, at + 1))
        return factor(load(grad, cell), load(alpha, cell), t, geo[LOG], law)

    @jit
    def stored_state(work, cell, lane, lanes, law, geo):
        """Give a lane's share of the states of a split token."""
        return gather(work, cell * geo[SPLITS], geo[SUMS], 0, geo[SPLITS], lane, lanes, law)

    @jit
    def slope(x, point, coefficient, law):
        """Give the gradient by one logit; -inf, or what was left out, has none."""
        return ZERO if x == NINF else far_down(deep(x, point, law)) * coefficient[0] * coefficient[1]

    @jit
    def coefficient_of(value, s, rest):
        """Give the two numbers that exponentials are multiplied by: value / S, with the lift that they lack.

        S is lifted: beside a small value it would be subnormal in one number, as it would beside a small
        exponential and a large value in two.
        """
        inverse = (ONE / (s + rest)) * UP
        if abs(value) < ONE:
            return inverse, value
        return inverse * value, ONE

    return SimpleNamespace(
        factor_of=factor_of, stored_state=stored_state, slope=slope, coefficient_of=coefficient_of,
        point_for=point_for,
    )  # fmt: skip


def make_rows(P: SimpleNamespace, kind: Kind, aligned: bool, block: int) -> Any:
    """Give the kernel for tokens that lie in one piece."""
    F = formulas.make(P, kind)
    cell = absorb.make_share(P, F, kind, aligned)
    share, together, vector, partial = cell.share, cell.together, cell.vector, cell.partial
    token = make_token(P, F, kind, block)
    factor_of, stored_state, slope, coefficient_of, point_for = (
        token.factor_of, token.stored_state, token.slope, token.coefficient_of, token.point_for,
    )  # fmt: skip
    jit, thread, number, divide, integer, store = P.jit, P.thread, P.block, P.divide, P.integer, P.store
    store_vector = P.store_vector
    V = kind.vector
    BLOCK = block
    (TOKENS, TERMS, SPLITS, CHUNK, LANES, ROW_PITCH, TOKEN_PITCH, LIMITED, BEGIN, OUT_ROW_PITCH,
     OUT_BEGIN) = (
        geometry.TOKENS, geometry.TERMS, geometry.SPLITS, geometry.CHUNK, geometry.LANES,
        geometry.ROW_PITCH, geometry.TOKEN_PITCH, geometry.LIMITED, geometry.BEGIN, geometry.OUT_ROW_PITCH,
        geometry.OUT_BEGIN,
    )  # fmt: skip

    if V == 2:

        @jit
        def slopes(v, point, c, law):
            return slope(v[0], point, c, law), slope(v[1], point, c, law)
    elif V == 4:

        @jit
        def slopes(v, point, c, law):
            return (
                slope(v[0], point, c, law), slope(v[1], point, c, law),
                slope(v[2], point, c, law), slope(v[3], point, c, law),
            )  # fmt: skip
    else:

        @jit
        def slopes(v, point, c, law):
            return (
                slope(v[0], point, c, law), slope(v[1], point, c, law),
                slope(v[2], point, c, law), slope(v[3], point, c, law),
                slope(v[4], point, c, law), slope(v[5], point, c, law),
                slope(v[6], point, c, law), slope(v[7], point, c, law),
            )  # fmt: skip

    if aligned:

        @jit
        def write(out, at, v):
            store_vector(out, at, v)
    else:

        @jit
        def write(out, at, v):
            i = 0
            for x in v:
                store(out, at + i, x)
                i += 1  # noqa: SIM113  Numba does not unroll enumerate

    @jit
    def put_share(a, out, start, to, count, lane, lanes, point, c, law):
        """Write the gradient of a lane's share of `count` numbers."""
        step = lanes * V
        i = lane * V
        full = count - count % V
        while i + step < full:
            v = vector(a, start + i)
            w = vector(a, start + i + step)
            write(out, to + i, slopes(v, point, c, law))
            write(out, to + i + step, slopes(w, point, c, law))
            i += 2 * step
        while i < full:
            write(out, to + i, slopes(vector(a, start + i), point, c, law))
            i += step
        if i < count:
            v = slopes(partial(a, start + i, count - i), point, c, law)
            left = count - i
            for x in v:
                if left > 0:
                    store(out, to + i, x)
                i += 1
                left -= 1

    def rows_gradient(a, grad, alpha, limits, out, work, law, geo):
        tid = thread()
        lanes = geo[LANES]
        team, teams = divide(tid, lanes), divide(BLOCK, lanes)
        lane = tid - team * lanes
        blocks = divide(geo[TOKENS] * geo[SPLITS] + teams - 1, teams)
        row = divide(number(), blocks)
        place = (number() - row * blocks) * teams + team
        live = place < geo[TOKENS] * geo[SPLITS]
        if not live:
            place = 0
        token = divide(place, geo[SPLITS]) if geo[SPLITS] > 1 else place
        part = place - token * geo[SPLITS]
        terms = min(geo[CHUNK], geo[TERMS] - part * geo[CHUNK]) if live else 0
        counts = not (geo[LIMITED] == 1 and token >= integer(limits, row))
        at = token * geo[TOKEN_PITCH] + part * geo[CHUNK]
        start = geo[BEGIN] + row * geo[ROW_PITCH] + at
        to = geo[OUT_BEGIN] + row * geo[OUT_ROW_PITCH] + at
        index = row * geo[TOKENS] + token
        if geo[SPLITS] > 1:
            m, s, rest = stored_state(work, index, lane, lanes, law, geo)
        else:
            m, s, rest = share(a, start, terms if counts else 0, lane, lanes, law)
        m, s, rest = together(m, s, rest, lanes, law)
        if live:
            c = coefficient_of(factor_of(grad, alpha, work, row, index, law, geo), s, rest)
            if counts:
                put_share(a, out, start, to, terms, lane, lanes, point_for(m, law), c, law)
            else:
                i = lane
                while i < terms:
                    store(out, to + i, ZERO)
                    i += lanes

    ZERO = F.ZERO
    return rows_gradient


def make_walk(P: SimpleNamespace, kind: Kind, masked: bool, block: int) -> Any:
    """Give the kernel for any strides."""
    F = formulas.make(P, kind)
    part = walk.make_share(P, F, kind, masked)
    meet, share, value, places = walk.make_meeting(P, F), part.share, part.value, part.places
    find, begin, advance = places.find, places.begin, places.advance
    token = make_token(P, F, kind, block)
    factor_of, stored_state, slope, coefficient_of, point_for = (
        token.factor_of, token.stored_state, token.slope, token.coefficient_of, token.point_for,
    )  # fmt: skip
    thread, number, get, put, sync, divide, store = (
        P.thread, P.block, P.get, P.put, P.sync, P.divide, P.store,
    )  # fmt: skip
    maxima, sums, rests = (P.shared(block, kind.real) for _ in range(3))
    ZERO = F.ZERO
    BLOCK = block
    ROWS, TOKENS, TERMS, SPLITS, CHUNK, LANES, ACROSS, PART_BLOCKS = (
        geometry.ROWS, geometry.TOKENS, geometry.TERMS, geometry.SPLITS, geometry.CHUNK, geometry.LANES,
        geometry.ACROSS, geometry.PART_BLOCKS,
    )  # fmt: skip

    def walk_gradient(a, mask, grad, alpha, limits, out, work, law, geo):
        tid = thread()
        scratch = maxima(), sums(), rests()
        states, totals, _ = scratch
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
        place, hidden, to, cell, counts = find(index if live else 0, limits, geo)
        first = split * geo[CHUNK]
        last = min(first + geo[CHUNK], geo[TERMS]) if live else 0
        if geo[SPLITS] > 1:
            m, s, rest = stored_state(work, cell, lane, lanes, law, geo)
        else:
            m, s, rest = share(a, mask, place, hidden, first, last if counts else 0, lane, lanes, law, geo)
        m, s, rest = meet(m, s, rest, lane, lanes, team, teams, scratch, law)
        # Lane 0's own place: its team-mates' were read by it alone.
        if lane == 0:
            put(states, team, m)
            put(totals, team, s + rest)
        sync()
        m, s = get(states, team), get(totals, team)
        row = divide(cell, geo[TOKENS])
        c = coefficient_of(factor_of(grad, alpha, work, row, cell, law, geo), s, ZERO)
        point = point_for(m, law)
        j = first + lane
        term = begin(j, geo)
        while j < last:
            x = F_NINF
            if counts:
                x = value(a, mask, place + term[2], hidden + term[3])
            store(out, to + term[4], slope(x, point, c, law))
            term = advance(term, lanes, geo)
            j += lanes

    F_NINF = F.NINF
    return walk_gradient
