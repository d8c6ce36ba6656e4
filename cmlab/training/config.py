"""What a training run is: one frozen configuration, which `fit` takes, the command line edits and a state file holds."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self, get_args

from ..base.suggest import check_choice, unknown
from ..methods.augment import CIFAR10_AUGMENT, Augment

Optimizer = Literal["radam", "adam", "adamw", "muon"]
Precision = Literal["float32", "bf16", "fp16", "auto"]
LrSchedule = Literal["constant", "linear", "cosine", "wsd"]
# What part of the learning rate is left when this part of the training, 0 to 1, is done.
LR_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda fraction: 1.0,
    "linear": lambda fraction: 1 - fraction,
    "cosine": lambda fraction: 0.5 * (1 + math.cos(math.pi * fraction)),
    "wsd": lambda fraction: min(1.0, 5 * (1 - fraction)),
}


@dataclass(frozen=True)
class HalfLife:
    """An average in which weights count half when they are ``million`` million images old (EDM, appendix F.1, with 0.5 and 0.05).

    While few images have been seen, the half-life is ``rampup`` times their number, if that is less; ``rampup=0`` is without.
    """

    million: float = 0.5
    rampup: float = 0.05

    def __post_init__(self):
        if not self.million > 0 or not self.rampup >= 0:
            raise ValueError(f"a half-life is above 0 and its rampup at least 0, got {self}")

    def decay(self, images: int, batch: int) -> float:
        """Of the step that takes ``batch`` images after ``images`` others."""
        life = self.million * 1e6
        if self.rampup:
            life = min(life, self.rampup * images)
        return 0.5 ** (batch / life) if life > 0 else 0.0


Ema = float | HalfLife


@dataclass(frozen=True)
class TrainConfig:
    """How a model is trained, whatever the model, the data and the loss.

    Args:
        steps: optimizer steps.
        batch: samples per step, of all processes together.
        optimizer: radam as for consistency models (`RAdam`), adam as for EDM, adamw, or muon (`Muon`). What is not said here is
            torch's default.
        lr: its learning rate; of Muon about 0.01, whatever the data.
        lr_schedule: how the learning rate falls over the training, or over each stage of a progressive distillation. "linear" and
            "cosine" fall to 0 at the last step. "wsd" (warm up, stable, decay) stays until four fifths of the steps are done and
            falls to 0 in a straight line (MiniCPM, arXiv 2404.06395, section 4): a constant run can be ended so at any step.
        rampup: million images over which the learning rate first rises from 0, in each stage (EDM: 10).
        beta2: decay of the optimizer's average of squared gradients.
        weight_decay: of the optimizer.
        clip: largest norm of the gradient, longer ones are shortened; 0 for none.
        ema: decay per step of the averaged weights, which one samples from, or its `HalfLife`; a tuple gives several averages, the
            first of which counts.
        label_dropout: part of the labels that is replaced by "no class", for guidance without a classifier.
        augment: probability of each of EDM's augmentations, its CIFAR-10 recipe (--network.augment 9), or an `Augment`; 0 for
            none. For denoising losses and networks that are told of it.
        accumulate: parts that a batch is split in, to save memory; the gradient is that of the whole batch.
        precision: in what the networks compute; weights, averages and optimizer are float32. "fp16" scales its losses. "auto" is
            bf16 where the device computes in it, else float32.
        channels_last: order the numbers of images and filters by pixel: faster for image networks. Always so on a GPU, and on a
            CPU never for networks that torch cannot train so.
        seed: fixes every draw, and in a preset the initial weights.

    Raises ValueError for values that cannot be.
    """

    steps: int = 5000
    batch: int = 256
    optimizer: Optimizer = "radam"
    lr: float = 1e-3
    lr_schedule: LrSchedule = "cosine"
    rampup: float = 0.0
    beta2: float = 0.999
    weight_decay: float = 0.0
    clip: float = 0.0
    ema: Ema | tuple[Ema, ...] = 0.999
    label_dropout: float = 0.0
    augment: Augment | float = 0.0
    accumulate: int = 1
    precision: Precision = "float32"
    channels_last: bool = False
    seed: int = 0

    def __post_init__(self):
        for field, kind in (("optimizer", Optimizer), ("lr_schedule", LrSchedule), ("precision", Precision)):
            check_choice(field, getattr(self, field), get_args(kind))
        if not 0 <= self.lr < math.inf:
            raise ValueError(f"the learning rate, lr, is a number of at least 0: got {self.lr}")
        if not 0 <= self.rampup < math.inf:
            raise ValueError(f"rampup is in million images, a number of at least 0: got {self.rampup}")
        if not 0 <= self.beta2 < 1 or not self.clip >= 0:
            raise ValueError(f"beta2 must lie in [0, 1) and clip be at least 0, got {self.beta2} and {self.clip}")
        if self.steps >= 2**53:
            raise ValueError(f"steps is a whole number below 2**53: got {self.steps}")
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"seed is a whole number of 64 bits: got {self.seed}")
        if not 0 <= self.label_dropout < 1:
            raise ValueError(f"label_dropout must lie in [0, 1), got {self.label_dropout}")

    @property
    def averages(self) -> tuple[Ema, ...]:
        """The averages of the weights; the first is the result."""
        return self.ema if isinstance(self.ema, tuple) else (self.ema,)

    @property
    def augmentation(self) -> Augment | None:
        """How images are augmented."""
        if isinstance(self.augment, Augment):
            return self.augment
        return replace(CIFAR10_AUGMENT, p=self.augment) if self.augment else None

    def changed(self, **changes: Any) -> Self:
        """This configuration with other values; raises TypeError with the nearest name for an unknown one."""
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                raise TypeError(unknown("training option", name, known))
        return replace(self, **changes)

    @property
    def steady(self) -> int:
        """Steps from the first one on that do not depend on how many there are: all at a constant rate, with "wsd" those before it
        falls, else none. A loss may depend on it nevertheless (`Loss.scheduled`)."""
        return {"constant": self.steps, "wsd": min(self.steps, self.steps * 4 // 5 + 1)}.get(self.lr_schedule, 0)

    def lr_at(self, step: int, stage: range) -> float:
        """The learning rate of ``step``, one of the steps of ``stage``."""
        done = step - stage.start
        risen = min(1.0, done * self.batch / (self.rampup * 1e6)) if self.rampup else 1.0
        return self.lr * LR_SCHEDULES[self.lr_schedule](done / len(stage)) * risen
