"""NVlabs/edm: the four preconditioners around a tiny network."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from cmlab.denoiser import Denoiser, Precond
from cmlab.methods.scalings import IDDPMPrecond, VEPrecond, VPPrecond
from cmlab.methods.sde import VP

from .base import F32_ELEMENTARY, F32_NETWORK, Check, runs


class TinyNet(nn.Module):
    """GOLDEN.md, section 2: F[b,o] = V tanh(A c_in x + b + a c_noise / 300 + L labels + G augment) + d."""

    def __init__(self, params: dict[str, Tensor]):
        super().__init__()
        self.p = nn.ParameterDict({k: nn.Parameter(v) for k, v in params.items()})
        self.calls: list[tuple[Tensor, Tensor]] = []
        self.augment: Tensor | None = None

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        self.calls.append((x, c_noise))
        h = torch.einsum("kc,bcij->bkij", self.p["A"], x)
        bias = self.p["b"] + self.p["a"] * c_noise[:, None] / 300
        if label is not None:
            bias = bias + self.p["L"].T[label.clamp_min(0)] * (label >= 0)[:, None]
        if self.augment is not None:
            bias = bias + self.augment @ self.p["G"].T
        h = h + bias[:, :, None, None]
        return torch.einsum("ok,bkij->boij", self.p["V"], h.tanh()) + self.p["d"][:, None, None]


def label_of(case) -> Tensor | None:
    """The case's one-hot rows as class numbers; a row of zeros is "no class"."""
    if not case.has("in", "class_labels"):
        return None
    rows = case.input("class_labels")
    return torch.where(rows.any(1), rows.argmax(1), -1)


def net_calls(model: Denoiser) -> list[tuple[Tensor, Tensor]]:
    """What the tiny network was given: (c_in x, c_noise) per call."""
    assert isinstance(model.net, TinyNet)
    return model.net.calls


def wrap(case, precond, params: dict[str, Tensor], shape: tuple[int, ...], classes: int | None = None) -> Denoiser:
    """The case's tiny network under cmlab's own Denoiser."""
    net = TinyNet(params)
    if case.has("in", "augment_labels"):
        net.augment = case.input("augment_labels", net.p["A"].dtype)
    classes = case.scalars.get("label_dim", 0) if classes is None else classes
    return Denoiser(net, precond, shape, classes, drops_labels=classes > 0)


@dataclass(frozen=True)
class Ranged(Precond):
    """EDM's scalings of a diffusion model that is said to know the levels from ``low`` to ``high`` only."""

    low: float = 0.0
    high: float = float("inf")

    @property
    def levels(self) -> tuple[float, float]:
        return self.low, self.high


# The originals' arguments and their defaults, which are cmlab's too.
EDM_PRECONDS = {
    "EDMPrecond": lambda sigma_data=0.5, sigma_min=0.0, sigma_max=float("inf"): (
        Ranged(sigma_data, low=sigma_min, high=sigma_max) if (sigma_min, sigma_max) != (0, float("inf")) else Precond(sigma_data)
    ),
    "VPPrecond": lambda beta_d=19.9, beta_min=0.1, M=1000, epsilon_t=1e-5: VPPrecond(beta_d, beta_min, M, epsilon_t),
    "VEPrecond": lambda sigma_min=0.02, sigma_max=100.0: VEPrecond(sigma_min, sigma_max),
    "iDDPMPrecond": lambda C_1=0.001, C_2=0.008, M=1000: IDDPMPrecond(C_1, C_2, M),
}


def precond_of(name: str, given: dict[str, Any]):
    """The original's class ``name`` with those of its arguments that are ``given``."""
    make = EDM_PRECONDS[name]
    return make(**{k: given[k] for k in inspect.signature(make).parameters if given.get(k) is not None})


@runs("g_edm_precond.*", *EDM_PRECONDS)
def preconditioner(case):
    precond = precond_of(case.fn.split(".")[0], case.scalars)
    x, sigma = case.input("x"), case.input("sigma")
    model = wrap(case, precond, case.params(torch.float32), tuple(x.shape[1:]))
    with torch.no_grad():
        denoised = model(x, sigma, label_of(case))
        net_x, c_noise = net_calls(model)[0]
        raw = model.net(net_x, c_noise, label_of(case))
    yield Check("net_x", net_x, F32_ELEMENTARY)
    yield Check("c_noise", c_noise, F32_ELEMENTARY)
    yield Check("F", raw, F32_NETWORK)
    yield Check("D", denoised, F32_NETWORK)
    if case.has("in", "t_q"):
        schedule = VP(precond.beta_d, precond.beta_min)
        t = case.input("t_q")
        yield Check("sigma_of_t", schedule.sigma(t), F32_ELEMENTARY)
        yield Check("t_of_sigma", schedule.time(schedule.sigma(t)), F32_ELEMENTARY)
    if case.has("in", "q"):
        q = case.input("q")
        yield Check("u", precond.table, F32_ELEMENTARY)
        yield Check("round_sigma", precond.round(q), F32_ELEMENTARY)
        yield Check("round_index", precond.nearest(q), 0)
