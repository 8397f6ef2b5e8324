"""Break one line of the package at a time, and see the test that is named for it go red.

    python tests/mutations.py [--list] [--only NAME ...] [--jobs N] [--record FILE]

mutations.toml holds a line for each: the file below nbfagg/, a part of one of its lines, what stands there
instead, and the test. Each runs in a copy of the tree, with a cache of kernels of its own. First all the
tests run in a copy that is as it is: what fails there proves nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).parent
ROOT = TESTS.parent
LIST = TESTS / "mutations.toml"
# A test that waits for a child has a watchdog of 300 s; no mutation here should need it.
LIMIT = 400.0

# The copy is what is tested, whatever is installed.
PYTEST = """
import sys
import nbfagg
assert nbfagg.__file__.startswith(sys.argv[1]), nbfagg.__file__
import pytest
sys.exit(pytest.main(["-q", "-x", "-rfEs", "--tb=no", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


class Mutation(NamedTuple):
    """One breakage, and the test that must notice it."""

    name: str
    file: str
    old: str
    new: str
    test: str

    def broken(self, package: Path) -> str:
        """Give the text of the file with the breakage in it."""
        text = (package / self.file).read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: {self.old!r} occurs {text.count(self.old)} times in {self.file}")
        return text.replace(self.old, self.new)


class Outcome(NamedTuple):
    """What became of a run."""

    caught: bool
    how: str
    seconds: float


def mutations() -> list[Mutation]:
    """Give all of them, as they are listed."""
    listed = tomllib.loads(LIST.read_text(encoding="utf-8"))
    return [Mutation(name, **entry) for name, entry in listed.items()]


def copy_tree(folder: Path) -> Path:
    """Copy what a test needs, and give the package in the copy."""
    ignored = shutil.ignore_patterns("__pycache__", ".*")
    for name in ("nbfagg", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder / "nbfagg"


def run_tests(folder: Path, tests: list[str]) -> tuple[int | None, str, float]:
    """Run tests in a copy; give the exit code (None: no end), what was printed, and the time it took."""
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    cache = {"NUMBA_CACHE_DIR": str(folder / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", PYTEST, str(folder), *tests],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path} | cache,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=LIMIT * max(1, len(tests) // 4))
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        return None, "", time.perf_counter() - begin
    return process.returncode, printed, time.perf_counter() - begin


def judge(code: int | None, printed: str) -> tuple[bool, str]:
    """Say whether a run found a breakage, and how."""
    if code is None:
        return False, f"no end within {LIMIT:.0f} s"
    if code < 0:
        return True, f"the process was ended by {signal.Signals(-code).name}"
    failed = re.search(r"^FAILED (?P<test>\S+(?: \S+)*?)(?: - (?P<why>.*))?$", printed, re.MULTILINE)
    if code == 1 and failed:
        return True, f"{failed['test'].partition('::')[2]}: {(failed['why'] or 'failed')[:70]}"
    # All passed, or none ran, or the copy was too broken to run any.
    last = printed.strip().rpartition("\n")[2]
    return False, f"exit code {code}: {last}"


def try_one(mutation: Mutation) -> Outcome:
    """Run the test of one mutation in a copy of the tree that has it."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        package = copy_tree(Path(folder).resolve())
        text = mutation.broken(package)
        (package / mutation.file).write_text(text, encoding="utf-8")
        code, printed, seconds = run_tests(package.parent, [mutation.test])
    return Outcome(*judge(code, printed), seconds)


def try_none(tests: list[str]) -> Outcome:
    """Run tests in a copy as it is: `caught` then says that one failed, or did not run."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        package = copy_tree(Path(folder).resolve())
        code, printed, seconds = run_tests(package.parent, tests)
    told = [line for line in printed.splitlines() if line.startswith(("FAILED", "ERROR", "SKIPPED"))]
    last = printed.strip().rpartition("\n")[2]
    return Outcome(code != 0 or bool(told), "; ".join([*told, last or f"exit code {code}"]), seconds)


def main(arguments: list[str] | None = None) -> int:
    """Run, report, and give the exit code: 0 if each mutation was caught."""
    parser = argparse.ArgumentParser(prog="python tests/mutations.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="print what there is and run nothing")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="those whose name has this in it")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many at a time (default: 1)")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write what caught what to a JSON file")
    given = parser.parse_args(arguments)
    chosen = [m for m in mutations() if not given.only or any(part in m.name for part in given.only)]
    if not chosen:
        parser.error(f"no mutation has any of {given.only} in its name")
    if given.list:
        for mutation in chosen:
            print(f"{mutation.name}\n    {mutation.file}: {mutation.old!r} -> {mutation.new!r}")
            print(f"    {mutation.test}")
        return 0

    usual = try_none(sorted({mutation.test for mutation in chosen}))
    print(f"nothing broken: {usual.how}", flush=True)
    if usual.caught:
        return 1
    outcomes: list[Outcome] = []
    with ThreadPoolExecutor(given.jobs) as pool:
        for mutation, outcome in zip(chosen, pool.map(try_one, chosen), strict=True):
            outcomes.append(outcome)
            verdict = "caught  " if outcome.caught else "SURVIVED"
            print(
                f"[{len(outcomes):2}/{len(chosen)}] {verdict} {outcome.seconds:4.0f} s  "
                f"{mutation.file}: {mutation.name}\n{'':24}{outcome.how}",
                flush=True,
            )
    survived = [m.name for m, outcome in zip(chosen, outcomes, strict=True) if not outcome.caught]
    print(f"{len(chosen) - len(survived)} of {len(chosen)} caught; survived: {', '.join(survived) or 'none'}")
    if given.record:
        rows = [
            {"name": m.name, "file": m.file, "test": m.test, "caught": o.caught, "seconds": round(o.seconds)}
            for m, o in zip(chosen, outcomes, strict=True)
        ]
        given.record.write_text(json.dumps(rows), encoding="utf-8")
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(main())
