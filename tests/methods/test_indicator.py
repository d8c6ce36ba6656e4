"""Eq. 4 of the consistency models: identity at the lowest level, the bare network above it, and a jump in between."""

import pytest
import torch
from conftest import normal

from cmlab import CONSISTENCY, EDM, Denoiser
from cmlab.methods.indicator import IndicatorPrecond


class Network(torch.nn.Module):
    """Some F that is far from the identity."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

    def forward(self, x, c_noise, label=None):
        return self.weight * x.cos() + c_noise[:, None]


def model() -> Denoiser:
    return Denoiser(Network(), IndicatorPrecond(), (2,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identity_at_the_lowest_level_bit_for_bit(dtype):
    x = normal(5, 2).to(dtype)
    assert torch.equal(model()(x, torch.tensor(0.002, dtype=dtype)), x)


def test_the_bare_network_above_it():
    x, sigma = normal(5, 2).double(), torch.tensor([0.0021, 0.1, 0.5, 3.0, 80.0], dtype=torch.float64)
    c = EDM(sigma)
    assert torch.equal(model()(x, sigma), 2 * (c.c_in[:, None] * x).cos() + c.c_noise[:, None])


def test_it_jumps_where_the_skip_connection_does_not():
    x, above = normal(5, 2).double(), torch.tensor(0.002 + 1e-9, dtype=torch.float64)
    jump = (model()(x, above) - x).abs().max()
    smooth = (Denoiser(Network(), CONSISTENCY, (2,))(x, above) - x).abs().max()
    assert jump > 0.5 and smooth < 1e-7


def test_one_batch_may_hold_both_branches():
    x, sigma = normal(2, 2).double(), torch.tensor([0.002, 1.0], dtype=torch.float64)
    both, f = model()(x, sigma), model()
    assert torch.equal(both[:1], x[:1]) and torch.equal(both[1:], f(x[1:], sigma[1:]))


def test_it_says_that_it_is_consistent_and_what_it_knows():
    precond = IndicatorPrecond(sigma_min=0.01)
    assert precond.consistency and precond.levels == (0.01, float("inf"))
    level = torch.tensor([0.3])
    assert precond.round(level) is level


@pytest.mark.parametrize("sigma_min", [0.0, -1.0])
def test_it_needs_a_level_to_ask_about(sigma_min):
    with pytest.raises(ValueError, match="lowest level above 0"):
        IndicatorPrecond(sigma_min=sigma_min)
