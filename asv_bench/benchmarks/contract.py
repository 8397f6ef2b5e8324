"""The rest of the contract: masks, lengths, half precision, packed rows, the gradient, states."""

from __future__ import annotations

from functools import partial

import numpy as np

from .common import CASES, fagg, logits

SHAPES = ["heads", "pose", "long pose", "tiny rows"]


def _public(name):
    """A public function; asv shows n/a for a version without it."""
    import nbfagg

    if not hasattr(nbfagg, name):
        raise NotImplementedError(f"this version has no {name}")
    return getattr(nbfagg, name)


class Options:
    """Time of a call with each option, result allocated by it."""

    param_names = ("option", "shape")
    params = (["mask", "mask by token", "lengths", "float16", "return_lse", "log"], SHAPES)

    def setup(self, option, shape):
        a = logits(CASES[shape])
        batch, tokens = CASES[shape].result_shape
        _public("fagg_vjp")  # came with the options
        rng = np.random.default_rng(1)
        options = {
            "mask": lambda: {"where": rng.random(a.shape, np.float32) < 0.8},
            "mask by token": lambda: {"where": np.ones((batch, tokens, 1, 1), bool)},
            "lengths": lambda: {"lengths": rng.permutation(np.linspace(0, tokens, batch).astype(int))},
            "return_lse": lambda: {"return_lse": True},
            "log": lambda: {"log": True},
        }
        if option == "float16":
            self.call = partial(fagg(), a.astype(np.float16))
        else:
            self.call = partial(fagg(), a, **options[option]())
        self.call()

    def time_fagg(self, option, shape):
        self.call()


class Gradient:
    """Time of a gradient, allocated by the call."""

    param_names = ("log", "shape")
    params = ([False, True], SHAPES)

    def setup(self, log, shape):
        a = logits(CASES[shape])
        vjp = _public("fagg_vjp")
        alpha, lse = fagg()(a, log=log, return_lse=True)
        grad = np.random.default_rng(1).standard_normal(alpha.shape, np.float32)
        self.call = partial(vjp, grad, a, alpha, lse, log=log)
        self.call()

    def time_vjp(self, log, shape):
        self.call()


class Packed:
    """Time of ragged rows without padding, of equal and of skewed lengths."""

    param_names = ("lengths",)
    params = (["equal", "skewed"],)
    ROWS = 4096

    def setup(self, lengths):
        packed = _public("fagg_packed")
        sizes = np.maximum(1, self.ROWS / np.arange(1, self.ROWS + 1)).astype(int)
        offsets = np.concatenate(([0], np.cumsum(np.random.default_rng(2).permutation(sizes))))
        if lengths == "equal":
            offsets = np.linspace(0, offsets[-1], self.ROWS + 1).astype(int)
        a = np.random.default_rng(3).standard_normal((offsets[-1], 12, 64), np.float32)
        self.call = partial(packed, a, offsets)
        self.call()

    def time_packed(self, lengths):
        self.call()


class States:
    """Time to take in a chunk, and to merge and finish two."""

    def setup(self):
        state = _public("State")
        self.a = logits(CASES["pose"])
        self.of = state.of
        self.one, self.two = state.of(self.a), state.of(self.a)
        self.one.merge(self.two).finalize()

    def time_of(self):
        self.of(self.a)

    def time_merge(self):
        self.one.merge(self.two)

    def time_finalize(self):
        self.one.finalize()
