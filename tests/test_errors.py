"""What is refused, and how: the argument, what came, what is wanted; nothing is written before."""

import decimal
import fractions
import os

import numpy as np
import pytest

import nbfagg

A = np.zeros((2, 3, 4), np.float32)


def refused(error, *parts, a=A, **keywords):
    """Assert that a call is refused by a message in one line, about fagg, that has every part."""
    with pytest.raises(error) as caught:
        nbfagg.fagg(a, **keywords)
    message = str(caught.value)
    assert type(caught.value) is error
    assert message.startswith("nbfagg: ")
    assert "\n" not in message
    for part in parts:
        assert part in message, message


class Stranger:
    """An array of some framework, by its looks."""


@pytest.mark.parametrize(
    ("a", "parts"),
    [
        (np.ma.zeros((2, 3)), ["masked array", "want a.data, and where=~np.ma.getmaskarray(a)"]),
        (np.zeros((1, 2)).view(np.matrix), ["numpy.matrix", "want an array"]),
        (np.zeros((2, 3), np.complex64), ["(2, 3)", "complex64", "want float16, bfloat16, float32, float64"]),
        (np.zeros((2, 3), complex), ["complex128"]),
        (np.zeros((2, 3), object), ["object"]),
        (np.array([["a", "b"]]), ["<U1"]),
        (np.array([[b"a"]]), ["|S1"]),
        (np.zeros((2, 3), [("x", "f4")]), ["(2, 3)", "'x'"]),
        (np.zeros((2, 3), "M8[s]"), ["datetime64[s]"]),
        (np.zeros((2, 3), "m8[s]"), ["timedelta64[s]"]),
        (np.zeros((2, 3), "V4"), ["V4"]),
        ([["a", "b"]], ["(1, 2)", "<U1"]),
        ([[1, None]], ["object"]),
        ([[1.0], [2.0, 3.0]], ["list", "makes no array"]),
        (None, ["object"]),
        ({"a": 1}, ["object"]),
        ("ab", ["<U2"]),
    ],
)
def test_arrays_of_other_kinds(a, parts):
    refused(TypeError, "a ", "want", *parts, a=a)


@pytest.mark.skipif(np.finfo(np.longdouble).nmant == 52, reason="longdouble is float64 here")
def test_longdouble():
    refused(TypeError, "a of shape (2, 3)", "float32, float64", a=np.zeros((2, 3), np.longdouble))


@pytest.mark.parametrize("a", [1.0, np.float32(1), np.array(1.0), 3, True])
def test_scalars(a):
    refused(ValueError, "a is a scalar", "rank 1", a=a)


@pytest.mark.parametrize("module", ["torch", "cupy", "dask.array.core", "jaxlib.xla_extension"])
def test_arrays_of_frameworks_are_not_turned_into_numpys(module, monkeypatch):
    monkeypatch.setattr(Stranger, "__module__", module)
    refused(TypeError, module.split(".")[0], "Stranger", "want a NumPy array", a=Stranger())


@pytest.mark.parametrize("name", ["batch_axis", "keep_axis"])
class TestAxes:
    @pytest.mark.parametrize("axes", [1.0, "1", None, (0, 1.0), (None,), {1}, {0: 1}, np.array([0, 1])])
    def test_of_another_kind(self, name, axes):
        refused(TypeError, f"{name}={axes!r}", "(2, 3, 4)", "want an int or a tuple", **{name: axes})

    @pytest.mark.parametrize("axes", [3, -4, (0, 3), [-4], 2**70])
    def test_out_of_range(self, name, axes):
        shown = repr(tuple(axes) if isinstance(axes, list) else axes)
        refused(ValueError, f"{name}={shown}", "out of range", "(2, 3, 4)", "from -3 to 2", **{name: axes})

    @pytest.mark.parametrize("axes", [(2, 2), (2, -1), [-1, 2, 0]])
    def test_named_twice(self, name, axes):
        shown = repr(tuple(axes) if isinstance(axes, list) else axes)
        refused(ValueError, f"{name}={shown}", "repeats an axis", "(2, 3, 4)", **{name: axes})


@pytest.mark.parametrize(
    ("batch", "keep"), [(0, 0), (1, 1), (-3, 0), ((0, 1), 1), (0, (1, 0)), ((0, 2), (1, -1))]
)
def test_axes_in_both(batch, keep):
    parts = f"batch_axis={batch!r}", f"keep_axis={keep!r}", "share an axis", "(2, 3, 4)", "want"
    refused(ValueError, *parts, batch_axis=batch, keep_axis=keep)


def test_the_default_axes_need_two():
    refused(ValueError, "keep_axis=1", "out of range", "(5,)", a=np.zeros(5))


def test_axes_are_checked_in_empty_arrays_too():
    for shape in ((0, 3), (2, 0), (2, 3, 0)):
        refused(ValueError, "keep_axis=3", a=np.zeros(shape), keep_axis=3)


@pytest.mark.parametrize("scale", [0, 0.0, -0.0, -1, np.nan, np.inf, -np.inf, np.float32(0), np.array(-2.0)])
def test_scale_that_is_not_positive_and_finite(scale):
    refused(ValueError, f"scale={scale!r}", "want a positive finite number", scale=scale)


@pytest.mark.parametrize("scale", ["x", "1", None, 1j, True, False, np.True_, [1.0], object(), np.array("x")])
def test_scale_of_another_kind(scale):
    refused(TypeError, "scale=", "want a positive finite number", scale=scale)


def test_scale_of_many():
    refused(TypeError, "scale is an array of shape (2,)", "want a positive", scale=np.ones(2))


@pytest.mark.parametrize("scale", [1e-300, 1e300, 10**400, fractions.Fraction(1, 10**400)], ids=range(4))
def test_scale_beyond_what_can_be_computed(scale):
    refused(ValueError, "scale=", "want", scale=scale)


def test_scales_of_any_real_kind():
    a = np.arange(24.0).reshape(2, 3, 4)
    want = nbfagg.fagg(a, scale=0.5)
    for scale in (np.float32(0.5), np.float64(0.5), np.array(0.5), fractions.Fraction(1, 2)):
        np.testing.assert_array_equal(nbfagg.fagg(a, scale=scale), want)
    np.testing.assert_array_equal(nbfagg.fagg(a, scale=np.int8(2)), nbfagg.fagg(a, scale=2.0))
    np.testing.assert_array_equal(nbfagg.fagg(a, scale=1), nbfagg.fagg(a))
    refused(TypeError, "scale=", scale=decimal.Decimal("0.5"))


@pytest.mark.parametrize("workers", [0, -(os.cpu_count() or 1) - 1, -1000])
def test_too_few_workers(workers):
    refused(ValueError, f"workers={workers}", "want None, 1 or more", workers=workers)


@pytest.mark.parametrize("workers", [1.5, 1.0, "2", [2]])
def test_workers_of_another_kind(workers):
    refused(TypeError, f"workers={workers!r}", "want None or an int", workers=workers)


def test_workers_may_be_many_or_counted_from_the_end():
    a = np.zeros((2, 200, 200))
    for workers in (1, 2, 10_000, -1, -(os.cpu_count() or 1), np.int64(2)):
        np.testing.assert_array_equal(nbfagg.fagg(a, workers=workers), np.full((2, 200), 1 / 200))


@pytest.mark.parametrize("shape", [(2,), (3, 2), (2, 3, 1), (2, 4), ()])
def test_out_of_another_shape(shape):
    out = np.full(shape, 7, np.float32)
    refused(ValueError, f"out has shape {shape}", "want shape (2, 3) and dtype float32", "(2, 3, 4)", out=out)
    np.testing.assert_array_equal(out, 7)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.float16, np.float32().dtype.newbyteorder()])
def test_out_of_another_dtype(dtype):
    out = np.full((2, 3), 7, dtype)
    refused(TypeError, f"out has dtype {out.dtype}", "want shape (2, 3) and dtype float32", out=out)
    np.testing.assert_array_equal(out, 7)


def test_out_for_integers_is_float64():
    out = np.empty((2, 3), np.float32)
    refused(TypeError, "out has dtype float32", "dtype float64", a=A.astype(int), out=out)


def test_out_that_cannot_be_written():
    out = np.full((2, 3), 7, np.float32)
    out.flags.writeable = False
    refused(ValueError, "out of shape (2, 3) is not writeable", "want", out=out)
    np.testing.assert_array_equal(out, 7)


@pytest.mark.parametrize("out", [[[0.0] * 3] * 2, "out", 0, bytearray(24)])
def test_out_that_is_no_array(out):
    refused(TypeError, f"out is a {type(out).__name__}", "want a NumPy array", out=out)


def test_out_that_overlaps_the_input():
    a = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    before = a.copy()
    memory = a.reshape(-1)
    for out in (a[:, :, 0], memory[5:11].reshape(2, 3), a[::-1, :, 2]):
        refused(ValueError, "out of shape (2, 3) shares memory with a", "want", a=a, out=out)
        np.testing.assert_array_equal(a, before)
    # Near is not in.
    both = np.zeros(30, np.float32)
    both[:24] = memory
    given = nbfagg.fagg(both[:24].reshape(2, 3, 4), out=both[24:].reshape(2, 3))
    np.testing.assert_array_equal(given, nbfagg.fagg(a))
    woven = np.zeros((2, 3, 5), np.float32)
    woven[..., :4] = a
    given = nbfagg.fagg(woven[..., :4], out=woven[..., 4])
    np.testing.assert_array_equal(given, nbfagg.fagg(a))


def test_out_that_has_a_place_for_two_elements():
    out = np.lib.stride_tricks.as_strided(np.full(3, 7, np.float32), (2, 3), (0, 4))
    refused(ValueError, "out of shape (2, 3) repeats its own elements", "want one place for each", out=out)
    np.testing.assert_array_equal(out, 7)


def test_other_errors_come_before_out_is_written():
    out = np.full((2, 3), 7, np.float32)
    refused(ValueError, "scale", out=out, scale=-1)
    refused(ValueError, "workers", out=out, workers=0)
    refused(ValueError, "keep_axis", out=out, keep_axis=5)
    refused(TypeError, "where", out=out, where=A)
    refused(ValueError, "where", out=out, where=A[:, :, :3] > 0)
    refused(TypeError, "lengths", out=out, lengths=[1.0, 2.0])
    refused(ValueError, "lengths", out=out, lengths=[1, 4])
    refused(ValueError, "lengths", out=out, lengths=[1, 2, 3])
    np.testing.assert_array_equal(out, 7)


def test_arguments_are_given_by_name():
    with pytest.raises(TypeError, match="positional"):
        nbfagg.fagg(A, 0)
    with pytest.raises(TypeError, match="axis"):
        nbfagg.fagg(A, axis=1)


MASK_WANTED = "want booleans that broadcast to a of shape (2, 3, 4), True to include"


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 3, 3), (3, 3, 4), (1, 2, 3, 4), (0,), (2, 0, 4)])
def test_masks_that_do_not_fit(shape):
    refused(ValueError, f"where has shape {shape};", MASK_WANTED, where=np.ones(shape, bool))


@pytest.mark.parametrize(
    "where",
    [1, 0.0, A, A.astype(np.uint8), A.astype(int), "yes", np.array("True"), object(), [[1], [0]], [None]],
    ids=range(10),
)
def test_masks_of_another_kind(where):
    refused(TypeError, f"where has dtype {np.asarray(where).dtype};", MASK_WANTED, where=where)


def test_masks_that_make_no_array():
    with pytest.raises((TypeError, ValueError), match="where"):
        nbfagg.fagg(A, where=[[True], [True, False]])


def test_masks_are_checked_in_empty_arrays_too():
    for shape in ((0, 3, 4), (2, 0, 4), (2, 3, 0)):
        refused(ValueError, "where has shape (5,)", f"{shape}", a=np.zeros(shape), where=np.ones(5, bool))
        refused(TypeError, "where has dtype", a=np.zeros(shape), where=np.ones(shape))


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 1), (1, 2), (2, 3), (0,)])
def test_lengths_of_another_shape(shape):
    refused(
        ValueError,
        f"lengths has shape {shape};",
        "want (2,), one for each batch row of a of shape (2, 3, 4)",
        lengths=np.ones(shape, int),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64, bool, object, "m8[s]", "U1", complex])
def test_lengths_of_another_kind(dtype):
    refused(TypeError, f"lengths has dtype {np.dtype(dtype)};", "want", "integers", lengths=np.ones(2, dtype))


def test_lengths_that_make_no_array():
    with pytest.raises((TypeError, ValueError), match="lengths"):
        nbfagg.fagg(A, lengths=[[1], [1, 2]])


@pytest.mark.parametrize(
    ("lengths", "came"),
    [
        ([0, 4], "lengths from 0 to 4;"),
        ([-1, 3], "lengths from -1 to 3;"),
        ([-5, 9], "lengths from -5 to 9;"),
        (np.array([2**40, 1]), f"lengths from 1 to {2**40};"),
        (np.array([2**64 - 1, 1], np.uint64), f"lengths from 1 to {2**64 - 1};"),
        (np.array([-1, 1], np.int8), "lengths from -1 to 1;"),
    ],
)
def test_lengths_out_of_range(lengths, came):
    wanted = "want 0 to 3, the size of the kept axis of a of shape (2, 3, 4)"
    refused(ValueError, came, wanted, lengths=lengths)


@pytest.mark.parametrize(
    ("batch", "keep"), [((), 1), (0, ()), ((0, 1), 2), (0, (1, 2)), ((), ()), ((), (0, 1, 2)), ((0, 1), ())]
)
def test_lengths_for_other_than_one_batch_and_one_kept_axis(batch, keep):
    parts = (
        f"batch_axis={batch!r}",
        f"keep_axis={keep!r}",
        "(2, 3, 4)",
        "want one batch axis and one kept axis",
    )
    refused(ValueError, "lengths with", *parts, batch_axis=batch, keep_axis=keep, lengths=[1, 2])


def test_lengths_are_those_of_the_axes_given():
    refused(ValueError, "want (4,)", batch_axis=2, lengths=[1, 2])
    refused(ValueError, "want 0 to 2", batch_axis=-1, keep_axis=(0,), lengths=[0, 1, 2, 3])
    refused(ValueError, "keep_axis=3", "out of range", keep_axis=3, lengths=[1, 2])
    refused(ValueError, "share an axis", keep_axis=0, lengths=[1, 2])
    refused(TypeError, "keep_axis='1'", keep_axis="1", lengths=[1, 2])


def test_out_that_overlaps_the_mask():
    memory = np.zeros(24, np.uint8)
    where = memory.view(bool).reshape(2, 3, 4)
    out = memory.view(np.float32).reshape(2, 3)
    refused(
        ValueError,
        "out of shape (2, 3) shares memory with where",
        "want memory of its own",
        where=where,
        out=out,
    )
    assert not memory.any()


def test_out_that_overlaps_the_lengths():
    memory = np.array([1, 2, 0, 0, 0, 0])
    out = memory.view(np.float64).reshape(2, 3)
    before = memory.copy()
    refused(
        ValueError,
        "out of shape (2, 3) shares memory with lengths",
        a=A.astype(np.float64),
        lengths=memory[:2],
        out=out,
    )
    np.testing.assert_array_equal(memory, before)


def test_warmup_of_another_dtype():
    for dtypes in ("complex64", ("float32", "complex64"), ["int3"], ("no such",)):
        with pytest.raises(TypeError, match=r"^warmup: dtypes=.*; want names of dtypes"):
            nbfagg.warmup(dtypes)


@pytest.mark.parametrize("name", ["log", "return_lse"])
@pytest.mark.parametrize("flag", [None, 1.0, "True", np.ones(2, bool), []])
def test_flags_of_another_kind(name, flag):
    refused(TypeError, f"{name} is a {type(flag).__name__}; want True or False", **{name: flag})


def test_out_that_overlaps_itself():
    out = np.lib.stride_tricks.as_strided(np.zeros(20, np.float32), (4, 5), (4, 4))
    refused(
        ValueError, "out of shape (4, 5) repeats its own elements", a=np.zeros((4, 5, 2), np.float32), out=out
    )
    for out in (np.zeros((3, 2)).T, np.zeros((4, 6))[::2, ::2], np.zeros((2, 3))[::-1]):
        assert nbfagg.fagg(np.zeros((2, 3, 4)), out=out) is out


@pytest.mark.parametrize("axis", [np.array(1), (np.array(1),)])
def test_an_axis_that_has_no_hash(axis):
    a = np.random.default_rng(0).normal(size=(2, 3, 4))
    np.testing.assert_array_equal(nbfagg.fagg(a, keep_axis=axis), nbfagg.fagg(a))


def test_what_stands_for_an_axis_is_looked_at_each_time():
    """Not what it was when a plan was made: an array of rank 0 is an index, and may change."""

    class Index:
        value = 1

        def __index__(self):
            return self.value

    a = np.random.default_rng(0).normal(size=(3, 4, 4))
    axis = Index()
    np.testing.assert_array_equal(nbfagg.fagg(a, keep_axis=axis), nbfagg.fagg(a, keep_axis=1))
    axis.value = 2
    np.testing.assert_array_equal(nbfagg.fagg(a, keep_axis=axis), nbfagg.fagg(a, keep_axis=2))
    nbfagg.fagg(a, batch_axis=(0,), keep_axis=(2,))
    for wrong in (0.0, 0j):
        with pytest.raises(TypeError, match="batch_axis="):
            nbfagg.fagg(a, batch_axis=(wrong,), keep_axis=(2,))
