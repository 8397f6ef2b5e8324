"""Gradients, from alpha as `oracle` has it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from nbfagg.reference.exact import weigh
from nbfagg.reference.exponential import exponentials
from nbfagg.reference.rows import LongArray, as_rows, real


def fagg_vjp(
    grad: ArrayLike,
    a: ArrayLike,
    *,
    batch_axis: int | tuple[int, ...] = 0,
    keep_axis: int | tuple[int, ...] = 1,
    where: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    scale: float = 1.0,
    log: bool = False,
    grad_lse: ArrayLike | None = None,
) -> LongArray:
    """Pull a gradient back through `oracle`, from the result to the logits.

    With p = exp(scale * a - lse), g = `grad`, and l the kept index of a place::

        scale * p * (g[b,l] - sum_l' g[b,l'] alpha[b,l'])             of alpha
        scale * (p / alpha[b,l] * g[b,l] - p * sum_l' g[b,l'])        of log(alpha), log=True
        + scale * p * grad_lse[b]                                     of lse

    Parameters
    ----------
    grad : array_like, of the result's shape
        The gradient of a number with respect to alpha, or to log(alpha) if `log`.
    a : array_like, any rank
        The logits that the result was computed from.
    batch_axis, keep_axis, where, lengths, scale, log
        As in `oracle`.
    grad_lse : array_like, batch shape
        The same number's gradient with respect to lse; None = 0.

    Returns
    -------
    ndarray of longdouble, of the shape of `a`
        The gradient with respect to `a`. 0 where `a` is -inf or excluded; NaN at the other places of a row
        that has a NaN or +inf among them. `grad` is not looked at for a token that holds nothing: all
        excluded, all -inf.

    Raises
    ------
    TypeError
        If `grad`, `a` or `grad_lse` is not real.
    ValueError, IndexError
        As `oracle`; also if `grad` or `grad_lse` does not have the shape that it belongs to.

    See Also
    --------
    fagg_vjp_terms : also what the error of a gradient is relative to.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.zeros((1, 2, 2))
    >>> fagg_vjp([[1.0, 0.0]], a).astype(float)
    array([[[ 0.125,  0.125],
            [-0.125, -0.125]]])
    >>> fagg_vjp([[1.0, 0.0]], a, log=True).astype(float)
    array([[[ 0.25,  0.25],
            [-0.25, -0.25]]])
    >>> fagg_vjp([[0.0, 0.0]], a, grad_lse=[1.0]).astype(float)
    array([[[0.25, 0.25],
            [0.25, 0.25]]])
    """
    return fagg_vjp_terms(
        grad,
        a,
        batch_axis=batch_axis,
        keep_axis=keep_axis,
        where=where,
        lengths=lengths,
        scale=scale,
        log=log,
        grad_lse=grad_lse,
    )[0]


def fagg_vjp_terms(
    grad: ArrayLike,
    a: ArrayLike,
    *,
    batch_axis: int | tuple[int, ...] = 0,
    keep_axis: int | tuple[int, ...] = 1,
    where: ArrayLike | None = None,
    lengths: ArrayLike | None = None,
    scale: float = 1.0,
    log: bool = False,
    grad_lse: ArrayLike | None = None,
) -> tuple[LongArray, LongArray]:
    """Pull a gradient back as `fagg_vjp` does, and say how large the terms were that it is the sum of.

    The terms of the formula cancel: the gradients of a batch row sum to 0, or to scale * grad_lse. So the
    error of a gradient is small beside its largest term, whatever is left of it.

    Parameters
    ----------
    grad, a, batch_axis, keep_axis, where, lengths, scale, log, grad_lse
        As in `fagg_vjp`.

    Returns
    -------
    gradient : ndarray of longdouble, of the shape of `a`
        As from `fagg_vjp`.
    largest : ndarray of longdouble, of the shape of `a`
        The largest of the formula's terms by magnitude, where the sum over l' counts as one, and as that of
        its own terms' magnitudes: ``scale * p`` times the largest of ``abs(g)``, ``sum_l' abs(g * alpha)``
        and ``abs(grad_lse)``; if `log`, of ``abs(g) / alpha``, ``sum_l' abs(g)`` and ``abs(grad_lse)``. 0
        and NaN where `gradient` is 0 by rule or NaN.

    Raises
    ------
    TypeError, ValueError, IndexError
        As `fagg_vjp`.

    Notes
    -----
    The error relative to `largest`, measured against 50 digits, is below 1e-18 where longdouble has 64 bits.
    For the longest rows at most 800 roundings, 5e-17, if all of them went the same way: an exponential, three
    sums in pairs, and alpha in two of the three terms.

    Examples
    --------
    >>> import numpy as np
    >>> gradient, largest = fagg_vjp_terms([[3.0, 3.0]], np.zeros((1, 2, 2)))
    >>> gradient.astype(float)
    array([[[0., 0.],
            [0., 0.]]])
    >>> largest.astype(float)
    array([[[0.75, 0.75],
            [0.75, 0.75]]])
    """
    rows = as_rows(a, batch_axis, keep_axis, scale, where, lengths)
    x = rows.x
    g = rows.from_result(_gradient("grad", grad, rows.result_shape))
    grad_lse = np.zeros(rows.batch_shape) if grad_lse is None else grad_lse
    g_lse = _gradient("grad_lse", grad_lse, rows.batch_shape).reshape(-1, 1)
    with np.errstate(all="ignore"):
        w = weigh(rows)
        alpha = w.weight / w.total[:, None]
        g = np.where(w.token_max == -np.inf, 0, g)

        # p = q * alpha, with q a place's share of its own token, so q is p / alpha also where both underflow.
        # The gradient is scale * q times a number for each token, of alpha
        #     g * alpha - alpha * sum(g * alpha)
        # and of its logarithm
        #     g - alpha * sum(g).
        own = g if log else g * alpha
        common = alpha * own.sum(axis=1, keepdims=True)
        factor = own - common + alpha * g_lse
        sizes = (abs(own), alpha * abs(own).sum(axis=1, keepdims=True), alpha * abs(g_lse))
        size = np.maximum.reduce(np.broadcast_arrays(*sizes))

        gradient = np.empty((alpha.size, x.shape[2]), np.longdouble)
        largest = gradient.copy()
        by_token = [(value * (rows.scale / w.mass)).reshape(-1, 1) for value in (factor, size)]
        places = x.reshape(gradient.shape)
        for token, place, e in exponentials(places, w.token_max.reshape(-1), rows.scale):
            gradient[token, place] = e * by_token[0][token]
            largest[token, place] = e * by_token[1][token]

    spoilt = rows.included & (x != -np.inf) & ~w.usable[:, None, None]
    instead = np.where(spoilt, np.longdouble(np.nan), np.longdouble(0))
    given = (x != -np.inf) & w.usable[:, None, None]
    gradient, largest = (
        rows.to_places(np.where(given, one.reshape(x.shape), instead)) for one in (gradient, largest)
    )
    return gradient, largest


def _gradient(name: str, value: ArrayLike, shape: tuple[int, ...]) -> LongArray:
    """Return a gradient in longdouble, checked."""
    given = real(name, value).astype(np.longdouble)
    if given.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {given.shape}")
    return given
