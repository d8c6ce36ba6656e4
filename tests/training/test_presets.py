"""Every experiment runs, in small; names, starts and teachers resolve or say what to do."""

from dataclasses import dataclass, fields, replace
from itertools import cycle
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from conftest import randomise
from PIL import Image

from cmlab.base.presets import presets_by_data
from cmlab.commands.main import main
from cmlab.data import TOYS, ImageData, load_data
from cmlab.data.names import split_name
from cmlab.denoiser import CONSISTENCY, EDM, Denoiser
from cmlab.distances import Distance
from cmlab.formats import checkpoints
from cmlab.losses import LOSSES, Loss
from cmlab.methods.scalings import IDDPMPrecond, VEPrecond, VPPrecond
from cmlab.networks import MLPConfig, SongUNetConfig, UNetConfig, build_network
from cmlab.oracle import GaussianMixture
from cmlab.training.cost import kept_for_backward, memory
from cmlab.training.presets import (
    ABOUT,
    PRESETS,
    Preset,
    build_model,
    find,
    get_preset,
    load_teacher,
    run,
    training_data,
)
from cmlab.training.published import PUBLISHED
from cmlab.training.trainer import HalfLife

_IMAGES = {"channels": 8, "mult": (1, 1), "blocks": 1, "emb": 8, "attention": (4,)}
SMALL = {
    MLPConfig: {"width": 8, "depth": 1, "freqs": 2},
    UNetConfig: {**_IMAGES, "head_channels": 4, "max_groups": 2},
    SongUNetConfig: _IMAGES,
}
BUNDLED = [name for name in PRESETS if name not in PUBLISHED]


def stand_in(name: str, *, flip: bool = False, resolution: int | None = None, channels: int | None = None):
    """Eight small pictures of three classes in place of a large data set."""
    if name in PRESETS_DATA:
        return load_data(name)
    g = torch.Generator().manual_seed(0)
    return ImageData(torch.rand(8, 3, 8, 8, generator=g) * 2 - 1, torch.arange(8) % 3, ("a", "b", "c"), flip)


PRESETS_DATA = (*TOYS, "digits", "digits-color")


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr("cmlab.training.presets.load_data", stand_in)


def shrink(preset: Preset, folder: Path) -> Preset:
    """The same experiment with a tiny network, 3 steps, and a random diffusion model where it wants a trained one."""
    small = replace(
        preset, network=replace(cast(Any, preset.network), **SMALL[type(preset.network)]), steps=3, batch=4, accumulate=1
    )
    distance = getattr(small.loss, "distance", None)
    if distance is not None and distance.name == "lpips":  # VGG's weights are half a gigabyte
        small = replace(small, loss=replace(cast(Any, small.loss), distance=Distance("lpips", resize=0, network=_nearly_lpips)))
    if preset.init or preset.teacher not in ("", "oracle"):
        data = training_data(preset)
        with torch.random.fork_rng(devices=[]):
            net = randomise(build_network(small.network, data.shape, data.classes))
        precond = PRESETS[preset.init or preset.teacher].loss.precond
        path = str(checkpoints.save(folder / "edm.safetensors", Denoiser(net, precond, data.shape, data.classes)))
        small = replace(small, init=preset.init and path, teacher=preset.teacher and path)
    return small


def _nearly_lpips(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).square().flatten(1).mean(1)


@pytest.mark.usefixtures("small_files")
# Precisions take turns: what bfloat16 casts does not depend on the preset, and every loss and network is there several times.
@pytest.mark.parametrize(("name", "precision"), list(zip(PRESETS, cycle(["float32", "bf16"]), strict=False)))
def test_every_preset_runs_three_steps(name, precision, tmp_path):
    small = replace(shrink(PRESETS[name], tmp_path), precision=precision)
    start = [p.detach().clone() for p in build_model(small).parameters()]
    states = list(run(small, every=1))
    assert [s.step for s in states] == [1, 2, 3]
    assert all(p.dtype == torch.float32 and bool(p.isfinite().all()) for p in states[-1].ema.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(start, states[-1].model.parameters(), strict=True))


@pytest.mark.parametrize("data", [*TOYS, "digits", "digits-color"])
def test_every_small_data_set_has_a_preset_per_method(data):
    methods = list(LOSSES) if data in TOYS else ["edm", "pd", "cd", "ct", "ict", "ect"]
    assert {name for name, preset in PRESETS.items() if preset.data == data} >= {f"{data}-{method}" for method in methods}


@dataclass(frozen=True)
class Mine(Loss):
    """A loss of one's own: half of EDM's."""

    share: float = 0.5
    precond = EDM

    def __call__(self, model, x0, label=None, **rest):
        out = LOSSES["edm"]()(model, x0, label, **rest)
        return out._replace(loss=self.share * out.loss)


def test_a_loss_of_ones_own_has_presets_and_options(tmp_path, monkeypatch):
    monkeypatch.setattr(LOSSES, "_records", dict(LOSSES._records))
    assert "two-moons-mine" not in PRESETS
    LOSSES.register("mine", "Mine", kind="diffusion", lr=3e-3)(Mine)
    assert PRESETS["two-moons-mine"].lr == 3e-3 and "digits-mine" not in PRESETS
    words = ["train", "two-moons-mine", "--steps", "3", "--batch", "4", "--loss.share", "0.25", "--out", str(tmp_path)]
    assert main(words) == 0
    assert checkpoints.read_meta(tmp_path / "two-moons-mine.safetensors")["about"]["options"]["loss.share"] == 0.25
    assert (
        main(["train", "two-moons-cd", "--loss.pairs.n.n", "40", "--teacher", "oracle", *words[2:6], "--out", str(tmp_path)]) == 0
    )
    assert checkpoints.read_meta(tmp_path / "two-moons-cd.safetensors")["about"]["options"]["loss.pairs.n.n"] == 40


@pytest.mark.parametrize("name", BUNDLED)
def test_preset_describes_what_its_name_says(name):
    preset = PRESETS[name]
    method = name.rsplit("-", 1)[1]
    assert type(preset.loss) is type(LOSSES[method]())
    assert preset.consistency == (method not in (*LOSSES.of_kind("diffusion"), "pd"))
    assert bool(preset.teacher) == preset.loss.needs_teacher
    from_nothing = (*LOSSES.of_kind("diffusion"), "ct", "scd", "sct")  # sCM's network is told another time than EDM's
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
    "optimizer": "adam",
    "rampup": 1e-3,
    "beta2": 0.9,
    "clip": 1e-3,
    "precision": "bf16",
}
# They have tests of their own; half and emas are for whoever saves, channels_last changes speed alone.
ELSEWHERE = {
    "init",
    "teacher",
    "accumulate",
    "label_dropout",
    "guidance",
    "halflife",
    "labels",
    "flip",
    "resolution",
    "channels",
    "augment",
}


@pytest.mark.parametrize("field", CHANGES)
def test_every_field_changes_the_run(field):
    def outcome(preset: Preset) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in list(run(preset))[-1].ema.parameters()])

    base = replace(
        PRESETS["8gaussians-edm"], network=MLPConfig(8, 1, 2), steps=7, batch=4
    )  # RAdam heeds beta2 from its sixth step on
    a, b = outcome(base), outcome(replace(base, **{field: CHANGES[field]}))
    assert a.shape != b.shape or not torch.equal(a, b)


def test_every_field_is_tested():
    assert {f.name for f in fields(Preset)} == set(CHANGES) | ELSEWHERE | {"half", "emas", "channels_last"}


def test_dropped_labels_make_a_model_that_can_do_without(tmp_path):
    small = replace(shrink(PRESETS["digits-edm"], tmp_path), batch=16)
    weights = []
    for p in (0.0, 0.5):
        preset = replace(small, label_dropout=p)
        assert build_model(preset).drops_labels == (p > 0)
        weights.append(list(run(preset))[-1].ema.state_dict())
    assert any(not torch.equal(v, weights[1][k]) for k, v in weights[0].items())


@pytest.mark.parametrize("words", [["--data", "shapes@8"], ["--no-labels"]])
def test_without_classes_a_guided_preset_drops_no_label_and_says_so(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("shapes").mkdir()
    for k in range(4):
        Image.new("RGB", (8, 8), (60 * k, 0, 0)).save(f"shapes/{k}.png")
    small = {"network": replace(cast(Any, PRESETS["digits-edm"].network), channels=4, emb=8), "label_dropout": 0.1, "guidance": 2.0}
    monkeypatch.setitem(PRESETS, "digits-edm", replace(PRESETS["digits-edm"], **small))
    assert main(["train", "digits-edm", *words, "--steps", "3", "--batch", "4", "--out", "runs"]) == 0
    assert "has no classes: no label is dropped, and the model is not guided" in capsys.readouterr().out
    meta = checkpoints.read_meta("runs/digits-edm.safetensors")
    assert meta.get("guidance", 1) == 1 and meta["about"].get("options", {}).get("guidance", 1) == 1
    words += ["--steps", "5", "--batch", "4", "--out", "runs", "--resume"]
    assert main(["train", "digits-edm", *words]) == 0  # the state is of the run as it was


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


def test_the_help_knows_all_presets():
    told = presets_by_data()
    assert sorted(name for names in told.values() for name in names) == sorted(PRESETS)
    assert all(split_name(PRESETS[name].data)[0] == data for data, names in told.items() for name in names)


def test_get_preset():
    assert get_preset("rings-ict") is PRESETS["rings-ict"]


# --- the published ones --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_presets_say_where_they_come_from_and_what_to_expect(name):
    text = ABOUT[name]
    assert "FID" in text or "its card" in text or "not measured yet" in text
    assert text.endswith(".")
    preset = PRESETS[name]
    assert bool(preset.teacher) == preset.loss.needs_teacher
    for start in (preset.init, preset.teacher):
        assert not start or PRESETS[start].data == preset.data
        assert not start or not PRESETS[start].consistency


@pytest.mark.parametrize(
    ("name", "lr", "batch", "steps", "ema", "loss"),
    [  # CM, Table 3
        ("cifar10-cd", 4e-4, 512, 800_000, 0.9999, {"mu": 0.0, "n": 18}),
        ("cifar10-ct", 4e-4, 512, 800_000, 0.9999, {"s1": 150, "mu0": 0.9}),
        ("imagenet64-cd", 8e-6, 2048, 600_000, 0.999943, {"mu": 0.95, "n": 40}),
        ("imagenet64-ct", 8e-6, 2048, 800_000, 0.999943, {"s1": 200, "mu0": 0.95}),
        ("lsun-bedroom-cd", 1e-5, 2048, 600_000, 0.0, {"mu": 0.95, "n": 40}),  # appendix C: zero EMA worked better
        ("lsun-bedroom-ct", 1e-5, 2048, 1_000_000, 0.999943, {"s1": 150, "mu0": 0.95}),
    ],
)
def test_table_3(name, lr, batch, steps, ema, loss):
    p = PRESETS[name]
    assert (p.lr, p.batch, p.steps, p.ema, p.optimizer, p.lr_schedule) == (lr, batch, steps, ema, "radam", "constant")
    assert (p.loss.distance.name, p.loss.weight, p.network.dropout) == ("lpips", "1", 0.0)  # type: ignore[union-attr]
    found = {**vars(p.loss.target), **vars(p.loss.pairs.n)}  # type: ignore[union-attr]
    assert {k: found[k] for k in loss} == loss
    assert p.loss.bridge == ("heun" if name.endswith("cd") else "noise")  # type: ignore[union-attr]


@pytest.mark.parametrize(("name", "millions"), [("cifar10-edm-ddpmpp", 55.73), ("cifar10-edm-cm", 56.40), ("imagenet64-cd", 295.9)])
def test_published_sizes(name, millions):
    preset = PRESETS[name]
    side, classes = (64, 1000) if name.startswith("imagenet") else (32, 0)
    with torch.device("meta"):
        net = build_network(replace(cast(Any, preset.network), augment=0), (3, side, side), classes)
    assert sum(p.numel() for p in net.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)


def test_edm_s_half_life():
    # EDM at batch 512 and a half-life of half a million images; at first 5 % of the images so far.
    life = HalfLife(0.5, 0.05)
    assert life.decay(200_000_000, 512) == pytest.approx(0.99929, abs=5e-6)
    assert life.decay(0, 512) == 0
    assert life.decay(1_000_000, 512) == pytest.approx(0.5 ** (512 / 50_000))
    assert HalfLife(0.5, 0).decay(0, 512) == life.decay(10_000_000, 512)


@pytest.mark.usefixtures("small_files")
def test_labels_flips_and_half_lives_change_the_run(tmp_path):
    base = replace(shrink(PRESETS["cifar10-small-edm"], tmp_path), label_dropout=0.0, guidance=1.0)
    assert build_model(base).classes == 3
    assert build_model(replace(base, labels=False)).classes == 0
    assert training_data(base).flip and not training_data(replace(base, flip=False)).flip  # type: ignore[union-attr]

    def outcome(preset: Preset) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in list(run(preset))[-1].ema.parameters()])

    assert not torch.equal(outcome(base), outcome(replace(base, flip=False)))
    assert not torch.equal(outcome(base), outcome(replace(base, halflife=0.0, ema=0.5)))


def test_two_ways_to_average_are_refused():
    preset = replace(PRESETS["8gaussians-edm"], halflife=0.5, emas=(0.5,))
    with pytest.raises(ValueError, match="set one of them to 0"):
        _ = preset.averages
    assert replace(preset, ema=0.0).averages == (HalfLife(0.5), 0.5)


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize(("name", "message"), [("imagenet64-ct", "CMLAB_DATA, or give --data"), ("cifar10-ct", "CMLAB_DATA")])
def test_data_that_are_absent_say_where_to_put_them(name, message, monkeypatch):
    monkeypatch.delenv("CMLAB_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=message):
        training_data(PRESETS[name])


def test_memory_is_counted_for_large_models_alone():
    assert memory(build_model(replace(PRESETS["8gaussians-edm"], init="")), PRESETS["8gaussians-edm"]) == ""
    small = Denoiser(build_network(SongUNetConfig(**_IMAGES), (3, 8, 8)), EDM, (3, 8, 8))
    kept = kept_for_backward(small)
    assert kept_for_backward(Denoiser(build_network(SongUNetConfig(**_IMAGES), (3, 16, 16)), EDM, (3, 16, 16))) > 3 * kept
    assert 4 * 8 * 64 * 10 < kept < 4 * 8 * 64 * 1000  # tens of feature maps of 8 x 8 x 8


def test_memory_of_the_paper_s_cifar10_network():
    preset = replace(PRESETS["cifar10-ct"], accumulate=4)
    with torch.device("meta"):
        model = Denoiser(build_network(preset.network, (3, 32, 32)), EDM, (3, 32, 32))
    text = memory(model, preset)
    assert "6 x 56.4 M numbers" in text and "of 128 samples" in text
