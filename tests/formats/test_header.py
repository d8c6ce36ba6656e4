"""Headers: what they may say is believed when it fits the schema, and never costs memory or a traceback."""

import json
import logging

import pytest
import torch
from conftest import tiny
from hostile_headers import ABOUT, FILES, cases, try_out, write
from safetensors.torch import load_file, save_file

from cmlab import sample
from cmlab.base.files import is_sparse
from cmlab.denoiser import Precond
from cmlab.evaluation.classifier import load_classifier, resolve_classifier
from cmlab.formats import checkpoints, header
from cmlab.formats.checkpoints import CheckpointError, find, load, read_meta, save, usable
from cmlab.methods.scalings import IDDPMPrecond, TrigPrecond, VEPrecond, VPPrecond
from cmlab.networks import MLPConfig, SongUNetConfig, UNetConfig, build_network
from cmlab.training.states import read_state

SOME = cases(80)
# Harmless: such weights are rounded, such a text is shortened where it is shown, and an MLP takes two numbers of any shape.
LOADS = {"numbers of 8 bits", "a text of 3 MB", "model 0 of shape [2, 1]"}


@pytest.mark.parametrize(("name", "make"), SOME, ids=[name[:60] for name, _ in SOME])
def test_a_hostile_header_ends_in_a_message_or_in_finite_samples(tmp_path, name, make):
    write(tmp_path / "a.safetensors", make())
    assert bool(try_out(tmp_path / "a.safetensors")) == (name not in LOADS) or name not in FILES


def test_a_model_that_says_everything_of_itself_comes_back(tmp_path):
    assert read_meta(save(tmp_path / "a.safetensors", tiny(), ABOUT))["about"] == ABOUT


@pytest.mark.parametrize(
    ("about", "entry"),
    [
        ({"measured": {"a": "b"}}, "about.measured.a"),
        ({"steps": "many"}, "about.steps"),
        ({"sampler": "heun"}, "about"),
        ({"seconds": float("inf")}, "about.seconds"),
        ({"class_names": "cat"}, "about.class_names"),
        ({"loss_curve": []}, "about.loss_curve"),
        ({"two_steps": {"sigmas": [-1.0]}}, "about.two_steps.sigmas.0"),
        (["a"], "about"),
        ({"options": {"precision": 16}}, "about.options.precision"),
        ({"x": "a" * 5_000_000}, "more than a header holds"),
    ],
)
def test_what_a_header_cannot_say_is_refused_before_it_is_written(tmp_path, about, entry):
    with pytest.raises(CheckpointError, match=entry):
        save(tmp_path / "a.safetensors", tiny(), about)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "entry"),
    [
        ({"config": {"width": 12.5, "depth": 2, "freqs": 3}}, "width"),
        ({"config": {"width": True, "depth": 2, "freqs": 3}}, "width"),
        ({"config": {"width": 12, "depth": 2, "freqs": 3, "time_scale": "x"}}, "time_scale"),
        ({"precond": {"sigma_data": "a"}}, "sigma_data"),
        ({"precond": {"sigma_data": 0.0}}, "sigma_data"),
        ({"precond": {"sigma_min": 90.0}}, "noise levels go from 90"),
        ({"precond": {"kind": "iddpm", "steps": 1_000_000_000}}, "steps"),
        ({"shape": [1 << 12, 1 << 12]}, "more than 4,194,304 numbers"),
        ({"classes": -1}, "classes"),
        ({"drops_labels": "no"}, "drops_labels"),
    ],
)
def test_the_message_names_the_entry(tmp_path, change, entry):
    path = save(tmp_path / "a.safetensors", tiny())
    save_file(load_file(path), path, metadata={"cmlab": json.dumps(read_meta(path) | change)})
    with pytest.raises(CheckpointError, match=entry):
        load(path)


def test_weights_beyond_32_bits_and_samples_that_are_not_finite_are_errors(tmp_path):
    model = tiny("unet")
    path = save(tmp_path / "a.safetensors", model)
    meta = json.dumps(read_meta(path))
    save_file({k: v.double() * 1e300 for k, v in load_file(path).items()}, path, metadata={"cmlab": meta})
    with pytest.raises(CheckpointError, match="too large for 32 bits"):
        load(path)
    for p in model.parameters():
        p.data.fill_(3e38)
    with pytest.raises(FloatingPointError, match="not finite"):
        sample(model, model.shape, [0])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Precond(0.0),
        lambda: Precond(0.5, -1.0),
        lambda: Precond(float("nan")),
        lambda: TrigPrecond(0.0),
        lambda: VPPrecond(steps=1),
        lambda: VPPrecond(epsilon=0.0),
        lambda: VEPrecond(2.0, 1.0),
        lambda: IDDPMPrecond(steps=10**9),
        lambda: MLPConfig(time_scale=1e300),
        lambda: SongUNetConfig(embedding="fourier", fourier_scale=float("inf")),
        lambda: UNetConfig(mult=(1, 1e9)),
    ],
)
def test_a_class_refuses_numbers_that_it_cannot_have(make):
    with pytest.raises(ValueError, match="got"):
        make()


@pytest.mark.parametrize("config", [UNetConfig(8, (1, 2)), UNetConfig(8, (1,) * 4, attention=(512,)), SongUNetConfig(8, (1, 1))])
def test_attention_between_too_many_pixels_is_refused(config):
    with pytest.raises(ValueError, match="512 x 512 pixels"), torch.device("meta"):
        build_network(config, (1, 1024, 1024) if len(config.mult) == 2 else (1, 512, 512))


# --- menus and names ---------------------------------------------------------------------------------------------------------


def test_a_menu_leaves_out_what_is_no_model_and_the_log_says_so_once(tmp_path, caplog):
    good, bad, gone = save(tmp_path / "a.safetensors", tiny()), tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    bad.write_bytes(FILES["no weights"]())
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert [path for path, _ in usable([good, bad, gone])] == [good]
    assert [record.getMessage().startswith(f"{bad} is left out") for record in caplog.records] == [True]


@pytest.mark.parametrize("name", ["whole numbers", "complex numbers", "a hole of 50 GB", "a text of 80 MB", "a million lists"])
def test_a_menu_leaves_out_what_the_header_tells(tmp_path, name):
    write(tmp_path / "a.safetensors", FILES[name]())
    assert not list(usable([tmp_path / "a.safetensors"]))


def test_a_broken_run_does_not_take_the_place_of_the_bundled_model_of_its_name(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    own = tmp_path / "runs" / "two-moons-cd.safetensors"
    own.write_bytes(FILES["no weights"]())
    assert find("two-moons-cd") == checkpoints.PRETRAINED / "two-moons-cd.safetensors"
    assert "left out" in caplog.text
    own.rename(own.with_stem("mine"))  # here no other is meant
    assert find("mine").name == "mine.safetensors"
    save(own, tiny())
    assert find("two-moons-cd") == own.relative_to(tmp_path)


# --- the parts ---------------------------------------------------------------------------------------------------------------


def test_settings_become_their_dataclass():
    made = header.make(UNetConfig, {"channels": 8, "mult": [1, 2], "time_scale": 3})
    assert made == UNetConfig(8, (1, 2), time_scale=3) and isinstance(made.mult, tuple)


def test_a_file_of_holes_is_told_from_one_of_zeros(tmp_path):
    hole, zeros = tmp_path / "hole", tmp_path / "zeros"
    hole.write_bytes(b"a" * 4096)
    with hole.open("r+b") as file:
        file.truncate(1 << 26)
    zeros.write_bytes(bytes(1 << 22))
    assert not is_sparse(zeros)
    if hole.stat().st_blocks * 512 < 1 << 25:  # where the file system has holes
        assert is_sparse(hole)


@pytest.mark.parametrize(
    "text", ["[" * 200_000, "{", "[]", '{"config": {"channels": [1000000000]}, "shape": [1, 8, 8], "classes": 2, "about": {}}']
)
def test_classifiers_and_states_are_read_as_carefully(tmp_path, text):
    path = tmp_path / "a.safetensors"
    save_file(load_file(resolve_classifier("digits")), path, metadata={"cmlab-classifier": text, "cmlab-state": text})
    with pytest.raises(ValueError, match="no classifier of cmlab"):
        load_classifier(path)
    with pytest.raises(CheckpointError):
        read_state(path)
