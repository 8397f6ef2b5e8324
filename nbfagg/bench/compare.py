"""fagg, the limit of a shape and the peers on the same array, in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import nbfagg

from .cases import CASES, logits
from .limits import limit_rounds, parts
from .peers import available
from .turns import SETTLE_PEERS, Call, alternate, ratio, spread

# Parts of the limit of a call that allocates its result.
OF_LIMIT = ("read", "new", "scale")


class Comparison:
    """One shape's sides, made and ready to take turns.

    Parameters
    ----------
    name : str
        The shape's, in `CASES`.
    dtype : str
        Of the logits.
    peers : iterable of str, optional
        Whom to compare with, by their names in `peers.PEERS`; all by default.

    Attributes
    ----------
    missing : list of str
        Who is not there, and why.
    """

    def __init__(self, name: str, dtype: str = "float32", peers: Iterable[str] | None = None) -> None:
        self.name, self.dtype, self.case = name, dtype, CASES[name]
        self.missing: list[str] = []
        self.a = logits(self.case, dtype)
        self.sides: dict[Any, Call] = {"fagg": partial(nbfagg.fagg, self.a, keep_axis=self.case.keep_axis)}
        self.sides |= available(self.a, peers, note=self.missing.append)
        self.sides |= {key: call for key, call in parts(self.a, self.case).items() if key[0] in OF_LIMIT}

    def steps(self, rounds: int) -> int:
        """Say how often `measure` notes a step."""
        return len(self.sides) * (rounds + 1)

    def measure(
        self, rounds: int, *, settle: float = SETTLE_PEERS, note: Callable[[], object] | None = None
    ) -> dict[str, Any]:
        """Let everybody take turns.

        Parameters
        ----------
        rounds : int
            Turns of each side.
        settle : float
            Seconds of a turn that are not timed.
        note : callable, optional
            Called at each of the `steps`.

        Returns
        -------
        dict
            Medians in seconds, halves of the distances between the quartiles as
            parts of the medians (`spread`), the peers' times over fagg's, and the limit
            over fagg's (`share`); ratios are medians of the rounds' ratios.
        """
        seconds = alternate(self.sides, rounds=rounds, settle=settle, note=note)
        limit, by = limit_rounds(seconds, *OF_LIMIT)
        named = {"limit": limit} | {name: took for name, took in seconds.items() if isinstance(name, str)}
        mine = seconds["fagg"]
        medians = {name: statistics.median(took) for name, took in named.items()}
        times = {name: ratio(took, mine) for name, took in named.items() if name not in ("fagg", "limit")}
        return {
            "name": self.name,
            "shape": self.case.shape,
            "dtype": self.dtype,
            "bytes": self.a.nbytes,
            "rounds": rounds,
            "limit_seconds": medians.pop("limit"),
            "limit_by": by,
            "share": ratio(limit, mine),
            "fagg_seconds": medians.pop("fagg"),
            "peer_seconds": medians,
            "times_fagg": times,
            "fastest": min(times, key=lambda peer: times[peer]) if times else None,
            "spread": {name: spread(took) for name, took in named.items()},
        }
