"""How good are the samples? Sliced Wasserstein distance for points in the plane."""

import torch
from torch import Tensor


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = 256, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance between two equally large sets of points (N, d): root mean square over fixed directions.

    In one dimension the optimal coupling pairs sorted values, so each direction is exact (Rabin et al., 2011).
    Raises ValueError for sets of different size.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"need two point sets of the same shape (N, d), got {tuple(a.shape)} and {tuple(b.shape)}")
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(a.shape[1], projections, generator=generator, dtype=torch.float64)
    direction = direction / direction.norm(dim=0)
    sorted_a, sorted_b = ((points.double() @ direction).sort(dim=0).values for points in (a, b))
    return float((sorted_a - sorted_b).square().mean().sqrt())


def paired_rms(a: Tensor, b: Tensor) -> float:
    """Root mean square of the per-coordinate difference between samples made from the same noise."""
    return float((a - b).double().square().mean().sqrt())
