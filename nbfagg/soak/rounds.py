"""One round: the problem that a seed makes, and calls on it, in this process or in a forked child."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
import traceback

import numpy as np

from nbfagg.soak.calls import Failure, Tally, forward, gradient, packed, states
from nbfagg.soak.problems import chance, packed_problem, problem
from nbfagg.soak.refused import refused

FORKS = 1 / 300
# A child that takes longer hangs: what may keep it is the compilation of a kernel.
PATIENCE = 60.0


def play(tally: Tally, seed: int) -> None:
    """Play the round of this seed; raise Failure where something is not as promised."""
    random = np.random.default_rng(seed)
    if chance(random, FORKS) and hasattr(os, "fork"):
        _in_a_child(tally, seed)
    else:
        _play(tally, seed)


def _play(tally: Tally, seed: int) -> None:
    random = np.random.default_rng([seed, 1])
    try:
        if chance(random, 0.2):
            made, offsets = packed_problem(random)
            packed(tally, made, offsets, random)
            return
        made = problem(random)
        forward(tally, made, random)
        if chance(random, 0.5):
            gradient(tally, made, random)
        if chance(random, 0.4) and made.batch + made.keep:
            states(tally, made, random)
        if chance(random, 0.2):
            refused(tally, made, random)
    except Failure:
        raise
    except Exception as error:
        raise Failure(f"{type(error).__name__}: {error}\n{traceback.format_exc()}") from error


def _in_a_child(tally: Tally, seed: int) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        # Whatever happens, the child must not go on as the parent does.
        code = 2
        try:
            # Where it hangs, if it does.
            faulthandler.dump_traceback_later(0.9 * PATIENCE, file=writing)
            try:
                _play(Tally(), seed)
                code = 0
            except Failure as failure:
                os.write(writing, str(failure).encode()[:4000])
                code = 1
        finally:
            os._exit(code)
    os.close(writing)
    try:
        status = _wait(child)
        said = os.read(reading, 4000).decode()
    finally:
        os.close(reading)
    if status != 0:
        raise Failure(f"in a forked child, which ended with {status}: {said}")
    tally.children += 1


def _wait(child: int) -> int | str:
    """Give a child's exit code, or what else became of it."""
    end = time.monotonic() + PATIENCE
    pause = 0.001
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else f"signal {-code}"
        time.sleep(pause)
        pause = min(2 * pause, 0.1)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return f"no answer in {PATIENCE:g} s"
