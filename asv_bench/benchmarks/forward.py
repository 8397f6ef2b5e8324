"""fagg of large arrays: time, time over the limit's, threads, and what each keyword costs."""

from __future__ import annotations

from functools import partial

import numpy as np

from nbfagg.bench.cases import logits

from .common import OPTIONS, Timed, anew, case, labels, options, public, turns

LARGE = labels(
    "heads",
    "pose",
    "long pose",
    "tiny rows",
    "four tokens",
    "one row",
    "softmax",
    "heat map, first",
    "heat map, last",
    "heads, reversed",
)


class Forward(Timed):
    """Time of a call, result allocated by it, as most calls are."""

    param_names = ("shape", "dtype")
    params = (LARGE, ["float32", "float64"])

    def setup(self, shape, dtype):
        self.call = partial(public("fagg"), logits(case(shape), dtype), keep_axis=case(shape).keep_axis)
        self.call()  # compiles or loads, and starts the threads

    def time_fagg(self, shape, dtype):
        self.call()


class Limit:
    """Our time over the limit's, in turns: 1 is the memory bus, a rise is worse."""

    param_names = ("shape",)
    params = (LARGE,)
    unit = "ratio"
    timeout = 600

    def setup(self, shape):
        public("fagg", "out")

    def track_limit_over(self, shape):
        return anew(logits(case(shape)), partial(self.over, case(shape)))

    def over(self, shape, a):
        from nbfagg.bench.limits import share_of_limit

        return 1 / share_of_limit(a, shape, **{"settle": 0.01, **turns(3)})["out"]["share"]


class Threads(Timed):
    """Time by number of threads; n/a where the machine has fewer."""

    param_names = ("shape", "workers")
    params = (labels("heads", "tiny rows"), [1, 2])

    def setup(self, shape, workers):
        import numba

        if workers > numba.config.NUMBA_NUM_THREADS:
            raise NotImplementedError(f"there are no {workers} threads")
        self.call = partial(public("fagg", "workers"), logits(case(shape)), workers=workers)
        self.call()

    def time_fagg(self, shape, workers):
        self.call()


class Options(Timed):
    """Time with each keyword; the first one is without any."""

    param_names = ("option", "shape")
    params = (OPTIONS, labels("pose"))

    def setup(self, option, shape):
        a = logits(case(shape))
        given = options(shape).get(option, {"out": np.empty(a.shape[:2], a.dtype)})
        self.call = partial(public("fagg", *given), a, **given)
        self.call()

    def time_fagg(self, option, shape):
        self.call()
