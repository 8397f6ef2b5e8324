"""Numba's disk cache, stamped with every source file that a kernel is made of.

Numba stamps a cached kernel with the one file its function stands in. Kernels
here are inlined from several files, so an edit or an upgrade elsewhere would
leave a stale one in use.
"""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba


@functools.cache
def source_stamp() -> str:
    """Give a hash of all sources that kernels are compiled from."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted([*package.glob("cpu/*.py"), package / "scalar.py", package / "fields.py"]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def _make_quiet(cache: Any) -> None:
    """Let a cache that fails to load or save (a full disk, a damaged file) do nothing."""
    load, save = cache.load_overload, cache.save_overload

    def load_quietly(*arguments: Any) -> Any:
        try:
            return load(*arguments)
        except Exception:
            return None

    def save_quietly(*arguments: Any) -> None:
        try:
            save(*arguments)
        except Exception:
            # What lies there may be damaged: clear it and try once more.
            with contextlib.suppress(Exception):
                cache.flush()
                save(*arguments)

    cache.load_overload, cache.save_overload = load_quietly, save_quietly


def wanted() -> bool:
    """Say whether kernels are to be kept on disk."""
    return os.environ.get("NBFAGG_CACHE", "1") != "0"


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorate a kernel that Python calls: compiled at its first call, cached on disk where that can be.

    No writeable folder, or NBFAGG_CACHE=0, means a compilation in every process
    and nothing worse.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(error_model="numpy", nogil=True, **options)(function)
        if not wanted():
            return dispatcher
        try:
            dispatcher.enable_caching()
            dispatcher._cache._cache_file._source_stamp = source_stamp()
            _make_quiet(dispatcher._cache)
        except (RuntimeError, OSError, AttributeError):
            # No folder to write to, or a Numba whose cache looks different:
            # better none than one that may be stale.
            return numba.njit(error_model="numpy", nogil=True, **options)(function)
        return dispatcher

    return decorate
