"""What the app shows and reads, without gradio: groups of checkpoints, pictures in and out, painted masks, checked numbers.

Every refusal is a ValueError whose text can be shown to the user as it stands.
"""

import io
import math
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import load_images
from ..data.names import class_names_of, split_name
from ..data.pictures import MAX_CLASSES
from ..denoiser import Denoise
from ..editing import EDITS, Edit, likeliest_label, preset_mask, slerp
from ..evaluation.classifier import classifier_for, fit_channels, load_classifier, resolve_classifier, to_pixels
from ..formats import checkpoints
from ..methods.likelihood import encode
from ..noise import as_draws, seeds_from, state_dtype
from ..oracle import FiniteData
from ..samplers import SAMPLERS, Step, adds_noise, default_sigmas, initial_noise
from ..training.presets import PRESETS
from .paint import painted_mask, painted_over

METHODS = {
    "edm": "EDM",
    "pd": "Progressive distillation",
    "cd": "CD",
    "ct": "CT",
    "ict": "iCT",
    "ect": "ECT",
    "ccd": "CD, continuous time",
    "cct": "CT, continuous time",
    "scd": "sCD (sCM)",
    "sct": "sCT (sCM)",
}
METHOD_HELP = {
    "edm": "A diffusion model: it learns to denoise, and is sampled by Heun's method in 18 steps (35 evaluations).",
    "pd": "One step of the student does what two of the teacher do; the student becomes the teacher, and its steps halve, "
    "from 64 to 1. It is sampled in as many steps as it has at the time.",
    "cd": "Two neighbouring points of one path share one end: the neighbour comes from the exact PF-ODE, the teacher.",
    "ct": "As CD, but without a teacher: the neighbour is the same data point with the same noise, less of it.",
    "ict": "CT improved: pseudo-Huber distance, weight 1/Δσ, no averaged target, steps between neighbours that halve on the way.",
    "ect": "Starts as a diffusion model, neighbours far apart; then they come closer. Quick from trained weights.",
    "ccd": "CD for infinitely close neighbours: the model's rate of change along the exact path, by forward-mode differentiation.",
    "cct": "The same limit without a teacher. Its gradient is noisy; the paper starts it from a diffusion model.",
    "scd": "sCM with the exact PF-ODE for a teacher: TrigFlow's angle in place of σ, and tangents that are normalized.",
    "sct": "sCM without a teacher: TrigFlow's angle in place of σ, and tangents that are normalized.",
}
# Students in the order of preference: those with a teacher, and those that learn from data points.
DISTILLED, FROM_DATA = ("cd", "ccd", "scd", "pd"), ("ect", "ict", "ct", "cct", "sct")
# Of diffusion models. A progressively distilled student has its own.
DIFFUSION_SAMPLERS = {
    name: {
        "euler": "Euler",
        "heun": "Heun",
        "dpm2": "DPM-Solver-2",
        "dpm_solver3": "DPM-Solver-3",
        "dpmpp_2s": "DPM-Solver++(2S)",
        "dpmpp_2m": "DPM-Solver++(2M)",
        "deis": "DEIS",
        "ddim": "DDIM (the same as Euler)",
        "ancestral": "Ancestral (DDPM)",
        "predictor_corrector": "Predictor-corrector",
    }.get(name, name)
    for name in SAMPLERS
    if name not in (*SAMPLERS.of_kind("consistency"), "progressive")
}
TASKS = {"inpaint": "Inpaint", "colorize": "Colorize", "super_resolve": "Super-resolve", "stroke": "Stroke", "denoise": "Denoise"}
TASK_HELP = {
    "inpaint": "The pixels outside the mask are kept exactly; the model fills in the rest so that the whole looks like data.",
    "colorize": "The brightness of every pixel is kept exactly; the model chooses the colours. Another seed, other colours.",
    "super_resolve": "The mean of every block is kept exactly; the model adds the detail inside the blocks.",
    "stroke": "Noise hides a rough painting's flaws but not its layout; the model makes a picture of what is left. "
    "Paint on the canvas, or leave it as it is: then the picture in coarse blocks is the painting.",
    "denoise": "One evaluation at the known noise level takes the noise away: f(x, σ) is what a consistency model computes.",
}
# What a handler takes where none is named: the first of these that the data set has.
STUDENTS = ("cd", "ccd", "scd", *FROM_DATA, "edm", "pd")
EXACT = "digits, exact"
OWN = " (runs)"  # ends the name of a group of the user's own models that differ from the bundled ones
PAINTED = "painted"
DRAWN = "drawn"
MAX_SEED = 2**53 - 1  # of either sign: what a browser's numbers hold exactly
PANEL = 768  # pixels that a small picture is enlarged to: the browser, which makes it smaller again, keeps its pixels square
CANVAS = 384  # pixels of the canvas that masks and strokes are painted on
CHANNELS = {"digits": 1, "digits-color": 3, "cifar10": 3}  # of the data sets that have examples
# Names for models of the whole set, whose headers have none.


# --- models ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """The checkpoints of one data set: ``models`` maps a method ("edm", "cd", ...) to a checkpoint's file.

    ``data`` is what they were trained on, such as "cifar10:automobile,horse,ship".
    """

    name: str
    shape: tuple[int, ...]
    class_names: tuple[str, ...] = ()
    data: str = ""
    models: dict[str, str] = field(default_factory=dict)

    @property
    def is_image(self) -> bool:
        return len(self.shape) == 3

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def origin(self) -> str:
        """The data set that ``data`` is all or a part of."""
        return split_name(self.data)[0]


def groups() -> dict[str, Group]:
    """The checkpoints, bundled or in runs/, by data set ("digits-color-cd" is method cd of digits-color).

    A run of the user's own takes the place of the bundled checkpoint of its name if it has the shape and the classes of that
    data set's models; else it is in a group "digits-color (runs)", and if it does not fit that either, in one that is named by
    its file. Images come first, of them those in colour, of them the largest.

    Without any for images, the exact denoiser of the digits takes their place, so no tab is empty.
    """
    bundled = [checkpoints.resolve(name) for name in checkpoints.pretrained_names()]
    found: dict[str, Group] = {}
    for path in [*bundled, *sorted(Path("runs").glob("*" + checkpoints.SUFFIX))]:
        data, _, method = path.stem.rpartition("-")
        if not data or method not in METHODS:
            continue
        try:
            meta = checkpoints.read_meta(path)
            shape, (class_names, trained_on) = tuple(meta["shape"]), _classes_and_data(meta, data)
        except (ValueError, KeyError, TypeError, AttributeError, OSError):
            continue  # a damaged file must not keep the others from being used
        for name in (data, data + OWN, path.stem + OWN):
            group = found.setdefault(name, Group(name, shape, class_names, trained_on))
            if (group.shape, group.class_names) == (shape, class_names):
                group.models[method] = str(path)
                break
    if not any(g.is_image for g in found.values()):
        found[EXACT] = Group(EXACT, (1, 8, 8), (), "digits", {"edm": EXACT, "cd": EXACT})
    for group in found.values():
        group.models.update({m: group.models.pop(m) for m in METHODS if m in group.models})  # in the order of the menus
    return dict(sorted(found.items(), key=lambda item: (not item[1].is_image, [-n for n in item[1].shape], item[0])))


def usual(group: Group, methods: Sequence[str]) -> str:
    """The first of ``methods`` that the group has a model for; where it has none, the first of all."""
    return next((m for m in methods if m in group.models), methods[0])


def _classes_and_data(meta: dict[str, Any], data: str) -> tuple[tuple[str, ...], str]:
    """Names of the classes that a header tells of, numbers where it has none, and the data set (else ``data``)."""
    about, classes = meta.get("about") or {}, int(meta["classes"])
    if classes > MAX_CLASSES:
        raise ValueError(f"{classes} classes")
    preset = PRESETS.get(about.get("preset", ""))
    data = str(about.get("data") or (preset.data_name if preset else data))
    return class_names_of(about, classes, data), data


@lru_cache(maxsize=1)
def _exact_digits() -> FiniteData:
    return FiniteData(load_images("digits").x0[:300])


def model_of(group: Group, method: str, device: torch.device | str = "cpu") -> Denoise:
    """The group's model for ``method``; raises ValueError where there is none."""
    if method not in group.models:
        have = ", ".join(METHODS[m] for m in group.models) or "none"
        name = METHODS.get(method, method)
        names = () if group.name.endswith(OWN) else (f"{group.name}-{method}", f"{group.data}-{method}")
        presets = [name for name in names if name in PRESETS]
        hint = f" Train it: cmlab train {presets[0]}" if presets else ""
        raise ValueError(f"{group.name} has no {name} checkpoint (found: {have}).{hint}")
    if group.name == EXACT:
        return _exact_digits() if method == "edm" else _exact_digits().consistency
    path = group.models[method]
    return _load(path, Path(path).stat().st_mtime_ns, str(device))


@lru_cache(maxsize=32)
def _load(path: str, changed: int, device: str) -> Denoise:
    model, _ = checkpoints.load(path, device)
    label = torch.zeros(1, dtype=torch.int64, device=device) if model.classes else None
    with torch.no_grad():  # the first evaluation pays for torch's own start: keep it out of the milliseconds that the app shows
        model(torch.zeros(1, *model.shape, device=device), torch.ones((), device=device), label)
    return model


def class_labels(group: Group, choice: str, count: int, device: torch.device | str = "cpu") -> Tensor | None:
    """(count,) labels: the class named ``choice``, or every class in turn for "all". None for a model without classes."""
    if group.classes == 0:
        return None
    if choice in group.class_names:
        return torch.full((count,), group.class_names.index(choice), device=device)
    if choice == "all":
        return torch.arange(count, device=device) % group.classes
    raise ValueError(f"Unknown class {choice!r} for {group.name}: choose 'all' or one of {', '.join(group.class_names)}.")


def levels_of(group: Group, method: str, sampler: str, steps: int) -> Tensor:
    """The noise levels that a model is sampled at: those that a search found for it, else the sampler's own."""
    if sampler not in SAMPLERS:
        raise ValueError(f"Unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}.")
    found = None
    if group.name != EXACT and method in group.models:
        found = checkpoints.searched_sigmas(checkpoints.read_meta(group.models[method]).get("about") or {}, sampler, steps)
    return default_sigmas(sampler, steps) if found is None else found


def trail(
    model: Denoise,
    shape: Sequence[int],
    seeds: Sequence[int],
    sampler: str,
    sigmas: Tensor,
    label: Tensor | None,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Step, float]]:
    """The sampler's steps from the noise of ``seeds``, each with the milliseconds that the sampler has taken so far."""
    draws, device = as_draws(list(seeds)), torch.device(device)
    x = draws.normal((len(seeds), *shape)).to(device, state_dtype(device)) * float(sigmas[0])
    yield from timed(SAMPLERS[sampler](model, x, sigmas, label, noise=draws if adds_noise(sampler, len(sigmas)) else None))


def timed(steps: Iterator[Step]) -> Iterator[tuple[Step, float]]:
    """``steps`` with the milliseconds spent inside them."""
    spent = 0.0
    while True:
        clock = time.perf_counter()
        step = next(steps, None)
        if step is None:
            return
        if step.x.is_cuda:
            torch.cuda.synchronize()
        spent += (time.perf_counter() - clock) * 1000
        yield step, spent


def sampler_of(method: str, steps: int) -> str:
    """Diffusion models are sampled by Heun's method, consistency models in one or more steps."""
    return {"edm": "heun", "pd": "progressive"}.get(method, "onestep" if steps == 1 else "multistep")


def steps_of(method: str, steps: int) -> int:
    """The steps that a student can take: one that was distilled progressively knows, at the end, a single one."""
    return 1 if method == "pd" else steps


# --- checked input ---------------------------------------------------------------------------------------------------------


def whole(name: str, value: Any, low: int, high: int) -> int:
    """``value`` as an int in [low, high]; raises ValueError for anything else, NaN and infinity included."""
    if not _is_number(value) or value != int(value) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {_short(value)}.")
    return int(value)


def real(name: str, value: Any, low: float, high: float) -> float:
    """``value`` as a float in [low, high]; raises ValueError for anything else, NaN and infinity included."""
    if not _is_number(value) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low} to {high}, got {_short(value)}.")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300  # False for NaN


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 40 else text[:37] + "..."


def seed_from(value: Any) -> int:
    """The seed to use: ``value``, or a fresh one where the box is empty."""
    return secrets.randbelow(2**31) if value is None else whole("The seed", value, -MAX_SEED, MAX_SEED)


# --- pictures --------------------------------------------------------------------------------------------------------------


def strip(x: Tensor, most: int = 11, size: int = 192) -> np.ndarray:
    """Pictures in as few rows as hold ``most`` each, evenly filled, each row about ``size`` pixels high."""
    rows = math.ceil(len(x) / most)
    return picture(x, math.ceil(len(x) / rows), size * rows)


def picture(x: Tensor, columns: int | None = None, size: int = PANEL) -> np.ndarray:
    """A batch of images, or a set of points (N, 2), as one picture uint8 (H, W, 3) about ``size`` pixels high."""
    from .. import plots

    if x.ndim == 2:
        return figure_pixels(plots.plot_points({"": x}, size=3.6))
    columns = columns or math.ceil(math.sqrt(len(x)))
    rows = math.ceil(len(x) / columns)
    return plots.image_grid(x, columns, scale=max(1, size // (rows * (x.shape[-2] + 1))))


def film(steps: Sequence[Step], most: int = 18) -> np.ndarray:
    """How samples came about. Images: the first one at up to ``most`` of the steps, above the noisy state after the step, below
    the estimate made at it. Points: their paths.
    """
    from .. import plots

    if steps[0].x.ndim == 2:
        path, sigmas = torch.stack([step.x[:24] for step in steps]), torch.tensor([step.sigma_next for step in steps])
        return figure_pixels(plots.plot_trajectories(path, sigmas))
    keep = sorted({round(k * (len(steps) - 1) / max(1, min(most, len(steps)) - 1)) for k in range(min(most, len(steps)))})
    return picture(torch.cat([steps[k].x[:1] for k in keep] + [steps[k].x0_hat[:1] for k in keep]), len(keep), 160)


def figure_pixels(figure) -> np.ndarray:
    """A matplotlib figure as uint8 (H, W, 3)."""
    from PIL import Image

    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))


def examples(group: Group) -> tuple[Tensor, list[str | None]]:
    """Pictures to edit, (N, C, H, W), and their classes: the bundled ones of the models' own data, for digits one of each class.

    Where there are none, others are borrowed: their blocks are averaged, or their pixels repeated, until they have the size.
    """
    own = CHANNELS.get(group.origin) == group.shape[0]
    borrowed = "digits" if group.shape[0] == 1 else "digits-color" if group.shape[1] < 16 else "cifar10"
    x0, names = _examples(group.origin if own else borrowed)
    if own and set(names) & set(group.class_names):
        keep = [k for k, name in enumerate(names) if name in group.class_names]
        x0, names = x0[keep], [names[k] for k in keep]
    known = [name if own and name in group.class_names else None for name in names]
    return torch.nn.functional.adaptive_avg_pool2d(x0, (group.shape[1], group.shape[2])), known


@lru_cache(maxsize=4)
def _examples(name: str) -> tuple[Tensor, list[str]]:
    data = load_images("cifar10-examples" if name == "cifar10" else name)
    assert data.label is not None
    first = torch.tensor([int((data.label == k).nonzero()[0]) for k in range(data.classes)])
    index = torch.arange(len(data)) if name == "cifar10" else first
    return data.take(index), [data.class_names[k] for k in data.label[index]]


@torch.no_grad()
def likeliest_class(group: Group, model: Denoise, y: Tensor) -> tuple[str, str]:
    """The likeliest class of a picture y (1, C, H, W), and who says so: a classifier of the data if one ships, else the model."""
    name = classifier_for(group.data)
    loaded = None if name is None else load_classifier(resolve_classifier(name))
    numbers = None if loaded is None else loaded.numbers(group.class_names)
    if loaded is not None and numbers is not None and tuple(y.shape[2:]) == loaded.model.shape[1:]:
        logits = loaded.model(fit_channels(to_pixels(y.cpu()), loaded.model.shape))[1][0]
        p = logits[numbers].softmax(0)
        return group.class_names[int(p.argmax())], f"a classifier is {float(p.max()):.0%} sure"
    return group.class_names[int(likeliest_label(model, y, group.classes))], "the model restores it best as that"


# --- edits -----------------------------------------------------------------------------------------------------------------


def make_edit(
    task: str, y: Tensor, *, mask: str, painted: dict | None, patch: int, noise_level: float, steps: int, seed: int
) -> tuple[Edit, Tensor]:
    """The edit and the degraded picture (1, C, H, W) that it starts from."""
    if task == "inpaint":
        shape = tuple(y.shape[1:])
        edit = EDITS[task](y, painted_mask(painted, shape) if mask == PAINTED else preset_mask(mask, shape, seed), steps)
    elif task == "colorize":
        edit = EDITS[task](y, steps)
    elif task == "super_resolve":
        edit = EDITS[task](y, patch, steps)
    elif task == "stroke":
        # Nothing painted: the picture in coarse blocks stands for a rough painting.
        guide = painted_over(painted, y.shape[1:])
        guide = EDITS["super_resolve"](y, patch).kept if guide is None else guide
        edit = EDITS[task](guide, noise_level)
    elif task == "denoise":
        edit = EDITS[task](y + initial_noise(y.shape[1:], seeds_from(seed, 1), noise_level).float(), noise_level)
    else:
        raise ValueError(f"Unknown task {task!r}: choose one of {', '.join(EDITS)}.")
    return edit, edit.degraded


def make_interpolation(
    group: Group,
    method: str,
    ends: tuple[int | Tensor, int | Tensor],
    frames: int,
    label: Tensor | None,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Step, float]:
    """Noises along the great circle between two ends through one model: samples (frames, C, H, W), the last step, milliseconds.

    An end is a seed, or a picture (1, C, H, W): then its noise is the one that the diffusion model's PF-ODE leads to from it.
    """
    model = model_of(group, method, device)
    one = None if label is None else label[:1]

    def noise_of(end: int | Tensor) -> Tensor:
        if isinstance(end, int):
            return initial_noise(group.shape, [end], device=device)
        return encode(model_of(group, "edm", device), end.to(device), one, rtol=1e-3, atol=1e-3)

    a, b = (noise_of(end).expand(frames, *group.shape) for end in ends)
    steps = 18 if method == "edm" else 1
    sampler = sampler_of(method, steps)
    noise = slerp(a, b, torch.linspace(0, 1, frames, device=device))
    *_, (step, ms) = timed(SAMPLERS[sampler](model, noise, default_sigmas(sampler, steps), label))
    return step.x, step, ms
