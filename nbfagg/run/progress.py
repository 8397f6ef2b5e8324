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
    try:
        import rich.progress as bars
        from rich.console import Console
    except ImportError:
        yield lambda _: None
        return
    console = Console(file=sys.stderr)
    numbers: list[Any] = [
        bars.TaskProgressColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(elapsed_when_finished=True),
    ]
    columns = [bars.TextColumn("nbfagg run"), bars.BarColumn(), *numbers]
    progress = bars.Progress(*columns, console=console, disable=not console.is_terminal)
    task = progress.add_task("read", total=total, completed=done)
    progress.start_task(task)
    if console.is_terminal:
        with progress:
            yield lambda count: progress.advance(task, count)
        return
    began = time.monotonic()
    due = began + FIRST_LINE_SECONDS

    def advance(count: int) -> None:
        nonlocal due
        progress.advance(task, count)
        if time.monotonic() >= due:
            due = time.monotonic() + LINE_SECONDS
            state = progress.tasks[0]
            line = " ".join(str(column.render(state)) for column in numbers)
            print(f"nbfagg run: {line} left", file=sys.stderr, flush=True)

    yield advance
    seconds = time.monotonic() - began
    gigabytes = (total - done) / 1e9
    rate = gigabytes / max(seconds, 1e-9)
    print(f"nbfagg run: {gigabytes:.3g} GB in {seconds:.1f} s, {rate:.2f} GB/s", file=sys.stderr, flush=True)
