"""The statements of notebooks/derivations.md that nothing else measures, on a data set whose posterior is a finite sum."""

import pytest
import torch
from conftest import normal
from torch import Tensor
from torch.func import hessian, jacrev

from cmlab.oracle import FiniteData

DATA = FiniteData(0.5 * normal(6, 2))
X, T = torch.tensor([0.3, -0.2], dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)


def model(x: Tensor, t: Tensor | float) -> Tensor:
    """Some smooth model that is not consistent; x (..., 2)."""
    mix = torch.tensor([[1.0, 0.6], [-0.4, 0.9]], dtype=torch.float64)
    return torch.tanh(x @ mix) / (0.5 + t)


def posterior() -> tuple[Tensor, Tensor, Tensor]:
    """The data points, their weights given X at level T, and their covariance under these."""
    x0 = DATA.means
    weights = (-(X - x0).square().sum(1) / (2 * T**2)).softmax(0)
    off = x0 - weights @ x0
    return x0, weights, (weights[:, None] * off).T @ off


def denoise(x: Tensor) -> Tensor:
    return DATA(x[None], T)[0]


def test_the_slope_of_the_denoiser_is_the_covariance_over_the_level_squared():
    assert torch.allclose(jacrev(denoise)(X), posterior()[2] / T**2, atol=1e-12)


@pytest.mark.parametrize("h", [1e-2, 1e-3])
def test_training_differs_from_eulers_step_by_curvature_times_covariance(h):
    x0, weights, cov = posterior()
    lower, euler = T - h, X - h * (X - denoise(X)) / T
    partners = X - h * (X - x0) / T
    assert torch.allclose(weights @ partners, euler, atol=1e-14)
    found = (weights @ model(partners, lower) - model(euler, lower)) / h**2
    curvature = torch.einsum("ijk,jk->i", hessian(model)(euler, lower), cov) / (2 * T**2)
    assert (found - curvature).norm() < h * curvature.norm()


@pytest.mark.parametrize("h", [1e-2, 1e-3])
def test_the_bias_of_cts_gradient_is_b_times_the_step_squared(h):
    x0, weights, cov = posterior()
    partners, lower = X - h * (X - x0) / T, T - h
    exact = DATA.flow(X[None], float(T), float(lower))[0]

    def slope(x: Tensor, t: Tensor) -> Tensor:
        return (x - DATA(x[None], t)[0]) / t

    by_x, by_t = jacrev(slope, argnums=(0, 1))(X, T)
    second = by_x @ slope(X, T) + by_t
    b = jacrev(model)(X, T) @ second / 2 - torch.einsum("ijk,jk->i", hessian(model)(X, T), cov) / (2 * T**2)
    found = (model(exact, lower) - weights @ model(partners, lower)) / h**2
    assert (found - b).norm() < 10 * h * b.norm()
