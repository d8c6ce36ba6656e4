"""Checkpoints: exact round trips, and one line that names the way out for every kind of broken file."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY, normal, tiny
from safetensors.torch import load_file, save_file

from cmlab.denoiser import CONSISTENCY, EDM, Denoiser, Precond
from cmlab.formats import checkpoints
from cmlab.formats.checkpoints import CheckpointError, load, load_weights, read_meta, resolve, save
from cmlab.networks import build_network


@pytest.fixture
def file(tmp_path) -> Path:
    return save(tmp_path / "model.safetensors", tiny(classes=3))


def rewrite(file: Path, **changes) -> Path:
    """The same weights under a changed header."""
    meta = read_meta(file) | changes
    save_file(load_file(file), file, metadata={"cmlab": json.dumps(meta)})
    return file


def message(call) -> str:
    """The error's text, which must be one line for a person to read."""
    with pytest.raises(CheckpointError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("precond", [EDM, CONSISTENCY, Precond(0.7, 0.01)])
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("kind", TINY)
def test_round_trip_is_bitwise(tmp_path, kind, classes, precond):
    model = tiny(kind, precond, classes)
    again, _ = load(save(tmp_path / "a.safetensors", model))
    assert again.net.config == model.net.config
    assert (again.precond, again.shape, again.classes) == (precond, model.shape, classes)
    assert not again.training
    x, label = normal(2, *model.shape, dtype=torch.float32), torch.tensor([0, 2]) if classes else None
    assert torch.equal(again(x, torch.tensor(1.5), label), model.eval()(x, torch.tensor(1.5), label))


def test_half_precision_stores_rounded_weights_in_half_the_space(tmp_path):
    model = tiny("unet")
    whole, half = save(tmp_path / "a.safetensors", model), save(tmp_path / "b.safetensors", model, dtype=torch.float16)
    again, _ = load(half)
    for name, value in again.net.state_dict().items():
        assert value.dtype == torch.float32
        own = model.net.state_dict()[name]
        assert torch.equal(value, own.half().float() if own.ndim > 1 else own)
    assert half.stat().st_size < 0.75 * whole.stat().st_size


def test_about_comes_back(tmp_path):
    about = {"preset": "8gaussians-edm", "seconds": 12.5, "quality": {"sw2": 0.01}}
    assert load(save(tmp_path / "a.safetensors", tiny(), about))[1]["about"] == about


def test_saving_makes_the_folder_and_leaves_nothing_beside_the_file(tmp_path):
    path = save(tmp_path / "new" / "folder" / "a.safetensors", tiny())
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"]


def test_saving_again_replaces(tmp_path):
    path = save(tmp_path / "a.safetensors", tiny())
    save(path, tiny("unet"))
    assert load(path)[0].shape == TINY["unet"][1]


def test_nothing_is_overwritten_when_a_save_fails(file, monkeypatch):
    before = file.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    text = message(lambda: save(file, tiny("unet")))
    assert "No space left on device" in text
    assert "--out" in text
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize("path", ["/dev/null/x/model.safetensors", "/dev/null/model.safetensors"])
def test_a_folder_that_cannot_be_written_is_an_error(path):
    text = message(lambda: save(path, tiny()))
    assert path in text
    assert "another folder" in text


def test_a_folder_in_the_file_s_place_is_an_error(tmp_path):
    (tmp_path / "a.safetensors").mkdir()
    assert "cannot write" in message(lambda: save(tmp_path / "a.safetensors", tiny()))
    assert len(list(tmp_path.iterdir())) == 1


# --- reading what is not there or not ours -------------------------------------------------------------------------------


def test_bundled_names_resolve_and_near_misses_get_a_suggestion(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path)
    monkeypatch.chdir("/")
    save(tmp_path / "two-moons-cd.safetensors", tiny())
    assert checkpoints.pretrained_names() == ["two-moons-cd"]
    assert resolve("two-moons-cd") == tmp_path / "two-moons-cd.safetensors"
    assert load("two-moons-cd")[0].shape == (2,)
    text = message(lambda: load("two-mons-cd"))
    assert "did you mean 'two-moons-cd'?" in text
    assert "path" in text


def test_a_missing_path_is_an_error_that_names_it(tmp_path):
    text = message(lambda: load(tmp_path / "none.safetensors"))
    assert str(tmp_path / "none.safetensors") in text
    assert "check the path" in text


def test_a_folder_is_not_a_checkpoint(tmp_path):
    assert "name the .safetensors file in it" in message(lambda: load(tmp_path))


@pytest.mark.parametrize("size", [0, 4, 8, 100, -1, -1000])
def test_a_file_cut_short_is_an_error(file, size):
    file.write_bytes(file.read_bytes()[:size])
    text = message(lambda: load(file))
    assert str(file) in text
    assert "Copy or train it again" in text


@pytest.mark.parametrize("content", [b"hello, this is not a checkpoint at all", b"\x80\x04\x95pickle", b"PK\x03\x04" + 200 * b"\0"])
def test_a_file_of_another_kind_is_an_error(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    assert "not a readable safetensors file" in message(lambda: load(tmp_path / "a.safetensors"))


def test_a_safetensors_file_of_another_program_is_an_error(tmp_path):
    save_file({"w": torch.zeros(2)}, tmp_path / "a.safetensors")
    assert "another program" in message(lambda: load(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("header", ["{", "[]", "{}", "3", "null"])
def test_a_damaged_header_is_an_error(tmp_path, header):
    save_file({"w": torch.zeros(2)}, tmp_path / "a.safetensors", metadata={"cmlab": header})
    assert "damaged cmlab header" in message(lambda: load(tmp_path / "a.safetensors"))


@pytest.mark.parametrize("version", [0, 2, "1"])
def test_another_format_is_an_error(file, version):
    assert "update cmlab" in message(lambda: load(rewrite(file, format=version)))


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "transformer"},
        {"network": None},
        {"config": {"width": 12, "depth": 2, "freqs": 3, "heads": 4}},
        {"config": {"width": "wide"}},
        {"config": ["width"]},
        {"config": None},
        {"precond": {"sigma_dada": 0.5}},
        {"precond": None},
        {"shape": None},
        {"shape": [-2]},
        {"network": "unet", "config": {"mult": []}, "shape": [3, 8, 8]},
        {"network": "unet", "config": {"group": 0}, "shape": [3, 8, 8]},
        {"network": "unet", "config": {"mult": [1, 2]}, "shape": [3, 7, 7]},
    ],
)
def test_an_unknown_model_is_an_error(file, changes):
    text = message(lambda: load(rewrite(file, **changes)))
    assert "does not know" in text or "do not fit" in text
    assert str(file) in text


def test_a_missing_entry_is_an_error(file):
    meta = read_meta(file)
    del meta["shape"]
    save_file(load_file(file), file, metadata={"cmlab": json.dumps(meta)})
    assert "does not know" in message(lambda: load(file))


@pytest.mark.parametrize(
    "changes",
    [{"config": {"width": 13, "depth": 2, "freqs": 3}}, {"config": {"width": 12, "depth": 3, "freqs": 3}}, {"classes": 4}],
)
def test_weights_that_do_not_fit_the_header_are_an_error(file, changes):
    assert "do not fit" in message(lambda: load(rewrite(file, **changes)))


# --- starting from another checkpoint ------------------------------------------------------------------------------------


def test_a_consistency_model_starts_from_a_diffusion_model(tmp_path):
    diffusion = tiny(precond=EDM)
    path = save(tmp_path / "a.safetensors", diffusion)
    config, shape = TINY["mlp"]
    student = Denoiser(build_network(config, shape), CONSISTENCY, shape)
    load_weights(student, path)
    assert student.precond == CONSISTENCY
    assert all(torch.equal(v, diffusion.net.state_dict()[k]) for k, v in student.net.state_dict().items())


@pytest.mark.parametrize("change", [{"width": 13}, {"depth": 1}, {"freqs": 4}])
def test_starting_from_another_network_is_an_error(file, change):
    config, shape = TINY["mlp"]
    student = Denoiser(build_network(replace(config, **change), shape, 3), CONSISTENCY, shape, 3)
    assert "another network" in message(lambda: load_weights(student, file))


def test_a_network_that_another_thread_builds_meanwhile_is_its_own_affair():
    with checkpoints.skeleton({"weight": torch.zeros(6), "bias": torch.zeros(2)}), ThreadPoolExecutor(1) as other:
        assert other.submit(torch.nn.Linear, 5, 7).result().weight.numel() == 35
        with pytest.raises(checkpoints.WeightsError, match="no weights fit"):
            torch.nn.Linear(5, 7)
