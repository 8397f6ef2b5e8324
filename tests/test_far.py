"""Logits so far from 0 that a row's maximum is subtracted first, beside those that are just not."""

import numpy as np
import pytest
from helpers import check_all

import nbfagg
from nbfagg import State, reference, scalar
from nbfagg.promises import share_of_bound, share_of_gradient_bound

EDGES = {"float32": scalar.FAR_F32 / scalar.LOG2_E, "float64": scalar.FAR_F64 / scalar.LOG2_E}
# In units of where "far" begins.
PLACES = [-30.0, -1.0, -0.3, 0.3, 1.0, 8.0, 1000.0]
SHAPES = {"tiny": (50, 3, 4), "rows": (3, 90, 33), "long": (1, 3, 9001), "tokens": (2, 3000, 1)}


def around(place, dtype, scale, shape, seed=0):
    """Logits within some octaves of a place; some rows and some tokens have gaps."""
    rng = np.random.default_rng(seed)
    a = (place * EDGES[dtype] + rng.uniform(-9, 9, shape)) / scale
    a[rng.random(shape) < 0.05] = -np.inf
    return a.astype(dtype)


@pytest.mark.parametrize("scale", [1.0, 22.70946639425839, 2.0**-30])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", EDGES)
def test_on_both_sides_of_where_far_begins(dtype, place, scale):
    for shape in SHAPES.values():
        a = around(place, dtype, scale, shape)
        check_all(a, scale=scale)
        # Columns: what is summed does not lie innermost.
        turned = np.ascontiguousarray(np.swapaxes(a, 1, 2))
        check_all(turned, keep_axis=2, scale=scale)
        check_all(np.ascontiguousarray(a.transpose(1, 2, 0)), batch_axis=2, keep_axis=0, scale=scale)


@pytest.mark.parametrize("dtype", EDGES)
def test_columns_whose_maximum_is_raised_across_it(dtype):
    """The first stretch of a column ends far off, the next one not far above."""
    a = np.full((1, 32, 16), -EDGES[dtype] + 0.5, dtype)
    a[:, :16] = -np.inf
    a[:, :16, 0] = -EDGES[dtype] - 0.1
    check_all(a, keep_axis=2)
    check_all(-a[:, ::-1], keep_axis=2, where=np.isfinite(a[:, ::-1]))


@pytest.mark.parametrize("dtype", EDGES)
def test_a_column_exactly_where_far_begins_beside_one_that_is_raised(dtype):
    scale = np.log(2.0)  # so that logits are their own octaves
    edge = EDGES[dtype] * scalar.LOG2_E
    a = np.full((8, 33), -edge, dtype)
    a[1:, 16:] += 8
    check_all(np.asfortranarray(a), keep_axis=1, scale=scale)
    check_all(np.asfortranarray(a), keep_axis=(), scale=scale)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", EDGES)
def test_states(dtype, place):
    a = around(place, dtype, 1.0, (2, 90, 33))
    exact, lse = reference.oracle(a, return_lse=True)
    logs = reference.oracle(a, log=True)
    kept = State.of(a[:, :41]).merge(State.of(a[:, 41:]), axis="keep")
    summed = State.of(a[:, :, :9]).merge(State.of(a[:, :, 9:]))
    for state in (kept, summed):
        assert share_of_bound(state.finalize(), exact, "alpha").max() <= 1
        assert share_of_bound(state.finalize(log=True), logs, "log").max() <= 1
        assert share_of_bound(state.lse, lse, "lse").max() <= 1


def test_far_states_round_a_weight_once():
    """Moved by one factor after the other, weights were 3.4 ulp off here.

    Three quarters of 3 ulp: pow is within 1, the last rounding and the sum's make 1/2 each, and 1/4 is left.
    """
    a = 3e12 + np.random.default_rng(5).uniform(-40, 0, (200, 64, 2))
    found = State.of(a, scale=3.7).finalize()
    assert share_of_bound(found, reference.oracle(a, scale=3.7), "alpha").max() <= 0.75


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", EDGES)
def test_gradients(dtype, place):
    for shape in SHAPES.values():
        a = around(place, dtype, 1.0, shape)
        alpha, lse = nbfagg.fagg(a, return_lse=True)
        grad = np.random.default_rng(1).normal(size=alpha.shape).astype(dtype)
        exact, largest = reference.fagg_vjp_terms(grad, a)
        found = nbfagg.fagg_vjp(grad, a, alpha, lse)
        assert share_of_gradient_bound(found, exact, largest).max() <= 1
