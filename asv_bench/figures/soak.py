"""An hour of `nbfagg check --soak`: how many calls, the worst error, and by how much memory grew."""

from __future__ import annotations

from typing import Any

from nbfagg import soak

from .record import caption

MINUTES = 60


def measure(rounds: int | None) -> dict[str, Any]:
    """Soak for an hour, or for `rounds` minutes; what fails is not recorded."""
    report = soak.soak(rounds or MINUTES)
    if report.failure is not None:
        seed, failure = report.failure
        raise SystemExit(f"soak: seed {seed}: {failure}")
    return {
        "minutes": report.minutes,
        "threads": report.threads,
        "calls": dict(sorted(report.tally.calls.items())),
        "children": report.tally.children,
        "worst_share": dict(sorted(report.tally.worst.items())),
        "resident_mib": report.resident,
        "growth_mib": report.growth,
    }


def render(found: dict[str, Any]) -> str:
    calls = sum(found["calls"].values())
    worst = max(found["worst_share"].values())
    text = (
        f"{calls:,} calls in {found['minutes']:.0f} minutes on {found['threads']} threads, of which "
        f"{found['calls']['refused']:,} had to be refused, and {found['children']:,} forked children: each "
        f"was as promised, the worst error {worst:.2f} of what is allowed. Resident memory grew by "
        f"{max(0.0, found['growth_mib']):.1f} MiB at most once it had warmed up."
    )
    return text + "\n\n" + caption(found, "numba", "numpy")
