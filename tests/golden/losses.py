"""openai/consistency_models: losses, their gradients, and whole training steps.

cmlab sums over pixels where openai takes the mean; the runners divide by the number of pixels.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from conftest import KnownDraws
from torch import Tensor

from cmlab.denoiser import Denoiser, Precond
from cmlab.distances import Distance
from cmlab.losses import ConsistencyLoss, DenoisingLoss, LossOut
from cmlab.methods.progressive import HalvingN, ProgressiveLoss
from cmlab.schedules import AdaptiveMu, FixedMu, FixedN, GridPairs, LogNormal, ProgressiveN
from cmlab.training import MicroBatch, Trainer

from .base import F32_GRADIENT, F32_NETWORK, F64, Check, runs, tolerance
from .networks import openai_net
from .toys import Calls, ToyNet, gradient, params_of


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
    if "target" in used:  # the runner holds the target itself; any decay makes the loss ask for it
        loss = replace(loss, target=FixedMu(0.9))
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


@runs("c_losses_unet.*", "KarrasDenoiser.training_losses", "KarrasDenoiser.consistency_losses", "KarrasDenoiser.progdist_losses")
def unet_losses(case):
    s = case.scalars
    for suffix, dtype in (("f64", torch.float64), ("f32", torch.float32)):
        models = {}
        for role, scale in (("student", 1.0), ("target", s["target_param_scale"]), ("teacher", s["teacher_param_scale"])):
            net, shape, classes = openai_net(case.beside(s["unet_file"]).case("net"), dtype, scale=scale)
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
class Averaged:
    """A loss of cmlab as openai's: the mean over pixels and samples. RAdam's first steps see the size of the gradient.

    Each sample has the mean as its loss, over the number of samples: the sum over a part of a batch is that part's mean.
    """

    of: Any
    norm: str | None

    def __getattr__(self, name: str) -> Any:  # needs_teacher, needs_target, precond
        return getattr(self.of, name)

    def __call__(self, model, x0, label=None, **options) -> LossOut:
        out = self.of(model, x0, label, **options)
        return out._replace(loss=out.loss / pixels(self.norm, x0) / len(x0))

    def target_decay(self, progress: float) -> float:
        return self.of.target_decay(progress)


def scheduled(s: dict[str, Any], mode: str) -> Any:
    """The loss of a CMTrainLoop: N(k) and mu(k) of its ``ema_scale_args``."""
    scales = s["ema_scale_args"]
    if scales["scale_mode"] not in ("fixed", "progressive"):
        raise NotImplementedError(f"no training steps with scale_mode {scales['scale_mode']!r}: write a runner for it")
    start = scales["start_scales"]
    n = FixedN(start) if scales["scale_mode"] == "fixed" else ProgressiveN(start, scales["end_scales"])
    adaptive = scales["target_ema_mode"] == "adaptive"
    mu = AdaptiveMu(start, scales["start_ema"], "code") if adaptive else FixedMu(scales["start_ema"])
    loss, _ = objective_of(s | {"mode": mode, "num_scales": start})
    return replace(loss, pairs=replace(loss.pairs, n=n), target=mu)


@runs("c_train_loop.*", "TrainLoop.run_step", "CMTrainLoop.run_step")
def training_steps(case):
    s, dtype = case.scalars, torch.float32
    distils, scales = bool(params_of(case, "teacher.", dtype)), s.get("ema_scale_args")
    loss = objective_of(s)[0] if scales is None else scheduled(s, "cd" if distils else "ct")
    total = s["n_steps"] if scales is None else scales["total_steps"]
    x, noise = case.input("x", dtype), case.input("noise", dtype)
    precond = Precond(s["sigma_data"], s["sigma_min"] if scales else 0.0)
    shape = tuple(x.shape[2:])
    own = params_of(case, "", dtype)
    classes, y = len(own.get("E", ())), case.input("y") if case.has("in", "y") else None
    model = Denoiser(ToyNet(own), precond, shape, classes)
    teacher = None
    if distils:
        teacher = Denoiser(ToyNet(params_of(case, "teacher.", dtype)), Precond(s["sigma_data"]), shape, classes)
    averaged: Any = Averaged(loss, s.get("loss_norm"))
    trainer = Trainer(model, averaged, lr=s["lr"], weight_decay=s["weight_decay"], ema=tuple(s["ema_rates"]), teacher=teacher)
    # torch's own, whose first steps are as long as the gradient.
    trainer.optimizer = torch.optim.RAdam(trainer.parameters, lr=s["lr"], weight_decay=s["weight_decay"])
    rows: dict[str, list[Tensor]] = {name: [] for name in case.names("out")}

    def flat(denoiser: Any) -> Tensor:
        return torch.cat([denoiser.net.p[name].detach().flatten() for name in s["param_order"]])

    def part(k: int, own: slice) -> MicroBatch:
        if scales is None:
            draws = KnownDraws([case.input("z_sigma")[k, own], noise[k, own]])
        else:
            n = loss.pairs.n(k / total)
            draws = KnownDraws([noise[k, own]], [(case.input("indices")[k, own].double() + 0.5) / (n - 1)])
        return MicroBatch(x[k, own], None if y is None else y[k, own], draws)

    size = s["microbatch"] if (s.get("microbatch") or -1) > 0 else x.shape[1]
    anneal = s.get("lr_anneal_steps") or 0
    for k in range(s["n_steps"]):
        progress = k / total
        if scales is not None:
            rows["num_scales"].append(torch.tensor(loss.pairs.n(progress)))
            rows["target_ema"].append(torch.tensor(loss.target_decay(progress), dtype=torch.float64))
        # The original adds up the gradients of the microbatches' means, so parts count as batches of one.
        parts = [part(k, slice(i, i + size)) for i in range(0, x.shape[1], size)]
        value = trainer.step(parts, 1, progress, s["lr"] * (1 - k / anneal) if anneal else None)
        rows["loss"].append(value / len(parts))
        rows["model"].append(flat(model))
        for i, ema in enumerate(trainer.emas):
            rows[f"ema{i}"].append(flat(ema))
        if scales is not None:
            rows["target"].append(flat(trainer.target or model))
    exact = {"num_scales": 0.0, "target_ema": F64}
    grows = scales is not None and scales["scale_mode"] == "progressive"
    planned = slice(0, total + 1) if grows and s["n_steps"] > total + 1 else None
    for name, values in rows.items():
        yield Check(name, torch.stack(values), exact.get(name, F32_NETWORK), planned, "clamped-progress")
