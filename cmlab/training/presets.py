"""Experiments as typed, frozen dataclasses: ``cmlab train NAME --field value`` changes any of their fields."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..base.suggest import unknown
from ..data import TOYS, Data, MixtureData, load_data
from ..denoiser import Denoise, Denoiser
from ..formats import checkpoints
from ..losses import LOSSES, cd, ict
from ..methods.continuous import attach_uncertainty
from ..networks import MLPConfig, UNetConfig, build_network
from ..noise import global_seed
from .experiment import Preset
from .fit import TrainState, fit
from .published import PUBLISHED

__all__ = ["ABOUT", "PRESETS", "Preset", "build_model", "find", "get_preset", "load_teacher", "run", "training_data"]


def training_data(preset: Preset) -> Data:
    """The preset's data set, as it is trained on; raises what `load_data` raises, with the way out for one that is absent."""
    data = load_data(preset.data, flip=preset.flip, resolution=preset.resolution or None)
    if not isinstance(data, MixtureData) and len(data) < 2:
        count = f"{len(data)} picture{'s' * (len(data) != 1)}"
        raise ValueError(f"the data set {preset.data} holds {count}: to train takes at least 2, and hundreds to learn from")
    return data if preset.labels or isinstance(data, MixtureData) else replace(data, label=None, class_names=())


def build_model(preset: Preset) -> Denoiser:
    """A new model as the preset describes it, initialised from ``preset.init`` or from ``preset.seed``."""
    data = training_data(preset)
    with global_seed(preset.seed):
        net = build_network(preset.network, data.shape, data.classes)
    if preset.label_dropout > 0 and not data.classes:
        raise ValueError(f"the data set {preset.data!r} has no labels to drop: leave label_dropout at 0")
    model = Denoiser(net, preset.loss.precond, data.shape, data.classes, drops_labels=preset.label_dropout > 0)
    if preset.loss.needs_uncertainty:
        attach_uncertainty(model)
    if preset.init:
        path = find(preset.init)
        _check_data(path, preset)
        checkpoints.load_weights(model, path)
    return model


def data_of(meta: dict[str, Any], name: str | None = None) -> tuple[Data, str]:
    """The data set ``name``, or the one that the checkpoint with the header ``meta`` says it was trained on.

    Raises ValueError where it does not say.
    """
    name = name or _trained_on(meta)
    if name is None:
        raise ValueError("the checkpoint does not say what it was trained on: pass --data NAME")
    return load_data(name), name


def _trained_on(meta: dict[str, Any]) -> str | None:
    about = meta.get("about") or {}
    made_by = PRESETS.get(about.get("preset", ""))
    return about.get("data") or (made_by.data_name if made_by else None)


def _check_data(path: Path, preset: Preset) -> None:
    """Refuse a checkpoint that says it was trained on other data."""
    data = _trained_on(checkpoints.read_meta(path)) or preset.data_name
    if data != preset.data_name:
        others = "name an --init and a --teacher of the same data"
        raise ValueError(f"{path} was trained on {data}, not on {preset.data_name}: {others}")


def find(name: str) -> Path:
    """`checkpoints.find`, which for a preset's name says how to train it."""
    return checkpoints.find(name, PRESETS)


def load_teacher(preset: Preset) -> Denoise | None:
    """The teacher that the preset names, frozen and in eval mode, or None."""
    if not preset.teacher:
        return None
    if preset.teacher == "oracle":
        oracle = getattr(load_data(preset.data), "oracle", None)
        if oracle is None:
            raise ValueError(f"the data set {preset.data!r} has no exact score: name a trained teacher instead of 'oracle'")
        return oracle
    path = find(preset.teacher)
    _check_data(path, preset)
    teacher = checkpoints.load(path)[0].requires_grad_(False)
    if teacher.precond.consistency:
        raise ValueError(f"{path} is a consistency model: a teacher must be a diffusion model, such as {preset.data}-edm")
    return teacher


def run(
    preset: Preset,
    every: int | Callable[[int], bool] = 100,
    device: torch.device | str = "cpu",
    *,
    model: Denoiser | None = None,
    teacher: Denoise | None = None,
    data: Data | None = None,
    **options: Any,
) -> Iterator[TrainState]:
    """Train the preset: a generator of TrainState (see `fit`, which takes the other ``options``).

    ``model``, ``teacher`` and ``data`` are what `build_model`, `load_teacher` and `training_data` made of it, where they have been
    called.
    """
    teacher = teacher or load_teacher(preset)
    if isinstance(teacher, Denoiser):
        teacher.to(device)
    model, data = model or build_model(preset), data or training_data(preset)
    yield from fit(model, data, preset.loss, preset, teacher=teacher, every=every, device=device, **options)


# Uniform pairs: iCT's lognormal density hardly visits the large noise levels, and a small network then learns the first jump of
# one-step generation badly (measured on points: benchmarks/README.md).
_SMALL_ICT = ict(10, 160, "uniform")


DIFFUSION = ("edm", "vp", "ve", "iddpm", "trigflow")
STUDENTS = ("pd", "cd", "ct", "ict", "ect", "ccd", "cct", "scd", "sct")
METHODS = (*DIFFUSION, *STUDENTS)
IMAGE_METHODS = ("edm", "pd", "cd", "ct", "ict", "ect")
_FROM_EDM, _DISTILLED = ("pd", "cd", "ict", "ect", "ccd", "cct"), ("pd", "cd", "ccd", "scd")
# Of the 2D networks. VP and iDDPM count noise levels to 999, VE is told ln(sigma/2), TrigFlow and sCM an angle below pi/2.
_TIME_SCALE = {"vp": 0.002, "iddpm": 0.002, "ve": 0.125, "trigflow": 2.0, "scd": 2.0, "sct": 2.0}
_TOY_LR = {"edm": 2e-3, "vp": 2e-3, "ve": 2e-3, "iddpm": 2e-3, "trigflow": 2e-3, "pd": 2e-3, "ect": 2e-3, "ict": 2e-3}


def _student(data: str, method: str) -> tuple[str, str]:
    """Initial weights and teacher: most students start from the diffusion model, the paper's CT and sCM from nothing."""
    edm = f"{data}-edm"
    return edm if method in _FROM_EDM else "", edm if method in _DISTILLED else ""


def _toy(data: str, method: str) -> Preset:
    loss = _SMALL_ICT if method == "ict" else LOSSES[method]()
    init, teacher = _student(data, method)
    network = MLPConfig(time_scale=_TIME_SCALE.get(method, 0.5))
    ema = 0.99 if method == "pd" else 0.999  # an average over more steps than a stage has would remember the stage before
    return Preset(data, loss, network, lr=_TOY_LR.get(method, 1e-3), ema=ema, init=init, teacher=teacher)


def _digits(data: str, method: str) -> Preset:
    loss = cd(40) if method == "cd" else _SMALL_ICT if method == "ict" else LOSSES[method]()
    steps, lr = {"cd": (3000, 1e-3), "ict": (4000, 1e-3), "ect": (4000, 1e-3), "ct": (8000, 1e-3), "pd": (6000, 1e-3)}.get(
        method, (8000, 2e-3)
    )
    network = UNetConfig(channels=24, mult=(1, 1), emb=64)
    init, teacher = _student(data, method)
    return Preset(data, loss, network, steps, batch=128, lr=lr, ema=0.99 if method == "pd" else 0.999, init=init, teacher=teacher)


PRESETS: dict[str, Preset] = {
    **{f"{data}-{method}": _toy(data, method) for data in TOYS for method in METHODS},
    # More levels, a larger c: better there in one step and in two, on the ring in two alone, elsewhere not tried (as above).
    "two-moons-ict": replace(_toy("two-moons", "ict"), loss=ict(10, 1280, "uniform", 0.01), lr=1e-3),
    **{f"{data}-{method}": _digits(data, method) for data in ("digits", "digits-color") for method in IMAGE_METHODS},
    **{name: preset for name, (preset, _) in PUBLISHED.items()},
}
# Where the numbers of a preset come from, what it costs and what to expect of it.
ABOUT = {name: about for name, (_, about) in PUBLISHED.items()}


def get_preset(name: str) -> Preset:
    """The preset ``name``; raises ValueError with the nearest name for an unknown one."""
    if name not in PRESETS:
        raise ValueError(unknown("preset", name, PRESETS))
    return PRESETS[name]
