"""How a run ends, and what a run that is asked for again finds: full disks, other options, other images, a second process."""

import errno
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_resume import SMALL, about, folder, same, stopped_after, weights  # noqa: F401

from cmlab.commands.main import main
from cmlab.data import fingerprint, load_data, load_images
from cmlab.data.names import sized
from cmlab.evaluation.classifier import splits
from cmlab.evaluation.classifier_training import CLASSIFIER_PRESETS
from cmlab.formats import checkpoints
from cmlab.training.states import RunFolder

RESULT = "8gaussians-edm.safetensors"
pytestmark = pytest.mark.usefixtures("folder")


def full_disk_for(name: str, monkeypatch) -> None:
    """From now on no file of that name can be put in its place."""
    of = os.replace

    def replace(source, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return of(source, target)

    monkeypatch.setattr(os, "replace", replace)


def test_a_result_that_cannot_be_written_loses_no_step(monkeypatch, capsys):
    assert main(["train", *SMALL, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        full_disk_for(RESULT, patch)
        assert main(["train", *SMALL]) == 1
    err = capsys.readouterr().err
    assert "No space left" in err and "make room, then continue it with --resume" in err
    assert [path.name for path in RunFolder(Path("runs/8gaussians-edm")).states()] == ["state-00000040.safetensors"]
    assert main(["train", *SMALL, "--resume"]) == 0
    assert same(weights(), weights(f"whole/{RESULT}"))
    assert about(f"runs/{RESULT}")["loss_curve"] == about(f"whole/{RESULT}")["loss_curve"]


def test_a_last_state_that_cannot_be_written_does_not_keep_the_result_back(monkeypatch, capsys):
    full_disk_for("state-00000040.safetensors", monkeypatch)
    assert main(["train", *SMALL]) == 0
    assert "No space left" in capsys.readouterr().err
    assert not RunFolder(Path("runs/8gaussians-edm")).states()


@pytest.mark.parametrize(("words", "said"), [(["--lr", "5"], "--lr 0.002, not 5.0"), (["--seed", "6"], "--seed 0, not 6")])
def test_finished_is_said_of_the_same_options_alone(words, said, capsys):
    assert main(["train", *SMALL]) == 0
    assert main(["train", *SMALL, "--resume"]) == 0
    assert "finished" in capsys.readouterr().out
    assert main(["train", *SMALL, *words, "--resume"]) == 1
    assert said in capsys.readouterr().err


def test_finished_is_said_of_ones_own_run_alone(capsys):
    assert main(["train", *SMALL]) == 0
    Path("runs/two-moons-edm.safetensors").write_bytes(Path(f"runs/{RESULT}").read_bytes())
    assert main(["train", "two-moons-edm", "--resume"]) == 1
    assert "is 8gaussians-edm, not two-moons-edm" in capsys.readouterr().err


def test_auto_is_the_precision_that_a_run_began_with(monkeypatch, capsys):
    auto = [*SMALL, "--precision", "auto"]
    with monkeypatch.context() as patch:
        patch.setattr("cmlab.training.trainer.has_bf16", lambda device: True)
        assert stopped_after(7, monkeypatch, run=auto) == 143
        assert main(["train", *auto, "--out", "whole"]) == 0
    monkeypatch.setattr("cmlab.training.trainer.has_bf16", lambda device: False)
    assert main(["train", *auto, "--resume"]) == 0
    assert about(f"runs/{RESULT}")["precision"] == "bf16"
    assert same(weights(), weights(f"whole/{RESULT}"))
    assert main(["train", *auto, "--resume"]) == 0 and "finished" in capsys.readouterr().out
    assert main(["train", *SMALL, "--precision", "float32", "--resume"]) == 1


def _hold(path: str, ready, done) -> None:
    with RunFolder(Path(path)).locked():
        ready.set()
        done.wait(60)


def test_a_run_belongs_to_one_process(capsys):
    Path("runs").mkdir()
    context = multiprocessing.get_context("fork")  # it computes nothing, and need not import torch anew
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=("runs/8gaussians-edm", ready, done))
    other.start()
    try:
        assert ready.wait(120)
        assert main(["train", *SMALL]) == 1
        assert "another process is training 8gaussians-edm in runs" in capsys.readouterr().err
        assert main(["train", *SMALL, "--out", "elsewhere"]) == 0
        os.kill(other.pid or 0, signal.SIGKILL)  # a process that dies lets go
        other.join()
        assert main(["train", *SMALL]) == 0
    finally:
        other.kill()


def test_no_file_beside_the_result_is_overwritten(capsys):
    beside = Path("runs/8gaussians-edm-ema-0.5.safetensors")
    beside.parent.mkdir()
    beside.write_text("mine")
    assert main(["train", *SMALL, "--emas", "0.5"]) == 1
    assert str(beside) in capsys.readouterr().err and beside.read_text() == "mine"
    assert main(["train", *SMALL, "--emas", "0.5", "--overwrite"]) == 0
    assert checkpoints.load(beside)[0].shape == (2,)


# --- images ----------------------------------------------------------------------------------------------------------------

TINY = ["digits-edm", "--data", "faces", "--steps", "9", "--batch", "4", "--network.channels", "8", "--resolution", "8"]


@pytest.fixture
def faces(folder, monkeypatch) -> Path:  # noqa: F811
    """40 pictures of 12 pixels in two classes."""
    monkeypatch.setenv("CMLAB_CACHE", str(folder / "cache"))
    pictures(folder / "faces", 0)
    return folder / "faces"


def pictures(where: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(256, size=(40, 12, 12, 3), dtype=np.uint8)
    for k, picture in enumerate(pixels):
        path = where / "ab"[k % 2] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)


def test_a_run_does_not_go_on_with_other_images(faces, monkeypatch, capsys):
    assert stopped_after(4, monkeypatch, run=TINY) == 143
    pictures(faces, 1)
    capsys.readouterr()
    assert main(["train", *TINY, "--resume"]) == 1
    assert "other images than faces has now" in capsys.readouterr().err
    pictures(faces, 0)
    assert main(["train", *TINY, "--resume"]) == 0


def test_a_fingerprint_tells_images_labels_and_their_number_apart(faces):
    data, half = load_data("faces"), load_data("faces:a")
    assert fingerprint(data) == fingerprint(load_data("faces", flip=True)) != fingerprint(half)
    assert fingerprint(load_data("faces", labels="none")) != fingerprint(data)
    assert fingerprint(load_data("8gaussians")) == ""
    assert len(fingerprint(load_data("digits"))) == 16


def test_a_model_of_resized_pictures_is_measured_at_its_own_size(faces, capsys):
    assert main(["train", *TINY]) == 0
    assert about("runs/digits-edm.safetensors")["data"] == "faces@8"
    assert main(["likelihood", "runs/digits-edm.safetensors", "--n", "2", "--probes", "1"]) == 0
    assert "2 samples of faces@8" in capsys.readouterr().out
    assert main(["evaluate", "runs/digits-edm.safetensors", "--data", "faces"]) == 1
    assert "(3, 12, 12)" in capsys.readouterr().err


def test_a_size_in_a_name(faces):
    assert tuple(load_data("faces@6").shape) == (3, 6, 6)
    assert tuple(load_data("faces@6:b").shape) == (3, 6, 6) and load_images("faces@6:b").class_names == ("b",)
    assert torch.equal(load_images("faces@6").x0, load_images("faces", resolution=6).x0)
    with pytest.raises(ValueError, match="says the resolution 6"):
        load_data("faces@6", resolution=7)
    with pytest.raises(ValueError, match="has no use for resolution"):
        load_data("digits@6")
    assert sized("faces@6", 6) == "faces@6"


def test_named_sets_of_pictures_are_looked_for_in_the_data_folder(faces, monkeypatch):
    monkeypatch.setenv("CMLAB_DATA", str(faces.parent))
    with pytest.raises(FileNotFoundError, match=r"neither .*lsun-cat nor .*lsun-cat\.zip: put LSUN"):
        load_data("lsun-cat")
    faces.rename(faces.parent / "imagenet64")
    (faces.parent / "elsewhere").mkdir()
    monkeypatch.chdir(faces.parent / "elsewhere")
    assert tuple(load_data("imagenet64").shape) == (3, 64, 64)
    assert tuple(load_data("imagenet64@8:a").shape) == (3, 8, 8)
    small = ["imagenet64-edm", *TINY[3:], "--accumulate", "1", "--network.mult", "1", "--network.blocks", "1"]
    assert main(["train", *small, "--precision", "float32", "--network.attention", "--network.dropout", "0"]) == 0
    assert about("runs/imagenet64-edm.safetensors")["data"] == "imagenet64@8"


# --- classifiers -----------------------------------------------------------------------------------------------------------

CLASSIFIER = ["digits-classifier", "--steps", "4", "--batch", "8", "--data", "digits"]


def test_a_classifiers_run_ends_and_begins_again_likewise(monkeypatch, capsys):
    assert "digits-classifier" in CLASSIFIER_PRESETS
    assert main(["train", *CLASSIFIER, "--out", "whole"]) == 0
    with monkeypatch.context() as patch:
        full_disk_for("digits-classifier.safetensors", patch)
        assert main(["train", *CLASSIFIER]) == 1
    assert os.listdir("runs") == ["digits-classifier"]
    assert main(["train", *CLASSIFIER, "--resume"]) == 0
    one, other = (checkpoints_of(f"{side}/digits-classifier.safetensors") for side in ("runs", "whole"))
    assert same(one, other)
    capsys.readouterr()
    assert main(["train", *CLASSIFIER, "--resume"]) == 0 and "finished" in capsys.readouterr().out
    assert main(["train", *CLASSIFIER, "--lr", "0.1", "--resume"]) == 1
    assert "--lr 0.003, not 0.1" in capsys.readouterr().err


def checkpoints_of(path: str) -> list[torch.Tensor]:
    from safetensors.torch import load_file

    return list(load_file(path).values())


@pytest.mark.parametrize("steps", ["2", "5", "10"])
def test_a_classifier_trains_any_number_of_steps_and_tells_of_itself(steps, capsys):
    assert main(["train", *CLASSIFIER[:2], steps, *CLASSIFIER[3:]]) == 0
    capsys.readouterr()
    assert main(["info", "runs/digits-classifier.safetensors"]) == 0
    out = capsys.readouterr().out
    assert "- kind: classifier, for 'cmlab evaluate SOURCE --features runs/digits-classifier.safetensors'" in out
    assert f"- steps: {steps}" in out and "- accuracy: " in out


# --- whose checkpoint it is ------------------------------------------------------------------------------------------------


def test_a_run_before_the_bundled_checkpoint_of_its_name_is_told(capsys):
    assert main(["train", *SMALL]) == 0
    assert main(["sample", "8gaussians-edm", "--n", "2", "--steps", "2", "--out", "a.png"]) == 0
    assert f"8gaussians-edm is runs/{RESULT}, your own; the bundled one is " in capsys.readouterr().err
    assert main(["sample", f"runs/{RESULT}", "--n", "2", "--steps", "2", "--out", "b.png"]) == 0
    assert main(["sample", "two-moons-edm", "--n", "2", "--steps", "2", "--out", "c.png"]) == 0
    assert "your own" not in capsys.readouterr().err
    assert main(["info"]) == 0
    assert "your own, in runs/, which come before bundled ones of the same name: 8gaussians-edm" in capsys.readouterr().out


def test_steps_without_end_are_refused(capsys):
    for command in (["sample", "digits-cd", "--n", "2"], ["evaluate", "digits-cd", "--n", "20"]):
        assert main([*command, "--steps", "100000"]) == 1
        assert "10,000 is the most" in capsys.readouterr().err


def test_a_runs_name_is_its_checkpoint_even_beside_its_folder(capsys):
    assert main(["train", "digits-edm", "--steps", "2", "--batch", "4", "--network.channels", "8", "--grid-every", "1"]) == 0
    assert Path("runs/digits-edm").is_dir()
    capsys.readouterr()
    assert main(["evaluate", "runs/digits-edm", "--n", "20", "--steps", "2", "--replicates", "2"]) == 0
    assert "runs/digits-edm: 20 samples" in capsys.readouterr().out


# --- words that are not read, data that are damaged ------------------------------------------------------------------------


def test_options_that_pictures_or_points_do_not_read_are_refused(faces, capsys):
    for words, said in (
        (["faces", "--data", "faces", "--seed", "5"], "--seed belongs to checkpoints"),
        (["faces", "--data", "faces", "--rounding", "trunc"], "--rounding is for samples that are no 8-bit pictures yet"),
        (["8gaussians-cd", "--batch", "7"], "--batch is for pictures"),
        (["digits-cd", "--json", "/proc/x.json"], "choose another --json"),
    ):
        assert main(["evaluate", *words]) == 1
        assert said in capsys.readouterr().err


def test_a_damaged_test_split_is_an_error_not_another_split(faces):
    for part in ("train", "test"):
        pictures(faces.parent / "divided" / part, 0)
    assert splits("divided")[2] == "train, test"
    victim = next((faces.parent / "divided" / "test" / "a").iterdir())
    victim.write_bytes(b"no picture")
    with pytest.raises(ValueError, match=victim.name):
        splits("divided")
    assert splits("faces")[2] == "one random half, the other"


def test_features_that_cannot_be_kept_are_told_and_go_on(monkeypatch, capsys):
    monkeypatch.setenv("CMLAB_CACHE", "/proc/nope")
    words = ["digits-cd", "--n", "20", "--replicates", "2", "--reference", "50"]
    assert main(["evaluate", *words]) == 0
    assert "features are not kept" in capsys.readouterr().err
    assert main(["evaluate", *words, "--cache", "/proc/nope"]) == 1
    assert "name another folder with --cache" in capsys.readouterr().err


def test_labels_outside_the_classes_are_refused(capsys):
    np.savez("bad.npz", x=np.zeros((20, 1, 8, 8), np.float32), label=np.full(20, -1))
    assert main(["evaluate", "bad.npz", "--data", "digits"]) == 1
    assert "has a class -1, the data have 0..9" in capsys.readouterr().err


# --- cards -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "loss", "there", "absent"),
    [
        ("8gaussians-sct", [], "it jumps to the end", "distil it"),
        ("8gaussians-pd", ["--teacher", "8gaussians-edm"], "Other numbers", "distil it"),
    ],
)
def test_limits_fit_the_kind_of_model(name, loss, there, absent, capsys):
    assert main(["train", name, "--steps", "12", "--batch", "4", *loss]) == 0
    capsys.readouterr()
    assert main(["info", f"runs/{name}.safetensors"]) == 0
    out = capsys.readouterr().out
    assert there in out and absent not in out


def test_an_edit_asks_the_class_by_its_name(tmp_path, capsys):
    model, _ = checkpoints.load("cifar10-small-cd")
    checkpoints.save(Path("ours-cd.safetensors"), model, {"data": "cifar10:cat,deer,dog"})
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cmlab.methods.classify.likeliest_label", lambda *_: seen.append(1) or torch.tensor([1]))
        for name in ("ours-cd", "cifar10-small-cd"):
            words = ["inpaint", "--index", "30", "--steps", "1", "--out", f"{name}.png"]
            assert main(["edit", name, *words]) == 0
    assert seen == [1]  # of the model that does not know a ship


def test_a_number_of_steps_that_cannot_be_halved_is_refused(capsys):
    assert main(["train", "8gaussians-pd", "--steps", "9", "--loss.n.start", "6"]) == 1
    assert "choose a power of two such as 64, not 6" in capsys.readouterr().err
