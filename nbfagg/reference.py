"""The oracle: slower, plainer and more precise than the code that it judges. Needs NumPy alone.

Two groups of functions. `fagg`, `fagg_global` and `fagg_stable` are the operation in a line each, in the
order in which it was understood: without a shift, with one maximum for the whole array, with a maximum per
batch row. The first two are kept to show what breaks. `oracle` is what results are compared with, and
`ulp_error` says by how much they differ.

The oracle works in `numpy.longdouble`: 64 bits of mantissa on x86-64, 113 on 64-bit ARM Linux. Its
arguments need more: an exponent x that is rounded to 64 bits puts |x| * 2**-64 into exp(x), 5e-16 at x =
1e4. So exponents are unevaluated sums of two numbers, hi + lo, built by the error-free transformations of
T. J. Dekker, "A floating-point technique for extending the available precision", Numer. Math. 18 (1971).
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["fagg", "fagg_global", "fagg_stable", "oracle", "ulp_error"]

FloatArray: TypeAlias = NDArray[np.floating[Any]]
LongArray: TypeAlias = NDArray[np.longdouble]

# Elements that are held as longdouble at a time: 4 MiB a temporary, so that a row of 2**26 logits needs no
# gigabytes.
_BLOCK = 1 << 18

# Veltkamp's constant: x * (2**s + 1) cuts a mantissa of 2*s bits (or 2*s - 1) into two halves whose
# products are exact.
_SPLITTER = np.longdouble(2) ** ((np.finfo(np.longdouble).nmant + 2) // 2) + 1


def fagg(a: ArrayLike) -> FloatArray:
    """Aggregate logits by the definition, with no shift at all: what breaks, kept to show it.

    Parameters
    ----------
    a : array_like, shape (B, L, N, H)
        Logits, natural log. Floating arrays are computed in their own dtype, all others in float64.

    Returns
    -------
    ndarray, shape (B, L)
        ``sum_{n,h} exp(a) / sum_{l,n,h} exp(a)``, in the dtype of the computation. NaN where exp overflows
        (above 88.72 in float32, 709.78 in float64: inf / inf) and where all of a batch row underflows (below
        -103.97 and -745.13: 0 / 0). No warning is given.

    See Also
    --------
    fagg_stable : the same value for every finite input.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.zeros((1, 2, 1, 1), np.float32)
    >>> fagg(a)
    array([[0.5, 0.5]], dtype=float32)
    >>> fagg(a + np.float32(88.723))
    array([[nan, nan]], dtype=float32)
    """
    x = _floating(a)
    with np.errstate(all="ignore"):
        e = np.exp(x)
        alpha: FloatArray = e.sum((2, 3)) / e.sum((1, 2, 3))[:, None]
    return alpha


def fagg_global(a: ArrayLike) -> FloatArray:
    """Aggregate logits after subtracting one maximum of the whole array: not enough.

    A batch row far below another one's maximum still underflows to 0 / 0: from 104 below it in float32,
    from 746 in float64.

    Parameters
    ----------
    a : array_like, shape (B, L, N, H)
        Logits, natural log; not empty. Floating arrays are computed in their own dtype, all others in
        float64.

    Returns
    -------
    ndarray, shape (B, L)
        As `fagg`; NaN in the batch rows that underflow. No warning is given.

    Raises
    ------
    ValueError
        If `a` is empty: it has no maximum.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.zeros((2, 2, 1, 1), np.float32)
    >>> a[1] += 500
    >>> fagg_global(a)
    array([[nan, nan],
           [0.5, 0.5]], dtype=float32)
    """
    x = _floating(a)
    with np.errstate(all="ignore"):
        return fagg(x - x.max())


def fagg_stable(a: ArrayLike) -> NDArray[np.float64]:
    """Aggregate logits after subtracting each batch row's own maximum, in float64.

    f(A + c) = f(A) for a constant c per batch row, so the shift changes nothing but the range: the largest
    exponential of every batch row is 1.

    Parameters
    ----------
    a : array_like, shape (B, L, N, H)
        Logits, natural log; converted to float64. The plain form has no answer for a batch row without a
        finite maximum: it gives NaN there, where `oracle` has the full table.

    Returns
    -------
    ndarray of float64, shape (B, L)
        Each batch row sums to 1. The relative error is about 1e-16 * (1 + max(a) - min(a)): the rounded
        difference is what the exponential sees.

    Raises
    ------
    ValueError
        If an axis other than the first is empty: its batch rows have no maximum.

    Examples
    --------
    >>> import numpy as np
    >>> fagg_stable(np.full((1, 2, 3, 1), 1e8))
    array([[0.5, 0.5]])
    """
    x = np.asarray(a).astype(np.float64)
    with np.errstate(all="ignore"):
        return np.asarray(fagg(x - np.amax(x, axis=(1, 2, 3), keepdims=True)), np.float64)


@overload
def oracle(
    a: ArrayLike,
    *,
    batch_axis: int | tuple[int, ...] = ...,
    keep_axis: int | tuple[int, ...] = ...,
    scale: float = ...,
    log: bool = ...,
    return_lse: Literal[False] = ...,
    where: ArrayLike | None = ...,
    lengths: ArrayLike | None = ...,
) -> LongArray: ...


@overload
def oracle(
    a: ArrayLike,
    *,
    batch_axis: int | tuple[int, ...] = ...,
    keep_axis: int | tuple[int, ...] = ...,
    scale: float = ...,
    log: bool = ...,
    return_lse: Literal[True],
    where: ArrayLike | None = ...,
    lengths: ArrayLike | None = ...,
) -> tuple[LongArray, LongArray]: ...


def oracle(
    a: ArrayLike,
    *,
    batch_axis: int | tuple[int, ...] = 0,
    keep_axis: int | tuple[int, ...] = 1,
    scale: float = 1.0,
    log: bool = False,
    return_lse: bool = False,
    where: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
) -> LongArray | tuple[LongArray, LongArray]:
    """Aggregate logits more precisely than float64: what every other result is judged by.

    Parameters
    ----------
    a : array_like, any rank
        Logits, natural log. Real floating dtypes, integers and booleans; all of them are taken exactly.
    batch_axis, keep_axis : int or tuple of int
        The axes that index independent rows, and the axes that the result keeps within a row. All others
        are summed.
    scale : float
        Positive and finite; multiplies the logits, without rounding.
    log : bool
        Return log(alpha), natural, also where alpha underflows; its relative error stays small where alpha
        is near 1.
    return_lse : bool
        Return the rows' log-sum-exp of ``scale * a`` as well.
    where : array_like of bool, broadcastable to `a`
        True = include.
    lengths : array_like of int, shape (B,)
        The number of valid entries along the one kept axis, for one batch axis.

    Returns
    -------
    alpha : ndarray of longdouble
        The batch and the kept axes, in the order in which `a` has them. A row with nothing included has
        alpha 0 (log alpha -inf, lse -inf). A NaN at an included place makes its row NaN, a +inf too (but
        lse +inf). What is excluded is as if it were not there.
    lse : ndarray of longdouble, batch shape
        Only if `return_lse`.

    Raises
    ------
    TypeError
        If `a` is not real.
    ValueError, IndexError
        If an axis is named twice or does not exist, if `scale` is not positive and finite, if `where` does
        not fit `a`, or if `lengths` does not fit it or is given for anything but one batch and one kept
        axis.

    Notes
    -----
    The error, relative for alpha and absolute for lse, is that of longdouble's mantissa of p bits: two
    exponentials and two sums in pairs. For the longest rows that is at most 150 roundings, 8e-18 at p = 64
    if all of them went the same way; measured against 50 digits it is some 2e-19, a thousandth of an ulp of
    float64. Where longdouble is no wider than float64 (Windows, macOS on ARM) the same holds with p = 53,
    and with float64's range: enough to judge float32 by, not float64.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.array([[0.0, -50000.0], [-np.inf, -np.inf]])
    >>> oracle(a).astype(float)
    array([[1., 0.],
           [0., 0.]])
    >>> log_alpha, lse = oracle(a, log=True, return_lse=True)
    >>> log_alpha.astype(float)
    array([[     0., -50000.],
           [   -inf,    -inf]])
    >>> lse.astype(float)
    array([  0., -inf])
    """
    factor = np.longdouble(scale)
    if not (np.isfinite(factor) and factor > 0):
        raise ValueError(f"scale must be positive and finite, got {scale!r}")
    logits = _real(a)
    batch = _axes(batch_axis, logits.ndim)
    keep = _axes(keep_axis, logits.ndim)
    if len({*batch, *keep}) != len(batch) + len(keep):
        raise ValueError(f"batch_axis={batch_axis!r} and keep_axis={keep_axis!r} name an axis twice")
    for mask in _masks(where, lengths, logits.shape, batch, keep):
        logits = np.where(mask, logits, logits.dtype.type(-np.inf))

    summed = tuple(axis for axis in range(logits.ndim) if axis not in batch + keep)
    batch_shape, keep_shape, summed_shape = (
        tuple(logits.shape[axis] for axis in axes) for axes in (batch, keep, summed)
    )
    # x is (B, L, K) from here on: rows, tokens, and what is summed.
    x = logits.transpose(batch + keep + summed)
    x = x.reshape(math.prod(batch_shape), math.prod(keep_shape), math.prod(summed_shape))

    with np.errstate(all="ignore"):
        # A token's mass is relative to the token's own maximum, so it is between 1 and K whatever the other
        # tokens hold.
        token_max = x.max(axis=2, initial=-np.inf)
        row_max = token_max.max(axis=1, initial=-np.inf)
        mass = _mass(x, token_max, factor)

        # The row's maximum decides alone: -inf, nothing is there; +inf or NaN (which maximum passes on), no
        # answer.
        usable = np.isfinite(row_max)
        origin = np.where(usable, row_max, 0).astype(np.longdouble)[:, None]
        weight = mass * _mass(token_max[:, :, None], np.broadcast_to(origin, mass.shape), factor)
        total = weight.sum(axis=1)

        if log:
            alpha = np.log(mass / total[:, None]) + (token_max - origin) * factor
            if weight.size:
                # Only the largest token can have alpha > 1/2, where the logarithm of a rounded ratio loses
                # everything: log(w / (w + rest)) = -log1p(rest / w), and 0 - x rather than -x for there is
                # no -0.0 in a logarithm.
                rows = np.arange(len(weight))
                largest = weight.argmax(axis=1)
                rest = weight.copy()
                rest[rows, largest] = 0
                alpha[rows, largest] = 0 - np.log1p(rest.sum(axis=1) / weight[rows, largest])
        else:
            alpha = weight / total[:, None]
        nothing = -np.inf if log else 0
        instead = np.where(row_max == -np.inf, nothing, np.nan)
        alpha = np.where(usable[:, None], alpha, instead[:, None])

        lse = np.where(usable, origin[:, 0] * factor + np.log(total), row_max)

    order = np.argsort(batch + keep)
    alpha = alpha.reshape(batch_shape + keep_shape).transpose(order)
    return (alpha, lse.reshape(batch_shape)) if return_lse else alpha


def ulp_error(result: ArrayLike, exact: ArrayLike) -> NDArray[np.float64]:
    """Measure results against exact values, in units in the last place of the result's dtype.

    Parameters
    ----------
    result : array_like of float16, float32 or float64
        What is judged.
    exact : array_like, broadcastable with `result`
        What it should be, with more precision than `result` has: `oracle` gives it.

    Returns
    -------
    ndarray of float64
        ``abs(result - exact)`` over the spacing of the result's dtype at `exact`, which is never less than
        the smallest subnormal. So 0.5 or less for a correctly rounded result. 0 where both are NaN or the
        same infinity, inf where only one of them is NaN, or one is an infinity that the other is not.

    Raises
    ------
    TypeError
        If `result` is not of a floating dtype of NumPy's.

    Examples
    --------
    >>> import numpy as np
    >>> ulp_error(np.nextafter(np.float32([1.0, 0.0]), np.float32(2)), [1.0, 0.0])
    array([1., 1.])
    >>> ulp_error([np.nan, np.inf, 0.0], [np.nan, np.inf, np.nan])
    array([ 0.,  0., inf])
    """
    got = np.asarray(result)
    if got.dtype.kind != "f":
        raise TypeError(f"result must be of a floating dtype, got {got.dtype}")
    info = np.finfo(got.dtype)
    value, want = np.broadcast_arrays(got.astype(np.longdouble), np.asarray(exact, np.longdouble))
    with np.errstate(all="ignore"):
        # frexp's fraction is in [0.5, 1), so the leading bit counts 2**(exponent - 1); frexp(0) has
        # exponent 0.
        leading = np.where(want == 0, info.minexp, np.frexp(want)[1] - 1)
        ulp = np.ldexp(np.longdouble(1), np.maximum(leading, info.minexp) - info.nmant)
        error = np.abs(value - want) / ulp
    finite = np.isfinite(value) & np.isfinite(want)
    same = (value == want) | (np.isnan(value) & np.isnan(want))
    return np.asarray(np.where(finite, error, np.where(same, 0.0, np.inf)), np.float64)


def _floating(a: ArrayLike) -> FloatArray:
    x = np.asarray(a)
    return x if x.dtype.kind == "f" else x.astype(np.float64)


def _real(a: ArrayLike) -> FloatArray:
    """Return `a` in a floating dtype of NumPy's that holds it exactly."""
    x = np.asarray(a)
    if x.dtype.kind in "biu":
        return x.astype(np.longdouble)  # 64 bits hold every int64 and uint64; float64's 53 would not
    if x.dtype.name == "bfloat16":  # not NumPy's own, so of kind V
        return x.astype(np.float32)
    if x.dtype.kind != "f":
        raise TypeError(f"a must be an array of real numbers, got {x.dtype}")
    return x


def _axes(axis: int | tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """Return the axes in ascending order, counted from the front."""
    wanted = axis if isinstance(axis, tuple) else (axis,)
    return tuple(sorted(range(ndim)[operator.index(one)] for one in wanted))


def _masks(
    where: ArrayLike | None,
    lengths: ArrayLike | None,
    shape: tuple[int, ...],
    batch: tuple[int, ...],
    keep: tuple[int, ...],
) -> Iterator[NDArray[np.bool_]]:
    """Yield what is included, each mask of `shape`."""
    if where is not None:
        yield np.broadcast_to(np.asarray(where, np.bool_), shape)
    if lengths is not None:
        if len(batch) != 1 or len(keep) != 1:
            raise ValueError(f"lengths needs one batch and one kept axis, got axes {batch} and {keep}")
        count = np.asarray(lengths)
        if count.shape != (shape[batch[0]],):
            raise ValueError(f"lengths must have shape ({shape[batch[0]]},), got {count.shape}")
        along_batch, along_keep = (
            tuple(-1 if axis == one else 1 for axis in range(len(shape))) for one in (batch[0], keep[0])
        )
        token = np.arange(shape[keep[0]]).reshape(along_keep)
        yield np.broadcast_to(token < count.reshape(along_batch), shape)


def _mass(x: FloatArray, origin: FloatArray, scale: np.longdouble) -> LongArray:
    """Sum exp(scale * (x - origin)) over the last axis of x (B, L, K), a block at a time: (B, L)."""
    tokens = x.reshape(origin.size, x.shape[2])
    # An origin that is not finite is a token's whose mass is 0, or one that spoils its row whatever is here.
    finite_origin = np.where(np.isfinite(origin), origin, 0).astype(np.longdouble).reshape(-1, 1)
    mass = np.zeros(origin.size, np.longdouble)
    wide = min(max(tokens.shape[1], 1), _BLOCK)
    high = _BLOCK // wide
    for t in range(0, tokens.shape[0], high):
        block, below = tokens[t : t + high], finite_origin[t : t + high]
        parts = [
            _exp(*_exponent(block[:, k : k + wide], below, scale)).sum(axis=1)
            for k in range(0, tokens.shape[1], wide)
        ]
        if parts:
            mass[t : t + high] = np.stack(parts, axis=1).sum(axis=1)
    return mass.reshape(origin.shape)


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
    scaled = x * _SPLITTER
    upper = scaled - (scaled - x)
    return upper, x - upper


def _exp(hi: LongArray, lo: LongArray) -> LongArray:
    """Return exp(hi + lo) to first order: |lo| <= |hi| * 2**(1 - p), and exp(hi) is 0 before lo**2 counts."""
    e: LongArray = np.exp(hi)
    return e + e * lo
