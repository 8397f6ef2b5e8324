"""nbfagg bench: what it prints and writes, and what it refuses before it measures."""

import dataclasses
import json
import os
import platform
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nbfagg import cli
from nbfagg.bench import cases, command, compare, limits, memory, report, turns


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Shapes that cost nothing, turns of a call each; this process is left without PyTorch's threads."""
    for name in cases.COMPARED:
        case = cases.CASES[name]
        shape = tuple(min(n, 4) for n in case.shape)
        monkeypatch.setitem(cases.CASES, name, dataclasses.replace(case, shape=shape))
    monkeypatch.setattr(limits, "_torch", lambda: None)
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(turns, "BLOCK", 0.0)
    monkeypatch.setattr(compare, "SETTLE_PEERS", 0.0)


def bench(*arguments):
    return cli.main(["bench", "--peer", "NumPy", "--rounds", "3", *arguments])


def test_tables_and_a_record(tmp_path, capsys):
    path = tmp_path / "record.json"
    assert bench("--json", str(path)) == 0
    out, err = capsys.readouterr()
    found = json.loads(path.read_text(encoding="utf-8"))
    assert [row["name"] for row in found["shapes"]] == list(cases.COMPARED)
    for row in found["shapes"]:
        assert row["peer_seconds"].keys() == {"NumPy"}
        assert row["spread"].keys() == {"limit", "fagg", "NumPy"}
        assert row["share"] > 0
        # The record keeps four digits, so a time may be printed one apart in the last of three.
        title = report.title(row).partition(":")[0]
        assert title in out
        # Fastest first, each with all the columns.
        lines = out[out.index(title) :].splitlines()[2:5]
        assert [line.split()[0] for line in lines] == list(report.seconds(row))
    assert {"cpu", "cores", "date", "versions"} <= found["machine"].keys()
    assert "the limit is" in out
    assert [f"nbfagg: {name} ..." for name in cases.COMPARED] == err.splitlines()
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_a_picture(tmp_path, suffix):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"bars{suffix}"
    assert bench("--shape", "pose", "--plot", str(path)) == 0
    head = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(head)


def test_who_is_missing_is_said(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    assert bench("--shape", "pose", "--shape", "heads", "--peer", "SciPy softmax") == 0
    out = capsys.readouterr().out
    assert out.count("without SciPy softmax: ") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--shape", "nothing"], 2, "no shape 'nothing'; want one of 'small call'"),
        (["--peer", "nobody"], 2, "no peer 'nobody'; want one of 'NumPy'"),
        (["--rounds", "0"], 2, "'0' is not a whole number from 1"),
        (["--dtype", "float16"], 2, "invalid choice: 'float16'"),
        (["--json", "/no/such/folder/x.json"], 1, "there is no folder /no/such/folder"),
        (["--plot", "picture.txt"], 1, "want a name that ends in .png, .svg or .pdf"),
    ],
)
def test_what_is_refused(arguments, status, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "Comparison", None)  # nothing is measured before
    assert bench(*arguments) == status
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_file_is_refused(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "Comparison", None)
    fifo, link = tmp_path / "fifo", tmp_path / "link.png"
    os.mkfifo(fifo)
    link.symlink_to(tmp_path / "both.png")
    for given in (["--json", "/dev/stdout"], ["--json", str(fifo)], ["--json", str(tmp_path)]):
        assert bench(*given) == 1
        assert f"{given[1]} is no file" in capsys.readouterr().err
    assert bench("--json", str(tmp_path / "both.png"), "--plot", str(link)) == 1
    assert "both the picture and the record" in capsys.readouterr().err
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_link_leads_to_the_file_that_is_written(tmp_path):
    link, path = tmp_path / "link.json", tmp_path / "record.json"
    path.write_text("old")
    link.symlink_to(path)
    command._write(link, lambda part: part.write_text("new"))
    assert link.is_symlink()
    assert path.read_text() == "new"


def test_no_picture_without_matplotlib(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    assert bench("--plot", str(tmp_path / "x.png")) == 1
    assert "pip install 'nbfagg[plot]'" in capsys.readouterr().err


def test_a_failure_leaves_no_half_of_a_file(tmp_path):
    path = tmp_path / "record.json"
    path.write_text("old")

    def write(part):
        part.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        command._write(path, write)
    assert path.read_text() == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["record.json"]


def test_the_names_are_listed(capsys):
    assert cli.main(["bench", "--list"]) == 0
    out = capsys.readouterr().out
    assert "* heads" in out
    assert "torch.softmax + sum" in out


def test_a_bar_is_shown_at_a_terminal(monkeypatch):
    pytest.importorskip("rich")
    steps = []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    from rich.progress import Progress

    monkeypatch.setattr(Progress, "update", lambda self, task, **given: steps.append(given))
    compared = compare.Comparison("pose", peers=["NumPy"])
    with command._progress("pose", compared.steps(2)) as note:
        compared.measure(2, settle=0.0, note=note)
    assert len(steps) == compared.steps(2)
    assert all(given == {"advance": 1, "refresh": True} for given in steps)


def test_turns_alternate():
    order = []
    sides = {name: lambda name=name: order.append(name) for name in "ab"}
    turns.alternate(sides, rounds=2, settle=0, block=0)
    # Twice each to begin with; a turn is a call that nobody times and one that is timed; round two goes back.
    assert "".join(order) == "aabb" + "aabb" + "bbaa"


def test_ratios_and_spread():
    assert turns.ratio([2, 6, 4], [1, 2, 4]) == 2
    assert turns.spread([1.0, 2.0, 3.0]) == 0.25
    assert turns.spread([1.0]) == 0
    assert turns.fastest({"a": [3.0, 1.0, 3.0], "b": [2.0, 2.0, 2.0]}, "ab") == "b"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux only")
def test_extra_memory_is_seen():
    def call():
        part = bytearray(1 << 26)
        part[::4096] = b"x" * (1 << 14)

    assert memory.extra_bytes(call) == pytest.approx(1 << 26, rel=0.1)
    assert memory.extra_bytes(lambda: None) < 1 << 20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc only")
def test_freed_memory_is_kept():
    code = """if True:
        import resource
        from nbfagg.bench.memory import keep_freed_memory

        def faults():
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            [b"x" * (20 << 20) for _ in range(3)]
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

        faults(), faults()
        first = faults()
        keep_freed_memory()
        faults()
        print(first, faults())
    """
    given, kept = map(int, subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert kept < 10 < given
