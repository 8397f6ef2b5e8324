"""Odd arguments, steered by atheris: ``python tests/fuzz_arguments.py [-runs=N] [libFuzzer's options]``.

Every argument of every public function gets numbers, arrays and objects that nobody would pass. A call has to
give what the oracle gives, or refuse with a TypeError or ValueError that begins with "nbfagg: ". Needs
``pip install atheris``; pytest does not collect it.
"""

import sys

import numpy as np

try:
    import atheris
except ImportError:
    sys.exit("fuzz_arguments: atheris is not installed (pip install atheris); nothing was tried")

# Numba compiles what is in `scalar`: that has to stay as it is.
from nbfagg import promises, reference, scalar  # noqa: F401

with atheris.instrument_imports(include=["nbfagg.inputs", "nbfagg.api", "nbfagg.packed", "nbfagg.state"]):
    import nbfagg
    from nbfagg import api, inputs, packed, state  # noqa: F401


class Lying:
    """An object whose array is none."""

    def __array__(self, dtype=None, copy=None):
        return [1.0, 2.0]


class OwnError(Exception):
    """What a caller's own object raises comes through."""


class Raising:
    """An object that cannot be looked at."""

    def __index__(self):
        raise OwnError

    def __float__(self):
        raise OwnError

    def __len__(self):
        return -1


NUMBERS = (0, 1, -1, 2, 3, True, 0.5, -0.0, 1e-300, 1e300, float("nan"), float("inf"), 1j, 2**63, -(2**70))
OBJECTS = (
    *(None, "0", b"1", (), [], {}, {0}, (0,), (0, 1), [0, 1], (0, 0), (1.5,), range(2), slice(2), object),
    *(Lying(), Raising(), np.float32(2), np.int8(1), np.bool_(True), np.array(1), np.array([0.5]), Ellipsis),
)
DTYPES = ("f4", "f8", "f2", ">f4", "i1", "u8", "?", "c8", "U1", "O", "M8[s]", "g", "i4,f4", "V3")


def any_array(data):
    """Give an array of some dtype and up to four axes, of some strides."""
    shape = [data.ConsumeIntInRange(0, 4) for _ in range(data.ConsumeIntInRange(0, 4))]
    dtype = np.dtype(data.PickValueInList(list(DTYPES)))
    size = int(np.prod(shape, dtype=int))
    values = np.frombuffer(data.ConsumeBytes(size).ljust(size, b"\1"), np.int8).reshape(shape)
    array = values.astype(dtype) if dtype.kind not in "MV" else np.zeros(shape, dtype)
    if array.ndim and data.ConsumeBool():
        array = array[:: data.PickValueInList([-1, 2])]
    if data.ConsumeBool():
        array = array.T
    kind = data.ConsumeIntInRange(0, 11)
    if kind == 0:
        array.flags.writeable = False
    return np.ma.array(array) if kind == 1 and dtype.kind in "fiu" else array


def any_value(data):
    kind = data.ConsumeIntInRange(0, 3)
    if kind == 0:
        return data.PickValueInList(list(NUMBERS))
    if kind == 1:
        return data.PickValueInList(list(OBJECTS))
    if kind == 2:
        return data.ConsumeIntInRange(-5, 5)
    return any_array(data)


def right_logits(data):
    """Give logits that are taken, so that the other arguments are reached."""
    shape = [data.ConsumeIntInRange(1, 4) for _ in range(data.ConsumeIntInRange(2, 4))]
    size = int(np.prod(shape))
    raw = np.frombuffer(data.ConsumeBytes(size).ljust(size, b"\3"), np.int8).reshape(shape)
    return raw.astype(data.PickValueInList(["f4", "f8"]))


def assert_right(result, exact, what, call):
    share = promises.share_of_bound(np.asarray(result), np.asarray(exact), what)
    assert result.shape == exact.shape, call
    assert share.max(initial=0) <= 1, call


def as_computed(a):
    """Give logits as they are computed: integers in float64."""
    a = np.asarray(a)
    return a.astype(np.float64) if a.dtype.kind in "biu" else a


def refused_or(do, judge):
    """Call; what is no refusal of nbfagg's own has to be right."""
    try:
        result = do()
    except OwnError:
        return
    except (TypeError, ValueError) as error:
        if not str(error).startswith(("nbfagg: ", "State.merge: ")):
            raise
        return
    judge(result)


FORWARD = ("batch_axis", "keep_axis", "where", "lengths", "scale", "log", "return_lse", "out", "workers")
PACKED = ("scale", "log", "return_lse", "out", "workers")


def options(data, names):
    chosen = [data.PickValueInList(list(names)) for _ in range(data.ConsumeIntInRange(0, 2))]
    return {name: any_value(data) for name in chosen}


def test_one(raw):
    data = atheris.FuzzedDataProvider(raw)
    a = any_value(data) if data.ConsumeIntInRange(0, 3) == 0 else right_logits(data)
    kind = data.ConsumeIntInRange(0, 4)
    if kind == 0:
        keywords = options(data, FORWARD)

        def judge(result):
            # What is written into out is the result; how many threads there were changes nothing.
            given = {n: v for n, v in keywords.items() if n not in ("out", "workers", "return_lse", "log")}
            if isinstance(given.get("batch_axis"), list):
                given["batch_axis"] = tuple(given["batch_axis"])
            if isinstance(given.get("keep_axis"), list):
                given["keep_axis"] = tuple(given["keep_axis"])
            if "scale" in given:
                given["scale"] = float(given["scale"])
            log, pair = bool(keywords.get("log", False)), bool(keywords.get("return_lse", False))
            exact, lse = reference.oracle(as_computed(a), log=log, return_lse=True, **given)
            alpha = result[0] if pair else result
            assert_right(alpha, np.asarray(exact), "log" if log else "alpha", keywords)
            if pair:
                assert_right(result[1], np.asarray(lse), "lse", keywords)

        refused_or(lambda: nbfagg.fagg(a, **keywords), judge)
    elif kind == 1:
        keywords = options(data, PACKED)
        offsets = (
            any_value(data) if data.ConsumeBool() else [0, len(a) if type(a) is np.ndarray and a.ndim else 0]
        )

        def judge(result):
            log, pair = bool(keywords.get("log", False)), bool(keywords.get("return_lse", False))
            scale = float(keywords.get("scale", 1.0))
            exact = reference.fagg_packed(as_computed(a), offsets, log=log, scale=scale)
            assert_right(result[0] if pair else result, exact, "log" if log else "alpha", keywords)

        refused_or(lambda: nbfagg.fagg_packed(a, offsets, **keywords), judge)
    elif kind == 2:
        grad, alpha, lse = (any_value(data) for _ in range(3))
        keywords = options(data, FORWARD)
        refused_or(lambda: nbfagg.fagg_vjp(grad, a, alpha, lse, **keywords), lambda result: None)
    elif kind == 3:
        grad, offsets, alpha, lse = (any_value(data) for _ in range(4))
        keywords = options(data, PACKED)
        refused_or(
            lambda: nbfagg.fagg_packed_vjp(grad, a, offsets, alpha, lse, **keywords), lambda result: None
        )
    else:
        keywords = options(data, ("batch_axis", "keep_axis", "where", "lengths", "scale", "workers"))
        other, axis = any_value(data), any_value(data)

        def judge(state):
            refused_or(lambda: state.finalize(any_value(data)), lambda result: None)
            refused_or(lambda: state.merge(other, axis=axis), lambda result: None)

        refused_or(lambda: nbfagg.State.of(a, **keywords), judge)


if __name__ == "__main__":
    atheris.Setup(sys.argv, test_one)
    atheris.Fuzz()
