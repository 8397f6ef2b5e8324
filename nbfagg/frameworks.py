"""Whose array is it? The type decides; no framework is imported that the caller has not."""

from __future__ import annotations

import importlib
import sys
from typing import Any


def adapter(a: Any) -> Any:
    """Give the module that has `fagg` and its kin for the type of `a`; None for NumPy's."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(a, torch.Tensor):
        # Once it is there; an import statement takes 1 us.
        return sys.modules.get("nbfagg.torch") or by_name("torch")
    dask = sys.modules.get("dask.array")
    if dask is not None and isinstance(a, dask.Array):
        return by_name("dask")
    xarray = sys.modules.get("xarray")
    if xarray is not None and isinstance(a, xarray.DataArray):
        return by_name("xarray")
    # Arrays on a GPU of any other library; NumPy's have been told apart before, but for subclasses.
    if hasattr(a, "__cuda_array_interface__") or _is_on_gpu(a):
        return sys.modules.get("nbfagg.cuda.functions") or importlib.import_module("nbfagg.cuda.functions")
    return None


def _is_on_gpu(a: Any) -> bool:
    """Say whether DLPack has an array in CUDA's memory; NumPy's is asked neither."""
    where = getattr(type(a), "__dlpack_device__", None)
    return where is not None and not type(a).__module__.startswith("numpy") and where(a)[0] == 2


def by_name(name: str) -> Any:
    """Give the module that has a framework's `fagg` and its kin."""
    return importlib.import_module("nbfagg.cuda.functions" if name == "cupy" else f"nbfagg.{name}")
