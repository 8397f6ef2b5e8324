"""As much of CuPy as nbfagg and Dask ask for, on memory of the host: what the stand-in driver's GPU has.

Like CuPy's arrays these refuse to become NumPy's unasked.
"""

import contextlib
import sys
from types import SimpleNamespace

import numpy as np


class Device(contextlib.AbstractContextManager):
    """The one GPU."""

    def __init__(self, number=0):
        self.id = number

    def __exit__(self, *error):
        return None


class ndarray:
    """An array of the GPU."""

    def __init__(self, values):
        self._values = values

    device = Device()
    shape, dtype, ndim, size, strides, itemsize, nbytes = (
        property(lambda self, name=name: getattr(self._values, name))
        for name in ("shape", "dtype", "ndim", "size", "strides", "itemsize", "nbytes")
    )

    @property
    def data(self):
        return SimpleNamespace(ptr=self._values.ctypes.data)

    @property
    def __cuda_array_interface__(self):
        values = self._values
        return {
            "shape": values.shape, "typestr": values.dtype.str, "data": (values.ctypes.data, False),
            "strides": values.strides, "version": 3,
        }  # fmt: skip

    def __array__(self, *arguments, **keywords):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    def __array_function__(self, function, types, arguments, keywords):
        return _wrapped(function(*_unwrapped(arguments), **_unwrapped(keywords)))

    def get(self):
        return self._values.copy()

    def __getitem__(self, index):
        return ndarray(np.asarray(self._values[index]))

    def __len__(self):
        return len(self._values)

    def astype(self, dtype, order="K", copy=True):
        return ndarray(self._values.astype(dtype, order=order, copy=copy))

    def transpose(self, *axes):
        return ndarray(self._values.transpose(*axes))


ndarray.__module__ = "cupy"


def _unwrapped(value):
    if isinstance(value, ndarray):
        return value._values
    if isinstance(value, list | tuple):
        return type(value)(map(_unwrapped, value))
    return {name: _unwrapped(one) for name, one in value.items()} if isinstance(value, dict) else value


def _wrapped(value):
    return ndarray(value) if isinstance(value, np.ndarray) else value


def _of(function):
    return lambda *arguments, **keywords: _wrapped(function(*_unwrapped(arguments), **_unwrapped(keywords)))


def asarray(values):
    """Copy to the GPU, in the order in memory that the values have."""
    return ndarray(np.array(_unwrapped(values), order="K"))


def module():
    """Give what stands for the package."""
    found = type(sys)("cupy")
    found.ndarray, found.asarray, found.asnumpy = ndarray, asarray, ndarray.get
    found.cuda = SimpleNamespace(Device=Device, get_current_stream=lambda: SimpleNamespace(ptr=7))
    for name in ("empty", "concatenate", "take", "tensordot", "einsum", "ascontiguousarray"):
        setattr(found, name, _of(getattr(np, name)))
    return found
