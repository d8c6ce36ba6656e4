"""The site: it builds without a warning, its links lead somewhere, its lessons are whole, and no page asks another server."""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import pytest

pytest.importorskip("mkdocs", reason="the site's builder is an extra: pip install cmlab[docs]")

ROOT = Path(__file__).parents[1]
LESSONS = sorted(ROOT.glob("notebooks/*.ipynb"))
ASKED_FOR_BY = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src", "video": "src", "audio": "src"}


class Content(HTMLParser):
    """The names that a page's links may use, where its own links lead, and what it asks for by itself."""

    def __init__(self, text: str):
        super().__init__()
        self.names, self.links, self.asked, self.images, self.raw = set(), set(), set(), 0, []
        self.stack: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.names |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.links.add(found["href"])
        self.asked |= {found[ASKED_FOR_BY[tag]]} if found.get(ASKED_FOR_BY.get(tag, "")) else set()
        self.images += tag == "img"
        if tag not in ("img", "link", "input", "br", "meta", "hr", "source"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        while self.stack and self.stack.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"pre", "code", "script", "style"} & set(self.stack):
            self.raw += re.findall(r"(?m)\n[*+-] .*|\*\*\w.*|\$\$.*|!?\[[^]]+\]\(.*|^#+ .*|^\|.*\|$", data)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder in $CMLAB_SITE, where CI has built it; else a new one."""
    if "CMLAB_SITE" in os.environ:
        return Path(os.environ["CMLAB_SITE"]).resolve()
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(folder)]
    env = os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[str, Content]:
    return {path.relative_to(site).as_posix(): Content(path.read_text("utf-8")) for path in site.rglob("*.html")}


def test_every_link_leads_somewhere(site, pages):
    broken = []
    for uri, page in pages.items():
        for link in page.links | page.asked:
            scheme, _, path, _, name = urlsplit(urljoin(f"/{uri}", link))
            target = unquote(path)[1:]
            if scheme or uri == "404.html":  # another server's; and a page that is shown under any address
                continue
            if not (site / target).is_file() or (name and target in pages and unquote(name) not in pages[target].names):
                broken.append(f"{uri}: {link}")
    assert broken == []


def test_every_lesson_is_whole(site, pages):
    for path in LESSONS:
        cells = json.loads(path.read_text("utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", ())]
        held = [output.get("data", {}) for output in outputs]
        figures = sum("".join(data.get("text/html", "")).count("<img ") or "image/png" in data for data in held)
        page = pages[f"notebooks/{path.stem}.html"]
        assert page.images == figures > 0, path.name
        text = (site / f"notebooks/{path.stem}.html").read_text("utf-8")
        assert text.count('"language-python highlight"') >= sum(cell["cell_type"] == "code" for cell in cells)
        assert (site / "notebooks" / path.name).read_bytes() == path.read_bytes()


def test_no_markdown_is_left_as_it_was_written(pages):
    left = {uri: page.raw for uri, page in pages.items() if page.raw and not uri.startswith(("reference/", "exported/"))}
    assert left == {}


def test_a_page_asks_no_other_server(pages):
    assert len(pages) > 50
    assert {uri: asked for uri, page in pages.items() if (asked := {a for a in page.asked if re.match(r"(\w+:)?//", a)})} == {}


def test_formulas_and_figures_are_drawn_from_the_site_alone(site):
    playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need the extra: pip install cmlab[dev]")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no browser: neither chromium nor google-chrome is installed")
    handler = functools.partial(QuietHandler, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server, playwright.sync_playwright() as started:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address, asked = f"http://127.0.0.1:{server.server_port}/", []
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 844})
        page.on("request", lambda request: asked.append(request.url))
        page.on("response", lambda response: asked.append(f"{response.status} {response.url}") if response.status >= 400 else None)
        for uri in ("index.html", "plane.html", "reference/noise.html", "notebooks/01_from_noise_to_data.html"):
            page.goto(address + uri)
            page.wait_for_load_state("networkidle")
            wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, f"{uri} is {wide} pixels wider than a phone"
        page.wait_for_function("!document.querySelector('.arithmatex:not(:has(mjx-container))')")
        page.wait_for_function("document.querySelectorAll('.plotly-figure .main-svg').length > 0")
        assert page.locator("mjx-container").count() > 10 and page.locator("[data-mml-node=merror]").count() == 0
        page.goto(address + "index.html?q=tweedie")
        page.wait_for_function("document.querySelectorAll('.md-search-result__item').length > 0")
        browser.close()
        server.shutdown()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:", "about:"))] == []


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass
