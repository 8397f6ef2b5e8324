"""The vector exponential at every float32 there is: all 2^32 patterns, in both forms that kernels use.

A block of neighbours gets the reference point of its own maximum: another one would change a power of two
and nothing else. Beyond the range of that a block is taken relative to its maximum itself, as kernels do.
What then lies too far down has to come out as the floor; a NaN has to stay one; +inf never gets there.

Errors are counted in units of 2^-24, half an ulp of 1, against NumPy's float64 exponential. Its argument is
exact but for some 2^-44 (a logit less a multiple of ln 2 in two parts), which is 2^-20 units. One logit in
`SAMPLED` is taken in longdouble too, to measure how far off that reference is.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np

from nbfagg import scalar
from nbfagg.bench.text import digits, table
from nbfagg.cpu import exp
from nbfagg.cpu.tiles import lanes
from nbfagg.cpu.vector import BYTES, load, load_doubled, mul, store
from nbfagg.plan import law_of

from .record import caption, progress

# Of 24 bits at most: their products with logits are exact in float64.
SCALES = {"1": 1.0, "1/√7": float(np.float32(7**-0.5))}
FORMS = {"two float32 parts": exp.FLOOR_F32, "float64 lanes": exp.FLOOR_WIDE}
PATTERNS = 1 << 32
CHUNK = 1 << 22
# Patterns that share a reference point: neighbours below 2^18 / log2 e are then 16 apart at most.
BLOCK = 1 << 10
SAMPLED = 1009
UNIT = 2.0**-24
# By abs(scale * logit): what n leaves may be more than 1/2 by half an ulp of scale * logit * log2 e.
BANDS = {"to 88": 88.0, "to 10^4": 1e4, "to 10^6": 1e6, "beyond": math.inf}
# The first part is so short that its products with an even number up to 2^22 are exact.
LN_2_HIGH, LN_2_LOW = float.fromhex("0x1.62e42feep-1"), float.fromhex("0x1.a39ef35793c76p-33")


@numba.njit(error_model="numpy")
def _two_parts(like, source, count, maximum, law, target):
    point = exp.point_of(like, maximum, law)
    for i in range(count // lanes(like)):
        power, rest = exp.exp_parts(load(like, source + i * BYTES), *point)
        store(target + i * BYTES, power)
        store(target + 4 * count + i * BYTES, mul(power, rest))


@numba.njit(error_model="numpy")
def _in_doubles(source, count, maximum, law, target):
    point = exp.wide_point(scalar.shift(maximum, law), law[0], law[1])
    for i in range(count // (BYTES // 8)):
        power, rest = exp.exp_wide(load_doubled(source + i * (BYTES // 2)), *point)
        store(target + i * BYTES, mul(power, rest))


@numba.njit(error_model="numpy")
def _exponentials(x, law, scale, wide, found, arguments, points):
    """Write what kernels make of logits, the exact arguments, and each block's origin and shift less LIFT."""
    staged, sums = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float64)
    halves = sums.view(np.float32)
    for block in range(x.size // BLOCK):
        first = block * BLOCK
        logits = x[first : first + BLOCK]
        top = -math.inf
        for logit in logits:
            if top < logit < math.inf:
                top = np.float64(logit)
        if top == -math.inf:
            top = 0.0
        origin = scalar.origin(top, law)
        shift = scalar.shift(top, law)
        for i in range(BLOCK):
            staged[i] = logits[i] - np.float32(origin)
        if wide:
            _in_doubles(staged.ctypes.data, BLOCK, top - origin, law, sums.ctypes.data)
        else:
            _two_parts(np.float32(0), staged.ctypes.data, BLOCK, top - origin, law, sums.ctypes.data)
        down = shift - exp.LIFT_F32
        for i in range(BLOCK):
            found[first + i] = sums[i] if wide else np.float64(halves[i]) + np.float64(halves[BLOCK + i])
            exact = (np.float64(logits[i]) - origin) * scale
            arguments[first + i] = (exact - down * LN_2_HIGH) - down * LN_2_LOW
        points[block] = origin, down


def measure(rounds: int | None) -> dict[str, Any]:
    del rounds  # the errors are the same each time
    return {"rows": [_sweep(form, scale) for form in FORMS for scale in SCALES]}


def _sweep(form: str, name: str) -> dict[str, Any]:
    scale, floor = SCALES[name], FORMS[form]
    law = law_of(scale, np.dtype(np.float32))
    found, arguments = np.empty(CHUNK), np.empty(CHUNK)
    points = np.empty((CHUNK // BLOCK, 2))
    counts = dict.fromkeys(("measured", "floor", "NaN"), 0)
    worst: dict[str, tuple[float, str]] = dict.fromkeys(BANDS, (0.0, ""))
    row = {"form": form, "scale": name, **counts, "mean": 0.0, "reference": 0.0, "worst": worst}
    for start in range(0, PATTERNS, CHUNK):
        x = np.arange(start, start + CHUNK, dtype=np.uint32).view(np.float32)
        with np.errstate(invalid="ignore"):  # signalling NaNs
            _exponentials(x, law, scale, form == "float64 lanes", found, arguments, points)
        _judge(row, x, scale, found, arguments, floor)
        _sample(row, x, arguments, points, scale, floor)
        if start % (1 << 28) == 0:
            done = (start + CHUNK) / PATTERNS
            shown = ", ".join(f"{band} {off:.3f}" for band, (off, _) in worst.items())
            progress("exponential", f"{form}, scale {name}: {done:.0%}, worst so far {shown}")
    row["mean"] /= row["measured"]
    return row


def _judge(
    row: dict[str, Any],
    x: np.ndarray,
    scale: float,
    found: np.ndarray,
    arguments: np.ndarray,
    floor: float,
) -> None:
    """Count what comes out as it has to, and measure the rest; what is wrong in kind ends the sweep."""
    bottom = floor * scalar.LN_2
    nan, infinite = np.isnan(x), x == np.inf
    # Where the floor begins is rounded as a logit, whose ulp is 1/8 where that counts.
    measured = ~(nan | infinite) & (arguments > bottom + 0.25)
    down = ~(nan | infinite) & (arguments < bottom - 0.25)
    between = ~(nan | infinite | measured | down)
    with np.errstate(all="ignore"):
        wrong = nan & ~np.isnan(found)
        if (low := down | between).any():
            wrong |= low & ~(abs(np.log2(found) - floor) < 0.5)
        off = np.where(measured, abs(found / np.exp(arguments) - 1), 0) / UNIT
    wrong |= ~np.isfinite(off)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise ArithmeticError(
            f"exponential: {row['form']}, scale {row['scale']}: {x[at]!r} gives {found[at]!r} instead of "
            f"exp({arguments[at]!r}), or 2**{floor:g} below that"
        )
    for name, chosen in (("measured", measured), ("floor", low), ("NaN", nan)):
        row[name] += int(np.count_nonzero(chosen))
    row["mean"] += float(off.sum())
    size = abs(x) * scale
    least = 0.0
    for band, most in BANDS.items():
        inside = np.where((size >= least) & (size < most), off, 0)
        least, worst = most, int(inside.argmax())
        if inside[worst] > row["worst"][band][0]:
            row["worst"][band] = float(inside[worst]), float(x[worst]).hex()


def _sample(
    row: dict[str, Any], x: np.ndarray, arguments: np.ndarray, points: np.ndarray, scale: float, floor: float
) -> None:
    """Measure how far off the reference is."""
    chosen = np.arange(0, CHUNK, SAMPLED)
    chosen = chosen[np.isfinite(x[chosen]) & (arguments[chosen] > floor * scalar.LN_2)]
    origin, down = points[chosen // BLOCK].astype(np.longdouble).T
    exact = (x[chosen] - origin) * np.longdouble(scale) - down * np.log(np.longdouble(2))
    off = abs(np.exp(arguments[chosen]) / np.exp(exact) - 1) / np.longdouble(UNIT)
    row["reference"] = max(row["reference"], float(off.max(initial=0)))


def render(found: dict[str, Any]) -> str:
    head = [
        "exponential in",
        "scale",
        "measured",
        "at the floor",
        "NaN",
        "mean",
        *(f"worst {b}" for b in BANDS),
    ]
    rows = [
        [
            *(row["form"], row["scale"], *(f"{row[name]:,}" for name in ("measured", "floor", "NaN"))),
            *(digits(row["mean"]), *(digits(off) for off, _ in row["worst"].values())),
        ]
        for row in found["rows"]
    ]
    return table(head, rows) + "\n\n" + caption(found, "numba", "numpy")
