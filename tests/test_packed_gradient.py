"""The gradient of packed rows: for each row, to the bit, what `fagg_vjp` gives for it."""

import itertools

import numpy as np
import pytest

import nbfagg
from nbfagg import reference


def offsets_of(lengths):
    return np.concatenate(([0], np.cumsum(lengths)))


LENGTHS = {
    "tiny": [3, 1, 0, 4, 7, 2, 0, 0, 5] * 40,
    "few": [3, 1, 0, 4, 7],
    "mixed": [300, 0, 5, 2000, 1, 64, 65, 900],
    "one long": [1, 60_000, 2, 3],
    "empty": [0, 0, 0],
    "none": [],
}
TERMS = {"single": (), "few": (3,), "heads": (2, 20), "long": (9000,)}
# Long tokens in a few rows only: the others would be half a gigabyte.
CASES = [(lengths, terms) for lengths in LENGTHS for terms in TERMS if terms != "long" or lengths == "few"]


def case(lengths, terms, dtype, seed=0):
    rng = np.random.default_rng(seed)
    offsets = offsets_of(LENGTHS[lengths]).astype(np.int64)
    tokens = int(offsets[-1]) if len(offsets) else 0
    a = rng.normal(size=(tokens, *TERMS[terms])).astype(dtype)
    return a, offsets, rng.normal(size=tokens).astype(dtype), rng.normal(size=len(offsets) - 1).astype(dtype)


@pytest.mark.parametrize("log", [False, True], ids=["plain", "log"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("lengths", "terms"), CASES)
def test_each_row_is_what_it_is_alone(lengths, terms, dtype, log):
    a, offsets, grad, of_lse = case(lengths, terms, dtype)
    alpha, lse = nbfagg.fagg_packed(a, offsets, log=log, scale=0.5, return_lse=True)
    keywords = {"log": log, "scale": 0.5, "return_lse": True}
    found = nbfagg.fagg_packed_vjp((grad, of_lse), a, offsets, alpha, lse, **keywords)
    assert found.dtype == dtype
    assert found.shape == a.shape
    alone = nbfagg.fagg_packed_vjp((grad, of_lse), a, offsets, alpha, lse, workers=1, **keywords)
    assert found.tobytes() == alone.tobytes()
    for row, (begin, end) in enumerate(itertools.pairwise(offsets)):
        if begin < end:
            one = slice(begin, end)
            wanted = nbfagg.fagg_vjp(
                (grad[None, one], of_lse[row : row + 1]), a[None, one], alpha[None, one], lse[row : row + 1],
                **keywords,
            )  # fmt: skip
            assert wanted[0].tobytes() == found[one].tobytes(), row


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (2, 1, 0)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f4", np.int32])
def test_any_layout_and_dtype_and_in_place(dtype, order):
    rng = np.random.default_rng(3)
    lengths = [5, 0, 200, 3]
    shape = (208, 3, 4)
    memory = (10 * rng.normal(size=[shape[i] for i in order])).astype(dtype)
    a = memory.transpose(np.argsort(order))
    offsets, grad = offsets_of(lengths), rng.normal(size=208)
    alpha, lse = nbfagg.fagg_packed(a, offsets, return_lse=True)
    found = nbfagg.fagg_packed_vjp(grad, a, offsets, alpha, lse)
    exact = np.concatenate(
        [
            np.asarray(
                reference.fagg_vjp(grad[None, i:j], np.asarray(a[None, i:j], np.float64))[0], np.float64
            )
            for i, j in itertools.pairwise(offsets)
            if i < j
        ]
    )
    # At most 6 units of the formula's largest term, which is below 1, and 1 for what float16 adds.
    eps = np.finfo(found.dtype).eps
    np.testing.assert_allclose(found.astype(np.float64), exact, rtol=8 * eps, atol=8 * eps)
    if a.dtype == found.dtype:
        assert nbfagg.fagg_packed_vjp(grad, a, offsets, alpha, lse, out=a) is a
        assert a.tobytes() == found.tobytes()


def test_out_is_not_written_before_an_error():
    a = np.zeros((6, 2))
    alpha, lse = nbfagg.fagg_packed(a, [0, 2, 6], return_lse=True)
    out = np.full((6, 2), 7.0)
    wrong = [
        ({"offsets": [0, 7]}, ValueError, "offsets from 0 to 7"),
        ({"alpha": alpha[:5]}, ValueError, "alpha has shape"),
        ({"lse": lse[:1]}, ValueError, "lse has shape"),
        ({"grad": alpha[:5]}, ValueError, "grad has shape"),
        ({"scale": 0.0}, ValueError, "scale=0.0"),
        ({"grad": (alpha, lse)}, TypeError, "return_lse=True"),
    ]
    for changed, error, message in wrong:
        given = {
            "grad": alpha,
            "a": a,
            "offsets": [0, 2, 6],
            "alpha": alpha,
            "lse": lse,
            "out": out,
        } | changed
        with pytest.raises(error, match=message):
            nbfagg.fagg_packed_vjp(**given)
    assert (out == 7.0).all()
    for other in (alpha, a[::-1]):
        with pytest.raises(ValueError, match="out"):
            nbfagg.fagg_packed_vjp(alpha, a, [0, 2, 6], alpha, lse, out=other)
