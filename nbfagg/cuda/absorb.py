"""Taking logits into a state: batches of them in registers, their maximum first, then their exponentials."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from nbfagg.cuda.kinds import Kind


def _make_largest(P: SimpleNamespace, larger: Any) -> Any:
    """Give the device function for the largest number of a vector, by a maximum of two."""

    @P.jit
    def largest(v):
        m = v[0]
        for x in v[1:]:
            m = larger(m, x)
        return m

    return largest


def make(P: SimpleNamespace, F: SimpleNamespace, kind: Kind) -> SimpleNamespace:
    """Give the device functions that take a few numbers, in registers, into a state."""
    jit = P.jit
    maximum, highest = P.maximum, P.highest
    pair, exponential, point_for, rescale, add_exactly = (
        F.pair, F.exponential, F.point_for, F.rescale, F.add_exactly,
    )  # fmt: skip
    ZERO = F.ZERO
    wide, half = kind.wide, kind.half

    largest = _make_largest(P, highest)

    if half:

        @jit
        def total(v, point, law):
            """Give the sum of a vector's exponentials, in two parts."""
            s = exponential(v[0], point, law)
            for x in v[1:]:
                s += exponential(x, point, law)
            return s, ZERO
    else:

        @jit
        def total(v, point, law):
            """Give the sum of a vector's exponentials, in two parts."""
            s, w = pair(v[0], point, law)
            for x in v[1:]:
                t, u = pair(x, point, law)
                s += t
                w += u
            return s, w

    if wide:

        @jit
        def told(m, s, v):
            """Give NaN for the maximum if a vector holds one, as its sum tells; the hardware's drops it."""
            if s == s:
                return m
            for x in v:
                m = maximum(m, x)
            return m

        @jit
        def all_told(m, s, v0, v1, v2, v3):
            if s == s:
                return m
            return told(told(told(told(m, s, v0), s, v1), s, v2), s, v3)
    else:

        @jit
        def told(m, s, v):
            """Give the maximum, which has kept a NaN."""
            return m

        @jit
        def all_told(m, s, v0, v1, v2, v3):
            return m

    @jit
    def move(m, s, rest, top, law):
        """Bring a state to the point of a maximum, if it is a larger one."""
        if not top <= m:
            new = maximum(m, top)
            factor = rescale(m, new, law)
            return new, s * factor, rest * factor, True
        return m, s, rest, False

    if half:

        @jit
        def add(s, rest, t, less):
            """Add a vector's sum, of which half precision has one part, to a sum."""
            s, lost = add_exactly(s, t)
            return s, rest + lost
    else:

        @jit
        def add(s, rest, t, less):
            """Add the two parts of a vector's sum to a sum, and what is lost to its rest."""
            s, lost = add_exactly(s, t)
            rest += lost
            s, lost = add_exactly(s, less)
            return s, rest + lost

    @jit
    def one(m, s, rest, point, v, law):
        """Take in one vector."""
        m, s, rest, moved = move(m, s, rest, largest(v), law)
        if moved:
            point = point_for(m, law)
        t, less = total(v, point, law)
        m = told(m, t + less, v)
        s, rest = add(s, rest, t, less)
        return m, s, rest, point

    @jit
    def four(m, s, rest, point, v0, v1, v2, v3, law):
        """Take in four vectors: one maximum for all, sums in a tree."""
        top = highest(highest(largest(v0), largest(v1)), highest(largest(v2), largest(v3)))
        m, s, rest, moved = move(m, s, rest, top, law)
        if moved:
            point = point_for(m, law)
        t0, w0 = total(v0, point, law)
        t1, w1 = total(v1, point, law)
        t2, w2 = total(v2, point, law)
        t3, w3 = total(v3, point, law)
        t, less = (t0 + t1) + (t2 + t3), (w0 + w1) + (w2 + w3)
        m = all_told(m, t + less, v0, v1, v2, v3)
        s, rest = add(s, rest, t, less)
        return m, s, rest, point

    return SimpleNamespace(one=one, four=four, add=add)


def make_apart(P: SimpleNamespace, F: SimpleNamespace, kind: Kind) -> SimpleNamespace:
    """Give the device functions for logits in shared memory that stay apart: each gets its exponential."""
    jit, maximum, get_quad, put_quad = P.jit, P.maximum, P.get_quad, P.put_quad
    pair, fine, ZERO = F.pair, F.fine, F.ZERO
    V, QUAD = kind.vector, 2 if kind.wide else 4
    QUADS_2, QUADS_3 = 2 * QUAD, 3 * QUAD

    largest = _make_largest(P, maximum)

    # A tuple wants its length written.
    if V == QUAD:

        @jit
        def read(stage, at):
            return get_quad(stage, at)

        @jit
        def write(stage, at, v):
            put_quad(stage, at, v)
    elif V == 2 * QUAD:

        @jit
        def read(stage, at):
            return get_quad(stage, at) + get_quad(stage, at + QUAD)

        @jit
        def write(stage, at, v):
            put_quad(stage, at, v[:QUAD])
            put_quad(stage, at + QUAD, v[QUAD:])
    else:

        @jit
        def read(stage, at):
            low = get_quad(stage, at) + get_quad(stage, at + QUAD)
            return low + (get_quad(stage, at + QUADS_2) + get_quad(stage, at + QUADS_3))

        @jit
        def write(stage, at, v):
            put_quad(stage, at, v[:QUAD])
            put_quad(stage, at + QUAD, v[QUAD:QUADS_2])
            put_quad(stage, at + QUADS_2, v[QUADS_2:QUADS_3])
            put_quad(stage, at + QUADS_3, v[QUADS_3:])

    if kind.half:

        @jit
        def two(v, point, law):
            x, y = fine(v[0], point, law), fine(v[1], point, law)
            return (x, y), x + y, ZERO
    else:

        @jit
        def two(v, point, law):
            s, w = pair(v[0], point, law)
            t, u = pair(v[1], point, law)
            return (s + w, t + u), s + t, w + u

    @jit
    def four(v, point, law):
        low, s, w = two(v[:2], point, law)
        high, t, u = two(v[2:], point, law)
        return low + high, s + t, w + u

    @jit
    def eight(v, point, law):
        low, s, w = four(v[:4], point, law)
        high, t, u = four(v[4:], point, law)
        return low + high, s + t, w + u

    return SimpleNamespace(largest=largest, read=read, write=write, replace={2: two, 4: four, 8: eight}[V])


def make_share(P: SimpleNamespace, F: SimpleNamespace, kind: Kind, aligned: bool) -> SimpleNamespace:
    """Give the device functions for a cell in one piece: a lane's share, and all lanes together."""
    jit, load, shuffle, maximum = P.jit, P.load, P.shuffle, P.maximum
    vector = P.load_vector if aligned else P.load_anywhere
    ZERO, NINF, lifted, point_for = F.ZERO, F.NINF, F.lifted, F.point_for
    rescale, add_exactly = F.rescale, F.add_exactly
    few = make(P, F, kind)
    one, four = few.one, few.four
    V = kind.vector

    # A tuple wants its length written.
    if V == 2:

        @jit
        def partial(a, at, left):
            """Read a token's last numbers, fewer than a vector; -inf has no weight."""
            return load(a, at), NINF
    elif V == 4:

        @jit
        def partial(a, at, left):
            x = load(a, at)
            y = load(a, at + 1) if left > 1 else NINF
            z = load(a, at + 2) if left > 2 else NINF
            return x, y, z, NINF
    elif V == 8:

        @jit
        def partial(a, at, left):
            t = load(a, at)
            u = load(a, at + 1) if left > 1 else NINF
            v = load(a, at + 2) if left > 2 else NINF
            w = load(a, at + 3) if left > 3 else NINF
            x = load(a, at + 4) if left > 4 else NINF
            y = load(a, at + 5) if left > 5 else NINF
            z = load(a, at + 6) if left > 6 else NINF
            return t, u, v, w, x, y, z, NINF

    @jit
    def share(a, start, count, lane, lanes, law):
        """Give the state of a lane's share of the `count` numbers from `start` on."""
        m, s, rest = NINF, ZERO, ZERO
        point = point_for(m, law)
        step = lanes * V
        at = start + lane * V
        full = start + (count - count % V)
        while at + 3 * step < full:
            v0 = vector(a, at)
            v1 = vector(a, at + step)
            v2 = vector(a, at + 2 * step)
            v3 = vector(a, at + 3 * step)
            m, s, rest, point = four(m, s, rest, point, v0, v1, v2, v3, law)
            at += 4 * step
        while at < full:
            m, s, rest, point = one(m, s, rest, point, vector(a, at), law)
            at += step
        if at < start + count:
            m, s, rest, point = one(m, s, rest, point, partial(a, at, start + count - at), law)
        return m, lifted(s), lifted(rest)

    @jit
    def together(m, s, rest, lanes, law):
        """Merge the states of a cell's lanes; every lane of the warp has to come here."""
        M = m
        d = lanes >> 1
        while d > 0:
            M = maximum(M, shuffle(M, d))
            d >>= 1
        factor = rescale(m, M, law)
        s, rest = s * factor, rest * factor
        d = lanes >> 1
        while d > 0:
            t, less = shuffle(s, d), shuffle(rest, d)
            s, lost = add_exactly(s, t)
            rest = rest + less + lost
            d >>= 1
        return M, s, rest

    return SimpleNamespace(share=share, together=together, partial=partial, vector=vector, add=few.add)
