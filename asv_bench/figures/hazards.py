"""What takes a process down, or gives a wrong number quietly: tried with each library, in a process each."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from nbfagg.bench.text import table

from .hazard_cases import CALLS, ended_by, write_kernel
from .record import ROOT, caption, progress

LIMIT = 240.0
# Bits that are flipped in a cached kernel, one at a time.
FLIPS = 12
ALL = tuple(CALLS)
THREADED = {"NUMBA_NUM_THREADS": "4", "OMP_NUM_THREADS": "4"}


class Hazard(NamedTuple):
    """A hazard, and the test that guards nbfagg against it."""

    text: str
    test: str
    case: str  # of hazard_cases.py
    # The others have nothing of the kind.
    libraries: tuple[str, ...] = ALL
    settings: dict[str, str] = {}  # noqa: RUF012  (read only)
    cache: str = ""  # what is in the way of the disk cache


KERNELS = ("Numba", "numbagg", "nbfagg")
SOFTMAX = ("Numba", "PyTorch", "SciPy", "nbfagg")

HAZARDS = (
    Hazard(
        "16 threads call at once (`workqueue`)",
        "test_threads.py::test_threads_at_once",
        "threads",
        settings={"NUMBA_THREADING_LAYER": "workqueue", **THREADED},
    ),
    Hazard(
        "a call in a child forked after a call (`omp`)",
        "test_processes.py::test_forked_children_and_theirs",
        "fork",
        settings={"NUMBA_THREADING_LAYER": "omp", **THREADED},
    ),
    Hazard(
        "a call from a parallel region of one's own (`workqueue`)",
        "test_threads.py::test_from_inside_a_parallel_region",
        "nested",
        settings={"NUMBA_THREADING_LAYER": "workqueue", **THREADED},
    ),
    Hazard(
        "no thread can be had (`omp`)",
        "test_threads.py::test_no_thread_to_be_had",
        "no_threads",
        SOFTMAX,
        settings={"NUMBA_THREADING_LAYER": "omp", **THREADED},
    ),
    Hazard(
        "threads were started while subnormal numbers were flushed",
        "test_reproducible.py::test_threads_that_were_started_to_flush_subnormal_numbers",
        "flushed",
        SOFTMAX,
        settings=THREADED,
    ),
    Hazard(
        "one bit of a cached kernel is flipped",
        "test_cache.py::test_a_damaged_file",
        "cached",
        KERNELS,
        cache="damaged",
    ),
    Hazard(
        "two processes, two types, one cold cache",
        "test_cache.py::test_processes_that_race_for_it",
        "race",
        KERNELS,
        cache="cold",
    ),
    Hazard(
        "no folder for the cache can be written to",
        "test_cache.py::test_no_folder_to_write_to",
        "refused",
        KERNELS,
        cache="cold",
    ),
    Hazard(
        "the cache's disk is full",
        "test_cache.py::test_a_folder_that_is_full",
        "cached",
        KERNELS,
        cache="full",
    ),
    Hazard(
        "float32 logits at 100, and at -110",
        "test_softmax.py::test_sums_that_overflow_or_underflow_otherwise",
        "beyond_exp",
        SOFTMAX,
    ),
    Hazard(
        "a row of -inf alone; 0 is wanted", "test_semantics.py::test_nothing_included", "nothing", SOFTMAX
    ),
    Hazard(
        "a NaN in one row; others are right",
        "test_semantics.py::test_nan_and_infinity_spoil_their_row_alone",
        "one_nan",
        SOFTMAX,
    ),
    Hazard(
        "more than 2^31 elements (float16, stride 0)",
        "test_layouts.py::test_two_to_the_31_elements_of_stride_0",
        "many",
        SOFTMAX,
    ),
    Hazard("a masked array", "test_errors.py::test_arrays_of_other_kinds", "masked", SOFTMAX),
    Hazard("a read-only array", "test_layouts.py::test_read_only_and_memory_mapped", "read_only"),
    Hazard(
        "`out` in the memory of the logits",
        "test_errors.py::test_out_that_overlaps_the_input",
        "overlap",
        ("Numba", "PyTorch", "nbfagg"),
    ),
    Hazard(
        "Ctrl-C in a long call: when it comes through",
        "test_interrupt.py::test_a_long_call",
        "interrupt",
        SOFTMAX,
    ),
)


def measure(rounds: int | None) -> dict[str, Any]:
    del rounds  # what happens, not how long it takes
    rows = []
    for hazard in HAZARDS:
        found = {}
        for library in hazard.libraries:
            with tempfile.TemporaryDirectory() as folder:
                found[library] = _try(hazard, library, Path(folder))
            progress("hazards", f"{hazard.text}: {library}: {found[library]}")
        rows.append({"hazard": hazard.text, "test": hazard.test, "found": found})
    return {"rows": rows}


def _try(hazard: Hazard, library: str, folder: Path) -> str:
    if not hazard.cache:
        return _run(hazard, library)
    # Before there is no room for it.
    write_kernel(library, folder)
    cache = {"NUMBA_CACHE_DIR": str(folder / "cache"), "NUMBAGG_CACHE": "1", "NBFAGG_CACHE": "1"}
    if hazard.cache == "damaged":
        return _damaged(hazard, library, folder, cache)
    if hazard.cache == "full":
        return _run(hazard, library, folder, before=_no_room, **cache)
    return _run(hazard, library, folder, **cache)


def _no_room() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))


def _damaged(hazard: Hazard, library: str, folder: Path, cache: dict[str, str]) -> str:
    """Flip one bit after the other in the machine code, and count what a call in a new process comes to."""
    first = _run(hazard, library, folder, **cache)
    files = {
        p: p.read_bytes()
        for p in (folder / "cache").rglob("*")
        if p.is_file() and b"\x7fELF" in p.read_bytes()
    }
    if first != "right" or not files:
        return f"{first}, nothing cached"
    path = max(files, key=lambda p: len(files[p]))
    sound, draw = files[path], random.Random(0)
    begin = sound.index(b"\x7fELF") + 64
    found: Counter[str] = Counter()
    for _ in range(FLIPS):
        content = bytearray(sound)
        # The code itself comes first.
        content[begin + draw.randrange(1024)] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
        found[_run(hazard, library, folder, **cache)] += 1
    return ", ".join(f"{said}: {count}" if len(found) > 1 else said for said, count in found.most_common())


def _run(
    hazard: Hazard,
    library: str,
    folder: Path | None = None,
    before: Callable[[], None] | None = None,
    **settings: str,
) -> str:
    paths = [os.environ.get("PYTHONPATH", ""), str(ROOT)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    command = [sys.executable, "-m", f"{__package__}.hazard_cases", hazard.case, library]
    arguments = [str(folder)] if folder else []
    return run([*command, *arguments], environment | hazard.settings | settings, before)


def run(
    command: list[str],
    environment: dict[str, str],
    before: Callable[[], None] | None = None,
    limit: float = LIMIT,
) -> str:
    """Run a process, and give what it says in its last line, or how it ended."""
    process = subprocess.Popen(
        command,
        env=environment,
        cwd=ROOT,
        preexec_fn=before,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        printed, complained = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        # With the children that it waits for.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return "hangs"
    if process.returncode < 0:
        return ended_by(-process.returncode)
    if "libgomp: Thread creation failed" in complained:
        return "ends"
    if process.returncode:
        raise RuntimeError(f"{command}: {complained}")
    said: str = json.loads(printed.splitlines()[-1])
    return said


def render(found: dict[str, Any]) -> str:
    """A row a hazard: what came of it with each library, and the test of ours."""
    rows = [
        [row["hazard"], *(row["found"].get(library, "") for library in ALL), f"`{row['test']}`"]
        for row in found["rows"]
    ]
    head = ["hazard", "Numba by hand", *ALL[1:], "guarded by"]
    return table(head, rows) + "\n\n" + caption(found, "numba", "numbagg", "numpy", "scipy", "torch")
