"""Tables, and the numbers in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """The first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def duration(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{digits(seconds / size)} {unit}"
    return f"{digits(seconds / 1e-6)} µs"


def digits(value: float) -> str:
    """Three significant digits, never as a power of ten."""
    if not 0 < abs(value) < 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def shape(axes: Iterable[int]) -> str:
    """Large powers of two by their exponents, as one writes them."""
    return (
        "("
        + ", ".join(f"2^{n.bit_length() - 1}" if n >= 2**20 and n & (n - 1) == 0 else str(n) for n in axes)
        + ")"
    )
