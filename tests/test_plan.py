"""Every branch of the plan is taken, by the array that is named for it, and takes each logit once."""

import dataclasses
import functools

import numba
import numpy as np
import pytest
from helpers import DTYPES, check_all
from ways import WAYS, Way

import nbfagg
from nbfagg import fields, inputs
from nbfagg.cpu import launch, team
from nbfagg.cpu.tasks import Task
from nbfagg.plan.axes import axes_of
from nbfagg.plan.grain import SERIAL

# What the head of the plan's table says of a way. Numbers of more than one are told by a tuple (least, most).
SEVERAL = (2, np.inf)
HEADS = {
    "small": {"way": "rows", "small": 1, "tile_rows": 0, "pieces": 1, "sums_in_result": 0, "gathered": 0},
    "tiny": {"way": "rows", "small": 1, "tile_rows": (2, 10), "gathered": 0},
    "tiny tokens": {"way": "rows", "small": 1, "tile_rows": (2, 899), "gathered": 0},
    "blocks": {"way": "rows", "small": 0, "pieces": 1, "sums_in_result": 0, "parts": 1, "blocks": SEVERAL},
    "tokens of whole vectors": {"way": "rows", "pieces": 1, "terms": 32, "tile_rows": 0},
    "tokens of one term": {"way": "rows", "terms": 1, "tile_rows": 0, "sums_in_result": 0, "blocks": SEVERAL},
    "pieces": {"way": "rows", "pieces": SEVERAL, "parts": 1},
    "sums in the result": {"way": "rows", "sums_in_result": 1, "parts": 1},
    "parts": {"way": "rows", "pieces": SEVERAL, "parts": SEVERAL},
    "parts of tokens": {"way": "rows", "pieces": 1, "parts": SEVERAL, "sums_in_result": 0},
    "parts in the result": {"way": "rows", "pieces": 1, "parts": SEVERAL, "sums_in_result": 1},
    "gathered": {"way": "rows", "gathered": 1, "pieces": 1, "rows_summed": 1},
    "gathered strided": {"way": "rows", "gathered": 1, "pieces": 1, "rows_summed": 2},
    "gathered pieces": {"way": "rows", "gathered": 1, "pieces": SEVERAL},
    "runs": {"way": "nest", "columns": 0, "run_tokens": 1, "copies": 1, "chunk_of": 0},
    "runs side by side": {"way": "nest", "columns": 0, "run_tokens": SEVERAL},
    "runs in pieces": {"way": "nest", "columns": 0, "width": (4097, np.inf)},
    "runs of batch rows side by side": {"way": "nest", "columns": 0, "width": 64, "run_tokens": SEVERAL},
    "short runs side by side": {"way": "nest", "columns": 0, "width": (1, 7), "run_tokens": SEVERAL},
    "copies": {"way": "nest", "columns": 0, "copies": SEVERAL},
    "columns of tokens": {"way": "nest", "columns": 1, "width": 37, "copies": 1},
    "columns of batch rows": {"way": "nest", "columns": 1, "width": 37},
    "columns of a few tokens": {"way": "nest", "columns": 1, "width": 5},
    "columns apart": {"way": "nest", "columns": 1, "apart": (9, np.inf)},
    "many steps": {"way": "nest", "columns": 1, "steps": (65, np.inf)},
    "copies of columns": {"way": "nest", "columns": 1, "copies": SEVERAL},
    "chunks of tokens": {"way": "nest", "columns": 0, "chunk_of": 1, "chunk": SEVERAL},
    "chunks of columns": {"way": "nest", "columns": 1, "chunk_of": 2, "chunk": SEVERAL},
}


def plan_of(a, keep, log=False):
    return inputs.plan_for(a.shape, a.strides, a.dtype, a.flags.aligned, 0, keep, log, False)


def head_of(made):
    names = {"rows": fields.ROW_NAMES, "nest": fields.NEST_NAMES}[made.way]
    numbers = dict(zip(names, made.table.tolist(), strict=False))
    return {"way": made.way, "small": int(made.small)} | numbers


def test_numbers_of_rows_have_the_names_of_their_fields():
    assert len(fields.ROW_NAMES) == fields.ROWS_AXES
    assert [getattr(fields, name.upper()) for name in fields.ROW_NAMES] == list(range(fields.ROWS_AXES))


def test_numbers_of_walks_have_the_names_of_their_fields():
    assert len(fields.NEST_NAMES) == fields.AXES
    assert [getattr(fields, name.upper()) for name in fields.NEST_NAMES] == list(range(fields.AXES))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WAYS)
def test_each_way_is_the_one_it_is_named_for(name, dtype):
    way = WAYS[name]
    head = head_of(plan_of(way.lay(way.normal(dtype)), way.keep))
    for field, wanted in HEADS[name].items():
        least, most = wanted if isinstance(wanted, tuple) else (wanted, wanted)
        assert least <= head[field] <= most, f"{field} = {head[field]}, want {wanted}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WAYS)
def test_each_way_takes_each_logit_once(name, dtype):
    way = WAYS[name]
    # Where all are equal, lse counts them...
    nought = np.zeros(way.shape, dtype)
    alpha, lse = nbfagg.fagg(way.lay(nought), keep_axis=way.keep, return_lse=True)
    np.testing.assert_array_equal(alpha, nbfagg.fagg(np.zeros((way.shape[0], way.shape[way.keep]), dtype)))
    count = np.prod(way.shape[1:])
    # A rounded logarithm, and the rounded sum of two such.
    np.testing.assert_allclose(lse, np.log(count), rtol=2 * np.finfo(dtype).eps)
    # ... and where they differ, a wrong place shows.
    check_all(way.lay(way.normal(dtype)), keep_axis=way.keep)


LOOPS = ["small", "serial", "parallel"]


@pytest.fixture
def driven(monkeypatch):
    """The loops that were called, each with the task that it called over and over."""
    called = []
    names = {}
    for name, task in vars(launch.drive).items():
        if isinstance(task, Task):
            for like in np.float32(0), np.float64(0):
                names[task.address(like)] = name

    def record(name, loop, function, *arguments):
        called.append(f"{name} {names[function]}")
        return loop(function, *arguments)

    for name in LOOPS:
        loop = getattr(launch.drive, name)
        monkeypatch.setattr(launch.drive, name, functools.partial(record, name, loop))
    # Whatever else the machine does: none of Numba's threads is waited for too long.
    monkeypatch.setattr(launch.team, "STALL", np.inf)
    monkeypatch.setattr(launch.team, "_respite_until", 0.0)
    return called


MANY_ROWS = Way((60, 2000, 3, 1))
needs_threads = pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread")


@pytest.mark.parametrize(
    ("way", "workers", "loops"),
    [
        (WAYS["small"], None, ["small whole"]),
        (WAYS["tiny"], None, ["small whole"]),
        (WAYS["blocks"], 1, ["serial whole"]),
        (WAYS["parts"], 1, ["serial whole"]),
        (WAYS["gathered"], None, ["serial whole"]),
        pytest.param(MANY_ROWS, 2, ["parallel whole"], marks=needs_threads),
        # Without parts to share, the few rows are shared.
        pytest.param(WAYS["blocks"], 2, ["parallel whole"], marks=needs_threads),
        pytest.param(
            WAYS["parts"], 2, ["parallel reduced_part", "parallel finished_part"], marks=needs_threads
        ),
        pytest.param(
            WAYS["parts of tokens"],
            None,
            ["parallel reduced_part", "parallel finished_part"],
            marks=needs_threads,
        ),
        (WAYS["runs"], None, ["serial walked", "serial finished_row"]),
        (WAYS["copies"], 1, ["serial walked", "serial finished_row"]),
        pytest.param(WAYS["copies"], 2, ["parallel walked", "parallel finished_row"], marks=needs_threads),
    ],
)
def test_drivers(driven, way, workers, loops):
    a = way.lay(way.normal(np.float32))
    nbfagg.fagg(a, keep_axis=way.keep, workers=workers)
    assert driven == loops


@pytest.mark.parametrize(
    ("shape", "workers", "loops"),
    [
        ((3, 10, 20), None, ["serial gradient_rows"]),
        pytest.param((60, 2000, 3), 2, ["parallel gradient_rows"], marks=needs_threads),
        pytest.param((1, 4600, 30), 1, ["serial gradient_rows"]),
        pytest.param(
            (1, 4600, 30), 2, ["parallel gradient_dots", "parallel gradient_part"], marks=needs_threads
        ),
    ],
)
def test_loops_of_the_gradient(driven, shape, workers, loops):
    a = np.zeros(shape, np.float32)
    alpha, lse = nbfagg.fagg(a, return_lse=True)
    driven.clear()
    nbfagg.fagg_vjp(alpha, a, alpha, lse, workers=workers)
    assert driven == loops


@pytest.mark.parametrize(
    ("lengths", "workers", "forward", "backward"),
    [
        ([3, 0, 5], None, ["serial packed_rows"], ["serial packed_rows"]),
        pytest.param([2000] * 60, 2, ["parallel packed_rows"], ["parallel packed_rows"], marks=needs_threads),
        # A long row's parts are shared, the others taken whole.
        pytest.param(
            [1, 200_000, 2], 2,
            ["parallel reduced_part", "parallel finished_part", "parallel packed_rows"],
            ["parallel gradient_dots", "parallel gradient_part", "parallel packed_rows"],
            marks=needs_threads,
        ),
    ],
)  # fmt: skip
def test_loops_of_packed_rows(driven, lengths, workers, forward, backward):
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    a = np.zeros((offsets[-1], 3), np.float32)
    alpha, lse = nbfagg.fagg_packed(a, offsets, return_lse=True, workers=workers)
    assert driven == forward
    driven.clear()
    nbfagg.fagg_packed_vjp(alpha, a, offsets, alpha, lse, workers=workers)
    assert driven == backward


def test_a_small_array_takes_the_short_way_only_as_it_is(driven):
    a = WAYS["small"].normal(np.float32)
    assert a.nbytes <= SERIAL
    read_only = a.view()
    read_only.flags.writeable = False
    nbfagg.fagg(a)
    nbfagg.fagg(a, out=np.empty((3, 10), np.float32))
    nbfagg.fagg(a, return_lse=True)
    assert driven == ["small whole"] * 3
    for arguments in (
        {"a": a, "out": np.empty((3, 20), np.float32)[:, ::2]},
        {"a": read_only},
        {"a": a[::-1]},
        {"a": a[:, :, ::-1]},
        {"a": a.astype(">f4" if np.little_endian else "<f4")},
    ):
        driven.clear()
        nbfagg.fagg(**arguments)
        assert driven == ["serial whole"]


def test_nothing_runs_on_an_empty_array(driven):
    for shape in ((0, 3, 2), (2, 0, 2), (2, 3, 0)):
        nbfagg.fagg(np.zeros(shape), return_lse=True)
    assert driven == []


def test_a_shared_maximum_is_not_used_for_logarithms():
    # Tokens side by side share a reference point, from which a token's logarithm can be lost.
    way = WAYS["runs side by side"]
    a = way.lay(way.normal(np.float32))
    assert head_of(plan_of(a, 1))["run_tokens"] > 1
    assert head_of(plan_of(a, 1, log=True))["run_tokens"] == 1


def test_threads_are_worth_their_while():
    assert team.size(None, SERIAL) == team.size(64, SERIAL) == 1
    assert team.size(1, 1 << 40) == 1
    most = numba.config.NUMBA_NUM_THREADS
    assert team.size(None, 1 << 40) == numba.get_num_threads()
    assert team.size(10_000, 1 << 40) == most
    assert all(team.size(most, n * SERIAL) <= max(1, n) for n in range(1, 20))


@needs_threads
def test_the_number_of_threads_is_put_back():
    a = np.zeros((60, 2000, 3), np.float32)
    for chosen in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(chosen)
        try:
            for workers in (1, 2, None):
                nbfagg.fagg(a, workers=workers)
                assert numba.get_num_threads() == chosen
        finally:
            numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)


def test_axes_that_walk_as_one_are_one():
    def walked(a, batch=(0,), keep=(1,)):
        axes, begin = axes_of(a.shape, a.strides, batch, keep)
        return [(axis.role, axis.size, axis.pitch) for axis in axes], begin[0]

    a = np.zeros((3, 4, 5, 6), np.float32)
    assert walked(a) == ([("b", 3, 480), ("l", 4, 120), ("k", 30, 4)], 0)
    assert walked(a[:, :, :, :5]) == ([("b", 3, 480), ("l", 4, 120), ("k", 5, 24), ("k", 5, 4)], 0)
    # Axes of one step drop out; summed axes run forwards, others as they are.
    assert walked(a[:, :1]) == ([("b", 3, 480), ("k", 30, 4)], 0)
    assert walked(a[:, ::-1, ::-1, ::-1]) == ([("b", 3, 480), ("l", 4, -120), ("k", 30, 4)], -116)
    # Two kept axes are one only if the result has them in the same order.
    assert walked(a, (), (0, 1)) == ([("l", 12, 120), ("k", 30, 4)], 0)
    assert walked(a.transpose(1, 0, 2, 3), (), (0, 1))[0] == [("l", 3, 480), ("l", 4, 120), ("k", 30, 4)]
    # What stands still is outermost.
    assert walked(np.broadcast_to(a[:, :, :1], a.shape))[0][0] == ("k", 5, 0)


def test_a_plan_is_made_once_and_stays_as_it_is():
    a = np.zeros((3, 4, 5))
    made = plan_of(a, 1)
    assert plan_of(np.ones((3, 4, 5)), 1) is made
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.tasks = 2
    with pytest.raises(ValueError, match="read-only"):
        made.table[0] = 0


def test_a_plan_tells_what_it_is():
    text = str(plan_of(np.zeros((3, 4, 5), np.float32), 1))
    assert text.startswith("rows: float32 -> float32 (3, 4), ")
    assert "  tokens = 4" in text.splitlines()
    text = str(plan_of(np.zeros((3, 4, 5)), 2))
    assert text.startswith("nest: float64 -> float64 (3, 5), ")
    assert "  columns = 1" in text.splitlines()
    assert str(plan_of(np.zeros((3, 0)), 1)).startswith("empty: float64 -> float64 (3, 0)")
