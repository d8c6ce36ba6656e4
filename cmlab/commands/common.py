"""What several commands share: checkpoints by name, which sampler a model takes, classes, pictures."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import samplers
from ..base.registry import SAMPLERS
from ..data import Data
from ..denoiser import Denoiser, classes_in_turn
from ..formats import checkpoints
from ..formats.checkpoints import PRETRAINED, SUFFIX, pretrained_names
from ..training.config import Precision
from ..training.presets import class_names, data_of, find
from ..training.trainer import compute_in

if TYPE_CHECKING:
    from .evaluate import EvaluateOptions
    from .sample import SampleOptions

MOST_STEPS = 10_000


def checkpoint_of(name: str) -> Path:
    """`find`, and a line on stderr where a run of the user's own stands before the bundled checkpoint of that name."""
    path, bare = find(name), name.removesuffix(SUFFIX)
    if path != Path(name) and path.parent != PRETRAINED and bare in pretrained_names():
        print(f"cmlab: {bare} is {path}, your own; the bundled one is {PRETRAINED / path.name}", file=sys.stderr)
    return path


def load(
    name: str,
    device: torch.device | str = "cpu",
    guidance: float | None = None,
    precision: Precision = "float32",
    compile: bool = False,
) -> tuple[Denoiser, dict[str, Any], dict[str, Any]]:
    """A checkpoint by its name or path: the model on ``device``, its header, and what that says about it."""
    model, meta = checkpoints.load(checkpoint_of(name), device)
    if guidance is not None:
        try:
            model.guidance = guidance
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
    compute_in(model, precision, compile)
    return model, meta, meta.get("about") or {}


def of_data(name: str, model: Denoiser, meta: dict[str, Any], data: str | None) -> tuple[Data, str]:
    """`data_of` for --data; raises ValueError for a set whose samples have another shape than those of the model ``name``."""
    found, data = data_of(meta, data)
    if tuple(found.shape) != model.shape:
        raise ValueError(f"{name} makes samples of shape {model.shape}, {data} has samples of shape {tuple(found.shape)}")
    return found, data


def plan(model: Denoiser, name: str, o: "SampleOptions | EvaluateOptions", about: dict[str, Any]) -> samplers.Plan:
    """How the options say that this model is sampled: `samplers.plan` with what does not fit refused."""
    if o.sigmas is not None:
        _check_levels(model, o.sigmas, o.steps)
    if (o.steps or 0) > MOST_STEPS:
        raise ValueError(f"--steps {o.steps}: {MOST_STEPS:,} is the most")
    chosen = samplers.plan(model, o.sampler, o.steps, o.sigmas, about)
    consistency = model.traits.consistency
    fitting = [record.name for record in SAMPLERS.records() if consistency == (record.kind == "consistency")]
    if chosen.sampler not in fitting:
        kind = "consistency" if consistency else "diffusion"
        raise ValueError(f"{name} is a {kind} model: choose --sampler {' or '.join(fitting)}, not {chosen.sampler}")
    return chosen


def _check_levels(model: Denoiser, sigmas: tuple[float, ...], steps: int | None) -> None:
    if steps is not None:
        raise ValueError("--sigmas are the levels themselves: leave --steps out")
    if not sigmas:
        raise ValueError("--sigmas needs at least one noise level, such as 80")
    lowest = samplers.level_range(model)[0]
    if model.traits.consistency and not min(sigmas) > lowest:
        raise ValueError(f"--sigmas of a consistency model lie above {lowest:g}, where it returns its input")
    if not model.traits.consistency and sigmas[-1] > lowest:
        raise ValueError(f"--sigmas of a diffusion model end in 0: {sigmas[-1]:g} would leave noise of that level in the samples")


def class_number(label: str | None, model: Denoiser, meta: dict[str, Any]) -> int | None:
    """The number of the class that --label says, by its number or its name; None where it says nothing."""
    if label is None:
        return None
    names, numbers = class_names(meta), [str(k) for k in range(model.classes)]
    if label in numbers or label in names:
        return (numbers if label in numbers else names).index(label)
    called = "" if list(names) == numbers else f": {', '.join(names[:20])}{', ...' * (len(names) > 20)}"
    known = f"0..{model.classes - 1}{called}" if numbers else "no classes"
    raise ValueError(f"--label {label}: this model has {known}")


def labels(model: Denoiser, label: int | None, start: int, stop: int, device: torch.device | str = "cpu") -> torch.Tensor | None:
    """The classes of the samples start to stop: ``label``, or where it is None all in turn."""
    turn = classes_in_turn(model.classes, stop - start, start, device)
    return turn if turn is None or label is None else torch.full_like(turn, label)
