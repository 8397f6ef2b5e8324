"""PyTorch: modules, and what `nbfagg.fagg` does with tensors.

`nbfagg.fagg`, `nbfagg.fagg_packed` and `nbfagg.State.of` take tensors as they
take arrays. This module adds `Fagg` and `AttentionPool` for use in a model; it
is imported by `nbfagg` when a tensor shows up, and imports PyTorch.
"""

from nbfagg.torch.arrays import to_tensor
from nbfagg.torch.functions import fagg, fagg_packed, fagg_packed_vjp, fagg_vjp, state_of
from nbfagg.torch.modules import AttentionPool, Fagg

__all__ = [
    "AttentionPool",
    "Fagg",
    "fagg",
    "fagg_packed",
    "fagg_packed_vjp",
    "fagg_vjp",
    "state_of",
    "to_tensor",
]
