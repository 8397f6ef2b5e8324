"""The CUDA kernels in the simulator, beside the oracle: every way through the plan, in both orders of
threads.

Bounds. alpha: 4 ulp of float32 and one subnormal step, 3 ulp of float64, as promised; log and lse 2 ulp more
(helpers.py says why). Half precision: its own rounding, 0.5 ulp, and 2**-20 of the value for the float32
result
(an exponential within 2**-22, twice, and sums), which is 2**-9 ulp at most. Gradients: 12 ulp of the
formula's
largest term: 4 each of alpha in the row's sum and of the token's, 2 of the token's total, 2 of an
exponential and
the products.
"""

import dataclasses
import functools
import itertools
import re
from pathlib import Path
from types import FunctionType

import cudarun
import cudasim
import numpy as np
import pytest

from nbfagg import reference
from nbfagg.cuda import (
    absorb,
    finish,
    formulas,
    gradient,
    kernels,
    rows,
    short,
    short_gradient,
    short_packed,
    staged,
    walk,
    weights,
)
from nbfagg.cuda.kinds import kind_of

FLOATS = ["f4", "f8", "f2", "b2"]
NAN, INF = np.nan, np.inf


@pytest.fixture(params=[1, -1], ids=["forward", "reversed"], autouse=True)
def order(request):
    cudarun.Order.now = request.param
    yield request.param
    cudarun.Order.now = 1


# What an order of threads shows does not depend on how wide a number is in memory.
each = pytest.mark.parametrize(
    ("order", "storage"), [(1, s) for s in FLOATS] + [(-1, s) for s in FLOATS[:2]], indirect=["order"]
)

UNALIGNED_PIECES = ["pieces_unaligned", "short_pieces_unaligned"]
# Shapes (batch first), options, how they lie, and what the plan has to say.
WAYS = {
    "whole rows": ((5, 3, 68), {}, {}, "rows"),
    "whole rows, unaligned": ((5, 3, 69), {}, {"offset": 1}, "rows_unaligned"),
    "short tokens": ((6, 12, 4), {}, {}, "short"),
    "short tokens, one row a block": ((3, 130, 6), {}, {}, "short"),
    "short tokens, odd rows": ((7, 5, 7), {}, {"offset": 1}, "short_unaligned"),
    "short tokens of one term": ((70, 9, 1), {}, {}, "short_unaligned"),
    "short tokens of two terms": ((9, 12, 2), {}, {}, "short"),
    "short tokens of three terms": ((33, 3, 3), {}, {}, "short_unaligned"),
    "short tokens of eight": ((5, 30, 8), {}, {}, "short"),
    "tiny tokens, large rows": ((3, 1200, 1), {}, {}, "pieces, short_pieces, pieces, short_pieces"),
    "tiny tokens, odd rows": ((5, 550, 2), {}, {"offset": 1}, ", ".join(UNALIGNED_PIECES * 3)),
    "tiny tokens of three, one row": ((1, 1111, 3), {}, {}, "pieces, short_pieces"),
    "last block": ((2, 3, 600), {}, {}, "rows"),
    "last block, split tokens, unaligned": ((1, 2, 1003), {}, {}, "rows_unaligned"),
    "many tokens": ((2, 30, 40), {}, {}, "rows, weights"),
    "many tokens, unaligned": ((2, 40, 33), {}, {}, "rows_unaligned, weights"),
    "padded rows": ((3, 4, 8), {}, {"gap": 16}, None),
    "middle axis kept": ((3, 4, 5, 6), {"keep_axis": 2}, {}, "walk, small"),
    "innermost axis kept": ((3, 4, 5, 37), {"keep_axis": 3}, {}, "walk, totals, weights"),
    "batch innermost": ((37, 4, 5), {}, {"order": (1, 2, 0)}, "walk, small"),
    "backwards": ((4, 5, 21), {}, {"order": (2, 1, 0)}, "walk, small"),
    "many steps": ((2, 3, 300, 4), {}, {"order": (0, 2, 1, 3)}, "walk, small"),
    "many steps, split": ((1, 3, 4, 300), {}, {"order": (3, 0, 1, 2)}, "walk, small"),
    "two kept axes": ((3, 4, 5, 6), {"batch_axis": (), "keep_axis": (1, 3)}, {}, "walk, totals, weights"),
    "two batch axes": ((2, 3, 5, 6), {"batch_axis": (1, 0), "keep_axis": 2}, {"order": (1, 0, 2, 3)}, None),
    "nothing kept": ((3, 70), {"keep_axis": ()}, {}, "rows_unaligned"),
}
MASKED = {
    "mask beside": ((3, 20, 6), "walk_masked, totals, weights"),
    "mask of tokens": ((3, 12, 6), "walk_masked, small"),
    "mask, split": ((1, 2, 700), "walk_masked, small"),
    "lengths": ((9, 5, 72), "rows"),
    "lengths, short tokens": ((9, 11, 8), "short"),
    "lengths, tiny tokens": ((3, 1030, 1), ", ".join(UNALIGNED_PIECES * 2)),
    "lengths, many tokens": ((3, 40, 30), None),
    "lengths and mask": ((5, 12, 7), "walk_masked, small"),
}


def numbers(random, shape, storage, spread=3.0):
    return cudasim.stored(random.normal(0, spread, shape), storage)


def case(name, storage):
    """Give logits in memory as they lie, and the options."""
    random = np.random.default_rng(len(name))
    if name in WAYS:
        shape, options, layout, steps = WAYS[name]
        layout = dict(layout)
        if storage == "f2" and layout.get("gap"):
            layout["gap"] = 8
        raw = numbers(random, shape, storage)
        raw = raw.view(np.float16) if storage == "f2" else raw
        return cudarun.lay(raw, **layout), options, steps
    shape, steps = MASKED[name]
    raw = numbers(random, shape, storage)
    a = cudarun.lay(raw.view(np.float16) if storage == "f2" else raw)
    options = {}
    if "lengths" in name:
        options["lengths"] = random.integers(0, shape[1] + 1, shape[0])
        options["lengths"][:2] = 0, shape[1]
    if "tokens" in name and "mask" in name:
        options["where"] = random.random((*shape[:2], 1)) < 0.6
    elif "mask" in name:
        options["where"] = random.random(shape) < 0.6
        options["where"][0, 1] = False
    return a, options, steps


def plain(a, storage):
    """Give logits in memory as numbers."""
    return cudasim.restored(a, storage).astype(np.float64) if storage == "b2" else a


def assert_close(result, exact, storage, what):
    """Assert that results are within what is promised; `what` is "alpha", "log" or "lse"."""
    if storage in ("f2", "b2") and what != "lse":
        info = {"f2": (11, -24), "b2": (8, -133)}[storage]
        with np.errstate(invalid="ignore"):
            finite = np.isfinite(exact)
            exponent = np.frexp(np.where(finite, exact, 1))[1]
            ulp = np.ldexp(1.0, np.maximum(exponent - info[0], info[1]))
            extra = (2.0**-20 if what == "alpha" else 2.0**-20 * np.maximum(1, np.abs(exact))) / 1
            allowed = 0.5 * ulp + np.where(
                finite, np.abs(exact) * 2.0**-20 + (extra if what == "log" else 0), 0
            )
            good = np.where(finite, np.abs(result - exact) <= allowed, same(result, exact))
        assert good.all(), (what, result[~good], exact[~good])
        return
    wide = storage not in ("f4", "f2", "b2")
    dtype = np.float64 if wide else np.float32
    # Of half precision lse is float32; an exponential within 2**-22 is 4 ulp.
    bound = 3.0 if wide else 4.0
    with np.errstate(all="ignore"):
        rounded = exact.astype(dtype)
        ulps = reference.ulp_error(result.astype(dtype), exact)
        if what == "alpha":
            good = (ulps <= bound) & (np.isnan(result) == np.isnan(exact))
            good &= (exact >= np.finfo(dtype).tiny) | ~(exact > 0) | (ulps <= 1)
        else:
            scale = np.spacing(np.maximum(1, np.abs(np.where(np.isfinite(exact), exact, 1))).astype(dtype))
            good = np.where(
                np.isfinite(rounded), np.abs(result - exact) <= (bound + 2) * scale, same(result, rounded)
            )
    assert good.all(), (what, result[~good], exact[~good], ulps[~good])


def same(x, y):
    return (x == y) | (np.isnan(x) & np.isnan(y))


@each
@pytest.mark.parametrize("name", [*WAYS, *MASKED])
def test_values(name, storage):
    a, options, _ = case(name, storage)
    x = plain(a, storage)
    for log in (False, True):
        result, lse = cudarun.fagg(a, return_lse=True, log=log, **options)
        exact, exact_lse = reference.oracle(x, return_lse=True, log=log, **options)
        assert result.shape == exact.shape
        assert_close(result, exact, storage, "log" if log else "alpha")
        assert_close(lse, exact_lse, storage, "lse")


@pytest.mark.parametrize("name", [name for name, way in (WAYS | MASKED).items() if way[-1]])
def test_each_way_is_taken(name):
    a, options, steps = case(name, "f4")
    plan, _ = cudarun.plan_for(a, **options)
    assert ", ".join(step.kernel for step in plan.steps) == steps


# Of a thousand tokens float16's weights are subnormal, and a gradient no better than these.
@each
@pytest.mark.parametrize("name", [name for name in [*WAYS, *MASKED] if "tiny" not in name])
def test_gradient(name, storage):
    a, options, _ = case(name, storage)
    x = plain(a, storage)
    random = np.random.default_rng(5)
    for log in (False, True):
        alpha, lse = cudarun.fagg(a, return_lse=True, log=log, **options)
        stored = cudasim.stored(np.ascontiguousarray(alpha), storage)
        g = numbers(random, alpha.shape, storage)
        of_lse = numbers(random, (lse.size,), storage).reshape(lse.shape) if log else None
        given = cudarun.fagg_vjp(g, a, stored, grad_lse=of_lse, log=log, **options)
        # Of half precision the kernel gets a rounded alpha, and so does the exact one, in effect, within
        # that.
        exact, largest = reference.fagg_vjp_terms(
            plain(g, storage) if storage == "b2" else cudasim.restored(g, storage), x, log=log,
            grad_lse=None if of_lse is None else np.asarray(cudasim.restored(of_lse, storage), np.float64),
            **options,
        )  # fmt: skip
        unit = {"f4": 2.0**-23 * 12, "f8": 2.0**-52 * 12, "f2": 2.0**-9, "b2": 2.0**-6}[storage]
        if log:
            # log alpha is rounded: |log alpha| / 2 ulp more.
            finite = np.where(np.isfinite(alpha), alpha, 0).astype(np.float64)
            unit *= 1 + float(np.max(np.abs(finite), initial=0)) / 2
        tiny = {"f4": 2.0**-149, "f8": 2.0**-1074, "f2": 2.0**-23, "b2": 2.0**-133}[storage]
        assert given.shape == a.shape
        assert (np.abs(given - exact) <= largest * unit + tiny).all()


@pytest.mark.parametrize("storage", ["f4", "f8"])
@pytest.mark.parametrize(
    ("shape", "options"), [((1, 3, 68), {}), ((2, 12, 4), {}), ((2, 4, 9, 8), {"keep_axis": 2})]
)
def test_gradients_by_small_weights_and_of_large_ones(shape, options, storage):
    """A factor of the gradient is subnormal, or next to it, where the gradient is not."""
    x = np.random.default_rng(0).normal(0, 1, shape)
    kept = np.moveaxis(x, options.get("keep_axis", 1), 0)
    kept[0] -= 40
    kept[1] -= 70
    kept[2, ..., 0] -= 60
    a = cudarun.lay(x.astype(storage))
    alpha = np.ascontiguousarray(cudarun.fagg(a, **options))
    for size in 1, 1e30:
        g = np.asarray(np.random.default_rng(1).normal(0, size, alpha.shape), storage)
        given = cudarun.fagg_vjp(g, a, alpha, **options)
        exact, largest = reference.fagg_vjp_terms(g, a, **options)
        unit = {"f4": 2.0**-23, "f8": 2.0**-52}[storage] * 12
        assert (np.abs(given - exact) <= largest * unit + np.finfo(storage).smallest_subnormal).all()


GRADIENT_WAYS = {
    "whole rows": ((6, 12, 4), {}, {}, "dots, short_gradient"),
    "odd rows": ((7, 5, 7), {}, {"offset": 1}, "dots, short_gradient_unaligned"),
    "pieces of rows": ((2, 700, 4), {}, {}, "dots, dot_sums, short_gradient"),
    "pieces of odd rows": ((2, 601, 3), {}, {"offset": 1}, "dots, dot_sums, short_gradient_unaligned"),
    "pieces, lengths": ((3, 700, 2), {"lengths": [0, 700, 333]}, {}, "dots, dot_sums, short_gradient"),
}


@pytest.mark.parametrize("storage", ["f4", "f8"])
@pytest.mark.parametrize("name", GRADIENT_WAYS)
def test_gradients_of_short_tokens_go_each_way(name, storage):
    shape, options, layout, steps = GRADIENT_WAYS[name]
    options = {key: np.array(value) for key, value in options.items()}
    random = np.random.default_rng(7)
    a = cudarun.lay(random.normal(0, 3, shape).astype(storage), **layout)
    if storage == "f4":
        plan, _ = cudarun.plan_for(a, out=cudarun.lay(a * 0, **layout), **options)
        assert ", ".join(step.kernel for step in plan.steps) == steps
    alpha = np.ascontiguousarray(cudarun.fagg(a, **options))
    g = random.normal(size=alpha.shape).astype(storage)
    given = cudarun.fagg_vjp(g, a, alpha, out=cudarun.lay(a * 0, **layout), **options)
    exact, largest = reference.fagg_vjp_terms(g, a, **options)
    unit = {"f4": 2.0**-23, "f8": 2.0**-52}[storage] * 12
    assert (np.abs(given - exact) <= largest * unit + np.finfo(storage).smallest_subnormal).all()


def test_a_gradient_of_long_packed_rows_of_short_tokens():
    random = np.random.default_rng(7)
    a = cudarun.lay(random.normal(0, 3, (500, 3)).astype(np.float32))
    offsets = np.array([0, 300, 300, 500])
    alpha, _ = cudarun.fagg_packed(a, offsets)
    g = random.normal(size=500).astype(np.float32)
    given = cudarun.fagg_packed(a, offsets, grad=g, alpha=alpha)
    for first, last in ((0, 300), (300, 500)):
        exact, largest = reference.fagg_vjp_terms(g[None, first:last], a[None, first:last])
        assert (np.abs(given[first:last] - exact[0]) <= largest[0] * 2.0**-23 * 12).all()


@each
@pytest.mark.parametrize("shape", [(30, 3), (30, 8), (40, 2, 100), (1, 5), (0, 4)])
def test_packed(shape, storage):
    random = np.random.default_rng(3)
    raw = numbers(random, shape, storage)
    raw = raw.view(np.float16) if storage == "f2" else raw
    total = shape[0]
    offsets = np.array([0, total // 6, total // 6, total // 2, total, total])
    x = plain(raw, storage)
    for order in ([0, 1], [1, 0]) if len(shape) == 2 and total > 1 else [None]:
        a = cudarun.lay(raw, order)
        alpha, lse = cudarun.fagg_packed(a, offsets)
        exact, exact_lse = reference.fagg_packed(x, offsets, return_lse=True)
        assert_close(alpha, exact, storage, "alpha")
        assert_close(lse, exact_lse, storage, "lse")
        g = numbers(random, (total,), storage)
        given = cudarun.fagg_packed(a, offsets, grad=g, alpha=cudasim.stored(alpha, storage))
        unit = {"f4": 2.0**-23 * 12, "f8": 2.0**-52 * 12, "f2": 2.0**-9, "b2": 2.0**-6}[storage]
        for first, last in itertools.pairwise(offsets):
            weight = np.asarray(cudasim.restored(g[first:last], storage), np.float64)[None]
            wanted, largest = reference.fagg_vjp_terms(weight, x[None, first:last])
            assert (np.abs(given[first:last] - wanted[0]) <= largest[0] * unit + 2.0**-23).all()


# Tokens of rows: for eight threads and none, a warp, the block, and too large for shared memory.
LENGTHS = [3, 0, 1, 40, 7, 2, 0, 90, 5, 1, 2, 3, 4, 500, 1, 1, 900, 700, 0, 60, 11, 200, 0]
# So many more that several rows share a block.
LENGTHS += [0] * 200


@each
@pytest.mark.parametrize(
    ("terms", "log"), [(1, False), (2, True), (3, False), (3, True), (4, False), (7, False)]
)
def test_packed_rows_of_short_tokens(terms, log, storage):
    """Of any lengths side by side, from wherever they begin, and each to the bits that it has alone."""
    random = np.random.default_rng(terms)
    offsets = np.cumsum([0, *LENGTHS])
    raw = numbers(random, (offsets[-1], terms), storage)
    raw = raw.view(np.float16) if storage == "f2" else raw
    alpha, lse = cudarun.fagg_packed(cudarun.lay(raw), offsets, log=log)
    exact, exact_lse = reference.fagg_packed(plain(raw, storage), offsets, log=log, return_lse=True)
    assert_close(alpha, exact, storage, "log" if log else "alpha")
    assert_close(lse, exact_lse, storage, "lse")
    if terms == 3:
        # Unaligned or not, and fewer in a block.
        limits = dataclasses.replace(cudarun.TINY, blocks=10)
        for first, last in ((0, len(LENGTHS)), (3, 9), (13, 14), (15, 19), (0, 5)):
            begin, end = offsets[first], offsets[last]
            some, some_lse = cudarun.fagg_packed(
                cudarun.lay(raw[begin:end], offset=(first + 1) % 4), offsets[first : last + 1] - begin,
                log=log, limits=limits,
            )  # fmt: skip
            np.testing.assert_array_equal(some, alpha[begin:end])
            np.testing.assert_array_equal(some_lse, lse[first:last])


def test_packed_rows_in_a_block_of_several_times_four_warps():
    # Of the first four two at a time have four warps each.
    lengths = [40, 45, 60, 50, 3, 0, 90, *LENGTHS]
    x = np.random.default_rng(1).normal(0, 3, (sum(lengths), 3)).astype(np.float32)
    offsets = np.cumsum([0, *lengths])
    limits = dataclasses.replace(cudarun.TINY, block=256, shared=16000, share=2)
    alpha, lse = cudarun.fagg_packed(cudarun.lay(x), offsets, limits=limits)
    exact, exact_lse = reference.fagg_packed(x, offsets, return_lse=True)
    assert_close(alpha, exact, "f4", "alpha")
    assert_close(lse, exact_lse, "f4", "lse")


@pytest.mark.parametrize(("storage", "shape"), [("f4", (820, 1)), ("f8", (21, 14))])
def test_a_packed_row_just_too_large_for_a_block(storage, shape):
    x = np.random.default_rng(1).normal(0, 3, shape).astype(storage)
    for tokens in range(len(x) - 12, len(x) + 1):
        alpha, _ = cudarun.fagg_packed(cudarun.lay(x[:tokens]), np.array([0, tokens]))
        assert_close(alpha, reference.fagg_packed(x[:tokens], np.array([0, tokens])), storage, "alpha")


def test_packed_rows_that_fill_the_shared_memory_of_a_block():
    """Where each of them begins at a multiple of 16 bytes: others have less room than they have numbers."""
    x = np.random.default_rng(1).normal(0, 3, (128, 5)).astype(np.float32)
    offsets = np.cumsum([0, *[2] * 64, *[0] * 200])
    alpha, _ = cudarun.fagg_packed(cudarun.lay(x), offsets)
    assert_close(alpha, reference.fagg_packed(x, offsets), "f4", "alpha")


def test_packed_rows_of_short_tokens_go_each_way():
    def steps(shape, rows):
        kind = kind_of("f4")
        plan = cudarun.plans.make_plan(
            kind, shape, (4 * shape[1], 4), True, (), (0,), False, packed_rows=rows, limits=cudarun.TINY
        )
        return [(step.kernel, step.grid) for step in plan.steps]

    pieces = [("packed_pieces", 3), ("short_packed_pieces", 3)]
    assert steps((100, 4), 7) == [("short_packed", 3)]
    assert steps((2000, 4), 23) == [("short_packed", 12), *pieces]
    assert steps((100, 3), 900) == [("short_packed_unaligned", 15)]
    assert [name for name, _ in steps((40, 40), 3)] == ["rows", "packed"]


def test_offsets_that_make_no_rows_touch_nothing_else():
    """Their values are not looked at beforehand. What is around the arrays would change, or raise."""
    random = np.random.default_rng(2)
    a = cudarun.lay(random.normal(0, 3, (2000, 3)).astype(np.float32))
    for offsets in (
        [0, 1500, 20, 1900, 7, 2000], [-5, 30, 99999], [2**40, -(2**40), 3], [0, 2000] * 9, [900, 30, 30, 2]
    ):  # fmt: skip
        found = {}
        alpha, lse = cudarun.fagg_packed(a, np.array(offsets, np.int64), kept=found)
        # It would run over after 2**31 pieces.
        assert found["listed"][0] <= len(found["listed"])
        assert len(alpha) == 2000
        assert len(lse) == len(offsets) - 1


def test_a_row_has_the_same_bits_in_any_batch():
    random = np.random.default_rng(8)
    for shape in ((7, 5, 3), (9, 16, 4), (7, 5, 40), (3, 40, 33), (3, 2, 500), (3, 1200, 1)):
        x = random.normal(0, 3, shape).astype(np.float32)
        whole = cudarun.fagg(cudarun.lay(x))
        for i in range(shape[0]):
            # Another address, another alignment.
            np.testing.assert_array_equal(cudarun.fagg(cudarun.lay(x[i : i + 1], offset=i))[0], whole[i])
    offsets = np.array([0, 4, 9, 30])
    x = random.normal(0, 3, (30, 7)).astype(np.float32)
    whole, _ = cudarun.fagg_packed(cudarun.lay(x), offsets)
    alone, _ = cudarun.fagg_packed(cudarun.lay(x[4:9]), np.array([0, 5]))
    np.testing.assert_array_equal(alone, whole[4:9])


SPECIAL = [
    "whole rows",
    "whole rows, unaligned",
    "short tokens",
    "short tokens, odd rows",
    "tiny tokens, large rows",
    "last block",
    "many tokens",
    "middle axis kept",
    "many steps",
    "mask beside",
]


@each
@pytest.mark.parametrize("name", SPECIAL)
def test_semantics(name, storage):
    """Each row of the table; the rows beside give what they did."""
    a, options, _ = case(name, storage)
    if len(a) == 1:
        pytest.skip("one row")
    options.pop("where", None)
    mask = name == "mask beside"
    usual = everything(a, options)
    bits = {
        NAN: cudasim.stored(np.array([NAN]), storage)[0],
        INF: cudasim.stored(np.array([INF]), storage)[0],
        -INF: cudasim.stored(np.array([-INF]), storage)[0],
    }
    for values, wanted in (
        ([-INF], (0, -INF, -INF)), ([NAN], (NAN, NAN, NAN)), ([INF], (NAN, NAN, INF)),
        ([INF, NAN], (NAN, NAN, NAN)),
    ):  # fmt: skip
        changed = a.copy(order="K")
        view = changed.view(np.uint16) if storage == "f2" else changed
        row = view[1]
        if values == [-INF]:
            row[...] = bits[-INF]
        else:
            for i, value in enumerate(values):
                row[tuple(n * (i + 1) // 3 for n in row.shape)] = bits[value]
        changed = relaid(changed, name, storage)
        given = everything(changed, options)
        for result, value, before in zip(given, wanted, usual, strict=True):
            np.testing.assert_array_equal(result[1], np.full(result.shape[1:], value))
            others = np.arange(len(a)) != 1
            np.testing.assert_array_equal(result[others], before[others])
        g = np.ones(given[0].shape)
        slopes = cudarun.fagg_vjp(
            cudasim.stored(g, storage),
            changed,
            cudasim.stored(np.ascontiguousarray(given[0]), storage),
            **options,
        )
        if values == [-INF]:
            assert (slopes[1] == 0).all()
        else:
            assert np.isnan(slopes[1]).all()
        assert np.isfinite(slopes[np.arange(len(a)) != 1]).all()
        if mask and values != [-INF]:
            hide = ~np.isnan(plain(changed, storage)) & ~np.isinf(plain(changed, storage))
            masked = everything(changed, options | {"where": hide})
            clean = everything(a, options | {"where": hide})
            for result, without in zip(masked, clean, strict=True):
                np.testing.assert_array_equal(result, without)


def relaid(values, name, storage):
    layout = dict(WAYS[name][2]) if name in WAYS else {}
    return cudarun.lay(values, **layout)


def everything(a, options):
    alpha, lse = cudarun.fagg(a, return_lse=True, **options)
    return alpha, cudarun.fagg(a, log=True, **options), lse


@pytest.mark.parametrize("shape", [(3, 4, 0), (3, 0, 4), (0, 3, 4), (3, 0)])
def test_empty(shape):
    a = np.zeros(shape, np.float32)
    alpha, lse = cudarun.fagg(a, return_lse=True)
    np.testing.assert_array_equal(alpha, np.zeros(shape[:2]))
    np.testing.assert_array_equal(lse, np.full(shape[0], -INF))


@pytest.mark.parametrize("storage", ["i1", "u4", "i4", "i8", "u1", "b1"])
def test_integers(storage):
    random = np.random.default_rng(1)
    values = random.integers(0, 90, (3, 4, 7))
    a = cudarun.lay(values > 45 if storage == "b1" else values.astype(storage))
    assert_close(cudarun.fagg(a), reference.oracle(a), "f8", "alpha")


@pytest.mark.parametrize("storage", ["f4", "f8", "f2"])
@pytest.mark.parametrize("scale", [1e-3, 0.125, 7.3, 2.0**120, 2.0**-120])
def test_scale(scale, storage):
    random = np.random.default_rng(2)
    magnitude = min(1e4, 50 / scale) if storage == "f2" else 50 / scale
    x = random.normal(0, magnitude, (3, 5, 8)).astype(storage)
    if not np.isfinite(x).all():
        pytest.skip("beyond the dtype")
    alpha, lse = cudarun.fagg(cudarun.lay(x), scale=scale, return_lse=True)
    exact, exact_lse = reference.oracle(x, scale=scale, return_lse=True)
    assert_close(alpha, exact, storage, "alpha")
    assert_close(lse, exact_lse, storage, "lse")


@pytest.mark.parametrize("storage", ["f4", "f8"])
def test_large_logits_and_subnormal_weights(storage):
    random = np.random.default_rng(4)
    tails = random.uniform(-1, 1, (2, 221, 2)) - np.arange(221).reshape(1, 221, 1) / 2
    far = random.normal(0, 3, (4, 6, 8)) + np.array([1e4, -1e4, 3e6, -1e7]).reshape(4, 1, 1)
    fringe = np.float32(2.0**21 / 1.4426950408889634) + random.integers(-40, 40, (3, 6, 8)) / 8
    lowest = np.full((2, 3, 8), np.finfo(storage).min)
    lowest[0, 0, 0] = 5
    for values in (tails, far, fringe, lowest):
        x = values.astype(storage)
        for log in (False, True):
            given, lse = cudarun.fagg(cudarun.lay(x), log=log, return_lse=True)
            exact, exact_lse = reference.oracle(x, log=log, return_lse=True)
            assert_close(given, exact, storage, "log" if log else "alpha")
            assert_close(lse, exact_lse, storage, "lse")


# --- that the tests can fail ----------------------------------------------------


def source_of(module):
    return Path(module.__file__).read_text(encoding="utf-8")


def without(source, place):
    """Give a module's source without one of its barriers."""
    sites = [m.start() for m in re.finditer(r"\bsync\(\)\n", source)]
    return source[: sites[place]] + "pass  \n" + source[sites[place] + len("sync()\n") :], len(sites)


BARRIERS = [
    (module, i)
    for module in (finish, rows, short, short_gradient, short_packed, staged, walk, gradient)
    for i in range(len(re.findall(r"\bsync\(\)\n", source_of(module))))
]


def all_results():
    """Give results and gradients of a few ways, one after the other."""
    for name in (
        "short tokens of eight",
        "whole rows",
        "short tokens",
        "short tokens of two terms",
        "tiny tokens, large rows",
        "last block",
        "many tokens",
        "middle axis kept",
        "batch innermost",
        "mask, split",
        "lengths",
    ):
        a, options, _ = case(name, "f4")
        alpha, lse = cudarun.fagg(a, return_lse=True, **options)
        yield alpha, lse, cudarun.fagg_vjp(np.ones_like(np.ascontiguousarray(alpha)), a, alpha, **options)
    of_lse = np.ones(2, np.float32)
    for shape in (90, 5), (90, 40):
        a = cudarun.lay(np.random.default_rng(0).normal(0, 3, shape).astype(np.float32))
        alpha, lse = cudarun.fagg_packed(a, np.array([0, 70, 90]))
        grad = np.random.default_rng(1).normal(size=90).astype(np.float32)
        slopes = cudarun.fagg_packed(a, np.array([0, 70, 90]), grad=grad, alpha=alpha, grad_lse=of_lse)
        yield alpha, lse, slopes
    # A block with rows of every length, two too large for it side by side, and one for all their pieces.
    a = cudarun.lay(np.random.default_rng(0).normal(0, 3, (sum(LENGTHS), 3)).astype(np.float32))
    limits = dataclasses.replace(cudarun.TINY, blocks=1, list_blocks=1)
    yield cudarun.fagg_packed(a, np.cumsum([0, *LENGTHS]), limits=limits)
    many = cudarun.lay(np.random.default_rng(2).normal(0, 3, (1, 200, 4)).astype(np.float32))
    alpha = cudarun.fagg(many)
    grad = np.random.default_rng(1).normal(size=(1, 200)).astype(np.float32)
    yield (cudarun.fagg_vjp(grad, many, alpha),)


@functools.cache
def right_results():
    return list(all_results())


def is_noticed():
    """Say whether a result differs or a fault is raised; what comes after that need not be run."""
    try:
        for found, right in zip(all_results(), right_results(), strict=True):
            if not all(np.array_equal(x, y, equal_nan=True) for x, y in zip(found, right, strict=True)):
                return True
    except cudasim.Fault:
        return True
    return False


@pytest.mark.parametrize(
    ("module", "place"), BARRIERS, ids=[f"{m.__name__.split('.')[-1]}-{i}" for m, i in BARRIERS]
)
def test_every_barrier_is_needed(module, place, order, monkeypatch):
    if order == -1:
        pytest.skip("both orders are run at once")
    assert right_results()
    source, _ = without(source_of(module), place)
    mutant = compile(source, module.__file__, "exec")
    fields = dict(vars(module))
    exec(mutant, fields)
    for name, value in fields.items():
        if isinstance(value, FunctionType) and value.__globals__ is fields:
            # The mutant's functions in the module's place, and the kernels' table made anew.
            monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(kernels, "KERNELS", rebuilt())
    for way in (1, -1):
        cudarun.Order.now = way
        if is_noticed():
            return
    pytest.fail("nothing differs without this barrier")


def test_nothing_is_noticed_where_nothing_is_wrong():
    """In either order of threads."""
    assert not is_noticed()


def rebuilt():
    source = source_of(kernels)
    fields = {"__name__": kernels.__name__}
    exec(compile(source, kernels.__file__, "exec"), fields)
    return fields["KERNELS"]


@pytest.mark.parametrize("storage", ["f4", "f8"])
def test_a_worse_polynomial_is_found_out(storage, monkeypatch):
    name = "P_F32" if storage == "f4" else "P_F64"
    worse = list(getattr(formulas.scalar, name))
    worse[0] *= 1 + (2.0**-15 if storage == "f4" else 2.0**-44)
    monkeypatch.setattr(formulas.scalar, name, tuple(worse))
    with pytest.raises(AssertionError):
        test_values("many tokens", storage)
    with pytest.raises(AssertionError):
        test_values("short tokens", storage)


def test_the_simulator_finds_faults():
    P = cudasim.make(kind_of("f4"))

    def beyond(a):
        P.load(a, 5)

    def half_a_warp(a):
        if P.thread() < 16:
            P.shuffle(a[0], 1)

    def half_a_block(a):
        if P.thread() < 32:
            P.sync()

    def two_barriers(a):
        if P.thread() < 32:
            P.sync()
        else:
            P.sync()

    def misaligned(a):
        P.load_vector(a, 1 if a.ctypes.data % 16 == 0 else 0)

    def wrong_type(a):
        P.fma(a[0], a[0], np.float64(1))

    a = np.zeros(5, np.float32)
    for kernel, message in (
        (beyond, r"\[5:6\] of 5"), (half_a_warp, "16 of 32 lanes"), (half_a_block, "32 of 64 threads"),
        (two_barriers, "64 of 64 threads"), (misaligned, "misaligned"), (wrong_type, "is a float64"),
    ):  # fmt: skip
        with pytest.raises(cudasim.Fault, match=message):
            cudasim.launch(kernel, 1, 64, 0, (a,))


def test_modules_are_all_here():
    # The mutants replace functions of these modules; barriers anywhere else would go untested.
    for module in (absorb, formulas, weights):
        assert not re.search(r"\bsync\(\)\n", source_of(module))
