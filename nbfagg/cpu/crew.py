"""Threads of our own, for where Numba's must not start: 80 us to wake on another core, where its take 2.

They wait in the kernel, not in a loop. A caller draws tasks from the same
queue as they do, so it ends whether or not any of them comes.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable


class _Hand:
    """A thread that waits for work, does it, and puts itself back among the idle ones."""

    def __init__(self) -> None:
        self._wanted = threading.Lock()
        self._wanted.acquire()
        self._work: Callable[[], None]
        self._done: threading.Lock
        # Nothing is lost if it dies with the process: every caller waits for its own.
        threading.Thread(target=self._run, name="nbfagg", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._wanted.acquire()
            work, done = self._work, self._done
            work()
            # An idle thread holds on to nothing of the caller's.
            del work, self._work
            # From here on the next caller may have given it work.
            _idle.append(self)
            done.release()

    def start(self, work: Callable[[], None]) -> threading.Lock:
        """Give it work, and give a lock that can be acquired once when that is done."""
        self._work, self._done = work, threading.Lock()
        done = self._done
        done.acquire()
        self._wanted.release()
        return done


def _attempt(do: Callable[[int], None], worker: int, failed: list[BaseException]) -> None:
    """Let an error be the caller's: a thread that it ended would never say that it is done."""
    try:
        do(worker)
    except BaseException as error:
        failed.append(error)


def _wait(done: threading.Lock) -> BaseException | None:
    """Wait until work is done, and give what a signal's handler raised meanwhile."""
    raised = None
    while True:
        try:
            done.acquire()
            return raised
        except BaseException as error:
            raised = error


_idle: list[_Hand] = []
_count = 0


def _forget() -> None:
    """Have none: a forked child has no thread but its own."""
    global _idle, _count
    _idle, _count = [], 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _take(most: int) -> _Hand | None:
    """Give an idle thread, or a new one if there are fewer than `most`."""
    global _count
    try:
        return _idle.pop()
    except IndexError:
        if _count >= most:
            return None
    try:
        hand = _Hand()
    except RuntimeError:
        # No thread can be had: a limit of the system, or the interpreter is about to end.
        return None
    # Two threads may count at once and make one too many: harmless.
    _count += 1
    return hand


def work(do: Callable[[int], None], count: int, most: int) -> None:
    """Call `do` with 0 to `count` - 1 at once: 0 in this thread, others where a thread is idle.

    `most` is how many threads there may be in all, beside those that call.
    """
    started: list[threading.Lock] = []
    failed: list[BaseException] = []
    raised = None
    try:
        for worker in range(1, count):
            hand = _take(most)
            if hand is None:
                break
            started.append(hand.start(functools.partial(_attempt, do, worker, failed)))
        do(0)
    finally:
        # They work in memory of the caller's: it must not end before they do.
        for done in started:
            raised = _wait(done) or raised
    for error in (raised, *failed):
        if error is not None:
            raise error
