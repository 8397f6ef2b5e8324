"""What must hold of any logits in any layout, whatever the values are."""

import math
from dataclasses import dataclass

import numpy as np
from helpers import BOUND, check, in_memory_order, run_python
from hypothesis import given, settings
from hypothesis import strategies as st

import nbfagg
from nbfagg import reference

# conftest.py chooses the profile.
steady = settings()


@dataclass
class Call:
    """Normal logits in some layout, and axes: small to print."""

    shape: list[int]
    roles: list[str]  # of each axis: "b"atch, "l" kept, "k" summed
    order: list[int]  # of the axes in memory
    spread: float
    seed: int
    dtype: str

    def __iter__(self):
        a = np.random.default_rng(self.seed).normal(0, self.spread, self.shape).astype(self.dtype)
        batch, keep = (tuple(i for i, role in enumerate(self.roles) if role == wanted) for wanted in "bl")
        yield in_memory_order(a, self.order)
        yield {"batch_axis": batch, "keep_axis": keep}


@st.composite
def calls(draw):
    rank = draw(st.integers(1, 4))
    return Call(
        draw(st.lists(st.integers(1, 24), min_size=rank, max_size=rank)),
        draw(st.lists(st.sampled_from("blk"), min_size=rank, max_size=rank)),
        draw(st.permutations(range(rank))),
        draw(st.sampled_from([0.1, 1, 10])),
        draw(st.integers(0, 2**32)),
        draw(st.sampled_from("fd")),
    )


def summed_axes(a, axes):
    return tuple(i for i in range(a.ndim) if i not in axes["batch_axis"] + axes["keep_axis"])


def assert_near(result, other, bounds=2):
    """Assert that two results can both be of the same exact value; those below are no subnormal numbers."""
    error = reference.ulp_error(result, other.astype(np.longdouble))
    assert error.max(initial=0) <= bounds * BOUND[result.dtype.char]


@steady
@given(calls())
def test_the_oracle_agrees(call):
    a, axes = call
    check(a, **axes, return_lse=True)
    check(a, **axes, return_lse=True, log=True)


@steady
@given(calls())
def test_rows_sum_to_1(call):
    a, axes = call
    alpha = nbfagg.fagg(a, **axes).astype(np.longdouble)
    order = sorted(axes["batch_axis"] + axes["keep_axis"])
    total = alpha.sum(axis=tuple(i for i, axis in enumerate(order) if axis in axes["keep_axis"]))
    # An ulp is at most eps of what it belongs to, and the exact weights sum to 1. Weights whose ulp is more
    # than that are below 1e-37, and few.
    assert abs(total - 1).max() <= BOUND[a.dtype.char] * np.finfo(a.dtype).eps + 1e-37


@steady
@given(calls(), st.integers(-4, 4))
def test_an_exact_shift_stays_within_rounding(call, steps):
    a, axes = call
    # Logits in steps of 2**-8 up to 2**6, moved by up to 2**12: 20 bits of float32's 24.
    a = np.clip(np.round(a * 2**8) / 2**8, -(2**6), 2**6).astype(a.dtype)
    moved = a + a.dtype.type(1024 * steps)
    np.testing.assert_array_equal(moved - a.dtype.type(1024 * steps), a)
    assert_near(nbfagg.fagg(moved, **axes), nbfagg.fagg(a, **axes))


FAR_OFF = st.sampled_from([-3, -2, -1, 1, 2, 3])


@steady
@given(calls(), FAR_OFF, FAR_OFF)
def test_a_shift_far_off_changes_no_bit(call, one, other):
    a, axes = call
    # Far off, logits are taken relative to their maximum itself, which is exact. Integers up to 64 beside
    # 3 * 2**22, which float32 holds up to 2**24; eighths beside 3 * 2**45 in float64.
    unit, bits = (2.0**22, 0) if a.dtype == np.float32 else (2.0**45, 3)
    a = np.clip(np.round(a * 2**bits) / 2**bits, -64, 64).astype(a.dtype)
    here, there = (a + a.dtype.type(unit * steps) for steps in (one, other))
    np.testing.assert_array_equal(here - a.dtype.type(unit * one), a)
    for log in (False, True):
        np.testing.assert_array_equal(nbfagg.fagg(here, **axes, log=log), nbfagg.fagg(there, **axes, log=log))


@steady
@given(calls(), st.integers(-60, 60))
def test_a_scale_that_is_a_power_of_two_changes_no_bit(call, power):
    a, axes = call
    scaled = np.ldexp(a, -power).astype(a.dtype)
    given = nbfagg.fagg(scaled, **axes, scale=2.0**power, return_lse=True)
    for result, want in zip(given, nbfagg.fagg(a, **axes, return_lse=True), strict=True):
        np.testing.assert_array_equal(result, want)


@steady
@given(calls(), st.floats(1e-3, 10))
def test_scale_is_a_factor(call, scale):
    a, axes = call
    check(a, **axes, scale=scale)
    # A scale of the logits' own type, or of any other.
    np.testing.assert_array_equal(
        nbfagg.fagg(a, **axes, scale=np.float64(scale)), nbfagg.fagg(a, **axes, scale=scale)
    )


@steady
@given(calls(), st.randoms(use_true_random=False))
def test_the_order_of_summed_terms_is_within_rounding(call, random):
    a, axes = call
    mixed = a
    for axis in summed_axes(a, axes):
        mixed = np.take(mixed, random.sample(range(a.shape[axis]), a.shape[axis]), axis=axis)
    assert_near(nbfagg.fagg(mixed, **axes), nbfagg.fagg(a, **axes))


@steady
@given(calls(), st.randoms(use_true_random=False))
def test_tokens_take_their_weights_with_them(call, random):
    a, axes = call
    kept = sorted(axes["batch_axis"] + axes["keep_axis"])
    alpha = nbfagg.fagg(a, **axes)
    for axis in axes["keep_axis"]:
        places = random.sample(range(a.shape[axis]), a.shape[axis])
        a = np.take(a, places, axis=axis)
        alpha = np.take(alpha, places, axis=kept.index(axis))
    assert_near(nbfagg.fagg(a, **axes), alpha)


@steady
@given(calls(), st.randoms(use_true_random=False))
def test_the_results_axes_are_in_the_order_of_the_arrays(call, random):
    a, axes = call
    order = random.sample(range(a.ndim), a.ndim)
    turned = {name: tuple(order.index(axis) for axis in chosen) for name, chosen in axes.items()}
    alpha, lse = nbfagg.fagg(a, **axes, return_lse=True)
    other, other_lse = nbfagg.fagg(a.transpose(order), **turned, return_lse=True)

    def moved(result, taken):
        """From the order in which `order` has the axes to their own."""
        came = [axis for axis in order if axis in taken]
        return result.transpose([came.index(axis) for axis in sorted(taken)])

    assert_near(moved(other, axes["batch_axis"] + axes["keep_axis"]), alpha)
    want = moved(other_lse, axes["batch_axis"])
    assert want.shape == lse.shape
    # Two results of one exact value, in ulp of 1 or more.
    assert (abs(want - lse) <= 10 * np.finfo(a.dtype).eps * np.maximum(1, abs(lse))).all()


@steady
@given(calls())
def test_keeping_nothing_or_everything(call):
    a, axes = call
    # All of a batch row's weight; and softmax, which sums over nothing.
    np.testing.assert_array_equal(nbfagg.fagg(a, batch_axis=axes["batch_axis"], keep_axis=()), 1)
    rest = tuple(i for i in range(a.ndim) if i not in axes["batch_axis"])
    softmax = check(a, batch_axis=axes["batch_axis"], keep_axis=rest)
    assert softmax.shape == a.shape
    # What is then summed over is what is summed over at once, but for a rounding each.
    summed = summed_axes(a, axes)
    terms = math.prod(a.shape[axis] for axis in summed)
    whole = nbfagg.fagg(a, **axes).astype(np.longdouble)
    parts = softmax.astype(np.longdouble).sum(axis=summed)
    bound = 2 * BOUND[a.dtype.char] * np.finfo(a.dtype).eps
    assert (abs(parts - whole) <= bound * whole + terms * float(np.finfo(a.dtype).tiny)).all()


@steady
@given(calls())
def test_log_is_the_logarithm(call):
    a, axes = call
    alpha = nbfagg.fagg(a, **axes).astype(np.longdouble)
    log = nbfagg.fagg(a, **axes, log=True)
    known = alpha > np.finfo(a.dtype).tiny
    error = abs(np.log(alpha[known]) - log[known])
    # Both bounds: alpha's as a relative error, that of the logarithm in ulp of 1 or more.
    bound = BOUND[a.dtype.char]
    size = bound + (bound + 2) * np.maximum(1, abs(log[known]))
    assert (error <= size * np.finfo(a.dtype).eps).all()


GUARDED = """
import ctypes, itertools, mmap
import numpy as np
import nbfagg
from ways import WAYS

libc = ctypes.CDLL(None, use_errno=True)
page = mmap.PAGESIZE

def guarded(memory, at_end):
    # A copy between two pages that nobody may touch, in pages that nobody may write.
    size = -(-memory.nbytes // page) * page
    space = mmap.mmap(-1, size + 2 * page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    start = np.frombuffer(space, np.uint8).ctypes.data
    offset = page + (size - memory.nbytes if at_end else 0)
    copy = np.ndarray(memory.shape, memory.dtype, space, offset, memory.strides)
    copy[...] = memory
    for first, length, protection in ((0, page, 0), (page, size, 1), (page + size, page, 0)):
        if libc.mprotect(ctypes.c_void_p(start + first), ctypes.c_size_t(length), protection):
            raise OSError(ctypes.get_errno(), "mprotect")
    copy.flags.writeable = False
    return copy

def compare(a, keep):
    order = sorted(range(a.ndim), key=lambda axis: -a.strides[axis])
    memory = np.ascontiguousarray(a.transpose(order))
    for at_end in (False, True):
        copy = guarded(memory, at_end)
        view = copy.transpose(np.argsort(order))
        for log in (False, True):
            want = nbfagg.fagg(memory.transpose(np.argsort(order)), keep_axis=keep, log=log, return_lse=True)
            given = nbfagg.fagg(view, keep_axis=keep, log=log, return_lse=True)
            for one, other in zip(given, want):
                np.testing.assert_array_equal(one, other)
        np.testing.assert_array_equal(copy, memory)

for name, way in WAYS.items():
    compare(way.lay(way.normal(np.float32)), way.keep)
    if np.prod(way.shape) < 100_000:
        compare(way.lay(way.normal(np.float64)), way.keep)
shapes = [(1, 1, k) for k in range(1, 70)] + [(2, k, 3) for k in range(1, 35)] + [(1, 3, 4097), (1, 5000)]
for dtype in (np.float32, np.float64):
    for shape in shapes:
        a = np.random.default_rng(0).normal(size=shape).astype(dtype)
        for keep in range(1, a.ndim):
            compare(a, keep)
print("done")
"""


def test_nothing_is_written_to_the_input_nor_read_beside_it():
    # What is not allowed there ends the process.
    assert run_python(GUARDED) == "done\n"
