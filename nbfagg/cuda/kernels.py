"""All kernels by name: how each is made, and what it is called with."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

from nbfagg.cuda import gradient, rows, short, short_gradient, short_packed, walk, weights
from nbfagg.cuda.kinds import Kind


class Kernel(NamedTuple):
    """A kernel's maker, from primitives, kind and block size, and the names of its arguments."""

    make: Callable[[SimpleNamespace, Kind, int], Any]
    arguments: tuple[str, ...]


def _flagged(make: Any, flag: bool) -> Any:
    return lambda P, kind, block: make(P, kind, flag, block)


_ROWS = ("a", "limits", "alpha", "lse", "work", "tickets", "law", "geo")
_SHORT = ("a", "limits", "alpha", "lse", "law", "geo")
_PIECES = ("a", "limits", "work", "law", "geo")
_SHORT_PIECES = ("a", "limits", "alpha", "lse", "work", "law", "geo")
_PACKED = ("a", "limits", "alpha", "lse", "listed", "law", "geo")
_LISTED = ("a", "limits", "work", "listed", "law", "geo")
_PACKED_PIECES = ("a", "limits", "alpha", "lse", "work", "listed", "law", "geo")
_WALK = ("a", "mask", "limits", "work", "law", "geo")
_FINISH = ("alpha", "lse", "work", "law", "geo")
_ROWS_GRADIENT = ("a", "grad", "alpha", "limits", "out", "work", "law", "geo")
_WALK_GRADIENT = ("a", "mask", "grad", "alpha", "limits", "out", "work", "law", "geo")
KERNELS = {
    "rows": Kernel(_flagged(rows.make, True), _ROWS),
    "rows_unaligned": Kernel(_flagged(rows.make, False), _ROWS),
    "short": Kernel(_flagged(short.make, True), _SHORT),
    "short_unaligned": Kernel(_flagged(short.make, False), _SHORT),
    "pieces": Kernel(_flagged(short.make_pieces, True), _PIECES),
    "pieces_unaligned": Kernel(_flagged(short.make_pieces, False), _PIECES),
    "short_pieces": Kernel(_flagged(short.make_short_pieces, True), _SHORT_PIECES),
    "short_pieces_unaligned": Kernel(_flagged(short.make_short_pieces, False), _SHORT_PIECES),
    "short_packed": Kernel(_flagged(short_packed.make, True), _PACKED),
    "short_packed_unaligned": Kernel(_flagged(short_packed.make, False), _PACKED),
    "packed_pieces": Kernel(_flagged(short_packed.make_pieces, True), _LISTED),
    "packed_pieces_unaligned": Kernel(_flagged(short_packed.make_pieces, False), _LISTED),
    "short_packed_pieces": Kernel(_flagged(short_packed.make_short_pieces, True), _PACKED_PIECES),
    "short_packed_pieces_unaligned": Kernel(_flagged(short_packed.make_short_pieces, False), _PACKED_PIECES),
    "walk": Kernel(_flagged(walk.make, False), _WALK),
    "walk_masked": Kernel(_flagged(walk.make, True), _WALK),
    "small": Kernel(weights.make_small, _FINISH),
    "packed": Kernel(weights.make_packed, ("limits", *_FINISH)),
    "totals": Kernel(weights.make_totals, ("work", "law", "geo")),
    "weights": Kernel(weights.make_weights, _FINISH),
    "dots": Kernel(gradient.make_dots, ("grad", "grad_lse", "alpha", "work", "geo")),
    "dot_sums": Kernel(gradient.make_dot_sums, ("work", "geo")),
    "packed_dots": Kernel(
        gradient.make_packed_dots, ("grad", "grad_lse", "alpha", "limits", "work", "law", "geo")
    ),
    "rows_gradient": Kernel(_flagged(gradient.make_rows, True), _ROWS_GRADIENT),
    "rows_gradient_unaligned": Kernel(_flagged(gradient.make_rows, False), _ROWS_GRADIENT),
    "short_gradient": Kernel(_flagged(short_gradient.make, True), _ROWS_GRADIENT),
    "short_gradient_unaligned": Kernel(_flagged(short_gradient.make, False), _ROWS_GRADIENT),
    "walk_gradient": Kernel(_flagged(gradient.make_walk, False), _WALK_GRADIENT),
    "walk_gradient_masked": Kernel(_flagged(gradient.make_walk, True), _WALK_GRADIENT),
}
