"""How far a run has come, kept beside OUT: one file that is replaced as a whole."""

from __future__ import annotations

import contextlib
import json
import os
import reprlib
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from nbfagg.run.refusal import Refused

Arrays = dict[str, npt.NDArray[Any]]

# Saved so often at most, and so seldom that it takes no more than this share of the time.
EVERY_SECONDS = 5.0
SHARE = 0.02
# For messages: of lengths the first few will do.
SHORTLY = reprlib.Repr()
SHORTLY.maxlist, SHORTLY.maxstring = 6, 200


def unfinished(path: Path) -> Path:
    """Give the name under which a checkpoint is written until it is whole."""
    return path.with_name(path.name + "-new")


class Checkpoint:
    """The progress of one run, which another one may take up."""

    def __init__(self, path: Path, what: dict[str, Any]) -> None:
        self.path, self.what = path, what
        self._next = time.monotonic() + EVERY_SECONDS

    def is_due(self) -> bool:
        """Say whether it is time to save."""
        return time.monotonic() >= self._next

    def save(self, position: int, arrays: Arrays, before: Callable[[], None]) -> None:
        """Save how many steps are done, and what is known so far, after `before` has made results safe."""
        start = time.monotonic()
        before()
        new = unfinished(self.path)
        try:
            with new.open("wb") as file:
                head = np.frombuffer(json.dumps([position, self.what]).encode(), np.uint8)
                np.savez(file, head=head, **cast(Any, arrays))
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, self.path)
        finally:
            with contextlib.suppress(OSError):
                new.unlink(missing_ok=True)
        now = time.monotonic()
        self._next = now + max(EVERY_SECONDS, (now - start) / SHARE)


def load(path: Path) -> tuple[int, dict[str, Any], Arrays]:
    """Give how many steps were done, of what, and what was known then.

    Raises
    ------
    Refused
        If the file is damaged.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        position, what = json.loads(arrays.pop("head").tobytes())
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise Refused(f"{path} is damaged ({error}); want a run without --resume") from None
    return position, what, arrays


def check_same(old: dict[str, Any], new: dict[str, Any], out: Path) -> None:
    """Refuse to go on with a run of something else."""
    for name, value in new.items():
        if old.get(name) != value:
            then, now = SHORTLY.repr(old.get(name)), SHORTLY.repr(value)
            raise Refused(
                f"{out} was begun with {name} {then} and is to go on with {now}; want the same, "
                "or a run without --resume"
            )
