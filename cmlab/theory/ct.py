"""Consistency training against distillation, measured: Theorem 2, bias and variance of the gradient, the continuous-time limits.

What training estimates by one draw of x0 is here averaged exactly over p(x0 | x), which for a mixture is a mixture again.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..data import MixtureData
from ..denoiser import CONSISTENCY, Denoise, Denoiser, Preconditioning
from ..distances import Distance
from ..losses import ConsistencyLoss
from ..methods.continuous import ContinuousLoss
from ..networks import MLPConfig, build_network
from ..noise import expand, global_seed
from ..oracle import GaussianMixture
from ..schedules import FixedN, GridPairs
from ..steps import euler_step
from ..training.fit import fit
from .base import check_sizes, local_slopes, posterior, slope_between, soft3, stratified

CHUNK = 2**17  # quadrature points that are evaluated at once
NEGLIGIBLE = 1e-13  # probability of a quadrature point that is left out


def random_model(seed: int = 0, width: int = 16, scale: float = 0.5) -> Denoiser:
    """A smooth consistency model of points in the plane that knows nothing: every weight N(0, scale^2), float64."""
    with global_seed(seed):
        net = build_network(MLPConfig(width=width, depth=1, freqs=2), (2,))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=generator))
    return Denoiser(net, CONSISTENCY, (2,)).double().eval()


# --- Theorem 2 -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Theorem2:
    """L_CD and L_CT, each with the exact expectation over x0 given x, for grids of N levels.

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
        """1 / (N - 1)."""
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

    def _values(self, of: str) -> list[float]:
        return {"difference": self.difference, "cd": self.cd, "ct": self.ct}[of]

    def slope(self, low: int = 80, high: int = 1280, of: Literal["difference", "cd", "ct"] = "difference") -> float:
        """Exponent of the step for N from ``low`` to ``high``, both included."""
        return slope_between(self.sizes, self.steps, self._values(of), low, high)

    def local_slopes(self, of: Literal["difference", "cd", "ct"] = "difference") -> list[float]:
        """The exponent between each two neighbouring sizes."""
        return local_slopes(self.steps, self._values(of))


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
    With "l1", which has no second derivative, the difference is of first order only.

    Args:
        distance: d, a `Distance` or its name.
        target: "other", a second random network, as an average of the past would be; "online", the model itself.
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
            sigma, sigma_next = GridPairs(FixedN(n))(len(x0), 0.0, draws)
            x = x0 + expand(sigma, x0) * draws.normal(x0.shape)
            out = model(x, sigma)
            cd.append(float(distance(out, aim(euler_step(oracle, x, sigma, sigma_next).x, sigma_next)).mean()))
            total = 0.0
            for rows, goals, weights in _targets(oracle, aim, x, sigma, sigma_next, nodes):
                many = out[rows].unsqueeze(1).expand_as(goals)
                total += float((weights.flatten() * distance(many.flatten(0, 1), goals.flatten(0, 1))).sum())
            ct.append(total / len(x))
    return Theorem2(sizes, cd, ct)


def _targets(
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
        # Most of the posterior lies in one or two components: the rest need not be asked about.
        likely = weights > NEGLIGIBLE
        goals = torch.zeros_like(y)
        goals[likely] = aim(y[likely], sigma_next[rows].unsqueeze(1).expand_as(weights)[likely])
        yield rows, goals, weights * likely


# --- bias and variance ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CTGradient:
    """The gradient of the CT loss (squared error, target = the model behind a stop-gradient) over grids of N levels.

    All in units of |g|, the length of the true gradient at the same N: that with the exact flow to the next level. All lists are
    as long as ``sizes``.

    Attributes:
        sizes: N.
        bias: |E g_CT - g|.
        cosine: between E g_CT and g; below 0 the mean step of training leads away from the truth.
        std: standard deviation of one sample's g_CT, root of the trace of its covariance.
        cd_std: that of one sample's g_CD, with the exact score and Euler's step.
        scale: (N - 1) |g|, in the loss's own units; tends to the length of Theorem 5's limit.
        mean: |E g_CT|.
    """

    sizes: list[int]
    bias: list[float]
    cosine: list[float]
    std: list[float]
    cd_std: list[float]
    scale: list[float]
    mean: list[float]

    @property
    def noise_to_signal(self) -> list[float]:
        """std / |E g_CT|: what a step of training sees, and the reason why small N looks calm."""
        return [a / b for a, b in zip(self.std, self.mean, strict=True)]

    def slope(self, low: int = 32, high: int = 1024) -> float:
        """Exponent of the bias in N - 1 for N from ``low`` to ``high``, both included: -1 in theory."""
        return slope_between(self.sizes, [n - 1 for n in self.sizes], self.bias, low, high)


def train_ct(
    model: Denoiser, oracle: GaussianMixture | None = None, n: int = 32, *, steps: int = 1500, batch: int = 512, seed: int = 0
) -> Denoiser:
    """A copy of ``model`` after consistency training on a grid of ``n`` levels with the loss that `ct_gradient` looks at.

    Near the end of such a training the CT gradient at this very N has vanished, and what is left of the true gradient is -bias.
    With fewer levels the bias is larger and takes over: the gradient points backwards.
    """
    start = Denoiser(copy.deepcopy(model.net).train().requires_grad_(True), _scalings(model), model.shape)
    loss = ConsistencyLoss(GridPairs(FixedN(n)), "noise", weight="1")
    state = None
    data = MixtureData(oracle or soft3())
    for state in fit(start, data, loss, steps=steps, batch=batch, lr=1e-3, ema=0.995, seed=seed, every=steps):  # noqa: B007
        pass
    if state is None or not isinstance(state.ema, Denoiser):
        raise ValueError(f"steps must be at least 1, got {steps}")
    return state.ema


def _scalings(model: Denoiser) -> Preconditioning:
    return model.precond if model.precond.consistency else CONSISTENCY


def ct_gradient(
    model: Denoiser,
    oracle: GaussianMixture | None = None,
    sizes: Sequence[int] = (2, 4, 8, 16, 32, 64, 128, 256, 512, 1024),
    *,
    weight: Literal["1", "1/dt"] = "1",
    points: int = 64,
    strata: int = 32,
    spread: int = 256,
    nodes: int = 3,
    seed: int = 0,
) -> CTGradient:
    """Bias and variance of the CT gradient against N, both with the exact expectation over x0 given x.

    The gradient of the squared error, 2 J^T (f(x) - target), is linear in the target: its conditional mean takes the target's.

    Args:
        model: any model of points in the plane; a diffusion model's network is taken in the consistency model's scalings, which is
            where consistency training starts.
        oracle: the data, by default `soft3`: pass the one that the model was trained on.
        sizes: numbers N of grid levels, growing.
        weight: lambda, "1" as in the paper or "1/dt" as in iCT.
        points: draws of (x0, eps), each met at ``strata`` evenly spread places in the grid.
        spread: how many of those pairs the standard deviations are taken over, which cost a Jacobian each.
        nodes: of the quadrature, per axis and component.
        seed: of the points.
    """
    if weight not in ("1", "1/dt"):
        raise ValueError(f"unknown weight {weight!r}: choose 1 or 1/dt")
    oracle, sizes = oracle or soft3(), check_sizes(sizes)
    net = copy.deepcopy(model.net).double().eval().requires_grad_(True)
    f = Denoiser(net, _scalings(model), model.shape)
    x0, draws = stratified(oracle, points, strata, seed)
    few = torch.randperm(len(x0), generator=torch.Generator().manual_seed(seed))[:spread]
    rows = []
    for n in sizes:
        sigma, sigma_next = GridPairs(FixedN(n))(len(x0), 0.0, draws)
        x = x0 + expand(sigma, x0) * draws.normal(x0.shape)
        scale = 2 * torch.ones_like(sigma) if weight == "1" else 2 / (sigma - sigma_next)
        with torch.no_grad():
            out = f(x, sigma)
            means, seconds = [], []
            for part, goals, chances in _targets(oracle, f, x, sigma, sigma_next, nodes):
                gap = out[part].unsqueeze(1) - goals
                means.append((chances.unsqueeze(-1) * gap).sum(1))
                seconds.append(torch.einsum("bm,bmi,bmj->bij", chances, gap, gap))
            true = out - f(oracle.flow(x, sigma, sigma_next), sigma_next)
            cd = out - f(euler_step(oracle, x, sigma, sigma_next).x, sigma_next)
        ct, exact, distilled = (_mean_gradient(f, x, sigma, scale[:, None] * gap) for gap in (torch.cat(means), true, cd))
        squares = scale[few, None, None] ** 2 * torch.stack([torch.cat(seconds)[few], (cd.unsqueeze(2) * cd.unsqueeze(1))[few]])
        moments = _second_moments(f, x[few], sigma[few], squares)
        size = float(exact.norm())
        stds = [float((m - g.square().sum()).clamp_min(0).sqrt()) for m, g in zip(moments, (ct, distilled), strict=True)]
        cosine = float(ct @ exact / (ct.norm() * exact.norm()))
        bias, mean = float((ct - exact).norm()) / size, float(ct.norm()) / size
        rows.append((bias, cosine, stds[0] / size, stds[1] / size, (n - 1) * size, mean))
    return CTGradient(sizes, *(list(column) for column in zip(*rows, strict=True)))


def _mean_gradient(f: Denoiser, x: Tensor, sigma: Tensor, gap: Tensor) -> Tensor:
    """The mean over the batch of J^T gap, (P,), with J the derivative of f(x, sigma) by the weights."""
    with torch.enable_grad():
        pull = (f(x, sigma) * gap).sum() / len(x)
        return torch.cat([g.flatten() for g in torch.autograd.grad(pull, list(f.parameters()))])


def _second_moments(f: Denoiser, x: Tensor, sigma: Tensor, squares: Tensor) -> Tensor:
    """Means over the batch of tr(J J^T S), (K,): E |J^T gap|^2 for gaps whose second moments S are ``squares`` (K, B, d, d)."""
    weights = {name: p.detach() for name, p in f.named_parameters()}

    def one(weights: dict[str, Tensor], x: Tensor, sigma: Tensor) -> Tensor:
        return torch.func.functional_call(f, weights, (x[None], sigma[None]))[0]

    jacobian = torch.func.vmap(torch.func.jacrev(one), (None, 0, 0))
    total = squares.new_zeros(len(squares))
    for rows in torch.arange(len(x)).split(64):
        j = torch.cat([part.flatten(2) for part in jacobian(weights, x[rows], sigma[rows]).values()], 2)
        total = total + torch.einsum("bij,kbij->k", j @ j.mT, squares[:, rows])
    return total / len(x)


# --- continuous time -----------------------------------------------------------------------------------------------------


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

    def gradient(loss: ConsistencyLoss | ContinuousLoss) -> Tensor:
        teacher = oracle if loss.needs_teacher else None
        with torch.enable_grad():
            value = loss(model, x0, teacher=teacher, draws=draws).loss.mean()
            return torch.cat([g.flatten() for g in torch.autograd.grad(value, weights)])

    with torch.no_grad():
        whole = ContinuousLoss("teacher", stop_gradient=False, weight="1")(model, x0, teacher=oracle, draws=draws).loss.mean()
    limits = {"euler": gradient(ContinuousLoss("teacher", weight="1")), "noise": gradient(ContinuousLoss("noise", weight="1"))}
    value, gradients = [], {"euler": [], "noise": []}
    for n in sizes:
        for bridge in ("euler", "noise"):
            loss = ConsistencyLoss(GridPairs(FixedN(n)), bridge, weight="1")
            found, limit = (n - 1) * gradient(loss), limits[bridge]
            gradients[bridge].append(float((found - limit).norm() / limit.norm()))
        with torch.no_grad():
            loss = ConsistencyLoss(GridPairs(FixedN(n)), "euler", weight="1")(model, x0, teacher=oracle, draws=draws).loss.mean()
        value.append(float((n - 1) ** 2 * loss / whole))
    return Limit(sizes, value, gradients["euler"], gradients["noise"])
