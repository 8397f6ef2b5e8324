"""Numba's threading layers, one in each process: what to set, and code that says which one is in use."""

import sys
from pathlib import Path

import pytest

# tbb is found where pip puts it only if the loader is told to look there.
_TBB = Path(sys.prefix) / "lib"

# "none": not even the layer that Numba brings along can be loaded.
_NONE = """
import sys
sys.modules["numba.np.ufunc.workqueue"] = None
"""


def settings(layer):
    """Give the environment variables for a layer; skip the test if it is not installed."""
    if layer == "tbb":
        if not (_TBB / "libtbb.so.12").exists():
            pytest.skip("tbb is not installed")
        return {"NUMBA_THREADING_LAYER": "tbb", "LD_LIBRARY_PATH": str(_TBB)}
    return {"NUMBA_THREADING_LAYER": "workqueue" if layer == "none" else layer}


def code(layer):
    """Give code that asserts in the end which layer was in use: what goes before a test's own."""
    check = f"""
import atexit
def check():
    from nbfagg.cpu import team
    assert team.layer() == {layer!r}, team.layer()
atexit.register(check)
"""
    return (_NONE if layer == "none" else "") + check


LAYERS = ("omp", "workqueue", "tbb", "none")
