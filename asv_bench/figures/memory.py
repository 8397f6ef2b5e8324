"""Extra memory of a call beyond its result, in a new process each: nobody's pages are reused by the next."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from functools import partial
from typing import Any

from nbfagg import fagg
from nbfagg.bench.cases import Case, logits
from nbfagg.bench.memory import extra_bytes
from nbfagg.bench.peers import Unavailable, make
from nbfagg.bench.text import table

from .record import ROOT, caption, progress

SHAPE = (64, 1024, 16, 64)
# The warm-up compiles, starts the threads, and is too small to leave behind what the call could use.
WARM_SHAPE = (16, 64, 16, 64)
ORDERS = {"contiguous": (0, 1, 2, 3), "tokens innermost": (0, 3, 2, 1), "batch innermost": (3, 2, 1, 0)}
PEERS = ("NumPy", "SciPy softmax", "PyTorch, the seed's", "torch.softmax + sum", "torch.compile")


def measure(rounds: int | None) -> dict[str, Any]:
    del rounds  # steady to 0.1 %
    rows = []
    paths = [os.environ.get("PYTHONPATH", ""), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    for who, layout in [("fagg", layout) for layout in ORDERS] + [(peer, "contiguous") for peer in PEERS]:
        done = subprocess.run(
            [sys.executable, "-m", __name__, who, layout, *map(str, SHAPE)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        extra = json.loads(done.stdout)
        if extra is None:
            continue
        progress("memory", f"{who}, {layout}: {extra / 2**20:.1f} MiB")
        rows.append({"who": who, "layout": layout, "extra_bytes": extra})
    return {"shape": SHAPE, "input_bytes": 4 * math.prod(SHAPE), "rows": rows}


def measured(who: str, layout: str, shape: tuple[int, ...]) -> int | None:
    case = Case(shape, order=ORDERS[layout])
    a = logits(case)
    if who == "fagg":
        warm = Case(WARM_SHAPE, order=ORDERS[layout])
        fagg(logits(warm))
        call = partial(fagg, a)
    else:
        try:
            call = make(who, a)
        except Unavailable:
            return None
        call()  # these may be bound to the shape, and what they free is given back below
    return extra_bytes(call)


def render(found: dict[str, Any]) -> str:
    rows = [[row["who"], row["layout"], f"{row['extra_bytes'] / 2**20:.1f}"] for row in found["rows"]]
    head = [f"{found['input_bytes'] / 2**20:.0f} MiB of logits", "layout", "extra MiB"]
    return table(head, rows) + "\n\n" + caption(found, "numba", "numpy", "scipy", "torch")


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], sys.argv[2], tuple(map(int, sys.argv[3:])))))
