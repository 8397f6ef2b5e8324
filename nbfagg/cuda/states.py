"""States that a kernel left in a GPU's workspace, brought to the host and made cells of `nbfagg.State`.

The GPU finds a maximum's reference point in the arithmetic's own type, the host in float64: where the two are
not the same power of two, the sum is moved. Above its point a sum is kept 2**LIFT higher there.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from nbfagg import scalar
from nbfagg.cuda import geometry
from nbfagg.cuda.law import law_for
from nbfagg.cuda.plan import Plan
from nbfagg.plan import law_of

Floats = npt.NDArray[Any]


def cells_of(plan: Plan, scale: float, work: Floats) -> npt.NDArray[np.float64]:
    """Give the cells of a plan's states, (batch rows * tokens, 3), those of a split token merged."""
    count, splits = plan.rows * plan.tokens, max(1, plan.geometry[geometry.SPLITS])
    cells = np.zeros((count, splits, 3))
    cells[..., 0] = -math.inf
    if not plan.steps:
        return cells[:, 0]
    sums = plan.geometry[geometry.SUMS]
    maxima = work[: count * splits].reshape(count, splits)
    with np.errstate(all="ignore"):
        cells[..., 0] = maxima
        cells[..., 1] = work[sums : sums + count * splits].reshape(count, splits)
        cells[..., 1] *= _factors(maxima, plan, scale)
    cells[maxima == -math.inf, 1] = 0.0
    # What a NaN is beside others, +inf among them: no number any more.
    cells[np.isnan(maxima)] = -math.inf, math.nan, 0.0
    from nbfagg.cpu import states

    law = law_of(scale, np.dtype(plan.kind.real))
    merged = np.ascontiguousarray(cells[:, 0])
    for split in range(1, splits):
        more = np.ascontiguousarray(cells[:, split])
        states.merge_cells(merged.copy(), more, merged, law)
    return merged


def _factors(maxima: Floats, plan: Plan, scale: float) -> npt.NDArray[np.float64]:
    """Give what moves the sums of these maxima from the GPU's points to the host's."""
    real = plan.kind.real
    rate, _, _, _, far, _ = map(real, law_for(scale, plan.kind))
    theirs, origin = _points(maxima, rate, far)
    law = law_of(scale, np.dtype(real))
    ours, other = _points(maxima.astype(np.float64), np.float64(law[0]), np.float64(law[4]))
    lift = scalar.LIFT_F64 if plan.kind.wide else scalar.LIFT_F32
    octaves = theirs.astype(np.float64) - ours - lift
    # Only a maximum at the very edge of what is far off has an origin on one side and none on the other.
    return np.asarray(np.exp2(octaves + (origin - other) * law[0]))


def _points(maxima: Floats, rate: Any, far: Any) -> tuple[Floats, Floats]:
    """Give scalar.shift and scalar.origin of maxima, in their own type."""
    product = maxima * rate
    near = np.isinf(maxima) | (abs(product) <= far)
    half = maxima.dtype.type(0.5)
    shift = np.where(near & np.isfinite(maxima), 2 * np.ceil(product * half), 0)
    return shift, np.where(near, 0, maxima)
