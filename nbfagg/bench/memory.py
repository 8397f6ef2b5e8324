"""Extra memory of a call, by the high-water mark that Linux keeps; and what the C allocator keeps."""

from __future__ import annotations

import ctypes
import gc
import sys
from pathlib import Path

from .turns import Call

MARK = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")

# mallopt's names for its parameters, and the largest size that glibc takes from its heap.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_OF_HEAP = 32 * 2**20


def extra_bytes(call: Call) -> int:
    """Say how much a call takes at its highest beyond what was there before and its result.

    The mark is set anew before the call: a maximum since the process began would hide the call behind
    whatever its arguments were made with. What earlier calls have freed is given back first, or it would be
    used again unseen; only a new process is sure of that.

    Parameters
    ----------
    call : callable
        Without arguments; its result has `nbytes`, or counts as nothing.

    Returns
    -------
    int
        Bytes.

    Raises
    ------
    NotImplementedError
        On a system other than Linux.
    """
    if not MARK.exists():
        raise NotImplementedError("the high-water mark can be set anew on Linux only")
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
    MARK.write_text("5")
    before = _status("VmRSS")
    result = call()
    return max(0, _status("VmHWM") - before - getattr(result, "nbytes", 0))


def keep_freed_memory() -> None:
    """Have this process keep freed memory of up to 32 MiB for the next call, where its C library is glibc.

    Else glibc decides by what was freed before, and processes differ: PyTorch's form of the seed took 0.95 ms
    or 2.3 ms at 2.6 MB, all of a process's calls alike, for its temporaries came from the kernel, page by
    page, in every call or in none. Peers are compared at their best.
    """
    set_thresholds(LARGEST_OF_HEAP, 2**31 - 1)


def set_thresholds(mapped: int, trimmed: int) -> None:
    """Tell glibc from what size on memory is the system's own, and what may stay free at an arena's end.

    Other C libraries are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, mapped)
        mallopt(M_TRIM_THRESHOLD, trimmed)


def _status(field: str) -> int:
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
