"""Dask arrays, and arrays taken in chunk by chunk."""

from __future__ import annotations

import functools

import numpy as np

from nbfagg.bench.cases import logits

from .common import Timed, case, labels, public

AXES = ["batch", "tokens", "summed"]
CHUNKS = 4
(SHAPE,) = labels("heads")


class Dask(Timed):
    """Time to build and compute the result of an array in chunks along one axis, on threads."""

    param_names = ("chunked_axis",)
    params = (AXES,)

    def setup(self, axis):
        try:
            import dask.array
        except ImportError:
            raise NotImplementedError("Dask is not installed") from None
        a = logits(case(SHAPE))
        chunks = [-1] * a.ndim
        chunks[AXES.index(axis)] = -(-a.shape[AXES.index(axis)] // CHUNKS)
        self.a = dask.array.from_array(a, chunks=tuple(chunks))
        try:
            self.compute()
        except TypeError as refused:
            raise NotImplementedError(str(refused)) from refused

    def compute(self):
        return public("fagg")(self.a).compute(scheduler="threads")

    def time_dask(self, axis):
        self.compute()


class Chunked(Timed):
    """Time to take in chunks as states, merge them and finish, in one thread of Python."""

    param_names = ("chunked_axis",)
    params = (["tokens", "summed"],)

    def setup(self, axis):
        self.state = public("State")
        self.chunks = np.array_split(logits(case(SHAPE)), CHUNKS, axis=AXES.index(axis))
        self.axis = "keep" if axis == "tokens" else axis
        self.fold()

    def fold(self):
        states = map(self.state.of, self.chunks)
        return functools.reduce(lambda one, two: one.merge(two, axis=self.axis), states).finalize(log=True)

    def time_fold(self, axis):
        self.fold()
