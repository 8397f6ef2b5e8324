"""The tables of both READMEs, from the records alone: `<!-- figures:NAME -->` ... `<!-- /figures -->`."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

from . import record

READMES = record.ROOT / "README.md", record.ROOT / "asv_bench" / "README.md"
# The marker's name: the figure, and what of its module writes the table.
TABLES = {
    "speed": ("speed", "render"),
    "views": ("speed", "render_views"),
    "peers": ("peers", "render"),
    "small": ("small", "render"),
    "startup": ("startup", "render"),
    "accuracy": ("accuracy", "render"),
    "exponential": ("exponential", "render"),
    "options": ("options", "render"),
    "gradient": ("gradient", "render"),
    "gradient-errors": ("gradient", "render_errors"),
    "torch": ("torch_training", "render"),
    "dask": ("dask", "render"),
    "run": ("run", "render"),
    "memory": ("memory", "render"),
    "neighbour": ("neighbour", "render"),
    "processors": ("processors", "render"),
    "repeat": ("repeat", "render"),
    "hazards": ("hazards", "render"),
    "soak": ("soak", "render"),
    "mutations": ("mutations", "render"),
}
MARKED = re.compile(r"(?P<begin><!-- figures:(?P<name>[\w-]+) -->\n).*?(?P<end><!-- /figures -->)", re.DOTALL)


def main(*, check: bool, path: Path | None = None) -> int:
    """Write, or check, the tables of one file or of both; give the exit code."""
    return max(_update(one, check) for one in (READMES if path is None else (path,)))


def _update(path: Path, check: bool) -> int:
    try:
        old = path.read_text(encoding="utf-8")
        new = MARKED.sub(_block, old)
    except (OSError, ValueError) as wrong:
        print(f"readme: {wrong}", file=sys.stderr)
        return 1
    if new == old:
        return 0
    if check:
        print(
            f"readme: {path} differs from the records: python -m asv_bench.figures readme",
            file=sys.stderr,
        )
        return 1
    path.write_text(new, encoding="utf-8")
    return 0


def _block(marked: re.Match[str]) -> str:
    name = marked["name"]
    if name not in TABLES:
        raise ValueError(f"no figure {name!r}, there are {', '.join(TABLES)}")
    figure, function = TABLES[name]
    text = getattr(importlib.import_module(f"{__package__}.{figure}"), function)(record.read(figure))
    return f"{marked['begin']}\n{text}\n\n{marked['end']}"
