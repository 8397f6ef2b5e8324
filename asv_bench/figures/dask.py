"""Dask's threads on an array in memory, against one call; and the time that a large graph takes.

Beside them a plain read of the same chunks on the same threads: what cutting costs by itself.
"""

from __future__ import annotations

import math
import statistics
import time
from functools import partial
from typing import Any

import numba
import numpy as np

import nbfagg
from nbfagg.bench.text import shape, table
from nbfagg.bench.turns import Call, alternate

from .record import caption, progress

SHAPE = (64, 1024, 128, 64)
# 64 MiB each.
CHUNKS = {
    "batch": (2, 1024, 128, 64),
    "kept": (64, 32, 128, 64),
    "summed": (64, 1024, 4, 64),
    "batch and kept": (16, 128, 128, 64),
    "all but the last": (8, 512, 64, 64),
}
GOAL = 0.8
GRAPH = (100, 1000, 100), (10, 10, 10)


@numba.njit(nogil=True)
def _largest(bits: Any) -> Any:
    """Give the largest number, run by run; of floats the loop would not be vectorised."""
    found = bits[0, 0, 0, 0]
    for i in range(bits.shape[0]):
        for j in range(bits.shape[1]):
            for k in range(bits.shape[2]):
                run = bits[i, j, k]
                for x in range(run.size):
                    found = max(found, run[x])
    return found


def _read(chunk: Any) -> Any:
    return np.full((1, 1, 1, 1), _largest(chunk))


def measure(rounds: int | None) -> dict[str, Any]:
    import dask.array as da

    a = np.empty(SHAPE, np.float32)
    a[:] = np.random.default_rng(0).standard_normal(SHAPE[1:], dtype=np.float32)
    sides: dict[str, Call] = {"plain": partial(nbfagg.fagg, a)}
    for name, chunks in CHUNKS.items():
        lazy = nbfagg.fagg(da.from_array(a, chunks=chunks))
        sides[name] = partial(lazy.compute, scheduler="threads")
        read = da.from_array(a.view(np.int32), chunks=chunks).map_blocks(
            _read, dtype=np.int32, chunks=(1, 1, 1, 1)
        )
        sides[f"{name}, read"] = partial(read.compute, scheduler="threads")
    times = alternate(sides, rounds=rounds or 15)
    rows = []
    for name, chunks in CHUNKS.items():
        share = statistics.median(p / t for p, t in zip(times["plain"], times[name], strict=True))
        rows.append(
            {
                "cut": name,
                "chunks": chunks,
                "seconds": statistics.median(times[name]),
                "share": share,
                "read_seconds": statistics.median(times[f"{name}, read"]),
            }
        )
        progress("dask", f"{name}: {share:.2f} of the plain call's speed")
    x = da.zeros(GRAPH[0], chunks=GRAPH[1])
    graph = []
    for _ in range(5):
        start = time.perf_counter()
        tasks = len(dict(nbfagg.fagg(x).__dask_graph__()))
        graph.append(time.perf_counter() - start)
    return {
        "shape": SHAPE,
        "plain_seconds": statistics.median(times["plain"]),
        "rows": rows,
        "graph": {"chunks": x.npartitions, "tasks": tasks, "seconds": statistics.median(graph)},
    }


def render(found: dict[str, Any]) -> str:
    rows = [
        [
            row["cut"],
            shape(row["chunks"]),
            f"{row['seconds'] * 1e3:.0f} ms",
            f"{row['read_seconds'] * 1e3:.0f} ms",
            f"{row['share']:.2f}",
            f"{GOAL:.2f}",
        ]
        for row in found["rows"]
    ]
    nbytes = 4 * math.prod(found["shape"])
    head = [
        f"axes cut, of {nbytes / 2**30:.3g} GiB",
        "chunks",
        "time",
        "read alone",
        "share of a plain call's speed",
        "goal",
    ]
    graph = found["graph"]
    size = f"{graph['chunks']} chunks, {graph['tasks']} tasks"
    line = f"A graph of {size}, takes {graph['seconds']:.2f} s to make."
    return "\n\n".join([table(head, rows), line, caption(found, "numba", "numpy", "dask")])
