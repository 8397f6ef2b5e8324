"""Everybody on the same array, in turns: each peer's time over fagg's."""

from __future__ import annotations

from typing import Any

from nbfagg.bench.cases import COMPARED
from nbfagg.bench.compare import Comparison
from nbfagg.bench.memory import keep_freed_memory
from nbfagg.bench.peers import PEERS
from nbfagg.bench.text import digits, duration, shape, table
from nbfagg.bench.turns import ROUNDS

from .record import caption, progress


def measure(rounds: int | None) -> dict[str, Any]:
    keep_freed_memory()
    return {"shapes": [_one(name, rounds) for name in COMPARED]}


def _one(name: str, rounds: int | None) -> dict[str, Any]:
    compared = Comparison(name)
    for line in compared.missing:
        progress("peers", line)
    row = compared.measure(rounds or ROUNDS)
    best = row["fastest"]
    times = row["times_fagg"][best]
    progress("peers", f"{row['shape']}: the fastest is {best}, {times:.2f} times fagg's time")
    return row


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
