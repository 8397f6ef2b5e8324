"""What ``nbfagg bench`` prints."""

from __future__ import annotations

from typing import Any

from .text import digits, duration, shape, size

HEAD = ("", "time", "spread", "GB/s", "of the limit", "times fagg")


def seconds(row: dict[str, Any]) -> dict[str, float]:
    """Give everybody's median at one shape, the fastest first, the limit among them if it is known."""
    everybody = {"limit": row["limit_seconds"], "fagg": row["fagg_seconds"], **row["peer_seconds"]}
    return dict(sorted(((who, took) for who, took in everybody.items() if took), key=lambda entry: entry[1]))


def title(row: dict[str, Any]) -> str:
    """Name a shape, its bytes and its limit."""
    limit = row["limit_seconds"]
    return (
        f"{row['name']} {shape(row['shape'])} {row['dtype']}, {size(row['bytes'])}: "
        f"the limit is {duration(limit)}, {digits(row['bytes'] / limit / 1e9)} GB/s"
    )


def lines(row: dict[str, Any]) -> list[str]:
    """Give the table of one shape."""
    mine = row["fagg_seconds"]
    table = [HEAD]
    for who, took in seconds(row).items():
        # Medians of the rounds' ratios where there are some, which is better than a ratio of medians.
        share = row["share"] if who == "fagg" else row["limit_seconds"] / took
        times = row["times_fagg"].get(who, took / mine)
        table.append(
            (
                who,
                duration(took),
                f"{100 * row['spread'][who]:.1f} %",
                digits(row["bytes"] / took / 1e9),
                f"{share:.2f}",
                f"{digits(times)}x",
            )
        )
    widths = [max(len(line[column]) for line in table) for column in range(len(HEAD))]
    return [
        "  "
        + "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    ]


EXPLANATION = """\
limit         what moving the bytes takes: a threaded read of the logits, a fill of an array like the result
              and, where that outgrows the caches, its scaling; the fastest of Numba, NumPy and PyTorch
spread        half the distance between the quartiles of {rounds} rounds in which all took turns
times fagg    above 1 is slower than fagg"""
