"""The threads of a call: how many it is worth, and whether they may start at all."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from typing import Any

import numba

from nbfagg.plan import SERIAL

# Numba's workqueue aborts the process if two threads start a team at once: one of them then goes alone, to
# the same bits.
_lock = threading.Lock()
# GNU OpenMP ends a child that starts a team after a fork, if its parent had one: such a child goes alone.
_forked = False


def _layer() -> str | None:
    """Give the name of Numba's threading layer, None before anything asked for threads."""
    try:
        return str(numba.threading_layer())  # type: ignore[attr-defined]
    except ValueError:
        return None


def _note_fork() -> None:
    global _forked, _lock
    _forked = _layer() == "omp"
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def size(workers: int | None, nbytes: int) -> int:
    """Give how many threads an array of this size is worth, at most `workers`."""
    if nbytes <= SERIAL or _forked:
        return 1
    # Asking Numba how many it would use loads its threading layer.
    most: int = numba.get_num_threads() if workers is None else min(workers, _most())
    return max(1, min(most, nbytes // SERIAL))


def _most() -> int:
    return numba.config.NUMBA_NUM_THREADS  # type: ignore[attr-defined,no-any-return]  # set at run time


@contextlib.contextmanager
def gathered(count: int) -> Iterator[bool]:
    """Set Numba's number of threads for a while; say whether a team may start, or the caller goes alone."""
    before: Any = numba.get_num_threads()
    guard = _layer() == "workqueue"
    if guard and not _lock.acquire(blocking=False):
        yield False
        return
    try:
        if before != count:
            numba.set_num_threads(count)
        yield True
    finally:
        if before != count:
            numba.set_num_threads(before)
        if guard:
            _lock.release()
