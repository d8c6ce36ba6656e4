"""The design's rules that a reader of the code relies on, checked in the source itself."""

import ast
import re
from pathlib import Path

import pytest

import cmlab

PACKAGE = Path(cmlab.__file__).parent
# Dependencies point one way: a module may import those of lower ranks only.
RANKS = [
    ["noise", "metrics", "processes", "suggest", "appstyle", "exercises"],
    ["sde", "options"],
    ["schedules", "denoiser", "oracle", "distances"],
    ["objective", "steps", "augment", "sources", "indicator"],
    ["solvers", "continuous", "images", "networks", "unpickle", "ablation", "likelihood"],
    ["samplers", "cifar10", "sharding"],
    ["losses", "guidance", "names"],
    ["data"],
    ["editing", "evaluation", "checkpoints", "classifier", "trainer"],
    ["training", "search", "convert", "features", "runs", "theory_base", "plots"],
    ["experiment", "report", "theory_ct", "theory_dirac", "plots_maps", "apppaint"],
    ["theory"],
    ["published", "card", "plots_theory"],
    ["presets", "cost"],
    ["common", "teach", "appview"],
    ["cardpictures", "appplane", "appparts"],
    ["session", "cli_evaluate", "cli_theory"],
    ["chain", "classifier_training", "apptheory"],
    ["commands", "apphandlers"],
    ["cli"],
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
FOLDERS = ("networks", "exercises")
SOURCES = {name: PACKAGE / (f"{name}/__init__.py" if name in FOLDERS else f"{name}.py") for name in RANK}
DRAWING = {"randn", "rand", "randint", "randperm", "randn_like", "rand_like", "normal", "multinomial", "bernoulli"}
IN_PLACE = {"normal_", "uniform_", "bernoulli_", "random_", "exponential_", "log_normal_", "cauchy_", "geometric_"}


def test_every_module_has_its_rank():
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__", "_version"}
    assert modules | set(FOLDERS) == set(RANK)


@pytest.mark.parametrize("name", RANK)
def test_dependencies_point_one_way(name):
    tree = ast.parse(SOURCES[name].read_text())
    used = {node.module.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level and node.module}
    used |= {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level and not n.module for a in n.names}
    upwards = {other for other in used if other in RANK and RANK[other] >= RANK[name] and other != name}
    assert upwards == set()


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
