"""What kernels want of a scale: scalar.Law and the scale itself, in the type of the arithmetic."""

from __future__ import annotations

import functools
from fractions import Fraction

import numpy as np

from nbfagg import scalar
from nbfagg.cuda.kinds import Kind
from nbfagg.plan import law_of


@functools.lru_cache(maxsize=64)
def law_for(scale: float, kind: Kind) -> tuple[float, ...]:
    """Give rate, 1 / rate, its high and low part, the distance from which logits are far, and the scale."""
    rate, inverse, high, low, far = law_of(scale, np.dtype(kind.real))
    if kind.half and low <= 0:
        # Half precision needs the low part above 0 (formulas.exponential); one step of the high part lower.
        exact = Fraction(scale) * (Fraction(scalar.LOG2_E) + Fraction(scalar.LOG2_E_REST))
        high = float(np.nextafter(np.float32(high), np.float32(0)))
        low = float(np.float32(float(exact - Fraction(high))))
    return tuple(float(kind.real(number)) for number in (rate, inverse, high, low, far, scale))
