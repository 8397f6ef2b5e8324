"""Kinds of logits that errors are looked for in, and errors in units in the last place."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Kind = Callable[[np.random.Generator, Shape], NDArray[np.float32]]


def _one_hot(rng: np.random.Generator, shape: Shape) -> NDArray[np.float32]:
    x = np.full((shape[0], math.prod(shape[1:])), -110.0, np.float32)
    x[np.arange(shape[0]), rng.integers(x.shape[1], size=shape[0])] = 0.1
    return x.reshape(shape)


def _geometric(rng: np.random.Generator, shape: Shape) -> NDArray[np.float32]:
    """Let exp(a) fall by a constant factor from element to element, from 1 to exp(-110) over the row."""
    tail = np.linspace(0, -110, math.prod(shape[1:]), dtype=np.float32)
    return np.repeat(tail[None], shape[0], axis=0).reshape(shape)


# float32 throughout, so that both dtypes have the same exact values to find.
KINDS: dict[str, Kind] = {
    "N(0, 1)": lambda rng, shape: rng.standard_normal(shape, np.float32),
    "N(0, 30)": lambda rng, shape: 30 * rng.standard_normal(shape, np.float32),
    "uniform ±110": lambda rng, shape: 220 * rng.random(shape, np.float32) - 110,
    "N(0, 1) + 1e4": lambda rng, shape: 10_000 + rng.standard_normal(shape, np.float32),
    "N(0, 1) - 1e4": lambda rng, shape: rng.standard_normal(shape, np.float32) - 10_000,
    "all equal": lambda rng, shape: np.full(shape, 88.723, np.float32),
    "geometric tails": _geometric,
    "one-hot": _one_hot,
}


def gradient_errors(
    got: NDArray[Any], grad: NDArray[Any], a: NDArray[Any], *, log: bool
) -> NDArray[np.longdouble]:
    """Give the errors of a gradient in ulp of the largest term that its formula adds up.

    Parameters
    ----------
    got : (B, L, N, H) array
        What `nbfagg.fagg_vjp` gave.
    grad : (B, L) array
        The gradient of alpha, or with `log` of its logarithm.
    a : (B, L, N, H) array
        The logits.
    log : bool
        Of which of them.

    Returns
    -------
    (B, L, N, H) array
        Errors, none of them negative.
    """
    from nbfagg.reference import fagg_vjp_terms

    exact, largest = fagg_vjp_terms(grad, a, log=log)
    size = np.maximum(np.maximum(largest, np.abs(exact)), np.finfo(got.dtype).smallest_normal)
    unit = np.spacing(size.astype(got.dtype)).astype(np.longdouble)
    errors: NDArray[np.longdouble] = np.abs(got.astype(np.longdouble) - exact) / unit
    return errors
