"""From the states of cells to weights: a row's total, then each token's share of it.

A state is a maximum and a sum of exponentials relative to that maximum's point
(scalar.py). Which thread takes which cells depends on the row's shape alone, and
so does the order in which their states meet.
"""

from __future__ import annotations

import math
from types import SimpleNamespace

from nbfagg.cuda import geometry
from nbfagg.cuda.kinds import Kind


def make(P: SimpleNamespace, F: SimpleNamespace, kind: Kind, block: int) -> SimpleNamespace:
    """Give the device functions that finish rows, for blocks of so many threads."""
    real, jit, sync, get, put, store = kind.real, P.jit, P.sync, P.get, P.put, P.store
    integer = P.integer
    merge, lifted_factor, quotient, log_distance = F.merge, F.lifted_factor, F.quotient, F.log_distance
    log_sum_exp = F.log_sum_exp
    names = P.math
    ZERO, ONE, NINF = F.ZERO, F.ONE, F.NINF
    INF, NAN = real(math.inf), real(math.nan)
    log = names.log
    UNLIFT = real(math.ldexp(1.0, -int(F.LIFT)))
    SCALE = 5
    BLOCK = block
    ROWS, ROW_BLOCKS, PARTS, ALL_TOKENS = (
        geometry.ROWS, geometry.ROW_BLOCKS, geometry.PARTS, geometry.ALL_TOKENS,
    )  # fmt: skip

    @jit
    def gather(cells, base, sums_at, first, last, t, span, law):
        """Merge the cells that fall to one thread."""
        m, s, rest = NINF, ZERO, ZERO
        i = first + t
        while i < last:
            m, s, rest = merge(m, s, rest, get(cells, base + i), get(cells, sums_at + base + i), ZERO, law)
            i += span
        return m, s, rest

    @jit
    def meet(m, s, rest, tid, t, span, scratch, law):
        """Merge the states of `span` threads (a power of two), t being a thread's number among them.

        Every thread of the block has to come here, and to another barrier before it comes again. `scratch`
        are three areas of a number for each thread.
        """
        a, b, c = scratch
        put(a, tid, m)
        put(b, tid, s)
        put(c, tid, rest)
        sync()
        d = span >> 1
        while d > 0:
            if t < d:
                m, s, rest = merge(m, s, rest, get(a, tid + d), get(b, tid + d), get(c, tid + d), law)
                put(a, tid, m)
                put(b, tid, s)
                put(c, tid, rest)
            sync()
            d >>= 1
        return get(a, tid - t), get(b, tid - t), get(c, tid - t)

    @jit
    def weight(m, s, M, total, rest, inverse, logarithm, law):
        """Give a token's weight, or its logarithm, from its state and the row's."""
        # The row's maximum decides alone: NaN or +inf, no answer; -inf, nothing is there.
        if M == NINF:
            return NINF if logarithm else ZERO
        if not M < INF:
            return NAN
        if m == NINF:
            return NINF if logarithm else ZERO
        if logarithm:
            return log(quotient(s, total, rest, inverse)) + log_distance(m, M, law)
        # One factor after the other: both at once are subnormal where many small terms have a weight.
        return quotient((s * UNLIFT) * lifted_factor(m, M, law), total, rest, inverse)

    @jit
    def row_inverse(M, total):
        """Give 1 / total for `row_weight`; NaN where the maximum leaves no answer, 0 of an empty row."""
        if M == NINF:
            return ZERO
        return ONE / total if M < INF else NAN

    if kind.half:

        @jit
        def row_weight(s, total, rest, inverse):
            """Give a token's weight from its sum relative to the row's point."""
            return s * inverse
    else:

        @jit
        def row_weight(s, total, rest, inverse):
            """Give a token's weight from its sum relative to the row's point."""
            return quotient(s, total, rest, inverse) if inverse != ZERO else ZERO

    @jit
    def write_tokens(
        cells, base, sums_at, first, last, t, span, splits, M, total, rest, logarithm, law, out, at
    ):
        """Write the weights of tokens [first, last) of a row, whose cells begin at `base`."""
        inverse = ONE / total
        token = first + t
        while token < last:
            m, s = get(cells, base + token * splits), get(cells, sums_at + base + token * splits)
            if splits > 1:
                m, s, less = gather(cells, base, sums_at, token * splits, (token + 1) * splits, 0, 1, law)
                s += less
            store(out, at + token, weight(m, s, M, total, rest, inverse, logarithm, law))
            token += span

    @jit
    def row_lse(M, total, rest, law):
        """Give a row's log-sum-exp; its total is kept 2**LIFT higher than the point says."""
        if not M < INF or M == NINF:
            return M
        return log_sum_exp(M, (total + rest) * UNLIFT, law, law[SCALE])

    @jit
    def merge_all(work, at, step, count, pitch, tid, scratch, law):
        """Merge states whose maxima, sums and rests lie `pitch` apart; all threads of a block come."""
        m, s, rest = NINF, ZERO, ZERO
        i = tid
        while i < count:
            j = at + i * step
            m, s, rest = merge(m, s, rest, get(work, j), get(work, pitch + j), get(work, 2 * pitch + j), law)
            i += BLOCK
        return meet(m, s, rest, tid, tid, BLOCK, scratch, law)

    @jit
    def whole_row(work, row, tid, scratch, law, geo):
        """Merge the totals of a row's blocks or pieces; every thread of the block has to come here."""
        at = geo[PARTS] + row * geo[ROW_BLOCKS]
        return merge_all(work, at, 1, geo[ROW_BLOCKS], geo[ROWS] * geo[ROW_BLOCKS], tid, scratch, law)

    @jit
    def limits_of(limits, row, geo):
        """Give where a packed row's tokens begin among all, and how many it has."""
        # Whatever the offsets hold, nothing outside is touched.
        begin = min(max(integer(limits, row), 0), geo[ALL_TOKENS])
        end = min(max(integer(limits, row + 1), begin), geo[ALL_TOKENS])
        return begin, end - begin

    return SimpleNamespace(
        whole_row=whole_row,
        merge_all=merge_all,
        limits_of=limits_of,
        gather=gather,
        meet=meet,
        weight=weight,
        row_inverse=row_inverse,
        row_weight=row_weight,
        write_tokens=write_tokens,
        row_lse=row_lse,
    )
