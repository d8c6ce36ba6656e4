"""Likelihoods and latents by the probability-flow ODE, against densities and flows that are known exactly."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from conftest import KnownDraws, normal, randomise, seeded, soft3, tiny

from cmlab import load
from cmlab.data import load_data
from cmlab.denoiser import EDM, Denoiser
from cmlab.methods.likelihood import bits_per_dim, decode, encode, log_likelihood, normal_log_prob
from cmlab.methods.scalings import VEPrecond
from cmlab.networks import UNetConfig, build_network
from cmlab.noise import SIGMA_MAX, SIGMA_MIN, karras_sigmas, seeds_from
from cmlab.oracle import Gaussian, GaussianMixture
from cmlab.samplers import heun, initial_noise, last_state

SHARP: dict[str, Any] = {"rtol": 1e-8, "atol": 1e-8}


def ball(dim: int = 5) -> GaussianMixture:
    """A mixture in more dimensions, where Hutchinson's probes matter."""
    return GaussianMixture([0.2, 0.5, 0.3], 0.6 * normal(3, dim, seed=4), [0.1, 0.3, 0.5])


MIXTURES = {
    "soft3": soft3,
    "8gaussians": lambda: load_data("8gaussians").oracle,  # type: ignore[union-attr]
    "two-moons": lambda: load_data("two-moons").oracle,  # type: ignore[union-attr]
    "five dimensions": ball,
}


def at(oracle: GaussianMixture, x, sigma: float = SIGMA_MIN):
    return oracle.log_prob(x, sigma)


# --- the exact trace -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MIXTURES)
def test_bits_per_dimension_of_a_mixture_with_the_default_options(name):
    """Acceptance: within 1e-3 bits of the exact value, for every single sample."""
    oracle = MIXTURES[name]()
    x0 = oracle.sample(64, seeded())
    got = log_likelihood(oracle, x0)
    exact = -at(oracle, x0) / (math.log(2) * oracle.dim)
    assert float((got.bits_per_dim - exact).abs().max()) < 3e-5
    assert torch.equal(got.standard_error, torch.zeros(64, dtype=torch.float64))
    assert got.nfe < 400


@pytest.mark.parametrize("name", ["8gaussians", "five dimensions"])
def test_exact_trace_at_a_sharp_tolerance(name):
    oracle = MIXTURES[name]()
    x0 = oracle.sample(16, seeded(1))
    got = log_likelihood(oracle, x0, **SHARP)
    assert float((got.log_prob - at(oracle, x0)).abs().max()) < 1e-6


def test_the_error_falls_with_the_tolerance():
    oracle = soft3()
    x0 = oracle.sample(16, seeded(1))
    errors = [
        float((log_likelihood(oracle, x0, rtol=tol, atol=tol).log_prob - at(oracle, x0)).abs().max()) for tol in (1e-4, 1e-6, 1e-8)
    ]
    assert errors[0] > 30 * errors[1] > 900 * errors[2]


def test_gaussian_in_closed_form():
    gaussian = Gaussian(torch.tensor([0.1, -0.2, 0.3]), 0.5)
    x0 = gaussian.sample(8, seeded())
    std = math.sqrt(0.25 + SIGMA_MIN**2)
    got = log_likelihood(gaussian, x0, **SHARP)
    assert torch.allclose(got.log_prob, normal_log_prob(x0 - gaussian.means[0], std), atol=1e-6)
    assert torch.allclose(got.latent, gaussian.flow(x0, SIGMA_MIN, SIGMA_MAX), atol=1e-5)


def test_levels_are_the_ends_of_the_ode():
    oracle = soft3()
    x0 = oracle.sample(8, seeded())
    got = log_likelihood(oracle, x0, sigma_min=0.1, sigma_max=30.0, **SHARP)
    assert torch.allclose(got.log_prob, at(oracle, x0, 0.1), atol=1e-6)
    assert torch.allclose(got.latent, oracle.flow(x0, 0.1, 30.0), atol=1e-5)


def test_the_standard_prior_truncates_as_the_docstring_says():
    """N(0, sigma_max^2), which a trained model starts from, against the exact density at sigma_max."""
    oracle = soft3()
    x0 = oracle.sample(64, seeded())
    got = log_likelihood(oracle, x0, prior=partial(normal_log_prob, std=SIGMA_MAX), **SHARP)
    z = got.latent / SIGMA_MAX
    mean = (oracle.weights[:, None] * oracle.means).sum(0)
    variance = float((oracle.weights * (oracle.stds**2 + (oracle.means - mean).square().mean(1))).sum())
    first = -(z @ mean) / SIGMA_MAX
    second = (2 - z.square().sum(1)) * variance / (2 * SIGMA_MAX**2) + mean.square().sum() / (2 * SIGMA_MAX**2)
    error = at(oracle, x0) - got.log_prob
    assert float(error.abs().max()) > 1e-3  # it is there ...
    assert torch.allclose(error, -(first + second), atol=3e-5)  # ... and known
    exact = got.log_prob - normal_log_prob(got.latent, SIGMA_MAX) + oracle.log_prob(got.latent, SIGMA_MAX)
    assert torch.allclose(exact, at(oracle, x0), atol=1e-6)


def test_rows_do_not_hide_behind_each_other():
    """The step size obeys the worst sample: a hard one among many easy ones is as exact as alone."""
    oracle = load_data("8gaussians").oracle  # type: ignore[union-attr]
    hard = oracle.sample(1, seeded(2)) + 0.2
    easy = oracle.means[:1] + torch.zeros(500, 2, dtype=torch.float64)
    together = log_likelihood(oracle, torch.cat([easy, hard])).log_prob[-1]
    assert abs(float(together - at(oracle, hard)[0])) < 2e-4
    assert abs(float(together - log_likelihood(oracle, hard).log_prob[0])) < 2e-4


# --- Hutchinson's estimate -----------------------------------------------------------------------------------------------


def smooth() -> GaussianMixture:
    """Overlapping components: a trace without the rare, huge probes of narrow ones, whose mean a small sample misses."""
    return GaussianMixture([0.2, 0.5, 0.3], 0.4 * normal(3, 5, seed=4), [0.4, 0.5, 0.6])


@pytest.mark.parametrize("probe", ["rademacher", "gaussian"])
def test_hutchinson_is_right_within_its_standard_error(probe):
    oracle = smooth()
    x0 = oracle.sample(64, seeded(3))
    got = log_likelihood(oracle, x0, trace="hutchinson", probe=probe, probes=32, noise=seeded(5), rtol=1e-4, atol=1e-4)
    z = (got.log_prob - at(oracle, x0)) / got.standard_error
    # 64 studentised means of 32 probes: mean 0 +- 0.13, standard deviation 1.03 +- 0.1; four standard errors each.
    assert abs(float(z.mean())) < 0.52
    assert 0.63 < float(z.std()) < 1.43
    # The variance of v^T A v is 2 |A|_F^2 for Gaussian v; for signs without the diagonal, which is most of it here.
    low, high = {"rademacher": (0.005, 0.2), "gaussian": (1.0, 5.0)}[probe]
    assert low < float(got.standard_error.mean()) < high


def test_more_probes_bring_it_nearer():
    oracle = smooth()
    x0 = oracle.sample(64, seeded(3))
    options: dict[str, Any] = {"trace": "hutchinson", "probe": "gaussian", "rtol": 1e-4, "atol": 1e-4}
    errors = [
        float((log_likelihood(oracle, x0, probes=p, noise=seeded(5), **options).log_prob - at(oracle, x0)).square().mean().sqrt())
        for p in (2, 32)
    ]
    assert 2.8 < errors[0] / errors[1] < 5.6  # sqrt(16) = 4


def test_rademacher_probes_are_exact_where_the_jacobian_is_diagonal_and_gaussian_ones_are_not():
    gaussian = Gaussian(torch.zeros(4), 0.5)
    x0 = gaussian.sample(8, seeded())
    signs = log_likelihood(gaussian, x0, trace="hutchinson", noise=seeded(1), **SHARP)
    assert torch.allclose(signs.log_prob, at(gaussian, x0), atol=1e-6)
    assert bool(signs.standard_error.isnan().all())  # one probe says nothing about its own error
    other = log_likelihood(gaussian, x0, trace="hutchinson", probe="gaussian", noise=seeded(1))
    assert float((other.log_prob - at(gaussian, x0)).abs().min()) > 1e-3


def test_probes_are_drawn_once_and_belong_to_their_row(untouched_rng):
    oracle = ball()
    x0 = oracle.sample(4, seeded(3))
    options: dict[str, Any] = {"trace": "hutchinson", "probes": 3}
    whole = log_likelihood(oracle, x0, noise=seeds_from(7, 4), **options)
    row = log_likelihood(oracle, x0[2:3], noise=[9], **options)
    assert torch.allclose(whole.log_prob[2:3], row.log_prob, atol=1e-4)
    draws = KnownDraws(uniforms=[torch.rand(4, 3, 5, generator=seeded())])
    assert log_likelihood(oracle, x0, noise=draws, **options).nfe > draws.count == 1


# --- latents -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["soft3", "two-moons"])
def test_encode_undoes_decode_and_returns_the_noise(name):
    oracle = MIXTURES[name]()
    latent = initial_noise(oracle.shape, seeds_from(0, 32))
    x0 = decode(oracle, latent, **SHARP)
    assert float((encode(oracle, x0, **SHARP) - latent).abs().max()) < 1e-6 * SIGMA_MAX
    assert float((decode(oracle, encode(oracle, x0, **SHARP), **SHARP) - x0).abs().max()) < 3e-7


def test_decode_is_the_exact_flow():
    oracle = soft3()
    latent = initial_noise((2,), seeds_from(3, 8))
    assert torch.allclose(decode(oracle, latent, **SHARP), oracle.flow(latent, SIGMA_MAX, SIGMA_MIN), atol=1e-6)


def test_the_latent_of_a_likelihood_is_that_of_encode():
    oracle = soft3()
    x0 = oracle.sample(8, seeded())
    assert torch.allclose(log_likelihood(oracle, x0, **SHARP).latent, encode(oracle, x0, **SHARP), atol=1e-5)


def test_many_heun_steps_from_a_latent_lead_back_to_the_sample():
    """encode belongs to the samplers: x_T from it, 400 Heun steps down, and the sample is there again."""
    model = load("two-moons-edm")[0]
    x0 = load_data("two-moons").batch(16, seeded())[0]
    latent = encode(model, x0)
    assert latent.shape == (16, 2) and latent.dtype == torch.float64
    assert float((last_state(heun(model, latent, karras_sigmas(400))) - x0).abs().max()) < 3e-3


# --- trained models, labels, pictures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, gap", [("8gaussians", 0.017), ("two-moons", 0.015)])
def test_a_trained_model_comes_near_the_density_of_its_data(name, gap):
    """A model needs at least as many bits as the data's own density; the bundled ones 0.015 +- 0.003 more (2,000 samples)."""
    oracle = load_data(name).oracle  # type: ignore[union-attr]
    x0 = oracle.sample(200, seeded())
    got = log_likelihood(load(f"{name}-edm")[0], x0, rtol=1e-5, atol=1e-5)
    above = got.bits_per_dim - bits_per_dim(at(oracle, x0), 2)
    error = float(above.std()) / math.sqrt(len(x0))
    assert abs(float(above.mean()) - gap) < 4 * error < 0.12
    assert got.log_prob.dtype == torch.float64


def test_a_float64_copy_of_a_network_takes_sharp_tolerances():
    model = tiny("mlp", EDM, dtype=torch.float64).eval()
    x0 = 0.5 * normal(2, 2)
    got = log_likelihood(model, x0, **SHARP)
    assert float((decode(model, got.latent, **SHARP) - x0).abs().max()) < 1e-6
    # The log-density falls by the log-volume that a small square of samples gains on its way to the prior.
    step, corners = 1e-4, torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]], dtype=torch.float64)
    right, left, up, down = encode(model, x0[:1] + step * corners, **SHARP)
    jacobian = torch.stack([(right - left), (up - down)]) / (2 * step)
    expected = normal_log_prob(got.latent[:1], SIGMA_MAX) + torch.linalg.det(jacobian).abs().log()
    assert torch.allclose(got.log_prob[:1], expected, atol=1e-5)


def test_labels_reach_the_model_and_pictures_count_eight_bits():
    model = tiny("unet", EDM, classes=3).eval()
    x0 = 0.3 * normal(2, 3, 8, 8)
    a, b = (
        log_likelihood(
            model, x0, torch.tensor(y), trace="hutchinson", noise=[1, 2], sigma_min=0.1, sigma_max=10.0, rtol=1e-2, atol=1e-2
        )
        for y in ([0, 1], [0, 2])
    )
    assert torch.allclose(a.log_prob[0], b.log_prob[0], rtol=1e-3) and not torch.allclose(a.latent[1], b.latent[1], atol=1e-2)
    assert torch.allclose(a.bits_per_dim, -a.log_prob / (192 * math.log(2)) + math.log2(127.5))
    assert torch.allclose(bits_per_dim(a.log_prob, 192, 1 / 8), -a.log_prob / (192 * math.log(2)) + 3)


def test_exact_trace_of_a_network_with_attention_is_the_mean_of_many_probes():
    with torch.random.fork_rng(devices=[]):
        net = build_network(UNetConfig(channels=8, mult=(1,), attention=(4,), heads=2, emb=12), (1, 4, 4))
    model = Denoiser(randomise(net).double(), EDM, (1, 4, 4)).eval()
    x0 = 0.3 * normal(1, 1, 4, 4)
    levels: dict[str, Any] = {"sigma_min": 0.3, "sigma_max": 1.0, "rtol": 1e-2, "atol": 1e-2}
    exact = log_likelihood(model, x0, **levels)
    many = log_likelihood(model, x0, trace="hutchinson", probes=64, noise=seeded(), **levels)
    assert 0 < float((exact.log_prob - many.log_prob).abs()) < 4 * float(many.standard_error) < 1.0


def test_dequantised_code_length_bounds_that_of_rounded_data():
    """One-dimensional pictures of rounded Gaussians: the mean over the noise lies just above the exact code length."""
    width, std = 1 / 8, 0.5
    gaussian = Gaussian(torch.zeros(1, 1, 1), std)
    cells = (gaussian.sample(400, seeded()) / width).round() * width
    levels: dict[str, Any] = {"sigma_min": SIGMA_MIN, "bin_width": width}
    got = log_likelihood(gaussian, cells, dequantize=True, noise=seeded(1), **levels)
    law = torch.distributions.Normal(0.0, math.sqrt(std**2 + SIGMA_MIN**2))
    flat = cells.flatten()
    discrete = -(law.cdf(flat + width / 2) - law.cdf(flat - width / 2)).log2()
    above = got.bits_per_dim - discrete
    error = float(above.std()) / 20
    assert -4 * error < float(above.mean()) < 4 * error + 0.01  # Jensen's gap is about width^2 / (24 std^2) / ln 2 = 0.004
    assert error < 0.01
    plain = log_likelihood(gaussian, cells, **levels)
    assert float((got.bits_per_dim - plain.bits_per_dim).abs().max()) > 0.01  # the noise was added
    uniform = torch.rand(400, 1, 1, 1, generator=seeded(2))
    known = log_likelihood(gaussian, cells, dequantize=True, noise=KnownDraws(uniforms=[uniform]), **levels)
    assert torch.allclose(known.log_prob, at(gaussian, cells + width * (uniform.double() - 0.5)), atol=1e-4)


def test_nothing_is_drawn_and_twice_is_the_same(untouched_rng):
    model = tiny("mlp", EDM).eval()
    x0 = normal(4, 2, dtype=torch.float32)
    a, b = (log_likelihood(model, x0, trace="hutchinson", noise=seeded(1), rtol=1e-4, atol=1e-4) for _ in range(2))
    assert torch.equal(a.log_prob, b.log_prob) and torch.equal(a.latent, b.latent)
    assert all(p.grad is None for p in model.parameters()) and not a.log_prob.requires_grad


def test_levels_default_to_those_of_the_models_training():
    model = tiny("mlp").eval()
    ve = Denoiser(model.net, VEPrecond(), (2,)).eval()
    x0 = normal(2, 2)
    options: dict[str, Any] = {"rtol": 1e-3, "atol": 1e-3}
    assert torch.equal(encode(ve, x0, **options), encode(ve, x0, sigma_min=0.02, sigma_max=80.0, **options))
    with pytest.raises(ValueError, match=r"noise levels from 0.02 to 100"):
        encode(ve, x0, sigma_min=0.01, **options)


# --- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("call", [encode, decode, log_likelihood])
def test_consistency_models_and_training_mode_are_refused(call):
    with pytest.raises(ValueError, match="consistency model"):
        call(tiny("mlp").eval(), normal(2, 2))
    with pytest.raises(ValueError, match=r"model.eval\(\)"):
        call(tiny("mlp", EDM).train(), normal(2, 2))
    with pytest.raises(ValueError, match=r"model.double\(\)"):
        call(tiny("mlp", EDM).eval(), normal(2, 2), rtol=1e-8)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"sigma_min": 0.0}, "0 < sigma_min"),
        ({"sigma_min": 90.0}, "0 < sigma_min"),
        ({"rtol": 0.0}, "above 0"),
        ({"atol": math.nan}, "above 0"),
        ({"trace": "approximate"}, "unknown trace"),
        ({"trace": "hutchinson"}, "pass noise="),
        ({"trace": "hutchinson", "probes": 0, "noise": [0, 1]}, "at least 1 probe"),
        ({"trace": "hutchinson", "probe": "uniform", "noise": [0, 1]}, "unknown probe"),
        ({"probes": 4}, "belong to trace='hutchinson'"),
        ({"probe": "gaussian"}, "belong to trace='hutchinson'"),
        ({"noise": [0, 1]}, "leave noise out"),
        ({"bin_width": 0.0}, "bin_width must be"),
        ({"dequantize": True}, "points are not rounded"),
        ({"dequantize": True, "bin_width": 0.1}, "pass noise="),
    ],
)
def test_wrong_options_say_what_to_do(options, message):
    with pytest.raises(ValueError, match=message):
        log_likelihood(soft3(), normal(2, 2), **options)


def test_samples_that_are_not_finite_and_odes_without_a_solution_are_errors():
    with pytest.raises(ValueError, match="not finite"):
        encode(soft3(), torch.tensor([[math.nan, 0.0]]))
    with pytest.raises(FloatingPointError, match="could not be solved"):
        encode(lambda x, sigma, label=None: x / (sigma - 1), normal(1, 2))


@pytest.mark.parametrize(("dtype", "finest"), [(torch.float32, "1e-06"), (torch.bfloat16, "0.01"), (torch.float8_e4m3fn, "0.1")])
def test_tolerances_finer_than_the_weights_are_an_error(dtype, finest):
    model = tiny(precond=EDM).to(torch.float32).eval()
    for p in model.parameters():
        p.data = p.data.to(dtype)
    with pytest.raises(ValueError, match=f"tolerances below {finest} are finer"):
        encode(model, torch.zeros(1, 2), rtol=1e-9, atol=1e-9)
