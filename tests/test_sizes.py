"""Sizes: beyond 2**31 elements, one of everything, primes, around each tile's edge; and any strides.

Large arrays here repeat a small one by strides of 0, so that they take no memory. Repeating every token alike
changes no weight, and adds log(times) to the log-sum-exp.
"""

import math
import os

import numpy as np
import pytest
from helpers import check, check_all, share_of_bound
from hypothesis import given
from hypothesis import strategies as st
from test_properties import steady

import nbfagg
from nbfagg import fields, reference

HUGE = 2**31


def repeated(a, axis, times):
    """Give a view with an axis more, along which all is the same."""
    shape = [*a.shape[:axis], times, *a.shape[axis:]]
    return np.broadcast_to(np.expand_dims(a, axis), shape)


def normal(shape, dtype, seed=0):
    return np.random.default_rng([seed, *shape]).normal(0, 3, shape).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_many_rows(dtype):
    a = normal((1, 32, 16, 64), dtype)
    times = HUGE // a.size + 3
    result = nbfagg.fagg(np.broadcast_to(a, (times, *a.shape[1:])))
    assert result.shape == (times, 32)
    assert (result == nbfagg.fagg(a)).all()


# Each goes another way; the repeated axis comes before the axis with this number.
ONE_ROW = {
    "terms": ((1, 3, 1 << 16), np.float32, 2, {}),
    "terms, float64": ((1, 3, 1 << 16), np.float64, 2, {}),
    "gathered terms": ((1, 3, 1 << 16), np.float16, 2, {}),
    "masked": ((1, 3, 1 << 16), np.float32, 2, {"where": np.array([1, 0, 1], bool)[:, None, None]}),
    "columns": ((1, 1 << 8, 1 << 8), np.float32, 1, {"keep_axis": 3}),
    "outer terms": ((1, 8, 1 << 13), np.float32, 1, {"keep_axis": 2}),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_ROW)
def test_one_row(name):
    shape, dtype, axis, options = ONE_ROW[name]
    a = normal(shape, dtype)
    times = HUGE // a.size + 3
    alpha, lse = nbfagg.fagg(repeated(a, axis, times), **options, return_lse=True)
    exact, exact_lse = reference.oracle(repeated(a, axis, 1), **options, return_lse=True)
    if dtype == np.float16:
        once, _ = nbfagg.fagg(repeated(a, axis, 1), **options, return_lse=True)
        # Each is the float32 result rounded, and that of another order of the sum.
        assert abs(alpha.view(np.int16) - once.view(np.int16)).max() <= 1
    else:
        assert share_of_bound(alpha, exact, "alpha").max() <= 1
    assert share_of_bound(lse, exact_lse + math.log(times), "lse").max() <= 1


def test_states_and_packed_rows():
    a = normal((3, 1 << 16), np.float32)
    times = HUGE // a.size + 3
    exact = reference.oracle(a[None])
    state = nbfagg.State.of(repeated(a[None], 2, times))
    assert share_of_bound(state.finalize(), exact, "alpha").max() <= 1
    packed = nbfagg.fagg_packed(repeated(a, 1, times), [0, 3, 3])
    assert share_of_bound(packed, exact[0], "alpha").max() <= 1


def test_a_gradient():
    """Its places take memory, whatever the logits take: 4 GiB."""
    if "SC_AVPHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        pytest.skip("this system does not say how much memory is free")
    if os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 8 << 30:
        pytest.skip("less than 8 GiB of memory are free")
    a = normal((1, 32, 16, 64), np.float16)
    grad = normal((1, 32), np.float16, 1)
    alpha, lse = nbfagg.fagg(a, return_lse=True)
    times = HUGE // a.size + 3
    found = nbfagg.fagg_vjp(*(np.broadcast_to(x, (times, *x.shape[1:])) for x in (grad, a, alpha, lse)))
    wanted = nbfagg.fagg_vjp(grad, a, alpha, lse)
    assert (found.view(np.int16) == wanted.view(np.int16)).all()


def around(*edges):
    return sorted(
        {size for edge in edges for size in (edge - 1, edge, edge + 1) if size > 0} | {1, 2, 7, 127}
    )


# In float64 a tile has half as many.
TERMS = around(fields.SHORT, fields.GRADIENT_TILE // 4, fields.TILE // 8, fields.TILE // 4, 8, 16, 1021)
TOKENS = around(fields.TILE_ROWS_MOST, fields.TILE // 12, fields.SUMS_TOKENS, 16 * 64, 8, 16)
ROWS = around(fields.TILE_ROWS_MOST, fields.TILE // 24, 8, 16)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("sizes", "shape"),
    [(TERMS, lambda k: (2, 3, k)), (TOKENS, lambda n: (2, n, 3)), (TOKENS, lambda n: (2, n, 1)),
     (ROWS, lambda b: (b, 3, 2)), (ROWS, lambda b: (b, 1, 5))],
    ids=["terms", "tokens", "tokens of one term", "rows", "rows of one token"],
)  # fmt: skip
def test_around_every_edge(sizes, shape, dtype):
    for size in sizes:
        a = normal(shape(size), dtype)
        check_all(a)
        check(a, keep_axis=2)
        check(a, batch_axis=2, keep_axis=1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_two_axes_beside_a_run(dtype):
    """Strides that overlap: the tokens that follow a run side by side are along either of two axes."""
    memory = normal((1000,), dtype)
    a = np.lib.stride_tricks.as_strided(
        memory, (6, 8, 16), [s * memory.itemsize for s in (16, 16, 1)], writeable=False
    )
    for batch, keep in (((), (0, 1)), (0, 1), (1, 0)):
        check_all(a, batch_axis=batch, keep_axis=keep)


@st.composite
def views(draw):
    """A view of 5000 numbers by any strides: 0, negative, overlapping, not multiples of one another."""
    rank = draw(st.integers(1, 4))
    shape = draw(st.lists(st.integers(1, 9), min_size=rank, max_size=rank))
    strides = draw(st.lists(st.integers(-70, 70), min_size=rank, max_size=rank))
    roles = draw(st.lists(st.sampled_from("blk"), min_size=rank, max_size=rank))
    return shape, strides, roles, draw(st.sampled_from("fde")), draw(st.integers(0, 99))


@steady
@given(views())
def test_any_strides(view):
    shape, strides, roles, dtype, seed = view
    memory = normal((5000,), dtype, seed)
    start = memory[2500:]
    a = np.lib.stride_tricks.as_strided(start, shape, [s * memory.itemsize for s in strides], writeable=False)
    batch, keep = (tuple(i for i, role in enumerate(roles) if role == wanted) for wanted in "bl")
    if dtype == "e":
        wide = nbfagg.fagg(a.astype(np.float32), batch_axis=batch, keep_axis=keep)
        assert abs(nbfagg.fagg(a, batch_axis=batch, keep_axis=keep) - wide).max() <= 2**-11
    else:
        check(a, batch_axis=batch, keep_axis=keep, return_lse=True)
