"""The command line: what works, what each wrong input says, and that every option changes the resolved run."""

import json
from dataclasses import fields, is_dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import said
from PIL import Image

from cmlab import Denoiser, MLPConfig, UNetConfig, __version__, build_network, get_preset
from cmlab.commands.main import main
from cmlab.commands.options import TrainCommand, parse
from cmlab.data import load_images
from cmlab.denoiser import CONSISTENCY, EDM
from cmlab.formats import checkpoints
from cmlab.losses import LOSSES
from cmlab.methods.guidance import ClassifierFree
from cmlab.plots import to_uint8
from cmlab.samplers import sample
from cmlab.training.options import TrainOptions
from cmlab.training.presets import find, load_teacher

FAST = ["--steps", "3", "--batch", "8", "--network.width", "8"]


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """Small untrained checkpoints of each kind; what they draw does not matter here."""
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    unet = UNetConfig(channels=8, mult=(1,), emb=8)
    for name, config, precond, shape, classes in (
        ("edm2d", MLPConfig(width=8), EDM, (2,), 0),
        ("cm2d", MLPConfig(width=8), CONSISTENCY, (2,), 0),
        ("edm", unet, EDM, (3, 8, 8), 10),
        ("cm", unet, CONSISTENCY, (3, 8, 8), 10),
    ):
        checkpoints.save(folder / f"{name}.safetensors", Denoiser(build_network(config, shape, classes), precond, shape, classes))
    (folder / "text.safetensors").write_text("not a checkpoint")
    (folder / "broken.py").write_text("import torch\nundefined\n")
    whole = (folder / "cm.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.png").write_text("not a picture")
    Image.new("RGB", (9, 8)).save(folder / "wide.png")
    Image.new("RGB", (8, 8)).save(folder / "black.png")
    Image.new("RGBA", (8, 8)).save(folder / "alpha.png")
    return folder


def run(args: str, capsys, **names) -> tuple[int, str, str]:
    code = main(args.format(**names).split())
    out, err = capsys.readouterr()
    return code, out, err


def test_train_sample_info_from_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "two-moons-edm", *FAST]) == 0
    assert main(["sample", "runs/two-moons-edm.safetensors", "--n", "5", "--out", "points.npz"]) == 0
    assert np.load("points.npz")["x"].shape == (5, 2)
    assert main(["info", "runs/two-moons-edm.safetensors"]) == 0
    text = capsys.readouterr().out
    assert "diffusion model" in text and "cmlab train two-moons-edm" in text


def test_precision_is_that_of_samples_and_said_of_their_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("cmlab.training.trainer.has_bf16", lambda device: True)
    x = {}
    for checkpoint in ("digits-cd", "two-moons-cd"):
        for precision in ("", "--precision float32", "--precision bf16", "--precision fp16", "--precision auto"):
            assert main(["sample", checkpoint, "--n", "4", "--out", "x.npz", "--overwrite", *precision.split()]) == 0
            x[checkpoint, precision.split(" ")[-1]] = np.load("x.npz")["x"]
        exact = x[checkpoint, ""]
        assert np.array_equal(x[checkpoint, "float32"], exact)
        for precision, most in (("bf16", 0.1), ("fp16", 0.01)):
            assert 0 < np.abs(x[checkpoint, precision] - exact).max() < most
    assert np.array_equal(x["digits-cd", "auto"], x["digits-cd", "bf16"])
    assert np.array_equal(x["two-moons-cd", "auto"], x["two-moons-cd", "float32"])
    for precision in ("float32", "bf16"):
        edit = ["edit", "digits-cd", "inpaint", "--out", f"{precision}.png", "--precision", precision]
        search = ["search", "two-moons-cd", "--n", "50", "--grid", "4", "--precision", precision]
        capsys.readouterr()
        assert main(edit) == main(search) == 0
        x[precision] = Path(f"{precision}.png").read_bytes(), capsys.readouterr().out
    assert x["float32"][0] != x["bf16"][0] and x["float32"][1] != x["bf16"][1]
    capsys.readouterr()
    evaluate = ["evaluate", "digits-cd", "--n", "20", "--metrics", "accuracy", "--json", "x.json", "--precision", "bf16"]
    assert main(evaluate) == 0 and "computed in bfloat16" in capsys.readouterr().out
    assert json.loads(Path("x.json").read_text())["precision"] == "bfloat16"


def test_student_takes_the_users_own_teacher_before_the_bundled_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "two-moons-edm", *FAST]) == 0
    assert main(["train", "two-moons-cd", *FAST]) == 0  # its width 8 fits runs/two-moons-edm alone
    meta = checkpoints.read_meta("runs/two-moons-cd.safetensors")
    assert meta["precond"]["sigma_min"] == 0.002 and meta["config"]["width"] == 8


def test_a_progressively_distilled_model_knows_how_it_is_sampled(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "two-moons-edm", *FAST]) == 0
    assert main(["train", "two-moons-pd", "--steps", "14", "--batch", "8", "--network.width", "8"]) == 0
    assert main(["sample", "two-moons-pd", "--out", "points.npz"]) == 0
    assert "progressive with 1 step," in capsys.readouterr().out


def test_a_model_trained_to_be_guided_samples_evaluates_and_teaches_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    size = ["--steps", "5", "--batch", "8", "--network.channels", "8", "--network.emb", "8", "--lr", "0.02", "--ema", "0"]
    guided = ["--label-dropout", "0.3", "--guidance", "3"]
    assert main(["train", "digits-edm", *size, *guided, "--grid-every", "5"]) == 0
    assert main(["train", "digits-edm", *size, "--label-dropout", "0.3", "--name", "plain", "--grid-every", "5"]) == 0
    assert Path("runs/digits-edm/samples-00000005.png").read_bytes() != Path("runs/plain/samples-00000005.png").read_bytes()
    model, meta = checkpoints.load("runs/digits-edm.safetensors")
    plain, _ = checkpoints.load("runs/plain.safetensors")
    assert model.guidance == meta["guidance"] == 3 and plain.guidance == 1
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b)  # it learned without
    for words, weight in (([], 3), (["--guidance", "1"], 1)):
        assert main(["sample", "digits-edm", "--n", "4", "--steps", "3", "--out", "x.npz", "--overwrite", *words]) == 0
        by_hand = ClassifierFree(plain, weight)
        expected = sample(by_hand, (1, 8, 8), range(4), "heun", 3, label=torch.arange(4))
        np.testing.assert_allclose(np.load("x.npz")["x"], expected, atol=1e-4)
    capsys.readouterr()
    evaluate = ["evaluate", "digits-edm", "--n", "20", "--steps", "2", "--metrics", "accuracy", "--keep"]
    assert main(evaluate) == 0 and main([*evaluate, "--guidance", "2"]) == 0
    assert "2 steps, guidance 3, seeds" in (told := capsys.readouterr().out) and "2 steps, guidance 2, seeds" in told
    assert {row["guidance"] for row in checkpoints.read_meta("runs/digits-edm.safetensors")["about"]["measured"].values()} == {2, 3}
    assert main([*evaluate, "--precision", "bf16"]) == 0  # beside the figures in float32, not in their place
    measured = checkpoints.read_meta("runs/digits-edm.safetensors")["about"]["measured"].values()
    assert [(row["guidance"], row.get("precision")) for row in measured] == [(3, None), (2, None), (3, "bfloat16")]
    teacher = load_teacher(replace(get_preset("digits-cd"), teacher="runs/digits-edm.safetensors"))
    assert isinstance(teacher, Denoiser) and teacher.guidance == 3
    assert main(["train", "digits-cd", *size]) == 0
    assert checkpoints.load("runs/digits-cd.safetensors")[0].guidance == 1


def test_help_of_a_preset_says_its_source_and_cost(capsys):
    assert main(["train", "cifar10-ect", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("cifar10-ect: ECT from EDM's weights") and "cost: 25.6 M samples x 4 evaluations of 42.4 G" in out
    assert main(["train", "two-moons-cd", "--help"]) == 0
    assert capsys.readouterr().out.startswith("cost: 2.56 M samples x 6 evaluations of ")


def test_two_steps_take_the_levels_that_a_search_left_in_the_checkpoint(tmp_path, capsys):
    name, out = "cifar10-small-cd", tmp_path / "two.npz"
    searched = checkpoints.read_meta(name)["about"]["two_steps"]["sigmas"]
    words = f"sample {name} --n 2 --out {out} --overwrite --steps"
    assert main([*words.split(), "2"]) == 0
    assert f"at the levels 80 {searched[1]:.5g}," in capsys.readouterr().out
    model, _ = checkpoints.load(name)
    ours = np.load(out)["x"]
    by_hand = sample(model, model.shape, range(2), "multistep", sigmas=torch.tensor(searched), label=torch.arange(2))
    np.testing.assert_allclose(ours, by_hand, atol=1e-6)
    assert main([*words.split(), "3"]) == 0 and main([*words.split()[:-1], "--sigmas", "80", "0.5"]) == 0
    three, own = capsys.readouterr().out.splitlines()
    assert "at the levels" not in three and "at the levels 80 0.5," in own


def test_samples_do_not_depend_on_the_batch(models, tmp_path, capsys):
    for n, seed in ((3, 5), (1, 6)):
        assert (
            main(f"sample {models}/edm.safetensors --n {n} --seed {seed} --label 2 --steps 3 --out {tmp_path}/{n}.npz".split()) == 0
        )
    np.testing.assert_allclose(np.load(tmp_path / "3.npz")["x"][1:2], np.load(tmp_path / "1.npz")["x"], atol=1e-5)


@pytest.mark.parametrize("task", ["inpaint", "colorize", "super_resolve", "stroke", "denoise"])
def test_edit_writes_three_pictures(task, models, tmp_path, capsys):
    assert main(f"edit {models}/cm.safetensors {task} --out {tmp_path}/e.png".split()) == 0
    assert "Largest change of what was kept" in capsys.readouterr().out
    with Image.open(tmp_path / "e.png") as picture:
        assert picture.width == (3 * 8 + 2) * 20


def test_a_model_of_photographs_edits_a_bundled_photograph(tmp_path, capsys):
    words = f"edit cifar10-small-cd inpaint --steps 2 --out {tmp_path}/e.png --index"
    assert main([*words.split(), "30"]) == 0 and "Largest change of what was kept: 0" in capsys.readouterr().out
    photographs = load_images("cifar10-examples")
    assert photographs.label is not None and photographs.class_names[int(photographs.label[30])] == "ship"
    with Image.open(tmp_path / "e.png") as picture:
        first = np.asarray(picture)[: 32 * 5 : 5, : 32 * 5 : 5]
    assert (first == to_uint8(photographs.take(torch.tensor([30])))[0]).all()
    assert main([*words.split(), "36"]) == 1 and "--index must lie in 0..35" in capsys.readouterr().err


def test_edit_reads_a_picture_and_a_painted_mask(models, tmp_path):
    picture = to_uint8(torch.linspace(-1, 1, 192).reshape(1, 3, 8, 8))[0]
    Image.fromarray(picture).save(tmp_path / "in.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :3] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert (
        main(
            f"edit {models}/cm.safetensors inpaint --label 1 --image {tmp_path}/in.png "
            f"--mask {tmp_path}/mask.png --out {tmp_path}/o.png".split()
        )
        == 0
    )
    with Image.open(tmp_path / "o.png") as result:
        three = np.asarray(result)[::20, ::20]
    np.testing.assert_array_equal(three[:, :8], picture)  # original
    np.testing.assert_array_equal(three[:, 18 + 3 : 26], picture[:, 3:])  # the kept part of the result


WRONG = {
    "": "usage",
    "--import": "--import needs the name of a module or a file",
    "--import no_such_module sample x": "--import no_such_module: there is no such module or file",
    "--import {m}/none.py sample x": "no file at",
    "--import {m}/broken.py sample x": "broken.py: NameError: name 'undefined' is not defined (broken.py, line 2)",
    "smaple x": "did you mean 'sample'",
    "train": "name a preset",
    "train --steps 3": "the preset comes first",
    "train two-mons-edm": "did you mean 'two-moons-edm'",
    "train two-moons-edm --stpes 3": "Unrecognized options: --stpes, 3 Perhaps you meant: --steps",
    "train two-moons-edm --loss.densty.mean 1": "Perhaps you meant: --loss.density.mean",
    "train two-moons-edm --loss.bridge heun": "Unrecognized options: --loss.bridge",
    "train two-moons-edm --steps many": "--steps: it takes a whole number, got 'many'",
    "train two-moons-edm --lr x": "--lr: it takes a number, got 'x'",
    "train two-moons-edm --network mpl": "unknown network 'mpl': did you mean 'mlp'?",
    "train two-moons-edm --steps 0": "--steps must be at least 1, got 0",
    "train two-moons-edm --batch 0": "--batch must be at least 1, got 0",
    "train two-moons-edm --accumulate -1": "--accumulate must be at least 1, got -1",
    "train two-moons-edm --batch 10 --accumulate 3": "accumulate must divide the batch",
    "train two-moons-edm surplus": "Unrecognized options: surplus",
    "train two-moons-edm --out /dev/null/x": "choose another --out",
    "train two-moons-edm --device tpu9": "try --device cpu",
    "train two-moons-edm --threads 0": "--threads must be at least 1",
    "train two-moons-edm --data two-mons": "did you mean 'two-moons'",
    "train two-moons-edm --teacher oracle": "no use for a teacher",
    "train digits-cd --teacher oracle --init= --steps 3": "no exact score",
    "train two-moons-cd --teacher {m}/none.safetensors": "no checkpoint at",
    "train two-moons-ict --init {m}/cm.safetensors": "another network",
    "train rings-cd": "cmlab train rings-edm",
    "sample": "Missing from cmlab sample: CHECKPOINT",
    "sample {m}/none.safetensors": "no checkpoint at",
    "sample {m}": "is a folder",
    "sample {m}/text.safetensors": "not a readable safetensors file",
    "sample {m}/cut.safetensors": "cut short",
    "sample {m}/edm.safetensors --sampler onestep": "choose --sampler euler or heun",
    "sample {m}/cm.safetensors --sampler heun": "choose --sampler multistep or onestep",
    "sample {m}/cm.safetensors --sampler onestep --steps 2": "use 'multistep'",
    "sample {m}/cm.safetensors --n 0": "--n must be at least 1",
    "sample {m}/cm.safetensors --n abc": "--n: it takes a whole number, got 'abc'",
    "sample {m}/cm.safetensors --label x.5": "--label x.5: this model has 0..9",
    "sample {m}/cm.safetensors --sigmas a b": "--sigmas: Could not find valid parse for arguments: ['a', 'b']",
    "sample {m}/cm.safetensors --n 10001": "at most 10,000 samples of this model, not --n 10001: write them to --out FILE.npz",
    "sample {m}/cm2d.safetensors --n 1000000000": "write them to --out FILE.npz",
    "sample {m}/cm.safetensors --n 10000000000000 --out x.npz": "GiB free: choose a smaller --n",
    "sample {m}/cm.safetensors --seed 9223372036854775807": "64 bits",
    "sample {m}/cm.safetensors --out /proc/a.png": "cannot write in the folder /proc",
    "sample {m}/cm.safetensors --steps 0": "at least 1 step",
    "sample {m}/cm.safetensors --label 10": "this model has 0..9",
    "sample cifar10-small-cd --label dog": "--label dog: this model has 0..2: automobile, horse, ship",
    "edit cifar10-small-cd inpaint --label dog": "--label dog: this model has 0..2: automobile, horse, ship",
    "sample {m}/cm2d.safetensors --label 0": "this model has no classes",
    "sample {m}/cm.safetensors --out x.gif": "must end in .png or .npz",
    "edit {m}/cm.safetensors": "Missing from cmlab edit: {inpaint,colorize,",
    "edit {m}/cm.safetensors paint": "invalid choice 'paint' for argument 'task'. Expected one of ('inpaint', 'colorize',",
    "edit {m}/cm.safetensors inpaint --set fill": "--set takes NAME=VALUE, got 'fill'",
    "edit {m}/cm.safetensors inpaint --set fil=1": "unknown parameter of inpaint 'fil': did you mean 'fill'?",
    "edit {m}/cm2d.safetensors inpaint": "makes points, not pictures",
    "edit {m}/edm.safetensors inpaint": "need a consistency model",
    "edit {m}/cm.safetensors inpaint --mask {m}/black.png": "the mask is empty",
    "edit {m}/cm.safetensors inpaint --mask nowhere": "neither a file nor one of",
    "edit {m}/cm.safetensors inpaint --label 1 --image {m}/wide.png": "resized from 9 x 8 to 8 x 8 pixels",
    "edit {m}/cm.safetensors inpaint --label 1 --image {m}/notes.png": "is not a picture that can be read",
    "edit {m}/cm.safetensors inpaint --label 1 --image {m}/none.png": "no picture at",
    "edit {m}/cm.safetensors inpaint --patch 2": "--patch belongs to super_resolve",
    "edit {m}/cm.safetensors super_resolve --patch 3": "does not divide the image size 8x8",
    "edit {m}/cm.safetensors denoise --sigma 100": "must lie in",
    "edit {m}/cm.safetensors stroke --steps 4": "--steps belongs to",
    "edit {m}/cm.safetensors inpaint --steps 0": "at least 1 step",
    "edit {m}/cm.safetensors super_resolve --patch 0": "does not divide",
    "edit {m}/cm.safetensors inpaint --label 1 --image {m}/alpha.png": "converted to RGB colours, on white where it is transparent",
    "train two-moons-ict --loss.pairs.rho 0": "rho must be above 0",
    "train digits-edm --network.group 0": "must be at least 1",
    "train digits-edm --network.heads 5": "do not divide",
    "train two-moons-ect --loss.pairs.stages 0": "at least 1 stage",
    "train two-moons-ict --loss.pairs.n.s0 2000": "need 1 <= s0 <= s1",
    "train two-moons-edm --loss.density.std nan": "std, is at least 0: got nan",
    "train two-moons-edm --loss.density.mean inf": "--loss.density.mean is a finite number: got inf",
    "train two-moons-edm --save-minutes nan": "--save-minutes is a finite number: got nan",
    "train two-moons-edm --network.width 0": "width and freqs must be at least 1",
    "train two-moons-edm --steps 99999999999999999999": "steps is a whole number below 2**53",
    "sample two-moons-cd --device meta": "the device 'meta' cannot be used here",
    "train two-moons-cd --data 8gaussians": "was trained on two-moons, not on 8gaussians",
    "train two-moons-cd --teacher two-moons-cd": "a teacher must be a diffusion model",
    "edit {m}/cm.safetensors inpaint --index 99999": "--index must lie in",
    "edit {m}/cm.safetensors inpaint --image {m}/black.png --index 1": "leave it out when --image is given",
    "theory": "Missing from cmlab theory: {thm1,thm2,variance}",
    "theory thm3": "invalid choice 'thm3' for argument 'experiment'. Expected one of ('thm1', 'thm2', 'variance')",
    "theory thm2 --solver heun": "--solver belongs to thm1; thm2 does not use it",
    "theory variance --data rings": "--data belongs to thm1 and thm2",
    "theory thm1 --data digits": "unknown 2D data set",
    "theory thm1 --sizes 40": "at least two sizes",
    "theory thm1 --sizes 40 20": "growing and at least 2",
    "theory thm1 --points 0": "--points must be at least 1",
    "theory thm1 --figure x.gif": "must end in .png",
    "theory thm1 --data soft3 --checkpoint two-moons-cd": "leave --data out",
    "theory thm1 --checkpoint two-moons-edm": "choose a consistency model",
    "theory variance --checkpoint digits-cd": "choose a model of points",
    "info nothing-like-it": "choose one of",
    "info cifar10-small-chain": "see 'cmlab train cifar10-small-chain --help'",
    "info digits-classifier": "digits-classifier is no checkpoint",
}


@pytest.mark.parametrize("args", WRONG)
def test_wrong_input_is_one_line_that_names_the_way_out(args, models, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, out, err = run(args, capsys, m=models)
    assert code != 0
    if code == 2 and args:  # tyro says it, in a box
        assert WRONG[args] in said(err)
    elif args:
        assert code == 1 and err.startswith("cmlab: error: ") and err.count("\n") == 1, err
        assert WRONG[args] in err
    else:
        assert WRONG[args] in out
    assert not list(tmp_path.iterdir()), "a refused command must write nothing, and make no folder"


def test_a_class_is_asked_for_by_its_name_or_its_number(tmp_path):
    words = f"sample cifar10-small-cd --n 2 --seed 3 --out {tmp_path}"
    for name, label in (("a", "horse"), ("b", "1")):
        assert main([*f"{words}/deep/{name}.npz --label".split(), label]) == 0
    a, b = np.load(tmp_path / "deep/a.npz"), np.load(tmp_path / "deep/b.npz")
    assert a["label"].tolist() == b["label"].tolist() == [1, 1] and (a["x"] == b["x"]).all()


@pytest.mark.parametrize("command", ["train digits-edm", "evaluate", "search", "likelihood", "theory"])
def test_help_names_the_data_sets_and_no_default_is_a_list(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "two-moons: two half circles" in out and ("digits: 8 x 8" in out) == (command != "theory") and "['None']" not in out


@pytest.mark.parametrize(
    "args",
    [
        "train two-moons-edm --out {o}",
        "sample {m}/cm.safetensors --out {o}/kept.png",
        "edit {m}/cm.safetensors stroke --out {o}/kept.png",
    ],
)
def test_nothing_is_overwritten_without_being_asked(args, models, tmp_path, capsys):
    for name in ("kept.png", "two-moons-edm.safetensors"):
        (tmp_path / name).write_text("precious")
    code, _, err = run(args, capsys, m=models, o=tmp_path)
    assert code == 1 and "--overwrite" in err
    assert {p.read_text() for p in tmp_path.iterdir()} == {"precious"}


def test_an_edit_failure_leaves_the_old_file(models, tmp_path, monkeypatch, capsys):
    (tmp_path / "kept.png").write_text("precious")

    def broken(*_, **__):
        raise ValueError("no such luck")

    monkeypatch.setattr("PIL.Image.Image.save", broken)
    assert main(f"edit {models}/cm.safetensors stroke --out {tmp_path}/kept.png --overwrite".split()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["kept.png"] and (tmp_path / "kept.png").read_text() == "precious"


def _other(value):
    """Another legal value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return 0.5 * value + 0.25
    if isinstance(value, tuple):
        return (*value, 3)
    return {"noise": "heun", "heun": "euler", "uniform": "lognormal", "lognormal": "uniform", "1": "1/dt", "1/dt": "1",
            "cosine": "constant", "karras": "snr", "truncated-snr": "snr", "model": "ema", "block": "conv",
            "paper": "code", "l2": "l1", "edm": "density", "float32": "bf16", "radam": "adam",
            "huber": "huber", "8gaussians": "rings"}.get(value, "elsewhere")  # fmt: skip


def _leaves(node, path=()):
    for field in fields(node):
        value = getattr(node, field.name)
        yield from _leaves(value, (*path, field.name)) if is_dataclass(value) else [((*path, field.name), value)]


@pytest.mark.parametrize(
    "name",
    ["8gaussians-edm", "8gaussians-pd", "8gaussians-cd", "8gaussians-ct", "8gaussians-ict", "8gaussians-ect", "digits-edm"],
)
def test_every_train_option_changes_the_resolved_run(name):
    default = TrainCommand(TrainOptions(), get_preset(name))
    for path, value in _leaves(default):
        option = "--" + ".".join(path[1:]).replace("_", "-")
        takes_c = path[-1] == "c" and get_preset(name).loss.distance.name == "huber"  # type: ignore[union-attr]
        other = 0.5 if value is None and takes_c else _other(value)
        if other == value or (value is None and other == "elsewhere"):
            continue  # options of other distances, stages of their own length
        if isinstance(other, bool):
            group, dot, last = option[2:].rpartition(".")
            words = [option if other else f"--{group}{dot}no-{last}"]
        else:
            words = [option, *(map(str, other) if isinstance(other, tuple) else [str(other)])]
        node = parse(TrainCommand, words, "cmlab train", default)
        for part in path:
            node = getattr(node, part)
        assert (str(node) if isinstance(node, Path) else node) == other, option


def test_info_lists_what_there_is(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("8gaussians-cd", "digits-color", "checkerboard"))
    (filed,) = (line for line in out.splitlines() if line.startswith("data sets that need their files: "))
    assert {"cifar10", "mnist", "fashion-mnist", "imagenet64"} <= set(filed.partition(": ")[2].partition(" (")[0].split(", "))
    assert "train': cifar10-small-chain, mnist-chain, digits-color-chain\n" in out
    assert "--features': cifar10, cifar10-fast, digits, mnist, mnist-fast\n" in out
    assert [f"rings-{name}" for name in LOSSES] in [line.split() for line in out.splitlines()]


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"cmlab {__version__}\n"


@pytest.mark.parametrize(("model", "words"), [("cm", ""), ("cm", "--label 3"), ("cm2d", "")])
def test_samples_are_drawn_in_batches_and_written_like_numpys_own(model, words, models, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("cmlab.commands.sample.BATCH", 3)
    sizes = []
    forward = Denoiser.forward
    monkeypatch.setattr(Denoiser, "forward", lambda self, x, *rest: sizes.append(len(x)) or forward(self, x, *rest))
    assert main(f"sample {models}/{model}.safetensors --n 8 --seed 5 --out {tmp_path}/x.npz {words}".split()) == 0
    assert sizes == [3, 3, 2]
    net, _ = checkpoints.load(models / f"{model}.safetensors")
    label = None if not net.classes else torch.full((8,), 3) if words else torch.arange(8)
    with np.load(tmp_path / "x.npz") as file:
        assert file["x"].dtype == np.float32 and (file["seeds"] == np.arange(5, 13)).all()
        assert file["label"].tolist() == ([] if label is None else label.tolist())
        np.testing.assert_allclose(file["x"], sample(net, net.shape, range(5, 13), "multistep", 1, label=label), atol=1e-5)
    assert main(f"sample {models}/{model}.safetensors --n 8 --out {tmp_path}/x.png {words}".split()) == 0
    assert sizes[-3:] == [3, 3, 2]


def test_a_name_is_found_with_its_suffix_and_without(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundled = checkpoints.PRETRAINED / "two-moons-edm.safetensors"
    assert find("two-moons-edm") == find("two-moons-edm.safetensors") == bundled == checkpoints.resolve("two-moons-edm.safetensors")
    model = checkpoints.load("two-moons-edm")[0]
    own = checkpoints.save("runs/two-moons-edm.safetensors", model)
    names = (
        "two-moons-edm",
        "two-moons-edm.safetensors",
        "runs/two-moons-edm",
        "runs/two-moons-edm.safetensors",
        f"{own.resolve()}"[:-12],
    )
    assert {find(name).resolve() for name in names} == {own.resolve()}
    with pytest.raises(ValueError, match=r"no checkpoint at runs/two-moon-edm \(its folder holds two-moons-edm.safetensors\)"):
        find("runs/two-moon-edm")
    Path("runs/rings-edm").mkdir()
    Path("runs/rings-edm/state-00000001.safetensors").touch()
    with pytest.raises(ValueError, match="holds an unfinished run: end it with 'cmlab train rings-edm --resume'"):
        find("runs/rings-edm")


def test_one_picture_is_nothing_to_learn_from(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CMLAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "one").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "a.png")
    assert main(f"train digits-color-edm --data {tmp_path}/one --out {tmp_path}/runs --steps 1".split()) == 1
    assert "holds 1 picture: to train takes at least 2" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", "train", "train two-moons-cd", "sample", "edit", "info"])
def test_help_explains(command, capsys):
    assert main([*command.split(), "--help"]) == 0
    assert "usage" in capsys.readouterr().out


def test_checkpoint_header_is_json_that_says_how_it_was_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clock = count()
    monkeypatch.setattr("cmlab.training.loop.time.perf_counter", lambda: float(next(clock)))  # a second each time it is looked at
    assert main(["train", "8gaussians-edm", *FAST]) == 0
    about = checkpoints.read_meta("runs/8gaussians-edm.safetensors")["about"]
    assert about["preset"] == "8gaussians-edm" and about["command"].startswith("cmlab train 8gaussians-edm --steps 3")
    assert about["seconds"] >= 1 and json.dumps(about)
