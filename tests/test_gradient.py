"""The gradient beside the oracle's, on every way through its kernels; and what must hold of it.

An error is counted in units in the last place of the larger of the gradient and its formula's largest term,
for the terms cancel. float32: 4, float64: 8 (promises.py). One smallest subnormal step comes on top.

For the logarithm, terms that are FLUSHED octaves below their token's maximum may count as 0.
"""

import tracemalloc

import numpy as np
import pytest
from helpers import by_letter, in_memory_order, run_python
from hypothesis import given
from test_properties import calls, steady

import nbfagg
from nbfagg import promises, reference
from nbfagg.plan import BRAIN
from nbfagg.reference.ulp import ulp

BOUND = by_letter(promises.GRADIENT_BOUND)
FLUSHED = by_letter(promises.FLUSHED_LOG)
NAN, INF = np.nan, np.inf

both = pytest.mark.parametrize("log", [False, True], ids=["plain", "log"])
every_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64])

# As the gradient's tiles of 8 KiB have them, in float32 and in float64.
CASES = {
    "short tokens": (3, 50, 3, 7),
    "tiny rows": (300, 3, 4),
    "tiny rows of single terms": (900, 3, 1),
    "single terms": (3, 5000, 1),
    "vectors": (2, 40, 64),
    "a vector and one": (2, 40, 65),
    "a tile": (2, 3, 2048),
    "long tokens": (3, 3, 5000),
    "blocks": (2, 700, 30),
    "parts": (1, 4600, 30),
    "parts of long tokens": (1, 14, 9000),
}
LARGE = "parts", "parts of long tokens"
KINDS = {
    "N(0, 1)": lambda x: x,
    "N(0, 30)": lambda x: 30 * x,
    "+1e4": lambda x: x + 1e4,
    "-1e4": lambda x: x - 1e4,
    "1e7": lambda x: 8 * x + 1e7,
}


def normal(shape, dtype, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


def forward(a, log=False, pair=False, seed=1, **keywords):
    """Give a random gradient (or a pair), alpha and lse: what fagg_vjp asks for beside the logits."""
    alpha, lse = nbfagg.fagg(a, log=log, return_lse=True, **keywords)
    grad = normal(alpha.shape, alpha.dtype, seed)
    return (grad, normal(lse.shape, lse.dtype, seed)) if pair else grad, alpha, lse


def vjp(grad, a, alpha, lse, **keywords):
    return nbfagg.fagg_vjp(grad, a, alpha, lse, return_lse=isinstance(grad, tuple), **keywords)


def oracle(grad, a, **keywords):
    grad, of_lse = grad if isinstance(grad, tuple) else (grad, None)
    return reference.fagg_vjp_terms(grad, a, grad_lse=of_lse, **keywords)


def may_be_0(a, log, batch_axis=0, keep_axis=1, where=None, scale=1.0, **_):
    """Say which terms are so far below their token's others that they may count as 0."""
    if not log:
        return False
    batch, keep = (
        {axis % a.ndim for axis in (axes if isinstance(axes, tuple) else (axes,))}
        for axes in (batch_axis, keep_axis)
    )
    others = tuple(axis for axis in range(a.ndim) if axis not in batch | keep)
    included = np.broadcast_to(True if where is None else where, a.shape)
    wide = np.where(included, a, -INF).astype(np.float64)
    top = wide.max(axis=others, keepdims=True, initial=-INF)
    char = "f" if a.dtype.itemsize == 4 and a.dtype.kind == "f" else "d"
    with np.errstate(invalid="ignore"):
        return (wide - top) * scale < -FLUSHED[char] * np.log(2)


def assert_exact(got, grad, a, case="", bound=None, **keywords):
    """Compare a gradient with the oracle's."""
    want, largest = oracle(grad, a, **keywords)
    assert got.shape == a.shape, case
    assert got.dtype == (a.dtype.newbyteorder("=") if a.dtype.kind == "f" else np.float64), case
    size = np.maximum(largest, abs(want))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want), err_msg=case)
    there = ~np.isnan(want) & ~((got == 0) & may_be_0(a, **keywords))
    allowed = (bound or BOUND[got.dtype.char]) * ulp(size, got.dtype) + np.finfo(got.dtype).smallest_subnormal
    share = np.where(there, abs(got - want) / np.where(there, allowed, 1), 0)
    if share.size:
        at = np.unravel_index(share.argmax(), share.shape)
        assert share.max() <= 1, f"{case}: {share.max():.3g} at {at}, {got[at]!r} instead of {want[at]!r}"
    assert (got[(want == 0) & (largest == 0)] == 0).all(), case


def check(a, log=False, pair=False, bound=None, **keywords):
    """Compare what fagg_vjp gives with the oracle, and return it."""
    grad, alpha, lse = forward(a, log, pair, **keywords)
    got = vjp(grad, a, alpha, lse, log=log, **keywords)
    case = f"{a.dtype} {a.shape}, strides {a.strides}, log={log}, pair={pair}, {sorted(keywords)}"
    assert_exact(got, grad, a, case, bound, log=log, **keywords)
    return got


@both
@every_dtype
@pytest.mark.parametrize("name", CASES)
def test_every_way(name, dtype, log):
    for pair, (kind, of) in enumerate(KINDS.items()):
        if (name in LARGE or dtype == np.float64) and pair > 1:
            continue
        a = of(normal(CASES[name], np.float64)).astype(dtype)
        check(a, log, pair=bool(pair % 2), scale=0.7 if kind == "-1e4" else 1.0)


@both
def test_every_number_of_terms(log):
    # Whichever loop takes the rest of a vector or a block.
    for terms in [*range(1, 36), 63, 64, 65, 127, 129, 1000, 2047, 2049, 4096]:
        check(normal((2, 3, terms), np.float32), log, pair=True)
        check(normal((2, 70, terms), np.float32)[:, : 5000 // terms + 1], log)
    for tokens in range(1, 36):
        check(normal((3, tokens, 1), np.float32), log)
        check(normal((3, tokens, 3), np.float32), log, pair=True)


@both
@pytest.mark.parametrize("scale", [1e-3, 0.125, 3.7, 2.0**110])
def test_scale(scale, log):
    for shape in ((3, 10, 2, 10), (20, 3, 4), (2, 2, 3000)):
        check((normal(shape, np.float64) / max(1, scale)).astype(np.float32), log, scale=scale)


# --- layouts and dtypes -----------------------------------------------------------

LAYOUTS = {
    "tokens innermost": lambda a: in_memory_order(a, (0, 2, 3, 1)),
    "batch innermost": lambda a: in_memory_order(a, (1, 2, 3, 0)),
    "another order": lambda a: in_memory_order(a, (2, 1, 0, 3)),
    "apart": lambda a: np.repeat(a, 2, axis=3)[..., ::2],
    "rows apart": lambda a: np.repeat(a, 2, axis=0)[::2],
    "backwards": lambda a: np.ascontiguousarray(a[::-1, ::-1, ::-1, ::-1])[::-1, ::-1, ::-1, ::-1],
    "terms backwards": lambda a: a[..., ::-1],
    "other byte order": lambda a: a.astype(a.dtype.newbyteorder()),
    "off by a byte": lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
    "one row repeated": lambda a: np.broadcast_to(a[:1], a.shape),
    "one token repeated": lambda a: np.broadcast_to(a[:, :1], a.shape),
    "one term repeated": lambda a: np.broadcast_to(a[..., :1], a.shape),
}


def test_a_gradient_lies_as_its_logits_do():
    """Save along an axis of stride 0, which says nothing of where it lies."""
    a = normal((4, 5, 6), np.float32)
    for x in (a, a.transpose(2, 0, 1), np.broadcast_to(a[0], a.shape), np.broadcast_to(a[..., :1], a.shape)):
        alpha, lse = nbfagg.fagg(x, return_lse=True)
        found = nbfagg.fagg_vjp(alpha, x, alpha, lse)
        assert found.strides == (x.strides if 0 not in x.strides else a.strides)


@both
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, log):
    for shape in ((3, 12, 5, 6), (40, 3, 2, 2), (2, 3, 2, 1300)):
        a = LAYOUTS[layout](normal(shape, np.float32))
        got = check(a, log, pair=True)
        # Into memory that lies in any other way; the bits are the same.
        grad, alpha, lse = forward(a, log, pair=True)
        for place in (lambda a: np.ascontiguousarray(a), *LAYOUTS.values()):
            out = place(np.full(shape, 7, np.float32)).view()
            if out.dtype.isnative and out.flags.writeable and out.flags.aligned:
                assert vjp(grad, a, alpha, lse, log=log, out=out) is out
                np.testing.assert_array_equal(out, got)


@both
def test_what_lies_between_is_left_alone(log):
    a = normal((3, 12, 5, 6), np.float32)
    grad, alpha, lse = forward(a, log)
    for at in (np.s_[1:4, 1:13, 1:6, 1:7], np.s_[4:1:-1, 1:13, 1:6, 1:7], np.s_[1:4, 1:13, 1:6, 7:1:-1]):
        memory = np.full((5, 14, 7, 9), 7, np.float32)
        vjp(grad, a, alpha, lse, log=log, out=memory[at])
        np.testing.assert_array_equal(memory[at], vjp(grad, a, alpha, lse, log=log))
        memory[at] = 7
        np.testing.assert_array_equal(memory, 7)


@both
@pytest.mark.parametrize("dtype", ["i1", ">i4", "u8", "bool"])
def test_integers(dtype, log):
    for shape in ((3, 12, 5, 6), (2, 2, 5000), (40, 3, 4)):
        check(np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 9, shape).astype(dtype), log)


def half(name):
    return np.dtype(np.float16) if name == "float16" else np.dtype(pytest.importorskip("ml_dtypes").bfloat16)


@both
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_is_rounded_once(name, log):
    dtype = half(name)
    for shape in ((3, 12, 5, 6), (40, 3, 4), (2, 2, 5000), (2, 700, 3)):
        a = (3 * normal(shape, np.float32)).astype(dtype)
        wide = a.astype(np.float32)
        grad, alpha, lse = forward(wide, log, pair=True)
        got = vjp(grad, a, alpha, lse, log=log)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, vjp(grad, wide, alpha, lse, log=log).astype(dtype))
        turned = in_memory_order(a, (*range(a.ndim)[1:], 0))
        np.testing.assert_array_equal(vjp(grad, turned, alpha, lse, log=log), got)


@both
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_from_its_own_weights(name, log):
    dtype = half(name)
    eps = 2.0**-10 if name == "float16" else 2.0**-7
    for shape in ((3, 12, 5, 6), (40, 3, 4), (2, 2, 5000)):
        a = normal(shape, np.float32).astype(dtype)
        grad, alpha, lse = forward(a, log)
        assert alpha.dtype == dtype
        got = vjp(grad, a, alpha, lse, log=log).astype(np.longdouble)
        want, largest = oracle(grad, a, log=log)
        # Half a unit of alpha in two terms, and of the result; a logarithm up to 8 is off by 8 times that.
        bound = (8 if log else 1.5) * eps * np.maximum(largest, abs(want)) + 2.0**-24
        assert (abs(got - want) <= bound).all()


# --- axes, masks, lengths ---------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("batch", "keep"),
    [
        (0, 2),
        (-1, 0),
        (2, (0, 1)),
        ((0, 2), 1),
        ((2, 0), (3, 1)),
        (0, (1, 2, 3)),
        ((), 1),
        ((), (1, 0)),
        (0, ()),
        ((), ()),
        ((0, 1, 2, 3), ()),
        ((1, 3), ()),
    ],
)
def test_axes(batch, keep, log):
    for a in (
        normal((4, 5, 3, 6), np.float32),
        in_memory_order(normal((4, 5, 3, 6), np.float32), (1, 3, 0, 2)),
    ):
        check(a, log, pair=True, batch_axis=batch, keep_axis=keep)


@steady
@given(calls())
def test_any_axes_and_layout(call):
    a, axes = call
    for log in (False, True):
        # A gradient that sums to much less than its terms is off by what log alpha is off by.
        check(a, log, pair=not log, bound=None if not log else 4 * BOUND[a.dtype.char], **axes)


MASKS = {
    "of logits": lambda a: np.random.default_rng(3).random(a.shape) < 0.6,
    "of tokens": lambda a: np.random.default_rng(3).random(a.shape[:2] + (1,) * (a.ndim - 2)) < 0.6,
    "of terms": lambda a: np.random.default_rng(3).random(a.shape[2:]) < 0.6,
    "of few": lambda a: np.random.default_rng(3).random(a.shape) < 0.02,
    "all": lambda a: True,
    "none": lambda a: False,
}


@both
@pytest.mark.parametrize("mask", MASKS)
def test_where(mask, log):
    for shape in ((3, 30, 5, 6), (60, 3, 4), (2, 3, 5000), (3, 3000, 1)):
        a = normal(shape, np.float32)
        where = MASKS[mask](a)
        # What is left out is not looked at.
        a = np.where(where, a, np.resize(np.float32([NAN, INF, -INF, 1e30]), shape))
        for b in (a, in_memory_order(a, (*range(a.ndim)[1:], 0))):
            got = check(b, log, pair=True, where=where)
            assert (got[~np.broadcast_to(where, shape)] == 0).all()


@both
def test_lengths(log):
    for shape in ((4, 30, 5, 6), (60, 4, 4), (4, 3, 5000), (4, 3000, 1)):
        a = normal(shape, np.float32)
        lengths = np.random.default_rng(0).integers(0, shape[1] + 1, shape[0])
        lengths[:2] = 0, shape[1]
        beyond = np.arange(shape[1]) >= lengths[:, None]
        a[beyond] = NAN
        got = check(a, log, pair=True, lengths=lengths)
        assert (got[beyond] == 0).all()
        where = np.random.default_rng(1).random(shape) < 0.7
        got = check(a, log, where=where, lengths=lengths.astype(np.uint8) if shape[1] < 99 else lengths)
        assert (got[beyond] == 0).all()
        assert (got[~where] == 0).all()


@both
def test_a_mask_a_length_and_minus_infinity_are_one(log):
    a, grad = normal((3, 30, 5, 6), np.float32), normal((3, 30), np.float32)
    lengths = np.array([30, 7, 0])
    where = (np.arange(30) < lengths[:, None])[..., None, None]
    results = []
    for b, keywords in ((np.where(where, a, -np.inf), {}), (a, {"where": where}), (a, {"lengths": lengths})):
        alpha, lse = nbfagg.fagg(b, log=log, return_lse=True, **keywords)
        results.append(nbfagg.fagg_vjp(grad, b, alpha, lse, log=log, **keywords))
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])


# --- rows that are not finite ------------------------------------------------------

SHAPES = {"tiny": (20, 3, 4), "short": (3, 12, 30), "long": (3, 3, 5000), "blocks": (3, 700, 9)}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


@both
@every_shape
@pytest.mark.parametrize("bad", [NAN, INF])
def test_nan_and_infinity_spoil_their_row_alone(shape, bad, log):
    a = normal(shape, np.float32)
    a[:, 1, -1] = -INF
    clean = check(a, log)
    grad, alpha, lse = forward(a, log)
    for place in ((0, 0, 0), (1, 2, 1), (2, 2, shape[2] - 1)):
        b = a.copy()
        b[place] = bad
        alpha, lse = nbfagg.fagg(b, log=log, return_lse=True)
        got = nbfagg.fagg_vjp(grad, b, alpha, lse, log=log)
        others = np.arange(shape[0]) != place[0]
        np.testing.assert_array_equal(got[others], clean[others])
        # As the oracle: NaN where there is a number or a NaN, 0 at -inf.
        np.testing.assert_array_equal(np.isnan(got[~others]), b[~others] != -INF)
        assert (got[b == -INF] == 0).all()


@both
@every_shape
def test_nothing_included(shape, log):
    a = normal(shape, np.float32)
    a[1] = -INF
    where = np.ones((shape[0], 1, 1), bool)
    where[2] = False
    grad, alpha, lse = forward(a, log, pair=True, where=where)
    want = vjp(grad, a, alpha, lse, log=log, where=where)
    assert (want[1:3] == 0).all()
    assert (want[0] != 0).any()
    # Nor does it matter what the gradient is there.
    for value in (NAN, INF):
        grad[0][1:3] = grad[1][1:3] = value
        np.testing.assert_array_equal(vjp(grad, a, alpha, lse, log=log, where=where), want)


@both
@every_shape
def test_a_nan_gradient_of_a_token_that_holds_nothing(shape, log):
    a = normal(shape, np.float32)
    a[0, 1] = -INF
    where = np.ones((*shape[:2], 1), bool)
    where[1, 2] = False
    lengths = np.full(shape[0], shape[1])
    lengths[2] = 1
    keywords = {"log": log, "where": where, "lengths": lengths}
    grad, alpha, lse = forward(a, **keywords)
    grad[0, 1] = grad[1, 2] = 0
    grad[2, 1:] = 0
    want = vjp(grad, a, alpha, lse, **keywords)
    assert np.isfinite(want).all()
    for value in (NAN, INF, -INF):
        grad[0, 1] = grad[1, 2] = value
        grad[2, 1:] = value
        np.testing.assert_array_equal(vjp(grad, a, alpha, lse, **keywords), want)


@both
@every_shape
def test_a_nan_gradient_that_counts_spoils_its_row(shape, log):
    a = normal(shape, np.float32)
    a[:, 1, -1] = -INF
    grad, alpha, lse = forward(a, log)
    clean = vjp(grad, a, alpha, lse, log=log)
    grad[1, 0] = NAN
    got = vjp(grad, a, alpha, lse, log=log)
    np.testing.assert_array_equal(got[::2], clean[::2])
    np.testing.assert_array_equal(np.isnan(got[1]), a[1] != -INF)


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2), (2, 3, 0), (0, 0, 0), (2, 0), (0, 4)])
@both
def test_empty(shape, log):
    for pair in (False, True):
        check(np.zeros(shape, np.float32), log, pair=pair)
    grad, alpha, lse = forward(np.zeros(shape, int), log)
    out = np.empty(shape)
    assert vjp(grad, np.zeros(shape, int), alpha, lse, log=log, out=out) is out


# --- where weights are small -------------------------------------------------------


@every_dtype
def test_the_logarithm_survives_where_weights_underflow(dtype):
    # All tokens but one are below the smallest number: their logarithms' gradient is their own softmax's.
    for shape in ((2, 8, 5), (2, 8, 300), (2, 3, 5000), (30, 3, 2), (2, 400, 20)):
        a = normal(shape, dtype)
        a[:, 1:] -= 2000
        alpha = nbfagg.fagg(a)
        assert (alpha[:, 1:] == 0).all()
        got = check(a, log=True)
        grad, _, _ = forward(a, log=True)
        own = nbfagg.fagg(a.reshape(-1, shape[2])).reshape(shape)
        want = own * grad[..., None]
        np.testing.assert_allclose(got[:, 1:], want[:, 1:], rtol=16 * np.finfo(dtype).eps)
        assert (check(a)[:, 1:] == 0).all()


@both
@every_dtype
def test_blocks_with_tiny_weights(dtype, log):
    # Blocks that all but vanish, beside one that has everything, and beside one another.
    for shape in ((2, 1000, 10), (2, 6, 5000)):
        a = normal(shape, dtype)
        steps = np.linspace(0, -50 if dtype == np.float32 else -600, shape[1]).astype(dtype)
        for order in (steps, steps[::-1]):
            check(a + order[:, None], log, pair=True)


@pytest.mark.parametrize(
    ("dtype", "depth", "offset"),
    [
        (np.float32, 78, 0),
        (np.float32, 60, 1e4),
        (np.float32, 78, 1e4),
        (np.float64, 650, 0),
        (np.float64, 700, 0),
    ],
)
def test_blocks_with_weights_just_above_the_smallest_number(dtype, depth, offset):
    a = normal((2, 1000, 10), dtype)
    a[:, 100:] -= depth
    a += dtype(offset)
    grad, alpha, lse = forward(a)
    want, largest = oracle(grad, a)
    there = abs(want) > np.finfo(dtype).tiny
    assert there[:, 100:].any()
    allowed = BOUND[alpha.dtype.char] * ulp(np.maximum(largest, abs(want)), dtype)
    assert (abs(vjp(grad, a, alpha, lse) - want) <= allowed)[there].all()


@pytest.mark.parametrize(
    ("dtype", "depth"), [(np.float32, 86.0), (np.float64, 700.0)], ids=["float32", "float64"]
)
def test_small_gradients_that_are_normal_numbers(dtype, depth):
    a = np.array([[[0.0], [-depth]]], dtype)
    alpha, lse = nbfagg.fagg(a, return_lse=True)
    assert alpha[0, 1] >= np.finfo(dtype).tiny
    got = nbfagg.fagg_vjp(np.array([[0, 1]], dtype), a, alpha, lse)
    np.testing.assert_allclose(got.ravel(), [-alpha[0, 1], alpha[0, 1]], rtol=1e-6)


def test_small_terms_of_a_token_whose_weight_is_small():
    a = np.array([[[0.0, 0.0], [-41.0, -101.0]]], np.float32)
    log, lse = nbfagg.fagg(a, log=True, return_lse=True)
    got = nbfagg.fagg_vjp(np.float32([[0, 1]]), a, log, lse, log=True)
    np.testing.assert_allclose(got[0, 1], [1, np.exp(-60)], rtol=1e-6)


@every_dtype
def test_a_gradient_of_one_token(dtype):
    for shape in ((3, 50, 3, 7), (60, 3, 4), (2, 3, 5000), (2, 700, 30)):
        for a in (normal(shape, dtype), normal(shape, dtype) + dtype(1e4)):
            for log in (False, True):
                _, alpha, lse = forward(a, log)
                grad = np.zeros_like(alpha)
                grad[:, 1] = -1
                # Others have the sum alone, which takes the error of log alpha: 4 units of its size.
                bound = 4 * abs(alpha).max() + 4 if log else None
                assert_exact(vjp(grad, a, alpha, lse, log=log), grad, a, bound=bound, log=log)
            # Weights themselves are nearer.
            weights = nbfagg.fagg(a)
            assert_exact(vjp(grad, a, weights, lse, log=True), grad, a, log=True)


# --- what is given ------------------------------------------------------------------


@both
def test_any_form_of_what_is_given(log):
    for shape in ((3, 12, 5, 6), (40, 3, 4), (2, 3, 5000)):
        a = normal(shape, np.float32)
        (grad, of_lse), alpha, lse = forward(a, log, pair=True)
        want = vjp((grad, of_lse), a, alpha, lse, log=log)
        forms = {
            "float64": lambda x: x.astype(float),
            "list": lambda x: x.tolist(),
            "apart": lambda x: np.repeat(x, 2, axis=-1)[..., ::2],
            "backwards": lambda x: np.ascontiguousarray(x[::-1])[::-1],
            "turned": np.asfortranarray,
            "other byte order": lambda x: x.astype(x.dtype.newbyteorder()),
        }
        for of in forms.values():
            got = vjp((of(grad), of(of_lse)), a, of(alpha), of(lse), log=log)
            np.testing.assert_array_equal(got, want)
        np.testing.assert_array_equal(
            vjp((np.broadcast_to(grad[:1], grad.shape), of_lse), a, alpha, lse, log=log)[0], want[0]
        )
        got = nbfagg.fagg_vjp([grad, of_lse], a, alpha, lse, log=log, return_lse=True)
        np.testing.assert_array_equal(got, want)
        # Integers.
        grad = np.arange(grad.size).reshape(grad.shape) % 5
        np.testing.assert_array_equal(
            vjp(grad, a, alpha, lse, log=log), vjp(grad.astype(np.float32), a, alpha, lse, log=log)
        )
    np.testing.assert_array_equal(
        nbfagg.fagg_vjp(np.ones((1, 2)), [[1.0, 2.0]], [[0.25, 0.75]], [0.0], log=log).shape, (1, 2)
    )


@every_dtype
def test_weights_instead_of_their_logarithms(dtype):
    for shape in ((3, 12, 5, 6), (40, 3, 4), (2, 3, 5000)):
        a = normal(shape, dtype)
        grad, _, lse = forward(a, log=True)
        assert_exact(vjp(grad, a, nbfagg.fagg(a), lse, log=True), grad, a, log=True)


def test_weights_of_tokens_that_hold_nothing():
    a = normal((3, 5, 4), np.float32)
    a[0, 1] = -INF
    grad, _, lse = forward(a, log=True)
    grad[0, 1] = 0
    assert_exact(vjp(grad, a, nbfagg.fagg(a), lse, log=True), grad, a, log=True)


def test_a_logarithm_that_is_rounded_up():
    # Where sums wait in the result, the logarithm of a weight of nearly 1 can be 1e-8.
    random = np.random.default_rng(299)
    a = random.normal(size=(1, 70_000, 1)).astype(np.float32)
    a[0, 299] = 60 + random.random() * 50
    grad, log, lse = forward(a, log=True)
    assert_exact(vjp(grad, a, log, lse, log=True), grad, a, log=True)


def test_one_token_of_weight_1():
    # Of it weight and logarithm differ as 1 and 0 do.
    a = normal((3, 1, 5), np.float32)
    for log in (False, True):
        check(a, log, pair=True)
    grad, _, lse = forward(a, pair=True)
    assert_exact(vjp(grad, a, np.ones((3, 1)), lse, log=True), grad, a, log=True)


# --- out, workers, memory --------------------------------------------------------------


@both
@pytest.mark.parametrize("layout", ["as it is", *LAYOUTS])
def test_in_place(layout, log):
    for shape in ((3, 12, 5, 6), (40, 3, 2, 2), (2, 3, 2, 1300), (1, 4600, 5, 6)):
        a = LAYOUTS.get(layout, lambda a: a)(normal(shape, np.float32))
        a = a.copy(order="K") if 0 in a.strides or not a.flags.writeable else a
        if not a.flags.aligned or not a.dtype.isnative or 0 in a.strides:
            continue
        grad, alpha, lse = forward(a, log, pair=True)
        where = np.random.default_rng(0).random(shape) < 0.8
        for keywords in ({}, {"where": where}, {"scale": 0.3}):
            b = in_memory_order(a, sorted(range(4), key=lambda axis: -abs(a.strides[axis])))
            want = vjp(grad, b, alpha, lse, log=log, **keywords)
            assert vjp(grad, b, alpha, lse, log=log, out=b, **keywords) is b
            np.testing.assert_array_equal(b, want)


@both
@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_in_place_in_half_precision(name, log):
    for shape in ((3, 12, 5, 6), (40, 3, 4), (2, 2, 5000)):
        a = normal(shape, np.float32).astype(half(name))
        grad, alpha, lse = forward(a, log)
        want = vjp(grad, a, alpha, lse, log=log)
        assert vjp(grad, a, alpha, lse, log=log, out=a) is a
        np.testing.assert_array_equal(a, want)


@both
@pytest.mark.parametrize("name", CASES)
def test_workers_change_no_bit(name, log):
    a = normal(CASES[name], np.float32)
    grad, alpha, lse = forward(a, log, pair=True)
    want = vjp(grad, a, alpha, lse, log=log, workers=1)
    for workers in (None, 2, 3, -1):
        np.testing.assert_array_equal(vjp(grad, a, alpha, lse, log=log, workers=workers), want)
    turned = a.copy(order="F")
    np.testing.assert_array_equal(
        vjp(grad, turned, alpha, lse, log=log, workers=2), vjp(grad, turned, alpha, lse, log=log, workers=1)
    )


@both
def test_other_rows_change_no_bit(log):
    for shape in ((40, 3, 4), (6, 50, 3, 7), (6, 3, 5000), (4, 700, 30), (300, 2, 1)):
        a = normal(shape, np.float32)
        # Rows of all sizes side by side.
        a *= np.resize(np.float32([1, 20, 0.1]), (shape[0],) + (1,) * (a.ndim - 1))
        a += np.resize(np.float32([0, 0, 0, 50, 1e4, -1e7]), (shape[0],) + (1,) * (a.ndim - 1))
        grad, alpha, lse = forward(a, log)
        whole = vjp(grad, a, alpha, lse, log=log)
        for rows in (np.s_[:1], np.s_[1:], np.s_[2:4], np.s_[::-1], np.s_[::2]):
            got = vjp(grad[rows], a[rows], alpha[rows], lse[rows], log=log)
            np.testing.assert_array_equal(got, whole[rows], err_msg=f"{shape} {rows}")


@both
def test_no_memory_of_the_arrays_size(log):
    for a in (
        normal((4, 512, 4, 128), np.float32),
        in_memory_order(normal((4, 512, 4, 128), np.float32), (2, 3, 1, 0)),
    ):
        where = np.random.default_rng(0).random(a.shape) < 0.7
        out = np.empty_like(a)
        for keywords in ({}, {"where": where}, {"lengths": [1, 512, 0, 300]}):
            grad, alpha, lse = forward(a, log, pair=True, **keywords)
            vjp(grad, a, alpha, lse, log=log, out=out, **keywords)
            tracemalloc.start()
            try:
                vjp(grad, a, alpha, lse, log=log, out=out, **keywords)
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            assert peak < a.nbytes / 10


READ_ONLY = """
import numpy as np
import nbfagg
from test_properties import GUARDED

exec(GUARDED[: GUARDED.index("def compare")])
random = np.random.default_rng(0)
for shape in ((3, 12, 5, 6), (40, 3, 4), (2, 3, 5000), (3, 5000, 1), (1, 1, 1), (2, 700, 30), (1, 4600, 30)):
    for dtype in (np.float32, np.float16) if len(shape) == 4 else (np.float32,):
        a = random.normal(size=shape).astype(dtype)
        where = random.random(shape) < 0.9
        for log in (False, True):
            alpha, lse = nbfagg.fagg(a, where=where, log=log, return_lse=True)
            given = (random.normal(size=one.shape).astype(one.dtype) for one in (alpha, lse))
            given = tuple(given)
            want = nbfagg.fagg_vjp(given, a, alpha, lse, where=where, log=log, return_lse=True)
            for at_end in (False, True):
                g, h, b, x, y, w = (guarded(one, at_end) for one in (*given, a, alpha, lse, where))
                got = nbfagg.fagg_vjp((g, h), b, x, y, where=w, log=log, return_lse=True)
                np.testing.assert_array_equal(got, want)
print("done")
"""


def test_nothing_is_written_to_what_is_given_nor_read_beside_it():
    assert run_python(READ_ONLY) == "done\n"


# --- beside nothing of the formula ---------------------------------------------------


@both
def test_against_a_difference_of_the_oracle(log):
    random = np.random.default_rng(5)
    a = random.normal(size=(2, 4, 3))
    a[0, 1, 2] = -INF
    where = random.random(a.shape) < 0.8
    keywords = {"where": where, "lengths": [4, 3], "scale": 0.7, "log": log}
    grad, alpha, lse = forward(a, pair=True, **keywords)
    got = vjp(grad, a, alpha, lse, **keywords)
    step = np.longdouble(2) ** -13

    def number(logits):
        alpha, lse = reference.oracle(logits, return_lse=True, **keywords)
        return (np.where(np.isfinite(alpha), alpha, 0) * grad[0]).sum() + (lse * grad[1]).sum()

    for place in np.ndindex(a.shape):
        there, back = a.astype(np.longdouble), a.astype(np.longdouble)
        there[place] += step
        back[place] -= step
        # The square of the step, 2**-26, times a third derivative of size 1.
        assert abs(got[place] - (number(there) - number(back)) / (2 * step)) < 1e-7


@both
def test_rows_add_up_to_the_gradient_of_lse(log):
    # A shift of a whole row changes its lse alone.
    for shape in ((3, 50, 3, 7), (40, 3, 4), (2, 3, 5000)):
        a = normal(shape, np.float64)
        grad, alpha, lse = forward(a, log, pair=True)
        got = vjp(grad, a, alpha, lse, log=log)
        sizes = abs(got).reshape(shape[0], -1).sum(axis=1) + abs(grad[0]).sum(axis=1)
        off = abs(got.reshape(shape[0], -1).sum(axis=1) - grad[1])
        assert (off <= 16 * np.finfo(float).eps * sizes).all()


# --- errors -------------------------------------------------------------------------

A = np.zeros((2, 3, 4), np.float32)
FORWARD = {"grad": np.ones((2, 3), np.float32), "alpha": np.full((2, 3), 1 / 3, np.float32)}
FORWARD["lse"] = np.full(2, np.log(12), np.float32)


def refused(error, *parts, **keywords):
    """Assert that a call is refused by a message about every part, and that nothing is written."""
    out = keywords.setdefault("out", np.full(A.shape, 7, np.float32))
    before = out.copy() if isinstance(out, np.ndarray) else out
    given = FORWARD | {"a": A} | keywords
    first = [given.pop(name) for name in ("grad", "a", "alpha", "lse")]
    with pytest.raises(error) as caught:
        nbfagg.fagg_vjp(*first, **given)
    assert type(caught.value) is error
    for part in ("fagg", *parts):
        assert part in str(caught.value), str(caught.value)
    np.testing.assert_array_equal(out, before)


@pytest.mark.parametrize(
    ("error", "parts", "keywords"),
    [
        (ValueError, ["grad", "(3, 2)", "(2, 3)", "(2, 3, 4)"], {"grad": np.ones((3, 2))}),
        (ValueError, ["grad", "()"], {"grad": 1.0}),
        (ValueError, ["grad", "(2, 1)"], {"grad": np.ones((2, 1))}),
        (TypeError, ["grad", "complex128"], {"grad": np.ones((2, 3), complex)}),
        (TypeError, ["grad", "object"], {"grad": None}),
        (TypeError, ["grad", "<U1"], {"grad": [["a"] * 3] * 2}),
        (TypeError, ["grad", "pair"], {"return_lse": True}),
        (TypeError, ["grad", "pair"], {"return_lse": True, "grad": (FORWARD["grad"],)}),
        (ValueError, ["grad of lse", "(3,)"], {"return_lse": True, "grad": (FORWARD["grad"], np.ones(3))}),
        (
            TypeError,
            ["grad of lse", "complex"],
            {"return_lse": True, "grad": (FORWARD["grad"], np.ones(2, complex))},
        ),
        (ValueError, ["alpha", "(2, 4)", "(2, 3)"], {"alpha": np.ones((2, 4))}),
        (TypeError, ["alpha", "complex128"], {"alpha": np.ones((2, 3), complex)}),
        (ValueError, ["lse", "(2, 1)", "(2,)"], {"lse": np.ones((2, 1))}),
        (TypeError, ["lse", "object"], {"lse": [None, None]}),
        (TypeError, ["a ", "complex128"], {"a": A.astype(complex)}),
        (ValueError, ["a is a scalar"], {"a": 1.0}),
        (ValueError, ["scale=-1"], {"scale": -1}),
        (TypeError, ["scale"], {"scale": "x"}),
        (ValueError, ["batch_axis=3"], {"batch_axis": 3}),
        (ValueError, ["keep_axis=0", "share an axis"], {"keep_axis": 0}),
        (TypeError, ["keep_axis=1.0"], {"keep_axis": 1.0}),
        (ValueError, ["workers=0"], {"workers": 0}),
        (TypeError, ["workers=1.5"], {"workers": 1.5}),
        (ValueError, ["where", "(5,)"], {"where": np.ones(5, bool)}),
        (TypeError, ["where", "int64"], {"where": np.ones(4, int)}),
        (ValueError, ["lengths", "(1,)"], {"lengths": [1]}),
        (ValueError, ["lengths", "4"], {"lengths": [4, 1]}),
        (TypeError, ["lengths", "float64"], {"lengths": [1.0, 2.0]}),
        (ValueError, ["out", "(2, 3)", "(2, 3, 4)"], {"out": np.full((2, 3), 7, np.float32)}),
        (TypeError, ["out", "float64", "float32"], {"out": np.full(A.shape, 7.0)}),
        (TypeError, ["out", "list"], {"out": [7]}),
    ],
)
def test_errors(error, parts, keywords):
    refused(error, *parts, **keywords)


def test_out_that_cannot_be_written():
    out = np.full(A.shape, 7, np.float32)
    out.flags.writeable = False
    refused(ValueError, "out", "not writeable", out=out)
    out = np.lib.stride_tricks.as_strided(np.full(12, 7, np.float32), A.shape, (0, 16, 4))
    refused(ValueError, "out", "repeats", out=out)
    # Nor can a itself, where it is read-only or of integers.
    a = A.copy()
    a.flags.writeable = False
    refused(ValueError, "out", "not writeable", a=a, out=a)
    a = np.zeros(A.shape, np.int64)
    refused(TypeError, "out", "int64", a=a, out=a)


def test_out_that_overlaps():
    memory = np.zeros(60, np.float32)
    a = memory[:24].reshape(A.shape)
    for out in (memory[1:25].reshape(A.shape), memory[12:36].reshape(A.shape), a[::-1], a[..., ::-1]):
        refused(ValueError, "out", "shares memory with a", a=a, out=out)
    square = np.zeros((2, 3, 3), np.float32)
    refused(ValueError, "out", "shares memory with a", a=square, out=square.transpose(0, 2, 1))
    out = memory[24:48].reshape(A.shape)
    for name, value in (("grad", memory[24:30]), ("alpha", memory[42:48]), ("lse", memory[47:49])):
        value = value.reshape(FORWARD[name].shape)
        refused(ValueError, "out", f"shares memory with {name}", out=out, **{name: value})
    pair = FORWARD["grad"], memory[24:26]
    refused(ValueError, "out", "shares memory with grad of lse", out=out, grad=pair, return_lse=True)
    refused(ValueError, "out", "shares memory with where", out=out, where=out.view(bool)[..., :4])
    # Beside them is not in them.
    got = nbfagg.fagg_vjp(FORWARD["grad"], a, FORWARD["alpha"], memory[48:50], out=out)
    assert got is out


def test_out_that_overlaps_lengths():
    memory = np.zeros(24, np.float32)
    lengths = memory[:4].view(np.int64)
    refused(ValueError, "out", "shares memory with lengths", out=memory.reshape(A.shape), lengths=lengths)


def test_arguments_by_name():
    with pytest.raises(TypeError, match="positional"):
        nbfagg.fagg_vjp(FORWARD["grad"], A, FORWARD["alpha"], FORWARD["lse"], 0)


# --- what a hostile caller found ---------------------------------------------------------


@pytest.mark.parametrize(("dtype", "low"), [(np.float32, 9900), (np.float64, 9000)])
def test_in_place_where_blocks_weigh_next_to_nothing(dtype, low):
    """They are normalised by the row's heaviest block, which may be overwritten by then."""
    a = np.full((2, 400, 64), low, dtype)
    a[:, 0, 0] = 1e4
    alpha, lse = nbfagg.fagg(a, return_lse=True)
    grad = np.ones_like(alpha)
    grad[:, 0] = 2
    for workers in (1, 2):
        want = nbfagg.fagg_vjp(grad, a, alpha, lse, workers=workers)
        memory = a.copy()
        nbfagg.fagg_vjp(grad, memory, alpha, lse, out=memory, workers=workers)
        np.testing.assert_array_equal(memory, want)


@both
@every_dtype
def test_infinity_spoils_logits_far_below(dtype, log):
    a = np.full((2, 4, 2), -1e4, dtype)
    a[0, 0, 0] = INF
    a[0, 1, 1] = -INF
    alpha, lse = nbfagg.fagg(a, log=log, return_lse=True)
    got = nbfagg.fagg_vjp(np.ones_like(alpha), a, alpha, lse, log=log)
    np.testing.assert_array_equal(np.isnan(got[0]), a[0] != -INF)
    assert got[0, 1, 1] == 0
    assert np.isfinite(got[1]).all()


def test_logarithms_near_the_smallest_number():
    a = np.array([[0.0, -560.0]])
    alpha, lse = nbfagg.fagg(a, log=True, return_lse=True)
    got = nbfagg.fagg_vjp(np.array([[1.0, 0.0]]), a, alpha, lse, log=True)
    np.testing.assert_allclose(got[0, 1], -np.exp(-560.0), rtol=1e-12)


BESIDE = {
    "nothing": lambda row, grad: None,
    "NaN": lambda row, grad: row.__setitem__((0, 0), NAN),
    "+inf": lambda row, grad: row.__setitem__((0, 0), INF),
    "-inf": lambda row, grad: row.__setitem__((0, 0), -INF),
    "far off": lambda row, grad: row.__iadd__(3e15 if row.dtype == np.float64 else 3e7),
    "a large gradient": lambda row, grad: grad.__imul__(1e250 if row.dtype == np.float64 else 1e20),
}


@both
@every_dtype
@pytest.mark.parametrize("beside", BESIDE)
@pytest.mark.parametrize("shape", [(40, 3, 1), (40, 3, 4), (30, 5, 9), (8, 40, 64)])
def test_rows_of_a_tile_do_not_show_in_each_other(shape, beside, dtype, log):
    """Rows of every kind, each with the bits that it has alone, whatever lies in its tile."""
    a = normal(shape, dtype)
    far = 2e13 if dtype == np.float64 else 4e6
    a[1::5] += far
    a[2::5] -= far
    a[3::5] *= 30
    a[4, :, 0] -= 700 if dtype == np.float64 else 80
    a[5, 1] = -INF
    grad = normal(shape[:2], dtype, seed=1)
    BESIDE[beside](a[0], grad[0])
    alpha, lse = nbfagg.fagg(a, log=log, return_lse=True)
    found = nbfagg.fagg_vjp(grad, a, alpha, lse, log=log)
    for b in range(1, len(a)):
        row = slice(b, b + 1)
        alone = nbfagg.fagg_vjp(grad[row], a[row], alpha[row], lse[row], log=log)
        assert alone.tobytes() == found[row].tobytes(), b


@pytest.mark.parametrize("excluded", ["mask", "lengths", "-inf"])
def test_what_a_neighbour_leaves_out_does_not_spoil_a_far_row(excluded):
    a = np.float32([[[0], [0], [0]], [[-3e6], [-3e6 - 1], [-3e6 - 2]]])
    keywords = {"mask": {"where": np.ones(a.shape, bool)}, "lengths": {"lengths": [1, 3]}, "-inf": {}}[
        excluded
    ]
    if excluded == "mask":
        keywords["where"][0, 1:] = False
    if excluded == "-inf":
        a[0, 1:] = -INF
    alpha, lse = nbfagg.fagg(a, return_lse=True, **keywords)
    found = nbfagg.fagg_vjp(np.float32([[1, 0, 0], [1, 0, 0]]), a, alpha, lse, **keywords)
    np.testing.assert_allclose(found[1].ravel(), [0.222695, -0.162803, -0.059892], atol=1e-6)


def test_weights_are_told_from_logarithms_beside_a_nan():
    a = normal((3, 4, 2), np.float64)
    a[2, 0, 0] = NAN
    weights, lse = nbfagg.fagg(a, return_lse=True)
    grad = normal((3, 4), np.float64, seed=1)
    by_weights = nbfagg.fagg_vjp(grad, a, weights, lse, log=True)
    by_logarithms = nbfagg.fagg_vjp(grad, a, nbfagg.fagg(a, log=True), lse, log=True)
    np.testing.assert_allclose(by_weights[:2], by_logarithms[:2], rtol=1e-12)
    assert np.isnan(by_weights[2]).all()


def test_logarithms_that_are_taken_for_weights():
    a = normal((3, 4, 2), np.float64)
    log_alpha, lse = nbfagg.fagg(a, log=True, return_lse=True)
    with pytest.raises(ValueError, match="alpha holds negative numbers; want weights, or log=True"):
        nbfagg.fagg_vjp(log_alpha, a, log_alpha, lse)


def test_a_pair_of_gradients_needs_its_flag():
    a = normal((3, 4, 2), np.float64)
    alpha, lse = nbfagg.fagg(a, return_lse=True)
    with pytest.raises(TypeError, match="grad is a pair; want that of alpha alone, or return_lse=True"):
        nbfagg.fagg_vjp((alpha, lse), a, alpha, lse)


@pytest.mark.parametrize("scale", [1.0, 2.0**60])
@pytest.mark.parametrize(
    ("dtype", "octaves", "size"), [(np.float32, 108, 2.0**30), (np.float64, 888, 2.0**300)]
)
def test_a_large_gradient_of_rows_far_apart(dtype, octaves, size, scale):
    """Rows that share a reference point: what brings the lowest to it, times the gradient, is too large."""
    a = normal((60, 4, 2), dtype)
    a[::3] -= octaves * np.log(2)
    a /= scale
    grad, alpha, lse = forward(a, scale=scale)
    grad *= dtype(size / scale)
    found = vjp(grad, a, alpha, lse, scale=scale)
    assert_exact(found, grad, a, log=False, scale=scale)
    alone = [
        vjp(grad[i : i + 1], a[i : i + 1], alpha[i : i + 1], lse[i : i + 1], scale=scale) for i in range(60)
    ]
    assert np.array_equal(found, np.concatenate(alone))


def test_logarithms_are_told_from_weights_wherever_they_are_negative():
    a = np.random.default_rng(0).normal(size=(3, 4, 5))
    a[0, 0] += 200
    log_alpha, lse = nbfagg.fagg(a, log=True, return_lse=True)
    assert log_alpha[0, 0] == 0
    with pytest.raises(ValueError, match="alpha holds negative numbers; want weights, or log=True"):
        nbfagg.fagg_vjp(np.ones((3, 4)), a, log_alpha, lse)


def test_bfloat16_without_ml_dtypes_is_no_integer():
    a = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    alpha, lse = nbfagg.fagg(a, return_lse=True)
    grad = np.eye(3, 4, dtype=np.float32)
    bits = (grad.view(np.uint32) >> 16).astype(np.uint16).view(BRAIN)
    np.testing.assert_array_equal(nbfagg.fagg_vjp(bits, a, alpha, lse), nbfagg.fagg_vjp(grad, a, alpha, lse))


def test_underflow_is_no_error():
    a = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    a[0, 0] -= 200
    log_alpha, lse = nbfagg.fagg(a, log=True, return_lse=True)
    with np.errstate(all="raise"):
        nbfagg.fagg_vjp(np.ones((3, 4), np.float32), a, log_alpha, lse, log=True)
        offsets, packed = [0, 4, 12], a.reshape(12, 5)
        log_alpha, lse = nbfagg.fagg_packed(packed, offsets, log=True, return_lse=True)
        nbfagg.fagg_packed_vjp(np.ones(12, np.float32), packed, offsets, log_alpha, lse, log=True)
