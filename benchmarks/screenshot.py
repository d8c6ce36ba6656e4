"""Take a picture of the app for the README: ``python benchmarks/screenshot.py OUT.png --tab edit``. Needs playwright, a browser.

``--width 400`` shows the whole tab as a phone does, and says so where it would have to be scrolled sideways.
"""

import argparse
import shutil
import socket
import sys
from pathlib import Path

TABS = {
    "sample": "#film canvas",
    "interpolate": "#frames canvas",
    "edit": "#edit-film canvas",
    "plane": "#plane canvas",
}  # last to come
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")


def screenshot(path: Path, tab: str = "sample", width: int = 1280, height: int = 860) -> int:
    """Start the app on a free port, open ``tab``, wait for its pictures, and save what the browser shows to ``path``.

    Below a ``width`` of 640 the picture is as long as the page. Returns the page's own width.
    """
    from playwright.sync_api import sync_playwright

    from cmlab.app.page import build_app
    from cmlab.app.server import launch

    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser_path is None:
        sys.exit(f"No browser was found: install one of {', '.join(BROWSERS)}.")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    page = build_app()
    launch(page, port=port, quiet=True)
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=browser_path, args=["--headless", "--no-sandbox", "--disable-gpu"])
            view = browser.new_page(viewport={"width": width, "height": height})
            view.goto(f"http://127.0.0.1:{port}/?tab={tab}")
            view.locator(TABS[tab]).first.wait_for(timeout=120_000)
            view.wait_for_timeout(4000)  # streams end, thumbnails load
            path.parent.mkdir(parents=True, exist_ok=True)
            view.screenshot(path=str(path), full_page=width < 640)
            needed = int(view.evaluate("() => document.documentElement.scrollWidth"))
            browser.close()
        return needed
    finally:
        page.close(verbose=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path, help="where to save the picture")
    parser.add_argument("--tab", choices=TABS, default="sample", help="the tab to show")
    parser.add_argument("--width", type=int, default=1280, help="width of the window in pixels")
    options = parser.parse_args()
    needed = screenshot(options.path, options.tab, options.width)
    if needed > options.width:
        sys.exit(f"The tab is {needed} pixels wide: it has to be scrolled sideways.")
