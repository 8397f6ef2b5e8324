"""Which numbers a kernel reads and what it computes in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nbfagg import fields


@dataclass(frozen=True)
class Kind:
    """The numbers in memory, as in fields.KINDS, and whether the arithmetic is float64.

    Half precision is computed in float32, integers and booleans in float64.
    """

    storage: str
    wide: bool

    @property
    def item(self) -> int:
        """Bytes of a number in memory."""
        return int(self.storage[1])

    @property
    def half(self) -> bool:
        """Whether it is half precision in float32: the hardware's exponential is exact enough then."""
        return self.storage in ("f2", "b2") and not self.wide

    @property
    def vector(self) -> int:
        """Numbers in 16 bytes."""
        return 16 // self.item

    @property
    def result(self) -> str:
        """The numbers of the result, as in fields.KINDS."""
        return self.storage if self.storage[0] in "fb" else "f8"

    @property
    def real(self) -> Any:
        """The type of the arithmetic."""
        return np.float64 if self.wide else np.float32

    def __str__(self) -> str:
        """Give a short name, unique."""
        return self.storage + ("w" if self.wide and self.storage != "f8" else "")


def kind_of(storage: str, widened: bool = False) -> Kind:
    """Give the kind for numbers in memory; `widened` asks for float64 arithmetic on narrower ones."""
    if storage not in fields.KINDS:
        raise KeyError(storage)
    return Kind(storage, widened or storage == "f8" or storage[0] not in "fb")
