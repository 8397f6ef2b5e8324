"""Masks, lengths and ragged rows."""

from __future__ import annotations

from functools import partial

import numpy as np

from nbfagg.bench.cases import logits

from .common import Timed, case, labels, options, public, quick


class Masks(Timed):
    """Time of padded rows: a mask of every logit, one of tokens, and lengths."""

    param_names = ("option", "shape")
    params = (["where", "where, by token", "lengths"], labels("heads", "long pose", "tiny rows"))

    def setup(self, option, shape):
        given = options(shape)[option]
        public("fagg_vjp")  # came with masks; before, they were named and refused
        self.call = partial(public("fagg"), logits(case(shape)), **given)
        self.call()

    def time_fagg(self, option, shape):
        self.call()


class Packed(Timed):
    """Time of ragged rows without padding, of equal and of skewed lengths."""

    param_names = ("lengths", "option")
    params = (["equal", "skewed"], ["plain", "scale", "log", "return_lse", "workers", "out"])

    def setup(self, lengths, option):
        packed = public("fagg_packed")
        a, offsets = ragged(lengths)
        given = {"out": np.empty(len(a), a.dtype)} if option == "out" else options(labels("pose")[0])[option]
        self.call = partial(packed, a, offsets, **given)
        self.call()

    def time_packed(self, lengths, option):
        self.call()


def ragged(lengths: str) -> tuple[np.ndarray, np.ndarray]:
    """Give packed logits of 12 heads and their offsets; skewed lengths fall as 1/rank, in any order."""
    rows = 8 if quick() else 1024
    sizes = np.maximum(1, rows / np.arange(1, rows + 1)).astype(int)
    offsets = np.concatenate(([0], np.cumsum(np.random.default_rng(2).permutation(sizes))))
    if lengths == "equal":
        offsets = np.linspace(0, offsets[-1], rows + 1).astype(int)
    return np.random.default_rng(3).standard_normal((offsets[-1], 12, 64), np.float32), offsets
