"""The command line: what is shown, what it exits with, and that each check of it can fail."""

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from functools import partial

import helpers
import numba
import numpy as np
import pytest
from helpers import run_python

import nbfagg
from nbfagg import check, cli, demo, info, reference

COLOURED = re.compile(r"\x1b\[38;5;\d+;48;(5;\d+|2;\d+;\d+;\d+)m")
# [CLS], "fox", "vaccine" and "subtracting" (three tokens), in float64 from the shipped logits.
KNOWN = {"[CLS]": "0.7051", "fox": "0.0705", "vaccine": "0.0542", "subtracting": "0.0408"}


# A terminal of a known kind.
environment = partial(
    helpers.environment, NO_COLOR=None, COLORTERM=None, COLUMNS=None, TERM="xterm-256color", NBFAGG_CACHE=None
)


def start(*arguments, **options):
    command = [sys.executable, "-m", "nbfagg", *arguments]
    options = {"env": environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, text=True, **options)


def call(*arguments, **options):
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def on_terminal(*arguments, **settings):
    """Return the exit code and what a terminal of 80 columns is sent."""
    ours, theirs = pty.openpty()
    process = start(*arguments, env=environment(COLUMNS="80", **settings), stdin=theirs, stdout=theirs)
    os.close(theirs)
    sent = b""
    try:
        while select.select([ours], [], [], 120)[0]:
            try:
                piece = os.read(ours, 1 << 16)
            except OSError:  # how Linux says that the other side is closed
                break
            if not piece:
                break
            sent += piece
    finally:
        os.close(ours)
    process.stderr.close()
    return process.wait(120), sent.decode()


def rounded(a, **keywords):
    """Return what `nbfagg.fagg` would if it were exact."""
    results = reference.oracle(a, **keywords)
    return (
        tuple(x.astype(a.dtype) for x in results) if isinstance(results, tuple) else results.astype(a.dtype)
    )


def off_by(ulp):
    """Return an exact `nbfagg.fagg` but for the first weight of each result."""

    def fagg(a, **keywords):
        results = rounded(a, **keywords)
        first = results[0] if isinstance(results, tuple) else results
        if first.size and first.flat[0] != 0:
            first.flat[0] += ulp * np.spacing(first.flat[0])
        return results

    return fagg


# demo


def test_demo_shows_known_weights(capsys):
    assert cli.main(["demo"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 80
    rows = dict(re.findall(r"^  (\S+) +(0\.\d{4})  #+>?$", out, re.M)[::-1])
    assert {word: rows[word] for word in KNOWN} == KNOWN
    assert "[CLS] takes 0.71, 0.62, 0.58" in out
    assert "naive  47 of 47 tokens are NaN" in out
    assert "##tra" not in out


def test_demo_words_sum_to_one():
    data = demo.load()
    alpha = nbfagg.fagg(data.logits)
    for b, n in enumerate(data.lengths):
        words = demo.join(data.tokens[b, :n].tolist(), alpha[b, :n].tolist(), str(data.sentences[b]))
        assert sum(weight for _, weight in words) == pytest.approx(1, abs=1e-6)
        shown = "".join(text for text, _ in words[1:-1])
        assert shown == str(data.sentences[b]).replace(" ", "")


@pytest.mark.parametrize("number", [1, 2, 3])
def test_demo_of_one_sentence(capsys, number):
    assert cli.main(["demo", "--sentence", str(number)]) == 0
    out = capsys.readouterr().out
    assert [bool(re.search(rf"^{n}\. ", out, re.M)) for n in (1, 2, 3)] == [n == number for n in (1, 2, 3)]
    assert f"[CLS] takes {('0.71', '0.62', '0.58')[number - 1]}, as" in out


def test_demo_offers_every_sentence():
    assert len(demo.load().sentences) == 3


def test_bars_are_linear_and_cut():
    words = [demo.Word("a", 0.9), demo.Word("b", 0.2), demo.Word("c", 0.1), demo.Word("d", 0.0)]
    assert list(demo.bars(words, 0.2, 3, 25)) == [
        "  a    0.9000  #########>",
        "  b    0.2000  ##########",
        "  c    0.1000  #####",
        "  d    0.0000",
    ]


def test_heat_takes_no_more_than_the_width():
    words = [demo.Word("word" * n, 0.01 * n) for n in range(1, 9)]
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in demo.heat(words, 0.05, 256, 40)]
    assert max(map(len, lines)) <= 40
    assert re.findall(r"[\d.]+", " ".join(lines[1::2])) == [f"{weight:.3f}" for _, weight in words]


@pytest.mark.parametrize(("settings", "code"), [({}, "48;5;"), ({"COLORTERM": "truecolor"}, "48;2;")])
def test_demo_is_coloured_on_a_terminal(settings, code):
    status, sent = on_terminal("demo", **settings)
    assert status == 0
    assert code in sent
    assert len(set(COLOURED.findall(sent))) >= 8
    plain = re.sub(r"\x1b\[[\d;]*m", "", sent)
    assert "\x1b" not in plain
    assert max(map(len, plain.splitlines())) <= 80
    assert "subtracting" in plain
    assert "0.705" in plain


@pytest.mark.parametrize(
    ("arguments", "settings"), [((), {"NO_COLOR": "1"}), ((), {"TERM": "dumb"}), (("--plain",), {})]
)
def test_demo_is_plain_where_asked(arguments, settings):
    status, sent = on_terminal("demo", "--sentence", "1", *arguments, **settings)
    assert status == 0
    assert "\x1b" not in sent
    assert "  fox          0.0705  ####" in sent


def test_demo_fails_if_the_moved_logits_give_other_weights(capsys, monkeypatch):
    right = nbfagg.fagg
    monkeypatch.setattr(nbfagg, "fagg", lambda a: right(a) * (1.001 if a.max() > 100 else 1), raising=False)
    assert cli.main(["demo"]) == 1
    assert "NOT the same" in capsys.readouterr().out


# check


def test_check_passes(capsys):
    assert cli.main(["check", "--seed", "7"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "WRONG" not in out
    assert max(map(len, out.splitlines())) <= 80
    (right, count) = re.search(
        r"^(\d+) of (\d+) results are within their bounds \(seed 7\)$", out, re.M
    ).groups()
    assert right == count
    assert int(count) >= 2 * len(check.CASES)
    for case in check.CASES:
        assert f"\n{case.name} " in out
    for what in ("alpha", "subnormal", "log", "lse"):
        assert re.search(rf" {what} +\d+\.\d\d / \d", out)


def test_check_fails_above_the_bound(capsys, monkeypatch):
    monkeypatch.setattr(nbfagg, "fagg", off_by(4), raising=False)
    assert cli.main(["check"]) == 1
    out = capsys.readouterr().out
    assert re.search(r"WRONG: float32 alpha \[0, 0\] is \S+, exactly \S+$", out, re.M)
    assert re.search(r"WRONG: float64 alpha \[0, 0\] is ", out)


def test_check_passes_within_the_bound(capsys, monkeypatch):
    monkeypatch.setattr(nbfagg, "fagg", off_by(1), raising=False)
    assert cli.main(["check"]) == 0


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (lambda a, **_: np.zeros(a.shape[:2], a.dtype), "is 0.0, exactly"),
        (lambda a, **_: np.full(a.shape[:2], np.nan, a.dtype), "is nan, exactly"),
        (lambda a, **_: np.zeros(3, a.dtype), "(3,) came instead of"),
        (lambda a, **_: np.zeros(a.shape[:2], "f2"), "float16 (8, 512) came instead of float32 (8, 512)"),
        (lambda a, **_: None, "NoneType came instead of"),
        (lambda a, **_: 1 // 0, "ZeroDivisionError: "),
    ],
)
def test_check_says_what_is_wrong(capsys, monkeypatch, result, said):
    monkeypatch.setattr(nbfagg, "fagg", result, raising=False)
    monkeypatch.setattr(check, "CASES", check.CASES[:1])
    assert cli.main(["check"]) == 1
    out = capsys.readouterr().out
    assert said in out
    assert "0 of 2 results are within" in out


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("lse", lambda alpha, lse: (alpha, np.where(np.isneginf(lse), 0, lse))),
        ("lse", lambda alpha, lse: (alpha, lse * lse.dtype.type(1 + 1e-4))),
        ("alpha", lambda alpha, lse: (np.where(alpha == 0, np.nextafter(alpha, 1), alpha), lse)),
        ("alpha", lambda alpha, lse: (np.where(np.isnan(alpha), 0, alpha).astype(alpha.dtype), lse)),
    ],
)
def test_check_sees_wrong_special_values(capsys, monkeypatch, what, change):
    monkeypatch.setattr(nbfagg, "fagg", lambda a, **keywords: change(*rounded(a, **keywords)), raising=False)
    cases = [case for case in check.CASES if case.name in ("-inf: padding", "NaN and +inf")]
    assert len(cases) == 2
    monkeypatch.setattr(check, "CASES", cases)
    assert cli.main(["check"]) == 1
    assert re.findall(r"WRONG: float\d\d (\w+)", capsys.readouterr().out)[0] == what


def test_check_sees_wrong_subnormals(capsys, monkeypatch):
    def flushed(a, **keywords):
        alpha = rounded(a, **keywords)
        return np.where(alpha < np.finfo(alpha.dtype).tiny, 0, alpha).astype(alpha.dtype)

    monkeypatch.setattr(nbfagg, "fagg", flushed, raising=False)
    monkeypatch.setattr(check, "CASES", [case for case in check.CASES if case.name == "subnormal tails"])
    assert cli.main(["check"]) == 1
    assert re.findall(r"WRONG: (\w+ \w+)", capsys.readouterr().out) == ["float32 subnormal"]


# info


def test_info_shows_versions_and_machine(capsys):
    assert cli.main(["info"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    rows = dict(re.split(r" {2,}| (?=/)", line, maxsplit=1) for line in out.splitlines())
    assert rows["numpy"] == np.__version__
    assert re.fullmatch(r"(tbb|omp|workqueue) (in use|would be used)( \(.*\))?", rows["threading layer"])
    assert re.fullmatch(r"(128|256|512) bits, with(out)? FMA", rows["SIMD"])
    assert {"nbfagg", "python", "numba", "torch", "dask", "threads", "CPU", "kernel cache", "GPU"} <= set(
        rows
    )


def test_config_imports_and_starts_nothing():
    code = """
import sys
from nbfagg import info
found = info.config()
print(found["threading_running"], {"torch", "cupy", "dask", "ml_dtypes"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False set()\n", "")


@pytest.mark.parametrize(
    ("settings", "bits", "fma"),
    [
        ({"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}, 128, False),
        ({"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+sse2,+avx2,+fma,-avx512f"}, 256, True),
    ],
)
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="ARM has one width, and always FMA")
def test_info_respects_numbas_settings(settings, bits, fma):
    status, out, err = call("info", env=environment(**settings))
    assert (status, err) == (0, "")
    assert re.search(rf"^CPU +{settings['NUMBA_CPU_NAME']}$", out, re.M)
    assert f"{bits} bits, {'with' if fma else 'without'} FMA" in out


def test_info_shows_the_cache_in_use(tmp_path):
    out = call("info", env=environment(NUMBA_CACHE_DIR=str(tmp_path / "new")))[1]
    assert re.search(rf"^kernel cache +{re.escape(str(tmp_path / 'new'))}$", out, re.M)


def test_info_shows_that_there_is_no_cache(tmp_path):
    out = call("info", env=environment(NUMBA_CACHE_DIR=str(tmp_path), NBFAGG_CACHE="0"))[1]
    assert re.search(r"^kernel cache +off \(NBFAGG_CACHE=0\)$", out, re.M)
    assert str(tmp_path) not in out


def test_info_shows_the_threading_layer_asked_for():
    out = call("info", env=environment(NUMBA_THREADING_LAYER="workqueue"))[1]
    assert re.search(r"^threading layer +workqueue would be used \(asked for: workqueue(;|\))", out, re.M)


def test_config_of_an_unwritable_cache(monkeypatch):
    monkeypatch.delenv("NBFAGG_CACHE", raising=False)
    monkeypatch.setattr(numba.config, "CACHE_DIR", "")
    monkeypatch.setattr(os, "access", lambda *_: False)
    found = info.config()
    assert not found["cache_writable"]
    assert found["cache_dir"].endswith("__pycache__")


class Driver:
    """A CUDA driver with two GPUs, the second of which does not tell its name."""

    def cuInit(self, flags):
        return 0

    def cuDeviceGetCount(self, count):
        count._obj.value = 2
        return 0

    def cuDeviceGet(self, device, index):
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name, size, device):
        name.value = b"GPU of a test"
        return device.value


def missing(name):
    raise OSError(f"{name}: cannot open shared object file")


class Asleep(Driver):
    def cuInit(self, flags):
        return 999


@pytest.mark.parametrize(
    ("load", "names"),
    [
        (lambda name: Driver(), ["GPU of a test", "unnamed"]),
        (lambda name: Asleep(), []),
        (lambda name: object(), []),
        (missing, []),
    ],
)
def test_gpus_are_those_of_the_driver(monkeypatch, load, names):
    monkeypatch.setattr("ctypes.CDLL", load)
    assert info._gpus() == names


# the command line itself


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["demo", "--nonsense"],
        ["demo", "--sentence", "4"],
        ["demo", "--sentence", "one\ntwo"],
        ["demo", "extra\nlines"],
        ["check", "--seed", "-1"],
        ["check", "--seed", "1.5"],
        ["check", "--seed"],
        ["--vers"],
        ["check", "--se", "1"],
    ],
)
def test_errors_are_one_line_and_exit_2(capsys, arguments):
    assert cli.main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"nbfagg( \w+)?: error: .+ \(see nbfagg( \w+)? --help\)\n", err)


def test_no_command_gets_the_help(capsys):
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: nbfagg ")
    for name in ("demo", "info", "check", "--version"):
        assert name in err


def test_error_in_a_process():
    status, out, err = call("demo", "--sentence", "0")
    assert (status, out) == (2, "")
    assert err.startswith("nbfagg demo: error: argument --sentence: ")
    assert err.count("\n") == 1


def test_help_names_the_commands(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    for name in ("demo", "info", "check", "--version"):
        assert name in out


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert re.fullmatch(r"nbfagg (\d+\.\S+|\(not installed\))\n", capsys.readouterr().out)


def test_version_does_not_import_numba():
    code = "import sys; from nbfagg import cli; cli.main(['--version']); print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stdout.splitlines()[1:] == ["False"]


@pytest.mark.parametrize("arguments", [("demo",), ("--help",), ("info",)])
def test_a_broken_pipe_is_quiet(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        status, _, err = call(*arguments, stdout=writer)
    finally:
        os.close(writer)
    # argparse itself drops the help that an unbuffered stdout refuses.
    assert status == 141 or arguments == ("--help",)
    assert err == ""


def test_half_a_pipe_is_quiet():
    process = start("check")
    assert process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(120) == 141


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is full")
def test_a_full_disk_is_one_line():
    with open("/dev/full", "w") as full:
        status, _, err = call("demo", stdout=full)
    assert status == 1
    assert re.fullmatch(r"nbfagg: error: .*No space left on device\n", err)


def test_closed_stdout_is_survived():
    command = f"exec {sys.executable} -m nbfagg demo >&-"
    done = subprocess.run(["sh", "-c", command], env=environment(), stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_interrupt_in_process(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(nbfagg, "fagg", interrupted, raising=False)
    assert cli.main(["demo"]) == 130
    assert cli.main(["check"]) == 130
    assert capsys.readouterr().err == ""


def test_interrupt_of_a_process():
    process = start("check")
    for _ in range(4):
        process.stdout.readline()
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (130, "")


ANNOUNCED = """
import sys
import numba
from nbfagg import cli

class Terminal:
    text = ""
    def isatty(self): return sys.argv[1] == "terminal"
    def write(self, text): self.text += text
    def flush(self): pass

real, sys.stderr = sys.stderr, Terminal()
cli._announce_compilation("a week")
found = [sys.stderr.text]
for kernel in (numba.njit(lambda x: x + 1), numba.njit(lambda x: x + 2)):
    kernel(1)
    found.append(sys.stderr.text)
sys.stderr = real
print(*(text.count("compiling") for text in found), "a week" in found[-1])
"""


def test_a_terminal_is_told_once_that_kernels_are_compiled():
    assert run_python(ANNOUNCED, "terminal") == "0 1 1 True\n"
    assert run_python(ANNOUNCED, "file") == "0 0 0 False\n"
