"""What was measured, where and with what: one JSON file a figure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from nbfagg.bench.machine import describe, machine, rounded

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "asv_bench" / "results" / "figures"


def progress(figure: str, line: str) -> None:
    print(f"{figure}: {line}", file=sys.stderr, flush=True)


def write(name: str, found: dict[str, Any]) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.json"
    path.write_text(text({"figure": name, "machine": where(), **rounded(found)}), encoding="utf-8")
    progress(name, f"recorded in {os.path.relpath(path)}")


def read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def text(found: dict[str, Any]) -> str:
    """JSON with a line for each entry of a list: short files, and differences that can be read."""
    entries = (f" {_compact(name)}: {_lines(value)}" for name, value in found.items())
    return "{\n" + ",\n".join(entries) + "\n}\n"


def _lines(value: Any) -> str:
    if isinstance(value, dict) and value:
        entries = [f"{_compact(name)}: {_compact(entry)}" for name, entry in value.items()]
        return "{\n  " + ",\n  ".join(entries) + "\n }"
    if isinstance(value, list) and any(isinstance(entry, dict | list) for entry in value):
        return "[\n  " + ",\n  ".join(map(_compact, value)) + "\n ]"
    return _compact(value)


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def where() -> dict[str, Any]:
    """The machine and the commit."""
    commit = _git("rev-parse", "--short=12", "HEAD") or "unknown"
    changed = bool(_git("status", "--porcelain", "--", "nbfagg"))
    return {**machine(), "commit": commit + (" and changes" if changed else "")}


def caption(found: dict[str, Any], *packages: str) -> str:
    """One line below a table: the machine, the versions that matter to it, when, and how to do it again."""
    place = found["machine"]
    when = f"{place['date']}, commit {place['commit']}"
    return f"*{describe(place, *packages)}; {when}. `python -m asv_bench.figures {found['figure']}`*"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
