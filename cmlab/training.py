"""fit(): one training loop for notebook, app and command line. A generator: whoever loops decides what to plot, save or stop.

All randomness of step k is a function of (seed, k), so a run can be repeated, and split over accumulation steps, exactly.
"""

import copy
import math
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from .augment import Augment
from .data import Data
from .denoiser import Denoise, Denoiser
from .losses import DenoisingLoss, ProgressiveLoss
from .noise import BatchDraws, Draws, global_seed
from .objective import Averaging, Loss


class TrainState(NamedTuple):
    """What `fit` yields: after ``step`` optimizer steps, ``progress`` = step / steps.

    ``loss`` is the mean since the last yield. ``ema`` holds the averaged weights that one samples from (in eval mode), the first
    of ``emas``; they and ``model`` are live objects that the next step changes.
    """

    step: int
    progress: float
    loss: float
    images_per_s: float
    model: nn.Module
    ema: nn.Module
    target: nn.Module | None
    emas: tuple[nn.Module, ...] = ()


class Part(NamedTuple):
    """Some samples of a batch: x0 (n, *S), label (n,) or None, the draws that belong to them, and how they were augmented."""

    x0: Tensor
    label: Tensor | None
    draws: Draws
    augment: Tensor | None = None


@torch.no_grad()
def update_average(target: nn.Module, source: nn.Module, rate: float) -> None:
    """target <- rate target + (1 - rate) source, every parameter; buffers are copied."""
    get_ema_multi_avg_fn(rate)(list(target.parameters()), list(source.parameters()), None)
    for mean, buffer in zip(target.buffers(), source.buffers(), strict=True):
        mean.copy_(buffer)


def frozen_copy(model: nn.Module) -> nn.Module:
    """A copy of ``model`` that takes no gradient, in the same mode."""
    return copy.deepcopy(model).requires_grad_(False)


class Trainer:
    """What a training moves, and one optimisation step of it: loss, backward, RAdam, weight averages, target average.

    The averages start as copies of the model (Karras et al. 2022; CM, Algorithms 2 and 3).

    Args:
        model: trained in place.
        loss: the objective.
        lr, weight_decay: of RAdam, whose other settings are torch's own.
        ema: decay per step of the averaged weights; several give several averages.
        teacher: the diffusion model of a distilling loss.

    Raises ValueError for a teacher that is missing or has no use.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        *,
        lr: float = 1e-3,
        weight_decay: float = 0.0,
        ema: float | tuple[float, ...] = 0.999,
        teacher: Denoise | None = None,
    ):
        if loss.needs_teacher and teacher is None:
            raise ValueError("this loss distils a teacher: pass teacher=, a trained diffusion model or an oracle")
        if teacher is not None and not loss.needs_teacher:
            raise ValueError("this loss has no use for a teacher: leave it out, or choose a loss that distils")
        self.model, self.loss, self.teacher = model, loss, teacher
        self.rates = ema if isinstance(ema, tuple) else (ema,)
        if not self.rates or not all(0 <= rate <= 1 for rate in self.rates):
            raise ValueError(f"ema must be one or more decays in [0, 1], got {ema}")
        self.lr, self.weight_decay = lr, weight_decay
        self.restart()

    def restart(self) -> None:
        """Forget the optimizer's state; averages and target become copies of the model."""
        self.emas = tuple(frozen_copy(self.model).eval() for _ in self.rates)
        self.target = frozen_copy(self.model) if self.loss.needs_target else None
        self.optimizer = torch.optim.RAdam(self.model.parameters(), lr=self.lr, weight_decay=self.weight_decay)

    def next_stage(self, source: Literal["model", "ema"]) -> None:
        """Progressive distillation: the student, or its first average, becomes the teacher and the start of the next student."""
        if source == "ema":
            self.model.load_state_dict(self.emas[0].state_dict())
        self.teacher = frozen_copy(self.model).eval()
        self.restart()

    def step(self, parts: Iterable[Part], batch: int, progress: float, lr: float | None = None) -> Tensor:
        """One step on a batch of ``batch`` samples that comes in ``parts``; returns its mean loss before the step, ().

        ``lr`` replaces the learning rate from now on.
        """
        if lr is not None:
            self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        total = torch.zeros(())
        for x0, label, draws, augment in parts:
            model = self.model if augment is None else partial(self.model, augment=augment)
            out = self.loss(model, x0, label, progress=progress, target=self.target, teacher=self.teacher, draws=draws)
            value = out.loss.sum() / batch
            value.backward()
            total = total.to(value.device) + value.detach()
        self.optimizer.step()
        for ema, rate in zip(self.emas, self.rates, strict=True):
            update_average(ema, self.model, rate)
        if self.target is not None:
            assert isinstance(self.loss, Averaging), "a loss with a target says how fast the target moves"
            update_average(self.target, self.model, self.loss.target_decay(progress))
        return total


LR_SCHEDULES = {
    "constant": lambda fraction: 1.0,
    "linear": lambda fraction: 1 - fraction,
    "cosine": lambda fraction: 0.5 * (1 + math.cos(math.pi * fraction)),
}


def _step_seed(seed: int, step: int, stream: int) -> int:
    # The CPU's generator reads 32 bits of its seed only. The golden ratio spreads runs as far apart there as can be.
    return (seed * 0x9E3779B1 + (step << 3) + stream) & 0xFFFFFFFF


def _step_generator(seed: int, step: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(_step_seed(seed, step, stream))


# What each step draws, from generators of their own.
_DATA, _NOISE, _DROPOUT, _LABELS, _AUGMENT = range(5)


def fit(
    model: nn.Module,
    data: Data,
    loss: Loss,
    *,
    steps: int,
    batch: int = 256,
    lr: float = 1e-3,
    lr_schedule: Literal["constant", "linear", "cosine"] = "cosine",
    weight_decay: float = 0.0,
    ema: float | tuple[float, ...] = 0.999,
    teacher: Denoise | None = None,
    label_dropout: float = 0.0,
    augment: Augment | None = None,
    accumulate: int = 1,
    seed: int = 0,
    every: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[TrainState]:
    """Train ``model`` (a Denoiser) in place by RAdam for exactly ``steps`` steps of ``batch`` samples.

    Args:
        lr_schedule: how lr falls over the training, or over each stage of a progressive distillation.
        ema: decay of the averaged weights per step; a tuple gives several averages, of which the first is ``ema`` in the states.
        teacher: the diffusion model of a distilling loss; progressive distillation replaces it at the end of each stage.
        label_dropout: the part of labels that is replaced by "no class", so that the model can be guided without a classifier.
        augment: EDM's augmentation of images, for denoising losses and networks that are told of it.
        accumulate: split each batch in this many parts; the gradient is that of the whole batch.
        every: yield after every so many steps, and after the last.

    Raises ValueError for options that do not fit together, FloatingPointError when the loss is no longer finite.
    """
    if steps < 1 or every < 1 or batch < 1:
        raise ValueError(f"steps, every and batch must be at least 1, got {steps}, {every} and {batch}")
    if lr_schedule not in LR_SCHEDULES:
        raise ValueError(f"unknown lr_schedule {lr_schedule!r}: choose one of {', '.join(LR_SCHEDULES)}")
    if accumulate < 1 or batch % accumulate:
        raise ValueError(f"accumulate must divide the batch: batch {batch}, accumulate {accumulate}")
    _check_label_dropout(label_dropout, data, model, teacher)
    if augment is not None:
        _check_augment(augment, loss, model)
    device = torch.device(device)
    model.to(device).train()
    trainer = Trainer(model, loss, lr=lr, weight_decay=weight_decay, ema=ema, teacher=teacher)
    stages = loss.stages(steps) if isinstance(loss, ProgressiveLoss) else [range(steps)]
    part = batch // accumulate
    total, since, clock = torch.zeros((), device=device), 0, time.perf_counter()
    for stage, step in ((s, k) for s in stages for k in s):
        if step == stage.start > 0 and isinstance(loss, ProgressiveLoss):
            trainer.next_stage(loss.teacher_from)
        x0, label = data.batch(batch, _step_generator(seed, step, _DATA))
        if label is not None and label_dropout > 0:
            dropped = torch.rand(batch, generator=_step_generator(seed, step, _LABELS)) < label_dropout
            label = torch.where(dropped, -1, label)
        x0, label = x0.to(device), None if label is None else label.to(device)
        done = None
        if augment is not None:
            x0, done = augment(x0, _step_generator(seed, step, _AUGMENT))
        parts = (
            Part(
                x0[start : start + part],
                None if label is None else label[start : start + part],
                BatchDraws(_step_generator(seed, step, _NOISE), batch, start, start + part),
                None if done is None else done[start : start + part],
            )
            for start in range(0, batch, part)
        )
        falling = LR_SCHEDULES[lr_schedule]((step - stage.start) / len(stage))
        with global_seed(_step_seed(seed, step, _DROPOUT), device):  # dropout draws from the global generator
            total += trainer.step(parts, batch, step / steps, lr * falling)
        since += 1
        if (step + 1) % every == 0 or step + 1 == steps:
            mean = float(total) / since
            if not math.isfinite(mean):
                raise FloatingPointError(f"the loss is {mean} at step {step + 1}: lower the learning rate (now {lr})")
            rate = batch * since / max(time.perf_counter() - clock, 1e-9)
            yield TrainState(step + 1, (step + 1) / steps, mean, rate, model, trainer.emas[0], trainer.target, trainer.emas)
            total.zero_()
            since, clock = 0, time.perf_counter()


def _check_augment(augment: Augment, loss: Loss, model: nn.Module) -> None:
    if not isinstance(loss, DenoisingLoss):
        raise ValueError("augment is for denoising losses: consistency models are trained on the data as it is")
    takes = getattr(model.config, "augment", 0) if isinstance(model, Denoiser) else 0
    if takes != augment.dim:
        raise ValueError(
            f"the network is told of {takes} augmentations, these are {augment.dim}: build it with augment={augment.dim}"
        )


def _check_label_dropout(p: float, data: Data, model: nn.Module, teacher: Denoise | None) -> None:
    if not 0 <= p < 1:
        raise ValueError(f"label_dropout must lie in [0, 1), got {p}")
    if p == 0:
        return
    if data.classes == 0:
        raise ValueError("label_dropout is for data with classes: this set has none, leave it at 0")
    for role, denoise in (("model", model), ("teacher", teacher)):
        if isinstance(denoise, Denoiser) and not denoise.drops_labels:
            raise ValueError(f"the {role} knows no missing label: build it with drops_labels=True, or leave label_dropout at 0")
