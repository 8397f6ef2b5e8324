"""The operation in a line each: without a shift, with one for the whole array, with one per batch row."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nbfagg.reference.rows import FloatArray, masks


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


def fagg_stable(
    a: ArrayLike, *, where: ArrayLike | None = None, lengths: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Aggregate logits after subtracting each batch row's own maximum, in float64.

    f(A + c) = f(A) for a constant c per batch row, so the shift changes nothing but the range: the largest
    exponential of every batch row is 1.

    Parameters
    ----------
    a : array_like, shape (B, L, N, H)
        Logits, natural log; converted to float64.
    where : array_like of bool, broadcastable to `a`
        True = include. What is excluded is as if it were not there.
    lengths : array_like of int, shape (B,)
        The number of tokens of each batch row that are included, from the first one on.

    Returns
    -------
    ndarray of float64, shape (B, L)
        Each batch row sums to 1, or is 0 where it has nothing included but -inf. A NaN or +inf at an
        included place makes its batch row NaN. The relative error is about 1e-16 * (1 + max(a) - min(a)):
        the rounded difference is what the exponential sees.

    Raises
    ------
    ValueError
        If `where` or `lengths` does not fit `a`.

    Examples
    --------
    >>> import numpy as np
    >>> fagg_stable(np.full((1, 2, 3, 1), 1e8))
    array([[0.5, 0.5]])
    >>> fagg_stable(np.full((2, 2, 3, 1), 1e8), lengths=[1, 0])
    array([[1., 0.],
           [0., 0.]])
    """
    x = np.asarray(a).astype(np.float64)
    for mask in masks(where, lengths, x.shape, (0,), (1,)):
        x = np.where(mask, x, -np.inf)
    top = x.max(axis=(1, 2, 3), keepdims=True, initial=-np.inf)
    # Guarded at the reference point: -inf minus -inf would count what is not there.
    nothing = top == -np.inf
    with np.errstate(all="ignore"):
        alpha = fagg(x - np.where(nothing, 0, top))
    return np.where(nothing[:, :, 0, 0], 0, alpha)


def _floating(a: ArrayLike) -> FloatArray:
    x = np.asarray(a)
    return x if x.dtype.kind == "f" else x.astype(np.float64)
