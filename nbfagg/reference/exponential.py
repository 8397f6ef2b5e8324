"""exp(scale * (x - origin)), with an argument that is more precise than longdouble.

An exponent x that is rounded to longdouble's p bits puts |x| * 2**-p into exp(x), 5e-16 at x = 1e4 and p =
64. So exponents are unevaluated sums of two numbers, hi + lo, built by the error-free transformations of
T. J. Dekker, "A floating-point technique for extending the available precision", Numer. Math. 18 (1971).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from nbfagg.reference.rows import FloatArray, LongArray

# Elements that are held as longdouble at a time: 4 MiB a temporary, so that a row of 2**26 logits needs no
# gigabytes.
BLOCK = 1 << 18

# Veltkamp's constant: x * (2**s + 1) cuts a mantissa of 2*s bits (or 2*s - 1) into two halves whose
# products are exact.
SPLITTER = np.longdouble(2) ** ((np.finfo(np.longdouble).nmant + 2) // 2) + 1


def exponentials(
    x: FloatArray, origin: FloatArray, scale: np.longdouble
) -> Iterator[tuple[slice, slice, LongArray]]:
    """Yield exp(scale * (x - origin)) of x (T, K) and origin (T,), a block at a time: where it is, and it.

    An origin that is not finite counts as 0: it is that of a token with nothing in it, or of one that spoils
    its row whatever comes out here.
    """
    finite = np.where(np.isfinite(origin), origin, 0).astype(np.longdouble)[:, None]
    wide = min(max(x.shape[1], 1), BLOCK)
    high = BLOCK // wide
    for t in range(0, x.shape[0], high):
        for k in range(0, x.shape[1], wide):
            block = (slice(t, t + high), slice(k, k + wide))
            yield *block, _exp(*_exponent(x[block], finite[block[0]], scale))


def mass(x: FloatArray, origin: FloatArray, scale: np.longdouble) -> LongArray:
    """Sum exp(scale * (x - origin)) over the last axis of x (B, L, K), for origin (B, L): (B, L)."""
    tokens = x.reshape(origin.size, x.shape[2])
    parts: dict[
        int, list[LongArray]
    ] = {}  # a token's, block by block: NumPy sums in pairs, and so their sums
    for token, _, e in exponentials(tokens, origin.reshape(-1), scale):
        parts.setdefault(token.start, []).append(e.sum(axis=1))
    sums = [np.stack(part, axis=1).sum(axis=1) for part in parts.values()]
    return np.concatenate(sums).reshape(origin.shape) if sums else np.zeros(origin.shape, np.longdouble)


def _exponent(x: FloatArray, origin: LongArray, scale: np.longdouble) -> tuple[LongArray, LongArray]:
    """Return scale * (x - origin) as hi + lo with some 2p bits; lo is 0 where hi is not finite."""
    x, y = x.astype(np.longdouble), -origin
    difference = x + y
    # What that sum lost: D. E. Knuth's two-sum, which needs no order of magnitudes.
    y_seen = difference - x
    lost = (x - (difference - y_seen)) + (y - y_seen)
    hi = difference * scale
    # And what this product lost: Dekker's.
    (x1, x2), (y1, y2) = _halves(difference), _halves(scale)
    lo = ((x1 * y1 - hi) + x1 * y2 + x2 * y1) + x2 * y2 + lost * scale
    return hi, np.where(np.isfinite(lo), lo, 0)


def _halves(x: Any) -> tuple[Any, Any]:
    scaled = x * SPLITTER
    upper = scaled - (scaled - x)
    return upper, x - upper


def _exp(hi: LongArray, lo: LongArray) -> LongArray:
    """Return exp(hi + lo) to first order: |lo| <= |hi| * 2**(1 - p), and exp(hi) is 0 before lo**2 counts."""
    e: LongArray = np.exp(hi)
    return e + e * lo
