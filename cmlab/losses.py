"""Training objectives. A loss is a frozen dataclass, called as

    loss(model, x0, label, progress=..., target=..., teacher=..., draws=...) -> LossOut(loss, sigma, weight)

with one number per sample and nothing reduced: whoever loops decides how to average, log or mask.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .denoiser import Denoise
from .distances import Distance
from .noise import SIGMA_DATA, Draws, as_draws, expand, replay_rng
from .samplers import euler_step, heun_step
from .schedules import AdaptiveMu, DoublingN, EctPairs, FixedMu, FixedN, GridPairs, LogNormal, ProgressiveN


class LossOut(NamedTuple):
    """Per-sample loss (weight already in it), the noise level it was taken at, and the weight: all (B,)."""

    loss: Tensor
    sigma: Tensor
    weight: Tensor


@dataclass(frozen=True)
class EDMLoss:
    """E lambda(sigma) ||D(x0 + sigma eps, sigma) - x0||^2 with lambda = 1/c_out^2 (EDM, eqs. 2 and 8)."""

    density: LogNormal = field(default_factory=LogNormal)
    sigma_data: float = SIGMA_DATA
    needs_teacher = False
    needs_target = False

    def __call__(
        self,
        model: Denoise,
        x0: Tensor,
        label: Tensor | None = None,
        *,
        progress: float = 0.0,
        target: Denoise | None = None,
        teacher: Denoise | None = None,
        draws: "Draws | torch.Generator | Sequence[int]",
    ) -> LossOut:
        if target is not None or teacher is not None:
            raise ValueError("the EDM loss has neither target nor teacher: it learns from the data alone")
        source = as_draws(draws)
        sigma = self.density(len(x0), source).to(x0)
        x = x0 + expand(sigma, x0) * source.normal(x0.shape).to(x0)
        weight = (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2
        error = (model(x, sigma, label) - x0).square().flatten(1).sum(1)
        return LossOut(weight * error, sigma, weight)


@dataclass(frozen=True)
class ConsistencyLoss:
    """E w d(f(x, sigma), f_target(x_next, sigma_next)): CD, CT, iCT and ECT are presets of it (CM, Algorithms 2 and 3).

    Args:
        pairs: draws (sigma, sigma_next).
        bridge: how x_next is reached from x. "noise": x0 + sigma_next eps with the same eps (CT); "euler" or "heun": one step of
            that solver along the teacher's PF-ODE (CD).
        distance: d, see `Distance`.
        weight: "1" (the paper) or "1/dt", 1/(sigma - sigma_next) (iCT), which keeps small sigma from starving.
        target: decay of the target's moving average; at 0 the target is the online network itself behind a stop-gradient.
    """

    pairs: GridPairs | EctPairs = field(default_factory=GridPairs)
    bridge: Literal["noise", "euler", "heun"] = "noise"
    distance: Distance = field(default_factory=Distance)
    weight: Literal["1", "1/dt"] = "1/dt"
    target: FixedMu | AdaptiveMu = field(default_factory=FixedMu)

    def __post_init__(self):
        if isinstance(self.target, AdaptiveMu) and not isinstance(self.pairs, GridPairs):
            raise ValueError("an adaptive target decay follows N(k): give it pairs on a grid, or take FixedMu")
        if self.bridge not in ("noise", "euler", "heun"):
            raise ValueError(f"unknown bridge {self.bridge!r}: choose one of noise, euler, heun")
        if self.weight not in ("1", "1/dt"):
            raise ValueError(f"unknown weight {self.weight!r}: choose one of 1, 1/dt")

    @property
    def needs_teacher(self) -> bool:
        return self.bridge != "noise"

    @property
    def needs_target(self) -> bool:
        return self.target.mu > 0 if isinstance(self.target, FixedMu) else self.target.mu0 > 0

    def target_decay(self, progress: float) -> float:
        """mu(k), the decay of the target's moving average after the step at ``progress``."""
        return self.target(progress, self.pairs.n(progress) if isinstance(self.pairs, GridPairs) else 0)

    def __call__(
        self,
        model: Denoise,
        x0: Tensor,
        label: Tensor | None = None,
        *,
        progress: float = 0.0,
        target: Denoise | None = None,
        teacher: Denoise | None = None,
        draws: "Draws | torch.Generator | Sequence[int]",
    ) -> LossOut:
        if self.needs_teacher != (teacher is not None):
            raise ValueError(
                f"bridge {self.bridge!r} needs a teacher: a diffusion model or an oracle"
                if self.needs_teacher
                else "bridge 'noise' does not use a teacher: choose bridge 'euler' or 'heun', or leave the teacher out"
            )
        source = as_draws(draws)
        sigma, sigma_next = (s.to(x0) for s in self.pairs(len(x0), progress, source))
        eps = source.normal(x0.shape).to(x0)
        x = x0 + expand(sigma, x0) * eps
        with torch.no_grad():
            if teacher is None:
                x_next = x0 + expand(sigma_next, x0) * eps
            else:
                step = heun_step if self.bridge == "heun" else euler_step
                x_next = step(teacher, x, sigma, sigma_next, label).x.to(x0)
        with replay_rng(x0.device) as replay:
            out = model(x, sigma, label)
            replay.rewind()  # the target drops the same units
            with torch.no_grad():
                goal = (target or model)(x_next, sigma_next, label)
        weight = 1 / (sigma - sigma_next) if self.weight == "1/dt" else torch.ones_like(sigma)
        return LossOut(weight * self.distance(out, goal), sigma, weight)


def cd(n: int = 80, solver: Literal["euler", "heun"] = "heun") -> ConsistencyLoss:
    """Consistency distillation (CM, Algorithm 2), with the weight 1/dt and N = 80 that small models want."""
    return ConsistencyLoss(GridPairs(FixedN(n)), solver, Distance("huber"), "1/dt")


def ct(s0: int = 2, s1: int = 150, mu0: float = 0.9) -> ConsistencyLoss:
    """Consistency training as the paper has it (CM, Algorithm 3, Table 3): N(k), mu(k), l2, weight 1."""
    return ConsistencyLoss(GridPairs(ProgressiveN(s0, s1)), "noise", Distance("l2"), "1", AdaptiveMu(s0, mu0))


def ict(s0: int = 10, s1: int = 1280) -> ConsistencyLoss:
    """Improved consistency training (iCT, arXiv 2310.14189): lognormal pairs, pseudo-Huber, 1/dt, no target average."""
    return ConsistencyLoss(GridPairs(DoublingN(s0, s1), "lognormal"), "noise", Distance("huber"), "1/dt")


def ect(q: float = 2.0, stages: int = 8) -> ConsistencyLoss:
    """Easy consistency tuning (ECT, arXiv 2406.14548): start it from a trained diffusion model."""
    return ConsistencyLoss(EctPairs(q, stages), "noise", Distance("huber", 0.0), "1/dt")


LOSSES = {"edm": EDMLoss, "cd": cd, "ct": ct, "ict": ict, "ect": ect}
