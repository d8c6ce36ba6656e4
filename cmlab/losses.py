"""Training objectives: denoising (EDM, VP, VE, iDDPM), progressive distillation, and the consistency losses CD, CT, iCT and ECT.

A loss is a frozen dataclass that obeys `objective.Loss`: it returns one number per sample, nothing reduced.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from .denoiser import Denoise, IDDPMPrecond, Precond, Preconditioning, VEPrecond, VPPrecond
from .distances import Distance
from .methods.continuous import CONTINUOUS
from .methods.solvers import midpoint_step
from .noise import RHO, SIGMA_DATA, SIGMA_MAX, SIGMA_MIN, Draws, as_draws, expand, karras_sigmas, replay_rng
from .objective import LossOut
from .schedules import (
    AdaptiveMu,
    DoublingN,
    EctPairs,
    FixedMu,
    FixedN,
    GridPairs,
    HalvingN,
    LogNormal,
    LogUniform,
    ProgressiveN,
    TableUniform,
    VPTime,
)
from .steps import euler_step, heun_step

# Weights lambda(sigma, sigma_data) of the squared error of x0, under the names of openai/consistency_models (snr = 1/sigma^2).
# "karras" is EDM's 1/c_out^2; "snr" makes the loss that of eps, as in VP, VE and iDDPM.
WEIGHTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "snr": lambda sigma, sigma_data: sigma**-2,
    "snr+1": lambda sigma, sigma_data: sigma**-2 + 1,
    "karras": lambda sigma, sigma_data: sigma**-2 + sigma_data**-2,
    "truncated-snr": lambda sigma, sigma_data: (sigma**-2).clamp_min(1),
    "uniform": lambda sigma, sigma_data: torch.ones_like(sigma),
}
# Solvers of which one step takes a distilling loss from sigma to sigma_next: (denoise, x, sigma, sigma_next, label) -> OdeStep.
BRIDGES = {"euler": euler_step, "heun": heun_step, "midpoint": midpoint_step}
Weight = Literal["snr", "snr+1", "karras", "truncated-snr", "uniform"]


def _check_weight(name: str, known: Sequence[str] = tuple(WEIGHTS)) -> None:
    if name not in known:
        raise ValueError(f"unknown weight {name!r}: choose one of {', '.join(known)}")


@dataclass(frozen=True)
class DenoisingLoss:
    """E lambda(sigma) ||D(x0 + sigma eps, sigma) - x0||^2 (EDM, eqs. 2 and 8). The defaults are EDM's own density and weight.

    Args:
        density: draws sigma.
        weight: lambda, see WEIGHTS.
        sigma_data: standard deviation of the data: for the weight "karras", and for EDM's scalings.
    """

    density: LogNormal | VPTime | LogUniform | TableUniform = field(default_factory=LogNormal)
    weight: Weight = "karras"
    sigma_data: float = SIGMA_DATA
    needs_teacher = False
    needs_target = False
    needs_uncertainty = False

    def __post_init__(self):
        _check_weight(self.weight)

    @property
    def precond(self) -> Preconditioning:
        """The scalings of the density's own column in EDM's Table 1."""
        d = self.density
        if isinstance(d, VPTime):
            return VPPrecond(d.beta_d, d.beta_min, epsilon=d.epsilon)
        if isinstance(d, LogUniform):
            return VEPrecond(d.low, d.high)
        return IDDPMPrecond(d.c1, d.c2, d.steps) if isinstance(d, TableUniform) else Precond(self.sigma_data)

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
            raise ValueError("a denoising loss has neither target nor teacher: it learns from the data alone")
        source = as_draws(draws)
        sigma = self.density(len(x0), source).to(x0)
        x = x0 + expand(sigma, x0) * source.normal(x0.shape).to(x0)
        weight = WEIGHTS[self.weight](sigma, self.sigma_data)
        error = (model(x, sigma, label) - x0).square().flatten(1).sum(1)
        return LossOut(weight * error, sigma, weight)


EDMLoss = DenoisingLoss


@dataclass(frozen=True)
class ProgressiveLoss:
    """Progressive distillation: one step of the student does what two Euler steps of the teacher do (2202.00512; CM, appendix C).

    The student has N steps on a Karras grid, the teacher 2N. After each N the student becomes the teacher (`fit` does that), and
    N halves down to 1. What the student learns is the x0_hat whose Euler step from sigma to the next level of its grid arrives
    where the teacher's two steps do.

    Args:
        n: number of the student's steps over the training.
        distance: between the student's and that x0_hat.
        weight: lambda at sigma, see WEIGHTS.
        teacher_from: what becomes the next teacher and starts the next student: "model", the weights themselves (the official
            codes), or "ema", their moving average.
        sigma_data: standard deviation of the data: for the weight "karras", and for the model's scalings.
        sigma_min: the grid's lowest level, where the last step ends.
        sigma_max: its highest level.
        rho: its exponent.
    """

    n: HalvingN = field(default_factory=HalvingN)
    distance: Distance = field(default_factory=Distance)
    weight: Weight = "truncated-snr"
    teacher_from: Literal["model", "ema"] = "model"
    sigma_data: float = SIGMA_DATA
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    rho: float = RHO
    needs_teacher = True
    needs_target = False
    needs_uncertainty = False

    def __post_init__(self):
        _check_weight(self.weight)
        if self.teacher_from not in ("model", "ema"):
            raise ValueError(f"unknown teacher_from {self.teacher_from!r}: choose one of model, ema")

    @property
    def precond(self) -> Precond:
        return Precond(self.sigma_data)

    def stages(self, steps: int) -> list[range]:
        """The steps 0 ... steps - 1 of a training, cut where N changes.

        Raises ValueError where N is no power of two: half of an odd number of steps is none of the teacher's.
        """
        if self.n.start & (self.n.start - 1):
            raise ValueError(f"the number of steps is halved down to 1: choose a power of two such as 64, not {self.n.start}")
        borders = [k for k in range(1, steps) if self.n(k / steps) != self.n((k - 1) / steps)]
        return [range(a, b) for a, b in zip([0, *borders], [*borders, steps], strict=True)]

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
        if teacher is None:
            raise ValueError("progressive distillation needs a teacher: a diffusion model or an oracle")
        if target is not None:
            raise ValueError("progressive distillation has no target: leave it out")
        source, n = as_draws(draws), self.n(progress)
        grid = karras_sigmas(2 * n + 1, self.sigma_min, self.sigma_max, self.rho)
        i = 2 * (source.uniform((len(x0),)).double() * n).long().clamp_max(n - 1)
        levels = grid[i], grid[i + 1], grid[i + 2]
        share = (levels[2] * (levels[0] - levels[1])) / (levels[1] * (levels[0] - levels[2]))
        sigma, middle, end = (s.to(x0) for s in levels)
        x = x0 + expand(sigma, x0) * source.normal(x0.shape).to(x0)
        with torch.no_grad():
            first = euler_step(teacher, x, sigma, middle, label)
            second = euler_step(teacher, first.x, middle, end, label)
            # x - sigma (x_end - x) / (end - sigma), written as a mean of the teacher's two answers: nothing cancels in it.
            goal = torch.lerp(second.x0_hat.to(x0), first.x0_hat.to(x0), expand(share.to(x0), x0))
        weight = WEIGHTS[self.weight](sigma, self.sigma_data)
        return LossOut(weight * self.distance(model(x, sigma, label), goal), sigma, weight)


@dataclass(frozen=True)
class ConsistencyLoss:
    """E w d(f(x, sigma), f_target(x_next, sigma_next)): CD, CT, iCT and ECT are presets of it (CM, Algorithms 2 and 3).

    Args:
        pairs: draws (sigma, sigma_next).
        bridge: how x_next is reached from x. "noise": x0 + sigma_next eps with the same eps (CT); one of BRIDGES: one step of that
            solver along the teacher's PF-ODE (CD).
        distance: d, see `Distance`.
        weight: "1" (the paper); "1/dt", 1/(sigma - sigma_next) (iCT), which keeps small sigma from starving; or one of WEIGHTS, at
            sigma as in openai/consistency_models (the paper writes sigma_next).
        target: decay of the target's moving average; at 0 the target is the online network itself behind a stop-gradient.
        sigma_data: standard deviation of the data: for the weight "karras", and for the model's scalings.
    """

    pairs: GridPairs | EctPairs = field(default_factory=GridPairs)
    bridge: Literal["noise", "euler", "heun", "midpoint"] = "noise"
    distance: Distance = field(default_factory=Distance)
    weight: Literal["1", "1/dt", "snr", "snr+1", "karras", "truncated-snr"] = "1/dt"
    target: FixedMu | AdaptiveMu = field(default_factory=FixedMu)
    sigma_data: float = SIGMA_DATA
    needs_uncertainty = False

    def __post_init__(self):
        if isinstance(self.target, AdaptiveMu) and not isinstance(self.pairs, GridPairs):
            raise ValueError("an adaptive target decay follows N(k): give it pairs on a grid, or take FixedMu")
        if self.bridge not in ("noise", *BRIDGES):
            raise ValueError(f"unknown bridge {self.bridge!r}: choose one of noise, {', '.join(BRIDGES)}")
        _check_weight(self.weight, ("1", "1/dt", *(w for w in WEIGHTS if w != "uniform")))  # "uniform" is "1"

    @property
    def needs_teacher(self) -> bool:
        return self.bridge != "noise"

    @property
    def needs_target(self) -> bool:
        return self.target.mu > 0 if isinstance(self.target, FixedMu) else self.target.mu0 > 0

    @property
    def precond(self) -> Precond:
        return Precond(self.sigma_data, self.pairs.sigma_min or SIGMA_MIN)

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
                else "bridge 'noise' does not use a teacher: choose another bridge, or leave the teacher out"
            )
        if self.needs_target != (target is not None):
            raise ValueError(
                "this loss needs a target, a moving average of the model: pass target=, or take FixedMu(0)"
                if self.needs_target
                else "the target of this loss is the model itself: leave target out, or give the loss target=FixedMu(0.95)"
            )
        source = as_draws(draws)
        sigma, sigma_next = (s.to(x0) for s in self.pairs(len(x0), progress, source))
        eps = source.normal(x0.shape).to(x0)
        x = x0 + expand(sigma, x0) * eps
        with torch.no_grad():
            if teacher is None:
                x_next = x0 + expand(sigma_next, x0) * eps
            else:
                x_next = BRIDGES[self.bridge](teacher, x, sigma, sigma_next, label).x.to(x0)
        with replay_rng(x0.device) as replay:
            out = model(x, sigma, label)
            replay.rewind()  # the target drops the same units
            with torch.no_grad():
                goal = self._goal(model if target is None else target, x_next, sigma_next, label)
        if self.weight == "1/dt":
            weight = 1 / (sigma - sigma_next)
        else:
            weight = WEIGHTS["uniform" if self.weight == "1" else self.weight](sigma, self.sigma_data)
        return LossOut(weight * self.distance(out, goal), sigma, weight)

    def _goal(self, target: Denoise, x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        if self.pairs.sigma_min > 0:
            return target(x, sigma, label)
        clean = sigma == 0  # ECT's early stages: there x is the data itself, and no network need be asked
        return x if bool(clean.all()) else torch.where(expand(clean, x), x, target(x, sigma, label))


def vp() -> DenoisingLoss:
    """The VP loss (EDM, Table 1): levels even in the VP schedule's time, squared error of eps."""
    return DenoisingLoss(VPTime(), "snr")


def ve() -> DenoisingLoss:
    """The VE loss (EDM, Table 1): log-uniform levels, squared error of eps."""
    return DenoisingLoss(LogUniform(), "snr")


def iddpm() -> DenoisingLoss:
    """The improved DDPM loss (EDM, Table 1): levels of its table, squared error of eps; the learned variance is left out."""
    return DenoisingLoss(TableUniform(), "snr")


def cd(n: int = 80, solver: Literal["euler", "heun", "midpoint"] = "heun") -> ConsistencyLoss:
    """Consistency distillation (CM, Algorithm 2), with the weight 1/dt and N = 80 that small models want."""
    return ConsistencyLoss(GridPairs(FixedN(n)), solver, Distance("huber"), "1/dt")


def ct(s0: int = 2, s1: int = 150, mu0: float = 0.9) -> ConsistencyLoss:
    """Consistency training as the paper has it (CM, Algorithm 3, Table 3): N(k), mu(k), l2, weight 1."""
    return ConsistencyLoss(GridPairs(ProgressiveN(s0, s1)), "noise", Distance("l2"), "1", AdaptiveMu(s0, mu0))


def ict(
    s0: int = 10, s1: int = 1280, density: Literal["lognormal", "uniform"] = "lognormal", c: float | None = None
) -> ConsistencyLoss:
    """Improved consistency training (iCT, arXiv 2310.14189): lognormal pairs, pseudo-Huber, 1/dt, no target average.

    ``density`` "uniform" draws each pair of the grid as often, as CT does; ``c`` is the pseudo-Huber's, by default the paper's.
    """
    return ConsistencyLoss(GridPairs(DoublingN(s0, s1), density), "noise", Distance("huber", c), "1/dt")


def ect(q: float = 2.0, stages: int = 8) -> ConsistencyLoss:
    """Easy consistency tuning (ECT, arXiv 2406.14548): start it from a trained diffusion model."""
    return ConsistencyLoss(EctPairs(q, stages), "noise", Distance("huber", 0.0), "1/dt")


LOSSES = {
    "edm": EDMLoss,
    "vp": vp,
    "ve": ve,
    "iddpm": iddpm,
    "pd": ProgressiveLoss,
    "cd": cd,
    "ct": ct,
    "ict": ict,
    "ect": ect,
    **CONTINUOUS,
}
