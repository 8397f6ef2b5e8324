"""Import and first call, each sample in a new process, in turns."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from typing import Any

from nbfagg.bench.text import duration, table

from .record import caption, progress

SAMPLES = 15
COLD_SAMPLES = 3
CALL = "import numpy, nbfagg; nbfagg.fagg(numpy.zeros({}, 'float32'))"
SIDES = {
    "import numpy": "import numpy",
    "import nbfagg": "import nbfagg",
    "import numba": "import numba",
    "first call, small": CALL.format((3, 10, 2, 10)),
    "first call, threaded": CALL.format((32, 512, 12, 64)),
}
COLD = "first call, small, nothing compiled yet"

TIMED = """\
import sys, time
start = time.perf_counter()
{}
print(time.perf_counter() - start, "numba" in sys.modules)
"""


def measure(rounds: int | None) -> dict[str, Any]:
    for statement in SIDES.values():  # fills Numba's cache and the system's
        _sample(statement)
    seconds: dict[str, list[float]] = {name: [] for name in SIDES}
    for turn in range(rounds or SAMPLES):
        for name in list(SIDES)[:: -1 if turn % 2 else 1]:
            took, numba_imported = _sample(SIDES[name])
            if name == "import nbfagg" and numba_imported:
                raise RuntimeError("import nbfagg has imported numba")
            seconds[name].append(took)
    seconds[COLD] = [_cold() for _ in range(min(rounds or COLD_SAMPLES, COLD_SAMPLES))]
    medians = {name: statistics.median(took) for name, took in seconds.items()}
    for name, took in medians.items():
        progress("startup", f"{name}: {took * 1e3:.0f} ms")
    return {"seconds": medians}


def _sample(statement: str, **environment: str) -> tuple[float, bool]:
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(statement)],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    took, numba_imported = done.stdout.split()
    return float(took), numba_imported == "True"


def _cold() -> float:
    with tempfile.TemporaryDirectory() as empty:
        return _sample(SIDES["first call, small"], NUMBA_CACHE_DIR=empty)[0]


def render(found: dict[str, Any]) -> str:
    seconds = found["seconds"]
    # Of nbfagg there is none: it imports neither.
    base = {
        "first call, small": "import numba",
        "first call, threaded": "import numba",
        COLD: "import numba",
    }
    rows = []
    for name, took in seconds.items():
        more = ""
        if name in base:
            difference = took - seconds[base[name]]
            more = f"{'-' if difference < 0 else '+'}{duration(abs(difference))} to `{base[name]}`"
        rows.append([f"`{name}`" if name.startswith("import") else name, duration(took), more])
    return (
        table(["in a new process", "median", "difference"], rows) + "\n\n" + caption(found, "numba", "numpy")
    )
