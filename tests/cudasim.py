"""CUDA kernels in Python: the primitives' plain twins, and blocks whose threads are greenlets.

A thread runs until it comes to a barrier or a shuffle. Threads of a warp, and the
warps of a block, run in order or in reverse, so that a missing barrier shows as a
difference. What hardware leaves undefined raises: an access out of bounds, a
shuffle or a barrier that not all come to, or come to at different places, a
deadlock, a 16-byte access at another address.
"""

import contextvars
import ctypes
import ctypes.util
import math
import sys
from types import SimpleNamespace

import numpy as np
from greenlet import getcurrent, greenlet

_LIBM = ctypes.CDLL(ctypes.util.find_library("m"))
_LIBM.fmaf.restype, _LIBM.fmaf.argtypes = ctypes.c_float, [ctypes.c_float] * 3
_LIBM.fma.restype, _LIBM.fma.argtypes = ctypes.c_double, [ctypes.c_double] * 3

NUMPY = {"f4": np.float32, "f8": np.float64, "f2": np.uint16, "b2": np.uint16} | {
    f"{sign}{size}": np.dtype(f"{sign}{size}").type for sign in "iu" for size in (1, 2, 4, 8)
}


class Fault(Exception):
    """What would be undefined behaviour on a GPU."""


class _Thread:
    def __init__(self, number, work):
        self.number = number
        self.work = work
        self.waits = None  # ("barrier" or "shuffle", where)
        self.value = None


class _Launch:
    """A launch's state: the thread that runs, its block's shared memory."""

    thread = None
    block = 0
    scheduler = None
    areas = None
    room = 0


_now = _Launch()


def _wait(what, value=None):
    thread = _now.thread
    frame = sys._getframe(2)
    thread.waits = what, (frame.f_code.co_filename, frame.f_lineno)
    thread.value = value
    return _now.scheduler.switch()


def _run_warp(threads, order):
    """Run a warp until all its threads have ended or wait at the barrier."""
    moved = False
    while True:
        for thread in threads[::order]:
            if thread.waits is None and not thread.work.dead:
                _now.thread = thread
                thread.work.switch()
                moved = True
        shuffling = [t for t in threads if not t.work.dead and t.waits[0] == "shuffle"]
        if not shuffling:
            return moved
        if len(shuffling) != len(threads) or len({t.waits for t in threads}) > 1:
            raise Fault(
                f"{len(shuffling)} of {len(threads)} lanes at a shuffle: {[t.waits for t in threads]}"
            )
        values = [t.value for t in threads]
        for thread in threads[::order]:
            thread.waits = None
            _now.thread = thread
            thread.work.switch(values)


def _run_block(kernel, block, size, arguments, order):
    _now.block, _now.areas, _now.scheduler = block, {}, getcurrent()
    context = contextvars.copy_context()
    threads = []
    for number in range(size):
        work = greenlet(lambda: kernel(*arguments), _now.scheduler)
        work.gr_context = context.copy()
        threads.append(_Thread(number, work))
    warps = [threads[i : i + 32] for i in range(0, size, 32)][::order]
    while True:
        moved = [_run_warp(warp, order) for warp in warps]
        live = [t for t in threads if not t.work.dead]
        if not live:
            return
        if all(t.waits and t.waits[0] == "barrier" for t in live):
            if len(live) < size or len({t.waits for t in live}) > 1:
                raise Fault(f"{len(live)} of {size} threads at a barrier: { ({t.waits for t in live}) }")
            for thread in threads:
                thread.waits = None
        elif not any(moved):
            raise Fault("deadlock")


def launch(kernel, grid, size, room, arguments, order=1):
    """Run a kernel: `grid` blocks of `size` threads, `room` numbers of dynamic shared memory."""
    _now.room = room
    with np.errstate(all="ignore"):
        for block in range(grid)[::order]:
            _run_block(kernel, block, size, arguments, order)


# --- primitives --------------------------------------------------------------


def _inside(array, index, count=1):
    index = int(index)
    if not 0 <= index <= len(array) - count:
        raise Fault(f"[{index}:{index + count}] of {len(array)}")
    return index


def get(array, index):
    return array[_inside(array, index)]


def put(array, index, value):
    array[_inside(array, index)] = value


def _quad(array, index):
    count = 16 // array.itemsize
    if int(index) % count:
        raise Fault(f"16 bytes at {index}, misaligned")
    return slice(_inside(array, index, count), int(index) + count)


def get_quad(array, index):
    return tuple(array[_quad(array, index)])


def put_quad(array, index, values):
    array[_quad(array, index)] = values


def integer(array, index):
    return int(array[_inside(array, index)])


def draw(tickets, index, count):
    before = int(tickets[_inside(tickets, index)])
    tickets[index] += count
    return before


def shuffle(value, distance):
    lane = _now.thread.number % 32
    return _wait("shuffle", value)[lane ^ int(distance)]


def _area(count, real):
    def area():
        found = _now.areas.get(area)
        if found is None:
            # What was there before is anything.
            dtype = np.int64 if real is int else real
            size = _now.room if count is None else count
            found = np.full(size, -12345 if real is int else 1.2345e30, dtype)
            _now.areas[area] = found
        return found

    return area


def _arithmetic(real):
    wide = real is np.float64
    bits, word = (52, np.uint64) if wide else (23, np.uint32)
    fused = _LIBM.fma if wide else _LIBM.fmaf
    mask = (1 << (8 * word().itemsize)) - 1

    def check(*values):
        # Arithmetic of another type would be a slow or a wrong instruction on a GPU.
        for value in values:
            if type(value) is not real:
                raise Fault(f"{value!r} is a {type(value).__name__}, not a {real.__name__}")

    def fma(x, y, z):
        check(x, y, z)
        return real(fused(x, y, z))

    def power(t):
        check(t)
        return word((int(t.view(word)) << bits) & mask).view(real)

    def larger(low, x):
        check(low, x)
        return low if x < low or (x != x and not wide) else x

    def maximum(x, y):
        check(x, y)
        return x if x > y or x != x else y

    def highest(x, y):
        check(x, y)
        return (x if x > y else y) if wide else maximum(x, y)

    def ex2(x):
        check(x)
        return np.exp2(x)

    def frexp(x):
        check(x)
        mantissa, exponent = math.frexp(x)
        return real(mantissa), real(exponent)

    names = SimpleNamespace(
        inf=real(math.inf), isinf=math.isinf, isnan=math.isnan, log=lambda x: real(np.log(x)), exp=lambda x:
        real(np.exp(x)),
        ceil=lambda x: real(np.ceil(x)), frexp=frexp,
    )  # fmt: skip
    return SimpleNamespace(
        fma=fma, power=power, larger=larger, maximum=maximum, highest=highest,
        ex2=None if wide else ex2, math=names,
    )  # fmt: skip


def stored(values, storage):
    """Give numbers as they lie in memory: half precision as its bits."""
    if storage == "b2":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
        rounded = ((bits + (((bits >> 16) & 1) + 0x7FFF)) >> 16).astype(np.uint16)
        return np.where(np.isnan(np.asarray(values)), np.uint16(0x7FC0), rounded)
    if storage == "f2":
        with np.errstate(over="ignore"):
            return np.asarray(values).astype(np.float16).view(np.uint16)
    return np.asarray(values).astype(NUMPY[storage])


def restored(memory, storage):
    """Give numbers in memory as NumPy's."""
    if storage == "b2":
        return (memory.astype(np.uint32) << 16).view(np.float32)
    return memory.view(np.float16) if storage == "f2" else memory


def make(kind):
    """Give the twins of nbfagg.cuda.prims.make."""
    real, lanes, storage = kind.real, kind.vector, kind.storage

    def load(array, index):
        bits = array[_inside(array, index)]
        if storage == "b2":
            return real((np.uint32(bits) << np.uint32(16)).view(np.float32))
        return real(bits.view(np.float16)) if storage == "f2" else real(bits)

    def load_result(array, index):
        return real(restored(array[_inside(array, index)][None], kind.result)[0])

    def load_anywhere(array, index):
        _inside(array, index, lanes)
        return tuple(load(array, index + j) for j in range(lanes))

    def load_vector(array, index):
        _aligned(array, index)
        return load_anywhere(array, index)

    def _aligned(array, index):
        if (array.ctypes.data + int(index) * array.itemsize) % 16:
            raise Fault(f"16 bytes at {index}, misaligned")

    def store(array, index, value):
        if type(value) is not real:
            raise Fault(f"{value!r} is a {type(value).__name__}, not a {real.__name__}")
        narrow = np.float32(value) if kind.item == 2 else value
        array[_inside(array, index)] = stored(np.asarray([narrow]), kind.result)[0]

    def store_vector(array, index, values):
        _aligned(array, index)
        for j, value in enumerate(values):
            store(array, index + j, value)

    return SimpleNamespace(
        jit=lambda function: function, thread=lambda: _now.thread.number, block=lambda: _now.block,
        sync=lambda: _wait("barrier") and None, shuffle=shuffle, fence=lambda: None, draw=draw,
        shared=_area, dynamic=lambda real: _area(None, real),
        divide=lambda x, y: int(x) // int(y), get=get, put=put, integer=integer,
        get_quad=get_quad, put_quad=put_quad,
        load=load, load_result=load_result, load_vector=load_vector, load_anywhere=load_anywhere,
        store=store, store_vector=store_vector, **vars(_arithmetic(real)),
    )  # fmt: skip
