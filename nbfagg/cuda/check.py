"""``nbfagg check --target cuda``: fagg on the first GPU beside the oracle. Needs NumPy and the driver alone.

Kernels are compiled for it, or come from the folder that NBFAGG_CUBINS names.

The bounds, in ulp of the result (a subnormal step, where that is larger): alpha 4 for
float32 and 3 for float64; half precision 0.51, its own rounding and that of the float32
result. Logarithms and lse 2 more (lse of half precision is float32), in ulp of
max(1, abs(exact)). Gradients: 12 (half precision 4) ulp of the largest term of the
formula, and as many more as the rounding of log alpha brings.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from nbfagg import reference
from nbfagg.check import CASES
from nbfagg.cuda import driver, functions
from nbfagg.cuda.arrays import DeviceArray

Array = np.ndarray[Any, Any]
STORAGES = ("f4", "f8", "f2", "b2")
BOUND = {"f4": 4.0, "f8": 3.0, "f2": 0.51, "b2": 0.51}
# Digits behind the leading one, and the exponent of the smallest subnormal.
FORMATS = {"f4": (23, -149), "f8": (52, -1074), "f2": (10, -24), "b2": (7, -133)}
# More numbers than 32 bits count, one byte each on the host: none.
HUGE = (1, 3, (1 << 31) // 3 + 1001)


class Finding(NamedTuple):
    """How far a result is from what is exact, in ulp, and how far it may be."""

    what: str
    worst: float
    bound: float


def to_memory(a: Array, storage: str) -> Array:
    """Give numbers as they lie in memory: those of bfloat16 as uint16, rounded to nearest, ties to even."""
    if storage != "b2":
        with np.errstate(over="ignore"):
            return a.astype(storage)
    bits = np.asarray(a, np.float32).view(np.uint32)
    rounded = ((bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16).astype(np.uint16)
    return np.asarray(np.where(np.isnan(a), np.uint16(0x7FC0), rounded))


def from_memory(a: Array, storage: str) -> Array:
    """Give numbers in memory as float64."""
    wide = (a.astype(np.uint32) << 16).view(np.float32) if storage == "b2" else a
    return np.asarray(wide, np.float64)


def _ulp(exact: Array, storage: str) -> Array:
    digits, least = FORMATS[storage]
    finite = np.where(np.isfinite(exact) & (exact != 0), exact, 2.0**-1000).astype(np.float64)
    return np.asarray(np.ldexp(1.0, np.maximum(np.frexp(finite)[1] - 1 - digits, least)))


def _finding(what: str, result: Array, exact: Array, storage: str, bound: float) -> Finding:
    """Compare. A value that must come out as itself is off by infinity if it does not."""
    with np.errstate(all="ignore"):
        size = exact if what.startswith("alpha") else np.maximum(1, np.abs(exact))
        error = np.abs(result - exact) / _ulp(np.asarray(size), storage)
        same = (result == exact) | (np.isnan(result) & np.isnan(exact))
        largest = math.ldexp(
            2 - 2.0 ** -FORMATS[storage][0], 15 if storage == "f2" else 1023 if storage == "f8" else 127
        )
        fixed = ~np.isfinite(exact) | (np.abs(exact) > largest) | ~np.isfinite(result)
        beyond = np.isinf(result) & (np.abs(exact) > largest)
        error = np.where(fixed, np.where(same | beyond, 0.0, np.inf), error)
    return Finding(what, float(np.max(error, initial=0)), bound)


def _on_device(options: dict[str, Any]) -> dict[str, Any]:
    given = dict(options)
    for name in ("where", "lengths"):
        if name in given:
            value = np.asarray(given[name])
            given[name] = DeviceArray.of(value.astype(bool if name == "where" else np.int64))
    return given


def forward(a: Array, storage: str, options: dict[str, Any]) -> Iterator[Finding]:
    """Compare what fagg gives for one array."""
    memory = to_memory(a, storage)
    exact: Any = reference.oracle(from_memory(memory, storage), **options | {"return_lse": True})
    alpha, lse = functions.fagg(DeviceArray.of(memory, storage), **_on_device(options | {"return_lse": True}))
    logarithm = bool(options.get("log"))
    bound = BOUND[storage] + (2 if logarithm else 0)
    result = from_memory(alpha.to_host(), storage)
    yield _finding("log" if logarithm else "alpha", result, exact[0], storage, bound)
    of_lse = "f8" if storage == "f8" else "f4"
    yield _finding("lse", np.asarray(lse.to_host(), np.float64), exact[1], of_lse, max(3, BOUND[of_lse]) + 2)


def gradient(a: Array, storage: str, random: np.random.Generator, options: dict[str, Any]) -> Finding:
    """Compare a gradient."""
    memory = to_memory(a, storage)
    x = from_memory(memory, storage)
    given = _on_device({name: value for name, value in options.items() if name != "return_lse"})
    device = DeviceArray.of(memory, storage)
    alpha = functions.fagg(device, **given)
    g = to_memory(random.normal(size=alpha.shape), storage)
    slopes = functions.fagg_vjp(DeviceArray.of(g, storage), device, alpha, None, **given)
    plain = {name: value for name, value in options.items() if name != "return_lse"}
    exact, largest = reference.fagg_vjp_terms(from_memory(g, storage), x, **plain)
    bound = 12.0 if storage in ("f4", "f8") else 4.0
    if options.get("log"):
        logs = from_memory(alpha.to_host(), storage)
        bound *= 1 + float(np.max(np.abs(logs), where=np.isfinite(logs), initial=0)) / 2
    result = from_memory(slopes.to_host(), storage)
    unit = np.asarray(largest, np.float64) * 2.0 ** -FORMATS[storage][0] + 2.0 ** FORMATS[storage][1]
    with np.errstate(all="ignore"):
        error = np.abs(result - exact) / unit
        same = np.isnan(result) & np.isnan(exact)
        error = np.where(np.isnan(exact) | np.isnan(result), np.where(same, 0.0, np.inf), error)
    return Finding("gradient", float(np.max(error, initial=0)), bound)


def packed(storage: str, random: np.random.Generator, tokens: int = 5000) -> Iterator[Finding]:
    """Compare packed rows, and that a row has the same bits alone."""
    first, last = tokens // 70, tokens // 5
    offsets = np.array([0, first, first, last, last + 1, tokens])
    a = to_memory(random.normal(0, 3, (tokens, 3, 7)), storage)
    alpha, lse = functions.fagg_packed(DeviceArray.of(a, storage), DeviceArray.of(offsets), return_lse=True)
    exact: Any = reference.fagg_packed(from_memory(a, storage), offsets, return_lse=True)
    result = alpha.to_host()
    yield _finding("alpha of packed rows", from_memory(result, storage), exact[0], storage, BOUND[storage])
    of_lse = "f8" if storage == "f8" else "f4"
    yield _finding("lse", np.asarray(lse.to_host(), np.float64), exact[1], of_lse, BOUND[of_lse] + 2)
    alone = functions.fagg_packed(
        DeviceArray.of(a[first:last], storage), DeviceArray.of(np.array([0, last - first]))
    )
    yield Finding("bits of a row alone", float((alone.to_host() != result[first:last]).sum()), 0)


def huge(shape: tuple[int, int, int] = HUGE) -> Finding:
    """Compare three tokens of equal logits, together more than 2**31 of them, made on the device."""
    a = DeviceArray(shape, "f2", 0, 0)
    a.fill(0)
    alpha = functions.fagg(a)
    return _finding(
        "alpha of 2**31 logits", alpha.to_host(), np.full(shape[:2], 1 / shape[1]), "f2", BOUND["f2"]
    )


def run(
    seed: int = 0, most: int | None = None, tokens: int = 5000, sizes: tuple[int, int, int] = HUGE
) -> int:
    """Compare all cases in all dtypes, one line a result.

    Parameters
    ----------
    seed : int
        Of the random logits.
    most : int, optional
        Leave out cases of more logits than that.
    tokens : int
        Of packed rows, all together; a hundredth of it of masked ones.
    sizes : tuple of int
        Of the largest array.

    Returns
    -------
    int
        0; or 1 where an error is above its bound.
    """
    try:
        found = driver.device(0)
    except driver.DriverError as error:
        print(error)
        return 1
    print(f"GPU 0, compute capability {found.target[0]}.{found.target[1]}")
    print("The largest error / what is allowed, in ulp of the result\n", flush=True)
    count = wrong = 0

    def tell(name: str, storage: str, make: Callable[[], Any]) -> None:
        nonlocal count, wrong
        try:
            made = make()
            findings = [made] if isinstance(made, Finding) else [*made]
        except Exception as error:  # a finding too, and those behind it are still wanted
            print(f"{name:<22}{storage:<4}WRONG: {type(error).__name__}: {error}", flush=True)
            count, wrong = count + 1, wrong + 1
            return
        for finding in findings:
            good = finding.worst <= finding.bound
            count, wrong = count + 1, wrong + (not good)
            mark = "" if good else "  WRONG"
            print(
                f"{name:<22}{storage:<4}{finding.what:<22}{finding.worst:.2f} / {finding.bound:g}{mark}",
                flush=True,
            )

    for case in CASES:
        for storage in STORAGES:
            random = np.random.default_rng(seed)
            a = case.make(random)
            if most is not None and a.size > most:
                continue
            tell(case.name, storage, functools.partial(forward, a, storage, case.options))
            if case.name not in ("wide spread", "log of tails", "scale 1/sqrt(32)") and a.size:
                tell(case.name, storage, functools.partial(gradient, a, storage, random, case.options))
    random = np.random.default_rng(seed)
    length = tokens // 100
    a = random.normal(0, 3, (5, length, 6, 7))
    where = random.random(a.shape) < 0.7
    where[1] = False
    lengths = np.array([length, 3, 0, length // 2, 1])
    for storage in STORAGES:
        for name, options in (("mask", {"where": where}), ("lengths", {"lengths": lengths})):
            tell(name, storage, functools.partial(forward, a, storage, options))
            tell(name, storage, functools.partial(gradient, a, storage, random, options))
        tell("packed", storage, functools.partial(packed, storage, random, tokens))
    tell("huge", "f2", functools.partial(huge, sizes))
    print(f"\n{count - wrong} of {count} results are within their bounds (seed {seed})")
    driver.free_workspace()
    return 1 if wrong else 0
