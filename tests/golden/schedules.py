"""openai/consistency_models: scalings, grids, N(k) and mu(k)."""

import math

import torch
from conftest import KnownDraws
from torch import nn

from cmlab.denoiser import Precond
from cmlab.losses import WEIGHTS
from cmlab.networks.adm import time_features
from cmlab.noise import karras_sigmas
from cmlab.samplers import ancestral_levels
from cmlab.schedules import AdaptiveMu, FixedN, GridPairs, HalvingN, LogNormal, ProgressiveN
from cmlab.training import update_average

from .base import F32_ELEMENTARY, Check, runs, tolerance


@runs("a_.*", "KarrasDenoiser.get_scalings")
def scalings(case):
    sigma = case.input("sigma")
    tol = tolerance(sigma.dtype, F32_ELEMENTARY)
    edm = Precond(case.scalars["sigma_data"])(sigma)
    consistency = Precond(sigma_data=case.scalars["sigma_data"], sigma_min=case.scalars["sigma_min"])(sigma)
    for suffix, c in (("", edm), ("_b", consistency)):
        for name in ("c_skip", "c_out", "c_in"):
            rows = sigma >= case.scalars["sigma_min"] if suffix else None
            yield Check(name + suffix, getattr(c, name), tol, rows, "below-the-boundary")
    yield Check("snr", sigma**-2, tol)
    yield Check("rescaled_t", 1000 * edm.c_noise, tol)
    for name in ("snr", "snr+1", "karras", "truncated-snr", "uniform"):
        yield Check(f"w[{name}]", WEIGHTS[name](sigma, case.scalars["sigma_data"]), tol)


def _levels(case, n: int):
    s = case.scalars
    return karras_sigmas(n, s["sigma_min"], s["sigma_max"], s["rho"])


@runs("a_.*", "get_sigmas_karras")
def karras(case):
    for name in case.names("out"):
        n = int(name[1:])
        yield Check(name, torch.cat([_levels(case, n), torch.zeros(1)]), tolerance(case.dtype, F32_ELEMENTARY))


@runs("a_.*", "append_zero")
def append_zero(case):
    x = case.input("x")
    yield Check("y", torch.cat([x, x.new_zeros(1)]), 0)


@runs("a_.*", "get_ancestral_step")
def ancestral(case):
    down, up = ancestral_levels(case.input("sigma_from"), case.input("sigma_to"))
    tol = tolerance(case.dtype, F32_ELEMENTARY)
    yield Check("sigma_down", down, tol)
    yield Check("sigma_up", up, tol)


@runs("a_.*", "consistency_losses: t and t2")
def pairs(case):
    s, tol = case.scalars, tolerance(case.dtype, F32_ELEMENTARY)
    count = s["num_scales"] - 1
    draw = GridPairs(FixedN(s["num_scales"]), sigma_min=s["sigma_min"], sigma_max=s["sigma_max"], rho=s["rho"])
    t, t2 = draw(count, 0.0, KnownDraws(uniforms=[(torch.arange(count).double() + 0.5) / count]))
    yield Check("t", t, tol)
    yield Check("t2", t2, tol)


@runs("a_.*", "progdist_losses: t and t2")
def halves(case):
    grid = _levels(case, 2 * case.scalars["num_scales"] + 1)
    tol = tolerance(case.dtype, F32_ELEMENTARY)
    yield Check("t", grid[:-1:2], tol)
    yield Check("t2", grid[1::2], tol)


@runs("a_.*", "timestep_embedding")
def embedding(case):
    # The original computes in float32 whatever it is given: angles up to 1e3 rad leave 6e-5.
    yield Check("emb", time_features(case.input("t", torch.float32), case.scalars["dim"], case.scalars["max_period"]), 2e-4)


@runs("a_.*", "update_ema")
def ema(case):
    target, source = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    target.weight, source.weight = (nn.Parameter(case.input(n)) for n in ("target", "source"))
    update_average(target, source, case.scalars["rate"])
    yield Check("target_new", target.weight, 1e-9)


@runs("a_.*", "LogNormalSampler.sample")
def lognormal(case):
    z = case.input("z")
    sigma = LogNormal(case.scalars["p_mean"], case.scalars["p_std"])(len(z), KnownDraws(normals=[z]))
    yield Check("sigmas", sigma, F32_ELEMENTARY)
    yield Check("weights", torch.ones(len(z)), 0)  # drawn from the density itself: no importance weight


@runs("f_.*", "create_ema_and_scales_fn")
def ema_and_scales(case):
    s, step = case.scalars, case.input("step")
    total = s["total_steps"]
    progress = [float(k) / total for k in step]
    inside = step <= total
    if s["scale_mode"] == "progdist":
        halving = HalvingN(s["start_scales"], s["distill_steps_per_iter"] / total)
        n = torch.tensor([halving(p) for p in progress])
        inside = slice(None)
    elif s["scale_mode"] == "progressive":
        grow = ProgressiveN(s["start_scales"], s["end_scales"])
        n = torch.tensor([grow(p) for p in progress])
    else:
        n = torch.full_like(step, s["start_scales"])
    if s["scale_mode"] == "progdist":
        mu = torch.ones(len(n), dtype=torch.float64)  # the target of progressive distillation never moves
    elif s["target_ema_mode"] == "adaptive":
        adaptive = AdaptiveMu(s["start_scales"], s["start_ema"], "code")
        mu = torch.tensor([adaptive(p, int(k)) for p, k in zip(progress, n, strict=True)], dtype=torch.float64)
    else:
        mu = torch.full((len(n),), s["start_ema"], dtype=torch.float64)
    yield Check("scales", n, 0, inside, "clamped-progress")
    yield Check("target_ema", mu, 1e-9, inside, "clamped-progress")
    assert math.isfinite(float(mu.sum()))
