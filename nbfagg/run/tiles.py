"""How a file is walked: tiles that fit the memory, in the file's order, and what is done with each.

Where a tile can hold whole batch rows it is a call of `fagg`. Else tiles leave states, which are gathered
over a region of the result as large as a quarter of the memory can hold: a whole number of batch rows; or,
where one row has more tokens than that, a stretch of its tokens. Of such a row every stretch has to be seen
before any can be finished. Its states wait in a file, if that moves fewer bytes than a second reading.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nbfagg.run.sources import Index

# A cell of a state: maximum, sum, what that lost.
CELL = 24
# 16 and 32 MiB were as fast; 8 MiB 10 %, 2 MiB 25 % slower.
LARGEST_TILE = 32 * 1024 * 1024


@dataclass(frozen=True)
class Step:
    """One thing to do, in order."""

    # "whole": aggregate a tile, write it.
    # "state": take a tile into the region's states.
    # "total": add the region's states to the totals of its rows, and keep them if `spilled`.
    # "load": take the region's states back. "finish": write the region.
    # "next": forget the totals; other rows follow.
    kind: str
    index: Index  # of the logits for "whole" and "state", else of the result
    region: Index = ()  # of the result, for "state"


@dataclass(frozen=True)
class Layout:
    """How an array is cut."""

    shape: tuple[int, ...]
    batch: tuple[int, ...]
    keep: tuple[int, ...]
    tile: tuple[int, ...]
    region: tuple[int, ...] | None  # of the result; None where tiles hold whole rows
    spilled: bool

    @property
    def result(self) -> tuple[int, ...]:
        """The axes of the result."""
        return tuple(sorted(self.batch + self.keep))

    @property
    def result_shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        return tuple(self.shape[axis] for axis in self.result)

    @property
    def whole_tokens(self) -> bool:
        """Whether a tile has all terms of each of its tokens."""
        summed = (axis for axis in range(len(self.shape)) if axis not in self.result)
        return all(self.tile[axis] == self.shape[axis] for axis in summed)

    @property
    def passes(self) -> int:
        """How often the logits are read."""
        extents = dict(zip(self.result, self.region or self.result_shape, strict=True))
        cut = any(extents[axis] < self.shape[axis] for axis in self.keep)
        return 2 if cut and not self.spilled else 1

    def steps(self) -> Iterator[Step]:
        """Give what is to be done, in order."""
        if self.region is None:
            for index in pieces([(0, size) for size in self.shape], self.tile):
                yield Step("whole", index)
            return
        extents = dict(zip(self.result, self.region, strict=True))
        everything = [(0, size) for size in self.result_shape]
        rows = [extents[axis] if axis in self.batch else self.shape[axis] for axis in self.result]
        for group in pieces(everything, rows):
            regions = list(pieces([(part.start, part.stop) for part in group], self.region))
            if len(regions) == 1:
                yield from self._states(regions[0])
                yield Step("finish", regions[0])
                continue
            for region in regions:
                yield from self._states(region)
                yield Step("total", region)
            for region in regions:
                if self.spilled:
                    yield Step("load", region)
                else:
                    yield from self._states(region)
                yield Step("finish", region)
            yield Step("next", group)

    def _states(self, region: Index) -> Iterator[Step]:
        parts = dict(zip(self.result, region, strict=True))
        bounds = [
            (parts[axis].start, parts[axis].stop) if axis in parts else (0, size)
            for axis, size in enumerate(self.shape)
        ]
        for index in pieces(bounds, self.tile):
            yield Step("state", index, region)


def pieces(bounds: list[tuple[int, int]], extents: tuple[int, ...] | list[int]) -> Iterator[Index]:
    """Cut a box into smaller ones, in C order."""
    cuts = [
        [slice(low, min(low + extent, stop)) for low in range(start, stop, extent)]
        for (start, stop), extent in zip(bounds, extents, strict=True)
    ]
    return itertools.product(*cuts)


def lay_out(
    shape: tuple[int, ...],
    itemsize: int,
    batch: tuple[int, ...],
    keep: tuple[int, ...],
    memory: int,
    threads: int,
    chunks: tuple[int, ...],
    mask_bytes: int = 0,
) -> Layout:
    """Decide how an array is cut, for `memory` bytes and tiles in so many threads.

    `chunks` are those in which it is best read; of a mask a logit has `mask_bytes`.
    """
    result = tuple(sorted(batch + keep))
    summed = tuple(axis for axis in range(len(shape)) if axis not in result)
    # A quarter for tiles (one more than there are threads waits to be taken up), one for a region's states.
    room = min(LARGEST_TILE, memory // 4 // (threads + 1))
    each = itemsize + mask_bytes

    def whole(extents: list[int]) -> int:
        return math.prod(extents) * each + math.prod(extents[axis] for axis in result) * 2 * itemsize

    tile = _cut(list(shape), whole, room, chunks, range(len(shape)))
    if all(tile[axis] == shape[axis] for axis in keep + summed):
        return Layout(shape, batch, keep, tuple(tile), None, False)

    def states(extents: list[int]) -> int:
        return math.prod(extents) * each + math.prod(extents[axis] for axis in result) * 2 * CELL

    def cells(extents: list[int]) -> int:
        return math.prod(extents[axis] for axis in result) * CELL

    # Batch rows first, then tokens.
    region = _cut(list(shape), cells, memory // 4, chunks, (*batch, *keep))
    tile = [size if axis in summed else min(size, region[axis]) for axis, size in enumerate(shape)]
    tile = _cut(tile, states, room, chunks, range(len(shape)))
    terms = math.prod(shape[axis] for axis in summed)
    return Layout(
        *(shape, batch, keep, tuple(tile), tuple(region[axis] for axis in result)),
        spilled=terms * each > 2 * CELL,
    )


def _cut(
    extents: list[int],
    cost: Callable[[list[int]], int],
    room: int,
    chunks: tuple[int, ...],
    axes: range | tuple[int, ...],
) -> list[int]:
    """Shorten axes one after the other, to whole chunks or to 1, until what is left has room."""
    extents = list(extents)
    for axis in axes:
        if cost(extents) <= room:
            break
        full = extents[axis]
        extents[axis] = 1
        most = max(1, room // max(1, cost(extents)))
        if most >= chunks[axis]:
            most -= most % chunks[axis]
        extents[axis] = min(full, most)
    return extents
