"""The disk cache of compiled kernels: used when it is fresh, and never in the way.

Most tests are about a kernel of one line, which compiles in no time, by the decorator of the real ones.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import helpers
import pytest
from helpers import run_python

import nbfagg
from nbfagg.cpu import cache

PACKAGE = Path(nbfagg.__file__).parent

KERNEL = """
from nbfagg.cpu.cache import compiled

@compiled()
def twice(x):
    return 2 * x
"""

# Prints how many compilations a call took.
CALL = """
import sys
sys.path.insert(0, sys.argv[1])
from numba.core import event
{before}
with event.install_recorder("numba:compile") as recorder:
    import kernel
    assert kernel.twice(21.0) == 42.0
{after}
print(len(recorder.buffer) // 2)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "kernel.py").write_text(KERNEL, encoding="utf-8")
    return tmp_path


def compilations(folder, before="", after="", **settings):
    code = CALL.format(before=before, after=after)
    settings = {"NUMBA_CACHE_DIR": str(folder / "cache"), "NBFAGG_CACHE": None} | settings
    return int(run_python(code, folder, **settings))


def copy_to(folder):
    return shutil.copytree(PACKAGE, folder / "nbfagg", ignore=shutil.ignore_patterns("__pycache__"))


def files(folder):
    return sorted(path for path in (folder / "cache").rglob("*") if path.is_file())


def test_a_second_process_compiles_nothing(folder):
    assert compilations(folder) == 1
    written = files(folder)
    assert len(written) == 1
    assert compilations(folder) == 0
    assert files(folder) == written


def test_an_edited_source_makes_it_stale(folder):
    copied = copy_to(folder / "copy")
    assert compilations(folder) == 1
    # The copy has the same sources, so it may take what is there...
    copy = {"PYTHONPATH": str(folder / "copy")}
    assert compilations(folder, **copy) == 0
    # ... until a file that the kernel's own file knows nothing of is another one.
    edited = copied / "cpu" / "tiles.py"
    edited.write_text(edited.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")
    assert compilations(folder, **copy) == 1
    assert compilations(folder) == 1


def test_every_source_of_a_kernel_counts(folder, monkeypatch):
    copied = copy_to(folder)
    monkeypatch.setattr(cache, "__file__", str(copied / "cpu" / "cache.py"))
    stamp = cache.source_stamp.__wrapped__
    before = stamp()
    assert before == cache.source_stamp()
    for path in [*(copied / "cpu").glob("*.py"), copied / "scalar.py", copied / "fields.py"]:
        source = path.read_bytes()
        path.write_bytes(source + b"\n")
        assert stamp() != before, path.name
        path.write_bytes(source)
        assert stamp() == before
    (copied / "cpu" / "another.py").write_text("", encoding="utf-8")
    assert stamp() != before


def test_it_can_be_turned_off(folder):
    assert compilations(folder, NBFAGG_CACHE="0") == 1
    assert files(folder) == []
    assert compilations(folder, NBFAGG_CACHE="1") == 1
    assert len(files(folder)) == 1


def test_no_folder_to_write_to(folder):
    # Neither the one that is asked for, nor beside the source, nor in the user's own.
    before = """
from numba.core import caching
def refuse(self):
    raise PermissionError(13, "Permission denied")
caching._CacheLocator.ensure_cache_path = refuse
"""
    assert compilations(folder, before) == 1
    assert files(folder) == []


def test_a_folder_that_is_full(folder):
    # It can be made, and files in it, but nothing fits.
    before = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
"""
    assert compilations(folder, before) == 1
    assert files(folder) == []


def _flipped(content):
    """One bit of the machine code is another one: Numba would run it."""
    at = content.index(b"\x7fELF") + 200
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    "damage",
    [lambda content: b"", lambda content: content[:1000], lambda content: b"\x80\x05 garbage" * 99, _flipped],
    ids=["empty", "truncated", "garbage", "one bit"],
)
def test_a_damaged_file(folder, damage):
    assert compilations(folder) == 1
    (path,) = files(folder)
    sound = path.read_bytes()
    path.write_bytes(damage(sound))
    assert compilations(folder) == 1
    assert files(folder) == [path]
    assert compilations(folder) == 0


def test_a_folder_that_may_only_be_read(folder):
    cache = folder / "cache"
    assert compilations(folder) == 1
    # A superuser may write anywhere, so nothing is tried there.
    before = """
import pathlib
def refuse(*arguments):
    raise PermissionError(13, "Permission denied")
pathlib.Path.write_bytes = refuse
"""
    assert compilations(folder, before) == 0
    shutil.rmtree(cache)
    assert compilations(folder, before) == 1
    assert files(folder) == []


def test_no_home(folder):
    # Where the package may not be written either, Numba looks for the user's own cache.
    settings = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"))
    assert compilations(folder, **settings) == 1


def test_an_upgrade_under_a_running_process(folder):
    """What it compiles of the old sources must not be taken for that of the new ones."""
    copied = copy_to(folder / "copy")
    edited = copied / "cpu" / "tiles.py"
    before = f"""
import pathlib
import nbfagg.cpu.cache
nbfagg.cpu.cache.source_stamp()
edited = pathlib.Path({str(edited)!r})
edited.write_text(edited.read_text() + "# upgraded")
"""
    settings = {"PYTHONPATH": str(folder / "copy")}
    assert compilations(folder, before, **settings) == 1
    assert files(folder) == []
    assert compilations(folder, **settings) == 1


def test_another_processor(folder):
    """A kernel made for one is not run on another one that shares the folder."""
    assert compilations(folder) == 1
    settings = {"NUMBA_CPU_NAME": "nehalem", "NUMBA_CPU_FEATURES": ""}
    assert compilations(folder, **settings) == 1
    assert compilations(folder, **settings) == 0
    assert compilations(folder) == 0


RACE = """
import sys, time
sys.path.insert(0, sys.argv[1])
import kernel
print("ready", flush=True)
sys.stdin.readline()
# Two types of arguments, in another order in every second process.
values = [21.0, 21]
for value in values[:: 1 if int(sys.argv[2]) % 2 else -1]:
    result = kernel.twice(value)
    assert result == 42 and type(result) is type(value), (value, result)
"""


def test_processes_that_race_for_it(folder):
    for _ in range(2):
        environment = helpers.environment(NUMBA_CACHE_DIR=str(folder / "cache"), NBFAGG_CACHE=None)
        command = [sys.executable, "-P", "-W", "error", "-c", RACE, str(folder)]
        processes = [
            subprocess.Popen(
                [*command, str(i)], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            for i in range(8)
        ]
        for process in processes:
            assert process.stdout.readline() == b"ready\n"
        for process in processes:
            process.stdin.write(b"\n")
            process.stdin.flush()
        for process in processes:
            process.communicate(timeout=120)
            assert process.returncode == 0
    assert len(files(folder)) == 2
    after = "assert type(kernel.twice(21)) is int"
    assert compilations(folder, after=after) == 0


def test_the_kernels_themselves():
    # With the cache of this run, which the first process fills if it is empty.
    code = """
import sys
import numpy as np
import nbfagg
from numba.core import event
with event.install_recorder("numba:compile") as recorder:
    for dtype in (np.float16, np.float32, np.float64):
        a = np.arange(48, dtype=dtype).reshape(2, 6, 4)
        nbfagg.fagg(a)
        nbfagg.fagg(a, keep_axis=2, where=a > 3)
        alpha, lse = nbfagg.fagg(a, workers=1, return_lse=True)
        nbfagg.fagg_vjp(alpha, a, alpha, lse)
        alpha, lse = nbfagg.fagg_packed(a[0], [0, 2, 6], log=True, return_lse=True)
        nbfagg.fagg_packed_vjp(alpha, a[0], [0, 2, 6], alpha, lse, log=True)
        state = nbfagg.State.of(a)
        state.merge(state).finalize(), state.lse
    big = nbfagg.fagg(np.ones((64, 64, 32, 32), np.float32))
    assert (abs(big - 1 / 64) < 1e-8).all()
# What is only there to compile is not even imported: half of a process's start.
unwanted = {"numba.np.arraymath", "numba.np.arrayobj", "numba.cpython.unicode", "scipy.linalg"}
print(len(recorder.buffer), *unwanted & set(sys.modules))
"""
    run_python(code, NBFAGG_CACHE=None)
    assert run_python(code, NBFAGG_CACHE=None) == "0\n"
    # Then something is compiled after all.
    more = "\nimport numba\nprint(numba.njit(lambda x: np.sort(x * x).sum())(np.eye(3)))"
    assert run_python(code + more, NBFAGG_CACHE=None).startswith("0\n3.0\n")
