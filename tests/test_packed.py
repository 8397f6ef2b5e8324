"""Packed rows: each is what it is alone, and what the oracle says."""

import itertools
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from helpers import DTYPES, share_of_bound

import nbfagg
from nbfagg import fields, reference

every_dtype = pytest.mark.parametrize("dtype", DTYPES)
NAN, INF = np.nan, np.inf


def zipf(tokens, seed=0):
    """Give offsets of rows of a few tokens, and of fewer the longer they are; some are empty."""
    random = np.random.default_rng(seed)
    lengths = np.minimum(random.zipf(1.5, tokens) - 1, tokens // 2)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    return np.concatenate((offsets[offsets < tokens], [tokens]))


OFFSETS = {
    "some": [0, 3, 3, 4, 90, 90, 412, 600],
    "one row": [0, 600],
    "one row among empty ones": [0, 0, 0, 600, 600],
    "a token each": range(601),
    "tokens and a long row": [*range(100), 600],
    "Zipf": zipf(600),
}
TERMS = {
    "": (),
    "1": (1,),
    "3": (3,),
    "4 x 5": (4, 5),
    "32": (32,),
    "70": (2, 35),
    "a tile and more": (4500,),
}


def logits(tokens, terms, dtype, spread=3.0):
    return np.random.default_rng(tokens).normal(0, spread, (tokens, *terms)).astype(dtype)


def rows_of(offsets):
    return [slice(int(first), int(end)) for first, end in itertools.pairwise(offsets)]


def alone(a, offsets, **keywords):
    """Give what fagg gives for one row after the other."""
    alpha, lse = [], []
    for row in rows_of(offsets):
        one, one_lse = nbfagg.fagg(a[np.newaxis, row], return_lse=True, **keywords)
        alpha.append(one[0])
        lse.append(one_lse[0])
    return np.concatenate(alpha), np.array(lse)


def check(a, offsets, **keywords):
    """Compare with the oracle, alpha and its logarithm and lse; return alpha."""
    for log in (True, False):
        given, lse = nbfagg.fagg_packed(a, offsets, log=log, return_lse=True, **keywords)
        want, want_lse = reference.fagg_packed(a, offsets, log=log, **keywords, return_lse=True)
        for what, result, exact in (("log" if log else "alpha", given, want), ("lse", lse, want_lse)):
            assert result.shape == exact.shape
            assert result.dtype == (np.float32 if a.dtype == np.float32 else np.float64)
            share = share_of_bound(result, exact, what)
            assert not share.size or share.max() <= 1, f"{what} of {a.dtype} {a.shape}, {keywords}"
    return given


@every_dtype
@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("name", OFFSETS)
def test_rows_are_those_of_the_oracle(name, terms, dtype):
    tokens = 600 if terms != "a tile and more" else 6
    offsets = np.minimum(OFFSETS[name], tokens)
    check(logits(tokens, TERMS[terms], dtype), offsets)
    check(logits(tokens, TERMS[terms], dtype, 30), offsets, scale=0.3)


@pytest.mark.parametrize("dtype", [*DTYPES, np.float16, ml_dtypes.bfloat16, np.int16, ">f4"])
@pytest.mark.parametrize("terms", TERMS)
@pytest.mark.parametrize("name", OFFSETS)
def test_rows_are_what_they_are_alone(name, terms, dtype):
    tokens = 600 if terms != "a tile and more" else 6
    offsets = np.minimum(OFFSETS[name], tokens)
    a = logits(tokens, TERMS[terms], dtype)
    for log in (False, True):
        want, want_lse = alone(a, offsets, log=log)
        for workers in (1, 2, None):
            alpha, lse = nbfagg.fagg_packed(a, offsets, log=log, return_lse=True, workers=workers)
            assert alpha.dtype == want.dtype
            assert lse.dtype == want_lse.dtype
            np.testing.assert_array_equal(alpha, want)
            np.testing.assert_array_equal(lse, want_lse)
            again = nbfagg.fagg_packed(a, offsets, log=log, workers=workers)
            np.testing.assert_array_equal(again, want)


@every_dtype
def test_a_row_a_million_times_longer(dtype):
    offsets = [0, 1, 1, 2, 1_000_002, 1_000_003, 1_000_003]
    for terms in ((), (2,)):
        a = logits(1_000_003, terms, dtype)
        check(a[:2000], [0, 1, 1, 2, 1998, 1999, 2000])
        want, want_lse = alone(a, offsets)
        for workers in (1, 2, None):
            alpha, lse = nbfagg.fagg_packed(a, offsets, return_lse=True, workers=workers)
            np.testing.assert_array_equal(alpha, want)
            np.testing.assert_array_equal(lse, want_lse)
        padded = np.zeros((3, 1_000_000, *terms), dtype)
        padded[0, 0], padded[1], padded[2, 0] = a[0], a[2:1_000_002], a[-1]
        limited = nbfagg.fagg(padded, lengths=[1, 1_000_000, 1])
        np.testing.assert_array_equal(alpha[2:1_000_002], limited[1])
    assert offsets[4] - offsets[3] > fields.SUMS_TOKENS


@every_dtype
def test_lengths_after_zipf(dtype):
    for terms, tokens in (((), 200_000), ((3,), 100_000), ((8, 9), 20_000)):
        a, offsets = logits(tokens, terms, dtype), zipf(tokens, 3)
        lengths = np.diff(offsets)
        assert lengths.max() > tokens // 10
        assert (lengths == 0).any()
        alpha, lse = nbfagg.fagg_packed(a, offsets, return_lse=True)
        for workers in (1, 2):
            given, given_lse = nbfagg.fagg_packed(a, offsets, return_lse=True, workers=workers)
            np.testing.assert_array_equal(given, alpha)
            np.testing.assert_array_equal(given_lse, lse)
        # The longest, and some others.
        some = {*np.argsort(lengths)[-3:].tolist(), *range(0, len(lengths), max(1, len(lengths) // 50))}
        for row in some:
            part = a[np.newaxis, offsets[row] : offsets[row + 1]]
            want, want_lse = nbfagg.fagg(part, return_lse=True)
            np.testing.assert_array_equal(alpha[offsets[row] : offsets[row + 1]], want[0])
            np.testing.assert_array_equal(lse[row], want_lse[0])
        share = share_of_bound(alpha, reference.fagg_packed(a, offsets), "alpha")
        assert share.max() <= 1


@every_dtype
@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)])
def test_logits_in_any_layout(order, dtype):
    a = logits(600, (3, 5), dtype)
    turned = np.ascontiguousarray(a.transpose(order)).transpose(np.argsort(order))
    gap = np.full((600, 3, 9), NAN, dtype)
    gap[..., 1:6] = a
    for view in (turned, turned[::-1], turned[:, ::-1, ::-1], turned[::2], gap[..., 1:6]):
        for name in ("some", "Zipf"):
            offsets = np.minimum(OFFSETS[name], len(view))
            check(view, offsets)
    # Rows without gaps between tokens, and terms in order, however they came to lie so.
    np.testing.assert_array_equal(
        nbfagg.fagg_packed(gap[..., 1:6], OFFSETS["some"]), nbfagg.fagg_packed(a, OFFSETS["some"])
    )


@pytest.mark.parametrize("dtype", ["i1", "u1", "i4", "i8", ">i8", "u4", "u8", ">u2"])
def test_dtypes_of_offsets(dtype):
    a = logits(100, (2,), np.float32)
    offsets = [0, 3, 3, 40, 100]
    want = nbfagg.fagg_packed(a, np.array(offsets))
    given = np.array(offsets, dtype)
    given.flags.writeable = False
    for same in (given, np.repeat(given, 2)[::2], offsets, tuple(offsets), range(0, 101, 100)):
        result = nbfagg.fagg_packed(a, same)
        if not isinstance(same, range):
            np.testing.assert_array_equal(result, want)
    np.testing.assert_array_equal(result, nbfagg.fagg(a[None])[0])


@pytest.mark.parametrize("dtype", [*DTYPES, np.float16, np.int32])
@pytest.mark.parametrize(
    ("shape", "offsets"),
    [
        ((0,), [0]),
        ((0, 2), [0]),
        ((0, 2), [0, 0, 0]),
        ((3, 0), [0, 3]),
        ((3, 0, 2), [0, 1, 1, 3]),
        ((0, 0), [0, 0]),
    ],
)
def test_empty_axes(shape, offsets, dtype):
    a = np.zeros(shape, dtype)
    for log in (False, True):
        alpha, lse = nbfagg.fagg_packed(a, offsets, log=log, return_lse=True)
        assert alpha.dtype == nbfagg.fagg(a[None]).dtype
        np.testing.assert_array_equal(alpha, np.full(shape[0], -INF if log else 0))
        np.testing.assert_array_equal(lse, np.full(len(offsets) - 1, -INF))
        out = np.full(shape[0], 7, alpha.dtype)
        assert nbfagg.fagg_packed(a, offsets, log=log, out=out) is out
        np.testing.assert_array_equal(out, alpha)


@every_dtype
def test_every_row_by_itself(dtype):
    for terms, tokens in (((), 600), ((3,), 600), ((70,), 600), ((4500,), 12), ((), 300_000)):
        offsets = [0, 2, 2, 3, tokens // 2, tokens - 2, tokens]
        values = logits(tokens, terms, dtype)
        usual = nbfagg.fagg_packed(values, offsets, return_lse=True)
        usual_log = nbfagg.fagg_packed(values, offsets, log=True)
        for number, row in enumerate(rows_of(offsets)):
            if row.start == row.stop:
                assert usual[1][number] == -INF
                continue
            # The first number of the row's first token, and the last of its last.
            for first, last, want, want_lse in (
                (None, NAN, NAN, NAN),
                (INF, None, NAN, INF),
                (INF, NAN, NAN, NAN),
                (-INF, -INF, 0, -INF),
            ):
                a = values.copy()
                flat = a[row].reshape(-1)
                if first == -INF:
                    flat[:] = -INF
                if first is not None:
                    flat[0] = first
                if last is not None:
                    flat[-1] = last
                alpha, lse = nbfagg.fagg_packed(a, offsets, return_lse=True)
                log = nbfagg.fagg_packed(a, offsets, log=True)
                np.testing.assert_array_equal(alpha[row], np.full(row.stop - row.start, want))
                np.testing.assert_array_equal(log[row], np.full(row.stop - row.start, want if want else -INF))
                np.testing.assert_equal(lse[number], dtype(want_lse))
                others = np.r_[0 : row.start, row.stop : tokens]
                np.testing.assert_array_equal(alpha[others], usual[0][others])
                np.testing.assert_array_equal(log[others], usual_log[others])
                np.testing.assert_array_equal(np.delete(lse, number), np.delete(usual[1], number))


@pytest.mark.parametrize("dtype", [*DTYPES, np.float16])
@pytest.mark.parametrize("log", [False, True])
def test_out(log, dtype):
    for terms in ((), (3,), (70,)):
        a = logits(600, terms, dtype)
        for name, offsets in OFFSETS.items():
            want, want_lse = nbfagg.fagg_packed(a, offsets, log=log, return_lse=True)
            out = np.full(600, 7, dtype)
            assert nbfagg.fagg_packed(a, offsets, log=log, out=out) is out, name
            np.testing.assert_array_equal(out, want)
            spaced = np.full(1201, 7, dtype)
            given, lse = nbfagg.fagg_packed(a, offsets, log=log, out=spaced[1::2], return_lse=True)
            assert given.base is spaced
            np.testing.assert_array_equal(given, want)
            np.testing.assert_array_equal(spaced[::2], 7)
            np.testing.assert_array_equal(lse, want_lse)
            backwards = np.full(600, 7, dtype)
            nbfagg.fagg_packed(a, offsets, log=log, out=backwards[::-1])
            np.testing.assert_array_equal(backwards[::-1], want)


def test_nothing_grows_with_the_logits():
    a = np.zeros((65536, 128), np.float32)  # 32 MiB
    offsets = zipf(65536)
    nbfagg.fagg_packed(a[:10], [0, 10])
    for view in (a, a[:, ::2], a.view(">f4"), a.view(np.float16)):
        tracemalloc.start()
        try:
            nbfagg.fagg_packed(view, offsets, return_lse=True)
            assert tracemalloc.get_traced_memory()[1] < 5 << 20
        finally:
            tracemalloc.stop()


def test_logits_and_offsets_are_not_written():
    a, offsets = logits(600, (3,), np.float32), np.array(OFFSETS["some"])
    before = a.copy(), offsets.copy()
    a.flags.writeable = offsets.flags.writeable = False
    nbfagg.fagg_packed(a, offsets)
    np.testing.assert_array_equal(a, before[0])
    np.testing.assert_array_equal(offsets, before[1])


# --- errors ---------------------------------------------------------------------


A = np.zeros((6, 2), np.float32)


def refused(error, *parts, a=A, offsets=(0, 6), **keywords):
    """Assert that a call is refused in one line that has every part, and that nothing is written."""
    out = keywords.setdefault("out", np.full(6, 7, np.float32))
    before = np.array(out, copy=True) if isinstance(out, np.ndarray) else None
    with pytest.raises(error) as caught:
        nbfagg.fagg_packed(a, offsets, **keywords)
    message = str(caught.value)
    assert type(caught.value) is error
    assert message.startswith("nbfagg")
    assert "\n" not in message
    for part in parts:
        assert part in message, message
    if before is not None:
        np.testing.assert_array_equal(out, before)


WANTED = "want (B + 1,) integers that rise from 0 to 6, the tokens of a of shape (6, 2)"


@pytest.mark.parametrize(
    ("offsets", "came"),
    [
        ([0, 5], "offsets from 0 to 5"),
        ([0, 7], "offsets from 0 to 7"),
        ([1, 6], "offsets from 1 to 6"),
        ([-1, 6], "offsets from -1 to 6"),
        ([0], "offsets from 0 to 0"),
        ([6], "offsets from 6 to 6"),
        ([6, 0], "offsets from 6 to 0"),
        ([0, 4, 3, 6], "offsets[2]=3 after 4"),
        ([0, -1, 6], "offsets[1]=-1 after 0"),
        ([0, 7, 6], "offsets[2]=6 after 7"),
        (np.array([0, 4, 3, 6], np.uint64), "offsets[2]=3 after 4"),
        (np.array([0, 2**64 - 1, 6], np.uint64), f"offsets[2]=6 after {2**64 - 1}"),
        (np.array([0, 2**40, 6]), f"offsets[2]=6 after {2**40}"),
        (np.zeros(0, int), "offsets has shape (0,)"),
        ([[0, 6]], "offsets has shape (1, 2)"),
        (6, "offsets has shape ()"),
    ],
)
def test_offsets_that_do_not_fit(offsets, came):
    refused(ValueError, came, WANTED, offsets=offsets)


@pytest.mark.parametrize(
    ("offsets", "came"),
    [
        ([0.0, 6.0], "float64"),
        (np.array([0, 6], np.float32), "float32"),
        ([False, True], "bool"),
        (["0", "6"], "<U1"),
        (None, "object"),
        ([0, None], "object"),
        (np.array([0, 6], "m8[s]"), "timedelta64[s]"),
    ],
)
def test_offsets_of_another_kind(offsets, came):
    refused(TypeError, f"offsets has dtype {came}", WANTED, offsets=offsets)


def test_offsets_that_are_no_array():
    with pytest.raises((TypeError, ValueError), match="offsets"):
        nbfagg.fagg_packed(A, [[0], [1, 6]])


def test_other_arguments():
    refused(TypeError, "a of shape (6, 2) has dtype complex64", a=A.astype(np.complex64))
    refused(ValueError, "a is a scalar", a=np.float32(1), offsets=[0])
    for scale in (0, -1, NAN, INF):
        refused(ValueError, "scale=", "want a positive finite number", scale=scale)
    refused(TypeError, "scale=", scale="1")
    refused(ValueError, "workers=0", workers=0)
    refused(TypeError, "workers=1.5", workers=1.5)


def test_out_that_does_not_fit():
    refused(
        ValueError, "out has shape (5,)", "want shape (6,) and dtype float32", out=np.full(5, 7, np.float32)
    )
    refused(ValueError, "out has shape (1, 6)", "want shape (6,)", out=np.full((1, 6), 7, np.float32))
    refused(TypeError, "out has dtype float64", "want shape (6,) and dtype float32", out=np.full(6, 7.0))
    refused(TypeError, "out is a list", "want a NumPy array", out=[0.0] * 6)
    fixed = np.full(6, 7, np.float32)
    fixed.flags.writeable = False
    refused(ValueError, "out of shape (6,) is not writeable", out=fixed)
    still = np.broadcast_to(np.float32(7), (6,))
    refused(ValueError, "out of shape (6,)", out=still)
    a = np.arange(12, dtype=np.float32).reshape(6, 2)
    for out in (a[:, 0], a.reshape(-1)[3:9], a[::-1, 1]):
        refused(ValueError, "out of shape (6,) shares memory with a", a=a, out=out)


def test_arguments_are_given_by_name():
    with pytest.raises(TypeError, match="positional"):
        nbfagg.fagg_packed(A, [0, 6], 1.0)


def test_offsets_in_the_memory_of_out():
    """However they are given: the sums would be written over them."""
    out = np.zeros(4)
    offsets = out.view(np.int64)[:3]
    offsets[:] = [0, 2, 4]
    for given in (offsets, memoryview(offsets)):
        with pytest.raises(ValueError, match="shares memory with offsets"):
            nbfagg.fagg_packed(np.zeros((4, 2)), given, out=out)
    lengths = np.zeros((2, 2))
    with pytest.raises(ValueError, match="shares memory with lengths"):
        nbfagg.fagg(np.zeros((2, 2, 2)), lengths=memoryview(lengths.view(np.int64)[0]), out=lengths)
