"""The app through its API, as gradio_client and bare HTTP see it, and its handlers as plain functions."""

import functools
import json
import math
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

gr = pytest.importorskip("gradio", reason="the app is an extra: pip install cmlab[app]")
pytest.importorskip("gradio_client", reason="the app is an extra: pip install cmlab[app]")

from gradio_client import Client, handle_file  # noqa: E402
from gradio_client.exceptions import AppError  # noqa: E402

from cmlab import samplers  # noqa: E402
from cmlab.app import browser, handlers, live, theory, view  # noqa: E402
from cmlab.app import page as app  # noqa: E402
from cmlab.app.server import launch  # noqa: E402
from cmlab.base.registry import DATASETS, EDITS, EXPERIMENTS, LOSSES, SAMPLERS  # noqa: E402
from cmlab.commands.main import main  # noqa: E402
from cmlab.data import EXAMPLES, drawn_points  # noqa: E402
from cmlab.denoiser import CONSISTENCY, EDM, Denoiser, traits_of  # noqa: E402
from cmlab.formats import checkpoints  # noqa: E402
from cmlab.networks import MLPConfig, UNetConfig, build_network  # noqa: E402
from cmlab.samplers import default_sigmas  # noqa: E402
from cmlab.theory import SOLVERS  # noqa: E402
from cmlab.training.presets import get_preset, run  # noqa: E402

COLOR, CIFAR = "digits-color", "cifar10-small"
THREE = "cifar10:automobile,horse,ship"


def untrained(
    folder: Path,
    data: str,
    shape: tuple[int, ...],
    methods: tuple[str, ...] = ("edm", "cd", "ict"),
    trained_on: str | dict = "",
    classes: int = 10,
) -> None:
    """Checkpoints that have learnt nothing: enough for plumbing, and made in no time."""
    for method in methods:
        torch.manual_seed(0)
        net = build_network(UNetConfig(channels=8, mult=(1,), emb=16, patch=2 if shape[1] == 32 else 1), shape, classes)
        model = Denoiser(net, EDM if method in ("edm", "pd") else CONSISTENCY, shape, classes)
        about = trained_on if isinstance(trained_on, dict) else {"data": trained_on}
        checkpoints.save(folder / f"{data}-{method}.safetensors", model, about)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[str]:
    """The address of a running app on the bundled digits, behind untrained models of three classes of CIFAR-10."""
    folder = tmp_path_factory.mktemp("pretrained")
    with pytest.MonkeyPatch.context() as patch:
        # gradio_client leaves an empty folder of every download in the system's temporary folder
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("downloads")))
        patch.chdir(folder)  # the developer's own runs/ is not part of the test
        untrained(folder / "runs", CIFAR, (3, 32, 32), ("edm", "cd", "ict"), THREE, 3)
        page = app.build_app()
        yield launch(page, port=free_port(), quiet=True)
        page.close(verbose=False)


@pytest.fixture(scope="module")
def client(served) -> Client:
    return Client(served, verbose=False)


def pixels(path: str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_the_endpoints_have_names_and_named_parameters(client):
    endpoints = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert set(endpoints) == {"/sample", "/interpolate", "/edit", "/train", "/theorems"}
    names = {p["parameter_name"] for p in endpoints["/edit"]["parameters"]}
    assert {"task", "image", "mask", "method", "steps", "noise_level", "seed"} <= names
    for endpoint in endpoints.values():
        assert all(p["parameter_has_default"] for p in endpoint["parameters"])
        names = [r["label"] for r in endpoint["returns"]]
        assert len(set(names)) == len(names) and not any(name.startswith("value_") for name in names)


def test_sample_streams_and_the_same_seed_gives_the_same_pictures(client):
    options = {"data": COLOR, "count": 9, "edm_steps": 3, "student_steps": 2, "student": "ict", "api_name": "/sample"}
    job = client.submit(seed=7, **options)
    edm, edm_text, cd, cd_text, student, _, film, archive, seed = job.result()
    assert len(job.outputs()) == 3 + 2 + 2 + 1  # every step of each model, and the end
    assert seed == 7 and "5 NFE" in edm_text and "2 NFE" in cd_text and "ms" in cd_text
    assert pixels(edm).shape == pixels(cd).shape == pixels(student).shape
    assert film["count"] == 9 and Path(archive).name == "digits-color-seed7.zip"
    again, other = client.predict(seed=7, **options), client.predict(seed=8, **options)
    assert (pixels(again[0]) == pixels(edm)).all() and (pixels(again[2]) == pixels(cd)).all()
    assert not (pixels(other[0]) == pixels(edm)).all()


def test_every_solver_of_the_diffusion_model_can_be_chosen(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path)
    untrained(tmp_path, "digits", (1, 8, 8))
    for sampler, name in ((record.name, record.label) for record in view.diffusion_samplers()):
        *_, (edm, text, *_) = handlers.sample(count=2, edm_steps=3, seed=1, sampler=sampler)
        nfe = {"heun": 5, "dpm2": 5, "dpmpp_2s": 5, "dpm_solver3": 7, "predictor_corrector": 5}.get(sampler, 3)
        assert str(text).startswith(f"**EDM, {name}, 3 steps** · {nfe} NFE")
        *_, (again, *_) = handlers.sample(count=2, edm_steps=3, seed=1, sampler=sampler)
        assert again == edm  # the file's name is a hash of the picture
    with pytest.raises(gr.Error, match="Unknown sampler 'dpm'"):
        list(handlers.sample(count=1, sampler="dpm"))


def test_nfe_says_how_often_the_network_is_asked_not_the_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path)
    untrained(tmp_path, "digits", (1, 8, 8))
    plain = checkpoints.load(tmp_path / "digits-edm.safetensors")[0]
    checkpoints.save(tmp_path / "digits-edm.safetensors", Denoiser(plain.net, EDM, (1, 8, 8), 10, True, guidance=2.0))
    asked: list[int] = []
    model = cast(Denoiser, view.model_of(view.groups()["digits"], "edm"))
    model.net.register_forward_hook(lambda *_: asked.append(1))
    *_, (_, text, *_, film, _, _) = handlers.sample(count=2, edm_steps=3)
    assert len(asked) == 10 and "· 10 NFE ·" in text and film["labels"][-1].endswith("· 10 NFE")
    *_, (_, _, text, *_) = handlers.interpolate(method="edm", frames=2)
    assert f"{len(asked) - 10} NFE each" in text


def test_the_menus_have_every_solver_and_every_loss():
    solvers = {record.name for record in view.diffusion_samplers()}
    assert solvers | {"progressive", "onestep", "multistep"} == set(SAMPLERS)
    assert view.students(distilled=True) == ["cd", "ccd", "scd", "pd"]
    assert view.students(distilled=False) == ["ect", "ict", "ct", "cct", "sct"]
    assert all(record.label and record.help for registry in (LOSSES, EDITS) for record in registry.records())


def choices(page, label: str) -> list[tuple[str, str]]:
    """The labels and names that the page offers in the menu of that label."""
    return next(c["props"]["choices"] for c in page.get_config_file()["components"] if c["props"].get("label") == label)


def test_a_new_entry_of_a_registry_is_in_the_menus_and_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for registry in (SAMPLERS, EDITS, DATASETS):
        monkeypatch.setattr(registry, "_records", dict(registry._load() or registry._records))

    @SAMPLERS.register("mine", "My sampler", "Euler again", kind="ode")
    def mine(denoise, x, sigmas, label=None, *, noise=None, project=None):
        yield from SAMPLERS["euler"](denoise, x, sigmas, label, noise=noise, project=project)

    @EDITS.register("frame", "My edit", "All but the frame is generated.")
    def frame(y, steps=3, width=1):
        free = torch.zeros(1, 1, *y.shape[2:])
        free[..., width:-width, width:-width] = 1
        return EDITS["inpaint"](y, free, steps)

    DATASETS.register("spots", "Spots", "two spots", kind="toy")(lambda: drawn_points([(0.0, 0.0), (1.0, 1.0)]))
    page = app.build_app()
    assert choices(page, "EDM: sampler")[-1] == ("My sampler", "mine")
    assert choices(page, "Task")[-1] == ("My edit", "frame")
    assert ("spots", "spots") in choices(page, "Distribution")
    *_, (edm, text, *_) = handlers.sample(data="digits", count=2, edm_steps=3, sampler="mine")
    *_, (euler, *_) = handlers.sample(data="digits", count=2, edm_steps=3, sampler="euler")
    assert edm == euler and str(text).startswith("**EDM, My sampler, 3 steps**")
    *_, (_, _, result, text, *_) = handlers.edit("frame", data="digits", steps=2)
    assert Path(result).is_file() and text.startswith("**My edit** with CD · step 2 of 2")
    refresh = next(fn.fn for fn in page.fns.values() if fn.fn and fn.name == "refresh")
    about, steps, patch, noise_level, mask, painted, *_ = next(refresh("frame", None, 0, "centre", "digits", None, "", {}))
    assert about == "**My edit.** All but the frame is generated."
    assert [box.visible for box in (steps, patch, noise_level, mask, painted)] == [True, False, False, False, False]
    assert "spots" in browser.contents(())["sets"]
    assert handlers.train("spots", ["cd"], 10, 16)["models"][0]["data"] == "spots"


def test_an_empty_seed_is_drawn_and_returned(client):
    *_, first = client.predict(seed=None, count=1, edm_steps=1, api_name="/sample")
    *_, second = client.predict(seed=None, count=1, edm_steps=1, api_name="/sample")
    assert 0 <= first <= view.MAX_SEED and first != second


def test_interpolation_begins_with_the_picture_of_seed_a(client):
    strip, film, text, _, a, b = client.predict(
        data=COLOR, method="cd", seed_a=5, seed_b=6, frames=4, class_name="2", api_name="/interpolate"
    )
    cd = client.predict(data=COLOR, seed=5, count=1, edm_steps=1, class_name="2", api_name="/sample")[2]
    assert (a, b) == (5, 6) and "4 frames" in text
    assert (
        film["pictures"] == 4 and (pixels(strip)[::21, : 8 * 21 : 21] == pixels(cd)[::85, ::85]).all()
    )  # enlarged 21 and 85 times
    assert pixels(strip).shape[1] > 3 * pixels(strip).shape[0]


def test_many_frames_go_into_rows(client):
    strip, *_ = client.predict(data="digits", method="ict", class_name="4", frames=33, api_name="/interpolate")
    height, width, _ = pixels(strip).shape
    assert width / height == pytest.approx((11 * 9 - 1) / (3 * 9 - 1))  # pixels of 3 rows of 11, with gaps between
    assert view.strip(torch.zeros(12, 1, 8, 8))[0].shape == view.picture(torch.zeros(12, 1, 8, 8), 6, 384).shape  # evenly filled


def test_every_data_set_can_be_asked_for_its_own_methods_and_classes(client):
    """The page shows those of one set, and a program may ask for those of any."""
    for data, method, kind in ((CIFAR, "ict", "ship"), (COLOR, "ict", "7"), ("digits", "ict", "9")):
        options = {"data": data, "method": method, "class_name": kind}
        assert f"class {kind}" in client.predict(frames=2, api_name="/interpolate", **options)[2]
        assert view.label_of(method) in client.predict(steps=1, api_name="/edit", **options)[3]
        assert client.predict(data=data, class_name=kind, count=1, edm_steps=1, student=method, api_name="/sample")[4]
    for options, message in (({"method": "ect"}, "has no ECT checkpoint"), ({"class_name": "ship"}, "Unknown class 'ship' for")):
        for endpoint in ("/interpolate", "/edit"):
            with pytest.raises(AppError, match=message):
                client.predict(data=COLOR, api_name=endpoint, **options)
    with pytest.raises(AppError, match="no name of a choice"):
        client.predict(data=COLOR, method=["cd"], api_name="/edit")


def test_pictures_can_be_the_ends_of_an_interpolation(client):
    """The diffusion model leads from the pictures' noises back to them."""
    options = {"data": "digits", "method": "edm", "frames": 2, "api_name": "/interpolate"}
    strip, _, text, *_ = client.predict(example_a=4, example_b=6, **options)
    assert "class 4" in text and "run upwards" in text
    original = client.predict(task="inpaint", data="digits", example=4, steps=1, api_name="/edit")[0][0]
    far = client.predict(task="inpaint", data="digits", example=6, steps=1, api_name="/edit")[0][0]
    first = pixels(strip)[::21, : 8 * 21 : 21].astype(float)  # the strip is enlarged 21 times, the pictures 85 times
    error = [np.abs(first - pixels(other)[::85, ::85]).mean() for other in (original, far)]
    assert error[0] < 10 < error[1]
    with pytest.raises(AppError, match="example must be a whole number from 0 to 9"):
        client.predict(example_a=10, **options)


@pytest.mark.parametrize("task", ["inpaint", "colorize", "super_resolve", "stroke", "denoise"])
def test_every_edit_shows_original_degraded_and_result(client, task):
    job = client.submit(task=task, data=COLOR, example=4, steps=3, seed=2, noise_level=0.5, api_name="/edit")
    (original, first), degraded, result, text, film, archive, seed = job.result()
    assert (pixels(first) == pixels(result)).all() and Path(archive).suffix == ".zip" and film["count"] == 1
    assert pixels(original).shape == pixels(degraded).shape == pixels(result).shape
    assert (pixels(degraded) != pixels(original)).any()
    assert seed == 2 and "NFE" in text
    assert len(job.outputs()) == {"denoise": 2, "stroke": 3}.get(task, 4)  # the last one with the original once more


def test_inpainting_keeps_what_the_mask_spares(client):
    (original, _), _, result, *_ = client.predict(task="inpaint", data=COLOR, mask="left", steps=2, api_name="/edit")
    half = pixels(original).shape[1] // 2
    assert (pixels(original)[:, half:] == pixels(result)[:, half:]).all()
    assert (pixels(original)[:, :half] != pixels(result)[:, :half]).any()


def test_a_painted_mask_is_obeyed_and_an_empty_one_refused(client, tmp_path):
    paint = np.zeros((view.CANVAS, view.CANVAS, 4), np.uint8)
    Image.fromarray(paint).save(tmp_path / "empty.png")
    paint[: view.CANVAS // 4, :, :] = 255
    Image.fromarray(paint).save(tmp_path / "top.png")

    def painted(name: str) -> dict:
        file = handle_file(str(tmp_path / name))
        return {"background": file, "layers": [file], "composite": file}

    options = {"task": "inpaint", "data": COLOR, "mask": "painted", "steps": 1, "api_name": "/edit"}
    (original, _), _, result, *_ = client.predict(painted=painted("top.png"), **options)
    changed = (pixels(original) != pixels(result)).any((1, 2))
    assert changed[: len(changed) // 4].any() and not changed[len(changed) // 4 :].any()
    for empty in (painted("empty.png"), None):
        with pytest.raises(AppError, match="mask is empty: paint"):
            client.predict(painted=empty, **options)


def test_what_is_not_a_picture_is_refused_and_the_app_goes_on(client, tmp_path):
    for name in ("notes.txt", "liar.png"):
        (tmp_path / name).write_text("not a picture at all")
        with pytest.raises(AppError, match=r"not a picture|Invalid file type"):
            client.predict(image=handle_file(str(tmp_path / name)), steps=1, api_name="/edit")
    assert client.predict(steps=1, api_name="/edit")


def test_a_picture_of_another_size_and_mode_is_converted(client, tmp_path):
    Image.new("RGBA", (60, 41), (255, 0, 0, 128)).save(tmp_path / "wide.png")
    (original, _), *_ = client.predict(
        image=handle_file(str(tmp_path / "wide.png")), data=COLOR, steps=1, task="super_resolve", api_name="/edit"
    )
    assert abs(pixels(original).reshape(-1, 3).mean(0) - (255, 127, 127)).max() < 3


@pytest.mark.parametrize(
    ("endpoint", "options", "message"),
    [
        ("/sample", {"count": 10**9}, "greater than maximum"),
        ("/sample", {"edm_steps": 1e300}, "greater than maximum"),
        ("/sample", {"student_steps": 0}, "less than minimum"),
        ("/sample", {"count": 2.5}, "samples must be a whole number from 1 to 256"),
        ("/sample", {"count": None}, "Samples is empty: put a number there"),
        ("/sample", {"seed": 0.5}, "seed must be a whole number from -9007199254740991 to 9007199254740991, got 0.5"),
        ("/sample", {"seed": 1e300}, "seed must be a whole number"),
        ("/sample", {"seed": "seven"}, "seed must be a whole number"),
        ("/sample", {"data": "imagenet"}, "not in the list of choices"),
        ("/interpolate", {"frames": 0}, "less than minimum"),
        ("/interpolate", {"class_name": "eleven"}, "Unknown class 'eleven' for"),
        ("/edit", {"example": 10, "data": "digits"}, "example must be a whole number from 0 to 9"),
        ("/edit", {"task": "super_resolve", "patch": 3}, "Value: 3 .* is not in the list of choices"),
        ("/edit", {"task": "denoise", "noise_level": 1e4}, "greater than maximum"),
        ("/edit", {"task": "colorize", "data": "digits"}, "takes a model of RGB images"),
        ("/train", {"distribution": "cats"}, "[Uu]nknown distribution 'cats'"),
        ("/train", {"distribution": "drawn"}, "Draw between 2 and 400 points"),
        ("/train", {"distribution": "drawn", "points": [0.5, 0.5, 0.5, 0.5]}, "lie on one spot"),
        ("/train", {"distribution": "drawn", "points": [0, 0, 1, 1e9]}, "Draw between 2 and 400 points"),
        ("/train", {"steps": 3.7}, "training steps must be a whole number from 10 to 5000, got 3.7"),
        ("/train", {"batch": 0}, "batch size must be a whole number from 16 to 2048"),
        ("/train", {"methods": ["cd", "cd"]}, "from 1 to 3 methods"),
        ("/train", {"methods": ["best"]}, "[Uu]nknown method 'best'"),
        ("/train", {"run": "another's"}, "press Train again"),
        ("/theorems", {"distribution": "cats"}, "not in the list of choices"),
        ("/theorems", {"distribution": "soft3", "model": "two-moons-cd"}, "trained on two-moons, not on soft3: choose that"),
        ("/theorems", {"seed": 0.5}, "seed must be a whole number"),
    ],
)
def test_bad_input_is_answered_by_a_readable_message(client, endpoint, options, message):
    with pytest.raises(AppError, match=message):
        client.predict(api_name=endpoint, **options)


def test_a_refusal_leaves_no_traceback_in_the_log(client, capfd):
    for options in ({"count": 10**9}, {"data": "imagenet"}, {"sampler": "onestep"}, {"seed": 0.5}):
        with pytest.raises(AppError):
            client.predict(api_name="/sample", **options)
    log = "".join(capfd.readouterr())
    assert "Traceback" not in log and "Error" not in log


def test_a_number_that_is_not_finite_is_an_error_and_no_hang(served):
    import httpx

    for endpoint, data in (
        ("train", ["two-moons", ["cd"], 20, 32, math.nan, [], ""]),
        ("train", ["drawn", ["cd"], 20, 32, 0, [0, 0, math.inf, 1], ""]),
    ):
        body = json.dumps({"data": data})  # NaN and Infinity, which Python's JSON lets through
        call = httpx.post(f"{served}gradio_api/call/{endpoint}", content=body, headers={"content-type": "application/json"})
        if call.status_code == 200:
            text = httpx.get(f"{served}gradio_api/call/{endpoint}/{call.json()['event_id']}", timeout=20).text
            assert "event: error" in text and ("must be" in text or "Draw" in text)
        else:
            assert 400 <= call.status_code < 500


@pytest.mark.parametrize(
    ("options", "says", "row"),
    [
        ({"experiment": "thm1", "solver": "euler"}, "slope for N = 4..16", 16),
        ({"experiment": "thm1", "model": "two-moons-cd"}, "two-moons-cd: max error", 16),
        ({"experiment": "thm2", "distance": "huber", "distribution": "8gaussians"}, "of L_CD itself", 16),
        ({"experiment": "variance", "weight": "1/dt"}, "exponent of the bias", 16),
    ],
)
def test_theorems_are_those_of_the_command(client, monkeypatch, options, says, row):
    monkeypatch.setattr(theory, "SMALL", {key: {"sizes": (4, 8, 16), "points": 4} for key in theory.EXPERIMENTS})
    figure, text, table, seed = client.predict(seed=2, api_name="/theorems", **options)
    assert says in text and seed == 2 and len(json.loads(figure["plot"])["data"]) >= 2
    lines = table.splitlines()
    assert len(lines) == 5 and lines[-1].startswith(f"| {row} |")
    names = {"distribution": "data", "model": "checkpoint"}
    asked: dict[str, Any] = {names.get(str(k), str(k)): v for k, v in options.items() if k != "experiment"}
    sizes: dict[str, Any] = {"seed": 2, "sizes": (4, 8, 16), "points": 4}
    direct = EXPERIMENTS[options["experiment"]](sizes, **asked)
    assert table == theory.table_of(direct)


def test_the_theorems_and_their_choices_are_those_of_the_room_theory():
    assert {*theory.EXPERIMENTS} == {*EXPERIMENTS.texts()} == {*theory.HELP} == {*theory.SMALL} and all(theory.HELP.values())
    assert tuple(SOLVERS) == theory.SOLVERS and EXPERIMENTS.texts()["thm2"].facts["distance"] == theory.DISTANCES
    assert "two-moons-cd" in theory.models() and "two-moons-edm" not in theory.models() and "two-moons-edm" in theory.starts()


def trained(told: dict, call=handlers.train) -> list[dict]:
    """All that a training tells, from its first second to its end."""
    parts = [told]
    while not parts[-1]["done"]:
        parts.append(call(run=parts[-1]["run"]))
    return parts


@pytest.mark.parametrize("method", LOSSES)
def test_every_method_trains_in_the_plane(monkeypatch, method):
    monkeypatch.setattr(live, "SLICE", 0.0)
    live._KEPT.clear()  # what other tests have left
    parts = trained(handlers.train("two-moons", [method], 10, 16, 1))
    (model,) = parts[-1]["models"]
    assert [part["step"] for part in parts] == [*range(1, 11)] and model["label"] == view.label_of(method)
    assert [loss[0] for part in parts for loss in part["models"][0]["losses"]] == [*range(1, 11)]
    assert ("exact PF-ODE" in model["origin"]) == LOSSES[method]().needs_teacher
    assert parts[-1]["run"] not in live._KEPT
    with pytest.raises(ValueError, match="press Train again"):
        handlers.train(run=parts[-1]["run"])


def test_a_training_in_parts_is_one_training(client, monkeypatch):
    """Two methods side by side from one seed, a part at a time through the API: the weights of `run` in one go."""
    monkeypatch.setattr(live, "SLICE", 0.0)
    call = functools.partial(client.predict, api_name="/train")
    points = [0.1, 0.2, 0.5, -0.3, -0.6, 0.4]
    parts = trained(call(distribution="drawn", methods=["ct", "edm"], steps=12, batch=16, seed=5, points=points), call)
    assert len(parts) > 3 and parts[0]["seed"] == 5
    data = live.plane_data("drawn", points)
    for model, method in zip(parts[-1]["models"], ("ct", "edm"), strict=True):
        *_, end = run(live.live_preset(method, 12, 16, 5), 1, data=data)
        assert model["weights"] == browser.weights_of(cast(Denoiser, end.ema))


def test_trainings_that_are_left_make_room(monkeypatch):
    monkeypatch.setattr(live, "SLICE", 0.0)
    monkeypatch.setattr(live, "KEPT", 2)
    names = [handlers.train("rings", ["ct"], 10, 16)["run"] for _ in range(3)]
    assert list(live._KEPT) == names[1:]
    with pytest.raises(ValueError, match="left for too long"):
        handlers.train(run=names[0])
    live._KEPT.clear()


def test_a_live_training_is_its_preset_made_shorter(tmp_path, monkeypatch):
    sct = live.live_preset("sct", 500, 64, 3)
    full = get_preset("two-moons-sct")
    assert (sct.loss, sct.lr, sct.network, sct.init) == (full.loss, full.lr, full.network, "")
    assert (sct.steps, sct.batch, sct.seed) == (500, 64, 3)
    assert (1 - sct.ema) * 500 == pytest.approx((1 - full.ema) * full.steps)
    for method in LOSSES:
        assert 0 <= live.live_preset(method, 1, 16, 0).ema < 1
    # weights to start from bring their network along, also one that the presets no longer build
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path)
    for scale, method in ((4.0, "ccd"), (0.5, "pd")):
        net = build_network(MLPConfig(width=16, time_scale=scale), (2,))
        checkpoints.save(tmp_path / "rings-edm.safetensors", Denoiser(net, EDM, (2,)), {"data": "rings"})
        assert live.live_preset(method, 5, 16, 0, "rings-edm").network == net.config
        (model,) = live.Training(live.plane_data("rings"), "rings", [method], 2, 16, 0, "cpu").go_on(0)["models"]
        assert model["origin"].startswith("from rings-edm") and model["time_scale"] == scale


def test_progressive_distillation_is_sampled_with_its_own_number_of_steps():
    training = live.Training(live.plane_data("rings"), "rings", ["pd"], 9, 16, 0, "cpu")
    assert [training.go_on(0)["models"][0]["steps"] for _ in range(9)][::8] == [64, 1]


def test_drawn_points_stay_where_they_are():
    points = [0.1, 0.2, 0.5, -0.3, -0.6, 0.4]
    oracle, fitted = live.plane_data("drawn", points).oracle, drawn_points(torch.tensor(points).reshape(-1, 2), live.SPREAD).oracle
    assert oracle.means.flatten().tolist() == points
    shift, scale = oracle.means.mean(0), oracle.stds[0] / fitted.stds[0]
    assert torch.allclose((oracle.means - shift) / scale, fitted.means, atol=1e-6)  # but for that, the library's


def test_without_checkpoints_an_exact_model_stands_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path)
    assert list(view.groups()) == [view.EXACT]
    config = json.dumps(app.build_app().get_config_file(), default=str)
    assert "No trained image model was found" in config
    *_, (edm, _, cd, _, student, student_text, *_) = handlers.sample(count=2, edm_steps=2)
    assert Path(edm).is_file() and Path(cd).is_file() and student is None and "cmlab train" in student_text
    *_, (_, _, result, *_) = handlers.edit("inpaint", steps=1)
    assert Path(result).is_file()


def test_the_examples_are_whole_small_and_where_the_readme_says():
    root = EXAMPLES / "cifar10"
    files = sorted(root.glob("*/*.png"))
    assert len(files) == 36 and sum(f.stat().st_size for f in EXAMPLES.rglob("*") if f.is_file()) < 150_000
    readme = (EXAMPLES / "README.md").read_text()
    for kind in ("automobile", "horse", "ship"):
        numbers = [f.stem for f in files if f.parent.name == kind]
        assert len(numbers) == 12 and f"| {kind} | {', '.join(numbers)} |" in readme
    assert all(Image.open(f).size == (32, 32) and Image.open(f).mode == "RGB" for f in files)
    assert len({f.read_bytes() for f in files}) == 36


def test_the_class_of_an_upload_is_guessed_by_who_knows_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), "teal").save(tmp_path / "sea.png")
    untrained(tmp_path / "runs", "zoo", (3, 32, 32), ("cd",), "zoo", 3)
    *_, (_, _, _, text, *_) = handlers.edit("denoise", image=str(tmp_path / "sea.png"), data="zoo")
    assert "taken for class" in text and "restores it best" in text  # no classifier knows a zoo
    group = view.groups()["digits"]
    pictures, names = view.examples(group)
    for y, kind in zip(pictures, names, strict=True):  # those of the digits know their ten examples
        assert view.likeliest_class(group, view.model_of(group, "cd"), y[None])[0] == kind


def test_two_steps_of_a_student_take_its_searched_levels(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no runs/ here
    group, searched = view.groups()[CIFAR], checkpoints.read_meta(f"{CIFAR}-ict")["about"]["two_steps"]["sigmas"]
    assert view.plan_of(group, "ict", None, 2).sigmas.tolist() == searched
    for method, sampler, steps in (("ict", "multistep", 3), ("ict", "multistep", 1), ("edm", "heun", 2)):
        chosen = view.plan_of(group, method, None, steps)
        assert chosen.sampler == sampler and torch.equal(chosen.sigmas, default_sigmas(sampler, steps))


def test_what_nobody_chooses_is_sampled_as_the_library_does(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path)
    untrained(tmp_path, "digits", (1, 8, 8), ("edm", "cd", "pd"))
    real = samplers.plan

    def plan(denoise, sampler=None, steps=None, sigmas=None, about=None):  # another decision in the one place where it is made
        usual = ("multistep", 3) if traits_of(denoise).consistency else ("euler", 7)
        other = (None, None) if about and about.get("sampler") else usual
        return real(denoise, sampler or other[0], steps or other[1], sigmas, about)

    monkeypatch.setattr(view, "plan", plan)
    *_, (_, edm, _, cd, *_) = handlers.sample(count=1)
    assert str(edm).startswith("**EDM, Euler, 7 steps** · 7 NFE") and str(cd).startswith("**CD, 3 steps** · 3 NFE")
    for method, nfe in (("edm", 7), ("cd", 3), ("pd", 1)):
        *_, (_, _, text, *_) = handlers.interpolate(method=method, frames=2)
        assert f"{nfe} NFE each" in text
    assert [c["props"]["value"] for c in app.build_app().get_config_file()["components"] if c["props"].get("label") in (
        "EDM: sampler", "EDM: steps", "Jumps: steps of the consistency models"
    )] == [3, "euler", 7]  # fmt: skip


def test_a_progressively_distilled_student_takes_one_step_and_edits_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path)
    untrained(tmp_path, "digits", (1, 8, 8), ("edm", "cd", "pd"))
    *_, (_, _, pd, text, *_) = handlers.sample(count=2, edm_steps=1, student_steps=4, distilled="pd")
    assert Path(str(pd)).is_file() and "Progressive distillation, 1 step" in str(text) and "1 NFE" in str(text)
    *_, (strip, _, text, *_) = handlers.interpolate(method="pd", frames=2)
    assert Path(strip).is_file() and "1 NFE each" in text
    radios = [c["props"] for c in app.build_app().get_config_file()["components"] if c["props"].get("label") == "Model"]
    interpolate, edit = ([m for _, m in radio["choices"]] for radio in radios)
    assert set(interpolate) == {"edm", "cd", "pd"} and edit == ["cd"]


def test_another_data_set_keeps_the_choices_that_it_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path)
    untrained(tmp_path, COLOR, (3, 8, 8), ("edm", "cd", "ict"))
    untrained(tmp_path, "digits", (1, 8, 8), ("edm", "ict", "ect"))
    for before, after in (("ict", "ict"), ("edm", "edm"), ("cd", "ect")):
        method, kind = app.model_choices("digits", before, "3", False)
        assert method["value"] == after and kind["value"] == "3"
    assert app.model_choices("digits", "edm", None, True)[0]["value"] != "edm"
    adapt = next(fn.fn for fn in app.build_app().fns.values() if fn.name == "adapt")
    assert adapt is not None
    kind, count, distilled, student = adapt("digits", "4", 9, "cd", "ict")
    assert (kind["value"], count, distilled, student) == ("4", 9, "cd", "ict")
    assert adapt(COLOR, "all", app.MAX_COUNT, "cd", "ect")[1:4] == (16, "cd", "ict")


def test_a_port_that_is_taken_ends_with_one_line(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["app", "--port", str(taken.getsockname()[1])]) == 1
    said = capsys.readouterr().err
    assert "make app PORT=" in said and said.count("\n") == 1


@pytest.mark.parametrize("port", ["http", "70000", "0", "-1", "²", "7860.0", ""])
def test_a_port_that_is_none_is_a_wrong_option(capsys, port, monkeypatch):
    for words in (["--port", port], []):
        monkeypatch.setenv("PORT", port if not words else "7860")
        assert main(["app", *words]) == 2  # the parser's status: torch, which takes seconds to import, was not asked for
        assert "the port must be a number from 1 to 65535" in " ".join(capsys.readouterr().err.split())


def test_an_unknown_device_ends_with_one_line(capsys):
    assert main(["app", "--port", str(free_port()), "--device", "toaster"]) == 1
    said = capsys.readouterr().err
    assert "device 'toaster' cannot be used" in said and said.count("\n") == 1
