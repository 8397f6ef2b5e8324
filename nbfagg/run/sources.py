"""Where logits come from: a `.npy` or a `.safetensors` file, mapped into memory, or a Zarr array.

Threads that take a tile each read a mapped file as fast as `cat` does, cold, and 1.2 times as fast, warm.
Pages are brought in for a whole tile at once (MADV_POPULATE_READ) and let go after it (MADV_DONTNEED), for
those of a mapped file count as resident. Copies into buffers (preadv) took twice as long, warm, and threads
of Numba's own that share a tile up to four times as long where another process ran.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import math
import mmap
import os
import struct
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from nbfagg.plan import BRAIN
from nbfagg.run.refusal import Refused, importing

Index = tuple[slice, ...]

# Since Linux 5.14; Python 3.11 has no name for it.
MADV_POPULATE_READ = 22
# How far ahead of a tile the disk is told to read.
AHEAD = 32 * 1024 * 1024

SAFETENSORS_DTYPES: dict[str, Any] = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": BRAIN,
    "BOOL": "?",
    **{f"{sign}{bits}": f"<{kind}{bits // 8}" for sign, kind in ("Ii", "Uu") for bits in (8, 16, 32, 64)},
}


class Source(Protocol):
    """An array that is read tile by tile, by several threads at once."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...]  # in which it is best read; 1 where it does not matter
    stamp: list[Any]  # what tells this array from another one, or from itself after a change

    def read(self, index: Index) -> npt.NDArray[Any]:
        """Give a part of the array, which is the caller's until `done`."""

    def done(self, index: Index) -> None:
        """Let a part go."""

    def close(self) -> None:
        """Close the file."""


class Mapped:
    """An array that lies in a file in one piece, in C order."""

    def __init__(self, path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.path, self.shape, self.dtype = path, shape, dtype
        self.chunks = (1,) * len(shape)
        self._end = offset + math.prod(shape) * dtype.itemsize
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_size < self._end:
                raise Refused(
                    f"{path} has {status.st_size} bytes and an array of shape {shape} and dtype {dtype} ends "
                    f"at {self._end}; want a whole file (it is truncated)"
                )
            self._file = os.dup(file.fileno())
            self._map = mmap.mmap(file.fileno(), self._end, prot=mmap.PROT_READ)
        self.stamp = [str(path.resolve()), status.st_size, status.st_mtime_ns, offset]
        everything = np.frombuffer(self._map, np.uint8)
        self._start = everything.ctypes.data
        self.array = everything[offset:].view(dtype).reshape(shape)

    def read(self, index: Index) -> npt.NDArray[Any]:
        """Give a view of the file, its pages brought in."""
        part = self._part(index)
        if part.flags.c_contiguous:
            low = part.ctypes.data - self._start
            os.posix_fadvise(self._file, low + part.nbytes, AHEAD, os.POSIX_FADV_WILLNEED)
            self._advise(low, low + part.nbytes, MADV_POPULATE_READ)
        return part

    def done(self, index: Index) -> None:
        """Let the part's pages go; the system keeps them in its cache."""
        part = self._part(index)
        low = part.ctypes.data - self._start
        steps = sum((size - 1) * stride for size, stride in zip(part.shape, part.strides, strict=True))
        self._advise(low, low + steps + part.itemsize, mmap.MADV_DONTNEED)

    def _part(self, index: Index) -> npt.NDArray[Any]:
        # Of rank 0 NumPy would give a copy.
        part: npt.NDArray[Any] = self.array[index] if index else self.array
        return part

    def _advise(self, low: int, high: int, advice: int) -> None:
        """Tell the system about the pages of some bytes; mmap.madvise would hold Python's lock."""
        low -= low % mmap.PAGESIZE
        if _libc().madvise(ctypes.c_void_p(self._start + low), ctypes.c_size_t(high - low), advice):
            number = ctypes.get_errno()
            # An older system brings pages in one by one, when they are touched.
            if not (number == errno.EINVAL and advice == MADV_POPULATE_READ):
                raise OSError(number, f"{os.strerror(number)}: cannot be read", str(self.path))

    def close(self) -> None:
        """Close the file; its memory goes with the last view."""
        os.close(self._file)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


class Zarr:
    """A Zarr array."""

    def __init__(self, path: Path, key: str | None) -> None:
        zarr = importing("zarr", "zarr")
        try:
            found = zarr.open(str(path), path=key, mode="r")
        except Exception as error:  # of many kinds, none of them documented
            raise Refused(f"{path} cannot be opened as Zarr: {error}") from None
        if not isinstance(found, zarr.Array):
            names = ", ".join(sorted(name for name, _ in found.arrays())) or "none"
            raise Refused(f"{path} is a Zarr group; want --key with the name of an array in it ({names})")
        self.path, self._array = path, found
        self.shape, self.dtype, self.chunks = found.shape, np.dtype(found.dtype), found.chunks
        self.stamp = [str(path.resolve()), key]

    def read(self, index: Index) -> npt.NDArray[Any]:
        """Give a copy of a part, unpacked."""
        try:
            return np.asarray(self._array[index])
        except (OSError, MemoryError):
            raise
        except Exception as error:  # of the codec
            raise OSError(errno.EIO, f"cannot be read ({error})", str(self.path)) from None

    def done(self, index: Index) -> None:
        """Do nothing: a part is a copy."""

    def close(self) -> None:
        """Do nothing: no file stays open."""


def open_source(path: Path, key: str | None = None) -> Source:
    """Open a file or a folder by what it is.

    Raises
    ------
    Refused
        If it holds no array that can be taken.
    """
    if not path.exists():
        raise Refused(f"{path} does not exist; want a .npy or .safetensors file, or a Zarr array")
    if path.is_dir():
        return Zarr(path, key)
    if path.suffix == ".safetensors":
        return _safetensors(path, key)
    if key is not None:
        raise Refused(f"--key={key} with {path}; want it for .safetensors files and Zarr groups only")
    return _npy(path)


def _npy(path: Path) -> Mapped:
    """Open a .npy file; what is pickled in it is never loaded."""
    form = np.lib.format
    with path.open("rb") as file:
        try:
            if file.read(2) == b"PK":
                raise ValueError(".npz, several arrays in an archive; want one, as np.save writes it")
            file.seek(0)
            version = form.read_magic(file)
            read = {(1, 0): form.read_array_header_1_0}.get(version, form.read_array_header_2_0)
            shape, fortran, dtype = read(file)
        except (ValueError, TypeError, OverflowError) as error:
            what = str(error).strip().splitlines()[0]
            raise Refused(f"{path} is no .npy file: {what}") from None
        offset = file.tell()
    if not _is_possible(shape, dtype):
        raise Refused(f"{path} is no .npy file: its header says shape {shape} and dtype {dtype}")
    if dtype.hasobject:
        raise Refused(
            f"{path} has dtype {dtype}, which is pickled, and pickles are never loaded; want numbers"
        )
    if fortran:
        raise Refused(
            f"{path} is in Fortran order; want C order, as np.save(..., np.ascontiguousarray(a)) gives"
        )
    return Mapped(path, offset, shape, dtype)


def _is_possible(shape: tuple[Any, ...], dtype: np.dtype[Any]) -> bool:
    """Say whether NumPy can have such an array; a header may hold anything."""
    if len(shape) > 64 or any(type(size) is not int or size < 0 for size in shape):
        return False
    return dtype.subdtype is None and 0 < dtype.itemsize * math.prod(filter(None, shape)) < 2**63


def _safetensors(path: Path, key: str | None) -> Mapped:
    """Open a tensor of a .safetensors file; the library checks it, but does not say where a tensor lies."""
    library = importing("safetensors", "safetensors")
    try:
        with library.safe_open(str(path), framework="numpy") as file:
            names = sorted(file.keys())
    except library.SafetensorError as error:
        raise Refused(f"{path} is no whole .safetensors file: {error}") from None
    if (len(names) != 1) if key is None else (key not in names):
        came = "no --key" if key is None else f"--key={key}"
        raise Refused(
            f"{path} with {came}; want the name of one of its tensors: {', '.join(names) or 'none'}"
        )
    with path.open("rb") as opened:
        (size,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(size))
    tensor = header[key or names[0]]
    if tensor["dtype"] not in SAFETENSORS_DTYPES:
        known = ", ".join(SAFETENSORS_DTYPES)
        raise Refused(f"{path} has dtype {tensor['dtype']} in {key or names[0]}; want one of {known}")
    dtype = np.dtype(SAFETENSORS_DTYPES[tensor["dtype"]])
    return Mapped(path, 8 + size + tensor["data_offsets"][0], tuple(tensor["shape"]), dtype)
