"""The design's rules that a reader of the code relies on, checked in the source itself."""

import ast
from pathlib import Path

import pytest

import cmlab

PACKAGE = Path(cmlab.__file__).parent
# Dependencies point one way: a module may import those of lower ranks only.
RANKS = [
    ["noise", "metrics", "processes"],
    ["sde"],
    ["schedules", "denoiser", "oracle", "distances"],
    ["objective", "steps", "augment", "sources", "stackmachine", "indicator"],
    ["solvers", "continuous", "images", "networks", "unpickle", "ablation", "likelihood"],
    ["samplers", "cifar10", "sharding"],
    ["losses", "guidance", "data"],
    ["editing", "evaluation", "checkpoints", "classifier", "trainer"],
    ["training", "search", "convert", "features", "runs", "theory_base"],
    ["experiment", "report", "theory_ct", "theory_dirac"],
    ["theory"],
    ["published", "card"],
    ["presets"],
    ["common"],
    ["cardpictures"],
    ["session", "cli_evaluate", "cli_theory"],
    ["chain"],
]
RANK = {name: rank for rank, names in enumerate(RANKS) for name in names}
SOURCES = {name: PACKAGE / (f"{name}.py" if name != "networks" else "networks/__init__.py") for name in RANK}
DRAWING = {"randn", "rand", "randint", "randperm", "randn_like", "rand_like", "normal", "multinomial", "bernoulli"}


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
        and call.func.attr in DRAWING
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "torch"
        and not any(k.arg == "generator" for k in call.keywords)
    ]
    assert loose == []
