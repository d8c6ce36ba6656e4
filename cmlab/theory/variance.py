"""Bias and variance of the gradient of consistency training, measured against the true gradient: why N starts small and grows.

What training estimates by one draw of x0 is averaged exactly over p(x0 | x), as in `theory.theorem_2`.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..denoiser import CONSISTENCY, Denoiser
from ..oracle import GaussianMixture
from ..samplers import euler_step
from .base import check_sizes, noised_pairs, slope_between, soft3, stratified
from .theorem_2 import ct_targets


@dataclass(frozen=True)
class CTGradient:
    """The gradient of the CT loss (squared error, target = the model behind a stop-gradient) over grids of N levels.

    The true gradient g takes the exact flow to the next level. All lengths are in units of |g| at the same N, and all lists are
    as long as ``sizes``.

    Attributes:
        sizes: N.
        bias: |E g_CT - g|.
        cosine: between E g_CT and g; below 0 the mean step of training leads away from the truth.
        std: standard deviation of g_CT of one sample: the root of the trace of its covariance.
        cd_std: the same of g_CD, with the exact score and Euler's step.
        scale: (N - 1) |g| itself, in units of the loss; tends to the length of Theorem 5's limit.
        mean: |E g_CT|.
    """

    sizes: list[int]
    bias: list[float]
    cosine: list[float]
    std: list[float]
    cd_std: list[float]
    scale: list[float]
    mean: list[float]

    @property
    def noise_to_signal(self) -> list[float]:
        """std / |E g_CT|, the noise that a training step sees. It is small at small N, where the mean is large but biased."""
        return [a / b for a, b in zip(self.std, self.mean, strict=True)]

    def slope(self, low: int = 32, high: int = 1024) -> float:
        """Exponent of the bias in N - 1 for N from ``low`` to ``high``, both included: -1 in theory."""
        return slope_between(self.sizes, [n - 1 for n in self.sizes], self.bias, low, high)


def ct_gradient(
    model: Denoiser,
    oracle: GaussianMixture | None = None,
    sizes: Sequence[int] = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
    *,
    weight: Literal["1", "1/dt"] = "1",
    points: int = 64,
    strata: int = 32,
    spread: int = 256,
    nodes: int = 3,
    seed: int = 0,
) -> CTGradient:
    """Bias and variance of the CT gradient against N, both with the exact expectation over x0 given x.

    The gradient of the squared error, 2 J^T (f(x) - target), is linear in the target: its mean given x needs the target's mean.

    Args:
        model: any model of points in the plane. The network of a diffusion model gets the scalings of a consistency model, as at
            the start of consistency training.
        oracle: the data, by default `soft3`: pass the one that the model was trained on.
        sizes: numbers N of grid levels, growing.
        weight: lambda, "1" as in the paper or "1/dt" as in iCT.
        points: draws of (x0, eps), each met at ``strata`` evenly spread places in the grid.
        spread: how many of those pairs the standard deviations are taken over; each needs a Jacobian.
        nodes: of the quadrature, per axis and component.
        seed: of the points.
    """
    if weight not in ("1", "1/dt"):
        raise ValueError(f"unknown weight {weight!r}: choose 1 or 1/dt")
    oracle, sizes = oracle or soft3(), check_sizes(sizes)
    net = copy.deepcopy(model.net).double().eval().requires_grad_(True)
    f = Denoiser(net, model.precond if model.precond.consistency else CONSISTENCY, model.shape)
    x0, draws = stratified(oracle, points, strata, seed)
    few = torch.randperm(len(x0), generator=torch.Generator().manual_seed(seed))[:spread]
    rows = []
    for n in sizes:
        x, sigma, sigma_next = noised_pairs(n, x0, draws)
        scale = 2 * torch.ones_like(sigma) if weight == "1" else 2 / (sigma - sigma_next)
        with torch.no_grad():
            out = f(x, sigma)
            means, seconds = [], []
            for part, goals, chances in ct_targets(oracle, f, x, sigma, sigma_next, nodes):
                gap = out[part].unsqueeze(1) - goals
                means.append((chances.unsqueeze(-1) * gap).sum(1))
                seconds.append(torch.einsum("bm,bmi,bmj->bij", chances, gap, gap))
            true = out - f(oracle.flow(x, sigma, sigma_next), sigma_next)
            cd = out - f(euler_step(oracle, x, sigma, sigma_next).x, sigma_next)
        ct, exact, distilled = (_mean_gradient(f, x, sigma, scale[:, None] * gap) for gap in (torch.cat(means), true, cd))
        squares = scale[few, None, None] ** 2 * torch.stack([torch.cat(seconds)[few], (cd.unsqueeze(2) * cd.unsqueeze(1))[few]])
        moments = _second_moments(f, x[few], sigma[few], squares)
        size = float(exact.norm())
        stds = [float((m - g.square().sum()).clamp_min(0).sqrt()) for m, g in zip(moments, (ct, distilled), strict=True)]
        cosine = float(ct @ exact / (ct.norm() * exact.norm()))
        bias, mean = float((ct - exact).norm()) / size, float(ct.norm()) / size
        rows.append((bias, cosine, stds[0] / size, stds[1] / size, (n - 1) * size, mean))
    return CTGradient(sizes, *(list(column) for column in zip(*rows, strict=True)))


def _mean_gradient(f: Denoiser, x: Tensor, sigma: Tensor, gap: Tensor) -> Tensor:
    """The mean over the batch of J^T gap, (P,), with J the derivative of f(x, sigma) by the weights."""
    with torch.enable_grad():
        pull = (f(x, sigma) * gap).sum() / len(x)
        return torch.cat([g.flatten() for g in torch.autograd.grad(pull, list(f.parameters()))])


def _second_moments(f: Denoiser, x: Tensor, sigma: Tensor, squares: Tensor) -> Tensor:
    """Means over the batch of tr(J J^T S), (K,): E |J^T gap|^2 for gaps whose second moments S are ``squares`` (K, B, d, d)."""
    weights = {name: p.detach() for name, p in f.named_parameters()}

    def one(weights: dict[str, Tensor], x: Tensor, sigma: Tensor) -> Tensor:
        return torch.func.functional_call(f, weights, (x[None], sigma[None]))[0]

    jacobian = torch.func.vmap(torch.func.jacrev(one), (None, 0, 0))
    total = squares.new_zeros(len(squares))
    for rows in torch.arange(len(x)).split(64):
        j = torch.cat([part.flatten(2) for part in jacobian(weights, x[rows], sigma[rows]).values()], 2)
        total = total + torch.einsum("bij,kbij->k", j @ j.mT, squares[:, rows])
    return total / len(x)
