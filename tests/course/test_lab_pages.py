"""A lesson in JupyterLab in a real browser: it fits, it runs, its slider and its buttons move. All lessons: benchmarks/lab.py."""

import runpy
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("jupyterlab", reason="the lessons' server is in the extra: pip install cmlab[lab]")
pytest.importorskip("ipywidgets", reason="sliders are in the extra: pip install cmlab[lab]")
pytest.importorskip("playwright.sync_api", reason="browser tests need the extra: pip install cmlab[dev]")
lab = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "lab.py")))


def test_a_lesson_fits_the_window_and_its_slider_moves():
    if not any(map(shutil.which, lab.BROWSERS)):
        pytest.skip(f"no browser: none of {', '.join(lab.BROWSERS)} is installed")
    with lab.server(fast=True) as address, lab.browser() as context, lab.opened(context, address, "11_beyond.ipynb") as lesson:
        assert lesson.too_wide() == []  # as committed
        assert lesson.page.locator(".widget-hslider").count() == 0
        assert lesson.run() == 0
        assert lesson.slide() == 2  # CMLAB_FAST leaves two values
        clicked, predictions = lesson.click().split("/")
        assert clicked == predictions != "0"
        assert lesson.too_wide() == []
        assert lesson.complaints == []
        with pytest.raises(lab.Late, match="11: waited 1 s for what never comes: 0 cells to go, kernel idle and connected"):
            lesson.wait("() => false", "what never comes", seconds=1)
