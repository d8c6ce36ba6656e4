"""The design's rules that a reader of the code relies on, checked in the source itself."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import cmlab

PACKAGE = Path(cmlab.__file__).parent
DRAWING = {"randn", "rand", "randint", "randperm", "randn_like", "rand_like", "normal", "multinomial", "bernoulli"}
IN_PLACE = {"normal_", "uniform_", "bernoulli_", "random_", "exponential_", "log_normal_", "cauchy_", "geometric_"}


def test_rooms_know_those_below_them_alone():
    """The contract in pyproject.toml, which `make lint` checks too."""
    pytest.importorskip("importlinter", reason="a tool of developers: pip install import-linter")
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", program], cwd=PACKAGE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_nothing_draws_from_a_global_generator(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    loose = [
        f"{path.name}:{call.lineno}"
        for call in calls
        if isinstance(call.func, ast.Attribute)
        and (call.func.attr in IN_PLACE or (call.func.attr in DRAWING and ast.unparse(call.func.value) == "torch"))
        and not any(k.arg == "generator" for k in call.keywords)
        and (path.parent.name, call.func.attr) != ("networks", "normal_")  # initial weights, built under `global_seed`
    ]
    numpys = [(call, re.fullmatch(r"(?:np|numpy)\.random\.(\w+)", ast.unparse(call.func))) for call in calls]
    loose += [f"{path.name}:{call.lineno}" for call, found in numpys if found and not (found[1] == "default_rng" and call.args)]
    assert loose == []
