"""What several runners share: Kinyugo's and openai's tiny network, and what models were asked and answered."""

from typing import Any

import torch
from torch import Tensor, nn

from cmlab.denoiser import Denoiser


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


def params_of(case, role: str, dtype: torch.dtype) -> dict[str, Tensor]:
    own = case.params(dtype, role)
    return {k: v for k, v in own.items() if "." not in k}
