"""Extra memory of a call, by the high-water mark that Linux keeps of a process."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

from .turns import Call

MARK = Path("/proc/self/clear_refs")
STATUS = Path("/proc/self/status")


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


def _status(field: str) -> int:
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
