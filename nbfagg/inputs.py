"""What a user passes, checked: past this file nothing raises on what `fagg` and its kin are given.

Every error names the argument, what came and what is wanted.
"""

from __future__ import annotations

import functools
import math
import numbers
import operator
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from nbfagg.plan import BRAIN, Plan, format_of, make_plan

# Arithmetic in float32 needs scale * log2 e, and 180 octaves of it, to be normal
# float32 numbers; beyond, float32 logits are computed in float64.
SCALES_F32 = (2.0**-100, 2.0**100)
SCALES_F64 = (2.0**-900, 2.0**900)


def as_array(a: Any) -> npt.NDArray[Any]:
    """Give `a` as a plain array of a dtype that can be aggregated."""
    if not isinstance(a, np.ndarray):
        origin = type(a).__module__.partition(".")[0]
        if origin in ("torch", "cupy", "dask", "jax", "jaxlib", "xarray", "tensorflow", "numba"):
            wanted = "one of its DataArrays" if type(a).__name__ == "Dataset" else "a NumPy array"
            raise TypeError(
                f"nbfagg: a is a {origin} {type(a).__name__}, not taken by this version; want {wanted}"
            )
    array = plain_array("a", a, "want numbers")
    if format_of(array.dtype) < 0:
        raise TypeError(
            f"nbfagg: a of shape {array.shape} has dtype {array.dtype}; "
            "want float16, bfloat16, float32, float64, an integer or a boolean"
        )
    if array.ndim == 0:
        raise ValueError("nbfagg: a is a scalar; want an array of rank 1 or more")
    return array


def plain_array(name: str, value: Any, wanted: str) -> npt.NDArray[Any]:
    """Give what makes an array as one of NumPy's own class: what others say of themselves need not be so."""
    if type(value) is np.ndarray:
        return value
    kind = type(value).__name__
    try:
        # Of any class at first, which tells whether there is a mask; also what only __array__ gives.
        array = _from_dlpack(value) if _only_dlpack(value) else np.asanyarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"nbfagg: {name} is a {kind} that makes no array ({error}); {wanted}") from None
    if isinstance(array, np.ma.MaskedArray):
        hint = "a.data, and where=~np.ma.getmaskarray(a) to leave out the rest" if name == "a" else wanted[5:]
        raise TypeError(f"nbfagg: {name} is a masked array, whose mask would be lost; want {hint}")
    if isinstance(array, np.matrix):
        raise TypeError(f"nbfagg: {name} is a numpy.matrix; want an array, as np.asarray({name}) gives it")
    return np.asarray(array)


def _from_dlpack(value: Any) -> npt.NDArray[Any]:
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError) as error:  # as NumPy says that it lies on another device
        raise ValueError(str(error)) from None


def _only_dlpack(value: Any) -> bool:
    """Say whether a value can be had by DLPack and in no way that NumPy knows better."""
    kind = type(value)
    return hasattr(kind, "__dlpack__") and not (
        hasattr(kind, "__array__") or hasattr(kind, "__array_interface__") or isinstance(value, np.generic)
    )


def _axes(name: str, axes: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Give axes as a tuple of non-negative ints."""
    wanted = f"want an int or a tuple of different ints from {-len(shape)} to {len(shape) - 1}"
    if len(shape) == 1:
        wanted += "; batch_axis=(), keep_axis=0 takes a as one row"
    result = []
    for axis in axes if isinstance(axes, tuple) else (axes,):
        try:
            index = operator.index(axis)
        except TypeError:
            raise TypeError(f"nbfagg: {name}={axes!r} for a of shape {shape}; {wanted}") from None
        if not -len(shape) <= index < len(shape):
            raise ValueError(f"nbfagg: {name}={axes!r} is out of range for a of shape {shape}; {wanted}")
        result.append(index % len(shape))
    if len(set(result)) < len(result):
        raise ValueError(f"nbfagg: {name}={axes!r} repeats an axis of a of shape {shape}; {wanted}")
    return tuple(result)


def as_axes(
    shape: tuple[int, ...], batch_axis: Any, keep_axis: Any, limited: bool
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give batch and kept axes, non-negative and sorted; `limited` says that there are lengths."""
    batch = _axes("batch_axis", batch_axis, shape)
    keep = _axes("keep_axis", keep_axis, shape)
    if set(batch) & set(keep):
        raise ValueError(
            f"nbfagg: batch_axis={batch_axis!r} and keep_axis={keep_axis!r} share an axis; "
            f"a has shape {shape}, want each axis in one of them at most"
        )
    if limited and (len(batch) != 1 or len(keep) != 1):
        raise ValueError(
            f"nbfagg: lengths with batch_axis={batch_axis!r} and keep_axis={keep_axis!r}, a has shape {shape}"
            "; want one batch axis and one kept axis, or a mask (where) instead"
        )
    return tuple(sorted(batch)), tuple(sorted(keep))


@functools.lru_cache(maxsize=512, typed=True)
def plan_for(
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    dtype: np.dtype[Any],
    aligned: bool,
    batch_axis: Any,
    keep_axis: Any,
    log: bool,
    widened: bool,
    mask: tuple[int, ...] | None = None,
    limited: bool = False,
    out: tuple[int, ...] | None = None,
) -> Plan:
    """Check the axes and plan the walk."""
    batch, keep = as_axes(shape, batch_axis, keep_axis, limited)
    return make_plan(shape, strides, dtype, aligned, batch, keep, log, widened, mask, limited, out)


def hashable_axes(name: str, axes: Any, shape: tuple[int, ...]) -> Any:
    """Give axes in a form that can be looked up: a list becomes a tuple."""
    if type(axes) is int:
        return axes
    axes = tuple(axes) if isinstance(axes, list) else axes
    if type(axes) is not tuple or any(type(axis) is not int for axis in axes):
        # What is an index besides, an array of rank 0 say, may have no hash, or change and keep it.
        return _axes(name, axes, shape)
    return axes


def as_scale(scale: Any, dtype: np.dtype[Any]) -> tuple[float, bool]:
    """Give scale as a float, and whether float32 logits need float64 arithmetic for it."""
    wanted = "want a positive finite number"
    given = scale
    if isinstance(scale, np.ndarray):
        if scale.ndim:
            raise TypeError(f"nbfagg: scale is an array of shape {scale.shape}; {wanted}")
        scale = scale[()]
    if isinstance(scale, bool | np.bool_) or not isinstance(scale, numbers.Real):
        raise TypeError(f"nbfagg: scale={given!r}, a {type(given).__name__}; {wanted}")
    try:
        value = float(scale)
    except OverflowError:
        value = math.inf
    if not 0.0 < value < math.inf:
        raise ValueError(f"nbfagg: scale={given!r}; {wanted}")
    if not SCALES_F64[0] <= value <= SCALES_F64[1]:
        raise ValueError(f"nbfagg: scale={given!r}; want one from 2**-900 to 2**900")
    narrow = dtype.kind not in "iub" and dtype.itemsize <= 4
    return value, narrow and not SCALES_F32[0] <= value <= SCALES_F32[1]


def as_flag(name: str, value: Any) -> bool:
    """Give a flag as a bool."""
    if type(value) is bool:
        return value
    if isinstance(value, np.bool_ | int):
        return bool(value)
    raise TypeError(f"nbfagg: {name} is a {type(value).__name__}; want True or False")


def as_dtypes(dtypes: Any) -> list[np.dtype[Any]]:
    """Give the dtypes that kernels are to be made ready for."""
    names = dtypes if isinstance(dtypes, tuple | list) else [dtypes]
    found: list[np.dtype[Any]] = []
    for name in names:
        try:
            dtype: np.dtype[Any] = np.dtype(name)
        except TypeError:
            dtype = np.dtype(object)
        if format_of(dtype) < 0:
            raise TypeError(f"warmup: dtypes={dtypes!r}; want names of dtypes that fagg takes, as float32")
        found.append(dtype)
    return found


def as_workers(workers: Any) -> int | None:
    """Give the number of threads asked for; negative ones count from the CPUs, as in scipy.fft."""
    if workers is None:
        return None
    try:
        count = operator.index(workers)
    except TypeError:
        raise TypeError(f"nbfagg: workers={workers!r}; want None or an int other than 0") from None
    if count > 0:
        return count
    # Asking takes 15 us.
    cpus = os.cpu_count() or 1
    count += 1 + cpus
    if not 0 < count <= cpus:
        raise ValueError(f"nbfagg: workers={workers!r}; want None, 1 or more, or -{cpus} to -1")
    return count


def as_mask(where: Any, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    """Give a mask as a view of the shape of the logits."""
    wanted = f"want booleans that broadcast to a of shape {shape}, True to include"
    mask = plain_array("where", where, wanted)
    if mask.dtype != np.bool_:
        raise TypeError(f"nbfagg: where has dtype {mask.dtype}; {wanted}")
    try:
        return np.broadcast_to(mask, shape)
    except ValueError:
        hint = " (an axis of size 1 for each that it does not tell apart)" if mask.ndim < len(shape) else ""
        raise ValueError(f"nbfagg: where has shape {mask.shape}; {wanted}{hint}") from None


def as_lengths(
    lengths: Any, shape: tuple[int, ...], batch_axis: Any, keep_axis: Any
) -> npt.NDArray[np.int64]:
    """Give the lengths of the rows as int64 in one piece."""
    batch, keep = _axes("batch_axis", batch_axis, shape), _axes("keep_axis", keep_axis, shape)
    given = plain_array("lengths", lengths, "want integers")
    if given.dtype.kind not in "iu" and given.size:
        raise TypeError(f"nbfagg: lengths has dtype {given.dtype}; want integers")
    if len(batch) == len(keep) == 1:
        rows, tokens = shape[batch[0]], shape[keep[0]]
        if given.shape != (rows,):
            raise ValueError(
                f"nbfagg: lengths has shape {given.shape}; want ({rows},), one for each batch row of a of "
                f"shape {shape}"
            )
        if rows and (given.min() < 0 or given.max() > tokens):
            raise ValueError(
                f"nbfagg: lengths from {given.min()} to {given.max()}; want 0 to {tokens}, the size of "
                f"the kept axis of a of shape {shape}"
            )
    return np.ascontiguousarray(given, np.int64)


def lengths_here(lengths: npt.NDArray[np.int64], start: int, tokens: int) -> npt.NDArray[np.int64]:
    """Give how many of a chunk's tokens, those from `start` on, belong to each row."""
    return (lengths - start).clip(0, tokens)


def as_offsets(offsets: Any, shape: tuple[int, ...]) -> npt.NDArray[np.int64]:
    """Give the offsets of packed rows as int64 in one piece."""
    wanted = f"want (B + 1,) integers that rise from 0 to {shape[0]}, the tokens of a of shape {shape}"
    given = plain_array("offsets", offsets, wanted)
    if given.dtype.kind not in "iu":
        raise TypeError(f"nbfagg: offsets has dtype {given.dtype}; {wanted}")
    if given.ndim != 1 or given.size == 0:
        raise ValueError(f"nbfagg: offsets has shape {given.shape}; {wanted}")
    if given[0] != 0 or given[-1] != shape[0]:
        raise ValueError(f"nbfagg: offsets from {given[0]} to {given[-1]}; {wanted}")
    falls = np.flatnonzero(given[1:] < given[:-1])
    if falls.size:
        row = int(falls[0])
        raise ValueError(f"nbfagg: offsets[{row + 1}]={given[row + 1]} after {given[row]}; {wanted}")
    return np.ascontiguousarray(given, np.int64)


def check_out(out: Any, a: npt.NDArray[Any], plan: Plan, **others: Any) -> None:
    """Refuse an `out` that cannot take the result, or shares memory with what else is given."""
    out = _plain_place(out, plan.shape, plan.dtype, a)
    _check_apart(out, a=a, **others)


def _check_apart(out: npt.NDArray[Any], **others: Any) -> None:
    for name, other in others.items():
        if isinstance(other, np.ndarray) and _overlap(out, other):
            raise ValueError(
                f"nbfagg: out of shape {out.shape} shares memory with {name}; want memory of its own"
            )


def check_packed_out(out: Any, a: npt.NDArray[Any], plan: Plan, **others: Any) -> None:
    """Refuse an `out` that cannot take the result of packed rows."""
    out = _plain_place(out, (len(a),), plan.dtype, a)
    _check_apart(out, a=a, **others)


def check_gradient_out(out: Any, a: npt.NDArray[Any], dtype: np.dtype[Any], **others: Any) -> None:
    """Refuse an `out` that cannot take the gradient; it may be `a` itself."""
    out = _plain_place(out, a.shape, dtype, a)
    itself = out.ctypes.data == a.ctypes.data and out.strides == a.strides and out.dtype == a.dtype
    if not itself and _overlap(out, a):
        raise ValueError(
            f"nbfagg: out of shape {out.shape} shares memory with a otherwise than element by element; want "
            "a itself, or memory of its own"
        )
    _check_apart(out, **others)


def _plain_place(
    out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], a: npt.NDArray[Any]
) -> npt.NDArray[Any]:
    """Give `out` as an array of NumPy's own class; refuse what cannot take the result."""
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"nbfagg: out is a {type(out).__name__}; want a NumPy array")
    out = np.asarray(out)
    if out.shape != shape or out.dtype != dtype:
        wanted = f"want shape {shape} and dtype {dtype} for a of shape {a.shape}"
        if out.shape != shape:
            raise ValueError(f"nbfagg: out has shape {out.shape}; {wanted}")
        raise TypeError(f"nbfagg: out has dtype {out.dtype}; {wanted}")
    if not out.flags.writeable:
        raise ValueError(f"nbfagg: out of shape {out.shape} is not writeable; want an array that is")
    # Sufficient for places of one's own: each axis steps over all that the shorter steps cover.
    covered = out.itemsize
    for stride, size in sorted(
        (abs(stride), size) for stride, size in zip(out.strides, out.shape, strict=True) if size > 1
    ):
        if out.size and stride < covered:
            raise ValueError(
                f"nbfagg: out of shape {out.shape} repeats its own elements (strides {out.strides}); want "
                "one place for each"
            )
        covered += (size - 1) * stride
    return out  # type: ignore[no-any-return]


def as_weights(alpha: Any, log: bool, shape: tuple[int, ...], a: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Give alpha, or its logarithm, as it came with the logits."""
    given = as_given("alpha", alpha, shape, a)
    if not log and (given < 0).any():
        raise ValueError("nbfagg: alpha holds negative numbers; want weights, or log=True")
    return given


def as_given(name: str, value: Any, shape: tuple[int, ...], a: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Give what came with the logits of a result's shape: a gradient, alpha, lse."""
    given = plain_array(name, value, "want floating-point numbers")
    if format_of(given.dtype) < 0:
        raise TypeError(f"nbfagg: {name} has dtype {given.dtype}; want floating-point numbers")
    if given.shape != shape:
        raise ValueError(f"nbfagg: {name} has shape {given.shape}; want {shape} for a of shape {a.shape}")
    if given.dtype == BRAIN:
        # NumPy would take its bits for a number.
        return (given.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    return given


def as_pair(grad: Any, pair: bool) -> tuple[Any, Any]:
    """Give the gradient of alpha, and that of lse or None, as they came."""
    if not pair:
        return grad, None
    if not isinstance(grad, tuple | list) or len(grad) != 2:
        raise TypeError("nbfagg: grad with return_lse=True; want a pair, of alpha and of lse")
    return grad[0], grad[1]


def as_gradients(
    grad: Any, pair: bool, shape: tuple[int, ...], batch_shape: tuple[int, ...], a: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Give the gradient of alpha, and that of lse if `grad` is a pair."""
    grad, of_lse = as_pair(grad, pair)
    if pair:
        of_lse = as_given("grad of lse", of_lse, batch_shape, a)
    elif isinstance(grad, tuple) and len(grad) == 2 and np.shape(grad[0]) == shape != np.shape(grad[1]):
        raise TypeError("nbfagg: grad is a pair; want that of alpha alone, or return_lse=True")
    return as_given("grad", grad, shape, a), of_lse


def _overlap(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> bool:
    if not np.may_share_memory(x, y):
        return False
    try:
        return bool(np.shares_memory(x, y, max_work=100_000))  # type: ignore[arg-type]  # NumPy's stubs know -1 and 0 only
    except (np.exceptions.TooHardError, OverflowError):
        return True
