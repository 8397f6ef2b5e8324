"""What goes wrong elsewhere, tried: one hazard with one library in one process, which may not survive it.

    python -m asv_bench.figures.hazard_cases HAZARD LIBRARY [FOLDER]

prints in a word what happened, as a JSON string. A process that ends otherwise has its end as the answer.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# 1 MiB of float32: worth threads.
SHAPE = (16, 64, 4, 64)
# Numba's cache is raced for so many times, by two processes each time.
ROUNDS = 10
MEMORY = 16 * 2**30
# A child that is not back by then hangs.
PATIENCE = 20

Call = Callable[..., np.ndarray]


# --- the libraries ------------------------------------------------------------


def _numba_kernel() -> Any:
    """What one writes by hand: stable, rows shared by threads."""
    import numba

    @numba.njit(parallel=True, nogil=True, error_model="numpy")
    def aggregate(a, out):
        for b in numba.prange(a.shape[0]):
            top = -np.inf
            for x in a[b].flat:
                top = max(top, x)
            total = 0.0
            for token in range(a.shape[1]):
                part = 0.0
                for x in a[b, token].flat:
                    part += np.exp(x - top)
                out[b, token] = part
                total += part
            for token in range(a.shape[1]):
                out[b, token] /= total

    return aggregate


def _numba() -> Call:
    aggregate = _numba_kernel()

    def call(a: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        out = np.empty(a.shape[:2], a.dtype) if out is None else out
        aggregate(a, out)
        return out

    return call


def _numbagg() -> Call:
    import numbagg

    return lambda a: numbagg.nansum(a, axis=(2, 3))


def _torch() -> Call:
    import torch

    def call(a: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(a)
        return torch.softmax(x.flatten(1), 1).view(x.shape).sum((2, 3)).numpy()

    return call


def _scipy() -> Call:
    from scipy.special import softmax

    return lambda a: softmax(a, axis=(1, 2, 3)).sum(axis=(2, 3))


def _nbfagg() -> Call:
    import nbfagg

    return nbfagg.fagg


CALLS = {"Numba": _numba, "numbagg": _numbagg, "PyTorch": _torch, "SciPy": _scipy, "nbfagg": _nbfagg}


def logits(dtype: Any = np.float32, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def wanted(library: str, a: np.ndarray, where: Any = True) -> np.ndarray:
    """What the library should give: numbagg has no softmax, so a sum is what it is asked for."""
    x = a.astype(np.float64)
    if library == "numbagg":
        return x.sum((2, 3))
    top = np.max(x, (1, 2, 3), keepdims=True, where=where, initial=-np.inf)
    with np.errstate(invalid="ignore"):
        sums = np.sum(np.exp(x - np.where(np.isneginf(top), 0, top)), (2, 3), where=where)
    total = sums.sum(1, keepdims=True)
    return np.divide(sums, total, out=np.zeros_like(sums), where=total != 0)


def verdict(found: Any, want: np.ndarray) -> str:
    """Hazards are about right or not: the 5th digit will do (the 3rd of float16)."""
    found = np.asarray(found)
    close = 1e-2 if found.dtype == np.float16 else 1e-4
    if found.shape == want.shape and np.allclose(found, want, rtol=close, atol=close, equal_nan=True):
        return "right"
    new = found.shape == want.shape and (np.isnan(found) & ~np.isnan(want)).any()
    return "NaN" if new else "wrong"


# --- threads and processes ----------------------------------------------------


def threads(library: str) -> str:
    call, a = CALLS[library](), logits()
    want, barrier, found = wanted(library, a), threading.Barrier(16), []

    def work() -> None:
        barrier.wait()
        for _ in range(20):
            found.append(verdict(call(a), want))

    started = [threading.Thread(target=work) for _ in range(16)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return "right" if found == ["right"] * 320 else f"{found.count('right')} of 320 right"


def child_says(what: Callable[[], str]) -> str:
    """Fork, and have the child say what it finds in its exit code."""
    words = ["right", "wrong", "NaN"]
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = len(words)
        with contextlib.suppress(BaseException):
            signal.alarm(PATIENCE)
            code = words.index(what())
        os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code < 0:
        return ended_by(-code)
    return words[code] if code < len(words) else "error"


def ended_by(number: int) -> str:
    if number == signal.SIGALRM:
        return "hangs"
    return {signal.SIGABRT: "aborts", signal.SIGSEGV: "crashes"}.get(
        number, f"ended by {signal.Signals(number).name}"
    )


def fork(library: str) -> str:
    call, a = CALLS[library](), logits()
    want = wanted(library, a)
    if verdict(call(a), want) != "right":
        return "wrong before"
    return child_says(lambda: verdict(call(a), want))


def nested(library: str) -> str:
    """From each iteration of a parallel region of the caller's own."""
    import numba

    call, a = CALLS[library](), logits()
    want, found = wanted(library, a), []
    call(a)

    @ctypes.CFUNCTYPE(ctypes.c_longlong, ctypes.c_longlong)
    def callback(number: int) -> int:
        found.append(verdict(call(a), want))
        return 1

    @numba.njit(parallel=True, nogil=True)
    def region(count):
        total = 0
        for i in numba.prange(count):
            total += callback(i)
        return total

    region(16)
    return "right" if found == ["right"] * 16 else "wrong"


def no_threads(library: str) -> str:
    """A first call that is worth threads, in a process that has no memory left for their stacks."""
    a = logits()
    want = wanted(library, a)
    if library == "Numba":
        kernel = _numba_kernel()
        kernel.compile("void(float32[:,:,:,::1], float32[:,::1])")

        def call(a: np.ndarray) -> np.ndarray:
            out = np.empty(a.shape[:2], a.dtype)
            kernel(a, out)
            return out

    else:
        call = CALLS[library]()
        # What one thread does needs no others.
        call(a[:1, :1])
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = pages * resource.getpagesize() + 6 * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    return verdict(call(a), want)


def flushed(library: str) -> str:
    """Weights of 1.6e-40, by threads that were started while the caller flushed such numbers to zero."""
    import torch

    call, a = CALLS[library](), np.zeros((64, 64, 128, 16), np.float32)
    a[:, 0] = -87.5
    torch.set_flush_denormal(True)
    call(a)
    torch.set_flush_denormal(False)
    return "right" if all((call(a).view(np.int32)[:, 0] != 0).all() for _ in range(5)) else "wrong"


# --- the disk cache -----------------------------------------------------------

# One kernel by either decorator; numbagg caches its own if NUMBAGG_CACHE says so.
KERNEL = """
import math
{decorator}
def total(a):
    result = 0.0
    for x in a.flat:
        result += math.exp(x)
    return result
"""
DECORATORS = {
    "Numba": "import numba\n@numba.njit(cache=True)",
    "nbfagg": "from nbfagg.cpu.cache import compiled\n@compiled()",
}
KINDS = (np.float64, np.int64)


def write_kernel(library: str, folder: Path) -> None:
    path = folder / "kernel.py"
    if library in DECORATORS and not path.exists():
        path.write_text(KERNEL.format(decorator=DECORATORS[library]), encoding="utf-8")


def cached_kernel(library: str, folder: Path) -> Callable[[np.ndarray], Any]:
    """Give a kernel that is cached on disk, from a file in the folder."""
    if library == "numbagg":
        import numbagg

        return lambda a: numbagg.nansum(a.astype(np.float64 if a.dtype == np.int64 else np.float32))
    write_kernel(library, folder)
    # Numba imports it by its name when it loads a kernel.
    sys.path.insert(0, str(folder))
    sys.modules.pop("kernel", None)
    importlib.invalidate_caches()
    return importlib.import_module("kernel").total


def check_cached(library: str, total: Callable[[np.ndarray], Any], kind: Any) -> str:
    a = np.arange(1000).astype(kind) % 3
    want = a.sum() if library == "numbagg" else np.exp(a.astype(float)).sum()
    return verdict(total(a), np.asarray(want, float))


def cached(library: str, folder: str) -> str:
    """A call of the kernel, whatever is in the cache, or in its way."""
    return check_cached(library, cached_kernel(library, Path(folder)), KINDS[0])


def refused(library: str, folder: str) -> str:
    """A call where no folder can be had; a superuser may write anywhere, so nothing is tried there."""
    from numba.core import caching

    def refuse(self: Any) -> None:
        raise PermissionError(13, "Permission denied")

    caching._CacheLocator.ensure_cache_path = refuse
    return cached(library, folder)


def race(library: str, folder: str) -> str:
    """Two processes at once on a cold cache, each with its own type; then one after the other, with both."""
    import numba

    with contextlib.suppress(ImportError):
        import numbagg  # noqa: F401
    # What every process would spend its first second on: the compiler itself.
    numba.njit(lambda x: x + 1)(1)
    found: Counter[str] = Counter()
    for number in range(ROUNDS):
        place = Path(folder) / str(number)
        place.mkdir()
        cached_kernel(library, place)
        numba.config.CACHE_DIR = str(place / "cache")
        for said in (_at_once(library, place), *(_again(library, place, kind) for kind in KINDS)):
            if said != "right":
                found[said] += 1
                break
    failed = ", ".join(f"{said}: {count}" for said, count in found.most_common())
    return f"{failed} of {ROUNDS}" if failed else "right"


def _again(library: str, place: Path, kind: Any) -> str:
    return child_says(lambda: check_cached(library, cached_kernel(library, place), kind))


def _at_once(library: str, place: Path) -> str:
    read, write = os.pipe()
    children = []
    for kind in KINDS:
        child = os.fork()
        if child == 0:
            code = 1
            with contextlib.suppress(BaseException):
                signal.alarm(PATIENCE)
                total = cached_kernel(library, place)
                os.read(read, 1)
                code = 0 if check_cached(library, total, kind) == "right" else 1
            os._exit(code)
        children.append(child)
    os.write(write, b"go")
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    os.close(read)
    os.close(write)
    return "right" if not any(codes) else ended_by(-min(codes)) if min(codes) < 0 else "error"


# --- numbers and arrays -------------------------------------------------------


def beyond_exp(library: str) -> str:
    a = logits(shape=(2, 8, 3, 5))
    a[0] += 100
    a[1] -= 110
    return verdict(CALLS[library]()(a), wanted(library, a))


def nothing(library: str) -> str:
    a = logits(shape=(3, 8, 3, 5))
    a[1] = -np.inf
    return verdict(CALLS[library]()(a), wanted(library, a))


def one_nan(library: str) -> str:
    a = logits(shape=(3, 8, 3, 5))
    a[1, 2, 1, 1] = np.nan
    want = wanted(library, np.nan_to_num(a))
    want[1] = np.nan
    return verdict(CALLS[library]()(a), want)


def many(library: str) -> str:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    base = logits(np.float16, (2, 4, 1, 2**14))
    a = np.broadcast_to(base, (2, 4, 2**14 + 1, 2**14))
    return verdict(CALLS[library]()(a), wanted(library, base))


def masked(library: str) -> str:
    a = logits(shape=(3, 8, 3, 5))
    mask = a > 0.5
    return verdict(CALLS[library]()(np.ma.array(a, mask=mask)), wanted(library, a, ~mask))


def read_only(library: str) -> str:
    a = logits()
    a.flags.writeable = False
    return verdict(CALLS[library]()(a), wanted(library, a))


def overlap(library: str) -> str:
    a = logits(shape=(3, 8, 3, 5))
    want = wanted(library, a)
    if library == "PyTorch":
        import torch

        # What it writes is of the size of what it reads: one row on.
        memory = torch.zeros(4, 120)
        memory[:3] = torch.from_numpy(a).flatten(1)
        torch.softmax(memory[:3], 1, out=memory[1:])
        return verdict(memory[1:].view(a.shape).sum((2, 3)).numpy(), want)
    out = a.reshape(-1)[120:144].reshape(3, 8)
    return verdict(CALLS[library]()(a, out=out), want)


def interrupt(library: str) -> str:
    # Ignored in what a shell runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    call = CALLS[library]()
    # 4 MiB of logits over and over. Those that make temporaries get 2 GiB, nbfagg enough to take as long.
    rows = {"Numba": 2**8, "nbfagg": 2**12}.get(library, 2**9)
    a = np.broadcast_to(logits(shape=(1, 2**8, 2**6, 2**6)), (rows, 2**8, 2**6, 2**6))
    call(a[:16])
    begin = time.perf_counter()
    call(a)
    whole = time.perf_counter() - begin
    fired: list[float] = []

    def fire() -> None:
        time.sleep(0.1)
        fired.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=fire)
    thread.start()
    try:
        call(a)
        thread.join()
    except KeyboardInterrupt:
        waited = time.perf_counter() - fired[0]
        return f"after {waited:.2g} s of {whole:.2g} s"
    return "the call was over"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    hazard, *arguments = sys.argv[1:]
    try:
        said = globals()[hazard](*arguments)
    except Exception as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        short = isinstance(error, MemoryError) or "bad_alloc" in str(error)
        said = f"more than {MEMORY >> 30} GiB" if short else type(error).__name__
    print(json.dumps(said), flush=True)
    # Some threads may be beyond stopping.
    os._exit(0)
