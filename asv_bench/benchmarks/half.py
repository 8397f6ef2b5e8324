"""Half precision."""

from __future__ import annotations

from functools import partial

import numpy as np

from nbfagg.bench.cases import logits

from .common import Timed, case, labels, public


class Half(Timed):
    """Time of logits of 16 bits."""

    param_names = ("dtype", "shape")
    params = (["float16", "bfloat16"], labels("heads", "long pose"))

    def setup(self, dtype, shape):
        public("fagg_vjp")  # half precision came with it
        try:
            import ml_dtypes
        except ImportError:
            raise NotImplementedError("ml_dtypes is not installed") from None
        kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
        self.call = partial(public("fagg"), logits(case(shape)).astype(kind))
        self.call()

    def time_fagg(self, dtype, shape):
        self.call()
