"""Ctrl-C in the middle of long calls: it comes through soon, and the next call is right.

The logits are views that repeat 4 MiB up to terabytes: no call here would end in time by itself.
"""

import os

import pytest
from helpers import run_python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no POSIX signals")

CODE = """
import os, signal, sys, threading, time
import numpy as np
import nbfagg

base = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)
half = base.astype(np.float16)

def view(shape, strides, memory=base, writeable=False):
    return np.lib.stride_tricks.as_strided(memory, shape, strides, writeable=writeable)

def rows(count):
    return view((count, 1024, 32, 32), (0, 4096, 128, 4))

def gradient(count, **keywords):
    # All rows of `out` are the same memory, for want of more: the check that refuses that is taken out.
    nbfagg.inputs._plain_place = lambda out, *arguments: out
    alpha = np.broadcast_to(nbfagg.fagg(rows(1)), (count, 1024))
    out = view((count, 1024, 32, 32), (0, 4096, 128, 4), np.zeros(1 << 20, np.float32), True)
    nbfagg.fagg_vjp(alpha, rows(count), alpha, np.zeros(count), out=out, **keywords)

# From a number of batch rows, or of tokens where there is one row.
CALLS = {
    "rows": lambda count, **k: nbfagg.fagg(rows(count), **k),
    "lse": lambda count, **k: nbfagg.fagg(rows(count), log=True, return_lse=True, **k),
    "mask": lambda count, **k: nbfagg.fagg(rows(count), where=np.True_, **k),
    "state": lambda count, **k: nbfagg.State.of(rows(count), **k),
    "gradient": gradient,
    "one row": lambda count, **k: nbfagg.fagg(view((1, count, 1 << 20), (0, 0, 4)), **k),
    "half": lambda count, **k: nbfagg.fagg(view((1, count, 1 << 20), (0, 0, 2), half), **k),
    "walk": lambda count, **k: nbfagg.fagg(view((1 << 10, count, 1 << 18), (4, 0, 0)), **k),
    "packed": lambda count, **k: nbfagg.fagg_packed(
        view((count << 10, 1 << 10), (0, 4)), np.arange(0, (count << 10) + 1, 1 << 10), **k
    ),
    "one packed row": lambda count, **k: nbfagg.fagg_packed(
        view((count << 10, 1 << 10), (0, 4)), [0, count << 10], **k
    ),
}

name, workers, limit = sys.argv[1], eval(sys.argv[2]), float(sys.argv[3])
wanted = nbfagg.fagg(rows(3))
for count in (1, 8):  # compiled, for one thread and for several
    CALLS[name](count, workers=workers)
fired = []
# What a shell runs in the background ignores it.
signal.signal(signal.SIGINT, signal.default_int_handler)

def fire():
    time.sleep(0.3)
    fired.append(time.perf_counter())
    os.kill(os.getpid(), signal.SIGINT)

threading.Thread(target=fire).start()
try:
    CALLS[name](1 << 14, workers=workers)
except KeyboardInterrupt:
    waited = time.perf_counter() - fired[0]
print(waited < limit or waited, np.array_equal(nbfagg.fagg(rows(3)), wanted))
"""

NAMES = [
    *("rows", "lse", "mask", "state", "gradient", "one row", "half", "walk", "packed", "one packed row"),
]


@pytest.mark.parametrize("workers", [1, None])
@pytest.mark.parametrize("name", NAMES)
def test_a_long_call(name, workers):
    # 0.2 s is wanted; a busy machine may take as long again and more for a slice.
    assert run_python(CODE, name, workers, 2.0) == "True True\n"


def test_threads_of_our_own_are_waited_for():
    """They work in the caller's memory: it must not end before they do."""
    assert run_python(CODE, "rows", None, 2.0, NUMBA_THREADING_LAYER="workqueue") == "True True\n"
