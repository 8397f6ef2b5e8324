"""Random logits, axes, masks and layouts, all from one seed; the exact results are computed once."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nbfagg import reference, scalar

Array = npt.NDArray[Any]
Random = np.random.Generator

FLOATS = ("f4", "f4", "f4", "f4", "f8", "f8", "f2", "bfloat16")
INTEGERS = ("i1", "i2", "i4", "i8", "u1", "u4", "u8", "?")
# Base-2 logarithm of the logits of a problem, at most, and in what share of them: most are small, for the
# oracle takes 0.2 us for each; some are shared by threads, which takes 128 KiB.
SIZES = ((9.0, 0.86), (13.0, 0.12), (16.5, 0.02))


def dtype_of(name: str) -> np.dtype[Any]:
    """Give a dtype by name; float16 where bfloat16 is not installed."""
    if name != "bfloat16":
        return np.dtype(name)
    if importlib.util.find_spec("ml_dtypes") is None:
        return np.dtype(np.float16)
    import ml_dtypes

    brain: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return brain


def chance(random: Random, share: float) -> bool:
    """Give True in this share of cases."""
    return bool(random.random() < share)


def pick(random: Random, among: Any) -> Any:
    """Give one of a sequence."""
    return among[int(random.integers(len(among)))]


@dataclass
class Problem:
    """Logits with all that says what their aggregation is, and what it is exactly."""

    a: Array
    batch: tuple[int, ...]
    keep: tuple[int, ...]
    scale: float = 1.0
    where: Array | None = None
    lengths: Array | None = None
    _exact: dict[str, Array] | None = None
    _exact_log: Array | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Give the keywords that fagg and the oracle share."""
        return {
            "batch_axis": self.batch,
            "keep_axis": self.keep,
            "scale": self.scale,
            "where": self.where,
            "lengths": self.lengths,
        }

    @property
    def dtype(self) -> np.dtype[Any]:
        """Give the dtype of the result."""
        return np.dtype(np.float64) if self.a.dtype.kind in "biu" else self.a.dtype

    @property
    def summed(self) -> tuple[int, ...]:
        """Give the axes that are summed."""
        return tuple(axis for axis in range(self.a.ndim) if axis not in self.batch + self.keep)

    # Not cached_property: before Python 3.12 that has a lock, which a forked child would wait for.
    @property
    def exact(self) -> dict[str, Array]:
        """Give the exact alpha and lse."""
        if self._exact is None:
            alpha, lse = reference.oracle(self.a, return_lse=True, **self.options)
            self._exact = {"alpha": np.asarray(alpha), "lse": np.asarray(lse)}
        return self._exact

    @property
    def exact_log(self) -> Array:
        """Give the exact logarithm of alpha."""
        if self._exact_log is None:
            self._exact_log = np.asarray(reference.oracle(self.a, log=True, **self.options))
        return self._exact_log

    def below(self, axes: tuple[int, ...]) -> Array:
        """Give how many octaves each logit is below the largest included one along these axes."""
        wide = self.a.astype(np.float64)
        included = np.broadcast_to(True if self.where is None else self.where, wide.shape)
        if self.lengths is not None:
            shape = [1] * wide.ndim
            shape[self.keep[0]] = wide.shape[self.keep[0]]
            tokens = np.arange(wide.shape[self.keep[0]]).reshape(shape)
            shape = [1] * wide.ndim
            shape[self.batch[0]] = wide.shape[self.batch[0]]
            included = included & (tokens < self.lengths.reshape(shape))
        with np.errstate(all="ignore"):
            top = np.where(included, wide, -np.inf).max(axis=axes, keepdims=True, initial=-np.inf)
            octaves: Array = (top - wide) * self.scale / np.log(2)
        return octaves


def problem(random: Random) -> Problem:
    """Make a problem of any rank."""
    shape = _shape(random, int(random.integers(1, 7)))
    dtype = dtype_of(pick(random, INTEGERS) if chance(random, 0.08) else pick(random, FLOATS))
    roles = random.integers(0, 3, len(shape))
    batch, keep = (tuple(int(i) for i in np.flatnonzero(roles == role)) for role in (0, 1))
    a = _overlapping(random, _values(random, shape, dtype))
    scale = _scale(random, dtype)
    if scale is not None:
        # Logits that the scale brings back to where they were.
        with np.errstate(all="ignore"):
            a = np.ldexp(a, -scale).astype(dtype) if dtype.char in "fd" else a
    made = Problem(a, batch, keep, pick(random, (1.0, 0.125, 8**-0.5, 3.7)) if scale is None else 2.0**scale)
    if chance(random, 0.3):
        made.where = _mask(random, shape)
    if len(batch) == len(keep) == 1 and chance(random, 0.5):
        made.lengths = random.integers(0, shape[keep[0]] + 1, shape[batch[0]])
    if dtype.kind not in "biu" and made.where is not None and chance(random, 0.3):
        # What is left out is not looked at.
        poison = np.array([np.nan, np.inf, -np.inf], dtype)[random.integers(0, 3, shape)]
        made.a = np.where(np.broadcast_to(made.where, shape), made.a, poison)
    return made


def packed_problem(random: Random) -> tuple[Problem, Array]:
    """Make packed rows as a padded problem, and their offsets: row b is a[b, :lengths[b]]."""
    rows, most = int(random.integers(0, 8)), int(random.integers(1, 40))
    lengths = random.integers(0, most + 1, rows)
    terms = _shape(random, int(random.integers(0, 3)))
    terms = tuple(min(size, 1500 // (rows * most + 1) + 1) for size in terms)
    shape = (rows, int(lengths.max(initial=0)), *terms)
    dtype = dtype_of(pick(random, FLOATS))
    made = Problem(_values(random, shape, dtype), (0,), (1,), pick(random, (1.0, 0.3)), None, lengths)
    return made, np.concatenate(([0], np.cumsum(lengths)))


def _shape(random: Random, rank: int) -> tuple[int, ...]:
    most = random.choice([size for size, _ in SIZES], p=[share for _, share in SIZES])
    exponents = random.dirichlet(np.ones(rank)) * random.uniform(0.5, 1) * most if rank else []
    return tuple(0 if chance(random, 0.01) else round(2**exponent) for exponent in exponents)


def _scale(random: Random, dtype: np.dtype[Any]) -> int | None:
    """Give the exponent of an extreme scale, now and then."""
    if not chance(random, 0.1) or dtype.char not in "fd":
        return None
    return int(random.integers(-120, 121) if dtype.char == "f" else random.integers(-890, 891))


# Around where logits are so far off that their maximum is subtracted first, of either type, and beyond.
_EDGES = [sign * far / scalar.LOG2_E for sign in (1, -1) for far in (scalar.FAR_F32, scalar.FAR_F64)]
PLACES = np.array([0, 0, 88.7, -110, 1e4, -1e4, 3e5, -1e7, 1e15, *_EDGES])


def _values(random: Random, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    if dtype.kind in "biu":
        most = 2 if dtype.kind == "b" else int(min(np.iinfo(dtype).max, pick(random, (5, 100, 2**40))))
        low = 0 if dtype.kind in "bu" else -min(most, 50)
        return random.integers(low, max(most, 2), shape).astype(dtype)
    with np.errstate(all="ignore"):
        x: Array = pick(random, KINDS)(random, shape, dtype)
        # Batch rows or tokens far from one another.
        if shape and chance(random, 0.2):
            far = random.choice(PLACES, shape[0])
            x = x + far.reshape(-1, *[1] * (len(shape) - 1))
        x = x.astype(dtype)
    if chance(random, 0.25):
        x[random.random(shape) < pick(random, (0.02, 0.3))] = -np.inf
    if shape and chance(random, 0.1):
        x[random.random(shape[0]) < 0.3] = -np.inf
    for value in (np.nan, np.inf):
        if x.size and chance(random, 0.06):
            x.reshape(-1)[random.integers(x.size, size=int(random.integers(1, 3)))] = value
    return x


def _normal(random: Random, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    logits: Array = random.normal(0, pick(random, (0.01, 1.0, 1.0, 10.0, 30.0)), shape)
    return logits


def _tails(random: Random, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return random.uniform(-800 if dtype.char == "d" else -130, 0, shape)


def _subnormal(random: Random, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    tiny = np.finfo(np.float64 if dtype.char == "d" else np.float32).smallest_subnormal
    return random.integers(-1000, 1000, shape) * np.float64(tiny)


def _any_size(random: Random, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    sign: Array = random.choice([-1.0, 1.0], shape)
    return sign * 10 ** random.uniform(-44, 6, shape)


def _equal(random: Random, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    return np.full(shape, pick(random, (0.0, -0.0, 88.723, -110.0, 1e4)))


KINDS = (_normal, _normal, _normal, _normal, _tails, _subnormal, _any_size, _equal)


def _overlapping(random: Random, x: Array) -> Array:
    """Give, now and then, a view whose elements share memory: windows that slide, axes of stride 0."""
    if not chance(random, 0.08):
        return x
    steps = random.integers(0, 3, x.ndim)
    needed = 1 + sum((size - 1) * int(step) for size, step in zip(x.shape, steps, strict=True))
    if x.size < needed:
        return x
    strides = [int(step) * x.itemsize for step in steps]
    return np.lib.stride_tricks.as_strided(x.reshape(-1), x.shape, strides, writeable=False)


def _mask(random: Random, shape: tuple[int, ...]) -> Array:
    """Make a mask that broadcasts."""
    own = tuple(1 if chance(random, 0.4) else size for size in shape)[int(random.integers(len(shape) + 1)) :]
    mask: Array = random.random(own) < pick(random, (0.0, 0.03, 0.5, 0.9, 1.0))
    return mask


# --- layouts ---------------------------------------------------------------------


def as_it_is(random: Random, a: Array) -> Array:
    """Give the array itself."""
    return a


def in_one_piece(random: Random, a: Array) -> Array:
    """Give a copy in C's order."""
    return a.copy(order="C")


def in_another_order(random: Random, a: Array) -> Array:
    """Give a copy whose axes lie in memory in some other order."""
    order = random.permutation(a.ndim)
    return a.transpose(order).copy(order="C").transpose(np.argsort(order))


def backwards(random: Random, a: Array) -> Array:
    """Give a copy with negative strides along some axes."""
    turn = tuple(slice(None, None, -1 if chance(random, 0.5) else 1) for _ in a.shape)
    return a[turn].copy(order="C")[turn]


def apart(random: Random, a: Array) -> Array:
    """Give a part of a larger array that holds ones elsewhere."""
    inner = tuple(slice(int(random.integers(0, 2)), None, int(random.integers(1, 3))) for _ in a.shape)
    larger = np.ones([2 * size + 2 for size in a.shape], a.dtype)
    # With an ellipsis an array of rank 0 stays a view.
    first: Any = (..., *inner)
    part: Any = (..., *(slice(size) for size in a.shape))
    view: Array = larger[first][part]
    view[...] = a
    return view


def off_by_a_byte(random: Random, a: Array) -> Array:
    """Give a copy that is not aligned."""
    raw = np.zeros(a.nbytes + 1, np.uint8)
    view: Array = raw[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def in_the_other_byte_order(random: Random, a: Array) -> Array:
    """Give a copy with swapped bytes, and for bfloat16, which has none, a plain one."""
    return a.astype(a.dtype.newbyteorder("S")) if a.dtype.kind != "V" else a.copy(order="C")


LAYOUTS = (
    as_it_is,
    in_one_piece,
    in_one_piece,
    in_another_order,
    in_another_order,
    backwards,
    apart,
    off_by_a_byte,
    in_the_other_byte_order,
)
