"""asv's suite: every benchmark runs with every parameter, and every public function and keyword has one."""

import functools
import importlib
import inspect
import itertools
import json
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import nbfagg
from nbfagg.bench import limits

ROOT = Path(__file__).resolve().parents[1]
KINDS = ("time_", "timeraw_", "track_", "peakmem_")
# Why what is not everywhere may be n/a; nothing else may.
OPTIONAL = {
    "dask_arrays": r"Dask is not|not taken by this version",
    "gpu": r"no GPU|PyTorch is not",
    "half": r"ml_dtypes is not",
    "peers": r"is not installed",
    "tensors": r"torch",
}
REFERENCE = [name for name in nbfagg.reference.__all__ if inspect.isfunction(getattr(nbfagg.reference, name))]
PUBLIC = [
    *(name for name in nbfagg.__all__ if name not in ("State", "reference")),
    "State.of",
    "State.merge",
    "State.finalize",
    *(f"reference.{name}" for name in REFERENCE),
]


@pytest.fixture(scope="module")
def suite():
    """The modules, their shapes tiny; PyTorch's threads would stay in the process of all the other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, str(ROOT)])
        patch.setenv("NBFAGG_BENCH_QUICK", "1")
        package = importlib.import_module("asv_bench.benchmarks")
        names = [found.name for found in pkgutil.iter_modules(package.__path__)]
        modules = {name: importlib.import_module(f"asv_bench.benchmarks.{name}") for name in names}
        patch.setattr(limits, "_torch", lambda: None)
        yield modules


def subjects(suite):
    """(module, class) of every benchmark that asv finds: classes where they are defined."""
    for file, module in suite.items():
        for _, subject in inspect.getmembers(module, inspect.isclass):
            if subject.__module__ == module.__name__ and any(name.startswith(KINDS) for name in dir(subject)):
                yield file, subject


def methods(subject):
    return [name for name in dir(subject) if name.startswith(KINDS)]


@pytest.fixture(scope="module")
def used(suite):
    """Run everything; give each public function's keywords that were used, and why what is n/a is so."""
    called, skipped = {name: set() for name in PUBLIC}, []
    with pytest.MonkeyPatch.context() as patch:
        for name in PUBLIC:
            record(patch, name, called[name])
        for file, subject in subjects(suite):
            for values in itertools.product(*getattr(subject, "params", ())):
                if file == "peers" and not values[0].startswith(("NumPy", "SciPy")):
                    continue  # their threads would stay, too
                benchmark = subject()
                try:
                    benchmark.setup(*values)
                except NotImplementedError as why:
                    skipped.append((file, str(why)))
                    continue
                for method in methods(subject):
                    check(method, getattr(benchmark, method)(*values))
    return called, skipped


def record(patch, name, keywords):
    """Have a public function note the names of the parameters that it is given."""
    owner = functools.reduce(getattr, name.split(".")[:-1], nbfagg)
    last = name.rpartition(".")[2]
    function = getattr(owner, last)
    signature = inspect.signature(function)

    @functools.wraps(function)
    def noted(*arguments, **options):
        keywords.update(signature.bind(*arguments, **options).arguments)
        return function(*arguments, **options)

    if name in ("State.merge", "State.finalize"):
        patch.setattr(owner, last, noted)
    else:
        patch.setattr(owner, last, staticmethod(noted) if inspect.isclass(owner) else noted, raising=False)


def check(method, result):
    if method.startswith("timeraw_"):
        statements = (result,) if isinstance(result, str) else result
        # What asv runs in a new process, here for what it calls.
        if "TemporaryDirectory" not in statements[-1]:
            exec(statements[0], {})
    elif method.startswith("track_"):
        assert result >= 0
    else:
        assert result is None


def test_every_benchmark_runs(used):
    for file, why in used[1]:
        assert file in OPTIONAL, f"{file}: {why}"
        assert re.search(OPTIONAL[file], why), f"{file}: {why}"


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_function_and_keyword_has_a_benchmark(used, name):
    function = functools.reduce(getattr, name.split("."), nbfagg)
    wanted = set(inspect.signature(function).parameters) - {"self"}
    assert wanted <= used[0][name] | {"self"}, f"no benchmark calls {name} with {wanted - used[0][name]}"
    assert used[0][name] or not wanted


def test_a_statement_of_a_new_process_runs_there(suite):
    cold = suite["startup"].Cold().timeraw_first_call_compiling()
    code = f"{cold[1]}\nimport numba; assert numba.config.CACHE_DIR == folder.name"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_recorded_suite_is_this_one(suite):
    recorded = json.loads((ROOT / "asv_bench" / "results" / "benchmarks.json").read_text(encoding="utf-8"))
    found = {f"{file}.{one.__name__}.{name}": one for file, one in subjects(suite) for name in methods(one)}
    assert found.keys() == recorded.keys() - {"version"}
    for name, subject in found.items():
        params = getattr(subject, "params", ())
        assert recorded[name]["params"] == [[repr(choice) for choice in choices] for choices in params]


def test_a_version_without_a_function_or_a_keyword_shows_nothing(suite):
    public = suite["common"].public
    assert public("fagg", "where") is nbfagg.fagg
    with pytest.raises(NotImplementedError, match="no fagg_of_tomorrow"):
        public("fagg_of_tomorrow")
    with pytest.raises(NotImplementedError, match="fagg of this version has no tomorrow"):
        public("fagg", "tomorrow")
