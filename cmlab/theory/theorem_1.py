"""Theorem 1 of the paper, measured: a consistency model of zero loss is as far from the truth as its solver (CM, Theorem 1).

Such a model can be written down: f(x, sigma_min) = x and f(x, sigma) = f(solver step(x), sigma_next), the composition of the
very steps that the CD loss takes. Its error is the solver's global error.
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
from ..samplers import OneStep, asking
from ..schedules import FixedN, GridPairs
from .base import check_sizes, data_and_noise, local_slopes, slope_between, soft3

# The loss's own solvers, and the midpoint rule with its middle in sigma instead of ln sigma.
SOLVERS: dict[str, OneStep] = {**BRIDGES, "midpoint-sigma": partial(midpoint_step, rho=1.0)}
SIZES = (10, 20, 40, 80, 160, 320, 640, 1280)
LEVELS = (80.0, 20.0, 5.0, 1.0, 0.3)
Abscissa = Literal["grid", "largest"]
Error = Literal["max", "rms"]


def _solver(name: str) -> OneStep:
    if name not in SOLVERS:
        raise ValueError(unknown("solver", name, SOLVERS))
    return SOLVERS[name]


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """||a - b|| of each row, (B,)."""
    return (a - b).flatten(1).norm(dim=1)


def _max_and_rms(error: Tensor) -> tuple[float, float]:
    return float(error.max()), float(error.square().mean().sqrt())


class ZeroLossModel:
    """The consistency model of zero CD loss: it takes one solver step after the other down the grid, to the last level.

    Called like any model, but at the levels of its grid alone. Where sigma is (B,), every step is computed for the whole batch,
    so that it has the same bits as the loss's own step. Differentiable in x.

    Args:
        denoise: an exact denoiser or a diffusion model, whose PF-ODE is solved.
        sigmas: (N,) decreasing, the last one above 0.
        solver: a name of SOLVERS.
    """

    def __init__(self, denoise: Denoise, sigmas: Tensor, solver: str = "heun"):
        self.denoise, self.step, self.sigmas = denoise, _solver(solver), sigmas.double()
        if sigmas.ndim != 1 or len(sigmas) < 2 or not bool((sigmas[1:] < sigmas[:-1]).all()) or not float(sigmas[-1]) > 0:
            raise ValueError("a grid is at least two decreasing noise levels above 0, such as karras_sigmas(40)")

    def index(self, sigma: Tensor) -> Tensor:
        """The numbers in the grid of the levels () or (B,); raises ValueError for a level that is not in it."""
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
        ask = asking(self.denoise, label)
        for k in range(int(start.min()), len(grid) - 1):
            here, below = grid[k].repeat(len(x)), grid[k + 1].repeat(len(x))
            stepped = self.step(ask, state, here, below).x
            state = torch.where(expand(start <= k, x), stepped, state)
        return state.to(x.dtype)

    def walk(self, x: Tensor, start: int, stop: int, label: Tensor | None = None) -> Tensor:
        """The steps from level number ``start`` of the grid to number ``stop``, in the dtype of x."""
        state, grid = x.to(state_dtype(x.device)), self.sigmas.to(x.device, state_dtype(x.device))
        ask = asking(self.denoise, label)
        for k in range(start, stop):
            state = self.step(ask, state, grid[k], grid[k + 1]).x
        return state.to(x.dtype)


def zero_loss_model(denoise: Denoise, sigmas: Tensor | int, solver: str = "heun") -> ZeroLossModel:
    """The model of zero CD loss on a grid ``sigmas``, or on the Karras grid with that many levels."""
    return ZeroLossModel(denoise, karras_sigmas(sigmas) if isinstance(sigmas, int) else sigmas, solver)


def zero_loss(
    n: int, solver: Literal["euler", "heun", "midpoint"] = "heun", oracle: Oracle | None = None, points: int = 512, seed: int = 0
) -> float:
    """The largest CD loss of a zero-loss model of ``n`` levels, by `ConsistencyLoss` in float64: exactly 0.0."""
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
        max_error: the largest error over the points and levels that were sampled; the theorem is about all of them.
        rms_error: the root mean square of the errors.
    """

    solver: str
    sizes: list[int]
    grid: list[float]
    largest: list[float]
    max_error: list[float]
    rms_error: list[float]

    def errors(self, of: Error = "max") -> list[float]:
        return {"max": self.max_error, "rms": self.rms_error}[of]

    def abscissa(self, against: Abscissa = "grid") -> list[float]:
        return {"grid": self.grid, "largest": self.largest}[against]

    def slope(self, low: int = 40, high: int = 1280, against: Abscissa = "grid", of: Error = "max") -> float:
        """The order: slope of ln error over ln step for N from ``low`` to ``high``, both included."""
        return slope_between(self.sizes, self.abscissa(against), self.errors(of), low, high)

    def local_slopes(self, against: Abscissa = "grid", of: Error = "max") -> list[float]:
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
        levels: noise levels at which the error is taken, each at the nearest level of the grid. Those above ``sigma_max`` or
            not above ``sigma_min`` are left out.
        seed: of the points.
        sigma_min, sigma_max, rho: of the Karras grids; rho = 1 spaces evenly.
    """
    oracle, sizes = oracle or soft3(), check_sizes(sizes)
    x0, eps = data_and_noise(oracle, points, seed)
    levels = [s for s in levels if sigma_min < s <= sigma_max]
    if not levels:
        raise ValueError(f"no level lies above {sigma_min:g} and not above {sigma_max:g}: choose other levels")
    rows = []
    for n in sizes:
        sigmas = karras_sigmas(n, sigma_min, sigma_max, rho)
        model = ZeroLossModel(oracle, sigmas, solver)
        starts = torch.unique((torch.tensor(levels, dtype=torch.float64)[:, None] - sigmas[:-1]).abs().argmin(1)).tolist()
        x = torch.cat([x0 + sigmas[k] * eps for k in starts])
        f = x0[:0]
        # Paths from lower levels join those from higher ones, so that each step is taken once.
        for start, stop in pairwise([*starts, n - 1]):
            f = model.walk(torch.cat([f, x0 + sigmas[start] * eps]), start, stop)
        exact = oracle.consistency(x, sigmas[starts].repeat_interleave(points), sigma_min=sigma_min)
        rows.append((1 / (n - 1), float((sigmas[:-1] - sigmas[1:]).max()), *_max_and_rms(_distances(f, exact))))
    return Convergence(solver, sizes, *(list(column) for column in zip(*rows, strict=True)))


@dataclass(frozen=True)
class Floor:
    """A trained model beside the zero-loss models.

    Attributes:
        curve: the errors of zero-loss models over N.
        max_error, rms_error: the trained model's distance from the data's exact consistency function, at the same points.
        teacher_max, teacher_rms: its distance from the exact flow of its own teacher, which the theorem is about; None without
            a teacher.
    """

    curve: Convergence
    max_error: float
    rms_error: float
    teacher_max: float | None
    teacher_rms: float | None

    def error(self, of: Error = "rms") -> float:
        return {"max": self.max_error, "rms": self.rms_error}[of]

    def takes_over(self, of: Error = "rms") -> int | None:
        """The smallest N whose solver error lies below the trained model's, which no finer grid can help. None without one."""
        errors = zip(self.curve.sizes, self.curve.errors(of), strict=True)
        return next((n for n, error in errors if error < self.error(of)), None)


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
        data.append(_distances(f, oracle.consistency(x, sigma)))
        if teacher is not None:
            own.append(_distances(f, decode(teacher, x, sigma_max=level, rtol=1e-5, atol=1e-5)))
    return Floor(curve, *_max_and_rms(torch.cat(data)), *(_max_and_rms(torch.cat(own)) if own else (None, None)))


# --- where errors come from ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Origins:
    """What each step of a grid adds to the error at its end: ``sigma`` (N-1,) where it starts, ``rms`` (N-1,) what it adds."""

    sigma: Tensor
    rms: Tensor

    def share(self, low: float, high: float) -> float:
        """Share of the sum that comes from steps that start in [low, high]."""
        inside = (self.sigma >= low) & (self.sigma <= high)
        return float(self.rms[inside].sum() / self.rms.sum())


def error_origins(solver: str = "heun", oracle: Oracle | None = None, n: int = 80, *, points: int = 64, seed: int = 0) -> Origins:
    """Which noise levels the error at the end comes from: each step's own error, carried to the end by the exact flow.

    That is the difference of f(step(x), sigma_next) and f(x, sigma), with f exact, at noised data x.
    """
    step, oracle, sigmas = _solver(solver), oracle or soft3(), karras_sigmas(n)
    x0, eps = (v.repeat(n - 1, *[1] * (v.ndim - 1)) for v in data_and_noise(oracle, points, seed))
    above, below = (s.repeat_interleave(points) for s in (sigmas[:-1], sigmas[1:]))
    x = x0 + expand(above, x0) * eps
    moved = step(oracle, x, above, below).x
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
        """Quantile ``q`` of sigma times the largest singular value, which says how far f moves per unit of noise."""
        return float(torch.quantile(self.sigma * self.largest, q))


def stretch(
    sigma: float = SIGMA_MAX, oracle: Oracle | None = None, model: Denoise | None = None, *, points: int = 2048, seed: int = 0
) -> Stretch:
    """Singular values of df/dx of the exact consistency function (or of ``model``) at noised data of a level.

    A positive determinant everywhere says that f is invertible. Singular values are large where trained models err most.
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
