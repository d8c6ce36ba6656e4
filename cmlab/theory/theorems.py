"""Theorem 1 of the paper, measured: without loss, a consistency model is as far from the truth as its solver (CM, Theorem 1).

The theorem is about models of zero CD loss. Such a model can be written down: f(x, sigma_min) = x and f(x, sigma) =
f(solver step(x), sigma_next), the composition of the very steps that the loss takes. Its error is the solver's global error.
The experiments return numbers; `plots_theory` draws them, and `cmlab theory` prints them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor

from ..base.suggest import unknown
from ..denoiser import Denoise, Denoiser
from ..losses import BRIDGES, ConsistencyLoss
from ..methods.likelihood import decode
from ..methods.solvers import midpoint_step
from ..noise import RHO, SIGMA_MAX, SIGMA_MIN, expand, karras_sigmas, state_dtype
from ..oracle import Oracle
from ..schedules import FixedN, GridPairs
from ..steps import OneStep
from .base import check_sizes, data_and_noise, local_slopes, ring, slope_between, soft3
from .ct import CTGradient, Limit, Theorem2, continuous_limit, ct_gradient, random_model, theorem2, train_ct

__all__ = [
    "Abscissa",
    "CTGradient",
    "Convergence",
    "check_sizes",
    "Floor",
    "Limit",
    "Origins",
    "SOLVERS",
    "Stretch",
    "Theorem2",
    "ZeroLossModel",
    "continuous_limit",
    "ct_gradient",
    "error_origins",
    "random_model",
    "ring",
    "soft3",
    "stretch",
    "theorem1",
    "theorem2",
    "train_ct",
    "trained_floor",
    "zero_loss",
    "zero_loss_model",
]

# The loss's own solvers, and the midpoint rule with its middle in sigma instead of ln sigma.
SOLVERS: dict[str, OneStep] = {**BRIDGES, "midpoint-sigma": partial(midpoint_step, rho=1.0)}
SIZES = (10, 20, 40, 80, 160, 320, 640, 1280)
LEVELS = (80.0, 20.0, 5.0, 1.0, 0.3)
Abscissa = Literal["grid", "largest"]


class ZeroLossModel:
    """The consistency model of zero CD loss: from its level down the grid to the last one, one solver step at a time.

    Called like any model; it knows the levels of its grid alone. Where sigma is (B,) every step is computed for the whole batch,
    so that it has the same bits as the loss's own step. Differentiable in x.

    Args:
        denoise: the exact score, or a diffusion model: the ODE that is followed.
        sigmas: (N,) decreasing, the last one above 0.
        solver: a name of SOLVERS.
    """

    def __init__(self, denoise: Denoise, sigmas: Tensor, solver: str = "heun"):
        if solver not in SOLVERS:
            raise ValueError(unknown("solver", solver, SOLVERS))
        self.denoise, self.solver, self.sigmas = denoise, solver, sigmas.double()
        if sigmas.ndim != 1 or len(sigmas) < 2 or not bool((sigmas[1:] < sigmas[:-1]).all()) or not float(sigmas[-1]) > 0:
            raise ValueError("a grid is at least two decreasing noise levels above 0, such as karras_sigmas(40)")

    def index(self, sigma: Tensor) -> Tensor:
        """Where in the grid the levels () or (B,) are; raises ValueError for a level that is not in it."""
        grid = self.sigmas.to(sigma.device)
        i = (sigma.double().unsqueeze(-1) - grid).abs().argmin(-1)
        if not bool(((sigma.double() - grid[i]).abs() <= 1e-6 * grid[i]).all()):
            raise ValueError(f"this model is made for the {len(grid)} levels of its grid: take one of model.sigmas")
        return i

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        start = self.index(torch.as_tensor(sigma, device=x.device))
        if start.ndim == 0:
            return self.walk(x, int(start), len(self.sigmas) - 1, label)
        state, grid = x.to(state_dtype(x.device)), self.sigmas.to(x.device, state_dtype(x.device))
        for k in range(int(start.min()), len(grid) - 1):
            here, below = grid[k].repeat(len(x)), grid[k + 1].repeat(len(x))
            stepped = SOLVERS[self.solver](self.denoise, state, here, below, label, None).x
            state = torch.where(expand(start <= k, x), stepped, state)
        return state.to(x.dtype)

    def walk(self, x: Tensor, start: int, stop: int, label: Tensor | None = None) -> Tensor:
        """The steps from level number ``start`` of the grid to number ``stop``, in the dtype of x."""
        state, grid = x.to(state_dtype(x.device)), self.sigmas.to(x.device, state_dtype(x.device))
        for k in range(start, stop):
            state = SOLVERS[self.solver](self.denoise, state, grid[k], grid[k + 1], label, None).x
        return state.to(x.dtype)


def zero_loss_model(denoise: Denoise, sigmas: Tensor | int, solver: str = "heun") -> ZeroLossModel:
    """The model of zero CD loss on a grid ``sigmas``, or on the Karras grid with that many levels."""
    return ZeroLossModel(denoise, karras_sigmas(sigmas) if isinstance(sigmas, int) else sigmas, solver)


def zero_loss(
    n: int, solver: Literal["euler", "heun", "midpoint"] = "heun", oracle: Oracle | None = None, points: int = 512, seed: int = 0
) -> float:
    """The largest CD loss of a zero-loss model of ``n`` levels, by the library's own ConsistencyLoss in float64: 0.0, bitwise."""
    oracle = oracle or soft3()
    loss = ConsistencyLoss(GridPairs(FixedN(n)), solver)
    generator = torch.Generator().manual_seed(seed)
    x0 = oracle.sample(points, generator)
    return float(loss(zero_loss_model(oracle, n, solver), x0, teacher=oracle, draws=generator).loss.abs().max())


# --- Theorem 1 -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Convergence:
    """Errors ||f_theta - f|| of zero-loss models over grids of N levels; all lists are as long as ``sizes``.

    Attributes:
        solver: the solver of the models.
        sizes: N.
        grid: 1 / (N - 1), the step in the grid's own coordinate.
        largest: the largest step sigma_i - sigma_{i+1}, the Delta t of the theorem.
        max_error: the largest error over points and levels, the theorem's sup as far as it can be sampled.
        rms_error: its root mean square.
    """

    solver: str
    sizes: list[int]
    grid: list[float]
    largest: list[float]
    max_error: list[float]
    rms_error: list[float]

    def errors(self, of: Literal["max", "rms"] = "max") -> list[float]:
        return {"max": self.max_error, "rms": self.rms_error}[of]

    def abscissa(self, against: Abscissa = "grid") -> list[float]:
        return {"grid": self.grid, "largest": self.largest}[against]

    def slope(self, low: int = 40, high: int = 1280, against: Abscissa = "grid", of: Literal["max", "rms"] = "max") -> float:
        """The order: slope of ln error over ln step for N from ``low`` to ``high``, both included."""
        return slope_between(self.sizes, self.abscissa(against), self.errors(of), low, high)

    def local_slopes(self, against: Abscissa = "grid", of: Literal["max", "rms"] = "max") -> list[float]:
        """The order between each two neighbouring sizes."""
        return local_slopes(self.abscissa(against), self.errors(of))


def theorem1(
    solver: str = "heun",
    oracle: Oracle | None = None,
    sizes: Sequence[int] = SIZES,
    *,
    points: int = 1024,
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
    sigma_min: float = SIGMA_MIN,
    sigma_max: float = SIGMA_MAX,
    rho: float = RHO,
) -> Convergence:
    """How far models of zero CD loss are from the exact consistency function (CM, Theorem 1: O(step^p) for a solver of order p).

    Args:
        solver: a name of SOLVERS.
        oracle: the data, by default `soft3`.
        sizes: numbers N of grid levels, growing.
        points: draws of noised data at each level.
        levels: noise levels at which the error is taken, each at the grid's nearest; those above ``sigma_max`` are left out.
        seed: of the points.
        sigma_min, sigma_max, rho: of the Karras grids; rho = 1 spaces evenly.
    """
    oracle, sizes = oracle or soft3(), check_sizes(sizes)
    x0, eps = data_and_noise(oracle, points, seed)
    levels = [s for s in levels if sigma_min < s <= sigma_max]
    if not levels:
        raise ValueError(f"no level lies above {sigma_min:g} and not above {sigma_max:g}: choose other levels")
    steps, largest, worst, mean = [], [], [], []
    for n in sizes:
        sigmas = karras_sigmas(n, sigma_min, sigma_max, rho)
        model = ZeroLossModel(oracle, sigmas, solver)
        starts = torch.unique((torch.tensor(levels, dtype=torch.float64)[:, None] - sigmas[:-1]).abs().argmin(1)).tolist()
        x = torch.cat([x0 + sigmas[k] * eps for k in starts])
        f = x0[:0]
        for start, stop in pairwise(
            [*starts, n - 1]
        ):  # paths from lower levels join those from higher ones: each step is taken once
            f = model.walk(torch.cat([f, x0 + sigmas[start] * eps]), start, stop)
        exact = oracle.consistency(x, sigmas[starts].repeat_interleave(points), sigma_min=sigma_min)
        error = (f - exact).flatten(1).norm(dim=1)
        steps.append(1 / (n - 1))
        largest.append(float((sigmas[:-1] - sigmas[1:]).max()))
        worst.append(float(error.max()))
        mean.append(float(error.square().mean().sqrt()))
    return Convergence(solver, sizes, steps, largest, worst, mean)


@dataclass(frozen=True)
class Floor:
    """A trained model beside the zero-loss models.

    Attributes:
        curve: the errors of zero-loss models over N.
        max_error, rms_error: the trained model's distance from the data's exact consistency function, at the same points.
        teacher_max, teacher_rms: its distance from the exact flow of its own teacher, which is what the theorem speaks about;
            None without a teacher.
    """

    curve: Convergence
    max_error: float
    rms_error: float
    teacher_max: float | None
    teacher_rms: float | None

    def takes_over(self, of: Literal["max", "rms"] = "rms") -> int | None:
        """The smallest N whose solver error lies below the trained model's: finer grids cannot help it. None if there is none."""
        floor = {"max": self.max_error, "rms": self.rms_error}[of]
        below = [n for n, error in zip(self.curve.sizes, self.curve.errors(of), strict=True) if error < floor]
        return below[0] if below else None


def trained_floor(
    model: Denoise,
    oracle: Oracle,
    solver: str = "heun",
    sizes: Sequence[int] = SIZES,
    *,
    teacher: Denoiser | None = None,
    points: int = 1024,
    levels: Sequence[float] = LEVELS,
    seed: int = 0,
) -> Floor:
    """Theorem 1's curve, and the error of a trained consistency model of the same data, which no smaller step removes.

    ``teacher`` is the diffusion model that ``model`` was distilled from. Other arguments as in `theorem1`.
    """
    curve = theorem1(solver, oracle, sizes, points=points, levels=levels, seed=seed)
    x0, eps = data_and_noise(oracle, points, seed)
    data, own = [], []
    for level in levels:
        sigma = torch.tensor(level, dtype=torch.float64)
        x = x0 + sigma * eps
        with torch.no_grad():
            f = model(x, sigma)
        data.append((f - oracle.consistency(x, sigma)).flatten(1).norm(dim=1))
        if teacher is not None:
            own.append((f - decode(teacher, x, sigma_max=level, rtol=1e-5, atol=1e-5)).flatten(1).norm(dim=1))
    figures = [(float(e.max()), float(e.square().mean().sqrt())) for e in (torch.cat(part) for part in (data, own) if part)]
    return Floor(curve, *figures[0], *(figures[1] if own else (None, None)))


# --- where errors come from ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Origins:
    """What each step of a grid adds to the error at its end: ``sigma`` (N-1,) where it starts, ``rms`` (N-1,) what it adds."""

    sigma: Tensor
    rms: Tensor

    def share(self, low: float, high: float) -> float:
        """The part of the sum that steps from levels in [low, high] add."""
        inside = (self.sigma >= low) & (self.sigma <= high)
        return float(self.rms[inside].sum() / self.rms.sum())


def error_origins(solver: str = "heun", oracle: Oracle | None = None, n: int = 80, *, points: int = 64, seed: int = 0) -> Origins:
    """Which noise levels the error at the end comes from: each step's own error, carried to the end by the exact flow.

    The difference of f(step(x), sigma_next) and f(x, sigma), with f exact, at points x of the data's own distribution.
    """
    if solver not in SOLVERS:
        raise ValueError(unknown("solver", solver, SOLVERS))
    oracle, sigmas = oracle or soft3(), karras_sigmas(n)
    x0, eps = data_and_noise(oracle, points, seed)
    above, below = (s.repeat_interleave(points) for s in (sigmas[:-1], sigmas[1:]))
    x = x0.repeat(n - 1, *[1] * (x0.ndim - 1))
    x = x + expand(above, x) * eps.repeat(n - 1, *[1] * (x0.ndim - 1))
    moved = SOLVERS[solver](oracle, x, above, below, None, None).x
    error = (oracle.consistency(moved, below) - oracle.consistency(x, above)).flatten(1).square().sum(1)
    return Origins(sigmas[:-1], error.reshape(n - 1, points).mean(1).sqrt())


@dataclass(frozen=True)
class Stretch:
    """How much f stretches the plane: singular values and determinant of df/dx at level ``sigma``, (points,) each."""

    sigma: float
    largest: Tensor
    smallest: Tensor
    det: Tensor

    def quantile(self, q: float) -> float:
        """Of sigma times the largest singular value: 1 would map noise of scale 1 to a shift of 1."""
        return float(torch.quantile(self.sigma * self.largest, q))


def stretch(
    sigma: float = SIGMA_MAX, oracle: Oracle | None = None, model: Denoise | None = None, *, points: int = 2048, seed: int = 0
) -> Stretch:
    """Singular values of df/dx of the exact consistency function (or of ``model``) at noised data of a level.

    A positive determinant everywhere says that f is invertible; large singular values mark the borders between the basins of
    two modes, where trained models smear.
    """
    oracle = oracle or soft3()
    x0, eps = data_and_noise(oracle, points, seed)
    level = torch.tensor(sigma, dtype=torch.float64)
    with torch.enable_grad():
        x = (x0 + level * eps).requires_grad_()
        f = (oracle.consistency if model is None else model)(x, level)
        rows = [torch.autograd.grad(f[:, k].sum(), x, retain_graph=k + 1 < f.shape[1])[0] for k in range(f.shape[1])]
    jacobian = torch.stack(rows, 1)
    values = torch.linalg.svdvals(jacobian)
    return Stretch(sigma, values[:, 0], values[:, -1], torch.linalg.det(jacobian))
