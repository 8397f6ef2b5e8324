"""`nbfagg run` on a file three times its memory, against `cat FILE > /dev/null`: time and resident memory.

The page cache is emptied of the file before each cold turn (posix_fadvise), and holds it in each warm one as
a cat has left it. What a cold run leaves are smaller pages: from them a warm one took 1.6 s for 1.2.
How long a process takes to start, which a warm file of a few GB shows, is taken on a file of one row.
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from nbfagg.bench.text import shape, table

from .record import ROOT, caption, progress

ROW = (512, 12, 64)  # a batch row, 1.5 MiB
# The file is as large as the page cache can keep beside what else there is.
OF_CACHE = 0.6
AXES = {
    "the batch axis outermost": ("0", "1"),
    "the kept axis outermost": ("1", "0"),
    "one row": ("none", "0,1"),
}
# A file of so many times the machine's memory, cold, three times at most: a disk's speed comes and goes.
LARGE, OF_MEMORY = "the batch axis outermost", 1.25
ROW_BYTES = 4 * math.prod(ROW)
# Of the time that cat takes; and of resident memory beyond the budget.
GOAL, GOAL_MIB = 1.15, 200


def measure(rounds: int | None) -> dict[str, Any]:
    rows = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("NBFAGG_FIGURES_FOLDER")) as name:
        path = Path(name) / "in.npy"
        _write(path, 1)
        _run(path, 0, AXES["one row"])  # compiles
        start = statistics.median(_run(path, 0, AXES["one row"])[0] for _ in range(rounds or 5))
        batch = int(OF_CACHE * memory_bytes() / ROW_BYTES)
        nbytes = _write(path, batch)
        for what, axes in AXES.items():
            # A warm turn takes a second or two, in which a neighbour of the machine shows.
            for cache, times in (("cold", 1), ("warm", 3)):
                rows.append(_compare(path, axes, cache, times * (rounds or 5)) | {"what": what})
        # No cache can hold this one.
        large = int(OF_MEMORY * memory_bytes() / ROW_BYTES)
        path.unlink()
        if shutil.disk_usage(name).free > 1.1 * large * ROW_BYTES:
            size = _write(path, large)
            what = f"{LARGE}, {size / 2**30:.0f} GiB"
            rows.append(_compare(path, AXES[LARGE], "cold", min(rounds or 5, 3)) | {"what": what})
    found = {"shape": (batch, *ROW), "bytes": nbytes, "memory": nbytes // 3}
    return found | {"start": start, "rows": rows}


def memory_bytes() -> int:
    """Give the bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _compare(path: Path, axes: tuple[str, str], cache: str, rounds: int) -> dict[str, Any]:
    """Let cat and a run with a third of the file as its memory take turns."""
    memory = path.stat().st_size // 3
    if cache == "warm":
        _forget(path, "cold")
        _cat(path)
    times: dict[str, list[float]] = {"cat": [], "run": []}
    peak = 0
    for _ in range(rounds):
        _forget(path, cache)
        times["cat"].append(_cat(path))
        _forget(path, cache)
        seconds, resident = _run(path, memory, axes)
        times["run"].append(seconds)
        peak = max(peak, resident)
    cat, run = (statistics.median(times[side]) for side in ("cat", "run"))
    ratio = statistics.median(r / c for r, c in zip(times["run"], times["cat"], strict=True))
    progress("run", f"{axes}, {cache}: {run:.2f} s, {ratio:.2f} times cat, {peak / 2**20:.0f} MiB")
    return {"cache": cache, "cat": cat, "run": run, "ratio": ratio, "peak_bytes": peak}


def _write(path: Path, batch: int) -> int:
    """Write logits, a few batch rows over and over."""
    block = np.random.default_rng(0).standard_normal((min(16, batch), *ROW), dtype=np.float32)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (batch, *ROW)}
        np.lib.format.write_array_header_1_0(file, header)
        for begin in range(0, batch, len(block)):
            file.write(block[: batch - begin].tobytes())
        file.flush()
        os.fsync(file.fileno())
    return path.stat().st_size


def _forget(path: Path, cache: str) -> None:
    if cache == "warm":
        return
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _cat(path: Path) -> float:
    start = time.perf_counter()
    subprocess.run(["cat", str(path)], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def _run(path: Path, memory: int, axes: tuple[str, str]) -> tuple[float, int]:
    """Give the time of a whole process, and the most memory that it had."""
    command = [sys.executable, "-m", "nbfagg", "run", str(path), str(path.with_name("out.npy"))]
    command += ["--memory", str(max(memory, 2**24)), "--batch-axis", axes[0], "--keep-axis", axes[1]]
    paths = [os.environ.get("PYTHONPATH", ""), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # An installed package has its byte code beside it.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    start = time.perf_counter()
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        if process.returncode:
            raise RuntimeError(process.stderr.read().decode())  # type: ignore[union-attr]
    return seconds, usage.ru_maxrss * 1024


def render(found: dict[str, Any]) -> str:
    head = ["result", "page cache", "`cat`", "`nbfagg run`", "times cat", "goal", "most resident"]
    rows = [
        [
            *(row["what"], row["cache"], f"{row['cat']:.2f} s", f"{row['run']:.2f} s", f"{row['ratio']:.2f}"),
            *(f"{GOAL:.2f}", f"{row['peak_bytes'] / 2**20:.0f} MiB"),
        ]
        for row in found["rows"]
    ]
    line = (
        f"A file of {shape(found['shape'])}, {found['bytes'] / 2**30:.1f} GiB; `--memory` is a third of "
        f"that, and resident memory may be {GOAL_MIB} MiB more. Of each run {found['start']:.1f} s are the "
        "start of Python and Numba, which is what a file of one row takes."
    )
    return "\n\n".join([table(head, rows), line, caption(found, "numba", "numpy")])
