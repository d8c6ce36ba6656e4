"""Samplers, each a generator of `Step`, so a loop, ``list()``, a live plot and a stop button come for free.

    for step in heun(denoise, x, sampling_sigmas(18)):
        show(step.x0_hat)

Every sampler shares one signature: ``(denoise, x, sigmas, label=None, *, noise=None, project=None)``. ``noise`` is a source of
draws (per-sample seeds, a generator), needed by samplers that add noise. ``project`` maps every x0_hat before it is used: the
hook of zero-shot editing, and of clamping (``project=lambda x0: x0.clamp(-1, 1)``). Faster solvers are in `cmlab.methods`.

The slope of the PF-ODE, dx/dsigma, is e(x, sigma) = (x - D(x, sigma)) / sigma (EDM, eq. 1 with s = 1 and sigma(t) = t).
"""

import inspect
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .base.device import usable_device
from .base.registry import BRIDGES, SAMPLERS
from .denoiser import Denoise, Denoiser, Label, traits_of
from .noise import SIGMA_MAX, SIGMA_MIN, Draws, Source, as_draws, expand, karras_sigmas, noise_like, sampling_sigmas, state_dtype

Hook = Callable[[Tensor], Tensor] | None
Noise = Source | None


class Step(NamedTuple):
    """State after solver step ``i``: ``x`` at noise level ``sigma_next``, the estimate ``x0_hat`` made at ``sigma``.

    ``nfe`` counts calls of the denoiser so far; each asks its networks `Traits.evaluations` times.
    ``x`` and ``x0_hat`` are (B, *S); the levels are Python floats.
    """

    i: int
    x: Tensor
    x0_hat: Tensor
    sigma: float
    sigma_next: float
    nfe: int


Steps = Iterator[Step]


class OdeStep(NamedTuple):
    """One step of a solver: the new state, the first x0_hat and the number of evaluations."""

    x: Tensor
    x0_hat: Tensor
    nfe: int


OneStep = Callable[[Denoise, Tensor, Tensor, Tensor], OdeStep]


def asking(denoise: Denoise, label: Label = None, project: Hook = None) -> Denoise:
    """``denoise`` as the solvers' steps ask it, by x and sigma alone: with this label, its answer mapped by ``project``."""

    def estimate(x: Tensor, sigma: Tensor, _: Tensor | None = None, /) -> Tensor:
        x0_hat = denoise(x, sigma.to(x.device, non_blocking=True), label)
        return x0_hat if project is None else project(x0_hat)

    return estimate


@BRIDGES.register("euler", evaluations=1)
def euler_step(denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor) -> OdeStep:
    """x + (sigma_next - sigma) e: one Euler step down the PF-ODE, the same as DDIM (EDM, eq. 4)."""
    x0_hat = denoise(x, sigma)
    # Written as an interpolation: at sigma_next = 0 it returns x0_hat itself, without rounding.
    ratio = expand(sigma_next / sigma, x)
    return OdeStep(x0_hat + ratio * (x - x0_hat), x0_hat, 1)


@BRIDGES.register("heun", evaluations=2)
def heun_step(denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor) -> OdeStep:
    """Euler's step corrected by the slope at its end (EDM, Algorithm 1). Samples with sigma_next = 0 keep Euler's step."""
    x_euler, x0_hat, _ = euler_step(denoise, x, sigma, sigma_next)
    last = sigma_next == 0
    if not last.is_cuda and bool(last.all()):  # a GPU's answer would have to be waited for
        return OdeStep(x_euler, x0_hat, 1)
    safe_next = torch.where(last, sigma, sigma_next)
    x0_next = denoise(x_euler, safe_next)
    slope = (x - x0_hat) / expand(sigma, x)
    slope_next = (x_euler - x0_next) / expand(safe_next, x)
    corrected = x + expand(sigma_next - sigma, x) * (slope + slope_next) / 2
    return OdeStep(torch.where(expand(last, x), x_euler, corrected), x0_hat, 2)


# --- noise levels --------------------------------------------------------------------------------------------------------


def level_range(denoise: Denoise) -> tuple[float, float]:
    """The lowest and highest level to sample on: 0.002 and 80, cut to those of the training where ``denoise`` states them."""
    low, high = traits_of(denoise).levels
    return max(SIGMA_MIN, low), min(SIGMA_MAX, high)


def round_level(denoise: Denoise, sigma: Tensor) -> Tensor:
    """The nearest level that the network knows, for the preconditionings with a table of them (`IDDPMPrecond`); 0 stays 0.

    Raises ValueError where a level would be rounded to 0.
    """
    traits = traits_of(denoise)
    rounded = torch.where(sigma > 0, traits.round(sigma), sigma)
    if bool(((rounded == 0) & (sigma > 0)).any()):
        raise ValueError(f"the network's lowest level is {traits.levels[0]:.4g}: choose noise levels from there, and 0")
    return rounded


def solver_levels(denoise: Denoise, x: Tensor, sigmas: Tensor, at_least: int = 2) -> Tensor:
    """``sigmas`` checked, on the host, in the dtype of x, each rounded to what the network knows (`round_level`)."""
    sigmas = torch.as_tensor(sigmas, dtype=x.dtype, device="cpu")
    if sigmas.ndim != 1 or len(sigmas) < at_least:
        raise ValueError(f"this sampler needs at least {at_least} noise levels, got {sigmas.tolist()}")
    if not (bool((sigmas >= 0).all()) and bool((sigmas[1:] < sigmas[:-1]).all())):  # in this form NaN is refused too
        raise ValueError(f"noise levels must decrease and not be negative, got {[round(s, 4) for s in sigmas.tolist()]}")
    return round_level(denoise, sigmas)


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
        """The share by which the level is raised before a step from ``sigma`` (); 0 outside of [low, high]."""
        return min(self.amount / steps, math.sqrt(2) - 1) if self.low <= float(sigma) <= self.high else 0.0


NO_CHURN = Churn()


def walk(
    one_step: OneStep,
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    label: Label,
    project: Hook,
    churn: Churn = NO_CHURN,
    draws: Draws | None = None,
) -> Steps:
    """One step of ``one_step`` from every level to the next, each preceded by ``churn``: the loop of every one-step solver."""
    levels, ask = solver_levels(denoise, x, sigmas), asking(denoise, label, project)
    nfe = 0
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        if (gamma := churn.gamma(sigma, len(levels) - 1)) > 0:
            assert draws is not None
            raised = round_level(denoise, sigma * (1 + gamma))
            x = x + (raised**2 - sigma**2).clamp_min(0).sqrt() * churn.noise * noise_like(x, draws)
            sigma = raised
        x, x0_hat, used = one_step(ask, x, sigma, sigma_next)
        nfe += used
        yield Step(i, x, x0_hat, float(sigma), float(sigma_next), nfe)


def last_state(steps: Iterable[Step]) -> Tensor:
    """Run a sampler to its end and return the state x."""
    last = deque(steps, maxlen=1)
    if not last:
        raise ValueError("the sampler made no step")
    return last[0].x


# --- samplers -------------------------------------------------------------------------------------------------------------


@SAMPLERS.register("euler", "Euler", "first order, one evaluation a step; the same as DDIM", kind="ode")
@torch.no_grad()
def euler(denoise: Denoise, x: Tensor, sigmas: Tensor, label: Label = None, *, noise: Noise = None, project: Hook = None) -> Steps:
    """Euler's method (DDIM): first order, one evaluation a step. k + 1 levels give k steps."""
    refuse_noise(noise, "euler")
    yield from walk(euler_step, denoise, x, sigmas, label, project)


@SAMPLERS.register("heun", "Heun", "second order, two evaluations a step", kind="ode")
@torch.no_grad()
def heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    label: Label = None,
    *,
    noise: Noise = None,
    project: Hook = None,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
) -> Steps:
    """Heun's method (EDM, Algorithm 2): second order, two evaluations a step, one in a last step to 0.

    ``churn`` > 0 first raises the noise level by min(churn / steps, sqrt(2) - 1) where churn_min <= sigma <= churn_max, adding
    noise of scale ``churn_noise``; it needs ``noise``. Without churn nothing is drawn.
    """
    churned = Churn(churn, churn_min, churn_max, churn_noise)
    yield from walk(heun_step, denoise, x, sigmas, label, project, churned, churned.draws(noise, "heun"))


def ancestral_levels(sigma: Tensor, sigma_next: Tensor, eta: float = 1.0) -> tuple[Tensor, Tensor]:
    """(sigma_down, sigma_up): go down the ODE to sigma_down, then add noise of scale sigma_up, to end at the level sigma_next.

    sigma_up = eta sigma_next sqrt(1 - (sigma_next / sigma)^2): for eta = 1 the variance of q(x_next | x, x0) (DDPM, eq. 7).
    """
    ratio = sigma_next / sigma
    # sigma_down^2 = sigma_next^2 - sigma_up^2, written without the difference, which rounding can turn negative.
    up = eta * sigma_next * ((sigma - sigma_next) / sigma * (1 + ratio)).sqrt()
    return sigma_next * (1 - eta**2 + eta**2 * ratio**2).sqrt(), up


@SAMPLERS.register("ancestral", "Ancestral (DDPM)", "each step draws fresh noise", kind="sde")
@torch.no_grad()
def ancestral(
    denoise: Denoise, x: Tensor, sigmas: Tensor, label: Label = None, *, noise: Noise = None, project: Hook = None, eta: float = 1.0
) -> Steps:
    """Ancestral sampling (DDPM, Algorithm 2): each step is a draw from q(x_next | x, x0 = D(x)). First order.

    ``eta`` scales the noise between DDPM (1) and DDIM (0), where nothing is drawn (DDIM, eq. 16: the same in VP coordinates).
    """
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie in [0, 1], from DDIM to DDPM, got {eta}")
    draws = refuse_noise(noise, "ddim with eta = 0") if eta == 0 else need_noise(noise, "ancestral sampling")
    ask = asking(denoise, label, project)
    for i, (sigma, sigma_next) in enumerate(pairwise(solver_levels(denoise, x, sigmas))):
        down, up = ancestral_levels(sigma, sigma_next, eta)
        x, x0_hat, _ = euler_step(ask, x, sigma, down)
        if draws is not None and sigma_next > 0:
            x = x + up * noise_like(x, draws)
        yield Step(i, x, x0_hat, float(sigma), float(sigma_next), i + 1)


@SAMPLERS.register("multistep", "Multistep", "a consistency model, noised and asked again at every level", kind="consistency")
@torch.no_grad()
def multistep(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    label: Label = None,
    *,
    noise: Noise = None,
    project: Hook = None,
    sigma_min: float | None = None,
) -> Steps:
    """Multistep consistency sampling (CM, Algorithm 1): k levels give k steps of one evaluation each.

    x0 = f(x, sigmas[0]); then for every further level tau, x0 = f(x0 + sqrt(tau^2 - sigma_min^2) z, tau). With one level this is
    one-step generation, and nothing is drawn. ``sigma_min`` is the level at which f(x) = x, by default the model's (0.002 where
    the model does not say); 0 adds noise of scale tau (ECT's code).
    """
    levels, ask = solver_levels(denoise, x, sigmas, 1), asking(denoise, label, project)
    draws = need_noise(noise, "multistep") if len(levels) > 1 else None
    traits = traits_of(denoise)
    own = traits.levels[0] if traits.consistency else SIGMA_MIN
    floor = own if sigma_min is None else sigma_min
    for i, sigma in enumerate(levels):
        x0_hat = ask(x, sigma)
        if i + 1 == len(levels):
            yield Step(i, x0_hat, x0_hat, float(sigma), 0.0, i + 1)
            return
        assert draws is not None
        spread = (levels[i + 1] ** 2 - floor**2).clamp_min(0).sqrt()
        x = x0_hat + spread * noise_like(x, draws)
        yield Step(i, x, x0_hat, float(sigma), float(levels[i + 1]), i + 1)


@SAMPLERS.register("onestep", "One step", "a consistency model, asked once", kind="consistency")
def onestep(
    denoise: Denoise, x: Tensor, sigmas: Tensor, label: Label = None, *, noise: Noise = None, project: Hook = None
) -> Steps:
    """One evaluation of a consistency model at the single level in ``sigmas``."""
    if len(sigmas) != 1:
        raise ValueError(f"one-step generation takes one noise level, got {len(sigmas)}: use 'multistep' for more")
    return multistep(denoise, x, sigmas, label, noise=noise, project=project)


TWO_STEP_SIGMA = 0.821  # iCT's and ECT's second level on CIFAR-10


def adds_noise(sampler: str, levels: int, **options) -> bool:
    """Whether ``sampler``, on this many levels and with these options, needs a source of noise."""
    kind = SAMPLERS.record(sampler).kind
    if kind == "consistency":
        return levels > 1
    return options.get("eta", float(kind == "sde")) > 0 or options.get("churn", 0.0) > 0


def default_sigmas(sampler: str, steps: int, sigma_max: float = SIGMA_MAX, sigma_min: float = SIGMA_MIN) -> Tensor:
    """The levels for a whole number of steps of ``sampler``: a Karras grid, which ends at 0 for a diffusion model.

    The second level of two-step consistency sampling is the one that iCT and ECT found. With other numbers of steps a consistency
    model takes the Karras grid without its lowest level. Raises ValueError for less than one step.
    """
    kind = SAMPLERS.record(sampler).kind
    if not isinstance(steps, Integral) or steps < 1:
        raise ValueError(f"need a whole number of steps, at least 1 step: got {steps!r}")
    steps = int(steps)
    if kind == "distilled":
        return karras_sigmas(steps + 1, sigma_min, sigma_max)
    if kind != "consistency":
        return sampling_sigmas(steps, sigma_min, sigma_max)
    if sampler == "onestep" and steps != 1:
        more = "use 'multistep' for more steps of a consistency model, 'heun' for a diffusion model"
        raise ValueError(f"'onestep' takes 1 step, got {steps}: {more}")
    if steps == 2:
        return torch.tensor([sigma_max, TWO_STEP_SIGMA], dtype=torch.float64)
    return karras_sigmas(steps + 1, sigma_min, sigma_max)[:-1]


class Plan(NamedTuple):
    """How a model is sampled. ``sigmas`` are float64; ``chosen``: they were given or searched for, not made by `default_sigmas`."""

    sampler: str
    steps: int
    sigmas: Tensor
    chosen: bool = False


def plan(
    denoise: Denoise,
    sampler: str | None = None,
    steps: int | None = None,
    sigmas: Tensor | Sequence[float] | None = None,
    about: Mapping[str, Any] | None = None,
) -> Plan:
    """Which sampler, how many steps and which levels a model is sampled with: what the arguments say, else the default.

    A consistency model takes "multistep" in 1 step, any other "heun" in 18, on the levels of `default_sigmas` within those of its
    training. ``about`` is what a checkpoint's header tells: a progressively distilled student names its own sampler and steps,
    and a consistency model may keep levels that were searched for two steps. Raises ValueError for an unknown sampler.
    """
    about = about or {}
    usual = "multistep" if traits_of(denoise).consistency else "heun"
    sampler = str(sampler or about.get("sampler") or usual)
    consistency = SAMPLERS.record(sampler).kind == "consistency"
    if sigmas is not None:
        levels = torch.as_tensor(sigmas, dtype=torch.float64)
        return Plan(sampler, len(levels) - (not consistency), levels, True)
    if steps is None:
        steps = int(about["steps"]) if sampler == about.get("sampler") else 1 if consistency else 18
    searched = about.get("two_steps") if sampler == "multistep" else None
    if isinstance(searched, Mapping) and len(searched["sigmas"]) == steps:
        return Plan(sampler, steps, torch.tensor(searched["sigmas"], dtype=torch.float64), True)
    low, high = level_range(denoise)
    return Plan(sampler, steps, default_sigmas(sampler, steps, high, low))


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
        seeds: whole numbers, one for each sample: ``range(16)`` are 16 samples. A number alone is no count but one seed: ``16`` is
            the one sample of seed 16, the last of ``range(17)``.
        sampler, steps, sigmas: a name in SAMPLERS, a number of steps, or noise levels in place of steps; by default as `plan` says.
        label: the class of each sample, (len(seeds),), or one for all.
        options: of the sampler (``churn``, ``project``, ...).

    Raises ValueError for what does not fit together, FloatingPointError for samples that are not finite.
    """
    device = usable_device(device)
    sampler, _, levels, _ = plan(denoise, sampler, steps, sigmas)
    known = list(inspect.signature(SAMPLERS[sampler]).parameters)[5:]  # after denoise, x, sigmas, label, noise
    if strange := [name for name in options if name not in known]:
        raise ValueError(f"{sampler} has no option {strange[0]!r}: it takes {', '.join(known)}")
    many = isinstance(seeds, Iterable) and getattr(seeds, "ndim", 1)  # else one number, of Python, numpy or torch
    each: list[int] = list(seeds) if many else [seeds]  # pyright: ignore[reportAssignmentType, reportArgumentType]
    draws = as_draws(each)
    label = None if label is None else _class_of_each(denoise, label, len(each)).to(device)
    start = float(round_level(denoise, levels[:1])[0])
    x = draws.normal((len(each), *shape)).to(device, state_dtype(device)) * start
    noise = draws if adds_noise(sampler, len(levels), **options) else None
    with torch.no_grad():  # also of a sampler of one's own
        out = last_state(SAMPLERS[sampler](denoise, x, levels, label, noise=noise, **options))
    if out.shape != x.shape:
        raise ValueError(f"the last state of {sampler} has the shape {tuple(out.shape)}, x had {tuple(x.shape)}: a step keeps it")
    if not out.isfinite().all():
        raise FloatingPointError(f"the samples are not finite numbers: the model is broken, or {sampler} diverges at these levels")
    return out


def _class_of_each(denoise: Denoise, label: int | Sequence[int] | Tensor, n: int) -> Tensor:
    """``label`` as a tensor (n,), one number being the class of all."""
    try:
        numbers = torch.as_tensor(label)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"label is a class number, or one per seed ({n} here): got {label!r:.60}") from None
    numbers = numbers.expand(n) if numbers.ndim == 0 else numbers
    if numbers.shape != (n,):
        raise ValueError(f"{n} seeds take {n} labels, or one number for all: got labels of shape {tuple(numbers.shape)}")
    # Read once, wherever the labels are: on a GPU a class that is not there would end the process.
    return denoise.check_label(numbers.cpu(), n) if isinstance(denoise, Denoiser) else numbers
