"""The app in a real browser: every tab once, wrong input, and no request that leaves this machine."""

import re
from collections.abc import Iterator
from urllib.parse import urlparse

import pytest
from PIL import Image

pytest.importorskip("gradio", reason="the app is an extra: pip install cmlab[app]")
pytest.importorskip("playwright.sync_api", reason="browser tests need the extra: pip install cmlab[dev]")
from test_app import served  # noqa: F401  (a fixture)
from test_plane import browser  # noqa: F401  (a fixture)

from cmlab.app import handlers, live, theory, view, words

LOCAL = {"127.0.0.1", "localhost", None}


@pytest.fixture
def page(browser, served) -> Iterator:  # noqa: F811
    """The open app. Afterwards: nothing was asked of another machine, and the browser has nothing to complain about."""
    page, foreign, complaints = browser.new_page(viewport={"width": 1280, "height": 900}), [], []
    page.set_default_timeout(60_000)
    page.on("request", lambda r: foreign.append(r.url) if urlparse(r.url).hostname not in LOCAL else None)
    # gradio's own /cancel answers 500 when the run that it closes ends by itself in that moment (KeyError in routes.py).
    # Its editor says so of a layer that it has just put on; one can paint on.
    harmless = lambda m: urlparse(m.location["url"]).path.endswith("/cancel") or "No draw texture" in m.text  # noqa: E731
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
    return page.locator(f"#{elem_id} img").first.get_attribute("src")


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
    page.get_by_text("70 NFE").first.wait_for()
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
    page.get_by_text("70 NFE").first.wait_for()
    film = page.locator("#film .film.ready")
    film.locator("canvas").nth(1).wait_for()
    assert fits_a_phone(page)
    page.locator("#sample-1 img").click(position={"x": 20, "y": 20})  # the first sample: in all models, step by step
    film.locator("canvas").nth(3).wait_for()
    film.get_by_label("Step").fill("7")
    film.get_by_text("step 8 of 18").wait_for()
    page.locator("#interpolate-this").wait_for()
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
    strip = picture(page, "strip")
    page.get_by_text("frame 1 of 11").wait_for()
    page.locator("#strip img").click()  # in its middle
    page.get_by_text("frame 6 of 11").wait_for()
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


def test_a_number_out_of_range_is_refused_and_not_cut(page):
    page.get_by_text("EDM, Heun, 18 steps · 70 NFE").wait_for()
    page.get_by_text("More settings").click()
    count = page.get_by_label("Samples").locator("visible=true").first
    count.fill("0")
    count.press("Tab")
    assert count.input_value() == "0"
    page.locator("#sample-go").click()
    told = page.locator(".toast-body[data-refused]")
    told.get_by_text("Value 0 is less than minimum value 1").wait_for()
    title = "(node) => getComputedStyle(node, '::before').content"
    assert told.locator(".toast-title").evaluate(title) == '"Please check the input"'


def test_sample_pressed_after_another_data_set_or_a_stop_runs_and_says_what_was_stopped(page):
    page.get_by_text("EDM, Heun, 18 steps · 70 NFE").wait_for()
    menu, go = page.get_by_label("Data set").locator("visible=true"), page.locator("#sample-go")
    page.get_by_role("button", name="Stop").locator("visible=true").click()  # nothing runs
    for k, name in enumerate(("two-moons", "8gaussians", "mnist")):
        menu.click()
        page.get_by_role("option", name=words.title(view.groups()[name])).click()
        page.wait_for_timeout(200 * k)
        go.click()
        page.locator("#film .ready canvas").first.wait_for()
    page.get_by_text("More settings").click()
    page.get_by_label("EDM: steps").locator("visible=true").first.fill("80")
    page.get_by_label("EDM: steps").locator("visible=true").first.press("Enter")
    go.click()
    walking = page.get_by_text(re.compile(r"step \d+ of 80")).first
    walking.wait_for()
    for _ in range(2):
        page.get_by_role("button", name="Stop").locator("visible=true").click()
    page.get_by_text("· stopped").wait_for()
    assert page.get_by_text("stopped").count() == 1 and page.locator("#film .ready canvas").count() == 2
    go.click()
    page.get_by_text("· stopped").wait_for(state="detached")
    walking.wait_for()


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


def test_another_example_or_task_keeps_what_was_painted_for_it(page):
    open_tab(page, "Edit")
    page.locator("#edit-film .ready canvas").first.wait_for()
    page.get_by_label("painted").check()
    canvas = page.locator("#painted canvas").first
    canvas.wait_for()
    page.locator("#degraded").wait_for(state="hidden")  # one paints in its place
    box = canvas.bounding_box()
    assert page.evaluate("scrollY") == 0 and box["y"] + box["height"] <= 900  # without scrolling
    page.mouse.move(x := box["x"] + box["width"] / 2, y := box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(x + 20, y + 20, steps=4)
    page.mouse.up()

    def pick(k: int) -> None:  # the canvas comes with the original
        old = picture(page, "original")
        page.locator("#examples button").nth(k).click()
        picture(page, "original", old)

    pick(7)
    page.locator("#edit-go").click()
    page.get_by_text("The mask is empty").first.wait_for()
    pick(3)
    page.get_by_label("Colorize").or_(page.get_by_label("Denoise")).first.check()
    page.locator("#painted").wait_for(state="hidden")
    page.get_by_label("Inpaint").check()
    canvas.wait_for()
    page.locator("#edit-go").click()
    picture(page, "result")


PLANE = "() => { window.p = [...document.querySelectorAll('#plane, #plane *')].find((e) => e.plane)?.plane; return p && !p.job }"


def open_plane(page) -> None:
    open_tab(page, "The plane")
    page.get_by_text("two moons").wait_for()
    page.wait_for_function(PLANE)


def test_training_is_live_is_paused_and_stops(page, monkeypatch):
    monkeypatch.setattr(live, "SLICE", 0.1)
    open_plane(page)
    open_tab(page, "Train")
    page.get_by_role("checkbox", name="CT", exact=True).click()
    train, hold, stop = (page.locator(f"#plane [data-do={what}]") for what in ("train", "hold", "stop"))
    assert hold.is_disabled() and stop.is_disabled()
    train.click()
    page.wait_for_function("() => p.training.looks.length > 2 && p.training.shown.far.length")
    assert page.evaluate("() => p.training.shown.models.map((m) => m.method)") == ["cd", "ict", "ct"]
    assert fits_a_phone(page)
    hold.click()
    page.wait_for_function("() => p.training.state === 'paused'")
    page.wait_for_function("() => p.training.waits")  # the part that was on its way has arrived
    seen = "() => p.training.looks.length"
    before = page.evaluate(seen)
    page.wait_for_timeout(400)
    assert page.evaluate(seen) == before and "of 2000" in page.locator("#plane .status").inner_text()
    page.locator("#plane input[type=number]").first.fill("3.7")  # refused: the run that is there is not touched
    train.click()
    page.locator("#plane .refused").get_by_text("Please check the input. The number of training steps").wait_for()
    hold.click()
    page.wait_for_function("(n) => p.training.looks.length > n + 1", arg=before)
    page.locator("#plane input[type=range]").evaluate("(i) => { i.value = 0; i.dispatchEvent(new Event('input')) }")
    first = page.evaluate("() => p.training.looks[0].step")
    assert page.locator("#plane .level").inner_text() == f"step {first}"  # the history, while it goes on
    stop.click()
    assert stop.is_disabled() and page.locator("#plane .status").inner_text().lower().count("stopped") == 1
    page.evaluate("() => p.act('stop')")
    assert page.locator("#plane .status").inner_text().lower().count("stopped") == 1
    open_tab(page, "Where noise ends")  # the other views show the same networks
    page.wait_for_function("() => p.maps.some((map) => map.answer.name === 'iCT, yours')")


def test_no_press_of_train_is_lost(page, monkeypatch):
    """After another data set, or a Stop, at once or later: the newest press wins, and what comes is of the set that is shown."""
    monkeypatch.setattr(live, "SLICE", 0.0)
    open_plane(page)
    open_tab(page, "Train")
    page.evaluate("() => p.training.methods = ['ct']")
    sets, train = ("rings", "two-moons"), page.locator("#plane [data-do=train]")
    for k in range(12):
        if k % 3 == 2:
            page.evaluate("() => p.act('stop')")
            name = page.evaluate("() => p.set.name")
        else:
            name = sets[k % 2]
            page.locator(f"#plane [data-set={name}]").click()
        page.wait_for_timeout(600 * k / 11)
        train.click()
        number = page.evaluate("() => p.training.pressed")
        came = "([number, name]) => p.training.current === number && p.training.looks.some((l) => l.models[0].data === name)"
        page.wait_for_function(came, arg=[number, name])
        assert page.evaluate("() => [...new Set(p.training.looks.map((l) => l.models[0].data))]") == [name]


def test_a_theorem_is_measured_and_another_has_its_own_controls(page, monkeypatch):
    monkeypatch.setattr(theory, "SMALL", {key: {"sizes": (4, 8, 16), "points": 4} for key in theory.EXPERIMENTS})
    open_tab(page, "Theorems")
    page.get_by_label("euler").check()
    page.locator("#theorem-go").click()
    page.locator("#theorem .js-plotly-plot").wait_for()
    page.locator("#theorem-says").get_by_text("slope for N = 4..16").wait_for()
    page.get_by_text("The numbers").click()
    page.get_by_role("cell", name="16", exact=True).wait_for()
    assert fits_a_phone(page)
    page.get_by_label("A trained model beside it").click()
    page.get_by_role("option", name="two-moons-cd").click()
    page.locator("#theorem .js-plotly-plot").wait_for(state="detached")  # it was measured without
    data = page.get_by_label("Distribution").locator("visible=true")
    page.get_by_text("that of two-moons-cd").wait_for()
    assert data.input_value() == "two-moons" and data.is_disabled()
    page.locator("#theorem-go").click()
    page.locator("#theorem .js-plotly-plot").wait_for()
    page.locator("#theorem-says").get_by_text("Theorem 1 on two-moons").wait_for()
    page.locator("#theorem-says").get_by_text("two-moons-cd: max error").wait_for()
    page.get_by_label("Theorem 2: CD and CT").check()
    page.get_by_label("huber").wait_for()
    assert page.get_by_label("euler").count() == 0 and page.locator("#theorem .js-plotly-plot").count() == 0


def test_the_plane_is_drawn_by_the_browser_with_the_models_that_the_server_hands_over(page):
    open_plane(page)
    assert page.evaluate("() => p.box.clientWidth") > 1000  # wide enough for the choices beside the picture
    assert page.evaluate("() => p.answers.map((a) => a.id)") == ["f", "D", "edm", "cd", "ict"]
    page.get_by_role("button", name="One step on").click()
    page.wait_for_function("() => p.box.querySelector('[data-answer=cd] output').innerText !== ''")
    assert fits_a_phone(page)
