"""fagg itself: large arrays, against the limit and against the peers, small calls, and start-up."""

from __future__ import annotations

import subprocess
import sys

from . import peers
from .common import CASES, alternate, fagg, logits, ours, ratio
from .limits import share_of_limit

LARGE = [
    "heads",
    "pose",
    "long pose",
    "tiny rows",
    "four tokens",
    "one row",
    "softmax",
    "heat map, first",
    "heat map, last",
    "heads, reversed",
]


class Forward:
    """Time of a call, result allocated by it, as most calls are."""

    param_names = ("shape", "dtype")
    params = (LARGE, ["float32", "float64"])

    def setup(self, shape, dtype):
        self.call = ours(CASES[shape], logits(CASES[shape], dtype))
        self.call()  # compiles or loads, and starts the threads

    def time_fagg(self, shape, dtype):
        self.call()


class Limit:
    """Our time over the limit's, in turns: 1 is the memory bus, a rise is worse."""

    param_names = ("shape",)
    params = (LARGE,)
    unit = "ratio"
    timeout = 120

    def setup(self, shape):
        fagg()

    def track_limit_over(self, shape):
        case = CASES[shape]
        return 1 / share_of_limit(logits(case), case, rounds=5)["out"]["share"]


class Peer:
    """Our time over the peer's, in turns: below 1 is faster than the peer, a rise is worse."""

    param_names = ("peer", "shape")
    params = (list(peers.PEERS), ["small call", "heads", "pose", "tiny rows"])
    unit = "ratio"
    timeout = 300

    def setup(self, peer, shape):
        a = logits(CASES[shape])
        self.sides = {"ours": ours(CASES[shape], a)}
        try:
            self.sides["peer"] = peers.make(peer, a)
        except peers.Unavailable as why:
            raise NotImplementedError(str(why)) from why

    def track_peer(self, peer, shape):
        seconds = alternate(self.sides, rounds=5)
        return ratio(seconds["ours"], seconds["peer"])


class Small:
    """What a call costs when there is next to nothing to compute."""

    param_names = ("dtype",)
    params = (["float32", "float64"],)

    def setup(self, dtype):
        a = logits(CASES["small call"], dtype)
        self.call = ours(CASES["small call"], a)
        self.call()

    def time_small(self, dtype):
        self.call()


class Start:
    """A new process a sample. The first call loads from Numba's disk cache; setup has filled it."""

    number = 1
    rounds = 1
    repeat = (3, 7, 20.0)
    timeout = 300

    FIRST_CALL = "import numpy, nbfagg; nbfagg.fagg(numpy.zeros((3, 10, 2, 10), 'float32'))"

    def setup(self):
        fagg()
        subprocess.run([sys.executable, "-c", self.FIRST_CALL], check=True)

    def timeraw_import_numpy(self):
        return "import numpy"

    def timeraw_import(self):
        return "import nbfagg"

    def timeraw_import_numba(self):
        return "import numba"

    def timeraw_first_call(self):
        return self.FIRST_CALL
