"""The gradient: time, time over a copy's, and what each keyword costs."""

from __future__ import annotations

from functools import partial

import numpy as np

from nbfagg.bench.cases import logits

from .common import OPTIONS, Timed, case, cotangent, labels, options, public, turns
from .masks import ragged


class Gradient(Timed):
    """Time of a gradient, allocated by the call."""

    param_names = ("log", "shape")
    params = ([False, True], labels("small call", "heads", "pose", "tiny rows"))

    def setup(self, log, shape):
        vjp = public("fagg_vjp")
        a = logits(case(shape))
        alpha, lse = public("fagg")(a, log=log, return_lse=True)
        self.call = partial(vjp, cotangent(alpha.shape), a, alpha, lse, log=log)
        self.call()

    def time_vjp(self, log, shape):
        self.call()


class OverCopy:
    """Our time over that of a copy of the logits, which moves the same bytes, in turns; a rise is worse."""

    param_names = ("shape",)
    params = (labels("heads", "pose", "tiny rows"),)
    unit = "ratio"
    timeout = 600

    def setup(self, shape):
        public("fagg_vjp")

    def track_copy_over(self, shape):
        from nbfagg.bench.limits import copies
        from nbfagg.bench.turns import alternate, fastest, ratio

        a = logits(case(shape))
        alpha, lse = public("fagg")(a, return_lse=True)
        target = np.empty_like(a)
        sides = {
            "ours": partial(public("fagg_vjp"), cotangent(alpha.shape), a, alpha, lse, out=target),
            **copies(a, target),
        }
        seconds = alternate(sides, **turns(9))
        best = fastest(seconds, [name for name in sides if name != "ours"])
        return ratio(seconds["ours"], seconds[best])


class Options(Timed):
    """Time with each keyword; the first one is without any."""

    param_names = ("option",)
    params = (OPTIONS,)

    def setup(self, option):
        vjp = public("fagg_vjp")
        (shape,) = labels("pose")
        a = logits(case(shape))
        given = options(shape).get(option, {})
        alpha, lse = public("fagg")(a, **{"return_lse": True, **given})
        grad = cotangent(alpha.shape)
        if option == "return_lse":
            grad = grad, cotangent(lse.shape)
        if option == "out":
            given = {"out": np.empty_like(a)}
        self.call = partial(vjp, grad, a, alpha, lse, **given)
        self.call()

    def time_vjp(self, option):
        self.call()


class Packed(Timed):
    """Time of the gradient of ragged rows of skewed lengths."""

    param_names = ("option",)
    params = (["plain", "scale", "log", "return_lse", "workers", "out"],)

    def setup(self, option):
        vjp = public("fagg_packed_vjp")
        a, offsets = ragged("skewed")
        given = options(labels("pose")[0]).get(option, {})
        alpha, lse = public("fagg_packed")(a, offsets, **{"return_lse": True, **given})
        grad = cotangent(alpha.shape)
        if option == "return_lse":
            grad = grad, cotangent(lse.shape)
        if option == "out":
            given = {"out": np.empty_like(a)}
        self.call = partial(vjp, grad, a, offsets, alpha, lse, **given)
        self.call()

    def time_packed_vjp(self, option):
        self.call()
