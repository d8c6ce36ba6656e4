"""fit(): one training loop for notebook, app and command line. A generator: whoever loops decides what to plot, save or stop.

All randomness of step k is a function of (seed, k), so a run can be repeated, and split over accumulation steps, exactly.
"""

import copy
import math
import time
from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .data import Data
from .denoiser import Denoise
from .losses import ConsistencyLoss, EDMLoss
from .noise import BatchDraws, global_seed


class TrainState(NamedTuple):
    """What `fit` yields: after ``step`` optimizer steps, ``progress`` = step / steps.

    ``loss`` is the mean since the last yield. ``ema`` holds the averaged weights that one samples from (in eval mode); it and
    ``model`` are live objects that the next step changes.
    """

    step: int
    progress: float
    loss: float
    images_per_s: float
    model: nn.Module
    ema: nn.Module
    target: nn.Module | None


def _step_seed(seed: int, step: int, stream: int) -> int:
    # The CPU's generator reads 32 bits of its seed only. The golden ratio spreads runs as far apart there as can be.
    return (seed * 0x9E3779B1 + (step << 2) + stream) & 0xFFFFFFFF


def _step_generator(seed: int, step: int, stream: int) -> torch.Generator:
    return torch.Generator().manual_seed(_step_seed(seed, step, stream))


def fit(
    model: nn.Module,
    data: Data,
    loss: EDMLoss | ConsistencyLoss,
    *,
    steps: int,
    batch: int = 256,
    lr: float = 1e-3,
    lr_schedule: Literal["constant", "cosine"] = "cosine",
    ema: float = 0.999,
    teacher: Denoise | None = None,
    accumulate: int = 1,
    seed: int = 0,
    every: int = 1,
    device: torch.device | str = "cpu",
) -> Iterator[TrainState]:
    """Train ``model`` (a Denoiser) in place by RAdam for exactly ``steps`` steps of ``batch`` samples.

    Args:
        ema: decay of the averaged weights per step.
        teacher: the diffusion model of a distilling loss.
        accumulate: split each batch in this many parts; the gradient is that of the whole batch.
        every: yield after every so many steps, and after the last.

    Raises ValueError for options that do not fit together, FloatingPointError when the loss is no longer finite.
    """
    if steps < 1 or every < 1 or batch < 1:
        raise ValueError(f"steps, every and batch must be at least 1, got {steps}, {every} and {batch}")
    if lr_schedule not in ("constant", "cosine"):
        raise ValueError(f"unknown lr_schedule {lr_schedule!r}: choose one of constant, cosine")
    if accumulate < 1 or batch % accumulate:
        raise ValueError(f"accumulate must divide the batch: batch {batch}, accumulate {accumulate}")
    if loss.needs_teacher and teacher is None:
        raise ValueError("this loss distils a teacher: pass teacher=, a trained diffusion model or an oracle")
    if teacher is not None and not loss.needs_teacher:
        raise ValueError("this loss has no use for a teacher: leave it out, or choose a loss that distils")
    device = torch.device(device)
    model.to(device).train()
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema))
    averaged.module.eval()
    target = copy.deepcopy(model).requires_grad_(False) if loss.needs_target else None
    optimizer = torch.optim.RAdam(model.parameters(), lr=lr)
    part = batch // accumulate
    total, since, clock = torch.zeros((), device=device), 0, time.perf_counter()
    for step in range(steps):
        progress = step / steps
        if lr_schedule == "cosine":
            optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * progress))
        x0, label = data.batch(batch, _step_generator(seed, step, 0))
        x0, label = x0.to(device), None if label is None else label.to(device)
        optimizer.zero_grad(set_to_none=True)
        with global_seed(_step_seed(seed, step, 2), device):  # dropout draws from the global generator
            for start in range(0, batch, part):
                rows = slice(start, start + part)
                draws = BatchDraws(_step_generator(seed, step, 1), batch, start, start + part)
                out = loss(
                    model,
                    x0[rows],
                    None if label is None else label[rows],
                    progress=progress,
                    target=target,
                    teacher=teacher,
                    draws=draws,
                )
                value = out.loss.sum() / batch
                value.backward()
                total += value.detach()
        since += 1
        optimizer.step()
        averaged.update_parameters(model)
        if target is not None and isinstance(loss, ConsistencyLoss):
            mu = loss.target_decay(progress)
            with torch.no_grad():
                for mean, online in zip(target.parameters(), model.parameters(), strict=True):
                    mean.lerp_(online, 1 - mu)
        if (step + 1) % every == 0 or step + 1 == steps:
            mean = float(total) / since
            if not math.isfinite(mean):
                raise FloatingPointError(f"the loss is {mean} at step {step + 1}: lower the learning rate (now {lr})")
            now = time.perf_counter()
            rate = batch * since / max(now - clock, 1e-9)
            yield TrainState(step + 1, (step + 1) / steps, mean, rate, model, averaged.module, target)
            total.zero_()
            since, clock = 0, time.perf_counter()
