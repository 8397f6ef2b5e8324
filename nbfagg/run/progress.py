"""How far a run is: a bar on a terminal, else a plain line now and then."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

# Of plain lines.
FIRST_LINE_SECONDS, LINE_SECONDS = 10.0, 60.0

Advance = Callable[[int], None]


@contextlib.contextmanager
def shown(total: int, done: int) -> Iterator[Advance]:
    """Show on stderr how many of `total` bytes are read, `done` of them by an earlier run.

    Gives what is to be called with the bytes of each tile.
    """
    if sys.stderr is not None and sys.stderr.isatty():
        with _bar(total, done) as advance:
            yield advance
        return
    began = time.monotonic()
    due = began + FIRST_LINE_SECONDS
    tiles: list[tuple[float, int]] = []

    def note(count: int) -> None:
        nonlocal due
        tiles.append((time.monotonic(), count))
        if tiles[-1][0] >= due:
            due = tiles[-1][0] + LINE_SECONDS
            _say(_line(total, done, began, tiles))

    yield note
    seconds = time.monotonic() - began
    gigabytes = (total - done) / 1e9
    _say(f"{gigabytes:.3g} GB in {seconds:.1f} s, {gigabytes / max(seconds, 1e-9):.2f} GB/s")


@contextlib.contextmanager
def _bar(total: int, done: int) -> Iterator[Advance]:
    try:
        import rich.progress as bars
        from rich.console import Console
    except ImportError:
        yield lambda _: None
        return
    columns = [bars.TextColumn("nbfagg run"), bars.BarColumn(), *_numbers()]
    with bars.Progress(*columns, console=Console(file=sys.stderr)) as progress:
        task = progress.add_task("read", total=total, completed=done)
        yield lambda count: progress.advance(task, count)


def _line(total: int, done: int, began: float, tiles: list[tuple[float, int]]) -> str:
    """Give the numbers that a bar would show after these tiles; nothing without rich.

    It is imported here, since a short run shows no line: that is a tenth of its time.
    """
    try:
        from rich.progress import Progress
    except ImportError:
        return ""
    now = began
    progress = Progress(get_time=lambda: now, disable=True)
    task = progress.add_task("read", total=total, completed=done)
    for now, count in tiles:  # noqa: B007 (the clock)
        progress.advance(task, count)
    return " ".join(str(column.render(progress.tasks[0])) for column in _numbers()) + " left"


def _numbers() -> list[Any]:
    import rich.progress as bars

    return [
        bars.TaskProgressColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(elapsed_when_finished=True),
    ]


def _say(line: str) -> None:
    if line:
        print(f"nbfagg run: {line}", file=sys.stderr, flush=True)
