"""Arguments that must be refused: with a TypeError or ValueError of nbfagg's own, and nothing written."""

from __future__ import annotations

from typing import Any

import numpy as np

import nbfagg
from nbfagg.soak.calls import Failure, Tally, describe
from nbfagg.soak.problems import Problem, Random, pick

# One keyword of fagg, and what it does not take.
WRONG: tuple[tuple[str, Any], ...] = (
    ("batch_axis", 99),
    ("batch_axis", -99),
    ("batch_axis", (0, 0)),
    ("keep_axis", 1.5),
    ("keep_axis", "tokens"),
    ("keep_axis", {0}),
    ("scale", 0),
    ("scale", -1.0),
    ("scale", float("nan")),
    ("scale", float("inf")),
    ("scale", 1e300),
    ("scale", True),
    ("scale", "1"),
    ("scale", 1j),
    ("log", "yes"),
    ("return_lse", 1.0),
    ("workers", 0),
    ("workers", -(10**9)),
    ("workers", 2.5),
    ("where", 1.0),
    ("where", np.ones(97, bool)),
    ("lengths", [1.5]),
    ("lengths", [[1]]),
    ("out", [0.0]),
    ("out", np.zeros((3, 1, 4, 1, 5, 9, 2))),
    ("out", np.zeros((), complex)),
)
LOGITS: tuple[Any, ...] = (
    *(None, "logits", b"", 1j, object(), [[1.0], [2.0, 3.0]], np.ones((2, 3), complex), 3.0),
    *(np.array(["a"]), np.array([None]), np.zeros((2, 3), "i4,f4"), np.zeros((2, 2), "M8[s]")),
    *(np.ma.ones((2, 3)), np.zeros((2, 3), np.longdouble)),
)
OFFSETS: tuple[Any, ...] = ([0.0, 1.0], [], [[0, 1]], [1, 1], [0, -1, 1], [0, 10**9], None, ["0"])


def refused(tally: Tally, problem: Problem, random: Random) -> None:
    """Call with something that must be refused."""
    a, options = problem.a, problem.options
    out = np.full(problem.exact["alpha"].shape, 7, problem.dtype.newbyteorder("="))
    kind = int(random.integers(4))
    if kind == 0:
        # Integers of kinds that NumPy's scalars stand for are taken; what is not named here is.
        name, value = pick(random, WRONG)
        options = {**options, "out": out, name: value}
        if name == "lengths" and problem.where is not None:
            options["where"] = None
        said = describe(a, "fagg", **options)
        _must_raise(tally, said, lambda: nbfagg.fagg(a, **options))
    elif kind == 1:
        logits = pick(random, LOGITS)
        _must_raise(tally, f"fagg of {logits!r}", lambda: nbfagg.fagg(logits))
        _must_raise(tally, f"fagg_packed of {logits!r}", lambda: nbfagg.fagg_packed(logits, [0, 2]))
        _must_raise(tally, f"State.of {logits!r}", lambda: nbfagg.State.of(logits))
    elif kind == 2:
        offsets = pick(random, OFFSETS)
        tokens = np.zeros((1, 2), np.float32)
        _must_raise(tally, f"offsets {offsets!r}", lambda: nbfagg.fagg_packed(tokens, offsets))
    else:
        # Places that cannot take the result: of another shape or dtype, read-only, or a part of the logits.
        grad, shape = np.zeros(out.shape), problem.a.shape
        lse = np.zeros(problem.exact["lse"].shape)
        wrong: Any = pick(random, ((*out.shape, 2), None))
        if wrong is None:
            out.flags.writeable = False
            _must_raise(tally, "fagg with a read-only out", lambda: nbfagg.fagg(a, **options, out=out))
        else:
            taken = np.zeros(wrong)
            _must_raise(
                tally, f"grad of shape {wrong} for {shape}", lambda: nbfagg.fagg_vjp(taken, a, grad, lse)
            )
    if not (out == 7).all():
        raise Failure(f"{describe(a, 'fagg', **options)}: out was written before the call was refused")


def _must_raise(tally: Tally, said: str, do: Any) -> None:
    tally.calls["refused"] += 1
    try:
        do()
    except (TypeError, ValueError) as error:
        if not str(error).startswith("nbfagg: "):
            raise Failure(f"{said}: refused by {type(error).__name__}: {error}") from error
    else:
        raise Failure(f"{said}: was not refused")
