"""`nbfagg.fagg` and its gradient for Dask arrays: graphs of chunks, of states and of totals.

Where only batch axes are cut, each chunk is a call of its own. Else a chunk leaves a `State`; those of summed
axes are merged in a tree, and what comes of each chunk of the kept axes meets the others as one total a batch
row, merged in a second tree. No task holds more logits than the caller's chunks.
"""

from __future__ import annotations

import operator
from typing import Any

import dask.array as da
import numpy as np

from nbfagg import inputs
from nbfagg.dask import chunks, gradients
from nbfagg.dask.arrays import Call, checked, cut_like, meta_of


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
    out: None = None,
    workers: int | None = None,
    split_every: int | None = None,
) -> Any:
    """Aggregate a Dask array's logits, see `nbfagg.fagg`.

    Parameters
    ----------
    a : dask.array.Array
        Logits, cut along any axes.
    batch_axis, keep_axis, scale, log, return_lse
        As in `nbfagg.fagg`.
    where, lengths : array_like or dask.array.Array, optional
        As there. The values of a Dask array of lengths are looked at when it is computed.
    out : None
        Not taken.
    workers : int, optional
        Threads of a task; None for 1, as Dask runs a task on each of a worker's threads.
    split_every : int, optional
        How many states a task merges at most; Dask's setting of that name by default.

    Returns
    -------
    alpha : dask.array.Array
        Lazy, cut like the batch and kept axes of `a`.
    lse : dask.array.Array
        With `return_lse`: cut like the batch axes.

    Raises
    ------
    TypeError, ValueError
        As `nbfagg.fagg` does, before anything is computed; for chunks of unknown size; for an `out`.

    Examples
    --------
    >>> import dask.array as da
    >>> import nbfagg
    >>> a = da.random.default_rng(0).standard_normal((4, 100, 12, 64), chunks=(2, 25, 6, 64))
    >>> alpha = nbfagg.fagg(a)
    >>> alpha.shape, alpha.chunks
    ((4, 100), ((2, 2), (25, 25, 25, 25)))
    >>> bool(abs(alpha.sum(axis=1) - 1).max() < 1e-12)
    True
    """
    log, return_lse = inputs.as_flag("log", log), inputs.as_flag("return_lse", return_lse)
    call = checked(a, batch_axis, keep_axis, where, lengths, scale, out, workers)
    meta = meta_of(a, call.dtype, len(call.result))
    meta_lse = meta_of(a, call.lse_dtype, len(call.batch))
    if not call.is_cut(call.keep + call.summed):
        # One chunk of each axis that goes: Dask hands it on in a list, and copies nothing.
        found = da.blockwise(
            *(chunks.whole, call.result, *_included(call)),
            **call.options,
            log=log,
            return_lse=return_lse,
            align_arrays=False,
            dtype=call.dtype,
            meta=meta,
            token="fagg",
        )
        if not return_lse:
            return found
        alpha = _item(found, 0, call.result, call.result, meta)
        return alpha, _item(found, 1, call.result, call.batch, meta_lse)
    if call.is_cut(call.summed):
        tokens = _tokens(call, split_every, _states(call, axes_of(a)))
    else:
        # As above, in lists of one chunk: two tasks less for each than a tree with nothing to merge.
        tokens = _states(call, call.result)
    totals = _totals(call, tokens, split_every)
    alpha = da.blockwise(
        *(chunks.finish, call.result, tokens, call.result, totals, call.batch),
        log=log,
        align_arrays=False,
        dtype=call.dtype,
        meta=meta,
        token="fagg",
    )
    if not return_lse:
        return alpha
    lse = da.blockwise(
        *(chunks.lse_of, call.batch, totals, call.batch),
        dtype=call.lse_dtype,
        meta=meta_lse,
        token="fagg-lse",
    )
    return alpha, lse


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
    out: None = None,
    workers: int | None = None,
    split_every: int | None = None,
) -> Any:
    """Give the gradient by a Dask array's logits, see `nbfagg.fagg_vjp`.

    A row that is cut along the kept axis needs one number from its other chunks, the dot of `grad` and alpha,
    which takes no logits. Where summed axes are cut, the logits are read twice: for the states, which tell
    how much of a token a chunk holds, and for the gradient.

    Parameters
    ----------
    grad, alpha, lse : array_like or dask.array.Array
        As in `nbfagg.fagg_vjp`; with `return_lse`, `grad` is a pair. With `log`, alpha holds logarithms.
    a, batch_axis, keep_axis, where, lengths, scale, log, return_lse, out, workers, split_every
        As in `fagg`.

    Returns
    -------
    dask.array.Array
        Lazy, cut like `a`.

    Raises
    ------
    TypeError, ValueError
        As `fagg` and `nbfagg.fagg_vjp` do.
    """
    log, return_lse = inputs.as_flag("log", log), inputs.as_flag("return_lse", return_lse)
    call = checked(a, batch_axis, keep_axis, where, lengths, scale, out, workers)
    grad, of_lse = inputs.as_pair(grad, return_lse)
    of_lse = None if of_lse is None else cut_like("grad of lse", of_lse, a, call.batch)
    grad = cut_like("grad", grad, a, call.result)
    alpha = cut_like("alpha", alpha, a, call.result)
    lse = cut_like("lse", lse, a, call.batch)
    given = [grad, call.result, alpha, call.result, lse, call.batch, *with_axes(of_lse, call.batch)]
    meta = meta_of(a, call.dtype, a.ndim)
    keywords = {"align_arrays": False, "dtype": call.dtype, "meta": meta, "token": "fagg-vjp", "log": log}
    if not call.is_cut(call.keep + call.summed):
        return da.blockwise(
            *(gradients.whole, axes_of(a), *_included(call), *given),
            **call.options,
            kind=call.given,
            **keywords,
        )
    states = tokens = None
    if call.is_cut(call.summed):
        states = _states(call, axes_of(a))
        tokens = _tokens(call, split_every, states)
    dots = da.blockwise(
        *(gradients.dots, call.result, grad, call.result, alpha, call.result),
        log=log,
        batch_dims=tuple(call.result.index(axis) for axis in call.batch),
        adjust_chunks={axis: _one for axis in call.keep},
        align_arrays=False,
        dtype=float,
        meta=np.empty((0,) * len(call.result)),
        token="fagg-dot",
    )
    dots = reduced(dots, call.result, call.keep, split_every, chunks.added, "fagg-dots")
    return da.blockwise(
        *(gradients.part, axes_of(a), *_included(call), *given),
        *(*with_axes(_starts(call), call.keep), dots, call.batch),
        *(*with_axes(states, axes_of(a)), *with_axes(tokens, call.result)),
        **call.options,
        tokens_in_all=_tokens_in_all(call),
        kind=call.given,
        **keywords,
    )


def state_of(a: Any, **_: Any) -> Any:
    """Refuse: the state of a lazy array would have to be computed."""
    raise TypeError(
        f"State.of: a is a Dask array of shape {a.shape}; want one of its chunks (nbfagg.fagg merges their "
        "states)"
    )


def axes_of(a: Any) -> tuple[int, ...]:
    """Give all axes of an array."""
    return tuple(range(a.ndim))


def _one(_: Any) -> int:
    return 1


def with_axes(array: Any, axes: tuple[int, ...]) -> tuple[Any, Any]:
    """Give an array with its axes, which a missing one has not."""
    return array, None if array is None else axes


def _included(call: Call) -> tuple[Any, ...]:
    """Give the logits, mask and lengths, with their axes."""
    return (
        call.a,
        axes_of(call.a),
        *with_axes(call.where, call.mask_axes()),
        *with_axes(call.lengths, call.batch),
    )


def _tokens_in_all(call: Call) -> int:
    return int(call.a.shape[call.keep[0]]) if call.lengths is not None else 0


def _starts(call: Call) -> Any:
    """Give how many tokens come before each chunk of the kept axis, where there are lengths."""
    if call.lengths is None:
        return None
    sizes = call.a.chunks[call.keep[0]]
    starts = np.concatenate(([0], np.cumsum(sizes)[:-1])).astype(np.int64)
    return da.from_array(starts, chunks=1)


def _item(found: Any, number: int, axes: tuple[int, ...], wanted: tuple[int, ...], meta: Any) -> Any:
    """Give one of the results of chunks that gave a pair, which are single along the axes that go."""
    return da.blockwise(
        *(_taken, wanted, found, axes), number=number, dtype=meta.dtype, meta=meta, token=f"fagg-{number}"
    )


def _taken(pair: Any, *, number: int) -> Any:
    return operator.getitem(chunks.alone(pair), number)


def _states(call: Call, axes: tuple[int, ...]) -> Any:
    """Give the state of each chunk, on these axes of the logits; others are not cut."""
    return da.blockwise(
        *(chunks.state_of, axes, *_included(call)),
        *with_axes(_starts(call), call.keep),
        **call.options,
        tokens=_tokens_in_all(call),
        adjust_chunks={axis: _one for axis in call.summed if axis in axes},
        align_arrays=False,
        dtype=float,
        meta=np.empty((0,) * len(axes)),
        token="fagg-state",
    )


def _tokens(call: Call, split_every: int | None, states: Any) -> Any:
    """Merge the states of chunks of summed axes; what comes of it is on the axes of the result."""
    return reduced(states, axes_of(call.a), call.summed, split_every, chunks.merged, "fagg-merge")


def _totals(call: Call, tokens: Any, split_every: int | None) -> Any:
    """Give the states of whole rows, on the batch axes."""
    totals = da.blockwise(
        *(chunks.total_of, call.result, tokens, call.result),
        adjust_chunks={axis: _one for axis in call.keep},
        dtype=float,
        meta=np.empty((0,) * len(call.result)),
        token="fagg-total",
    )
    return reduced(totals, call.result, call.keep, split_every, chunks.merged, "fagg-totals")


def reduced(
    array: Any, axes: tuple[int, ...], gone: tuple[int, ...], split_every: int | None, merge: Any, name: str
) -> Any:
    """Merge the chunks of some of an array's axes in a tree, and drop those axes."""
    if not gone:
        return array
    return da.reduction(
        array,
        chunk=chunks.itself,
        combine=merge,
        aggregate=merge,
        axis=tuple(axes.index(axis) for axis in gone),
        split_every=split_every,
        concatenate=False,
        dtype=float,
        meta=np.empty((0,) * (len(axes) - len(gone))),
        name=name,
    )
