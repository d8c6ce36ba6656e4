"""Training of the small classifiers: what decides a run, and that it stops and goes on to the same bits."""

import os
import signal
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from conftest import said

from cmlab.commands.main import main
from cmlab.evaluation import classifier_training as training
from cmlab.evaluation.classifier import (
    PRETRAINED,
    Classifier,
    ClassifierConfig,
    FastClassifier,
    accuracy,
    build_classifier,
    load_classifier,
    resolve_classifier,
    save_classifier,
    splits,
)
from cmlab.evaluation.classifier_training import ClassifierPreset, _Epochs, train_classifier
from cmlab.training import loop
from cmlab.training.states import read_state, write_state
from cmlab.training.trainer import has_bf16, usable_precision

TINY = ClassifierPreset(("digits",), ClassifierConfig((4, 6), 1), steps=6, batch=16)
FAST = replace(TINY, network=ClassifierConfig((4, 6), kind="fast"), optimizer="sgd", lr=0.1, steps=7, flip=True)
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
    "optimizer": "sgd",
    "lr": 1e-3,
    "weight_decay": 0.5,
    "shift": 2,
    "flip": True,
    "smoothing": 0.3,
    "precision": "bf16",
    "seed": 1,
}


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize("preset", [TINY, FAST], ids=["residual", "fast"])
def test_training_is_a_function_of_its_options(preset):
    first = everything(trained(preset))
    assert torch.equal(first, everything(trained(preset)))
    for field, value in CHANGES.items():
        if getattr(preset, field) == value:
            value = {"steps": 6, "optimizer": "adamw", "flip": False}[field]
        other = everything(trained(replace(preset, **{field: value})))
        assert first.shape != other.shape or not torch.equal(first, other), field
    assert set(CHANGES) | {"network"} == set(ClassifierPreset.__dataclass_fields__)


@pytest.mark.parametrize(("preset", "step"), [(TINY, 3), (FAST, 3), (FAST, 6)], ids=["residual", "fast", "after a look ahead"])
def test_it_goes_on_from_a_state_to_the_same_bits(preset, step, tmp_path):
    for state in train_classifier([splits("digits")[0]], preset):
        if state.step == step:
            write_state(tmp_path / "state.safetensors", state.snapshot())
    whole, again = everything(state.model), trained(preset, resume=read_state(tmp_path / "state.safetensors"))
    assert torch.equal(whole, everything(again))


@pytest.mark.parametrize("steps", range(2, 14))
@pytest.mark.parametrize("preset", [TINY, FAST], ids=["residual", "fast"])
def test_a_run_of_any_length_ends_at_the_lowest_rate(preset, steps):
    for state in train_classifier([splits("digits")[0]], replace(preset, steps=steps)):
        if state.step == steps - 1:  # the rate of the last step
            rates = [group["lr"] / preset.lr for group in state.optimizer.param_groups]
    assert rates == pytest.approx([0.03, 8 * 0.03] if preset is FAST else [4e-6, 4e-6])
    assert bool(everything(state.model).isfinite().all())


def test_an_epoch_holds_every_image_once_and_the_next_its_mirror_image():
    epochs = _Epochs(replace(FAST, batch=10), 40)
    first, second = ([epochs(4 * epoch + k) for k in range(4)] for epoch in range(2))
    picks = [torch.cat([pick for pick, _ in epoch]) for epoch in (first, second)]
    assert all(torch.equal(pick.sort().values, torch.arange(40)) for pick in picks) and not torch.equal(*picks)
    mirrored = [torch.cat([m for _, m in epoch])[pick.argsort()] for epoch, pick in zip((first, second), picks, strict=True)]
    assert torch.equal(mirrored[0], ~mirrored[1]) and 5 < int(mirrored[0].sum()) < 35
    again = _Epochs(replace(FAST, batch=10), 40)  # a run that goes on in the middle of an epoch
    assert torch.equal(again(6)[0], second[2][0])


def test_the_fixed_filter_whitens():
    pixels = splits("cifar10-examples")[0].pixels(slice(None))
    model = build_classifier(ClassifierConfig((4,), kind="fast"), (3, 32, 32), 10)
    model.prepare([pixels])
    assert isinstance(model, FastClassifier)
    out = model.whiten(model._normalised(pixels)).double().transpose(0, 1).flatten(1)
    second = out @ out.T / out.shape[1]
    # Its second moments are those of white noise along all directions that have more variance than the 5e-4 that is added.
    moments = second[:12, :12]
    assert torch.allclose(moments - torch.diag(moments.diag()), torch.zeros(12, 12).double(), atol=1e-3)
    assert float(moments.diag()[:6].min()) > 0.9 and float(moments.diag().max()) < 1.001
    assert torch.allclose(out[12:], -out[:12])


@pytest.mark.parametrize("preset", [TINY, FAST], ids=["residual", "fast"])
def test_files_hold_half_precision(preset, tmp_path):
    model = trained(preset)
    loaded = load_classifier(save_classifier(tmp_path / "a.safetensors", model, {})).model
    assert type(loaded) is type(model) and loaded.config == model.config
    for a, b in zip(model.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(b, a.half().float() if a.ndim > 1 else a)


def test_the_command_stops_goes_on_and_is_used_by_evaluate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    clock = count()
    monkeypatch.setattr(loop.time, "process_time", lambda: float(next(clock)))  # a second each time it is looked at
    with monkeypatch.context() as patch:
        patch.setattr(loop, "TELL", -1.0)
        assert main([*WORDS, "--out", "whole"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if " 6/6 [" in line]  # no terminal, so lines in place of a bar
    assert line.startswith("digits-classifier: ") and ", loss=" in line
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
    assert sorted(map(str, Path("runs").rglob("*.*"))) == [
        "runs/digits-classifier.safetensors",
        "runs/digits-classifier/config.toml",  # its states are gone: it cannot go on longer
    ]
    assert main([*WORDS, "--resume"]) == 0 and "this run is finished" in capsys.readouterr().out
    assert main(WORDS) == 1 and "--overwrite" in capsys.readouterr().err
    assert set(two.about["accuracy"]) == {"digits", "digits-color"}
    assert two.about["cpu_seconds"] >= 2  # one before the stop, at least one after it
    assert two.about["accuracy"]["digits"] == round(accuracy(two.model, splits("digits")[1]), 4)
    command = ["evaluate", "digits-cd", "--n", "40", "--features", "digits-classifier", "--metrics", "fd"]  # from runs/
    assert main([*command, "--cache", "cache"]) == 0 and "FD-cls" in capsys.readouterr().out


def test_a_classifier_is_found_by_its_name_as_models_are_but_never_in_place_of_a_shipped_one(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["info", "digits-classifier"]) == 1 and "digits-classifier is no checkpoint" in capsys.readouterr().err
    mine = save_classifier(Path("runs/digits-classifier.safetensors"), trained(TINY), {"note": "mine\x1b[2J\nand more"})
    assert resolve_classifier("digits-classifier") == mine
    assert main(["info", "digits-classifier"]) == 0
    out = capsys.readouterr().out
    assert "- note: mine?[2J?and more\n" in out and "--features digits-classifier'" in out
    Path("runs/digits.safetensors").touch()
    assert resolve_classifier("digits") == PRETRAINED / "digits.safetensors"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "1"], "--steps must be at least 2"),
        (["--batch", "0"], "--batch must be at least 1, got 0"),
        (["--smoothing", "1"], "--smoothing lies in [0, 1)"),
        (["--network.kind", "fast", "--network.channels", "4", "4", "4"], "3 stages halve 8 x 8 pixels to nothing"),
        (["--network.kind", "fast", "--network.blocks", "2"], "--network.blocks belongs to the kind residual"),
        (["--network.blocks", "0"], "--network.channels and --network.blocks are at least 1"),
        (["--data", "two-moons"], "holds points, not images"),
        (["--data", "digits", "cifar10-examples"], "has not the classes of digits"),
        (["--resume", "--overwrite"], "choose one"),
        (["--shfit", "3"], "Perhaps you meant: --shift"),
    ],
)
def test_what_cannot_be_trained_is_one_line(words, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, err = main([*WORDS, *words]), capsys.readouterr().err
    assert (code == 1 and message in err and err.count("\n") == 1) or (code == 2 and message in said(err))
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
        monkeypatch.setattr("cmlab.training.trainer.has_bf16", lambda device, native=native: native)
        assert usable_precision("auto", cpu) == ("bf16" if native else "float32")
        assert [usable_precision(p, cpu) for p in ("float32", "bf16", "fp16")] == ["float32", "bf16", "fp16"]
