"""`nbfagg run`: files tile by tile, ended and taken up again; what is refused before anything is written."""

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import environment

import nbfagg
from nbfagg import cli, reference
from nbfagg.run import checkpoint, finish, progress, sources, stream, targets, tiles
from nbfagg.run.refusal import Refused

MIB = 2**20
SHAPE = (7, 24, 5, 6)


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def logits(shape=SHAPE, dtype=np.float64, seed=0):
    return np.random.default_rng([seed, *shape]).normal(0, 3, shape).astype(dtype)


def run(*arguments):
    return cli.main(["run", *map(str, arguments)])


def saved(a, name="in.npy"):
    np.save(name, a)
    return name


def left():
    """Give what lies here beside what the test wrote."""
    return sorted(path.name for path in Path.cwd().iterdir() if path.name.startswith("."))


@pytest.fixture
def in_pieces(monkeypatch):
    """Have files cut as if there were but so many bytes of memory."""

    def set_memory(nbytes):
        real = tiles.lay_out
        monkeypatch.setattr(
            "nbfagg.run.lay_out",
            lambda shape, item, batch, keep, memory, *rest: real(shape, item, batch, keep, nbytes, *rest),
        )

    return set_memory


def apart(one, other, log=False):
    with np.errstate(invalid="ignore"):
        steps = abs(one - other) / np.spacing(np.maximum(abs(other), 1.0 if log else 0.0))
    return np.where(one == other, 0, steps).max(initial=0)


# --- values ---------------------------------------------------------------------------

AXES = [(0, 1), (1, 0), ((0, 3), 2), ((), (1, 2)), (3, 0), ((1, 2), ()), (2, (3, 0)), ((), ())]


@pytest.mark.parametrize("batch", [0, 1, (0, 2), (1, 2), (), (0, 1, 2)])
@pytest.mark.parametrize("log", [False, True])
def test_a_region_is_finished_in_parts(batch, log):
    a = logits((40, 9, 3, 5))
    batch = (batch,) if isinstance(batch, int) else batch
    keep = tuple(axis for axis in (0, 1, 2) if axis not in batch)
    state = nbfagg.State.of(a, batch_axis=batch, keep_axis=keep)
    found = []
    for threads in (1, 3):
        with ThreadPoolExecutor(threads) as pool:
            found += [finish.weights(state, None, log, pool), finish.weights(state, state.total(), log, pool)]
    # Threads change no bit; where totals are those of parts, they are merged in another order.
    np.testing.assert_array_equal(found[:2], found[2:])
    assert apart(found[0], state.finalize(log), log) <= 1
    np.testing.assert_array_equal(found[1], state.finalize(log))


class Late(Future):
    """A tile that comes between the end of a wait for it and the look whether it has."""

    def __init__(self, error=None):
        super().__init__()
        self.error = error

    def result(self, timeout=None):
        if not self.done():
            self.set_exception(self.error) if self.error else self.set_result("a tile")
            raise TimeoutError
        return super().result(timeout)


def test_a_tile_that_comes_at_the_end_of_a_wait():
    assert stream._result(Late(), lambda: None) == "a tile"
    with pytest.raises(TimeoutError, match="the disk"):
        stream._result(Late(TimeoutError("the disk")), lambda: None)


@pytest.mark.parametrize("nbytes", [1000, 4000, 20_000, 10**9])
@pytest.mark.parametrize(("batch", "keep"), AXES)
def test_any_axes_in_any_memory(batch, keep, nbytes, in_pieces):
    in_pieces(nbytes)
    a = logits()
    names = [",".join(map(str, np.atleast_1d(axes))) or "none" for axes in (batch, keep)]
    for log in (False, True):
        flags = ["--log"] if log else []
        assert run(saved(a), "out.npy", "--batch-axis", names[0], "--keep-axis", names[1], *flags) == 0
        wanted = nbfagg.fagg(a, batch_axis=batch, keep_axis=keep, log=log)
        found = np.load("out.npy")
        assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
        assert apart(found, wanted, log) <= 1
    assert left() == []


@pytest.mark.parametrize("between", [0, 16, 4096])
def test_blocks_are_put_at_their_places(between, monkeypatch):
    """Whether runs are written one by one or with what lies between them."""
    monkeypatch.setattr(targets, "BETWEEN", between)
    monkeypatch.setattr(targets, "SPAN", 100)
    random = np.random.default_rng(between)
    for shape in ((), (7,), (5, 6), (4, 3, 9), (2, 3, 4, 5)):
        places = targets.Places(Path("out.npy"))
        target = targets.Npy(places, shape, np.dtype(np.int32), resume=False)
        wanted = np.zeros(shape, np.int32)
        for _ in range(20):
            index = tuple(slice(*sorted(random.choice(size + 1, 2, replace=False))) for size in shape)
            wanted[index] = random.integers(1, 100, wanted[index].shape)
            target.write(index, wanted[index])
        target.publish()
        target.close()
        places.release()
        np.testing.assert_array_equal(np.load("out.npy"), wanted)


def test_columns_of_a_result_are_not_written_number_by_number(monkeypatch):
    written = []
    monkeypatch.setattr(targets, "write_at", lambda file, data, at, path: written.append(len(data)))
    places = targets.Places(Path("out.npy"))
    target = targets.Npy(places, (100_000, 50), np.dtype(np.float32), resume=False)
    target.write((slice(0, 100_000), slice(3, 4)), np.ones((100_000, 1), np.float32))
    target.close()
    places.release()
    assert len(written) == -(-100_000 // (targets.SPAN // 200))


@pytest.mark.parametrize(("nbytes", "direct"), [(20_000, True), (8_000, False), (300, False)])
def test_states_of_a_single_region_are_written_where_they_belong(nbytes, direct, in_pieces, monkeypatch):
    in_pieces(nbytes)
    given = []
    take_in = stream.take_in
    monkeypatch.setattr(
        stream, "take_in", lambda a, cells, **options: given.append(cells) or take_in(a, cells, **options)
    )
    a = logits()
    back = ended_after(monkeypatch, 20, OSError("gone"))
    axes = ["--batch-axis", "1", "--keep-axis", "0"]
    assert run(saved(a), "out.npy", *axes) == 1
    back()
    assert run("in.npy", "out.npy", *axes, "--resume") == 0
    assert apart(np.load("out.npy"), nbfagg.fagg(a, batch_axis=1, keep_axis=0)) <= 1
    assert {cells is not None for cells in given} == {direct}


def test_each_kind_of_step_is_taken():
    """The layouts above: whole rows; regions of rows; parts of a row read twice, or kept in a file."""
    kinds = {}
    for nbytes in (300, 1000, 4000, 20_000, 10**9):
        layout = tiles.lay_out(SHAPE, 8, (0,), (1,), nbytes, 2, (1,) * 4)
        kinds[nbytes] = {step.kind for step in layout.steps()}
    assert kinds[10**9] == {"whole"}
    assert kinds[4000] == {"state", "finish"}
    assert kinds[300] == {"state", "total", "load", "finish", "next"}
    twice = tiles.lay_out((7, 24, 5), 8, (0,), (1,), 300, 2, (1,) * 3)
    assert {step.kind for step in twice.steps()} == {"state", "total", "finish", "next"}
    assert (twice.passes, layout.passes) == (2, 1)


@pytest.mark.parametrize("nbytes", [300, 2000, 10**9])
def test_masks_lengths_and_scale(nbytes, in_pieces):
    in_pieces(nbytes)
    a = logits()
    rng = np.random.default_rng(0)
    lengths = np.array([24, 0, 1, 23, 12, 5, 24])
    np.save("lengths.npy", lengths)
    for shape in (a.shape, (24, 1, 6), (7, 1, 1, 1)):
        where = rng.random(shape) < 0.7
        np.save("where.npy", where)
        options = ["--where", "where.npy", "--lengths", "lengths.npy", "--scale", "0.3"]
        assert run(saved(a), "out.npy", *options) == 0
        wanted = nbfagg.fagg(a, where=where, lengths=lengths, scale=0.3)
        assert apart(np.load("out.npy"), wanted) <= 1


@pytest.mark.parametrize("shape", [(24, 7, 5), (7, 30)])
def test_little_summed_is_read_twice(shape, in_pieces):
    in_pieces(300)
    a = logits(shape)
    assert run(saved(a), "out.npy") == 0
    assert apart(np.load("out.npy"), nbfagg.fagg(a)) <= 1


@pytest.mark.parametrize("dtype", ["f2", "f4", "<f8", ">f8", "i2", "?", "u8"])
def test_every_dtype(dtype, in_pieces):
    a = (abs(logits()) % 2).astype(dtype)
    for nbytes in (10**9, 1000):
        in_pieces(nbytes)
        assert run(saved(a), "out.npy") == 0
        wanted = nbfagg.fagg(a)
        found = np.load("out.npy")
        assert found.dtype == wanted.dtype
        if nbytes == 10**9:
            np.testing.assert_array_equal(found, wanted)
        else:
            eps = np.finfo(wanted.dtype).eps
            np.testing.assert_allclose(found.astype(float), wanted.astype(float), rtol=4 * eps)


def test_nan_and_nothing(in_pieces):
    a = logits()
    a[0], a[1, 3], a[2, 5, 1, 2], a[3, 5, 1, 2] = -np.inf, -np.inf, np.nan, np.inf
    for nbytes in (10**9, 2000, 300):
        in_pieces(nbytes)
        assert run(saved(a), "out.npy") == 0
        np.testing.assert_allclose(np.load("out.npy"), nbfagg.fagg(a), rtol=2.0**-52)
        assert run("in.npy", "out.npy", "--batch-axis", "none", "--keep-axis", "none") == 0
        assert np.isnan(np.load("out.npy"))


def test_float32_is_as_exact_in_pieces(in_pieces):
    a = logits((3, 60, 700), np.float32)
    in_pieces(4000)
    assert run(saved(a), "out.npy") == 0
    assert reference.ulp_error(np.load("out.npy"), reference.oracle(a)).max() <= 2


# --- formats ---------------------------------------------------------------------------


def test_zarr_in_and_out(in_pieces):
    zarr = pytest.importorskip("zarr")
    a = logits()
    array = zarr.create_array("in.zarr", shape=a.shape, dtype=a.dtype, chunks=(2, 5, 5, 6))
    array[:] = a
    group = zarr.create_group("group.zarr")
    group.create_array("logits", shape=a.shape, dtype=a.dtype, chunks=(3, 24, 2, 6))[:] = a
    for nbytes in (10**9, 3000):
        in_pieces(nbytes)
        assert run("in.zarr", "out.zarr") == 0
        assert apart(zarr.open_array("out.zarr", mode="r")[:], nbfagg.fagg(a)) <= 1
        # In the place of the one that is there.
        assert run("group.zarr", "out.zarr", "--key", "logits", "--keep-axis", 2, "--log") == 0
        wanted = nbfagg.fagg(a, keep_axis=2, log=True)
        assert apart(zarr.open_array("out.zarr", mode="r")[:], wanted, True) <= 1
    assert left() == []


def test_tiles_are_whole_chunks_of_zarr():
    layout = tiles.lay_out((64, 64, 64), 8, (0,), (1,), 16 * MIB, 2, (16, 8, 64))
    assert layout.tile == (32, 64, 64)
    layout = tiles.lay_out((64, 64, 6400), 8, (0,), (1,), 16 * MIB, 2, (1, 8, 64))
    assert layout.tile == (1, 24, 6400)


@pytest.mark.parametrize("name", ["F16", "BF16", "F32", "F64", "I32", "BOOL"])
def test_safetensors(name):
    numpy = pytest.importorskip("safetensors.numpy")
    a = abs(logits()) % 2
    if name == "BF16":
        brain = a.astype(pytest.importorskip("ml_dtypes").bfloat16)
        Path("in.safetensors").write_bytes(_safetensors({"x": ("BF16", brain.shape, brain.tobytes())}))
        assert run("in.safetensors", "out.npy") == 0
        assert np.load("out.npy").dtype == np.float32
        np.testing.assert_array_equal(np.load("out.npy"), nbfagg.fagg(brain).astype(np.float32))
        return
    kinds = {"F16": "f2", "F32": "f4", "F64": "f8", "I32": "i4", "BOOL": "?"}
    a = a.astype(kinds[name])
    numpy.save_file({"other": np.zeros(3), "logits": a}, "in.safetensors")
    assert run("in.safetensors", "out.npy", "--key", "logits") == 0
    np.testing.assert_array_equal(np.load("out.npy"), nbfagg.fagg(a))


def _safetensors(tensors):
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        ends = [len(data), len(data) + len(content)]
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": ends}
        data += content
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + data


# --- what is refused ----------------------------------------------------------------------


class Trap:
    """Leaves a mark if it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("unpickled"),)


def wrong_files():
    a = logits()
    np.save("good.npy", a)
    whole = Path("good.npy").read_bytes()
    Path("truncated.npy").write_bytes(whole[:-1])
    Path("header.npy").write_bytes(whole[:30])
    Path("nothing.npy").write_bytes(b"")
    Path("text.npy").write_text("1 2 3\n")
    np.savez("several.npz", a=a)
    np.save("complex.npy", a.astype(complex))
    np.save("string.npy", np.array([["a", "b"]]))
    np.save("structured.npy", np.zeros((3, 3), "f4,f4"))
    np.save("fortran.npy", np.asfortranarray(a))
    np.save("empty.npy", np.zeros((3, 0, 2)))
    np.save("scalar.npy", np.float64(3))
    np.save("pickled.npy", np.array([Trap(), 1], object), allow_pickle=True)
    Path("trap.npy").write_bytes(pickle.dumps(Trap()))
    Path("unpickled").unlink(missing_ok=True)
    return {
        "truncated.npy": ["truncated", str(len(whole) - 1)],
        "header.npy": ["is no .npy file"],
        "nothing.npy": ["is no .npy file"],
        "text.npy": ["is no .npy file"],
        "complex.npy": ["complex128"],
        "string.npy": ["<U1"],
        "structured.npy": ["f0"],
        "fortran.npy": ["Fortran order"],
        "empty.npy": ["(3, 0, 2)", "no logits"],
        "scalar.npy": ["scalar"],
        "pickled.npy": ["pickles are never loaded"],
        "trap.npy": ["is no .npy file"],
        "several.npz": ["is no .npy file: .npz, several arrays"],
        "missing.npy": ["does not exist"],
    }


def test_wrong_files_take_one_line_and_lose_nothing(capsys):
    for name, parts in wrong_files().items():
        Path("out.npy").write_bytes(b"precious")
        for place in ("IN", "where", "lengths"):
            if place != "IN" and name in ("empty.npy", "scalar.npy"):
                continue
            given = [name] if place == "IN" else ["good.npy"]
            options = [] if place == "IN" else [f"--{place}", name]
            assert run(*given, "out.npy", *options) == 2, name
            out, err = capsys.readouterr()
            assert out == ""
            assert err.count("\n") == 1, err
            assert err.startswith("nbfagg run: error: ")
            if place == "IN":
                assert all(part in err for part in parts), err
        assert Path("out.npy").read_bytes() == b"precious"
        assert not Path("unpickled").exists()
    assert left() == []


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--keep-axis", "4"], "keep_axis=4 is out of range"),
        (["--keep-axis", "0"], "share an axis"),
        (["--keep-axis", "x"], "'x' is no list of axes"),
        (["--scale", "0"], "scale=0.0; want a positive"),
        (["--scale", "x"], "invalid float"),
        (["--memory", "1M"], "--memory is 1048576 bytes; want"),
        (["--memory", "lots"], "'lots' is no size"),
        (["--memory", "-1G"], "expected one argument"),
        (["--memory", "0"], "'0' is no size"),
        (["--workers", "0"], "workers=0"),
        (["--key", "x"], "--key=x"),
        (["--where", "in.npy"], "where has dtype float64"),
        (["--lengths", "in.npy"], "lengths has dtype float64"),
        (["--lengths", "long.npy"], "lengths from 25 to 25; want 0 to 24"),
        (["--lengths", "long.npy", "--keep-axis", "1,2"], "one kept axis"),
    ],
)
def test_wrong_options(options, part, capsys):
    np.save("long.npy", np.full(7, 25))
    assert run(saved(logits()), "out.npy", *options) == 2
    err = capsys.readouterr().err
    assert part in err
    assert err.count("\n") == 1
    assert not Path("out.npy").exists()
    assert left() == []


def test_wrong_outs(capsys):
    name = saved(logits())
    Path("folder.npy").mkdir()
    Path("file.zarr").write_text("precious")
    Path("other.zarr").mkdir()
    for out, part in (
        ("out.txt", "ends in .npy or .zarr"),
        ("no/out.npy", "no folder no"),
        (name, "is the input"),
        ("folder.npy", "is there already"),
        ("file.zarr", "is there already"),
        ("other.zarr", "is there already"),
    ):
        assert run(name, out) == 2
        assert part in capsys.readouterr().err
    assert Path("file.zarr").read_text() == "precious"
    np.testing.assert_array_equal(np.load(name), logits())


def test_wrong_safetensors_and_zarr(capsys):
    numpy = pytest.importorskip("safetensors.numpy")
    zarr = pytest.importorskip("zarr")
    numpy.save_file({"x": logits(), "y": logits()}, "two.safetensors")
    whole = Path("two.safetensors").read_bytes()
    Path("cut.safetensors").write_bytes(whole[:-1])
    Path("odd.safetensors").write_bytes(_safetensors({"x": ("F8_E4M3", (2, 2), b"1234")}))
    zarr.create_group("group.zarr").create_array("x", shape=(2, 3), dtype="f8")
    Path("no.zarr").mkdir()
    for name, parts in (
        ("two.safetensors", ["no --key", "x, y"]),
        ("cut.safetensors", ["no whole .safetensors file"]),
        ("odd.safetensors", ["F8_E4M3"]),
        ("group.zarr", ["is a Zarr group", "(x)"]),
        ("no.zarr", ["cannot be opened as Zarr"]),
    ):
        assert run(name, "out.npy") == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert all(part in err for part in parts), err
    assert run("two.safetensors", "out.npy", "--key", "z") == 2
    assert "--key=z" in capsys.readouterr().err


def test_what_is_not_installed_is_named(monkeypatch, capsys):
    for library, name in (("safetensors", "in.safetensors"), ("zarr", "in.zarr")):
        Path("in.zarr").mkdir(exist_ok=True)
        Path("in.safetensors").touch()
        monkeypatch.setitem(sys.modules, library, None)
        assert run(name, "out.npy") == 2
        assert f"{library} is not installed; want pip install 'nbfagg[{library}]'" in capsys.readouterr().err


# --- ended, and taken up again ---------------------------------------------------------------


LAYOUTS = [(10**9, 4), (2000, 4), (300, 4), (300, 3)]


def ended_after(monkeypatch, steps, error):
    """Have a run end before the result of a step is taken up."""
    real, count = stream.Run._take, iter(range(10**9))

    def take(self, step, found):
        if next(count) == steps:
            raise error
        real(self, step, found)

    monkeypatch.setattr(stream.Run, "_take", take)
    return lambda: monkeypatch.setattr(stream.Run, "_take", real)


@pytest.mark.parametrize(("nbytes", "ndim"), LAYOUTS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
def test_resume_goes_on_from_the_finished_tiles(nbytes, ndim, share, in_pieces, monkeypatch, capsys):
    monkeypatch.setattr(tiles, "LARGEST_TILE", 1500)
    in_pieces(nbytes)
    a = logits(SHAPE[:ndim])
    layout = tiles.lay_out(a.shape, 8, (0,), (1,), nbytes, 2, (1,) * ndim)
    at = int(share * len(list(layout.steps())))
    assert run(saved(a), "whole.npy", "--workers", 2) == 0
    back = ended_after(monkeypatch, at, OSError(28, "No space left on device", "out.npy"))
    assert run("in.npy", "out.npy", "--workers", 2) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not Path("out.npy").exists()
    assert left() != []
    back()
    taken = []
    real = stream.Run._take
    monkeypatch.setattr(
        stream.Run, "_take", lambda self, step, found: taken.append(step) or real(self, step, found)
    )
    assert run("in.npy", "out.npy", "--resume", "--workers", 1) == 0
    assert taken == list(layout.steps())[at:]
    assert Path("out.npy").read_bytes() == Path("whole.npy").read_bytes()
    assert left() == []


def test_resume_of_zarr(in_pieces, monkeypatch):
    zarr = pytest.importorskip("zarr")
    in_pieces(2000)
    a = logits()
    back = ended_after(monkeypatch, 5, OSError(28, "No space left on device"))
    assert run(saved(a), "out.zarr") == 1
    assert not Path("out.zarr").exists()
    back()
    assert run("in.npy", "out.zarr", "--resume") == 0
    assert apart(zarr.open_array("out.zarr", mode="r")[:], nbfagg.fagg(a)) <= 1
    assert left() == []


def test_without_resume_it_starts_anew(in_pieces, monkeypatch, capsys):
    in_pieces(2000)
    back = ended_after(monkeypatch, 5, OSError("gone"))
    assert run(saved(logits()), "out.npy") == 1
    back()
    b = saved(logits(seed=1))
    assert run(b, "out.npy") == 0
    assert apart(np.load("out.npy"), nbfagg.fagg(logits(seed=1))) <= 1
    assert left() == []
    # Nothing to go on with is no error.
    assert run(b, "out.npy", "--resume") == 0
    assert "out.npy is there and whole, and nothing of another one was begun" in capsys.readouterr().err
    Path("out.npy").unlink()
    assert run(b, "out.npy", "--resume") == 0
    assert "nothing of out.npy was begun" in capsys.readouterr().err
    # Killed before the first checkpoint.
    Path(".out.npy.nbfagg-part").write_bytes(b"")
    assert run(b, "out.npy", "--resume") == 0
    assert "out.npy was begun, but ended before anything was saved" in capsys.readouterr().err
    assert left() == []


def test_resume_of_something_else_is_refused(in_pieces, monkeypatch, capsys):
    in_pieces(2000)
    back = ended_after(monkeypatch, 5, OSError("gone"))
    assert run(saved(logits()), "out.npy") == 1
    back()
    for options, name in ((["--log"], "log"), (["--scale", 2], "scale"), (["--keep-axis", 2], "kept axes"),
                          (["--memory", "16M"], "memory")):  # fmt: skip
        capsys.readouterr()
        assert run("in.npy", "out.npy", "--resume", *options) == 2
        assert f"was begun with {name}" in capsys.readouterr().err
    os.utime("in.npy", ns=(1, 1))
    assert run("in.npy", "out.npy", "--resume") == 2
    assert "was begun with input" in capsys.readouterr().err
    state = Path(".out.npy.nbfagg-state")
    state.write_bytes(state.read_bytes()[:100])
    assert run("in.npy", "out.npy", "--resume") == 2
    assert "is damaged" in capsys.readouterr().err


def test_two_runs_of_one_out_are_refused(capsys):
    places = targets.Places(Path("out.npy"))
    assert run(saved(logits()), "out.npy") == 2
    assert "being written by another run" in capsys.readouterr().err
    places.release()
    assert run("in.npy", "out.npy") == 0


SLOW = """
import sys, time
from nbfagg import cli
from nbfagg.run import checkpoint, stream
checkpoint.EVERY_SECONDS = 0.05
take = stream.Run._take
def slow(self, step, found):
    time.sleep(0.05)
    take(self, step, found)
    print(self.position, flush=True)
stream.Run._take = slow
sys.exit(cli.main(["run", "in.npy", "out.npy", "--memory", "16M", "--workers", "1"]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_signals_leave_no_half_written_out(number):
    a = logits((64, 128, 40, 20), np.float32)
    saved(a)
    Path("out.npy").write_bytes(b"older")
    with subprocess.Popen(
        [sys.executable, "-P", "-c", SLOW],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for _ in range(6):
            process.stdout.readline()
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), err
    assert Path("out.npy").read_bytes() == b"older"
    position, _, _ = checkpoint.load(Path(".out.npy.nbfagg-state"))
    assert position > (0 if number == signal.SIGKILL else 3)
    assert ("--resume goes on" in err) == (number != signal.SIGKILL)
    assert run("in.npy", "out.npy", "--resume") == 0
    np.testing.assert_array_equal(np.load("out.npy"), nbfagg.fagg(a))
    assert left() == []


def test_a_full_disk():
    """A limit of the size of files stands for it: the error comes before anything is read."""
    a = logits((400, 30, 2), np.float32)
    saved(a)
    code = """
import resource, signal, sys
from nbfagg import cli
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
sys.exit(cli.main(["run", "in.npy", "out.npy"]))
"""
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "nbfagg: error: [Errno 27] File too large: 'out.npy'\n"
    assert not Path("out.npy").exists()
    assert left() == []


def test_a_file_that_shrinks_meanwhile(capsys, monkeypatch):
    """Its pages cannot be brought in: an error, where a plain look would end the process."""
    a = logits((64, 128, 40, 20), np.float32)
    real = stream.Run._take

    def take(self, step, found):
        os.truncate("in.npy", 2**20)
        real(self, step, found)

    monkeypatch.setattr(stream.Run, "_take", take)
    monkeypatch.setattr(tiles, "LARGEST_TILE", 2**20)
    assert run(saved(a), "out.npy", "--workers", 1) == 1
    assert "in.npy" in capsys.readouterr().err
    assert not Path("out.npy").exists()


# --- memory, and what is shown ---------------------------------------------------------------


def test_resident_memory_stays_within_the_budget():
    shape = (96, 256, 32, 64)  # 192 MiB, four times what is asked for
    file = np.lib.format.open_memmap("in.npy", "w+", np.float32, shape)
    file[...] = np.random.default_rng(0).standard_normal(shape[1:], dtype=np.float32)
    del file
    peaks = {}
    for axes in (["0", "1"], ["none", "1"], ["1", "0"]):
        code = """
import resource, sys
from nbfagg import cli
axes = ["--batch-axis", sys.argv[1], "--keep-axis", sys.argv[2]]
status = cli.main(["run", "in.npy", "out.npy", "--memory", "48M", *axes])
lines = open("/proc/self/status").read().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")))
sys.exit(status)
"""
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *axes],
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        peaks[tuple(axes)] = int(done.stdout) / 1024
    assert max(peaks.values()) <= 48 + 200, peaks


def test_a_plain_line_now_and_then(capsys, monkeypatch):
    clock = iter(range(0, 10**6, 20))
    # Of this module alone: other libraries look at the clock too.
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with progress.shown(4 * MIB, MIB) as advance:
        for _ in range(3):
            advance(MIB)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("nbfagg run:  50% 2.1/4.2 MB")
    assert lines[0].endswith(" left")
    assert lines[-1].startswith("nbfagg run: 0.00315 GB in ")
    assert len(lines) == 2


def test_a_bar_on_a_terminal():
    pty = pytest.importorskip("pty")
    saved(logits())
    ours, theirs = pty.openpty()
    env = environment(TERM="xterm", COLUMNS="120", NO_COLOR="1")
    arguments = [sys.executable, "-P", "-m", "nbfagg", "run", "in.npy", "out.npy"]
    data = b""
    with subprocess.Popen(arguments, env=env, stderr=theirs, stdout=subprocess.DEVNULL) as process:
        os.close(theirs)
        # A terminal's end is an error on Linux. One that nobody reads fills up where kernels are compiled.
        with contextlib.suppress(OSError):
            while part := os.read(ours, 4096):
                data += part
    os.close(ours)
    shown = data.decode()
    assert process.returncode == 0
    assert "nbfagg run" in shown
    assert "100%" in shown
    assert "40.3/40.3 kB" in shown


@pytest.mark.parametrize("terminal", [False, True])
def test_without_rich_only_the_end_is_said(capsys, monkeypatch, terminal):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    monkeypatch.setattr(progress, "FIRST_LINE_SECONDS", 0.0)
    assert run(saved(logits()), "out.npy") == 0
    assert capsys.readouterr().err.count("nbfagg run: 4.03e-05 GB in ") == (not terminal)


def test_a_short_run_imports_no_rich():
    saved(logits())
    code = "import sys; from nbfagg import cli; cli.main(['run', 'in.npy', 'out.npy']); print(*sys.modules)"
    arguments = [sys.executable, "-P", "-c", code]
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, check=True)
    assert "nbfagg.run.stream" in done.stdout.split()
    assert "rich" not in done.stdout.split()


def test_the_default_memory():
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < nbfagg.run.default_memory() <= total // 4
    assert cli._size("1.5GiB") == 3 * 2**29
    assert cli._size("500m") == 500 * MIB
    assert cli._size("17") == 17


def test_checkpoints_are_seldom_where_they_are_slow(tmp_path, monkeypatch):
    clock = iter([0.0, 100.0, 104.0, 303.9, 304.1])
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: next(clock))
    saver = checkpoint.Checkpoint(tmp_path / "state", {"log": True})
    saver.save(3, {"region": np.arange(3.0)}, lambda: None)  # took 4 s
    assert not saver.is_due()
    assert saver.is_due()
    position, what, arrays = checkpoint.load(tmp_path / "state")
    assert (position, what) == (3, {"log": True})
    np.testing.assert_array_equal(arrays["region"], np.arange(3.0))


def test_pieces_cover_everything_once():
    for nbytes in (300, 1000, 4000, 20_000):
        for batch, keep in AXES:
            batch, keep = (tuple(np.atleast_1d(axes).astype(int).tolist()) for axes in (batch, keep))
            layout = tiles.lay_out(SHAPE, 8, batch, keep, nbytes, 2, (1,) * 4)
            seen, written = np.zeros(SHAPE, int), np.zeros(layout.result_shape, int)
            for step in layout.steps():
                if step.kind in ("whole", "state"):
                    seen[step.index] += 1
                if step.kind == "whole":
                    written[tuple(step.index[axis] for axis in layout.result)] += 1
                if step.kind == "finish":
                    written[step.index] += 1
            assert (seen == layout.passes).all()
            assert (written == 1).all()


def test_a_source_says_what_it_is():
    a = logits()
    source = sources.open_source(Path(saved(a)))
    assert (source.shape, source.dtype) == (a.shape, a.dtype)
    index = (slice(1, 3), slice(2, 5), slice(0, 5), slice(0, 6))
    part = source.read(index)
    np.testing.assert_array_equal(part, a[index])
    assert not part.flags.writeable
    source.done(index)
    np.testing.assert_array_equal(part, a[index])
    source.close()
    with pytest.raises(Refused, match="does not exist"):
        sources.open_source(Path("none.npy"))


def test_no_input_is_replaced(capsys):
    """Not by a folder's name that it lies in either, nor what a mask or lengths are read from."""
    zarr = pytest.importorskip("zarr")
    group = zarr.create_group("group.zarr")
    group.create_array("logits", data=logits())
    group.create_array("other", data=np.arange(3))
    saved(logits())
    np.save("lengths.npy", np.array([7, 0, 5]))
    np.save("where.npy", np.ones((7, 1, 1), bool))
    for arguments, out in (
        (["group.zarr/logits", "group.zarr"], "is a Zarr group"),
        (["in.npy", "group.zarr"], "is a Zarr group"),
        (["in.npy", "lengths.npy", "--lengths", "lengths.npy"], "is the input lengths.npy"),
        (["in.npy", "where.npy", "--where", "where.npy"], "is the input where.npy"),
    ):
        capsys.readouterr()
        assert run(*arguments) == 2
        assert out in capsys.readouterr().err
    os.rename("group.zarr", "moved.zarr")
    zarr.create_array("group.zarr", data=logits())
    os.rename("moved.zarr", "group.zarr/inside")
    capsys.readouterr()
    assert run("group.zarr/inside/logits", "group.zarr") == 2
    assert "or holds it" in capsys.readouterr().err
    assert (zarr.open_array("group.zarr/inside/other", mode="r")[:] == np.arange(3)).all()
    assert left() == []


@pytest.mark.parametrize(
    "header",
    [
        "'descr': '<f4', 'shape': (-2, -3)",
        "'descr': '<f4', 'shape': (-2, 3)",
        f"'descr': '<f4', 'shape': {(1,) * 70}",
        f"'descr': '<f4', 'shape': ({2**62}, 0)",
        f"'descr': '<f4', 'shape': ({10**23 - 1}, 0)",
        "'descr': '<f4', 'shape': (True, 3)",
        "'descr': '|V0', 'shape': (2, 3)",
        "'descr': '<U0', 'shape': (2, 3)",
        "'descr': ('<f4', (2,)), 'shape': (2, 3)",
        "'descr': '<f4', 'shape': 3",
        "'descr': {}, 'shape': (2, 3)",
    ],
)
def test_headers_of_no_array(header, capsys):
    text = ("{'fortran_order': False, " + header + "}\n").encode()
    Path("in.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(100))
    assert run("in.npy", "out.npy") == 2
    said = capsys.readouterr().err
    assert "in.npy is no .npy file" in said
    assert said.count("\n") == 1


def test_lengths_of_rank_0(capsys):
    np.save("lengths.npy", np.array(3))
    assert run(saved(logits()), "out.npy", "--lengths", "lengths.npy") == 2
    assert "lengths has shape ()" in capsys.readouterr().err
