"""ODE and consistency samplers. Each is a generator of `Step`, so a loop, ``list()``, a live plot and a stop button come for free.

    for step in heun(denoise, x, sampling_sigmas(18)):
        show(step.x0_hat)

Every sampler shares one signature: ``(denoise, x, sigmas, label=None, *, noise=None, project=None)``. ``noise`` is a source of
draws (per-sample seeds, a generator), needed by samplers that add noise. ``project`` maps every x0_hat before it is used: the
hook of zero-shot editing.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from .denoiser import Denoise
from .noise import SIGMA_MAX, SIGMA_MIN, Draws, as_draws, expand, karras_sigmas, sampling_sigmas, seeds_from, state_dtype

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


def euler_step(
    denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, label: Tensor | None = None, project: Project | None = None
) -> OdeStep:
    """x + (sigma_next - sigma) (x - D) / sigma: one Euler step down the PF-ODE, the same as DDIM (EDM, eq. 4)."""
    x0_hat = denoise(x, sigma, label)
    if project is not None:
        x0_hat = project(x0_hat)
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
    x0_next = denoise(x_euler, safe_next, label)
    if project is not None:
        x0_next = project(x0_next)
    slope = (x - x0_hat) / expand(sigma, x)
    slope_next = (x_euler - x0_next) / expand(safe_next, x)
    corrected = x + expand(sigma_next - sigma, x) * (slope + slope_next) / 2
    return OdeStep(torch.where(expand(last, x), x_euler, corrected), x0_hat, 2)


def _check_sigmas(sigmas: Tensor, at_least: int, dtype: torch.dtype) -> Tensor:
    sigmas = torch.as_tensor(sigmas, dtype=dtype)
    if sigmas.ndim != 1 or len(sigmas) < at_least:
        raise ValueError(f"this sampler needs at least {at_least} noise levels, got {sigmas.tolist()}")
    if not (bool((sigmas >= 0).all()) and bool((sigmas[1:] < sigmas[:-1]).all())):  # in this form NaN is refused too
        raise ValueError(f"noise levels must decrease and not be negative, got {[round(s, 4) for s in sigmas.tolist()]}")
    return sigmas


def _ode(one_step, denoise, x, sigmas, label, project) -> Iterator[Step]:
    levels = _check_sigmas(sigmas, 2, x.dtype).to(x.device)
    nfe = 0
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        x, x0_hat, used = one_step(denoise, x, sigma, sigma_next, label, project)
        nfe += used
        yield Step(i, x, x0_hat, float(sigma), float(sigma_next), nfe)


@torch.no_grad()
def euler(
    denoise: Denoise, x: Tensor, sigmas: Tensor, label: Tensor | None = None, *, noise: Noise = None, project: Project | None = None
) -> Iterator[Step]:
    """Euler's method (DDIM): first order, one evaluation a step. k + 1 levels give k steps."""
    _refuse_noise(noise, "euler")
    yield from _ode(euler_step, denoise, x, sigmas, label, project)


@torch.no_grad()
def heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    label: Tensor | None = None,
    *,
    noise: Noise = None,
    project: Project | None = None,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
) -> Iterator[Step]:
    """Heun's method (EDM, Algorithm 2): second order, two evaluations a step, one in a last step to 0.

    ``churn`` > 0 first raises the noise level by min(churn / steps, sqrt(2) - 1) where churn_min <= sigma <= churn_max, adding
    noise of scale ``churn_noise``; it needs ``noise``. Without churn nothing is drawn.
    """
    if churn == 0:
        if (churn_min, churn_max, churn_noise) != (0.0, math.inf, 1.0):
            raise ValueError("churn_min, churn_max and churn_noise need churn > 0")
        _refuse_noise(noise, "heun without churn")
        yield from _ode(heun_step, denoise, x, sigmas, label, project)
        return
    if churn < 0:
        raise ValueError(f"churn adds noise, it cannot be negative: got {churn}")
    draws = _need_noise(noise, "heun with churn")
    levels = _check_sigmas(sigmas, 2, x.dtype).to(x.device)
    gamma_max = min(churn / (len(levels) - 1), math.sqrt(2) - 1)
    nfe = 0
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        sigma_hat = sigma
        if churn_min <= float(sigma) <= churn_max:
            sigma_hat = sigma * (1 + gamma_max)
            x = x + (sigma_hat**2 - sigma**2).sqrt() * churn_noise * draws.normal(x.shape).to(x)
        x, x0_hat, used = heun_step(denoise, x, sigma_hat, sigma_next, label, project)
        nfe += used
        yield Step(i, x, x0_hat, float(sigma_hat), float(sigma_next), nfe)


@torch.no_grad()
def multistep(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    label: Tensor | None = None,
    *,
    noise: Noise = None,
    project: Project | None = None,
    sigma_min: float = SIGMA_MIN,
) -> Iterator[Step]:
    """Multistep consistency sampling (CM, Algorithm 1): k levels give k steps of one evaluation each.

    x0 = f(x, sigmas[0]); then for every further level tau, x0 = f(x0 + sqrt(tau^2 - sigma_min^2) z, tau). With one level this is
    one-step generation, and nothing is drawn.
    """
    levels = _check_sigmas(sigmas, 1, x.dtype).to(x.device)
    draws = _need_noise(noise, "multistep") if len(levels) > 1 else None
    for i, sigma in enumerate(levels):
        x0_hat = denoise(x, sigma, label)
        if project is not None:
            x0_hat = project(x0_hat)
        if i + 1 == len(levels):
            yield Step(i, x0_hat, x0_hat, float(sigma), 0.0, i + 1)
            return
        assert draws is not None
        spread = (levels[i + 1] ** 2 - sigma_min**2).clamp_min(0).sqrt()
        x = x0_hat + spread * draws.normal(x.shape).to(x)
        yield Step(i, x, x0_hat, float(sigma), float(levels[i + 1]), i + 1)


def onestep(
    denoise: Denoise, x: Tensor, sigmas: Tensor, label: Tensor | None = None, *, noise: Noise = None, project: Project | None = None
) -> Iterator[Step]:
    """One evaluation of a consistency model at the single level in ``sigmas``."""
    if len(sigmas) != 1:
        raise ValueError(f"one-step generation takes one noise level, got {len(sigmas)}: use 'multistep' for more")
    return multistep(denoise, x, sigmas, label, noise=noise, project=project)


def _refuse_noise(noise: Noise, name: str) -> None:
    if noise is not None:
        raise ValueError(f"{name} draws nothing: leave noise out")


def _need_noise(noise: Noise, name: str) -> Draws:
    if noise is None:
        raise ValueError(f"{name} adds noise on the way: pass noise=, a list of per-sample seeds or a torch.Generator")
    return as_draws(noise)


def last_state(steps: Iterable[Step]) -> Tensor:
    """Run a sampler to its end and return the state x."""
    step = None
    for step in steps:  # noqa: B007 (only the last one matters)
        pass
    if step is None:
        raise ValueError("the sampler made no step")
    return step.x


SAMPLERS = {"euler": euler, "heun": heun, "onestep": onestep, "multistep": multistep}
ODE_SAMPLERS = ("euler", "heun")
TWO_STEP_SIGMA = 0.821  # iCT's and ECT's second level on CIFAR-10


def default_sigmas(sampler: str, steps: int, sigma_max: float = SIGMA_MAX) -> Tensor:
    """The levels that ``sampler`` takes for ``steps`` steps: a Karras grid (with 0 at its end for ODE samplers).

    Two-step consistency sampling takes the level that iCT and ECT found, more steps an even share of the Karras grid.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    if steps < 1:
        raise ValueError(f"need at least 1 step, got {steps}")
    if sampler in ODE_SAMPLERS:
        if steps == 1:
            return torch.tensor([sigma_max, 0.0], dtype=torch.float64)
        return sampling_sigmas(steps, sigma_max=sigma_max)
    if sampler == "onestep" and steps != 1:
        raise ValueError(f"'onestep' takes 1 step, got {steps}: use 'multistep'")
    if steps == 2:
        return torch.tensor([sigma_max, TWO_STEP_SIGMA], dtype=torch.float64)
    return karras_sigmas(steps + 1, sigma_max=sigma_max)[:-1]


def initial_noise(
    shape: Sequence[int], seeds: Sequence[int], sigma: float = SIGMA_MAX, device: torch.device | str = "cpu"
) -> Tensor:
    """``sigma`` times unit noise, (len(seeds), *shape) float64 (float32 on mps): row k is a function of seeds[k] alone."""
    device = torch.device(device)
    return as_draws(list(seeds)).normal((len(seeds), *shape)).to(device, state_dtype(device)) * sigma


def sample(
    denoise: Denoise,
    shape: Sequence[int],
    seeds: int | Sequence[int],
    sampler: str = "heun",
    steps: int = 18,
    *,
    label: Tensor | None = None,
    sigmas: Tensor | None = None,
    device: torch.device | str = "cpu",
    **options,
) -> Tensor:
    """Draw one sample per seed: x_T from the seed, then ``steps`` steps of ``sampler``. Returns (len(seeds), *shape).

    ``sigmas`` replaces the default levels; ``options`` go to the sampler (``churn``, ``project``, ...). An int for ``seeds`` is
    one seed.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")
    seeds = seeds_from(seeds, 1) if isinstance(seeds, int) else list(seeds)
    levels = default_sigmas(sampler, steps) if sigmas is None else torch.as_tensor(sigmas, dtype=torch.float64)
    draws = as_draws(seeds)
    x = draws.normal((len(seeds), *shape)).to(device, state_dtype(torch.device(device))) * float(levels[0])
    adds_noise = (sampler == "multistep" and len(levels) > 1) or options.get("churn", 0) > 0
    return last_state(SAMPLERS[sampler](denoise, x, levels, label, noise=draws if adds_noise else None, **options))
