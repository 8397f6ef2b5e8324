"""Calls of every public function on a problem, each result judged by what is promised."""

from __future__ import annotations

import collections
import itertools
from typing import Any, Literal

import numpy as np

import nbfagg
from nbfagg import promises, reference
from nbfagg.soak.problems import LAYOUTS, Array, Problem, Random, apart, chance, in_another_order, pick


class Failure(Exception):
    """A result that is not as promised."""


class Tally:
    """What was called how often, and the worst share of each bound.

    Attributes
    ----------
    calls : collections.Counter
        By function.
    worst : dict
        From dtype and kind of result to the largest error as a share of what is allowed.
    children : int
        Forked processes that came back well.
    """

    def __init__(self) -> None:
        self.calls: collections.Counter[str] = collections.Counter()
        self.worst: dict[str, float] = {}
        self.children = 0

    def judge(self, share: Array, result: Array, exact: Array, what: str, said: str) -> None:
        """Note the worst error, or raise where it is more than is allowed."""
        worst = float(share.max(initial=0.0))
        if not worst <= 1:
            at = np.unravel_index(int(np.argmax(share)), share.shape)
            raise Failure(
                f"{said}: {what} is off by {worst:.4g} of what is allowed at {tuple(map(int, at))}: "
                f"{result[at]!r}, exactly {exact[at]!r}"
            )
        name = f"{result.dtype.name} {what}"
        self.worst[name] = max(self.worst.get(name, 0.0), worst)

    def add(self, other: Tally) -> None:
        """Take in the tally of another thread."""
        self.calls.update(other.calls)
        self.children += other.children
        for name, worst in other.worst.items():
            self.worst[name] = max(self.worst.get(name, 0.0), worst)


def describe(a: Array, function: str, **keywords: Any) -> str:
    """Say what was called."""
    given = {name: value for name, value in keywords.items() if value is not None}
    for name, value in given.items():
        if isinstance(value, np.ndarray):
            given[name] = f"{value.dtype} {value.shape} strides {value.strides}"
    return f"{function} of {a.dtype} {a.shape} strides {a.strides}, {given}"


def check_result(tally: Tally, result: Any, exact: Array, dtype: Any, what: str, said: str) -> None:
    """Compare one array with what it is exactly; `what` is "alpha", "log" or "lse"."""
    if not isinstance(result, np.ndarray) or result.shape != exact.shape or result.dtype != dtype:
        came = f"{result.dtype} {result.shape}" if isinstance(result, np.ndarray) else type(result).__name__
        raise Failure(f"{said}: {what} is {came}; {dtype} {exact.shape} was to come")
    tally.judge(promises.share_of_bound(result, exact, what), result, exact, what, said)


def lse_dtype(problem: Problem) -> Any:
    """Give the dtype of lse."""
    return problem.dtype if problem.dtype.itemsize > 2 else np.dtype(np.float32)


def workers_of(random: Random) -> int | None:
    """Give a number of threads."""
    return pick(random, (None, None, 1, 2, 3, 7, -1))  # type: ignore[no-any-return]


def place(random: Random, shape: tuple[int, ...], dtype: Any) -> Array | None:
    """Give somewhere to write, or nothing."""
    if chance(random, 0.6):
        return None
    array = np.full(shape, 7, dtype)
    return pick(random, (lambda random, a: a, in_another_order, apart))(random, array)  # type: ignore[no-any-return]


def axes_of(random: Random, axes: tuple[int, ...], rank: int) -> Any:
    """Write axes in one of the ways that mean the same."""
    if len(axes) == 1 and chance(random, 0.5):
        return axes[0]
    return tuple(axis - rank if chance(random, 0.2) else axis for axis in axes[:: pick(random, (1, -1))])


def call(tally: Tally, name: str, a: Array, *rest: Any, **keywords: Any) -> Any:
    """Call a public function, whose logits have to stay as they are."""
    out = keywords.get("out")
    before = a.tobytes() if a.nbytes < 1 << 14 and out is not a else None
    result = (
        getattr(nbfagg, name)(*rest[:1], a, *rest[1:], **keywords)
        if name.endswith("vjp")
        else (getattr(nbfagg, name)(a, *rest, **keywords))
    )
    tally.calls[name] += 1
    if before is not None and a.tobytes() != before:
        raise Failure(f"{describe(a, name, **keywords)}: the logits were written")
    if out is not None and (result[0] if isinstance(result, tuple) else result) is not out:
        raise Failure(f"{describe(a, name, **keywords)}: out did not come back")
    return result


def forward(tally: Tally, problem: Problem, random: Random) -> None:
    """Call fagg on some layouts of the problem, in each with several options that must change no bit."""
    for _ in range(int(random.integers(1, 4))):
        a = pick(random, LAYOUTS)(random, problem.a)
        a.flags.writeable = a.flags.writeable and chance(random, 0.8)
        log = chance(random, 0.4)
        first = None
        for _ in range(int(random.integers(1, 4))):
            keywords = {
                **problem.options,
                "batch_axis": axes_of(random, problem.batch, a.ndim),
                "keep_axis": axes_of(random, problem.keep, a.ndim),
                "log": log,
                "return_lse": chance(random, 0.5),
                "workers": workers_of(random),
                "out": place(random, problem.exact["alpha"].shape, problem.dtype.newbyteorder("=")),
            }
            result = call(tally, "fagg", a, **keywords)
            said = describe(a, "fagg", **keywords)
            alpha, lse = result if keywords["return_lse"] else (result, None)
            what = "log" if log else "alpha"
            exact = problem.exact_log if log else problem.exact["alpha"]
            check_result(tally, alpha, exact, problem.dtype.newbyteorder("="), what, said)
            if lse is not None:
                check_result(tally, lse, problem.exact["lse"], lse_dtype(problem), "lse", said)
            first = alpha.tobytes() if first is None else first
            if alpha.tobytes() != first:
                raise Failure(f"{said}: other bits than a call before with other workers or out")


def gradient(tally: Tally, problem: Problem, random: Random) -> None:
    """Call fagg_vjp with what fagg gives."""
    log, pair = chance(random, 0.4), chance(random, 0.4)
    wide = problem.a.astype(np.float32) if problem.dtype.itemsize == 2 else problem.a
    alpha, lse = call(tally, "fagg", wide, **problem.options, log=log, return_lse=True)
    grad, of_lse = random.normal(size=alpha.shape), random.normal(size=lse.shape)
    if chance(random, 0.1):
        grad = np.ones_like(grad)
    grad, of_lse = grad.astype(alpha.dtype), of_lse.astype(lse.dtype)
    exact, largest = reference.fagg_vjp_terms(
        grad, problem.a, log=log, grad_lse=of_lse if pair else None, **problem.options
    )
    extra, flushed = _allowance(problem, log, alpha)
    for _ in range(int(random.integers(1, 3))):
        a = pick(random, LAYOUTS)(random, problem.a)
        out = place(random, a.shape, problem.dtype.newbyteorder("="))
        if a.base is None and a.flags.writeable and a is not problem.a and a.dtype == problem.dtype:
            out = a if chance(random, 0.3) else out
        more = {"log": log, "return_lse": pair, "workers": workers_of(random), "out": out}
        keywords = {**problem.options, **more}
        given = (grad, of_lse) if pair else grad
        said = describe(a, "fagg_vjp", **keywords)
        found = call(tally, "fagg_vjp", a, given, alpha, lse, **keywords)
        if found.shape != a.shape or found.dtype != problem.dtype.newbyteorder("="):
            raise Failure(f"{said}: {found.dtype} {found.shape} came")
        share = promises.share_of_gradient_bound(found, exact, largest, extra, flushed)
        tally.judge(share, found, exact, "gradient of log" if log else "gradient", said)


def _allowance(problem: Problem, log: bool, alpha: Array) -> tuple[Any, Array]:
    """Give what the rounding of log alpha adds in ulp, and which terms may count as 0."""
    name = "float32" if problem.dtype.itemsize <= 4 else "float64"
    if not log:
        kept = problem.keep + problem.summed
        return 0.0, problem.below(kept) > promises.FLUSHED[name]
    # Half a unit of log alpha is |log alpha| * 2**-24 at most, and a unit of a result 2**-24 of it at least.
    extra = np.expand_dims(np.where(np.isfinite(alpha), abs(alpha), 0.0), problem.summed)
    return extra, problem.below(problem.summed) > promises.FLUSHED_LOG[name]


def states(tally: Tally, problem: Problem, random: Random) -> None:
    """Cut the logits along an axis, take a state of each part, merge and finish them."""
    options = {name: value for name, value in problem.options.items() if value is not None}
    axis = int(random.integers(problem.a.ndim))
    along: Literal["keep", "summed"] = "keep" if problem.keep == (axis,) else "summed"
    size = problem.a.shape[axis]
    if axis in problem.summed or along == "keep":
        cuts = [0, *sorted(random.integers(0, size + 1, int(random.integers(0, 3))).tolist()), size]
    else:
        cuts = [0, size]
    where = None if problem.where is None else np.broadcast_to(problem.where, problem.a.shape)
    parts = []
    for begin, end in itertools.pairwise(cuts):
        index = (slice(None),) * axis + (slice(begin, end),)
        more: dict[str, Any] = {} if where is None else {"where": where[index]}
        if problem.lengths is not None and along == "keep":
            more["lengths"] = np.clip(problem.lengths - begin, 0, end - begin)
        a = pick(random, LAYOUTS)(random, problem.a[index])
        parts.append(nbfagg.State.of(a, **{**options, **more, "workers": workers_of(random)}))
    if along == "summed":
        parts = [parts[i] for i in random.permutation(len(parts))]
    state = parts[0]
    for part in parts[1:]:
        state = state.merge(part, axis=along)
    said = describe(problem.a, "State.of", **problem.options) + f", cut along axis {axis} at {cuts}"
    dtype = problem.dtype.newbyteorder("=")
    check_result(tally, state.finalize(), problem.exact["alpha"], dtype, "alpha", said)
    check_result(tally, state.finalize(log=True), problem.exact_log, dtype, "log", said)
    check_result(tally, state.lse, problem.exact["lse"], lse_dtype(problem), "lse", said)
    tally.calls.update({"State.of": len(parts), "State.merge": len(parts) - 1, "State.finalize": 2})


def packed(tally: Tally, problem: Problem, offsets: Array, random: Random) -> None:
    """Call the packed functions on rows that `problem` holds padded."""
    assert problem.lengths is not None
    rows, most = problem.a.shape[:2]
    inside = np.arange(most) < problem.lengths.reshape(rows, 1)
    tokens = problem.a[inside]
    log = chance(random, 0.4)
    options: dict[str, Any] = {"scale": problem.scale, "log": log}
    exact, exact_lse = reference.fagg_packed(tokens, offsets, return_lse=True, **options)
    given_offsets = offsets.astype(pick(random, ("i8", "i4", "u4", ">i4")))
    dtype = problem.dtype.newbyteorder("=")
    for _ in range(int(random.integers(1, 4))):
        a = pick(random, LAYOUTS)(random, tokens)
        keywords = {**options, "workers": workers_of(random), "out": place(random, tokens.shape[:1], dtype)}
        said = describe(a, "fagg_packed", offsets=given_offsets, **keywords)
        alpha, lse = call(tally, "fagg_packed", a, given_offsets, return_lse=True, **keywords)
        check_result(tally, alpha, exact, dtype, "log" if log else "alpha", said)
        check_result(tally, lse, exact_lse, lse_dtype(problem), "lse", said)

    wide = tokens.astype(np.float32) if dtype.itemsize == 2 else tokens
    alpha, lse = call(tally, "fagg_packed", wide, offsets, return_lse=True, **options)
    grad, of_lse = random.normal(size=alpha.shape).astype(alpha.dtype), np.ones_like(lse)
    pair = chance(random, 0.5)
    padded, padded_alpha = np.zeros((2, rows, most), alpha.dtype)
    padded[inside], padded_alpha[inside] = grad, alpha
    want, largest = reference.fagg_vjp_terms(
        padded, problem.a, log=log, grad_lse=of_lse if pair else None, **problem.options
    )
    extra, flushed = _allowance(problem, log, padded_alpha)
    extra = extra[inside] if log else extra
    a = pick(random, LAYOUTS)(random, tokens)
    keywords = {
        **options,
        "return_lse": pair,
        "workers": workers_of(random),
        "out": place(random, a.shape, dtype),
    }
    said = describe(a, "fagg_packed_vjp", offsets=offsets, **keywords)
    given = (grad, of_lse) if pair else grad
    found = call(tally, "fagg_packed_vjp", a, given, given_offsets, alpha, lse, **keywords)
    if found.shape != a.shape or found.dtype != dtype:
        raise Failure(f"{said}: {found.dtype} {found.shape} came")
    share = promises.share_of_gradient_bound(found, want[inside], largest[inside], extra, flushed[inside])
    tally.judge(share, found, want[inside], "gradient of log" if log else "gradient", said)
