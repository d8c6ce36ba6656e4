"""Samplers, each a generator of `Step`, so a loop, ``list()``, a live plot and a stop button come for free.

    for step in heun(denoise, x, sampling_sigmas(18)):
        show(step.x0_hat)

Every sampler shares one signature: ``(denoise, x, sigmas, label=None, *, noise=None, project=None)``. ``noise`` is a source of
draws (per-sample seeds, a generator), needed by samplers that add noise. ``project`` maps every x0_hat before it is used: the
hook of zero-shot editing, and of clamping (``project=lambda x0: x0.clamp(-1, 1)``). Here are the samplers of the papers on
diffusion and consistency models themselves; `solvers` has the faster ODE solvers and Score SDE's predictor-corrector.
"""

import inspect
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from numbers import Integral

import torch
from torch import Tensor

from .denoiser import Denoise, Denoiser
from .methods.solvers import deis, dpm2, dpm_solver3, dpmpp_2m, dpmpp_2s, predictor_corrector
from .noise import SIGMA_MAX, SIGMA_MIN, as_draws, karras_sigmas, sampling_sigmas, state_dtype, usable_device
from .steps import (
    Churn,
    Noise,
    Project,
    Step,
    estimate,
    euler_step,
    heun_step,
    last_state,
    level_range,
    need_noise,
    refuse_noise,
    round_level,
    solver_levels,
    walk,
)


@torch.no_grad()
def euler(
    denoise: Denoise, x: Tensor, sigmas: Tensor, label: Tensor | None = None, *, noise: Noise = None, project: Project | None = None
) -> Iterator[Step]:
    """Euler's method (DDIM): first order, one evaluation a step. k + 1 levels give k steps."""
    refuse_noise(noise, "euler")
    yield from walk(euler_step, denoise, x, sigmas, label, project)


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
    stirred = Churn(churn, churn_min, churn_max, churn_noise)
    yield from walk(heun_step, denoise, x, sigmas, label, project, stirred, stirred.draws(noise, "heun"))


def ancestral_levels(sigma: Tensor, sigma_next: Tensor, eta: float = 1.0) -> tuple[Tensor, Tensor]:
    """(sigma_down, sigma_up): go down the ODE to sigma_down, then add noise of scale sigma_up, to end at the level sigma_next.

    sigma_up = eta sigma_next sqrt(1 - (sigma_next / sigma)^2): for eta = 1 the variance of q(x_next | x, x0) (DDPM, eq. 7).
    """
    up = eta * (sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2).sqrt()
    return (sigma_next**2 - up**2).sqrt(), up


@torch.no_grad()
def ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    label: Tensor | None = None,
    *,
    noise: Noise = None,
    project: Project | None = None,
    eta: float = 1.0,
) -> Iterator[Step]:
    """Ancestral sampling (DDPM, Algorithm 2): each step is a draw from q(x_next | x, x0 = D(x)). First order.

    ``eta`` scales the noise between DDPM (1) and DDIM (0), where nothing is drawn (DDIM, eq. 16: the same in VP coordinates).
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], from DDIM to DDPM, got {eta}")
    draws = refuse_noise(noise, "ddim with eta = 0") if eta == 0 else need_noise(noise, "ancestral sampling")
    levels = solver_levels(denoise, x, sigmas)
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        down, up = ancestral_levels(sigma, sigma_next, eta)
        x, x0_hat, _ = euler_step(denoise, x, sigma, down, label, project)
        if draws is not None and sigma_next > 0:
            x = x + up * draws.normal(x.shape).to(x)
        yield Step(i, x, x0_hat, float(sigma), float(sigma_next), i + 1)


def ddim(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    label: Tensor | None = None,
    *,
    noise: Noise = None,
    project: Project | None = None,
    eta: float = 0.0,
) -> Iterator[Step]:
    """DDIM: `ancestral` with eta = 0 unless told otherwise, which is Euler's method (DDIM, section 4.3)."""
    return ancestral(denoise, x, sigmas, label, noise=noise, project=project, eta=eta)


@torch.no_grad()
def progressive(
    denoise: Denoise, x: Tensor, sigmas: Tensor, label: Tensor | None = None, *, noise: Noise = None, project: Project | None = None
) -> Iterator[Step]:
    """A progressively distilled student walks the very grid that it was distilled on, by Euler's method (PD, Algorithm 2).

    It was never taught a step to 0, so the levels must end above 0: k + 1 levels `karras_sigmas(k + 1)` for k steps.
    """
    refuse_noise(noise, "progressive")
    if float(sigmas[-1]) == 0:
        raise ValueError("a progressively distilled student stops at its lowest level: leave out the 0 at the end")
    yield from walk(euler_step, denoise, x, sigmas, label, project)


@torch.no_grad()
def multistep(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    label: Tensor | None = None,
    *,
    noise: Noise = None,
    project: Project | None = None,
    sigma_min: float | None = None,
) -> Iterator[Step]:
    """Multistep consistency sampling (CM, Algorithm 1): k levels give k steps of one evaluation each.

    x0 = f(x, sigmas[0]); then for every further level tau, x0 = f(x0 + sqrt(tau^2 - sigma_min^2) z, tau). With one level this is
    one-step generation, and nothing is drawn. ``sigma_min`` is the level at which f(x) = x, by default the model's (0.002 where
    the model does not say); 0 adds noise of scale tau (ECT's code).
    """
    levels = solver_levels(denoise, x, sigmas, 1)
    draws = need_noise(noise, "multistep") if len(levels) > 1 else None
    precond = getattr(denoise, "precond", None)
    own = precond.levels[0] if precond is not None and precond.consistency else SIGMA_MIN
    floor = own if sigma_min is None else sigma_min
    for i, sigma in enumerate(levels):
        x0_hat = estimate(denoise, x, sigma, label, project)
        if i + 1 == len(levels):
            yield Step(i, x0_hat, x0_hat, float(sigma), 0.0, i + 1)
            return
        assert draws is not None
        spread = (levels[i + 1] ** 2 - floor**2).clamp_min(0).sqrt()
        x = x0_hat + spread * draws.normal(x.shape).to(x)
        yield Step(i, x, x0_hat, float(sigma), float(levels[i + 1]), i + 1)


def onestep(
    denoise: Denoise, x: Tensor, sigmas: Tensor, label: Tensor | None = None, *, noise: Noise = None, project: Project | None = None
) -> Iterator[Step]:
    """One evaluation of a consistency model at the single level in ``sigmas``."""
    if len(sigmas) != 1:
        raise ValueError(f"one-step generation takes one noise level, got {len(sigmas)}: use 'multistep' for more")
    return multistep(denoise, x, sigmas, label, noise=noise, project=project)


SAMPLERS = {
    "euler": euler,
    "heun": heun,
    "dpm2": dpm2,
    "dpm_solver3": dpm_solver3,
    "dpmpp_2s": dpmpp_2s,
    "dpmpp_2m": dpmpp_2m,
    "deis": deis,
    "ddim": ddim,
    "progressive": progressive,
    "ancestral": ancestral,
    "predictor_corrector": predictor_corrector,
    "onestep": onestep,
    "multistep": multistep,
}
CONSISTENCY_SAMPLERS = ("onestep", "multistep")  # for consistency models; all others are for diffusion models
SDE_SAMPLERS = ("ancestral", "predictor_corrector")  # always draw, unless eta = 0
ODE_SAMPLERS = tuple(name for name in SAMPLERS if name not in CONSISTENCY_SAMPLERS + SDE_SAMPLERS)  # draw nothing by default
TWO_STEP_SIGMA = 0.821  # iCT's and ECT's second level on CIFAR-10


def _check_sampler(sampler: str) -> None:
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}: choose one of {', '.join(SAMPLERS)}")


def adds_noise(sampler: str, levels: int, **options) -> bool:
    """Whether ``sampler``, on this many levels and with these options, needs a source of noise."""
    if sampler in CONSISTENCY_SAMPLERS:
        return levels > 1
    return options.get("eta", float(sampler in SDE_SAMPLERS)) > 0 or options.get("churn", 0.0) > 0


def default_sigmas(sampler: str, steps: int, sigma_max: float = SIGMA_MAX, sigma_min: float = SIGMA_MIN) -> Tensor:
    """The levels that ``sampler`` takes for a whole number of steps: a Karras grid, for diffusion models with 0 at its end.

    Two-step consistency sampling takes the level that iCT and ECT found, more steps an even share of the Karras grid.
    """
    _check_sampler(sampler)
    if not isinstance(steps, Integral) or steps < 1:
        raise ValueError(f"need a whole number of steps, at least 1 step: got {steps!r}")
    steps = int(steps)
    if sampler == "progressive":
        return karras_sigmas(steps + 1, sigma_min, sigma_max)
    if sampler not in CONSISTENCY_SAMPLERS:
        if steps == 1:
            return torch.tensor([sigma_max, 0.0], dtype=torch.float64)
        return sampling_sigmas(steps, sigma_min, sigma_max)
    if sampler == "onestep" and steps != 1:
        more = "use 'multistep' for more steps of a consistency model, 'heun' for a diffusion model"
        raise ValueError(f"'onestep' takes 1 step, got {steps}: {more}")
    if steps == 2:
        return torch.tensor([sigma_max, TWO_STEP_SIGMA], dtype=torch.float64)
    return karras_sigmas(steps + 1, sigma_min, sigma_max)[:-1]


def initial_noise(
    shape: Sequence[int], seeds: Sequence[int], sigma: float = SIGMA_MAX, device: torch.device | str = "cpu"
) -> Tensor:
    """``sigma`` times unit noise, (len(seeds), *shape) float64 (float32 on mps): row k is a function of seeds[k] alone."""
    device = usable_device(device)
    return as_draws(list(seeds)).normal((len(seeds), *shape)).to(device, state_dtype(device)) * sigma


def sample(
    denoise: Denoise,
    shape: Sequence[int],
    seeds: int | Sequence[int],
    sampler: str | None = None,
    steps: int | None = None,
    *,
    label: int | Sequence[int] | Tensor | None = None,
    sigmas: Tensor | None = None,
    device: torch.device | str = "cpu",
    **options,
) -> Tensor:
    """Draw one sample per seed: x_T from the seed, then ``steps`` steps of ``sampler``. Returns (len(seeds), *shape).

    Args:
        denoise: a model on ``device``.
        seeds: whole numbers; one number is one seed.
        sampler: one of SAMPLERS; None is "multistep" for a consistency model and "heun" for any other.
        steps: None is 1 for "onestep" and "multistep", and 18 for all others.
        label: the class of each sample, (len(seeds),), or one for all.
        sigmas: levels in place of the default ones, which stay within those of the model's training.
        options: of the sampler (``churn``, ``project``, ...).

    Raises ValueError for what does not fit together.
    """
    device = usable_device(device)
    if sampler is None:
        sampler = "multistep" if getattr(getattr(denoise, "precond", None), "consistency", False) else "heun"
    _check_sampler(sampler)
    known = list(inspect.signature(SAMPLERS[sampler]).parameters)[5:]  # after denoise, x, sigmas, label, noise
    if strange := [name for name in options if name not in known]:
        raise ValueError(f"{sampler} has no option {strange[0]!r}: it takes {', '.join(known)}")
    try:
        each: list[int] = list(seeds)  # pyright: ignore[reportArgumentType]
    except TypeError:  # one number, of Python, numpy or torch
        each = [seeds]  # pyright: ignore[reportAssignmentType]
    draws = as_draws(each)
    label = None if label is None else _class_of_each(denoise, label, len(each)).to(device)
    low, high = level_range(denoise)
    if steps is None:
        steps = 1 if sampler in CONSISTENCY_SAMPLERS else 18
    levels = default_sigmas(sampler, steps, high, low) if sigmas is None else torch.as_tensor(sigmas, dtype=torch.float64)
    start = float(round_level(denoise, levels[:1])[0])
    x = draws.normal((len(each), *shape)).to(device, state_dtype(device)) * start
    noise = draws if adds_noise(sampler, len(levels), **options) else None
    return last_state(SAMPLERS[sampler](denoise, x, levels, label, noise=noise, **options))


def _class_of_each(denoise: Denoise, label: int | Sequence[int] | Tensor, n: int) -> Tensor:
    """``label`` as a tensor (n,), one number being the class of all."""
    try:
        numbers = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"label is a class number, or one per seed ({n} here): got {label!r:.60}") from None
    if numbers.ndim == 0:
        numbers = numbers.expand(n)
    if numbers.shape != (n,):
        raise ValueError(f"{n} seeds take {n} labels, or one number for all: got labels of shape {tuple(numbers.shape)}")
    # Read once, wherever the labels are: on a GPU a class that is not there would end the process.
    return denoise.check_label(numbers.cpu(), n) if isinstance(denoise, Denoiser) else numbers
