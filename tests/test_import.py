"""``import cmlab`` stays light: torch, the app, plots and data sets load when they are used."""

import json
import subprocess
import sys
from types import ModuleType

import pytest

import cmlab

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
    """Top-level names in sys.modules after ``code`` in a fresh interpreter."""
    code += "\nimport sys, json; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
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


@pytest.mark.parametrize("words", [["--help"], ["sample", "--help"], ["smaple"], ["edit", "x", "inpaint", "--msak", "left"]])
def test_command_line_helps_and_refuses_without_torch(words):
    loaded = modules_after(f"from cmlab.commands.main import main; main({words})")
    assert "tyro" in loaded
    assert "torch" not in loaded


def test_every_export_is_there():
    for name in dir(cmlab):
        assert getattr(cmlab, name) is not None
    assert isinstance(cmlab.noise, ModuleType)
    assert cmlab.fit.__module__ == "cmlab.training.fit"
    with pytest.raises(AttributeError, match="smaple"):
        getattr(cmlab, "smaple")  # noqa: B009
