"""``nbfagg check``: fagg beside an oracle of higher precision, on the machine at hand.

The bounds are those of `nbfagg.promises`, but for weights below the smallest normal number: of either dtype
one subnormal step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import nbfagg
from nbfagg.promises import BOUND, LOG_EXTRA, errors


class Case(NamedTuple):
    """One comparison.

    Attributes
    ----------
    name : str
        What is special about it.
    make : callable
        From a random generator to float64 logits; the array's layout is kept when they are cast.
    options : dict
        Keywords of `nbfagg.fagg` and of the oracle.
    """

    name: str
    make: Callable[[np.random.Generator], NDArray[np.float64]]
    options: dict[str, Any]


def _normal(*shape: int, spread: float = 1.0) -> Callable[[np.random.Generator], NDArray[np.float64]]:
    return lambda random: random.normal(0, spread, shape)


def _transposed(random: np.random.Generator) -> NDArray[np.float64]:
    """Return an array whose kept axis is closer together in memory than its summed ones."""
    return random.normal(0, 3, (16, 12, 64, 8)).transpose(3, 2, 1, 0)


def _offset(random: np.random.Generator) -> NDArray[np.float64]:
    """Batch rows about 1e4, -1e4 and 0: one maximum for all of them would not do."""
    a: NDArray[np.float64] = random.normal(0, 3, (3, 64, 12, 16))
    a += np.array([1e4, -1e4, 0]).reshape(3, 1, 1, 1)
    return a


def _tails(random: np.random.Generator) -> NDArray[np.float64]:
    """Tokens down to 110 below the row's maximum: in float32 their weights are subnormal, then 0."""
    return random.uniform(-1, 1, (4, 221, 2, 3)) - np.arange(221).reshape(1, 221, 1, 1) / 2


def _padded(random: np.random.Generator) -> NDArray[np.float64]:
    """-inf here and there, for whole tokens, and for a whole batch row."""
    a = random.normal(0, 3, (5, 33, 4, 9))
    a[random.random(a.shape) < 0.2] = -np.inf
    a[1, 20:] = -np.inf
    a[2] = -np.inf
    return a


def _poisoned(random: np.random.Generator) -> NDArray[np.float64]:
    """NaN in one batch row, +inf in another one, neither in those beside them."""
    a = random.normal(0, 3, (5, 33, 4, 9))
    a[1, 7, 2, 3] = np.nan
    a[3, 32, 3, 8] = np.inf
    return a


CASES = (
    Case("canonical", _normal(8, 512, 12, 16), {}),
    Case("wide spread", _normal(8, 64, 12, 64, spread=30), {}),
    Case("one long row", _normal(1, 4, 1, 1 << 17), {}),
    Case("many small rows", _normal(1 << 14, 16, 4, 1), {}),
    Case("softmax of rows", _normal(64, 1000), {}),
    Case("softmax of long rows", _normal(3, 40_000), {}),
    Case("keep axis 2", _normal(4, 32, 32, 32, spread=3), {"keep_axis": 2}),
    Case("keep axis 3", _normal(4, 32, 32, 32, spread=3), {"keep_axis": 3}),
    Case("two batch axes", _normal(4, 3, 50, 20), {"batch_axis": (0, 1), "keep_axis": 2}),
    Case("transposed", _transposed, {}),
    Case("rows at +-10000", _offset, {}),
    Case("subnormal tails", _tails, {}),
    Case("scale 1/sqrt(32)", _normal(4, 64, 12, 64, spread=30), {"scale": 32**-0.5}),
    Case("log and lse", _offset, {"log": True, "return_lse": True}),
    Case("log of tails", _tails, {"log": True, "return_lse": True}),
    Case("-inf: padding", _padded, {"return_lse": True}),
    Case("-inf: log", _padded, {"log": True, "return_lse": True}),
    Case("NaN and +inf", _poisoned, {"return_lse": True}),
    Case("empty: no rows", _normal(0, 4, 2, 3), {}),
    Case("empty: no tokens", _normal(3, 0, 2, 3), {"return_lse": True}),
    Case("empty: nothing summed", _normal(3, 4, 0, 3), {"return_lse": True}),
)


class Finding(NamedTuple):
    """How far one result is from the oracle's.

    Attributes
    ----------
    what : str
        The result: alpha, subnormal (those of alpha), log, or lse.
    worst : float
        The largest error in ulp; inf where the kind of a value is wrong.
    bound : float
        What is allowed.
    where : str
        The place of the worst error, where it is more than is allowed.
    """

    what: str
    worst: float
    bound: float
    where: str = ""


def _findings(what: str, result: Any, exact: NDArray[np.longdouble], dtype: str) -> Iterator[Finding]:
    """Compare one array with the oracle's: `what` is alpha, log or lse."""
    bound = BOUND[dtype] + (0 if what == "alpha" else LOG_EXTRA)
    if not isinstance(result, np.ndarray) or result.shape != exact.shape or result.dtype != dtype:
        came = f"{result.dtype} {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__
        yield Finding(what, np.inf, bound, f"{came} came instead of {dtype} {exact.shape}")
        return
    error = errors(result, exact, what)

    def finding(what: str, bound: float, chosen: NDArray[np.bool_]) -> Finding:
        part = np.where(chosen, error, 0)
        worst = float(part.max(initial=0))
        if worst <= bound:
            return Finding(what, worst, bound)
        at = np.unravel_index(int(part.argmax()), part.shape)
        place = ", ".join(map(str, map(int, at)))
        return Finding(what, worst, bound, f"[{place}] is {result[at]!s}, exactly {exact[at]!s}")

    # One ulp of a float below the smallest normal one is one subnormal step.
    small = (exact > 0) & (exact < np.finfo(dtype).tiny) & (what == "alpha")
    yield finding(what, bound, ~small)
    if small.any():
        yield finding("subnormal", 1, small)


def compare(case: Case, dtype: str, seed: int) -> tuple[tuple[int, ...], list[Finding]]:
    """Compare one case in one dtype.

    Parameters
    ----------
    case : Case
        What to compare.
    dtype : str
        ``"float32"`` or ``"float64"``.
    seed : int
        Of the random logits.

    Returns
    -------
    shape : tuple of int
        That of the logits.
    findings : list of Finding
        One for each result.
    """
    from nbfagg import reference

    a = case.make(np.random.default_rng(seed)).astype(dtype)
    what = "log" if case.options.get("log") else "alpha"
    names = (what, "lse") if case.options.get("return_lse") else (what,)
    exact: Any = reference.oracle(a, **case.options)
    try:
        result: Any = nbfagg.fagg(a, **case.options)
        if len(names) == 1:
            exact, result = (exact,), (result,)
        triples = [*zip(names, result, exact, strict=True)]
    except Exception as error:  # whatever comes is a finding, and the cases behind it are still wanted
        return a.shape, [Finding(what, np.inf, BOUND[dtype], f"{type(error).__name__}: {error}")]
    return a.shape, [found for triple in triples for found in _findings(*triple, dtype)]


def run(seed: int = 0) -> int:
    """Compare all cases, one line a result as it is known.

    Parameters
    ----------
    seed : int
        Of the random logits.

    Returns
    -------
    int
        0; or 1 where an error is above its bound.
    """
    line = "{:<22}{:<19}{:<11}{:<14}{:<14}".format
    print("The largest error of nbfagg.fagg / what is allowed, in ulp of the result\n")
    print(line("case", "shape", "result", *BOUND).rstrip(), flush=True)
    count = wrong = 0
    for case in CASES:
        name = case.name
        # what -> dtype -> finding; a dtype has no subnormal results where the other one has.
        rows: dict[str, dict[str, Finding]] = {}
        for dtype in BOUND:
            shape, findings = compare(case, dtype, seed)
            for finding in findings:
                rows.setdefault(finding.what, {})[dtype] = finding
        for what, row in rows.items():
            cells = [f"{row[d].worst:.2f} / {row[d].bound:g}" if d in row else "" for d in BOUND]
            print(line(name, str(shape) if name else "", what, *cells).rstrip(), flush=True)
            name = ""
            for dtype, finding in row.items():
                count += 1
                if not finding.worst <= finding.bound:
                    wrong += 1
                    print(f"  WRONG: {dtype} {what} {finding.where}", flush=True)
    print(f"\n{count - wrong} of {count} results are within their bounds (seed {seed})")
    return 1 if wrong else 0
