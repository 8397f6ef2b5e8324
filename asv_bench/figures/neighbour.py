"""A call while another program has one of two cores, against a call in quiet: on each threading layer.

python -m asv_bench.figures.neighbour LAYER ROUNDS SHAPE ...

prints what one layer does as JSON: a process can load but one.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numba
import numpy as np

import nbfagg
from nbfagg.bench.cases import CASES, logits
from nbfagg.bench.text import digits, duration, table
from nbfagg.cpu import team

from .hazard_cases import CALLS
from .record import ROOT, caption, progress

LAYERS = ("omp", "tbb", "workqueue")
SHAPES = ("tiny rows", "pose", "heads", "long rows")
LIBRARIES = ("fagg", "Numba by hand")
ROUNDS = 9
# Of calls, in quiet and beside the neighbour; and what is left to settle in between.
SECONDS, FEWEST, SETTLE = 0.3, 5, 2 * team.RESPITE

SPINNER = "import os, sys; os.sched_setaffinity(0, [int(sys.argv[1])])\nwhile True: pass"


def measure(rounds: int | None) -> dict[str, Any]:
    found = []
    for layer in LAYERS:
        run = subprocess.run(
            [sys.executable, "-m", "asv_bench.figures.neighbour", layer, str(rounds or ROUNDS), *SHAPES],
            cwd=ROOT,
            # Where pip puts tbb the loader looks only if it is told to.
            env={
                **os.environ,
                "NUMBA_THREADING_LAYER": layer,
                "NUMBA_NUM_THREADS": "2",
                "LD_LIBRARY_PATH": str(Path(sys.prefix) / "lib"),
            },
            stdout=subprocess.PIPE,
            check=False,
        )
        if run.returncode != 0:
            progress("neighbour", f"{layer} cannot be had")
            continue
        found += json.loads(run.stdout)
    return {"layers": found}


def render(found: dict[str, Any]) -> str:
    by = {(row["layer"], row["shape"], row["library"]): row for row in found["layers"]}
    rows = []
    for layer, name in dict.fromkeys((row["layer"], row["shape"]) for row in found["layers"]):
        cells = [layer, name, duration(by[layer, name, "fagg"]["quiet_seconds"])]
        for library in LIBRARIES:
            row = by[layer, name, library]
            cells.append(f"{digits(row['times'])}x, {digits(row['slow_times'])}x")
        rows.append(cells)
    head = ["threads", "shape", "fagg in quiet", *LIBRARIES]
    return table(head, rows) + "\n\n" + caption(found, "numba", "numpy")


@contextmanager
def _neighbour(core: int) -> Iterator[Callable[[bool], None]]:
    """Give a function that lets another program have a core, or have it wait."""
    spinner = subprocess.Popen([sys.executable, "-c", SPINNER, str(core)])
    try:
        yield lambda busy: spinner.send_signal(signal.SIGCONT if busy else signal.SIGSTOP)
    finally:
        spinner.kill()
        spinner.wait()


def _calls(call: Callable[[], object]) -> list[float]:
    """Time calls for a while."""
    took = []
    end = time.perf_counter() + SECONDS
    while (begin := time.perf_counter()) < end or len(took) < FEWEST:
        call()
        took.append(time.perf_counter() - begin)
    return took


def _sides(name: str) -> dict[str, Callable[[], Any]]:
    a = logits(CASES[name])
    by_hand = CALLS["Numba"]()
    sides = dict(zip(LIBRARIES, (lambda: nbfagg.fagg(a), lambda: by_hand(a)), strict=True))
    for call in sides.values():
        call()
    return sides


def _shape(layer: str, name: str, rounds: int, let: Callable[[bool], None]) -> list[dict[str, Any]]:
    """Take turns in quiet and beside the neighbour at one shape."""
    sides = _sides(name)
    quiet: dict[str, list[float]] = {side: [] for side in sides}
    times: dict[str, list[float]] = {side: [] for side in sides}
    slow: dict[str, list[float]] = {side: [] for side in sides}
    for _ in range(rounds):
        for busy in (False, True):
            let(busy)
            for side, call in sides.items():
                time.sleep(SETTLE)
                took = _calls(call)
                if busy:
                    times[side].append(statistics.median(took) / quiet[side][-1])
                    slow[side].append(float(np.quantile(took, 0.9)) / quiet[side][-1])
                else:
                    quiet[side].append(statistics.median(took))
    found = []
    for side in sides:
        figures = [statistics.median(of[side]) for of in (quiet, times, slow)]
        named = {"layer": layer, "library": side, "shape": name}
        found.append({**named, **dict(zip(("quiet_seconds", "times", "slow_times"), figures, strict=True))})
        progress("neighbour", f"{layer}, {side}, {name}: {figures[1]:.2f}, one in ten {figures[2]:.2f}")
    return found


def _layer(layer: str, rounds: int, shapes: list[str]) -> list[dict[str, Any]]:
    """Measure in this process, which has two cores."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    os.sched_setaffinity(0, cores)
    found = []
    with _neighbour(cores[1]) as let:
        for name in shapes:
            found += _shape(layer, name, rounds, let)
    if numba.threading_layer() != layer:  # type: ignore[attr-defined]
        raise SystemExit(f"{layer} was not loaded")
    return found


if __name__ == "__main__":
    json.dump(_layer(sys.argv[1], int(sys.argv[2]), sys.argv[3:]), sys.stdout)
