"""Where weights go: a file or folder beside OUT that takes its name when it is whole."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nbfagg.run import checkpoint
from nbfagg.run.refusal import Refused, importing
from nbfagg.run.sources import Index

# Bytes between two runs that are read and written back with them, and of such a stretch.
BETWEEN, SPAN = 4096, 4 * 1024 * 1024


class Target(Protocol):
    """An array that is written block by block."""

    def write(self, index: Index, block: npt.NDArray[Any]) -> None:
        """Write a block."""

    def sync(self) -> None:
        """See to it that what was written is on the disk."""

    def publish(self) -> None:
        """Give the whole array its name."""

    def close(self) -> None:
        """Let go of what is open."""


class Places:
    """The names of a run's files beside OUT, which one run at a time may have."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.part = out.with_name(f".{out.name}.nbfagg-part")
        self.state = out.with_name(f".{out.name}.nbfagg-state")
        self.cells = out.with_name(f".{out.name}.nbfagg-cells")
        self._lock = out.with_name(f".{out.name}.nbfagg-lock")
        try:
            self._held = os.open(self._lock, os.O_CREAT | os.O_RDWR, 0o666)
        except OSError as error:
            raise Refused(f"{out} cannot be written beside: {error.strerror}") from None
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._held)
            raise Refused(f"{out} is being written by another run; want one at a time") from None

    def clear(self) -> None:
        """Remove what a run left."""
        for path in (self.state, checkpoint.unfinished(self.state), self.cells, self.part):
            _remove(path)

    def release(self) -> None:
        """Let another run have the names."""
        with contextlib.suppress(FileNotFoundError):
            self._lock.unlink()
        os.close(self._held)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class Npy:
    """A .npy file."""

    def __init__(self, places: Places, shape: tuple[int, ...], dtype: np.dtype[Any], *, resume: bool) -> None:
        self._places, self.shape, self.itemsize = places, shape, dtype.itemsize
        self._dtype = dtype
        self._file = os.open(places.part, os.O_RDWR | (0 if resume else os.O_CREAT | os.O_TRUNC), 0o666)
        with open(self._file, "r+b", closefd=False) as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            self._offset = file.tell()
        # A disk that is too small is found out now.
        nbytes = self._offset + math.prod(shape) * dtype.itemsize
        try:
            os.posix_fallocate(self._file, 0, nbytes)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
                os.close(self._file)
                raise OSError(error.errno, error.strerror, str(places.out)) from None
            os.ftruncate(self._file, nbytes)

    def write(self, index: Index, block: npt.NDArray[Any]) -> None:
        """Write a block, run by run of what lies side by side in the file."""
        block = np.ascontiguousarray(block, self._dtype)
        whole = len(self.shape)
        while whole and block.shape[whole - 1] == self.shape[whole - 1]:
            whole -= 1
        outer = max(0, whole - 1)
        run = math.prod(block.shape[outer:]) * self.itemsize
        pitches = [math.prod(self.shape[axis + 1 :]) * self.itemsize for axis in range(len(self.shape))]
        base = self._offset + sum(part.start * pitch for part, pitch in zip(index, pitches, strict=True))
        # Runs along one axis follow one another at the same distance.
        inner = max(0, outer - 1)
        rows, pitch = (block.shape[inner], pitches[inner]) if outer else (1, run)
        sheets = block.reshape(-1).view(np.uint8).reshape(-1, rows, run)
        places = itertools.product(*map(range, block.shape[:inner]))
        for sheet, place in zip(sheets, places, strict=True):
            at = base + sum(i * pitch for i, pitch in zip(place, pitches[:inner], strict=True))
            write_rows(self._file, sheet, at, pitch, self._places.out)

    def sync(self) -> None:
        """See to it that what was written is on the disk."""
        os.fdatasync(self._file)

    def publish(self) -> None:
        """Give the whole array its name, in the place of any older one."""
        os.fsync(self._file)
        os.replace(self._places.part, self._places.out)
        folder = os.open(self._places.out.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def bytes_of(array: npt.NDArray[Any]) -> memoryview:
    """Give the memory of an array in one piece."""
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]  # not known to have a buffer


def write_at(file: int, data: memoryview, at: int, path: Path) -> None:
    """Write all of some bytes."""
    while data:
        try:
            done = os.pwrite(file, data, at)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        data, at = data[done:], at + done


def write_rows(file: int, rows: npt.NDArray[np.uint8], at: int, pitch: int, path: Path) -> None:
    """Write rows of bytes, each `pitch` after the one before.

    Where less lies between them than a write costs, they are put among it: four bytes at a time, a result of
    8 MB took 9 s.
    """
    count, run = rows.shape
    if pitch - run > BETWEEN:
        for number, row in enumerate(rows):
            write_at(file, bytes_of(row), at + number * pitch, path)
        return
    for first in range(0, count, max(1, SPAN // pitch)):
        some = rows[first : first + max(1, SPAN // pitch)]
        span = np.empty((len(some) - 1) * pitch + run, np.uint8)
        if len(some) > 1:
            read_at(file, bytes_of(span), at + first * pitch, path)
        np.lib.stride_tricks.as_strided(span, some.shape, (pitch, 1))[...] = some
        write_at(file, bytes_of(span), at + first * pitch, path)


def read_at(file: int, data: memoryview, at: int, path: Path) -> None:
    """Read as many bytes as there is room for."""
    while data:
        count = os.preadv(file, [data], at)
        if not count:
            raise OSError(f"{path} has been cut short")
        data, at = data[count:], at + count


class Zarr:
    """A Zarr array."""

    def __init__(self, places: Places, shape: tuple[int, ...], dtype: np.dtype[Any], *, resume: bool) -> None:
        zarr = importing("zarr", "zarr")
        self._places = places
        if resume:
            self._array = zarr.open_array(str(places.part), mode="r+")
        else:
            self._array = zarr.create_array(str(places.part), shape=shape, dtype=dtype)

    def write(self, index: Index, block: npt.NDArray[Any]) -> None:
        """Write a block; chunks of which it holds a part are read first."""
        self._array[index] = block

    def sync(self) -> None:
        """Do nothing: each chunk is a file, that a process which ends leaves whole."""

    def publish(self) -> None:
        """Give the folder its name; an older array goes first, since a folder cannot replace another."""
        _remove(self._places.out)
        os.replace(self._places.part, self._places.out)

    def close(self) -> None:
        """Do nothing: no file stays open."""


def kind_of(out: Path) -> type[Npy | Zarr]:
    """Give what OUT is to be, by its name.

    Raises
    ------
    Refused
        For another name, a folder that is not there, or something in the way.
    """
    kinds: dict[str, type[Npy | Zarr]] = {".npy": Npy, ".zarr": Zarr}
    if out.suffix not in kinds:
        raise Refused(f"{out} is to be written; want a name that ends in .npy or .zarr")
    if not out.parent.is_dir():
        raise Refused(f"{out} is to be written, and there is no folder {out.parent}")
    kind = kinds[out.suffix]
    marks = ("zarr.json", ".zarray", ".zgroup")
    if out.is_dir() if kind is Npy else out.exists() and not any((out / mark).exists() for mark in marks):
        raise Refused(f"{out} is there already and no {out.suffix}; want another name")
    if kind is Zarr and _is_group(out):
        raise Refused(f"{out} is a Zarr group, whose arrays would be lost; want another name, or one in it")
    return kind


def _is_group(path: Path) -> bool:
    """Say whether a folder is a Zarr group, of format 2 or 3."""
    if (path / ".zgroup").exists():
        return True
    try:
        return bool(json.loads((path / "zarr.json").read_bytes())["node_type"] == "group")
    except (OSError, ValueError, KeyError, TypeError):
        return False
