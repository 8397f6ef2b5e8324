"""Masks and lengths: what is left out is as if it were not there, on every way that a block can be taken."""

import signal
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from helpers import DTYPES, check, check_all, environment, run_python
from ways import WAYS, Way

import nbfagg
from nbfagg import fields, inputs, reference

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
NAN, INF = np.nan, np.inf
EXCLUDED = [NAN, INF, -INF, 1e30, -1e30]

# With a mask or lengths every array is taken token by token, from wherever its logits lie.
SMALL = {name: WAYS[name] for name in ("small", "tiny", "tiny tokens", "tokens of one term", "pieces")}
SMALL |= {
    "blocks": Way((3, 310, 3, 10)),
    "whole vectors": Way((3, 70, 2, 32)),
    "rows of one token": Way((40, 1, 3, 7)),
    "long tokens": Way((2, 3, 3, 900)),
    "other byte order": Way((3, 30, 3, 5), swapped=True),
    "long tokens apart": Way((3, 2, 3, 2900), order=(0, 3, 1, 2), gap=True),
    "terms apart": Way((3, 30, 4, 9), gap=True),
    "tiny rows apart": Way((30, 5, 3, 2), order=(3, 1, 0, 2)),
    "batch innermost": Way((37, 6, 5, 4), order=(1, 2, 3, 0)),
    "tokens innermost": Way((3, 6, 5, 37), keep=3),
    "tokens between": Way((3, 6, 40, 5), keep=2, order=(1, 0, 3, 2)),
}
LARGE = {
    "parts": WAYS["parts"],
    "parts of tokens": WAYS["parts of tokens"],
    "parts apart": Way((1, 3, 2, 80_000), gap=True),
    "many tokens": Way((2, fields.SUMS_TOKENS + 21, 1)),
    "parts of many tokens": Way((1, fields.SUMS_TOKENS + 4000, 5)),
}


def some(random, shape):
    return random.random(shape) < 0.7


def along(axes, shape):
    """Give `shape` with all axes but these of size 1."""
    return tuple(size if axis in axes else 1 for axis, size in enumerate(shape))


def padding(random, shape, keep):
    valid = random.integers(shape[keep] + 1, size=along((0,), shape))
    return np.arange(shape[keep]).reshape(along((keep,), shape)) < valid


def read_only(random, shape, keep):
    mask = some(random, shape)
    mask.flags.writeable = False
    return mask


MASKS = {
    "number by number": lambda random, shape, keep: some(random, shape),
    "by token": lambda random, shape, keep: some(random, along((0, keep), shape)),
    "tokens, alike in all rows": lambda random, shape, keep: some(random, along((keep,), shape)),
    "whole rows": lambda random, shape, keep: some(random, along((0,), shape)),
    "alike in all rows": lambda random, shape, keep: some(random, shape[1:]),
    "last axis": lambda random, shape, keep: some(random, shape[-1:]),
    "all but the last axis": lambda random, shape, keep: some(random, (*shape[:-1], 1)),
    "summed axes": lambda random, shape, keep: some(random, along({1, 2, 3} - {keep}, shape)),
    "padding": padding,
    "every second": lambda random, shape, keep: some(random, (*shape[:-1], 2 * shape[-1]))[..., 1::2],
    "reversed": lambda random, shape, keep: some(random, shape)[(slice(None, None, -1),) * len(shape)],
    "tokens reversed": lambda random, shape, keep: np.flip(some(random, along((0, keep), shape)), keep),
    "in Fortran's order": lambda random, shape, keep: np.asfortranarray(some(random, shape)),
    "read-only": read_only,
    "all": lambda random, shape, keep: np.ones(shape, bool),
    "True": lambda random, shape, keep: True,
    "False": lambda random, shape, keep: False,
    "array of one False": lambda random, shape, keep: np.zeros((1,) * len(shape), bool),
    "a list": lambda random, shape, keep: some(random, shape[-1:]).tolist(),
}


def mask_of(name, way):
    return MASKS[name](np.random.default_rng(len(name)), way.shape, way.keep)


def lengths_of(way):
    """Give a length for each row; the last one's ends within, and the others' are 0, all, and any."""
    rows, tokens = way.shape[0], way.shape[way.keep]
    lengths = np.random.default_rng(rows).integers(tokens + 1, size=rows)
    lengths[-1] = tokens * 3 // 4
    if rows > 2:
        lengths[:2] = 0, tokens
    return lengths


def both(way, where, lengths):
    """Give mask and lengths as one mask of the shape of the logits."""
    shape = way.shape
    mask = np.broadcast_to(where, shape)
    if lengths is not None:
        token = np.arange(shape[way.keep]).reshape(along((way.keep,), shape))
        mask = mask & (token < np.reshape(lengths, along((0,), shape)))
    return mask


def results(a, **keywords):
    """Give alpha, log alpha and lse."""
    alpha, lse = nbfagg.fagg(a, return_lse=True, **keywords)
    return alpha, nbfagg.fagg(a, log=True, **keywords), lse


def assert_same(given, wanted):
    for one, other in zip(given, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


def assert_excluded_does_not_matter(way, values, where, lengths):
    """Assert that the oracle agrees, and that no bit comes from what is left out."""
    keywords = {"keep_axis": way.keep, "where": where, "lengths": lengths}
    included = both(way, True if where is None else where, lengths)
    check_all(way.lay(values), **keywords)
    clean = results(way.lay(values), **keywords)
    for poison in (EXCLUDED[0], np.resize(EXCLUDED, values.shape).astype(values.dtype)):
        assert_same(results(way.lay(np.where(included, values, poison)), **keywords), clean)


OF_BOTH_DTYPES = ["number by number", "by token", "last axis", "padding"]


@pytest.mark.parametrize(
    ("mask", "dtype"),
    [(mask, dtype) for mask in MASKS for dtype in (DTYPES if mask in OF_BOTH_DTYPES else DTYPES[:1])],
)
@pytest.mark.parametrize("name", SMALL)
def test_masks(name, mask, dtype):
    way = SMALL[name]
    assert_excluded_does_not_matter(way, way.normal(dtype), mask_of(mask, way), None)


@every_dtype
@pytest.mark.parametrize("name", SMALL)
def test_lengths(name, dtype):
    way = SMALL[name]
    assert_excluded_does_not_matter(way, way.normal(dtype), None, lengths_of(way))


@every_dtype
@pytest.mark.parametrize("mask", ["number by number", "by token", "last axis", "reversed"])
@pytest.mark.parametrize("name", SMALL)
def test_mask_and_lengths(name, mask, dtype):
    way = SMALL[name]
    assert_excluded_does_not_matter(way, way.normal(dtype), mask_of(mask, way), lengths_of(way))


@every_dtype
@pytest.mark.parametrize("name", LARGE)
def test_large_rows(name, dtype):
    way = LARGE[name]
    values = way.normal(dtype)
    check_all(way.lay(values), keep_axis=way.keep, where=mask_of("by token", way), lengths=lengths_of(way))
    for mask, lengths in (
        ("number by number", None),
        ("last axis", lengths_of(way)),
        ("True", lengths_of(way)),
    ):
        keywords = {"keep_axis": way.keep, "where": mask_of(mask, way), "lengths": lengths}
        included = both(way, keywords["where"], lengths)
        clean = results(way.lay(np.where(included, values, 0)), **keywords)
        assert_same(results(way.lay(np.where(included, values, NAN)), **keywords), clean)
        # Left out or -inf is the same to the bit.
        left = way.lay(np.where(included, values, -INF))
        assert_same(results(left, keep_axis=way.keep, where=True), clean)
        check(way.lay(values), **keywords, return_lse=True)


def test_each_mask_lies_as_it_is_named():
    def lies(way, mask):
        a, where = way.lay(way.normal(np.float32)), np.broadcast_to(mask_of(mask, way), way.shape)
        plan = inputs.plan_for(
            *(a.shape, a.strides, a.dtype, True, 0, way.keep, False, False), where.strides, False
        )
        assert plan.way == "rows"
        return plan.table[fields.MASKED]

    for way in (SMALL["small"], SMALL["tokens innermost"], LARGE["parts"]):
        assert lies(way, "by token") == lies(way, "True") == lies(way, "padding") == fields.BY_TOKEN
        assert lies(way, "last axis") == (fields.BY_TOKEN if way.keep == 3 else fields.ANYHOW)
        assert lies(way, "every second") == fields.ANYHOW
    for way in (SMALL["small"], SMALL["tiny"], LARGE["parts"]):
        assert lies(way, "number by number") == lies(way, "alike in all rows") == fields.BESIDE
    assert SMALL["tiny"].shape[0] > 1
    a = SMALL["tiny"].normal(np.float32)
    plan = inputs.plan_for(a.shape, a.strides, a.dtype, True, 0, 1, False, False, None, True)
    assert plan.table[fields.TILE_ROWS] > 1


@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, bool, ">i4", ">f4", ">f8"])
def test_other_dtypes(dtype):
    random = np.random.default_rng(0)
    for shape in ((9, 5, 3, 4), (3, 60, 3, 10), (2, 3, 1, 3000)):
        a = random.integers(-9, 9, shape).astype(dtype)
        for mask in ("number by number", "by token", "last axis"):
            where = MASKS[mask](random, shape, 1)
            lengths = random.integers(shape[1] + 1, size=shape[0])
            turned = np.broadcast_to(where, shape).T
            check_all(a.T, batch_axis=3, keep_axis=2, where=turned, lengths=lengths)
            check_all(a, where=where, lengths=lengths)


@every_dtype
def test_logits_that_are_misaligned(dtype):
    way = SMALL["small"]
    values = way.normal(dtype)
    memory = np.zeros(values.nbytes + 1, np.uint8)
    a = np.ndarray(way.shape, dtype, memory, offset=1)
    a[:] = values
    for mask in ("number by number", "by token", "last axis"):
        where = mask_of(mask, way)
        assert_same(results(a, where=where), results(values, where=where))


@every_dtype
@pytest.mark.parametrize(
    ("batch", "keep"),
    [(0, (1, 3)), ((0, 2), 1), ((), 1), (3, ()), ((), ()), (2, 0), ((1, 2), (0, 3)), ((3, 0), 2)],
)
def test_masks_for_any_axes(batch, keep, dtype):
    shape = (5, 6, 7, 9)
    random = np.random.default_rng(1)
    a = random.normal(0, 3, shape).astype(dtype)
    for where in (
        some(random, shape),
        some(random, shape[1:]),
        some(random, (6, 1, 1)),
        some(random, (5, 1, 7, 1)),
    ):
        for view in (a, a[:, ::-1, :, ::-1], a.transpose(1, 0, 2, 3).copy().transpose(1, 0, 2, 3)):
            check_all(view, batch_axis=batch, keep_axis=keep, where=where)
            check(view, batch_axis=batch, keep_axis=keep, where=where, log=True, return_lse=True, scale=0.3)


@every_dtype
def test_lengths_for_any_two_axes(dtype):
    shape = (5, 6, 7, 4)
    a = np.random.default_rng(2).normal(0, 3, shape).astype(dtype)
    for batch, keep in ((0, 1), (1, 0), (3, 1), (-1, -2), ((2,), (0,))):
        rows, tokens = (shape[np.atleast_1d(axis)[0]] for axis in (batch, keep))
        lengths = np.arange(rows) % (tokens + 1)
        check_all(a, batch_axis=batch, keep_axis=keep, lengths=lengths)
        check_all(a[::-1, :, ::-1], batch_axis=batch, keep_axis=keep, lengths=lengths)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, ">i8", np.uint64])
def test_dtypes_of_lengths(dtype):
    way = SMALL["blocks"]
    a, lengths = way.normal(np.float32), [0, 7, 100]
    want = nbfagg.fagg(a, lengths=np.array(lengths))
    for given in (
        np.array(lengths, dtype),
        np.repeat(np.array(lengths, dtype), 2)[::2],
        lengths,
        tuple(lengths),
    ):
        np.testing.assert_array_equal(nbfagg.fagg(a, lengths=given), want)


@every_dtype
@pytest.mark.parametrize("name", SMALL | LARGE)
def test_left_out_or_minus_infinity_or_past_the_end(name, dtype):
    way = (SMALL | LARGE)[name]
    lengths = lengths_of(way)
    values = way.normal(dtype)
    a = way.lay(values)
    included = both(way, True, lengths)
    given = results(a, keep_axis=way.keep, lengths=lengths)
    summed = tuple(axis for axis in range(1, len(way.shape)) if axis != way.keep)
    for where in (included.all(axis=summed, keepdims=True), included.copy()):
        assert_same(results(a, keep_axis=way.keep, where=where), given)
    left = way.lay(np.where(included, values, -INF).astype(dtype))
    assert_same(results(left, keep_axis=way.keep, where=True), given)
    if name in ("small", "tiny", "blocks", "pieces", "parts", "many tokens"):
        assert_same(results(left, keep_axis=way.keep), given)


@every_dtype
@pytest.mark.parametrize(
    "name", ["small", "tiny", "tiny tokens", "blocks", "pieces", "parts", "parts of many tokens"]
)
def test_lengths_or_slices_or_packed_rows(name, dtype):
    way = (SMALL | LARGE)[name]
    a, lengths = way.normal(dtype), lengths_of(way)
    alpha, log, lse = results(a, lengths=lengths)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    packed = nbfagg.fagg_packed(np.concatenate([row[:n] for row, n in zip(a, lengths, strict=True)]), offsets)
    # Each of the two is within 2 (float64: 3) units, and one subnormal step where that is more.
    close = {
        "rtol": (4 if dtype == np.float32 else 6) * np.finfo(dtype).eps,
        "atol": 2 * np.finfo(dtype).smallest_subnormal,
    }
    for row in range(min(len(a), 20)):
        n = lengths[row]
        part, part_log, part_lse = results(a[row : row + 1, :n])
        np.testing.assert_allclose(alpha[row, :n], part[0], **close)
        np.testing.assert_allclose(packed[offsets[row] : offsets[row + 1]], part[0], **close)
        np.testing.assert_allclose(log[row, :n], part_log[0], rtol=close["rtol"], atol=close["rtol"])
        np.testing.assert_allclose(lse[row], part_lse[0], rtol=close["rtol"], atol=close["rtol"])
        np.testing.assert_array_equal(alpha[row, n:], 0)
        np.testing.assert_array_equal(log[row, n:], -INF)


# --- rows of nothing, NaN, infinities -----------------------------------------


@every_dtype
@pytest.mark.parametrize("name", SMALL | LARGE)
def test_nothing_included(name, dtype):
    way = (SMALL | LARGE)[name]
    a = way.lay(way.normal(dtype))
    whole = results(a, keep_axis=way.keep, where=True)
    one = np.ones(way.shape, bool)
    one[0] = False
    tokens = way.shape[way.keep]
    short = np.full(way.shape[0], tokens)
    short[0] = 0
    by_row = one[:, :1, :1] if len(way.shape) == 3 else one[:, :1, :1, :1]
    for keywords in ({"where": one}, {"where": by_row}, {"lengths": short}, {"where": one, "lengths": short}):
        given = results(a, keep_axis=way.keep, **keywords)
        for result, value, others in zip(given, (0, -INF, -INF), whole, strict=True):
            np.testing.assert_array_equal(result[0], np.full(result.shape[1:], value))
            np.testing.assert_array_equal(result[1:], others[1:])
    for keywords in ({"where": False}, {"lengths": 0 * short}):
        for result, value in zip(results(a, keep_axis=way.keep, **keywords), (0, -INF, -INF), strict=True):
            np.testing.assert_array_equal(result, np.full(result.shape, value))


@every_dtype
@pytest.mark.parametrize("name", SMALL | LARGE)
def test_minus_infinity_is_all_that_is_included(name, dtype):
    way = (SMALL | LARGE)[name]
    values = way.normal(dtype)
    where = np.array(np.broadcast_to(mask_of("number by number", way), way.shape))
    usual = results(way.lay(values), keep_axis=way.keep, where=where)
    for poison in (NAN, INF, 3.0):
        values[0] = np.where(where[0], -INF, poison)
        given = results(way.lay(values), keep_axis=way.keep, where=where)
        for result, value, others in zip(given, (0, -INF, -INF), usual, strict=True):
            np.testing.assert_array_equal(result[0], np.full(result.shape[1:], value))
            np.testing.assert_array_equal(result[1:], others[1:])


@every_dtype
@pytest.mark.parametrize("mask", ["number by number", "by token", "last axis", "lengths"])
@pytest.mark.parametrize("name", SMALL | LARGE)
def test_what_is_included_stays_visible(name, mask, dtype):
    way = (SMALL | LARGE)[name]
    lengths = np.full(way.shape[0], max(1, way.shape[way.keep] // 2)) if mask == "lengths" else None
    where = True if mask == "lengths" else np.array(np.broadcast_to(mask_of(mask, way), way.shape))
    if where is not True:
        # There is something in the first row, and something is not.
        where[(0,) * where.ndim] = True
        where[(0,) + (-1,) * (where.ndim - 1)] = False
    included = both(way, where, lengths)
    values = way.normal(dtype)
    keywords = {"keep_axis": way.keep, "where": where, "lengths": lengths}
    usual = results(way.lay(values), **keywords)
    inside, outside = np.argwhere(included[0]), np.argwhere(~included[0])
    for index, poison, also, lse in (
        (0, NAN, None, NAN),
        (-1, NAN, INF, NAN),
        (-1, INF, NAN, INF),
        (len(inside) // 2, INF, None, INF),
    ):
        spoilt = values.copy()
        spoilt[(0, *inside[index])] = poison
        if also is not None:
            spoilt[(0, *outside.T)] = also
        given = results(way.lay(spoilt), **keywords)
        for result, value, others in zip(given, (NAN, NAN, lse), usual, strict=True):
            np.testing.assert_array_equal(result[0], np.full(result.shape[1:], value))
            np.testing.assert_array_equal(result[1:], others[1:])
    if len(inside) > 1:
        spoilt = values.copy()
        spoilt[(0, *inside[0])], spoilt[(0, *inside[-1])] = INF, NAN
        assert np.isnan(results(way.lay(spoilt), **keywords)[2][0])


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2), (2, 3, 0), (0, 0, 2), (4, 0), (0, 4)])
def test_empty_axes(shape):
    a = np.zeros(shape)
    lengths = np.zeros(shape[0], int)
    for log in (False, True):
        for where in (True, False, np.ones(shape, bool), np.ones(shape[1:], bool)):
            check(a, log=log, return_lse=True, where=where)
            check(a, log=log, return_lse=True, where=where, lengths=lengths)


# --- what is read, what is kept -------------------------------------------------

# Pages behind the end of each row's valid tokens are made unreadable, so that whatever reads there is ended.
GUARDED = """
import ctypes
import itertools
import mmap
import sys
import numpy as np
import nbfagg

libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
PAGE = mmap.PAGESIZE

def protect(address, size, mode):
    assert address % PAGE == size % PAGE == 0
    if size and libc.mprotect(address, size, mode):
        raise OSError(ctypes.get_errno())

def guarded(dtype, rows, tokens, terms, valid):
    item = np.dtype(dtype).itemsize
    used, full = valid * terms * item, tokens * terms * item
    head = -used % PAGE
    step = -(-(head + full) // PAGE) * PAGE
    memory = mmap.mmap(-1, rows * step)
    a = np.ndarray((rows, tokens, terms), dtype, memory, head, (step, terms * item, item))
    a[:] = np.random.default_rng(0).normal(0, 3, a.shape)
    known = np.array(a[:, :valid])
    start = np.frombuffer(memory, np.uint8).ctypes.data
    spans = [(start + row * step + head + used, step - head - used) for row in range(rows)]
    for span in spans:
        protect(*span, 0)
    return a, known, spans

if sys.argv[1:] == ["control"]:
    a, _, _ = guarded("f4", 2, 40, 5, 7)
    nbfagg.fagg(a, workers=1)
    raise SystemExit("nothing was guarded")

SHAPES = (2, 40, 1), (30, 9, 3), (3, 500, 40), (2, 6, 5000), (1, 70_000, 3), (2, 66_000, 1)
for dtype in ("f2", "f4", "f8", ">f4", "i4"):
    for rows, tokens, terms in SHAPES:
        for valid in sorted({0, 1, 3, tokens // 2 + 1, tokens - 1}):
            a, known, spans = guarded(dtype, rows, tokens, terms, valid)
            lengths = np.full(rows, valid)
            close = {"rtol": 2e-3 if dtype == "f2" else 1e-6, "atol": 1e-7}
            for log, workers in itertools.product((False, True), (1, 2)):
                alpha, lse = nbfagg.fagg(a, lengths=lengths, log=log, return_lse=True, workers=workers)
                want, want_lse = nbfagg.fagg(known, log=log, return_lse=True)
                np.testing.assert_allclose(alpha[:, :valid], want, **close)
                np.testing.assert_allclose(lse, want_lse, **close)
                assert (alpha[:, valid:] == (-np.inf if log else 0)).all()
            for span in spans:
                protect(*span, mmap.PROT_READ | mmap.PROT_WRITE)
print("done")
"""
guarded = pytest.mark.skipif(sys.platform != "linux", reason="mprotect by ctypes, as Linux has it")


@guarded
def test_nothing_past_a_length_is_read():
    assert run_python(GUARDED) == "done\n"


@guarded
def test_reading_past_a_length_would_be_seen():
    process = subprocess.run(
        [sys.executable, "-P", "-c", GUARDED, "control"], env=environment(), capture_output=True, check=False
    )
    assert process.returncode in (-signal.SIGSEGV, -signal.SIGBUS)


@every_dtype
def test_an_infinity_before_the_end_reads_nothing_past_it(dtype):
    # lse looks for a NaN beside +inf: among what is included alone.
    a = np.zeros((2, 8, 3), dtype)
    a[:, 1, 2] = INF
    a[0, 5:] = NAN
    a[1, 4, 1] = NAN
    alpha, lse = nbfagg.fagg(a, lengths=[5, 5], return_lse=True)
    np.testing.assert_array_equal(alpha, np.full((2, 8), NAN))
    np.testing.assert_array_equal(lse, [INF, NAN])


def peak(a, **keywords):
    nbfagg.fagg(
        a[:1], **{name: value[:1] if name == "lengths" else value for name, value in keywords.items()}
    )
    tracemalloc.start()
    try:
        nbfagg.fagg(a, **keywords)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_nothing_grows_with_the_logits():
    # 32 MiB of logits, whose mask would have 8 MiB; a result of 64 KiB.
    a = np.zeros((16, 1024, 8, 64), np.float32)
    a[3] = INF
    random = np.random.default_rng(0)
    lengths = random.integers(1025, size=16)
    most = 2 << 20
    for shape in ((1, 1024, 1, 1), (1, 1, 1, 64), (1, 1, 8, 1), (1, 1024, 8, 64), ()):
        where = np.asarray(random.random(shape) < 0.7)
        assert peak(a, where=where, return_lse=True) < most
        assert peak(a, where=where, lengths=lengths, log=True, return_lse=True) < most
    assert peak(a, lengths=lengths) < most
    for view in (a.transpose(0, 1, 3, 2), a[..., ::2], a.view(">f4"), a.view(np.int32), a.view(np.float16)):
        where = random.random((1, 1024, 1, 1)) < 0.7
        assert peak(view, where=where, lengths=lengths, return_lse=True) < most


def test_a_mask_that_is_taken_for_larger_arrays_takes_no_more():
    grown = []
    for rows in (8, 64):
        a = np.zeros((rows, 64, 8, 64), np.float32)
        where = np.random.default_rng(0).random((1, 64, 8, 64)) < 0.7
        grown.append(peak(a, where=where, workers=2) - rows * 64 * 4)
    assert grown[1] < grown[0] + 64 * 1024


def test_neither_mask_nor_logits_are_written():
    way = SMALL["small"]
    a, where, lengths = way.normal(np.float32), mask_of("number by number", way), lengths_of(way)
    before = a.copy(), where.copy(), lengths.copy()
    for array in (a, where, lengths):
        array.flags.writeable = False
    results(a, where=where, lengths=lengths)
    assert_same((a, where, lengths), before)


# --- the same bits ----------------------------------------------------------------

MORE = {"many rows": Way((3000, 16, 4)), "large rows": Way((5, 6, 50_000))}


@every_dtype
@pytest.mark.parametrize("name", SMALL | LARGE | MORE)
def test_any_number_of_workers_and_any_batch(name, dtype):
    way = (SMALL | LARGE | MORE)[name]
    a, lengths = way.lay(way.normal(dtype)), lengths_of(way)
    for mask in ("number by number", "by token", "last axis", "True"):
        where = np.broadcast_to(mask_of(mask, way), way.shape)
        keywords = {"keep_axis": way.keep}
        whole = results(a, where=where, lengths=lengths, workers=1, **keywords)
        for workers in (2, None):
            assert_same(results(a, where=where, lengths=lengths, workers=workers, **keywords), whole)
        for rows in (slice(0, 1), slice(1, 4), slice(None, None, -2)):
            given = results(a[rows], where=where[rows], lengths=lengths[rows], **keywords)
            assert_same(given, [result[rows] for result in whole])


@every_dtype
def test_out(dtype):
    for shape in ((3, 10, 4), (2, 300, 90), (1, 2, 9000), (2, 66_000, 1)):
        a = np.random.default_rng(0).normal(0, 3, shape).astype(dtype)
        where = some(np.random.default_rng(1), (shape[1], 1))
        lengths = np.full(shape[0], shape[1] - 1)
        for log in (False, True):
            want = nbfagg.fagg(a, where=where, lengths=lengths, log=log)
            out = np.full(shape[:2], NAN, dtype)
            assert nbfagg.fagg(a, where=where, lengths=lengths, log=log, out=out) is out
            np.testing.assert_array_equal(out, want)
            spaced = np.full((shape[0], 2 * shape[1] + 1), 7, dtype)
            nbfagg.fagg(a, where=where, lengths=lengths, log=log, out=spaced[:, 1::2])
            np.testing.assert_array_equal(spaced[:, 1::2], want)
            np.testing.assert_array_equal(spaced[:, ::2], 7)


@every_dtype
@pytest.mark.parametrize("offset", [0, 1e4, -1e4, 1e8])
def test_what_is_left_out_is_no_reference_point(offset, dtype):
    # The row's maximum is among what is included, however far away the others are.
    for shape in ((3, 10, 5, 4), (20, 3, 2), (2, 300, 20), (2, 2, 5000), (1, 70_000, 1)):
        random = np.random.default_rng(3)
        values = random.normal(0, 20, shape) + offset
        where = some(random, shape)
        values[~where] += random.choice([-2e4, 2e4], shape)[~where]
        check_all(values.astype(dtype), where=where)
        exact = reference.oracle(np.where(where, values.astype(dtype), -INF).astype(dtype))
        np.testing.assert_array_equal(exact, reference.oracle(values.astype(dtype), where=where))


@every_dtype
@pytest.mark.parametrize("scale", [1 / 3, 1e3, 2.0**-110])
def test_scale(scale, dtype):
    for name in ("tiny", "blocks", "pieces", "terms apart"):
        way = SMALL[name]
        a = way.lay((way.normal(np.float64) * min(1 / scale, 1e33)).astype(dtype))
        check_all(a, where=mask_of("number by number", way), lengths=lengths_of(way), scale=scale)
