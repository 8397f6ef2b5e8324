"""Forward kernel for whole rows of tokens too short for a thread's loads: one exponential a logit.

A row's threads read it 16 bytes at a time, wherever its tokens begin, keep it in shared memory and look for
its maximum. Exponentials relative to that take the place of the logits; then one thread sums the few of a
token. Logarithms take the logits again, relative to the token's own maximum, for a token may lie where
exponentials relative to the row's are all alike.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nbfagg.cuda import absorb, finish, formulas, geometry
from nbfagg.cuda.kinds import Kind


def make(P: SimpleNamespace, kind: Kind, aligned: bool, block: int) -> Any:
    """Give the kernel."""
    F = formulas.make(P, kind)
    exponentials = absorb.make_apart(P, F, kind)
    whole = absorb.make_share(P, F, kind, aligned)
    group = make_group(P, F, kind, block)
    done = finish.make(P, F, kind, block)
    token = make_token(P, F, done.row_weight, kind)
    partial, vector, largest = whole.partial, whole.vector, exponentials.largest
    replace, read, write = exponentials.replace, exponentials.read, exponentials.write
    highest_of_all, sum_of_all = group.highest, group.sum
    write_tokens, token_state = token.write, token.state
    row_inverse, weight, row_lse = done.row_inverse, done.weight, done.row_lse
    thread, number, sync, get, put = P.thread, P.block, P.sync, P.get, P.put
    divide, integer, store, maximum = P.divide, P.integer, P.store, P.maximum
    fine_point, add = F.fine_point, whole.add
    area = P.dynamic(kind.real)
    maxima, totals, rests, inverses = (P.shared(block, kind.real) for _ in range(4))
    ZERO, NINF, UNLIFTED = F.ZERO, F.NINF, F.FINE_UNLIFTED
    V, BLOCK = kind.vector, block
    ROWS, TOKENS, TERMS, ROW_PITCH, BLOCK_ROWS, ROW_ROOM, WRITERS, LIMITED, LOG, WANT_LSE, BEGIN = (
        geometry.ROWS, geometry.TOKENS, geometry.TERMS, geometry.ROW_PITCH, geometry.BLOCK_ROWS,
        geometry.ROW_ROOM, geometry.WRITERS, geometry.LIMITED, geometry.LOG, geometry.WANT_LSE,
        geometry.BEGIN,
    )  # fmt: skip
    jit = P.jit

    @jit
    def copy(a, start, count, stage, place, t, span):
        """Keep a thread's share of a row's logits in shared memory; give the largest."""
        m = NINF
        step = span * V
        at = t * V
        full = count - count % V
        while at + 3 * step < full:
            v0 = vector(a, start + at)
            v1 = vector(a, start + at + step)
            v2 = vector(a, start + at + 2 * step)
            v3 = vector(a, start + at + 3 * step)
            write(stage, place + at, v0)
            write(stage, place + at + step, v1)
            write(stage, place + at + 2 * step, v2)
            write(stage, place + at + 3 * step, v3)
            m = maximum(m, maximum(maximum(largest(v0), largest(v1)), maximum(largest(v2), largest(v3))))
            at += 4 * step
        while at < full:
            v = vector(a, start + at)
            write(stage, place + at, v)
            m = maximum(m, largest(v))
            at += step
        if at < count:
            v = partial(a, start + at, count - at)
            write(stage, place + at, v)
            m = maximum(m, largest(v))
        return m

    @jit
    def sums(count, stage, place, t, span, point, law, keep):
        """Sum a thread's share of a row's exponentials, in two parts; they take the logits' place, or not."""
        s, rest = ZERO, ZERO
        step = span * V
        at = t * V
        while at + step < count:
            v, u, less = replace(read(stage, place + at), point, law)
            w, x, lower = replace(read(stage, place + at + step), point, law)
            if keep:
                write(stage, place + at, v)
                write(stage, place + at + step, w)
            s, rest = add(s, rest, u + x, less + lower)
            at += 2 * step
        if at < count:
            v, u, less = replace(read(stage, place + at), point, law)
            if keep:
                write(stage, place + at, v)
            s, rest = add(s, rest, u, less)
        return s * UNLIFTED, rest * UNLIFTED

    @jit
    def included(limits, row, geo):
        """Give how many of a row's tokens count."""
        if geo[LIMITED] == 1:
            return min(geo[TOKENS], max(0, integer(limits, row)))
        return geo[TOKENS]

    def short(a, limits, alpha, lse, law, geo):
        # As rows.py has it: a is (ROWS, TOKENS, TERMS), alpha (ROWS, TOKENS), lse (ROWS,).
        tid = thread()
        stage, tops, wholes, lost, inverse = area(), maxima(), totals(), rests(), inverses()
        first = number() * geo[BLOCK_ROWS]
        span = divide(BLOCK, geo[BLOCK_ROWS])
        r = divide(tid, span)
        t = tid - r * span
        row = first + r
        live = row < geo[ROWS]
        count = included(limits, row, geo) * geo[TERMS] if live else 0
        place = r * geo[ROW_ROOM]
        m = copy(a, geo[BEGIN] + row * geo[ROW_PITCH], count, stage, place, t, span)
        M = highest_of_all(m, tid, t, span)
        s, rest = sums(count, stage, place, t, span, fine_point(M, law), law, geo[LOG] == 0)
        total, rest = sum_of_all(s, rest, tid, t, span)
        if t == 0:
            put(tops, r, M)
            put(wholes, r, total)
            put(lost, r, rest)
            put(inverse, r, row_inverse(M, total))
            if live and geo[WANT_LSE]:
                put(lse, row, row_lse(M, total, rest, law))
        sync()
        # Tokens side by side fall to threads side by side.
        writers, terms = geo[WRITERS], geo[TERMS]
        r = divide(tid, writers)
        t = tid - r * writers
        while r < geo[BLOCK_ROWS] and first + r < geo[ROWS]:
            row = first + r
            total, rest, turned = get(wholes, r), get(lost, r), get(inverse, r)
            count = included(limits, row, geo)
            out = row * geo[TOKENS]
            at = r * geo[ROW_ROOM] + t * terms
            i = t
            if geo[LOG]:
                M = get(tops, r)
                while i < count:
                    m, s = token_state(stage, at, terms, law)
                    store(alpha, out + i, weight(m, s, M, total, rest, turned, 1, law))
                    at += writers * terms
                    i += writers
                while i < geo[TOKENS]:
                    store(alpha, out + i, weight(NINF, ZERO, M, total, rest, turned, 1, law))
                    i += writers
            else:
                write_tokens(
                    stage, at, writers * terms, terms, alpha, out + t, writers, out + count, total, rest,
                    turned,
                )  # fmt: skip
                if count < geo[TOKENS]:
                    while i < geo[TOKENS]:
                        if i >= count:
                            store(alpha, out + i, turned * ZERO)
                        i += writers
            r += divide(BLOCK, writers)

    return short


def make_group(P: SimpleNamespace, F: SimpleNamespace, kind: Kind, block: int) -> SimpleNamespace:
    """Give the device functions by which the threads of a row, a power of two, find its maximum and its sum.

    All of them get the result. Rows of more than a warp meet in shared memory: every thread of the block has
    to come here then, and once only.
    """
    jit, sync, get, put, shuffle, maximum, divide = (
        P.jit, P.sync, P.get, P.put, P.shuffle, P.maximum, P.divide,
    )  # fmt: skip
    add_exactly = F.add_exactly
    maxima, sums, rests = (P.shared(max(1, block // 32), kind.real) for _ in range(3))

    @jit
    def highest(m, tid, t, span):
        d = min(span, 32) >> 1
        while d > 0:
            m = maximum(m, shuffle(m, d))
            d >>= 1
        if span <= 32:
            return m
        tops = maxima()
        if tid & 31 == 0:
            put(tops, divide(tid, 32), m)
        sync()
        at = divide(tid - t, 32)
        m = get(tops, at)
        i = 1
        while i < divide(span, 32):
            m = maximum(m, get(tops, at + i))
            i += 1
        return m

    @jit
    def join(s, rest, t, less):
        s, lost = add_exactly(s, t)
        return s, rest + (less + lost)

    @jit
    def add_up(s, rest, tid, t, span):
        d = min(span, 32) >> 1
        while d > 0:
            s, rest = join(s, rest, shuffle(s, d), shuffle(rest, d))
            d >>= 1
        if span <= 32:
            return s, rest
        wholes, lost = sums(), rests()
        if tid & 31 == 0:
            put(wholes, divide(tid, 32), s)
            put(lost, divide(tid, 32), rest)
        sync()
        at = divide(tid - t, 32)
        s, rest = get(wholes, at), get(lost, at)
        i = 1
        while i < divide(span, 32):
            s, rest = join(s, rest, get(wholes, at + i), get(lost, at + i))
            i += 1
        return s, rest

    return SimpleNamespace(highest=highest, sum=add_up)


def make_token(P: SimpleNamespace, F: SimpleNamespace, row_weight: Any, kind: Kind) -> SimpleNamespace:
    """Give the device functions that sum a token's few numbers in shared memory."""
    jit, get, get_quad, maximum, store = P.jit, P.get, P.get_quad, P.maximum, P.store
    add_exactly, pair, point_for, lifted, exponential = (
        F.add_exactly, F.pair, F.point_for, F.lifted, F.exponential,
    )  # fmt: skip
    ZERO, NINF, HALF, UNLIFTED = F.ZERO, F.NINF, kind.half, F.FINE_UNLIFTED
    QUAD = 2 if kind.wide else 4

    if QUAD == 2:

        @jit
        def of_quad(stage, at):
            v, w = get_quad(stage, at), get_quad(stage, at + 2)
            return (v[0] + v[1]) + (w[0] + w[1])
    else:

        @jit
        def of_quad(stage, at):
            v = get_quad(stage, at)
            return (v[0] + v[1]) + (v[2] + v[3])

    @jit
    def of_four(stage, at):
        return (get(stage, at) + get(stage, at + 1)) + (get(stage, at + 2) + get(stage, at + 3))

    @jit
    def one(stage, at, terms):
        return get(stage, at)

    @jit
    def two(stage, at, terms):
        return get(stage, at) + get(stage, at + 1)

    @jit
    def three(stage, at, terms):
        return two(stage, at, terms) + get(stage, at + 2)

    if HALF:

        @jit
        def add(s, rest, t):
            """Add to a sum; what half precision loses does not show."""
            return s + t, rest
    else:

        @jit
        def add(s, rest, t):
            s, lost = add_exactly(s, t)
            return s, rest + lost

    @jit
    def quads(stage, at, terms):
        """Sum a multiple of four, four by four; what these lose beside each other is caught."""
        s, rest = of_quad(stage, at), ZERO
        left = terms - 4
        while left > 0:
            at += 4
            s, rest = add(s, rest, of_quad(stage, at))
            left -= 4
        return s + rest

    @jit
    def some(stage, at, terms):
        """Sum any number above four."""
        s, rest = of_four(stage, at), ZERO
        at += 4
        left = terms - 4
        while left > 3:
            s, rest = add(s, rest, of_four(stage, at))
            at += 4
            left -= 4
        if left > 0:
            t = get(stage, at)
            if left > 1:
                t += get(stage, at + 1)
            if left > 2:
                t += get(stage, at + 2)
            rest += t
        return s + rest

    def writer(summed):
        @jit
        def write(stage, at, step, terms, alpha, place, stride, end, total, rest, inverse):
            """Write the weights of every `stride`-th token."""
            while place + stride < end:
                s = summed(stage, at, terms) * UNLIFTED
                t = summed(stage, at + step, terms) * UNLIFTED
                store(alpha, place, row_weight(s, total, rest, inverse))
                store(alpha, place + stride, row_weight(t, total, rest, inverse))
                at += 2 * step
                place += 2 * stride
            if place < end:
                s = summed(stage, at, terms) * UNLIFTED
                store(alpha, place, row_weight(s, total, rest, inverse))

        return write

    write_one, write_two, write_three, write_quads, write_some = map(writer, (one, two, three, quads, some))

    @jit
    def write(stage, at, step, terms, alpha, place, stride, end, total, rest, inverse):
        """Write the weights of every `stride`-th token from `place` on, whose exponentials begin at `at`."""
        # A loop for each, which has nothing to decide, and two tokens a turn: 15 to 20 instructions for a
        # token of one term; one loop for all took 54.
        if terms == 1:
            write_one(stage, at, step, terms, alpha, place, stride, end, total, rest, inverse)
        elif terms == 2:
            write_two(stage, at, step, terms, alpha, place, stride, end, total, rest, inverse)
        elif terms == 3:
            write_three(stage, at, step, terms, alpha, place, stride, end, total, rest, inverse)
        elif terms % 4 == 0:
            write_quads(stage, at, step, terms, alpha, place, stride, end, total, rest, inverse)
        else:
            write_some(stage, at, step, terms, alpha, place, stride, end, total, rest, inverse)

    @jit
    def token_state(stage, at, terms, law):
        """Give a token's maximum and its sum, from its logits."""
        m = NINF
        i = 0
        while i < terms:
            m = maximum(m, get(stage, at + i))
            i += 1
        point = point_for(m, law)
        s, rest = ZERO, ZERO
        i = 0
        while i < terms:
            if HALF:
                s += exponential(get(stage, at + i), point, law)
            else:
                t, less = pair(get(stage, at + i), point, law)
                s, lost = add_exactly(s, t)
                rest += less + lost
            i += 1
        return m, lifted(s + rest)

    return SimpleNamespace(write=write, state=token_state)
