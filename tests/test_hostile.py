"""What an object says of itself need not be true: it is refused by name, or taken as what it is."""

import numpy as np
import pytest

import nbfagg

X = np.random.default_rng(0).normal(size=(3, 4, 5))
WANTED = nbfagg.fagg(X)


class Array:
    """What __array__ gives is anything."""

    def __init__(self, value):
        self.value = value

    def __array__(self, dtype=None, copy=None):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


class Interface:
    """What __array_interface__ gives is anything."""

    def __init__(self, **changes):
        self.keep = X
        self.__array_interface__ = X.__array_interface__ | changes


class Packed:
    """What __dlpack__ gives is anything."""

    def __init__(self, value):
        self.value = value

    def __dlpack__(self, **keywords):
        if isinstance(self.value, Exception):
            raise self.value
        return self.value if self.value is None else self.value.__dlpack__()

    def __dlpack_device__(self):
        return (1, 0)


class Liar(np.ndarray):
    """An array that is not what it says, and breaks whatever NumPy does with it."""

    shape = property(lambda self: (10**6, 4))
    strides = property(lambda self: (8, 8))
    dtype = property(lambda self: np.dtype(np.float32))

    def fail(self, *arguments, **keywords):
        raise AssertionError("asked")

    ravel = transpose = __getitem__ = astype = fail
    __array_function__ = __array_ufunc__ = __array__ = fail


@pytest.mark.parametrize(
    "a",
    [
        Array([1.0, 2.0]),
        Array(None),
        Array(3.0),
        Array(ValueError("no")),
        Array(TypeError("no")),
        Array(X.astype(object)),
        Array(np.ma.array(X, mask=X > 0)),
        Array(np.ones((2, 3)).view(np.matrix)),
        Interface(shape=(-1, 4, 5)),
        Interface(shape="abc"),
        Interface(typestr="<f9"),
        Interface(data=(0, False)),
        Interface(strides=(1,)),
        Packed(None),
        Packed(RuntimeError("another device")),
        Packed(BufferError("another device")),
        iter([1.0]),
        {},
        b"abc",
        np.zeros(3, "M8[s]"),
        np.zeros((2, 3), np.longdouble),
    ],
    ids=lambda a: type(a).__name__,
)
def test_what_makes_no_array_is_refused(a):
    with pytest.raises(TypeError, match=r"^nbfagg: a .*want"):
        nbfagg.fagg(a)


def test_an_error_of_the_objects_own_comes_through():
    with pytest.raises(ZeroDivisionError, match="own"):
        nbfagg.fagg(Array(ZeroDivisionError("own")))


@pytest.mark.parametrize("a", [Array(X), Interface(), Packed(X), memoryview(X), X.view(Liar)])
def test_what_makes_an_array_is_taken(a):
    result = nbfagg.fagg(a)
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, WANTED)


def test_a_mask_is_never_lost():
    masked = np.ma.array(WANTED, mask=WANTED > 0.2)
    for given in (masked, Array(masked)):
        for call in (
            lambda given=given: nbfagg.fagg_vjp(given, X, WANTED, np.zeros(3)),
            lambda given=given: nbfagg.fagg_vjp(WANTED, X, given, np.zeros(3)),
            lambda given=given: nbfagg.fagg_packed(given, [0, 3]),
            lambda given=given: nbfagg.State.of(given),
            lambda given=given: nbfagg.fagg(X, out=given),
        ):
            with pytest.raises(TypeError, match=r"^nbfagg: "):
                call()
    with pytest.raises(TypeError, match="masked"):
        nbfagg.fagg(X, where=Array(np.ma.array(X > 0, mask=X > 1)))


def test_a_liar_for_every_other_argument():
    """Its own class says nothing, and nothing is read or written but what it holds."""
    lengths = np.array([4, 0, 2])
    mask = X > 0
    np.testing.assert_array_equal(nbfagg.fagg(X, where=mask.view(Liar)), nbfagg.fagg(X, where=mask))
    np.testing.assert_array_equal(nbfagg.fagg(X, lengths=lengths.view(Liar)), nbfagg.fagg(X, lengths=lengths))
    grad = np.random.default_rng(1).normal(size=WANTED.shape)
    of_a = nbfagg.fagg_vjp(grad, X, WANTED, np.zeros(3))
    liars = grad.view(Liar), X.view(Liar), WANTED.view(Liar), np.zeros(3).view(Liar)
    np.testing.assert_array_equal(nbfagg.fagg_vjp(*liars), of_a)


@pytest.mark.parametrize("claim", [(3, 4), (1000, 1000)])
def test_an_out_that_claims_another_shape(claim):
    class Claims(np.ndarray):
        shape = property(lambda self: claim)

    for real in ((3, 4), (3, 3), (1,)):
        memory = np.full(64, 7.0)
        out = memory[: np.prod(real)].reshape(real).view(Claims)
        if real == (3, 4):
            assert nbfagg.fagg(X, out=out) is out
            np.testing.assert_array_equal(memory[:12].reshape(3, 4), WANTED)
            assert (memory[12:] == 7.0).all()
        else:
            with pytest.raises(ValueError, match="out has shape"):
                nbfagg.fagg(X, out=out)
            assert (memory == 7.0).all()
    memory = np.full(200, 7.0)
    with pytest.raises(ValueError, match="out has shape"):
        nbfagg.fagg_vjp(WANTED, X, WANTED, np.zeros(3), out=memory[:59].view(Claims))
    with pytest.raises(ValueError, match="out has shape"):
        nbfagg.fagg_packed(X, [0, 3], out=memory[:2].view(Claims))
    assert (memory == 7.0).all()


def test_the_highest_rank():
    a = X.reshape(*(1,) * 40, 3, *(1,) * 20, 4, 1, 5)
    assert a.ndim == 64
    alpha = nbfagg.fagg(a, batch_axis=40, keep_axis=61)
    np.testing.assert_array_equal(alpha, WANTED)
    turned = a.transpose()
    np.testing.assert_array_equal(nbfagg.fagg(turned, batch_axis=23, keep_axis=2).T, WANTED)
    every = nbfagg.fagg(a, batch_axis=tuple(range(41)), keep_axis=tuple(range(41, 64)))
    np.testing.assert_array_equal(every.reshape(3, 20), nbfagg.fagg(X.reshape(3, 20)))


@pytest.mark.parametrize("workers", [10**9, 2**64, np.int8(3), True])
def test_absurd_workers(workers):
    a = np.random.default_rng(0).normal(size=(40, 100, 40))
    np.testing.assert_array_equal(nbfagg.fagg(a, workers=workers), nbfagg.fagg(a))


@pytest.mark.parametrize("workers", [0, -(10**9), -(2**70), 1.5, float("nan"), "2"])
def test_workers_that_are_refused(workers):
    with pytest.raises((TypeError, ValueError), match=r"^nbfagg: workers="):
        nbfagg.fagg(X, workers=workers)


@pytest.mark.parametrize("scale", [float("nan"), np.nan, 10**400, -0.0, "1", None, np.ones(1), 1j, True])
def test_scales_that_are_refused(scale):
    with pytest.raises((TypeError, ValueError), match=r"^nbfagg: scale"):
        nbfagg.fagg(X, scale=scale)


def test_a_memory_map(tmp_path):
    path = tmp_path / "logits.bin"
    X.tofile(path)
    mapped = np.memmap(path, X.dtype, "r", shape=X.shape)
    result = nbfagg.fagg(mapped)
    assert type(result) is np.ndarray
    np.testing.assert_array_equal(result, WANTED)
