"""What a hostile reading of the CUDA kernels found, in the simulator."""

import cudarun
import cudasim
import numpy as np
import pytest

from nbfagg import reference
from nbfagg.cuda import plan as plans
from nbfagg.cuda.kinds import kind_of

INF, NAN = np.inf, np.nan


def gradient(a, g, **options):
    alpha = np.ascontiguousarray(cudarun.fagg(a, **options))
    return cudarun.fagg_vjp(np.asarray(g, a.dtype), a, alpha, **options)


@pytest.mark.parametrize("shape", [(3, 6, 4), (3, 6, 68), (2, 1300, 2)])
def test_axes_that_run_backwards_begin_anywhere(shape):
    x = np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)
    for offset in range(4):
        a = cudarun.lay(x, offset=offset)[:, :, ::-1]
        alpha = cudarun.fagg(a)
        assert reference.ulp_error(alpha, reference.oracle(a)).max() <= 4
        if shape[1] > 1000:
            continue
        out = cudarun.lay(x * 0, offset=offset)[:, :, ::-1]
        g = np.random.default_rng(1).normal(size=alpha.shape).astype(np.float32)
        given = cudarun.fagg_vjp(g, a, np.ascontiguousarray(alpha), out=out)
        exact, largest = reference.fagg_vjp_terms(g, a)
        assert (np.abs(given - exact) <= largest * 2.0**-23 * 12).all()
        np.testing.assert_array_equal(given, out)


@pytest.mark.parametrize("terms", [2, 40])
def test_a_gradient_of_nothing_is_not_looked_at(terms):
    a = cudarun.lay(np.random.default_rng(0).normal(0, 1, (1, 3, terms)).astype(np.float32))
    clean = gradient(a, [[1, 0.5, 0]], lengths=np.array([2]))
    np.testing.assert_array_equal(gradient(a, [[1, 0.5, NAN]], lengths=np.array([2])), clean)
    packed = a[0].copy()
    offsets = np.array([0, 3])
    packed[2] = -INF
    alpha, _ = cudarun.fagg_packed(cudarun.lay(packed), offsets)
    both = [
        cudarun.fagg_packed(cudarun.lay(packed), offsets, grad=np.array([1, 0.5, last], "f4"), alpha=alpha)
        for last in (0, NAN)
    ]
    np.testing.assert_array_equal(*both)


@pytest.mark.parametrize("terms", [2, 3, 5, 7, 8, 12, 15])
def test_sums_of_short_tokens(terms):
    """Rounded one after the other they were 3.4 ulp off in float64.

    Left are the roundings of exponentials, of their sum and of the quotient, at most 1/2, 1/2 and 0.6 ulp,
    and 0.3 for the exponentials themselves.
    """
    x = np.random.default_rng(0).uniform(-3, 0, (40, 12, terms))
    alpha = cudarun.fagg(cudarun.lay(x))
    assert reference.ulp_error(alpha, reference.oracle(x)).max() <= 2


@pytest.mark.parametrize("terms", [4096, 300])
def test_many_terms_far_below(terms):
    """Each is below the smallest subnormal number, their sum is not."""
    x = np.full((1, 2, terms), -147 * np.log(2) if terms < 4096 else -150.2 * np.log(2), np.float32)
    x[0, 0] = -INF
    x[0, 0, 0] = 0
    alpha, exact = cudarun.fagg(cudarun.lay(x)), reference.oracle(x)
    assert abs(alpha[0, 1] - exact[0, 1]) <= 2.0**-149


@pytest.mark.parametrize("terms", [1, 20, 80])
def test_gradients_at_both_ends_of_the_range(terms):
    large = np.full((1, 2, terms), 1e-3, np.float32)
    for storage, most in (("b2", 3.3e38), ("f4", 3.3e38)):
        a = cudarun.lay(cudasim.stored(large, storage))
        g = cudasim.stored(np.array([[most, -most]]), storage)
        alpha = cudasim.stored(np.ascontiguousarray(cudarun.fagg(a)), storage)
        given = cudarun.fagg_vjp(g, a, alpha)
        np.testing.assert_allclose(given[0, :, 0] * terms, [most / 2, -most / 2], rtol=0.02)
    # An exponential at the floor is nothing, however large the factor.
    x = np.zeros((1, 2, terms + 1), np.float32)
    x[0, 0, 0] = -1000
    assert gradient(cudarun.lay(x), [[1e30, -0.5]])[0, 0, 0] == 0


def test_bfloat16_far_below_its_tokens_maximum(monkeypatch):
    """The hardware's 2**x gives 0 for what is subnormal."""
    exact = cudasim._arithmetic

    def flushing(real):
        made = exact(real)
        if made.ex2 is not None:
            plain = made.ex2
            made.ex2 = lambda x: np.float32(0) if x < -126 else plain(x)
        return made

    monkeypatch.setattr(cudasim, "_arithmetic", flushing)
    for terms in 2, 80:
        x = np.full((1, 2, terms), -INF)
        x[0, :, :2] = [[0, -90], [0, 0]]
        a = cudarun.lay(cudasim.stored(x, "b2"))
        alpha = cudasim.stored(np.ascontiguousarray(cudarun.fagg(a)), "b2")
        given = cudarun.fagg_vjp(cudasim.stored(np.array([[1e3, 0]]), "b2"), a, alpha)
        wanted, _ = reference.fagg_vjp_terms(np.array([[1e3, 0]]), x)
        np.testing.assert_allclose(given[0, 0, 1], float(wanted[0, 0, 1]), rtol=0.02)


def test_gradients_of_infinity():
    a = cudarun.lay(np.array([[[0, 1], [0, -INF]]], np.float32))
    exact = reference.fagg_vjp_terms(np.array([[INF, 0]]), np.asarray(a))[0]
    np.testing.assert_array_equal(gradient(a, [[INF, 0]])[0, 1], np.asarray(exact[0, 1], np.float32))


def test_launches_of_nothing_and_of_too_much():
    kind = kind_of("f4")
    assert plans.make_plan(kind, (0, 4), (16, 4), True, (), (0,), False, packed_rows=0).steps == ()
    shape = (1 << 31, 2)
    with pytest.raises(NotImplementedError, match=r"a has shape \(2147483648, 2\), 2147483648 batch rows"):
        plans.make_plan(kind, shape, (8, 4), True, (0,), (1,), False, out=(8, 4))
