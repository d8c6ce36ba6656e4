"""The plane's module in a real browser: its numbers are the library's."""

import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from conftest import normal, randomise
from torch import Tensor

from cmlab.app import browser as plane
from cmlab.commands.main import main
from cmlab.course import teach
from cmlab.course.plane import plane as course_plane
from cmlab.data import drawn_points, load_toy
from cmlab.denoiser import CONSISTENCY, EDM, Denoiser
from cmlab.evaluation.points import sliced_wasserstein
from cmlab.formats import checkpoints
from cmlab.methods.scalings import TrigPrecond, VEPrecond, VPPrecond
from cmlab.networks import MLPConfig, build_network
from cmlab.noise import karras_sigmas, sampling_sigmas
from cmlab.oracle import GaussianMixture
from cmlab.samplers import heun

sync_api = pytest.importorskip("playwright.sync_api", reason="browser tests need the extra: pip install cmlab[dev]")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
SETS = ("8gaussians", "two-moons", "swiss-roll")  # equal parts, many parts, unequal weights
LEVELS = (0.002, 0.05, 0.5, 5.0, 80.0)
TYPES = "--noEmit --skipLibCheck --allowJs --checkJs --strict --target es2022 --module es2022 --lib es2022,dom,dom.iterable"
SIZE = 60_000  # bytes of the module without weights
PREPARE = """async ([text, sets]) => {
    window.module = await import(URL.createObjectURL(new Blob([text], {type: 'text/javascript'})))
    window.flat = (rows) => Float64Array.from(rows.flat())
    window.mixtures = Object.fromEntries(Object.entries(sets).map(([name, set]) => [name, module.Mixture.from(set)]))
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is installed")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def js(browser) -> Iterator:
    """``js(text, value)``: what a function of the module's page makes of a value, as float64 (N, 2) or as it is."""
    page = browser.new_page()
    page.evaluate(PREPARE, [plane.script(), plane.contents(())["sets"]])

    def run(function: str, *values: Any) -> Any:
        given = [value.tolist() if isinstance(value, Tensor) else value for value in values]
        found = page.evaluate(function, given)
        return torch.tensor(found, dtype=torch.float64).reshape(-1, 2) if isinstance(found, list) else found

    yield run
    page.close()


@pytest.fixture
def agrees(record_property):
    """Fails where numbers differ by more than ``most``, relative to the largest; the differences end up in pytest's summary."""

    def compare(what: str, found: Tensor, wanted: Tensor, most: float) -> None:
        error = float((found - wanted).abs().max() / wanted.abs().max())
        record_property("relative_error", (f"plane: {what}", error, f"allowed {most:g}"))
        assert error <= most, what

    return compare


def oracle_of(name: str) -> GaussianMixture:
    oracle = load_toy(name).oracle
    assert isinstance(oracle, GaussianMixture)
    return oracle


def noisy(oracle: GaussianMixture, sigma: float, n: int = 12) -> Tensor:
    return oracle.sample(n, torch.Generator().manual_seed(0)) + sigma * normal(n, 2, seed=1)


@pytest.mark.parametrize("name", SETS)
def test_mixtures_are_the_librarys(js, agrees, name):
    oracle = oracle_of(name)
    for sigma in LEVELS:
        x, level = noisy(oracle, sigma), torch.tensor(sigma, dtype=torch.float64)
        ask = "([name, x, sigma]) => [...mixtures[name].denoise(flat(x), sigma, new Float64Array(2 * x.length))]"
        agrees("D", js(ask, name, x, sigma), oracle(x, level), 1e-10)
        # On the grid: products of exponentials, in float32.
        axis = torch.linspace(-1.5, 1.5, 6, dtype=torch.float64)
        grid = """([name, axis, sigma]) => [...mixtures[name].density(
            Float64Array.from(axis), Float64Array.from(axis), sigma, new Float32Array(axis.length ** 2))]"""
        points = torch.cartesian_prod(axis, axis).flip(1)
        wanted = oracle.log_prob(points, level).exp().reshape(-1, 2)
        if float(wanted.max()) > 1e-30:
            agrees("density on a grid", js(grid, name, axis, sigma), wanted, 1e-6)


@pytest.mark.parametrize("name", SETS)
def test_paths_and_the_consistency_function_are_the_librarys(js, agrees, name):
    oracle, x = oracle_of(name), 80 * normal(12, 2, seed=3)
    wanted = torch.cat([step.x for step in heun(oracle, x, sampling_sigmas(40))])
    ask = "([name, x, levels]) => module.heun(mixtures[name], flat(x), levels).slice(1).flatMap((s) => [...s])"
    found = js(ask, name, x, sampling_sigmas(40))
    agrees("path, 40 Heun steps", found, wanted, 1e-10)
    agrees("end of the path", found[-12:], wanted[-12:], 1e-10)
    for sigma in LEVELS[1:]:
        x = noisy(oracle, sigma)
        found = js("([name, x, sigma]) => [...module.flow(mixtures[name], flat(x), sigma)]", name, x, sigma)
        agrees("f(x, sigma)", found, oracle.consistency(x, torch.tensor(sigma, dtype=torch.float64)), 5e-5)


def test_the_grid_the_drawn_points_and_the_distance_are_the_librarys(js, agrees):
    levels = js("() => [...module.karras(40)].flatMap((s) => [s, 0])")[:, 0]
    agrees("Karras grid", levels, karras_sigmas(40), 1e-12)
    points = normal(7, 2, seed=5) * torch.tensor([30.0, 10.0]) + 100
    x, level = noisy(oracle_of("8gaussians"), 0.3), torch.tensor(0.3, dtype=torch.float64)
    ask = "([points, x, sigma]) => [...module.Mixture.drawn(flat(points)).denoise(flat(x), sigma, new Float64Array(2 * x.length))]"
    agrees("drawn points", js(ask, points, x, 0.3), drawn_points(points, 0.08).oracle(x, level), 1e-10)
    a, b = normal(500, 2, seed=6), 1.1 * normal(500, 2, seed=7) + 0.2
    # Other directions than the library's, which are drawn.
    found = js("([a, b]) => module.slicedWasserstein(flat(a), flat(b))", a, b)
    assert found == pytest.approx(sliced_wasserstein(a, b), rel=0.05)
    drawn = js("() => [...mixtures['swiss-roll'].sample(4000, 1)]")
    assert sliced_wasserstein(drawn, oracle_of("swiss-roll").sample(4000, torch.Generator().manual_seed(1))) < 0.04
    normals = js("() => [...module.normals(20001, 3)].slice(1)").flatten()
    assert abs(float(normals.mean())) < 0.03 and float(normals.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(
    ("precond", "time_scale"),
    [(EDM, 0.5), (CONSISTENCY, 0.5), (TrigPrecond(consistency=True), 2.0), (VPPrecond(), 0.002), (VEPrecond(), 0.125)],
    ids=["edm", "consistency", "trig", "vp", "ve"],
)
def test_a_network_answers_as_in_the_library(js, agrees, precond, time_scale):
    config = MLPConfig(width=20, depth=2, freqs=5, time_scale=time_scale)
    model = Denoiser(randomise(build_network(config, (2,))), precond, (2,))
    described = plane.described_model(model, "8gaussians", "cd")
    ask = "([model, x, sigma]) => [...new module.Model(model).denoise(flat(x), sigma, new Float64Array(2 * x.length))]"
    for sigma in LEVELS:
        x = noisy(oracle_of("8gaussians"), sigma, 11)
        with torch.no_grad():
            wanted = model(x, torch.tensor(sigma, dtype=torch.float64))
        agrees("an MLP's answer (float32 there)", js(ask, described, x, sigma), wanted, 3e-6)
        if precond is CONSISTENCY and sigma == 0.002:
            assert torch.equal(js(ask, described, x, sigma), x)


def test_what_is_no_model_of_the_plane_is_refused():
    with pytest.raises(ValueError, match="an MLP of samples"):
        plane.described_model(Denoiser(build_network(MLPConfig(), (3,)), EDM, (3,)), "8gaussians", "edm")


def test_the_module_is_small_and_its_types_hold():
    assert len(plane.script().encode()) <= SIZE
    if shutil.which("tsc") is None:
        pytest.skip("no tsc: the types of the module were not checked (apt install node-typescript, or npm install typescript)")
    done = subprocess.run(["tsc", *TYPES.split(), *plane.MODULES], cwd=plane.FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.fixture
def exported(browser, tmp_path) -> Iterator:
    """The page of 'cmlab plane', opened from the disk. Afterwards: it asked for nothing and has nothing to complain about."""
    assert main(["plane", "--export", str(tmp_path / "plane.html"), "--data", "8gaussians"]) == 0
    page, asked, complaints = browser.new_page(viewport={"width": 390, "height": 844}, reduced_motion="reduce"), [], []
    page.on("request", lambda r: None if r.url.startswith(("file:", "data:")) else asked.append(r.url))
    page.on("console", lambda m: complaints.append(m.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto((tmp_path / "plane.html").as_uri())
    page.wait_for_function("() => !plane.job && plane.cloud.ready === 500")
    yield page
    page.close()
    assert asked == [] and complaints == []


def test_the_page_opens_from_the_disk_and_a_point_is_dragged(exported):
    page = exported
    assert page.evaluate("document.documentElement.scrollWidth") <= 390  # a phone
    shown = "() => [...plane.box.querySelectorAll('.answer')].map((row) => row.innerText.trim().split(/\\s+/))"
    before = page.evaluate(shown)
    assert [row[0] for row in before] == ["f(x,", "D(x,", "EDM", "CD", "iCT"]
    stage = page.locator(".stage canvas").bounding_box()
    page.mouse.move(stage["x"] + 80, stage["y"] + 90)
    page.mouse.down()
    page.mouse.move(stage["x"] + 120, stage["y"] + 200)
    page.mouse.up()
    page.wait_for_function("(old) => plane.box.querySelector('.answer:nth-of-type(3)').innerText !== old", arg=before[1][-1])
    point = torch.tensor(page.evaluate("() => [...plane.point]"), dtype=torch.float64)
    sigma = torch.tensor(page.evaluate("() => plane.set.sigma"), dtype=torch.float64)
    oracle = oracle_of("8gaussians")
    f, answer = (g(point[None], sigma)[0] for g in (oracle.consistency, checkpoints.load("8gaussians-cd")[0]))
    written = float(page.evaluate(shown)[3][-1])
    assert written == pytest.approx(float((f - answer).detach().norm()), abs=6e-4)

    # f stays where it is while the point walks, and the walk is the exact path.
    page.get_by_role("button", name="One step on").click()
    step = page.evaluate("() => [plane.set.sigma, ...plane.point, ...plane.probe.f]")
    wanted = oracle.flow(point[None], sigma, step[0])[0]
    assert torch.tensor(step[1:3]) == pytest.approx(wanted, abs=0.02 * step[0])
    assert torch.tensor(step[3:]) == pytest.approx(f, abs=1e-4)


def test_maps_jumps_and_drawn_points(exported):
    page = exported
    page.get_by_role("tab", name="Where noise ends").click()
    page.evaluate("() => plane.pick('steps', 1)")
    page.wait_for_function("() => !plane.job && plane.maps.length === 4", timeout=60_000)
    rms = page.evaluate("() => Object.fromEntries(plane.maps.map((map) => [map.answer.id, map.rms]))")
    assert rms["f"] == 0 and rms["cd"] < 0.1 < 0.5 < rms["edm"]  # one step of the teacher ends in the middle

    page.get_by_role("tab", name="Jump by hand").click()
    noise, jump = page.get_by_role("button", name="Noise, σ"), page.get_by_role("button", name="Jump", exact=True)
    assert noise.is_disabled()
    jump.click()
    assert jump.is_disabled() and page.evaluate("() => plane.walkers.far") < 0.1
    noise.click()
    assert page.evaluate("() => plane.walkers.sigma") == pytest.approx(0.8)

    page.get_by_role("tab", name="Walk").click()
    page.get_by_text("draw your own").click()
    page.get_by_role("button", name="clear").click()
    stage = page.locator(".stage canvas").bounding_box()
    for x, y in ((100, 100), (200, 220), (300, 120)):
        page.mouse.click(stage["x"] + x, stage["y"] + y)
    assert page.evaluate("() => plane.mixture.count") == 3
    page.get_by_role("button", name="drag x").click()
    page.wait_for_function("() => plane.box.querySelector('[data-answer=euler] output').innerText !== ''")


def test_a_page_is_not_written_over_and_takes_models_of_the_plane_alone(tmp_path, capsys):
    out = tmp_path / "plane.html"
    out.write_text("mine")
    assert main(["plane", "--export", str(out)]) == 1 and "--overwrite" in capsys.readouterr().err
    assert main(["plane", "--export", str(tmp_path / "a.html"), "--models", "digits-cd"]) == 1
    assert "SET-METHOD" in capsys.readouterr().err and not (tmp_path / "a.html").exists()
    assert main(["plane", "--export", str(out), "--overwrite", "--models", "two-moons-cd", "--data", "rings"]) == 0
    text = out.read_text("utf-8")
    assert '"label": "CD"' in text and '"label": "EDM"' not in text and '"set": "rings"' in text


def test_a_notebook_holds_the_plane_and_a_still_picture(browser, monkeypatch):
    shown = []
    monkeypatch.setattr(teach, "_emit", lambda html, *others: shown.append(html))
    course_plane("8gaussians", ["8gaussians-cd"], mode="jump")
    page, asked = browser.new_page(), []
    page.on("request", lambda r: None if r.url.startswith(("data:", "about:")) else asked.append(r.url))
    page.set_content(shown[0])
    frame = page.frames[1]
    frame.wait_for_function("() => window.plane")
    assert frame.evaluate("() => [plane.set.name, plane.set.mode, Object.keys(plane.models)]") == ["8gaussians", "jump", ["cd"]]
    assert page.get_by_alt_text("a still picture").evaluate("(i) => i.complete && i.naturalWidth > 300") and asked == []
    page.close()
    with pytest.raises(ValueError, match="mode is one of"):
        course_plane(mode="run")
