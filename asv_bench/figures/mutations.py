"""What caught each deliberate breakage of one line: tests/mutations.py, whose list is beside it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .record import ROOT, caption

COMMAND = [sys.executable, str(ROOT / "tests" / "mutations.py")]


def measure(rounds: int | None) -> dict[str, Any]:
    del rounds  # what notices, not how long it takes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.json"
        # It fails if one survives, which is recorded too.
        subprocess.run([*COMMAND, "--record", str(path)], check=False, stdout=2)  # standard error
        return {"rows": json.loads(path.read_text(encoding="utf-8"))}


def render(found: dict[str, Any]) -> str:
    """One sentence: the list itself is in the record."""
    rows = found["rows"]
    caught = sum(row["caught"] for row in rows)
    files = len({row["file"] for row in rows})
    said = (
        f"Of {len(rows)} deliberate breakages of one line, in {files} files, {caught} are noticed by the "
        "test named for each: `python tests/mutations.py` runs them, `--list` shows them."
    )
    return f"{said}\n\n{caption(found, 'numba', 'numpy')}"
