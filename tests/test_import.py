"""``import cmlab`` stays light: the app, plots and data sets load their libraries when they are used."""

import json
import subprocess
import sys

import pytest


@pytest.fixture(scope="module")
def modules() -> set[str]:
    """Top-level names in sys.modules after ``import cmlab`` in a fresh interpreter."""
    code = "import sys, json, cmlab; print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    out = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(out.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "heavy",
    [
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
    ],
)
def test_import_does_not_load(heavy, modules):
    assert heavy not in modules


def test_import_loads_torch_and_the_package(modules):
    assert {"torch", "cmlab"} <= modules
