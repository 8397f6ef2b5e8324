"""Bars of everybody's speed, shape by shape; Matplotlib draws them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .machine import describe
from .report import seconds
from .text import digits, shape

# By the names of files; Matplotlib has more, these are the ones that anybody asks for.
SUFFIXES = (".png", ".svg", ".pdf")

FAGG, LIMIT, PEER = "#c2410c", "#475569", "#94a3b8"
WIDTH = 4.6  # inches: at 9 points it can be read on a telephone held upright


def bars(row: dict[str, Any], axes: Any) -> None:
    """Draw one shape's bars, the fastest on top."""
    times = seconds(row)
    speeds = {who: row["bytes"] / took / 1e9 for who, took in times.items()}
    colours = {"limit": LIMIT, "fagg": FAGG}
    drawn = axes.barh(list(speeds), list(speeds.values()), color=[colours.get(who, PEER) for who in speeds])
    axes.bar_label(drawn, [digits(speed) for speed in speeds.values()], padding=3, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, max(speeds.values()) * 1.15)
    axes.set_title(f"{row['name']} {shape(row['shape'])}", fontsize=10, loc="left")
    axes.set_xlabel("GB/s of logits")
    axes.tick_params(labelsize=9, length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def figure(rows: list[dict[str, Any]]) -> Any:
    """Draw all shapes below one another."""
    from matplotlib.figure import Figure

    heights = [0.9 + 0.24 * len(seconds(row)) for row in rows]
    drawn = Figure(figsize=(WIDTH, sum(heights) + 0.3), layout="constrained")
    grid = drawn.subplots(len(rows), 1, squeeze=False, height_ratios=heights)
    for row, axes in zip(rows, grid[:, 0], strict=True):
        bars(row, axes)
    return drawn


def save(found: dict[str, Any], path: Path) -> None:
    """Draw what was found and write it; the file's name says in which format."""
    drawn = figure(found["shapes"])
    where = found["machine"]
    drawn.suptitle(f"{describe(where)}, {where['date']}", fontsize=7)
    drawn.savefig(path, dpi=150)
