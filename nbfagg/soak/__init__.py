"""``nbfagg check --soak MINUTES``: random calls of every public function, from several threads at once.

Round n is made from the seed + n alone, whichever thread plays it: random logits, axes, masks, layouts and
options, then calls whose results are compared with `nbfagg.reference` by the bounds of `nbfagg.promises`.
Now and then a round is played in a forked child, or asks for what must be refused. Resident memory is looked
at between rounds, when no thread plays one.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from nbfagg.cpu import drive, launch
from nbfagg.cpu.tasks import Task
from nbfagg.soak.calls import Failure, Tally
from nbfagg.soak.memory import ALLOWED, Watch, give_back
from nbfagg.soak.rounds import play

# A third of the time, this many minutes at most: kernels are compiled or loaded, caches filled.
WARM_UP = 5.0
# Memory of a soak that is over before this many minutes is shown, not judged.
JUDGED_FROM = 3.0
# Seconds between two looks at memory, and between two lines of progress where there is no bar.
LOOK, SAY = 15.0, 30.0


class _Players:
    """Threads that play rounds until one fails or time is up."""

    def __init__(self, seed: int, count: int) -> None:
        self.tallies = [Tally() for _ in range(count)]
        self.failure: tuple[int, Failure] | None = None
        self._seeds = itertools.count(seed)
        self._over = threading.Event()
        self._go = threading.Event()
        self._go.set()
        self._playing = [threading.Lock() for _ in range(count)]
        self._threads = [
            threading.Thread(target=self._run, args=pair, name="nbfagg soak")
            for pair in zip(self.tallies, self._playing, strict=True)
        ]

    def _run(self, tally: Tally, playing: threading.Lock) -> None:
        _fill_workspace()
        while not self._over.is_set():
            self._go.wait()
            with playing:
                seed = next(self._seeds)
                try:
                    play(tally, seed)
                except Failure as failure:
                    self.failure = self.failure or (seed, failure)
                    self._over.set()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait; say whether it is over before."""
        return self._over.wait(seconds)

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Let no thread play."""
        self._go.clear()
        for lock in self._playing:
            lock.acquire()
        try:
            yield
        finally:
            for lock in self._playing:
                lock.release()
            self._go.set()

    def total(self) -> Tally:
        total = Tally()
        for tally in self.tallies:
            total.add(tally)
        return total


@dataclass(frozen=True)
class Report:
    """What a soak found.

    Attributes
    ----------
    minutes : float
        That it took.
    threads : int
        That played at once.
    tally : Tally
        What was called how often, and the worst errors.
    failure : tuple of int and Failure, or None
        The seed of the round that failed, and how.
    resident, growth : float or None
        MiB after warming up, and the most that came on top; None where the system does not say.
    """

    minutes: float
    threads: int
    tally: Tally
    failure: tuple[int, Failure] | None
    resident: float | None
    growth: float | None

    @property
    def calls(self) -> int:
        """How many calls there were in all."""
        return sum(self.tally.calls.values())


def run(minutes: float, seed: int = 0, threads: int | None = None) -> int:
    """Play rounds for some time and show what was found.

    Parameters
    ----------
    minutes : float
        For how long. 0 plays the round of this seed alone, in this thread.
    seed : int
        Of the first round.
    threads : int, optional
        That play at once; two more than there are CPUs by default.

    Returns
    -------
    int
        0; or 1 where a result was not as promised, or memory grew.
    """
    if minutes == 0:
        return _one(seed)
    report = soak(minutes, seed, threads)
    each_second = report.calls / (60 * report.minutes)
    print(
        f"{report.calls:,} calls in {report.minutes:.1f} min ({each_second:,.0f} a second), "
        f"{report.threads} threads"
    )
    _show(report.tally)
    if report.failure is not None:
        return _failed(*report.failure)
    if status := _memory(report, minutes):
        return status
    print("each call was as promised")
    return 0


def soak(minutes: float, seed: int = 0, threads: int | None = None) -> Report:
    """Play rounds for some time, from this seed on, and show how far it is."""
    give_back()
    if minutes >= JUDGED_FROM:
        _load_kernels()
    players, watch = _Players(seed, threads or 2 + (os.cpu_count() or 1)), Watch()
    began = time.monotonic()
    end = began + 60 * minutes
    next_look = began + 60 * min(WARM_UP, minutes / 3)
    with _strict():
        players.start()
        try:
            with _progress(60 * minutes) as show:
                while (now := time.monotonic()) < end:
                    if players.wait(min(1.0, end - now)):
                        break
                    now = time.monotonic()
                    calls = sum(players.total().calls.values())
                    show(now - began, f"{calls:,} calls, {calls / (now - began):,.0f} a second")
                    if now >= next_look:
                        with players.paused():
                            watch.look()
                        next_look = time.monotonic() + LOOK
        finally:
            players.stop()
    took = time.monotonic() - began
    if players.failure is None and watch.first is not None:
        watch.look()
    return Report(
        took / 60, len(players.tallies), players.total(), players.failure, watch.first, watch.growth
    )


def _load_kernels() -> None:
    """Have every task's function before memory is looked at: 44 MiB came with one that an hour met late."""
    for task in vars(drive).values():
        if isinstance(task, Task):
            for kind in np.float32, np.float64:
                task.address(kind(0))


def _fill_workspace() -> None:
    """Have as much as this thread ever keeps, before memory is looked at; a late large call brought 4 MiB."""
    workspace = launch.take_workspace(launch.KEPT_BYTES - 64)
    workspace[0].fill(0)
    launch.keep_workspace(workspace)


@contextmanager
def _strict() -> Iterator[None]:
    """Take a warning for an error: a call that warns is not as promised."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # That a process with threads forks is what is wanted here.
        warnings.filterwarnings("ignore", ".*fork.*", DeprecationWarning)
        yield


def _one(seed: int) -> int:
    tally = Tally()
    try:
        with _strict():
            play(tally, seed)
    except Failure as failure:
        print(f"FAILED, seed {seed}: {failure}")
        return 1
    _show(tally)
    print("each call was as promised")
    return 0


def _failed(seed: int, failure: Failure) -> int:
    print(f"\nFAILED, seed {seed}: {failure}")
    try:
        with _strict():
            play(Tally(), seed)
    except Failure:
        print(f"nbfagg check --soak 0 --seed {seed} repeats it")
    else:
        print(f"seed {seed} passes alone: it takes what other threads or rounds before it did")
    return 1


def _memory(report: Report, minutes: float) -> int:
    if report.growth is None:
        print("resident memory: this system does not say")
        return 0
    print(
        f"resident memory: {report.resident:.1f} MiB after warming up, at most {report.growth:+.1f} MiB since"
    )
    if report.growth > ALLOWED and minutes >= JUDGED_FROM:
        print(f"\nFAILED: memory grew by more than {ALLOWED:g} MiB")
        return 1
    return 0


def _show(tally: Tally) -> None:
    print("\ncalls")
    for name, count in sorted(tally.calls.items()):
        print(f"  {name:<28}{count:>12,}")
    print(f"  {'forked children':<28}{tally.children:>12,}")
    print("\nlargest error as a share of what is allowed (half precision: 0 if rounded rightly)")
    for name, worst in sorted(tally.worst.items()):
        print(f"  {name:<28}{worst:>12.2f}")
    print(flush=True)


@contextmanager
def _progress(seconds: float) -> Iterator[Callable[[float, str], None]]:
    """Give a function that shows how far it is: a bar on a terminal with rich, or lines."""
    if sys.stderr is not None and sys.stderr.isatty():
        try:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
        except ImportError:
            pass
        else:
            columns = TextColumn("soak"), BarColumn(), TimeRemainingColumn(), TextColumn("{task.description}")
            with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
                task = bar.add_task("", total=seconds)
                yield lambda done, said: bar.update(task, completed=done, description=said)
            return
    said_at = 0.0

    def say(done: float, said: str) -> None:
        nonlocal said_at
        if done >= said_at + SAY and sys.stderr is not None:
            said_at = done
            print(f"soak: {done / 60:.1f} of {seconds / 60:g} min, {said}", file=sys.stderr, flush=True)

    yield say
