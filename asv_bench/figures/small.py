"""A small call against NumPy's stable form, the faster of the two ways to write it."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

from nbfagg import fagg
from nbfagg.bench.cases import CASES, logits
from nbfagg.bench.peers import make
from nbfagg.bench.text import digits, duration, shape, table
from nbfagg.bench.turns import alternate, fastest, ratio

from .record import caption, progress

BATCHES = 25
NUMPY = ("NumPy", "NumPy, ufuncs only")


def measure(rounds: int | None) -> dict[str, Any]:
    case = CASES["small call"]
    a = logits(case)
    sides = {"fagg": partial(fagg, a), **{name: make(name, a) for name in NUMPY}}
    seconds = alternate(sides, rounds=rounds or BATCHES, settle=0.005)
    best = fastest(seconds, NUMPY)
    times = ratio(seconds[best], seconds["fagg"])
    medians = {name: statistics.median(took) for name, took in seconds.items()}
    progress(
        "small",
        f"fagg {medians['fagg'] * 1e6:.2f} µs, {best} {medians[best] * 1e6:.2f} µs, {times:.2f} times",
    )
    return {"shape": case.shape, "seconds": medians, "best_numpy": best, "numpy_over_fagg": times}


def render(found: dict[str, Any]) -> str:
    seconds = found["seconds"]
    rows = [[name, duration(took), f"{digits(took / seconds['fagg'])}x"] for name, took in seconds.items()]
    return (
        table([shape(found["shape"]), "a call", "times fagg"], rows)
        + "\n\n"
        + caption(found, "numba", "numpy")
    )
