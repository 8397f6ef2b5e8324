"""What lies between a call and its kernel: here, the workspace."""

import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from helpers import DTYPES
from ways import WAYS

import nbfagg
from nbfagg.cpu import launch


@pytest.mark.parametrize("start", [0, 1, 16, 48, 63])
def test_a_workspace_is_kept_for_the_next_call(monkeypatch, start):
    def empty(count, dtype):
        memory = np.zeros(count + 64, dtype)
        return memory[(start - memory.ctypes.data) % 64 :][:count]

    monkeypatch.setattr(launch, "_local", threading.local())
    monkeypatch.setattr(launch, "np", SimpleNamespace(empty=empty, uint8=np.uint8))
    first = launch.take_workspace(1000)
    memory, address = first
    assert memory.nbytes >= 1000
    assert address == memory.ctypes.data
    assert address % 64 == 0
    launch.keep_workspace(first)
    assert launch.take_workspace(1000) is first
    launch.keep_workspace(first)
    assert launch.take_workspace(10) is first
    # Not while it is in use.
    assert launch.take_workspace(10) is not first
    launch.keep_workspace(first)
    second = launch.take_workspace(2000)
    assert second[0].nbytes >= 2000
    launch.keep_workspace(second)
    assert launch.take_workspace(1000) is second


def test_a_large_workspace_is_not_kept(monkeypatch):
    monkeypatch.setattr(launch, "_local", threading.local())
    large = launch.take_workspace(launch.KEPT_BYTES + 1)
    assert large[0].nbytes > launch.KEPT_BYTES
    launch.keep_workspace(large)
    assert launch.take_workspace(1000) is not large


@pytest.mark.parametrize("dtype", DTYPES)
def test_nothing_is_written_beside_the_workspace(monkeypatch, dtype):
    taken = []

    def take(nbytes):
        memory = np.full(64 + nbytes + 4096, 0xA5, np.uint8)
        start = -memory.ctypes.data % 64
        taken.append(memory[start + nbytes :])
        return memory[start : start + nbytes], memory.ctypes.data + start

    monkeypatch.setattr(launch, "take_workspace", take)
    monkeypatch.setattr(launch, "keep_workspace", lambda workspace: None)
    for name, way in WAYS.items():
        a = way.lay(way.normal(dtype))
        for workers in (1, 3):
            taken.clear()
            alpha, lse = nbfagg.fagg(a, keep_axis=way.keep, return_lse=True, workers=workers)
            nbfagg.fagg(a, keep_axis=way.keep, log=True, workers=workers)
            nbfagg.fagg_vjp(alpha, a, alpha, lse, keep_axis=way.keep, workers=workers)
            assert len(taken) == 3
            assert all((beyond == 0xA5).all() for beyond in taken), f"{name}, {workers} workers"


def test_a_signal_handler_may_call():
    """Wherever it comes, which is between two instructions of Python: here, once before each.

    The call that is interrupted keeps its memory, and both give the same bits as alone.
    """
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, 400, 9)).astype(np.float32)
    b = rng.normal(size=(50, 30, 70)).astype(np.float32)
    package = str(Path(nbfagg.__file__).parent)
    seen, failed = set(), []

    def forward(x):
        return nbfagg.fagg(x, return_lse=True, workers=2)

    def backward(x):
        alpha, lse = forward(x)
        return alpha, lse, nbfagg.fagg_vjp(alpha, x, alpha, lse, workers=2)

    wanted = [backward(x) for x in (a, b)]

    def trace(frame, event, argument):
        if not frame.f_code.co_filename.startswith(package):
            return None
        frame.f_trace_opcodes = True
        place = frame.f_code, frame.f_lasti
        if event == "opcode" and place not in seen:
            seen.add(place)
            if not all(map(np.array_equal, forward(b), wanted[1])):
                failed.append(place)
        return trace

    before = sys.gettrace()
    # Python 3.12 asks for a frame that wants it when tracing begins.
    sys._getframe().f_trace_opcodes = True
    sys.settrace(trace)
    try:
        found = backward(a)
    finally:
        sys.settrace(before)
    assert not failed
    assert all(map(np.array_equal, found, wanted[0]))
    assert {"do", "run_gradient", "run_small"} <= {code.co_name for code, _ in seen}
