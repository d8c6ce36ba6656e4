"""A user's own module before the command, another network than the preset's, parameters of an edit that no option names."""

import sys

import pytest
from conftest import said

from cmlab.base import own
from cmlab.commands.main import main
from cmlab.data import DATASETS
from cmlab.formats import checkpoints

MINE = """
import torch
from cmlab.data import DATASETS, MixtureData
from cmlab.oracle import Gaussian

@DATASETS.register("{name}", "One Gaussian", "for a test", kind="toy")
def {name}():
    return MixtureData(Gaussian(torch.zeros(2), 0.5))
"""


@pytest.fixture
def registered():
    """Takes back what the test registers and imports."""
    names, modules, imported = dict(DATASETS._records), set(sys.modules), list(own.IMPORTED)
    yield
    DATASETS._records.clear()
    DATASETS._records.update(names)
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
    assert own.command_line("train", "x") == f"cmlab --import {first[-1].removeprefix('--import=')} train x"


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
