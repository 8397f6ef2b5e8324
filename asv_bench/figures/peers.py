"""Everybody on the same array, in turns: each peer's time over fagg's."""

from __future__ import annotations

import statistics
from typing import Any

from ..benchmarks.common import CASES, alternate, logits, ours, ratio
from ..benchmarks.peers import PEERS, available
from .markdown import digits, duration, shape, table
from .record import caption, progress

SHAPES = ("small call", "heads", "pose", "tiny rows", "long rows")

# ONNX Runtime's threads spin for 2**20 pauses after a run, some 25 to 50 ms: nobody is timed until they
# sleep.
SETTLE = 0.06


def measure(rounds: int | None) -> dict[str, Any]:
    return {"shapes": [_one(name, rounds) for name in SHAPES]}


def _one(name: str, rounds: int | None) -> dict[str, Any]:
    case = CASES[name]
    a = logits(case)
    sides = {"fagg": ours(case, a), **available(a, note=lambda line: progress("peers", line))}
    seconds = alternate(sides, rounds=rounds, settle=SETTLE)
    mine = seconds.pop("fagg")
    times = {peer: ratio(took, mine) for peer, took in seconds.items()}
    best = min(times, key=lambda peer: times[peer])
    progress("peers", f"{case.shape}: the fastest is {best}, {times[best]:.2f} times fagg's time")
    return {
        "name": name,
        "shape": case.shape,
        "bytes": a.nbytes,
        "fagg_seconds": statistics.median(mine),
        "peer_seconds": {peer: statistics.median(took) for peer, took in seconds.items()},
        "times_fagg": times,
        "fastest": best,
    }


def render(found: dict[str, Any]) -> str:
    """A row a peer: how many times fagg's time it takes."""
    shapes = found["shapes"]
    rows = [["fagg", *(duration(row["fagg_seconds"]) for row in shapes)]]
    for peer in PEERS:
        ratios = [row["times_fagg"].get(peer) for row in shapes]
        if any(ratios):
            marks = ["**" if row["fastest"] == peer else "" for row in shapes]
            rows.append(
                [peer, *(f"{m}{digits(r)}x{m}" if r else "" for r, m in zip(ratios, marks, strict=True))],
            )
    head = ["", *(shape(row["shape"]) for row in shapes)]
    packages = ("numba", "numpy", "scipy", "torch", "jax", "openvino", "onnxruntime")
    return table(head, rows) + "\n\n" + caption(found, *packages)
