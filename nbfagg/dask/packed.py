"""Packed rows of a Dask array whose tokens may be cut anywhere.

A chunk of tokens finishes the rows that it holds whole by itself. Of a row that goes on in other chunks only
its total meets theirs, in a dictionary that is merged in a tree: at most two entries a chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import dask.array as da
import numpy as np
import numpy.typing as npt
from dask.base import tokenize

import nbfagg
from nbfagg import State, inputs
from nbfagg.dask import chunks
from nbfagg.dask.arrays import (
    check_logits,
    check_no_out,
    cut_like,
    dtypes_of,
    given_dtype,
    in_one_piece,
    lse_dtype,
    meta_of,
    on_host,
    share,
)
from nbfagg.dask.chunks import beside
from nbfagg.dask.functions import axes_of, reduced, with_axes
from nbfagg.dask.gradients import beside_logits, counted, localised, row_dots
from nbfagg.plan import law_of
from nbfagg.state import flat


@dataclass(frozen=True)
class Rows:
    """Which rows a chunk of tokens holds, or holds a part of."""

    first: int  # of these rows, in the whole array
    begins: int  # how many of them begin here: all, or all but the first
    cut: tuple[int, ...]  # of these rows, those that other chunks have parts of
    offsets: npt.NDArray[np.int64]  # here


def rows_of(offsets: npt.NDArray[np.int64], sizes: tuple[int, ...]) -> list[Rows]:
    """Give each chunk's rows; an empty row belongs to the chunk of the token after it."""
    edges = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
    begins = np.searchsorted(offsets[:-1], edges)
    begins[-1] = len(offsets) - 1
    found = []
    for begin, end, low, high in zip(begins[:-1], begins[1:], edges[:-1], edges[1:], strict=True):
        runs_in = bool(begin > 0 and offsets[begin] > low)
        first = int(begin) - runs_in
        here = offsets[first : end + 1].clip(low, high) - low
        cut = {0} if runs_in else set()
        if end > first and offsets[end] > high:
            cut.add(int(end) - 1 - first)
        found.append(Rows(first, int(end - begin), tuple(sorted(cut)), here))
    return found


def fagg_packed(
    a: Any,
    offsets: Any,
    *,
    scale: float = 1.0,
    log: bool = False,
    return_lse: bool = False,
    out: None = None,
    workers: int | None = None,
    split_every: int | None = None,
) -> Any:
    """Aggregate packed rows of a Dask array's logits, see `nbfagg.fagg_packed`.

    Parameters
    ----------
    a : dask.array.Array
        Logits (T, N, H), cut along any axes; rows may be cut.
    offsets : array_like of int
        (B + 1,), no Dask array: the graph depends on their values.
    scale, log, return_lse, out, workers, split_every
        As in `nbfagg.dask.fagg`.

    Returns
    -------
    alpha : dask.array.Array
        Lazy, cut like the tokens of `a`.
    lse : dask.array.Array
        With `return_lse`: (B,), each row in the chunk that its first token is in.

    Raises
    ------
    TypeError, ValueError
        As `nbfagg.fagg_packed` and `nbfagg.dask.fagg` do.
    """
    log, return_lse = inputs.as_flag("log", log), inputs.as_flag("return_lse", return_lse)
    options, dtype, rows, sizes = _checked(a, offsets, scale, out, workers)
    meta, meta_lse = meta_of(a, dtype, 1), meta_of(a, lse_dtype(dtype), 1)
    if not _is_cut(a, sizes):
        found = da.blockwise(
            *(_whole, (0,), a, axes_of(a), rows, (0,)),
            **options,
            log=log,
            return_lse=return_lse,
            align_arrays=False,
            dtype=dtype,
            meta=meta,
            token="fagg-packed",
        )
        if not return_lse:
            return found
        alpha = da.blockwise(
            *(_taken, (0,), found, (0,)), number=0, dtype=dtype, meta=meta, token="fagg-packed-alpha"
        )
        return alpha, _by_row(_taken, sizes, meta_lse, found, (0,), number=1)
    states = _states(a, options)
    tokens = reduced(states, axes_of(a), axes_of(a)[1:], split_every, chunks.merged, "fagg-merge")
    totals = da.blockwise(
        *(_cut_totals, (0,), tokens, (0,), rows, (0,)),
        align_arrays=False,
        dtype=float,
        meta=np.empty(0),
        token="fagg-packed-total",
    )
    totals = reduced(totals, (0,), (0,), split_every, _joined, "fagg-packed-totals")
    parts = tokens, (0,), rows, (0,), totals, ()
    alpha = da.blockwise(
        *(_finish, (0,), *parts),
        log=log,
        align_arrays=False,
        dtype=dtype,
        meta=meta,
        token="fagg-packed",
    )
    return (alpha, _by_row(_lse_of_rows, sizes, meta_lse, *parts)) if return_lse else alpha


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
    out: None = None,
    workers: int | None = None,
    split_every: int | None = None,
) -> Any:
    """Give the gradient by packed rows of a Dask array's logits, see `nbfagg.fagg_packed_vjp`.

    Parameters
    ----------
    grad, alpha, lse : array_like or dask.array.Array
        As in `nbfagg.fagg_packed_vjp`; with `log`, alpha holds logarithms.
    a, offsets, scale, log, return_lse, out, workers, split_every
        As in `fagg_packed`.

    Returns
    -------
    dask.array.Array
        Lazy, cut like `a`.

    Raises
    ------
    TypeError, ValueError
        As `fagg_packed` and `nbfagg.fagg_packed_vjp` do.
    """
    log, return_lse = inputs.as_flag("log", log), inputs.as_flag("return_lse", return_lse)
    options, dtype, rows, sizes = _checked(a, offsets, scale, out, workers)
    grad, of_lse = inputs.as_pair(grad, return_lse)
    grad, alpha = cut_like("grad", grad, a, (0,)), cut_like("alpha", alpha, a, (0,))
    # A number a row; every task may look up its own.
    count = (sum(one.begins for one in sizes),)
    lse = in_one_piece("lse", lse, count, a)
    of_lse = None if of_lse is None else in_one_piece("grad of lse", of_lse, count, a)
    states = tokens = None
    if any(number > 1 for number in a.numblocks[1:]):
        states = _states(a, options)
        tokens = reduced(states, axes_of(a), axes_of(a)[1:], split_every, chunks.merged, "fagg-merge")
    shares = da.blockwise(
        *(_dots_of_cut_rows, (0,), grad, (0,), alpha, (0,), rows, (0,)),
        log=log,
        align_arrays=False,
        dtype=float,
        meta=np.empty(0),
        token="fagg-packed-dot",
    )
    dots = reduced(shares, (0,), (0,), split_every, _joined_dots, "fagg-packed-dots")
    row = a.ndim  # an index of its own
    return da.blockwise(
        *(_gradient, axes_of(a), a, axes_of(a), rows, (0,), grad, (0,), alpha, (0,), lse, (row,)),
        *(*with_axes(of_lse, (row,)), dots, ()),
        *(*with_axes(states, axes_of(a)), *with_axes(tokens, (0,))),
        **options,
        log=log,
        kind=given_dtype(a, *dtypes_of(a, inputs.as_scale(scale, a.dtype)[1])),
        align_arrays=False,
        dtype=dtype,
        meta=meta_of(a, dtype, a.ndim),
        token="fagg-packed-vjp",
    )


def _checked(
    a: Any, offsets: Any, scale: Any, out: Any, workers: Any
) -> tuple[dict[str, Any], np.dtype[Any], Any, list[Rows]]:
    """Give the options of a chunk's call, the result's dtype, and each chunk's rows, as a Dask array too."""
    check_logits(a)
    scale, widened = inputs.as_scale(scale, a.dtype)
    check_no_out(out)
    if isinstance(offsets, da.Array):
        raise TypeError(
            "nbfagg: offsets is a Dask array, and the graph depends on its values; want integers "
            "(offsets.compute())"
        )
    offsets = inputs.as_offsets(offsets, a.shape)
    sizes = rows_of(offsets, a.chunks[0])
    rows = np.empty(len(sizes), object)
    rows[:] = sizes
    lazy = da.from_array(rows, chunks=1, name=f"fagg-rows-{tokenize(offsets, a.chunks[0])}")
    options = {"scale": scale, "workers": share(workers)}
    return options, dtypes_of(a, widened)[0], lazy, sizes


def _is_cut(a: Any, sizes: list[Rows]) -> bool:
    return any(number > 1 for number in a.numblocks[1:]) or any(rows.cut for rows in sizes)


def _whole(a: Any, rows: Any, **options: Any) -> Any:
    """Aggregate a chunk of whole rows."""
    a = chunks.alone(a)
    return nbfagg.fagg_packed(a, beside(a, rows.item().offsets), **options)


def _taken(pair: Any, *, number: int) -> Any:
    return pair[number]


def _by_row(function: Any, sizes: list[Rows], meta: Any, *parts: Any, **keywords: Any) -> Any:
    """Give something of the rows that begin in each chunk."""
    return da.blockwise(
        *(function, (0,), *parts),
        **keywords,
        adjust_chunks={0: tuple(rows.begins for rows in sizes)},
        align_arrays=False,
        dtype=meta.dtype,
        meta=meta,
        token="fagg-packed-lse",
    )


def _states(a: Any, options: dict[str, Any]) -> Any:
    """Give the state of each chunk, its tokens being kept."""
    return da.blockwise(
        *(State.of, axes_of(a), a, axes_of(a)),
        **options,
        batch_axis=(),
        keep_axis=0,
        adjust_chunks=dict.fromkeys(axes_of(a)[1:], 1),
        dtype=float,
        meta=np.empty((0,) * a.ndim),
        token="fagg-state",
    )


def _own_totals(tokens: State, rows: Rows) -> npt.NDArray[np.float64]:
    """Give the states of rows, as far as this chunk goes."""
    from nbfagg.cpu import states

    totals = np.empty((len(rows.offsets) - 1, 3))
    states.total_cells(flat(tokens.cells), rows.offsets, totals, law_of(tokens.scale, tokens.kind))
    return totals


def _cut_totals(tokens: State, rows: Any) -> dict[int, State]:
    """Give the totals of rows that other chunks have parts of, by their numbers."""
    one = rows.item()
    totals = _own_totals(tokens, one)
    return {one.first + i: replace(tokens, cells=totals[i].copy(), batch_dims=()) for i in one.cut}


def _joined(blocks: Any, axis: Any, keepdims: Any) -> dict[int, State]:
    """Merge totals by their rows."""
    found: dict[int, State] = {}
    for totals in chunks.flattened(blocks):
        for row, total in totals.items():
            found[row] = found[row].merge(total) if row in found else total
    return found


def _totals(tokens: State, rows: Any, cut: dict[int, State]) -> State:
    """Give the states of the whole rows that a chunk has a part of."""
    one = rows.item()
    totals = _own_totals(tokens, one)
    for i in one.cut:
        totals[i] = cut[one.first + i].cells
    return replace(tokens, cells=totals, batch_dims=(0,))


def _finish(tokens: State, rows: Any, cut: dict[int, State], *, log: bool) -> Any:
    """Give a chunk's weights."""
    from nbfagg.cpu import states

    one, alpha = rows.item(), np.empty(len(tokens.cells))
    totals = _totals(tokens, rows, cut)
    law = law_of(tokens.scale, tokens.kind)
    states.finish_cells(flat(tokens.cells), one.offsets, totals.cells, log, law, alpha)
    return tokens.rounded(alpha)


def _lse_of_rows(tokens: State, rows: Any, cut: dict[int, State]) -> Any:
    """Give the log-sum-exp of the rows that begin in a chunk."""
    lse = _totals(tokens, rows, cut).lse
    return lse[len(lse) - rows.item().begins :]


def _dots_of_cut_rows(grad: Any, alpha: Any, rows: Any, *, log: bool) -> dict[int, float]:
    """Give a chunk's share of the dots of rows that other chunks have parts of, by their numbers."""
    one = rows.item()
    if not one.cut:
        return {}
    dots = row_dots(*counted(grad, alpha, log), one.offsets, log)
    return {one.first + i: float(dots[i]) for i in one.cut}


def _joined_dots(blocks: Any, axis: Any, keepdims: Any) -> dict[int, float]:
    """Add dots by their rows."""
    found: dict[int, list[float]] = {}
    for dots in chunks.flattened(blocks):
        for row, dot in dots.items():
            found.setdefault(row, []).append(dot)
    return {row: math.fsum(dots) if np.isfinite(dots).all() else sum(dots) for row, dots in found.items()}


def _gradient(
    a: Any,
    rows: Any,
    grad: Any,
    alpha: Any,
    lse: Any,
    of_lse: Any,
    dots: dict[int, float],
    state: Any,
    tokens: Any,
    *,
    log: bool,
    kind: np.dtype[Any],
    **options: Any,
) -> Any:
    """Give the gradient of a chunk of tokens."""
    one = rows.item()
    here = slice(one.first, one.first + len(one.offsets) - 1)
    grad, alpha = counted(grad, alpha, log)
    dot = row_dots(grad, alpha, one.offsets, log)
    for i in one.cut:
        dot[i] = dots[one.first + i]
    if of_lse is not None:
        dot -= np.asarray(on_host(chunks.alone(of_lse)))[here]
    held = None
    if state is not None:
        held = chunks.cell_by_cell(state).weights(log, chunks.cell_by_cell(tokens))
    found = localised(grad, alpha, held, dot, one.offsets, log, kind)
    grad, alpha, difference = beside_logits(a, kind, *found)
    lse = beside(a, np.asarray(on_host(chunks.alone(lse)))[here])
    return nbfagg.fagg_packed_vjp(
        *((grad, difference), a, beside(a, one.offsets), alpha, lse),
        log=log,
        return_lse=True,
        **options,
    )
