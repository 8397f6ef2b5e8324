"""fagg beside the oracle, judged by nbfagg.promises; and code run in a process of its own."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import nbfagg
from nbfagg import promises, reference
from nbfagg.promises import share_of_bound

DTYPES = [np.float32, np.float64]


def by_letter(bounds):
    """Give what is promised of dtypes by their letters."""
    return {np.dtype(name).char: bound for name, bound in bounds.items()}


BOUND = by_letter(promises.BOUND)


def check(a, **keywords):
    """Compare what fagg gives for `a` with the oracle, and return it."""
    given = nbfagg.fagg(a, **keywords)
    for_oracle = {name: value for name, value in keywords.items() if name not in ("out", "workers")}
    wanted = reference.oracle(a, **for_oracle)
    names, results = ["log" if keywords.get("log") else "alpha"], [(given, wanted)]
    if keywords.get("return_lse"):
        names, results = [*names, "lse"], [*zip(given, wanted, strict=True)]
    narrow = a.dtype.kind == "f" and a.dtype.itemsize == 4
    for what, (result, exact) in zip(names, results, strict=True):
        case = f"{what} of {a.dtype} {a.shape}, strides {a.strides}, {keywords}"
        assert isinstance(result, np.ndarray), case
        assert result.shape == exact.shape, case
        assert result.dtype == (np.float32 if narrow else np.float64), case
        share = share_of_bound(result, np.asarray(exact), what)
        if share.size and not share.max() <= 1:
            at = np.unravel_index(share.argmax(), share.shape)
            raise AssertionError(
                f"{case}: {share.max():.3g} of what is allowed at {tuple(map(int, at))}, {result[at]!r} "
                f"instead of {exact[at]!r}; {np.count_nonzero(share > 1)} of {share.size} are off"
            )
    return given


def check_all(a, **keywords):
    """Compare alpha, by itself and with lse, and log alpha; return alpha."""
    alpha, _ = check(a, **keywords, return_lse=True)
    # Without lse a small array takes a way of its own; its bits are the same.
    np.testing.assert_array_equal(nbfagg.fagg(a, **keywords), alpha)
    check(a, **keywords, log=True)
    return alpha


def in_memory_order(a, order):
    """Give a copy of `a` whose axes lie in memory in this order, outermost first."""
    return np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))


def environment(**settings):
    """Give this process's environment, where the nbfagg under test is found; None takes a variable away."""
    folders = [str(Path(nbfagg.__file__).parents[1]), str(Path(__file__).parent)]
    path = os.pathsep.join([*folders, *filter(None, [os.environ.get("PYTHONPATH")])])
    joined = os.environ | {"PYTHONPATH": path} | settings
    return {name: value for name, value in joined.items() if value is not None}


def run_python(code, *arguments, as_file=False, ignored=None, **settings):
    """Run `code` in a fresh process, where a warning is an error, and return what it prints.

    -P: what lies in the current folder is not what is imported. As a file its
    functions can be found by processes that it spawns. `ignored` begins what it may say on standard error.
    """
    with tempfile.TemporaryDirectory() as folder:
        source = ["-c", code]
        if as_file:
            path = Path(folder) / "run.py"
            path.write_text(code, encoding="utf-8")
            source = [str(path)]
        process = subprocess.run(
            [sys.executable, "-P", "-W", "error", *source, *map(str, arguments)],
            env=environment(**settings),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert process.returncode == 0, f"exit code {process.returncode}\n{process.stdout}\n{process.stderr}"
    said = [line for line in process.stderr.splitlines() if ignored is None or not line.startswith(ignored)]
    assert not said, process.stderr
    return process.stdout
