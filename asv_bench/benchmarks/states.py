"""Logits in chunks: states taken in, merged and finished."""

from __future__ import annotations

from functools import partial

from nbfagg.bench.cases import logits

from .common import OPTIONS, Timed, case, labels, options, public


class States(Timed):
    """Time to take in a chunk with each keyword, to merge two, and to finish one."""

    param_names = ("option",)
    params = ([option for option in OPTIONS if option not in ("log", "return_lse", "out")],)

    def setup(self, option):
        (shape,) = labels("pose")
        given = options(shape)[option]
        self.of = partial(public("State.of", *given), logits(case(shape)), **given)
        self.one, self.two = self.of(), self.of()
        self.finish(self.merge())

    def merge(self):
        return self.one.merge(self.two, axis="summed")

    def finish(self, state):
        return state.finalize(log=False), state.lse

    def time_of(self, option):
        self.of()

    def time_merge(self, option):
        self.merge()

    def time_finalize(self, option):
        self.finish(self.one)
