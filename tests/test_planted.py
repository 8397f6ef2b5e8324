"""A commit that doubles the work is found by asv, with the settings of asv.conf.json; and no other one is."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

pytest.importorskip("asv", reason="asv is not installed")
pytest.importorskip("virtualenv", reason="virtualenv is not installed")

ROOT = Path(__file__).resolve().parents[1]
COMMITS, PLANTED = 6, 4  # the fifth

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "planted"
version = "0"

[tool.setuptools]
py-modules = ["planted"]
"""

PACKAGE = """
import nbfagg

VERSION = {number}

def call(a):
    for _ in range({times}):
        alpha = nbfagg.fagg(a, workers=1)
    return alpha
"""

# As asv_bench/benchmarks has them: ours over another's, in turns, whatever else the machine does.
BENCHMARKS = """
from functools import partial

import nbfagg
import planted
from nbfagg.bench.cases import CASES, logits
from nbfagg.bench.turns import alternate, ratio

class Aggregate:
    unit = "ratio"

    def setup(self):
        a = logits(CASES["pose"])
        self.sides = {"ours": partial(planted.call, a), "once": partial(nbfagg.fagg, a, workers=1)}

    def track_aggregate(self):
        seconds = alternate(self.sides, rounds=15)
        return ratio(seconds["ours"], seconds["once"])
"""


ADD_PATHS = """
import sysconfig
from pathlib import Path

Path(sysconfig.get_path("purelib"), "planted-needs.pth").write_text({paths!r})
"""


def run(command, folder, status=0):
    """Run a command in the repository, and give what it prints."""
    environment = os.environ | {"HOME": str(folder), "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


def asv(folder, *arguments, status=0):
    return run([sys.executable, "-m", "asv", *arguments], folder, status)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """Give a folder with a repository in it, and the hashes of its commits."""
    folder = tmp_path_factory.mktemp("planted")
    text = (ROOT / "asv.conf.json").read_text(encoding="utf-8")
    settings = json.loads(re.sub(r"^\s*//.*", "", text, flags=re.MULTILINE))
    settings |= {"project": "planted", "plugins": [], "benchmark_dir": "benchmarks", "results_dir": "results"}
    # Whatever is measured stands in the environment of this test already, and the package in this checkout.
    settings["matrix"] = {"req": {"pip+asv_runner": settings["matrix"]["req"]["pip+asv_runner"]}}
    settings["install_command"].append("in-dir={env_dir} python {conf_dir}/add_paths.py")
    paths = [str(ROOT), sysconfig.get_path("purelib")]
    (folder / "add_paths.py").write_text(ADD_PATHS.format(paths="\n".join(paths)), encoding="utf-8")
    (folder / "asv.conf.json").write_text(json.dumps(settings), encoding="utf-8")
    shutil.copy(ROOT / "asv_bench" / "machine.json", folder / ".asv-machine.json")
    (folder / "pyproject.toml").write_text(PROJECT, encoding="utf-8")
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "__init__.py").write_text(BENCHMARKS, encoding="utf-8")
    git = ["git", "-c", "user.name=nbfagg", "-c", "user.email=nbfagg@localhost"]
    run([*git, "init", "-q"], folder)
    hashes = []
    for number in range(COMMITS):
        package = PACKAGE.format(number=number, times=2 if number >= PLANTED else 1)
        (folder / "planted.py").write_text(package, encoding="utf-8")
        run([*git, "add", "pyproject.toml", "planted.py"], folder)
        run([*git, "commit", "-q", "-m", f"Commit {number}"], folder)
        hashes.append(run([*git, "rev-parse", "HEAD"], folder).strip())
    return folder, hashes


def test_a_slow_down_is_noticed(repository):
    folder, hashes = repository
    said = asv(folder, "continuous", "--factor", "1.5", hashes[PLANTED - 1], hashes[PLANTED], status=1)
    assert "SOME BENCHMARKS HAVE CHANGED SIGNIFICANTLY" in said
    assert re.search(r"^\| \+ .*track_aggregate", said, re.MULTILINE), said
    assert "PERFORMANCE DECREASED" in said


def test_the_same_work_is_no_slow_down(repository):
    folder, hashes = repository
    said = asv(folder, "continuous", "--factor", "1.5", hashes[0], hashes[1])
    assert "BENCHMARKS NOT SIGNIFICANTLY CHANGED" in said


def test_the_commit_is_named(repository):
    folder, hashes = repository
    said = asv(folder, "find", f"{hashes[0]}..{hashes[-1]}", "track_aggregate")
    assert f"Greatest regression found: {hashes[PLANTED][:8]}" in said
