"""A cluster of processes: the same results, also when a worker dies; what moves between workers."""

import graphlib
import itertools
import math
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from test_dask import apart

import nbfagg
from nbfagg import cli

dask = pytest.importorskip("dask")
da = pytest.importorskip("dask.array")
distributed = pytest.importorskip("distributed")

from dask.sizeof import sizeof  # noqa: E402

CELL = 24


@pytest.fixture(scope="module")
def cluster():
    with (
        dask.config.set({"distributed.admin.tick.limit": "60s"}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0", silence_logs=50
        ) as started,
    ):
        yield started


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster, set_as_default=False) as connected:
        yield connected


def normal(shape, dtype=np.float64):
    return np.random.default_rng(list(shape)).normal(0, 3, shape).astype(dtype)


def slow(block):
    time.sleep(0.1)
    return block


# --- results --------------------------------------------------------------------------


def test_the_same_in_processes(client):
    a = normal((6, 40, 6, 8))
    lengths = np.array([40, 0, 1, 39, 20, 7])
    for chunks in ((2, 40, 6, 8), (3, 7, 6, 8), (6, 40, 2, 3), (2, 9, 4, 5)):
        x = da.from_array(a, chunks=chunks)
        alpha, lse = nbfagg.fagg(x, return_lse=True, lengths=lengths)
        grad = nbfagg.fagg_vjp(alpha, x, alpha, lse, lengths=lengths)
        found = client.gather(client.compute([alpha, lse, grad]))
        wanted, wanted_lse = nbfagg.fagg(a, return_lse=True, lengths=lengths)
        assert apart(found[0], wanted) <= 1
        assert apart(found[1], wanted_lse, True) <= 1
        np.testing.assert_allclose(
            found[2], nbfagg.fagg_vjp(wanted, a, wanted, wanted_lse, lengths=lengths), rtol=0, atol=1e-15
        )
    offsets = [0, 3, 3, 22, 40]
    packed = nbfagg.fagg_packed(da.from_array(a[0], chunks=(7, 3, 8)), offsets)
    assert apart(client.compute(packed).result(), nbfagg.fagg_packed(a[0], offsets)) <= 1


def test_two_workers_of_two_threads_take_one_thread_a_task(client):
    """No worker starts a team of Numba's threads, so no more than its two threads compute at a time."""

    def watch():
        from nbfagg.cpu import team

        real, team.asked = team.size, []

        def size(workers, nbytes):
            team.asked.append(real(workers, nbytes))
            return team.asked[-1]

        team.size = size

    def asked():
        from nbfagg.cpu import team

        return sorted(set(team.asked))

    client.run(watch)
    x = da.zeros((8, 64, 64, 64), chunks=(2, 20, 64, 64), dtype=np.float32)
    client.compute(nbfagg.fagg(x)).result()
    found = list(client.run(asked).values())
    assert [1] in found
    assert all(counts in ([], [1]) for counts in found)
    assert set(client.nthreads().values()) == {2}


def test_a_worker_that_is_killed_changes_nothing(cluster, client):
    a = normal((4, 60, 4, 6))
    x = da.from_array(a, chunks=(2, 6, 4, 3)).map_blocks(slow, dtype=a.dtype, meta=np.empty((0,) * 4))
    pids = client.run(os.getpid)
    wanted, wanted_lse = nbfagg.fagg(a, return_lse=True)
    futures = client.compute(list(nbfagg.fagg(x, return_lse=True)))
    deadline = time.monotonic() + 60
    held = {}
    while sum(map(len, held.values())) < 8 and time.monotonic() < deadline:
        time.sleep(0.05)
        held = client.has_what()
    assert not all(future.done() for future in futures)
    # The one that holds more of what was done.
    victim = max(held, key=lambda worker: len(held[worker]))
    os.kill(pids[victim], signal.SIGKILL)
    alpha, lse = client.gather(futures)
    assert apart(alpha, wanted) <= 1
    assert apart(lse, wanted_lse, True) <= 1
    client.wait_for_workers(2, timeout=60)
    assert pids[victim] not in client.run(os.getpid).values()


def test_what_is_moved_is_no_logit(client):
    """Two workers that hold the halves of each row exchange totals, whatever K is."""
    moved = {}
    for terms in (64, 4096):
        a = client.map(
            lambda i, terms: np.random.default_rng(i).standard_normal((4, 16, terms)),
            range(8),
            terms=terms,
            pure=False,
        )
        client.gather([client.submit(len, future) for future in a])
        blocks = [da.from_delayed(future, (4, 16, terms), float) for future in a]
        before = sum(_moved(client))
        client.compute(nbfagg.fagg(da.concatenate(blocks, axis=1))).result()
        moved[terms] = sum(_moved(client)) - before
    # The result is gathered from one worker, once all its chunks are there.
    assert moved[4096] < 4 * 128 * 8 + 60_000, moved
    assert moved[4096] < 0.02 * 4 * 128 * 4096 * 8


def _moved(client):
    return client.run(lambda dask_worker: dask_worker.transfer_outgoing_bytes_total).values()


# --- the command ----------------------------------------------------------------------------


def test_run_on_a_scheduler(cluster, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a = normal((64, 128, 16, 16), np.float32)
    np.save("in.npy", a)
    where = np.random.default_rng(0).random((128, 1, 16)) < 0.7
    np.save("where.npy", where)
    address = cluster.scheduler_address
    arguments = ["run", "in.npy", "out.npy", "--scheduler", address, "--memory", "16M"]
    assert cli.main(arguments) == 0
    np.testing.assert_array_equal(np.load("out.npy"), nbfagg.fagg(a))
    assert (
        cli.main([*arguments, "--batch-axis", "1", "--keep-axis", "0", "--where", "where.npy", "--log"]) == 0
    )
    wanted = nbfagg.fagg(a, batch_axis=1, keep_axis=0, where=where, log=True)
    np.testing.assert_allclose(np.load("out.npy"), wanted, rtol=1e-6)
    assert sorted(os.listdir()) == ["in.npy", "out.npy", "where.npy"]
    capsys.readouterr()
    monkeypatch.setattr("nbfagg.run.cluster.CONNECT_SECONDS", 1)
    assert cli.main([*arguments[:3], "--scheduler", "tcp://127.0.0.1:9"]) == 2
    assert "no Dask scheduler answers at --scheduler=tcp://127.0.0.1:9" in capsys.readouterr().err
    assert not list(tmp_path.glob(".out.npy*"))


def test_run_on_a_scheduler_is_taken_up_again(cluster, tmp_path, monkeypatch, capsys):
    from nbfagg.run import targets

    monkeypatch.chdir(tmp_path)
    a = normal((64, 128, 16, 16), np.float32)
    np.save("in.npy", a)
    arguments = ["run", "in.npy", "out.npy", "--scheduler", cluster.scheduler_address, "--memory", "16M"]
    real, written = targets.Npy.write, []

    def write(self, index, block):
        if len(written) == 5:
            raise OSError(28, "No space left on device", "out.npy")
        written.append(index)
        real(self, index, block)

    monkeypatch.setattr(targets.Npy, "write", write)
    assert cli.main(arguments) == 1
    assert not Path("out.npy").exists()
    again = []
    monkeypatch.setattr(
        targets.Npy, "write", lambda self, index, block: again.append(index) or real(self, index, block)
    )
    assert cli.main([*arguments, "--resume"]) == 0
    assert not {str(index) for index in written} & {str(index) for index in again}
    np.testing.assert_array_equal(np.load("out.npy"), nbfagg.fagg(a))


# --- what a graph costs, as nbfagg.dask says -----------------------------------------------------


class Simulation:
    """A graph's tasks on workers: logits spread evenly, each task where most of its bytes are."""

    def __init__(self, shape, cuts, workers, split_every=4):
        chunks = tuple(-(-size // count) for size, count in zip(shape, cuts, strict=True))
        x = da.zeros(shape, chunks=chunks)
        logits = {(x.name, *place) for place in itertools.product(*map(range, x.numblocks))}
        graph = dict(nbfagg.dask.fagg(x, split_every=split_every).__dask_graph__())
        needs = {key: dask.core.get_dependencies(graph, key) for key in graph}
        values = dict(zip(graph, dask.get(graph, list(graph)), strict=True))
        self.moved = 0
        home, depth, copies = {}, {}, set()
        for key in graphlib.TopologicalSorter(needs).static_order():
            # What needs no logits is made wherever it is wanted.
            needed = [other for other in needs[key] if home[other] is not None]
            depth[key] = 1 + max((depth[other] for other in needed), default=-1)
            held = {}
            for other in needed:
                held[home[other]] = held.get(home[other], 0) + sizeof(values[other])
            home[key] = (
                self._place(key, x, workers)
                if key in logits
                else max(sorted(held), key=held.get, default=None)
            )
            for other in needed:
                if home[other] != home[key] and (other, home[key]) not in copies:
                    copies.add((other, home[key]))
                    self.moved += sizeof(values[other])
        self.length = max(depth.values())

    @staticmethod
    def _place(key, x, workers):
        number = int(np.ravel_multi_index(key[1:], x.numblocks))
        return number * workers // x.npartitions


def moved(shape, cuts, workers):
    return Simulation(shape, cuts, workers).moved


def test_cutting_the_batch_moves_nothing():
    assert moved((16, 12, 6), (16, 1, 1), 4) == 0


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_cutting_the_kept_axis_moves_totals_alone(workers):
    """C B (p - 1) up and as much down, if each worker's chunks make whole subtrees; no L and no K in it."""
    found = {}
    for batch, tokens, terms in ((4, 64, 6), (4, 64, 60), (4, 640, 6), (8, 64, 6)):
        found[batch, tokens, terms] = moved((batch, tokens, terms), (1, 32, 1), workers)
    assert found[4, 64, 6] == found[4, 64, 60] == found[4, 640, 6]
    assert found[8, 64, 6] == 2 * found[4, 64, 6]
    least = CELL * 4 * (workers - 1)
    if workers == 4:  # eight chunks each: half a task of sixteen
        assert 2 * least < found[4, 64, 6] <= (1 + 4 / 2) * least
    else:
        assert found[4, 64, 6] == 2 * least


@pytest.mark.parametrize("workers", [2, 4, 8])
def test_cutting_summed_axes_moves_cells_and_no_logit(workers):
    base = moved((4, 16, 64), (1, 1, 32), workers)
    assert moved((4, 16, 640), (1, 1, 32), workers) == base
    least = CELL * 4 * 16 * (workers - 1)
    assert base == least if workers != 4 else least < base <= 4 / 2 * least
    assert moved((8, 16, 64), (1, 1, 32), workers) == 2 * base
    # Where tokens stay on one worker, none of their cells moves.
    assert moved((4, 16, 64), (4, 2, 4), 4) == 0


def test_the_longest_chain():
    """State, merges of a token, total, merges of a row, finish; `itself` stands before each tree."""
    for width in (2, 4, 8):
        for tokens, terms in ((1, 16), (16, 1), (32, 8), (16, 16)):
            length = Simulation((1, 64, 64), (1, tokens, terms), 4, width).length
            trees = sum(max(1, math.ceil(round(math.log(n, width), 9))) for n in (tokens, terms))
            assert length <= 3 + trees + 2
