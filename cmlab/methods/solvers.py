"""Further solvers: DPM-Solver and DPM-Solver++, DEIS, and Score SDE's predictor-corrector. Signature and conventions: `samplers`.

In this package's coordinates (EDM: no scaling, sigma is the time) all exponential integrators are short. With t = sigma,
t' = sigma_next and e = (x - D) / sigma, each approximates x' = x + integral of e from t to t'. h is ln(t / t').
"""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..base.registry import BRIDGES, SAMPLERS
from ..base.suggest import check_choice
from ..denoiser import Denoise, Label
from ..noise import Draws, expand, noise_like
from ..samplers import (
    Churn,
    Hook,
    Noise,
    OdeStep,
    Step,
    Steps,
    ancestral,
    asking,
    euler_step,
    need_noise,
    refuse_noise,
    solver_levels,
    walk,
)


@BRIDGES.register("midpoint", evaluations=2)
def midpoint_step(
    denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, r1: float = 0.5, rho: float = math.inf
) -> OdeStep:
    """x' = x + (t' - t) (e + (e_mid - e) / (2 r1)): the slope at a level in between (DPM-Solver-2; r1 = 1/2: the midpoint rule).

    That level is the share ``r1`` of the way from t to t', measured in sigma^(1/rho), or in ln sigma for infinite ``rho``. Where
    it is 0 (infinite rho, t' = 0) Euler's step is taken.
    """
    if math.isinf(rho):
        mid = sigma ** (1 - r1) * sigma_next**r1
    else:
        mid = ((1 - r1) * sigma ** (1 / rho) + r1 * sigma_next ** (1 / rho)) ** rho
    x_mid, x0_hat, _ = euler_step(denoise, x, sigma, mid)
    last = mid == 0
    if not last.is_cuda and bool(last.all()):
        return OdeStep(x_mid, x0_hat, 1)
    safe_mid = torch.where(last, sigma, mid)
    slope = (x - x0_hat) / expand(sigma, x)
    slope_mid = (x_mid - denoise(x_mid, safe_mid)) / expand(safe_mid, x)
    x_next = x + expand(sigma_next - sigma, x) * (slope + (slope_mid - slope) / (2 * r1))
    return OdeStep(torch.where(expand(last, x), x_mid, x_next), x0_hat, 2)


@SAMPLERS.register("ddim", "DDIM (the same as Euler)", "ancestral sampling without its noise", kind="ode")
def ddim(
    denoise: Denoise, x: Tensor, sigmas: Tensor, label: Label = None, *, noise: Noise = None, project: Hook = None, eta: float = 0.0
) -> Steps:
    """DDIM: `ancestral` with eta = 0 unless told otherwise, which is Euler's method (DDIM, section 4.3)."""
    return ancestral(denoise, x, sigmas, label, noise=noise, project=project, eta=eta)


@SAMPLERS.register("dpm2", "DPM-Solver-2", "second order, two evaluations a step", kind="ode")
@torch.no_grad()
def dpm2(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    label: Label = None,
    *,
    noise: Noise = None,
    project: Hook = None,
    r1: float = 0.5,
    rho: float = math.inf,
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
) -> Steps:
    """DPM-Solver-2 (2206.00927, Algorithm 1), the midpoint rule for r1 = 1/2: second order, two evaluations a step.

    The step to 0 is Euler's. ``rho`` = 3 puts the middle where openai/consistency_models does ("dpm"), also in the step to 0.
    Churn as in `heun`.
    """
    if not 0 < r1 <= 1:
        raise ValueError(f"r1 must lie in (0, 1], got {r1}")
    if not rho > 0:
        raise ValueError(f"rho must be above 0, got {rho}")
    churned = Churn(churn, churn_min, churn_max, churn_noise)
    rule = partial(midpoint_step, r1=r1, rho=rho)
    yield from walk(rule, denoise, x, sigmas, label, project, churned, churned.draws(noise, "dpm2"))


def _solver3_step(denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor) -> OdeStep:
    x0_hat = denoise(x, sigma)
    if sigma_next == 0 or sigma_next == sigma:
        return OdeStep(x0_hat + sigma_next / sigma * (x - x0_hat), x0_hat, 1)
    h = torch.log(sigma / sigma_next)
    slope = (x - x0_hat) / sigma
    s1, s2 = sigma * (-h / 3).exp(), sigma * (-2 * h / 3).exp()

    def slope_change(state: Tensor, level: Tensor) -> Tensor:
        return (state - denoise(state, level)) / level - slope

    def rest(step: Tensor) -> Tensor:  # (e^step - 1) / step - 1, what a slope that grows evenly in ln sigma leaves out
        return torch.expm1(step) / step - 1

    first = slope_change(x + (s1 - sigma) * slope, s1)
    second = slope_change(x + (s2 - sigma) * slope - 2 * s2 * rest(2 * h / 3) * first, s2)
    return OdeStep(x + (sigma_next - sigma) * slope - 1.5 * sigma_next * rest(h) * second, x0_hat, 3)


@SAMPLERS.register("dpm_solver3", "DPM-Solver-3", "third order, three evaluations a step", kind="ode")
@torch.no_grad()
def dpm_solver3(
    denoise: Denoise, x: Tensor, sigmas: Tensor, label: Label = None, *, noise: Noise = None, project: Hook = None
) -> Steps:
    """DPM-Solver-3 (2206.00927, Algorithm 2, r1 = 1/3, r2 = 2/3): third order, three evaluations a step, one in a step to 0."""
    refuse_noise(noise, "dpm_solver3")
    yield from walk(_solver3_step, denoise, x, sigmas, label, project)


def _solver2s_step(denoise: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor) -> OdeStep:
    mid = (sigma * sigma_next).sqrt()
    x_mid, x0_hat, _ = euler_step(denoise, x, sigma, mid)
    if sigma_next == 0:
        return OdeStep(x_mid, x0_hat, 1)
    x0_mid = denoise(x_mid, mid)
    return OdeStep(x0_mid + sigma_next / sigma * (x - x0_mid), x0_hat, 2)


@SAMPLERS.register("dpmpp_2s", "DPM-Solver++(2S)", "second order, two evaluations a step", kind="ode")
@torch.no_grad()
def dpmpp_2s(
    denoise: Denoise, x: Tensor, sigmas: Tensor, label: Label = None, *, noise: Noise = None, project: Hook = None
) -> Steps:
    """DPM-Solver++(2S) (2211.01095, Algorithm 1): D, not e, is held fixed in between; second order, two evaluations a step."""
    refuse_noise(noise, "dpmpp_2s")
    yield from walk(_solver2s_step, denoise, x, sigmas, label, project)


@SAMPLERS.register("dpmpp_2m", "DPM-Solver++(2M)", "second order with one evaluation a step", kind="ode")
@torch.no_grad()
def dpmpp_2m(
    denoise: Denoise, x: Tensor, sigmas: Tensor, label: Label = None, *, noise: Noise = None, project: Hook = None, order: int = 2
) -> Steps:
    """DPM-Solver++(2M) (2211.01095, Algorithm 2): second order with one evaluation a step, by use of the previous one.

    x' = (t'/t) x + (1 - t'/t) ((1 + 1/(2r)) D - 1/(2r) D_before), r = h_before / h. The first step and a step to 0 are Euler's;
    with ``order`` = 1 all are.
    """
    refuse_noise(noise, "dpmpp_2m")
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order}")
    ask, before, h_before = asking(denoise, label, project), None, 0.0
    for i, (sigma, sigma_next) in enumerate(pairwise(solver_levels(denoise, x, sigmas))):
        x0_hat = ask(x, sigma)
        target, h = x0_hat, math.log(sigma / sigma_next) if sigma_next > 0 else math.inf
        if order == 2 and before is not None and h_before > 0 and sigma_next > 0:
            target = x0_hat + h / h_before / 2 * (x0_hat - before)
        x = target + sigma_next / sigma * (x - target)
        before, h_before = x0_hat, h
        yield Step(i, x, x0_hat, float(sigma), float(sigma_next), i + 1)


def adams_bashforth(nodes: list[float], start: float, end: float) -> list[float]:
    """Weights C_j with sum_j C_j f(nodes[j]) = the integral from ``start`` to ``end`` of the polynomial through those values.

    Exact up to rounding: Gauss-Legendre with as many points as the degree asks for.
    """
    points, weights = np.polynomial.legendre.leggauss(len(nodes) // 2 + 1)
    s = start + (end - start) * (points + 1) / 2
    result = []
    for j, own in enumerate(nodes):
        basis = np.prod([(s - other) / (own - other) for k, other in enumerate(nodes) if k != j], axis=0)
        result.append(float((end - start) / 2 * (weights * basis).sum()))
    return result


@SAMPLERS.register("deis", "DEIS", "up to fourth order with one evaluation a step", kind="ode")
@torch.no_grad()
def deis(
    denoise: Denoise, x: Tensor, sigmas: Tensor, label: Label = None, *, noise: Noise = None, project: Hook = None, order: int = 3
) -> Steps:
    """DEIS (2204.13902): the slope as a polynomial in sigma through the last ``order`` + 1 evaluations, integrated exactly.

    The paper's rho-AB with rho = sigma (diffusers' polynomial is one in ln sigma): Adams-Bashforth with variable steps, one
    evaluation a step. ``order`` 0 is Euler, 1 to 3 are of order 2 to 4; the first steps use what there is, a step to 0 is Euler's.
    """
    refuse_noise(noise, "deis")
    if order not in (0, 1, 2, 3):
        raise ValueError(f"order must be 0, 1, 2 or 3, got {order}")
    ask, past = asking(denoise, label, project), list[tuple[float, Tensor]]()
    for i, (sigma, sigma_next) in enumerate(pairwise(solver_levels(denoise, x, sigmas))):
        x0_hat = ask(x, sigma)
        # Rounding to the levels of a network's table can make two of them equal: the polynomial takes one.
        past = [(float(sigma), (x - x0_hat) / sigma), *(p for p in past if p[0] != float(sigma))][: order + 1]
        if len(past) == 1 or sigma_next == 0:
            x = x0_hat + sigma_next / sigma * (x - x0_hat)
        else:
            weights = adams_bashforth([level for level, _ in past], float(sigma), float(sigma_next))
            x = x + sum(c * slope for c, (_, slope) in zip(weights, past, strict=True))
        yield Step(i, x, x0_hat, float(sigma), float(sigma_next), i + 1)


@SAMPLERS.register("predictor_corrector", "Predictor-corrector", "a step of the reverse SDE, then Langevin steps", kind="sde")
@torch.no_grad()
def predictor_corrector(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    label: Label = None,
    *,
    noise: Noise = None,
    project: Hook = None,
    sde: str = "ve",
    predictor: str = "reverse_diffusion",
    corrections: int = 1,
    snr: float = 0.16,
    corrector_first: bool = False,
    batch_norms: bool = False,
) -> Steps:
    """Score SDE's predictor-corrector (2011.13456, Algorithms 1 and 2): a step of the reverse SDE, then Langevin steps at its end.

    With s the score, b = 1 - (1 + t'^2) / (1 + t^2) the beta of the step, and y = x / sqrt(1 + sigma^2) the VP state:

        VE   x' = x + (t^2 - t'^2) s + sqrt(t^2 - t'^2) z                 ancestral: noise t' sqrt(t^2 - t'^2) / t
        VP   y' = (2 - sqrt(1 - b)) y + b s + sqrt(b) z                   ancestral: y' = (y + b s) / sqrt(1 - b) + sqrt(b) z
        both x <- x + a s + sqrt(2 a) z,  a = 2 alpha (snr ||z|| / ||s||)^2, alpha = 1 (VE) or 1 - b of the step below (VP)

    The state that goes in and out is x = x0 + sigma eps in both. A step to 0 returns the predictor's mean, without a corrector.

    Args:
        sde: "ve" or "vp".
        predictor: "reverse_diffusion" or "ancestral".
        corrections: Langevin steps M per level, each one evaluation; 0 leaves the predictor alone.
        snr: size of the Langevin steps.
        corrector_first: correct at the step's start, before the prediction, as Score SDE's code does; the paper prints the reverse.
        batch_norms: norms are the batch's means, as in that code, so a sample depends on its batch. Otherwise ||z|| / ||s|| is
            taken to be sigma (of y, sqrt(1 - abar)), its value where the score is that of the noise alone.
    """
    check_choice("sde", sde, ("ve", "vp"))
    check_choice("predictor", predictor, ("reverse_diffusion", "ancestral"))
    if corrections < 0 or snr <= 0:
        raise ValueError(f"need corrections >= 0 and snr > 0, got {corrections} and {snr}")
    draws = need_noise(noise, "predictor_corrector")
    levels, ask = solver_levels(denoise, x, sigmas), asking(denoise, label, project)
    correct = partial(_langevin, ask, draws=draws, vp=sde == "vp", snr=snr, batch=batch_norms)
    predict = _predict_vp if sde == "vp" else _predict_ve
    nfe = 0
    for i, (sigma, sigma_next) in enumerate(pairwise(levels)):
        before, after = (corrections, 0) if corrector_first else (0, corrections if sigma_next > 0 else 0)
        for _ in range(before):
            x = correct(x, sigma, sigma_next)
        x0_hat = ask(x, sigma)
        mean, spread = predict(x, x0_hat, sigma, sigma_next, predictor == "ancestral")
        x = mean if sigma_next == 0 else mean + spread * noise_like(x, draws)
        for _ in range(after):
            x = correct(x, sigma_next, levels[i + 2] if i + 2 < len(levels) else torch.zeros_like(sigma))
        nfe += before + 1 + after
        yield Step(i, x, x0_hat, float(sigma), float(sigma_next), nfe)


def _predict_ve(x: Tensor, x0_hat: Tensor, sigma: Tensor, sigma_next: Tensor, ancestral: bool) -> tuple[Tensor, Tensor]:
    spread = (sigma**2 - sigma_next**2).sqrt()
    mean = x0_hat + (sigma_next / sigma) ** 2 * (x - x0_hat)  # x + (t^2 - t'^2) s, exact at t' = 0
    return mean, spread * sigma_next / sigma if ancestral else spread


def _predict_vp(x: Tensor, x0_hat: Tensor, sigma: Tensor, sigma_next: Tensor, ancestral: bool) -> tuple[Tensor, Tensor]:
    root, root_next = (1 + sigma**2).rsqrt(), (1 + sigma_next**2).rsqrt()  # sqrt(abar): the VP state is root x
    keep = root / root_next  # sqrt(1 - b)
    b = 1 - keep**2
    score = (x0_hat - x) / (sigma**2 * root)
    mean = (root * x + b * score) / keep if ancestral else (2 - keep) * root * x + b * score
    return mean / root_next, b.sqrt() / root_next


def _langevin(denoise: Denoise, x: Tensor, sigma: Tensor, below: Tensor, draws: Draws, vp: bool, snr: float, batch: bool) -> Tensor:
    """One Langevin step at ``sigma``; ``below`` is the next lower level, which gives VP's alpha."""
    root = (1 + sigma**2).rsqrt() if vp else torch.ones_like(sigma)
    alpha = root**2 * (1 + below**2) if vp else 1.0
    score = (denoise(x, sigma) - x) / (sigma**2 * root)
    z = noise_like(x, draws)
    ratio = z.flatten(1).norm(dim=1).mean() / score.flatten(1).norm(dim=1).mean() if batch else sigma * root
    step = 2 * alpha * (snr * ratio) ** 2
    return x + (step * score + (2 * step).sqrt() * z) / root
