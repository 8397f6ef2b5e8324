"""The experiments from which the operation was understood, each as a test.

Logits are float32. What is promised of the result: within 2 ulp of the exact value where that is a normal
float32, and within one subnormal step below.
"""

import numpy as np
import pytest

import nbfagg
from nbfagg import reference

FLOAT32 = np.finfo(np.float32)

# Two ulp of alpha are at most 2 * eps * alpha, and the exact alphas sum to 1: so much may a row's sum be off.
SUM_TOLERANCE = 2 * float(FLOAT32.eps)


def on_a_grid(seed, shape=(3, 10, 2, 10)):
    """N(0, 1) in steps of 2**-12, within +-8: so adding 500 is exact in float32 (9 + 12 bits of 24)."""
    steps = np.round(np.random.default_rng(seed).normal(size=shape) * 2**12)
    return np.clip(steps / 2**12, -8, 8).astype(np.float32)


def assert_promised(alpha, a):
    exact = reference.oracle(a)
    limit = np.where(exact >= FLOAT32.tiny, 2, 1)
    assert alpha.dtype == np.float32
    assert (reference.ulp_error(alpha, exact) <= limit).all()
    np.testing.assert_allclose(alpha.sum(axis=1, dtype=float), 1, rtol=SUM_TOLERANCE)


def test_shift_by_the_global_maximum_gives_the_same_result():
    a = on_a_grid(1)
    shifted = a - a.max()
    np.testing.assert_array_equal(shifted + a.max(), a)  # so both have the same exact result
    assert_promised(nbfagg.fagg(a), a)
    assert_promised(nbfagg.fagg(shifted), a)


def test_shift_by_each_batch_rows_own_maximum_gives_the_same_result():
    a = on_a_grid(2)
    own = a.max(axis=(1, 2, 3), keepdims=True)
    assert len(np.unique(own)) == 3
    shifted = a - own
    np.testing.assert_array_equal(shifted + own, a)
    assert_promised(nbfagg.fagg(a), a)
    assert_promised(nbfagg.fagg(shifted), a)


def test_88_723_overflows_in_float32():
    # exp(88.723) is just above the largest float32. Beside two of them, a token of ten zeros: each weighs
    # exp(-88.723) = 2.9e-39, below the smallest normal float32, and together, halved, they are above it.
    a = np.full((1, 3, 1, 10), -np.inf, np.float32)
    a[0, :2, 0, 0] = 88.723
    a[0, 2] = 0
    naive = reference.fagg(a)
    assert naive.dtype == np.float32
    np.testing.assert_array_equal(naive, [[np.nan, np.nan, 0]])

    alpha = nbfagg.fagg(a)
    assert_promised(alpha, a)
    np.testing.assert_array_equal(alpha[0, :2], 0.5)
    assert np.exp(-np.longdouble(a.max())) < FLOAT32.tiny < alpha[0, 2] < 1.5e-38


def test_88_723_beside_tokens_that_are_subnormal():
    # A single zero: the token's own alpha, 1.5e-39, is a subnormal, good to one step of 1.4e-45.
    a = np.array([88.723, 88.723, 0], np.float32).reshape(1, 3, 1, 1)
    alpha = nbfagg.fagg(a)
    assert_promised(alpha, a)
    assert 0 < alpha[0, 2] < FLOAT32.tiny


def test_everything_near_minus_110():
    a = on_a_grid(3) - np.float32(110)
    a = np.minimum(a, np.float32(-106))  # the smallest float32 is exp(-103.28), and half of it rounds to 0
    assert np.isnan(reference.fagg(a)).all()
    assert_promised(nbfagg.fagg(a), a)


def test_everything_near_plus_110():
    a = on_a_grid(4) + np.float32(110)
    assert np.isnan(reference.fagg(a)).all()
    assert_promised(nbfagg.fagg(a), a)


@pytest.mark.parametrize("token", range(4))
def test_a_single_0_1_among_minus_110s(token):
    a = on_a_grid(5, (3, 4, 2, 5))
    neighbours = nbfagg.fagg(a[[0, 2]])
    a[1] = -110
    a[1, token, 1, 3] = 0.1
    alpha = nbfagg.fagg(a)
    assert_promised(alpha, a)
    # The others have 10 * exp(-110.1) = 1.5e-47 each: a hundredth of the smallest float32.
    np.testing.assert_array_equal(alpha[1], np.eye(4)[token])
    # What a batch row is beside changes no bit of it.
    np.testing.assert_array_equal(alpha[[0, 2]], neighbours)


def test_one_maximum_for_the_whole_array_is_not_enough():
    a = on_a_grid(6, (2, 10, 2, 10))
    a[1] += 500
    shared = reference.fagg_global(a)
    assert shared.dtype == np.float32
    assert np.isnan(shared[0]).all()  # 0 / 0: the row is 500 below the maximum
    assert np.isfinite(shared[1]).all()
    assert_promised(nbfagg.fagg(a), a)
    np.testing.assert_allclose(reference.fagg_stable(a), reference.oracle(a).astype(float), rtol=1e-14)
