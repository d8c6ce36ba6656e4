"""Sigma grids, expand and seeded draws."""

import pytest
import torch
from conftest import seeded

from cmlab.noise import SampleDraws, as_draws, expand, karras_sigmas, sampling_sigmas, seeds_from, state_dtype

CPU = torch.device("cpu")


@pytest.mark.parametrize("n", [2, 3, 18, 1281])
def test_karras_ends_are_exact(n):
    sigmas = karras_sigmas(n)
    assert len(sigmas) == n
    assert sigmas.dtype == torch.float64
    assert sigmas[0].item() == 80.0
    assert sigmas[-1].item() == 0.002


@pytest.mark.parametrize("n", [2, 18, 1281])
@pytest.mark.parametrize("ends", [(0.002, 80.0, 7.0), (0.1, 3.0, 1.0), (0.5, 0.51, 7.0)])
def test_karras_decreases(n, ends):
    assert bool((karras_sigmas(n, *ends).diff() < 0).all())


# Levels that the papers and their code sample at (methods sheet, B), by index from the top; printed to 3 digits there.
@pytest.mark.parametrize(
    ("n", "index", "sigma", "digits"),
    [(18, 11, 0.585, 3), (40, 22, 1.382, 3), (201, 106, 1.913, 3), (40, 17, 4.37, 2), (151, 67, 3.99, 2), (151, 62, 5.25, 2)],
)
def test_karras_golden_levels(n, index, sigma, digits):
    assert round(karras_sigmas(n)[index].item(), digits) == sigma


@pytest.mark.parametrize(("n", "gap"), [(18, 22.4), (40, 10.5), (80, 5.37), (151, 2.87), (201, 2.16), (1281, 0.341)])
def test_karras_golden_top_gap(n, gap):
    sigmas = karras_sigmas(n)
    assert float(f"{sigmas[0] - sigmas[1]:.3g}") == gap


def test_karras_with_rho_1_is_linear():
    assert torch.allclose(karras_sigmas(5, 1.0, 9.0, rho=1.0), torch.tensor([9.0, 7, 5, 3, 1], dtype=torch.float64), atol=1e-14)


def test_karras_of_one_point_is_the_top():
    assert karras_sigmas(1).tolist() == [80.0]


@pytest.mark.parametrize("bad", [(0,), (5, 0.0, 80.0), (5, 2.0, 1.0), (5, -0.1, 1.0)])
def test_karras_refuses(bad):
    with pytest.raises(ValueError, match=r"sigma"):
        karras_sigmas(*bad)


def test_sampling_sigmas_append_one_zero():
    sigmas = sampling_sigmas(18)
    assert torch.equal(sigmas[:-1], karras_sigmas(18))
    assert sigmas[-1].item() == 0.0


@pytest.mark.parametrize("shape", [(4, 2), (4, 3, 8, 8)])
@pytest.mark.parametrize("sigma", [torch.tensor(2.0), torch.tensor([1.0, 2.0, 3.0, 4.0])])
def test_expand_multiplies_samples(sigma, shape):
    product = expand(sigma, torch.ones(shape)) * torch.ones(shape)
    per_sample = sigma.expand(4)
    assert product.shape == shape
    assert all(bool((product[k] == per_sample[k]).all()) for k in range(4))


@pytest.mark.parametrize("sigma", [torch.ones(3), torch.ones(1), torch.ones(4, 1)])
def test_expand_refuses_another_number_of_levels(sigma):
    with pytest.raises(ValueError, match="one value per sample"):
        expand(sigma, torch.ones(4, 2))


def test_solver_state_is_float64_except_on_mps():
    assert state_dtype(CPU) == torch.float64
    assert state_dtype(torch.device("mps")) == torch.float32


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_sample_draws_row_depends_on_its_seed_alone(kind):
    whole = SampleDraws([5, 6, 7])
    alone = SampleDraws([6])
    for shape in ((2,), (3, 4, 4), ()):  # a sampler draws again and again
        rows = getattr(whole, kind)((3, *shape))
        assert torch.equal(rows[1:2], getattr(alone, kind)((1, *shape)))
        assert not torch.equal(rows[0], rows[1])


def test_sample_draws_need_one_seed_per_sample():
    with pytest.raises(ValueError, match="one seed per sample"):
        SampleDraws([1, 2]).normal((3, 2))


def test_seeds_from_overlap():
    assert seeds_from(4, 3) == [4, 5, 6]


def test_as_draws_takes_seeds_generators_and_sources():
    assert torch.equal(as_draws(seeded(1)).normal((2, 3)), torch.randn(2, 3, generator=seeded(1)))
    assert torch.equal(as_draws([1, 2]).normal((2, 3)), SampleDraws([1, 2]).normal((2, 3)))
    source = SampleDraws([1])
    assert as_draws(source) is source


@pytest.mark.usefixtures("untouched_rng")
def test_draws_leave_the_global_generator_alone():
    for source in (SampleDraws([1, 2]), as_draws(seeded())):
        source.normal((2, 2))
        source.uniform((2, 2))
