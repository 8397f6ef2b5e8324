"""How much memory the process holds, when nothing else is going on."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path

from nbfagg.bench.memory import set_thresholds

# What may come on top of what is held after the time to warm up.
ALLOWED = 5.0


def resident() -> float | None:
    """Give the resident memory in MiB, what is free given back before; None where the system does not say."""
    try:
        fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    except OSError:
        return None
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


# What may stay free, and from what size on memory is the system's own.
_BYTES = 128 * 1024


def give_back() -> None:
    """Have freed memory go back to the system, where C's allocator can be told to (glibc only).

    By itself it raises its thresholds as it goes: 64 MiB may then stay at the end of each thread's arena,
    however little is in use (seen: 51 MiB in use, 150 MiB kept). What grows here is what is used.
    """
    set_thresholds(_BYTES, _BYTES)


def settle() -> None:
    """Free what can be freed: cycles of Python's, and pages that C's allocator keeps (glibc only)."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


class Watch:
    """Resident memory from the end of a time to warm up on.

    Attributes
    ----------
    first : float or None
        MiB at that time; None before.
    most : float
        MiB, the largest since.
    """

    def __init__(self) -> None:
        self.first: float | None = None
        self.most = 0.0

    def look(self) -> None:
        """Take the memory as it is now."""
        settle()
        now = resident()
        if now is not None:
            self.first = now if self.first is None else self.first
            self.most = max(self.most, now)

    @property
    def growth(self) -> float | None:
        """Give by how many MiB it grew; None where that is not known."""
        return None if self.first is None else self.most - self.first
