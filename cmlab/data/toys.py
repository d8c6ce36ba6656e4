"""The plane: six exact 2D mixtures, and points that a user draws.

Every set *is* a Gaussian mixture with standard deviation 0.5 per coordinate, so its score, its PF-ODE and its consistency
function are known exactly.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..base.registry import DATASETS
from ..noise import SIGMA_DATA
from ..oracle import GaussianMixture
from .sets import MixtureData


def mixture_from(points: Tensor, spread: float, weights: Tensor | None = None) -> GaussianMixture:
    """Gaussians of standard deviation ``spread`` (in the units of ``points`` (K, 2)), centred and scaled as a whole so that the
    root mean square over both coordinates of the mixture's standard deviation is 0.5.

    Raises ValueError for no points, not finite ones, or points and spread that all fall on one spot.
    """
    points = torch.as_tensor(points, dtype=torch.float64)
    if points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise ValueError(f"need points of shape (K, 2) with K >= 1, got {tuple(points.shape)}")
    if not bool(points.isfinite().all()):
        raise ValueError("the points hold values that are not finite numbers")
    w = torch.ones(len(points), dtype=torch.float64) if weights is None else weights.double()
    w = w / w.sum()
    centred = points - (w[:, None] * points).sum(0)
    variance = float((w[:, None] * centred.square()).sum() / 2) + spread**2
    if variance == 0:
        raise ValueError("all points lie on one spot and spread is 0: draw at least two points")
    scale = SIGMA_DATA / math.sqrt(variance)
    return GaussianMixture(w, centred * scale, spread * scale)


def drawn_points(points: Sequence[Sequence[float]] | Tensor, spread: float = 0.05) -> MixtureData:
    """A set from points that a user drew, (K, 2): a Gaussian around each, as wide as ``spread`` of their own standard deviation."""
    points = torch.as_tensor(points, dtype=torch.float64)
    if points.ndim == 0 or len(points) < 2:
        raise ValueError(f"draw at least two points: got {points.numel()}")
    size = float(points.std(0, correction=0).square().mean().sqrt())
    return MixtureData(mixture_from(points, spread * size))


def _line(n: int) -> Tensor:
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


def _polar(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)


@DATASETS.register("8gaussians", help="eight spots on a ring", kind="toy")
def eight_gaussians() -> MixtureData:
    angle = torch.arange(8, dtype=torch.float64) * math.pi / 4
    return MixtureData(mixture_from(_polar(torch.ones(8, dtype=torch.float64), angle), 0.1))


@DATASETS.register("two-moons", help="two half circles, each with one end inside the other", kind="toy")
def two_moons() -> MixtureData:
    angle = _line(96) * math.pi
    upper = _polar(torch.ones_like(angle), angle)
    return MixtureData(mixture_from(torch.cat([upper, torch.tensor([1.0, 0.5]) - upper]), 0.06))


@DATASETS.register("checkerboard", help="the eight dark squares of a board of four by four", kind="toy")
def checkerboard() -> MixtureData:
    inside = torch.cartesian_prod(_line(10), _line(10))
    cells = [(i, j) for i in range(4) for j in range(4) if (i + j) % 2 == 0]
    return MixtureData(mixture_from(torch.cat([inside + torch.tensor(c, dtype=torch.float64) for c in cells]), 0.04))


@DATASETS.register("pinwheel", help="five bent arms", kind="toy")
def pinwheel() -> MixtureData:
    radius = 0.25 + 1.25 * torch.cartesian_prod(_line(24), _line(6))[:, 0]
    across = torch.cartesian_prod(_line(24), _line(6))[:, 1] - 0.5
    arms = [_polar(radius, 2 * math.pi * k / 5 + 0.9 * radius + 0.45 * across) for k in range(5)]
    return MixtureData(mixture_from(torch.cat(arms), 0.05))


@DATASETS.register("swiss-roll", help="a spiral of one and a half turns", kind="toy")
def swiss_roll() -> MixtureData:
    angle = 1.5 * math.pi * (1 + 2 * _line(192))
    return MixtureData(mixture_from(_polar(angle, angle), 0.4, weights=angle))


@DATASETS.register("rings", help="four circles around one centre", kind="toy")
def rings() -> MixtureData:
    radius = torch.tensor([0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    counts = [24, 48, 72, 96]  # evenly dense along each ring
    points = [_polar(r.expand(n), 2 * math.pi * _line(n)) for r, n in zip(radius, counts, strict=True)]
    return MixtureData(mixture_from(torch.cat(points), 0.025))
