"""EDM's ablation sampler: one family that contains the samplers of DDPM, DDIM, Score SDE, improved DDPM and EDM (EDM, Table 1).

    levels, curve = design(18, "vp", "vp")                       which noise levels, and along which sigma(t)
    for step in ablation(denoise, x, levels, schedule=curve, scaling="vp", solver="euler"):
        ...

With the state s(t) x and the noise level sigma(t), the PF-ODE is (EDM, eq. 81)

    d = (sigma'/sigma + s'/s) x - (sigma' s / sigma) D(x / s, sigma)
"""

import math
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from ..base.suggest import check_choice
from ..denoiser import Denoise, Label, traits_of
from ..noise import RHO, SIGMA_MAX, SIGMA_MIN, noise_like
from ..samplers import Churn, Hook, Noise, Step, Steps, asking, round_level, solver_levels
from .sde import SCALINGS, SCHEDULES, TIME_STEPS, VP, Linear, Schedule, vp_range

LINEAR = Linear()
# The published ranges of noise levels; "vp" follows from its schedule.
RANGES = {"ve": (0.02, 100.0), "iddpm": (SIGMA_MIN, 81.0), "edm": (SIGMA_MIN, SIGMA_MAX)}


def design(
    n: int,
    time_steps: str = "edm",
    schedule: str = "linear",
    *,
    denoise: Denoise | None = None,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    rho: float | None = None,
    epsilon: float = 1e-3,
    **table,
) -> tuple[Tensor, Schedule]:
    """The levels of ``n`` steps, (n + 1,) float64 with 0 at the end, and the curve sigma(t).

    Args:
        time_steps: "vp", "ve", "iddpm" or "edm", EDM's Table 1.
        schedule: "vp", "ve" or "linear". The VP curve goes through (epsilon, sigma_min) and (1, sigma_max).
        denoise: the range is cut to the levels that it was trained on.
        sigma_min, sigma_max: by default those that were published with ``time_steps``.
        rho: of "edm", 7 by default.
        table: ``steps``, ``c1``, ``c2`` and ``abar_dtype`` of `iddpm_sigmas`, for "iddpm".
    """
    check_choice("time steps", time_steps, TIME_STEPS)
    check_choice("schedule", schedule, SCHEDULES)
    if rho is not None and time_steps != "edm":
        raise ValueError(f"rho belongs to the time steps 'edm', not to {time_steps!r}")
    if table and time_steps != "iddpm":
        raise ValueError(f"{', '.join(table)} belong to the time steps 'iddpm', not to {time_steps!r}")
    low, high = RANGES[time_steps] if time_steps in RANGES else vp_range(epsilon)
    low, high = sigma_min or low, sigma_max or high
    known = traits_of(denoise).levels
    low, high = max(low, known[0]), min(high, known[1])
    options = {"vp": {"epsilon": epsilon}, "edm": {"rho": rho or RHO}, "iddpm": table}.get(time_steps, {})
    levels = TIME_STEPS[time_steps](n, low, high, **options)
    curve = VP.through(low, high, epsilon) if schedule == "vp" else SCHEDULES[schedule]()
    return torch.cat([levels, torch.zeros(1, dtype=levels.dtype)]), curve


@torch.no_grad()
def ablation(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    label: Label = None,
    *,
    noise: Noise = None,
    project: Hook = None,
    solver: str = "heun",
    alpha: float = 1.0,
    schedule: Schedule = LINEAR,
    scaling: str = "none",
    churn: float = 0.0,
    churn_min: float = 0.0,
    churn_max: float = math.inf,
    churn_noise: float = 1.0,
) -> Steps:
    """EDM's generalised sampler (EDM, Algorithms 1 and 3); by default it is `heun`.

    x and the states of the steps are x0 + sigma eps, whatever the scaling. Every step is done in t, on s(t) x.

    Args:
        sigmas: levels with 0 at their end, as `design` gives them.
        solver: "euler" or "heun".
        alpha: where Heun's second slope is taken, as a share of the step: 1 is the trapezoid, 1/2 the midpoint rule, 2/3 Ralston's.
        schedule: the curve sigma(t).
        scaling: "vp" or "none".
        churn, churn_min, churn_max, churn_noise: as in `heun`.
    """
    check_choice("solver", solver, ("euler", "heun"))
    check_choice("scaling", scaling, SCALINGS)
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must lie in (0, 1], got {alpha}")
    if solver == "euler" and alpha != 1:
        raise ValueError("alpha belongs to solver 'heun'")
    churned = Churn(churn, churn_min, churn_max, churn_noise)
    draws = churned.draws(noise, "ablation")
    levels, ask = solver_levels(denoise, x, sigmas), asking(denoise, label, project)
    if levels[-1] != 0:
        raise ValueError("the ablation sampler ends at 0: put a 0 at the end of the noise levels")

    scale = partial(SCALINGS[scaling], schedule)

    def slope(state: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """d(state)/dt and x0_hat."""
        sigma, dsigma = schedule.sigma(t), schedule.dsigma(t)
        s, ds = scale(t)
        x0_hat = ask(state / s, sigma)
        return (dsigma / sigma + ds / s) * state - dsigma * s / sigma * x0_hat, x0_hat

    times = torch.cat([schedule.time(levels[:-1]), levels[-1:]])
    state = x * scale(times[0])[0]
    nfe = 0
    for i, (t, t_next) in enumerate(pairwise(times)):
        gamma = churned.gamma(schedule.sigma(t), len(levels) - 1)
        if gamma > 0:
            assert draws is not None
            raised = schedule.time(round_level(denoise, schedule.sigma(t) * (1 + gamma)))
            spread = (schedule.sigma(raised) ** 2 - schedule.sigma(t) ** 2).clamp_min(0).sqrt() * churn_noise
            state = scale(raised)[0] * (state / scale(t)[0] + spread * noise_like(x, draws))
            t = raised
        h = t_next - t
        first, x0_hat = slope(state, t)
        nfe += 1
        if solver == "euler" or t_next == 0:
            state = state + h * first
        else:
            second, _ = slope(state + alpha * h * first, t + alpha * h)
            nfe += 1
            state = state + h * ((1 - 1 / (2 * alpha)) * first + second / (2 * alpha))
        x = state if t_next == 0 else state / scale(t_next)[0]
        yield Step(i, x, x0_hat, float(schedule.sigma(t)), float(levels[i + 1]), nfe)
