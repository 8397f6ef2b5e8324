"""Half precision, bit by bit: as NumPy reads and rounds it, with and without a processor's instructions."""

import os
import subprocess
import sys

import ml_dtypes
import numba
import numpy as np
import pytest

from nbfagg import fields
from nbfagg.cpu.formats import load_formatted, number, write_run
from nbfagg.cpu.vector import store

HALVES = {fields.HALF: np.float16, fields.BRAIN: ml_dtypes.bfloat16}
PATTERNS = np.arange(2**16, dtype=np.uint32).astype(np.uint16)
# Every exponent and both ends of every rounding, beside random bits.
EDGES = [0.0, -0.0, np.inf, -np.inf, np.nan, 65504, 65519.996, 65520, 2**-14, 2**-24, 2**-25, 3.3961e38]


@numba.njit
def read_vectors(like, kind, source, target, count):
    for i in range(0, count, 16):
        store(target + 4 * i, load_formatted(like, kind, source + 2 * i))


@numba.njit
def read_numbers(kind, source, target):
    for i in range(len(target)):
        target[i] = number(kind, source + 2 * i)


@numba.njit
def write(like, kind, source, count, target):
    write_run(like, kind, 2, source, count, target, 2)


def check(kind):
    half = HALVES[kind]
    exact = PATTERNS.view(half).astype(np.float32)
    wide, one_by_one = np.empty(2**16, np.float32), np.empty(2**16)
    read_vectors(np.float32(0), kind, PATTERNS.ctypes.data, wide.ctypes.data, wide.size)
    read_numbers(kind, PATTERNS.ctypes.data, one_by_one)
    for got in (wide, one_by_one):
        np.testing.assert_array_equal(got, exact)
        there = ~np.isnan(exact)
        np.testing.assert_array_equal(np.signbit(got[there]), np.signbit(exact[there]))

    bits = np.random.default_rng(0).integers(2**32, size=300_003, dtype=np.uint32)
    numbers = np.concatenate([np.float32(EDGES), bits.view(np.float32)])
    rounded = np.empty(numbers.size, np.uint16)
    write(np.float32(0), kind, numbers.ctypes.data, numbers.size, rounded.ctypes.data)
    with np.errstate(all="ignore"):
        exact = numbers.astype(half)
    there = ~np.isnan(numbers)
    np.testing.assert_array_equal(rounded[there], exact.view(np.uint16)[there])
    assert np.isnan(rounded.view(half).astype(np.float32)[~there]).all()


@pytest.mark.parametrize("kind", HALVES)
def test_halves(kind):
    check(kind)


def test_halves_without_instructions():
    """On a processor that has none, LLVM would call a library that is not there."""
    plain = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""}
    subprocess.run([sys.executable, __file__], env=plain, check=True, timeout=300)


if __name__ == "__main__":
    for each in HALVES:
        check(each)
