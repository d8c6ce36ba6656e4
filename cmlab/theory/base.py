"""What the measured theorems share: the data on which they are measured, noised points, and slopes in a log-log plot."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ..noise import Draws, expand
from ..oracle import GaussianMixture, Oracle
from ..schedules import FixedN, GridPairs


def soft3() -> GaussianMixture:
    """Three broad, unequal Gaussians in the plane. They are so smooth that a few tens of steps show the order of a solver."""
    return GaussianMixture([0.5, 0.3, 0.2], torch.tensor([[0.6, 0.1], [-0.5, 0.5], [-0.1, -0.7]]), [0.3, 0.4, 0.5])


def ring(sharpness: float = 0.1, modes: int = 8) -> GaussianMixture:
    """``modes`` equal Gaussians on a circle, each of standard deviation ``sharpness`` times its radius; 0.1 is the set 8gaussians.

    The whole has standard deviation 0.5. The smaller ``sharpness``, the steeper the consistency function between two modes.
    """
    from ..data import mixture_from

    angle = torch.arange(modes, dtype=torch.float64) * 2 * math.pi / modes
    return mixture_from(torch.stack([angle.cos(), angle.sin()], -1), sharpness)


class FixedDraws:
    """A source of draws that gives the same float64 numbers at every call, so that every N is measured at the same points.

    Args:
        uniform: (B,) in [0, 1), where in the grid the noise level lies.
        normal: (B, *S), the noise.
    """

    def __init__(self, uniform: Tensor, normal: Tensor):
        self._uniform, self._normal = uniform, normal

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return self._uniform.reshape(tuple(shape))

    def normal(self, shape: Sequence[int]) -> Tensor:
        return self._normal.reshape(tuple(shape))


def data_and_noise(oracle: Oracle, points: int, seed: int) -> tuple[Tensor, Tensor]:
    """``points`` draws of x0 and of eps, (points, *S) float64 each; the same for the same seed."""
    if points < 1:
        raise ValueError(f"an experiment needs at least 1 point, got {points}")
    generator = torch.Generator().manual_seed(seed)
    x0 = oracle.sample(points, generator)
    return x0, torch.randn(x0.shape, generator=generator, dtype=torch.float64)


def stratified(oracle: Oracle, points: int, strata: int, seed: int) -> tuple[Tensor, Draws]:
    """x0 (points * strata, *S), each point ``strata`` times, and draws that give all its copies one eps, and each its own level.

    The levels lie in the grid at places u, one drawn from each of ``strata`` equal parts of [0, 1).
    """
    if strata < 1:
        raise ValueError(f"an experiment needs at least 1 noise level for each point, got strata = {strata}")
    x0, eps = data_and_noise(oracle, points, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    u = (torch.arange(strata) + torch.rand(points, strata, generator=generator, dtype=torch.float64)) / strata
    return x0.repeat_interleave(strata, 0), FixedDraws(u.flatten(), eps.repeat_interleave(strata, 0))


def noised_pairs(n: int, x0: Tensor, draws: Draws) -> tuple[Tensor, Tensor, Tensor]:
    """x = x0 + sigma eps (B, *S) on a Karras grid of ``n`` levels, its level sigma (B,) and the next lower level (B,)."""
    sigma, sigma_next = GridPairs(FixedN(n))(len(x0), 0.0, draws)
    return x0 + expand(sigma, x0) * draws.normal(x0.shape), sigma, sigma_next


def posterior(oracle: GaussianMixture, x: Tensor, sigma: Tensor, nodes: int) -> tuple[Tensor, Tensor]:
    """Quadrature of p(x0 | x0 + sigma eps = x): points (B, M, d) and their weights (B, M), which sum to 1 in each row.

    The posterior of a mixture is again one, sum_k r_k N(mu_k, s_k^2 sigma^2 / v_k I) with v_k = s_k^2 + sigma^2. Each of its K
    components gets ``nodes`` Gauss-Hermite points per axis, so M = K nodes^d. Exact for polynomials up to degree 2 nodes - 1.
    """
    if x.ndim != 2:
        raise ValueError(f"the quadrature needs points (B, d), got {tuple(x.shape)}")
    z, w = (torch.as_tensor(a, dtype=x.dtype) for a in np.polynomial.hermite_e.hermegauss(nodes))
    z, w = torch.cartesian_prod(*[z] * x.shape[1]).reshape(-1, x.shape[1]), torch.cartesian_prod(*[w / w.sum()] * x.shape[1])
    w = w.reshape(len(z), -1).prod(1)
    noise = expand(sigma, x).unsqueeze(1) ** 2
    variance = (oracle.stds.to(x) ** 2).reshape(1, -1, 1)
    mean = (variance * x.unsqueeze(1) + noise * oracle.means.to(x)) / (variance + noise)
    std = (variance * noise / (variance + noise)).sqrt()
    points = mean.unsqueeze(2) + std.unsqueeze(2) * z
    weights = oracle.responsibilities(x, sigma).unsqueeze(2) * w
    return points.flatten(1, 2), weights.flatten(1)


def fit_slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Exponent p of the least-squares line ln y = p ln x + c."""
    a, b = (torch.tensor(list(v), dtype=torch.float64).log() for v in (x, y))
    if len(a) < 2:
        raise ValueError("a slope needs at least two sizes in its range: give more sizes, or a wider range")
    a = a - a.mean()
    return float((a * b).sum() / a.square().sum())


def slope_between(sizes: Sequence[int], x: Sequence[float], y: Sequence[float], low: int, high: int) -> float:
    """`fit_slope` over the ``sizes`` between ``low`` and ``high``, both included."""
    keep = [k for k, n in enumerate(sizes) if low <= n <= high]
    return fit_slope([x[k] for k in keep], [y[k] for k in keep])


def local_slopes(x: Sequence[float], y: Sequence[float]) -> list[float]:
    """The exponent p of y = c x^p between each two neighbours: one fewer than there are points."""
    return [math.log(y1 / y0) / math.log(x1 / x0) for (x0, x1), (y0, y1) in zip(pairwise(x), pairwise(y), strict=True)]


def check_sizes(sizes: Sequence[int]) -> list[int]:
    """``sizes``, the numbers N of grid levels, as a list; raises ValueError unless they grow and are at least 2."""
    sizes = [int(n) for n in sizes]
    if not sizes or sizes[0] < 2 or any(b <= a for a, b in pairwise(sizes)):
        raise ValueError(f"sizes are numbers of grid levels, growing and at least 2, such as 20 40 80: got {sizes}")
    return sizes
