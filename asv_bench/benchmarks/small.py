"""Calls with next to nothing to compute."""

from __future__ import annotations

from functools import partial

from nbfagg.bench.cases import logits

from .common import Timed, case, labels, public


class Small(Timed):
    """What a call costs when there is next to nothing to compute."""

    param_names = ("dtype",)
    params = (["float32", "float64", "float16"],)

    def setup(self, dtype):
        if dtype == "float16":
            public("fagg_vjp")  # half precision came with it
        (shape,) = labels("small call")
        a = logits(case(shape)).astype(dtype)
        self.call = partial(public("fagg"), a)
        self.with_lse = partial(public("fagg"), a, return_lse=True)
        self.call()
        self.with_lse()

    def time_small(self, dtype):
        self.call()

    def time_small_with_lse(self, dtype):
        self.with_lse()
