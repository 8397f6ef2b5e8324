"""Share of the limit: what the bytes alone would take, over what fagg takes."""

from __future__ import annotations

import statistics
from typing import Any

from nbfagg.bench.cases import CASES, Case, logits, views
from nbfagg.bench.limits import share_of_limit
from nbfagg.bench.text import digits, duration, shape, table

from .record import caption, progress

# The shape's name, and the share that is wanted there.
GOALS = {
    "heads": 0.90,
    "long rows": 0.90,
    "four tokens": 0.90,
    "long pose": 0.85,
    "many tiny rows": 0.75,
    "one row": 0.75,
    "softmax": 0.75,
    "heat map, first": 0.80,
    "heat map, middle": 0.80,
    "heat map, last": 0.80,
}
VIEW = CASES["heads"].shape
VIEW_GOAL = 0.80
SHORTEST_RUN = 16


def measure(rounds: int | None) -> dict[str, Any]:
    return {
        "shapes": [_one(CASES[name], goal, rounds, name) for name, goal in GOALS.items()],
        "views": [_one(case, VIEW_GOAL, rounds, _order(case)) for case in views(VIEW, SHORTEST_RUN)],
    }


def _one(case: Case, goal: float, rounds: int | None, name: str) -> dict[str, Any]:
    found = share_of_limit(logits(case), case, rounds=rounds)
    progress(
        "speed",
        f"{case.shape} {name}: {found['out']['gb_per_s']:.1f} GB/s, {found['out']['share']:.2f} of the limit "
        f"({found['new']['share']:.2f} with a new result)",
    )
    return {"name": name, "shape": case.shape, "keep_axis": case.keep_axis, "goal": goal, **found}


def _order(case: Case) -> str:
    return " ".join("BLNH"[axis] for axis in case.order)


def render(found: dict[str, Any]) -> str:
    head = [
        "shape",
        "`keep_axis`",
        "GB/s",
        "time",
        "limit",
        "share, `out` given",
        "share, new result",
        "goal",
    ]
    rows = [
        [
            shape(row["shape"]),
            str(row["keep_axis"]),
            digits(row["out"]["gb_per_s"]),
            duration(row["out"]["seconds"]),
            duration(row["out"]["limit_seconds"]),
            f"{row['out']['share']:.2f}",
            f"{row['new']['share']:.2f}",
            f"{row['goal']:.2f}",
        ]
        for row in found["shapes"]
    ]
    return table(head, rows) + "\n\n" + caption(found, "numba", "numpy", "torch")


def render_views(found: dict[str, Any]) -> str:
    head = ["order in memory", "GB/s", "time", "share, `out` given", "share, new result"]
    rows = [
        [
            row["name"],
            digits(row["out"]["gb_per_s"]),
            duration(row["out"]["seconds"]),
            f"{row['out']['share']:.2f}",
            f"{row['new']['share']:.2f}",
        ]
        for row in found["views"]
    ]
    shares = [row["out"]["share"] for row in found["views"]]
    rows.append(
        [
            "**least, median, most**",
            "",
            "",
            f"{min(shares):.2f}, {statistics.median(shares):.2f}, {max(shares):.2f}",
            "",
        ]
    )
    return table(head, rows) + "\n\n" + caption(found, "numba", "numpy", "torch")
