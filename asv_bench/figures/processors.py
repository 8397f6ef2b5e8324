"""One thread with the instructions of older processors, in cache, against this one's own and against SciPy.

Each has a process of its own (`NUMBA_CPU_NAME`), and all of them take turns.
"""

from __future__ import annotations

import importlib.util
import os
import statistics
import subprocess
import sys
from contextlib import ExitStack
from typing import Any

from nbfagg.bench.text import digits, duration, shape, table
from nbfagg.bench.turns import ratio

from .record import caption, progress

SHAPES = {
    "heads": (8, 64, 12, 64),
    "pose": (16, 1024, 2, 10),
    "tiny rows": (8192, 16, 4, 1),
    "long row": (1, 4, 1, 1 << 17),
}
ROUNDS = 25
OWN, SCIPY = "this one", "SciPy softmax"
PROCESSORS = {
    OWN: {},
    "AVX2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""},
    "SSE4.2, no FMA": {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""},
    SCIPY: {},
}
# Times a call of a shape whenever it is told a number of calls.
CHILD = """
import functools, sys, time
import numpy as np
import nbfagg
from nbfagg.bench.peers import make

a = np.random.default_rng(0).standard_normal({shape}, dtype=np.float32)
call = make("SciPy softmax", a) if {scipy} else functools.partial(nbfagg.fagg, a, workers=1)
call()
for line in sys.stdin:
    for _ in range(int(line)):
        call()
    start = time.perf_counter()
    for _ in range(int(line)):
        call()
    print((time.perf_counter() - start) / int(line), flush=True)
"""


class _Child:
    """A process that times calls when it is told to."""

    def __init__(self, name: str, size: tuple[int, ...]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", CHILD.format(shape=size, scipy=name == SCIPY)],
            env={**os.environ, **PROCESSORS[name]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def seconds(self, calls: int) -> float:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(calls, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def measure(rounds: int | None) -> dict[str, Any]:
    found = []
    # A peer that is not installed is left out.
    sides = [side for side in PROCESSORS if side != SCIPY or importlib.util.find_spec("scipy")]
    for name, size in SHAPES.items():
        with ExitStack() as stack:
            children = {side: stack.enter_context(_Child(side, size)) for side in sides}
            calls = {side: max(1, int(0.01 / child.seconds(1))) for side, child in children.items()}
            seconds: dict[str, list[float]] = {side: [] for side in children}
            for turn in range(rounds or ROUNDS):
                for side in list(children)[:: -1 if turn % 2 else 1]:
                    seconds[side].append(children[side].seconds(calls[side]))
        times = {side: ratio(took, seconds[OWN]) for side, took in seconds.items()}
        progress("processors", f"{name}: " + ", ".join(f"{side} {times[side]:.2f}x" for side in times))
        found.append(
            {"name": name, "shape": size, "seconds": statistics.median(seconds[OWN]), "times": times}
        )
    return {"shapes": found}


def render(found: dict[str, Any]) -> str:
    rows = []
    for row in found["shapes"]:
        times = row["times"]
        others = (f"{digits(times[side])}x" for side in list(times)[1:])
        rows.append([f"{row['name']}, {shape(row['shape'])}", duration(row["seconds"]), *others])
    columns = ["one thread, in cache", found["machine"]["simd"], *list(found["shapes"][0]["times"])[1:]]
    return table(columns, rows) + "\n\n" + caption(found, "numba", "numpy", "scipy")
