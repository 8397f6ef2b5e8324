"""Extra memory of a call beyond its arguments and its result."""

from __future__ import annotations

from functools import partial

from nbfagg.bench.cases import CASES, Case, logits
from nbfagg.bench.memory import extra_bytes

from .common import cotangent, public, quick

ORDERS = {"contiguous": (0, 1, 2, 3), "tokens innermost": (0, 3, 2, 1), "batch innermost": (3, 2, 1, 0)}


class HighWater:
    """What both have in common; asv measures nothing of it."""

    param_names = ("layout",)
    params = (list(ORDERS),)
    unit = "bytes"
    timeout = 600


class Memory(HighWater):
    """High-water mark of a call on 50 MB of logits, in a new process; Linux only."""

    def setup(self, layout):
        self.small, self.a = inputs(layout)
        self.fagg = public("fagg")

    def track_extra_fagg(self, layout):
        self.fagg(self.small)
        return extra_bytes(partial(self.fagg, self.a))


class GradientMemory(HighWater):
    """That of a gradient."""

    def setup(self, layout):
        self.small, self.a = inputs(layout)
        self.vjp = public("fagg_vjp")

    def track_extra_vjp(self, layout):
        self.call(self.small)()
        return extra_bytes(self.call(self.a))

    def call(self, a):
        alpha, lse = public("fagg")(a, return_lse=True)
        return partial(self.vjp, cotangent(alpha.shape), a, alpha, lse)


def inputs(layout):
    """Give logits too small to leave behind what a call on others could use, and those others."""
    small = logits(Case((4, 64, 12, 16), order=ORDERS[layout]))
    return small, small if quick() else logits(Case(CASES["heads"].shape, order=ORDERS[layout]))
