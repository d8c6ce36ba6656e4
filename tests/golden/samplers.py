"""Samplers, zero-shot edits and few-step generators of openai/consistency_models, NVlabs/edm, ECT and Kinyugo."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from cmlab import editing
from cmlab.denoiser import Denoiser, Precond
from cmlab.methods.ablation import ablation, design
from cmlab.noise import karras_sigmas
from cmlab.samplers import SAMPLERS, Step, multistep, round_level

from .base import F32_ELEMENTARY, F32_UNET_SAMPLER, F64, Case, Check, runs
from .networks import openai_net
from .precond import label_of, precond_of, wrap


class Analytic:
    """GOLDEN.md, section 2: the denoisers gauss, gauss_mu and mix. Records its calls; is its own ``precond``: says its levels."""

    consistency = True

    def __init__(self, case: Case, levels: tuple[float, float] = (0.0, math.inf), clamp: bool = False):
        s = case.scalars
        self.kind, self.v, self.m = s["denoiser"], s["denoiser_sd"] ** 2, s["denoiser_m"]
        self.mu = case.input("mu", torch.float64) if case.has("in", "mu") else torch.zeros(())
        self.table = case.input("table", torch.float64) if case.has("in", "table") else None
        self.levels, self.clamp = levels, clamp
        self.x: list[Tensor] = []
        self.sigma: list[float] = []

    @property
    def precond(self):
        return self

    def round(self, sigma: Tensor) -> Tensor:
        if self.table is None:
            return sigma
        return self.table[(sigma.reshape(-1, 1) - self.table).abs().argmin(1)].reshape(sigma.shape)

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        self.x.append(x)
        self.sigma.append(float(sigma))
        v, s2 = self.v, sigma**2
        if self.kind == "gauss":
            out = x * v / (v + s2)
        elif self.kind == "gauss_mu":
            out = (v * x + s2 * self.mu) / (v + s2)
        elif self.kind == "mix":
            out = (v * x + s2 * self.m * torch.tanh(self.m * x / (v + s2))) / (v + s2)
        else:
            raise ValueError(f"unknown analytic denoiser {self.kind}")
        return out.clamp(-1, 1) if self.clamp else out

    @property
    def calls(self) -> Tensor:
        return torch.tensor(self.sigma, dtype=torch.float64)


class StoredDraws:
    """The stored draw k in step k: the originals draw in every step, cmlab only where the draw counts."""

    def __init__(self, case: Case):
        self.noise = case.input("noise", torch.float64) if case.has("in", "noise") else None
        self.step = 0

    def normal(self, shape) -> Tensor:
        assert self.noise is not None, "cmlab draws where the original's draw does not count"
        assert tuple(self.noise.shape[1:]) == tuple(shape)
        return self.noise[self.step]

    def uniform(self, shape) -> Tensor:
        raise AssertionError("no sampler draws uniform numbers")


def run(steps: Iterator[Step], draws: StoredDraws, model: Analytic | None = None) -> tuple[list[Step], list[Tensor]]:
    """All steps, and the input of the first evaluation of each."""
    done, starts = [], []
    for step in steps:
        if model is not None:
            starts.append(model.x[done[-1].nfe if done else 0])
        done.append(step)
        draws.step += 1
    return done, starts


def curve(case: Case, low: str = "sigma_min", high: str = "sigma_max") -> Tensor:
    s = case.scalars
    return karras_sigmas(s["steps"], s[low], s[high], default(s, "rho", 7.0))


def default(s: dict[str, Any], name: str, value: Any) -> Any:
    """The setting, or ``value`` where it is absent or null."""
    return value if s.get(name) is None else s[name]


def churned(case: Case, prefix: tuple[str, str, str, str]) -> dict:
    """The case's S_churn, S_min, S_max and S_noise as cmlab's options; without churn the others have no effect."""
    amount, low, high, scale = (case.scalars.get(name) for name in prefix)
    options = {"churn": amount, "churn_min": low, "churn_max": high, "churn_noise": scale}
    if not amount:
        return {}
    if low and case.has("out", "sigma_calls") and abs(float(case.tensor("out", "sigma_calls")[-1]) / low - 1) < 1e-12:
        options["churn_min"] = low * (1 + 1e-12)  # deviation "window-edge"
    return {k: float(v) for k, v in options.items() if v is not None}


OPENAI = {name: name for name in ("heun", "euler", "ancestral", "onestep")} | {"dpm": "dpm2", "progdist": "progressive"}


def openai(case: Case, name: str, model, x: Tensor, sigmas: Tensor, draws: StoredDraws, **options) -> Iterator[Step]:
    """The original's sampler ``name`` on ``sigmas``, which end in 0."""
    if name in ("heun", "dpm"):
        options |= churned(case, ("s_churn", "s_tmin", "s_tmax", "s_noise"))
    if name == "dpm":
        options["rho"] = 3.0
    if name == "progdist":
        sigmas = sigmas[:-1]
    if name == "onestep":
        sigmas = sigmas[:1]
    noise = draws if name == "ancestral" or options.get("churn") else None
    return SAMPLERS[OPENAI[name]](model, x, sigmas, noise=noise, **options)


def karras_sample(case: Case, model, clip, label: Tensor | None = None) -> tuple[list[Step], list[Tensor]]:
    s, draws = case.scalars, StoredDraws(case)
    x = case.input("z", torch.float64) * s["sigma_max"]
    recorder = model if isinstance(model, Analytic) else None
    options = {"project": clip, "label": label}
    if s["sampler"] == "multistep":
        grid = curve(case)
        levels = grid[torch.tensor(s["ts"])].clamp(s["sigma_min"], s["sigma_max"])
        # The last entry of ts only sets the noise that is left: cmlab's next evaluation is not asked for.
        steps = islice(multistep(model, x, levels, noise=draws, sigma_min=s["sigma_min"], **options), len(levels) - 1)
        return run(steps, draws, recorder)
    if s["sampler"] == "progdist":
        grid = karras_sigmas(s["steps"] + 1, s["sigma_min"], s["sigma_max"], default(s, "rho", 7.0))
    else:
        grid = curve(case)
    levels = torch.cat([grid, torch.zeros(1, dtype=grid.dtype)])
    return run(openai(case, s["sampler"], model, x, levels, draws, **options), draws, recorder)


def rounding_left(case: Case, low: str = "sigma_min") -> float:
    """Relative error from the multistep loop's last noise, sqrt(level^2 - sigma_min^2), where that level is sigma_min to rounding.

    The original's power leaves a level 1e-15 off, so noise of 5e-8 sigma_min; cmlab's grid ends exactly there, without noise.
    """
    s = case.scalars
    if not s.get("ts") or s["ts"][-1] != s["steps"] - 1:
        return 0.0
    return 4 * 1e-7 * s[low] / float(case.tensor("out", "x").abs().max())


def exact(case: Case, share: float = 1e-14) -> float:
    """The tolerance of float64, wider where the original's steps amplify rounding."""
    return max(F64, share * default(case.scalars, "amplification", 0.0))


def unit(x0: Tensor) -> Tensor:
    return x0.clamp(-1, 1)


@runs("d_samplers_analytic.*", "karras_sample")
def analytic(case):
    model = Analytic(case)
    steps, starts = karras_sample(case, model, unit if case.scalars["clip_denoised"] else None)
    tol = max(exact(case), rounding_left(case))
    yield Check("x_unclamped", steps[-1].x, tol)
    yield Check("x", unit(steps[-1].x), tol)
    yield Check("sigma_calls", model.calls, F64)
    if case.has("out", "traj"):
        yield Check("traj", torch.stack(starts[: len(case.numpy("out", "traj"))]), exact(case))


DIRECT = {
    "sample_heun": "heun",
    "sample_euler": "euler",
    "sample_dpm": "dpm",
    "sample_euler_ancestral": "ancestral",
    "sample_progdist": "progdist",
    "sample_onestep": "onestep",
}


@runs("d_samplers_analytic.*", *DIRECT)
def direct(case):
    draws = StoredDraws(case)
    x, sigmas = case.input("x_T", torch.float64), case.input("sigmas", torch.float64)
    steps, _ = run(openai(case, DIRECT[case.fn], Analytic(case), x, sigmas, draws), draws)
    yield Check("x", steps[-1].x, exact(case))


# --- NVlabs/edm ----------------------------------------------------------------------------------------------------------

EDM_CHURN = ("S_churn", "S_min", "S_max", "S_noise")


def limits(case: Case) -> tuple[float, float]:
    high = case.scalars["net_sigma_max"]
    return case.scalars["net_sigma_min"], math.inf if high is None else high


def edm_sampler(case: Case, model, label: Tensor | None = None) -> list[Step]:
    s, draws = case.scalars, StoredDraws(case)
    n = default(s, "num_steps", 18)
    levels, _ = design(n, denoise=model, sigma_min=s.get("sigma_min"), sigma_max=s.get("sigma_max"), rho=s.get("rho"))
    x = case.input("z", torch.float64) * round_level(model, levels[:1])
    options = churned(case, EDM_CHURN)
    return run(SAMPLERS["heun"](model, x, levels, label, noise=draws if options else None, **options), draws)[0]


def ablation_sampler(case: Case, model, label: Tensor | None = None) -> list[Step]:
    s, draws = case.scalars, StoredDraws(case)
    time_steps = default(s, "discretization", "edm")
    options = {"rho": s.get("rho")} if time_steps == "edm" else {}
    if time_steps == "iddpm":
        options = {
            "c1": default(s, "C_1", 0.001),
            "c2": default(s, "C_2", 0.008),
            "steps": default(s, "M", 1000),
            "abar_dtype": torch.float32,
        }
    levels, schedule = design(
        default(s, "num_steps", 18),
        time_steps,
        s.get("schedule") or "linear",
        denoise=model,
        sigma_min=s.get("sigma_min"),
        sigma_max=s.get("sigma_max"),
        epsilon=default(s, "epsilon_s", 1e-3),
        **options,
    )
    x = case.input("z", torch.float64) * round_level(model, levels[:1])
    solver = default(s, "solver", "heun")
    options = {"solver": solver, "schedule": schedule, "scaling": default(s, "scaling", "none"), **churned(case, EDM_CHURN)}
    if s.get("alpha") is not None and solver == "heun":
        options["alpha"] = float(s["alpha"])
    noise = draws if options.get("churn") else None
    return run(ablation(model, x, levels, label, noise=noise, **options), draws)[0]


EDM_FUNCTIONS = {"edm_sampler": edm_sampler, "ablation_sampler": ablation_sampler}


@runs("g_edm_samplers", *EDM_FUNCTIONS)
def edm_analytic(case):
    s, model = case.scalars, Analytic(case, limits(case))
    steps = EDM_FUNCTIONS[case.fn](case, model)
    tol, deviation = exact(case, 1e-13), ""
    if s.get("schedule") == "vp" and not s.get("S_churn"):
        tol, deviation = (
            (1e-6 + 1e-7 * default(s, "amplification", 1.0)) / float(case.tensor("out", "x").abs().max()),
            "round-trip-noise",
        )
    yield Check("x", steps[-1].x, tol, deviation=deviation)
    yield Check("sigma_calls", model.calls, F64)


def network_arguments(s: dict[str, Any]) -> dict[str, Any]:
    """The preconditioner's arguments: the names that it shares with the sampler are the sampler's."""
    samplers = ("sigma_min", "sigma_max", *(("C_1", "C_2", "M") if s.get("discretization") == "iddpm" else ()))
    given = {k: v for k, v in s.items() if k not in samplers}
    return given | {"sigma_min": s["net_sigma_min"], "sigma_max": s["net_sigma_max"]} | (s.get("precond_args") or {})


@runs("g_edm_samplers_precond.*", *EDM_FUNCTIONS)
def edm_network(case):
    precond = precond_of(case.scalars["precond"], network_arguments(case.scalars))
    net = wrap(case, precond, case.params(torch.float32), tuple(case.input("z").shape[1:]))
    steps = EDM_FUNCTIONS[case.fn.split(" ")[0]](case, net, label_of(case))
    yield Check("x", steps[-1].x, 5 * F32_ELEMENTARY)


# --- edits ---------------------------------------------------------------------------------------------------------------


def edited(case: Case, edit: editing.Edit) -> Iterator[Check]:
    """`run_edit` from the stored start, with the clamped denoiser, as far as the original goes: without the last evaluation."""
    s = case.scalars
    levels = curve(case, "t_min", "t_max")[torch.tensor(s["ts"])].clamp(s["t_min"], s["t_max"])
    edit = replace(edit, sigmas=tuple(levels.tolist()))
    model = Analytic(case, (s["t_min"], math.inf), clamp=True)
    draws = EditDraws(case, edit)
    steps = list(islice(editing.run_edit(model, edit, draws), len(levels) - 1))
    double = s["dtype"] == "torch.float64"
    tol = max(F64, rounding_left(case, "t_min")) if double else F32_ELEMENTARY
    yield Check("x", steps[-1].x, tol)
    yield Check("images", edit.degraded, tol)
    yield Check("sigma_calls", model.calls, F64 if double else 1e-7)


class EditDraws(StoredDraws):
    """First the draw that makes the stored start of `Edit.kept`, then the stored ones."""

    def __init__(self, case: Case, edit: editing.Edit):
        super().__init__(case)
        self.queue = [(case.input("x", torch.float64) - edit.kept) / edit.sigmas[0], *case.input("noise", torch.float64)]

    def normal(self, shape) -> Tensor:
        return self.queue.pop(0)


def picture(case: Case) -> Tensor:
    return case.input("images", torch.float64)


@runs("e_editing.*", "iterative_superres")
def superres(case):
    yield from edited(case, editing.super_resolve(picture(case), patch=8))


@runs("e_editing.*", "iterative_colorization")
def colorization(case):
    y = picture(case)
    yield from edited(
        case, replace(editing.colorize(y, draws=1), shown=None)
    )  # the original shows the projection, not the grey picture


@runs("e_editing.*", "iterative_inpainting")
def inpainting(case):
    y, drawn = picture(case), (case.input("letter") == 0).double()
    # Groups of 7 pictures: the shape is generated in even ones, its surroundings in odd ones.
    odd = (torch.arange(len(y)) // 7 % 2 == 1).reshape(-1, 1, 1, 1)
    yield from edited(case, editing.inpaint(y, torch.where(odd, 1 - drawn, drawn), fill=-1.0))


# --- few steps -----------------------------------------------------------------------------------------------------------


@runs("h_ect.*", "generator_fn")
def few_steps(case):
    s, model, draws = case.scalars, Analytic(case), StoredDraws(case)
    levels = torch.tensor([s["t_max"], *(s["mid_t"] or [])], dtype=torch.float64)
    x = case.input("z", torch.float64) * s["t_max"]
    steps, _ = run(multistep(model, x, levels, noise=draws, sigma_min=0.0), draws)
    yield Check("x", steps[-1].x, F64)
    yield Check("sigma_calls", model.calls, F64)


def openai_denoiser(case: Case) -> Denoiser:
    """The case's stored U-Net under cmlab's Denoiser, as a diffusion or (``distillation``) a consistency model."""
    s = case.scalars
    net, shape, classes = openai_net(case.beside(s["unet_file"]).case("net"), torch.float32)
    return Denoiser(net, Precond(s["sigma_data"], s["sigma_min"] if s["distillation"] else 0.0), shape, classes).eval()


@runs("d_samplers_unet.*", "karras_sample")
def unet(case):
    label = case.input("y") if case.has("in", "y") else None
    steps, _ = karras_sample(case, openai_denoiser(case), unit if case.scalars["clip_denoised"] else None, label)
    floor = case.scalars["noise_floor_max_abs"] / float(case.tensor("out", "x").abs().max())
    tol = min(F32_UNET_SAMPLER, 4 * floor)
    yield Check("x_unclamped", steps[-1].x, tol)
    yield Check("x", unit(steps[-1].x), tol)
