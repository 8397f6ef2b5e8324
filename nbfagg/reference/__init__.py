"""The oracle: slower, plainer and more precise than the code that it judges. Needs NumPy alone.

Two groups of functions. `fagg`, `fagg_global` and `fagg_stable` are the operation in a line each, in the
order in which it was understood: without a shift, with one maximum for the whole array, with a maximum per
batch row. The first two are kept to show what breaks. The others are what results are compared with:
`oracle`, `fagg_packed` for ragged rows, `fagg_vjp` for gradients, with `fagg_vjp_terms` for what their errors
are relative to. `ulp_error` says by how much a result differs.

Examples
--------
>>> import numpy as np
>>> from nbfagg import reference
>>> a = np.log([[1.0, 2.0, 3.0, 4.0]])
>>> reference.oracle(a).astype(float).round(3)
array([[0.1, 0.2, 0.3, 0.4]])
>>> reference.oracle(a, lengths=[3]).astype(float).round(3)
array([[0.167, 0.333, 0.5  , 0.   ]])
>>> reference.fagg_packed(a[0], [0, 3, 4]).astype(float).round(3)
array([0.167, 0.333, 0.5  , 1.   ])
>>> reference.fagg_vjp([[0.0, 0.0, 0.0, 1.0]], a).astype(float).round(3)
array([[-0.04, -0.08, -0.12,  0.24]])
>>> bool(reference.ulp_error(np.float32([[0.1, 0.2, 0.3, 0.4]]), reference.oracle(a)).max() <= 0.5)
True
"""

from __future__ import annotations

from nbfagg.reference.exact import fagg_packed, oracle
from nbfagg.reference.gradient import fagg_vjp, fagg_vjp_terms
from nbfagg.reference.plain import fagg, fagg_global, fagg_stable
from nbfagg.reference.rows import FloatArray, LongArray
from nbfagg.reference.ulp import ulp_error

__all__ = [
    "FloatArray",
    "LongArray",
    "fagg",
    "fagg_global",
    "fagg_packed",
    "fagg_stable",
    "fagg_vjp",
    "fagg_vjp_terms",
    "oracle",
    "ulp_error",
]
