"""The same logits in any layout, of any type, by any axes."""

import itertools
import math
import mmap

import numpy as np
import pytest
from helpers import DTYPES, check, check_all, in_memory_order
from ways import WAYS

import nbfagg
from nbfagg import reference

every_dtype = pytest.mark.parametrize("dtype", DTYPES)


def normal(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(0, 3, shape)


@every_dtype
@pytest.mark.parametrize("keep", [1, 2, 3, (1, 2), (1, 3), (1, 2, 3), ()])
def test_every_order_of_the_axes_in_memory(keep, dtype):
    # 21 is more than a vector of either type, and less than two of float32.
    for shape in ((2, 3, 4, 21), (21, 2, 3, 4)):
        for order in itertools.permutations(range(4)):
            a = in_memory_order(normal(*shape).astype(dtype), order)
            check_all(a, keep_axis=keep)


@every_dtype
@pytest.mark.parametrize("batch", [(), 3, (0, 2), (1, 3), (0, 1, 2), (0, 1, 2, 3)])
def test_every_choice_of_batch_axes(batch, dtype):
    a = normal(3, 4, 5, 18).astype(dtype)
    taken = batch if isinstance(batch, tuple) else (batch,)
    left = [axis for axis in range(4) if axis not in taken]
    for count in range(len(left) + 1):
        for keep in itertools.combinations(left, count):
            for order in ((0, 1, 2, 3), (3, 2, 1, 0), (2, 0, 3, 1)):
                check_all(in_memory_order(a, order), batch_axis=batch, keep_axis=keep)


@pytest.mark.parametrize("rank", range(1, 7))
def test_ranks(rank):
    random = np.random.default_rng(rank)
    shape = (3, 2, 5, 1, 4, 2)[:rank]
    for _ in range(40):
        # Each axis is a batch, a kept or a summed one, wherever it lies.
        roles = random.integers(3, size=rank)
        batch, keep = (tuple(np.flatnonzero(roles == role).tolist()) for role in (0, 1))
        a = in_memory_order(normal(*shape), random.permutation(rank))
        check_all(a, batch_axis=batch, keep_axis=keep)


def test_more_axes_than_anyone_has():
    a = normal(*[2] * 12)
    for order in (range(12), range(11, -1, -1), [*range(0, 12, 2), *range(1, 12, 2)]):
        turned = in_memory_order(a, list(order))
        for keep in (1, tuple(range(1, 12, 2)), tuple(range(6, 12)), -1):
            check_all(turned, keep_axis=keep)


def test_axes_may_be_given_in_any_form():
    a = normal(3, 4, 5, 6)
    want = nbfagg.fagg(a, batch_axis=(0, 2), keep_axis=(1, 3))
    for batch, keep in (([0, 2], [1, 3]), ((2, 0), (3, 1)), ((-4, -2), (-1, -3)), (np.array([0, 2]), (1, 3))):
        batch = tuple(batch) if isinstance(batch, np.ndarray) else batch
        np.testing.assert_array_equal(nbfagg.fagg(a, batch_axis=batch, keep_axis=keep), want)
    np.testing.assert_array_equal(
        nbfagg.fagg(a, batch_axis=np.int64(0), keep_axis=np.uint8(1)), nbfagg.fagg(a)
    )


# The others are compared by their own axis, in test_plan.py.
NOT_LARGE = [name for name, way in WAYS.items() if math.prod(way.shape) <= 100_000]


@every_dtype
@pytest.mark.parametrize("name", NOT_LARGE)
def test_every_way_by_every_axis(name, dtype):
    way = WAYS[name]
    a = way.lay(way.normal(dtype))
    for keep in range(1, a.ndim):
        check_all(a, keep_axis=keep)


@every_dtype
def test_reversed_axes(dtype):
    a = normal(3, 4, 5, 18).astype(dtype)
    for turned in itertools.product((1, -1), repeat=4):
        for order in ((0, 1, 2, 3), (0, 2, 1, 3), (3, 1, 0, 2)):
            view = in_memory_order(a, order)[tuple(slice(None, None, step) for step in turned)]
            for keep in (1, 3, ()):
                check_all(view, keep_axis=keep)


@every_dtype
def test_steps_and_gaps(dtype):
    a = normal(6, 12, 10, 40).astype(dtype)
    for view in (
        a[::2],
        a[1::3, ::4],
        a[:, :, ::2],
        a[..., ::2],
        a[..., ::-3],
        a[..., 3:36],
        a[:, :, 1:9],
        a[:, 5:],
        a[2:3, :, ::5, ::7],
        a[:, ::-2, 1::2, 1:20],
    ):
        for keep in (1, 2, 3):
            check_all(view, keep_axis=keep)


@every_dtype
def test_broadcast_axes(dtype):
    # An axis of stride 0: its logits count as often as it has steps.
    shape = (3, 4, 5, 18)
    for still in itertools.product((False, True), repeat=4):
        base = normal(*(1 if zero else size for zero, size in zip(still, shape, strict=True)))
        for order in ((0, 1, 2, 3), (3, 0, 2, 1)):
            a = np.broadcast_to(in_memory_order(base.astype(dtype), order), shape)
            for keep in (1, 3):
                check_all(a, keep_axis=keep)


@every_dtype
def test_windows_that_overlap(dtype):
    a = np.lib.stride_tricks.sliding_window_view(normal(200).astype(dtype), 30)
    assert a.strides[0] == a.strides[1]
    for view in (a, a.reshape(9, 19, 30), a.T):
        check_all(view)
    check_all(a, batch_axis=(), keep_axis=1)


@every_dtype
@pytest.mark.parametrize("offset", [1, 2, 3, 4, 7])
def test_misaligned(offset, dtype):
    a = normal(3, 70, 33).astype(dtype)
    moved = np.frombuffer(bytes(offset) + a.tobytes(), dtype, offset=offset).reshape(a.shape)
    assert not moved.flags.aligned or dtype(0).itemsize == offset
    np.testing.assert_array_equal(check_all(moved), nbfagg.fagg(a))
    check_all(moved, keep_axis=2)


def test_a_field_of_a_structured_array():
    packed = np.zeros((3, 40, 6), [("flag", "u1"), ("logit", "<f4"), ("wide", ">f8")])
    packed["logit"] = packed["wide"] = normal(3, 40, 6)
    for name in ("logit", "wide"):
        check_all(packed[name])
        check_all(packed[name].transpose(0, 2, 1))


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8"])
def test_byte_orders(dtype):
    a = normal(3, 40, 25).astype(dtype)
    for view in (a, a.transpose(0, 2, 1), a[:, ::-2], np.asfortranarray(a)):
        result = check_all(view)
        assert result.dtype.isnative
        if not view.dtype.isnative:
            # What is gathered is then taken as if it had lain there so.
            np.testing.assert_array_equal(result, nbfagg.fagg(np.ascontiguousarray(view, dtype[1:])))


INTEGERS = ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "l", "q", "L", "Q"]


@pytest.mark.parametrize("dtype", ["?", *INTEGERS, *[">" + d for d in INTEGERS[1:4] + INTEGERS[5:8]]])
def test_integers_and_booleans(dtype):
    kind = np.dtype(dtype)
    small = np.random.default_rng(0).integers(0, 2 if kind.kind == "b" else 100, (3, 40, 25)).astype(kind)
    arrays = [small, small.transpose(0, 2, 1), small[:, ::-2], np.broadcast_to(small[:, :1], small.shape)]
    if kind.kind != "b":
        info = np.iinfo(kind)
        edges = [info.min, info.max, info.max - 1, info.max // 2, 1, 0]
        arrays.append(np.array(edges * 4, kind).reshape(2, 3, 4))
    for a in arrays:
        # Exact up to 2**53, and rounded to float64 beyond.
        result = nbfagg.fagg(a)
        assert result.dtype == np.float64
        same = a.astype(np.float64, order="K")
        check(same, return_lse=True)
        np.testing.assert_array_equal(result, nbfagg.fagg(np.ascontiguousarray(same)))
        for log in (False, True):
            for one, other in zip(
                nbfagg.fagg(a, log=log, return_lse=True),
                nbfagg.fagg(np.ascontiguousarray(same), log=log, return_lse=True),
                strict=True,
            ):
                np.testing.assert_array_equal(one, other)


@every_dtype
def test_fortran_order(dtype):
    for shape in ((3, 10, 2, 10), (40, 50, 60), (5, 7)):
        check_all(np.asfortranarray(normal(*shape).astype(dtype)))


def test_subclasses_give_plain_arrays():
    class Own(np.ndarray):
        pass

    a = normal(3, 10, 20)
    assert type(nbfagg.fagg(a.view(Own))) is np.ndarray
    np.testing.assert_array_equal(nbfagg.fagg(a.view(Own)), nbfagg.fagg(a))


@every_dtype
def test_read_only_and_memory_mapped(tmp_path, dtype):
    for shape in ((3, 10, 20), (2, 300, 200), (1, 3, 9000)):
        a = normal(*shape).astype(dtype)
        read_only = a.copy()
        read_only.flags.writeable = False
        np.testing.assert_array_equal(nbfagg.fagg(read_only), nbfagg.fagg(a))
        np.save(tmp_path / "a.npy", a)
        mapped = np.load(tmp_path / "a.npy", mmap_mode="r")
        result = nbfagg.fagg(mapped)
        assert type(result) is np.ndarray
        np.testing.assert_array_equal(result, nbfagg.fagg(a))


@every_dtype
def test_two_to_the_31_elements_of_stride_0(dtype):
    # Each of a few logits stands for 2**31 / 12000 of them, and more.
    base = normal(3, 4096).astype(dtype)
    times = 2**31 // base.size + 1
    a = np.broadcast_to(base, (1, times, 3, 4096))
    assert a.size > 2**31
    alpha, lse = nbfagg.fagg(a, keep_axis=2, return_lse=True)
    exact, exact_lse = reference.oracle(base[None], return_lse=True)
    assert reference.ulp_error(alpha, exact).max() <= 3
    assert abs(lse - (exact_lse + np.log(np.longdouble(times)))) <= 4 * np.spacing(lse)


def test_two_to_the_31_elements_in_memory():
    # 8 GiB of addresses, but what nobody writes to is the same page of zeros all over.
    terms = 2**30 + 4099
    size = 2 * terms
    reserve_nothing = 0x4000  # MAP_NORESERVE, which Python has no name for before 3.13
    memory = mmap.mmap(-1, 4 * size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | reserve_nothing)
    memory.madvise(mmap.MADV_HUGEPAGE)
    a = np.frombuffer(memory, np.float32).reshape(1, 2, terms)
    a[0, 1, -2] = 20
    alpha, lse = nbfagg.fagg(a, return_lse=True)
    one = np.exp(np.longdouble(20)) - 1
    exact = np.array([[terms, terms + one]]) / (size + one)
    assert reference.ulp_error(alpha, exact).max() <= 2
    np.testing.assert_allclose(lse, [float(np.log(size + one))], rtol=2 * np.finfo(np.float32).eps)
