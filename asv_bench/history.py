"""The commits whose speed may differ, measured by asv one after the other: ``python -m asv_bench.history``.

A commit counts if the code that a call runs through, as Python reads it without comments and docstrings,
differs from that of the commit before. Those that have results are left out.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "asv_bench" / "results"
MACHINE = ROOT / "asv_bench" / "machine.json"
# Where the public functions are: benchmarks call nothing else.
CALLED = "nbfagg/api.py"
# The machine of the history has no GPU.
SIDE_WORK = (
    *("nbfagg/bench/", "nbfagg/cuda/", "nbfagg/data/", "nbfagg/reference/", "nbfagg/reference.py"),
    "nbfagg/soak/",
)
NOT_IN_A_CALL = {"cli", "demo", "info", "check", "__main__"}


def git(*arguments: str) -> str:
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
    ).stdout


def code_of(commit: str) -> str:
    """A hash of the code that calls run through; "" for a commit that has nothing to call."""
    paths = git("ls-tree", "-r", "--name-only", commit, "--", "nbfagg").splitlines()
    if CALLED not in paths:
        return ""
    digest = hashlib.sha256()
    for path in paths:
        if not path.endswith(".py") or path.startswith(SIDE_WORK) or Path(path).stem in NOT_IN_A_CALL:
            continue
        digest.update(path.encode() + b"\0" + without_words(git("show", f"{commit}:{path}")).encode())
    return digest.hexdigest()


def without_words(source: str) -> str:
    """Give code as Python reads it, without comments and docstrings."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def commits(head: str = "HEAD") -> list[str]:
    """The commits on the first line of parents whose code differs from their predecessor's, oldest first."""
    found, before = [], ""
    for commit in git("rev-list", "--first-parent", "--reverse", head).split():
        code = code_of(commit)
        if code and code != before:
            found.append(commit)
        before = code
    return found


def thinned(chosen: list[str], most: int) -> list[str]:
    """At most so many, evenly apart, the first and the last among them."""
    if len(chosen) <= most:
        return chosen
    if most == 1:
        return chosen[-1:]
    return [chosen[round(i * (len(chosen) - 1) / (most - 1))] for i in range(most)]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m asv_bench.history", description=__doc__)
    parser.add_argument("--list", action="store_true", help="print the commits and stop")
    parser.add_argument("--at-most", type=int, default=1000, metavar="N", help="so many, evenly apart")
    given, for_asv = parser.parse_known_args(arguments)
    done = {path.name.partition("-")[0] for path in RESULTS.glob("*/*-*.json")}
    chosen = thinned([commit for commit in commits() if commit[:8] not in done], given.at_most)
    if given.list:
        for commit in chosen:
            print(git("log", "-1", "--format=%h %as %s", commit).strip())
        return 0
    if not chosen:
        return 0
    known = Path.home() / ".asv-machine.json"
    if not known.exists():
        # asv would ask; and a name for each new machine would cut the history into pieces.
        shutil.copy(MACHINE, known)
    command = [sys.executable, "-m", "asv", "run", "HASHFILE:-", "--show-stderr", *for_asv]
    return subprocess.run(command, cwd=ROOT, input="\n".join(chosen), text=True, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
