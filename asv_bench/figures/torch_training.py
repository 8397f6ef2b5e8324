"""PyTorch tensors: forward and backward against the seed's code and torch.compile's best; calls, memory."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np

from nbfagg import fagg
from nbfagg.bench.cases import CASES, Case, logits
from nbfagg.bench.text import digits, duration, shape, table
from nbfagg.bench.turns import Call, alternate, ratio

from .record import caption, progress

# The shape's name, and how many times as fast as the seed's code it is to be.
GOALS = {"heads": 5.0, "long rows": 5.0, "pose": 3.0, "tiny rows": 3.0}
OF_COMPILED = 1.5

PEAK = """
import json, resource, sys
import torch
import nbfagg

def train(x):
    (nbfagg.fagg(x) ** 2).sum().backward()

shape = json.loads(sys.argv[1])
small = torch.randn([min(n, 64) for n in shape], requires_grad=True)
train(small)
x = torch.randn(shape, requires_grad=True)
x.grad = torch.zeros_like(x)
high = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
x.grad = None
train(x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - high)
"""


def measure(rounds: int | None) -> dict[str, Any]:
    return {
        "shapes": [_train(CASES[name], goal, rounds) for name, goal in GOALS.items()],
        "call": _call(CASES["small call"], rounds),
    }


def _forms() -> dict[str, Any]:
    """Give what a PyTorch user would write instead, by name."""
    import torch

    def seed(x: Any) -> Any:
        e = torch.exp(x - x.amax(dim=(1, 2, 3), keepdim=True))
        return e.sum(dim=(2, 3)) / e.sum(dim=(1, 2, 3)).unsqueeze(1)

    def by_logsumexp(x: Any) -> Any:
        return torch.exp(torch.logsumexp(x, (2, 3)) - torch.logsumexp(x, (1, 2, 3)).unsqueeze(1))

    forms = {"seed": seed}
    if shutil.which("c++"):
        torch.compiler.reset()
        for name, form in (("compiled seed", seed), ("compiled logsumexp", by_logsumexp)):
            forms[name] = torch.compile(form, dynamic=False)
    return forms


def _train(case: Case, goal: float, rounds: int | None) -> dict[str, Any]:
    import torch

    x = torch.from_numpy(logits(case)).requires_grad_()
    cotangent = torch.from_numpy(np.random.default_rng(1).standard_normal(case.result_shape, np.float32))

    def step(form: Any) -> None:
        x.grad = None
        form(x).backward(cotangent)

    sides: dict[str, Call] = {"ours": partial(step, fagg)}
    sides |= {name: partial(step, form) for name, form in _forms().items()}
    seconds = alternate(sides, rounds=rounds)
    compiled = [ratio(seconds[name], seconds["ours"]) for name in sides if name.startswith("compiled")]
    found = {
        "shape": case.shape,
        "goal": goal,
        "seconds": statistics.median(seconds["ours"]),
        "seed": ratio(seconds["seed"], seconds["ours"]),
        "compiled": min(compiled) if compiled else None,
        "peak_kib": _peak(case),
    }
    progress("torch", f"{case.shape}: {found['seed']:.1f} of the seed, {found['compiled'] or 0:.1f} compiled")
    return found


def _peak(case: Case) -> int:
    """What forward and backward take beyond inputs and gradient, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, json.dumps(case.shape)], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def _call(case: Case, rounds: int | None) -> dict[str, float]:
    """A call with next to nothing to compute, of an array and of a tensor, in seconds."""
    import torch

    a = logits(case)
    x = torch.from_numpy(a)
    seconds = alternate({"array": partial(fagg, a), "tensor": partial(fagg, x)}, rounds=rounds)
    return {name: statistics.median(times) for name, times in seconds.items()}


def render(found: dict[str, Any]) -> str:
    rows = [
        [
            shape(row["shape"]),
            duration(row["seconds"]),
            f"{row['seed']:.1f}x",
            f"{row['goal']:.1f}x",
            "" if row["compiled"] is None else f"{row['compiled']:.1f}x",
            f"{digits(row['peak_kib'] / 1024)} MiB",
        ]
        for row in found["shapes"]
    ]
    head = [
        "shape",
        "forward and backward",
        "the seed's code",
        "goal",
        "torch.compile's best",
        "extra memory",
    ]
    call = found["call"]
    more = 1e6 * (call["tensor"] - call["array"])
    note = f"A call of (3, 10, 2, 10) takes {digits(more)} µs longer on a tensor than on an array."
    return f"{table(head, rows)}\n\n{note}\n\n{caption(found, 'numba', 'numpy', 'torch')}"
