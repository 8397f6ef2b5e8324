"""Calls from many threads at once, and from a forked child: in a process of its own, which must survive."""

import os

import pytest
from helpers import run_python

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")

# Ways that take each driver, small ones and such that threads share, and what they give in one thread.
SETUP = """
import os, sys, threading
import numpy as np
import nbfagg
from ways import WAYS

NAMES = ["small", "blocks", "parts of tokens", "runs side by side", "columns of tokens", "chunks of tokens"]
cases = [(WAYS[n].lay(WAYS[n].normal(dtype)), WAYS[n].keep) for n in NAMES for dtype in "fd"]

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

FORK = """
wanted = [fagg(case, workers=workers) for case in cases for workers in (1, None)]
child = os.fork()
if child == 0:
    again = [fagg(case, workers=workers) for case in cases for workers in (1, None)]
    os._exit(0 if agree(again, wanted) else 1)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), agree([fagg(case) for case in cases for _ in (1, 2)], wanted))
"""

FORK_FIRST = """
child = os.fork()
results = [fagg(case) for case in cases]
wanted = [fagg(case, workers=1) for case in cases]
if child == 0:
    os._exit(0 if agree(results, wanted) else 1)
_, status = os.waitpid(child, 0)
print(os.waitstatus_to_exitcode(status), agree(results, wanted))
"""


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
@pytest.mark.parametrize("count", [2, 16])
def test_threads_at_once(count, layer):
    assert run_python(SETUP + AT_ONCE, count, NUMBA_THREADING_LAYER=layer) == "True\n"


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_a_child_forked_after_a_call(layer):
    assert run_python(SETUP + FORK, NUMBA_THREADING_LAYER=layer) == "0 True\n"


def test_a_child_forked_before_the_first_call():
    assert run_python(SETUP + FORK_FIRST) == "0 True\n"


def test_a_pool_of_processes():
    code = """
import multiprocessing
import numpy as np
import nbfagg

def total(seed):
    a = np.random.default_rng(seed).normal(size=(4, 300, 60))
    return nbfagg.fagg(a).tobytes()

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(pool.map(total, range(4)) == [total(seed) for seed in range(4)])
"""
    assert run_python(code) == "True\n"
