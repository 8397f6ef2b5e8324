"""What is known of logits seen so far: mergeable, chunks of summed axes in any order, finished at any time.

A state holds, for each (batch row, token), the largest logit and the sum of
exponentials relative to that maximum's reference point (scalar.py), as an
unevaluated float64 pair. Merging loses nothing but the last of the pair's bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nbfagg import inputs, results
from nbfagg.frameworks import adapter, by_name
from nbfagg.plan import law_of, make_plan


@dataclass(frozen=True, eq=False, repr=False)
class State:
    """The aggregation of a part of the logits, to be merged with that of others.

    Make one with `State.of`. The result of `merge` is new; no method changes a state.

    Attributes
    ----------
    cells : numpy.ndarray
        float64, of the result's shape and a last axis of 3: the maximum of
        a token's logits, the sum of their exponentials relative to the reference
        point of that maximum, and what that sum lost to rounding.
    batch_dims : tuple of int
        Which axes of the result are batch axes.
    dtype : numpy.dtype
        Of the result.
    kind : numpy.dtype
        Of the arithmetic that the logits were taken in.
    scale : float
        What multiplies the logits.
    framework : str
        Whose arrays `finalize` and `lse` give: "numpy", "torch" or "cupy".

    See Also
    --------
    nbfagg.fagg : All at once.

    Examples
    --------
    >>> import numpy as np
    >>> import nbfagg
    >>> a = np.random.default_rng(0).standard_normal((2, 6, 4, 8))
    >>> heads = [nbfagg.State.of(a[:, :, i : i + 2]) for i in (0, 2)]  # chunks of a summed axis
    >>> np.allclose(heads[0].merge(heads[1]).finalize(), nbfagg.fagg(a))
    True
    >>> tokens = [nbfagg.State.of(a[:, i : i + 3]) for i in (0, 3)]  # chunks of the kept axis
    >>> np.allclose(tokens[0].merge(tokens[1], axis="keep").finalize(), nbfagg.fagg(a))
    True
    """

    cells: npt.NDArray[np.float64]
    batch_dims: tuple[int, ...]
    dtype: np.dtype[Any]
    kind: np.dtype[Any]
    scale: float = 1.0
    framework: str = "numpy"

    def __repr__(self) -> str:
        """Tell what a state is of, without its cells."""
        parts = [f"shape={self.cells.shape[:-1]}", f"batch_dims={self.batch_dims}", f"dtype={self.dtype}"]
        parts += [f"scale={self.scale}"] * (self.scale != 1)
        parts += [f"framework={self.framework!r}"] * (self.framework != "numpy")
        return f"<State {', '.join(parts)}>"

    @classmethod
    def of(
        cls,
        a: npt.ArrayLike,
        *,
        batch_axis: int | tuple[int, ...] = 0,
        keep_axis: int | tuple[int, ...] = 1,
        where: npt.ArrayLike | None = None,
        lengths: npt.ArrayLike | None = None,
        scale: float = 1.0,
        workers: int | None = None,
    ) -> State:
        """Take in the logits of one chunk.

        Parameters
        ----------
        a : array_like
            Logits, as `nbfagg.fagg` takes them; on a GPU, a CuPy array. A tensor
            that requires grad is refused: no gradient passes through a state.
        batch_axis, keep_axis, where, lengths, scale, workers
            As in `nbfagg.fagg`; mask and lengths are those of the chunk.

        Returns
        -------
        State
            An axis of size 0 gives a state that holds nothing: merging it
            changes nothing.

        Raises
        ------
        TypeError, ValueError
            As `nbfagg.fagg` does.
        """
        framework = adapter(a)
        if framework is not None:
            return framework.state_of(  # type: ignore[no-any-return]
                a,
                batch_axis=batch_axis,
                keep_axis=keep_axis,
                where=where,
                lengths=lengths,
                scale=scale,
                workers=workers,
            )
        return take_in(
            a,
            batch_axis=batch_axis,
            keep_axis=keep_axis,
            where=where,
            lengths=lengths,
            scale=scale,
            workers=workers,
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the result."""
        return self.cells.shape[:-1]

    def merge(self, other: State, axis: Literal["summed", "keep"] = "summed") -> State:
        """Give the state of the logits of both.

        Parameters
        ----------
        other : State
            Of the same scale and dtypes.
        axis : {"summed", "keep"}, default "summed"
            "summed": both are chunks of summed axes, of the same shape.
            "keep": `other` holds the tokens that follow, on the single kept axis.

        Returns
        -------
        State
            A new one.

        Raises
        ------
        TypeError
            If `other` is no State.
        ValueError
            For another `axis`, or states that do not fit together.
        """
        if not isinstance(other, State):
            raise TypeError(f"State.merge: other is a {type(other).__name__}; want a State")
        mine = self.scale, self.dtype, self.kind, self.batch_dims
        theirs = other.scale, other.dtype, other.kind, other.batch_dims
        for name, one, two in zip(("scale", "dtype", "kind", "batch_dims"), mine, theirs, strict=True):
            if one != two:
                raise ValueError(f"State.merge: states of {name} {one} and {two}; want the same")
        if axis == "keep":
            return replace(self, cells=np.concatenate((self.cells, other.cells), self._kept(other)))
        if axis != "summed":
            raise ValueError(f'State.merge: axis={axis!r}; want "summed" or "keep"')
        if self.shape != other.shape:
            raise ValueError(f"State.merge: states of shape {self.shape} and {other.shape}; want the same")
        from nbfagg.cpu import states

        one, two = flat(self.cells), flat(other.cells)
        cells = np.empty_like(one)
        states.merge_cells(one, two, cells, law_of(self.scale, self.kind))
        return replace(self, cells=cells.reshape(self.cells.shape))

    def _kept(self, other: State) -> int:
        """Give the single kept axis, along which states of the same batch follow one another."""
        kept = [axis for axis in range(len(self.shape)) if axis not in self.batch_dims]
        if len(kept) != 1 or len(self.shape) != len(other.shape):
            raise ValueError(
                f"State.merge: axis='keep' of states of shape {self.shape} and {other.shape} with batch axes "
                f"{self.batch_dims}; want one kept axis in each"
            )
        if any(self.shape[i] != other.shape[i] for i in self.batch_dims):
            raise ValueError(
                f"State.merge: states of shape {self.shape} and {other.shape}; want the same batch axes "
                f"{self.batch_dims}"
            )
        return kept[0]

    def total(self) -> State:
        """Give the state of each batch row: the kept axes are summed over as well.

        Chunks of a kept axis need not be brought together to be finished: it is enough to merge their
        totals, three numbers a batch row, and to finish each chunk with what comes of that.

        Returns
        -------
        State
            Of the batch axes' shape. Totals of chunks merge as chunks of summed axes do.

        Examples
        --------
        >>> import numpy as np
        >>> import nbfagg
        >>> a = np.random.default_rng(0).standard_normal((2, 6, 4))
        >>> left, right = (nbfagg.State.of(part) for part in (a[:, :3], a[:, 3:]))
        >>> total = left.total().merge(right.total())
        >>> np.allclose(right.finalize(total=total), nbfagg.fagg(a)[:, 3:])
        True
        """
        cells, rows, _ = self._rows()
        batch_shape = tuple(self.shape[i] for i in self.batch_dims)
        totals = np.empty((math.prod(batch_shape), 3))
        from nbfagg.cpu import states

        law = law_of(self.scale, self.kind)
        if rows is None:
            states.total_turned(cells, totals, law)
        else:
            states.total_cells(cells, rows, totals, law)
        every = tuple(range(len(batch_shape)))
        return replace(self, cells=totals.reshape(*batch_shape, 3), batch_dims=every)

    def finalize(self, log: bool = False, total: State | None = None) -> Any:
        """Give what `nbfagg.fagg` would of all the logits taken in; the state stays as it is.

        Parameters
        ----------
        log : bool, default False
            Give the natural logarithm.
        total : State, optional
            What `total` gives of the whole batch rows, where this state holds a part of their tokens;
            by default it holds all of them.

        Returns
        -------
        numpy.ndarray, torch.Tensor or cupy.ndarray
            Of the state's shape and dtype: that of `nbfagg.fagg` within the last
            bits, for sums were taken in another order.

        Raises
        ------
        TypeError, ValueError
            For a `total` that is no State, or not one of these batch rows.
        """
        log = inputs.as_flag("log", log)
        return self.rounded(self.weights(log, self.total() if total is None else total))

    def rounded(self, weights: npt.NDArray[np.float64]) -> Any:
        """Give weights as what `finalize` gives: rounded to the result's type, in the form of the logits."""
        # Of half precision the float32 result is rounded once.
        with np.errstate(all="ignore"):
            if self.dtype != self.kind:
                weights = weights.astype(self.kind)
            return self._given_back(np.asarray(results.of_type(weights, self.dtype), order="C"))

    def weights(self, log: bool, total: State) -> npt.NDArray[np.float64]:
        """Give what `finalize` does, before it is rounded to the result's type: float64."""
        total = self._fitting(total)
        cells, rows, order = self._rows()
        alpha = np.empty(len(cells))
        from nbfagg.cpu import states

        law = law_of(self.scale, self.kind)
        if rows is None:
            states.finish_turned(cells, flat(total.cells), log, law, alpha)
        else:
            states.finish_cells(cells, rows, flat(total.cells), log, law, alpha)
        return alpha.reshape([self.shape[i] for i in order]).transpose(np.argsort(order))

    @property
    def lse(self) -> Any:
        """Each batch row's natural log-sum-exp of ``scale * a``, of at least float32."""
        total = self.total()
        lse = np.empty(total.shape)
        from nbfagg.cpu import states

        law = law_of(self.scale, self.kind)
        states.lse_of_totals(flat(total.cells), law, self.scale, lse.reshape(-1))
        with np.errstate(all="ignore"):
            lse = lse.astype(self.dtype if self.dtype.itemsize > 2 else np.float32)
        return self._given_back(lse)

    def _given_back(self, array: npt.NDArray[Any]) -> Any:
        """Give a result in the form in which the logits came."""
        if self.framework == "numpy":
            return array
        return by_name(self.framework).to_tensor(array)

    def _fitting(self, total: Any) -> State:
        """Give the state of whole rows, if it is one of these."""
        if not isinstance(total, State):
            raise TypeError(f"State.finalize: total is a {type(total).__name__}; want a State")
        batch_shape = tuple(self.shape[i] for i in self.batch_dims)
        every = tuple(range(len(batch_shape)))
        for name in ("dtype", "kind"):
            mine, its = getattr(self, name), getattr(total, name)
            if mine != its:
                raise ValueError(f"State.finalize: total with {name} {its}; want {mine}, as the state has it")
        if (total.shape, total.batch_dims) != (batch_shape, every) or total.scale != self.scale:
            raise ValueError(
                f"State.finalize: total of shape {total.shape} with batch axes {total.batch_dims} and scale "
                f"{total.scale}; want {batch_shape}, all of them batch axes, and scale {self.scale}"
            )
        return total

    def _rows(
        self,
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64] | None, tuple[int, ...]]:
        """Give the cells, where each row of them begins (None: rows take turns), and the axes' order."""
        kept = tuple(axis for axis in range(len(self.shape)) if axis not in self.batch_dims)
        turned = (*kept, *self.batch_dims)
        if kept and turned == tuple(range(len(self.shape))):
            # To bring each row's cells together would take as long as what is done with them.
            return flat(self.cells), None, turned
        order = (*self.batch_dims, *kept)
        tokens = math.prod(self.shape[i] for i in kept)
        offsets = np.arange(math.prod(self.shape[i] for i in self.batch_dims) + 1, dtype=np.int64) * tokens
        return flat(self.cells.transpose(*order, len(self.shape))), offsets, order


def take_in(
    a: npt.ArrayLike,
    cells: npt.NDArray[np.float64] | None = None,
    *,
    batch_axis: int | tuple[int, ...] = 0,
    keep_axis: int | tuple[int, ...] = 1,
    where: npt.ArrayLike | None = None,
    lengths: npt.ArrayLike | None = None,
    scale: float = 1.0,
    workers: int | None = None,
) -> State:
    """Do what `State.of` does for arrays in memory; `cells` are those of the state, in one piece."""
    a = inputs.as_array(a)
    scale, widened = inputs.as_scale(scale, a.dtype)
    batch_axis = inputs.hashable_axes("batch_axis", batch_axis, a.shape)
    keep_axis = inputs.hashable_axes("keep_axis", keep_axis, a.shape)
    workers = inputs.as_workers(workers)
    mask = None if where is None else inputs.as_mask(where, a.shape)
    strides = None if mask is None else mask.strides
    # This one checks the axes; the walk has a row for every token, whose state is the row's.
    result = inputs.plan_for(
        *(a.shape, a.strides, a.dtype, a.flags.aligned, batch_axis, keep_axis, False, widened),
        *(strides, lengths is not None),
    )
    both = tuple(sorted((*result.batch_axes, *result.keep_axes)))
    counts = None
    if lengths is not None:
        lengths = inputs.as_lengths(lengths, a.shape, batch_axis, keep_axis)
        counts = _inside(lengths, result.shape, result.batch_axes[0] > result.keep_axes[0])
    plan = make_plan(
        *(a.shape, a.strides, a.dtype, a.flags.aligned, both, (), False, widened),
        *(strides, counts is not None),
    )
    cells = np.empty((*result.shape, 3)) if cells is None else cells
    if plan.way == "empty":
        cells[...] = -math.inf, 0.0, 0.0
    else:
        from nbfagg.cpu import launch

        launch.run(
            plan, a, scale, False, np.empty(plan.shape, plan.kind), cells,
            workers, mask, counts, apart=True,
        )  # fmt: skip
        results.settle_infinite_cells(cells, a, both, mask)
    batch_dims = tuple(both.index(axis) for axis in result.batch_axes)
    return State(cells, batch_dims, result.dtype, plan.kind, scale)


def flat(cells: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Give cells one after the other."""
    return np.ascontiguousarray(cells).reshape(-1, 3)


def _inside(lengths: npt.NDArray[np.int64], shape: tuple[int, ...], turned: bool) -> npt.NDArray[np.int64]:
    """Give 1 for each cell that its row's length leaves, else 0, in the order of the result's axes."""
    tokens = np.arange(shape[0] if turned else shape[1])
    inside = tokens[:, np.newaxis] < lengths if turned else tokens < lengths[:, np.newaxis]
    return np.ascontiguousarray(inside, np.int64)
