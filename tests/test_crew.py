"""Threads of our own: all have done their work, and let go of the caller's memory, when a call ends."""

import contextlib
import functools
import os
import signal
import threading
import time
import weakref

import pytest
from helpers import run_python

from nbfagg.cpu import crew


@pytest.fixture(autouse=True)
def own(monkeypatch):
    monkeypatch.setattr(crew, "_idle", [])
    monkeypatch.setattr(crew, "_count", 0)


def late(done, first=lambda: None):
    """Make work that is over late in every thread but the caller's, which does `first`."""
    begun = threading.Barrier(3)

    def do(worker):
        # So that each has begun when the caller's own part ends.
        begun.wait(30)
        if worker == 0:
            first()
        else:
            # The first one that is waited for takes longest.
            time.sleep(0.6 / worker)
            done.append(worker)

    return do


def test_all_are_done_in_the_end():
    done = []
    for _ in range(2):
        crew.work(late(done), 3, 2)
    assert sorted(done) == [1, 1, 2, 2]
    assert crew._count == len(crew._idle) == 2


def test_they_are_waited_for_after_an_error():
    done = []

    def fail():
        raise KeyError("the caller's own")

    with pytest.raises(KeyError, match="own"):
        crew.work(late(done, fail), 3, 2)
    assert sorted(done) == [1, 2]


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="no timer")
def test_an_error_in_a_thread_is_the_callers():
    code = """
import signal
from nbfagg.cpu import crew

def fail(worker):
    if worker == 1:
        raise KeyError("the thread's")

signal.alarm(20)  # ends the process, should the thread have ended without a word
for _ in range(2):
    try:
        crew.work(fail, 2, 2)
    except KeyError as error:
        print(error, crew._count, len(crew._idle))
"""
    assert run_python(code) == 2 * '"the thread\'s" 1 1\n'


def test_an_idle_thread_holds_nothing_of_the_callers():
    class Memory:
        pass

    memory = Memory()
    gone = weakref.ref(memory)
    crew.work(functools.partial(lambda memory, worker: None, memory), 2, 2)
    del memory
    # It says that it is done after it let go.
    assert crew._count == len(crew._idle) == 1
    assert gone() is None


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer")
def test_a_signal_does_not_end_the_wait():
    done = []

    def interrupt(number, frame):
        raise InterruptedError(f"with {len(done)} done")

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(InterruptedError, match="with 0 done"):
            crew.work(late(done, lambda: signal.setitimer(signal.ITIMER_REAL, 0.05)), 3, 2)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert sorted(done) == [1, 2]


@pytest.mark.skipif(not hasattr(signal, "SIGUSR2"), reason="no such signals")
def test_two_signals_at_once_do_not_end_the_wait():
    done = []

    def interrupt(number, frame):
        raise InterruptedError

    signals = signal.SIGUSR1, signal.SIGUSR2
    before = [signal.signal(number, interrupt) for number in signals]

    def send():
        # Neither handler runs before both have been sent.
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        for number in signals:
            os.kill(os.getpid(), number)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    try:
        with pytest.raises(InterruptedError):
            crew.work(late(done, send), 3, 2)
    finally:
        for number, handler in zip(signals, before, strict=True):
            # On a busy machine the second one may come as late as this.
            with contextlib.suppress(InterruptedError):
                signal.signal(number, interrupt)
            signal.signal(number, handler)
    assert sorted(done) == [1, 2]


@pytest.mark.skipif(not hasattr(signal, "alarm"), reason="no timer")
def test_a_handler_that_raises_when_the_lock_has_been_had():
    """Between the lock and the next line: it must not be waited for once more."""
    code = """
import signal, threading
from nbfagg.cpu import crew

class Lock:
    def __init__(self):
        self.real, self.taken = threading.Lock(), 0

    def acquire(self):
        self.real.acquire()
        self.taken += 1
        if self.taken == 2 and threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt

    def release(self):
        self.real.release()

crew.Lock = Lock
signal.alarm(20)  # ends the process, should it wait for ever
done = []
try:
    crew.work(done.append, 3, 2)
except KeyboardInterrupt:
    print(sorted(done))
"""
    assert run_python(code) == "[0, 1, 2]\n"


def test_there_are_no_more_than_may_be():
    done = []
    crew.work(late(done), 5, 2)
    assert sorted(done) == [1, 2]
    assert crew._count == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_has_threads_of_its_own():
    code = """
import os, signal, threading
from nbfagg.cpu import crew

def meet():
    together = threading.Barrier(3)
    crew.work(lambda worker: together.wait(30), 3, 2)

meet()
child = os.fork()
if child == 0:
    signal.alarm(20)  # ends the child, should it wait for threads that it has not
    meet()
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert run_python(code) == "0\n"
