"""Everybody else on the same logits."""

from __future__ import annotations

from functools import partial

from nbfagg.bench.cases import logits
from nbfagg.bench.memory import keep_freed_memory
from nbfagg.bench.peers import PEERS, Unavailable, make
from nbfagg.bench.turns import alternate, ratio

from .common import anew, case, labels, public, turns

# torch.compile takes half a minute to build a shape: `nbfagg bench` has it.
TRACKED = [name for name in PEERS if name != "torch.compile"]


class Peer:
    """Our time over the peer's, in turns: below 1 is faster than the peer, a rise is worse."""

    param_names = ("peer", "shape")
    params = (TRACKED, labels("small call", "heads", "pose", "tiny rows"))
    unit = "ratio"
    timeout = 600

    def setup(self, peer, shape):
        keep_freed_memory()
        self.fagg = public("fagg")
        self.a = logits(case(shape))
        try:
            make(peer, self.a)
        except Unavailable as why:
            raise NotImplementedError(str(why)) from why

    def track_peer(self, peer, shape):
        return anew(self.a, partial(self.over, peer))

    def over(self, peer, a):
        # Nobody spins here: threads wait asleep, and ONNX Runtime is not in asv's environments.
        seconds = alternate({"ours": partial(self.fagg, a), "peer": make(peer, a)}, **turns(3))
        return ratio(seconds["ours"], seconds["peer"])
