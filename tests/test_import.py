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


# What one interpreter does in turn.
STAGES = {
    "cmlab": "import cmlab; assert cmlab.__version__; assert 'fit' in dir(cmlab)",
    "lessons": "import cmlab.teach",
    "measures": "import cmlab.report, cmlab.card",
    "exports": "from cmlab import *; assert callable(fit)",
    "figures": "import torch, cmlab.plots as p; p.plot_points({'a': torch.zeros(2, 2)})",
    "costs": "from cmlab.commands.main import main\n"
    "for name in ('digits-edm', 'cifar10-ict', 'cifar10-small-edm'): assert main(['train', name, '--help']) == 0",
}


def modules_after(*stages: str) -> list[set[str]]:
    """sys.modules after each of these pieces of code, run one after the other in a fresh interpreter."""
    code = "import sys, json; seen = []\n" + "".join(f"{stage}\nseen.append(sorted(sys.modules))\n" for stage in stages)
    code += "print(json.dumps(seen))"
    out = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert out.returncode == 0, out.stderr
    return [set(names) for names in json.loads(out.stdout.splitlines()[-1])]


@pytest.fixture(scope="module")
def modules() -> dict[str, set[str]]:
    return dict(zip(STAGES, modules_after(*STAGES.values()), strict=True))


@pytest.mark.parametrize("heavy", HEAVY)
def test_all_exports_do_not_load(heavy, modules):
    assert heavy not in modules["exports"]


def test_exports_load_torch(modules):
    assert {"torch", "cmlab"} <= modules["exports"]


def test_import_alone_loads_neither_torch_nor_anything_heavy(modules):
    assert not modules["cmlab"] & {"torch", "numpy", "cmlab.course.teach", *HEAVY}


def test_lessons_begin_light(modules):
    assert "cmlab.course.teach" in modules["lessons"]
    assert not modules["lessons"] & {"IPython", "ipywidgets", "matplotlib", "plotly", "PIL"}


def test_measures_begin_light(modules):
    assert "cmlab.evaluation.report" in modules["measures"]
    assert not modules["measures"] & {"torch_fidelity", "torchvision", "scipy", "sklearn"}


def test_figures_leave_pyplot_alone(modules):
    assert "matplotlib" in modules["figures"] and "matplotlib.pyplot" not in modules["figures"]


def test_the_cost_of_a_preset_is_told_without_the_compiler_and_the_data(modules):
    assert "tyro" in modules["costs"] and not modules["costs"] & {"torch._dynamo", "sklearn"}


HELPS = [f"{name} --help" for name in COMMANDS]
REFUSED = ["smaple", "edit x inpaint --msak left"]


def test_command_line_helps_and_refuses_without_torch():
    lines = ["--help", *HELPS, "train digits-color-chain --help", *REFUSED]
    (loaded,) = modules_after(f"from cmlab.commands.main import main\nfor line in {lines}: main(line.split())")
    assert "tyro" in loaded
    assert "torch" not in loaded


def test_every_export_is_there():
    for name in dir(cmlab):
        assert getattr(cmlab, name) is not None
    assert isinstance(cmlab.noise, ModuleType)
    assert cmlab.fit.__module__ == "cmlab.training.fit"
    with pytest.raises(AttributeError, match="smaple"):
        getattr(cmlab, "smaple")  # noqa: B009
