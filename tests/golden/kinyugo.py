"""Kinyugo's consistency_models: N(k) and mu(k), its grid, training losses and sampler."""

import math
from typing import Any

import torch
from conftest import KnownDraws
from torch import Tensor

from cmlab.denoiser import Coeffs, Denoiser, Precond
from cmlab.distances import Distance
from cmlab.losses import ConsistencyLoss
from cmlab.noise import RHO, SIGMA_DATA, SIGMA_MAX, SIGMA_MIN, karras_sigmas
from cmlab.samplers import multistep
from cmlab.schedules import AdaptiveMu, DoublingN, FixedMu, FixedN, GridPairs, ProgressiveN, lognormal_mass

from .base import F64, Check, runs
from .samplers import StoredDraws, run, unit
from .toys import Calls, ToyNet, params_of


def ends(s: dict[str, Any]) -> dict[str, Any]:
    """Ends and exponent of the case's grid; the original's defaults are cmlab's."""
    defaults = {"sigma_min": SIGMA_MIN, "sigma_max": SIGMA_MAX, "rho": RHO}
    return {k: default if s.get(k) is None else s[k] for k, default in defaults.items()}


@runs("k_.*", "timesteps_schedule", "improved_timesteps_schedule")
def kinyugo_schedules(case):
    s, step = case.scalars, case.input("step")
    total, s0, s1 = s["total_training_steps"], s["initial_timesteps"], s["final_timesteps"]
    if case.fn.startswith("improved"):
        stage = math.floor(total / (math.log2(s1 // s0) + 1))
        grow, inside = DoublingN(s0, s1, stage / total), slice(None)
    else:
        grow, inside = ProgressiveN(s0, s1), step <= total
    n = torch.tensor([grow(float(k) / total) for k in step])
    yield Check("num_timesteps", n, 0, inside, "clamped-progress")
    if case.has("out", "ema"):
        # Where the index does not say, the arguments of the original's example.
        mu = AdaptiveMu(s.get("ema_initial_timesteps", 2), s.get("initial_ema_decay_rate", 0.95))
        decay = torch.tensor([mu(float(k) / total, int(m)) for k, m in zip(step, n, strict=True)], dtype=torch.float64)
        yield Check("ema", decay, F64, inside, "clamped-progress")


@runs("k_.*", "karras_schedule")
def kinyugo_grid(case):
    n = case.scalars["num_timesteps"]
    yield Check("sigmas", karras_sigmas(n, **ends(case.scalars)).flip(0), F64)
    every_pair = KnownDraws([torch.zeros(n - 1, 1)], [(torch.arange(n - 1).double() + 0.5) / (n - 1)])
    loss = ConsistencyLoss(GridPairs(FixedN(n), **ends(case.scalars)), "noise", Distance(), "1/dt")
    x0 = torch.zeros(n - 1, 1, dtype=torch.float64)
    yield Check("improved_loss_weighting", loss(lambda x, *_: x, x0, draws=every_pair).weight.flip(0), F64)


@runs("k_.*", "lognormal_timestep_distribution")
def kinyugo_probabilities(case):
    mass = lognormal_mass(case.input("sigmas").flip(0), case.scalars["mean"], case.scalars["std"])
    yield Check("pdf", mass.flip(0), F64)


@runs("k_.*", "pseudo_huber_loss")
def kinyugo_huber(case):
    a, b = case.input("input"), case.input("target")
    # The original takes every pixel for a vector of its own.
    each = Distance("huber", 0.00054 * math.sqrt(a[0].numel()))(a.reshape(-1, 1), b.reshape(-1, 1))
    yield Check("loss", each.reshape(a.shape), F64)


class RawInput(Precond):
    """Kinyugo's network is given x and sigma as they are."""

    def __call__(self, sigma: Tensor) -> Coeffs:
        return super().__call__(sigma)._replace(c_in=torch.ones_like(sigma), c_noise=sigma)


@runs("k_.*", "ConsistencyTraining.__call__", "ImprovedConsistencyTraining.__call__")
def kinyugo_training(case):
    s, dtype = case.scalars, torch.float64
    x0, n, shape = case.input("x"), s["num_timesteps"], tuple(case.input("x").shape[1:])
    precond = RawInput(s.get("sigma_data", SIGMA_DATA), ends(s)["sigma_min"])
    model = Denoiser(ToyNet(params_of(case, "", dtype), 1.0), precond, shape)
    own = params_of(case, "target.", dtype)
    target = Denoiser(ToyNet(own, 1.0), precond, shape) if own else None
    calls = Calls(model)
    last = Calls(target) if target is not None else calls
    # Its index i counts from the lowest level, and belongs to the pair (sigma_{i+1}, sigma_i).
    u = (n - 2 - case.input("timesteps").double() + 0.5) / (n - 1)
    loss = ConsistencyLoss(
        GridPairs(FixedN(n), **ends(case.scalars)), "noise", Distance("huber"), "1/dt", FixedMu(0.9 if own else 0.0)
    )
    out = loss(model, x0, target=target, draws=KnownDraws([case.input("noise")], [u]))
    yield Check("predicted", calls[0][2], F64)
    yield Check("target", last[-1][2], F64)
    yield Check("sigmas", karras_sigmas(n, **ends(case.scalars)).flip(0), F64)
    if case.has("out", "loss_weights"):
        yield Check("loss_weights", out.weight.reshape(-1, 1, 1, 1), F64)


@runs("k_.*", "ConsistencySamplingAndEditing.__call__")
def kinyugo_sampling(case):
    s, noise = case.scalars, case.input("noise", torch.float64)
    net = ToyNet(params_of(case, "", torch.float64), 1.0)
    model = Denoiser(net, RawInput(s["sigma_data"], s["sigma_min"]), tuple(noise.shape[2:]))
    levels = torch.tensor(s["sigmas"], dtype=torch.float64)
    draws = StoredDraws(case)
    draws.step = 1  # the first stored draw is the start
    project = unit if s["clip_denoised"] else None
    steps, _ = run(multistep(model, levels[0] * noise[0], levels, noise=draws, project=project), draws)
    yield Check("x", steps[-1].x, F64)
