"""openai/consistency_models, NVlabs/edm, ECT and Kinyugo: losses, their gradients, and whole training steps.

cmlab sums over pixels where openai takes the mean; the runners divide by the number of pixels.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from conftest import KnownDraws
from torch import Tensor, nn

from cmlab.denoiser import Coeffs, Denoiser, IDDPMPrecond, Precond, VEPrecond, VPPrecond
from cmlab.distances import Distance
from cmlab.losses import ConsistencyLoss, DenoisingLoss, ProgressiveLoss
from cmlab.networks import build_network
from cmlab.networks.layouts import from_openai, openai_config
from cmlab.noise import karras_sigmas
from cmlab.objective import LossOut
from cmlab.schedules import (
    AdaptiveMu,
    DoublingN,
    EctPairs,
    FixedMu,
    FixedN,
    GridPairs,
    HalvingN,
    LogNormal,
    LogUniform,
    ProgressiveN,
    VPTime,
    lognormal_mass,
)
from cmlab.training import Part, Trainer

from .base import F32_ELEMENTARY, F32_GRADIENT, F32_NETWORK, F64, Check, runs, tolerance
from .precond import TinyNet, label_of, wrap


class ToyNet(nn.Module):
    """GOLDEN.md, section 2: F = V tanh(W x + b + a t / 250 + E[y]) + d, with t = ``scale`` c_noise."""

    def __init__(self, params: dict[str, Tensor], scale: float = 1000.0):
        super().__init__()
        self.p, self.scale = nn.ParameterDict({k: nn.Parameter(v.clone()) for k, v in params.items()}), scale

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        bias = self.p["b"] + self.p["a"] * (self.scale * c_noise)[:, None] / 250
        if label is not None:
            bias = bias + self.p["E"][label]
        h = torch.einsum("kc,bcij->bkij", self.p["W"], x) + bias[:, :, None, None]
        return torch.einsum("ok,bkij->boij", self.p["V"], h.tanh()) + self.p["d"][:, None, None]


class Calls(list[tuple[Tensor, Tensor, Tensor]]):
    """What a Denoiser was asked and answered: (x, sigma, x0_hat) per call."""

    def __init__(self, model: nn.Module | None):
        super().__init__()
        if model is not None:
            model.register_forward_hook(self.keep)

    def keep(self, _: nn.Module, given: Any, out: Any) -> None:
        self.append((given[0], given[1], out))


def gradient(model: Denoiser, name: str) -> Tensor:
    """Of the weight ``name`` of a small network; zeros where the loss does not depend on it."""
    p = model.net.get_parameter(f"p.{name}")
    return torch.zeros_like(p) if p.grad is None else p.grad


def net_calls(model: Denoiser) -> list[tuple[Tensor, Tensor]]:
    """What the tiny network was given: (c_in x, c_noise) per call."""
    assert isinstance(model.net, TinyNet)
    return model.net.calls


def params_of(case, role: str, dtype: torch.dtype) -> dict[str, Tensor]:
    own = case.params(dtype, role)
    return {k: v for k, v in own.items() if "." not in k}


def perceptual(a: Tensor, b: Tensor) -> Tensor:
    """GOLDEN.md's stand-in for the LPIPS network."""
    rows = torch.arange(a.shape[2], dtype=a.dtype) / a.shape[2]
    channels = torch.arange(1, a.shape[1] + 1, dtype=a.dtype)
    weight = (1 + rows[:, None]) * (1 + channels[:, None, None] * a**2)
    return (weight * (a - b) ** 2).flatten(1).mean(1)


def distance_of(name: str) -> Distance:
    return Distance("lpips", network=perceptual) if name == "lpips" else Distance(name)  # type: ignore[arg-type]


def pixels(name: str | None, x0: Tensor) -> int:
    """What cmlab's sum is to be divided by for openai's mean."""
    return 1 if name == "lpips" else x0.shape[1] * 32 * 32 if name == "l2-32" else x0[0].numel()


def objective_of(s: dict[str, Any]) -> tuple[Any, float]:
    """cmlab's loss for a case's settings, and the progress to ask it at."""
    weight, grid = s["weight_schedule"], {k: s[k] for k in ("sigma_min", "sigma_max", "rho")}
    if s.get("mode", "edm") == "edm":
        return DenoisingLoss(LogNormal(), weight, s["sigma_data"]), 0.0
    n, distance = s["num_scales"], distance_of(s["loss_norm"])
    if s["mode"] == "progdist":
        loss = ProgressiveLoss(HalvingN(max(n, 2)), distance, weight, sigma_data=s["sigma_data"], **grid)
        return loss, float(n == 1)
    pairs = GridPairs(FixedN(n), **grid)
    weight = "1" if weight == "uniform" else weight
    return ConsistencyLoss(pairs, "heun" if s["mode"] == "cd" else "noise", distance, weight, sigma_data=s["sigma_data"]), 0.0


def known_draws(case, s: dict[str, Any], dtype: torch.dtype) -> KnownDraws:
    noise = case.input("noise", dtype)
    if case.has("in", "sigmas"):
        density = LogNormal()
        return KnownDraws([(case.input("sigmas").double().log() - density.mean) / density.std, noise])
    choices = s["num_scales"] if s["mode"] == "progdist" else s["num_scales"] - 1
    return KnownDraws([noise], [(case.input("indices").double() + 0.5) / choices])


def openai_loss(case, s: dict[str, Any], dtype: torch.dtype, models: dict[str, Denoiser]):
    """The case through cmlab's loss: per-sample loss as openai has it, LossOut, and every call of each model."""
    loss, progress = objective_of(s)
    used = {"target"} & set(models) if s.get("mode") in ("cd", "ct") else set()
    used |= {"teacher"} if loss.needs_teacher else set()
    calls = {role: Calls(models[role]) for role in ("student", *used)}
    x0 = case.input("x_start", dtype)
    y = case.input("y") if case.has("in", "y") else None
    out = loss(
        models["student"], x0, y, progress=progress, draws=known_draws(case, s, dtype), **{role: models[role] for role in used}
    )
    return out.loss / pixels(s.get("loss_norm"), x0), out, calls


def intermediates(calls: dict[str, Calls]) -> dict[str, Tensor]:
    """openai's names for what went into and came out of the models."""
    x, sigma, answer = calls["student"][0]
    found = {"x_t": x, "t": sigma, "student": answer}
    for x, sigma, answer in calls.get("target", ()):
        found |= {"x_t2": x, "t2": sigma, "target": answer}
    for k, (x, sigma, answer) in enumerate(calls.get("teacher", ()), 1):
        found |= {f"teacher{k}_x": x, f"teacher{k}_t": sigma, f"teacher{k}": answer}
    return found


@runs("c_losses_toy.*", "KarrasDenoiser.training_losses", "KarrasDenoiser.consistency_losses", "KarrasDenoiser.progdist_losses")
def toy_losses(case):
    s = case.scalars
    shape = tuple(case.input("x_start").shape[1:])
    student_is_consistency = s.get("student_distillation", s.get("distillation", False))
    for suffix, dtype in (("f64", torch.float64), ("f32", torch.float32)):
        models = {}
        for role, prefix, consistency in (
            ("student", "", student_is_consistency),
            ("target", "target.", student_is_consistency),
            ("teacher", "teacher.", s.get("teacher_distillation", False)),
        ):
            if params := params_of(case, prefix, dtype):
                precond = Precond(s["sigma_data"], s["sigma_min"] if consistency else 0.0)
                models[role] = Denoiser(ToyNet(params), precond, shape, len(params.get("E", ())))
        loss, out, calls = openai_loss(case, s, dtype, models)
        loss.mean().backward()
        yield from loss_checks(case, suffix, loss, out)
        for name in params_of(case, "", dtype):
            yield Check(f"grad_{name}_{suffix}", gradient(models["student"], name), tolerance(dtype, F32_GRADIENT))
        if dtype == torch.float64:
            found = intermediates(calls)
            yield from (Check(name, found[name], F64) for name in case.names("out") if name in found)


def loss_checks(case, suffix: str, loss: Tensor, out: LossOut):
    tol = tolerance(loss.dtype, F32_NETWORK)
    yield Check(f"loss_{suffix}", loss, tol)
    if case.has("out", f"mse_{suffix}"):
        yield Check(f"mse_{suffix}", loss, tol)
        yield Check(f"xs_mse_{suffix}", loss / out.weight, tol)


def unet_of(case, dtype: torch.dtype, scale: float = 1.0) -> tuple[nn.Module, tuple[int, ...], int]:
    """The U-Net of the case's ``unet_file`` with all weights multiplied, its sample shape and classes."""
    net_case = case.beside(case.scalars["unet_file"]).case("net")
    given = net_case.scalars["config"]
    state = {name: value * scale for name, value in net_case.params(dtype).items()}
    facts = {
        "heads": given.get("num_heads", 1),
        "heads_up": max(given.get("num_heads_upsample", -1), 0),
        "head_channels": max(given.get("num_head_channels", -1), 0),
    }
    config, shape, classes = openai_config(state, given["image_size"], **facts)
    net = build_network(config, shape, classes).to(dtype)
    net.load_state_dict(from_openai(state))
    return net.eval(), shape, classes


@runs("c_losses_unet.*", "KarrasDenoiser.training_losses", "KarrasDenoiser.consistency_losses", "KarrasDenoiser.progdist_losses")
def unet_losses(case):
    s = case.scalars
    for suffix, dtype in (("f64", torch.float64), ("f32", torch.float32)):
        models = {}
        for role, scale in (("student", 1.0), ("target", s["target_param_scale"]), ("teacher", s["teacher_param_scale"])):
            net, shape, classes = unet_of(case, dtype, scale)
            consistency = role != "teacher" and s["mode"] in ("cd", "ct")
            models[role] = Denoiser(net, Precond(s["sigma_data"], s["sigma_min"] if consistency else 0.0), shape, classes)
        gradients = [name for name in case.names("out") if name.startswith("grad_") and name.endswith(suffix)]
        with torch.set_grad_enabled(bool(gradients)):
            loss, out, _ = openai_loss(case, s, dtype, models)
        yield from loss_checks(case, suffix, loss.detach(), out)
        if gradients:
            loss.mean().backward()
        weights = dict(models["student"].net.named_parameters())
        for name in gradients:
            grad = weights[name.removeprefix("grad_").removesuffix(f"_{suffix}")].grad
            assert grad is not None
            yield Check(name, grad.reshape(case.numpy("out", name).shape), tolerance(dtype, F32_GRADIENT))


@dataclass(frozen=True)
class PixelMean:
    """A loss of cmlab, averaged over the pixels: RAdam's first steps see the size of the gradient."""

    of: Any

    def __getattr__(self, name: str) -> Any:  # needs_teacher, needs_target, precond
        return getattr(self.of, name)

    def __call__(self, model, x0, label=None, **options) -> LossOut:
        out = self.of(model, x0, label, **options)
        return out._replace(loss=out.loss / x0[0].numel())

    def target_decay(self, progress: float) -> float:
        return self.of.target_decay(progress)


@runs("c_train_loop.*", "TrainLoop.run_step", "CMTrainLoop.run_step")
def training_steps(case):
    s, dtype = case.scalars, torch.float32
    assert s["lr_anneal_steps"] == 0 and s["microbatch"] <= 0
    distils = bool(params_of(case, "teacher.", dtype))
    scales = s.get("ema_scale_args")
    if scales is None:
        loss, total = objective_of(s)[0], s["n_steps"]
    else:
        start, total = scales["start_scales"], scales["total_steps"]
        n = FixedN(start) if scales["scale_mode"] == "fixed" else ProgressiveN(start, scales["end_scales"])
        adaptive = scales["target_ema_mode"] == "adaptive"
        mu = AdaptiveMu(start, scales["start_ema"], "code") if adaptive else FixedMu(scales["start_ema"])
        loss, _ = objective_of(s | {"mode": "cd" if distils else "ct", "num_scales": start})
        loss = replace(loss, pairs=replace(loss.pairs, n=n), target=mu)
    x, noise = case.input("x", dtype), case.input("noise", dtype)
    precond = Precond(s["sigma_data"], s["sigma_min"] if scales else 0.0)
    shape = tuple(x.shape[2:])
    own = params_of(case, "", dtype)
    classes, y = len(own.get("E", ())), case.input("y") if case.has("in", "y") else None
    model = Denoiser(ToyNet(own), precond, shape, classes)
    teacher = None
    if distils:
        teacher = Denoiser(ToyNet(params_of(case, "teacher.", dtype)), Precond(s["sigma_data"]), shape, classes)
    averaged: Any = PixelMean(loss)
    trainer = Trainer(model, averaged, lr=s["lr"], weight_decay=s["weight_decay"], ema=tuple(s["ema_rates"]), teacher=teacher)
    rows: dict[str, list[Tensor]] = {name: [] for name in case.names("out")}

    def flat(denoiser: Any) -> Tensor:
        return torch.cat([denoiser.net.p[name].detach().flatten() for name in s["param_order"]])

    for k in range(s["n_steps"]):
        progress = k / total
        if scales is None:
            draws = KnownDraws([case.input("z_sigma")[k], noise[k]])
        else:
            n = loss.pairs.n(progress)
            draws = KnownDraws([noise[k]], [(case.input("indices")[k].double() + 0.5) / (n - 1)])
            rows["num_scales"].append(torch.tensor(n))
            rows["target_ema"].append(torch.tensor(loss.target_decay(progress), dtype=torch.float64))
        rows["loss"].append(trainer.step([Part(x[k], None if y is None else y[k], draws)], len(x[k]), progress))
        rows["model"].append(flat(model))
        for i, ema in enumerate(trainer.emas):
            rows[f"ema{i}"].append(flat(ema))
        if scales is not None:
            rows["target"].append(flat(trainer.target or model))
    exact = {"num_scales": 0.0, "target_ema": F64}
    for name, values in rows.items():
        yield Check(name, torch.stack(values), exact.get(name, F32_NETWORK))


# --- NVlabs/edm ----------------------------------------------------------------------------------------------------------


def augmented(case, x0: Tensor) -> Tensor:
    """The original's stand-in for its augmentation."""
    return 0.5 * x0.flip(-1) if case.has("in", "augment_labels") else x0


# The originals' arguments, whose defaults are cmlab's too.
EDM_LOSSES = {
    "EDMLoss": lambda P_mean=-1.2, P_std=1.2, sigma_data=0.5: DenoisingLoss(LogNormal(P_mean, P_std), "karras", sigma_data),
    "VPLoss": lambda beta_d=19.9, beta_min=0.1, epsilon_t=1e-5: DenoisingLoss(VPTime(beta_d, beta_min, epsilon_t), "snr"),
    "VELoss": lambda sigma_min=0.02, sigma_max=100.0: DenoisingLoss(LogUniform(sigma_min, sigma_max), "snr"),
}
EDM_PRECONDS = {
    "EDMPrecond": lambda sigma_data=0.5: Precond(sigma_data),
    "VPPrecond": lambda beta_d=19.9, beta_min=0.1, M=1000, epsilon_t=1e-5: VPPrecond(beta_d, beta_min, M, epsilon_t),
    "VEPrecond": lambda sigma_min=0.02, sigma_max=100.0: VEPrecond(sigma_min, sigma_max),
    "iDDPMPrecond": lambda C_1=0.001, C_2=0.008, M=1000: IDDPMPrecond(C_1, C_2, M),
}


@runs("g_edm_losses.*", *EDM_LOSSES)
def edm_losses(case):
    s, dtype = case.scalars, torch.float32
    loss = EDM_LOSSES[case.fn.split(".")[0]](**s["loss_args"])
    precond = EDM_PRECONDS[s["precond"]](**s["precond_args"])
    if not s["loss_args"] and not s["precond_args"]:
        assert loss.precond == precond  # the column of EDM's Table 1 that belongs to the loss
    x0, rnd = augmented(case, case.input("images", dtype)), case.input("rnd", dtype).flatten()
    model = wrap(case, precond, case.params(dtype), tuple(x0.shape[1:]))
    calls = Calls(model)
    noise = case.input("noise", dtype)
    normal = isinstance(loss.density, LogNormal)
    out = loss(model, x0, label_of(case), draws=KnownDraws([rnd, noise] if normal else [noise], [] if normal else [rnd]))
    ((_, _, denoised),) = calls
    each = out.weight[:, None, None, None] * (denoised - x0) ** 2
    assert torch.allclose(each.flatten(1).sum(1), out.loss, rtol=1e-4)  # the sum over pixels is what cmlab returns
    yield Check("loss", each, F32_NETWORK)
    (out.loss.sum() / x0.numel()).backward()
    yield Check("c_noise", net_calls(model)[0][1], F32_ELEMENTARY)
    for name in case.names("out"):
        if name.startswith("grad_"):
            yield Check(name, gradient(model, name.removeprefix("grad_")), F32_GRADIENT)


# --- ECT -----------------------------------------------------------------------------------------------------------------


def ect_pairs(s: dict[str, Any], adj: str) -> EctPairs:
    """ECT's own pairs: neither ends nor a least distance. At progress 1 they are at the case's stage."""
    spread = {"mean": s["P_mean"], "std": s["P_std"]} if "P_mean" in s else {}
    k = s["k"] if adj == "sigmoid" else 0.0
    return EctPairs(s["q"], s["stage"] + 1, k, s["b"], sigma_min=0.0, sigma_max=math.inf, closest=0.0, **spread)


@runs("h_ect.*", "ECMLoss.t_to_r_const", "ECMLoss.t_to_r_sigmoid")
def ect_mapping(case):
    pairs = ect_pairs(case.scalars, case.fn.rsplit("_", 1)[1])
    yield Check("r", pairs.below(case.input("t"), pairs.stage(1.0)), F64)


@runs("h_ect.*", "ECMPrecond.forward")
def ect_precond(case):
    s = case.scalars
    precond = Precond(s["sigma_data"], 0.0 if s["training"] else s["sigma_min"])
    x = case.input("x")
    model = wrap(case, precond, case.params(torch.float32), tuple(x.shape[1:]))
    with torch.no_grad():
        denoised = model(x, case.input("sigma"), label_of(case))
        net_x, c_noise = net_calls(model)[0]
        raw = model.net(net_x, c_noise, label_of(case))
    yield Check("net_x", net_x, F32_ELEMENTARY)
    yield Check("c_noise", c_noise, F32_ELEMENTARY)
    yield Check("F", raw, F32_NETWORK)
    yield Check("D", denoised, F32_NETWORK)


@runs("h_ect.*", "ECMLoss.__call__")
def ect_loss(case):
    s, dtype = case.scalars, torch.float32
    pairs = ect_pairs(s, s["adj"])
    loss = ConsistencyLoss(pairs, "noise", Distance("huber", s["c"]), "1/dt", sigma_data=s["sigma_data"])
    x0, z = augmented(case, case.input("images", dtype)), case.input("z").flatten()
    model = wrap(case, Precond(s["sigma_data"]), case.params(dtype), tuple(x0.shape[1:]))
    out = loss(model, x0, label_of(case), progress=1.0, draws=KnownDraws([z, case.input("eps", dtype)]))
    assert len(net_calls(model)) == s["n_net_calls"]
    out.loss.mean().backward()
    t, r = pairs(len(z), 1.0, KnownDraws([z]))
    yield Check("t", t.reshape(-1, 1, 1, 1), F32_ELEMENTARY)
    yield Check("r", r.reshape(-1, 1, 1, 1), F32_ELEMENTARY)
    yield Check("loss", out.loss, F32_NETWORK)
    for name in case.names("out"):
        if name.startswith("grad_"):
            yield Check(name, gradient(model, name.removeprefix("grad_")), F32_GRADIENT)


# --- Kinyugo -------------------------------------------------------------------------------------------------------------


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
        mu = AdaptiveMu(2, 0.95)  # the arguments of the original's example
        decay = torch.tensor([mu(float(k) / total, int(m)) for k, m in zip(step, n, strict=True)], dtype=torch.float64)
        yield Check("ema", decay, F64, inside, "clamped-progress")


@runs("k_.*", "karras_schedule")
def kinyugo_grid(case):
    n = case.scalars["num_timesteps"]
    yield Check("sigmas", karras_sigmas(n).flip(0), F64)
    every_pair = KnownDraws([torch.zeros(n - 1, 1)], [(torch.arange(n - 1).double() + 0.5) / (n - 1)])
    loss = ConsistencyLoss(GridPairs(FixedN(n)), "noise", Distance(), "1/dt")
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
    x0, n, dtype = case.input("x"), case.scalars["num_timesteps"], torch.float64
    precond, shape = RawInput(sigma_min=0.002), tuple(x0.shape[1:])
    model = Denoiser(ToyNet(params_of(case, "", dtype), 1.0), precond, shape)
    own = params_of(case, "target.", dtype)
    target = Denoiser(ToyNet(own, 1.0), precond, shape) if own else None
    calls = Calls(model)
    last = Calls(target) if target is not None else calls
    # Its index i counts from the lowest level, and belongs to the pair (sigma_{i+1}, sigma_i).
    u = (n - 2 - case.input("timesteps").double() + 0.5) / (n - 1)
    loss = ConsistencyLoss(GridPairs(FixedN(n)), "noise", Distance("huber"), "1/dt")
    out = loss(model, x0, target=target, draws=KnownDraws([case.input("noise")], [u]))
    yield Check("predicted", calls[0][2], F64)
    yield Check("target", last[-1][2], F64)
    yield Check("sigmas", karras_sigmas(n).flip(0), F64)
    if case.has("out", "loss_weights"):
        yield Check("loss_weights", out.weight.reshape(-1, 1, 1, 1), F64)
