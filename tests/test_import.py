"""``import cmlab`` stays light: torch, the app, plots and data sets load when they are used."""

import json
import subprocess
import sys
from types import ModuleType

import pytest

import cmlab
from cmlab.commands.main import COMMANDS

HEAVY = [
    "matplotlib",
    "gradio",
    "torchvision",
    "accelerate",
    "sklearn",
    "torchdiffeq",
    "plotly",
    "ipywidgets",
    "tyro",
    "pandas",
    "scipy",
    "piq",
    "lmdb",
    "PIL",
]


def modules_after(code: str) -> set[str]:
    """sys.modules after ``code`` in a fresh interpreter."""
    code += "\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(out.stdout.splitlines()[-1]))


@pytest.fixture(scope="module")
def modules() -> set[str]:
    """Of all that ``cmlab`` exports."""
    return modules_after("from cmlab import *; assert callable(fit)")


@pytest.mark.parametrize("heavy", HEAVY)
def test_all_exports_do_not_load(heavy, modules):
    assert heavy not in modules


def test_exports_load_torch(modules):
    assert {"torch", "cmlab"} <= modules


def test_import_alone_loads_neither_torch_nor_anything_heavy():
    assert not modules_after("import cmlab; assert cmlab.__version__; assert 'fit' in dir(cmlab)") & {"torch", "numpy", *HEAVY}


HELPS = [f"{name} --help" for name in COMMANDS]
REFUSED = ["smaple", "edit x inpaint --msak left"]


def test_command_line_helps_and_refuses_without_torch():
    lines = ["--help", *HELPS, "train digits-color-chain --help", *REFUSED]
    loaded = modules_after(f"from cmlab.commands.main import main\nfor line in {lines}: main(line.split())")
    assert "tyro" in loaded
    assert "torch" not in loaded


def test_the_cost_of_a_preset_is_told_without_the_compiler_and_the_data():
    lines = ["train digits-edm --help", "train cifar10-ict --help", "train cifar10-small-edm --help"]
    loaded = modules_after(f"from cmlab.commands.main import main\nfor line in {lines}: assert main(line.split()) == 0")
    assert "torch" in loaded
    assert not loaded & {"torch._dynamo", "sklearn"}


def test_every_export_is_there():
    for name in dir(cmlab):
        assert getattr(cmlab, name) is not None
    assert isinstance(cmlab.noise, ModuleType)
    assert cmlab.fit.__module__ == "cmlab.training.fit"
    with pytest.raises(AttributeError, match="smaple"):
        getattr(cmlab, "smaple")  # noqa: B009
