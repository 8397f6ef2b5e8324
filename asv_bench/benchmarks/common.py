"""What the benchmarks share: shapes by what asv shows of them, and functions of the version at hand."""

from __future__ import annotations

import contextlib
import functools
import inspect
import math
import os
import statistics
from collections.abc import Callable
from typing import Any

import numba  # noqa: F401
import numpy as np

from nbfagg.bench.cases import CASES, Case, logits
from nbfagg.bench.text import shape, size

# asv forks a process for every benchmark and parameter from one that has imported this (forkserver): 0.3 s
# less for each, and 1.4 s where PyTorch is imported. Nothing may run here: threads do not survive a fork.
with contextlib.suppress(ImportError):
    import torch  # noqa: F401


class Timed:
    """How asv samples: kernels compile in setup, which takes up to a minute once a commit.

    One process each and few samples: regressions are looked for above a quarter, and what is claimed more
    exactly comes from sides that take turns. A second process took as long to start and to fill its arrays as
    it then measured.
    """

    timeout = 600
    rounds = 1
    repeat = (4, 10, 0.6)
    sample_time = 0.01
    warmup_time = 0.05


def labels(*names: str) -> list[str]:
    """Name shapes with their axes and the bytes of their logits in float32."""
    return [f"{name} {shape(CASES[name].shape)} {size(4 * math.prod(CASES[name].shape))}" for name in names]


def quick() -> bool:
    """Say whether this is a smoke test: everything runs, of arrays that cost nothing."""
    return bool(os.environ.get("NBFAGG_BENCH_QUICK"))


def case(label: str) -> Case:
    """Give the shape of a label."""
    name = next(name for name in CASES if label.startswith(f"{name} ("))
    found = CASES[name]
    if not quick():
        return found
    return Case(tuple(min(n, 4) for n in found.shape), found.keep_axis, found.order)


def anew(a: np.ndarray, measure: Callable[[np.ndarray], float]) -> float:
    """Give the median of what is measured of three copies of the logits.

    Where the pages of an array lie in the caches is luck that lasts as long as the array does: ratios of
    one array each differed by up to a quarter between two processes, however many turns they took.
    """
    copies = [a if quick() else a.copy(order="K") for _ in range(3)]
    return statistics.median(measure(copy) for copy in copies)


def turns(rounds: int) -> dict[str, Any]:
    """Give the turns of a comparison."""
    return {"rounds": 1, "settle": 0.0, "block": 0.0} if quick() else {"rounds": rounds}


def public(name: str, *keywords: str) -> Any:
    """Give what nbfagg has by this name; asv shows n/a for a version without it, or without a keyword."""
    import nbfagg

    try:
        found = functools.reduce(getattr, name.split("."), nbfagg)
    except AttributeError:
        raise NotImplementedError(f"this version has no {name}") from None
    missing = [keyword for keyword in keywords if keyword not in inspect.signature(found).parameters]
    if missing:
        raise NotImplementedError(f"{name} of this version has no {', '.join(missing)}")
    return found


def cotangent(shape_: tuple[int, ...], dtype: str = "float32") -> np.ndarray:
    """Give the gradient of a loss with respect to a result."""
    return np.random.default_rng(1).standard_normal(shape_, np.dtype(dtype))


def options(label: str) -> dict[str, dict[str, Any]]:
    """Give what each keyword but `out` is tried with at a shape, by what asv calls it."""
    a = logits(case(label))
    batch, tokens = a.shape[:2]
    rng = np.random.default_rng(1)
    return {
        "plain": {},
        "where": {"where": rng.random(a.shape, np.float32) < 0.8},
        "where, by token": {"where": np.ones((batch, tokens, 1, 1), bool)},
        "lengths": {"lengths": rng.permutation(np.linspace(0, tokens, batch).astype(int))},
        "scale": {"scale": 64**-0.5},
        "log": {"log": True},
        "return_lse": {"return_lse": True},
        "workers": {"workers": 1},
        "batch_axis, keep_axis": {"batch_axis": (0, 1), "keep_axis": (2, 3)},
    }


OPTIONS = [
    "plain",
    "where",
    "where, by token",
    "lengths",
    "scale",
    "log",
    "return_lse",
    "workers",
    "batch_axis, keep_axis",
    "out",
]
