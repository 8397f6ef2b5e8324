"""The CUDA driver, called by ctypes: what it takes to run a kernel, and no package.

Measured with a driver that does nothing: 1.1 us a launch, where Numba's dispatcher
takes 28 to 70 us for a kernel of three arrays. Every failure is one sentence that says
what to do.
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from typing import Any

NAME = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
# Of CUresult, those that a sentence is known for.
_OUT_OF_MEMORY, _NO_DEVICE, _INSUFFICIENT_DRIVER = 2, 100, 35
_BAD_CODE = {
    200: "the driver does not take the kernels' machine code",
    209: "no machine code fits this GPU",
    218: "the driver does not take the kernels' PTX",
    222: "the driver is older than the toolkit that the kernels were built with",
}
_MAJOR, _MINOR, _DEVICE_OF_POINTER = 75, 76, 9

_ADDRESS, _SIZE, _INT, _UINT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_uint
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "cuInit": (_UINT,),
    "cuDriverGetVersion": (_ADDRESS,),
    "cuDeviceGet": (_ADDRESS, _INT),
    "cuDeviceGetCount": (_ADDRESS,),
    "cuDeviceGetAttribute": (_ADDRESS, _INT, _INT),
    "cuDevicePrimaryCtxRetain": (_ADDRESS, _INT),
    "cuCtxGetCurrent": (_ADDRESS,),
    "cuCtxPushCurrent_v2": (_ADDRESS,),
    "cuCtxPopCurrent_v2": (_ADDRESS,),
    "cuModuleLoadData": (_ADDRESS, _ADDRESS),
    "cuModuleGetFunction": (_ADDRESS, _ADDRESS, ctypes.c_char_p),
    "cuMemAlloc_v2": (_ADDRESS, _SIZE),
    "cuMemFree_v2": (ctypes.c_uint64,),
    "cuMemcpyHtoD_v2": (ctypes.c_uint64, _ADDRESS, _SIZE),
    "cuMemcpyDtoH_v2": (_ADDRESS, ctypes.c_uint64, _SIZE),
    "cuStreamSynchronize": (_ADDRESS,),
    "cuMemsetD8Async": (ctypes.c_uint64, ctypes.c_ubyte, _SIZE, _ADDRESS),
    "cuPointerGetAttribute": (_ADDRESS, _INT, ctypes.c_uint64),
    "cuGetErrorName": (_INT, _ADDRESS),
    "cuLaunchKernel": (_ADDRESS, *(_UINT,) * 7, _ADDRESS, _ADDRESS, _ADDRESS),
}


class DriverError(RuntimeError):
    """The CUDA driver, or what it takes to use it, is not there or refused a call."""


@functools.cache
def library() -> Any:
    """Load the driver once."""
    try:
        found = ctypes.CDLL(NAME)
    except OSError:
        raise DriverError(
            f"nbfagg: a is on a GPU, but there is no {NAME}; want NVIDIA's driver, 580 or newer"
        ) from None
    try:
        for function, arguments in _FUNCTIONS.items():
            getattr(found, function).argtypes = arguments
    except AttributeError as missing:
        raise DriverError(f"nbfagg: the driver is too old ({missing}); want 580 or newer") from None
    check(found, found.cuInit(0))
    return found


def check(driver: Any, code: int, doing: str = "") -> None:
    """Raise if a call failed, saying what was being done."""
    if not code:
        return
    if code == _OUT_OF_MEMORY:
        raise MemoryError(f"nbfagg: no GPU memory {doing}; nothing was written")
    if code == _NO_DEVICE:
        raise DriverError("nbfagg: the driver sees no GPU; want one (CUDA_VISIBLE_DEVICES may hide it)")
    name = ctypes.c_char_p()
    driver.cuGetErrorName(code, ctypes.byref(name))
    known = (name.value or b"CUDA error").decode()
    if code == _INSUFFICIENT_DRIVER or code in _BAD_CODE:
        why = _BAD_CODE.get(code, "the driver is too old")
        raise DriverError(f"nbfagg: {why} ({known}); want NVIDIA's driver 580 or newer")
    raise DriverError(f"nbfagg: {known} ({code}) from the CUDA driver {doing}".rstrip())


class Device:
    """A GPU's primary context, which PyTorch, CuPy and Numba share, and the kernels loaded there."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.driver = library()
        handle, self.context = ctypes.c_int(), ctypes.c_void_p()
        check(self.driver, self.driver.cuDeviceGet(ctypes.byref(handle), number))
        check(self.driver, self.driver.cuDevicePrimaryCtxRetain(ctypes.byref(self.context), handle))
        self.target = (self._attribute(handle, _MAJOR), self._attribute(handle, _MINOR))
        # Launches that share a workspace are queued without another thread's between them.
        self.queue = threading.Lock()
        self._lock = threading.Lock()
        self._functions: dict[Any, ctypes.c_void_p] = {}
        self._spaces: dict[tuple[int, str], list[tuple[int, int]]] = {}

    def _attribute(self, handle: ctypes.c_int, which: int) -> int:
        value = ctypes.c_int()
        check(self.driver, self.driver.cuDeviceGetAttribute(ctypes.byref(value), which, handle))
        return value.value

    def enter(self) -> bool:
        """Make the context current; say whether it was another, and `leave` has to be called."""
        current = ctypes.c_void_p()
        self.driver.cuCtxGetCurrent(ctypes.byref(current))
        if current.value == self.context.value:
            return False
        check(self.driver, self.driver.cuCtxPushCurrent_v2(self.context))
        return True

    def leave(self) -> None:
        """Bring back the context that was current."""
        self.driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))

    def function(self, key: Any, built: Any) -> ctypes.c_void_p:
        """Give a kernel's handle; `built()` gives its machine code if it has not been loaded."""
        found = self._functions.get(key)
        if found is None:
            with self._lock:
                found = self._functions.get(key)
                if found is None:
                    found = self._functions[key] = self._load(*built())
        return found

    def _load(self, code: bytes, name: str) -> ctypes.c_void_p:
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        check(self.driver, self.driver.cuModuleLoadData(ctypes.byref(module), code), "loading a kernel")
        found = self.driver.cuModuleGetFunction(ctypes.byref(function), module, name.encode())
        check(self.driver, found, "finding a kernel")
        return function

    def space(self, stream: int, name: str, count: int, zero: bool = False) -> int:
        """Give the address of so many bytes that calls on this stream may use, one after the other.

        Larger ones are kept beside smaller ones, at most as many bytes again: a captured graph may use them.
        """
        kept = self._spaces.get((stream, name))
        if kept is not None and kept[-1][1] >= count:
            return kept[-1][0]
        with self._lock:
            kept = self._spaces.get((stream, name), [])
            if not kept or kept[-1][1] < count:
                size = 1 << max(12, (count - 1).bit_length())
                address = self.allocate(size, "for a workspace")
                if zero:
                    check(self.driver, self.driver.cuMemsetD8Async(address, 0, size, stream))
                kept = self._spaces[stream, name] = [*kept, (address, size)]
            return kept[-1][0]

    def allocate(self, count: int, doing: str) -> int:
        """Give so many bytes of the GPU's memory."""
        address = ctypes.c_uint64()
        code = self.driver.cuMemAlloc_v2(ctypes.byref(address), max(1, count))
        check(self.driver, code, f"({count} bytes) {doing}")
        return address.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self.driver.cuMemFree_v2(address)

    def free_spaces(self) -> int:
        """Give all workspaces back to the driver, once the GPU has finished with them; say how many bytes."""
        with self._lock:
            kept, self._spaces = self._spaces, {}
        entered = self.enter()
        try:
            for spaces in kept.values():
                for address, _ in spaces:
                    self.free(address)
        finally:
            if entered:
                self.leave()
        return sum(size for spaces in kept.values() for _, size in spaces)


_devices: dict[int, Device] = {}
_devices_lock = threading.Lock()


def device(number: int) -> Device:
    """Give a GPU by its number."""
    found = _devices.get(number)
    if found is None:
        with _devices_lock:
            found = _devices.setdefault(number, Device(number))
    return found


@functools.cache
def count() -> int:
    """Give how many GPUs there are."""
    found = ctypes.c_int()
    check(library(), library().cuDeviceGetCount(ctypes.byref(found)))
    return found.value


def device_of(address: int) -> int:
    """Give the number of the GPU that holds an address."""
    if count() == 1:
        # To ask takes a tenth of a call's time.
        return 0
    driver, number = library(), ctypes.c_int()
    code = driver.cuPointerGetAttribute(ctypes.byref(number), _DEVICE_OF_POINTER, address)
    check(driver, code, "asking whose memory an array is")
    return number.value


def free_workspace() -> int:
    """Give the memory of all workspaces on all GPUs back.

    Returns
    -------
    int
        How many bytes that were. Captured CUDA graphs that use a workspace cannot be replayed any more.
    """
    return sum(found.free_spaces() for found in list(_devices.values()))
