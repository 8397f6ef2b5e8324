"""What `asv publish` adds to asv's site: scripts without remote hosts, and a front page.

asv imports this for every command (``plugins`` in asv.conf.json), so what is heavy waits until it publishes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asv.publishing import OutputPublisher

from . import scripts

# asv's own page, whose name the front page takes.
HISTORY = "history.html"


class Dashboard(OutputPublisher):
    """Make the published site whole; asv calls this after it has written its own pages."""

    @classmethod
    def publish(cls, conf: Any, repo: Any, benchmarks: Any, graphs: Any, revisions: Any) -> None:
        from . import front

        site = Path(conf.html_dir)
        index = site / "index.html"
        page = scripts.make_local(index.read_text(encoding="utf-8"), site)
        (site / HISTORY).write_text(page, encoding="utf-8")
        index.write_text(front.page(site, HISTORY), encoding="utf-8")
