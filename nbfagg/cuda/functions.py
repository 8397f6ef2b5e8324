"""`nbfagg.fagg` and its kin for arrays on a GPU: checked, planned, queued on the caller's stream."""

from __future__ import annotations

import functools
import sys
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from nbfagg import inputs
from nbfagg.cuda import launch, plan, states
from nbfagg.cuda.arrays import (
    LIBRARIES,
    DeviceArray,
    View,
    empty_like,
    in_one_piece,
    turned,
    view_of,
)
from nbfagg.cuda.kinds import Kind, kind_of
from nbfagg.cuda.plan import Plan
from nbfagg.plan.axes import c_strides
from nbfagg.state import State

_KNOWN = "float16, bfloat16, float32, float64, an integer or a boolean"


@functools.lru_cache(maxsize=512, typed=True)
def _plan_for(
    storage: str, widened: bool, shape: tuple[int, ...], strides: tuple[int, ...], aligned: bool,
    batch_axis: Any, keep_axis: Any, log: bool, mask: tuple[int, ...] | None, limited: bool,
    out: tuple[int, ...] | None, states: bool = False,
) -> Plan:  # fmt: skip
    """Check the axes and plan the walk."""
    batch, keep = inputs.as_axes(shape, batch_axis, keep_axis, limited)
    kind = _kind(storage, widened, strides)
    return plan.make_plan(
        kind, shape, strides, aligned, batch, keep, log, mask, limited, out=out, states=states
    )


def _kind(storage: str, widened: bool, strides: tuple[int, ...]) -> Kind:
    # A boolean is a byte of 0 or 1.
    kind = kind_of("u1" if storage == "b1" else storage, widened)
    if any(stride % kind.item for stride in strides):
        raise ValueError(f"nbfagg: a has strides {strides}; want multiples of its {kind.item} bytes")
    return kind


def _checked(a: View, scale: Any) -> tuple[float, bool]:
    """Check logits and scale; say whether float64 arithmetic is wanted."""
    if not a.shape:
        raise ValueError("nbfagg: a is a scalar; want an array of rank 1 or more")
    if type(scale) is float and scale == 1.0:
        return scale, False
    floating = a.storage[0] == "f" or a.storage == "b2"
    return inputs.as_scale(scale, np.dtype(f"f{a.storage[1]}" if floating else "i8"))


def _beside(name: str, given: Any, a: View) -> View:
    """Read another array, that has to be on the same GPU."""
    found = view_of(name, given)
    if found.device != a.device:
        raise ValueError(f"nbfagg: {name} is on GPU {found.device}, a on GPU {a.device}; want the same")
    return found


def _mask(where: Any, a: View) -> tuple[int, tuple[int, ...]]:
    """Give a mask's address and its strides for the shape of the logits."""
    mask = _beside("where", where, a)
    wanted = f"want booleans that broadcast to a of shape {a.shape}, True to include"
    if mask.storage != "b1":
        raise TypeError(f"nbfagg: where has numbers {mask.storage}; {wanted}")
    extra = len(a.shape) - len(mask.shape)
    strides = [0] * len(a.shape)
    for i, (size, stride) in enumerate(zip(mask.shape, mask.strides, strict=True)):
        if extra < 0 or size not in (1, a.shape[extra + i]):
            raise ValueError(f"nbfagg: where has shape {mask.shape}; {wanted}")
        strides[extra + i] = stride if size > 1 else 0
    return mask.address, tuple(strides)


def _integers(name: str, given: Any, a: View, shape: tuple[int | None]) -> View:
    """Read lengths or offsets. Their values are not looked at: that would wait for the GPU."""
    found = _beside(name, given, a)
    size = "B" if shape[0] is None else shape[0]
    wanted = f"want int64 of shape ({size},) in one piece, for a of shape {a.shape}"
    if found.storage != "i8" or not found.contiguous:
        raise TypeError(f"nbfagg: {name} has numbers {found.storage}, strides {found.strides}; {wanted}")
    if len(found.shape) != 1 or (shape[0] is not None and found.shape != shape):
        raise ValueError(f"nbfagg: {name} has shape {found.shape}; {wanted}")
    return found


def _result(
    out: Any, like: Any, shape: tuple[int, ...], storage: str, a: View, name: str = "out"
) -> View | None:
    """Check an `out` that is written in one piece."""
    if out is None:
        return None
    found = _beside(name, out, a)
    if found.shape != shape or found.storage != storage or not found.writeable:
        # Put together where it is needed: it takes as long as a fifth of a launch.
        wanted = f"want shape {shape} and numbers {storage} in one piece, for a of shape {a.shape}"
        if found.shape != shape:
            raise ValueError(f"nbfagg: {name} has shape {found.shape}; {wanted}")
        if found.storage != storage:
            raise TypeError(f"nbfagg: {name} has numbers {found.storage}; {wanted}")
        raise ValueError(f"nbfagg: {name} of shape {shape} is not writeable; want an array that is")
    _apart(name, found, a)
    return found


def _apart(name: str, found: View, a: View) -> None:
    """Refuse a place for results that shares memory with the logits."""
    first, last = found.span()
    begin, end = a.span()
    if first < end and begin < last:
        raise ValueError(
            f"nbfagg: {name} of shape {found.shape} shares memory with a; want memory of its own"
        )


def lse_storage(storage: str, scale: float) -> str:
    """Give the numbers of a log-sum-exp, and of a gradient with respect to it: those of the arithmetic."""
    floating = storage[0] == "f" or storage == "b2"
    widened = inputs.as_scale(scale, np.dtype(f"f{storage[1]}" if floating else "i8"))[1]
    return _lse_storage(_kind(storage, widened, ()))


def _lse_storage(kind: Kind) -> str:
    return "f8" if kind.wide else "f4"


def fagg(
    a: Any,
    *,
    batch_axis: Any = 0,
    keep_axis: Any = 1,
    where: Any = None,
    lengths: Any = None,
    scale: float = 1.0,
    log: bool = False,
    return_lse: bool = False,
    out: Any = None,
    workers: int | None = None,
) -> Any:
    """Aggregate logits on a GPU, see `nbfagg.fagg`; `workers` has no meaning there."""
    view = view_of("a", a)
    scale, widened = _checked(view, scale)
    if type(batch_axis) is not int or type(keep_axis) is not int:
        batch_axis = inputs.hashable_axes("batch_axis", batch_axis, view.shape)
        keep_axis = inputs.hashable_axes("keep_axis", keep_axis, view.shape)
    log, return_lse = inputs.as_flag("log", log), inputs.as_flag("return_lse", return_lse)
    addresses = {"a": view.address}
    mask = None
    if where is not None:
        addresses["mask"], mask = _mask(where, view)
    found = _plan_for(
        view.storage, widened, view.shape, view.strides, view.address % 16 == 0, batch_axis, keep_axis, log,
        mask, lengths is not None, None,
    )  # fmt: skip
    if lengths is not None:
        addresses["limits"] = _integers("lengths", lengths, view, (found.rows,)).address
    # Kernels write (batch axes, kept axes) in one piece.
    place = _result(out, a, found.shape, found.kind.result, view)
    if place is not None:
        if not place.lies_by(found.strides):
            raise ValueError(
                f"nbfagg: out has strides {place.strides}; want "
                f"{found.strides}, batch axes and then kept ones in one piece in memory"
            )
        alpha, addresses["alpha"] = out, place.address
    else:
        alpha, addresses["alpha"] = empty_like(a, found.sizes, found.kind.result, view)
        if found.turned:
            alpha = turned(alpha, found.layout)
    lse = None
    if return_lse:
        lse, addresses["lse"] = empty_like(a, found.batch_shape, _lse_storage(found.kind), view)
    _queue(a, found, view, scale, addresses, return_lse)
    return (alpha, lse) if return_lse else alpha


def _queue(a: Any, found: Plan, view: View, scale: float, addresses: dict[str, int], lse: bool) -> None:
    """Queue a plan's launches on the caller's stream."""
    library = LIBRARIES.get(type(a))
    kept = None
    if library is not None:
        own, kept = library.spaces(a, found)
        addresses |= own
    launch.run(found, view.device, view.stream, scale, addresses, lse)
    del kept


def fagg_packed(
    a: Any,
    offsets: Any,
    *,
    scale: float = 1.0,
    log: bool = False,
    return_lse: bool = False,
    out: Any = None,
    workers: int | None = None,
) -> Any:
    """Aggregate packed rows on a GPU, see `nbfagg.fagg_packed`. The offsets' values are not checked."""
    view = view_of("a", a)
    scale, widened = _checked(view, scale)
    log, return_lse = inputs.as_flag("log", log), inputs.as_flag("return_lse", return_lse)
    bounds = _integers("offsets", offsets, view, (None,))
    found = _packed_plan(view, widened, log, bounds, None, view.address % 16 == 0)
    addresses = {"a": view.address, "limits": bounds.address}
    place = _result(out, a, view.shape[:1], found.kind.result, view)
    if place is not None and not place.contiguous:
        raise ValueError(f"nbfagg: out has strides {place.strides}; want it in one piece")
    alpha, addresses["alpha"] = (
        empty_like(a, view.shape[:1], found.kind.result, view) if place is None else (out, place.address)
    )
    lse = None
    if return_lse:
        rows = (bounds.shape[0] - 1,)
        lse, addresses["lse"] = empty_like(a, rows, _lse_storage(found.kind), view)
    _queue(a, found, view, scale, addresses, return_lse)
    return (alpha, lse) if return_lse else alpha


def _packed_plan(
    a: View, widened: bool, log: bool, bounds: View, out: tuple[int, ...] | None, aligned: bool
) -> Plan:
    if bounds.shape[0] < 1:
        raise ValueError(f"nbfagg: offsets has shape {bounds.shape}; want (B + 1,)")
    kind = _kind(a.storage, widened, a.strides)
    return plan.make_plan(
        kind, a.shape, a.strides, aligned, (), (0,), log, None, False, bounds.shape[0] - 1, out
    )


def _given(name: str, value: Any, shape: tuple[int, ...], storage: str, a: View) -> int:
    """Give the address of what came with the logits of a result's shape."""
    found = _beside(name, value, a)
    wanted = f"want shape {shape} and numbers {storage} in one piece, for a of shape {a.shape}"
    if found.shape != shape:
        raise ValueError(f"nbfagg: {name} has shape {found.shape}; {wanted}")
    if found.storage != storage or not found.contiguous:
        raise TypeError(f"nbfagg: {name} has numbers {found.storage}, strides {found.strides}; {wanted}")
    return found.address


def _gradients(
    grad: Any, pair: bool, shape: tuple[int, ...], batch_shape: tuple[int, ...], kind: Kind, a: View
) -> dict[str, int]:
    """Give the addresses of the gradients of alpha and, if it is a pair, of lse."""
    grad, of_lse = inputs.as_pair(grad, pair)
    addresses = {"grad": _given("grad", grad, shape, kind.result, a)}
    if pair:
        addresses["grad_lse"] = _given("grad of lse", of_lse, batch_shape, _lse_storage(kind), a)
    return addresses


def fagg_vjp(
    grad: Any,
    a: Any,
    alpha: Any,
    lse: Any,
    *,
    batch_axis: Any = 0,
    keep_axis: Any = 1,
    where: Any = None,
    lengths: Any = None,
    scale: float = 1.0,
    log: bool = False,
    return_lse: bool = False,
    out: Any = None,
    workers: int | None = None,
) -> Any:
    """Give the gradient on a GPU, see `nbfagg.fagg_vjp`; grad and alpha have the result's type, in one piece.

    The gradient of lse has the type of lse, which itself is not looked at.
    """
    view = view_of("a", a)
    scale, widened = _checked(view, scale)
    batch_axis = inputs.hashable_axes("batch_axis", batch_axis, view.shape)
    keep_axis = inputs.hashable_axes("keep_axis", keep_axis, view.shape)
    log, pair = inputs.as_flag("log", log), inputs.as_flag("return_lse", return_lse)
    storage = _kind(view.storage, widened, view.strides).result
    addresses = {"a": view.address}
    mask = None
    if where is not None:
        addresses["mask"], mask = _mask(where, view)
    result, place = _place_of_gradient(a, view, out, storage)
    found = _plan_for(
        view.storage, widened, view.shape, view.strides, view.address % 16 == 0 and place.address % 16 == 0,
        batch_axis, keep_axis, log, mask, lengths is not None, place.strides,
    )  # fmt: skip
    if lengths is not None:
        addresses["limits"] = _integers("lengths", lengths, view, (found.rows,)).address
    if found.turned:
        # Kernels read (batch axes, kept axes): a copy of what is of the result's size.
        inverse = tuple(sorted(range(len(found.layout)), key=found.layout.__getitem__))
        alpha = in_one_piece(turned(alpha, inverse))
        of_alpha = in_one_piece(turned(grad[0] if pair else grad, inverse))
        grad = (of_alpha, grad[1]) if pair else of_alpha
    addresses |= _gradients(grad, pair, found.sizes, found.batch_shape, found.kind, view)
    addresses |= {"alpha": _given("alpha", alpha, found.sizes, storage, view), "out": place.address}
    _queue(a, found, view, scale, addresses, pair)
    return result


def _place_of_gradient(a: Any, view: View, out: Any, storage: str) -> tuple[Any, View]:
    """Give the array that a gradient is written to, and where it lies; it may be `a` itself."""
    if out is None:
        made, address = empty_like(a, view.shape, storage, view)
        strides = c_strides(view.shape, int(storage[1]))
        return made, View(address, view.shape, strides, storage, True, view.device, view.stream)
    found = _beside("out", out, view)
    wanted = f"want shape {view.shape} and numbers {storage}"
    if found.shape != view.shape or found.storage != storage or not found.writeable:
        raise ValueError(
            f"nbfagg: out has shape {found.shape} and numbers {found.storage}; {wanted}, writeable"
        )
    if found[:4] != view[:4]:
        _apart("out", found, view)
    return out, found


def fagg_packed_vjp(
    grad: Any,
    a: Any,
    offsets: Any,
    alpha: Any,
    lse: Any,
    *,
    scale: float = 1.0,
    log: bool = False,
    return_lse: bool = False,
    out: Any = None,
    workers: int | None = None,
) -> Any:
    """Give the gradient of packed rows on a GPU, see `nbfagg.fagg_packed_vjp` and `fagg_vjp` here."""
    view = view_of("a", a)
    scale, widened = _checked(view, scale)
    log, pair = inputs.as_flag("log", log), inputs.as_flag("return_lse", return_lse)
    bounds = _integers("offsets", offsets, view, (None,))
    storage = _kind(view.storage, widened, view.strides).result
    result, place = _place_of_gradient(a, view, out, storage)
    aligned = view.address % 16 == 0 and place.address % 16 == 0
    found = _packed_plan(view, widened, log, bounds, place.strides, aligned)
    rows = (bounds.shape[0] - 1,)
    addresses = {"a": view.address, "limits": bounds.address, "out": place.address}
    addresses |= _gradients(grad, pair, view.shape[:1], rows, found.kind, view)
    addresses["alpha"] = _given("alpha", alpha, view.shape[:1], storage, view)
    _queue(a, found, view, scale, addresses, pair)
    return result


def state_of(
    a: Any,
    *,
    batch_axis: Any = 0,
    keep_axis: Any = 1,
    where: Any = None,
    lengths: Any = None,
    scale: float = 1.0,
    workers: int | None = None,
) -> State:
    """Take in a chunk of a CuPy array's logits, see `nbfagg.State.of`.

    Cells are kept on the host: this waits for the stream. What `finalize` gives is CuPy's again.
    """
    cupy = sys.modules.get("cupy")
    if cupy is None or not isinstance(a, cupy.ndarray):
        raise NotImplementedError(
            f"nbfagg: a is a {type(a).__name__} on a GPU, where State.of takes CuPy's arrays; want one of "
            "those, fagg of all logits, or a copy on the host"
        )
    view = view_of("a", a)
    scale, widened = _checked(view, scale)
    batch_axis = inputs.hashable_axes("batch_axis", batch_axis, view.shape)
    keep_axis = inputs.hashable_axes("keep_axis", keep_axis, view.shape)
    inputs.as_workers(workers)
    addresses = {"a": view.address}
    mask = None
    if where is not None:
        addresses["mask"], mask = _mask(where, view)
    found = _plan_for(
        view.storage, widened, view.shape, view.strides, view.address % 16 == 0, batch_axis, keep_axis, False,
        mask, lengths is not None, None, True,
    )  # fmt: skip
    if lengths is not None:
        addresses["limits"] = _integers("lengths", lengths, view, (found.rows,)).address
    # Its own, for another call may use the stream's workspace before this one is read.
    work = DeviceArray((found.space,), "f8" if found.kind.wide else "f4", view.device, view.stream)
    addresses["work"] = work.view.address
    launch.run(found, view.device, view.stream, scale, addresses, False)
    cells = states.cells_of(found, scale, work.to_host())
    batch = tuple(found.layout.index(i) for i in range(len(found.batch_shape)))
    cells = cells.reshape(*found.sizes, 3).transpose(*found.layout, len(found.layout))
    kind, dtype = np.dtype(found.kind.real), np.dtype(found.kind.result)
    return State(np.ascontiguousarray(cells), batch, dtype, kind, scale, "cupy")


def to_tensor(array: npt.NDArray[Any]) -> Any:
    """Copy an array to the current GPU, as CuPy's."""
    return import_module("cupy").asarray(array)
