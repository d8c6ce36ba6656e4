"""The one-point example: golden values of the methods sheet (A6), the limit, and the divergence of an averaged target."""

import pytest

from cmlab.theory.dirac import dirac_gradient

SIZES = (10, 40, 160, 640, 2560)


@pytest.mark.parametrize(
    ("lag", "golden"),
    [(0.0, (1.82, 1.286, 1.073, 1.018, 1.004)), (0.01, (1.98, 2.01, 4.02, 12.87, 48.48))],
    ids=["copy", "average"],
)
def test_golden(lag, golden):
    assert [dirac_gradient(n, lag=lag) for n in SIZES] == pytest.approx(golden, rel=3e-3)


def test_a_target_that_is_the_model_gives_the_gap_in_the_limit():
    errors = [abs(dirac_gradient(n, gap=0.3) - 0.3) for n in SIZES]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.002


def test_at_the_data_only_an_averaged_target_pulls_and_it_pulls_like_n():
    assert dirac_gradient(100, gap=0.0) == 0
    assert dirac_gradient(5120, gap=0.0, lag=1e-3) == pytest.approx(2 * dirac_gradient(2560, gap=0.0, lag=1e-3), rel=0.01)


def test_a_grid_of_one_level_is_refused():
    with pytest.raises(ValueError, match="at least 2"):
        dirac_gradient(1)
