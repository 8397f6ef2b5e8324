"""Threads of our own, for where Numba's must not start: 80 us to wake on another core, where its take 2.

They wait in the kernel, not in a loop. A caller draws tasks from the same
queue as they do, so it ends whether or not any of them comes.
"""

from __future__ import annotations

import operator
import os
import threading
from collections.abc import Callable
from threading import Lock


class _Part:
    """What one thread is to do of a call."""

    def __init__(self, do: Callable[[int], None], worker: int) -> None:
        self._do = do
        self._worker = worker
        self.error: BaseException | None = None
        self.finished = False
        # Held until it is finished.
        self.done = Lock()
        self.done.acquire()

    def run(self) -> None:
        """Do it; an error is the caller's, for a thread that it ended would never say that it is done."""
        # An idle thread holds on to nothing of the caller's.
        do = self._do
        del self._do
        try:
            do(self._worker)
        except BaseException as error:
            self.error = error


class _Hand:
    """A thread that waits for a part of a call, does it, and puts itself back among the idle ones."""

    def __init__(self) -> None:
        # Held while there is nothing to do.
        self.wanted = Lock()
        self.wanted.acquire()
        self.part: _Part
        # Nothing is lost if it dies with the process: every caller waits for its own.
        threading.Thread(target=self._run, name="nbfagg", daemon=True).start()

    def _run(self) -> None:
        while True:
            self.wanted.acquire()
            part = self.part
            part.run()
            # From here on another caller may have it.
            _idle.append(self)
            part.finished = True
            part.done.release()


_RELEASE = operator.methodcaller("release")

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


def can_start(count: int) -> bool:
    """Say whether so many threads can be had at once, beside those that there are."""
    over = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=over.wait, name="nbfagg", daemon=True)
            thread.start()
            started.append(thread)
    except (RuntimeError, MemoryError):
        return False
    finally:
        over.set()
        for thread in started:
            thread.join()
    return True


def work(do: Callable[[int], None], count: int, most: int) -> None:
    """Call `do` with 0 to `count` - 1 at once: 0 in this thread, others where a thread is idle.

    `most` is how many threads there may be in all, beside those that call.

    A signal's handler may raise after any call here. Whatever it interrupts, those that were started are
    waited for: they work in the caller's memory.
    """
    hands: list[_Hand] = []
    parts: list[_Part] = []
    started: list[None] = []

    def wait() -> None:
        for part in parts[: len(started)]:
            # A handler may raise when the lock has just been had: then it is finished.
            while not part.finished:
                part.done.acquire()

    # Handlers of several signals may raise one right after the other, each before a line of Python is over:
    # there is a `finally` for each of them.
    try:
        try:
            try:
                try:
                    for worker in range(1, count):
                        hand = _take(most)
                        if hand is None:
                            break
                        hands.append(hand)
                        parts.append(_Part(do, worker))
                        hand.part = parts[-1]
                    # In one call of C, during which no handler runs: what is started is counted.
                    started.extend(map(_RELEASE, [hand.wanted for hand in hands]))
                    do(0)
                finally:
                    wait()
            finally:
                wait()
        finally:
            wait()
    finally:
        wait()
        _idle.extend(hands[len(started) :])
    for part in parts:
        if part.error is not None:
            raise part.error
