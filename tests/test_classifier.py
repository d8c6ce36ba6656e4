"""Training of the small classifiers: what decides a run, and that it stops and goes on to the same bits."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cmlab import classifier_training as training
from cmlab.classifier import Classifier, ClassifierConfig, accuracy, load_classifier, save_classifier, splits
from cmlab.classifier_training import ClassifierPreset, train_classifier
from cmlab.cli import main
from cmlab.runs import read_state, write_state
from cmlab.trainer import has_bf16, usable_precision

TINY = ClassifierPreset(("digits",), ClassifierConfig((4, 6), 1), steps=6, batch=16)
WORDS = ["train", "digits-classifier", "--steps", "6", "--batch", "16", "--network.channels", "4", "6"]


def everything(model: Classifier) -> torch.Tensor:
    return torch.cat([v.detach().flatten().double() for v in model.state_dict().values()])


def trained(preset: ClassifierPreset, **options) -> Classifier:
    *_, last = train_classifier([splits(name)[0] for name in preset.data], preset, **options)
    return last.model


# Every field of a preset but the sizes, which change the shapes.
CHANGES = {
    "data": ("digits-color",),
    "steps": 7,
    "batch": 17,
    "lr": 1e-3,
    "weight_decay": 0.5,
    "shift": 2,
    "flip": True,
    "smoothing": 0.3,
    "precision": "bf16",
    "seed": 1,
}


@pytest.mark.usefixtures("untouched_rng")
def test_training_is_a_function_of_its_options():
    first = everything(trained(TINY))
    assert torch.equal(first, everything(trained(TINY)))
    for field, value in CHANGES.items():
        other = everything(trained(replace(TINY, **{field: value})))
        assert first.shape != other.shape or not torch.equal(first, other), field
    assert set(CHANGES) | {"network"} == set(ClassifierPreset.__dataclass_fields__)


def test_it_goes_on_from_a_state_to_the_same_bits(tmp_path):
    for state in train_classifier([splits("digits")[0]], TINY):
        if state.step == 3:
            write_state(tmp_path / "state.safetensors", state.snapshot())
    whole, again = everything(state.model), trained(TINY, resume=read_state(tmp_path / "state.safetensors"))
    assert torch.equal(whole, everything(again))


def test_files_hold_half_precision(tmp_path):
    model = trained(TINY)
    loaded = load_classifier(save_classifier(tmp_path / "a.safetensors", model, {})).model
    for a, b in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(b, a.half().float() if a.ndim > 1 else a)


def test_the_command_stops_goes_on_and_is_used_by_evaluate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*WORDS, "--out", "whole"]) == 0
    calls, shifted = [], training._shifted

    def interrupting(*args):
        calls.append(None)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return shifted(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "_shifted", interrupting)
        assert main(WORDS) == 128 + signal.SIGTERM
    assert "stopped by SIGTERM after step 3 of 6" in capsys.readouterr().err
    assert main(WORDS) == 1
    assert "holds an unfinished run, saved at step 3: pass --resume" in capsys.readouterr().err
    assert main([*WORDS, "--lr", "1e-3", "--resume"]) == 1
    assert "was saved with --lr 0.003, not 0.001" in capsys.readouterr().err
    assert main([*WORDS, "--resume"]) == 0
    one, two = (load_classifier(Path(folder) / "digits-classifier.safetensors") for folder in ("whole", "runs"))
    assert torch.equal(everything(one.model), everything(two.model))
    assert sorted(p.name for p in Path("runs").iterdir()) == ["digits-classifier.safetensors"]
    assert main([*WORDS, "--resume"]) == 0 and "this run is finished" in capsys.readouterr().out
    assert main(WORDS) == 1 and "--overwrite" in capsys.readouterr().err
    assert set(two.about["accuracy"]) == {"digits", "digits-color"} and two.about["cpu_seconds"] > 0
    assert two.about["accuracy"]["digits"] == round(accuracy(two.model, splits("digits")[1]), 4)
    command = ["evaluate", "digits-cd", "--n", "40", "--features", "runs/digits-classifier.safetensors", "--metrics", "fd"]
    assert main([*command, "--cache", "cache"]) == 0 and "FD-cls" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "1"], "--steps must be at least 2"),
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--smoothing", "1"], "--smoothing lies in [0, 1)"),
        (["--network.blocks", "0"], "--network.channels and --network.blocks are at least 1"),
        (["--data", "two-moons"], "holds points, not images"),
        (["--data", "digits", "cifar10-examples"], "has not the classes of digits"),
        (["--resume", "--overwrite"], "choose one"),
        (["--shfit", "3"], "did you mean --shift?"),
    ],
)
def test_what_cannot_be_trained_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*WORDS, *words]) == 1
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
    assert not list(tmp_path.rglob("*.safetensors"))


def test_names_are_suggested(capsys):
    assert main(["train", "digit-classifier"]) == 1
    assert "did you mean 'digits-classifier'?" in capsys.readouterr().err
    assert main(["train", "cifar10-clasifier"]) == 1
    assert "did you mean 'cifar10-classifier'?" in capsys.readouterr().err


def test_auto_is_what_the_device_computes_in(monkeypatch):
    cpu = torch.device("cpu")
    assert usable_precision("auto", cpu) == ("bf16" if has_bf16(cpu) else "float32")
    for native in (True, False):
        monkeypatch.setattr("cmlab.trainer.has_bf16", lambda device, native=native: native)
        assert usable_precision("auto", cpu) == ("bf16" if native else "float32")
        assert [usable_precision(p, cpu) for p in ("float32", "bf16", "fp16")] == ["float32", "bf16", "fp16"]
