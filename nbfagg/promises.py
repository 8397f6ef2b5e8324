"""The promises as numbers: by how much a result may differ from the exact one, and by how much it does.

In units in the last place (ulp) of the result:

* alpha: 2 for float32, 3 for float64; where the exact value is below the smallest normal float32, one
  subnormal step.
* log alpha and lse: those of alpha and 2 more, in ulp of max(1, abs(exact)). A logarithm turns the relative
  error of a sum into an absolute one of the same size, which is alpha's bound; taking the logarithm and
  adding the exponent that was split off round once each, at the size of the result or of 1, whichever is
  larger.
* A gradient: 4 for float32, 8 for float64, in ulp of the formula's largest term, for the terms cancel; and
  one smallest subnormal step. Two terms have alpha as a factor, which is within 2 or 3; and float64 has
  nothing wider to round a token's factor in (the worst seen is 6.6). Of the logarithm, what
  the rounding of log alpha makes of it on top.
* float16 and bfloat16: what float32 may be, rounded once.

NaN, infinities and zeros that are exact must come out as themselves. The exact values are longdouble arrays,
as `nbfagg.reference` gives them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nbfagg.reference.ulp import ulp

BOUND = {"float32": 2.0, "float64": 3.0}
LOG_EXTRA = 2.0
GRADIENT_BOUND = {"float32": 4.0, "float64": 8.0}
# Terms so many octaves below others may count as 0 in a gradient: of the logarithm, below the largest of
# their token, else of the row. The floor lies 180 (1200) octaves below the reference point, which is up to 2
# above the largest.
FLUSHED_LOG = {"float32": 98, "float64": 1038}
FLUSHED = {"float32": 178, "float64": 1198}

Array = npt.NDArray[Any]
Long = npt.NDArray[np.longdouble]


def unit(exact: Long, what: str, dtype: npt.DTypeLike) -> Long:
    """Give the ulp that errors are counted in; `what` is "alpha", "log" or "lse"."""
    sizes = exact if what == "alpha" else np.maximum(1, abs(exact))
    return ulp(np.where(np.isfinite(sizes), sizes, 1), dtype)


def bound(exact: Long, what: str, dtype: npt.DTypeLike) -> Any:
    """Give how many of them are allowed."""
    dtype = np.dtype(dtype)
    most = BOUND[dtype.name]
    if what != "alpha":
        return most + LOG_EXTRA
    return np.where((exact < np.finfo(dtype).tiny) & (dtype == np.float32), 1.0, most)


def as_itself(result: Array, exact: Long, what: str, error: Array) -> npt.NDArray[np.float64]:
    """Replace errors where a value has to come out as itself: they are 0 or infinite."""
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = exact.astype(result.dtype)
    # Infinities are also what is beyond the dtype; and what is finite has to be something finite.
    itself = ~np.isfinite(rounded) | ((exact == 0) & (what == "alpha")) | ~np.isfinite(result)
    same = (result == rounded) | (np.isnan(result) & np.isnan(rounded))
    judged: npt.NDArray[np.float64] = np.where(itself, np.where(same, 0.0, np.inf), error)
    return judged


def errors(result: Array, exact: Long, what: str) -> npt.NDArray[np.float64]:
    """Give the errors of float32 or float64 results in ulp."""
    with np.errstate(over="ignore", invalid="ignore"):
        error = (abs(result - exact) / unit(exact, what, result.dtype)).astype(np.float64)
    return as_itself(result, exact, what, error)


def share_of_bound(result: Array, exact: Long, what: str) -> npt.NDArray[np.float64]:
    """Give each error as a share of what is allowed, also of half precision: there 0 or infinite."""
    if result.dtype.itemsize > 2:
        share: npt.NDArray[np.float64] = errors(result, exact, what) / bound(exact, what, result.dtype)
        return share
    with np.errstate(invalid="ignore"):
        allowed = bound(exact, what, np.float32) * unit(exact, what, np.float32)
    return _rounded_once(result, exact, allowed)


def share_of_gradient_bound(
    result: Array, exact: Long, largest: Long, extra: Any = 0.0, flushed: Any = False
) -> npt.NDArray[np.float64]:
    """Give the errors of a gradient as shares of what is allowed.

    Parameters
    ----------
    result : ndarray
        The gradient.
    exact, largest : ndarray of longdouble
        From `nbfagg.reference.fagg_vjp_terms`.
    extra : array_like
        Units that are allowed beside the bound.
    flushed : array_like of bool
        Where a result of 0 is right as well.

    Returns
    -------
    ndarray of float64
        Infinite where a value has to come out as itself and did not.
    """
    half = result.dtype.itemsize == 2
    dtype = np.dtype(np.float32) if half else result.dtype
    size = np.maximum(largest, abs(exact))
    units = ulp(np.where(np.isfinite(size), size, 1), dtype)
    allowed = (GRADIENT_BOUND[dtype.name] + extra) * units + np.finfo(dtype).smallest_subnormal
    if half:
        share = _rounded_once(result, exact, allowed)
    else:
        with np.errstate(over="ignore", invalid="ignore"):
            error = (abs(result - exact) / allowed).astype(np.float64)
        share = as_itself(result, exact, "gradient", error)
    share = np.where((result == 0) & flushed, 0.0, share)
    return np.where((exact == 0) & (largest == 0) & (result != 0), np.inf, share)


def _rounded_once(result: Array, exact: Long, allowed: Long) -> npt.NDArray[np.float64]:
    """Give 0 where a half is some float32 within `allowed` of the exact value, rounded, else infinity."""
    with np.errstate(all="ignore"):
        low, high = ((exact + sign * allowed).astype(np.float32) for sign in (-1, 1))
        low = np.where(low < exact - allowed, np.nextafter(low, np.float32(np.inf)), low).astype(result.dtype)
        high = np.where(high > exact + allowed, np.nextafter(high, np.float32(-np.inf)), high)
        given, low, high = (x.astype(np.float32) for x in (result, low, high.astype(result.dtype)))
    same = np.isnan(given) & np.isnan(exact)
    return np.where(((low <= given) & (given <= high)) | same, 0.0, np.inf)
