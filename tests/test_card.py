"""Model cards: what a checkpoint says about itself, figures that are kept in it, and what it is not good for."""

import json
import shutil

import pytest
from conftest import tiny
from safetensors.torch import load_file

from cmlab import checkpoints
from cmlab.card import card, keep_figures
from cmlab.cli import main
from cmlab.report import Report, Row


def report(value: float = 1.0, steps: int = 1, name: str = "FD-cls") -> Report:
    rows = (Row(name, value, 0.25, 0.5, 0.125, same_n=2.0),)
    return Report("m: 20 samples", "classifier x", "against 10 images", 10, rows, {"n": 20, "sampler": "onestep", "steps": steps})


@pytest.fixture
def checkpoint(tmp_path):
    return shutil.copy(checkpoints.resolve("digits-cd"), tmp_path / "digits-cd.safetensors")


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
    assert about["command"] in out and all(f"- {k}: {v}" in out for k, v in about["quality"].items())


def test_a_checkpoint_that_says_nothing_has_a_card(tmp_path):
    path = checkpoints.save(tmp_path / "bare.safetensors", tiny())
    assert "Anything but the data it was trained on" in card(path)
    path = checkpoints.save(tmp_path / "odd.safetensors", tiny(), {"note": {"a": 1}})
    assert '- note: {"a": 1}' in card(path)


def test_evaluate_writes_card_and_keeps_figures(checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CMLAB_CACHE", str(tmp_path / "cache"))
    words = ["--n", "20", "--metrics", "fd,accuracy", "--card", str(tmp_path / "card.md"), "--json", str(tmp_path / "f.json")]
    assert main(["evaluate", str(checkpoint), *words]) == 0
    figures = json.loads((tmp_path / "f.json").read_text())["figures"]
    text = (tmp_path / "card.md").read_text()
    assert "FD-cls" in text and "20 real held-out images" in text and len(figures) == 2
    assert "measured" not in checkpoints.read_meta(checkpoint)["about"]
    assert main(["evaluate", str(checkpoint), *words[:4], "--keep"]) == 0
    kept = checkpoints.read_meta(checkpoint)["about"]["measured"]
    assert [one["figures"] for one in kept.values()] == [figures]
    capsys.readouterr()
    assert main(["info", str(checkpoint)]) == 0
    assert "| class accuracy |" in capsys.readouterr().out
