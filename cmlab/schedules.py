"""What training draws: noise-level densities, pairs (sigma, sigma_next), N(k) and mu(k).

``progress`` is k/K, the trained fraction in [0, 1]; schedules clamp it, so training past the plan cannot run away
(openai/consistency_models lets N grow without end).
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from .base.suggest import check_choice
from .denoiser import Precond, Preconditioning
from .noise import RHO, SIGMA_MAX, SIGMA_MIN, Draws, karras_sigmas


def _clamp01(progress: float) -> float:
    return min(max(progress, 0.0), 1.0)


def _whole_units(units: float) -> int:
    """``units`` rounded down, and up where only a rounding error is missing."""
    # progress = k/K and phase = P/K are rounded: their quotient may miss the whole number k/P by 1e-13, never by 1e-9.
    return math.floor(units + 1e-9)


class Density(ABC):
    """How often training meets each noise level. Its subclasses are frozen dataclasses."""

    @abstractmethod
    def __call__(self, n: int, draws: Draws) -> Tensor:
        """``n`` levels (n,), float64."""

    def precond(self, sigma_data: float) -> Preconditioning:
        """The scalings that go with these levels in EDM's Table 1."""
        return Precond(sigma_data)


class Pairs(ABC):
    """Which two levels a consistency loss compares. Its subclasses are frozen dataclasses with a lowest level ``sigma_min``."""

    sigma_min: float

    @property
    def scheduled(self) -> bool:
        """Whether they change with ``progress``."""
        return True

    @abstractmethod
    def __call__(self, count: int, progress: float, draws: Draws) -> tuple[Tensor, Tensor]:
        """sigma and the lower sigma_next, two float64 tensors (count,), at this part of the training."""


@dataclass(frozen=True)
class LogNormal(Density):
    """ln sigma ~ N(mean, std^2): the density of EDM training (EDM, Table 1)."""

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self):
        if not self.std >= 0:
            raise ValueError(f"the standard deviation of ln sigma, std, is at least 0: got {self.std}")

    def __call__(self, n: int, draws: Draws) -> Tensor:
        return (self.mean + self.std * draws.normal((n,)).double()).exp()


@dataclass(frozen=True)
class FixedN:
    """The same number of grid points throughout (CD)."""

    n: int = 80

    def __call__(self, progress: float) -> int:
        return self.n


@dataclass(frozen=True)
class ProgressiveN:
    """N(k) = ceil(sqrt(k/K ((s1+1)^2 - s0^2) + s0^2) - 1) + 1 (CM, appendix C)."""

    s0: int = 2
    s1: int = 150

    def __call__(self, progress: float) -> int:
        p = _clamp01(progress)
        return max(2, math.ceil(math.sqrt(p * ((self.s1 + 1) ** 2 - self.s0**2) + self.s0**2) - 1) + 1)


@dataclass(frozen=True)
class DoublingN:
    """N = min(s0 2^stage, s1) + 1, with stages of equal length (iCT, section 3.4).

    ``phase`` is the length of a stage as a part of the training. None divides the training evenly, 1 / (log2(s1 // s0) + 1); iCT
    rounds that down to a whole number of steps.
    """

    s0: int = 10
    s1: int = 1280
    phase: float | None = None

    def __post_init__(self):
        if not 1 <= self.s0 <= self.s1:
            raise ValueError(f"need 1 <= s0 <= s1, got {self.s0} and {self.s1}")
        _check_phase(self.phase)

    def __call__(self, progress: float) -> int:
        phase = self.phase or 1 / (math.log2(self.s1 // self.s0) + 1)
        return min(self.s0 * 2 ** min(_whole_units(_clamp01(progress) / phase), 64), self.s1) + 1


@dataclass(frozen=True)
class HalvingN:
    """N = start, start/2, start/4, ..., 1: the number of steps of a progressively distilled sampler.

    Each N lasts ``phase``, a part of the training; N = 2 lasts two, and N = 1 stays to the end. ``phase=None`` gives N = 1 two
    as well: it is 1 / (log2(start) + 3) (Progressive Distillation, 2202.00512; the doubled last stages are CM's, appendix C).
    """

    start: int = 64
    phase: float | None = None

    def __post_init__(self):
        if self.start < 2:
            raise ValueError(f"start must be at least 2 steps, to be halved, got {self.start}")
        _check_phase(self.phase)

    def __call__(self, progress: float) -> int:
        stages = math.log2(self.start)
        units = max(progress, 0.0) / (self.phase or 1 / (stages + 3))
        n = max(self.start >> _whole_units(units), 2)
        return n if n > 2 else max(2 >> _whole_units(max(units - (stages - 1), 0.0) / 2), 1)


def _check_phase(phase: float | None) -> None:
    if phase is not None and not phase > 0:
        raise ValueError(f"phase is a part of the training and must be above 0, got {phase}")


_grid = lru_cache(maxsize=64)(karras_sigmas)


@lru_cache(maxsize=64)
def _lognormal_cdf(n: int, mean: float, std: float, sigma_min: float, sigma_max: float, rho: float) -> Tensor:
    return lognormal_mass(_grid(n, sigma_min, sigma_max, rho), mean, std).cumsum(0)


def lognormal_mass(sigmas: Tensor, mean: float, std: float) -> Tensor:
    """The share of LogNormal(mean, std) between neighbours of ``sigmas`` (n,) decreasing: (n - 1,), sums to 1 (iCT, eq. 10)."""
    below = torch.erf((sigmas.log() - mean) / (math.sqrt(2) * std))
    mass = below[:-1] - below[1:]
    return mass / mass.sum()


@dataclass(frozen=True)
class GridPairs(Pairs):
    """Neighbours (sigma_i, sigma_{i+1}) of a Karras grid with N(k) points.

    ``density`` "uniform" draws the index evenly (CM, Algorithms 2 and 3); "lognormal" with the mass that LogNormal(mean, std)
    puts between the two levels (iCT, eq. 10).
    """

    n: FixedN | ProgressiveN | DoublingN = field(default_factory=FixedN)
    density: Literal["uniform", "lognormal"] = "uniform"
    mean: float = -1.1
    std: float = 2.0
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    rho: float = RHO

    def __post_init__(self):
        check_choice("density", self.density, ("uniform", "lognormal"))

    @property
    def scheduled(self) -> bool:
        return not isinstance(self.n, FixedN)

    def __call__(self, count: int, progress: float, draws: Draws) -> tuple[Tensor, Tensor]:
        """Two float64 tensors (count,): sigma and the next lower level. Raises ValueError for a grid of fewer than two."""
        n = self.n(progress)
        if n < 2:
            raise ValueError(f"pairs of neighbours need a grid of at least 2 noise levels, got {n}")
        grid = _grid(n, self.sigma_min, self.sigma_max, self.rho)
        u = draws.uniform((count,)).double()
        if self.density == "uniform":
            i = (u * (n - 1)).long()
        else:
            cdf = _lognormal_cdf(n, self.mean, self.std, self.sigma_min, self.sigma_max, self.rho)
            i = torch.searchsorted(cdf, u)
        i = i.clamp_max(n - 2)
        return grid[i], grid[i + 1]


@dataclass(frozen=True)
class EctPairs(Pairs):
    """Continuous pairs that close in on each other: sigma_next = sigma (1 - n(sigma) / q^(stage+1)), n = 1 + k sigmoid(-b sigma).

    At stage 0 and small sigma the lower level is the data itself, so training starts as diffusion and anneals into consistency
    (ECT, arXiv 2406.14548, section 4). ``stages`` of equal length; k = 0 is the mapping without a sigmoid. Levels are kept in
    [sigma_min, sigma_max] and at least ``closest * sigma`` apart, for float32 cannot tell much closer ones from each other.
    ``sigma_min = 0, sigma_max = inf, closest = 0`` is the original.
    """

    q: float = 2.0
    stages: int = 8
    k: float = 8.0
    b: float = 1.0
    mean: float = -1.1
    std: float = 2.0
    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    closest: float = 1e-4

    def __post_init__(self):
        if self.q <= 1 or self.stages < 1:
            raise ValueError(f"need q > 1 and at least 1 stage, got q = {self.q} and stages = {self.stages}")
        if not 0 <= self.sigma_min < self.sigma_max:
            raise ValueError(f"need 0 <= sigma_min < sigma_max, got {self.sigma_min} and {self.sigma_max}")
        if not 0 <= self.closest < 1:
            raise ValueError(f"closest must lie in [0, 1), got {self.closest}")

    @property
    def scheduled(self) -> bool:
        return self.stages > 1

    def stage(self, progress: float) -> int:
        """The stage, 0 to stages - 1, at this part of the training."""
        return min(_whole_units(_clamp01(progress) * self.stages), self.stages - 1)

    def below(self, sigma: Tensor, stage: int) -> Tensor:
        """The lower level that goes with ``sigma`` at a stage, in the shape of sigma."""
        gap = (1 + self.k * torch.sigmoid(-self.b * sigma)) / float(self.q) ** (stage + 1)
        return (sigma * (1 - gap).clamp(0, 1 - self.closest)).clamp_min(self.sigma_min)

    def __call__(self, count: int, progress: float, draws: Draws) -> tuple[Tensor, Tensor]:
        # A pair needs room above sigma_min: the lognormal's far left tail would have weight 1/0 there.
        floor = max(2 * self.sigma_min, 1e-5)
        sigma = LogNormal(self.mean, self.std)(count, draws).clamp(floor, self.sigma_max)
        return sigma, self.below(sigma, self.stage(progress))


@dataclass(frozen=True)
class FixedMu:
    """A constant decay of the target's moving average; 0 makes the target a copy of the online network."""

    mu: float = 0.0

    def __post_init__(self):
        if not 0 <= self.mu <= 1:
            raise ValueError(f"mu must lie in [0, 1], got {self.mu}")

    def __call__(self, progress: float, n: int) -> float:
        return self.mu


@dataclass(frozen=True)
class AdaptiveMu:
    """mu(k) = exp(s0 ln mu0 / N(k)) (CM, appendix C). Both official codes divide by N(k) - 1: ``convention="code"``."""

    s0: int = 2
    mu0: float = 0.9
    convention: Literal["paper", "code"] = "paper"

    def __post_init__(self):
        check_choice("convention", self.convention, ("paper", "code"))
        if not 0 <= self.mu0 < 1:
            raise ValueError(f"mu0 must lie in [0, 1), got {self.mu0}")

    def __call__(self, progress: float, n: int) -> float:
        if self.mu0 == 0:
            return 0.0
        return math.exp(self.s0 * math.log(self.mu0) / (n if self.convention == "paper" else max(n - 1, 1)))
