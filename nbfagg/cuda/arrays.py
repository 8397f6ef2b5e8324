"""Device arrays of any library: what is read of them, and results of their kind."""

from __future__ import annotations

import ctypes
import functools
import math
import sys
from typing import Any, NamedTuple

import numpy as np

from nbfagg.cuda import driver
from nbfagg.fields import KINDS
from nbfagg.plan.axes import c_strides

# DLPack's codes of numbers, and its number for CUDA's memory.
_DLPACK = {0: "i", 1: "u", 2: "f", 4: "b", 6: "u"}
_DLPACK_CUDA = 2


class View(NamedTuple):
    """Where an array lies: strides in bytes, numbers by their names in fields.KINDS ("b1": boolean)."""

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    storage: str
    writeable: bool
    device: int
    stream: int

    @property
    def contiguous(self) -> bool:
        """Whether it lies in one piece, in C order."""
        return self.lies_by(c_strides(self.shape, int(self.storage[1])))

    def lies_by(self, strides: tuple[int, ...]) -> bool:
        """Say whether these strides are its own; along an axis of one number no step is taken."""
        if self.strides == strides or 0 in self.shape:
            return True
        steps = zip(self.shape, self.strides, strides, strict=True)
        return all(size == 1 or mine == other for size, mine, other in steps)

    def span(self) -> tuple[int, int]:
        """Give the first address and the one behind the last."""
        low, high = _extent(self.shape, self.strides, int(self.storage[1]))
        return self.address + low, self.address + high


@functools.lru_cache(maxsize=512)
def _extent(shape: tuple[int, ...], strides: tuple[int, ...], item: int) -> tuple[int, int]:
    """Give the first byte of an array and the one behind its last, from its address on."""
    if 0 in shape:
        return 0, 0
    ends = [(size - 1) * stride for size, stride in zip(shape, strides, strict=True)]
    return sum(end for end in ends if end < 0), sum(end for end in ends if end > 0) + item


class Library(NamedTuple):
    """How arrays of a library that is attached by itself are read and made (nbfagg/torch/device.py)."""

    view: Any  # of a name and an array
    empty: Any  # of an array to be like, a shape and a storage: an array and its address
    turn: Any  # of an array and its axes in another order
    spaces: Any  # of an array and a plan: addresses of a call's own workspace, and what keeps it


LIBRARIES: dict[type, Library] = {}


class DeviceArray:
    """An array in a GPU's memory that nbfagg made: what fagg gives for arrays of no library that it knows.

    Any library takes it, by ``__cuda_array_interface__``.

    Attributes
    ----------
    shape : tuple of int
        Its shape.
    dtype : numpy.dtype
        Its numbers; those of bfloat16 are uint16.
    strides : tuple of int
        In bytes; a result lies in one piece, in C order.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        storage: str,
        device: int,
        stream: int,
        strides: tuple[int, ...] | None = None,
    ) -> None:
        self.shape = shape
        self.dtype = np.dtype("u2" if storage == "b2" else storage)
        self.strides = c_strides(shape, self.dtype.itemsize) if strides is None else strides
        self._storage = storage
        self._device = driver.device(device)
        self._stream = stream
        entered = self._device.enter()
        try:
            count = math.prod(shape) * self.dtype.itemsize
            self._address = self._device.allocate(count, "for the result")
        finally:
            if entered:
                self._device.leave()

    @classmethod
    def of(cls, a: np.ndarray[Any, Any], storage: str | None = None, device: int = 0) -> DeviceArray:
        """Copy a NumPy array to a GPU, its axes in memory as they are; bfloat16 comes as uint16 and "b2"."""
        order = sorted(range(a.ndim), key=lambda axis: (-abs(a.strides[axis]), axis))
        memory = np.ascontiguousarray(a.transpose(order))
        back = tuple(sorted(range(a.ndim), key=order.__getitem__))
        kind = storage or f"{a.dtype.kind}{a.itemsize}"
        made = cls(a.shape, kind, device, 0, memory.transpose(back).strides)
        made._copy("cuMemcpyHtoD_v2", made._address, memory.ctypes.data, memory.nbytes)
        return made

    def to_host(self) -> np.ndarray[Any, Any]:
        """Copy to a NumPy array, once its stream has come so far; it lies in one piece."""
        if self.strides != c_strides(self.shape, self.dtype.itemsize):
            raise NotImplementedError("nbfagg: to_host of an array that does not lie in one piece")
        made = np.empty(self.shape, self.dtype)
        # The copy itself waits for the default stream alone.
        self._copy("cuStreamSynchronize", self._stream)
        self._copy("cuMemcpyDtoH_v2", made.ctypes.data, self._address, made.nbytes)
        return made

    def fill(self, byte: int) -> None:
        """Set every byte."""
        count = math.prod(self.shape) * self.dtype.itemsize
        self._copy("cuMemsetD8Async", self._address, byte, count, self._stream)

    def _copy(self, function: str, *arguments: Any) -> None:
        entered = self._device.enter()
        try:
            driver.check(self._device.driver, getattr(self._device.driver, function)(*arguments), "copying")
        finally:
            if entered:
                self._device.leave()

    @property
    def view(self) -> View:
        """Where it lies."""
        return View(
            self._address, self.shape, self.strides, self._storage, True, self._device.number, self._stream
        )

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """What other libraries read; work on it was queued on the stream that is named."""
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self._address, False),
            "strides": self.strides,
            "stream": self._stream or 1,
            "version": 3,
        }

    def __del__(self) -> None:
        """Give the memory back; the driver waits for the GPU."""
        if getattr(self, "_address", 0):
            self._device.free(self._address)


def is_device_array(a: Any) -> bool:
    """Say whether something lies in a GPU's memory."""
    if getattr(a, "__cuda_array_interface__", None) is not None:
        return True
    where = getattr(a, "__dlpack_device__", None)
    return where is not None and not isinstance(a, np.ndarray) and where()[0] == _DLPACK_CUDA


def view_of(name: str, a: Any) -> View:
    """Read where an array lies."""
    library = LIBRARIES.get(type(a))
    if library is not None:
        return library.view(name, a)  # type: ignore[no-any-return]
    if type(a) is DeviceArray:
        return a.view
    interface = getattr(a, "__cuda_array_interface__", None)
    if interface is None:
        if not is_device_array(a):
            raise TypeError(
                f"nbfagg: {name} is a {type(a).__name__} on the host, a is on a GPU; want an array there "
                "(nothing is moved between them)"
            )
        return _from_dlpack(name, a)
    if interface.get("mask") is not None:
        raise TypeError(f"nbfagg: {name} has a mask in its interface; want its data, and where=")
    shape = tuple(interface["shape"])
    storage = _storage(interface["typestr"])
    address, readonly = interface["data"]
    if not storage:
        if hasattr(a, "__dlpack__"):
            return _from_dlpack(name, a)
        raise TypeError(
            f"nbfagg: {name} has type {interface['typestr']}; want a float, an integer or a boolean type"
        )
    strides = interface.get("strides")
    strides = c_strides(shape, int(storage[1])) if strides is None else tuple(strides)
    stream = interface.get("stream")
    address = address or 0
    return View(address, shape, strides, storage, not readonly, _device_of(a, address), _stream_of(a, stream))


@functools.cache
def _storage(typestr: str) -> str:
    """Give the name of an interface's numbers, "" for none that is taken.

    bfloat16 has no name there, and comes by DLPack.
    """
    found = typestr[1:]
    known = found == "b1" or (found in KINDS and found[0] in "fiu")
    return found if known and typestr[0] != ">" else ""


def _device_of(a: Any, address: int) -> int:
    """Give the number of an array's GPU."""
    number = getattr(getattr(a, "device", None), "id", None)
    if isinstance(number, int):
        return number
    return driver.device_of(address) if address else 0


def _stream_of(a: Any, given: int | None) -> int:
    """Give the stream for work on an array: its library's current one, or that of the interface."""
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(a, cupy.ndarray):
        return int(cupy.cuda.get_current_stream().ptr)
    return given or 0


class _Tensor(ctypes.Structure):
    """DLPack's DLTensor, and the first of DLManagedTensor, whose rest nobody reads here."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32),
        ("number", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


def _from_dlpack(name: str, a: Any) -> View:
    """Read where an array lies by DLPack; the caller keeps it, and so its memory."""
    # 1 is the default stream, the one that results are then queued on.
    capsule = a.__dlpack__(stream=1)
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _Tensor.from_address(get(capsule, b"dltensor"))
    storage = f"{_DLPACK.get(tensor.code, '?')}{tensor.bits // 8}"
    if tensor.code == 6:
        storage = "b1"
    if (storage not in KINDS and storage != "b1") or tensor.lanes != 1 or tensor.device != _DLPACK_CUDA:
        raise TypeError(
            f"nbfagg: {name} has numbers of DLPack's code {tensor.code} of {tensor.bits} bits on device "
            f"{tensor.device}; want a float, an integer or a boolean type on a GPU"
        )
    item = tensor.bits // 8
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = (
        tuple(n * item for n in tensor.strides[: tensor.ndim]) if tensor.strides else c_strides(shape, item)
    )
    address = (tensor.data or 0) + tensor.offset
    return View(address, shape, strides, storage, True, tensor.number, 0)


def empty_like(a: Any, shape: tuple[int, ...], storage: str, view: View) -> tuple[Any, int]:
    """Give a new array of the library of `a`, on its GPU, and its address."""
    attached = LIBRARIES.get(type(a))
    if attached is not None:
        return attached.empty(a, shape, storage)  # type: ignore[no-any-return]
    library = type(a).__module__.partition(".")[0]
    if library == "cupy" and storage != "b2":
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(view.device):
            made = cupy.empty(shape, storage)
        return made, int(made.data.ptr)
    if library == "numba" and storage != "b2":
        cuda = sys.modules["numba.cuda"]
        made = cuda.device_array(shape, np.dtype(storage))
        return made, made.__cuda_array_interface__["data"][0] or 0
    made = DeviceArray(shape, storage, view.device, view.stream)
    return made, made._address


def turned(a: Any, axes: tuple[int, ...]) -> Any:
    """Give an array's axes in another order."""
    attached = LIBRARIES.get(type(a))
    if attached is not None:
        return attached.turn(a, axes)
    if not hasattr(a, "transpose"):
        raise NotImplementedError(
            "nbfagg: batch_axis lies behind keep_axis, and the library of the arrays is not known; want axes "
            "in that order"
        )
    return a.transpose(axes)


def in_one_piece(a: Any) -> Any:
    """Give a small array in one piece, a copy by its own library where it is not."""
    if hasattr(a, "contiguous"):
        return a.contiguous()
    return sys.modules["cupy"].ascontiguousarray(a) if type(a).__module__.startswith("cupy") else a
