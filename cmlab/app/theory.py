"""The app's theorems, without gradio: small versions of the experiments of `cmlab theory`, each done in seconds."""

import inspect
from collections.abc import Callable
from functools import partial

from ..base.registry import EXPERIMENTS as RECORDS
from ..base.text import markdown
from ..formats.checkpoints import pretrained_names
from ..theory.experiments import Measured, distributions
from ..training.presets import PRESETS

EXPERIMENTS = {record.name: record.label for record in RECORDS.records()}
HELP = {name: inspect.getdoc(RECORDS[name]) for name in EXPERIMENTS}
# Fewer points and levels than the command line's: seconds, and the same slopes.
SMALL = {record.name: record.facts["small"] for record in RECORDS.records()}
SOLVERS = RECORDS.record("thm1").facts["solver"]
DISTANCES, TARGETS = (RECORDS.record("thm2").facts[option] for option in ("distance", "target"))
USUAL = "soft3"  # distribution
WEIGHTS = RECORDS.record("variance").facts["weight"]


def starts() -> list[str]:
    """Bundled models of points whose CT gradient can be measured: those that training starts from, and those that it made."""
    return [name for name in pretrained_names() if name in PRESETS and PRESETS[name].data in distributions()]


def models() -> list[str]:
    """Bundled consistency models of points, to draw beside Theorem 1's curve."""
    return [name for name in starts() if PRESETS[name].consistency]


def data_of(model: str) -> str:
    """The distribution that a bundled model was trained on."""
    return PRESETS[model].data


def experiment(
    name: str, data: str | None, solver: str, model: str | None, distance: str, target: str, start: str, weight: str, seed: int
) -> Callable[[], Measured]:
    """What measures one in small, once it is called; options of the others are left aside. ``data`` None is the usual.

    Raises ValueError for a name that is not offered, and for a model beside a distribution that it was not trained on.
    """
    offered = (
        ("experiment", name, EXPERIMENTS), ("distribution", data, (None, *distributions())), ("solver", solver, SOLVERS),
        ("model", model, (None, *models())), ("distance", distance, DISTANCES), ("target", target, TARGETS),
        ("start", start, starts()), ("weight", weight, WEIGHTS),
    )  # fmt: skip
    for what, value, known in offered:
        if value not in known:
            raise ValueError(f"Unknown {what} {value!r}: choose one of {', '.join(map(str, filter(None, known)))}.")
    if name == "thm1" and model and data not in (None, data_of(model)):
        raise ValueError(
            f"{model} was trained on {data_of(model)}, not on {data}: choose that distribution, or no model beside it."
        )
    data = data or USUAL
    own = {
        "thm1": {"solver": solver} | ({"checkpoint": model} if model else {"data": data}),
        "thm2": {"data": data, "distance": distance, "target": target},
        "variance": {"checkpoint": start, "weight": weight},
    }
    return partial(RECORDS[name], {"seed": seed, **SMALL[name]}, **own[name])


def table_of(found: Measured) -> str:
    """The experiment's table in Markdown."""
    return "\n".join(markdown(found.table(), "---:"))
