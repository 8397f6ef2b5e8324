"""Numbers and tables as a person reads them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Give a table in Markdown; its first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *rows])


def duration(seconds: float) -> str:
    """Give seconds in the unit that suits them.

    Examples
    --------
    >>> duration(0.00123)
    '1.23 ms'
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{digits(seconds / size)} {unit}"
    return f"{digits(seconds / 1e-6)} µs"


def size(octets: float) -> str:
    """Give bytes in the unit that suits them.

    Examples
    --------
    >>> size(2400), size(50_331_648)
    ('2.40 kB', '50.3 MB')
    """
    for unit, one in (("GB", 1e9), ("MB", 1e6)):
        if octets >= one:
            return f"{digits(octets / one)} {unit}"
    return f"{digits(octets / 1e3)} kB"


def digits(value: float) -> str:
    """Give three significant digits, never a power of ten."""
    if not 0 < abs(value) < 100:
        return f"{value:.0f}"
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def shape(axes: Iterable[int]) -> str:
    """Give a shape, large powers of two by their exponents, as one writes them."""
    return (
        "("
        + ", ".join(f"2^{n.bit_length() - 1}" if n >= 2**20 and n & (n - 1) == 0 else str(n) for n in axes)
        + ")"
    )
