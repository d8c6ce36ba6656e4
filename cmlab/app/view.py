"""What the app shows and reads, without gradio: groups of checkpoints, pictures in and out, painted masks, checked numbers.

Every refusal is a ValueError whose text can be shown to the user as it stands.
"""

import inspect
import io
import math
import re
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..base.registry import DATASETS, EDITS, LOSSES, SAMPLERS, Record
from ..data import load_images
from ..data.names import class_names_of, split_name
from ..data.pictures import MAX_CLASSES
from ..data.pixels import as_files
from ..denoiser import Denoise, classes_in_turn, traits_of
from ..editing import Edit, edit_of, preset_mask, slerp
from ..evaluation.classifier import classifier_for, fit_channels, load_classifier, resolve_classifier, to_pixels
from ..formats import checkpoints
from ..losses import Loss
from ..methods.classify import likeliest_label
from ..methods.likelihood import encode
from ..noise import as_draws, state_dtype
from ..oracle import FiniteData
from ..samplers import Plan, Step, adds_noise, initial_noise, plan, round_level
from ..training.config import Precision
from ..training.presets import PRESETS
from ..training.trainer import compute_in
from .paint import painted_mask, painted_over

PRECISION: Precision = "float32"  # server.serve sets it
EXACT = "digits, exact"
OWN = " (runs)"  # ends the name of a group of the user's own models that differ from the bundled ones
PAINTED = "painted"
FIRST = "mnist"  # the group that the app opens on
DRAWN = "drawn"
MAX_NUMBERS = 3 * 256 * 256  # of a sample: a page that answers at once is not for larger models
MAX_SEED = 2**53 - 1  # of either sign: what a browser's numbers hold exactly
PANEL = 768  # pixels that a small picture is enlarged to: the browser, which makes it smaller again, keeps its pixels square
CANVAS = 384  # pixels of the canvas that masks and strokes are painted on


# --- methods: the entries of LOSSES, which also end the names of checkpoints ----------------------------------------------

# What is shown where nobody has chosen: the first of these that the data set has a model of, then any other.
PREFERRED = ("cd", "ccd", "scd", "ect", "ict", "ct", "cct", "sct", "edm", "pd")


def label_of(method: str) -> str:
    """How the page calls a method."""
    return LOSSES.record(method).label if method in LOSSES else method


def loss_of(method: str) -> Loss:
    """The loss that a method trains with, as it is when nothing is changed."""
    return LOSSES.record(method).value()


def is_consistency(method: str) -> bool:
    """Whether models of the method map noise to data in one step."""
    return loss_of(method).precond.consistency


def usual_plan(method: str) -> Plan:
    """How models of the method are sampled where nobody says, as far as that can be told before one is loaded."""
    loss = loss_of(method)
    return plan(cast(Denoise, loss), about=loss.sampled())  # a loss carries the scalings of its models, all that plan asks for


def students(distilled: bool) -> list[str]:
    """The methods that make students of a diffusion model, or else those whose models learn to jump from data alone."""
    known = LOSSES.of_kind("distilled" if distilled else "data")
    return sorted(known, key=lambda m: PREFERRED.index(m) if m in PREFERRED else len(PREFERRED))


def usual(group: "Group", methods: Sequence[str] = ()) -> str:
    """The first of ``methods`` (or of the preferred ones, then of all) that the group has a model of; if of none, the first."""
    methods = methods or (*PREFERRED, *group.models)
    return next((m for m in methods if m in group.models), methods[0])


def diffusion_samplers() -> list[Record]:
    """The samplers of diffusion models: all but those of students, which have no choice."""
    return [record for record in SAMPLERS.records() if record.kind not in ("consistency", "distilled")]


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
    its file. Images come first, of them MNIST's, which everybody reads at a glance, then those in colour, of them the largest.

    Without any for images, the exact denoiser of the digits takes their place, so no tab is empty.
    """
    bundled = [checkpoints.resolve(name) for name in checkpoints.pretrained_names()]
    found: dict[str, Group] = {}
    named = [path for path in [*bundled, *checkpoints.own_checkpoints()] if path.stem.rpartition("-")[2] in LOSSES]
    for path, meta in checkpoints.usable(named):  # a damaged file must not keep the others from being used
        data, _, method = path.stem.rpartition("-")
        if not data or meta["classes"] > MAX_CLASSES or math.prod(meta["shape"]) > MAX_NUMBERS:
            continue
        shape, (class_names, trained_on) = tuple(meta["shape"]), _classes_and_data(meta, data)
        for name in (data, data + OWN, path.stem + OWN):
            group = found.setdefault(name, Group(name, shape, class_names, trained_on))
            if (group.shape, group.class_names) == (shape, class_names):
                group.models[method] = str(path)
                break
    if not any(g.is_image for g in found.values()):
        found[EXACT] = Group(EXACT, (1, 8, 8), (), "digits", {"edm": EXACT, "cd": EXACT})
    for group in found.values():
        group.models.update({m: group.models.pop(m) for m in LOSSES if m in group.models})  # in the order of the menus
    return dict(
        sorted(found.items(), key=lambda item: (not item[1].is_image, item[0] != FIRST, [-n for n in item[1].shape], item[0]))
    )


def _classes_and_data(meta: dict[str, Any], data: str) -> tuple[tuple[str, ...], str]:
    """Names of the classes that a header tells of, numbers where it has none, and the data set (else ``data``)."""
    about, classes = meta.get("about") or {}, meta["classes"]
    preset = PRESETS.get(about.get("preset", ""))
    data = str(about.get("data") or (preset.data_name if preset else data))
    return class_names_of(about, classes, data), data


@lru_cache(maxsize=1)
def _exact_digits() -> FiniteData:
    return FiniteData(load_images("digits").x0[:300])


def model_of(group: Group, method: str, device: torch.device | str = "cpu", precision: Precision | None = None) -> Denoise:
    """The group's model for ``method``, in the precision of the app; raises ValueError where there is none."""
    if method not in group.models:
        have = ", ".join(map(label_of, group.models)) or "none"
        names = () if group.name.endswith(OWN) else (f"{group.name}-{method}", f"{group.data}-{method}")
        preset = next((name for name in names if name in PRESETS), None)
        hint = f" Train it: cmlab train {preset}" if preset else ""
        raise ValueError(f"{group.name} has no {label_of(method)} checkpoint (found: {have}).{hint}")
    if group.name == EXACT:
        return _exact_digits() if method == "edm" else _exact_digits().consistency
    path = group.models[method]
    return _load(path, Path(path).stat().st_mtime_ns, str(device), precision or PRECISION)


@lru_cache(maxsize=32)
def _load(path: str, changed: int, device: str, precision: Precision) -> Denoise:
    model = compute_in(checkpoints.load(path, device)[0], precision)
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
        return classes_in_turn(group.classes, count, device=device)
    raise ValueError(f"Unknown class {choice!r} for {group.name}: choose 'all' or one of {', '.join(group.class_names)}.")


def plan_of(
    group: Group, method: str, sampler: str | None = None, steps: int | None = None, device: torch.device | str = "cpu"
) -> Plan:
    """How the group's model is sampled, see `samplers.plan`. Students that know a single number of steps take no other."""
    if sampler is not None and sampler not in SAMPLERS:
        raise ValueError(f"Unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}.")
    model, own = model_of(group, method, device), loss_of(method).sampled()
    about = {} if group.name == EXACT else checkpoints.read_meta(group.models[method]).get("about") or {}
    return plan(model, sampler, None if own else steps, about={**own, **about})


def trail(
    model: Denoise, shape: Sequence[int], seeds: Sequence[int], sampler: str, sigmas: Tensor, label: Tensor | None,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Step, float]]:  # fmt: skip
    """The sampler's steps from the noise of ``seeds``, each with the milliseconds that the sampler has taken so far."""
    draws, device = as_draws(list(seeds)), torch.device(device)
    x = draws.normal((len(seeds), *shape)).to(device, state_dtype(device)) * float(round_level(model, sigmas[:1])[0])
    yield from timed(model, SAMPLERS[sampler](model, x, sigmas, label, noise=draws if adds_noise(sampler, len(sigmas)) else None))


def timed(model: Denoise, steps: Iterator[Step]) -> Iterator[tuple[Step, float]]:
    """``steps`` with the milliseconds spent inside them; their ``nfe`` counts how often the network was asked, not the model."""
    spent = 0.0
    while True:
        clock = time.perf_counter()
        step = next(steps, None)
        if step is None:
            return
        if step.x.is_cuda:
            torch.cuda.synchronize()
        spent += (time.perf_counter() - clock) * 1000
        yield step._replace(nfe=step.nfe * traits_of(model).evaluations), spent


# --- checked input ---------------------------------------------------------------------------------------------------------


def whole(name: str, value: Any, low: int, high: int) -> int:
    """``value`` as an int in [low, high]; raises ValueError for anything else, NaN and infinity included."""
    if not _is_number(value) or value != int(value) or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {short(value)}.")
    return int(value)


def real(name: str, value: Any, low: float, high: float) -> float:
    """``value`` as a float in [low, high]; raises ValueError for anything else, NaN and infinity included."""
    if not _is_number(value) or not low <= value <= high:
        raise ValueError(f"{name} must be a number from {low} to {high}, got {short(value)}.")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e300  # False for NaN


def short(value: Any) -> str:
    """A value as a message quotes it."""
    text = repr(value)
    return text if len(text) < 40 else text[:37] + "..."


def seed_from(value: Any) -> int:
    """The seed to use: ``value``, or a fresh one where the box is empty."""
    return secrets.randbelow(2**31) if value is None else whole("The seed", value, -MAX_SEED, MAX_SEED)


# --- pictures --------------------------------------------------------------------------------------------------------------


def strip(x: Tensor, most: int = 11, size: int = 192) -> tuple[np.ndarray, int]:
    """Pictures in as few rows as hold ``most`` each, evenly filled, a row about ``size`` pixels high; and how many are in a row."""
    rows = math.ceil(len(x) / most)
    columns = math.ceil(len(x) / rows)
    return picture(x, columns, size * rows), columns


def picture(x: Tensor, columns: int | None = None, size: int = PANEL) -> np.ndarray:
    """A batch of images, or a set of points (N, 2), as one picture uint8 (H, W, 3) about ``size`` pixels high."""
    from .. import plots

    if x.ndim == 2:
        return drawn(plots.plot_points, {"": x}, size=3.6)
    columns = columns or math.ceil(math.sqrt(len(x)))
    rows = math.ceil(len(x) / columns)
    return plots.image_grid(x, columns, scale=max(1, size // (rows * (x.shape[-2] + 1))))


def plain(name: str) -> str:
    """A name, or a message that quotes one, for a caption: Markdown shows it as it is. In a checkpoint's header stands anything."""
    return re.sub(r"([\\`*_\[\]<>&!|~$]|:(?=/)|^[#>+-]|(?<=www)\.)", r"\\\1", " ".join(name.split())[:300])


def clock(ms: float) -> str:
    """Milliseconds for a caption, as seconds where they are many; the unit stays beside its number."""
    return f"{ms / 1000:.1f}\N{NO-BREAK SPACE}s" if ms >= 1000 else f"{ms:.0f}\N{NO-BREAK SPACE}ms"


_PAINTER = ThreadPoolExecutor(1, "painter")


def drawn(plot: Callable[..., Any], *args: Any, **kwargs: Any) -> np.ndarray:
    """The figure that ``plot`` makes of the rest, as uint8 (H, W, 3). One thread draws all: matplotlib opens its fonts for each."""
    return _PAINTER.submit(lambda: figure_pixels(plot(*args, **kwargs))).result()


def figure_pixels(figure) -> np.ndarray:
    """A matplotlib figure as uint8 (H, W, 3)."""
    from PIL import Image

    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file).convert("RGB"))


def examples(group: Group) -> tuple[Tensor, list[str | None]]:
    """Pictures to edit, (N, C, H, W), and the class of each where the models know it: from the data set that they were trained on.

    Where that has no pictures at hand, those of another set are borrowed and brought to the size of the models' pictures.
    """
    known: list[str | None] = []
    for name in (f"{group.origin}-examples", group.origin):
        x0, names = _examples(name)
        if len(x0) and x0.shape[1] == group.shape[0]:
            known = [name if name in group.class_names else None for name in names]
            keep = [k for k, name in enumerate(known) if name is not None] or list(range(len(x0)))
            x0, known = x0[keep], [known[k] for k in keep]
            break
    else:
        small = group.shape[1] < 16
        grey, colours = ("digits", "digits-color") if small else ("mnist-examples", "cifar10-examples")
        x0, names = _examples(grey if group.shape[0] == 1 else colours)
        known += [None] * len(names)
    x0 = torch.nn.functional.adaptive_avg_pool2d(x0, (group.shape[1], group.shape[2]))
    return as_files(x0), known


@lru_cache(maxsize=16)
def _examples(name: str) -> tuple[Tensor, list[str]]:
    """Pictures of a data set, and their classes: all of a set of examples, else the first of each class; none where none ship."""
    if name not in DATASETS.of_kind("images"):
        return torch.empty(0), []
    data = load_images(name)
    if data.label is None:
        few = data.take(torch.arange(min(12, len(data))))
        return few, [""] * len(few)
    index = torch.arange(len(data))
    if not name.endswith("-examples"):
        index = torch.tensor([int((data.label == k).nonzero()[0]) for k in data.label.unique()])
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


def options_of(task: str) -> list[str]:
    """The options that an edit takes: of those called free, steps, patch and sigma the page has controls."""
    return [parameter.name for parameter in _parameters(task)]


def _parameters(task: str) -> list[inspect.Parameter]:
    return list(inspect.signature(EDITS.record(task).value).parameters.values())[1:]


def make_edit(
    task: str, y: Tensor, *, mask: str, painted: dict | None, patch: int, noise_level: float | None, steps: int, seed: int,
    count: int = 1,
) -> tuple[Edit, Tensor, dict[str, Any]]:  # fmt: skip
    """The edit of y (1, C, H, W), called with those of the page's options that it takes; no ``noise_level`` is the edit's own.

    With it the picture that it starts from and those options. Of several results each is a single draw: they are to differ.
    """
    shape, takes = y.shape[1:], options_of(task)
    options: dict[str, Any] = {"steps": steps, "patch": patch, "sigma": noise_level, "draws": 1 if count > 1 else None}
    if "free" in takes:
        options["free"] = painted_mask(painted, shape) if mask == PAINTED else preset_mask(mask, shape, seed)
    if task == "stroke":
        # Nothing painted: the picture in coarse blocks stands for a rough painting.
        guide = painted_over(painted, shape)
        y = as_files(EDITS["super_resolve"](y, patch).kept if guide is None else guide)
    options = {name: value for name, value in options.items() if name in takes and value is not None}
    needs = [p.name for p in _parameters(task) if p.default is p.empty and p.name not in options]
    if needs:
        raise ValueError(f"{task} needs a value for {' and '.join(needs)}, which was left out or has no control here.")
    return edit_of(task, y.expand(count, *shape), torch.Generator().manual_seed(seed), **options), y, options


def own_level(task: str, shape: Sequence[int]) -> float | None:
    """The noise level of an edit of pictures of ``shape`` where nobody says, None where it takes none."""
    own = "sigma" in options_of(task) and all(p.default is not p.empty for p in _parameters(task))
    return EDITS[task](torch.zeros(1, *shape)).sigmas[0] if own else None


def make_interpolation(
    group: Group, method: str, ends: tuple[int | Tensor, int | Tensor], frames: int, label: Tensor | None,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Step, float]]:  # fmt: skip
    """Noises along the great circle between two ends through one model: `timed` steps of (frames, C, H, W).

    An end is a seed, or a picture (1, C, H, W): then its noise is the one that the diffusion model's PF-ODE leads to from it.
    """
    model = model_of(group, method, device)
    one = None if label is None else label[:1]

    def noise_of(end: int | Tensor) -> Tensor:
        if isinstance(end, int):
            return initial_noise(group.shape, [end], device=device)
        # In float32: to a solver that chooses its steps, the rounding of 16 bits looks like a rough ODE.
        return encode(model_of(group, "edm", device, "float32"), end.to(device), one, rtol=1e-3, atol=1e-3)

    a, b = (noise_of(end).expand(frames, *group.shape) for end in ends)
    chosen = plan_of(group, method, device=device)
    noise = slerp(a, b, torch.linspace(0, 1, frames, device=device))
    draws = [0] * frames if adds_noise(chosen.sampler, len(chosen.sigmas)) else None  # what is drawn on the way is the same for all
    yield from timed(model, SAMPLERS[chosen.sampler](model, noise, chosen.sigmas, label, noise=draws))
