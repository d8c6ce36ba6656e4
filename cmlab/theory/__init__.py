"""Theorems 1 and 2, bias and variance of consistency training, measured against exact scores."""

from .base import check_sizes, ring, soft3
from .limits import Limit, continuous_limit
from .theorem_1 import (
    LEVELS,
    SIZES,
    SOLVERS,
    Abscissa,
    Convergence,
    Floor,
    Origins,
    Stretch,
    ZeroLossModel,
    error_origins,
    stretch,
    theorem1,
    trained_floor,
    zero_loss,
    zero_loss_model,
)
from .theorem_2 import Theorem2, random_model, theorem2
from .variance import CTGradient, ct_gradient

__all__ = [
    "Abscissa", "CTGradient", "Convergence", "Floor", "LEVELS", "Limit", "Origins", "SIZES", "SOLVERS", "Stretch", "Theorem2",
    "ZeroLossModel", "check_sizes", "continuous_limit", "ct_gradient", "error_origins", "random_model", "ring", "soft3", "stretch",
    "theorem1", "theorem2", "trained_floor", "zero_loss", "zero_loss_model",
]  # fmt: skip
