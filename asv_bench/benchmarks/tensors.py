"""PyTorch tensors on the CPU: calls, forward and backward, modules."""

from __future__ import annotations

from functools import partial

from nbfagg.bench.cases import logits

from .common import Timed, case, cotangent, labels, public


def _torch():
    """PyTorch, and nbfagg's part for it; asv shows n/a where there is none."""
    try:
        import torch

        import nbfagg.torch
    except ImportError as missing:
        raise NotImplementedError(str(missing)) from missing
    return torch, nbfagg.torch


class Tensors(Timed):
    """Time on tensors."""

    param_names = ("shape",)
    params = (labels("small call", "heads", "pose"),)

    def setup(self, shape):
        torch, _ = _torch()
        self.fagg = public("fagg")
        self.x = torch.from_numpy(logits(case(shape)).copy())
        self.leaf = self.x.clone().requires_grad_()
        self.grad = torch.from_numpy(cotangent(tuple(self.x.shape[:2])))
        self.forward()
        self.both()

    def forward(self):
        self.fagg(self.x)

    def both(self):
        self.leaf.grad = None
        self.fagg(self.leaf).backward(self.grad)

    def time_forward(self, shape):
        self.forward()

    def time_forward_and_backward(self, shape):
        self.both()


class Modules(Timed):
    """Time of the modules with all that they take."""

    def setup(self):
        torch, ours = _torch()
        (shape,) = labels("pose")
        a = torch.from_numpy(logits(case(shape)).copy())
        batch, tokens = a.shape[:2]
        given = {
            "where": torch.ones(batch, tokens, 1, 1, dtype=torch.bool),
            "lengths": torch.full((batch,), tokens),
        }
        layer = ours.Fagg(batch_axis=0, keep_axis=1, scale=0.5, log=True, return_lse=True, workers=2)
        pool = ours.AttentionPool(scale=0.5)
        self.layer = partial(layer, a, **given)
        self.pool = partial(pool, a, torch.ones(batch, tokens, 16), **given)
        self.layer()
        self.pool()

    def time_layer(self):
        self.layer()

    def time_pool(self):
        self.pool()
