"""The oracle and the forms that the operation was understood by: nobody waits for them but the tests."""

from __future__ import annotations

import inspect
from functools import partial

import numpy as np

from nbfagg.bench.cases import logits

from .common import Timed, case, cotangent, labels, options, public


class Reference(Timed):
    """Time of each function with all that it takes."""

    param_names = ("function",)
    params = (
        [
            "fagg",
            "fagg_global",
            "fagg_stable",
            "oracle",
            "fagg_packed",
            "fagg_vjp",
            "fagg_vjp_terms",
            "ulp_error",
        ],
    )

    def setup(self, function):
        (shape,) = labels("small call")
        a = logits(case(shape)).astype(np.float64)
        grad = cotangent(a.shape[:2])
        arguments = {
            "fagg_packed": (a, [0, 1, len(a)]),
            "fagg_vjp": (grad, a),
            "fagg_vjp_terms": (grad, a),
            "ulp_error": (grad, np.ones(grad.shape, np.longdouble)),
        }.get(function, (a,))
        every = {"grad_lse": cotangent(a.shape[:1])}
        for given in options(shape).values():
            every |= given
        every |= {"batch_axis": 0, "keep_axis": 1}
        found = public(f"reference.{function}")
        taken = inspect.signature(found).parameters
        self.call = partial(found, *arguments, **{name: every[name] for name in every if name in taken})
        self.call()

    def time_reference(self, function):
        self.call()
