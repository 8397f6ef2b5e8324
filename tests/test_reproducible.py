"""The same bits for any number of threads, any batch composition, any chunking, any process."""

import hashlib
import itertools
import json
import platform

import numpy as np
import pytest
from helpers import DTYPES, in_memory_order, run_python
from ways import WAYS, Way

import nbfagg

# Many small rows, and a few large ones: what threads share is rows, or the parts of rows.
MORE = {"many rows": Way((5000, 16, 4)), "large rows": Way((9, 6, 50_000))}


def digests(workers):
    """Give a hash of what each way gives."""
    found = {}
    for (name, way), dtype in itertools.product((WAYS | MORE).items(), DTYPES):
        a = way.lay(way.normal(dtype))
        digest = hashlib.sha256()
        for log in (False, True):
            for result in nbfagg.fagg(a, keep_axis=way.keep, log=log, return_lse=True, workers=workers):
                digest.update(np.ascontiguousarray(result))
        found[f"{name}, {dtype.__name__}"] = digest.hexdigest()
    return found


ELSEWHERE = """
import json
import platform
import numba
from test_reproducible import digests
found = [digests(workers) for workers in (1, 2, 3, 7, None)]
assert numba.get_num_threads() == 7
print(json.dumps(found))
"""


def test_any_number_of_threads_in_any_process():
    here = digests(None)
    # More threads than CPUs are allowed, and these are taken.
    elsewhere = json.loads(run_python(ELSEWHERE, NUMBA_NUM_THREADS="7"))
    for found in (*elsewhere, digests(1), digests(2)):
        assert found == here


def few(count):
    """Batch rows alone, and some together."""
    return [slice(0, 1), slice(count - 1, count), slice(1, 4), slice(None, None, -2)]


def many(count):
    """Batch rows alone, and the batch in chunks."""
    yield from few(count)
    for size in (1, 2, 5, 16, count - 1):
        yield from (slice(i, i + size) for i in list(range(0, count, max(1, size)))[:4])


def assert_pieces_agree(a, pieces, **keywords):
    for log in (False, True):
        alpha, lse = nbfagg.fagg(a, **keywords, log=log, return_lse=True)
        for piece in pieces(len(a)):
            part, part_lse = nbfagg.fagg(a[piece], **keywords, log=log, return_lse=True)
            alone = nbfagg.fagg(a[piece], **keywords, log=log, workers=1)
            if not (
                np.array_equal(part, alpha[piece])
                and np.array_equal(part_lse, lse[piece])
                and np.array_equal(alone, alpha[piece])
            ):
                case = f"{a.dtype} {a.shape}, strides {a.strides}, {keywords}, log={log}"
                raise AssertionError(f"{case}: {piece} is not what it is in all")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name, way in (WAYS | MORE).items() if way.shape[0] > 1])
def test_a_batch_row_is_alone(name, dtype):
    way = (WAYS | MORE)[name]
    assert_pieces_agree(way.lay(way.normal(dtype)), many, keep_axis=way.keep)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keep", [1, 2, 3, (1, 3), ()])
def test_a_batch_row_is_alone_in_any_memory_order(keep, dtype):
    for shape in ((5, 3, 4, 21), (20, 21, 4, 3), (6, 40, 35, 2)):
        a = np.random.default_rng(0).normal(0, 3, shape).astype(dtype)
        for order in itertools.permutations(range(4)):
            assert_pieces_agree(in_memory_order(a, order), few, keep_axis=keep)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_row_is_alone_among_strides(dtype):
    a = np.random.default_rng(1).normal(0, 3, (12, 14, 9, 40)).astype(dtype)
    still = np.broadcast_to(a[:, :, :1, :], a.shape)
    for view in (a[::2], a[:, ::3], a[:, :, 1:8], a[..., :37], a[..., ::2], a[:, :, ::-1], still):
        for keep in (1, 2, 3):
            assert_pieces_agree(view, many, keep_axis=keep)
    # Another axis for the batch, and two of them.
    for batch in (3, (0, 2), (2, 3)):
        alpha = nbfagg.fagg(a, batch_axis=batch, keep_axis=1)
        for i in (0, 5):
            at = tuple(slice(i, i + 1) if axis in np.atleast_1d(batch) else slice(None) for axis in range(4))
            kept = tuple(piece for axis, piece in enumerate(at) if axis == 1 or axis in np.atleast_1d(batch))
            np.testing.assert_array_equal(nbfagg.fagg(a[at], batch_axis=batch, keep_axis=1), alpha[kept])


@pytest.mark.parametrize("dtype", DTYPES)
def test_neighbours_do_not_matter(dtype):
    # Nor does what they hold: NaN, infinities, other magnitudes.
    random = np.random.default_rng(2)
    for name in (
        *("small", "tiny", "tiny tokens", "blocks", "columns of batch rows", "columns of tokens"),
        *("runs side by side", "runs of batch rows side by side"),
    ):
        way = WAYS[name]
        values = way.normal(dtype)
        alpha = nbfagg.fagg(way.lay(values), keep_axis=way.keep)
        for value in (np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-30):
            other = np.where(np.arange(len(values)) == 1, 0, 1).reshape(-1, *[1] * (values.ndim - 1))
            mixed = np.where(other, random.choice([value, 1], values.shape).astype(dtype), values)
            result = nbfagg.fagg(way.lay(mixed), keep_axis=way.keep)
            np.testing.assert_array_equal(result[1], alpha[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_halves_are_rounded_alike_at_any_point(dtype):
    # With this scale y is the logit, and half-way between two integers the even one is taken: as counted from
    # the reference point, which rows of a tile may share.
    for name in ("tiny", "tiny tokens", "columns of batch rows", "runs of batch rows side by side"):
        way = WAYS[name]
        steps = np.random.default_rng(3).integers(-9, 10, way.shape) / 2
        a = (steps + np.arange(way.shape[0]).reshape(-1, *[1] * (len(way.shape) - 1))).astype(dtype)
        assert_pieces_agree(way.lay(a), few, keep_axis=way.keep, scale=float(np.log(2)))


def test_the_same_call_again():
    for name in ("small", "blocks", "parts", "copies"):
        way = WAYS[name]
        a = way.lay(way.normal(np.float32))
        first = nbfagg.fagg(a, keep_axis=way.keep)
        for _ in range(5):
            np.testing.assert_array_equal(nbfagg.fagg(a, keep_axis=way.keep), first)


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64", "aarch64", "arm64"), reason="no flag is known here"
)
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_threads_that_were_started_to_flush_subnormal_numbers(layer):
    """They keep that for good, but not for a kernel's numbers; what the caller has set, it has again."""
    code = """
import platform, numba, numpy as np, nbfagg
from nbfagg.cpu.environment import enter, leave

@numba.njit
def get():
    before = enter()
    leave(before)
    return before

@numba.njit
def put(new):
    leave(new)

a = np.zeros((64, 64, 128, 16), np.float32)
a[:, 0] = -87.5
usual = get()
flushing = usual | (0x8040 if platform.machine() in ("x86_64", "AMD64") else 1 << 24)
put(flushing)
found = [nbfagg.fagg(a, workers=workers) for workers in (1, 2, 2, 2)]
assert get() == flushing
put(usual)
found += [nbfagg.fagg(a, workers=workers) for workers in (1, 2, 2, 2)]
assert get() == usual
assert 0 < found[0][0, 0] < np.finfo(np.float32).tiny
print(all(np.array_equal(x.view(np.int32), found[0].view(np.int32)) for x in found))
"""
    assert run_python(code, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2") == "True\n"
