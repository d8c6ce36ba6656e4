"""Links to the app: what an address holds, and that another browser restores it."""

from collections.abc import Iterator
from urllib.parse import parse_qs, urlencode, urlparse

import pytest

gr = pytest.importorskip("gradio", reason="the app is an extra: pip install cmlab[app]")
pytest.importorskip("playwright.sync_api", reason="browser tests need the extra: pip install cmlab[dev]")
from test_app import served  # noqa: E402, F401  (a fixture)
from test_browser import open_tab, picture  # noqa: E402
from test_plane import browser  # noqa: E402, F401  (a fixture)

from cmlab.app import link  # noqa: E402
from cmlab.app import page as app  # noqa: E402


@pytest.fixture
def visit(browser) -> Iterator:  # noqa: F811
    """Open an address as a new visitor, with nothing remembered. Afterwards: no browser had anything to complain about."""
    contexts, complaints = [], []

    def go(address: str):
        context = browser.new_context(viewport={"width": 1280, "height": 900})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(address)
        return page

    yield go
    for context in contexts:
        context.close()
    assert complaints == []


def held(page) -> dict[str, str]:
    """What the address holds."""
    return {name: texts[0] for name, texts in parse_qs(urlparse(page.url).query, keep_blank_values=True).items()}


def wait_for(page, **expected: str) -> None:
    """Until the address holds this and nothing else; a name's "__" stands for the dot."""
    wanted = urlencode({name.replace("__", "."): value for name, value in expected.items()})
    page.wait_for_function("(q) => new URLSearchParams(location.search).toString() === q", arg=wanted)


def test_every_setting_of_the_page_is_in_a_link_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = link.controls(app.build_app())
    assert {name.partition(".")[0] for name in known} == {"sample", "interpolate", "edit", "theorems"}
    assert len(known) > 30 and link.settings(known, {}) == ({}, [])
    for name, box in known.items():
        if isinstance(box, link.MENUS):
            others = [value for _, value in box.choices if value != box.value]
        else:
            bounds = {"minimum": box.minimum, "maximum": box.maximum} | getattr(box, "bounds", {})
            low, high = (-7 if bounds["minimum"] is None else bounds["minimum"]), bounds["maximum"]
            others = [low, high] if box.step == 1 else [low + box.step]
        for other in others:
            text = "" if other is None else str(other)
            updates, wrong = link.settings(known, {name: text})
            assert wrong == [] and updates[box]["value"] == other
    for name, text in (
        ("sample.seed", "0.5"),
        ("sample.count", "0"),
        ("edit.noise_level", "nan"),
        ("edit.patch", "3"),
        ("edit.steps", ""),
    ):
        updates, wrong = link.settings(known, {name: text})
        assert updates == {} and len(wrong) == 1 and name in wrong[0]


def test_menus_that_follow_the_data_set_are_restored_with_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known = link.controls(app.build_app())
    asked = {"edit.example": "9", "edit.class_name": "automobile", "edit.data": "cifar10-small", "sample.data": "two-moons"}
    updates, wrong = link.settings(known, asked)
    assert wrong == [] and updates[known["edit.class_name"]]["value"] == "automobile"
    assert "ship" in updates[known["edit.class_name"]]["choices"] and updates[known["edit.example"]]["maximum"] == 35
    assert updates[known["sample.count"]]["value"] == 16  # what a link does not say is as on a new page
    updates, wrong = link.settings(known, {"edit.data": "digits", "edit.class_name": "horse", "edit.example": "20"})
    assert len(wrong) == 2 and updates[known["edit.class_name"]]["value"] == "auto" and updates[known["edit.example"]]["value"] == 3


def test_a_second_browser_shows_what_the_first_one_did(visit, served):  # noqa: F811
    first = visit(f"{served}?edit.steps=2")
    picture(first, "sample-0")
    assert held(first) == {"tab": "sample", "edit.steps": "2"}
    open_tab(first, "Edit")
    old = picture(first, "result")
    first.get_by_label("Seed").locator("visible=true").fill("41")
    first.get_by_label("Super-resolve").check()
    first.get_by_label("4", exact=True).check()
    wait_for(first, tab="edit", edit__task="super_resolve", edit__steps="2", edit__patch="4", edit__seed="41")
    first.locator("#edit-go").click()
    first.get_by_text("step 2 of 2 · σ").wait_for()  # the film comes last
    shown = picture(first, "result", old)
    address = first.url
    first.close()
    second = visit(address)
    second.get_by_text("step 2 of 2 · σ").wait_for()  # the film comes last
    assert picture(second, "result") == shown  # the name of a picture is a hash of it
    assert second.get_by_label("Super-resolve").is_checked() and second.url == address
    second.context.grant_permissions(["clipboard-read", "clipboard-write"])
    second.locator("#copy-link").click()
    second.get_by_text("Link copied").wait_for()
    assert second.evaluate("() => navigator.clipboard.readText()") == address


def test_back_and_forward_go_from_tab_to_tab(visit, served):  # noqa: F811
    page = visit(served + "?from=class")
    selected = lambda name: page.get_by_role("tab", name=name, selected=True).wait_for()  # noqa: E731
    picture(page, "sample-0")
    open_tab(page, "Interpolate")
    wait_for(page, **{"from": "class", "tab": "interpolate"})
    open_tab(page, "Theorems")
    page.wait_for_function("() => location.search.endsWith('tab=theorems')")
    page.go_back()
    selected("Interpolate")
    page.get_by_label("Seed A").first.fill("9")
    page.go_back()
    selected("Sample")
    page.wait_for_function("() => location.search.includes('interpolate.seed_a=9')")  # the box still has it
    page.go_forward()
    selected("Interpolate")
    page.go_forward()
    selected("Theorems")


def test_the_plane_is_in_a_link_too(visit, served):  # noqa: F811
    there = "() => !!(window.p = [...document.querySelectorAll('#plane, #plane *')].find((e) => e.plane)?.plane)"
    first = visit(f"{served}?tab=plane")
    first.wait_for_function(there)
    first.evaluate("() => { p.choose('rings'); p.hidden.add('cd'); p.training.choose('ct'); p.level(2.5) }")
    wait_for(first, tab="plane", plane__set="rings", plane__sigma="2.5", plane__hidden="cd", plane__methods="cd,ict,ct")
    second = visit(first.url)
    second.wait_for_function(there)
    second.wait_for_function("() => p.set.name === 'rings' && p.set.sigma === 2.5 && p.hidden.has('cd')")
    assert sorted(second.evaluate("() => p.training.methods")) == ["cd", "ct", "ict"]
    second.get_by_role("tab", name="Jump by hand").click()
    second.wait_for_function("() => location.search.includes('plane.mode=jump')")
    wrong = visit(f"{served}?tab=plane&plane.set=nothing&plane.mode=&plane.sigma=x&plane.methods=bake")
    wrong.wait_for_function(there)
    shown = wrong.evaluate("() => [p.set.name, p.set.mode, p.set.sigma, ...p.training.methods]")
    assert shown == ["two-moons", "walk", 80, "cd", "ict"]


def test_what_a_link_has_wrong_is_told_and_left_out(visit, served):  # noqa: F811
    page = visit(served + "?tab=nowhere&sample.seed=3&sample.count=<b>&sample.colour=red&fbclid=x&edit.task=bake")
    note = page.get_by_test_id("toast-body").filter(has_text="Left out of the link")
    note.wait_for()
    said = note.inner_text()
    for part in (
        "no tab 'nowhere'",
        "sample.count is a number, not '<b>'",
        "called 'sample.colour'",
        "edit.task has no choice 'bake'",
    ):
        assert part in said
    assert "fbclid" not in said
    picture(page, "sample-0")
    assert page.get_by_label("Seed").locator("visible=true").input_value() == "3"
