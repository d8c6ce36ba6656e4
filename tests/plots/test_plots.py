"""Pictures: exact pixels where there are pixels, and that every figure draws."""

import io

import numpy as np
import pytest
import torch
from conftest import normal

from cmlab import plots


def test_bytes_round_trip():
    image = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    np.testing.assert_array_equal(plots.to_uint8(plots.from_uint8(image))[0], image)


def test_ends_of_the_range_and_what_lies_outside():
    x = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0]).reshape(1, 1, 1, 5)
    np.testing.assert_array_equal(plots.to_uint8(x)[0, 0, :, 0], [0, 0, 128, 255, 255])


def test_grey_of_a_grey_picture_is_itself():
    image = np.repeat(np.arange(64, dtype=np.uint8).reshape(8, 8, 1), 3, 2)
    np.testing.assert_array_equal(plots.to_uint8(plots.from_uint8(image, 1))[0], image)


def test_grid_places_row_by_row_and_enlarges_by_repeating():
    x = torch.linspace(-1, 1, 5).reshape(5, 1, 1, 1).expand(5, 3, 2, 2)
    grid = plots.image_grid(x, columns=3, scale=2)
    assert grid.shape == ((2 * 2 + 1) * 2, (3 * 2 + 2) * 2, 3)
    tiles = [grid[r, c, 0] for r in (0, 6) for c in (0, 6, 12)]
    assert tiles == [0, 64, 128, 191, 255, 255]  # five pictures, then white


@pytest.mark.parametrize("shape", [(1, 2, 4, 4), (3, 4, 4)])
def test_what_is_no_image_is_an_error(shape):
    with pytest.raises(ValueError, match="need images"):
        plots.to_uint8(torch.zeros(shape))


FIGURES = {
    "images": lambda: plots.plot_images({"a": normal(2, 1, 4, 4), "b": normal(3, 3, 4, 4)}, "title"),
    "points": lambda: plots.plot_points({"a": normal(9, 2), "b": normal(5, 2)}, "title"),
    "trajectories": lambda: plots.plot_trajectories(normal(6, 9, 2), torch.tensor([80.0, 20, 5, 1, 0.1, 0]), "t", normal(9, 2)),
    "consistency": lambda: plots.plot_consistency(normal(9, 2), normal(9, 2), "t", normal(9, 2)),
    "curves": lambda: plots.plot_curves({"a": ([1, 2], [3, 4]), "b": ([1, 2], [4, 3])}, "x", "y", "t", log="xy"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figure_draws(name):
    blank = io.BytesIO()
    FIGURES[name]().savefig(blank, format="png")
    assert blank.getvalue().startswith(b"\x89PNG")


def test_3d_paths_leave_out_sigma_zero():
    figure = plots.trajectories_3d(normal(3, 2, 2), torch.tensor([80.0, 1.0, 0.0]))
    paths = figure.to_dict()["data"]
    assert len(paths) == 2 and len(paths[0]["x"]) == 2
