"""Experiments as typed, frozen dataclasses: ``cmlab train NAME --field value`` changes any of their fields."""

from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from ..base.presets import IMAGES, OWN, small_presets
from ..base.registry import DATASETS, PUBLISHED
from ..base.rng import global_seed
from ..base.suggest import unknown
from ..base.text import count
from ..data import Data, MixtureData, load_data
from ..data.names import class_names_of
from ..denoiser import Denoise, Denoiser
from ..formats import checkpoints
from ..losses import LOSSES, Loss, cd, ict
from ..methods.continuous import attach_uncertainty
from ..networks import MLPConfig, NetworkConfig, UNetConfig, build_network
from .experiment import Preset
from .fit import TrainState, fit

__all__ = ["ABOUT", "PRESETS", "Preset", "build_model", "find", "get_preset", "load_teacher", "run", "training_data"]


def training_data(preset: Preset) -> Data:
    """The preset's data set, as it is trained on; raises what `load_data` raises, with the way out for one that is absent."""
    data = load_data(preset.data, flip=preset.flip, resolution=preset.resolution or None, channels=preset.channels)
    if not isinstance(data, MixtureData) and len(data) < 2:
        held = count(len(data), "picture")
        raise ValueError(f"the data set {preset.data} holds {held}: to train takes at least 2, and hundreds to learn from")
    return data if preset.labels or isinstance(data, MixtureData) else replace(data, label=None, class_names=())


def suited(preset: Preset, data: Data) -> Preset:
    """The preset for ``data``: where these have no classes no label is dropped, and there is nothing to guide to."""
    return replace(preset, label_dropout=0.0, guidance=1.0) if preset.label_dropout > 0 and not data.classes else preset


def build_model(preset: Preset) -> Denoiser:
    """A new model as the preset describes it, initialised from ``preset.init`` or from ``preset.seed``."""
    data = training_data(preset)
    preset = suited(preset, data)
    with global_seed(preset.seed):
        net = build_network(preset.network, data.shape, data.classes)
    drops = preset.label_dropout > 0
    model = Denoiser(net, preset.loss.precond, data.shape, data.classes, drops, preset.guidance)  # refuses what cannot be guided
    model.guidance = 1.0  # it learns without; what is made of it is guided
    if preset.loss.needs_uncertainty:
        attach_uncertainty(model)
    if preset.init:
        path = find(preset.init)
        _check_data(path, preset)
        checkpoints.load_weights(model, path)
    return model


def data_of(meta: dict[str, Any], name: str | None = None) -> tuple[Data, str]:
    """The data set ``name``, or the one that a checkpoint's header says it was trained on; ValueError where it does not say."""
    name = name or trained_on(meta)
    if name is None:
        raise ValueError("the checkpoint does not say what it was trained on: pass --data NAME")
    return load_data(name), name


def trained_on(meta: dict[str, Any]) -> str | None:
    """The name of the data that a checkpoint's header names, itself or by its preset; None where it does not."""
    about = meta.get("about") or {}
    made_by = PRESETS.get(about.get("preset", ""))
    return about.get("data") or (made_by.data_name if made_by else None)


def class_names(meta: dict[str, Any]) -> tuple[str, ...]:
    """Names of the classes of the checkpoint with the header ``meta``; numbers where nothing tells them."""
    return class_names_of(meta.get("about") or {}, int(meta["classes"]), trained_on(meta) or "")


def _check_data(path: Path, preset: Preset) -> None:
    """Refuse a checkpoint that says it was trained on other data."""
    data, own = trained_on(checkpoints.read_meta(path)), preset.data_name
    if data not in (None, own):
        raise ValueError(f"{path} was trained on {data}, not on {own}: name an --init and a --teacher of the same data")


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
    if teacher.traits.consistency:
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

    ``model``, ``teacher`` and ``data`` are what `build_model`, `load_teacher` and `training_data` made of it, if they were called.
    """
    teacher = teacher or load_teacher(preset)
    if isinstance(teacher, Denoiser):
        teacher.to(device)
    model, data = model or build_model(preset), data or training_data(preset)
    preset = suited(preset, data)
    yield from fit(model, data, preset.loss, preset, teacher=teacher, every=every, device=device, **options)


# Uniform pairs: iCT's lognormal density hardly visits the large noise levels, and a small network then learns the first jump of
# one-step generation badly (measured on points: benchmarks/README.md).
_SMALL_ICT = ict(10, 160, "uniform")
# Of digits: steps, where they are not 8000, and the loss, where it is not the default one.
_DIGITS: dict[str, tuple[int, Loss | None]] = {
    "cd": (3000, cd(40)),
    "ict": (4000, _SMALL_ICT),
    "ect": (4000, None),
    "pd": (6000, None),
}


def _preset(data: str, method: str, loss: Loss, network: NetworkConfig, **options: Any) -> Preset:
    """A preset of a small data set: where it starts and what it distils is in the loss's record."""
    record = LOSSES.record(method)
    start, options = record.facts.get("start"), options | {k: v for k, v in record.facts.items() if k == "ema"}
    teacher = f"{data}-edm" if record.kind == "distilled" else ""
    return Preset(data, loss, network, init=f"{data}-{start}" if start else "", teacher=teacher, **options)


def _toy(data: str, method: str) -> Preset:
    facts = LOSSES.record(method).facts
    loss, network = _SMALL_ICT if method == "ict" else LOSSES[method](), MLPConfig(time_scale=facts.get("time_scale", 0.5))
    return _preset(data, method, loss, network, lr=facts.get("lr", 1e-3))


def _digits(data: str, method: str) -> Preset:
    (steps, loss), lr = _DIGITS.get(method, (8000, None)), 2e-3 if LOSSES.record(method).kind == "diffusion" else 1e-3
    network = UNetConfig(channels=24, mult=(1, 1), emb=64)
    return _preset(data, method, loss or LOSSES[method](), network, steps=steps, batch=128, lr=lr)


@lru_cache
def _presets(losses: tuple[str, ...], toys: tuple[str, ...]) -> dict[str, Preset]:
    return {
        **{
            name: _digits(data, method) if data in IMAGES else _toy(data, method)
            for name, (data, method) in small_presets(map(LOSSES.record, losses), map(DATASETS.record, toys)).items()
        },
        # More levels, a larger c: better there in one step and in two, on the ring in two alone, elsewhere not tried (as above).
        "two-moons-ict": replace(_toy("two-moons", "ict"), loss=ict(10, 1280, "uniform", 0.01), lr=1e-3),
        **PUBLISHED,
    }


class _Presets(MutableMapping[str, Preset]):
    """All presets by name: one's own, and those of every loss and 2D set that is registered, a moment ago too."""

    def _all(self) -> dict[str, Preset]:
        return {**_presets(tuple(LOSSES), DATASETS.of_kind("toy")), **OWN}

    def __getitem__(self, name: str) -> Preset:
        return self._all()[name]

    def __setitem__(self, name: str, preset: Preset) -> None:
        OWN[name] = preset

    def __delitem__(self, name: str) -> None:
        del OWN[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


PRESETS = _Presets()
# Where the numbers of a preset come from, what it costs and what to expect of it.
ABOUT = {record.name: record.help for record in PUBLISHED.records()}


def get_preset(name: str) -> Preset:
    """The preset ``name``; raises ValueError with the nearest name for an unknown one."""
    if name not in PRESETS:
        raise ValueError(unknown("preset", name, PRESETS))
    return PRESETS[name]
