"""A run on one machine: tiles are read and aggregated in threads, and their results taken up in order.

Each thread reads a tile and aggregates it by itself, on one of Numba's threads: while some wait for the disk
the others compute, and no thread waits for another one's share of a tile.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt

import nbfagg
from nbfagg import State, inputs
from nbfagg.plan import BRAIN
from nbfagg.run.checkpoint import Arrays, Checkpoint
from nbfagg.run.finish import weights
from nbfagg.run.progress import Advance
from nbfagg.run.sources import Index, Source
from nbfagg.run.targets import Target, bytes_of, read_at, write_at
from nbfagg.run.tiles import Layout, Step
from nbfagg.state import take_in

# How long a signal may wait to be seen.
LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class Job:
    """What is to be computed."""

    source: Source
    where: Source | None
    lengths: npt.NDArray[np.int64] | None
    layout: Layout
    scale: float
    log: bool

    def options(self, index: Index) -> dict[str, Any]:
        """Give the arguments of a tile's call."""
        layout = self.layout
        found: dict[str, Any] = {"batch_axis": layout.batch, "keep_axis": layout.keep, "scale": self.scale}
        found["workers"] = 1
        if self.lengths is not None:
            rows, tokens = index[layout.batch[0]], index[layout.keep[0]]
            count = tokens.stop - tokens.start
            found["lengths"] = inputs.lengths_here(self.lengths[rows], tokens.start, count)
        return found

    def tile(self, step: Step, cells: npt.NDArray[np.float64] | None) -> Any:
        """Read a tile and give its weights or its state, whose cells there may be room for."""
        options = self.options(step.index)
        seen: Index = ()
        if self.where is not None:
            shape = self.where.shape
            ours = step.index[len(step.index) - len(shape) :]
            seen = tuple(slice(0, 1) if size == 1 else part for size, part in zip(shape, ours, strict=True))
            options["where"] = self.where.read(seen)
        a = self.source.read(step.index)
        try:
            if step.kind == "whole":
                return nbfagg.fagg(a, log=self.log, **options)
            return take_in(a, cells, **options)
        finally:
            self.source.done(step.index)
            if self.where is not None:
                self.where.done(seen)


class Interrupted(Exception):
    """A signal asked the run to end."""

    def __init__(self, number: int) -> None:
        self.number = number


class Signals:
    """Ctrl-C and SIGTERM, noted and looked at between steps; a second one ends at once."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            raise KeyboardInterrupt
        self.number = number

    def look(self) -> None:
        """Raise, if one has come."""
        if self.number:
            raise Interrupted(self.number)


class Run:
    """The steps of a job, from one of them on."""

    def __init__(
        self,
        job: Job,
        target: Target,
        checkpoint: Checkpoint,
        cells_path: Path,
        position: int,
        arrays: Arrays,
    ) -> None:
        self.job, self.target, self.checkpoint = job, target, checkpoint
        self.position = position
        # Of the region that is being gathered, and of its rows.
        self.region: npt.NDArray[np.float64] | None = arrays.get("region")
        self.totals: npt.NDArray[np.float64] | None = arrays.get("totals")
        self.spilled = int(arrays["spilled"]) if "spilled" in arrays else 0
        self.loaded = int(arrays["loaded"]) if "loaded" in arrays else 0
        self._cells, self._cells_path = -1, cells_path
        self._pool: Executor
        if job.layout.spilled:
            self._cells = os.open(self._cells_path, os.O_CREAT | os.O_RDWR, 0o666)
        like = np.empty((0,) * len(job.layout.shape), job.source.dtype)
        self._like = State.of(like, batch_axis=(), keep_axis=(), scale=job.scale)

    def go(self, threads: int, advance: Advance, look: Callable[[], None]) -> None:
        """Do every step that is left; save how far it came before an error is raised."""
        steps = itertools.islice(self.job.layout.steps(), self.position, None)
        pool = self._pool = ThreadPoolExecutor(threads, "nbfagg-tile")
        waiting: deque[tuple[Step, Future[Any] | None]] = deque()
        try:
            # One more than there are threads, lest they wait for what is done here.
            for step, tile in self._ahead(steps, pool, waiting, threads + 1):
                found = None
                if tile is not None:
                    found = _result(tile, look)
                    advance(self.nbytes(step.index))
                look()
                self._take(step, found)
                self.position += 1
                if self.checkpoint.is_due():
                    self.save()
        except Exception:
            # No step is half done: each changes what it leaves behind last of all.
            for _, future in waiting:
                if future is not None:
                    future.cancel()
            pool.shutdown()
            with contextlib.suppress(OSError):
                self.save()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
            if self._cells >= 0:
                os.close(self._cells)

    def nbytes(self, index: Index) -> int:
        """Give the size of a tile."""
        numbers: int = math.prod(part.stop - part.start for part in index)
        return numbers * self.job.source.dtype.itemsize

    def _ahead(
        self,
        steps: Iterator[Step],
        pool: ThreadPoolExecutor,
        waiting: deque[tuple[Step, Future[Any] | None]],
        count: int,
    ) -> Iterator[tuple[Step, Future[Any] | None]]:
        """Give each step, with so many tiles under way at most."""
        under_way = 0
        for step in steps:
            tile = None
            if step.kind in ("whole", "state"):
                tile = pool.submit(self.job.tile, step, self._room(step))
            under_way += tile is not None
            waiting.append((step, tile))
            while under_way >= count:
                under_way -= waiting[0][1] is not None
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()

    def _take(self, step: Step, found: Any) -> None:
        """Do what is done in order."""
        layout = self.job.layout
        if step.kind == "whole":
            self.target.write(tuple(step.index[axis] for axis in layout.result), stored(found))
        elif step.kind == "state":
            self._merge(step, found)
        elif step.kind == "total":
            self._add_total(step.index)
        elif step.kind == "load":
            self._load(step.index)
        elif step.kind == "finish":
            state = self._state(self._gathered(step.index))
            total = None if self.totals is None else self._total(self.totals)
            self.target.write(step.index, stored(weights(state, total, self.job.log, self._pool)))
            self.region = None
        else:
            self.totals, self.spilled, self.loaded = None, 0, 0

    def _gathered(self, region: Index) -> npt.NDArray[np.float64]:
        """Give the region's cells, at first those of nothing where tiles are merged into them."""
        if self.region is None:
            self.region = np.empty((*(part.stop - part.start for part in region), 3))
            if not self.job.layout.whole_tokens:
                self.region[...] = -math.inf, 0.0, 0.0
        return self.region

    def _room(self, step: Step) -> npt.NDArray[np.float64] | None:
        """Give the place of a tile's states, if its thread can write them there: a copy less of each.

        Of a run that ended before it took the tile up, they are written again.
        """
        layout = self.job.layout
        if step.kind != "state" or not layout.whole_tokens or layout.region != layout.result_shape:
            return None
        cells = self._place(step)
        return cells if cells.flags.c_contiguous else None

    def _place(self, step: Step) -> npt.NDArray[np.float64]:
        """Give a tile's part of its region's cells."""
        place = tuple(
            slice(step.index[axis].start - part.start, step.index[axis].stop - part.start)
            for axis, part in zip(self.job.layout.result, step.region, strict=True)
        )
        return self._gathered(step.region)[place]

    def _merge(self, step: Step, state: State) -> None:
        """Merge a tile's state into the region's, or put it there if it has all terms of its tokens."""
        cells = self._place(step)
        if not self.job.layout.whole_tokens:
            state = replace(state, cells=cells).merge(state)
        if not np.may_share_memory(cells, state.cells):
            cells[...] = state.cells

    def _state(self, cells: npt.NDArray[np.float64]) -> State:
        """Give the state of a region."""
        layout = self.job.layout
        dims = tuple(layout.result.index(axis) for axis in layout.batch)
        return replace(self._like, cells=cells, batch_dims=dims)

    def _total(self, cells: npt.NDArray[np.float64]) -> State:
        """Give the state of whole rows."""
        return replace(self._like, cells=cells, batch_dims=tuple(range(cells.ndim - 1)))

    def _add_total(self, region: Index) -> None:
        """Add a region to its rows' totals, and put it aside."""
        state = self._state(self._gathered(region))
        total = state.total()
        if self.totals is not None:
            total = self._total(self.totals).merge(total)
        end = self.spilled
        if self._cells >= 0:
            data = bytes_of(state.cells)
            write_at(self._cells, data, self.spilled, self.checkpoint.path)
            end += len(data)
        self.totals, self.spilled, self.region = total.cells, end, None

    def _load(self, region: Index) -> None:
        """Take a region back."""
        cells = np.empty((*(part.stop - part.start for part in region), 3))
        read_at(self._cells, bytes_of(cells), self.loaded, self._cells_path)
        self.region, self.loaded = cells, self.loaded + cells.nbytes

    def save(self) -> None:
        """Save how far it came."""
        arrays: Arrays = {"spilled": np.array(self.spilled), "loaded": np.array(self.loaded)}
        for name, array in (("region", self.region), ("totals", self.totals)):
            if array is not None:
                arrays[name] = array
        self.checkpoint.save(self.position, arrays, self._sync)

    def _sync(self) -> None:
        self.target.sync()
        if self._cells >= 0:
            os.fdatasync(self._cells)


def stored(alpha: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Give weights as they are written: bfloat16, which neither format has, as float32, exactly."""
    if alpha.dtype != BRAIN:
        return alpha
    return (alpha["bfloat16"].astype(np.uint32) << 16).view(np.float32)


def _result(tile: Future[Any], look: Callable[[], None]) -> Any:
    """Wait for a tile, and look for signals meanwhile."""
    while True:
        try:
            return tile.result(LOOK_SECONDS)
        except TimeoutError:
            if tile.done():
                # Its own error; or it has come meanwhile.
                return tile.result()
            look()
