"""openai/consistency_models: scalings, grids, N(k) and mu(k)."""

import torch
from conftest import KnownDraws
from torch import nn

from cmlab.denoiser import Precond
from cmlab.losses import WEIGHTS, DenoisingLoss
from cmlab.methods.progressive import HalvingN, ProgressiveLoss
from cmlab.networks.adm import time_features
from cmlab.noise import sampling_sigmas
from cmlab.samplers import ancestral_levels
from cmlab.schedules import AdaptiveMu, FixedMu, FixedN, GridPairs, LogNormal, ProgressiveN
from cmlab.training import update_average

from .base import F32_ELEMENTARY, F64, Check, Skip, runs, tolerance


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
    yield Check("snr", WEIGHTS["snr"](sigma, case.scalars["sigma_data"]), tol)
    yield Check("rescaled_t", 1000 * edm.c_noise, tol)
    for name in ("snr", "snr+1", "karras", "truncated-snr", "uniform"):
        yield Check(f"w[{name}]", WEIGHTS[name](sigma, case.scalars["sigma_data"]), tol)


@runs("a_.*", "get_sigmas_karras")
def karras(case):
    s = case.scalars
    for name in case.names("out"):
        levels = sampling_sigmas(int(name[1:]), s["sigma_min"], s["sigma_max"], s["rho"])
        yield Check(name, levels, tolerance(case.dtype, F32_ELEMENTARY))


@runs("a_.*", "append_zero")
def append_zero(case):
    yield Skip("y", "no-append-zero")


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
    s, tol = case.scalars, tolerance(case.dtype, F32_ELEMENTARY)
    n, asked = s["num_scales"], []
    loss = ProgressiveLoss(HalvingN(max(n, 2)), sigma_min=s["sigma_min"], sigma_max=s["sigma_max"], rho=s["rho"])

    def teacher(x, sigma, label=None):
        asked.append(sigma)
        return x

    draws = KnownDraws([torch.zeros(n, 1)], [(torch.arange(n).double() + 0.5) / n])
    loss(lambda x, *_: x, torch.zeros(n, 1, dtype=torch.float64), progress=float(n == 1), teacher=teacher, draws=draws)
    yield Check("t", asked[0], tol)
    yield Check("t2", asked[1], tol)


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
    loss = DenoisingLoss(LogNormal(case.scalars["p_mean"], case.scalars["p_std"]), "uniform")
    out = loss(lambda x, *_: x, torch.zeros(len(z), 1), draws=KnownDraws([z, torch.zeros(len(z), 1)]))
    yield Check("sigmas", out.sigma, F32_ELEMENTARY)
    yield Check("weights", out.weight, 0)  # drawn from the density itself: no importance weight


@runs("f_.*", "create_ema_and_scales_fn")
def ema_and_scales(case):
    s, step = case.scalars, case.input("step")
    total, start = s["total_steps"], s["start_scales"]
    schedules = {
        "fixed": lambda: FixedN(start),
        "progressive": lambda: ProgressiveN(start, s["end_scales"]),
        "progdist": lambda: HalvingN(start, s["distill_steps_per_iter"] / total),
    }
    n_of = schedules[s["scale_mode"]]()
    if s["scale_mode"] == "progdist":
        mu_of = FixedMu(1.0)  # the target of progressive distillation never moves
    else:
        mu_of = AdaptiveMu(start, s["start_ema"], "code") if s["target_ema_mode"] == "adaptive" else FixedMu(s["start_ema"])
    progress = [float(k) / total for k in step]
    n = torch.tensor([n_of(p) for p in progress])
    mu = torch.tensor([mu_of(p, int(k)) for p, k in zip(progress, n, strict=True)], dtype=torch.float64)
    inside = step <= total if s["scale_mode"] == "progressive" else None
    yield Check("scales", n, 0, inside, "clamped-progress")
    yield Check("target_ema", mu, F64, inside if isinstance(mu_of, AdaptiveMu) else None, "clamped-progress")
