"""The consistency model's first parameterisation, with an if instead of a skip connection (CM, eq. 4): for comparison."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..denoiser import Coeffs, Precond, Preconditioning
from ..noise import SIGMA_DATA, SIGMA_MIN


@dataclass(frozen=True)
class IndicatorPrecond(Preconditioning):
    """f(x, sigma) = x at ``sigma_min``, and the network's own answer at every level above it (CM, eq. 4).

    The network's input is scaled as in `Precond`, so that the two differ in their outputs alone. f jumps at sigma_min.
    """

    sigma_data: float = SIGMA_DATA
    sigma_min: float = SIGMA_MIN
    consistency = True

    def __post_init__(self):
        if not self.sigma_min > 0:
            raise ValueError(f"the if of eq. 4 needs a lowest level above 0, got {self.sigma_min}")

    def __call__(self, sigma: Tensor) -> Coeffs:
        # In sigma's own dtype: the float32 level 0.002 must meet the float32 constant 0.002.
        above = (sigma > torch.full((), self.sigma_min, dtype=sigma.dtype, device=sigma.device)).to(sigma.dtype)
        return Precond(self.sigma_data)(sigma)._replace(c_skip=1 - above, c_out=above)

    @property
    def levels(self) -> tuple[float, float]:
        return self.sigma_min, math.inf
