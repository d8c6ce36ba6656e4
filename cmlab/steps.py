"""What all samplers share: the `Step` that they yield, the one-step rules of Euler and Heun, noise levels, churn and draws.

The slope of the PF-ODE, dx/dsigma, is e(x, sigma) = (x - D(x, sigma)) / sigma (EDM, eq. 1 with s = 1 and sigma(t) = t).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .denoiser import Denoise
from .noise import SIGMA_MAX, SIGMA_MIN, Draws, as_draws, expand

Project = Callable[[Tensor], Tensor]
Noise = Draws | torch.Generator | Sequence[int] | None


class Step(NamedTuple):
    """State after solver step ``i``: ``x`` at noise level ``sigma_next``, the estimate ``x0_hat`` made at ``sigma``.

    ``nfe`` counts network evaluations so far. ``x`` and ``x0_hat`` are (B, *S); the levels are Python floats.
    """

    i: int
    x: Tensor
    x0_hat: Tensor
    sigma: float
    sigma_next: float
    nfe: int


class OdeStep(NamedTuple):
    """One PF-ODE step: the new state, the first x0_hat and the number of evaluations."""

    x: Tensor
    x0_hat: Tensor
    nfe: int


OneStep = Callable[[Denoise, Tensor, Tensor, Tensor, Tensor | None, Project | None], OdeStep]


def estimate(denoise: Denoise, x: Tensor, sigma: Tensor, label: Tensor | None = None, project: Project | None = None) -> Tensor:
    """x0_hat = D(x, sigma), mapped by ``project`` where there is one."""
    x0_hat = denoise(x, sigma, label)
    return x0_hat if project is None else project(x0_hat)


def euler_step(
    denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, label: Tensor | None = None, project: Project | None = None
) -> OdeStep:
    """x + (sigma_next - sigma) e: one Euler step down the PF-ODE, the same as DDIM (EDM, eq. 4)."""
    x0_hat = estimate(denoise, x, sigma, label, project)
    # Written as an interpolation: at sigma_next = 0 it returns x0_hat itself, without rounding.
    ratio = expand(sigma_next / sigma, x)
    return OdeStep(x0_hat + ratio * (x - x0_hat), x0_hat, 1)


def heun_step(
    denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, label: Tensor | None = None, project: Project | None = None
) -> OdeStep:
    """Euler's step corrected by the slope at its end (EDM, Algorithm 1). Samples with sigma_next = 0 keep Euler's step."""
    x_euler, x0_hat, _ = euler_step(denoise, x, sigma, sigma_next, label, project)
    last = sigma_next == 0
    if bool(last.all()):
        return OdeStep(x_euler, x0_hat, 1)
    safe_next = torch.where(last, sigma, sigma_next)
    x0_next = estimate(denoise, x_euler, safe_next, label, project)
    slope = (x - x0_hat) / expand(sigma, x)
    slope_next = (x_euler - x0_next) / expand(safe_next, x)
    corrected = x + expand(sigma_next - sigma, x) * (slope + slope_next) / 2
    return OdeStep(torch.where(expand(last, x), x_euler, corrected), x0_hat, 2)


# --- noise levels --------------------------------------------------------------------------------------------------------


def level_range(denoise: Denoise) -> tuple[float, float]:
    """[0.002, 80], cut to the levels that ``denoise`` was trained on where it knows them."""
    low, high = getattr(getattr(denoise, "precond", None), "levels", (0.0, math.inf))
    return max(SIGMA_MIN, low), min(SIGMA_MAX, high)


def round_level(denoise: Denoise, sigma: Tensor) -> Tensor:
    """The nearest level that the network knows, for the preconditionings with a table of them (`IDDPMPrecond`); 0 stays 0.

    Raises ValueError where a level would be rounded to 0.
    """
    precond = getattr(denoise, "precond", None)
    if precond is None:
        return sigma
    rounded = torch.where(sigma > 0, precond.round(sigma), sigma)
    if bool(((rounded == 0) & (sigma > 0)).any()):
        raise ValueError(f"the network's lowest level is {precond.levels[0]:.4g}: choose noise levels from there, and 0")
    return rounded


def solver_levels(denoise: Denoise, x: Tensor, sigmas: Tensor, at_least: int = 2) -> Tensor:
    """``sigmas`` checked, in the dtype and on the device of x, each rounded to what the network knows (`round_level`)."""
    sigmas = torch.as_tensor(sigmas, dtype=x.dtype)
    if sigmas.ndim != 1 or len(sigmas) < at_least:
        raise ValueError(f"this sampler needs at least {at_least} noise levels, got {sigmas.tolist()}")
    if not (bool((sigmas >= 0).all()) and bool((sigmas[1:] < sigmas[:-1]).all())):  # in this form NaN is refused too
        raise ValueError(f"noise levels must decrease and not be negative, got {[round(s, 4) for s in sigmas.tolist()]}")
    return round_level(denoise, sigmas.to(x.device))


# --- draws and churn -----------------------------------------------------------------------------------------------------


def refuse_noise(noise: Noise, name: str) -> None:
    if noise is not None:
        raise ValueError(f"{name} draws nothing: leave noise out")


def need_noise(noise: Noise, name: str) -> Draws:
    if noise is None:
        raise ValueError(f"{name} adds noise on the way: pass noise=, a list of per-sample seeds or a torch.Generator")
    return as_draws(noise)


@dataclass(frozen=True)
class Churn:
    """EDM's stochasticity: before a step at ``low`` <= sigma <= ``high`` the level is raised by min(amount / steps, sqrt(2) - 1),
    with fresh noise of scale ``noise`` (EDM, Algorithm 2; S_churn, S_tmin, S_tmax, S_noise)."""

    amount: float = 0.0
    low: float = 0.0
    high: float = math.inf
    noise: float = 1.0

    def __post_init__(self):
        if self.amount < 0:
            raise ValueError(f"churn adds noise, it cannot be negative: got {self.amount}")
        if self.amount == 0 and (self.low, self.high, self.noise) != (0.0, math.inf, 1.0):
            raise ValueError("churn_min, churn_max and churn_noise need churn > 0")

    def draws(self, noise: Noise, name: str) -> Draws | None:
        """The source of draws where there is churn; raises ValueError where noise is missing, or given in vain."""
        if self.amount == 0:
            return refuse_noise(noise, f"{name} without churn")
        return need_noise(noise, f"{name} with churn")

    def gamma(self, sigma: Tensor, steps: int) -> float:
        """By what share a step from ``sigma`` () first raises the level."""
        return min(self.amount / steps, math.sqrt(2) - 1) if self.low <= float(sigma) <= self.high else 0.0


NO_CHURN = Churn()


def walk(
    one_step: OneStep,
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    label: Tensor | None,
    project: Project | None,
    churn: Churn = NO_CHURN,
    draws: Draws | None = None,
) -> Iterator[Step]:
    """One step of ``one_step`` from every level to the next, each preceded by ``churn``: the loop of every one-step solver."""
    levels = solver_levels(denoise, x, sigmas)
    nfe = 0
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        gamma = churn.gamma(sigma, len(levels) - 1)
        if gamma > 0:
            assert draws is not None
            raised = round_level(denoise, sigma * (1 + gamma))
            x = x + (raised**2 - sigma**2).clamp_min(0).sqrt() * churn.noise * draws.normal(x.shape).to(x)
            sigma = raised
        x, x0_hat, used = one_step(denoise, x, sigma, sigma_next, label, project)
        nfe += used
        yield Step(i, x, x0_hat, float(sigma), float(sigma_next), nfe)


def last_state(steps: Iterable[Step]) -> Tensor:
    """Run a sampler to its end and return the state x."""
    step = None
    for step in steps:  # noqa: B007 (only the last one matters)
        pass
    if step is None:
        raise ValueError("the sampler made no step")
    return step.x
