"""What results are judged by, in `numpy.longdouble`: 64 bits on x86-64, 113 on 64-bit ARM Linux."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbfagg.reference.exponential import mass
from nbfagg.reference.rows import FloatArray, LongArray, Rows, as_rows, real


@dataclass(frozen=True)
class Weights:
    """The sums of `Rows`, L tokens in each of B rows."""

    token_max: FloatArray  # (B, L)
    row_max: FloatArray  # (B,)
    usable: NDArray[np.bool_]  # (B,), the row's maximum is finite: something is there, and no NaN or +inf
    origin: LongArray  # (B, 1), the row's maximum, or 0 where that is not usable
    mass: LongArray  # (B, L), a token's sum of exponentials relative to its own maximum
    weight: LongArray  # (B, L), the same relative to the row's
    total: LongArray  # (B,), the sum of the weights


def weigh(rows: Rows) -> Weights:
    """Sum the exponentials of each token and of each row."""
    # A token's mass is relative to the token's own maximum, so it is between 1 and K whatever the other
    # tokens hold.
    token_max = rows.x.max(axis=2, initial=-np.inf)
    row_max = token_max.max(axis=1, initial=-np.inf)
    # The row's maximum decides alone: -inf, nothing is there; +inf or NaN (which maximum passes on), no
    # answer.
    usable = np.isfinite(row_max)
    origin = np.where(usable, row_max, 0).astype(np.longdouble)[:, None]
    own = mass(rows.x, token_max, rows.scale)
    weight = own * mass(token_max[:, :, None], np.broadcast_to(origin, own.shape), rows.scale)
    return Weights(token_max, row_max, usable, origin, own, weight, weight.sum(axis=1))


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
    rows = as_rows(a, batch_axis, keep_axis, scale, where, lengths)
    with np.errstate(all="ignore"):
        w = weigh(rows)
        alpha = _log_alpha(rows, w) if log else w.weight / w.total[:, None]
        nothing = -np.inf if log else 0
        instead = np.where(w.row_max == -np.inf, nothing, np.nan)
        alpha = np.where(w.usable[:, None], alpha, instead[:, None])
        lse = np.where(w.usable, w.origin[:, 0] * rows.scale + np.log(w.total), w.row_max)
    alpha = rows.to_result(alpha)
    return (alpha, lse.reshape(rows.batch_shape)) if return_lse else alpha


@overload
def fagg_packed(
    a: ArrayLike,
    offsets: ArrayLike,
    *,
    scale: float = ...,
    log: bool = ...,
    return_lse: Literal[False] = ...,
) -> LongArray: ...


@overload
def fagg_packed(
    a: ArrayLike,
    offsets: ArrayLike,
    *,
    scale: float = ...,
    log: bool = ...,
    return_lse: Literal[True],
) -> tuple[LongArray, LongArray]: ...


def fagg_packed(
    a: ArrayLike,
    offsets: ArrayLike,
    *,
    scale: float = 1.0,
    log: bool = False,
    return_lse: bool = False,
) -> LongArray | tuple[LongArray, LongArray]:
    """Aggregate ragged rows that lie one behind the other as precisely as `oracle` does.

    Parameters
    ----------
    a : array_like, shape (T, ...)
        The logits of T tokens, of any rank from 1 on; all axes but the first are summed.
    offsets : array_like of int, shape (B + 1,)
        Row b is ``a[offsets[b]:offsets[b + 1]]``. From 0 to T, never falling: rows may be empty.
    scale, log, return_lse
        As in `oracle`.

    Returns
    -------
    alpha : ndarray of longdouble, shape (T,)
        The tokens of each row sum to 1; what else a row can be is as in `oracle`.
    lse : ndarray of longdouble, shape (B,)
        Only if `return_lse`. -inf for an empty row.

    Raises
    ------
    TypeError
        If `a` is not real, or `offsets` are not integers.
    ValueError
        If `a` is a scalar, if `scale` is not positive and finite, or if `offsets` do not go from 0 to T.

    Examples
    --------
    >>> import numpy as np
    >>> alpha, lse = fagg_packed(np.zeros((3, 2)), [0, 2, 2, 3], return_lse=True)
    >>> alpha.astype(float)
    array([0.5, 0.5, 1. ])
    >>> lse.astype(float).round(3)
    array([1.386,  -inf, 0.693])
    """
    tokens = real("a", a)
    if tokens.ndim == 0:
        raise ValueError("a must have an axis of tokens, got a scalar")
    bounds = _bounds(offsets, len(tokens))
    sizes = np.diff(bounds)
    alpha = np.empty(len(tokens), np.longdouble)
    lse = np.empty(len(sizes), np.longdouble)
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        where = bounds[rows][:, None] + np.arange(size)
        alpha[where], lse[rows] = oracle(tokens[where], scale=scale, log=log, return_lse=True)
    return (alpha, lse) if return_lse else alpha


def _log_alpha(rows: Rows, w: Weights) -> LongArray:
    alpha: LongArray = np.log(w.mass / w.total[:, None]) + (w.token_max - w.origin) * rows.scale
    if w.weight.size:
        # Only the largest token can have alpha > 1/2, where the logarithm of a rounded ratio loses
        # everything: log(w / (w + rest)) = -log1p(rest / w), and 0 - x rather than -x for there is
        # no -0.0 in a logarithm.
        row = np.arange(len(w.weight))
        largest = w.weight.argmax(axis=1)
        rest = w.weight.copy()
        rest[row, largest] = 0
        alpha[row, largest] = 0 - np.log1p(rest.sum(axis=1) / w.weight[row, largest])
    return alpha


def _bounds(offsets: ArrayLike, tokens: int) -> NDArray[np.intp]:
    given: Any = np.asarray(offsets)
    if given.ndim != 1:
        raise ValueError(f"offsets must be of shape (B + 1,), got {given.shape}")
    bounds = [operator.index(one) for one in given.tolist()]
    if not bounds or bounds != sorted(bounds) or bounds[0] != 0 or bounds[-1] != tokens:
        raise ValueError(f"offsets must go from 0 to {tokens} and never fall, got {given}")
    return np.array(bounds, np.intp)
