"""Experiments as typed, frozen dataclasses: ``cmlab train NAME --field value`` changes any of their fields."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from . import checkpoints
from .augment import CIFAR10_AUGMENT
from .continuous import ContinuousLoss, SCMLoss, TrigLoss, attach_uncertainty
from .data import TOYS, load_data, unknown
from .denoiser import Denoise, Denoiser
from .distances import Distance
from .losses import LOSSES, ConsistencyLoss, DenoisingLoss, ProgressiveLoss, cd
from .networks import MLPConfig, UNetConfig, build_network
from .noise import global_seed
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
        lr_schedule: "linear" and "cosine" fall to 0 at the last step, of a stage where there are stages.
        weight_decay: of RAdam.
        ema: decay of the averaged weights, per step.
        init: checkpoint (bundled name or path) to start the weights from; "" for random weights.
        teacher: checkpoint of the diffusion model to distil; "oracle" takes the exact score of a 2D set; "" for losses without.
        augment: probability of each of EDM's augmentations, its CIFAR-10 recipe (--network.augment 9); 0 for none.
        label_dropout: part of the labels that is left out, for guidance without a classifier.
        accumulate: parts that a batch is split in, to save memory.
        seed: fixes the initial weights and every draw.
        half: store the weights in half precision.
    """

    data: str
    loss: DenoisingLoss | ProgressiveLoss | ConsistencyLoss | ContinuousLoss | TrigLoss | SCMLoss
    network: MLPConfig | UNetConfig
    steps: int = 5000
    batch: int = 512
    lr: float = 1e-3
    lr_schedule: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: float = 0.0
    ema: float = 0.999
    init: str = ""
    teacher: str = ""
    label_dropout: float = 0.0
    augment: float = 0.0
    accumulate: int = 1
    seed: int = 0
    half: bool = True

    @property
    def consistency(self) -> bool:
        """Whether the run makes a consistency model."""
        return self.loss.precond.consistency


def build_model(preset: Preset) -> Denoiser:
    """A new model as the preset describes it, initialised from ``preset.init`` or from ``preset.seed``."""
    data = load_data(preset.data)
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
    if teacher.precond.consistency:
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
        weight_decay=preset.weight_decay,
        ema=preset.ema,
        teacher=teacher,
        label_dropout=preset.label_dropout,
        augment=replace(CIFAR10_AUGMENT, p=preset.augment) if preset.augment else None,
        accumulate=preset.accumulate,
        seed=preset.seed,
        every=every,
        device=device,
    )


# iCT with pairs that are uniform on the grid: its lognormal density hardly visits the large noise levels, and a small network
# then learns the first jump of one-step generation badly (measured by the ladder of benchmarks/toys.py).
_SMALL_ICT = ConsistencyLoss(GridPairs(DoublingN(10, 160), "uniform"), "noise", Distance("huber"), "1/dt")


DIFFUSION = ("edm", "vp", "ve", "iddpm", "trigflow")
STUDENTS = ("pd", "cd", "ct", "ict", "ect", "ccd", "cct", "scd", "sct")
METHODS = (*DIFFUSION, *STUDENTS)
IMAGE_METHODS = ("edm", "pd", "cd", "ct", "ict", "ect")
_FROM_EDM, _DISTILLED = ("pd", "cd", "ict", "ect", "ccd", "cct"), ("pd", "cd", "ccd", "scd")
# Of the 2D networks. VP and iDDPM count noise levels to 999, VE is told ln(sigma/2), TrigFlow and sCM an angle below pi/2.
_TIME_SCALE = {"vp": 0.002, "iddpm": 0.002, "ve": 0.125, "trigflow": 2.0, "scd": 2.0, "sct": 2.0}
_TOY_LR = {"edm": 2e-3, "vp": 2e-3, "ve": 2e-3, "iddpm": 2e-3, "trigflow": 2e-3, "pd": 2e-3, "ect": 2e-3, "ict": 4e-3}


def _student(data: str, method: str) -> tuple[str, str]:
    """Initial weights and teacher: most students start from the diffusion model, the paper's CT and sCM from nothing."""
    edm = f"{data}-edm"
    return edm if method in _FROM_EDM else "", edm if method in _DISTILLED else ""


def _toy(data: str, method: str) -> Preset:
    # sCT's adaptive weight keeps rising as its tangents shrink: without it one-step samples are four times as close to the data.
    loss = {"ict": _SMALL_ICT, "sct": SCMLoss("noise", adaptive=False)}.get(method) or LOSSES[method]()
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
    **{f"{data}-{method}": _digits(data, method) for data in ("digits", "digits-color") for method in IMAGE_METHODS},
}


def get_preset(name: str) -> Preset:
    """The preset ``name``; raises ValueError with the nearest name for an unknown one."""
    if name not in PRESETS:
        raise ValueError(unknown("preset", name, PRESETS))
    return PRESETS[name]
