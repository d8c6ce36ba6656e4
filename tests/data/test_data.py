"""Data sets: shapes, ranges, moments, determinism, and errors for what a user can get wrong."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import normal, seeded
from PIL import Image

from cmlab.data import (
    DATASETS,
    TOYS,
    ImageData,
    MixtureData,
    digits,
    digits_color,
    drawn_points,
    keep_classes,
    load_data,
    load_images,
    mixture_from,
)
from cmlab.data.sets import PixelData, SomePixels
from cmlab.evaluation.classifier import to_pixels
from cmlab.noise import SampleDraws


def moments(oracle) -> tuple[torch.Tensor, torch.Tensor]:
    """Exact mean and variance per coordinate of a mixture."""
    w = oracle.weights[:, None]
    mean = (w * oracle.means).sum(0)
    return mean, (w * (oracle.means.square() + oracle.stds[:, None] ** 2)).sum(0) - mean**2


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_centred_with_standard_deviation_one_half(name):
    mean, variance = moments(load_data(name).oracle)  # type: ignore[union-attr]
    assert torch.allclose(mean, torch.zeros(2, dtype=torch.float64), atol=1e-14)
    assert math.sqrt(variance.mean().item()) == pytest.approx(0.5, rel=1e-14)  # root mean square over the two coordinates


@pytest.mark.parametrize("name", TOYS)
def test_toys_draw_from_their_oracle(name):
    data = load_data(name)
    assert isinstance(data, MixtureData)
    x, label = data.batch(50, seeded(3))
    assert label is None
    assert torch.equal(x, data.oracle.sample(50, seeded(3)).float())


@pytest.mark.parametrize("name", TOYS)
def test_toys_are_not_one_gaussian(name):
    # Data that a single Gaussian fits would teach nothing: its log-likelihood must lie clearly below the mixture's.
    oracle = load_data(name).oracle  # type: ignore[union-attr]
    x = oracle.sample(500, seeded())
    _, variance = moments(oracle)
    gaussian = -0.5 * (x.square() / variance + (2 * math.pi * variance).log()).sum(1)
    assert (oracle.log_prob(x) - gaussian).mean().item() > 0.2


def test_eight_gaussians_lie_on_a_ring():
    oracle = load_data("8gaussians").oracle  # type: ignore[union-attr]
    radii = oracle.means.norm(dim=1)
    assert len(radii) == 8
    assert torch.allclose(radii, radii[:1].expand(8), rtol=1e-12)
    assert torch.allclose(oracle.stds / radii, torch.full((8,), 0.1, dtype=torch.float64), rtol=1e-12)


@pytest.mark.parametrize(("load", "shape", "count"), [(digits, (1, 8, 8), 1797), (digits_color, (3, 8, 8), 6 * 1797)])
def test_digit_sets(load, shape, count):
    data = load()
    assert data.shape == shape
    assert data.classes == 10
    assert data.x0.shape == (count, *shape)
    assert data.x0.dtype == torch.float32
    assert -1 <= data.x0.min().item() < -0.9
    assert 0.9 < data.x0.max().item() <= 1
    assert sorted(data.label.unique().tolist()) == list(range(10))


def test_coloured_digits_are_the_grey_ones_in_two_colours():
    # Every channel is paper + shade * (ink - paper): perfectly correlated with the grey digit, up to sign, where they differ.
    grey, colour = digits(), digits_color()
    shape = grey.x0.repeat(6, 1, 1, 1).flatten(1)[::97]
    for k, picture in zip(shape, colour.x0[::97].flatten(2), strict=True):
        correlation = torch.corrcoef(torch.cat([k[None], picture[picture.std(1) > 0.01]]))[0, 1:]
        assert correlation.abs().min().item() > 0.9999
    assert colour.label is not None
    assert grey.label is not None
    assert torch.equal(colour.label, grey.label.repeat(6))


def test_coloured_digits_are_the_same_every_time():
    first = digits_color().x0.clone()
    digits_color.cache_clear()
    assert torch.equal(digits_color().x0, first)


def test_image_batches_pair_pictures_with_their_labels():
    x0 = torch.arange(-1.0, 1.0, 0.2)[:, None, None, None].expand(10, 1, 2, 2)
    x, label = ImageData(x0, torch.arange(10), tuple("abcdefghij")).batch(200, seeded())
    assert label is not None
    assert torch.equal(x[:, 0, 0, 0], x0[label, 0, 0, 0])
    assert set(label.tolist()) == set(range(10))


def test_images_without_labels():
    data = ImageData(torch.zeros(4, 3, 8, 8), None)
    assert data.batch(2, seeded())[1] is None
    assert data.classes == 0


@pytest.mark.parametrize("name", DATASETS.of_kind("toy", "images"))
def test_a_sample_is_a_function_of_its_own_seed(name):
    data = load_data(name)
    assert torch.equal(data.batch(3, SampleDraws([1, 2, 3]))[0][1:2], data.batch(1, SampleDraws([2]))[0])


@pytest.mark.parametrize(("name", "near"), [("two-mons", "two-moons"), ("digit", "digits"), ("8gausians", "8gaussians")])
def test_unknown_names_get_a_suggestion(name, near):
    with pytest.raises(ValueError, match=f"unknown data set '{name}'.*{near}"):
        load_data(name)


def test_names_near_nothing_get_the_whole_list():
    with pytest.raises(ValueError, match=r"8gaussians.*digits-color"):
        load_data("xyzzy")


# --- some classes of a set -------------------------------------------------------------------------------------------------


def numbered(**changes) -> PixelData:
    """Twelve pictures of 2 x 2 that hold their own number; classes a, b, c, d in turn, and one, e, of which there is none."""
    pixels = np.arange(12, dtype=np.uint8).repeat(12).reshape(12, 3, 2, 2)
    return PixelData(pixels, torch.arange(12) % 4, tuple("abcde"), **changes)


def test_kept_classes_are_numbered_in_the_order_given_and_pixels_are_not_copied():
    whole = numbered(flip=True)
    data = keep_classes(whole, ["d", "b"])
    assert isinstance(data, PixelData) and isinstance(data.pixels, SomePixels)
    assert np.shares_memory(data.pixels.pixels, whole.pixels)
    assert (data.shape, data.classes, data.class_names, data.flip, len(data)) == ((3, 2, 2), 2, ("d", "b"), True, 6)
    x0, label = data.batch(100, seeded())
    assert data.pixels[np.arange(6)][:, 0, 0, 0].tolist() == [1, 3, 5, 7, 9, 11]
    assert data.label is not None and data.label.tolist() == [1, 0] * 3 and label is not None
    number = to_pixels(x0)[:, 0, 0, 0]
    assert set(number.tolist()) == {1, 3, 5, 7, 9, 11} and torch.equal(label, (number % 4 == 1).long())


def test_a_set_of_some_classes_is_named_behind_a_colon(tmp_path, monkeypatch):
    whole, data = digits(), load_images("digits:7,0,3")
    assert whole.label is not None and data.label is not None
    keep = torch.isin(whole.label, torch.tensor([7, 0, 3]))
    assert torch.equal(data.x0, whole.x0[keep])
    assert torch.equal(torch.tensor([7, 0, 3])[data.label], whole.label[keep])
    assert load_images("digits:1", flip=True).flip and load_images("digits:1").classes == 1
    pictures = tmp_path / "a:b"  # a path may hold colons of its own
    for name in ("cat", "dog", "owl"):
        (pictures / "train" / name).mkdir(parents=True)
        (pictures / "test" / name).mkdir(parents=True)
        for split in ("train", "test"):
            Image.new("L", (9, 9)).save(pictures / split / name / "1.png")
    monkeypatch.setenv("CMLAB_CACHE", str(tmp_path / "cache"))
    assert load_images(pictures).classes == 3
    some = load_images(f"{pictures}:owl,cat", split="test", resolution=4, channels=1)
    assert some.label is not None
    assert (some.class_names, some.label.tolist(), some.shape) == (("owl", "cat"), [1, 0], (1, 4, 4))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("digits:", "name the classes of 'digits' to keep behind the colon, with commas: 0,1,2"),
        ("digits:3,", "unknown class of 'digits' ''"),
        ("digits:3,11", "unknown class of 'digits' '11': did you mean '1'"),
        ("digits:3,4,3", "the class '3' of 'digits' is named twice"),
        ("rings:1", "'rings' has no classes"),
        ("digts:1", "unknown data set 'digts': did you mean 'digits'"),
    ],
)
def test_classes_that_cannot_be_kept_are_errors(name, message):
    with pytest.raises(ValueError, match=message):
        load_data(name)


def test_classes_without_images_or_labels_are_errors():
    assert len(keep_classes(numbered(), ["e", "a"])) == 3
    with pytest.raises(ValueError, match="no image of 'x' belongs to e"):
        keep_classes(numbered(), ["e"], "x")
    with pytest.raises(ValueError, match="has no classes"):
        keep_classes(replace(numbered(), label=None, class_names=()), ["a"])


@pytest.mark.parametrize("spread", [0.0, 0.05, 1.0])
def test_drawn_points_become_a_scaled_mixture(spread):
    points = 300 + 100 * normal(7, 2)
    oracle = drawn_points(points.tolist(), spread).oracle
    mean, variance = moments(oracle)
    assert torch.allclose(mean, torch.zeros(2, dtype=torch.float64), atol=1e-12)
    assert variance.mean().item() == pytest.approx(0.25, rel=1e-12)
    centred = points - points.mean(0)
    scale = oracle.means.norm() / centred.norm()
    assert torch.allclose(oracle.means, scale * centred, atol=1e-12)
    size = centred.square().mean().sqrt() * scale
    assert torch.allclose(oracle.stds, spread * size.expand(7), atol=1e-12)


def test_drawn_points_do_not_depend_on_their_unit():
    points = normal(5, 2)
    a, b = drawn_points(points), drawn_points(1000 * points + 7)
    assert torch.allclose(a.oracle.means, b.oracle.means, atol=1e-12)


@pytest.mark.parametrize(
    ("points", "spread", "message"),
    [
        ([], 0.05, "at least two points"),
        ([[1.0, 2.0]], 0.05, "at least two points"),
        ([[1.0, 2.0], [1.0, 2.0]], 0.05, "one spot"),
        ([[1.0, 2.0], [math.nan, 2.0]], 0.05, "not finite"),
        ([[1.0, 2.0], [math.inf, 2.0]], 0.05, "not finite"),
        ([[1.0, 2.0, 3.0], [1.0, 2.0, 4.0]], 0.05, r"\(K, 2\)"),
        ([[0.0, 0.0], [1.0, 1.0]], -1.0, "not be negative"),
    ],
)
def test_drawn_points_that_cannot_be_used_are_errors(points, spread, message):
    with pytest.raises(ValueError, match=message):
        drawn_points(points, spread)


def test_mixture_weights_count():
    points = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
    oracle = mixture_from(points, 0.1, torch.tensor([3.0, 1.0]))
    assert oracle.weights.tolist() == [0.75, 0.25]
    assert oracle.means[0, 0].item() == pytest.approx(-oracle.means[1, 0].item() / 3)
