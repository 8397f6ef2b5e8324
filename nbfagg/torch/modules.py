"""Modules: the aggregation as a layer, and the pooling it is made for."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nbfagg import inputs
from nbfagg.torch.functions import check_scale, fagg


def _check_scale(scale: float) -> None:
    check_scale(scale)
    inputs.as_scale(scale, np.dtype(np.float32))


class Fagg(nn.Module):
    """`nbfagg.fagg` as a layer without parameters.

    Parameters
    ----------
    batch_axis, keep_axis, scale, log, return_lse, workers
        As in `nbfagg.fagg`.

    Examples
    --------
    >>> import torch
    >>> from nbfagg.torch import Fagg
    >>> Fagg(scale=0.125)(torch.zeros(2, 5, 8, 64)).shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        batch_axis: int | tuple[int, ...] = 0,
        keep_axis: int | tuple[int, ...] = 1,
        *,
        scale: float = 1.0,
        log: bool = False,
        return_lse: bool = False,
        workers: int | None = None,
    ) -> None:
        super().__init__()
        _check_scale(scale)
        inputs.as_flag("log", log)
        inputs.as_flag("return_lse", return_lse)
        inputs.as_workers(workers)
        self.batch_axis = batch_axis
        self.keep_axis = keep_axis
        self.scale = scale
        self.log = log
        self.return_lse = return_lse
        self.workers = workers

    def forward(self, a: Tensor, where: Tensor | None = None, lengths: Tensor | None = None) -> Any:
        """Aggregate logits; `where` and `lengths` as in `nbfagg.fagg`."""
        return fagg(
            a,
            batch_axis=self.batch_axis,
            keep_axis=self.keep_axis,
            where=where,
            lengths=lengths,
            scale=self.scale,
            log=self.log,
            return_lse=self.return_lse,
            workers=self.workers,
        )

    def extra_repr(self) -> str:
        """Tell the settings."""
        parts = [f"batch_axis={self.batch_axis}, keep_axis={self.keep_axis}, scale={self.scale}"]
        parts += [name for name in ("log", "return_lse") if getattr(self, name)]
        return ", ".join(part if "=" in part else f"{part}=True" for part in parts)


class AttentionPool(nn.Module):
    """Pool values by the aggregated weights of their tokens.

    ``pooled[b] = sum over l of fagg(logits)[b, l] * values[b, l]``

    Values of tokens that are left out have to be finite: their weight is 0, and 0 times NaN is NaN.

    Parameters
    ----------
    scale : float, default 1.0
        Multiplies the logits.

    Examples
    --------
    >>> import torch
    >>> from nbfagg.torch import AttentionPool
    >>> logits, values = torch.zeros(2, 5, 8, 1), torch.ones(2, 5, 3)
    >>> AttentionPool()(logits, values)
    tensor([[1., 1., 1.],
            [1., 1., 1.]])
    """

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        _check_scale(scale)
        self.scale = scale

    def forward(
        self, logits: Tensor, values: Tensor, where: Tensor | None = None, lengths: Tensor | None = None
    ) -> Tensor:
        """Pool values.

        Parameters
        ----------
        logits : torch.Tensor
            (B, L, N, H), or any shape that begins with (B, L).
        values : torch.Tensor
            (B, L, D); finite also where tokens are left out.
        where, lengths : torch.Tensor, optional
            As in `nbfagg.fagg`, of the logits.

        Returns
        -------
        torch.Tensor
            (B, D); 0 for a batch row that has nothing included.
        """
        if not isinstance(values, Tensor):
            raise TypeError(f"nbfagg: values is a {type(values).__name__}; want a tensor")
        if values.ndim != 3 or logits.shape[:2] != values.shape[:2]:
            raise ValueError(
                f"nbfagg: values has shape {tuple(values.shape)} beside logits of shape "
                f"{tuple(logits.shape)}; want (B, L, D) beside (B, L, ...)"
            )
        alpha = fagg(logits, where=where, lengths=lengths, scale=self.scale)
        return torch.bmm(alpha.unsqueeze(1).to(values.dtype), values).squeeze(1)

    def extra_repr(self) -> str:
        """Tell the settings."""
        return f"scale={self.scale}"
