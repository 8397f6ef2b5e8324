"""``nbfagg bench``: fagg against the limit and the peers that are installed, on the machine at hand."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .cases import CASES, COMPARED, comparable
from .compare import Comparison
from .machine import describe, machine, rounded
from .peers import PEERS
from .plot import SUFFIXES, save
from .report import EXPLANATION, lines, title
from .text import shape

Note = Callable[[], object]


def show_names() -> int:
    """Print the shapes and the peers that can be asked for."""
    print("shapes (* by default):")
    for name in comparable():
        print(f"  {'*' if name in COMPARED else ' '} {name:<24} {shape(CASES[name].shape)}")
    print("peers:", *PEERS, sep="\n    ")
    return 0


def unknown(shapes: Sequence[str], peers: Sequence[str]) -> str:
    """Say which names nobody knows; "" if there are none."""
    for kind, names, known in (("shape", shapes, comparable()), ("peer", peers, list(PEERS))):
        for name in names:
            if name not in known:
                return f"no {kind} {name!r}; want one of {', '.join(map(repr, known))}"
    return ""


def run(
    shapes: Sequence[str],
    peers: Sequence[str] | None,
    *,
    dtype: str = "float32",
    rounds: int = 9,
    plot: Path | None = None,
    record: Path | None = None,
) -> int:
    """Compare, and print a table for each shape as it is known.

    Parameters
    ----------
    shapes : sequence of str
        Names in `cases.CASES`.
    peers : sequence of str, optional
        Names in `peers.PEERS`; all by default. Those that are not installed are named.
    dtype : str
        "float32" or "float64".
    rounds : int
        Turns of each side.
    plot, record : pathlib.Path, optional
        Where to write a picture, and JSON. Both are looked at before anything is
        measured, and written whole or not at all.

    Returns
    -------
    int
        0.

    Raises
    ------
    OSError
        For a file that cannot be written, or a picture that cannot be drawn.
    """
    for path in (plot, record):
        if path is not None:
            _check_place(path)
    if plot is not None and record is not None and plot.resolve() == record.resolve():
        raise OSError(f"{plot} cannot be both the picture and the record")
    if plot is not None:
        _check_plot(plot)
    found: dict[str, Any] = {"figure": "bench", "machine": machine(), "shapes": []}
    told: set[str] = set()
    for name in shapes:
        compared = Comparison(name, dtype, peers)
        for line in compared.missing:
            if line not in told:
                print(line)
                told.add(line)
        with _progress(name, compared.steps(rounds)) as note:
            row = compared.measure(rounds, note=note)
        found["shapes"].append(rounded(row))
        print(f"\n{title(row)}", *lines(row), sep="\n", flush=True)
    # Known only now: which layer Numba's threads came from.
    found["machine"] = machine()
    print(f"\n{EXPLANATION.format(rounds=rounds)}")
    print(f"\n{describe(found['machine'], 'nbfagg', 'numba', 'numpy')}, {found['machine']['date']}")
    if record is not None:
        text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
        _write(record, lambda path: path.write_text(text, encoding="utf-8"))
    if plot is not None:
        _write(plot, lambda path: save(found, path))
    return 0


@contextlib.contextmanager
def _progress(name: str, steps: int) -> Iterator[Note]:
    """Show how far a shape is, to a person at a terminal; elsewhere say that it has begun."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if not (terminal and find_spec("rich")):
        print(f"nbfagg: {name} ...", file=sys.stderr, flush=True)
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    # Gone when it is done: what stays is the table.
    # Drawn between turns, by nobody's thread: one of its own would run while others are timed.
    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        task = progress.add_task(name, total=steps)
        yield lambda: progress.update(task, advance=1, refresh=True)


def _check_place(path: Path) -> None:
    """Refuse what cannot be written beside and moved into place; a link stays, its file is replaced."""
    # What stands for an open file, /dev/stdout say, may lead to a file, which stays open elsewhere.
    if path.absolute().parent == Path("/dev") or (path.exists() and not path.is_file()):
        raise OSError(f"{path} is no file; want the name of one")
    path = path.resolve()
    folder = path.parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise PermissionError(f"{path} cannot be written")


def _check_plot(path: Path) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise OSError(f"{path}: want a name that ends in {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}")
    if not find_spec("matplotlib"):
        raise OSError(f"{path}: a picture needs Matplotlib (pip install 'nbfagg[plot]')")


def _write(path: Path, write: Callable[[Path], object]) -> None:
    """Write beside the file and move it there, so that an interruption leaves no half of it."""
    place = path.resolve()
    part = place.with_name(f".{place.stem}.{os.getpid()}{place.suffix}")
    try:
        write(part)
        part.replace(place)
    finally:
        part.unlink(missing_ok=True)
    print(f"wrote {path}")
