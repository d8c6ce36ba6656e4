"""Experiments as typed, frozen dataclasses: ``cmlab train NAME --field value`` changes any of their fields."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from . import checkpoints
from .data import TOYS, load_data, unknown
from .denoiser import Denoise, Denoiser, Precond
from .distances import Distance
from .losses import LOSSES, ConsistencyLoss, EDMLoss, cd
from .networks import MLPConfig, UNetConfig, build_network
from .noise import SIGMA_MIN, global_seed
from .schedules import DoublingN, GridPairs
from .training import TrainState, fit


@dataclass(frozen=True)
class Preset:
    """One training run.

    Args:
        data: name of a data set.
        loss: the objective.
        network: the network's size.
        steps: optimizer steps.
        batch: samples per step.
        lr: learning rate of RAdam.
        lr_schedule: "cosine" falls to 0 at the last step.
        ema: decay of the averaged weights, per step.
        init: checkpoint (bundled name or path) to start the weights from; "" for random weights.
        teacher: checkpoint of the diffusion model to distil; "oracle" takes the exact score of a 2D set; "" for losses without.
        accumulate: parts that a batch is split in, to save memory.
        seed: fixes the initial weights and every draw.
        half: store the weights in half precision.
    """

    data: str
    loss: EDMLoss | ConsistencyLoss
    network: MLPConfig | UNetConfig
    steps: int = 5000
    batch: int = 512
    lr: float = 1e-3
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    ema: float = 0.999
    init: str = ""
    teacher: str = ""
    accumulate: int = 1
    seed: int = 0
    half: bool = True

    @property
    def consistency(self) -> bool:
        return isinstance(self.loss, ConsistencyLoss)


def build_model(preset: Preset) -> Denoiser:
    """A new model as the preset describes it, initialised from ``preset.init`` or from ``preset.seed``."""
    data = load_data(preset.data)
    with global_seed(preset.seed):
        net = build_network(preset.network, data.shape, data.classes)
    model = Denoiser(net, _precond(preset.loss), data.shape, data.classes)
    if preset.init:
        path = find(preset.init)
        _check_data(path, preset)
        checkpoints.load_weights(model, path)
    return model


def _precond(loss: EDMLoss | ConsistencyLoss) -> Precond:
    """The scalings that belong to the loss: its lowest level is where a consistency model returns its input."""
    if isinstance(loss, EDMLoss):
        return Precond(sigma_data=loss.sigma_data)
    return Precond(sigma_min=loss.pairs.sigma_min or SIGMA_MIN)


def _check_data(path: Path, preset: Preset) -> None:
    """Refuse a checkpoint that says it was trained on other data."""
    about = checkpoints.read_meta(path).get("about") or {}
    made_by = PRESETS.get(about.get("preset", ""))
    data = about.get("data") or (made_by.data if made_by else preset.data)
    if data != preset.data:
        raise ValueError(f"{path} was trained on {data}, not on {preset.data}: name an --init and a --teacher of the same data")


def find(name: str) -> Path:
    """A checkpoint by path, from this folder's ``runs/``, or among the bundled ones: the user's own run comes first."""
    if not Path(name).is_file():
        for folder in (Path("runs"), Path("../runs")):  # notebooks run one folder below
            own = folder / f"{name}{checkpoints.SUFFIX}"
            if own.is_file():
                return own
    try:
        return checkpoints.resolve(name)
    except checkpoints.CheckpointError as error:
        if name in PRESETS:
            raise checkpoints.CheckpointError(f"{name} has not been trained yet: run 'cmlab train {name}' first") from error
        raise


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
    if teacher.precond.sigma_min > 0:
        raise ValueError(f"{path} is a consistency model: a teacher must be a diffusion model, such as {preset.data}-edm")
    return teacher


def run(preset: Preset, every: int = 100, device: torch.device | str = "cpu") -> Iterator[TrainState]:
    """Train the preset: a generator of TrainState (see `fit`)."""
    teacher = load_teacher(preset)
    if isinstance(teacher, Denoiser):
        teacher.to(device)
    yield from fit(
        build_model(preset),
        load_data(preset.data),
        preset.loss,
        steps=preset.steps,
        batch=preset.batch,
        lr=preset.lr,
        lr_schedule=preset.lr_schedule,
        ema=preset.ema,
        teacher=teacher,
        accumulate=preset.accumulate,
        seed=preset.seed,
        every=every,
        device=device,
    )


# iCT with pairs that are uniform on the grid: its lognormal density hardly visits the large noise levels, and a small network
# then learns the first jump of one-step generation badly (measured by the ladder of benchmarks/toys.py).
_SMALL_ICT = ConsistencyLoss(GridPairs(DoublingN(10, 160), "uniform"), "noise", Distance("huber"), "1/dt")


def _student(data: str, method: str) -> tuple[str, str]:
    """Initial weights and teacher: CD, iCT and ECT start from the diffusion model, the paper's CT from nothing."""
    edm = f"{data}-edm"
    return edm if method in ("cd", "ict", "ect") else "", edm if method == "cd" else ""


def _toy(data: str, method: str) -> Preset:
    loss = _SMALL_ICT if method == "ict" else LOSSES[method]()
    lr = {"edm": 2e-3, "ct": 1e-3, "ect": 2e-3}.get(method, 4e-3)
    init, teacher = _student(data, method)
    return Preset(data, loss, MLPConfig(), lr=lr, init=init, teacher=teacher)


def _digits(data: str, method: str) -> Preset:
    loss = cd(40) if method == "cd" else _SMALL_ICT if method == "ict" else LOSSES[method]()
    steps, lr = {"edm": (8000, 2e-3), "cd": (3000, 1e-3), "ict": (4000, 1e-3), "ect": (4000, 1e-3), "ct": (8000, 1e-3)}[method]
    network = UNetConfig(channels=24, mult=(1, 1), emb=64)
    init, teacher = _student(data, method)
    return Preset(data, loss, network, steps=steps, batch=128, lr=lr, init=init, teacher=teacher)


PRESETS: dict[str, Preset] = {
    **{f"{data}-{method}": _toy(data, method) for data in TOYS for method in LOSSES},
    **{f"{data}-{method}": _digits(data, method) for data in ("digits", "digits-color") for method in LOSSES},
}


def get_preset(name: str) -> Preset:
    """The preset ``name``; raises ValueError with the nearest name for an unknown one."""
    if name not in PRESETS:
        raise ValueError(unknown("preset", name, PRESETS))
    return PRESETS[name]
