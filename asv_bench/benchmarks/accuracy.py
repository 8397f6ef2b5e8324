"""The largest error in units in the last place, against the oracle of higher precision."""

from __future__ import annotations

import numpy as np

from nbfagg.bench.errors import KINDS, gradient_errors

from .common import cotangent, public, quick

DTYPES = ["float32", "float64"]
SHAPES = ((256, 10, 2, 10), (16, 128, 8, 4), (1, 4, 1, 2**16))


def shapes():
    return ((2, 3, 2, 2),) if quick() else SHAPES


class Accuracy:
    """Of weights that are normal numbers: 2 for float32 and 3 for float64 are promised."""

    param_names = ("logits", "dtype")
    params = (list(KINDS), DTYPES)
    unit = "ulp"
    timeout = 600

    def setup(self, kind, dtype):
        public("fagg")
        public("reference.oracle")

    def track_worst_alpha(self, kind, dtype):
        from nbfagg.reference import oracle, ulp_error

        worst = 0.0
        for seed, shape in enumerate(shapes()):
            a = KINDS[kind](np.random.default_rng(seed), shape).astype(dtype)
            exact = oracle(a)
            error = ulp_error(public("fagg")(a), exact)
            worst = max(worst, float(error[exact >= np.finfo(dtype).smallest_normal].max()))
        return worst


class GradientAccuracy:
    """Of gradients, in ulp of the largest term: 4 for float32 and 6 for float64 are promised."""

    param_names = ("of", "dtype")
    params = (["alpha", "log alpha"], DTYPES)
    unit = "ulp"
    timeout = 600

    def setup(self, of, dtype):
        public("fagg_vjp")
        public("reference.fagg_vjp_terms")

    def track_worst_gradient(self, of, dtype):
        worst, log = 0.0, of == "log alpha"
        for seed, shape in enumerate(shapes()):
            a = KINDS["N(0, 1)"](np.random.default_rng(seed), shape).astype(dtype)
            grad = cotangent(shape[:2], dtype)
            alpha, lse = public("fagg")(a, log=log, return_lse=True)
            got = public("fagg_vjp")(grad, a, alpha, lse, log=log)
            worst = max(worst, float(gradient_errors(got, grad, a, log=log).max()))
        return worst
