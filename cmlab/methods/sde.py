"""Noise schedules sigma(t) with their scalings s(t), and the time steps that go with them (EDM, Table 1; Score SDE, 2011.13456).

Elsewhere in this package ``sigma`` is the time. These are the older coordinates, in which x = s(t) (x0 + sigma(t) eps).
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..noise import SIGMA_MIN, karras_sigmas


class Schedule(Protocol):
    """sigma(t), its derivative, and its inverse, elementwise on tensors in their own dtype."""

    def sigma(self, t: Tensor) -> Tensor: ...

    def dsigma(self, t: Tensor) -> Tensor: ...

    def time(self, sigma: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class VP:
    """Variance preserving: sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1), t in [0, 1] (EDM, Table 1, first column)."""

    beta_d: float = 19.9
    beta_min: float = 0.1

    @classmethod
    def through(cls, sigma_min: float, sigma_max: float, epsilon: float = 1e-3) -> "VP":
        """The schedule with sigma(epsilon) = sigma_min and sigma(1) = sigma_max. Raises ValueError where no schedule does."""
        low, high = math.log1p(sigma_min**2), math.log1p(sigma_max**2)
        beta_d = 2 * (low / epsilon - high) / (epsilon - 1)
        beta_min = high - beta_d / 2
        if beta_min + beta_d * min(epsilon, 1.0) < 0 or beta_min + beta_d < 0:
            raise ValueError(f"no VP schedule rises from {sigma_min} at t = {epsilon} to {sigma_max} at t = 1: raise epsilon")
        return cls(beta_d, beta_min)

    def sigma(self, t: Tensor) -> Tensor:
        return (torch.exp(0.5 * self.beta_d * t**2 + self.beta_min * t) - 1).sqrt()

    def dsigma(self, t: Tensor) -> Tensor:
        sigma = self.sigma(t)
        return 0.5 * (self.beta_min + self.beta_d * t) * (sigma + 1 / sigma)

    def time(self, sigma: Tensor) -> Tensor:
        return ((self.beta_min**2 + 2 * self.beta_d * torch.log(1 + sigma**2)).sqrt() - self.beta_min) / self.beta_d


@dataclass(frozen=True)
class VE:
    """Variance exploding: sigma(t) = sqrt(t) (EDM, Table 1, second column)."""

    def sigma(self, t: Tensor) -> Tensor:
        return t.sqrt()

    def dsigma(self, t: Tensor) -> Tensor:
        return 0.5 / t.sqrt()

    def time(self, sigma: Tensor) -> Tensor:
        return sigma**2


@dataclass(frozen=True)
class Linear:
    """sigma(t) = t: DDIM's and EDM's choice (EDM, Table 1, last columns)."""

    def sigma(self, t: Tensor) -> Tensor:
        return t

    def dsigma(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time(self, sigma: Tensor) -> Tensor:
        return sigma


SCHEDULES = {"vp": VP, "ve": VE, "linear": Linear}


def vp_scale(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """s = 1 / sqrt(1 + sigma^2), which keeps the variance of unit-variance data, and ds/dt."""
    sigma = schedule.sigma(t)
    s = 1 / (1 + sigma**2).sqrt()
    return s, -sigma * schedule.dsigma(t) * s**3


def no_scale(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """s = 1 and ds/dt = 0."""
    return torch.ones_like(t), torch.zeros_like(t)


SCALINGS = {"vp": vp_scale, "none": no_scale}


def _ramp(n: int) -> Tensor:
    if n < 2:
        raise ValueError(f"a grid of noise levels needs at least 2 points here, got {n}")
    return torch.linspace(0, 1, n, dtype=torch.float64)


def vp_range(epsilon: float = 1e-3, schedule: VP = VP()) -> tuple[float, float]:
    """The levels that a VP schedule has at t = epsilon and at t = 1."""
    low, high = schedule.sigma(torch.tensor([epsilon, 1.0], dtype=torch.float64)).tolist()
    return low, high


def vp_sigmas(n: int, sigma_min: float | None = None, sigma_max: float | None = None, epsilon: float = 1e-3) -> Tensor:
    """``n`` decreasing levels, even in the time of the VP schedule through (epsilon, sigma_min) and (1, sigma_max); float64.

    Without a range it is that of Score SDE's schedule, [0.0105, 152] for epsilon = 1e-3.
    """
    low, high = vp_range(epsilon)
    sigma_min, sigma_max = sigma_min or low, sigma_max or high
    return VP.through(sigma_min, sigma_max, epsilon).sigma(1 + _ramp(n) * (epsilon - 1))


def ve_sigmas(n: int, sigma_min: float = 0.02, sigma_max: float = 100.0) -> Tensor:
    """``n`` decreasing levels in geometric progression (Score SDE, section 3.4); float64."""
    return (sigma_max**2 * (sigma_min**2 / sigma_max**2) ** _ramp(n)).sqrt()


def iddpm_table(
    steps: int = 1000,
    c1: float = 0.001,
    c2: float = 0.008,
    dtype: torch.dtype = torch.float64,
    abar_dtype: torch.dtype | None = None,
) -> Tensor:
    """The levels u_0 > ... > u_M = 0 of improved DDPM's cosine schedule, (M + 1,) (EDM, eqs. 238 to 240 and Table 1).

    ``abar_dtype`` is the precision of the cosine; EDM's code takes float32 there, which moves small levels by up to 5e-4.
    """
    j = torch.arange(steps + 1, dtype=abar_dtype or dtype)
    abar = (0.5 * math.pi * j / steps / (c2 + 1)).sin() ** 2
    ratio = (abar[:-1] / abar[1:]).clamp_min(c1)
    u = torch.zeros(steps + 1, dtype=dtype)
    for k in range(steps, 0, -1):
        u[k - 1] = ((u[k] ** 2 + 1) / ratio[k - 1] - 1).sqrt()
    return u


def iddpm_sigmas(
    n: int,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = 81.0,
    steps: int = 1000,
    c1: float = 0.001,
    c2: float = 0.008,
    abar_dtype: torch.dtype | None = None,
) -> Tensor:
    """``n`` of improved DDPM's own levels, evenly spaced by index, decreasing; float64."""
    u = iddpm_table(steps, c1, c2, abar_dtype=abar_dtype)
    inside = u[(u >= sigma_min) & (u <= sigma_max)]
    if len(inside) < n:
        raise ValueError(f"improved DDPM has {len(inside)} levels between {sigma_min} and {sigma_max}: ask for no more, not {n}")
    return inside[((len(inside) - 1) * _ramp(n)).round().long()]


TIME_STEPS = {"vp": vp_sigmas, "ve": ve_sigmas, "iddpm": iddpm_sigmas, "edm": karras_sigmas}
