"""Errors in units in the last place, against the oracle: a histogram an implementation and kind of input.

Values of alpha below the smallest normal number are counted apart: there a unit is the smallest subnormal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbfagg import fagg
from nbfagg.bench.errors import KINDS
from nbfagg.bench.peers import Unavailable, make
from nbfagg.bench.text import digits, table
from nbfagg.reference import oracle, ulp_error

from .record import caption, progress

SHAPES = (
    (4096, 1, 1, 1),
    (1024, 2, 2, 1),
    (256, 10, 2, 10),
    (64, 64, 4, 4),
    (16, 512, 8, 4),
    (4, 4096, 8, 8),
    (1, 2**22, 1, 1),
    (1, 4, 1, 2**20),
    (1, 2**20, 8, 8),
)
IMPLEMENTATIONS = ("fagg", "SciPy softmax", "torch.softmax + sum", "JAX jit")
DTYPES = ("float32", "float64")
EDGES = (0.5, 1, 2, 4, 16, 256, 65536)
BINS = [f"to {edge}" for edge in EDGES] + ["more", "not finite"]


def measure(rounds: int | None) -> dict[str, Any]:
    del rounds  # the errors are the same each time
    rows = []
    for seed, (kind, shape) in enumerate((kind, shape) for kind in KINDS for shape in SHAPES):
        a = KINDS[kind](np.random.default_rng(seed), shape)
        exact = oracle(a)
        for dtype in DTYPES:
            for who, result in _results(a.astype(dtype, copy=False)):
                found = errors(result, exact)
                rows.append({"dtype": dtype, "kind": kind, "shape": shape, "who": who, **found})
                if who == "fagg":
                    worst = ", ".join(
                        f"{name} {found[name]['worst']:.3g}" for name in ("normal", "subnormal")
                    )
                    progress("accuracy", f"{kind} {shape} {dtype}: worst ulp {worst}")
    return {"bins": BINS, "rows": rows}


def _results(a: np.ndarray) -> Any:
    """Whoever is there, with its result."""
    for who in IMPLEMENTATIONS:
        try:
            call = (lambda: fagg(a)) if who == "fagg" else make(who, a)
        except Unavailable:
            continue
        with np.errstate(all="ignore"):
            yield who, np.asarray(call())


def errors(result: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """How many errors fall into each bin, and the largest that is finite."""
    error = ulp_error(result, exact)
    bins = np.where(np.isfinite(result), np.searchsorted(EDGES, error), len(EDGES) + 1)
    is_normal = exact >= np.finfo(result.dtype).smallest_normal
    return {
        name: {
            "counts": np.bincount(bins[chosen], minlength=len(BINS)).tolist(),
            "worst": float(error[chosen & np.isfinite(error)].max(initial=0.0)),
        }
        for name, chosen in (("normal", is_normal), ("subnormal", ~is_normal))
    }


def render(found: dict[str, Any]) -> str:
    """The histogram over all inputs, then the worst error for each kind."""
    blocks = []
    for dtype in DTYPES:
        who, shares = histogram(found, dtype)
        if not who:
            continue
        lines = [[name, *(_percent(shares[one][i]) for one in who)] for i, name in enumerate(found["bins"])]
        blocks.append(table([f"{dtype}: % of alphas, by ulp", *who], lines))
        mine = [row for row in found["rows"] if row["dtype"] == dtype]
        blocks.append(table([f"{dtype}: worst ulp", *who], _worst(mine, who)))
    return "\n\n".join([*blocks, caption(found, "numba", "numpy", "scipy", "torch", "jax")])


def histogram(found: dict[str, Any], dtype: str) -> tuple[list[str], dict[str, np.ndarray]]:
    """Who was there, and the percentages of each in the bins.

    Each row of inputs weighs the same, or the longest would be all that one sees.
    """
    rows = [row for row in found["rows"] if row["dtype"] == dtype]
    who = [name for name in IMPLEMENTATIONS if any(row["who"] == name for row in rows)]
    shares = {}
    for name in who:
        counts = [np.array(row["normal"]["counts"], float) for row in rows if row["who"] == name]
        shares[name] = np.mean([count / count.sum() for count in counts if count.sum()], axis=0) * 100
    return who, shares


def _percent(share: float) -> str:
    if share == 0:
        return ""
    return "< 0.01" if share < 0.01 else f"{share:.2f}"


def _worst(rows: list[dict[str, Any]], who: list[str]) -> list[list[str]]:
    lines = []
    for label, part in (("", "normal"), (", subnormal", "subnormal")):
        for kind in KINDS:
            found = [
                [row[part] for row in rows if row["kind"] == kind and row["who"] == name] for name in who
            ]
            if any(sum(one["counts"]) for one in found[0]):
                lines.append([kind + label, *map(_largest, found)])
    return lines


def _largest(parts: list[dict[str, Any]]) -> str:
    return (
        "not finite"
        if any(one["counts"][-1] for one in parts)
        else digits(max(one["worst"] for one in parts))
    )
