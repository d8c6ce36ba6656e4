"""Every experiment runs, in small; names, starts and teachers resolve or say what to do."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from conftest import randomise

from cmlab import checkpoints
from cmlab.data import TOYS, load_data
from cmlab.denoiser import CONSISTENCY, EDM, Denoiser, IDDPMPrecond, VEPrecond, VPPrecond
from cmlab.losses import LOSSES
from cmlab.networks import MLPConfig, UNetConfig, build_network
from cmlab.oracle import GaussianMixture
from cmlab.presets import DIFFUSION, IMAGE_METHODS, METHODS, PRESETS, Preset, build_model, find, get_preset, load_teacher, run

SMALL = {MLPConfig: {"width": 8, "depth": 1, "freqs": 2}, UNetConfig: {"channels": 8, "mult": (1, 1), "blocks": 1, "emb": 8}}


def shrink(preset: Preset, folder: Path) -> Preset:
    """The same experiment with a tiny network, 3 steps, and a random diffusion model where it wants a trained one."""
    small = replace(preset, network=replace(preset.network, **SMALL[type(preset.network)]), steps=3, batch=4)
    if preset.init or preset.teacher not in ("", "oracle"):
        data = load_data(preset.data)
        with torch.random.fork_rng(devices=[]):
            net = randomise(build_network(small.network, data.shape, data.classes))
        path = str(checkpoints.save(folder / "edm.safetensors", Denoiser(net, EDM, data.shape, data.classes)))
        small = replace(small, init=preset.init and path, teacher=preset.teacher and path)
    return small


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_runs_three_steps(name, tmp_path):
    small = shrink(PRESETS[name], tmp_path)
    start = [p.detach().clone() for p in build_model(small).parameters()]
    states = list(run(small, every=1))
    assert [s.step for s in states] == [1, 2, 3]
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in states[-1].ema.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(start, states[-1].model.parameters(), strict=True))


@pytest.mark.parametrize("data", [*TOYS, "digits", "digits-color"])
def test_every_small_data_set_has_a_preset_per_method(data):
    methods = METHODS if data in TOYS else IMAGE_METHODS
    assert {name for name, preset in PRESETS.items() if preset.data == data} >= {f"{data}-{method}" for method in methods}


@pytest.mark.parametrize("name", PRESETS)
def test_preset_describes_what_its_name_says(name):
    preset = PRESETS[name]
    method = name.rsplit("-", 1)[1]
    assert type(preset.loss) is type(LOSSES[method]())
    assert preset.consistency == (method not in (*DIFFUSION, "pd"))
    assert bool(preset.teacher) == preset.loss.needs_teacher
    from_nothing = (*DIFFUSION, "ct", "scd", "sct")  # sCM's network is told another time than EDM's
    assert preset.init == ("" if method in from_nothing else f"{preset.data}-edm")
    assert preset.batch % preset.accumulate == 0


@pytest.mark.parametrize(
    ("name", "precond"),
    [
        ("8gaussians-edm", EDM),
        ("8gaussians-vp", VPPrecond()),
        ("8gaussians-ve", VEPrecond()),
        ("8gaussians-iddpm", IDDPMPrecond()),
        ("8gaussians-pd", EDM),
        ("8gaussians-ict", CONSISTENCY),
        ("digits-ct", CONSISTENCY),
    ],
)
def test_model_of_a_preset(name, precond):
    preset, data = replace(PRESETS[name], init=""), load_data(PRESETS[name].data)
    model = build_model(preset)
    assert not model.drops_labels
    assert (model.precond, model.shape, model.classes) == (precond, data.shape, data.classes)


@pytest.mark.usefixtures("untouched_rng")
def test_seed_fixes_the_initial_weights():
    models = [build_model(replace(PRESETS["8gaussians-edm"], seed=seed)) for seed in (1, 1, 2)]
    a, b, c = (next(m.parameters()) for m in models)
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_init_gives_the_starting_weights(tmp_path):
    small = shrink(PRESETS["8gaussians-ect"], tmp_path)
    source, _ = checkpoints.load(small.init)
    model = build_model(small)
    assert model.precond == CONSISTENCY
    assert all(torch.equal(v, source.net.state_dict()[k]) for k, v in model.net.state_dict().items())


CHANGES = {
    "data": "rings",
    "loss": LOSSES["ict"](),
    "network": MLPConfig(9, 1, 2),
    "steps": 4,
    "batch": 8,
    "lr": 3e-3,
    "lr_schedule": "constant",
    "weight_decay": 0.5,
    "ema": 0.5,
    "seed": 1,
}


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_changes_the_run(field):
    def outcome(preset: Preset) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in list(run(preset))[-1].ema.parameters()])

    base = replace(PRESETS["8gaussians-edm"], network=MLPConfig(8, 1, 2), steps=3, batch=4)
    a, b = outcome(base), outcome(replace(base, **{field: CHANGES[field]}))
    assert a.shape != b.shape or not torch.equal(a, b)


def test_every_field_is_tested():
    # init, teacher, accumulate and label_dropout have tests of their own; half is for whoever saves.
    assert {f.name for f in fields(Preset)} == set(CHANGES) | {"init", "teacher", "accumulate", "label_dropout", "half"}


def test_dropped_labels_make_a_model_that_can_do_without(tmp_path):
    small = replace(shrink(PRESETS["digits-edm"], tmp_path), batch=16)
    weights = []
    for p in (0.0, 0.5):
        preset = replace(small, label_dropout=p)
        assert build_model(preset).drops_labels == (p > 0)
        weights.append(list(run(preset))[-1].ema.state_dict())
    assert any(not torch.equal(v, weights[1][k]) for k, v in weights[0].items())


def test_sets_without_labels_have_none_to_drop():
    with pytest.raises(ValueError, match="no labels to drop"):
        build_model(replace(PRESETS["8gaussians-edm"], label_dropout=0.1))


def test_oracle_is_a_teacher_for_toys():
    teacher = load_teacher(replace(PRESETS["8gaussians-cd"], teacher="oracle"))
    assert isinstance(teacher, GaussianMixture)


def test_oracle_is_no_teacher_for_images():
    with pytest.raises(ValueError, match="no exact score"):
        load_teacher(replace(PRESETS["digits-cd"], teacher="oracle"))


def test_teacher_is_frozen_and_in_eval_mode(tmp_path):
    teacher = load_teacher(shrink(PRESETS["8gaussians-cd"], tmp_path))
    assert isinstance(teacher, Denoiser)
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """A working folder without runs and a package without checkpoints."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkpoints, "PRETRAINED", tmp_path / "none")
    return tmp_path


@pytest.mark.usefixtures("empty")
def test_a_teacher_that_is_not_trained_yet_says_how_to_train_it():
    with pytest.raises(checkpoints.CheckpointError, match="run 'cmlab train 8gaussians-edm' first"):
        next(run(PRESETS["8gaussians-cd"]))


def test_the_user_s_own_run_comes_first(empty, tmp_path):
    from conftest import tiny

    checkpoints.save(empty / "none" / "two-moons-edm.safetensors", tiny())
    assert find("two-moons-edm").parent.name == "none"
    checkpoints.save(empty / "runs" / "two-moons-edm.safetensors", tiny())
    assert find("two-moons-edm").parent.name == "runs"
    assert find(str(tmp_path / "none" / "two-moons-edm.safetensors")).parent.name == "none"


@pytest.mark.parametrize(("name", "near"), [("8gaussian-edm", "8gaussians-edm"), ("digits-colour-ct", "digits-color-ct")])
def test_unknown_presets_get_a_suggestion(name, near):
    with pytest.raises(ValueError, match=f"did you mean '{near}'"):
        get_preset(name)


def test_get_preset():
    assert get_preset("rings-ict") is PRESETS["rings-ict"]
