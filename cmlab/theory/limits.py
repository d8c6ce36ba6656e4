"""The limits of consistency losses and of their gradients as the grid gets finer, measured (CM, Theorems 3, 5 and 6)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..denoiser import Denoiser
from ..losses import ConsistencyLoss
from ..methods.continuous import ContinuousLoss
from ..oracle import GaussianMixture
from ..schedules import FixedN, GridPairs
from .base import check_sizes, slope_between, soft3, stratified
from .theorem_2 import random_model


@dataclass(frozen=True)
class Limit:
    """Consistency losses over grids of N levels beside their continuous-time limits; all lists are as long as ``sizes``.

    Attributes:
        sizes: N.
        value: (N - 1)^2 L_CD / its limit, with the target differentiated too (CM, Theorem 3).
        cd_gradient: relative distance of (N - 1) grad L_CD from its limit, with a stop-gradient (CM, Theorem 5).
        ct_gradient: the same of CT (CM, Theorem 6), on the same draws.
    """

    sizes: list[int]
    value: list[float]
    cd_gradient: list[float]
    ct_gradient: list[float]

    def slope(self, low: int = 80, high: int = 1280, of: Literal["value", "cd", "ct"] = "cd") -> float:
        """Exponent of 1/(N-1) in the distance from the limit: |value - 1|, or one of the gradients."""
        values = {"value": [abs(v - 1) for v in self.value], "cd": self.cd_gradient, "ct": self.ct_gradient}[of]
        return slope_between(self.sizes, [1 / (n - 1) for n in self.sizes], values, low, high)


def continuous_limit(
    sizes: Sequence[int] = (10, 20, 40, 80, 160, 320, 640, 1280),
    oracle: GaussianMixture | None = None,
    *,
    model: Denoiser | None = None,
    points: int = 128,
    strata: int = 48,
    seed: int = 0,
) -> Limit:
    """How consistency losses approach `ContinuousLoss` as N grows (CM, Theorems 3, 5 and 6), with the squared error and weight 1.

    Args:
        sizes: numbers N of grid levels, growing.
        oracle: the data and the teacher, by default `soft3`.
        model: a consistency model in float64, by default a random smooth one.
        points: draws of (x0, eps), each met at ``strata`` evenly spread places in the grid, the same ones for every N.
        seed: of points and network.
    """
    oracle, sizes = oracle or soft3(), check_sizes(sizes)
    model = model or random_model(seed)
    x0, draws = stratified(oracle, points, strata, seed)
    weights = list(model.parameters())

    def mean(loss: ConsistencyLoss | ContinuousLoss) -> Tensor:
        teacher = oracle if loss.needs_teacher else None
        return loss(model, x0, teacher=teacher, draws=draws).loss.mean()

    def gradient(loss: ConsistencyLoss | ContinuousLoss) -> Tensor:
        with torch.enable_grad():
            return torch.cat([g.flatten() for g in torch.autograd.grad(mean(loss), weights)])

    def distance(found: Tensor, limit: Tensor) -> float:
        return float((found - limit).norm() / limit.norm())

    with torch.no_grad():
        limit = mean(ContinuousLoss("teacher", stop_gradient=False, weight="1"))
    cd_limit, ct_limit = (gradient(ContinuousLoss(bridge, weight="1")) for bridge in ("teacher", "noise"))
    rows = []
    for n in sizes:
        cd, ct = (ConsistencyLoss(GridPairs(FixedN(n)), bridge, weight="1") for bridge in ("euler", "noise"))
        with torch.no_grad():
            value = float((n - 1) ** 2 * mean(cd) / limit)
        rows.append((value, distance((n - 1) * gradient(cd), cd_limit), distance((n - 1) * gradient(ct), ct_limit)))
    return Limit(sizes, *(list(column) for column in zip(*rows, strict=True)))
