"""Distances per sample: values, limits, gradients at zero."""

import pytest
import torch
from conftest import normal
from hypothesis import given
from hypothesis import strategies as st

from cmlab.distances import DISTANCES, Distance

A = torch.tensor([[3.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
B = torch.tensor([[0.0, -4.0], [1.0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize(
    ("distance", "expected"),
    [(Distance("l1"), 7.0), (Distance("l2"), 25.0), (Distance("huber", 0.0), 5.0), (Distance("huber", 12.0), 1.0)],
)
def test_values_per_sample(distance, expected):
    assert distance(A, B).tolist() == pytest.approx([expected, 0.0], rel=1e-14)


@pytest.mark.parametrize("name", DISTANCES)
def test_images_are_summed_not_averaged(name):
    a, b = normal(3, 2, 4, 4, seed=1), normal(3, 2, 4, 4, seed=2)
    d = Distance(name)(a, b)
    assert d.shape == (3,)
    assert torch.allclose(d, Distance(name)(a.flatten(1), b.flatten(1)), rtol=1e-14)
    assert torch.allclose(d[1:2], Distance(name)(a[1:2], b[1:2]), rtol=1e-14)


@pytest.mark.parametrize("dim", [2, 3072])
def test_huber_constant_follows_the_dimension(dim):
    a, b = torch.zeros(1, dim, dtype=torch.float64), torch.full((1, dim), 0.1, dtype=torch.float64)
    c = 0.00054 * dim**0.5
    assert Distance("huber")(a, b).item() == pytest.approx((0.01 * dim + c**2) ** 0.5 - c, rel=1e-12)


def test_huber_takes_the_norm_of_the_whole_vector():
    # Kinyugo's code sums it over coordinates, which would give twice sqrt(1 + c^2) - c here.
    assert Distance("huber", 1.0)(torch.ones(1, 2), torch.zeros(1, 2)).item() == pytest.approx(3**0.5 - 1, rel=1e-6)


@given(scale=st.floats(1e-3, 1e3), c=st.floats(1e-2, 10))
def test_huber_lies_between_its_limits(scale, c):
    a = scale * normal(4, 5)
    value, norm = Distance("huber", c)(a, torch.zeros_like(a)), a.norm(dim=1)
    slack = 1e-12 * (1 + scale)  # rounding of the subtraction sqrt(...) - c
    assert bool((value <= norm + slack).all())
    assert bool((value <= norm**2 / (2 * c) + slack).all())
    assert bool((value >= norm - c - slack).all())


@pytest.mark.parametrize("distance", [Distance("l1"), Distance("l2"), Distance("huber"), Distance("huber", 0.0)])
def test_gradient_at_zero_is_finite(distance):
    a = torch.zeros(2, 3, requires_grad=True)
    distance(a, torch.zeros(2, 3)).sum().backward()
    assert a.grad is not None
    assert torch.equal(a.grad, torch.zeros(2, 3))


def test_unknown_distance_names_the_known_ones():
    with pytest.raises(ValueError, match="l1, l2, huber"):
        Distance("l3")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["l1", "l2"])
def test_c_without_huber_is_an_error(name):
    with pytest.raises(ValueError, match="huber"):
        Distance(name, 0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", DISTANCES)
def test_unequal_shapes_do_not_broadcast(name):
    with pytest.raises(ValueError, match="equal shapes"):
        Distance(name)(torch.zeros(3, 2), torch.zeros(1, 2))
