"""Tensors on an NVIDIA GPU, where there is one."""

from __future__ import annotations

import statistics

from nbfagg.bench.cases import logits
from nbfagg.bench.turns import alternate, ratio

from .common import case, cotangent, labels, public, quick, turns


def _device():
    """PyTorch with a GPU; asv shows n/a where there is none."""
    try:
        import torch
    except ImportError:
        raise NotImplementedError("PyTorch is not installed") from None
    if not torch.cuda.is_available():
        raise NotImplementedError("there is no GPU")
    return torch


class Gpu:
    """Milliseconds on the device, between events: the launch is not in it. Medians of 20 calls."""

    param_names = ("shape", "dtype")
    params = (labels("heads", "pose", "tiny rows", "long rows"), ["float32", "bfloat16"])
    unit = "ms"
    timeout = 600
    CALLS = 20

    def setup(self, shape, dtype):
        self.torch = torch = _device()
        self.x = torch.from_numpy(logits(case(shape)).copy()).to("cuda", getattr(torch, dtype))
        self.grad = torch.from_numpy(cotangent(tuple(self.x.shape[:2]))).to(self.x)
        try:
            public("fagg")(self.x)
        except TypeError as refused:
            raise NotImplementedError(str(refused)) from refused

    def track_forward(self, shape, dtype):
        return self.median(lambda: public("fagg")(self.x))

    def track_forward_and_backward(self, shape, dtype):
        leaf = self.x.requires_grad_()

        def both():
            leaf.grad = None
            public("fagg")(leaf).backward(self.grad)

        return self.median(both)

    def median(self, call):
        cuda = self.torch.cuda
        call()
        times = []
        for _ in range(1 if quick() else self.CALLS):
            start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
            start.record()
            call()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
        return statistics.median(times)


class Over:
    """Our time over that of torch.softmax and a sum, in turns, launches and waiting included."""

    param_names = ("shape", "dtype")
    params = Gpu.params
    unit = "ratio"
    timeout = 600

    def setup(self, shape, dtype):
        on_device = Gpu()
        on_device.setup(shape, dtype)
        self.torch, self.x = on_device.torch, on_device.x

    def track_torch_softmax_over(self, shape, dtype):
        x = self.x

        def waited(call):
            return lambda: (call(), self.torch.cuda.synchronize())

        sides = {
            "ours": waited(lambda: public("fagg")(x)),
            "theirs": waited(lambda: x.flatten(1).softmax(1).view(x.shape).sum(dim=(2, 3))),
        }
        seconds = alternate(sides, **turns(9))
        return ratio(seconds["ours"], seconds["theirs"])
