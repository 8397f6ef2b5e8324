"""The ratios that asv tracks, of this commit measured twice: how far apart they are.

Each is measured in a process of its own, as asv does it, and the second time after all others.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
from typing import Any

from nbfagg.bench.text import table

from .record import ROOT, caption, progress

# Module, class, what gives the ratio.
TRACKED = (
    ("forward", "Limit", "track_limit_over"),
    ("gradient", "OverCopy", "track_copy_over"),
    ("peers", "Peer", "track_peer"),
)
GOAL = 0.10
# Prints a ratio; null where this machine has not what it takes.
CHILD = """
import importlib, json, sys

module, name, method, parameters = json.loads(sys.argv[1])
benchmark = getattr(importlib.import_module("asv_bench.benchmarks." + module), name)()
try:
    benchmark.setup(*parameters)
    print(json.dumps(getattr(benchmark, method)(*parameters)))
except NotImplementedError:
    print("null")
"""


def measure(rounds: int | None) -> dict[str, Any]:
    every = [
        (module, name, method, parameters)
        for module, name, method in TRACKED
        for parameters in itertools.product(*_benchmark(module, name).params)
    ][:rounds]
    first = {one: found for one in every if (found := _ratio(one)) is not None}
    second = {one: _ratio(one) for one in first}
    return {
        "ratios": [
            {
                "benchmark": f"{module}.{name}.{method}",
                "parameters": parameters,
                "ratios": [first[one], second[one]],
            }
            for one in first
            for module, name, method, parameters in [one]
        ]
    }


def _benchmark(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"asv_bench.benchmarks.{module}"), name)


def _ratio(one: tuple[Any, ...]) -> float | None:
    # Threads wait asleep, as in asv's own runs.
    environment = {**os.environ, "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(one)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    found: float | None = json.loads(done.stdout)
    progress("repeat", f"{' '.join(map(str, one[1:]))}: {found}")
    return found


def render(found: dict[str, Any]) -> str:
    apart: dict[str, list[float]] = {}
    for row in found["ratios"]:
        one, two = row["ratios"]
        apart.setdefault(row["benchmark"], []).append(math.expm1(abs(math.log(two / one))))
    rows = [
        [
            f"`{name}`",
            f"{sum(x <= GOAL for x in differences)} of {len(differences)}",
            f"{statistics.median(differences):.1%}",
            f"{max(differences):.0%}",
        ]
        for name, differences in apart.items()
    ]
    head = ["ratio", f"within {GOAL:.0%}", "median apart", "furthest apart"]
    return table(head, rows) + "\n\n" + caption(found, "numba", "numpy", "torch")
