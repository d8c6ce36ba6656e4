"""Training objectives: what a loss is, the denoising loss (EDM), and the consistency loss of which CD, CT, iCT and ECT are presets.

    loss(model, x0, label, progress=..., target=..., teacher=..., draws=...) -> LossOut(loss, sigma, weight)

with one number per sample and nothing reduced: whoever loops decides how to average, log or mask. `cmlab.methods` has the losses of
other diffusion models, progressive distillation, and the limits in continuous time.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .base.registry import BRIDGES, LOSSES
from .base.rng import replay_rng
from .base.suggest import check_choice
from .denoiser import Denoise, Label, Precond, Preconditioning
from .distances import Distance
from .noise import SIGMA_DATA, SIGMA_MIN, Draws, Source, as_draws, expand, noise_like, send
from .samplers import asking
from .schedules import AdaptiveMu, Density, DoublingN, EctPairs, FixedMu, FixedN, GridPairs, LogNormal, Pairs, ProgressiveN


class LossOut(NamedTuple):
    """Per-sample loss (weight already in it), the noise level it was taken at, and the weight: all (B,)."""

    loss: Tensor
    sigma: Tensor
    weight: Tensor


class Given(NamedTuple):
    """What a loss is given beside the model and the data; ``progress`` is the trained part in [0, 1]."""

    progress: float
    target: Denoise | None
    teacher: Denoise | None
    draws: Draws


class Loss:
    """An objective: a subclass writes `of_each` (or its own ``__call__``), and says what that needs.

    Subclasses are frozen dataclasses, so that presets can compare, print and change them.
    """

    needs_teacher: bool = False  # whether it distils: ``teacher`` is a diffusion model or an oracle
    needs_target: bool = False  # whether ``target`` is a moving average of the model
    needs_uncertainty: bool = False  # whether it learns its weights (`continuous.attach_uncertainty`)
    scheduled: bool = True  # whether the objective changes with ``progress``: its steps then depend on how long the training is
    differentiates_forwards: bool = False  # in forward mode, which torch neither compiles nor divides over processes
    teacher_from: Literal["model", "ema"] = "model"  # between two of its `stages`: which weights are the next teacher's
    precond: Preconditioning  # the scalings of the models that it trains; a property, or a field

    @property
    def evaluations(self) -> int:
        """What one sample of a step costs, in forward evaluations of the network: 3 for the gradient, more for the rest."""
        return 3

    def sampled(self, progress: float = 1.0) -> dict[str, Any]:
        """The sampler and steps of its models after the step at ``progress``, as `samplers.plan` takes them in ``about``.

        Nothing where they have a choice, as all but progressively distilled students do.
        """
        return {}

    def stages(self, steps: int) -> list[range]:
        """The steps 0 ... steps - 1 of a training, cut where a student becomes the teacher of the next."""
        return [range(steps)]

    def target_decay(self, progress: float) -> float:
        """mu(k), the decay of the target's moving average after the step at ``progress``: where there is a target."""
        return 0.0

    def __call__(
        self,
        model: Denoise,
        x0: Tensor,
        label: Label = None,
        *,
        progress: float = 0.0,
        target: Denoise | None = None,
        teacher: Denoise | None = None,
        draws: Source,
    ) -> LossOut:
        """The loss of each sample of x0 (B, *S), label (B,). ValueError for models that are missing, or would be ignored."""
        if teacher is None and self.needs_teacher:
            raise ValueError("this loss needs a teacher: a diffusion model or an oracle")
        if teacher is not None and not self.needs_teacher:
            raise ValueError("this loss does not use a teacher: leave teacher out, or choose a loss or a bridge that distils")
        if target is None and self.needs_target:
            raise ValueError("this loss needs a target, a moving average of the model: pass target=, or take FixedMu(0)")
        if target is not None and not self.needs_target:
            raise ValueError("this loss has no target: leave target out, or take a consistency loss with target=FixedMu(0.95)")
        return self.of_each(model, x0, label, Given(progress, target, teacher, as_draws(draws)))

    def of_each(self, model: Denoise, x0: Tensor, label: Label, given: Given) -> LossOut:
        """The loss of each sample, with the models that it needs and no others."""
        raise TypeError(f"{type(self).__name__} says no loss: write its of_each, or its own __call__")


# Weights lambda(sigma, sigma_data) of the squared error of x0, under the names of openai/consistency_models (snr = 1/sigma^2).
# "karras" is EDM's 1/c_out^2; "snr" makes the loss that of eps, as in VP, VE and iDDPM.
WEIGHTS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "snr": lambda sigma, sigma_data: sigma**-2,
    "snr+1": lambda sigma, sigma_data: sigma**-2 + 1,
    "karras": lambda sigma, sigma_data: sigma**-2 + sigma_data**-2,
    "truncated-snr": lambda sigma, sigma_data: (sigma**-2).clamp_min(1),
    "uniform": lambda sigma, sigma_data: torch.ones_like(sigma),
}
Weight = Literal["snr", "snr+1", "karras", "truncated-snr", "uniform"]


@dataclass(frozen=True)
class DenoisingLoss(Loss):
    """E lambda(sigma) ||D(x0 + sigma eps, sigma) - x0||^2 (EDM, eqs. 2 and 8). The defaults are EDM's own density and weight.

    Args:
        density: draws sigma.
        weight: lambda, see WEIGHTS.
        sigma_data: standard deviation of the data: for the weight "karras", and for EDM's scalings.
        scalings: "edm", whatever the density is; or "density", those of the density's own column in EDM's Table 1.
    """

    density: Density = field(default_factory=LogNormal)
    weight: Weight = "karras"
    sigma_data: float = SIGMA_DATA
    scalings: Literal["edm", "density"] = "edm"
    scheduled = False

    def __post_init__(self):
        check_choice("weight", self.weight, WEIGHTS)
        check_choice("scalings", self.scalings, ("edm", "density"))

    @property
    def precond(self) -> Preconditioning:
        """The scalings of the models that it trains."""
        return Precond(self.sigma_data) if self.scalings == "edm" else self.density.precond(self.sigma_data)

    def of_each(self, model: Denoise, x0: Tensor, label: Label, given: Given) -> LossOut:
        sigma = send(self.density(len(x0), given.draws), x0.device, x0.dtype)
        x = x0 + expand(sigma, x0) * noise_like(x0, given.draws)
        weight = WEIGHTS[self.weight](sigma, self.sigma_data)
        error = (model(x, sigma, label) - x0).square().flatten(1).sum(1)
        return LossOut(weight * error, sigma, weight)


EDMLoss = LOSSES.register(
    "edm",
    "EDM",
    "A diffusion model: it learns to denoise, and is sampled by Heun's method in 18 steps (35 evaluations).",
    kind="diffusion",
    lr=2e-3,
    images=True,
)(DenoisingLoss)


@dataclass(frozen=True)
class ConsistencyLoss(Loss):
    """E w d(f(x, sigma), f_target(x_next, sigma_next)): CD, CT, iCT and ECT are presets of it (CM, Algorithms 2 and 3).

    Args:
        pairs: draws (sigma, sigma_next).
        bridge: how x_next is reached from x. "noise": x0 + sigma_next eps with the same eps (CT); one of BRIDGES: one step of that
            solver along the teacher's PF-ODE (CD).
        distance: d, see `Distance`.
        weight: "1" (the paper); "1/dt", 1/(sigma - sigma_next) (iCT), without which small sigma would hardly be learned;
            or one of WEIGHTS, at sigma as in openai/consistency_models (the paper writes sigma_next).
        target: decay of the target's moving average; at 0 the target is the online network itself behind a stop-gradient.
        sigma_data: standard deviation of the data: for the weight "karras", and for the model's scalings.
    """

    pairs: Pairs = field(default_factory=GridPairs)
    bridge: str = "noise"
    distance: Distance = field(default_factory=Distance)
    weight: Literal["1", "1/dt", "snr", "snr+1", "karras", "truncated-snr"] = "1/dt"
    target: FixedMu | AdaptiveMu = field(default_factory=FixedMu)
    sigma_data: float = SIGMA_DATA

    def __post_init__(self):
        if isinstance(self.target, AdaptiveMu) and not isinstance(self.pairs, GridPairs):
            raise ValueError("an adaptive target decay follows N(k): give it pairs on a grid, or take FixedMu")
        check_choice("bridge", self.bridge, ("noise", *BRIDGES))
        check_choice("weight", self.weight, ("1", "1/dt", *(w for w in WEIGHTS if w != "uniform")))  # "uniform" is "1"

    @property
    def needs_teacher(self) -> bool:
        return self.bridge != "noise"

    @property
    def scheduled(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.pairs.scheduled

    @property
    def needs_target(self) -> bool:
        return self.target.mu > 0 if isinstance(self.target, FixedMu) else self.target.mu0 > 0

    @property
    def precond(self) -> Precond:
        return Precond(self.sigma_data, self.pairs.sigma_min or SIGMA_MIN)

    @property
    def evaluations(self) -> int:
        return 3 + 1 + (BRIDGES.record(self.bridge).facts["evaluations"] if self.needs_teacher else 0)

    def target_decay(self, progress: float) -> float:
        """mu(k), the decay of the target's moving average after the step at ``progress``."""
        return self.target(progress, self.pairs.n(progress) if isinstance(self.pairs, GridPairs) else 0)

    def of_each(self, model: Denoise, x0: Tensor, label: Label, given: Given) -> LossOut:
        sigma, sigma_next = (send(s, x0.device, x0.dtype) for s in self.pairs(len(x0), given.progress, given.draws))
        eps = noise_like(x0, given.draws)
        x = x0 + expand(sigma, x0) * eps
        with torch.no_grad():
            if given.teacher is None:
                x_next = x0 + expand(sigma_next, x0) * eps
            else:
                x_next = BRIDGES[self.bridge](asking(given.teacher, label), x, sigma, sigma_next).x.to(x0)
        with replay_rng(x0.device) as replay:
            out = model(x, sigma, label)
            replay.rewind()  # the target drops the same units
            with torch.no_grad():
                goal = self._goal(model if given.target is None else given.target, x_next, sigma_next, label)
        if self.weight == "1/dt":
            weight = 1 / (sigma - sigma_next)
        else:
            weight = WEIGHTS["uniform" if self.weight == "1" else self.weight](sigma, self.sigma_data)
        return LossOut(weight * self.distance(out, goal), sigma, weight)

    def _goal(self, target: Denoise, x: Tensor, sigma: Tensor, label: Label) -> Tensor:
        if self.pairs.sigma_min > 0:
            return target(x, sigma, label)
        clean = sigma == 0  # ECT's early stages: there x is the data itself, and no network need be asked
        return x if not clean.is_cuda and bool(clean.all()) else torch.where(expand(clean, x), x, target(x, sigma, label))


@LOSSES.register(
    "cd",
    "CD",
    "Two neighbouring points of one path share one end: the neighbour comes from the exact PF-ODE, the teacher.",
    kind="distilled",
    start="edm",
    images=True,
)
def cd(n: int = 80, solver: Literal["euler", "heun", "midpoint"] = "heun") -> ConsistencyLoss:
    """Consistency distillation (CM, Algorithm 2), with the weight 1/dt and N = 80 that small models want."""
    return ConsistencyLoss(GridPairs(FixedN(n)), solver, Distance("huber"), "1/dt")


@LOSSES.register(
    "ct",
    "CT",
    "As CD, but without a teacher: the neighbour is the same data point with the same noise, less of it.",
    kind="data",
    images=True,
)
def ct(s0: int = 2, s1: int = 150, mu0: float = 0.9) -> ConsistencyLoss:
    """Consistency training as the paper has it (CM, Algorithm 3, Table 3): N(k), mu(k), l2, weight 1."""
    return ConsistencyLoss(GridPairs(ProgressiveN(s0, s1)), "noise", Distance("l2"), "1", AdaptiveMu(s0, mu0))


@LOSSES.register(
    "ict",
    "iCT",
    "CT improved: pseudo-Huber distance, weight 1/Δσ, no averaged target, steps between neighbours that halve on the way.",
    kind="data",
    start="edm",
    lr=2e-3,
    images=True,
)
def ict(
    s0: int = 10, s1: int = 1280, density: Literal["lognormal", "uniform"] = "lognormal", c: float | None = None
) -> ConsistencyLoss:
    """Improved consistency training (iCT, arXiv 2310.14189): lognormal pairs, pseudo-Huber, 1/dt, no target average.

    ``density`` "uniform" draws each pair of the grid as often, as CT does; ``c`` is the pseudo-Huber's, by default the paper's.
    """
    return ConsistencyLoss(GridPairs(DoublingN(s0, s1), density), "noise", Distance("huber", c), "1/dt")


@LOSSES.register(
    "ect",
    "ECT",
    "Starts as a diffusion model, neighbours far apart; then they come closer. Quick from trained weights.",
    kind="data",
    start="edm",
    lr=2e-3,
    images=True,
)
def ect(q: float = 2.0, stages: int = 8) -> ConsistencyLoss:
    """Easy consistency tuning (ECT, arXiv 2406.14548): start it from a trained diffusion model."""
    return ConsistencyLoss(EctPairs(q, stages), "noise", Distance("huber", 0.0), "1/dt")
