"""By how much a result differs from the exact value."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray


def ulp(exact: ArrayLike, dtype: DTypeLike) -> NDArray[np.longdouble]:
    """Give the spacing of a dtype's numbers around exact values, never less than the smallest subnormal.

    Parameters
    ----------
    exact : array_like
        Finite numbers.
    dtype : dtype_like
        A floating dtype of NumPy's.

    Returns
    -------
    ndarray of longdouble
        A power of two for each.

    Examples
    --------
    >>> ulp([1.0, 0.75, 0.0], np.float64).astype(float)
    array([2.22044605e-016, 1.11022302e-016, 4.94065646e-324])
    """
    info = np.finfo(dtype)
    want = np.asarray(exact, np.longdouble)
    # frexp's fraction is in [0.5, 1), so the leading bit counts 2**(exponent - 1); frexp(0) has exponent 0.
    leading = np.where(want == 0, info.minexp, np.frexp(want)[1] - 1)
    spacing: NDArray[np.longdouble] = np.ldexp(
        np.longdouble(1), np.maximum(leading, info.minexp) - info.nmant
    )
    return spacing


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
    value, want = np.broadcast_arrays(got.astype(np.longdouble), np.asarray(exact, np.longdouble))
    with np.errstate(all="ignore"):
        error = np.abs(value - want) / ulp(want, got.dtype)
    finite = np.isfinite(value) & np.isfinite(want)
    same = (value == want) | (np.isnan(value) & np.isnan(want))
    return np.asarray(np.where(finite, error, np.where(same, 0.0, np.inf)), np.float64)
