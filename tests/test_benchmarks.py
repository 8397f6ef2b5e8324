"""The benchmarks run, each once at a tiny shape; the README's tables are what the records say."""

import dataclasses
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nbfagg.bench import cases, limits, peers, turns

ROOT = Path(__file__).resolve().parents[1]

# To build its C++ takes it half a minute.
SLOW_PEERS = ("torch.compile",)

PEERS_AT_WORK = """
import json, sys
import numpy as np
from nbfagg.bench import cases, limits, peers

a = np.array(json.loads(sys.stdin.read()), np.float32)
names = [name for name in peers.PEERS if name not in sys.argv[1:]]
calls = peers.available(a, names, note=lambda line: None)
case = cases.Case(a.shape)
for call in limits.parts(a, case).values():
    call()
print(json.dumps({name: np.asarray(call()).tolist() for name, call in calls.items()}))
"""


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    """The suite importable, its shapes tiny and its turns short; all as it was afterwards."""
    with pytest.MonkeyPatch.context() as patch:
        # At the end: the nbfagg to be tested is the one that is installed.
        patch.setattr(sys, "path", [*sys.path, str(ROOT)])
        patch.setenv("NBFAGG_BENCH_QUICK", "1")
        for name, case in cases.CASES.items():
            tiny = dataclasses.replace(case, shape=tuple(min(n, 4) for n in case.shape))
            patch.setitem(cases.CASES, name, tiny)
        # Its threads would stay in the process of all the other tests.
        patch.setattr(limits, "_torch", lambda: None)
        for name, value in {"ROUNDS": 2, "SETTLE": 0.0, "BLOCK": 0.0}.items():
            patch.setattr(turns, name, value)
        yield


def module(name):
    return importlib.import_module(f"asv_bench.{name}")


def test_the_peers_compute_the_same():
    """In a process of their own: their threads would stay, and some of them warn of every later fork."""
    from nbfagg.reference import oracle

    a = np.random.default_rng(0).standard_normal((3, 5, 2, 7), dtype=np.float32)
    done = subprocess.run(
        [sys.executable, "-c", PEERS_AT_WORK, *SLOW_PEERS],
        input=json.dumps(a.tolist()),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.keys() >= {"NumPy", "NumPy, ufuncs only"}
    exact = oracle(a).astype(float)
    for name, result in found.items():
        # Two logarithms of size 4 are subtracted and the exponential is taken: some 4 * 2**-23 at the worst.
        np.testing.assert_allclose(result, exact, rtol=2e-6, err_msg=name)


def test_a_missing_peer_is_named():
    a = np.zeros((1, 1, 1, 1), np.float32)
    notes = []

    def missing(a):
        import no_such_peer  # noqa: F401

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(peers.PEERS, "nobody", missing)
        assert list(peers.available(a, ["nobody", "NumPy"], note=notes.append)) == ["NumPy"]
    assert notes == ["without nobody: no_such_peer is not installed"]


def test_a_view_is_read_in_memorys_order():
    for case in cases.views((2, 3, 4, 5), shortest=4):
        a = cases.logits(case)
        assert a.shape == case.shape
        assert a.strides[case.order[-1]] == a.itemsize
        assert np.shares_memory(limits.memory_of(a), a)
    with pytest.raises(ValueError, match="gaps"):
        limits.memory_of(a[:, ::2])


def test_the_eighteen_views():
    assert len(cases.views((32, 512, 12, 64), shortest=16)) == 18


def test_the_limit_scales_only_what_outgrows_the_caches():
    with pytest.MonkeyPatch.context() as patch:
        for bound, expected in ((2**20, {"read", "fill", "new"}), (0, {"read", "fill", "new", "scale"})):
            patch.setattr(limits, "CACHE_BYTES_A_CORE", bound)
            case = cases.Case((2, 6, 5, 1))
            calls = limits.parts(cases.logits(case), case)
            assert {part for part, _ in calls} == expected
            for call in calls.values():
                call()


def test_the_plain_read_reads_everything():
    for n in (1, 2, 7, 1000):
        for place in {0, n // 2, n - 1}:
            x = np.zeros(n, np.float32)
            x[place] = 3
            bits = limits._read(x.view(np.int32), min(n, 3))
            assert np.int32(bits).view(np.float32) == 3


def test_errors_fall_into_their_bins():
    accuracy = module("figures.accuracy")
    one = np.float32(1)
    results = np.array([one, np.nextafter(one, one + one), np.nan, 3e-45], np.float32)
    found = accuracy.errors(results, np.array([1, 1, 1, 0], np.longdouble))
    counts = dict(zip(accuracy.BINS, found["normal"]["counts"], strict=True))
    assert {name: count for name, count in counts.items() if count} == {
        "to 0.5": 1,
        "to 1": 1,
        "not finite": 1,
    }
    assert found["normal"]["worst"] == 1
    assert found["subnormal"]["worst"] == 2


@pytest.fixture
def tiny_figures(monkeypatch, tmp_path):
    """Records go to a folder of their own, from arrays that cost nothing."""
    monkeypatch.setattr(module("figures.record"), "FOLDER", tmp_path)
    for name, shape in (("memory", (2, 3, 4, 16)), ("speed", (2, 3, 4, 16))):
        monkeypatch.setattr(module(f"figures.{name}"), {"memory": "SHAPE", "speed": "VIEW"}[name], shape)
    monkeypatch.setattr(module("figures.startup"), "_sample", lambda statement, **environment: (0.1, False))
    monkeypatch.setattr(module("figures.accuracy"), "SHAPES", ((2, 3, 2, 2),))
    gradient, speed = module("figures.gradient"), module("figures.speed")
    monkeypatch.setattr(gradient, "ERROR_SHAPES", ((2, 3, 2, 2),))
    monkeypatch.setattr(gradient, "GOALS", {name: gradient.GOALS[name] for name in ("small call", "heads")})
    monkeypatch.setattr(speed, "GOALS", {"heads": speed.GOALS["heads"]})
    views = speed.views
    monkeypatch.setattr(speed, "views", lambda *order: [*views(*order)][:2])
    repeat = module("figures.repeat")
    monkeypatch.setattr(repeat, "TRACKED", repeat.TRACKED[:1])
    for name, size in (("PATTERNS", 1 << 13), ("CHUNK", 1 << 12)):
        monkeypatch.setattr(module("figures.exponential"), name, size)
    quick = {name: make for name, make in peers.PEERS.items() if name.startswith(("NumPy", "SciPy"))}
    for user in (module("figures.peers"), peers):
        monkeypatch.setattr(user, "PEERS", quick)
    monkeypatch.setattr(module("figures.accuracy"), "IMPLEMENTATIONS", ("fagg", "SciPy softmax"))
    monkeypatch.setattr(module("figures.memory"), "PEERS", ())
    lazy = module("figures.dask")
    monkeypatch.setattr(lazy, "SHAPE", (2, 8, 4, 16))
    monkeypatch.setattr(lazy, "CHUNKS", {"kept": (2, 4, 4, 16)})
    monkeypatch.setattr(lazy, "GRAPH", ((2, 4, 4), (1, 2, 2)))
    run = module("figures.run")
    monkeypatch.setattr(run, "ROW", (8, 4, 16))
    monkeypatch.setattr(run, "ROW_BYTES", 2048)
    monkeypatch.setattr(run, "AXES", {name: run.AXES[name] for name in (run.LARGE, "one row")})
    monkeypatch.setattr(run, "memory_bytes", lambda: 2**16)
    hazards = module("figures.hazards")
    quick = [h._replace(libraries=("SciPy", "nbfagg")) for h in hazards.HAZARDS if h.case == "nothing"]
    monkeypatch.setattr(hazards, "HAZARDS", quick)
    row = '[{"name": "x", "file": "plan.py", "test": "test_x.py::test_x", "caught": true, "seconds": 1}]'
    command = [sys.executable, "-c", f"import sys; open(sys.argv[2], 'w').write({row!r})"]
    monkeypatch.setattr(module("figures.mutations"), "COMMAND", command)
    monkeypatch.setenv("NBFAGG_BENCH_QUICK", "1")
    monkeypatch.setattr(module("figures.neighbour"), "LAYERS", ("workqueue",))
    monkeypatch.setattr(module("figures.neighbour"), "SHAPES", ("tiny rows",))
    processors = module("figures.processors")
    monkeypatch.setattr(processors, "SHAPES", {"small": (2, 3, 1, 4)})
    monkeypatch.setattr(processors, "PROCESSORS", {processors.OWN: {}, processors.SCIPY: {}})
    soak = module("figures.soak").soak
    whole = soak.soak
    monkeypatch.setattr(soak, "soak", lambda minutes: whole(minutes / 20))
    training = module("figures.torch_training")
    monkeypatch.setattr(training, "_peak", lambda case: 0)
    if importlib.util.find_spec("torch"):
        # What is compiled takes half a minute.
        seed = lambda x: x.flatten(1).softmax(1).view(x.shape).sum((2, 3))  # noqa: E731
        monkeypatch.setattr(training, "_forms", lambda: {"seed": seed})
    else:
        monkeypatch.delitem(module("figures.__main__").FIGURES, "torch_training")
        monkeypatch.delitem(module("figures.readme").TABLES, "torch")
    return tmp_path


def test_a_figure_becomes_a_table(tiny_figures, capsys):
    """Measured, recorded, written into the markers, and found to be the same; then the file is changed."""
    main, readme = module("figures.__main__"), module("figures.readme")
    path = tiny_figures / "README.md"
    marked = "".join(
        f"## {name}\n<!-- figures:{name} -->\nas it was\n<!-- /figures -->\n" for name in readme.TABLES
    )
    path.write_text(f"before\n{marked}after\n", encoding="utf-8")
    for name in main.FIGURES:
        assert main.main([name, "--rounds", "1"]) == 0
        json.loads((tiny_figures / f"{name}.json").read_text(encoding="utf-8"))
    assert readme.main(check=True, path=path) == 1
    assert readme.main(check=False, path=path) == 0
    assert readme.main(check=True, path=path) == 0
    text = path.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "as it was" not in text
    assert text.count("*") >= 2 * len(readme.TABLES)
    path.write_text(text.replace("| ---", "|---", 1), encoding="utf-8")
    assert readme.main(check=True, path=path) == 1
    assert "differs" in capsys.readouterr().err


def test_a_start_is_timed_in_its_own_process():
    took, numba_imported = module("figures.startup")._sample("import json")
    assert took > 0
    assert not numba_imported


def test_a_start_beside_its_import():
    startup = module("figures.startup")
    seconds = {"import numpy": 0.12, "import nbfagg": 0.008, "import numba": 0.34, startup.COLD: 29.6}
    found = {**json.loads((module("figures.record").FOLDER / "startup.json").read_text(encoding="utf-8"))}
    text = startup.render({**found, "seconds": {**seconds, "first call, small": 0.83}})
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert [row[-1].strip("| ") for row in rows[2:]] == [
        "120 ms",
        "8.00 ms",
        "340 ms",
        "+29.3 s to `import numba`",
        "+490 ms to `import numba`",
    ]


def test_a_record_has_a_line_for_each_row(monkeypatch, tmp_path):
    record = module("figures.record")
    monkeypatch.setattr(record, "FOLDER", tmp_path)
    rows = [{"shape": (2, 3), "who": {"µ": 1 / 3}}, {"shape": [], "who": {}}]
    record.write("some", {"edges": [0.5, 1], "rows": rows, "seconds": {"a": 1, "b": {"c": 2}}, "none": []})
    lines = (tmp_path / "some.json").read_text(encoding="utf-8").splitlines()
    assert '  {"shape": [2, 3], "who": {"µ": 0.3333}},' in lines
    assert '  {"shape": [], "who": {}}' in lines
    assert ' "edges": [0.5, 1],' in lines
    found = record.read("some")
    assert found["rows"][0] == {"shape": [2, 3], "who": {"µ": 0.3333}}
    assert (found["figure"], found["seconds"], found["none"]) == ("some", {"a": 1, "b": {"c": 2}}, [])


def test_the_records_are_written_so():
    record = module("figures.record")
    for name in module("figures.__main__").FIGURES:
        path = record.FOLDER / f"{name}.json"
        assert record.text(record.read(name)) == path.read_text(encoding="utf-8")


def test_a_marker_nobody_knows(tmp_path, capsys):
    path = tmp_path / "README.md"
    path.write_text("<!-- figures:magic -->\n<!-- /figures -->\n", encoding="utf-8")
    assert module("figures.readme").main(check=True, path=path) == 1
    assert "magic" in capsys.readouterr().err


def test_the_readme_has_the_recorded_figures():
    readme = module("figures.readme")
    text = "".join(path.read_text(encoding="utf-8") for path in readme.READMES)
    assert sorted(marked["name"] for marked in readme.MARKED.finditer(text)) == sorted(readme.TABLES)
    assert readme.main(check=True) == 0
