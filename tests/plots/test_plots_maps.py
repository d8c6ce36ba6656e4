"""Maps of the plane lie the right way round, on one scale; lines along paths run with time to the right."""

import numpy as np
import pytest
import torch
from conftest import normal
from matplotlib.image import AxesImage

from cmlab import plots


def drawn(image: AxesImage) -> np.ndarray:
    """The values behind the colours."""
    return np.asarray(image.get_array())


def test_the_first_coordinate_runs_to_the_right_and_the_second_up():
    x1, x2 = torch.cartesian_prod(torch.tensor([1.0, 2.0]), torch.tensor([0.1, 0.2])).T
    figure = plots.plot_maps({"x1": x1.reshape(2, 2), "x2": x2.reshape(2, 2)}, 1.0, "value", low=0.1, high=2.0)
    first, second = (ax.images[0] for ax in figure.axes[:2])
    assert drawn(first)[0].tolist() == [1.0, 2.0] and first.origin == "lower"
    assert drawn(second)[:, 0].tolist() == pytest.approx([0.1, 0.2])
    assert first.get_extent() == [-1, 1, -1, 1] and first.get_clim() == second.get_clim() == (0.1, 2.0)


def test_values_beyond_the_scale_take_its_ends():
    figure = plots.plot_maps({"a": torch.tensor([[0.0, 5.0], [0.5, 1.0]])}, 1.0, "value", "title", low=0.1, high=2.0)
    assert drawn(figure.axes[0].images[0]).tolist() == [[0.1, 0.5], [2.0, 1.0]]
    assert figure.get_suptitle() == "title"


def test_along_paths_time_runs_to_the_right():
    figure = plots.plot_along({"a": normal(4, 3), "b": normal(4, 3)}, torch.tensor([80.0, 5.0, 0.5, 0.002]), "y", "title")
    for ax in figure.axes:
        left, right = ax.get_xlim()
        assert left > right > 0 and len(ax.lines) == 2 * 3  # a line and its end mark per path
