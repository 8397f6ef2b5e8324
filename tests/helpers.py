"""fagg beside the oracle, judged by what is promised; and code run in a process of its own.

alpha: 2 ulp of float32 and below its smallest normal number one subnormal step, 3 ulp of float64.

log alpha and lse: the same and 2 ulp more, of max(1, abs(exact)). A logarithm turns a sum's relative error
into an absolute one, so the bound of alpha is one at the size of 1; two more roundings, of the logarithm and
of adding the exponent that was split off, are of the size of the result or of 1.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import nbfagg
from nbfagg import reference

DTYPES = [np.float32, np.float64]
BOUND = {"f": 2.0, "d": 3.0}
LOG_EXTRA = 2.0


def share_of_bound(result, exact, what):
    """Give the error as a share of what is allowed; `what` is "alpha", "log" or "lse"."""
    info = np.finfo(result.dtype)
    bound = BOUND[result.dtype.char]
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = exact.astype(result.dtype)
        if what == "alpha":
            share = reference.ulp_error(result, exact) / np.where(
                (exact < info.tiny) & (result.dtype == np.float32), 1, bound
            )
        else:
            leading = np.frexp(np.where(np.isfinite(exact), np.maximum(1, abs(exact)), 1))[1] - 1
            ulp = np.ldexp(np.longdouble(info.eps), leading)
            share = (abs(result - exact) / ulp / (bound + LOG_EXTRA)).astype(np.float64)
    # NaN and infinities (also of what is beyond the dtype) come out as themselves, as does a weight of 0; and
    # what is finite as something finite.
    itself = ~np.isfinite(rounded) | ((exact == 0) & (what == "alpha"))
    same = (result == rounded) | (np.isnan(result) & np.isnan(rounded))
    return np.where(itself | ~np.isfinite(result), np.where(same, 0.0, np.inf), share)


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


def run_python(code, *arguments, as_file=False, **settings):
    """Run `code` in a fresh process, where a warning is an error, and return what it prints.

    -P: what lies in the current folder is not what is imported. As a file its
    functions can be found by processes that it spawns.
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
    assert process.stderr == ""
    return process.stdout
