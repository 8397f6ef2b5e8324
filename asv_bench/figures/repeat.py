"""The ratios that asv tracks, of this commit measured twice: how far apart they are.

Each is measured in a process of its own, as asv does it, and the second time after all others.
"""

from __future__ import annotations

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
# Both print JSON: the parameters of a benchmark; and a ratio, null where this machine has not what it takes.
PARAMETERS = """
import importlib, json, sys

module, name, _ = json.loads(sys.argv[1])
print(json.dumps(getattr(importlib.import_module("asv_bench.benchmarks." + module), name).params))
"""
RATIO = """
import importlib, json, sys

(module, name, method), parameters = json.loads(sys.argv[1])
benchmark = getattr(importlib.import_module("asv_bench.benchmarks." + module), name)()
try:
    benchmark.setup(*parameters)
    print(json.dumps(getattr(benchmark, method)(*parameters)))
except NotImplementedError:
    print("null")
"""


def measure(rounds: int | None) -> dict[str, Any]:
    every = [
        (tracked, parameters)
        for tracked in TRACKED
        for parameters in itertools.product(*_child(PARAMETERS, tracked))
    ][:rounds]
    first = {one: found for one in every if (found := _ratio(*one)) is not None}
    second = {one: found for one in first if (found := _ratio(*one)) is not None}
    return {
        "ratios": [
            {"benchmark": ".".join(one[0]), "parameters": one[1], "ratios": [first[one], second[one]]}
            for one in second
        ]
    }


def _ratio(tracked: tuple[str, ...], parameters: tuple[str, ...]) -> float | None:
    found: float | None = _child(RATIO, (tracked, parameters))
    progress("repeat", f"{' '.join((*tracked, *parameters))}: {found}")
    return found


def _child(code: str, given: Any) -> Any:
    # Threads wait asleep, as in asv's own runs.
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(given)],
        cwd=ROOT,
        env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)


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
