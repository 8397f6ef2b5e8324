"""Ctrl-C in the middle of long calls: it comes through soon, and the next call is right.

Arrays here are views that repeat one MiB of logits up to terabytes, so no call would end in time by itself.
"""

import os

import layers
import pytest
from helpers import run_python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no POSIX signals")

CODE = """
import os, signal, sys, threading, time
import numpy as np
import nbfagg

base = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)
half = base.astype(np.float16)

def view(shape, strides, memory=base):
    return np.lib.stride_tricks.as_strided(memory, shape, strides, writeable=False)

rows = np.broadcast_to(base.reshape(1, 1024, 32, 32), (1 << 20, 1024, 32, 32))
CALLS = {
    "rows": lambda workers: nbfagg.fagg(rows, workers=workers),
    "one row": lambda workers: nbfagg.fagg(view((1, 1 << 14, 1 << 20), (0, 0, 4)), workers=workers),
    "walk": lambda workers: nbfagg.fagg(view((1 << 10, 1 << 14, 1 << 20), (4, 0, 0)), workers=workers),
    "half": lambda workers: nbfagg.fagg(view((1, 1 << 14, 1 << 20), (0, 0, 2), half), workers=workers),
    "mask": lambda workers: nbfagg.fagg(rows, where=np.True_, workers=workers),
    "state": lambda workers: nbfagg.State.of(rows[:4096], workers=workers).cells.shape == 0,
    "lse": lambda workers: nbfagg.fagg(rows, log=True, return_lse=True, workers=workers),
    "gradient": lambda workers: nbfagg.fagg_vjp(
        np.ones((1, 1024), np.float32) , rows[:1], nbfagg.fagg(rows[:1]), np.ones(1), workers=workers
    ),
}

small = {name: nbfagg.fagg(rows[:3]) for name in ("before",)}
name, workers = sys.argv[1], None if sys.argv[2] == "None" else int(sys.argv[2])
fired = []

def fire():
    time.sleep(0.3)
    fired.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)

nbfagg.warmup()
threading.Thread(target=fire).start()
try:
    while True:
        CALLS[name](workers)
except KeyboardInterrupt:
    waited = time.perf_counter() - fired[0]
print(waited < float(sys.argv[3]) or waited, np.array_equal(nbfagg.fagg(rows[:3]), small["before"]))
"""
