"""Continuous-time objectives: the limits of consistency losses for infinitely close levels (CM, appendix B), and TrigFlow with sCM
(arXiv 2410.11081). Forward-mode differentiation gives the model's rate of change along a trajectory in the same pass as its value.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from ..base.registry import LOSSES
from ..base.suggest import check_choice
from ..denoiser import Denoise, Denoiser, Label, Precond
from ..distances import Distance
from ..losses import Given, Loss, LossOut
from ..noise import RHO, SIGMA_DATA, SIGMA_MAX, SIGMA_MIN, expand, noise_like, send, state_dtype
from ..schedules import LogNormal
from .scalings import TrigPrecond


@dataclass(frozen=True)
class KarrasWarp:
    """sigma = tau(u) on the Karras grid made continuous, from sigma_max at u = 0 down to sigma_min at u = 1 (CM, appendix B)."""

    sigma_min: float = SIGMA_MIN
    sigma_max: float = SIGMA_MAX
    rho: float = RHO

    def __post_init__(self):
        if not 0 < self.sigma_min < self.sigma_max or self.rho <= 0:
            raise ValueError(f"need 0 < sigma_min < sigma_max and rho > 0, got {self}")

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """sigma and |d sigma / du| at u in [0, 1], in the shape of u."""
        top, bottom = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        root = top + u * (bottom - top)
        return root**self.rho, self.rho * (top - bottom) * root ** (self.rho - 1)


def rate_of_change(model: Denoise, x: Tensor, sigma: Tensor, velocity: Tensor, label: Label = None) -> tuple[Tensor, Tensor]:
    """f(x, sigma) and its derivative by sigma along dx/dsigma = velocity, both in the shape of x, from one forward pass.

    Both can be differentiated by the model's parameters. At an exact consistency function the derivative along the PF-ODE is 0.
    """
    result = torch.func.jvp(lambda x, sigma: model(x, sigma, label), (x, sigma), (velocity, torch.ones_like(sigma)))
    return result[0], result[1]


def hessian_product(distance: Callable[[Tensor, Tensor], Tensor], y: Tensor, v: Tensor) -> Tensor:
    """H v with H the Hessian of distance(a, y) by a at a = y, where a distance has value and gradient 0; in the shape of y."""
    gradient = torch.func.grad(lambda a: distance(a, y).sum())
    return torch.func.jvp(gradient, (y,), (v,))[1]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


class _AlongBridge(Loss):
    """Takes the model's rate of change along dx/dt, which ``bridge`` says: "noise", or a "teacher"'s PF-ODE."""

    bridge: Literal["noise", "teacher"]
    differentiates_forwards = True

    @property
    def evaluations(self) -> int:
        return 3 + 2 + self.needs_teacher  # the tangent is an evaluation and its derivative

    @property
    def needs_teacher(self) -> bool:
        return self.bridge == "teacher"


@dataclass(frozen=True)
class ContinuousLoss(_AlongBridge):
    """The limit N -> infinity of the consistency losses, at sigma = tau(u) with u uniform (CM, Theorems 3 to 6).

    With Df the rate of change of f along a trajectory and s = |d tau / du|:

    - ``stop_gradient=False``, a smooth distance of Hessian G: lambda s^2 Df^T G Df / 2, the limit of (N-1)^2 L (Theorem 3);
      for a norm ("l1", or "huber" with c=0): lambda s ||Df||, the limit of (N-1) L (Theorem 4).
    - ``stop_gradient=True``: the gradient is lambda s (d f / d theta)^T G Df, the limit of (N-1) grad L for a target that is the
      model itself (Theorems 5 and 6). The value, lambda s Df^T G Df / 2, is not what is descended: no function has that gradient.

    Args:
        bridge: direction of the trajectory through x. "noise": that of x0 + sigma eps with the same eps (CT, Theorem 6);
            "teacher": the teacher's PF-ODE (CD, Theorems 3 to 5).
        distance: a `Distance` or any twice differentiable d(a, b) -> (B,). The JAX code's "l2" is ``Distance("huber", c=0.0)``.
        stop_gradient: whether the loss is one of a frozen target. Without it Df is differentiated too, which costs more.
        weight: lambda; "1/dt" is 1/s, the paper's choice; "1" is 1.
        warp: the levels, tau.
        sigma_data: standard deviation of the data, for the model's scalings.
    """

    bridge: Literal["noise", "teacher"] = "noise"
    distance: Distance | Callable[[Tensor, Tensor], Tensor] = field(default_factory=Distance)
    stop_gradient: bool = True
    weight: Literal["1", "1/dt"] = "1/dt"
    warp: KarrasWarp = field(default_factory=KarrasWarp)
    sigma_data: float = SIGMA_DATA
    scheduled = False

    def __post_init__(self):
        check_choice("bridge", self.bridge, ("noise", "teacher"))
        check_choice("weight", self.weight, ("1", "1/dt"))
        if self._norm and self.stop_gradient:
            raise ValueError(
                "a norm has no second derivative at 0: choose distance 'l2' or 'huber' with c > 0, or no stop_gradient"
            )
        if self.bridge == "noise" and not self.stop_gradient:
            raise ValueError("bridge 'noise' needs stop_gradient: without it the loss also descends the variance of the noise")

    @property
    def _norm(self) -> bool:
        return isinstance(self.distance, Distance) and (self.distance.name == "l1" or self.distance == Distance("huber", 0.0))

    @property
    def precond(self) -> Precond:
        """The scalings of the models that this loss trains."""
        return Precond(self.sigma_data, self.warp.sigma_min)

    def of_each(self, model: Denoise, x0: Tensor, label: Label, given: Given) -> LossOut:
        sigma, speed = (send(t, x0.device, x0.dtype) for t in self.warp(given.draws.uniform((len(x0),)).double()))
        eps = noise_like(x0, given.draws)
        x = x0 + expand(sigma, x0) * eps
        velocity = eps
        if given.teacher is not None:
            with torch.no_grad():
                velocity = (x - given.teacher(x, sigma, label)) / expand(sigma, x)
        out, rate = rate_of_change(model, x, sigma, velocity, label)
        # dt/du once from the interval; once more where the loss itself is of second order in it.
        weight = (torch.ones_like(speed) if self.weight == "1/dt" else speed) * (1 if self._norm or self.stop_gradient else speed)
        if self._norm:
            return LossOut(weight * self.distance(rate, torch.zeros_like(rate)), sigma, weight)
        if not self.stop_gradient:
            return LossOut(weight * _dot(rate, hessian_product(self.distance, out, rate)) / 2, sigma, weight)
        fixed, rate = out.detach(), rate.detach()
        pull = hessian_product(self.distance, fixed, rate)
        return LossOut(weight * (_dot(out - fixed, pull) + _dot(rate, pull) / 2), sigma, weight)


class Uncertainty(nn.Module):
    """w(sigma), learned: the logarithm of an adaptive weight (EDM2, sCM section 4.2). Starts at 0, a weight of 1.

    Linear in sines and cosines of ln(sigma); sigma (B,) gives (B,).
    """

    def __init__(self, freqs: int = 8):
        super().__init__()
        self.freqs = nn.Buffer(torch.linspace(0.125, 1.0, freqs), persistent=False)
        # Not nn.Linear, whose initialisation draws from the global generator.
        self.weight, self.bias = nn.Parameter(torch.zeros(2 * freqs)), nn.Parameter(torch.zeros(()))

    def forward(self, sigma: Tensor) -> Tensor:
        angle = sigma.to(self.freqs).log()[:, None] * self.freqs
        return torch.cat([angle.sin(), angle.cos()], 1) @ self.weight + self.bias


def attach_uncertainty(model: Denoiser) -> Denoiser:
    """Give ``model`` the parameters of a loss's adaptive weights, to be trained with it; checkpoints leave them out."""
    parameter = next(model.net.parameters())
    model.uncertainty = Uncertainty().to(parameter.device, parameter.dtype)
    return model


def _weigh(error: Tensor, model: Denoise, sigma: Tensor, adaptive: bool) -> LossOut:
    """e^w / D times the sum of ``error`` over its D coordinates, minus w; w = 0 unless adaptive (sCM, Algorithm 1)."""
    error = error.flatten(1)
    mean = error.mean(1)
    if not adaptive:
        return LossOut(mean, sigma, torch.full_like(mean, 1 / error.shape[1]))
    uncertainty = getattr(model, "uncertainty", None)
    if uncertainty is None:
        raise ValueError("adaptive weights need parameters: call attach_uncertainty(model), or choose adaptive=False")
    w = uncertainty(sigma).to(mean)
    return LossOut(w.exp() * mean - w, sigma, w.detach().exp() / error.shape[1])


@dataclass(frozen=True)
class TrigLoss(Loss):
    """Diffusion in TrigFlow's coordinates: the mean over coordinates of (sigma_data F - (cos(t) z - sin(t) x0))^2, where
    x_t = cos(t) x0 + sin(t) z and z = sigma_data eps (sCM, section 3.1).

    It equals (D - x0)^2 / sin(t)^2, so any denoiser can be trained with it. ``adaptive`` learns a weight: e^w loss - w.
    """

    density: LogNormal = field(default_factory=lambda: LogNormal(-1.0, 1.4))
    adaptive: bool = False
    precond: TrigPrecond = field(default_factory=TrigPrecond)
    scheduled = False

    def __post_init__(self):
        if self.precond.consistency:
            raise ValueError("this loss trains diffusion models: give it TrigPrecond(consistency=False)")

    @property
    def needs_uncertainty(self) -> bool:
        return self.adaptive

    def of_each(self, model: Denoise, x0: Tensor, label: Label, given: Given) -> LossOut:
        sigma = send(self.density(len(x0), given.draws), x0.device, x0.dtype)
        x = x0 + expand(sigma, x0) * noise_like(x0, given.draws)
        sine = sigma / (sigma**2 + self.precond.sigma_data**2).sqrt()
        return _weigh(((model(x, sigma, label) - x0) / expand(sine, x0)).square(), model, sigma, self.adaptive)


def trig_tangent(
    model: Denoise, x: Tensor, sigma: Tensor, slope: Tensor, label: Label = None, warmup: float = 1.0
) -> tuple[Tensor, Tensor]:
    """F and g = cos(t) df/dt along dx_t/dt = slope, of a model with TrigPrecond (sCM, Algorithm 1 and section 4.1).

        g = -cos^2 (sigma_data F - slope) - warmup cos sin (x_t + sigma_data dF/dt)

    Args:
        x: the state in TrigFlow's coordinates, x_t = cos(t) x0 + sin(t) z.
        sigma: the level, (B,); t = arctan(sigma / sigma_data).
        warmup: share, 0 to 1, of the part that makes training unstable.

    Returns F, which can be differentiated by the parameters, and g, which cannot.
    """
    if not (isinstance(model, Denoiser) and isinstance(model.precond, TrigPrecond)):
        raise ValueError("the tangent is one of TrigFlow's F: it needs a Denoiser with TrigPrecond(consistency=True)")
    precond = model.precond
    root = (sigma**2 + precond.sigma_data**2).sqrt()
    cos, sin = expand(precond.sigma_data / root, x), expand(sigma / root, x)

    def network(scaled: Tensor, sigma: Tensor) -> Tensor:
        return precond.sign * model.raw(scaled, precond(sigma).c_noise, label).to(x.dtype)

    # cos sin d/dt, of which every factor is bounded; since d sigma / dt = sigma_data / cos^2, on sigma it is sigma d/dsigma.
    result = torch.func.jvp(network, (x / precond.sigma_data, sigma), (cos * sin * slope / precond.sigma_data, sigma))
    out, fixed, change = result[0], result[0].detach(), result[1].detach()
    g = -(cos**2) * (precond.sigma_data * fixed - slope) - warmup * (cos * sin * x + precond.sigma_data * change)
    return out, g


@dataclass(frozen=True)
class SCMLoss(_AlongBridge):
    """Continuous-time consistency models, simplified and stabilised: sCT and sCD (sCM, arXiv 2410.11081, Algorithm 1).

    e^w / D ||F - sg(F) - g||^2 - w with the tangent g of `trig_tangent`: the gradient pulls F along g, and the value is that of
    e^w / D ||g||^2 - w, which can be negative where the weight e^w is learned.

    Args:
        bridge: dx_t/dt; "noise": cos(t) z - sin(t) x0 (sCT); "teacher": the PF-ODE of any diffusion model or oracle (sCD).
        density: distribution of sigma; the paper's is the default.
        sigma_max: draws above it are set to it; the level where sampling starts.
        warmup: share of training over which the weight of the unstable part of g rises from 0 to 1; at 0 it is always 1.
        tangent: "normalize" takes g / (||g|| + c), "clip" each coordinate to [-c, c], "none" g itself.
        c: None takes 0.1 to normalize and 1 to clip.
        adaptive: learn the weight e^w(sigma); needs `attach_uncertainty(model)`.
        precond: the scalings of the models that this loss trains.
    """

    bridge: Literal["noise", "teacher"] = "noise"
    density: LogNormal = field(default_factory=lambda: LogNormal(-1.0, 1.4))
    sigma_max: float = SIGMA_MAX
    warmup: float = 0.125
    tangent: Literal["normalize", "clip", "none"] = "normalize"
    c: float | None = None
    adaptive: bool = True
    precond: TrigPrecond = field(default_factory=lambda: TrigPrecond(consistency=True))

    def __post_init__(self):
        check_choice("bridge", self.bridge, ("noise", "teacher"))
        check_choice("tangent", self.tangent, ("normalize", "clip", "none"))
        if self.tangent == "none" and self.c is not None:
            raise ValueError("c belongs to tangent 'normalize' or 'clip'; 'none' does not use it")
        if self.c is not None and self.c <= 0:
            raise ValueError(f"c must be above 0, got {self.c}")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup is a share of training, 0 to 1: got {self.warmup}")
        if not self.precond.consistency:
            raise ValueError("this loss trains consistency models: give it TrigPrecond(consistency=True)")

    @property
    def scheduled(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.warmup > 0

    @property
    def needs_uncertainty(self) -> bool:
        return self.adaptive

    def _stabilised(self, g: Tensor) -> Tensor:
        if self.tangent == "normalize":
            norm = torch.linalg.vector_norm(g.flatten(1), dim=1)
            return g / expand(norm + (0.1 if self.c is None else self.c), g)
        c = 1.0 if self.c is None else self.c
        return g if self.tangent == "none" else g.clamp(-c, c)

    def of_each(self, model: Denoise, x0: Tensor, label: Label, given: Given) -> LossOut:
        if getattr(model, "precond", None) != self.precond:
            raise ValueError(f"this loss trains models with {self.precond}: build the model with loss.precond")
        data = self.precond.sigma_data
        # In the solvers' precision: a teacher's slope is a small difference over a small sine.
        level = send(self.density(len(x0), given.draws).clamp_max(self.sigma_max), x0.device, state_dtype(x0.device))
        root = (level**2 + data**2).sqrt()
        start, sigma = x0.to(level), expand(level, x0)
        cos, sin = expand(data / root, x0), expand(level / root, x0)
        eps = noise_like(start, given.draws)
        x = cos * start + data * sin * eps
        if given.teacher is None:
            slope = data * cos * eps - sin * start
        else:
            with torch.no_grad():
                slope = (cos * x - given.teacher(start + sigma * eps, level, label)) / sin
        warmup = min(1.0, given.progress / self.warmup) if self.warmup else 1.0
        out, g = trig_tangent(model, x.to(x0), level.to(x0), slope.to(x0), label, warmup)
        return _weigh((out - out.detach() - self._stabilised(g)).square(), model, level.to(x0), self.adaptive)


@LOSSES.register(
    "ccd",
    "CD, continuous time",
    "CD for infinitely close neighbours: the model's rate of change along the exact path, by forward-mode differentiation.",
    kind="distilled",
    start="edm",
)
def ccd(stop_gradient: bool = True) -> ContinuousLoss:
    """Continuous-time consistency distillation (CM, Theorems 3 and 5)."""
    return ContinuousLoss("teacher", stop_gradient=stop_gradient)


@LOSSES.register(
    "cct",
    "CT, continuous time",
    "The same limit without a teacher. Its gradient is noisy; the paper starts it from a diffusion model.",
    kind="data",
    start="edm",
)
def cct() -> ContinuousLoss:
    """Continuous-time consistency training (CM, Theorem 6); start it from a diffusion model, as the paper does."""
    return ContinuousLoss("noise")


@LOSSES.register(
    "sct",
    "sCT (sCM)",
    "sCM without a teacher: TrigFlow's angle in place of σ, and tangents that are normalized.",
    kind="data",
    time_scale=2.0,
)
def sct() -> SCMLoss:
    """sCT (sCM, Algorithm 1): no teacher; from a diffusion model or from nothing."""
    return SCMLoss("noise")


@LOSSES.register(
    "scd",
    "sCD (sCM)",
    "sCM with the exact PF-ODE for a teacher: TrigFlow's angle in place of σ, and tangents that are normalized.",
    kind="distilled",
    time_scale=2.0,
)
def scd() -> SCMLoss:
    """sCD (sCM, Algorithm 1) without the adaptive weight, which small networks in the plane are better off without."""
    return SCMLoss("teacher", adaptive=False)


@LOSSES.register(
    "trigflow",
    "TrigFlow",
    "A diffusion model that is told an angle in place of σ: where sCM starts.",
    kind="diffusion",
    lr=2e-3,
    time_scale=2.0,
)
def trigflow() -> TrigLoss:
    """A diffusion model in TrigFlow's coordinates: the teacher of sCD, the start of sCT."""
    return TrigLoss()
