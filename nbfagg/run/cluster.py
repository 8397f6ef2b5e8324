"""A run on a Dask cluster that is there already: its workers read the file, and send back the weights.

The file has to have the same path on every worker. Blocks of the result are written here as they come.
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import nbfagg
from nbfagg.run import progress
from nbfagg.run.checkpoint import Arrays, Checkpoint
from nbfagg.run.refusal import Refused, importing
from nbfagg.run.sources import Index, Source, open_source
from nbfagg.run.stream import LOOK_SECONDS, Job, Signals, stored
from nbfagg.run.targets import Target

CONNECT_SECONDS = 10


@dataclass(frozen=True)
class Readable:
    """What Dask slices to read a file: opened by the worker that reads."""

    path: str
    key: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def __getitem__(self, index: Index) -> npt.NDArray[Any]:
        source = open_source(Path(self.path), self.key)
        try:
            return source.read(index)
        finally:
            source.close()


def connect(address: str) -> Any:
    """Give a client of a scheduler, to be closed.

    Raises
    ------
    Refused
        If there is no scheduler at the address.
    """
    distributed = importing("distributed", "dask")
    try:
        return distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise Refused(f"no Dask scheduler answers at --scheduler={address} ({error})") from None


def go(
    client: Any, arguments: argparse.Namespace, job: Job, target: Target, saved: Checkpoint, arrays: Arrays
) -> None:
    """Do the blocks of the result that are left."""
    distributed = importing("distributed", "dask")
    alpha = _graph(arguments, job)
    blocks = list(_blocks(alpha.chunks))
    done = arrays.get("done", np.zeros(len(blocks), bool))

    def save() -> None:
        saved.save(0, {"done": done}, target.sync)

    total = math.prod(job.layout.shape) * job.source.dtype.itemsize
    with Signals() as signals:
        left = [number for number in range(len(blocks)) if not done[number]]
        lazy = alpha.to_delayed().reshape(-1)
        futures = client.compute([lazy[number] for number in left])
        numbers = {future.key: number for future, number in zip(futures, left, strict=True)}
        coming = distributed.as_completed(futures, loop=client.loop, with_results=True)
        futures.clear()
        share = total // len(blocks)
        with progress.shown(total, total - share * len(left)) as advance:
            try:
                for _ in left:
                    future, block = _next(coming, signals.look)
                    number = numbers[future.key]
                    target.write(blocks[number], stored(block))
                    done[number] = True
                    advance(share)
                    if saved.is_due():
                        save()
            except Exception:
                save()
                raise


def _graph(arguments: argparse.Namespace, job: Job) -> Any:
    """Give the result as a lazy array, cut like the tiles of a run on one machine."""
    da = importing("dask.array", "dask")

    def lazy(source: Source, name: str, key: str | None, chunks: tuple[int, ...]) -> Any:
        readable = Readable(str(Path(name).resolve()), key, source.shape, source.dtype)
        meta = np.empty((0,) * len(source.shape), source.dtype)
        return da.from_array(readable, chunks=chunks, meta=meta, name=False)

    layout = job.layout
    where = None
    if job.where is not None:
        last = layout.tile[len(layout.tile) - len(job.where.shape) :]
        where = lazy(job.where, arguments.where, None, last)
    return nbfagg.fagg(
        lazy(job.source, arguments.input, arguments.key, layout.tile),
        batch_axis=layout.batch,
        keep_axis=layout.keep,
        where=where,
        lengths=job.lengths,
        scale=job.scale,
        log=job.log,
        workers=arguments.workers,
    )


def _blocks(chunks: tuple[tuple[int, ...], ...]) -> Any:
    """Give where each block of a result lies, in order."""
    edges = [np.cumsum([0, *sizes]).tolist() for sizes in chunks]
    return itertools.product(*([slice(*pair) for pair in itertools.pairwise(edge)] for edge in edges))


def _next(coming: Any, look: Callable[[], None]) -> Any:
    """Wait for a block, and look for signals meanwhile."""
    while True:
        look()
        if coming.has_ready():
            return next(coming)
        time.sleep(LOOK_SECONDS)
