"""The app's theorems, without gradio: small versions of the experiments of `cmlab theory`, each done in seconds."""

import numpy as np

from ..base.registry import DATASETS
from ..commands.experiments import Measured
from ..commands.theory import TheoryOptions, measure
from ..formats.checkpoints import pretrained_names
from ..training.presets import PRESETS
from .view import figure_pixels

EXPERIMENTS = {
    "thm1": "Theorem 1: CD's error",
    "thm2": "Theorem 2: CD and CT",
    "variance": "CT's gradient: bias and noise",
}
HELP = {
    "thm1": "A model of zero CD loss is the solver itself, walked down the grid. **How far is it from the exact consistency "
    "function?** The error falls with the step size to the power of the solver's order: slope 1 for Euler, 2 for Heun. A "
    "trained model adds a floor that no finer grid removes.",
    "thm2": "CT replaces the teacher's score by one noisy sample of it. **What does that change in the loss?** Nothing at "
    "first order: the two losses meet like the square of the step, while both tend to the same number.",
    "variance": "**Why start with few levels and end with many?** At small N the gradient of CT is biased, like 1/N; at large N "
    "the bias is gone and the noise of a single sample remains. N(k) walks from one end to the other.",
}
SOLVERS, DISTANCES, TARGETS, WEIGHTS = ("euler", "heun", "midpoint"), ("l2", "huber", "l1"), ("other", "online"), ("1", "1/dt")
# Fewer points and levels than the command line's: seconds, and the same slopes.
SMALL = {
    "thm1": {"sizes": (10, 20, 40, 80, 160, 320), "points": 64},
    "thm2": {"sizes": (10, 20, 40, 80, 160, 320), "points": 16},
    "variance": {"sizes": (2, 4, 8, 16, 32, 64, 128), "points": 24},
}


def distributions() -> tuple[str, ...]:
    """The distributions whose score is exact."""
    return ("soft3", "gaussian", *DATASETS.of_kind("toy"))


def starts() -> list[str]:
    """Bundled models of points whose CT gradient can be measured: those that training starts from, and those that it made."""
    return [name for name in pretrained_names() if name in PRESETS and PRESETS[name].data in distributions()]


def models() -> list[str]:
    """Bundled consistency models of points, to draw beside Theorem 1's curve."""
    return [name for name in starts() if PRESETS[name].consistency]


def experiment(
    name: str, data: str | None, solver: str, model: str | None, distance: str, target: str, start: str, weight: str, seed: int
) -> Measured:
    """Run one in small; options of the others are left aside. Raises ValueError for a name that is not offered."""
    own = {
        "thm1": {"data": None if model else data, "solver": solver, "checkpoint": model},
        "thm2": {"data": data, "distance": distance, "target": target},
        "variance": {"checkpoint": start, "weight": weight},
    }
    offered = (
        ("experiment", name, EXPERIMENTS), ("distribution", data, distributions()), ("solver", solver, SOLVERS),
        ("model", model, (None, *models())), ("distance", distance, DISTANCES), ("target", target, TARGETS),
        ("start", start, starts()), ("weight", weight, WEIGHTS),
    )  # fmt: skip
    for what, value, known in offered:
        if value not in known:
            raise ValueError(f"Unknown {what} {value!r}: choose one of {', '.join(map(str, filter(None, known)))}.")
    return measure(TheoryOptions(experiment=name, seed=seed, **own[name], **SMALL[name]))  # pyright: ignore[reportArgumentType]


def figure_of(found: Measured) -> np.ndarray:
    return figure_pixels(found.figure())


def table_of(found: Measured) -> str:
    """The experiment's table in Markdown."""
    lines = [[name.replace("|", "\\|") for name in found.names], ["---:"] * len(found.names), *found.rows()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
