"""What lies between a call and its kernel: here, the workspace."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from nbfagg.cpu import launch


@pytest.mark.parametrize("start", [0, 1, 16, 48, 63])
def test_a_workspace_is_kept_for_the_next_call(monkeypatch, start):
    def empty(count, dtype):
        memory = np.zeros(count + 64, dtype)
        return memory[(start - memory.ctypes.data) % 64 :][:count]

    monkeypatch.setattr(launch, "_local", threading.local())
    monkeypatch.setattr(launch, "np", SimpleNamespace(empty=empty, uint8=np.uint8))
    first = launch._workspace(1000)
    memory, address = first
    assert memory.nbytes >= 1000
    assert address == memory.ctypes.data
    assert address % 64 == 0
    assert launch._workspace(1000) is first
    assert launch._workspace(10) is first
    second = launch._workspace(2000)
    assert second[0].nbytes >= 2000
    assert launch._workspace(1000) is second


def test_a_large_workspace_is_not_kept(monkeypatch):
    monkeypatch.setattr(launch, "_local", threading.local())
    first = launch._workspace(1000)
    large = launch._workspace(launch.KEPT_BYTES + 1)
    assert large[0].nbytes > launch.KEPT_BYTES
    assert launch._workspace(1000) is first
