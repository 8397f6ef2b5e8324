"""Everybody else on the same logits."""

from __future__ import annotations

from functools import partial

from nbfagg.bench.cases import logits
from nbfagg.bench.peers import PEERS, Unavailable, make
from nbfagg.bench.turns import SETTLE_PEERS, alternate, ratio

from .common import case, labels, public, turns

# torch.compile takes half a minute to build a shape: `nbfagg bench` has it.
TRACKED = [name for name in PEERS if name != "torch.compile"]


class Peer:
    """Our time over the peer's, in turns: below 1 is faster than the peer, a rise is worse."""

    param_names = ("peer", "shape")
    params = (TRACKED, labels("small call", "heads", "pose", "tiny rows"))
    unit = "ratio"
    timeout = 600

    def setup(self, peer, shape):
        a = logits(case(shape))
        self.sides = {"ours": partial(public("fagg"), a)}
        try:
            self.sides["peer"] = make(peer, a)
        except Unavailable as why:
            raise NotImplementedError(str(why)) from why

    def track_peer(self, peer, shape):
        seconds = alternate(self.sides, **{"settle": SETTLE_PEERS, **turns(9)})
        return ratio(seconds["ours"], seconds["peer"])
