"""The disk cache of compiled kernels: Numba's, with files of our own.

Numba stamps a cached kernel with the one file its function stands in. Kernels
here are inlined from several, so an edit or an upgrade elsewhere would leave a
stale one in use. And it numbers the files of a function's signatures: of two
processes that start at once, one may come to hold the other's number, and run
machine code made for other arguments. A damaged file it runs as it is.

Here a file is named for what it holds, says so inside, and has a checksum.
"""

import contextlib
import functools
import hashlib
import os
import pickle
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import serialize
from numba.core.environment import Environment
from numba.core.runtime.nrt import rtsys


@functools.cache
def source_stamp() -> str:
    """Give a hash of all sources that kernels are compiled from, and of what compiles them.

    As they are when it is first asked for, before the first kernel.
    """
    return _hash_of_sources()


def _hash_of_sources() -> str:
    package = Path(__file__).parent.parent
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in sorted([*package.glob("cpu/*.py"), package / "scalar.py", package / "fields.py"]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class _Files:
    """A function's compiled code on disk, a file for each key: signature, processor, byte code.

    Stands in for Numba's IndexDataCacheFile.
    """

    def __init__(self, folder: str, base: str) -> None:
        self._folder, self._base = Path(folder), base

    def _path(self, key: Any) -> Path:
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        return self._folder / f"{self._base}.{name}.nbfagg"

    def load(self, key: Any) -> Any:
        """Give what was saved under the key from the same sources, None if nothing sound is there."""
        try:
            content = self._path(key).read_bytes()
        except OSError:
            return None
        checksum, payload = content[:32], content[32:]
        if hashlib.sha256(payload).digest() != checksum:
            return None
        saved_key, stamp, data = pickle.loads(payload)
        return data if (saved_key, stamp) == (key, source_stamp()) else None

    def save(self, key: Any, data: Any) -> None:
        """Put it in the place of what was there, at once: others read the old file or the new one."""
        payload = serialize.dumps((key, source_stamp(), _alone(data)))  # type: ignore[no-untyped-call]
        if _hash_of_sources() != source_stamp():
            # Another version was put in place since this process began, and its modules may be of both.
            return
        place = self._folder / f"{self._base}.{uuid.uuid4().hex[:16]}.tmp"
        try:
            place.write_bytes(hashlib.sha256(payload).digest() + payload)
            place.replace(self._path(key))
        except BaseException:
            with contextlib.suppress(OSError):
                place.unlink()
            raise

    def flush(self) -> None:
        """Forget everything."""
        for path in self._folder.glob(f"{self._base}.*.nbfagg"):
            path.unlink(missing_ok=True)


def _alone(data: Any) -> Any:
    """Leave out the environments of what a kernel calls: those handle no Python object.

    To make them again imports the modules of those functions, Numba's of arrays and strings among them: a
    third of the time that the first call in a process took.
    """
    *kernel, environments = data
    if not all(isinstance(one, Environment) for one in environments):
        raise TypeError("a Numba that reduces what it compiled in another way")
    return (*kernel, ())


def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let what fails (a full disk, an unreadable file) give None."""

    def quietly(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except Exception:
            return None

    return quietly


def _load(cache: Any, signature: Any, target: Any) -> Any:
    """Load a kernel as Numba does, but for the registries of what may be compiled.

    To fill them takes half of a process's start, 0.3 s, or 0.5 s where SciPy is installed, which they import;
    what is compiled fills them itself. Kernels want no more than the symbols of Numba's runtime.
    """
    rtsys.initialize(target)
    return cache._load_overload(signature, target)


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
            cache = dispatcher._cache
            cache._cache_file = _Files(cache._cache_path, cache._impl.filename_base)
            cache.load_overload, cache.save_overload = (
                _quiet(functools.partial(_load, cache)),
                _quiet(cache.save_overload),
            )
        except (RuntimeError, OSError, AttributeError):
            # No folder to write to, or a Numba whose cache looks different:
            # better none than one that may be stale.
            return numba.njit(error_model="numpy", nogil=True, **options)(function)
        return dispatcher

    return decorate
