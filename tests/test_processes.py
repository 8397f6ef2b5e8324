"""Calls in children of a process that called: forked, spawned, from a server, deep down; on each layer."""

import os
import sys

import layers
import pytest
from helpers import run_python
from layers import LAYERS
from test_threads import SETUP

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")

FORK = """
wanted = [fagg(case, workers=workers) for case in cases for workers in (1, None)]

def grow(depth):
    # A process, two children of it, and so on: each agrees, then each of its own does.
    good = agree([fagg(case, workers=workers) for case in cases for workers in (1, None)], wanted)
    children = []
    for _ in range(2 if depth else 0):
        child = os.fork()
        if child == 0:
            try:
                code = 0 if grow(depth - 1) else 1
            except BaseException:
                code = 2
            os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return good and not any(codes)

print(grow(int(sys.argv[1])))
"""

# As gunicorn does with preload_app: the parent only imports, or has called; workers come and go.
PREFORK = """
if sys.argv[1] == "called":
    [fagg(case) for case in cases]
children = []
for number in range(6):
    child = os.fork()
    if child == 0:
        try:
            results = [[None] * len(cases) for _ in range(3)]
            def serve(place):
                results[place] = [fagg(case) for case in cases]
            threads = [threading.Thread(target=serve, args=(place,)) for place in range(3)]
            [thread.start() for thread in threads]
            [thread.join() for thread in threads]
            wanted = [fagg(case, workers=1) for case in cases]
            code = 0 if all(agree(result, wanted) for result in results) else 1
        except BaseException:
            code = 2
        os._exit(code)
    children.append(child)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
# For what looks at it in the end: Python 3.12 starts no thread then, to see if there are any to be had.
from nbfagg.cpu import team
team.layer()
"""

# A fork while other threads are in the middle of calls.
BUSY = """
wanted = [fagg(case, workers=1) for case in cases]
over = threading.Event()
def call():
    while not over.is_set():
        for case in cases:
            fagg(case)
threads = [threading.Thread(target=call) for _ in range(3)]
[thread.start() for thread in threads]
codes = []
for _ in range(5):
    child = os.fork()
    if child == 0:
        try:
            code = 0 if agree([fagg(case) for case in cases], wanted) else 1
        except BaseException:
            code = 2
        os._exit(code)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
over.set()
[thread.join() for thread in threads]
print(codes)
"""

# A fork while another thread compiles, or asks for the number of threads: it has a lock that the child needs.
LOCKED = """
import os, signal, sys, threading, time
import numba, llvmlite.binding.ffi
import numpy as np
import nbfagg
from numba.core.compiler_lock import global_compiler_lock
from numba.np.ufunc import parallel

a = np.ones((40, 500, 40))
def good():
    return numba.njit(lambda x: x - 1)(1) == 0 and nbfagg.fagg(a)[0, 0] == 1 / 500

good()
lock = {
    "compiler": global_compiler_lock,
    "number of threads": parallel._backend_init_thread_lock,
    "LLVM": llvmlite.binding.ffi.lib._lock,
}[sys.argv[1]]
inside = threading.Event()
def keep():
    with lock:
        inside.set()
        time.sleep(0.5)
thread = threading.Thread(target=keep)
thread.start()
inside.wait()
child = os.fork()
signal.alarm(60)
if child == 0:
    os._exit(0 if good() else 1)
thread.join()
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), good())
"""

# The parent has Numba's threads, and may have imported nbfagg, but called nothing of it.
NUMBAS = """
import os, sys
import numba, numpy as np

@numba.njit(parallel=True)
def count(n):
    total = 0
    for i in numba.prange(n):
        total += 1
    return total

count(100)
if sys.argv[1] == "imported":
    import nbfagg
child = os.fork()
if child == 0:
    import nbfagg
    os._exit(0 if nbfagg.fagg(np.ones((40, 500, 40)))[0, 0] == 1 / 500 else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

# A signal's handler raises while a fork waits for a lock: what Ctrl-C does.
RAISED = """
import os, signal, sys, threading, time
from nbfagg.cpu import forks

lock = forks._LOCKS[int(sys.argv[1])]
inside = threading.Event()
def keep():
    with lock:
        inside.set()
        time.sleep(1)
def interrupt(number, frame):
    raise InterruptedError
thread = threading.Thread(target=keep)
thread.start()
inside.wait()
sys.unraisablehook = lambda unraisable: print(unraisable.exc_type.__name__, flush=True)
signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.3)
child = os.fork()
def free():
    # Another thread can have each.
    had = []
    def take():
        had.extend(lock.acquire(timeout=10) for lock in forks._LOCKS)
    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return all(had)
if child == 0:
    # A new thread may have the number of the parent's, and with it that one's locks.
    mine = [lock.acquire(timeout=10) and lock.release() is None for lock in forks._LOCKS]
    os._exit(0 if all(mine) and free() else 1)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), free())
"""

# One that is killed as it asks for the number of threads leaves the others what they need.
KILLED = """
import os, signal
import numpy as np
import nbfagg
from numba.np.ufunc import parallel

a = np.ones((40, 500, 40))
nbfagg.fagg(a)
child = os.fork()
if child == 0:
    parallel._backend_init_process_lock.__enter__()
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(child, 0)
signal.alarm(60)
print(nbfagg.fagg(a)[0, 0] == 1 / 500)
"""

POOL = """
import multiprocessing
import sys
import numpy as np
import nbfagg

def total(seed):
    a = np.random.default_rng(seed).normal(size=(40, 500, 40))
    return nbfagg.fagg(a).tobytes()

if __name__ == "__main__":
    here = [total(seed) for seed in range(4)]
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        print(pool.map(total, range(4)) == here)
"""


@pytest.mark.parametrize("layer", LAYERS)
def test_forked_children_and_theirs(layer):
    assert run_python(layers.code(layer) + SETUP + FORK, 2, **layers.settings(layer)) == "True\n"


@pytest.mark.parametrize("parent", ["called", "imported"])
@pytest.mark.parametrize("layer", LAYERS)
def test_workers_forked_beforehand(layer, parent):
    settings = layers.settings(layer)
    assert run_python(layers.code(layer) + SETUP + PREFORK, parent, **settings) == f"{[0] * 6}\n"


@pytest.mark.parametrize("layer", LAYERS)
def test_a_fork_while_threads_call(layer):
    # The tbb layer warns that a child may be unable to use TBB, which no child does.
    warning = "Numba: Attempted to fork from a non-main thread" if layer == "tbb" else None
    printed = run_python(layers.code(layer) + SETUP + BUSY, ignored=warning, **layers.settings(layer))
    assert printed.splitlines()[-1] == f"{[0] * 5}"


@pytest.mark.parametrize("lock", ["compiler", "number of threads", "LLVM"])
def test_a_fork_while_a_thread_has_a_lock(lock):
    assert run_python(LOCKED, lock) == "0 True\n"


@pytest.mark.parametrize("lock", range(3))
def test_a_handler_that_raises_while_a_fork_waits(lock):
    assert run_python(RAISED, lock) == "InterruptedError\n0 True\n"


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells")
@pytest.mark.parametrize("parent", ["imported", "without"])
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_a_parent_with_numbas_threads_of_its_own(layer, parent):
    assert run_python(NUMBAS, parent, **layers.settings(layer)) == "0\n"


def test_a_child_killed_with_a_lock():
    assert run_python(KILLED) == "True\n"


@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_a_pool_of_processes(layer, start):
    assert run_python(POOL, start, as_file=True, **layers.settings(layer)) == "True\n"
