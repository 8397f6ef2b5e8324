"""What importing brings in, and what is there."""

import doctest
import importlib
import pkgutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from helpers import run_python

import nbfagg
from nbfagg import cli, info

PACKAGE = Path(nbfagg.__file__).parent
# __main__ runs when it is imported; test_cli.py does so.
MODULES = sorted(
    {module.name for module in pkgutil.walk_packages([str(PACKAGE)], "nbfagg.")} - {"nbfagg.__main__"}
)
HEAVY = ["numba", "llvmlite", "scipy", "torch", "dask", "cupy", "jax", "rich", "pandas", "mpmath", "xarray"]
# Modules that are about a package which is not always there.
ABOUT = {"nbfagg.cuda.prims": "numba_cuda", "nbfagg.cuda.triton_peer": "triton"}


def test_importing_imports_nothing_heavy():
    without = set(run_python("import sys, numpy; print(*sys.modules)").split())
    names = set(run_python("import sys, numpy, nbfagg; dir(nbfagg); print(*sys.modules)").split())
    assert not {name.split(".")[0] for name in names} & set(HEAVY)
    # Beside itself at most a few modules of the standard library.
    more = names - without
    assert {name for name in more if name.startswith("nbfagg")} == {"nbfagg"}
    assert len(more) < 10


def test_a_refused_call_and_an_empty_array_need_no_numba():
    code = """
import sys
import numpy as np, nbfagg
nbfagg.fagg(np.zeros((2, 0)))
nbfagg.reference.oracle(np.zeros((2, 3)))
try:
    nbfagg.fagg(np.zeros((2, 3)), keep_axis=2)
except ValueError:
    print("numba" in sys.modules)
"""
    assert run_python(code) == "False\n"


def test_without_a_compiler_there_is_one_clear_error():
    code = """
import numpy as np, nbfagg
try:
    nbfagg.fagg(np.zeros((2, 3)))
except ImportError as error:
    print(error)
"""
    said = run_python(code, NUMBA_DISABLE_JIT="1")
    assert said == "nbfagg: kernels have to be compiled; want NUMBA_DISABLE_JIT not set\n"


def test_what_belongs_to_a_framework_is_at_hand_where_that_is():
    code = """
import sys
import nbfagg
sys.modules["xarray"] = None
print(hasattr(nbfagg, "xarray"), hasattr(nbfagg, "torch"))
try:
    import torch
except ImportError:
    print("no torch")
else:
    print(nbfagg.torch.AttentionPool.__name__)
"""
    assert run_python(code) in ("False True\nAttentionPool\n", "False False\nno torch\n")


def test_free_threaded_python_is_refused_by_name():
    code = """
import sys
sys._is_gil_enabled = lambda: False
try:
    import nbfagg
except ImportError as error:
    print(error)
"""
    assert "does not support free-threaded Python" in run_python(code)


def test_public_names():
    assert nbfagg.__all__ == sorted(nbfagg.__all__)
    for name in nbfagg.__all__:
        assert getattr(nbfagg, name).__doc__
        assert name in dir(nbfagg)
    assert {"fagg", "reference", "show_config", "warmup"} <= set(nbfagg.__all__)
    with pytest.raises(AttributeError, match="module 'nbfagg' has no attribute 'softmax'"):
        _ = nbfagg.softmax
    code = "from nbfagg import *; print(sorted(n for n in dir() if not n.startswith('_')))"
    assert run_python(code) == f"{nbfagg.__all__}\n"


def test_dir_has_each_name_once():
    assert nbfagg.fagg is not None
    assert dir(nbfagg) == sorted(set(dir(nbfagg)))


@pytest.mark.skipif(info.installed("nbfagg") is None, reason="not installed")
def test_the_version():
    assert nbfagg.__version__ == info.installed("nbfagg")


def test_there_is_no_version_without_an_installation(monkeypatch, capsys):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(info, "version", missing)
    monkeypatch.delitem(vars(nbfagg), "__version__", raising=False)
    assert not hasattr(nbfagg, "__version__")
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == "nbfagg (not installed)\n"
    info.show_config()
    assert capsys.readouterr().out.splitlines()[0].split(maxsplit=1) == ["nbfagg", "(not installed)"]


def test_it_is_typed():
    assert (PACKAGE / "py.typed").is_file()


def imported(name):
    """Give a module, if the framework that it is for is installed."""
    if name in ABOUT:
        pytest.importorskip(ABOUT[name])
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        if missing.name not in ("torch", "dask", "xarray", "distributed"):
            raise
        pytest.skip(str(missing))


@pytest.mark.parametrize("name", MODULES)
def test_every_module_can_be_imported_and_says_what_it_is(name):
    assert imported(name).__doc__


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    found = doctest.testmod(imported(name), raise_on_error=True)
    if name in ("nbfagg.api", "nbfagg.reference"):
        assert found.attempted > 5
