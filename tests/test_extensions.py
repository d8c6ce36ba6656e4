"""The table "one file per extension", tried: a new entry in one new file is in the command line and in the app, and runs there.

The same entries come from a file of one's own (``cmlab --import FILE``), with the package as it is.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cmlab

PACKAGE = Path(cmlab.__file__).parent
FILES = {
    "methods/plain.py": """
from cmlab.base.registry import SAMPLERS
from cmlab.samplers import euler


@SAMPLERS.register("plain", "Plain", "Euler's method by another name", kind="ode")
def plain(denoise, x, sigmas, label=None, *, noise=None, project=None):
    yield from euler(denoise, x, sigmas, label, noise=noise, project=project)
""",
    "methods/finish.py": """
from cmlab.base.registry import EDITS
from cmlab.editing import inpaint, preset_mask


@EDITS.register("finish", "Finish", "The upper half is kept, the model draws the lower one.")
def finish(y, steps=3):
    return inpaint(y, preset_mask("bottom", y.shape), steps)
""",
    "methods/higher.py": """
from cmlab.base.registry import LOSSES
from cmlab.losses import DenoisingLoss
from cmlab.schedules import LogNormal


@LOSSES.register("higher", "Higher", "EDM's loss on higher noise levels.", kind="diffusion")
def higher():
    return DenoisingLoss(LogNormal(0.0, 1.2))
""",
    "data/cross.py": """
import torch

from cmlab.base.registry import DATASETS
from cmlab.data import MixtureData, mixture_from


@DATASETS.register("cross", "Cross", "four points on two axes", kind="toy")
def cross():
    return MixtureData(mixture_from(torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), 0.1))
""",
    "networks/flat.py": """
from dataclasses import dataclass

import torch
from torch import nn

from cmlab.base.registry import NETWORKS
from cmlab.networks import NetworkConfig


@dataclass(frozen=True)
class FlatConfig(NetworkConfig):
    \"\"\"width: of the hidden layer.\"\"\"

    width: int = 8


@NETWORKS.register("flat", "Flat", "one hidden layer", config=FlatConfig)
class Flat(nn.Module):
    def __init__(self, config, shape, classes=0):
        super().__init__()
        self.config = config
        self.inp, self.out = nn.Linear(shape[0] + 1, config.width), nn.Linear(config.width, shape[0])
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x, c_noise, label=None):
        return self.out(torch.tanh(self.inp(torch.cat([x, c_noise[:, None]], 1))))
""",
}
# An experiment is an entry of PRESETS, in the package of the table in training/published.py.
PUBLISHED = """
from ..networks import MLPConfig

PUBLISHED.register("my-moons", help="One of my own.")(Preset("two-moons", EDMLoss(), MLPConfig(), lr=1e-4))
"""
EXPERIMENT = """
from dataclasses import replace

from cmlab import PRESETS, get_preset

PRESETS["my-moons"] = replace(get_preset("two-moons-edm"), lr=1e-4)
"""
COMMANDS = {
    "sampler": "sample two-moons-edm --sampler plain --steps 3 --n 4 --out a.png",
    "edit": "edit digits-cd finish --out b.png",
    "loss": "train two-moons-higher --steps 3 --batch 8",
    "data set": "train cross-edm --steps 3 --batch 8",
    "network": "train two-moons-ct --network flat --network.width 6 --steps 3 --batch 8",
}
ALL = COMMANDS | {"experiment": "train my-moons --steps 3 --batch 8"}
# Every handler is run to its end; what it yields last is not None.
PROGRAM = """
import json, sys
from cmlab.commands.main import main

own = json.loads(sys.argv[1])
done = {what: main([*own, *words.split()]) for what, words in json.loads(sys.argv[2]).items()}
try:
    import gradio
except ImportError:
    gradio = None
if gradio is not None:
    from cmlab.app import handlers, page

    page.build_app()
    *_, done["app: sampler"] = (0 for shown in handlers.sample("two-moons", count=2, edm_steps=3, sampler="plain"))
    *_, done["app: edit"] = (0 for shown in handlers.edit("finish", data="digits"))
    told = handlers.train("cross", ["higher"], steps=10, batch=16)
    done["app: loss and data set"] = int(told["models"][0]["label"] == "")
print(json.dumps(done))
"""


def run(folder: Path, package: Path, own: list[str], commands: dict[str, str]) -> dict[str, int]:
    """The exit status of every command, and 0 for every handler that came to its end."""
    environment = os.environ | {"PYTHONPATH": str(package), "OMP_NUM_THREADS": "1", "GRADIO_TEMP_DIR": str(folder / "gradio")}
    command = [sys.executable, "-c", PROGRAM, json.dumps(own), json.dumps(commands)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result.values()) == {0}, (result, done.stderr[-2000:])
    return result


@pytest.fixture
def copy(tmp_path) -> Path:
    """A copy of the package in a folder of its own, without its checkpoints, which are linked."""
    target = tmp_path / "copy" / "cmlab"
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("pretrained"))
    (target / "pretrained").symlink_to(PACKAGE / "pretrained", target_is_directory=True)
    return target


def test_one_new_file_is_all_that_an_entry_takes(tmp_path, copy):
    for name, text in FILES.items():
        assert not (copy / name).exists()
        (copy / name).write_text(text)
    published = copy / "training" / "published.py"
    published.write_text(published.read_text() + PUBLISHED)
    assert len(run(tmp_path, copy.parent, [], ALL)) >= len(ALL)


def test_a_file_of_ones_own_gives_the_same_entries(tmp_path):
    (tmp_path / "my_methods.py").write_text("\n".join([*FILES.values(), EXPERIMENT]))
    assert len(run(tmp_path, PACKAGE.parent, ["--import", "my_methods.py"], ALL)) >= len(ALL)
