"""The app in a real browser: every tab once, wrong input, and no request that leaves this machine."""

from collections.abc import Iterator
from urllib.parse import urlparse

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the app is an extra: pip install cmlab[app]")
pytest.importorskip("playwright.sync_api", reason="browser tests need the extra: pip install cmlab[dev]")
from test_app import served  # noqa: F401  (a fixture)
from test_plane import browser  # noqa: F401  (a fixture)

from cmlab.app import handlers, theory, view

LOCAL = {"127.0.0.1", "localhost", None}


@pytest.fixture
def page(browser, served) -> Iterator:  # noqa: F811
    """The open app. Afterwards: nothing was asked of another machine, and the browser has nothing to complain about."""
    page, foreign, complaints = browser.new_page(viewport={"width": 1280, "height": 900}), [], []
    page.set_default_timeout(60_000)
    page.on("request", lambda r: foreign.append(r.url) if urlparse(r.url).hostname not in LOCAL else None)
    # gradio's own /cancel answers 500 when the run that it closes ends by itself in that moment (KeyError in routes.py).
    harmless = lambda m: urlparse(m.location["url"]).path.endswith("/cancel")  # noqa: E731
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" and not harmless(m) else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(served)
    yield page
    page.close()
    assert foreign == []
    assert complaints == []


def open_tab(page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def picture(page, elem_id: str, other_than: str | None = None) -> str:
    """The address of the picture in ``elem_id`` once it is loaded and another than ``other_than``."""
    fresh = "i && i.complete && i.naturalWidth > 0 && i.src !== old"
    script = f"([id, old]) => {{ const i = document.querySelector('#' + id + ' img'); return {fresh} }}"
    page.wait_for_function(script, arg=[elem_id, other_than or ""])
    return page.locator(f"#{elem_id} img").get_attribute("src")


def fits_a_phone(page) -> bool:
    """Whether the tab that is open needs no scrolling sideways on a screen 400 pixels wide."""
    usual = page.viewport_size
    page.set_viewport_size({"width": 400, "height": 800})
    width = page.evaluate("() => document.documentElement.scrollWidth")
    page.set_viewport_size(usual)
    return width <= 400


def test_a_seed_typed_while_something_runs_stays(page):
    page.locator("#sample-go").wait_for()
    seed = page.get_by_label("Seed").locator("visible=true")
    seed.fill("42")  # the page is sampling, with the seed 0
    page.get_by_text("35 NFE").wait_for()
    page.wait_for_timeout(500)
    assert seed.input_value() == "42"
    old = picture(page, "sample-0")
    seed.fill("")
    page.locator("#sample-go").click()
    picture(page, "sample-0", old)
    page.wait_for_function("() => [...document.querySelectorAll('input[type=number]')].filter(i => i.offsetParent)[0].value !== ''")
    assert len(seed.input_value()) > 2  # a new one, written where none was


def test_sample_interpolate_and_inpaint(page):
    first = [picture(page, f"sample-{k}") for k in range(3)]  # the page samples by itself when it opens
    page.get_by_text("35 NFE").wait_for()
    picture(page, "film")
    assert fits_a_phone(page)
    done = picture(page, "sample-0")
    seed = page.get_by_label("Seed").locator("visible=true")
    seed.fill("0.5")
    page.locator("#sample-go").click()
    page.get_by_text("The seed must be a whole number").first.wait_for()
    assert not page.locator("#sample-0").get_by_text("Error").is_visible()  # the pictures stay, and stay uncovered
    assert picture(page, "sample-0") == done
    seed.fill("5")
    page.locator("#sample-go").click()
    for k in range(3):
        picture(page, f"sample-{k}", (done, *first[1:])[k])

    open_tab(page, "Interpolate")
    picture(page, "strip")
    assert fits_a_phone(page)
    start = picture(page, "frame")
    page.locator("#position input[type=number]").fill("10")
    page.locator("#position input[type=number]").press("Enter")
    picture(page, "frame", start)
    strip = picture(page, "strip")
    page.get_by_text("Pictures in place of seeds").click()
    page.locator("#examples-a button").nth(13).click()
    kind = view.examples(handlers.group_of(None, images=True))[1][13]
    page.get_by_text(f"picture 13, {kind}").wait_for()
    page.locator("#interpolate-go").click()
    picture(page, "strip", strip)
    page.get_by_text(f"class {kind} ").wait_for()
    assert fits_a_phone(page)

    open_tab(page, "Edit")
    before = picture(page, "result")
    assert fits_a_phone(page)
    page.get_by_label("left", exact=True).check()
    page.locator("#edit-go").click()
    picture(page, "result", before)
    old = picture(page, "original")
    page.locator("#examples button").nth(7).click()
    picture(page, "original", old)
    # the result of the old picture does not stay beside the new one
    page.wait_for_function("() => !document.querySelector('#result img') && !document.querySelector('#degraded img')")


def test_wrong_input_gets_a_message_and_the_app_goes_on(page, tmp_path):
    open_tab(page, "Edit")
    done = picture(page, "result")
    fake = tmp_path / "holiday.png"
    fake.write_text("not a picture at all")
    page.locator("#upload input[type=file]").set_input_files(str(fake))
    page.get_by_text("holiday.png is not a picture that can be read").first.wait_for()
    page.locator("#upload").get_by_text("holiday").wait_for(state="detached")  # dropped: the example is back
    page.get_by_label("painted").check()
    page.locator("#painted canvas").first.wait_for()
    page.locator("#edit-go").click()
    page.get_by_text("The mask is empty").first.wait_for()
    page.get_by_label("top", exact=True).check()
    page.locator("#edit-go").click()
    picture(page, "result", done)

    Image.new("RGB", (60, 41), "red").save(tmp_path / "red.png")
    page.locator("#upload input[type=file]").set_input_files(str(tmp_path / "red.png"))
    note = page.get_by_test_id("toast-body").filter(has_text="resized from 60 x 41")
    note.wait_for()
    note.get_by_test_id("toast-close").click()
    note.wait_for(state="detached")
    page.get_by_label("Super-resolve").check()
    page.get_by_text("The mean of every block is kept exactly").wait_for()
    assert note.count() == 0  # said once for a file, not at every change


def test_training_is_live_and_stops(page):
    open_tab(page, "2D playground")
    moons = picture(page, "paths")
    page.get_by_label("8gaussians").check()
    picture(page, "paths", moons)
    page.get_by_text("The same paths in 3D").click()
    page.locator(".js-plotly-plot canvas").first.wait_for()
    assert fits_a_phone(page)

    open_tab(page, "Train live")
    page.get_by_label("sCT (sCM)").check()
    page.get_by_text("sCM without a teacher").wait_for()
    page.locator("#train-go").click()
    seen = [picture(page, "train-points")]
    for _ in range(2):
        seen.append(picture(page, "train-points", seen[-1]))
    assert len(set(seen)) == 3 and fits_a_phone(page)
    page.locator("#train-stop").click()
    status, before = page.locator("#train-status").inner_text(), ""
    for _ in range(10):  # the step that is on its way may still arrive
        if status == before:
            break
        page.wait_for_timeout(2000)
        before, status = status, page.locator("#train-status").inner_text()
    assert status == before and "of 2000" in status and "step 2000" not in status


def test_a_theorem_is_measured_and_another_has_its_own_controls(page, monkeypatch):
    monkeypatch.setattr(theory, "SMALL", {key: {"sizes": (4, 8, 16), "points": 4} for key in theory.EXPERIMENTS})
    open_tab(page, "Theorems")
    page.get_by_label("euler").check()
    page.locator("#theorem-go").click()
    picture(page, "theorem")
    page.locator("#theorem-says").get_by_text("slope for N = 4..16").wait_for()
    page.get_by_text("The numbers").click()
    page.get_by_role("cell", name="16", exact=True).wait_for()
    assert fits_a_phone(page)
    page.get_by_label("Theorem 2: CD and CT").check()
    page.get_by_label("huber").wait_for()
    assert page.get_by_label("euler").count() == 0 and page.locator("#theorem img").count() == 0


def test_the_plane_is_drawn_by_the_browser_with_the_models_that_the_server_hands_over(page):
    open_tab(page, "The plane")
    page.get_by_text("two moons").wait_for()
    ready = (
        "() => { window.p = [...document.querySelectorAll('#plane, #plane *')].find((e) => e.plane)?.plane; return p && !p.job }"
    )
    page.wait_for_function(ready)
    assert page.evaluate("() => p.box.clientWidth") > 1000  # wide enough for the choices beside the picture
    assert page.evaluate("() => p.answers.map((a) => a.id)") == ["f", "D", "edm", "cd", "ict"]
    page.get_by_role("button", name="One step on").click()
    page.wait_for_function("() => p.box.querySelector('[data-answer=cd] output').innerText !== ''")
    assert fits_a_phone(page)
