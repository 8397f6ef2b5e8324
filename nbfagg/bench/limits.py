"""The limit time of a shape: what moving its bytes takes when nothing is computed with them.

It is the time of

* a plain threaded read of `a`: its maximum, by whoever is fastest;
* a fill of an array like the result, by whoever is fastest;
* where the result of one batch row does not fit the caches, a scaling in place of an array like the result.
  Nobody can know the row's sum before its last logit, so what was written must come back from memory to be
  divided. The rule: more than 1 MiB a core, what the L2 caches of current server cores hold.

The parts take turns with fagg in one process; each part's fastest candidate counts.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from functools import partial
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

import nbfagg

from .cases import Case
from .turns import Call, alternate, fastest, ratio

CACHE_BYTES_A_CORE = 2**20


def compiled(function: Any) -> Any:
    """Compile for all threads, kept on disk where there is a folder to write to."""
    try:
        return numba.njit(parallel=True, cache=True)(function)
    except RuntimeError:
        return numba.njit(parallel=True)(function)


@compiled
def _read(bits: Any, pieces: int) -> Any:
    """Give the largest element, its bits taken for an integer: one of floats would not be vectorised."""
    found = np.empty(pieces, bits.dtype)
    for p in numba.prange(pieces):
        x = bits[p * bits.size // pieces : (p + 1) * bits.size // pieces]
        largest = x[0]
        for i in range(x.size):
            largest = max(largest, x[i])
        found[p] = largest
    return found.max()


@compiled
def _fill(y: Any, value: Any, pieces: int) -> None:
    for p in numba.prange(pieces):
        y[p * y.size // pieces : (p + 1) * y.size // pieces] = value


@compiled
def _clear(octets: Any, pieces: int) -> None:
    """Set bytes to 0: it becomes the C library's memset, which goes past the caches where that pays."""
    for p in numba.prange(pieces):
        octets[p * octets.size // pieces : (p + 1) * octets.size // pieces] = 0


@compiled
def _scale(y: Any, factor: Any, pieces: int) -> None:
    for p in numba.prange(pieces):
        z = y[p * y.size // pieces : (p + 1) * y.size // pieces]
        for i in range(z.size):
            z[i] *= factor


@compiled
def _copy(target: Any, source: Any, pieces: int) -> None:
    for p in numba.prange(pieces):
        target[p * source.size // pieces : (p + 1) * source.size // pieces] = source[
            p * source.size // pieces : (p + 1) * source.size // pieces
        ]


def memory_of(a: NDArray[Any]) -> NDArray[Any]:
    """Give the elements of `a` in memory's order, as one axis and without a copy."""
    order = sorted(range(a.ndim), key=lambda axis: -a.strides[axis])
    flat = a.transpose(order).reshape(-1)
    if not np.may_share_memory(flat, a):
        raise ValueError(f"an array with strides {a.strides} and shape {a.shape} has gaps in memory")
    return flat


def _torch() -> Any:
    try:
        import torch
    except ImportError:
        return None
    return torch


def outgrows_caches(row_bytes: int) -> bool:
    """Say whether the result of one batch row has to come back from memory to be scaled."""
    return row_bytes > CACHE_BYTES_A_CORE * numba.get_num_threads()


def parts(a: NDArray[Any], case: Case) -> dict[tuple[str, str], Call]:
    """Give the candidates, by (part, who). The parts are read, fill, and scale where it counts.

    "new" is a fill of an array that is allocated for it, as fagg allocates its result when it is given none.
    """
    torch = _torch()
    x = memory_of(a)
    y = np.ones(math.prod(case.result_shape), a.dtype)
    one = y.dtype.type(1)
    # Never more threads than elements: a piece has a first element.
    pieces = min(numba.get_num_threads(), y.size, x.size)
    bits = x.view(f"i{x.itemsize}")

    calls: dict[tuple[str, str], Call] = {
        ("read", "numba"): lambda: _read(bits, pieces),
        ("read", "numpy"): x.max,
        ("fill", "numba"): lambda: _fill(y, one, pieces),
        ("fill", "numba memset"): lambda: _clear(y.view(np.uint8), pieces),
        ("fill", "numpy"): lambda: y.fill(1),
        ("new", "numba"): lambda: _fill(np.empty_like(y), one, pieces),
        ("new", "numba memset"): lambda: _clear(np.empty(y.nbytes, np.uint8), pieces),
        ("new", "numpy"): lambda: np.full(y.shape, one),
        ("scale", "numba"): lambda: _scale(y, one, pieces),
        ("scale", "numpy"): lambda: np.multiply(y, one, out=y),
    }
    if torch is not None:
        tx, ty = torch.from_numpy(x), torch.from_numpy(y)
        calls |= {
            ("read", "torch"): tx.max,
            ("fill", "torch"): lambda: ty.fill_(1),
            ("new", "torch"): lambda: torch.full(ty.shape, 1, dtype=ty.dtype),
            ("scale", "torch"): lambda: ty.mul_(1.0),
        }
    if not outgrows_caches(y.nbytes // case.shape[0]):
        calls = {key: call for key, call in calls.items() if key[0] != "scale"}
    return calls


def copies(a: NDArray[Any], target: NDArray[Any]) -> dict[tuple[str, str], Call]:
    """Give the candidates for a copy of `a`, the limit of a gradient, into `target` of the same layout."""
    source, place = memory_of(a), memory_of(target)
    pieces = min(numba.get_num_threads(), source.size)
    calls: dict[tuple[str, str], Call] = {
        ("copy", "numba"): lambda: _copy(place, source, pieces),
        ("copy", "numpy"): lambda: np.copyto(place, source),
    }
    if (torch := _torch()) is not None:
        tensor, filled = torch.from_numpy(source), torch.from_numpy(place)
        calls["copy", "torch"] = lambda: filled.copy_(tensor)
    return calls


def limit_rounds(seconds: Mapping[Any, list[float]], *names: str) -> tuple[list[float], dict[str, str]]:
    """Give each round's limit time, and who was fastest at each of these parts; a part not measured is 0."""
    best = {}
    for name in names:
        candidates = [key for key in seconds if isinstance(key, tuple) and key[0] == name]
        if candidates:
            best[name] = fastest(seconds, candidates)
    rounds = [sum(times) for times in zip(*(seconds[key] for key in best.values()), strict=True)]
    return rounds, {name: who for name, (_, who) in best.items()}


def share_of_limit(a: NDArray[Any], case: Case, **turns: Any) -> dict[str, Any]:
    """Give limit time over fagg's, with the result's array given (`out`) and with one allocated (`new`)."""
    out = np.empty(case.result_shape, a.dtype)
    sides: dict[Any, Call] = {
        "out": partial(nbfagg.fagg, a, keep_axis=case.keep_axis, out=out),
        "new": partial(nbfagg.fagg, a, keep_axis=case.keep_axis),
        **parts(a, case),
    }
    seconds = alternate(sides, **turns)
    found: dict[str, Any] = {}
    for mine, fill in (("out", "fill"), ("new", "new")):
        limit, who = limit_rounds(seconds, "read", fill, "scale")
        took = statistics.median(seconds[mine])
        found[mine] = {
            "share": ratio(limit, seconds[mine]),
            "seconds": took,
            "limit_seconds": statistics.median(limit),
            "gb_per_s": a.nbytes / took / 1e9,
            "by": who,
        }
    found["parts_seconds"] = {
        f"{key[0]}, {key[1]}": statistics.median(times)
        for key, times in seconds.items()
        if isinstance(key, tuple)
    }
    return found
