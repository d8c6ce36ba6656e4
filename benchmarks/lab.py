"""Open the lessons in JupyterLab in a real browser: ``python benchmarks/lab.py [NN ...]``. Needs a browser, extras lab and dev.

For every lesson, in a window 1280 pixels wide: what is wider than its place (as committed, and after all cells ran), whether the
slider, buttons and 3D pictures react, what the browser complains about. One row each; the exit status is 1 where anything is wrong.
Every lesson has a process, a server and a browser of its own, and every wait has a limit: what does not end becomes a row, too.
All twelve went through it at full size with --pictures, 72 to 119 s each on a busy 2-core CPU, and nothing was wrong (Chromium,
JupyterLab 4.6, November 2026). The machine had no Korean font: that column of the glossaries has not been seen.

    python benchmarks/lab.py                             # all lessons at full size
    python benchmarks/lab.py 05 07 --fast                # two of them, with shrunk work
    python benchmarks/lab.py --committed                 # as they are committed, without running them
    python benchmarks/lab.py --pictures /tmp/shots       # and pictures of whole lessons, light and dark, to look at
    python benchmarks/lab.py --readme benchmarks/figures # only the three pictures of docs/capabilities.md
"""

import argparse
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
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
START, STEP, RUN, LESSON = 120, 60, 400, 540  # seconds that are waited: for a server; for a step; for all cells; altogether
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
  document.querySelectorAll('mjx-merror, .jp-Notebook .MathJax_Error').forEach(e => found.push(`formula: ${e.textContent}`))
  if (document.documentElement.scrollWidth > window.innerWidth) found.push('the page itself')
  return found
}"""
# What the lesson waits for, in words; where nothing is missing the scripts below return something.
PANEL = "const panel = window.jupyterapp?.shell.currentWidget, kernel = panel?.sessionContext?.session?.kernel;"
STATE = f"""() => {{ {PANEL}
  const left = [...document.querySelectorAll('.jp-InputPrompt')].filter(e => e.textContent.includes('*')).length
  const dialog = document.querySelector('.jp-Dialog-content')?.innerText.replaceAll('\\n', ' ') ?? ''
  return `${{left}} cells to go, kernel ${{kernel?.status}} and ${{kernel?.connectionStatus}}${{dialog && ', dialog: ' + dialog}}`
}}"""
READY = f"""() => {{ {PANEL}
  return panel?.context?.isReady && panel.content?.widgets?.length > 1 && panel.sessionContext.isReady
    && kernel?.connectionStatus === 'connected' && kernel.status === 'idle'
}}"""
COMMAND = """([key, name, options]) => {
  const ends = window.endsOfCommands ??= {}
  if (!(key in ends)) {
    ends[key] = ''
    window.jupyterapp.commands.execute(name, options).then(() => ends[key] = 'done', e => ends[key] = `failed: ${e}`)
  }
  return ends[key]
}"""


def say(text: str) -> None:
    """Progress, beside the table."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Late(RuntimeError):
    """Something did not come in its time; the message says what, and how things stood."""


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
            _wait_for(address, process)
            yield address
        except Exception:
            say("the end of the server's log:\n" + (home / "log").read_text(errors="replace")[-2000:])
            raise
        finally:
            process.terminate()  # it ends its kernels
            try:
                process.wait(STEP)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_for(address: str, process: subprocess.Popen) -> None:
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError):
            urllib.request.urlopen(f"{address}/api", timeout=5).close()
            return
        time.sleep(0.2)
    raise Late(f"JupyterLab did not start in {START} s (exit status {process.poll()})")


@contextmanager
def browser() -> Iterator[Any]:
    """A browser window factory (playwright's context) of 1280 by 900 pixels."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        sys.exit(f"No browser was found: install one of {', '.join(BROWSERS)}.")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=FLAGS.split(), timeout=1000 * START)
        try:
            yield chromium.new_context(viewport=WINDOW)  # pyright: ignore[reportArgumentType]
        finally:
            chromium.close()


@dataclass
class Lesson:
    """One lesson in one tab. ``complaints``: errors of the browser's console, and requests to other machines."""

    page: Any
    number: str
    complaints: list[str] = field(default_factory=list)

    def wait(self, script: str, what: str, argument: Any = None, seconds: float = STEP) -> Any:
        """What a script returns, once that is something. Says every 20 s that it waits; after ``seconds`` raises Late.

        Playwright's evaluate, which waits for a promise, has no limit: where the promise is lost, with a kernel or its
        connection, it never returns.
        """
        from playwright.sync_api import TimeoutError

        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                return self.page.wait_for_function(script, arg=argument, timeout=1000 * min(left, 20), polling=200).json_value()
            except TimeoutError:
                say(f"{self.number}: waiting for {what}: {self.state()}")
        raise Late(f"{self.number}: waited {seconds:.0f} s for {what}: {self.state()}")

    def state(self) -> str:
        """How things stand, in words."""
        from playwright.sync_api import Error

        try:
            return self.page.wait_for_function(STATE, timeout=5000, polling=200).json_value()
        except Error as error:
            return f"the page does not answer ({str(error).splitlines()[0]})"

    def command(self, name: str, seconds: float = STEP, **options: Any) -> None:
        """Run one of JupyterLab's commands and wait for its end."""
        end = self.wait(COMMAND, f"JupyterLab's command {name}", [str(time.monotonic()), name, options], seconds)
        if end != "done":
            raise RuntimeError(f"{self.number}: {name} {end}")

    def theme(self, name: str) -> None:
        """``Light`` or ``Dark``."""
        self.command("apputils:change-theme", theme=f"JupyterLab {name}")
        self.wait(f"() => document.body.dataset.jpThemeName === 'JupyterLab {name}'", f"the theme {name}")
        self.page.wait_for_timeout(1500)

    def too_wide(self) -> list[str]:
        """What is wider than its place: cell, element, by how much. And formulas with an error."""
        self.wait("() => [...document.images].every(e => e.complete)", "pictures")
        self.page.wait_for_timeout(1000)  # formulas arrive
        return self.wait(MEASURE, "the measure of all cells")

    def run(self, last: int | None = None) -> int:
        """Run all cells, or those before cell ``last``; returns how many printed an error or a warning."""
        if last is None:
            self.command("notebook:run-all-cells", RUN)
        else:
            script = "k => { window.jupyterapp.shell.currentWidget.content.activeCellIndex = k; return true }"
            self.wait(script, f"cell {last}", last)
            self.command("notebook:run-all-above", RUN)
        done = "() => ![...document.querySelectorAll('.jp-InputPrompt')].some(e => e.textContent.includes('*'))"
        self.wait(done, "the last cell")
        self.page.wait_for_timeout(1000)
        return self.page.locator('[data-mime-type*="error"], [data-mime-type*="stderr"]').count()

    def values(self) -> int:
        """How many values the slider has."""
        script = "() => document.querySelector('.widget-hslider .noUi-target')?.noUiSlider?.options"
        return int(self.wait(script, "the slider")["range"]["max"]) + 1

    def slide(self, fractions: Sequence[float] = (0.5, 1.0)) -> int:
        """Drag the (only) slider by its handle to these fractions of its length; returns how many different pictures were seen."""
        slider, picture = self.page.locator(".widget-hslider"), self.page.locator(".widget-html img")
        slider.scroll_into_view_if_needed()
        self.page.wait_for_timeout(500)
        handle, rail = slider.locator(".noUi-handle").bounding_box(), slider.locator(".slider-container").bounding_box()
        seen, y = [picture.get_attribute("src")], handle["y"] + handle["height"] / 2
        self.page.mouse.move(handle["x"] + handle["width"] / 2, y)
        self.page.mouse.down()
        for fraction in fractions:
            self.page.mouse.move(rail["x"] + rail["width"] * fraction, y, steps=4)
            self._until(lambda: picture.get_attribute("src") != seen[-1])
            seen.append(picture.get_attribute("src"))
        self.page.mouse.up()
        return len({*seen})

    def _until(self, true: Callable[[], bool], seconds: float = 10) -> bool:
        end = time.monotonic() + seconds
        self.page.wait_for_timeout(500)
        while not (done := true()) and time.monotonic() < end:
            self.page.wait_for_timeout(250)
        return done

    def click(self) -> str:
        """Click an answer to every prediction; returns ``clicks that were understood/predictions``."""
        groups = self.page.locator(".widget-radio").all()
        for group in groups:
            group.locator("input").first.click()
        said = self.page.get_by_text("Your guess:").locator("visible=true")
        self._until(lambda: said.count() >= len(groups))
        return f"{said.count()}/{len(groups)}"

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
            self.page.wait_for_timeout(1000)
            changed += self._until(lambda plot=plot, before=before: plot.screenshot() != before)
        return f"{changed}/{len(plots)}"

    def pictures(self, stem: Path) -> None:
        """The whole lesson, from its first to its last cell, as two pictures: ``stem-light.png`` and ``stem-dark.png``."""
        inner = """() => { document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0
          return Math.max(...[...document.querySelectorAll('.jp-WindowedPanel-outer')].map(e => e.scrollHeight)) }"""
        self.page.set_viewport_size({**WINDOW, "height": min(self.wait(inner, "the height") + 140, TALLEST)})
        for theme in ("Dark", "Light"):
            self.theme(theme)
            self.page.screenshot(path=stem.with_name(f"{stem.name}-{theme.lower()}.png"))
        self.page.set_viewport_size(WINDOW)


@contextmanager
def opened(context: Any, address: str, name: str) -> Iterator[Lesson]:
    """The lesson ``name`` (file name) with the panel at the side closed, as it is committed, its kernel connected and idle."""
    lesson = Lesson(page := context.new_page(), name[:2])
    page.set_default_timeout(1000 * STEP)
    page.on("console", lambda m: lesson.complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: lesson.complaints.append(str(error)))
    page.on("crash", lambda _: lesson.complaints.append("the page crashed"))
    page.on("request", lambda r: lesson.complaints.append(r.url) if urlparse(r.url).hostname not in ("127.0.0.1", None) else None)
    page.goto(f"{address}/lab/tree/{name}?reset", timeout=1000 * START)
    lesson.wait(READY, "JupyterLab with the lesson and a kernel", seconds=START)
    lesson.wait("() => { window.jupyterapp.shell.collapseLeft(); return true }", "the panel at the side")
    page.wait_for_timeout(1500)
    yield lesson


HEADS = {
    "wide": "too wide, committed", "after": "too wide, run", "errors": "errors", "slid": "slider: pictures", "clicked": "clicks",
    "turned": "turned", "complaints": "complaints", "s": "s",
}  # fmt: skip
AS_COMMITTED = ("wide", "complaints", "s")


def inspect(lesson: Lesson, run: bool, pictures: Path | None) -> Iterator[tuple[str, Any, list[str]]]:
    """Measure, run, try the widgets, measure: yields key, entry of the row, and what is wrong."""
    wide = lesson.too_wide()
    yield "wide", len(wide), [f"as committed, {line}" for line in wide]
    if pictures:
        lesson.pictures(pictures / f"{lesson.number}-committed")
    if not run:
        return
    errors = lesson.run()
    yield "errors", errors, [f"{errors} cells printed errors"] * (errors > 0)
    values, slid = lesson.values(), lesson.slide()
    yield "slid", slid, [f"the slider has {values} values and showed {slid} pictures"] * (slid < min(values, 3))
    for key, part in (("clicked", lesson.click()), ("turned", lesson.turn())):
        yield key, part, [f"only {part} react"] * (len({*part.split("/")}) > 1)
    wide = lesson.too_wide()
    yield "after", len(wide), [f"after the run, {line}" for line in wide]
    if pictures:
        lesson.pictures(pictures / f"{lesson.number}-run")


def row(name: str, fast: bool, run: bool, pictures: Path | None) -> bool:
    """Inspect one lesson and print its row, and what is wrong. True where nothing is."""
    from playwright.sync_api import Error

    clock, lines, complaints, cells = time.perf_counter(), [], [], dict.fromkeys(HEADS if run else AS_COMMITTED, "-")
    try:
        with server(fast) as address, browser() as context, opened(context, address, name) as lesson:
            complaints = lesson.complaints
            say(f"{name[:2]}: open after {time.perf_counter() - clock:.0f} s")
            for key, entry, wrong in inspect(lesson, run, pictures):
                cells[key] = str(entry)
                lines += wrong
                say(f"{name[:2]}: {HEADS[key]}: {entry} after {time.perf_counter() - clock:.0f} s")
    except (Late, Error, RuntimeError) as error:
        lines.append(f"stopped: {str(error).splitlines()[0]}")
    lines += complaints
    cells |= {"complaints": str(len(complaints)), "s": f"{time.perf_counter() - clock:.0f}"}
    print(f"| {' | '.join([name[:2], *cells.values()])} |", *(f"      {line}" for line in lines), sep="\n", flush=True)
    return not lines


# --- the pictures of docs ------------------------------------------------------------------------------------------

WRONG = """@teach.check
def add_noise(x0, sigma, eps):
    return x0 + sigma**2 * eps  # x0: clean pictures; eps: noise of standard deviation 1, same shape; sigma: a number
"""


def exercise(lesson: Lesson, folder: Path) -> None:
    """Lesson 00: a wrong answer, its hint, and the figure that comes all the same."""
    source = "window.jupyterapp.shell.currentWidget.content.widgets[4].model.sharedModel"
    script = f"text => {{ const s = {source}; s.setSource(text + s.source.slice(s.source.indexOf('\\nx0 = '))); return true }}"
    lesson.wait(script, "the answer to be typed", WRONG)
    lesson.run(5)
    # The word alone is found first in an editor that is out of sight, and a click waits until that is visible: for ever.
    lesson.page.locator(".jp-Notebook .jp-Cell").nth(4).locator("summary", has_text="Hint").click()
    save(lesson, 4, folder / "lab-exercise.png")


def editing(lesson: Lesson, folder: Path) -> None:
    """Lesson 10, as committed: halves of photographs filled in."""
    save(lesson, 8, folder / "lab-editing.png", ".jp-OutputArea", -118)


def theorem(lesson: Lesson, folder: Path) -> None:
    """Lesson 05, as committed, in the dark theme: Theorem 1 measured."""
    lesson.theme("Dark")
    save(lesson, 10, folder / "lab-theorem.png")


SHOTS = {"00": exercise, "05": theorem, "10": editing}


def save(lesson: Lesson, cell: int, path: Path, inside: str = "", offset: int = -10) -> None:
    """The window, scrolled to a cell (or something inside it) plus ``offset`` pixels."""
    from PIL import Image

    script = """([k, inside, offset]) => {
      const cell = document.querySelectorAll('.jp-Notebook .jp-Cell')[k]
      const panel = cell.closest('.jp-WindowedPanel-outer'), target = inside ? cell.querySelector(inside) : cell
      panel.scrollTop += target.getBoundingClientRect().top - panel.getBoundingClientRect().top + offset
      return true
    }"""
    lesson.wait(script, f"cell {cell}", [cell, inside, offset])
    lesson.page.mouse.move(5, 5)
    lesson.page.wait_for_timeout(1000)
    picture = Image.open(io.BytesIO(lesson.page.screenshot())).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)  # at most 150 kB
    print(f"{path}: {picture.width} x {picture.height}, {path.stat().st_size / 1000:.0f} kB", flush=True)


def readme(name: str, folder: Path) -> bool:
    """The picture of one lesson, into ``folder``."""
    with server() as address, browser() as context, opened(context, address, name) as lesson:
        SHOTS[name[:2]](lesson, folder)
    return True


# --- one process for each lesson -----------------------------------------------------------------------------------------


def apart(number: str, flags: Sequence[str]) -> bool:
    """Lesson ``number`` in a process of its own, which is ended, with its server and its browser, after LESSON seconds."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        command = [sys.executable, __file__, number, "--inside", *flags]
        process = subprocess.Popen(command, env={**os.environ, "TMPDIR": scratch}, start_new_session=True)
        try:
            return process.wait(LESSON) == 0
        except subprocess.TimeoutExpired:
            print(f"| {number} | stopped: no end after {LESSON} s |", flush=True)
            return False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def main() -> bool:
    """True where nothing is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lessons", nargs="*", help="numbers of lessons; all without")
    parser.add_argument("--fast", action="store_true", help="shrink the work of the lessons (CMLAB_FAST=1)")
    parser.add_argument("--committed", action="store_true", help="run nothing")
    parser.add_argument("--pictures", type=Path, help="a folder for pictures of the whole lessons")
    parser.add_argument("--readme", type=Path, help="a folder for the three pictures of docs/capabilities.md; nothing else is done")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # this is a lesson's own process
    options = parser.parse_args()
    names = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    wanted = options.lessons or ([*SHOTS] if options.readme else [])
    chosen = [name for name in names if not wanted or name[:2] in wanted]
    if options.inside:
        if options.readme:
            return readme(chosen[0], options.readme)
        return row(chosen[0], options.fast, not options.committed, options.pictures)
    flags = [flag for flag in ("fast", "committed") if getattr(options, flag)]
    flags = [f"--{flag}" for flag in flags]
    for flag in ("pictures", "readme"):
        if folder := getattr(options, flag):
            folder.mkdir(parents=True, exist_ok=True)
            flags += [f"--{flag}", str(folder)]
    if not options.readme:
        heads = ["lesson", *(HEADS[key] for key in (AS_COMMITTED if options.committed else HEADS))]
        print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    return not [name for name in chosen if not apart(name[:2], flags)]


if __name__ == "__main__":
    sys.exit(not main())
