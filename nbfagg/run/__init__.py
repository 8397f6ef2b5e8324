"""`nbfagg run IN OUT`: arrays that are larger than memory, on one machine or on a Dask cluster."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nbfagg import inputs
from nbfagg.plan import BRAIN
from nbfagg.run import checkpoint, progress, stream, targets
from nbfagg.run.refusal import Refused
from nbfagg.run.sources import Source, open_source
from nbfagg.run.tiles import lay_out

# Below this not even a tile and the states of a few tokens fit.
LEAST_MEMORY = 16 * 1024 * 1024


def run(arguments: argparse.Namespace) -> int:
    """Run the command; give its exit code.

    Parameters
    ----------
    arguments : argparse.Namespace
        As `nbfagg.cli` has parsed them.

    Returns
    -------
    int
        0; 1 if a file failed; 2 for what is refused; 130 or 143 for Ctrl-C or SIGTERM.
    """
    try:
        # What comes before the first tile may be ended at any time: nothing is lost.
        return _run(arguments)
    except Refused as refusal:
        return _say(2, f"error: {refusal}")
    except (TypeError, ValueError) as error:
        # inputs.py's, which name the package themselves.
        if not str(error).startswith("nbfagg: "):
            raise
        return _say(2, f"error: {str(error).removeprefix('nbfagg: ')}")
    except stream.Interrupted as stop:
        name = signal.Signals(stop.number).name
        return _say(128 + stop.number, f"ended by {name}; --resume goes on from here")


def _say(status: int, line: str) -> int:
    print(f"nbfagg run: {' '.join(line.split())}", file=sys.stderr)
    return status


def _run(arguments: argparse.Namespace) -> int:
    out = Path(arguments.out)
    kind = targets.kind_of(out)
    source = open_source(Path(arguments.input), arguments.key)
    for name in (arguments.input, arguments.where, arguments.lengths):
        if name is not None and out.exists() and _would_replace(out, Path(name)):
            raise Refused(f"{out} is the input {name}, or holds it; want another name for the output")
    like = _checked_logits(source, arguments.input)
    batch, keep = inputs.as_axes(
        like.shape, arguments.batch_axis, arguments.keep_axis, bool(arguments.lengths)
    )
    scale, widened = inputs.as_scale(arguments.scale, like.dtype)
    lengths = _lengths(arguments.lengths, like, batch, keep)
    where = _mask(arguments.where, like)
    dtype = inputs.plan_for((0,), (0,), like.dtype, True, (), (), False, widened).dtype
    dtype = np.dtype(np.float32) if dtype == BRAIN else dtype
    threads = _threads(arguments.workers)
    places = targets.Places(out)
    try:
        resumed = arguments.resume and places.state.exists() and places.part.exists()
        old: dict[str, Any] = {}
        position = 0
        arrays: checkpoint.Arrays = {}
        if resumed:
            position, old, arrays = checkpoint.load(places.state)
        elif arguments.resume:
            _say(0, f"{_nothing_saved(places)}, so this is from the start")
        # Tiles depend on it, so that a default must not have changed since.
        memory = arguments.memory or old.get("memory") or default_memory()
        if memory < LEAST_MEMORY:
            raise Refused(f"--memory is {memory} bytes; want {LEAST_MEMORY} or more")
        mask_bytes = 0 if where is None else math.ceil(math.prod(where.shape) / math.prod(like.shape))
        count = old.get("threads", threads)
        layout = lay_out(
            like.shape, like.dtype.itemsize, batch, keep, memory, count, source.chunks, mask_bytes
        )
        what = {
            "memory": memory,
            "threads": count,
            "input": source.stamp,
            "shape": list(like.shape),
            "dtype": like.dtype.str,
            "batch axes": list(batch),
            "kept axes": list(keep),
            "scale": scale,
            "log": bool(arguments.log),
            "where": None if where is None else where.stamp,
            "lengths": None if lengths is None else lengths.tolist(),
            "scheduler": bool(arguments.scheduler),
        }
        if resumed:
            checkpoint.check_same(old, what, out)
        job = stream.Job(source, where, lengths, layout, scale, bool(arguments.log))
        saved = checkpoint.Checkpoint(places.state, what)
        with contextlib.ExitStack() as opened:
            opened.callback(source.close)
            client = None
            if arguments.scheduler:
                from nbfagg.run import cluster

                # Before anything is written.
                client = opened.enter_context(cluster.connect(arguments.scheduler))
            if not resumed:
                places.clear()
            try:
                target = kind(places, layout.result_shape, dtype, resume=resumed)
            except OSError:
                if not resumed:
                    places.clear()
                raise
            opened.callback(target.close)
            if client is None:
                _stream(job, target, saved, places, position, arrays, min(threads, count))
            else:
                cluster.go(client, arguments, job, target, saved, arrays)
            target.publish()
        places.clear()
    finally:
        places.release()
    return 0


def _would_replace(out: Path, name: Path) -> bool:
    """Say whether something is, or lies in, what OUT is to replace; whether it is there is asked later."""
    path = name.resolve()
    return any(one.exists() and one.samefile(out) for one in (path, *path.parents))


def _nothing_saved(places: targets.Places) -> str:
    """Tell why there is nothing to go on from."""
    if places.part.exists():
        seconds = checkpoint.EVERY_SECONDS
        return (
            f"{places.out} was begun, but ended before anything was saved, after {seconds:g} s at the soonest"
        )
    if places.out.exists():
        return f"{places.out} is there and whole, and nothing of another one was begun"
    return f"nothing of {places.out} was begun"


def _stream(
    job: stream.Job,
    target: targets.Target,
    saved: checkpoint.Checkpoint,
    places: targets.Places,
    position: int,
    arrays: checkpoint.Arrays,
    threads: int,
) -> None:
    """Do the steps that are left, on this machine."""
    steps = stream.Run(job, target, saved, places.cells, position, arrays)
    total = math.prod(job.layout.shape) * job.source.dtype.itemsize * job.layout.passes
    read = ("whole", "state")
    done = sum(
        steps.nbytes(step.index)
        for step in itertools.islice(job.layout.steps(), position)
        if step.kind in read
    )
    with stream.Signals() as signals, progress.shown(total, done) as advance:
        steps.go(threads, advance, signals.look)


def _checked_logits(source: Source, name: str) -> npt.NDArray[Any]:
    """Give an array that is like the logits and has none of their memory."""
    like: npt.NDArray[Any] = np.broadcast_to(np.zeros((), source.dtype), source.shape)
    inputs.as_array(like)
    if not like.size:
        raise Refused(f"{name} has shape {like.shape} and holds no logits; want an array that is not empty")
    return like


def _lengths(
    name: str | None, like: npt.NDArray[Any], batch: tuple[int, ...], keep: tuple[int, ...]
) -> npt.NDArray[np.int64] | None:
    if name is None:
        return None
    source = open_source(Path(name))
    try:
        return inputs.as_lengths(
            np.array(source.read((slice(None),) * len(source.shape))), like.shape, batch, keep
        )
    finally:
        source.close()


def _mask(name: str | None, like: npt.NDArray[Any]) -> Source | None:
    if name is None:
        return None
    source = open_source(Path(name))
    inputs.as_mask(np.broadcast_to(np.zeros((), source.dtype), source.shape), like.shape)
    return source


def _threads(workers: int | None) -> int:
    """Give how many threads to run: those asked for, or Numba's setting."""
    count = inputs.as_workers(workers)
    if count is None:
        import numba

        count = int(numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined]  # set at run time
    return count


def default_memory() -> int:
    """Give a quarter of the machine's memory, or of what its control group may use if that is less."""
    least = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            least = min(least, int(Path(path).read_text()))
        except (OSError, ValueError):
            continue
    return least // 4
