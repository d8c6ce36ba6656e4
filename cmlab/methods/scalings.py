"""The scalings that came before EDM's and after them: VP, VE, improved DDPM (EDM, Table 1) and TrigFlow, with their densities."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from ..base.registry import LOSSES, PRECONDS
from ..denoiser import Coeffs, Precond, Preconditioning
from ..losses import DenoisingLoss
from ..noise import SIGMA_DATA, Draws, send
from ..schedules import Density
from .sde import VP, iddpm_table, vp_range

MAX_STEPS = 10_000  # of a table of noise levels


@PRECONDS.register("vp")
@dataclass(frozen=True)
class VPPrecond(Preconditioning):
    """The VP networks' scalings: an eps-prediction, told the time t(sigma) in steps of 1/``steps`` (EDM, Table 1, first column)."""

    beta_d: float = 19.9
    beta_min: float = 0.1
    steps: int = 1000
    epsilon: float = 1e-5

    def __post_init__(self):
        if not (0 < self.beta_d <= 1000 and 0 <= self.beta_min <= 1000 and 2 <= self.steps <= MAX_STEPS and 0 < self.epsilon < 1):
            raise ValueError(f"beta_d and beta_min lie below 1000, steps from 2 to {MAX_STEPS:,}, epsilon in (0, 1): got {self}")

    def __call__(self, sigma: Tensor) -> Coeffs:
        time = VP(self.beta_d, self.beta_min).time(sigma)
        return Coeffs(torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), (self.steps - 1) * time)

    @property
    def levels(self) -> tuple[float, float]:
        return vp_range(self.epsilon, VP(self.beta_d, self.beta_min))


@PRECONDS.register("ve")
@dataclass(frozen=True)
class VEPrecond(Preconditioning):
    """The VE networks' scalings: an eps-prediction of the unscaled input, told ln(sigma / 2) (EDM, Table 1, second column)."""

    lowest: float = 0.02
    highest: float = 100.0

    def __post_init__(self):
        if not 0 < self.lowest < self.highest < math.inf:
            raise ValueError(f"the lowest level lies above 0 and below the highest: got {self.lowest} and {self.highest}")

    def __call__(self, sigma: Tensor) -> Coeffs:
        one = torch.ones_like(sigma)
        return Coeffs(one, sigma, one, (sigma.clamp_min(1e-6) / 2).log())

    @property
    def levels(self) -> tuple[float, float]:
        return self.lowest, self.highest


@lru_cache(maxsize=8)
def _iddpm_levels(steps: int, c1: float, c2: float) -> Tensor:
    # float32, as the published networks were trained: in double the small levels differ by up to 5e-4.
    return iddpm_table(steps, c1, c2, dtype=torch.float32).double()


@PRECONDS.register("iddpm")
@dataclass(frozen=True)
class IDDPMPrecond(Preconditioning):
    """Improved DDPM's scalings: an eps-prediction, told the index of the nearest of ``steps`` levels (EDM, Table 1, third column).

    The networks have twice the channels; the second half, their variance, is not used.
    """

    c1: float = 0.001
    c2: float = 0.008
    steps: int = 1000

    def __post_init__(self):
        if not (0 < self.c1 < 1 and 0 <= self.c2 < 1 and 2 <= self.steps <= MAX_STEPS):
            raise ValueError(f"c1 and c2 lie in (0, 1), steps from 2 to {MAX_STEPS:,}: got {self}")

    @property
    def table(self) -> Tensor:
        """The levels u_0 > ... > u_steps = 0, float64."""
        return _iddpm_levels(self.steps, self.c1, self.c2)

    def nearest(self, sigma: Tensor) -> Tensor:
        """Index of the nearest level of the table, the first on ties, int64 in the shape of ``sigma``."""
        table = send(self.table, sigma.device, sigma.dtype)
        return (sigma.reshape(-1, 1) - table).abs().argmin(1).reshape(sigma.shape)

    def __call__(self, sigma: Tensor) -> Coeffs:
        label = (self.steps - 1 - self.nearest(sigma)).to(sigma.dtype)
        return Coeffs(torch.ones_like(sigma), -sigma, 1 / (sigma**2 + 1).sqrt(), label)

    @property
    def levels(self) -> tuple[float, float]:
        return float(self.table[-2]), float(self.table[0])

    def round(self, sigma: Tensor) -> Tensor:
        return send(self.table, sigma.device, sigma.dtype)[self.nearest(sigma)]


@PRECONDS.register("trig")
@dataclass(frozen=True)
class TrigPrecond(Preconditioning):
    """TrigFlow's scalings: D(x) = cos(t) x_t - sin(t) sigma_data F(x_t / sigma_data, t) (sCM, arXiv 2410.11081, section 3).

    t = arctan(sigma / sigma_data) and x_t = cos(t) x: EDM's map with the sign of F turned. D(x, 0) = x in consistency models too.

    Args:
        network: "trig" is told t and gives F; "edm" is told ln(sigma)/4 and gives -F, so that an EDM network fits as it is.
        consistency: whether the model was trained as a consistency model.
    """

    sigma_data: float = SIGMA_DATA
    network: Literal["trig", "edm"] = "trig"
    consistency: bool = False

    def __post_init__(self):
        Precond(self.sigma_data)  # has the same range
        if self.network not in ("trig", "edm"):
            raise ValueError(f"unknown network {self.network!r}: choose 'trig' (told t) or 'edm' (told ln(sigma)/4)")

    @property
    def sign(self) -> int:
        """F = sign * what the network gives."""
        return 1 if self.network == "trig" else -1

    def __call__(self, sigma: Tensor) -> Coeffs:
        edm = Precond(self.sigma_data)(sigma)
        if self.network == "edm":
            return edm
        return edm._replace(c_out=-edm.c_out, c_noise=(sigma / self.sigma_data).arctan())


@dataclass(frozen=True)
class VPTime(Density):
    """Even in the time of the VP schedule: sigma(t), t = 1 + u (epsilon - 1) (EDM, Table 1, first column)."""

    beta_d: float = 19.9
    beta_min: float = 0.1
    epsilon: float = 1e-5

    def __call__(self, n: int, draws: Draws) -> Tensor:
        # In the draws' own precision, as the original: sigma(epsilon) is 9.77e-4 in float32 and 1.0005e-3 in double.
        t = 1 + draws.uniform((n,)) * (self.epsilon - 1)
        return VP(self.beta_d, self.beta_min).sigma(t).double()

    def precond(self, sigma_data: float) -> VPPrecond:
        return VPPrecond(self.beta_d, self.beta_min, epsilon=self.epsilon)


@dataclass(frozen=True)
class LogUniform(Density):
    """ln sigma even between the ends: the density of VE training (EDM, Table 1, second column)."""

    low: float = 0.02
    high: float = 100.0

    def __post_init__(self):
        if not 0 < self.low < self.high:
            raise ValueError(f"need 0 < low < high, got {self.low} and {self.high}")

    def __call__(self, n: int, draws: Draws) -> Tensor:
        return self.low * (self.high / self.low) ** draws.uniform((n,)).double()

    def precond(self, sigma_data: float) -> VEPrecond:
        return VEPrecond(self.low, self.high)


@dataclass(frozen=True)
class TableUniform(Density):
    """The levels u_0 ... u_{steps-1} of improved DDPM's cosine schedule, all equally often (EDM, Table 1, third column)."""

    steps: int = 1000
    c1: float = 0.001
    c2: float = 0.008

    def __call__(self, n: int, draws: Draws) -> Tensor:
        j = (draws.uniform((n,)).double() * self.steps).long().clamp_max(self.steps - 1)
        return _iddpm_levels(self.steps, self.c1, self.c2)[j]

    def precond(self, sigma_data: float) -> IDDPMPrecond:
        return IDDPMPrecond(self.c1, self.c2, self.steps)


@LOSSES.register(
    "vp",
    "VP",
    "A diffusion model in the variance-preserving scalings: it predicts the noise.",
    kind="diffusion",
    lr=2e-3,
    time_scale=0.002,
)
def vp() -> DenoisingLoss:
    """The VP loss (EDM, Table 1): levels even in the VP schedule's time, squared error of eps."""
    return DenoisingLoss(VPTime(), "snr", scalings="density")


@LOSSES.register(
    "ve",
    "VE",
    "A diffusion model in the variance-exploding scalings: it predicts the noise.",
    kind="diffusion",
    lr=2e-3,
    time_scale=0.125,
)
def ve() -> DenoisingLoss:
    """The VE loss (EDM, Table 1): log-uniform levels, squared error of eps."""
    return DenoisingLoss(LogUniform(), "snr", scalings="density")


@LOSSES.register(
    "iddpm",
    "Improved DDPM",
    "A diffusion model on a table of a thousand noise levels: it predicts the noise.",
    kind="diffusion",
    lr=2e-3,
    time_scale=0.002,
)
def iddpm() -> DenoisingLoss:
    """The improved DDPM loss (EDM, Table 1): levels of its table, squared error of eps; the learned variance is left out."""
    return DenoisingLoss(TableUniform(), "snr", scalings="density")
