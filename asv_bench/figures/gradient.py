"""The gradient: its time against a copy of the array and against PyTorch's autograd, and its errors."""

from __future__ import annotations

import statistics
from functools import partial
from typing import Any

import numpy as np

from nbfagg import fagg
from nbfagg.bench.cases import CASES, Case, logits
from nbfagg.bench.errors import gradient_errors
from nbfagg.bench.limits import copies
from nbfagg.bench.text import digits, duration, shape, table
from nbfagg.bench.turns import Call, alternate, fastest, ratio

from .record import caption, progress

# The shape's name, and the share of the copy that is wanted there.
GOALS: dict[str, float | None] = {
    "small call": None,
    "heads": 0.80,
    "pose": None,
    "tiny rows": 0.60,
    "long rows": 0.80,
}
ERROR_SHAPES = (
    (256, 10, 2, 10),
    (64, 64, 4, 4),
    (16, 512, 8, 4),
    (2, 4096, 8, 8),
    (1, 4, 1, 2**16),
    (512, 16, 4, 1),
)
SPREADS = (1, 10)
EDGES = (0.5, 1, 2, 4, 8)
BINS = [f"to {edge}" for edge in EDGES] + ["more"]


def measure(rounds: int | None) -> dict[str, Any]:
    return {
        "shapes": [_time(name, CASES[name], goal, rounds) for name, goal in GOALS.items()],
        "errors": [_errors(dtype, log) for dtype in ("float32", "float64") for log in (False, True)],
    }


def _time(name: str, case: Case, goal: float | None, rounds: int | None) -> dict[str, Any]:
    from nbfagg import fagg_vjp

    a = logits(case)
    g = np.random.default_rng(1).standard_normal(case.result_shape, np.float32)
    alpha, lse = fagg(a, return_lse=True)
    out, target = np.empty_like(a), np.empty_like(a)

    def both() -> np.ndarray:
        weights, log_sum = fagg(a, return_lse=True)
        return fagg_vjp(g, a, weights, log_sum)

    sides: dict[Any, Call] = {
        "gradient": partial(fagg_vjp, g, a, alpha, lse, out=out),
        "both": both,
        **copies(a, target),
    }
    try:
        import torch
    except ImportError:
        pass
    else:
        x = torch.from_numpy(a).requires_grad_()
        tg = torch.from_numpy(g)

        def seed() -> Any:
            x.grad = None
            e = torch.exp(x - x.amax(dim=(1, 2, 3), keepdim=True).detach())
            (e.sum(dim=(2, 3)) / e.sum(dim=(1, 2, 3)).unsqueeze(1)).backward(tg)
            return x.grad

        sides["autograd"] = seed
    seconds = alternate(sides, rounds=rounds)
    copy = fastest(seconds, [key for key in seconds if isinstance(key, tuple)])
    found = {
        "name": name,
        "shape": case.shape,
        "goal": goal,
        "share": ratio(seconds[copy], seconds["gradient"]),
        "seconds": statistics.median(seconds["gradient"]),
        "copy_seconds": statistics.median(seconds[copy]),
        "autograd": ratio(seconds["autograd"], seconds["both"]) if "autograd" in seconds else None,
    }
    progress(
        "gradient", f"{case.shape}: {found['share']:.2f} of a copy, autograd {found['autograd'] or 0:.1f}x"
    )
    return found


def _errors(dtype: str, log: bool) -> dict[str, Any]:
    """Count errors in units in the last place of the largest term that the formula adds up."""
    from nbfagg import fagg_vjp

    counts, worst = np.zeros(len(BINS), int), 0.0
    for seed, (shape_, spread) in enumerate(
        (shape_, spread) for shape_ in ERROR_SHAPES for spread in SPREADS
    ):
        rng = np.random.default_rng(seed)
        a = (spread * rng.standard_normal(shape_)).astype(np.float32).astype(dtype)
        g = rng.standard_normal(shape_[:2]).astype(np.float32).astype(dtype)
        alpha, lse = fagg(a, log=log, return_lse=True)
        got = fagg_vjp(g, a, alpha, lse, log=log)
        error = gradient_errors(got, g, a, log=log)
        counts += np.bincount(np.searchsorted(EDGES, error.reshape(-1)), minlength=len(BINS))
        worst = max(worst, float(error.max()))
    return {"dtype": dtype, "log": log, "counts": counts.tolist(), "worst": worst}


def render(found: dict[str, Any]) -> str:
    rows = [
        [
            shape(row["shape"]),
            duration(row["seconds"]),
            duration(row["copy_seconds"]),
            f"{row['share']:.2f}",
            "" if row["goal"] is None else f"{row['goal']:.2f}",
            "" if row["autograd"] is None else f"{row['autograd']:.1f}x",
        ]
        for row in found["shapes"]
    ]
    head = ["shape", "gradient", "copy", "share of the copy", "goal", "PyTorch's autograd, both ways"]
    return table(head, rows) + "\n\n" + caption(found, "numba", "numpy", "torch")


def render_errors(found: dict[str, Any]) -> str:
    rows = [
        [
            row["dtype"] + (", of log alpha" if row["log"] else ", of alpha"),
            *(f"{100 * count / sum(row['counts']):.2f}" for count in row["counts"]),
            digits(row["worst"]),
        ]
        for row in found["errors"]
    ]
    return (
        table(["gradient: % of places, by ulp", *BINS, "worst"], rows)
        + "\n\n"
        + caption(found, "numba", "numpy")
    )
