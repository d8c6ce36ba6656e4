"""A user's own module before the command, another network than the preset's, parameters of an edit that no option names."""

import sys
from pathlib import Path

import pytest
import torch
from conftest import said

import cmlab
from cmlab.base import own
from cmlab.base.registry import EXTENSIONS
from cmlab.commands.main import main
from cmlab.formats import checkpoints

MINE = """
import torch
import cmlab
from cmlab.data import MixtureData
from cmlab.editing import stroke
from cmlab.oracle import Gaussian
from cmlab.samplers import euler

@cmlab.register("data", "{name}", "One Gaussian", "for a test", kind="toy")
def gaussian():
    return MixtureData(Gaussian(torch.zeros(2), 0.5))

@cmlab.register("sampler", "{name}", "Euler again", "for a test", kind="ode")
def again(denoise, x, sigmas, label=None, *, noise=None, project=None):
    return euler(denoise, x, sigmas, label, project=project)

@cmlab.register("edit", "{name}", "Strokes", "for a test")
def strokes(y, strength=1.0):
    return stroke(y, strength)
"""


@pytest.fixture
def registered():
    """Takes back what the test registers and imports."""
    before = {what: dict(registry._records) for what, registry in EXTENSIONS.items()}
    modules, imported = set(sys.modules), list(own.IMPORTED)
    yield
    for what, registry in EXTENSIONS.items():
        for name in [name for name in registry._records if name.startswith("mine") and name not in before[what]]:
            del registry._records[name]
    own.IMPORTED[:] = imported
    for name in set(sys.modules) - modules:
        if name.startswith("mine"):
            del sys.modules[name]


@pytest.mark.parametrize("way", ["file", "module"])
def test_a_module_of_ones_own_is_imported_first(way, tmp_path, monkeypatch, capsys, registered):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"mine_{way}"
    (tmp_path / f"{name}.py").write_text(MINE.format(name=name))
    first = ["--import", f"./{name}.py"] if way == "file" else [f"--import={name}"]
    words = ["train", "8gaussians-edm", "--data", name, "--steps", "2", "--batch", "4", "--network.width", "8"]
    assert main([*first, *words]) == 0
    assert checkpoints.read_meta("runs/8gaussians-edm.safetensors")["about"]["data"] == name
    assert main([*first, *first, "info"]) == 0  # once more does no harm
    assert name in capsys.readouterr().out
    assert main(["sample", "8gaussians-edm", "--sampler", name, "--steps", "2", "--n", "3", "--out", "x.npz"]) == 0
    assert f"{name} with 2 steps" in capsys.readouterr().out
    for words in (["--set", "strength=2"], []):
        assert main(["edit", "digits-cd", name, *words, "--out", f"{len(words)}.png"]) == 0
    assert Path("0.png").read_bytes() != Path("2.png").read_bytes()
    capsys.readouterr()
    for words in (["sample", "--help"], ["edit", "--help"]):
        assert main(words) == 0 and f"  {name}: for a test" in capsys.readouterr().out
    assert main(["edit", "digits-cd", name, "--sigma", "1"]) == 1
    assert f"--sigma belongs to stroke and denoise; {name} does not use it" in capsys.readouterr().err
    assert own.command_line("train", "x") == f"cmlab --import {first[-1].removeprefix('--import=')} train x"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{}['a']; yield", "with --import {file}: KeyError: 'a' ({file}, line 5)"),
        ("return None", "with --import {file}: TypeError: 'NoneType' object is not iterable (samplers.py, line"),
        ("yield Step(0, x[:, :1], x, 1.0, 0.0, 1)", "the last state of mine_wrong has the shape (3, 1), x had (3, 2)"),
    ],
)
def test_what_a_sampler_of_ones_own_does_wrong_is_told_with_its_line(body, message, tmp_path, monkeypatch, capsys, registered):
    monkeypatch.chdir(tmp_path)
    file = f"mine_{len(body)}.py"
    head = "from cmlab import Step, register\n\n@register('sampler', 'mine_wrong', kind='ode')"
    arguments = "denoise, x, sigmas, label=None, *, noise=None, project=None"
    Path(file).write_text(f"{head}\ndef wrong({arguments}):\n    {body}")
    assert main(["--import", file, "sample", "two-moons-edm", "--sampler", "mine_wrong", "--n", "3", "--steps", "1"]) == 1
    assert message.format(file=file) in capsys.readouterr().err and not Path("samples.png").exists()


@pytest.mark.parametrize(
    ("text", "message"), [("import sys; sys.exit(3)", "SystemExit: 3 ({file}, line 1)"), ("x(", "SyntaxError")]
)
def test_a_file_that_ends_the_program_or_is_no_python_is_told(text, message, tmp_path, capsys, registered):
    file = tmp_path / f"mine_{len(text)}.py"
    file.write_text(text)
    assert main(["--import", str(file), "info"]) == 1
    told = capsys.readouterr().err
    assert told.startswith(f"cmlab: error: --import {file}: ") and message.format(file=file.name) in told


def test_another_network_takes_its_own_options(tmp_path, capsys):
    out = ["--steps", "2", "--batch", "2", "--out", str(tmp_path)]
    words = ["train", "digits-edm", "--network", "song", "--network.channels", "4", "--network.mult", "1", "--network.emb", "4"]
    assert main([*words, *out, "--network.attention", "4"]) == 0
    meta = checkpoints.read_meta(tmp_path / "digits-edm.safetensors")
    assert meta["network"] == "song" and meta["config"]["channels"] == 4
    assert main(["train", "digits-edm", "--network=mlp", "--network.channels", "4", *out]) == 2
    assert "Unrecognized options: --network.channels" in said(capsys.readouterr().err)
    assert main(["train", "digits-edm", "--network", "mlp", "--help"]) == 0
    assert "--network.width INT" in capsys.readouterr().out


def test_parameters_that_no_option_names_are_set_by_name(tmp_path, capsys):
    words = ["edit", "digits-color-cd", "inpaint", "--steps", "2", "--out"]
    assert main([*words, f"{tmp_path}/a.png"]) == 0
    assert main([*words, f"{tmp_path}/b.png", "--set", "fill=-1"]) == 0
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


def test_an_advised_command_is_one_that_a_shell_takes(monkeypatch):
    monkeypatch.setattr(own, "IMPORTED", [])
    assert own.command_line("train", "--name", "my run", "--init=", "x[1]") == "cmlab train --name 'my run' --init= 'x[1]'"


def test_a_data_set_of_ones_own_that_is_none_is_told_what_to_return(capsys, registered):
    cmlab.register("data", "mine_bare", "Bare numbers", "for a test", kind="toy")(lambda: torch.zeros(9, 2))
    assert main(["train", "8gaussians-edm", "--data", "mine_bare"]) == 1
    assert "the data set 'mine_bare' returns a Tensor, not an ImageData, PixelData or MixtureData" in capsys.readouterr().err
