"""Theorem 2 of the paper, measured: how consistency training approaches distillation as the grid gets finer (CM, Theorem 2).

Training draws one x0. Here the losses are averaged exactly over p(x0 | x), which for a mixture of Gaussians is again one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..base.rng import global_seed
from ..denoiser import CONSISTENCY, Denoise, Denoiser
from ..distances import Distance
from ..networks import MLPConfig, build_network
from ..oracle import GaussianMixture
from ..samplers import euler_step
from .base import check_sizes, local_slopes, noised_pairs, posterior, slope_between, soft3, stratified

CHUNK = 2**17  # quadrature points that are evaluated at once
NEGLIGIBLE = 1e-13  # probability of a quadrature point that is left out
Loss = Literal["difference", "cd", "ct"]


def random_model(seed: int = 0, width: int = 16, scale: float = 0.5) -> Denoiser:
    """An untrained, smooth consistency model of points in the plane: every weight drawn from N(0, scale^2), float64."""
    with global_seed(seed):
        net = build_network(MLPConfig(width=width, depth=1, freqs=2), (2,))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator))
    return Denoiser(net, CONSISTENCY, (2,)).double().eval()


@dataclass(frozen=True)
class Theorem2:
    """L_CD and L_CT for grids of N levels, each with the exact expectation over x0 given x.

    Attributes:
        sizes: N.
        cd: the CD loss with the exact score and Euler's step.
        ct: the CT loss.
    """

    sizes: list[int]
    cd: list[float]
    ct: list[float]

    @property
    def steps(self) -> list[float]:
        """1 / (N - 1), the step in the grid's own coordinate."""
        return [1 / (n - 1) for n in self.sizes]

    @property
    def difference(self) -> list[float]:
        """|L_CD - L_CT|, what the theorem calls o(Delta t)."""
        return [abs(a - b) for a, b in zip(self.cd, self.ct, strict=True)]

    @property
    def ratio(self) -> list[float]:
        """L_CT / L_CD."""
        return [b / a for a, b in zip(self.cd, self.ct, strict=True)]

    @property
    def ct_per_step(self) -> list[float]:
        """(N - 1) L_CT, which stays away from 0 where inf L_CD > 0: L_CT >= O(Delta t)."""
        return [(n - 1) * loss for n, loss in zip(self.sizes, self.ct, strict=True)]

    def slope(self, low: int = 80, high: int = 1280, of: Loss = "difference") -> float:
        """Exponent of the step for N from ``low`` to ``high``, both included."""
        return slope_between(self.sizes, self.steps, getattr(self, of), low, high)

    def local_slopes(self, of: Loss = "difference") -> list[float]:
        """The exponent between each two neighbouring sizes."""
        return local_slopes(self.steps, getattr(self, of))


def theorem2(
    distance: Distance | str = "l2",
    target: Literal["other", "online"] = "other",
    sizes: Sequence[int] = (10, 20, 40, 80, 160, 320, 640, 1280),
    oracle: GaussianMixture | None = None,
    *,
    model: Denoise | None = None,
    points: int = 128,
    strata: int = 48,
    nodes: int = 9,
    seed: int = 0,
) -> Theorem2:
    """How fast the CT loss approaches the CD loss with the exact score (CM, Theorem 2: |L_CD - L_CT| = o(Delta t)).

    The difference is the step squared times a Hessian of the target, for a smooth distance, as the first order cancels by
    CM's Lemma 1. With ``target="online"`` both losses vanish like the step squared too, so their ratio does not tend to 1.
    "l1" has no second derivative where its arguments meet. With ``target="online"`` they do meet, and the difference is of first
    order only; two different networks keep apart, and for them it is of second order, but for a few kinks.

    Args:
        distance: d, a `Distance` or its name.
        target: "other", a second random network, which differs from the model as a moving average does; "online", the model.
        sizes: numbers N of grid levels, growing.
        oracle: the data, by default `soft3`.
        model: the consistency model in float64, by default a random smooth one.
        points: draws of (x0, eps), each met at ``strata`` evenly spread places in the grid, the same ones for every N.
        nodes: of the Gauss-Hermite quadrature, per axis and component.
        seed: of points and networks.
    """
    if target not in ("other", "online"):
        raise ValueError(f"unknown target {target!r}: choose other (a second network) or online (the model itself)")
    distance = Distance(distance) if isinstance(distance, str) else distance  # pyright: ignore[reportArgumentType]
    oracle, sizes = oracle or soft3(), check_sizes(sizes)
    model = model or random_model(seed)
    aim = random_model(seed + 1) if target == "other" else model
    x0, draws = stratified(oracle, points, strata, seed)
    cd, ct = [], []
    with torch.no_grad():
        for n in sizes:
            x, sigma, sigma_next = noised_pairs(n, x0, draws)
            out = model(x, sigma)
            cd.append(float(distance(out, aim(euler_step(oracle, x, sigma, sigma_next).x, sigma_next)).mean()))
            total = 0.0
            for rows, goals, weights in ct_targets(oracle, aim, x, sigma, sigma_next, nodes):
                many = out[rows].unsqueeze(1).expand_as(goals)
                total += float((weights.flatten() * distance(many.flatten(0, 1), goals.flatten(0, 1))).sum())
            ct.append(total / len(x))
    return Theorem2(sizes, cd, ct)


def ct_targets(
    oracle: GaussianMixture, aim: Denoise, x: Tensor, sigma: Tensor, sigma_next: Tensor, nodes: int
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """What CT's target can be given x (B, d), with its probabilities: chunks of rows, goals (b, M, d), weights (b, M)."""
    step = max(1, CHUNK // (len(oracle.weights) * nodes ** x.shape[1]))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        x0, weights = posterior(oracle, x[rows], sigma[rows], nodes)
        # x0 + sigma_next eps with eps = (x - x0) / sigma: the point that shares its noise with x.
        share = (sigma_next[rows] / sigma[rows]).reshape(-1, 1, 1)
        y = x0 + share * (x[rows].unsqueeze(1) - x0)
        # Most of the posterior lies in one or two components: the model need not be called at the other points.
        likely = weights > NEGLIGIBLE
        goals = torch.zeros_like(y)
        goals[likely] = aim(y[likely], sigma_next[rows].unsqueeze(1).expand_as(weights)[likely])
        yield rows, goals, weights * likely
