"""The page that a person sees first: how fast, how exact, where and when it was measured.

Everything on it comes from the records under asv_bench/results/figures; Matplotlib draws it.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nbfagg.bench.machine import describe
from nbfagg.bench.plot import FAGG, LIMIT, PEER, WIDTH, bars
from nbfagg.bench.report import seconds
from nbfagg.bench.text import digits, duration, shape

from ..figures import accuracy
from ..figures.record import read

PICTURES = "front"
# fagg, and the others in the order in which they come.
INKS = (FAGG, LIMIT, PEER, "#0f766e")

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>nbfagg: speed and accuracy</title>
<link rel="icon" href="swallow.ico">
<script>
// asv's own addresses, as its feed has them: index.html#benchmark
if (location.hash.length > 1) location.replace({history} + location.hash);
</script>
<style>
body {{
  font: 16px/1.5 system-ui, sans-serif; color: #1e293b;
  margin: 0 auto; max-width: 76rem; padding: 0 1rem;
}}
nav a {{ display: inline-block; margin: 0 1rem .5rem 0; padding: .25rem 0; color: #9a3412; }}
.grid {{
  display: grid; gap: 1rem 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr));
}}
figure {{ margin: 0; }}
img {{ width: 100%; height: auto; }}
figcaption, .where {{ font-size: .875rem; color: #475569; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
td, th {{ text-align: right; padding: .1rem .4rem; border-bottom: 1px solid #e2e8f0; font-weight: normal; }}
td:first-child, th:first-child {{ text-align: left; }}
summary {{ padding: .25rem 0; cursor: pointer; }}
</style>
</head>
<body>
<h1>nbfagg</h1>
<p>Stable attention aggregation, the marginal of a joint softmax. How fast it is, shape by shape, against what
reading memory takes and against everybody else; and by how much its results are off.</p>
<nav>
<a href="{page}#/">Every benchmark, commit by commit</a>
<a href="{page}#/summarylist">As a list</a>
<a href="{page}#/regressions">Regressions</a>
</nav>
{sections}
</body>
</html>
"""


def page(site: Path, history: str) -> str:
    """Draw the pictures into the site, and give the page that shows them."""
    (site / PICTURES).mkdir(exist_ok=True)
    sections = [*_against_peers(site), *_against_limit(site), *_errors(site)]
    return PAGE.format(page=history, history=json.dumps(history), sections="\n".join(sections))


def _section(name: str, title: str, text: str, figures: Iterable[str], found: dict[str, Any]) -> str:
    where = found["machine"]
    packages = ("numba", "numpy", "scipy", "torch", "jax", "openvino", "onnxruntime")
    place = f"{describe(where, *packages)}; {where['date']}, commit {where['commit']}"
    return (
        f'<section id="{name}">\n<h2>{html.escape(title)}</h2>\n<p>{html.escape(text)}</p>\n'
        f'<p class="where">{html.escape(place)}</p>\n'
        f'<div class="grid">\n{"".join(figures)}</div>\n</section>'
    )


def _figure(site: Path, name: str, drawn: Any, caption: str, table: list[list[str]]) -> str:
    """Write a picture; give it with its caption and, folded away, its numbers."""
    path = f"{PICTURES}/{name}.svg"
    drawn.savefig(site / path)
    head, *rows = [[html.escape(cell) for cell in row] for row in table]
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return (
        f'<figure>\n<img src="{path}" alt="{html.escape(caption)}">\n'
        f"<figcaption>{html.escape(caption)}</figcaption>\n"
        f"<details><summary>Numbers</summary>\n<table><tr>{cells}</tr>\n{body}</table></details>\n</figure>\n"
    )


def _drawn(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(WIDTH, height), layout="constrained")
    return drawn, drawn.subplots()


def _slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)


def _against_peers(site: Path) -> Iterator[str]:
    found = read("peers")
    figures = []
    for row in found["shapes"]:
        times = seconds(row)
        drawn, axes = _drawn(0.9 + 0.24 * len(times))
        bars(row, axes)
        table = [["", "time", "GB/s", "times fagg"]]
        for who, took in times.items():
            over = row["times_fagg"].get(who, took / row["fagg_seconds"])
            table.append([who, duration(took), digits(row["bytes"] / took / 1e9), f"{digits(over)}x"])
        best = row["fastest"]
        caption = (
            f"{row['name']} {shape(row['shape'])}: fagg takes {duration(row['fagg_seconds'])}, "
            f"the fastest other, {best}, {digits(row['times_fagg'][best])} times that"
        )
        figures.append(_figure(site, f"peers-{_slug(row['name'])}", drawn, caption, table))
    text = (
        "Billions of bytes of float32 logits a second, all sides in turns in one process; longer is faster."
    )
    yield _section("peers", "Against everybody else", text, figures, found)


def _against_limit(site: Path) -> Iterator[str]:
    found = read("speed")
    rows = found["shapes"]
    drawn, axes = _drawn(0.9 + 0.42 * len(rows))
    places = range(len(rows))
    ours = [row["out"]["gb_per_s"] for row in rows]
    limits = [row["out"]["gb_per_s"] * row["out"]["seconds"] / row["out"]["limit_seconds"] for row in rows]
    axes.barh([place - 0.2 for place in places], limits, 0.38, color=LIMIT, label="read limit")
    drawn_ours = axes.barh([place + 0.2 for place in places], ours, 0.38, color=FAGG, label="fagg")
    axes.bar_label(drawn_ours, [f"{row['out']['share']:.2f} of it" for row in rows], padding=3, fontsize=8)
    axes.set_yticks(list(places), [row["name"] for row in rows], fontsize=9)
    axes.invert_yaxis()
    axes.set_xlim(0, max(*limits, *ours) * 1.1)
    axes.set_xlabel("GB/s of logits")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, fontsize=8, frameon=False)
    table = [["shape", "GB/s", "limit", "share", "goal"]]
    for row, limit in zip(rows, limits, strict=True):
        share, goal = row["out"]["share"], row["goal"]
        name = f"{row['name']} {shape(row['shape'])}"
        table.append([name, digits(row["out"]["gb_per_s"]), digits(limit), f"{share:.2f}", f"{goal:.2f}"])
    caption = "What fagg reaches of the speed at which the bytes can be moved at all"
    text = (
        "The limit is a threaded read of the logits, a fill of the result and, where that outgrows the "
        "caches, its scaling."
    )
    yield _section(
        "limit", "Against the memory bus", text, [_figure(site, "limit", drawn, caption, table)], found
    )


def _errors(site: Path) -> Iterator[str]:
    found = read("accuracy")
    figures = []
    for dtype in accuracy.DTYPES:
        who, shares = accuracy.histogram(found, dtype)
        if not who:
            continue
        drawn, axes = _drawn(3.2)
        width = 0.8 / len(who)
        for place, name in enumerate(who):
            at = [i + (place - (len(who) - 1) / 2) * width for i in range(len(found["bins"]))]
            axes.bar(at, shares[name], width, color=INKS[place], label=name)
        labels = [name.removeprefix("to ") for name in found["bins"]]
        axes.set_xticks(range(len(labels)), labels, fontsize=8, rotation=30)
        axes.set_xlabel("units in the last place, up to")
        axes.set_ylabel("% of alphas")
        axes.set_title(dtype, fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8)
        table = [[dtype, *who]]
        for i, name in enumerate(found["bins"]):
            table.append([name, *(f"{shares[one][i]:.2f} %" for one in who)])
        worst = max(
            row["normal"]["worst"] for row in found["rows"] if (row["who"], row["dtype"]) == ("fagg", dtype)
        )
        caption = (
            f"{dtype}: errors against an oracle of higher precision; fagg's largest is {digits(worst)} ulp"
        )
        figures.append(_figure(site, f"errors-{dtype}", drawn, caption, table))
    text = "Rows from 1 to 2^26 logits of eight kinds, each row of inputs weighing the same."
    yield _section("errors", "How exact", text, figures, found)
