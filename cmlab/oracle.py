"""Exact denoisers: data distributions whose score, PF-ODE flow and consistency function are known.

They obey the one contract ``denoise(x, sigma, label=None)``, so everything here can be run and tested without a network.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from .denoiser import Label
from .noise import SIGMA_MIN, Source, as_draws, expand, state_dtype


class Oracle(ABC):
    """What all exact denoisers share; a subclass gives ``denoise``, ``log_prob`` and ``sample``.

    ``shape`` is the shape S of one sample. An oracle is called like a network; ``label`` must be None.
    """

    shape: tuple[int, ...]
    classes = 0

    @abstractmethod
    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """E[x0 | x0 + sigma eps = x], shape of x."""

    @abstractmethod
    def log_prob(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Natural logarithm of the density of x0 + sigma eps at x, (B,)."""

    @abstractmethod
    def sample(self, n: int, source: Source) -> Tensor:
        """``n`` independent draws of x0, (n, *S) float64."""

    def __call__(self, x: Tensor, sigma: Tensor, label: Label = None) -> Tensor:
        if label is not None:
            raise ValueError("an oracle has no classes: call it without a label")
        return self.denoise(x, torch.as_tensor(sigma, dtype=x.dtype, device=x.device))

    def score(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Gradient of the log-density of the noised data, (D(x) - x) / sigma^2 (Tweedie; EDM, eq. 3). Needs sigma > 0."""
        return (self(x, sigma) - x) / expand(torch.as_tensor(sigma, dtype=x.dtype, device=x.device), x) ** 2

    def flow(self, x: Tensor, sigma: Tensor | float, sigma_next: Tensor | float) -> Tensor:
        """Follow the PF-ODE dx/dsigma = (x - D(x, sigma)) / sigma from ``sigma`` to ``sigma_next``, both () or (B,) and > 0.

        Solved by dopri5 at rtol = atol = 1e-9 in float64, in ln sigma, where the trajectory is smooth at both ends.
        Returns float64, shape of x.
        """
        from torchdiffeq import odeint

        x = x.double()
        start = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).log()
        end = torch.as_tensor(sigma_next, dtype=x.dtype, device=x.device).log()
        if start.ndim or end.ndim:
            start, end = (t.expand(len(x)) for t in (start, end))
        if not (start.isfinite().all() and end.isfinite().all()):
            raise ValueError("the exact flow needs both noise levels above 0: stop at sigma_min instead of 0")

        def velocity(u: Tensor, state: Tensor) -> Tensor:
            return expand(end - start, x) * (state - self.denoise(state, (start + u * (end - start)).exp()))

        if bool((start == end).all()):
            return x
        ends = torch.tensor([0.0, 1.0], dtype=x.dtype, device=x.device)
        states = odeint(velocity, x, ends, rtol=1e-9, atol=1e-9, method="dopri5")
        assert isinstance(states, Tensor)
        return states[-1]

    def consistency(self, x: Tensor, sigma: Tensor, label: Label = None, sigma_min: float = SIGMA_MIN) -> Tensor:
        """The exact consistency function f(x, sigma) = flow(x, sigma, sigma_min) (CM, Definition 1), in the dtype of x."""
        if label is not None:
            raise ValueError("an oracle has no classes: call it without a label")
        sigma = torch.as_tensor(sigma, device=x.device)
        sigma = sigma if sigma.is_floating_point() else sigma.to(x.dtype)
        # In sigma's own dtype, so that the float32 level 0.002 is sigma_min and f(x, sigma_min) is x itself.
        return self.flow(x, sigma, torch.tensor(sigma_min, dtype=sigma.dtype, device=x.device)).to(x.dtype)


class GaussianMixture(Oracle):
    """sum_k weights_k N(means_k, stds_k^2 I), any dimension.

    Args:
        weights: (K,) positive; normalised here.
        means: (K, *S).
        stds: (K,) isotropic standard deviations, or one number; 0 puts a point mass there.
    """

    def __init__(self, weights: Tensor | Sequence[float], means: Tensor, stds: Tensor | Sequence[float] | float):
        self.means = torch.as_tensor(means, dtype=torch.float64)
        count = self.means.shape[0]
        weights = torch.as_tensor(weights, dtype=torch.float64)
        self.stds = torch.as_tensor(stds, dtype=torch.float64).expand(count).clone()
        if weights.shape != (count,) or not bool((weights > 0).all()):
            raise ValueError(f"need one positive weight per component: {count} means, weights {tuple(weights.shape)}")
        if not bool((self.stds >= 0).all()):
            raise ValueError("standard deviations must not be negative")
        self.weights = weights / weights.sum()
        self.shape = tuple(self.means.shape[1:])
        self.dim = math.prod(self.shape)
        self._flat = self.means.reshape(count, -1)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x flattened (B, d), log-weights (K,), means (K, d), variances (K,), where x lives and in float64 where that exists."""
        flat = x.reshape(len(x), -1).to(state_dtype(x.device))
        means, stds, weights = (t.to(flat) for t in (self._flat, self.stds, self.weights))
        return flat, weights.log(), means, stds**2

    def _log_joint(self, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """log(w_k N(x; m_k, v_k I)) (B, K) and v_k = s_k^2 + sigma^2, (B, K) or (1, K)."""
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"this oracle works on samples of shape {self.shape}, got a batch of shape {tuple(x.shape)}")
        flat, log_w, means, variances = self._parts(x)
        # One level for the whole batch leaves v (1, K): most of the work is then one product and one softmax.
        sigma = (sigma.reshape(1, 1) if sigma.ndim == 0 else expand(sigma, x).reshape(-1, 1)).to(flat)
        # A point mass at sigma = 0 has no density; a tiny variance keeps the nearest point's share at 1.
        v = (variances + sigma**2).clamp_min(1e-30)
        square = (flat.square().sum(1, keepdim=True) - 2 * flat @ means.T + means.square().sum(1)).clamp_min(0)
        return log_w - 0.5 * (square / v + self.dim * (2 * math.pi * v).log()), v

    def responsibilities(self, x: Tensor, sigma: Tensor) -> Tensor:
        """p(component k | x0 + sigma eps = x), (B, K)."""
        return self._log_joint(x, sigma)[0].softmax(-1)

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        joint, v = self._log_joint(x, sigma)
        flat, _, means, variances = self._parts(x)
        # E[x0|x] = sum_k r_k (s_k^2 x + sigma^2 m_k) / v_k, written as a pull of x towards the means.
        pull = joint.softmax(-1) * (1 - variances / v)
        return (flat - pull.sum(-1, keepdim=True) * flat + pull @ means).reshape(x.shape).to(x.dtype)

    def covariance_trace(self, x: Tensor, sigma: Tensor) -> Tensor:
        """tr Cov[x0 | x0 + sigma eps = x], (B,); the score's divergence follows from it, as dD/dx = Cov / sigma^2."""
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        joint, v = self._log_joint(x, sigma)
        flat, _, means, variances = self._parts(x)
        r = joint.softmax(-1)
        shrink = (variances / v).unsqueeze(-1)
        component = shrink * flat.unsqueeze(1) + (1 - shrink) * means
        within = self.dim * variances * (1 - variances / v)
        mean = (r.unsqueeze(-1) * component).sum(1, keepdim=True)
        return (r * (within + (component - mean).square().sum(-1))).sum(-1).to(x.dtype)

    def log_prob(self, x: Tensor, sigma: Tensor | float = 0.0) -> Tensor:
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        return self._log_joint(x, sigma)[0].logsumexp(-1).to(x.dtype)

    def sample(self, n: int, source: Source) -> Tensor:
        draws = as_draws(source)
        edges = self.weights.cumsum(0)
        k = torch.searchsorted(edges, draws.uniform((n,)).double() * edges[-1]).clamp_max(len(edges) - 1)
        noise = draws.normal((n, *self.shape)).double()
        return self.means[k] + expand(self.stds[k], noise) * noise


class Gaussian(GaussianMixture):
    """N(mean, std^2 I): flow and consistency function in closed form.

    >>> g = Gaussian(torch.zeros(2), 0.5)
    >>> g.consistency(torch.tensor([[80.0, 0.0]], dtype=torch.float64), torch.tensor(80.0)).round(decimals=3)
    tensor([[0.5000, 0.0000]], dtype=torch.float64)
    """

    def __init__(self, mean: Tensor, std: float):
        super().__init__([1.0], torch.as_tensor(mean, dtype=torch.float64)[None], std)

    def flow(self, x: Tensor, sigma: Tensor | float, sigma_next: Tensor | float) -> Tensor:
        x = x.double()
        start = expand(torch.as_tensor(sigma, dtype=x.dtype, device=x.device), x)
        end = expand(torch.as_tensor(sigma_next, dtype=x.dtype, device=x.device), x)
        mean, variance = self.means[0].to(x.device), self.stds[0].to(x.device) ** 2
        return mean + ((variance + end**2) / (variance + start**2)).sqrt() * (x - mean)


class FiniteData(GaussianMixture):
    """The empirical distribution of ``points`` (K, *S): a diffusion model that fits its training set perfectly."""

    def __init__(self, points: Tensor):
        super().__init__(torch.ones(len(points)), points, 0.0)
