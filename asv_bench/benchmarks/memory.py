"""Extra memory of a call beyond its arguments and its result."""

from __future__ import annotations

from functools import partial

from nbfagg.bench.cases import CASES, Case, logits
from nbfagg.bench.memory import extra_bytes

from .common import cotangent, public, quick

ORDERS = {"contiguous": (0, 1, 2, 3), "tokens innermost": (0, 3, 2, 1), "batch innermost": (3, 2, 1, 0)}


class Memory:
    """High-water mark of a call on 50 MB of logits, in a new process; Linux only."""

    param_names = ("layout",)
    params = (list(ORDERS),)
    unit = "bytes"
    timeout = 600

    def setup(self, layout):
        public("fagg")
        # Too small to leave behind what the call could use.
        self.small = logits(Case((4, 64, 12, 16), order=ORDERS[layout]))
        self.a = self.small if quick() else logits(Case(CASES["heads"].shape, order=ORDERS[layout]))

    def track_extra_fagg(self, layout):
        public("fagg")(self.small)
        return extra_bytes(partial(public("fagg"), self.a))

    def track_extra_vjp(self, layout):
        gradient(self.small)()
        return extra_bytes(gradient(self.a))


def gradient(a):
    alpha, lse = public("fagg")(a, return_lse=True)
    return partial(public("fagg_vjp"), cotangent(alpha.shape), a, alpha, lse)
