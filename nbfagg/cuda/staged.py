"""Logits of short tokens in shared memory: how they come there, and what becomes of them. For short.py."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nbfagg.cuda import absorb, geometry
from nbfagg.cuda.kinds import Kind

TOKENS, TERMS, LIMITED, LOG = geometry.TOKENS, geometry.TERMS, geometry.LIMITED, geometry.LOG


def make(P: SimpleNamespace, F: SimpleNamespace, done: SimpleNamespace, kind: Kind, aligned: bool) -> Any:
    """Give the device functions for logits that are kept in shared memory."""
    exponentials = absorb.make_apart(P, F, kind)
    whole = absorb.make_share(P, F, kind, aligned)
    token = make_token(P, F, done.row_weight, kind)
    partial, vector, largest, add = whole.partial, whole.vector, exponentials.largest, whole.add
    replace, read, keep = exponentials.replace, exponentials.read, exponentials.write
    write_weights, token_state, weight = token.write, token.state, done.weight
    jit, integer, store, maximum = P.jit, P.integer, P.store, P.maximum
    ZERO, NINF, UNLIFTED = F.ZERO, F.NINF, F.FINE_UNLIFTED
    V = kind.vector

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
            keep(stage, place + at, v0)
            keep(stage, place + at + step, v1)
            keep(stage, place + at + 2 * step, v2)
            keep(stage, place + at + 3 * step, v3)
            m = maximum(m, maximum(maximum(largest(v0), largest(v1)), maximum(largest(v2), largest(v3))))
            at += 4 * step
        while at < full:
            v = vector(a, start + at)
            keep(stage, place + at, v)
            m = maximum(m, largest(v))
            at += step
        if at < count:
            v = partial(a, start + at, count - at)
            keep(stage, place + at, v)
            m = maximum(m, largest(v))
        return m

    @jit
    def sums(count, stage, place, t, span, point, law, replacing):
        """Sum a thread's share of a row's exponentials, in two parts; they take the logits' place, or not."""
        s, rest = ZERO, ZERO
        step = span * V
        at = t * V
        while at + step < count:
            v, u, less = replace(read(stage, place + at), point, law)
            w, x, lower = replace(read(stage, place + at + step), point, law)
            if replacing:
                keep(stage, place + at, v)
                keep(stage, place + at + step, w)
            s, rest = add(s, rest, u + x, less + lower)
            at += 2 * step
        if at < count:
            v, u, less = replace(read(stage, place + at), point, law)
            if replacing:
                keep(stage, place + at, v)
            s, rest = add(s, rest, u, less)
        return s * UNLIFTED, rest * UNLIFTED

    @jit
    def included(limits, row, geo):
        """Give how many of a row's tokens count."""
        if geo[LIMITED] == 1:
            return min(geo[TOKENS], max(0, integer(limits, row)))
        return geo[TOKENS]

    @jit
    def write(stage, at, t, count, tokens, alpha, out, stride, M, total, rest, inverse, law, geo):
        """Write every `stride`-th token from the one at `at`, number t; the first `count` are included."""
        i, terms = t, geo[TERMS]
        if geo[LOG]:
            while i < count:
                m, s = token_state(stage, at, terms, law)
                store(alpha, out + i, weight(m, s, M, total, rest, inverse, 1, law))
                at += stride * terms
                i += stride
            while i < tokens:
                store(alpha, out + i, weight(NINF, ZERO, M, total, rest, inverse, 1, law))
                i += stride
            return
        write_weights(
            stage, at, stride * terms, terms, alpha, out + t, stride, out + count, total, rest, inverse
        )
        if count < tokens:
            while i < tokens:
                if i >= count:
                    store(alpha, out + i, inverse * ZERO)
                i += stride

    return SimpleNamespace(copy=copy, sums=sums, included=included, write=write)


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


def make_top(P: SimpleNamespace, F: SimpleNamespace) -> Any:
    """Give the device function that finds the maximum of a token's logits in shared memory."""
    get, maximum, NINF = P.get, P.maximum, F.NINF

    @P.jit
    def top(stage, at, terms):
        m = NINF
        i = 0
        while i < terms:
            m = maximum(m, get(stage, at + i))
            i += 1
        return m

    return top


def make_join(P: SimpleNamespace, F: SimpleNamespace, kind: Kind) -> Any:
    """Give the device function that adds to a sum in two parts; what half precision loses does not show."""
    add_exactly = F.add_exactly

    if kind.half:

        @P.jit
        def join(s, rest, t):
            return s + t, rest
    else:

        @P.jit
        def join(s, rest, t):
            s, lost = add_exactly(s, t)
            return s, rest + lost

    return join


def make_token(P: SimpleNamespace, F: SimpleNamespace, row_weight: Any, kind: Kind) -> SimpleNamespace:
    """Give the device functions that sum a token's few numbers in shared memory."""
    jit, get, get_quad, store = P.jit, P.get, P.get_quad, P.store
    add_exactly, pair, point_for, lifted, exponential = (
        F.add_exactly, F.pair, F.point_for, F.lifted, F.exponential,
    )  # fmt: skip
    ZERO, HALF, UNLIFTED = F.ZERO, kind.half, F.FINE_UNLIFTED
    join = make_join(P, F, kind)

    @jit
    def one(stage, at, terms):
        return get(stage, at)

    # float64's 3 ulp leave no room for sums that round; float32's 4 do for three of them one after the other.
    if kind.wide:

        @jit
        def two(stage, at, terms):
            s, rest = add_exactly(get(stage, at), get(stage, at + 1))
            return s + rest

        @jit
        def three(stage, at, terms):
            s, rest = add_exactly(get(stage, at), get(stage, at + 1))
            s, rest = join(s, rest, get(stage, at + 2))
            return s + rest

        @jit
        def add_quad(s, rest, stage, at):
            v, w = get_quad(stage, at), get_quad(stage, at + 2)
            s, rest = join(s, rest, v[0])
            s, rest = join(s, rest, v[1])
            s, rest = join(s, rest, w[0])
            return join(s, rest, w[1])

        @jit
        def add_four(s, rest, stage, at):
            s, rest = join(s, rest, get(stage, at))
            s, rest = join(s, rest, get(stage, at + 1))
            s, rest = join(s, rest, get(stage, at + 2))
            return join(s, rest, get(stage, at + 3))
    else:

        @jit
        def two(stage, at, terms):
            return get(stage, at) + get(stage, at + 1)

        @jit
        def three(stage, at, terms):
            return two(stage, at, terms) + get(stage, at + 2)

        @jit
        def four(stage, at, terms):
            v = get_quad(stage, at)
            return (v[0] + v[1]) + (v[2] + v[3])

        @jit
        def eight(stage, at, terms):
            return four(stage, at, terms) + four(stage, at + 4, terms)

        @jit
        def five(stage, at, terms):
            return (two(stage, at, terms) + two(stage, at + 2, terms)) + get(stage, at + 4)

        @jit
        def six(stage, at, terms):
            return (two(stage, at, terms) + two(stage, at + 2, terms)) + two(stage, at + 4, terms)

        @jit
        def seven(stage, at, terms):
            return (two(stage, at, terms) + two(stage, at + 2, terms)) + three(stage, at + 4, terms)

        @jit
        def add_quad(s, rest, stage, at):
            return join(s, rest, four(stage, at, 4))

        @jit
        def add_four(s, rest, stage, at):
            low, high = get(stage, at) + get(stage, at + 1), get(stage, at + 2) + get(stage, at + 3)
            return join(s, rest, low + high)

    @jit
    def quads(stage, at, terms):
        """Sum a multiple of four, four by four; what these lose beside each other is caught."""
        s, rest = ZERO, ZERO
        left = terms
        while left > 0:
            s, rest = add_quad(s, rest, stage, at)
            at += 4
            left -= 4
        return s + rest

    @jit
    def some(stage, at, terms):
        """Sum any number above four."""
        s, rest = ZERO, ZERO
        left = terms
        while left > 3:
            s, rest = add_four(s, rest, stage, at)
            at += 4
            left -= 4
        while left > 0:
            s, rest = join(s, rest, get(stage, at))
            at += 1
            left -= 1
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
    def write_any(stage, at, step, terms, alpha, place, stride, end, total, rest, inverse):
        """Write those of any number of terms."""
        if terms % 4 == 0:
            write_quads(stage, at, step, terms, alpha, place, stride, end, total, rest, inverse)
        else:
            write_some(stage, at, step, terms, alpha, place, stride, end, total, rest, inverse)

    if kind.wide:
        write_more = write_any
    else:
        write_four, write_five, write_six, write_seven, write_eight = map(
            writer, (four, five, six, seven, eight)
        )

        @jit
        def write_more(stage, at, step, terms, alpha, place, stride, end, total, rest, inverse):
            """Write those of four terms or more."""
            if terms == 4:
                write_four(stage, at, step, terms, alpha, place, stride, end, total, rest, inverse)
            elif terms == 5:
                write_five(stage, at, step, terms, alpha, place, stride, end, total, rest, inverse)
            elif terms == 6:
                write_six(stage, at, step, terms, alpha, place, stride, end, total, rest, inverse)
            elif terms == 7:
                write_seven(stage, at, step, terms, alpha, place, stride, end, total, rest, inverse)
            elif terms == 8:
                write_eight(stage, at, step, terms, alpha, place, stride, end, total, rest, inverse)
            else:
                write_any(stage, at, step, terms, alpha, place, stride, end, total, rest, inverse)

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
        else:
            write_more(stage, at, step, terms, alpha, place, stride, end, total, rest, inverse)

    top = make_top(P, F)

    @jit
    def token_state(stage, at, terms, law):
        """Give a token's maximum and its sum, from its logits."""
        m = top(stage, at, terms)
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
