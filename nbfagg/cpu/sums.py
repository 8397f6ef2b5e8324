"""Sums of vectors, wider than their terms: float64 for float32, a compensated pair for float64."""

import numba
import numpy as np
from numba import types
from numba.extending import overload

from nbfagg.cpu.vector import F32, add, splat, sub, total, total_exactly, widen


def nothing(like):
    """Give an empty wide sum."""
    raise NotImplementedError("for compiled code")


@overload(nothing)
def _nothing(like):
    if like == types.float32:
        return lambda like: widen(splat(like, np.float32(0.0)))
    return lambda like: (splat(like, 0.0), splat(like, 0.0))


@numba.njit(error_model="numpy")
def add_exactly(pair, x):
    """Add x to the unevaluated sum high + low (Knuth's two-sum: any order of magnitudes)."""
    high, low = pair
    whole = add(high, x)
    part = sub(whole, high)
    return whole, add(low, add(sub(high, sub(whole, part)), sub(x, part)))


def include(wide, x):
    """Add the vector x of the logits' type to a wide sum."""
    raise NotImplementedError("for compiled code")


@overload(include)
def _include(wide, x):
    if x == F32:
        return lambda wide, x: add(wide, widen(x))
    return lambda wide, x: add_exactly(wide, x)


def include_two(wide, x, y):
    """Add two vectors to a wide sum; float32 lanes may be added to each other first."""
    raise NotImplementedError("for compiled code")


@overload(include_two)
def _include_two(wide, x, y):
    if x == F32:
        return lambda wide, x, y: add(wide, widen(add(x, y)))
    return lambda wide, x, y: add_exactly(add_exactly(wide, x), y)


def collapse(wide):
    """Give the sum of a wide sum's lanes."""
    raise NotImplementedError("for compiled code")


@overload(collapse)
def _collapse(wide):
    if isinstance(wide, types.BaseTuple):
        return lambda wide: total_exactly(wide[0], wide[1])
    return lambda wide: total(wide)
