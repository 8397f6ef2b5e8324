"""The published site in a browser that reaches no host but this one: front page, grid, a graph, regressions.

A scratch repository has made-up results with a step in one benchmark; the project's own are published too.
"""

import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

pytest.importorskip("asv")
pytest.importorskip("matplotlib")
playwright = pytest.importorskip("playwright.sync_api")

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "asv_bench" / "results"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
STEPPED = "small.Small.time_small"
COMMITS = 24
BROWSER = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH"),
    pytest.mark.skipif(shutil.which("npm") is None, reason="no npm on PATH, which brings the site's scripts"),
]


def run(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def scratch(folder):
    """A repository of commits that say nothing, with results in which one benchmark gets slower half-way."""
    folder.mkdir()
    shutil.copy(ROOT / "asv.conf.json", folder)
    shutil.copytree(ROOT / "asv_bench", folder / "asv_bench", ignore=shutil.ignore_patterns("two-cores"))
    # What was fetched before need not be again.
    if (ROOT / ".asv" / "npm").is_dir():
        shutil.copytree(ROOT / ".asv" / "npm", folder / ".asv" / "npm")
    git = functools.partial(run, "git", "-c", "user.name=a", "-c", "user.email=a@b", cwd=folder)
    git("init", "-q", "-b", "main")
    hashes = []
    for i in range(COMMITS):
        git("commit", "-q", "--allow-empty", "-m", f"commit {i}")
        hashes.append(git("rev-parse", "HEAD").strip())
    results = folder / "asv_bench" / "results"
    machine = json.loads((ROOT / "asv_bench" / "machine.json").read_text())["two-cores"]
    (results / "two-cores").mkdir()
    (results / "two-cores" / "machine.json").write_text(json.dumps({**machine, "version": 1}))
    benchmarks = json.loads((results / "benchmarks.json").read_text())
    for i, commit in enumerate(hashes):
        found = {}
        for name, benchmark in benchmarks.items():
            if name == "version":
                continue
            count = 1
            for choices in benchmark["params"]:
                count *= len(choices)
            slow = 2.0 if name == STEPPED and i >= COMMITS // 2 else 1.0
            values = [1e-3 * slow * (1 + 0.001 * (i % 3))] * count
            found[name] = [values, benchmark["params"], benchmark["version"]]
        record = {
            "commit_hash": commit,
            "env_name": "virtualenv",
            "date": 1_700_000_000_000 + 86_400_000 * i,
            "params": {**machine, "python": "3.11"},
            "python": "3.11",
            "requirements": {},
            "env_vars": {},
            "result_columns": ["result", "params", "version"],
            "results": found,
            "durations": {},
            "version": 2,
        }
        (results / "two-cores" / f"{commit[:8]}-virtualenv.json").write_text(json.dumps(record))
    return hashes


def publish(folder, site):
    return run(sys.executable, "-m", "asv", "publish", "--no-pull", "-o", str(site), cwd=folder)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scratch") / "repository"
    hashes = scratch(folder)
    publish(folder, folder.parent / "site")
    # For the next test and the next run: the scripts are hashed whenever they are used.
    shutil.copytree(folder / ".asv" / "npm", ROOT / ".asv" / "npm", dirs_exist_ok=True)
    return folder.parent / "site", hashes


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=BROWSER)
        yield started
        started.close()


@pytest.fixture
def opened(browser, site, tmp_path):
    """A page of the site; nothing may have failed to load or to run, nor been asked of another host."""
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(quiet, directory=site[0]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    wrong = []

    def failed(request):
        # What a page that hands on to another one had begun to load is given up.
        if request.failure != "net::ERR_ABORTED":
            wrong.append(f"{request.failure}: {request.url}")

    def open_at(path):
        page.goto(address + path)
        page.wait_for_load_state("networkidle")
        return page

    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("request", lambda request: request.url.startswith(address) or wrong.append(request.url))
    page.on("requestfailed", failed)
    page.on("response", lambda response: response.ok or wrong.append(f"{response.status}: {response.url}"))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    try:
        yield open_at
        page.screenshot(path=tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 10_000
    finally:
        page.close()
        server.shutdown()
        server.server_close()
    assert wrong == []


def load_scripts():
    sys.path.append(str(ROOT))
    try:
        from asv_bench.dashboard import scripts
    finally:
        sys.path.remove(str(ROOT))
    return scripts


def test_no_page_loads_anything_from_elsewhere(site):
    scripts = load_scripts()
    for name in ("index.html", "history.html", "error.html"):
        for tag in scripts.TAG.findall((site[0] / name).read_text()):
            assert not scripts.REMOTE.search(tag), tag
    assert len(list((site[0] / "scripts").rglob("*.js"))) == 9
    assert len(list((site[0] / "scripts").rglob("LICENSE.txt"))) == 5


def test_an_unknown_remote_script_stops_the_publishing(tmp_path):
    scripts = load_scripts()
    from asv.util import UserError

    with pytest.raises(UserError, match=r"new\.js"):
        scripts.make_local('<script src="https://example.org/new.js"></script>', tmp_path)


def test_another_archive_is_refused(tmp_path, monkeypatch):
    scripts = load_scripts()
    from asv.util import UserError

    monkeypatch.setattr(scripts, "CACHE", tmp_path)
    package = scripts.PACKAGES[0]
    package.archive.write_bytes(b"something else")
    with pytest.raises(UserError, match="sha512"):
        scripts._copy(package, tmp_path)
    assert not package.archive.exists()


@pytest.mark.parametrize("width", [390, 1280])
def test_the_front_page(opened, width):
    page = opened("")
    page.set_viewport_size({"width": width, "height": 900})
    assert page.inner_text("h1") == "nbfagg"
    # Nothing has to be scrolled sideways, and every picture is drawn as wide as it can be read.
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    pictures = page.query_selector_all("img")
    assert len(pictures) >= 8
    for picture in pictures:
        assert picture.evaluate("image => image.complete && image.naturalWidth > 0")
        assert picture.bounding_box()["width"] >= 320
    records = RESULTS / "figures"
    for section, name in (("peers", "peers"), ("limit", "speed"), ("errors", "accuracy")):
        machine = json.loads((records / f"{name}.json").read_text())["machine"]
        text = page.inner_text(f"#{section} .where")
        assert machine["cpu"] in text
        assert machine["date"] in text
        assert machine["commit"] in text
    for row in json.loads((records / "peers.json").read_text())["shapes"]:
        picture = f"front/peers-{row['name'].replace(' ', '-')}.svg"
        table = page.text_content(f'#peers figure:has(img[src="{picture}"]) table')
        assert all(peer in table for peer in ("fagg", *row["peer_seconds"]))


def test_the_front_page_leads_to_the_history(opened):
    page = opened("")
    page.click("nav a >> nth=0")
    page.wait_for_selector("#summarygrid-display a.btn")
    assert page.url.endswith("/history.html#/")


def test_the_grid_shows_every_benchmark(opened):
    page = opened("history.html#/")
    page.wait_for_selector("#summarygrid-display a.btn")
    benchmarks = json.loads((RESULTS / "benchmarks.json").read_text())
    links = [link.get_attribute("href") for link in page.query_selector_all("#summarygrid-display a.btn")]
    assert benchmarks.keys() - {"version"} <= {link.lstrip("#").partition("?")[0] for link in links}


def test_a_graph_has_the_step(opened):
    # By the address that asv's feed of regressions has: the front page hands it on.
    page = opened(f"index.html#{STEPPED}")
    page.wait_for_selector("#main-graph canvas")
    assert page.inner_text("#title").strip() == STEPPED
    plot = "$('#main-graph').data('plot')"
    page.wait_for_function(f"{plot} && {plot}.getData().length > 0")
    points = page.evaluate(f"{plot}.getData()[0].data")
    assert len(points) == COMMITS
    assert points[-1][1] == pytest.approx(2 * points[0][1], rel=0.01)
    # Something is drawn: pixels that are not empty.
    drawn = page.evaluate(
        "(() => { const c = document.querySelector('#main-graph canvas');"
        "return c.getContext('2d').getImageData(0, 0, c.width, c.height).data.some(x => x > 0); })()"
    )
    assert drawn


def test_the_regressions_page_names_the_step_and_nothing_else(opened, site):
    page = opened("history.html#/regressions")
    page.wait_for_selector("#regressions-body table tbody tr")
    rows = [row.inner_text() for row in page.query_selector_all("#regressions-body table tbody tr")]
    assert rows
    assert all(STEPPED in row for row in rows)
    assert any(site[1][COMMITS // 2][:8] in row for row in rows)


def test_what_is_committed_can_be_published(tmp_path):
    publish(ROOT, tmp_path / "site")
    index = json.loads((tmp_path / "site" / "index.json").read_text())
    benchmarks = json.loads((RESULTS / "benchmarks.json").read_text())
    assert index["benchmarks"].keys() == benchmarks.keys() - {"version"}
    shallow = subprocess.run(
        ["git", "-C", ROOT, "rev-parse", "--is-shallow-repository"],
        capture_output=True,
        text=True,
        check=True,
    )
    if shallow.stdout.strip() == "true":
        return  # Commits that were not cloned cannot be shown.
    recorded = {path.name.partition("-")[0] for path in RESULTS.glob("*/*-*.json")}
    shown = {commit[:8] for commit in index["revision_to_hash"].values()}
    assert recorded <= shown
