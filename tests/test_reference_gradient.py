"""The gradients of the oracle: against 50 digits, against differences, and what must hold."""

import numpy as np
import pytest
from test_reference import EPS, KINDS, MP, axis_choices, exact

from nbfagg.reference import exponential, fagg_packed, fagg_vjp, fagg_vjp_terms, oracle

# Roundings in eps / 2, counted as in test_reference for K <= 64 and L <= 8: alpha has 43. A term of the
# token's own: 43 and its product, 44. The sum over l: 44 + 8, times alpha: 52 + 43 + 1 = 96. The lse's term:
# 44. None of the three is larger than the largest; together they are 184, and adding them up is 2 * 3 more.
# Then q: 3 for the exponential, 13 for the mass, 3 for a quotient and two products, times at most three
# terms: 57. That is 247.
TOLERANCE = 125 * EPS

MODES = [
    pytest.param(log, lse, id=("log" if log else "plain") + ("+lse" if lse else ""))
    for log in (False, True)
    for lse in (False, True)
]


def in_digits(g, a, scale, log, g_lse):
    """The gradient of a (B, L, K) by the formula, and its largest term, for mpf has no range."""
    gradient, largest = [], []
    for row, row_g, row_lse in zip(a, g, g_lse, strict=True):
        e = [
            [MP.exp(exact(value) * exact(scale)) if value != -np.inf else MP.mpf(0) for value in token]
            for token in row
        ]
        tokens = [MP.fsum(token) for token in e]
        total = MP.fsum(tokens)
        counts = [
            exact(one) * (1 if log else token / total) if token else MP.mpf(0)
            for one, token in zip(row_g, tokens, strict=True)
        ]
        common, size = MP.fsum(counts), MP.fsum(counts, absolute=True)
        for one, token, places in zip(row_g, tokens, e, strict=True):
            for place in places:
                p = place / total
                own = exact(one) * (place / token if log else p) if place else MP.mpf(0)
                of_lse = p * exact(row_lse)
                gradient.append(exact(scale) * (own - p * common + of_lse))
                largest.append(exact(scale) * max(abs(own), p * size, abs(of_lse)))
    return gradient, largest


def assert_close(got, want, largest):
    for one, exactly, size in zip(got.flat, want, largest, strict=True):
        assert abs(exact(one) - exactly) <= TOLERANCE * size


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("log", "lse"), MODES)
def test_against_50_digits(kind, log, lse):
    rng = np.random.default_rng(1)
    a, scale = kind(rng)
    g = rng.normal(size=a.shape[:2])
    g_lse = rng.normal(size=len(a)) * lse
    got, largest = fagg_vjp_terms(g, a, scale=scale, log=log, grad_lse=g_lse if lse else None)
    assert got.dtype == largest.dtype == np.longdouble
    assert got.shape == largest.shape == a.shape
    want, want_largest = in_digits(g, a, scale, log, g_lse)
    assert_close(got, want, want_largest)
    assert_close(largest, want_largest, want_largest)


def test_float64_would_not_do():
    # The tolerance above can fail: it is some 60 roundings of float64 that are too many.
    rng = np.random.default_rng(2)
    a, g = rng.normal(size=(3, 8, 64)), rng.normal(size=(3, 8))
    _, largest = fagg_vjp_terms(g, a)
    p = np.exp(a) / np.exp(a).sum(axis=(1, 2), keepdims=True)
    plain = p * (g - (g * p.sum(axis=2)).sum(axis=1)[:, None])[:, :, None]
    off = (abs(plain - fagg_vjp(g, a)) / largest).max()
    assert off < 1e-14
    if np.finfo(np.longdouble).nmant > 53:
        assert off > 10 * TOLERANCE


def tiny(seed):
    """Logits with a -inf, a masked token, a masked place and a scale; and what they are by themselves."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(2, 4, 3))
    a[0, 1, 2] = -np.inf
    where = np.ones(a.shape, bool)
    where[1, 2, 1] = where[0, 3] = False
    included = where & (np.arange(4)[:, None] < np.array([4, 3])[:, None, None])
    a[~included] = 1e30
    g = rng.normal(size=(2, 4))
    return a, g, rng.normal(size=2), {"where": where, "lengths": [4, 3], "scale": 0.7}, included


@pytest.mark.parametrize(("log", "lse"), MODES)
def test_against_a_difference_in_50_digits(log, lse):
    # Nothing of the formula is in this one: the number whose gradient it is, at two places.
    a, g, g_lse, keywords, included = tiny(3)
    g_lse = g_lse * lse
    scale = exact(keywords["scale"])

    def number(b, at=None, step=0):
        tokens = [
            MP.fsum(
                MP.exp(scale * (exact(a[b, i, k]) + (step if (i, k) == at else 0)))
                for k in range(3)
                if included[b, i, k] and a[b, i, k] != -np.inf
            )
            for i in range(4)
        ]
        total = MP.fsum(tokens)
        values = (MP.log(one / total) if log else one / total for one in tokens if one)
        own = (exact(g[b, i]) for i, one in enumerate(tokens) if one)
        return MP.fdot(zip(own, values, strict=True)) + exact(g_lse[b]) * MP.log(total)

    got, largest = fagg_vjp_terms(g, a, log=log, grad_lse=g_lse if lse else None, **keywords)
    step = MP.mpf(10) ** -15
    # The step's square is what the difference is off by, and 50 digits over the step are less.
    for b, i, k in np.ndindex(a.shape):
        want = (number(b, (i, k), step) - number(b, (i, k), -step)) / (2 * step)
        assert abs(exact(got[b, i, k]) - want) <= TOLERANCE * exact(largest[b, i, k]) + 100 * step**2
        assert (got[b, i, k] != 0) == (included[b, i, k] and a[b, i, k] != -np.inf)


@pytest.mark.parametrize(("log", "lse"), MODES)
def test_against_a_difference_of_the_oracle(log, lse):
    a, g, g_lse, keywords, _ = tiny(4)
    g_lse = g_lse * lse
    step = np.longdouble(2) ** round(np.log2(EPS) / 3)

    def number(logits):
        alpha, row_lse = oracle(logits, log=log, return_lse=True, **keywords)
        counts = np.where(np.isfinite(alpha), alpha, 0) * g
        return counts.sum(axis=1) + row_lse * g_lse

    got = fagg_vjp(g, a, log=log, grad_lse=g_lse if lse else None, **keywords)
    for i, k in np.ndindex(a.shape[1:]):
        there, back = a.astype(np.longdouble), a.astype(np.longdouble)
        there[:, i, k] += step
        back[:, i, k] -= step
        want = (number(there) - number(back)) / (2 * step)
        # A sixth of the third derivative times the step's square, and the oracle's error over the step; the
        # logits are above -4, the logarithms within 8.
        size = abs(g).sum(axis=1) + abs(g_lse)
        bound = size * (6 * step**2 + 8 * 50 * EPS / step)
        here = (a[:, i, k] != -np.inf) & (a[:, i, k] != 1e30)
        assert (abs(got[:, i, k] - want) <= bound)[here].all()
        assert (got[:, i, k] == 0)[~here].all()


@pytest.mark.parametrize("log", [False, True])
def test_a_row_sums_to_the_gradient_of_its_lse(log):
    # A shift of a row changes its lse alone, by as much.
    rng = np.random.default_rng(5)
    a, g, g_lse = rng.normal(0, 3, (4, 8, 16)), rng.normal(size=(4, 8)), rng.normal(size=4)
    got, largest = fagg_vjp_terms(g, a, scale=0.7, log=log, grad_lse=g_lse)
    off = abs(got.sum(axis=(1, 2)) - np.longdouble(0.7) * g_lse)
    assert (off <= 2 * TOLERANCE * largest.sum(axis=(1, 2))).all()
    assert (abs(got) <= 3 * largest * (1 + TOLERANCE)).all()


@pytest.mark.parametrize("shift", [-(2.0**40), 110.0])
@pytest.mark.parametrize("log", [False, True])
def test_an_exact_shift_changes_no_bit(shift, log):
    rng = np.random.default_rng(6)
    a = np.clip(np.round(rng.normal(size=(4, 6, 30)) * 2**9) / 2**9, -4, 4)
    g = rng.normal(size=(4, 6))
    np.testing.assert_array_equal(
        fagg_vjp(g, a + shift, scale=0.3, log=log), fagg_vjp(g, a, scale=0.3, log=log)
    )


def test_log_where_alpha_is_0():
    # exp(-1e5) is below the range of any longdouble. The token's own share is 1/2 at each of its places.
    a = np.array([[[0.0, -np.inf], [-1e5, -1e5]]])
    np.testing.assert_array_equal(oracle(a), [[1, 0]])
    got, largest = fagg_vjp_terms([[0.0, 3.0]], a, scale=2.0, log=True)
    np.testing.assert_array_equal(got, [[[-6, 0], [3, 3]]])
    np.testing.assert_array_equal(largest, [[[6, 0], [3, 3]]])
    np.testing.assert_array_equal(fagg_vjp([[0.0, 3.0]], a), np.zeros((1, 2, 2)))


def test_one_token_has_no_gradient_but_the_lses():
    a = np.zeros((1, 1, 4))
    for log in (False, True):
        np.testing.assert_array_equal(fagg_vjp([[3.0]], a, log=log), np.zeros(a.shape))
        np.testing.assert_array_equal(fagg_vjp([[3.0]], a, log=log, grad_lse=[2.0]), np.full(a.shape, 0.5))


@pytest.mark.parametrize("log", [False, True])
def test_rows_with_nothing_included(log):
    rng = np.random.default_rng(7)
    a = rng.normal(size=(4, 3, 5))
    a[0] = -np.inf
    where = np.ones(a.shape, bool)
    where[1] = False
    g, g_lse = rng.normal(size=(4, 3)), rng.normal(size=4)
    g[:3] = [[np.nan], [np.inf], [1e30]]
    g_lse[:3] = np.nan
    for got, want in zip(
        fagg_vjp_terms(g, a, where=where, lengths=[3, 3, 0, 3], log=log, grad_lse=g_lse),
        fagg_vjp_terms(g[3:], a[3:], log=log, grad_lse=g_lse[3:]),
        strict=True,
    ):
        np.testing.assert_array_equal(got[:3], 0)
        np.testing.assert_array_equal(got[3:], want)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("log", [False, True])
def test_nan_and_infinity_spoil_their_row_alone(bad, log):
    rng = np.random.default_rng(8)
    a, g = rng.normal(size=(3, 4, 5)), rng.normal(size=(3, 4))
    clean = fagg_vjp(g, a, log=log)
    a[1, 2, 3] = bad
    a[1, 0, 1] = -np.inf
    where = rng.random(a.shape) < 0.7
    where[1, 2, 3] = where[1, 0, 1] = True
    for got in fagg_vjp_terms(g, a, log=log):
        # 0 at -inf, here as anywhere.
        np.testing.assert_array_equal(np.isnan(got[1]), a[1] != -np.inf)
        assert got[1, 0, 1] == 0
        assert np.isfinite(got[[0, 2]]).all()
    np.testing.assert_array_equal(fagg_vjp(g, a, log=log)[[0, 2]], clean[[0, 2]])
    included = where[1] & (np.arange(4) < 3)[:, None] & (a[1] != -np.inf)
    for got in fagg_vjp_terms(g, a, log=log, where=where, lengths=[4, 3, 4]):
        np.testing.assert_array_equal(np.isnan(got[1]), included)
        np.testing.assert_array_equal(got[1][~included], 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30, -np.inf])
@pytest.mark.parametrize(("log", "lse"), MODES)
def test_what_is_excluded_is_as_if_it_were_not_there(bad, log, lse):
    a, g, g_lse, keywords, included = tiny(9)
    keywords |= {"log": log, "grad_lse": g_lse if lse else None}
    want = fagg_vjp_terms(g, a, **keywords)
    a[~included] = bad
    # Nor does the gradient of a token that is not there count.
    g[~included.any(axis=2)] = bad
    for got, one in zip(fagg_vjp_terms(g, a, **keywords), want, strict=True):
        np.testing.assert_array_equal(got, one)
        assert (got[~included] == 0).all()
    # -inf is the same as excluded, and so is a row that ends earlier.
    del keywords["where"], keywords["lengths"]
    for got, one in zip(fagg_vjp_terms(g, np.where(included, a, -np.inf), **keywords), want, strict=True):
        np.testing.assert_array_equal(got, one)
    short, short_g = np.where(included, a, -np.inf)[1:, :3], g[1:, :3]
    keywords["grad_lse"] = g_lse[1:] if lse else None
    got, largest = fagg_vjp_terms(short_g, short, **keywords)
    assert (abs(got - want[0][1:, :3]) <= 2 * TOLERANCE * largest).all()


@pytest.mark.parametrize("log", [False, True])
def test_a_nan_gradient_spoils_its_row_where_it_counts(log):
    a = np.zeros((2, 3, 2))
    a[:, 1, 0] = -np.inf
    got = fagg_vjp([[1, 2, np.nan], [1, 2, 3]], a, log=log)
    np.testing.assert_array_equal(np.isnan(got[0]), a[0] == 0)
    np.testing.assert_array_equal(got[0, 1, 0], 0)
    np.testing.assert_array_equal(got[1], fagg_vjp([[1, 2, 3]], a[1:], log=log)[0])


@pytest.mark.parametrize("rank", [1, 2, 3])
def test_every_choice_of_axes(rank):
    rng = np.random.default_rng(10)
    a = rng.normal(size=(3, 2, 4)[:rank])
    for batch, keep in axis_choices(rank):
        kept = tuple(sorted(batch + keep))
        over = tuple(axis for axis in range(rank) if axis not in kept)
        not_batch = tuple(axis for axis in range(rank) if axis not in batch)
        g = rng.normal(size=tuple(a.shape[axis] for axis in kept))
        g_lse = rng.normal(size=tuple(a.shape[axis] for axis in sorted(batch)))
        wide_g, wide_lse = np.expand_dims(g, over), np.expand_dims(g_lse, not_batch)
        p = np.exp(a) / np.exp(a).sum(axis=not_batch, keepdims=True)
        alpha = p.sum(axis=over, keepdims=True)
        plain = p * (wide_g - (wide_g * alpha).sum(axis=not_batch, keepdims=True))
        logs = p / alpha * wide_g - p * wide_g.sum(axis=not_batch, keepdims=True)
        for log, want in [(False, plain), (True, logs)]:
            got = fagg_vjp(g, a, batch_axis=batch, keep_axis=keep, log=log, grad_lse=g_lse)
            assert got.shape == a.shape
            # Sums of up to 24 float64 terms of size 1, and a few products.
            np.testing.assert_allclose(got.astype(float), want + p * wide_lse, rtol=0, atol=1e-13)


def test_masks_follow_the_axes():
    rng = np.random.default_rng(11)
    a, g = rng.normal(size=(4, 6, 3)), rng.normal(size=(4, 3))
    where = rng.random((6, 3)) < 0.6
    got = fagg_vjp(g, a, batch_axis=-1, keep_axis=0, lengths=[1, 4, 2], where=where)
    turned = a.transpose(2, 0, 1)
    want = fagg_vjp(g.T, turned, lengths=[1, 4, 2], where=where.T[:, None])
    np.testing.assert_array_equal(got.transpose(2, 0, 1), want)


def test_blocks_change_nothing_but_roundings(monkeypatch):
    rng = np.random.default_rng(12)
    a, g = rng.normal(size=(3, 5, 40)), rng.normal(size=(3, 5))
    a[1, 2] = -np.inf
    whole, largest = fagg_vjp_terms(g, a, log=True)
    for block in (1, 7, 40, 90, 1000):
        monkeypatch.setattr(exponential, "BLOCK", block)
        assert (abs(fagg_vjp(g, a, log=True) - whole) <= (TOLERANCE + 40 * EPS) * largest).all()


@pytest.mark.parametrize("shape", [(0, 3, 2), (2, 0, 2), (2, 3, 0), (0, 0, 0)])
@pytest.mark.parametrize("log", [False, True])
def test_empty_axes(shape, log):
    for got in fagg_vjp_terms(np.ones(shape[:2]), np.zeros(shape), log=log, grad_lse=np.ones(shape[0])):
        assert got.shape == shape
        assert got.dtype == np.longdouble


@pytest.mark.parametrize("dtype", ["f2", "f4", ">f8", "i4", "bfloat16"])
def test_dtypes_are_taken_exactly(dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    rng = np.random.default_rng(13)
    a, g, g_lse = (rng.normal(0, 3, shape).astype(dtype) for shape in ((2, 3, 4), (2, 3), 2))
    got = fagg_vjp(g, a, grad_lse=g_lse)
    np.testing.assert_array_equal(
        got, fagg_vjp(g.astype(float), a.astype(float), grad_lse=g_lse.astype(float))
    )


def test_packed_rows_have_the_gradient_of_padded_ones():
    # There is no packed gradient here: rows that are padded have it, and alpha is the same.
    rng = np.random.default_rng(14)
    a, g = rng.normal(size=(2, 4, 3)), rng.normal(size=(2, 4))
    step = np.longdouble(2) ** round(np.log2(EPS) / 3)
    packed = np.concatenate([a[0, :4], a[1, :2]]).astype(np.longdouble)
    packed_g = np.r_[g[0], g[1, :2]]
    moved = packed.copy()
    moved[5, 1] += step
    packed[5, 1] -= step
    there, back = ((fagg_packed(one, [0, 4, 6]) * packed_g).sum() for one in (moved, packed))
    got = fagg_vjp(g, a, lengths=[4, 2])
    assert abs(got[1, 1, 1] - (there - back) / (2 * step)) <= abs(g).sum() * (step**2 + 50 * EPS / step)


def test_inputs_are_not_written():
    rng = np.random.default_rng(15)
    arrays = [rng.normal(size=(2, 3)), rng.normal(size=(2, 3, 4)), rng.normal(size=2)]
    before = [one.copy() for one in arrays]
    for one in arrays:
        one.flags.writeable = False
    g, a, g_lse = arrays
    fagg_vjp(g, a, where=a > 0, lengths=[1, 3], log=True, grad_lse=g_lse)
    for one, was in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(one, was)


@pytest.mark.parametrize(
    ("error", "message", "grad", "call"),
    [
        (ValueError, "grad must have shape", np.zeros((3, 2)), {}),
        (ValueError, "grad must have shape", 0.0, {}),
        (ValueError, "grad_lse must have shape", np.zeros((2, 3)), {"grad_lse": 1.0}),
        (ValueError, "grad_lse must have shape", np.zeros((2, 3)), {"grad_lse": np.zeros(3)}),
        (TypeError, "grad must be", np.zeros((2, 3), complex), {}),
        (TypeError, "grad_lse must be", np.zeros((2, 3)), {"grad_lse": np.zeros(2, complex)}),
        (ValueError, "scale", np.zeros((2, 3)), {"scale": -1.0}),
        (ValueError, "twice", np.zeros((2, 3)), {"keep_axis": 0}),
        (ValueError, "lengths must have shape", np.zeros((2, 3)), {"lengths": [1]}),
    ],
)
def test_errors(error, message, grad, call):
    with pytest.raises(error, match=message):
        fagg_vjp(grad, np.zeros((2, 3, 4)), **call)
