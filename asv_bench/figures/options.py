"""What masks, lengths, half precision and packed rows cost, against what their bytes ask for."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import numpy as np

from nbfagg import fagg
from nbfagg.bench.cases import CASES, Case, logits
from nbfagg.bench.limits import limit_rounds, parts
from nbfagg.bench.text import shape, table
from nbfagg.bench.turns import Call, alternate, ratio

from .record import caption, progress

NAMES = ("heads", "long pose")
PACKED_ROWS = 4096
PACKED_TERMS = (12, 64)
# What is asked for, by the name of the row.
GOALS = {
    "mask": "0.80 of the limit, the mask's read counted",
    "mask by token": "1.0 of the time without",
    "half of the tokens, by `lengths`": "0.5 of the time without",
    "float16": "1.5 times the logits a second",
    "bfloat16": "1.5 times the logits a second",
    "packed, Zipf": "1.2 of the time of equal rows",
}


def measure(rounds: int | None) -> dict[str, Any]:
    rows = [row for name in NAMES for row in _padded(CASES[name], rounds)]
    rows.append(_packed(rounds))
    for row in rows:
        progress("options", f"{row['shape']} {row['what']}: {row['figure']:.2f} ({GOALS[row['what']]})")
    return {"rows": rows}


def _padded(case: Case, rounds: int | None) -> list[dict[str, Any]]:
    a = logits(case)
    rng = np.random.default_rng(1)
    batch, tokens = case.result_shape
    mask = rng.random(a.shape, np.float32) < 0.8
    by_token = np.ones((batch, tokens, 1, 1), bool)
    lengths = rng.permutation(np.linspace(0, tokens, batch).astype(int))
    halves = {"float16": a.astype(np.float16)}
    try:
        import ml_dtypes
    except ImportError:
        pass
    else:
        halves["bfloat16"] = a.astype(ml_dtypes.bfloat16)
    out = np.empty(case.result_shape, np.float32)
    ours = partial(fagg, out=out)
    sides: dict[Any, Call] = {
        "plain": partial(ours, a),
        "mask": partial(ours, a, where=mask),
        "mask by token": partial(ours, a, where=by_token),
        "half of the tokens, by `lengths`": partial(ours, a, lengths=lengths),
        **{name: partial(fagg, half) for name, half in halves.items()},
        **parts(a, case),
        **{
            ("mask read", who): call
            for (part, who), call in parts(mask.view(np.uint8), case).items()
            if part == "read"
        },
    }
    seconds = alternate(sides, rounds=rounds)
    limit, _ = limit_rounds(seconds, "read", "mask read", "fill", "scale")
    figures = {"mask": ratio(limit, seconds["mask"])}
    for name in ("mask by token", "half of the tokens, by `lengths`"):
        figures[name] = ratio(seconds[name], seconds["plain"])
    for name in halves:
        figures[name] = ratio(seconds["plain"], seconds[name])
    return [
        {
            "shape": case.shape,
            "what": what,
            "figure": figure,
            "seconds": statistics.median(seconds[what]),
            "plain_seconds": statistics.median(seconds["plain"]),
        }
        for what, figure in figures.items()
    ]


def _packed(rounds: int | None) -> dict[str, Any]:
    """Rows whose lengths fall as 1/rank, in any order, beside as many equal ones of the same bytes."""
    from nbfagg import fagg_packed

    skewed = np.maximum(1, PACKED_ROWS / np.arange(1, PACKED_ROWS + 1)).astype(int)
    total = int(skewed.sum())
    skewed = np.random.default_rng(2).permutation(skewed)
    a = np.random.default_rng(3).standard_normal((total, *PACKED_TERMS), np.float32)
    equal = np.linspace(0, total, PACKED_ROWS + 1).astype(int)
    offsets = np.concatenate(([0], np.cumsum(skewed)))
    out = np.empty(total, np.float32)
    seconds = alternate(
        {
            "skewed": lambda: fagg_packed(a, offsets, out=out),
            "equal": lambda: fagg_packed(a, equal, out=out),
        },
        rounds=rounds,
    )
    return {
        "shape": a.shape,
        "what": "packed, Zipf",
        "figure": ratio(seconds["skewed"], seconds["equal"]),
        "seconds": statistics.median(seconds["skewed"]),
        "plain_seconds": statistics.median(seconds["equal"]),
    }


def render(found: dict[str, Any]) -> str:
    rows = [
        [shape(row["shape"]), row["what"], f"{row['figure']:.2f}", GOALS[row["what"]]]
        for row in found["rows"]
    ]
    return (
        table(["shape", "with", "figure", "wanted"], rows)
        + "\n\n"
        + caption(found, "numba", "numpy", "torch")
    )
