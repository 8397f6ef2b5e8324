"""Every kind of logits at every edge of the kernels, beside the oracle."""

import math

import numpy as np
import pytest
from helpers import DTYPES, check, check_all, in_memory_order
from ways import WAYS

import nbfagg
from nbfagg import fields
from nbfagg.fields import TILE
from nbfagg.plan.grain import PART_BLOCKS


def normal(random, shape, info):
    return random.normal(size=shape)


def wide(random, shape, info):
    return random.normal(0, 30, shape)


def uniform_110(random, shape, info):
    return random.uniform(-110, 110, shape)


def offset(random, shape, info):
    return 1e4 + random.normal(size=shape)


def up_to_1e4(random, shape, info):
    return random.uniform(-1e4, 1e4, shape)


def equal(random, shape, info):
    return np.full(shape, random.normal())


def tails(random, shape, info):
    # Geometric weights, from 1 to below the smallest subnormal number.
    steps = np.linspace(0, 1.1 * math.log(info.smallest_subnormal), math.prod(shape[1:]))
    return random.permuted(np.tile(steps, (shape[0], 1)), axis=1).reshape(shape)


def one_hot(random, shape, info):
    a = np.full((shape[0], math.prod(shape[1:])), -110.0)
    a[np.arange(shape[0]), random.integers(a.shape[1], size=shape[0])] = 0.1
    return a.reshape(shape)


def subnormal(random, shape, info):
    # One logit is 0, all others have weights around the smallest normal number, down to an 8th of the
    # smallest subnormal: alone they are subnormal, many together are not.
    low = math.log(info.smallest_subnormal) - 2
    a = random.uniform(low, math.log(info.tiny) + 2, (shape[0], math.prod(shape[1:])))
    a[:, 0] = 0
    return a.reshape(shape)


def padded(random, shape, info):
    a = random.normal(0, 3, shape)
    a[random.random(shape) < 0.3] = -np.inf
    a[:, shape[1] * 3 // 4 + 1 :] = -np.inf
    a[0] = -np.inf
    return a


def masked_by_lowest(random, shape, info):
    # What some write in place of -inf; a row of nothing else is a row of equal logits.
    a = random.normal(0, 3, shape)
    a[random.random(shape) < 0.3] = info.min
    a[0] = info.min
    return a


def huge(random, shape, info):
    return 1e30 * random.normal(size=shape)


def around_1e8(random, shape, info):
    # float32 numbers are 8 apart there; some neighbours in a row, the next row below 0.
    a = 1e8 + 8.0 * random.integers(-4, 5, shape)
    a[1::2] *= -1
    return a


KINDS = [
    normal,
    wide,
    uniform_110,
    offset,
    up_to_1e4,
    equal,
    tails,
    one_hot,
    subnormal,
    padded,
    masked_by_lowest,
    huge,
    around_1e8,
]


def logits(kind, shape, dtype, seed=0):
    random = np.random.default_rng([seed, *shape])
    return kind(random, shape, np.finfo(dtype)).astype(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_few_terms(kind, dtype):
    # Each number of terms up to two vectors has code or a remainder of its own, so has the last vector of
    # tokens.
    for terms in range(1, 18):
        for tokens in (1, 15, 17, 64, 66):
            check_all(logits(kind, (2, tokens, terms), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_some_terms(kind, dtype):
    # Around two to eight vectors, and around SHORT, where the way of summing changes.
    for terms in (31, 32, 33, 63, 64, 65, 66, 127, 128, 129, 300):
        for tokens in (1, 17, 40):
            check_all(logits(kind, (2, tokens, terms), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_terms_around_a_tile(kind, dtype):
    tile = TILE // np.dtype(dtype).itemsize
    for terms in (tile // 2, tile // 2 + 1, tile - 1, tile, tile + 1, 2 * tile, 3 * tile + 5):
        check_all(logits(kind, (2, 3, terms), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_around_a_tile(kind, dtype):
    tile = TILE // np.dtype(dtype).itemsize
    for terms in (1, 3, 20):
        for tokens in (tile // terms - 1, tile // terms + 1, 2 * (tile // terms) + 17):
            check_all(logits(kind, (1, tokens, terms), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [normal, wide, tails])
def test_parts(kind, dtype):
    # A part is 64 tiles. Just past one, cut inside of a token, and between tokens.
    part = PART_BLOCKS * TILE // np.dtype(dtype).itemsize
    for tokens in (2, part // 10):
        check_all(logits(kind, (1, tokens, part // tokens + 1), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [normal, wide, tails, subnormal, padded])
def test_tokens_around_the_workspace(kind, dtype):
    # With more tokens the sums wait in the result.
    for tokens in (fields.SUMS_TOKENS - 1, fields.SUMS_TOKENS, fields.SUMS_TOKENS + 1):
        check_all(logits(kind, (1, tokens, 1), dtype))
    check_all(logits(kind, (2, fields.SUMS_TOKENS + 3, 2), dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", WAYS)
def test_every_layout(name, dtype):
    # Tokens from 1 down to below the smallest subnormal weight, each row at another offset: what has its
    # own reference point (a block, a column, a run) is moved to the row's, over all distances that count.
    way = WAYS[name]
    info = np.finfo(dtype)
    spread = np.linspace(0, math.log(info.smallest_subnormal) - 3, way.shape[way.keep])
    spread = np.random.default_rng(0).permutation(spread)
    a = np.moveaxis(way.normal(np.float64) / 3, way.keep, -1) + spread
    a = np.moveaxis(a, 0, -1) + np.resize([0, 1e4, -1e4], way.shape[0])
    a = np.moveaxis(np.moveaxis(a, -1, 0), -1, way.keep).astype(dtype)
    check_all(way.lay(a), keep_axis=way.keep)


SCALES = [1 / math.sqrt(7), 1e-3, 1e3, 3]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("kind", [normal, wide, offset, up_to_1e4, tails, padded, around_1e8])
def test_scale(kind, scale, dtype):
    for shape in ((2, 5, 1), (2, 33, 7), (2, 17, 40), (2, 3, 100), (1, 2, 5000)):
        check_all(logits(kind, shape, dtype), scale=scale)


@pytest.mark.parametrize("scale", [2.0**-120, 2.0**-101, 2.0**-100, 2.0**100, 2.0**101, 2.0**120])
def test_scales_outside_of_what_float32_holds(scale):
    for shape in ((2, 33, 7), (1, 2, 5000), (2, 70_000, 1)):
        a = logits(wide, shape, np.float64)
        check_all((a * np.ldexp(1.0, -round(math.log2(scale)))).astype(np.float32), scale=scale)


@pytest.mark.parametrize("scale", [2.0**-900, 2.0**900])
def test_scales_at_the_edge_of_float64(scale):
    check_all(logits(wide, (2, 33, 7), np.float64) / scale, scale=scale)


def test_results_beyond_float32():
    # Logits times scale reach 1e38 * 1e4: log alpha and lse are infinite once they are rounded.
    a = np.array([[1e38, -1e38, 3.0, -np.inf]], np.float32)
    for scale in (1e4, 2.0**110):
        check(a, scale=scale)
        check(a, scale=scale, log=True, return_lse=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("log", [False, True])
def test_out(log, dtype):
    for shape in ((3, 10, 4), (2, 300, 90), (1, 2, 9000), (2, 66_000, 1)):
        a = logits(wide, shape, dtype)
        alpha, lse = nbfagg.fagg(a, log=log, return_lse=True)
        result = np.full(shape[:2], np.nan, dtype)
        assert nbfagg.fagg(a, log=log, out=result) is result
        np.testing.assert_array_equal(result, alpha)
        # Not in one piece, and nothing between its elements is touched.
        spaced = np.full((shape[0], 2 * shape[1] + 1), 7, dtype)
        given, lse_given = nbfagg.fagg(a, log=log, out=spaced[:, 1::2], return_lse=True)
        assert given.base is spaced
        np.testing.assert_array_equal(given, alpha)
        np.testing.assert_array_equal(spaced[:, ::2], 7)
        np.testing.assert_array_equal(lse_given, lse)


def test_out_misaligned_and_of_a_wider_type():
    a = logits(normal, (3, 40, 5), np.float32)
    memory = np.zeros(3 * 40 * 4 + 1, np.uint8)
    result = np.ndarray((3, 40), np.float32, memory, offset=1)
    nbfagg.fagg(a, out=result)
    np.testing.assert_array_equal(result, nbfagg.fagg(a))
    # A scale that float32 has no room for is computed in float64; `out` stays float32.
    small = np.empty((3, 40), np.float32)
    nbfagg.fagg(a, out=small, scale=2.0**-110)
    np.testing.assert_array_equal(small, nbfagg.fagg(a, scale=2.0**-110))


def test_a_list():
    np.testing.assert_array_equal(nbfagg.fagg([[0, 0], [1, 1]]), np.full((2, 2), 0.5))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", [(0, 2, 1), (1, 2, 0), (2, 1, 0)])
def test_a_late_maximum(order, dtype):
    # What came first is relative to a lower point, down to where only a subnormal weight is left.
    info = np.finfo(dtype)
    for steps in (9, 17, 33):
        a = np.full((8, 20, steps), -np.inf)
        a[:, :, 0] = np.linspace(0, math.log(info.smallest_subnormal) - 1, 20)
        a[:, 0, -1] = np.linspace(0, 25, 8)
        a[:, 1:, 0] += np.linspace(0, 25, 8)[:, None]
        check_all(np.ascontiguousarray(a.astype(dtype).transpose(order)).transpose(np.argsort(order)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", [(0, 2, 1), (1, 2, 0), (1, 0, 2)])
def test_logarithms_in_any_layout(order, dtype):
    for seed in range(10):
        a = np.random.default_rng(seed).normal(0, 10, (8, 20, 64)).astype(dtype)
        a = np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))
        check(a, log=True, return_lse=True)


@pytest.mark.parametrize("tokens", [4, 17, 33, 146])
def test_rows_of_a_tile_keep_their_maxima(tokens):
    """The last row's sums are written in whole vectors, which must not reach the maxima beside them."""
    rows = 1200 // tokens
    a = np.full((rows, tokens), -60.0, np.float32)
    a[0] = -np.inf
    a[1::2, 0] = 50
    alpha, lse = nbfagg.fagg(a, return_lse=True)
    want, exact = nbfagg.reference.oracle(a, return_lse=True)
    np.testing.assert_allclose(alpha, want.astype(np.float32), rtol=1e-6)
    np.testing.assert_allclose(lse, exact.astype(np.float32), rtol=1e-6)


def test_the_logarithm_of_the_farthest_weights():
    a = np.array([[1.7e308, -1.7e308]])
    np.testing.assert_array_equal(nbfagg.fagg(a, scale=0.25, log=True), [[0.0, -8.5e307]])


@pytest.mark.parametrize("depth", [1000, 1019, 1021, 1040, 1073, 1074, 1080])
def test_a_token_whose_factor_is_subnormal(depth):
    # Two tokens in pieces of their own, so many octaves apart.
    a = np.zeros((1, 2, 9000))
    a[0, 1] -= depth * math.log(2)
    check_all(a)


@pytest.mark.parametrize("terms", [8, 128, 1024])
@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1)])
def test_small_terms_beside_large_ones(order, terms):
    # Each small power of two is half a unit of the large one that it meets, and would be lost in float32: one
    # by one, 7 of 8. Beside tokens of more weight nothing of that cancels.
    for large in (1, terms // 8):
        for depth in np.arange(16.2, 18, 0.1):
            a = np.zeros((1, 37, terms), np.float32)
            a[..., large:] = -depth
            a[:, ::3] = 3
            check(in_memory_order(a, order))


@pytest.mark.parametrize("dtype", DTYPES)
def test_tokens_of_one_term_that_are_close(dtype):
    a = logits(normal, (2, 700, 1), dtype)
    assert np.ptp(a) / math.log(2) < 20
    check_all(a)


def test_no_logarithm_is_above_0():
    # A sum that waits in the result is rounded, and may be above the total.
    for seed in range(8):
        a = np.full((1, fields.SUMS_TOKENS + 1, 3), -np.inf, np.float32)
        a[0, 7] = np.random.default_rng(seed).normal(size=3)
        log = check(a, log=True)
        assert log.max() <= 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_maximum_far_above_an_earlier_stretch(dtype):
    # Columns of several stretches: what comes later would overflow at the point of the first.
    for rise in (15, 25, 60, 100):
        a = logits(normal, (2, 37, 200), dtype)
        a[:, ::2, 130:] += rise
        check_all(in_memory_order(a, (0, 2, 1)))
