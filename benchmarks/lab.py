"""Open the lessons in JupyterLab in a real browser: ``python benchmarks/lab.py [NN ...]``. Needs a browser, extras lab and dev.

For every lesson, in a window 1280 pixels wide: what is wider than its place (as committed, and after all cells ran), whether the
slider, buttons and 3D pictures react, what the browser complains about. One row each; the exit status is 1 where anything is wrong.
So far only single lessons went through it: a run over all twelve, and --readme, have not come to their end anywhere.

    python benchmarks/lab.py                             # all lessons at full size
    python benchmarks/lab.py 05 07 --fast                # two of them, with shrunk work
    python benchmarks/lab.py --committed                 # as they are committed, without running them
    python benchmarks/lab.py --pictures /tmp/shots       # and pictures of whole lessons, light and dark, to look at
    python benchmarks/lab.py --readme benchmarks/figures # only the three pictures of the README
"""

import argparse
import io
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

ROOT = Path(__file__).parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
WINDOW = {"width": 1280, "height": 900}
TALLEST = 16_000  # pixels; the browser cannot make a higher picture
SETTINGS = {
    "@jupyterlab/apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
    "@jupyterlab/notebook-extension/tracker": '{"windowingMode": "none"}',  # every cell is on the page, also out of sight
}

# What is wider than its place, with all folds open: boxes that would scroll or are cut, and things that stick out of their cell.
MEASURE = """() => {
  const found = []
  const say = (k, e, what) => found.push(`cell ${k}, ${e.tagName.toLowerCase()}.${e.classList[0] || ''}: ${what}`)
  document.querySelectorAll('.jp-Notebook details').forEach(fold => fold.open = true)
  document.querySelectorAll('.jp-Notebook .jp-Cell').forEach((cell, k) => {
    const edge = cell.getBoundingClientRect().right
    const boxes = '.jp-OutputArea-output, .jp-RenderedHTMLCommon, .cm-scroller, pre, table, figure, .widget-box, '
      + '.widget-label, .widget-readout, .jupyter-button'
    for (const e of cell.querySelectorAll(boxes))
      if (e.clientWidth && e.scrollWidth > e.clientWidth + 1) say(k, e, `${e.scrollWidth} pixels in ${e.clientWidth}`)
    for (const e of cell.querySelectorAll('img, table, canvas, button, mjx-container, figcaption')) {
      const box = e.getBoundingClientRect()
      if (box.width && box.right > edge + 1) say(k, e, `${Math.round(box.right - edge)} pixels out of its cell`)
      if (e.src && box.width && e.complete && !e.naturalWidth) say(k, e, 'picture does not load')
    }
  })
  if (document.documentElement.scrollWidth > window.innerWidth) found.push('the page itself')
  return found
}"""
COMMAND = "([name, options]) => window.jupyterapp.commands.execute(name, options).then(() => null)"


@contextmanager
def server(fast: bool = False) -> Iterator[str]:
    """A JupyterLab of this Python on a copy of the lessons; yields its address. The reader's settings stay untouched."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        home = Path(scratch)
        shutil.copytree(ROOT / "notebooks", home / "lessons", ignore=shutil.ignore_patterns(".*", "__pycache__"))
        for name, text in SETTINGS.items():
            path = home / "settings" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        env = {**os.environ, "PYTHONPATH": str(ROOT), "CMLAB_FAST": str(int(fast)), "IPYTHONDIR": str(home / "ipython")}
        env |= {f"JUPYTER_{kind}_DIR": str(home / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
        env |= {f"JUPYTERLAB_{kind}_DIR": str(home / kind.lower()) for kind in ("SETTINGS", "WORKSPACES")}
        env.pop("CMLAB_STATIC", None)
        options = f"--no-browser --allow-root --ServerApp.ip=127.0.0.1 --ServerApp.port={port} --ServerApp.port_retries=0".split()
        options += ["--IdentityProvider.token=", f"--ServerApp.root_dir={home / 'lessons'}"]
        options += ["--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"]
        command = [sys.executable, "-m", "jupyterlab", *options]
        with open(home / "log", "wb") as log:
            process = subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)
        try:
            address = f"http://127.0.0.1:{port}"
            _wait_for(address, process, home / "log")
            yield address
        finally:
            process.terminate()  # it ends its kernels
            process.wait(60)


def _wait_for(address: str, process: subprocess.Popen, log: Path, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError):
            urllib.request.urlopen(f"{address}/api", timeout=5).close()
            return
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start:\n{log.read_text()[-2000:]}")


@contextmanager
def browser() -> Iterator[Any]:
    """A browser window factory (playwright's context) of 1280 by 900 pixels."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        sys.exit(f"No browser was found: install one of {', '.join(BROWSERS)}.")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS.split())
        yield chromium.new_context(viewport=WINDOW)  # pyright: ignore[reportArgumentType]
        chromium.close()


@dataclass
class Lesson:
    """One lesson in one tab. ``complaints``: errors of the browser's console, and requests to other machines."""

    page: Any
    complaints: list[str] = field(default_factory=list)

    def command(self, name: str, **options: Any) -> None:
        """Run one of JupyterLab's commands and wait for its end."""
        self.page.evaluate(COMMAND, [name, options])

    def theme(self, name: str) -> None:
        """``Light`` or ``Dark``."""
        self.command("apputils:change-theme", theme=f"JupyterLab {name}")
        self.page.wait_for_timeout(1500)

    def too_wide(self) -> list[str]:
        """What is wider than its place: cell, element, by how much."""
        self.page.wait_for_timeout(1000)  # formulas and pictures arrive
        return self.page.evaluate(MEASURE)

    def run(self, last: int | None = None) -> int:
        """Run all cells, or those before cell ``last``; returns how many printed an error or a warning."""
        if last is None:
            self.command("notebook:run-all-cells")
        else:
            self.page.evaluate("k => window.jupyterapp.shell.currentWidget.content.activeCellIndex = k", last)
            self.command("notebook:run-all-above")
        self.page.wait_for_timeout(1000)
        return self.page.locator('[data-mime-type*="error"], [data-mime-type*="stderr"]').count()

    def slide(self, fractions: Sequence[float] = (0.5, 1.0)) -> int:
        """Drag the (only) slider by its handle to these fractions of its length; returns how many different pictures were seen."""
        slider, picture = self.page.locator(".widget-hslider"), self.page.locator(".widget-html img")
        slider.scroll_into_view_if_needed()
        self.page.wait_for_timeout(500)
        handle, rail = slider.locator(".noUi-handle").bounding_box(), slider.locator(".slider-container").bounding_box()
        seen, y = {picture.get_attribute("src")}, handle["y"] + handle["height"] / 2
        self.page.mouse.move(handle["x"] + handle["width"] / 2, y)
        self.page.mouse.down()
        for fraction in fractions:
            self.page.mouse.move(rail["x"] + rail["width"] * fraction, y, steps=4)
            self.page.wait_for_timeout(1000)
            seen.add(picture.get_attribute("src"))
        self.page.mouse.up()
        return len(seen)

    def click(self) -> str:
        """Click an answer to every prediction; returns ``clicks that were understood/predictions``."""
        groups = self.page.locator(".widget-toggle-buttons").all()
        for group in groups:
            group.locator("button").first.click()
        self.page.wait_for_timeout(1000)
        return f"{self.page.get_by_text('Your guess:').locator('visible=true').count()}/{len(groups)}"

    def turn(self) -> str:
        """Drag every plotly picture; returns ``pictures that changed/pictures``."""
        changed, plots = 0, self.page.locator(".js-plotly-plot").all()
        for plot in plots:
            plot.scroll_into_view_if_needed()
            self.page.wait_for_timeout(1000)
            before, box = plot.screenshot(), plot.bounding_box()
            x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
            self.page.mouse.move(x, y)
            self.page.mouse.down()
            self.page.mouse.move(x + 150, y + 30, steps=5)
            self.page.mouse.up()
            self.page.mouse.move(5, 5)
            self.page.wait_for_timeout(1500)
            changed += plot.screenshot() != before
        return f"{changed}/{len(plots)}"

    def pictures(self, stem: Path) -> None:
        """The whole lesson, from its first to its last cell, as two pictures: ``stem-light.png`` and ``stem-dark.png``."""
        inner = "() => Math.max(...[...document.querySelectorAll('.jp-WindowedPanel-outer')].map(e => e.scrollHeight))"
        self.page.evaluate("() => { document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0 }")
        self.page.set_viewport_size({**WINDOW, "height": min(self.page.evaluate(inner) + 140, TALLEST)})
        for theme in ("Dark", "Light"):
            self.theme(theme)
            self.page.screenshot(path=stem.with_name(f"{stem.name}-{theme.lower()}.png"))
        self.page.set_viewport_size(WINDOW)


@contextmanager
def opened(context: Any, address: str, name: str) -> Iterator[Lesson]:
    """The lesson ``name`` (file name) with the panel at the side closed, as it is committed; its kernel ends with it."""
    lesson = Lesson(page := context.new_page())
    page.set_default_timeout(300_000)
    page.on("console", lambda m: lesson.complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: lesson.complaints.append(str(error)))
    page.on("request", lambda r: lesson.complaints.append(r.url) if urlparse(r.url).hostname not in ("127.0.0.1", None) else None)
    page.goto(f"{address}/lab/tree/{name}?reset")
    page.wait_for_function("() => window.jupyterapp?.shell.currentWidget?.content?.widgets?.length > 1")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.context.ready.then(() => null)")
    page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.ready.then(() => null)")
    page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    page.wait_for_timeout(1500)
    yield lesson
    page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
    page.close()


def inspect(context: Any, address: str, name: str, run: bool = True, pictures: Path | None = None) -> bool:
    """Open, measure, run, try the widgets, measure; print one row and what is wrong. True where nothing is."""
    clock, lines = time.perf_counter(), []
    with opened(context, address, name) as lesson:
        wide = lesson.too_wide()
        lines += [f"as committed, {line}" for line in wide]
        if pictures:
            lesson.pictures(pictures / f"{name[:2]}-committed")
        cells = [name[:2], str(len(wide))]
        if run:
            errors, slid, clicked, turned = lesson.run(), lesson.slide(), lesson.click(), lesson.turn()
            wide = lesson.too_wide()
            lines += [f"after the run, {line}" for line in wide] + [f"{errors} cells printed errors"] * (errors > 0)
            lines += [f"only {part} react" for part in (clicked, turned) if len({*part.split("/")}) > 1]
            lines += ["the slider shows one picture only"] * (slid < 2)
            cells += [str(len(wide)), str(errors), str(slid), clicked, turned]
            if pictures:
                lesson.pictures(pictures / f"{name[:2]}-run")
        lines += lesson.complaints
    cells += [str(len(lesson.complaints)), f"{time.perf_counter() - clock:.0f}"]
    print(f"| {' | '.join(cells)} |", *(f"      {line}" for line in lines), sep="\n", flush=True)
    return not lines


# --- the pictures of the README ------------------------------------------------------------------------------------------

WRONG = """@teach.check
def add_noise(x0, sigma, eps):
    return x0 + sigma**2 * eps  # x0: clean pictures; eps: noise of standard deviation 1, same shape; sigma: a number
"""


def readme(context: Any, address: str, folder: Path) -> None:
    """Three pictures into ``folder``: a slider (01), an exercise with its hint (00), a measured theorem in the dark theme (05)."""
    with opened(context, address, "00_start_here.ipynb") as lesson:
        source = "window.jupyterapp.shell.currentWidget.content.widgets[4].model.sharedModel"
        script = f"text => {{ const s = {source}; s.setSource(text + s.source.slice(s.source.indexOf('\\nx0 = '))) }}"
        lesson.page.evaluate(script, WRONG)
        lesson.run(5)
        lesson.page.get_by_text("Hint", exact=True).first.click()
        save(lesson, 3, folder / "lab-exercise.png")
    with opened(context, address, "01_from_noise_to_data.ipynb") as lesson:
        lesson.run()
        lesson.slide((0.3, 0.7))
        save(lesson, 22, folder / "lab-slider.png", ".widget-hslider", -250)
    with opened(context, address, "05_theorem_1_measured.ipynb") as lesson:
        lesson.theme("Dark")
        save(lesson, 10, folder / "lab-theorem.png")
        lesson.theme("Light")


def save(lesson: Lesson, cell: int, path: Path, inside: str = "", offset: int = -10) -> None:
    """The window, scrolled to a cell (or something inside it) plus ``offset`` pixels."""
    from PIL import Image

    script = """([k, inside, offset]) => {
      const cell = document.querySelectorAll('.jp-Notebook .jp-Cell')[k]
      const panel = cell.closest('.jp-WindowedPanel-outer'), target = inside ? cell.querySelector(inside) : cell
      panel.scrollTop += target.getBoundingClientRect().top - panel.getBoundingClientRect().top + offset
    }"""
    lesson.page.evaluate(script, [cell, inside, offset])
    lesson.page.mouse.move(5, 5)
    lesson.page.wait_for_timeout(1000)
    picture = Image.open(io.BytesIO(lesson.page.screenshot())).convert("RGB")
    picture.save(path, optimize=True)
    print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size / 1000:.0f} kB")


def main() -> bool:
    """True where nothing is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lessons", nargs="*", help="numbers of lessons; all without")
    parser.add_argument("--fast", action="store_true", help="shrink the work of the lessons (CMLAB_FAST=1)")
    parser.add_argument("--committed", action="store_true", help="run nothing")
    parser.add_argument("--pictures", type=Path, help="a folder for pictures of the whole lessons")
    parser.add_argument("--readme", type=Path, help="a folder for the README's three pictures; nothing else is done")
    options = parser.parse_args()
    for folder in filter(None, (options.pictures, options.readme)):
        folder.mkdir(parents=True, exist_ok=True)
    heads = ["lesson", "too wide, committed", "too wide, run", "errors", "slider: pictures", "clicks", "turned", "complaints", "s"]
    with server(options.fast) as address, browser() as context:
        if options.readme:
            readme(context, address, options.readme)
            return True
        heads = heads[:2] + heads[-2:] if options.committed else heads
        print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
        names = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
        chosen = [name for name in names if not options.lessons or name[:2] in options.lessons]
        return not [name for name in chosen if not inspect(context, address, name, not options.committed, options.pictures)]


if __name__ == "__main__":
    sys.exit(not main())
