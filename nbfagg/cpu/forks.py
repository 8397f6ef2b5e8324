"""What a forked child needs: the locks that it could wait for for ever, and to know that it is one."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from llvmlite.binding import ffi as llvm
from numba.core.compiler_lock import global_compiler_lock
from numba.np.ufunc import parallel

# Another thread may have one of them, be it to compile or to ask how many threads there are, and no child
# has that thread. In the order in which Numba takes them: compiling may load the threading layer, which
# uses LLVM.
_LOCKS: tuple[Any, ...] = (
    global_compiler_lock._lock,
    parallel._backend_init_thread_lock,
    llvm.lib._lock._lock,
)

# Those of them that a fork of this thread takes.
_taken: list[Any] = []

# In /proc/self/stat: forked, and no other program put in the process's place.
_FORKED_ALONE = 0x40


def _comes_with_threads() -> bool:
    """Say whether Numba's threads may be those of a process that this one was forked from (Linux only)."""
    if not parallel._is_initialized:
        return False
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return bool(int(fields[6]) & _FORKED_ALONE)
    except (OSError, ValueError, IndexError):
        return False


_forked = _comes_with_threads()


def forked() -> bool:
    """Say whether this process was forked from one that had loaded these modules, or Numba's threads."""
    return _forked


def _hold() -> None:
    """Take all locks, whatever a signal's handler raises meanwhile: the process forks all the same."""
    _taken[:] = [lock for lock in _LOCKS if not lock._is_owned()]
    raised: BaseException | None = None
    while True:
        try:
            for lock in _taken:
                if not lock._is_owned():
                    lock.acquire()
            break
        except BaseException as error:
            raised = raised or error
    if raised is not None:
        raise raised


def _let_go() -> None:
    for lock in reversed(_taken):
        if lock._is_owned():
            lock.release()


def _begin() -> None:
    global _forked
    _forked = True
    _let_go()


if hasattr(os, "register_at_fork"):
    # Numba takes a semaphore of all processes too when it counts threads, lest one forks while another loads
    # the layer: _hold sees to that. A child that copied the semaphore as it was taken never gives it back,
    # nor does one that is killed with it; and the workers of a fork server left its name behind.
    parallel._backend_init_process_lock = contextlib.nullcontext()  # type: ignore[assignment]
    os.register_at_fork(before=_hold, after_in_parent=_let_go, after_in_child=_begin)
