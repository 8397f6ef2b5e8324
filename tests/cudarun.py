"""fagg and its kin on the simulated GPU: plans and kernels as on a real one, arrays of NumPy for its memory.

An array lies in the middle of a larger one, of which what is around it must not change.
"""

import math

import cudasim
import numpy as np

from nbfagg import inputs
from nbfagg.cuda import geometry, kernels
from nbfagg.cuda import plan as plans
from nbfagg.cuda.kinds import kind_of
from nbfagg.cuda.law import law_for

# So small that arrays of a few hundred numbers go every way.
TINY = plans.Limits(
    block=64, whole_row=600, shared=5120, block_terms=200, chunk=100, row_cells=16, row_blocks=4,
    block_cells=64, group=9700, groups=3, last_tokens=20, last_cells=64, piece=16, share=5,
    blocks=3, list_blocks=3,
)  # fmt: skip


class Order:
    """Which way threads run: tests set it."""

    now = 1


def storage_of(a):
    """Give the name of an array's numbers; those of bfloat16 come as uint16."""
    return "b2" if a.dtype == np.uint16 else f"{'u' if a.dtype.kind == 'b' else a.dtype.kind}{a.itemsize}"


def _flat(a):
    """Give all the memory that an array is a view of, and where in it the array begins."""
    whole = a
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
    assert whole.flags.c_contiguous
    flat = whole.reshape(-1).view(a.dtype)
    begin, rest = divmod(a.ctypes.data - flat.ctypes.data, a.itemsize)
    assert rest == 0
    return flat.view(np.uint16) if a.dtype == np.float16 else flat, begin


def lay(values, order=None, gap=0, offset=0):
    """Give a copy whose axes lie in memory in this order, with so many numbers between the innermost ones'
    rows."""
    order = tuple(range(values.ndim)) if order is None else order
    turned = values.transpose(order)
    *outer, inner = turned.shape
    shape = (*outer, inner + gap)
    count = math.prod(shape)
    item = values.itemsize
    raw = np.full(count + 64 + 16, np.nan if values.dtype.kind == "f" else 0x7FC0 % 251, values.dtype)
    start = (-raw.ctypes.data % 16) // item + offset
    memory = raw[start : start + count].reshape(shape)
    memory[..., :inner] = turned
    return memory[..., :inner].transpose(np.argsort(order))


def _aligned(a):
    return a.ctypes.data % 16 == 0


def _filled(shape, storage, fill=7):
    return np.full(shape, fill, cudasim.NUMPY[storage])


def run(plan, law, arrays, changes, kept=None):
    """Run a plan's steps; `arrays` are the kernels' arguments by name, `changes` what the geometry gets.

    `kept` gets them all.
    """
    geo = list(plan.geometry)
    for name, value in changes.items():
        geo[getattr(geometry, name)] += value
    real = plan.kind.real
    given = {
        "law": tuple(map(real, law)),
        "work": np.full(plan.space, 1.2345e30, real),
        "tickets": np.zeros(max(1, plan.rows), np.int32),
        "listed": np.full(plan.listed, -12345, np.int32),
        "limits": np.zeros(1, np.int64),
        "mask": np.zeros(1, np.uint8),
        "lse": np.zeros(1, real),
        "grad_lse": np.zeros(1, real),
    } | arrays
    given["listed"][:1] = 0
    if kept is not None:
        kept |= given
    primitives = cudasim.make(plan.kind)
    for step in plan.steps:
        geo[geometry.FIRST] = step.first
        given["geo"] = tuple(map(int, geo))
        name, arguments = kernels.KERNELS[step.kernel]
        kernel = name(primitives, plan.kind, plan.block)
        cudasim.launch(kernel, step.grid, plan.block, step.room, [given[n] for n in arguments], Order.now)
    # Ready for the next call.
    assert not given["tickets"].any()


def plan_for(
    a, batch_axis=0, keep_axis=1, where=None, lengths=None, scale=1.0, log=False, limits=TINY, out=None
):
    """Give the plan, and the mask as it is read."""
    storage = storage_of(a)
    batch, keep = inputs.as_axes(a.shape, batch_axis, keep_axis, lengths is not None)
    wide = inputs.as_scale(scale, np.dtype(f"f{a.itemsize}") if storage[0] in "fb" else a.dtype)[1]
    kind = kind_of(storage, wide)
    mask = None if where is None else np.broadcast_to(where, a.shape)
    plan = plans.make_plan(
        kind, a.shape, a.strides, _aligned(a) and (out is None or _aligned(out)), batch, keep, log,
        None if mask is None else mask.strides, lengths is not None,
        out=None if out is None else out.strides, limits=limits,
    )  # fmt: skip
    return plan, mask


def _arrays(a, mask, lengths):
    flat, begin = _flat(a)
    arrays, changes = {"a": flat}, {"BEGIN": begin}
    if mask is not None:
        arrays["mask"], changes["MASK_BEGIN"] = _flat(mask.view(np.uint8))
    if lengths is not None:
        arrays["limits"] = np.asarray(lengths)
    return arrays, changes


def fagg(a, *, return_lse=False, **options):
    """Give what nbfagg.fagg would, in the numbers of the result as they lie in memory."""
    plan, mask = plan_for(a, **options)
    before = _flat(a)[0].copy()
    result = plan.kind.result
    alpha, lse = _filled((plan.rows, plan.tokens), result), np.full(plan.rows, 7, plan.kind.real)
    arrays, changes = _arrays(a, mask, options.get("lengths"))
    arrays |= {"alpha": alpha.reshape(-1), "lse": lse}
    law = law_for(options.get("scale", 1.0), plan.kind)
    run(plan, law, arrays, changes | {"WANT_LSE": int(return_lse)})
    np.testing.assert_array_equal(before, _flat(a)[0])
    sizes = [plan.shape[i] for i in np.argsort(plan.layout)]
    alpha = cudasim.restored(alpha, result).reshape(sizes).transpose(plan.layout)
    lse = lse.reshape(plan.batch_shape)
    return (alpha, lse) if return_lse else alpha


def fagg_vjp(grad, a, alpha, *, grad_lse=None, out=None, **options):
    """Give the gradient; grad and alpha come in the result's numbers, shaped as it is."""
    storage = storage_of(a)
    result = kind_of(storage).result
    if out is None:
        out = lay(_filled(a.shape, result))
    plan, mask = plan_for(a, out=out, **options)
    back = np.argsort(plan.layout)
    flat, begin = _flat(out)
    arrays, changes = _arrays(a, mask, options.get("lengths"))
    arrays |= {
        "out": flat,
        "grad": np.ascontiguousarray(np.asarray(grad).transpose(back)).reshape(-1),
        "alpha": np.ascontiguousarray(np.asarray(alpha).transpose(back)).reshape(-1),
    }
    changes |= {"OUT_BEGIN": begin, "OF_LSE": int(grad_lse is not None)}
    if grad_lse is not None:
        arrays["grad_lse"] = np.asarray(
            cudasim.restored(np.asarray(grad_lse), result), plan.kind.real
        ).reshape(-1)
    run(plan, law_for(options.get("scale", 1.0), plan.kind), arrays, changes)
    return cudasim.restored(np.ascontiguousarray(out), result)


def fagg_packed(
    a, offsets, *, scale=1.0, log=False, limits=TINY, grad=None, alpha=None, grad_lse=None, kept=None
):
    """Give alpha and lse of packed rows; or, with grad and alpha, the gradient."""
    kind = kind_of(storage_of(a), inputs.as_scale(scale, np.dtype(f"f{a.itemsize}"))[1])
    rows = len(offsets) - 1
    out = None if grad is None else lay(_filled(a.shape, kind.result))
    plan = plans.make_plan(
        kind, a.shape, a.strides, _aligned(a), (), (0,), log, packed_rows=rows,
        out=None if out is None else out.strides, limits=limits,
    )  # fmt: skip
    arrays, changes = _arrays(a, None, offsets)
    law = law_for(scale, kind)
    if grad is not None:
        flat, begin = _flat(out)
        arrays |= {"out": flat, "grad": grad, "alpha": alpha}
        if grad_lse is not None:
            arrays["grad_lse"] = np.asarray(grad_lse, kind.real)
        run(plan, law, arrays, changes | {"OUT_BEGIN": begin, "OF_LSE": int(grad_lse is not None)})
        return cudasim.restored(np.ascontiguousarray(out), kind.result)
    alpha, lse = _filled(len(a), kind.result), np.full(rows, 7, kind.real)
    run(plan, law, arrays | {"alpha": alpha, "lse": lse}, changes | {"WANT_LSE": 1}, kept)
    return cudasim.restored(alpha, kind.result), lse
