"""Model cards: what a checkpoint says about itself, figures that are kept in it, and what it is not good for."""

import json
import re
import shutil
import threading

import pytest
import torch
from conftest import tiny
from matplotlib.figure import Figure
from safetensors.torch import load_file

from cmlab.base.files import locked
from cmlab.commands.main import main
from cmlab.data import load_images
from cmlab.data.names import title_of
from cmlab.denoiser import EDM
from cmlab.evaluation.card import Picture, card, keep_facts, keep_figures
from cmlab.evaluation.cardpictures import write_card
from cmlab.evaluation.classifier import to_pixels
from cmlab.evaluation.features import ClassifierFeatures
from cmlab.evaluation.report import Report, Row
from cmlab.formats import checkpoints
from cmlab.samplers import sample


def report(value: float = 1.0, steps: int = 1, name: str = "FD-cls") -> Report:
    rows = (Row(name, value, 0.25, 0.5, 0.125, same_n=2.0),)
    return Report("m: 20 samples", "classifier x", "against 10 images", 10, rows, {"n": 20, "sampler": "onestep", "steps": steps})


@pytest.fixture
def checkpoint(tmp_path):
    return shutil.copy(checkpoints.resolve("digits-cd"), tmp_path / "digits-cd.safetensors")


def test_two_that_keep_something_at_once_wait_for_each_other(checkpoint):
    with locked(checkpoint.parent):
        second = threading.Thread(target=keep_facts, args=(checkpoint, {"two": 2}))
        second.start()
        second.join(0.2)
        assert second.is_alive()
        about = checkpoints.read_meta(checkpoint)["about"]
        checkpoints.keep_about(checkpoint, {**about, "one": 1})
    second.join(60)
    about = checkpoints.read_meta(checkpoint)["about"]
    assert (about["one"], about["two"]) == (1, 2)


def test_figures_are_kept_and_the_weights_keep_their_bits(checkpoint):
    before, about = load_file(checkpoint), checkpoints.read_meta(checkpoint)["about"]
    keep_figures(checkpoint, report(1.0))
    keep_figures(checkpoint, report(3.0))  # takes the place of the first
    keep_figures(checkpoint, report(2.0, steps=2))
    after, now = load_file(checkpoint), checkpoints.read_meta(checkpoint)["about"]
    assert before.keys() == after.keys() and all(
        (before[k] == after[k]).all() and before[k].dtype == after[k].dtype for k in before
    )
    measured = now.pop("measured")
    assert now == {k: v for k, v in about.items() if k != "measured"}
    assert [one["figures"][0]["value"] for one in measured.values()] == [3.0, 2.0]
    text = card(checkpoint)
    assert "| FD-cls | 3.00 +- 0.25 | 2 | 0.50 +- 0.12 |" in text and "first 10 samples" in text


def test_card_says_how_it_was_made_and_what_it_is_not_good_for(checkpoint):
    text = card(checkpoint, report())
    for words in (
        "# digits-cd",
        "consistency model",
        "171,305 parameters",
        "`cmlab train digits-cd`",
        "## Measured",
        "1.00 +- 0.25",
    ):
        assert words in text
    limits = text[text.index("## What it is not good for") :]
    assert "Anything but digits" in limits and "published FIDs" in limits and "Likelihoods" in limits
    assert "published FIDs" not in card(checkpoint, report(name="FID"))
    assert "One-step samples" in card("digits-edm") and "Pictures: it makes points" in card("two-moons-ict")


@pytest.mark.parametrize("name", checkpoints.pretrained_names())
def test_every_bundled_checkpoint_has_a_card(name, capsys):
    assert main(["info", str(checkpoints.PRETRAINED / f"{name}.safetensors")]) == 0
    out = capsys.readouterr().out
    about = checkpoints.read_meta(name)["about"]
    assert about["command"] in out
    tables = [row for measured in about.get("measured", {}).values() for row in measured["figures"]]
    shown = re.findall(r"^\| (.+?) \| ([\d.]+) \+- ([\d.]+) \|", out, re.M)
    assert [name for name, *_ in shown] == [row["name"] for row in tables]
    for (_, value, error), row in zip(shown, tables, strict=True):
        assert float(value) == pytest.approx(row["value"], abs=float(error) / 10)
    for key, value in about["quality"].items():  # said once: in the tables, or as a list where there are none
        assert (f"- {key}: {value}" in out) == (not tables)


def test_a_checkpoint_that_says_nothing_has_a_card(tmp_path):
    path = checkpoints.save(tmp_path / "bare.safetensors", tiny())
    assert "Anything but the data it was trained on" in card(path)
    path = checkpoints.save(tmp_path / "odd.safetensors", tiny(), {"note": {"a": 1}})
    assert '- note: {"a": 1}' in card(path)
    path = checkpoints.save(path, tiny(), {"note": "a\x1b]0;b\x07\n# c", "preset": "\x9b2J"})  # would move a terminal's cursor
    assert {"- note: a?]0;b??# c", "- preset: ?2J"} <= set(card(path).splitlines()) and card(path).isascii()


def test_evaluate_writes_card_and_keeps_figures(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CMLAB_CACHE", str(tmp_path / "cache"))
    words = ["--n", "20", "--metrics", "fd,accuracy", "--card", str(tmp_path / "card.md"), "--json", str(tmp_path / "f.json")]
    assert main(["evaluate", str(checkpoint), *words]) == 0
    figures = json.loads((tmp_path / "f.json").read_text())["figures"]
    text = (tmp_path / "card.md").read_text()
    for name in ("samples", "neighbours"):
        assert f"](card-{name}.png)" in text and (tmp_path / f"card-{name}.png").is_file()
    assert main(["evaluate", str(checkpoint), *words[:6]]) == 1  # neither the card nor its pictures are written over
    assert "FD-cls" in text and "20 real held-out images" in text and len(figures) == 2
    assert "measured" not in checkpoints.read_meta(checkpoint)["about"]
    assert main(["evaluate", str(checkpoint), *words[:4], "--keep"]) == 0
    kept = checkpoints.read_meta(checkpoint)["about"]["measured"]
    assert [one["figures"] for one in kept.values()] == [figures]
    capsys.readouterr()
    assert main(["info", str(checkpoint)]) == 0
    assert "| class accuracy |" in capsys.readouterr().out


def test_a_card_tells_hours_images_machine_curves_and_licence(tmp_path):
    about = {
        "preset": "cifar10-small-cd", "data": "cifar10:ship,horse", "data_title": "CIFAR-10 (JPEG): ship, horse", "seconds": 9000.0,
        "device": "cpu", "machine": "An old computer", "threads": 2, "images": 640_000, "command": "cmlab train x",
        "loss_curve": [[10, 2.0], [20, 1.0]], "two_steps": {"sigmas": [80.0, 0.75], "evaluations": 9, "n": 10},
    }  # fmt: skip
    path = checkpoints.save(tmp_path / "m.safetensors", tiny("unet", classes=2), about)
    text = card(path, pictures=[Picture("Curves", "m-loss.png", "loss", "Falls."), Picture("Curves", "m-fd.png", "FD")])
    for line in (
        "- data: CIFAR-10 (JPEG): ship, horse",
        "- training: 640,000 images in 2.5 hours on An old computer, 2 threads",
        "Noise levels of two steps, by a search over 9 lists of levels: 80 0.75.",
        "## Curves\n\n![loss](m-loss.png)\n\nFalls.\n\n![FD](m-fd.png)\n",
        "None has been chosen for these weights yet.",
        "It knows ship, horse and no other class.",
    ):
        assert line in text
    assert text.count("## Curves") == 1 and "evaluations" not in text
    assert "MIT" in card(checkpoints.save(path, tiny(), about | {"licence": "MIT"}))


def test_pictures_of_a_card(tmp_path, monkeypatch):
    monkeypatch.setenv("CMLAB_CACHE", str(tmp_path / "cache"))
    drawn = {}
    monkeypatch.setattr("cmlab.evaluation.cardpictures.plots.plot_images", lambda rows: drawn.update(rows) or Figure())
    teacher, student = tiny("unet", EDM, 2), tiny("unet", classes=2)
    about = {"data": "digits-color:3,8", "loss_curve": [[10, 2.0], [20, 1.0]], "fd_curve": [[20, 3.0]]}
    checkpoints.save(tmp_path / "t.safetensors", teacher, {})
    checkpoints.save(tmp_path / "s.safetensors", student, about | {"init": str(tmp_path / "t.safetensors")})
    files = write_card(tmp_path / "s.safetensors", tmp_path / "out.md")
    assert [file.name for file in files] == ["out.md", "out-curves-loss.png", "out-samples.png", "out-neighbours.png"]
    label = torch.arange(24) % 2
    for name, model, sampler, steps in (("one step", student, "multistep", 1), ("teacher, 18 steps", teacher, "heun", 18)):
        x = sample(model, model.shape, range(24), sampler, steps, label=label)
        shown = torch.cat([drawn[f"{name} (0 to 11)"], drawn[f"{name} (12 to 23)"]])
        assert torch.allclose(shown, x, atol=1e-6)
    data, extractor = load_images("digits-color:3,8"), ClassifierFeatures("digits")
    ours, theirs = (extractor(to_pixels(x))[0] for x in (drawn["sample"], data.x0))
    distance = torch.cdist(ours, theirs)
    for k in range(3):
        shown = torch.cdist(drawn[f"nearest {k + 1}"].flatten(1), data.x0.flatten(1)).argmin(1)
        assert torch.allclose(distance.gather(1, shown[:, None])[:, 0], distance.sort(1).values[:, k], atol=1e-3)


def test_where_the_pictures_came_from_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("CMLAB_DATA", str(tmp_path))
    (tmp_path / "cifar10-jpeg.tar.xz").touch()
    assert title_of("cifar10:ship,horse") == "CIFAR-10 (JPEG): ship, horse" and title_of("digits") == "Digits"
    (tmp_path / "cifar-10-python.tar.gz").touch()
    assert title_of("cifar10") == "CIFAR-10"
