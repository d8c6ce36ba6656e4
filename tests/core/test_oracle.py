"""The exact denoisers, checked against autograd, an ODE solver and each other."""

import math

import pytest
import torch
from conftest import normal, seeded, soft3

from cmlab.data import load_data
from cmlab.evaluation import sliced_wasserstein
from cmlab.noise import SampleDraws
from cmlab.oracle import FiniteData, Gaussian, GaussianMixture

SHAPES = [(2,), (1,), (3, 4, 4)]


def level(sigma: float) -> torch.Tensor:
    return torch.tensor(sigma, dtype=torch.float64)


def mixture(shape: tuple[int, ...] = (2,), count: int = 4) -> GaussianMixture:
    return GaussianMixture(torch.arange(1.0, count + 1), normal(count, *shape, seed=5) * 0.5, torch.linspace(0.1, 0.6, count))


def spread_over(shape: tuple[int, ...], sigma: float, n: int = 6) -> torch.Tensor:
    """Points where noised data of level sigma lies."""
    return mixture(shape).sample(n, seeded(1)) + sigma * normal(n, *shape, seed=2)


def test_log_prob_is_the_mixture_of_normal_densities():
    x, sigma, oracle = normal(5, 2), 0.7, mixture()
    density = torch.zeros(5, dtype=torch.float64)
    for weight, mean, std in zip(oracle.weights, oracle.means, oracle.stds, strict=True):
        v = std**2 + sigma**2
        density += weight * torch.exp(-(x - mean).square().sum(1) / (2 * v)) / (2 * math.pi * v)
    assert torch.allclose(oracle.log_prob(x, sigma), density.log(), rtol=1e-12)


@pytest.mark.parametrize("sigma", [0.01, 0.3, 2.0, 80.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_score_is_the_gradient_of_log_prob(shape, sigma):
    x = spread_over(shape, sigma).requires_grad_()
    oracle = mixture(shape)
    (gradient,) = torch.autograd.grad(oracle.log_prob(x, sigma).sum(), x)
    # Exact up to rounding; at sigma = .01 the score divides D - x by 1e-4, which costs four of float64's sixteen digits.
    assert torch.allclose(oracle.score(x.detach(), level(sigma)), gradient, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("sigma", [0.3, 2.0, 80.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_denoise_is_tweedie(shape, sigma):
    x = spread_over(shape, sigma).requires_grad_()
    oracle = mixture(shape)
    (gradient,) = torch.autograd.grad(oracle.log_prob(x, sigma).sum(), x)
    # x + sigma^2 score cancels most of x at sigma = 80, where 1e-12 of 80 remain.
    assert torch.allclose(oracle(x.detach(), level(sigma)), x.detach() + sigma**2 * gradient, rtol=1e-10, atol=1e-10)


def test_denoise_is_the_posterior_mean_by_quadrature():
    oracle, sigma, x = mixture((1,)), 0.4, 0.3
    grid = torch.linspace(-6, 6, 20001, dtype=torch.float64)
    posterior = oracle.log_prob(grid[:, None], 0.0).exp() * torch.exp(-((x - grid) ** 2) / (2 * sigma**2))
    expected = (posterior * grid).sum() / posterior.sum()
    assert oracle(torch.tensor([[x]], dtype=torch.float64), level(sigma)).item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_covariance_trace_is_the_divergence_of_denoise(shape, sigma):
    oracle = mixture(shape)
    for x in spread_over(shape, sigma, n=3):

        def flat_denoise(z, sigma=sigma):
            return oracle(z.reshape(1, *shape), level(sigma)).flatten()

        jacobian = torch.autograd.functional.jacobian(flat_denoise, x.flatten())
        assert isinstance(jacobian, torch.Tensor)
        trace = oracle.covariance_trace(x[None], level(sigma)).item()
        assert trace == pytest.approx(sigma**2 * jacobian.trace().item(), rel=1e-7)


@pytest.mark.parametrize("shape", SHAPES)
def test_one_level_per_sample_equals_each_level_alone(shape):
    oracle, x = mixture(shape), spread_over(shape, 1.0, 3)
    sigma = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
    for method in (oracle.denoise, oracle.score, oracle.log_prob, oracle.covariance_trace):
        alone = torch.cat([method(x[k : k + 1], sigma[k]) for k in range(3)])
        assert torch.allclose(method(x, sigma), alone, rtol=1e-12)


def test_float32_inputs_keep_their_dtype_and_the_digits():
    oracle, x = mixture(), normal(5, 2)
    low = oracle(x.float(), torch.tensor(0.01))
    assert low.dtype == torch.float32
    assert torch.allclose(low.double(), oracle(x, torch.tensor(0.01)), atol=1e-6)


@pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
def test_gaussian_equals_the_mixture_of_one(sigma):
    mean, x = torch.tensor([0.3, -0.2]), normal(4, 2) * sigma
    a, b = Gaussian(mean, 0.5), GaussianMixture([7.0], mean[None], 0.5)
    assert torch.equal(a(x, level(sigma)), b(x, level(sigma)))


@pytest.mark.parametrize("shape", [(2,), (3, 4, 4)])
@pytest.mark.parametrize(("start", "end"), [(80.0, 0.002), (1.0, 0.1), (0.002, 5.0)])
def test_closed_form_flow_equals_the_solver(start, end, shape):
    mean = normal(*shape, seed=3)
    x = mean + math.hypot(0.5, start) * normal(4, *shape)
    solved = GaussianMixture([1.0], mean[None], 0.5).flow(x, start, end)
    exact = Gaussian(mean, 0.5).flow(x, start, end)
    # dopri5 at 1e-9 controls the root mean square; single coordinates reach 1.3e-8.
    assert float((solved - exact).square().mean().sqrt()) < 1e-8 * max(1.0, end)


def test_solver_takes_one_level_per_sample():
    mean = torch.tensor([0.1, 0.2])
    x, start, end = normal(3, 2), torch.tensor([80.0, 2.0, 0.5]), torch.tensor([0.002, 0.002, 0.5])
    solved = GaussianMixture([1.0], mean[None], 0.5).flow(x, start, end)
    assert float((solved - Gaussian(mean, 0.5).flow(x, start, end)).abs().max()) < 1e-8
    assert torch.equal(solved[2], x[2])


def test_flow_is_invertible():
    oracle, x = soft3(), 3.0 * normal(6, 2)
    down = oracle.flow(x, 3.0, 0.002)
    # The solver's tolerance is 1e-9; the way back up stretches an error by |dx/df| of at most about 1e2 here.
    assert float((oracle.flow(down, 0.002, 3.0) - x).abs().max()) < 1e-6


def test_flow_composes():
    oracle, x = soft3(), 5.0 * normal(6, 2)
    there = oracle.flow(x, 5.0, 0.1)
    assert float((oracle.flow(oracle.flow(x, 5.0, 0.7), 0.7, 0.1) - there).abs().max()) < 1e-7


@pytest.mark.parametrize("oracle", [soft3(), Gaussian(torch.zeros(2), 0.5)])
def test_consistency_boundary(oracle):
    x = normal(4, 2)
    # exp(ln .002) is not bitwise .002 and the closed form takes a root: the identity to rounding.
    assert float((oracle.consistency(x, torch.tensor(0.002, dtype=torch.float64)) - x).abs().max()) < 1e-14


def test_consistency_is_constant_along_a_trajectory():
    oracle, x = soft3(), 80.0 * normal(4, 2)
    end = oracle.consistency(x, torch.tensor(80.0))
    for sigma in (10.0, 1.0, 0.1):
        state = oracle.flow(x, 80.0, sigma)
        assert float((oracle.consistency(state, torch.tensor(sigma, dtype=torch.float64)) - end).abs().max()) < 1e-6


def test_consistency_follows_sigma_min_and_keeps_the_dtype():
    oracle, x = Gaussian(torch.zeros(2), 0.5), normal(4, 2, dtype=torch.float32)
    out = oracle.consistency(x, torch.tensor(80.0), sigma_min=1.0)
    assert out.dtype == torch.float32
    assert torch.allclose(out, x * math.sqrt(1.25 / (0.25 + 6400)), rtol=1e-5)


@pytest.mark.parametrize("levels", [(80.0, 0.0), (0.0, 1.0)])
def test_solver_refuses_sigma_zero(levels):
    with pytest.raises(ValueError, match="sigma_min"):
        soft3().flow(normal(2, 2), *levels)


@pytest.mark.parametrize("shape", [(2,), (1, 4, 4)])
@pytest.mark.parametrize("sigma", [0.0, 1e-3])
def test_finite_data_returns_the_nearest_point(shape, sigma):
    points = normal(20, *shape)
    x = normal(8, *shape, seed=9)
    nearest = points[torch.cdist(x.flatten(1), points.flatten(1)).argmin(1)]
    out = FiniteData(points)(x, level(sigma))
    # At sigma = 1e-3 the runner-up weighs exp(-gap / 2e-6), nothing for gaps of these draws.
    assert torch.allclose(out, nearest, atol=1e-9)


def test_finite_data_at_large_sigma_returns_the_mean():
    points = normal(20, 2)
    out = FiniteData(points)(torch.zeros(1, 2, dtype=torch.float64), torch.tensor(1e4))
    assert torch.allclose(out[0], points.mean(0), atol=1e-6)


def test_samples_have_the_moments_of_the_mixture():
    oracle = mixture()
    x = oracle.sample(40_000, seeded())
    w = oracle.weights[:, None]
    mean = (w * oracle.means).sum(0)
    variance = (w * (oracle.means.square() + oracle.stds[:, None] ** 2)).sum(0) - mean**2
    assert x.shape == (40_000, 2)
    # Four standard errors: std / sqrt(n) for the mean, about variance sqrt(2 / n) for the variance.
    assert bool(((x.mean(0) - mean).abs() < 4 * (variance / 40_000).sqrt()).all())
    assert bool(((x.var(0) - variance).abs() < 4 * variance * math.sqrt(2 / 40_000)).all())


def test_samples_are_a_function_of_their_own_seed():
    oracle = mixture()
    assert torch.equal(oracle.sample(3, SampleDraws([4, 5, 6]))[1:2], oracle.sample(1, [5]))


def test_flow_from_pure_noise_gives_the_data():
    # Sliced Wasserstein between finite samples of 8 modes is dominated by how often each mode was hit, and varies threefold from
    # seed to seed. So both sides are means: of 2 pushed sets against 8 data sets each, and of the 28 pairs of those data sets.
    oracle = load_data("8gaussians").oracle  # type: ignore[union-attr]
    count = 4_000
    data = [oracle.sample(count, seeded(100 + k)) for k in range(8)]
    floor = [sliced_wasserstein(a, b, 64) for i, a in enumerate(data) for b in data[:i]]
    pushed = oracle.flow(80 * normal(2 * count, 2, seed=1), 80.0, 0.002).chunk(2)
    distance = [sliced_wasserstein(a, b, 64) for a in pushed for b in data]
    assert sum(distance) / len(distance) <= 1.2 * sum(floor) / len(floor)


def test_another_sample_shape_is_an_error():
    with pytest.raises(ValueError, match=r"samples of shape \(2,\)"):
        mixture()(normal(3, 4), torch.tensor(1.0))


def test_labels_are_refused():
    label = torch.zeros(2, dtype=torch.int64)
    for call in (mixture(), mixture().consistency):
        with pytest.raises(ValueError, match="without a label"):
            call(normal(2, 2), torch.tensor(1.0), label)


@pytest.mark.parametrize(
    ("weights", "stds", "message"),
    [([1.0, 0.0], 0.1, "positive weight"), ([1.0], 0.1, "positive weight"), ([1.0, 1.0], -0.1, "not be negative")],
)
def test_impossible_mixtures_are_errors(weights, stds, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(weights, torch.zeros(2, 2), stds)
