"""Preconditioning, and the Denoiser that wraps a network.

One contract for everything in this package: ``denoise(x, sigma, label=None) -> x0_hat``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from .noise import SIGMA_DATA, SIGMA_MIN, expand


class Denoise(Protocol):
    """``denoise(x, sigma, label=None)``: x (B, *S), sigma (B,) or (), label (B,) int or None; returns x0_hat (B, *S)."""

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None = None, /) -> Tensor: ...


class Coeffs(NamedTuple):
    """D(x) = c_skip x + c_out F(c_in x, c_noise); each has the shape of sigma."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


@dataclass(frozen=True)
class Precond:
    """EDM's scalings (EDM, Table 1), shifted so that the output at ``sigma_min`` is the input itself (CM, eq. 5 and appendix C).

    ``sigma_min=0`` is EDM exactly, so changing this one number turns a diffusion model into the start of a consistency model.
    """

    sigma_data: float = SIGMA_DATA
    sigma_min: float = 0.0

    def __call__(self, sigma: Tensor) -> Coeffs:
        # Subtract in sigma's own dtype: the float32 level 0.002 must meet the float32 constant 0.002 for c_out to be 0.0.
        above = (sigma - torch.tensor(self.sigma_min, dtype=sigma.dtype, device=sigma.device)).clamp_min(0)
        root = (sigma**2 + self.sigma_data**2).sqrt()
        # A tensor over a tensor: torch divides a number by a tensor through the reciprocal, and 0.09 * (1 / 0.09) is not 1.
        variance = torch.tensor(self.sigma_data**2, dtype=sigma.dtype, device=sigma.device)
        return Coeffs(
            c_skip=variance / (above**2 + variance),
            c_out=self.sigma_data * above / root,
            c_in=1 / root,
            # Finite at sigma = 0, where c_out = 0 makes the network's answer irrelevant.
            c_noise=sigma.clamp_min(1e-6).log() / 4,
        )


EDM = Precond()
CONSISTENCY = Precond(sigma_min=SIGMA_MIN)


class Denoiser(nn.Module):
    """A network with its preconditioning: D(x) = c_skip x + c_out F(c_in x, c_noise, label).

    Args:
        net: called as ``net(x, c_noise, label)`` with x (B, *S), c_noise (B,), label (B,) int64 or None.
        precond: the scalings; ``precond.sigma_min > 0`` makes a consistency model.
        shape: shape S of one sample, ``(2,)`` or ``(C, H, W)``.
        classes: number of classes, 0 for an unconditional model. A conditional model
            needs a label in every call: none is trained without.

    The scalings are computed in the dtype of ``x`` and the network runs in its own, so float64 solver states stay float64.
    """

    def __init__(self, net: nn.Module, precond: Precond, shape: Sequence[int], classes: int = 0):
        super().__init__()
        self.net, self.precond, self.shape, self.classes = net, precond, tuple(shape), classes

    @property
    def config(self) -> Any:
        """The frozen configuration that the network was built from."""
        return self.net.config

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"this model works on samples of shape {self.shape}, got a batch of shape {tuple(x.shape)}")
        if label is not None and self.classes == 0:
            raise ValueError("this model is unconditional: call it without a label")
        if label is None and self.classes > 0:
            raise ValueError(f"this model has {self.classes} classes: pass label=, one integer per sample")
        sigma = torch.as_tensor(sigma, device=x.device)
        if not sigma.is_floating_point():
            sigma = sigma.to(x.dtype)
        c = self.precond(expand(sigma, x))
        dtype = next(self.net.parameters()).dtype
        out = self.net((c.c_in * x).to(dtype), c.c_noise.reshape(-1).to(dtype), label)
        return (c.c_skip * x + c.c_out * out.to(x.dtype)).to(x.dtype)


def conditioned(denoise: Denoise, label: Tensor) -> Denoise:
    """``denoise`` with its classes fixed: row k of every batch has class label[k] (label (B,) int64).

    What asks for no label, a notebook or an unconditional sampler, can then use a conditional model.
    """

    def fixed(x: Tensor, sigma: Tensor, _: Tensor | None = None, /) -> Tensor:
        return denoise(x, sigma, label[: len(x)].to(x.device))

    return fixed
