"""What a forked child needs: the locks that it could wait for for ever, and to know that it is one."""

from __future__ import annotations

import contextlib
import os

from llvmlite.binding import ffi as llvm
from numba.core.compiler_lock import global_compiler_lock
from numba.np.ufunc import parallel

# Another thread may have one of them, be it to compile or to ask how many threads there are, and no child
# has that thread. In the order in which Numba takes them: compiling may load the threading layer, which
# uses LLVM.
_LOCKS = global_compiler_lock, parallel._backend_init_thread_lock, llvm.lib._lock

_forked = False


def forked() -> bool:
    """Say whether this process was forked from one that had loaded this package."""
    return _forked


def _hold() -> None:
    for lock in _LOCKS:
        lock.__enter__()


def _let_go() -> None:
    for lock in reversed(_LOCKS):
        lock.__exit__(None, None, None)


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
