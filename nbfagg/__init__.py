"""Stable attention aggregation: the marginal of a joint softmax.

``nbfagg.fagg(a)`` takes logits of shape (B, L, N, H) to weights of shape
(B, L). ``nbfagg.reference`` holds the naive form and the oracle,
``nbfagg.show_config()`` tells what the kernels run on.

Importing nbfagg imports neither Numba nor a framework; the first call does.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

if not getattr(sys, "_is_gil_enabled", lambda: True)():
    raise ImportError(
        "nbfagg does not support free-threaded Python, on which nothing of it has been tried; "
        "want the usual build, or PYTHON_GIL=1"
    )

if TYPE_CHECKING:
    from nbfagg import reference
    from nbfagg.api import fagg, fagg_vjp, warmup
    from nbfagg.info import show_config
    from nbfagg.packed import fagg_packed, fagg_packed_vjp
    from nbfagg.state import State

__all__ = [
    "State",
    "fagg",
    "fagg_packed",
    "fagg_packed_vjp",
    "fagg_vjp",
    "reference",
    "show_config",
    "warmup",
]

_HOME = {
    "fagg": "nbfagg.api",
    "fagg_packed": "nbfagg.packed",
    "fagg_packed_vjp": "nbfagg.packed",
    "fagg_vjp": "nbfagg.api",
    "State": "nbfagg.state",
    "warmup": "nbfagg.api",
    "show_config": "nbfagg.info",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(importlib.import_module(_HOME[name]), name)
    elif name in ("reference", "torch", "dask", "xarray"):
        try:
            value = importlib.import_module(f"nbfagg.{name}")
        except ModuleNotFoundError as error:
            raise AttributeError(f"module 'nbfagg' has no attribute {name!r}: {error}") from error
    elif name == "__version__":
        from nbfagg.info import installed

        value = installed("nbfagg")
        if value is None:
            raise AttributeError("nbfagg runs from its source without being installed: it has no version")
    else:
        raise AttributeError(f"module 'nbfagg' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
