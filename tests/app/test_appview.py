"""What the app's page is wired to do, and what its handlers, groups and picture reader do as plain functions."""

import warnings
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

gr = pytest.importorskip("gradio", reason="the app is an extra: pip install cmlab[app]")
pytest.importorskip("gradio_client", reason="the app is an extra: pip install cmlab[app]")
from test_app import COLOR, THREE, pixels, untrained  # noqa: E402

from cmlab.app import handlers, view  # noqa: E402
from cmlab.app import page as app  # noqa: E402
from cmlab.app.parts import COUNTED, Turn  # noqa: E402
from cmlab.app.server import hush  # noqa: E402
from cmlab.base.files import write_png  # noqa: E402
from cmlab.commands.main import main  # noqa: E402
from cmlab.data.pixels import to_uint8  # noqa: E402
from cmlab.editing import EDIT_STEPS, apply_edit  # noqa: E402
from cmlab.formats import checkpoints  # noqa: E402
from cmlab.plots import read_picture  # noqa: E402
from cmlab.samplers import sample  # noqa: E402


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("empty"))  # the developer's own runs/ is not part of the test
        return app.build_app()


# --- the page ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["sample", "interpolate", "edit"])
def test_a_press_and_another_data_set_carry_numbers(page, name):
    run = next(fn for fn in page.fns.values() if fn.api_name == name)
    data, counter = next(b for b in run.inputs if b.label == "Data set"), run.inputs[-1]
    empty = next(fn for fn in page.fns.values() if (data._id, "input") in fn.targets and fn.inputs[-1:] == [counter])
    assert run.trigger_mode == empty.trigger_mode == "multiple" and run.js == empty.js == COUNTED  # none waits, none is left out
    assert not run.cancels and not empty.cancels and empty.inputs[-2] is run.inputs[-2]
    assert set(empty.outputs) <= {*run.outputs, *run.inputs}
    stale = {box for box in run.outputs if isinstance(box, (gr.Image, gr.Markdown, gr.HTML, gr.DownloadButton))}
    assert stale <= set(empty.outputs)
    turn = Turn()
    assert not any(empty.fn(turn, "7")) and turn == Turn(over=7)


def test_what_follows_the_data_set_has_no_default_of_its_own(page):
    endpoints = page.get_api_info()["named_endpoints"]
    known = {(name, p["parameter_name"]): p for name, e in endpoints.items() for p in e["parameters"]}
    for key in (("/sample", "student"), ("/sample", "distilled"), ("/interpolate", "method"), ("/edit", "method")):
        assert known[key]["parameter_has_default"] and known[key]["parameter_default"] is None
    assert known["/train", "methods"]["parameter_default"] == ["cd"]
    assert all(known[name, "class_name"]["type"] == {"type": "string"} for name in ("/sample", "/interpolate", "/edit"))


def test_torchs_own_deprecation_does_not_reach_the_terminal():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(FutureWarning):
            torch.jit.script(torch.nn.Identity())
        hush()
        torch.jit.script(torch.nn.Identity())
        with pytest.raises(FutureWarning, match="another"):
            warnings.warn("another", FutureWarning, stacklevel=1)


# --- handlers ----------------------------------------------------------------------------------------------------------------


def test_the_newest_press_wins_and_a_refused_one_changes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    turn, nothing = Turn(), gr.skip()

    def walk(press: str | None, **options):
        return handlers.sample(**{"data": "digits", "count": 1, "edm_steps": 3, "turn": turn, "press": press, **options})

    first, refused, second, third = walk("1"), walk("2", edm_steps=3.7), walk("3"), walk("4")
    next(first)
    with pytest.raises(gr.Error, match="whole number"):
        next(refused)
    assert next(first) != nothing  # the good run goes on
    assert next(third) != nothing
    assert list(first) == [nothing] and list(second) == [nothing]  # older: also one that only now gets its turn
    turn.end("4")  # what came before: it stays
    assert len([next(third) for _ in range(2)]) == 2
    turn.end("5")
    assert list(third) == [nothing]
    assert len(list(walk(None))) == 1 + 1 + 3 + 1  # a program's runs have no number


def test_a_stopped_run_shows_what_it_has_and_says_so_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    turn = Turn()
    run = handlers.sample(data="digits", count=1, edm_steps=5, turn=turn, press="1")
    seen = [next(run) for _ in range(4)]
    turn.stop("2")
    turn.stop("3")
    (last,) = run
    assert isinstance(last, tuple) and last[0] == seen[-1][0] and last[1] == f"{seen[-1][1]} · stopped"
    assert (
        last[2:6] == seen[-1][2:6] and last[6]["labels"] and Path(last[7]).is_file()
    )  # the students' pictures, and the film so far
    early = handlers.sample(data="digits", count=1, edm_steps=5, turn=turn, press="4")
    next(early)
    turn.stop("5")
    (last,) = early
    assert last[1] == "not run" and sum("stopped" in str(part) for part in last) == 1
    assert list(handlers.sample(data="digits", turn=turn, press="4")) == [gr.skip()]
    for name, says in (("interpolate", 2), ("edit", 3)):
        turn = Turn()
        run = getattr(handlers, name)(data="digits", turn=turn, press="6")
        seen = next(run)
        turn.stop("7")
        (last,) = run
        assert last[0] == seen[0] and last[says] == f"{seen[says]} · stopped"


def test_without_a_name_the_data_sets_own_students_are_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    *_, (_, _, cd, cd_text, student, text, *_) = handlers.sample(data="digits", count=1, edm_steps=1)
    assert cd and student and cd_text.startswith("**CD,") and text.startswith("**iCT,")
    untrained(tmp_path / "runs", "zoo", (3, 8, 8), ("edm", "ccd", "sct"))
    *_, (_, _, ccd, _, sct, *_) = handlers.sample(data="zoo", count=1, edm_steps=1)
    assert ccd and sct
    *_, (_, _, text, *_) = handlers.interpolate(data="zoo", frames=2)
    assert view.label_of("ccd") in text
    *_, (_, _, _, text, *_) = handlers.edit("inpaint", data="zoo", steps=1)
    assert view.label_of("ccd") in text


@pytest.mark.parametrize("seed", [-view.MAX_SEED, -1, view.MAX_SEED])
def test_every_seed_of_the_library_is_one_of_the_app(tmp_path, monkeypatch, seed):
    monkeypatch.chdir(tmp_path)
    *_, (edm, *_, used) = handlers.sample(data="digits", seed=seed, count=1, edm_steps=2, class_name="3")
    group = view.groups()["digits"]
    model, label = view.model_of(group, "edm"), torch.tensor([3])
    drawn = view.picture(sample(model, group.shape, [seed], "heun", 2, label=label))
    assert used == seed and (pixels(edm) == drawn).all()
    *_, (*_, used) = handlers.edit("inpaint", data="digits", mask="random", steps=1, seed=seed)
    assert used == seed
    assert handlers.train(methods=["edm"], steps=10, batch=16, seed=seed)["seed"] == seed


# --- groups ------------------------------------------------------------------------------------------------------------------


def test_models_compute_in_the_precision_of_the_app(monkeypatch):
    group, label, seen = view.groups()["digits"], torch.tensor([3, 3]), []
    exact = cast(Any, view.model_of(group, "edm"))
    monkeypatch.setattr(view, "PRECISION", "bf16")
    assert exact.compute is None and cast(Any, view.model_of(group, "edm")).compute == torch.bfloat16
    monkeypatch.setattr(view, "encode", lambda model, x, *_, **__: seen.append(model) or x)
    ends = torch.ones(1, *group.shape), -torch.rand(1, *group.shape, generator=torch.Generator().manual_seed(0))
    assert len(list(view.make_interpolation(group, "cd", ends, 2, label))) == 1
    assert [model.compute for model in seen] == [None, None]  # the noise of a picture is found in float32


def test_an_own_model_of_another_kind_takes_nobodys_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundled, runs = tmp_path / "bundled", tmp_path / "runs"
    monkeypatch.setattr(checkpoints, "PRETRAINED", bundled)
    untrained(bundled, COLOR, (3, 8, 8), ("edm", "cd", "ict"))
    untrained(runs, COLOR, (3, 8, 8), ("ict",))  # of the same kind: comes before the bundled one
    untrained(runs, COLOR, (3, 16, 16), ("cd", "edm"))
    untrained(runs, COLOR, (3, 8, 8), ("ect",), classes=4)
    found = view.groups()
    plain, own, alone = found[COLOR], found[f"{COLOR} (runs)"], found[f"{COLOR}-ect (runs)"]
    assert len(found) == 3 and plain.shape == alone.shape == (3, 8, 8) and own.shape == (3, 16, 16)
    assert (plain.classes, own.classes, alone.classes) == (10, 10, 4)
    folders = {m: Path(path).parent.name for m, path in plain.models.items()}
    assert folders == {"edm": "bundled", "cd": "bundled", "ict": "runs"} and list(own.models) == ["edm", "cd"]
    for group in found.values():
        for method in group.models:
            model = view.model_of(group, method)
            assert model(torch.zeros(1, *group.shape), torch.ones(()), torch.tensor([0])).shape[1:] == group.shape
    with pytest.raises(ValueError, match=r"\(runs\) has no iCT checkpoint \(found: EDM, CD\)\.$"):
        view.model_of(own, "ict")


def test_a_damaged_checkpoint_hides_only_itself_and_a_new_one_appears(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path)
    untrained(tmp_path, "holidays", (3, 32, 32))
    (tmp_path / "digits-edm.safetensors").write_bytes(b"cut short")
    for k, strange in enumerate(({"data": ["x"]}, {"data": "a" * 9000}, {"class_names": 7}, {"data": "/"}, {"data": "two-moons"})):
        with monkeypatch.context() as as_others_write:
            as_others_write.setattr(checkpoints.header, "check", lambda *_: None)
            untrained(tmp_path / "runs", f"strange{k}", (3, 32, 32), ("cd",), strange)
        for group in view.groups().values():
            assert view.examples(group)[0].shape[1:] == group.shape
        (tmp_path / "runs" / f"strange{k}-cd.safetensors").unlink()
    group = view.groups()["holidays"]
    assert list(view.groups()) == ["holidays"] and group.shape == (3, 32, 32)
    *_, (_, _, result, *_) = handlers.edit("super_resolve", data="holidays", steps=1, patch=4)
    assert pixels(result).shape[0] % 32 == 0
    (tmp_path / "holidays-cd.safetensors").unlink()
    with pytest.raises(gr.Error, match=r"has no CD checkpoint"):
        list(handlers.edit("inpaint", data="holidays", method="cd"))


def test_colour_images_come_first_the_largest_of_them_before_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path)
    untrained(tmp_path, "digits", (1, 8, 8))
    untrained(tmp_path, COLOR, (3, 8, 8))
    assert list(view.groups()) == [COLOR, "digits"]  # as long as there are no others
    untrained(tmp_path, "zoo", (3, 32, 32), ("cd",))
    assert list(view.groups()) == ["zoo", COLOR, "digits"]


def test_classes_have_the_names_that_the_header_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path)
    for data, trained_on, classes in (("a", THREE, 3), ("b", "cifar10", 10), ("c", "cifar10", 4), ("d", "", 3)):
        untrained(tmp_path, data, (3, 32, 32), ("cd",), trained_on, classes)
    found = view.groups()
    assert found["a"].class_names == ("automobile", "horse", "ship") and found["a"].origin == found["b"].origin == "cifar10"
    assert found["b"].class_names[3] == "cat" and found["b"].classes == 10
    assert found["c"].class_names == tuple("0123") and found["d"].class_names == tuple("012")
    label = view.class_labels(found["a"], "ship", 2)
    assert label is not None and label.tolist() == [2, 2]
    for data, known in (("a", [12, 12, 12]), ("d", [0, 0, 0])):  # borrowed pictures have classes of their own
        names = view.examples(found[data])[1]
        assert len(names) == 36 and [names.count(k) for k in ("automobile", "horse", "ship")] == known


# --- pictures -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8), (3, 32, 32)])
def test_pictures_of_every_mode_are_read(tmp_path, mode, shape):
    ramp = Image.fromarray(np.linspace(0, 255, 16 * 24, dtype=np.uint8).reshape(16, 24))
    deep = Image.fromarray(np.asarray(ramp).astype(np.uint16) * 257)
    image = ramp if mode == "L" else deep if mode == "I;16" else ramp.convert(mode)
    path = tmp_path / f"ramp.{'png' if mode in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16') else 'tif'}"
    image.save(path)
    x, notes = read_picture(str(path), shape)
    assert x.shape == (1, *shape) and x.abs().max() <= 1.001
    assert x[..., 0, :].mean() < -0.5 and x[..., -1, :].mean() > 0.5
    assert any("resized from 24 x 16" in note for note in notes)


@pytest.mark.parametrize(
    ("size", "mode", "notes"),
    [
        ((240, 400), "RGB", ["cut to a square and resized from 240 x 400 to 8 x 8 pixels"]),
        ((40, 40), "RGB", ["resized from 40 x 40 to 8 x 8 pixels"]),
        ((8, 8), "P", ["converted to RGB colours"]),
        ((8, 8), "RGBA", ["converted to RGB colours, on white where it is transparent"]),
        ((8, 8), "RGB", []),
    ],
)
def test_what_is_done_to_a_picture_is_said_in_words(tmp_path, size, mode, notes):
    Image.new(mode, size).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png", (3, 8, 8))[1] == notes


def test_of_moving_pictures_the_first_frame_is_taken_and_told(tmp_path):
    red, blue = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for kind in ("gif", "webp", "png"):
        red.save(tmp_path / f"a.{kind}", save_all=True, append_images=[blue, red])
        x, notes = read_picture(tmp_path / f"a.{kind}", (3, 8, 8))
        assert notes[0] == "reduced to the first of its 3 frames" and x[0, :, 0, 0].round().tolist() == [1, -1, -1]


def test_a_picture_that_is_too_large_is_told_the_limit(tmp_path, monkeypatch):
    Image.new("1", (40, 40)).save(tmp_path / "a.png")
    message = r"^a\.png is too large a picture: choose one of at most \d+ million pixels\.$"
    for limits in (("cmlab.data.pixels.MAX_PIXELS", 1000), ("PIL.Image.MAX_IMAGE_PIXELS", 100)):  # ours, and Pillow's own
        with monkeypatch.context() as patch:
            patch.setattr(*limits)
            with pytest.raises(ValueError, match=message):
                read_picture(tmp_path / "a.png", (3, 8, 8))


# --- edits ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["denoise", "stroke", "inpaint", "super_resolve"])
def test_an_edit_is_that_of_the_command_line(tmp_path, monkeypatch, task):
    """The same picture, seed and model, and nothing said of levels: the same three pictures."""
    monkeypatch.chdir(tmp_path)
    group = view.groups()["digits"]
    kind = 5
    write_png(tmp_path / "five.png", to_uint8(view.examples(group)[0][kind][None])[0])
    y, _ = read_picture(tmp_path / "five.png", group.shape)
    words = ["edit", "digits-cd", task, "--image=five.png", f"--label={kind}", "--seed=7"]
    made = []
    monkeypatch.setattr("cmlab.editing.apply_edit", lambda *args, **kwargs: made.append(apply_edit(*args, **kwargs)) or made[0])
    if task == "stroke":  # with nothing painted, the page takes coarse blocks for the painting: here, blocks of one pixel
        monkeypatch.setattr(view, "painted_over", lambda editor, shape: y)
    assert main(words) == 0
    edit, *_ = view.make_edit(task, y, mask="centre", painted=None, patch=2, noise_level=None, steps=EDIT_STEPS, seed=7)
    shown = apply_edit(view.model_of(group, "cd"), edit, [7], label=torch.tensor([kind]))
    assert torch.equal(made[0], shown)


def test_the_dial_for_noise_shows_what_the_edit_takes(page):
    level = next(fn.fn for fn in page.fns.values() if fn.name == "level")
    assert level("stroke", COLOR) == 0.95 and level("stroke", "cifar10-small") == 1.9 and level("denoise", COLOR) == 0.5
    assert isinstance(level("inpaint", COLOR), dict)  # gr.skip(): it stays as it is
