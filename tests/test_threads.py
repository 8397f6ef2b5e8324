"""Calls from many threads at once, on each of Numba's threading layers: right bits, no abort, no dead-lock.

Each in a process of its own, which must survive; run_python is the watchdog.
"""

import sys

import layers
import pytest
from helpers import run_python
from layers import LAYERS

# Ways that take each driver, small ones and such that threads share, and what they give in one thread.
SETUP = """
import os, sys, threading
import numpy as np
import nbfagg
from ways import WAYS

NAMES = ["small", "blocks", "parts of tokens", "runs side by side", "columns of tokens", "chunks of tokens"]
cases = [(WAYS[n].lay(WAYS[n].normal(dtype)), WAYS[n].keep) for n in NAMES for dtype in "fd"]
# Large enough for threads of our own too.
cases.append((np.random.default_rng(0).normal(size=(40, 500, 40)), 1))
cases.append((np.random.default_rng(1).normal(size=(2, 500, 1000)).astype("f"), 1))

def fagg(case, **keywords):
    a, keep = case
    return nbfagg.fagg(a, keep_axis=keep, **keywords)

def agree(results, wanted):
    return all(np.array_equal(result, want) for result, want in zip(results, wanted, strict=True))
"""

AT_ONCE = """
count = int(sys.argv[1])
barrier = threading.Barrier(count)
found = [None] * count

def work(number):
    barrier.wait()
    # The first calls of the process, in each thread of another kernel.
    results = [None] * len(cases)
    for i in range(3 * len(cases)):
        place = (number + i) % len(cases)
        again = fagg(cases[place])
        if results[place] is not None and not np.array_equal(results[place], again):
            return
        results[place] = again
    found[number] = results

threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
wanted = [fagg(case, workers=1) for case in cases]
print(all(results is not None and agree(results, wanted) for results in found))
"""

# The user's own parallel region, whose every iteration calls back; another region runs beside it.
NESTED = """
import ctypes, numba

wanted = [fagg(case, workers=1) for case in cases]
right = np.zeros(64, np.int64)
busy = threading.Event()

@ctypes.CFUNCTYPE(ctypes.c_longlong, ctypes.c_longlong)
def callback(number):
    place = number % len(cases)
    right[number] = np.array_equal(fagg(cases[place]), wanted[place])
    return 1

@numba.njit(parallel=True, nogil=True)
def region(count):
    total = 0
    for i in numba.prange(count):
        total += callback(i)
    return total

[fagg(case) for case in cases]
assert region(len(right)) == len(right)
print(right.all())
"""

POOL = """
from concurrent.futures import ThreadPoolExecutor
wanted = [fagg(case, workers=1) for case in cases]
with ThreadPoolExecutor(16) as pool:
    print(all(agree(pool.map(fagg, cases), wanted) for _ in range(5)))
"""

JOBLIB = """
import joblib
# Another process gets a copy in one piece.
cases = [case for case in cases if case[0].flags.c_contiguous]
wanted = [fagg(case, workers=1) for case in cases]
with joblib.parallel_config(backend=sys.argv[1], n_jobs=3):
    print(agree(joblib.Parallel()(joblib.delayed(fagg)(case) for case in cases), wanted))
"""

DASK = """
import dask
wanted = [fagg(case, workers=1) for case in cases]
tasks = [dask.delayed(fagg)(case) for case in cases]
print(agree(dask.compute(*tasks, scheduler="threads", num_workers=8), wanted))
"""

OWN = """
from nbfagg.cpu import crew, team
drawn = []
draw = team._draw
team._draw = lambda job, end, worker: drawn.append(threading.get_ident()) or draw(job, end, worker)
wanted = fagg(cases[-2], workers=1)
assert drawn == []
for _ in range(200):
    assert np.array_equal(fagg(cases[-2]), wanted)
print(len(set(drawn)))
"""


def test_one_thread_needs_no_layer():
    code = """
import numba
import numpy as np
import nbfagg

def layer():
    try:
        return numba.threading_layer()
    except ValueError:
        return "none yet"

a = np.zeros((2, 1000, 100))
nbfagg.fagg(a, workers=1)
print(layer())
nbfagg.fagg(a)
print(layer())
"""
    assert run_python(code, NUMBA_THREADING_LAYER="workqueue") == "none yet\nworkqueue\n"


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("count", [2, 16])
def test_threads_at_once(count, layer):
    code = layers.code(layer) + SETUP + AT_ONCE
    assert run_python(code, count, **layers.settings(layer)) == "True\n"


@pytest.mark.parametrize("layer", ["omp", "workqueue", "tbb"])
def test_from_inside_a_parallel_region(layer):
    code = layers.code(layer) + SETUP + NESTED
    assert run_python(code, NUMBA_NUM_THREADS="4", **layers.settings(layer)) == "True\n"


@pytest.mark.parametrize("layer", LAYERS)
def test_in_a_pool_of_threads(layer):
    assert run_python(layers.code(layer) + SETUP + POOL, **layers.settings(layer)) == "True\n"


@pytest.mark.parametrize(("backend", "layer"), [("loky", "omp"), ("threading", "workqueue")])
def test_in_workers_of_joblib(backend, layer):
    pytest.importorskip("joblib")
    code = layers.code(layer) + SETUP + JOBLIB
    assert run_python(code, backend, as_file=True, **layers.settings(layer)) == "True\n"


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_in_workers_of_dask(layer):
    pytest.importorskip("dask")
    assert run_python(layers.code(layer) + SETUP + DASK, **layers.settings(layer)) == "True\n"


@pytest.mark.parametrize("layer", ["workqueue", "none"])
def test_threads_of_our_own_take_part(layer):
    code = layers.code(layer) + SETUP + OWN
    assert run_python(code, NUMBA_NUM_THREADS="3", **layers.settings(layer)) == "3\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize("layer", [layer for layer in LAYERS if layer != "none"])
def test_no_thread_to_be_had(layer):
    """GNU OpenMP would end the process, TBB abort it or wait for ever."""
    code = """
import resource, sys
from pathlib import Path
import numpy as np
import nbfagg

a = np.random.default_rng(0).standard_normal((64, 512, 12, 4), np.float32)
wanted = nbfagg.fagg(a, workers=1)
here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (here + int(sys.argv[1]) * 2**20,) * 2)
print(np.array_equal(nbfagg.fagg(a), wanted))
"""
    for mib in (3, 8, 10, 16, 24):
        assert run_python(code, str(mib), NUMBA_NUM_THREADS="2", **layers.settings(layer)) == "True\n"
