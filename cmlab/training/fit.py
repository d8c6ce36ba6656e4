"""fit(): one training loop for notebook, app and command line. A generator: whoever loops decides what to plot, save or stop.

All randomness of step k is a function of (seed, k), so a run can be repeated, and split over accumulation steps, exactly.
"""

import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from ..base.device import usable_device
from ..base.rng import global_seed
from ..data import Data
from ..data.sets import near
from ..denoiser import Denoise, Denoiser
from ..losses import DenoisingLoss, Loss
from ..methods.augment import Augment
from ..networks.layers import orders_by_pixel
from ..noise import send
from .config import TrainConfig
from .draws import BatchDraws
from .processes import ALONE, Processes
from .trainer import MicroBatch, Snapshot, Trainer

__all__ = ["TrainState", "fit"]


class TrainState(NamedTuple):
    """What `fit` yields: after ``step`` optimizer steps, ``progress`` = step / steps.

    ``loss`` is the mean since the last yield, of the steps that were made: ``skipped`` so far were not finite. ``ema`` holds the
    averaged weights that one samples from (in eval mode), the first of ``emas``; they and ``model`` are live objects that the
    next step changes, and divided over the processes where these shard (`Trainer.whole` puts one together).
    """

    step: int
    progress: float
    loss: float
    images_per_s: float
    model: nn.Module
    ema: nn.Module
    target: nn.Module | None
    emas: tuple[nn.Module, ...]
    skipped: int
    trainer: Trainer
    run: dict[str, int]

    def snapshot(self) -> Snapshot:
        """All that `fit` needs to continue from here to the same bits (``resume=``): see `Trainer.snapshot`."""
        tensors, facts = self.trainer.snapshot()
        return Snapshot(tensors, facts | self.run | {"step": self.step, "loss": self.loss})


def _step_seed(seed: int, step: int, stream: int) -> int:
    # The CPU's generator reads 32 bits of its seed only. The golden ratio spreads runs as far apart there as can be.
    return (seed * 0x9E3779B1 + (step << 3) + stream) & 0xFFFFFFFF


# What each step draws, from generators of their own.
_DATA, _NOISE, _DROPOUT, _LABELS, _AUGMENT = range(5)
LARGEST_BATCH = 2**24  # every 64 rows have a generator of their own, of 5 kB: this many take 1.3 GB before the first step
LOOK = 50  # steps after which a GPU is asked at the latest how many it has skipped: to ask is to wait


def fit(
    model: nn.Module,
    data: Data,
    loss: Loss,
    config: TrainConfig | None = None,
    *,
    teacher: Denoise | None = None,
    every: int | Callable[[int], bool] = 1,
    resume: Snapshot | None = None,
    processes: Processes = ALONE,
    device: torch.device | str = "cpu",
    compile: bool = False,
    max_skipped: int = 20,
    **changes: Any,
) -> Iterator[TrainState]:
    """Train ``model`` (a Denoiser) in place: ``fit(model, data, loss, steps=1000, batch=128, lr=2e-3)``.

    Args:
        config: steps, batch, optimizer, learning rate and all else that decides the training; by default that of `TrainConfig`.
        teacher: the diffusion model of a distilling loss; progressive distillation replaces it at the end of each stage.
        every: yield after every so many steps, or after those that it says, and after the last.
        resume: what `TrainState.snapshot` gave after some step of the same training, which continues from there. Values that do
            not change what a step draws may be others now: a longer training, a lower rate.
        processes: those that train together: each takes its rows of every batch, so that their number changes nothing but rounding
            and dropout.
        compile: see `Trainer`.
        max_skipped: steps whose loss or gradient is not finite are left out; after this many in a row training stops. On a GPU,
            which counts them, that is seen at the next yield, or within 50 steps.
        changes: values of the configuration, by name.

    Raises ValueError for options that do not fit together, FloatingPointError when the loss is no longer finite.
    """
    _check_parts(model, data, loss, config)
    config = (config or TrainConfig()).changed(**changes)
    steps, batch, seed, accumulate, augment = config.steps, config.batch, config.seed, config.accumulate, config.augmentation
    counts = {"steps": steps, "batch": batch, "max_skipped": max_skipped} | ({} if callable(every) else {"every": every})
    if small := [f"{name} {count}" for name, count in counts.items() if count < 1]:
        raise ValueError(f"{', '.join(counts)} must be at least 1, got {', '.join(small)}")
    if batch > LARGEST_BATCH:
        raise ValueError(f"a batch of {batch} is more than {LARGEST_BATCH}, the most that one step draws: take a smaller one")
    rows = processes.rows(batch)
    if accumulate < 1 or len(rows) % accumulate:
        share = f", {len(rows)} in each of {processes.world_size} processes" if processes.world_size > 1 else ""
        raise ValueError(f"accumulate must divide the batch: batch {batch}{share}, accumulate {accumulate}")
    _check_label_dropout(config.label_dropout, data, model, teacher)
    if augment is not None:
        _check_augment(augment, loss, model)
    device = usable_device(device)
    images = len(data.shape) == 3 and (config.channels_last or device.type == "cuda")
    if config.channels_last and not images:
        raise ValueError("channels_last is for images: leave it out")
    images = images and orders_by_pixel(model, device)
    model.to(device).train()
    data = near(data, device)
    for network in (model, teacher) if images and not processes.shard else ():  # torch divides weights in their own order alone
        if isinstance(network, nn.Module):
            network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    trainer = Trainer(model, loss, config, teacher=teacher, compile=compile, processes=processes)
    run, first = {"batch": batch, "seed": seed}, 0
    if resume is not None:
        if changed := [f"{k} {resume.facts.get(k)}" for k in run if resume.facts.get(k) != run[k]]:
            raise ValueError(f"the saved state is of a training of {', '.join(changed)}: resume with the same")
        if (first := resume.facts["step"]) > steps:
            raise ValueError(f"the saved state is of step {first}: resume with at least so many steps, not {steps}")
        trainer.restore(resume)
    stages = loss.stages(steps)
    if (stage := sum(0 < s.start < first for s in stages)) != trainer.stage:
        other = f"of {steps} steps is in stage {stage + 1} at step {first}, this one in stage {trainer.stage + 1}"
        raise ValueError(f"a progressive distillation {other}: resume with as many steps as it began with")

    def draws(step: int, stream: int, start: int = rows.start, stop: int = rows.stop) -> BatchDraws:
        return BatchDraws(_step_seed(seed, step, stream), batch, start, stop)

    def micro_batches(step: int) -> Iterator[MicroBatch]:
        x0, label = data.batch(len(rows), draws(step, _DATA))
        if label is not None and config.label_dropout > 0:
            label = torch.where(draws(step, _LABELS).uniform((len(rows),)) < config.label_dropout, -1, label)
        x0, label, told = send(x0, device), None if label is None else send(label, device), None
        if augment is not None:
            x0, told = augment(x0, draws(step, _AUGMENT))
        if images:
            x0 = x0.contiguous(memory_format=torch.channels_last)
        size = len(rows) // accumulate
        for k in range(0, len(rows), size):
            x, y, augmented = (None if t is None else t[k : k + size] for t in (x0, label, told))
            yield MicroBatch(cast(Tensor, x), y, draws(step, _NOISE, rows.start + k, rows.start + k + size), augmented)

    def state(done: int, mean: float, rate: float) -> TrainState:
        emas = trainer.emas
        return TrainState(done, done / steps, mean, rate, model, emas[0], trainer.target, emas, trainer.skipped, trainer, run)

    if first == steps:
        assert resume is not None
        yield state(steps, resume.facts["loss"], 0.0)
    total, since, clock = torch.zeros((), device=device), 0, time.perf_counter()
    skipped = trainer.skipped
    for stage, step in ((s, k) for s in stages for k in s if k >= first):
        if step == stage.start > 0:
            trainer.next_stage(loss.teacher_from)
        given = list(micro_batches(step))
        # Dropout draws from the global generator, and each process of its own.
        with global_seed(_step_seed(seed, step, _DROPOUT) ^ (processes.rank * 0x85EBCA6B & 0xFFFFFFFF), device):
            value = trainer.step(given, batch, step / steps, config.lr_at(step, stage))
        total += torch.where(trainer.made, value, 0.0)
        since += 1
        due = step + 1 == steps or (every(step + 1) if callable(every) else (step + 1) % every == 0)
        if (due or device.type != "cuda" or since % LOOK == 0) and trainer.in_a_row >= min(max_skipped, steps):
            where = f"loss {float(value):.4g}, at step {step + 1} and {trainer.in_a_row - 1} before it"
            raise FloatingPointError(f"the loss or its gradient is not finite, {where}: lower the learning rate (now {config.lr})")
        if due:
            made = since - (trainer.skipped - skipped)
            rate = batch * since / max(time.perf_counter() - clock, 1e-9)
            yield state(step + 1, float(total) / made if made else math.nan, rate)
            total.zero_()
            since, skipped, clock = 0, trainer.skipped, time.perf_counter()


def _check_parts(model: Any, data: Any, loss: Any, config: Any) -> None:
    """What a reader of other libraries passes here; raises ValueError that says what is meant."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is a network with its scalings, cmlab.Denoiser(net, precond, shape), got {model!r:.80}")
    if half := sorted({str(p.dtype) for p in model.parameters() if p.dtype in (torch.float16, torch.bfloat16)}):
        raise ValueError(f"the model has weights of {half[0]}: train model.float(), with precision='bf16' to compute in 16 bits")
    if not all(hasattr(data, name) for name in ("batch", "shape", "classes")):
        draws = "draws its own batches, as cmlab.load_data(NAME_OR_PATH) and cmlab.ImageData(x0, label, class_names) do"
        raise ValueError(f"data {draws}, and a {type(data).__name__} does not: put its tensors into an ImageData")
    if not isinstance(loss, Loss):
        made = f": make one, {loss.__name__}()" if isinstance(loss, type) else ", such as cmlab.EDMLoss()"
        raise ValueError(f"loss is an instance of cmlab.losses.Loss{made}, got {loss!r:.80}")
    if config is not None and not isinstance(config, TrainConfig):
        raise ValueError(f"config is a TrainConfig or a preset; its values also go by name, steps=1000, got {config!r:.80}")


def _check_augment(augment: Augment, loss: Loss, model: nn.Module) -> None:
    if not isinstance(loss, DenoisingLoss):
        raise ValueError("augment is for denoising losses: consistency models are trained on the data as it is")
    takes = getattr(model.config, "augment", 0) if isinstance(model, Denoiser) else 0
    if takes != augment.dim:
        told = f"the network is told of {takes} augmentations, these are {augment.dim}"
        raise ValueError(f"{told}: build it with augment={augment.dim}")


def _check_label_dropout(p: float, data: Data, model: nn.Module, teacher: Denoise | None) -> None:
    if p == 0:
        return
    if data.classes == 0:
        raise ValueError("label_dropout is for data with classes: this set has none, leave it at 0")
    for role, denoise in (("model", model), ("teacher", teacher)):
        if isinstance(denoise, Denoiser) and not denoise.drops_labels:
            raise ValueError(f"the {role} knows no missing label: build it with drops_labels=True, or leave label_dropout at 0")
