"""Non-leaky augmentation: nothing done is nothing changed, exact moves are exact, and the labels say what was done."""

import math
from dataclasses import fields

import pytest
import torch
from conftest import KnownDraws, normal, seeded

from cmlab.data import cifar10_examples
from cmlab.methods.augment import _SYM6, CIFAR10_AUGMENT, COLUMNS, Augment, recolour, warp
from cmlab.noise import SampleDraws

NAMES = [f.name for f in fields(Augment) if f.name != "p"]
EVERYTHING = Augment(1.0, **dict.fromkeys(NAMES, 1.0))
TENTH = 0.02  # what a tenth of a pixel is worth in the steepest `waves`: the filter moves slow waves by up to that, as EDM's does
GATE = torch.zeros(1)  # a uniform number that lets a change through


def pictures(n=4, c=3, h=8, w=8, seed=0):
    return torch.rand(n, c, h, w, generator=seeded(seed)) * 2 - 1


def waves(h, w, matrix=None):
    """A slow wave about the centre of an h x w picture, sampled exactly at ``matrix`` (3, 3) times the pixels' coordinates."""
    y, x = torch.meshgrid(torch.arange(h) - (h - 1) / 2, torch.arange(w) - (w - 1) / 2, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1).double()
    x, y, _ = (points @ (torch.eye(3).double() if matrix is None else matrix).T).unbind(-1)
    return torch.stack([(0.15 * x + 0.05 * y).cos(), (0.11 * y - 0.09 * x).sin(), (0.1 * x).sin() * (0.1 * y).cos()])[None]


def inside(x, border):
    return x[..., border:-border, border:-border]


# --- nothing done ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augment", [Augment(0.0, **dict.fromkeys(NAMES, 1.0)), Augment(1.0), CIFAR10_AUGMENT])
def test_pictures_to_which_nothing_is_done_keep_their_bits(augment):
    x0 = pictures(64)
    out, done = augment(x0, seeded())
    same = (done == 0).all(1)
    assert same.any()
    assert torch.equal(out[same], x0[same])
    assert augment is CIFAR10_AUGMENT or same.all()
    assert done.shape == (64, augment.dim)


@pytest.mark.parametrize("name", NAMES)
def test_every_change_is_made_as_often_as_told_and_labelled(name):
    x0 = pictures(800, h=6, w=6)
    augment = Augment(0.25, **{name: 2.0})
    out, done = augment(x0, seeded(1))
    changed = (out != x0).flatten(1).any(1)
    labelled = (done != 0).any(1)
    assert torch.equal(changed, labelled)
    of_these = {"xflip": 1 / 2, "yflip": 1 / 2, "lumaflip": 1 / 2, "rotate_int": 3 / 4, "translate_int": 0.55}.get(name, 1.0)
    assert changed.float().mean().item() == pytest.approx(0.5 * of_these, abs=0.06)  # 0.018 is one standard deviation
    assert done.shape[1] == augment.dim == COLUMNS[name]


def test_the_cifar_recipe_has_nine_labels_and_always_flips_half():
    _, done = CIFAR10_AUGMENT(pictures(2000, h=4, w=4), seeded())
    assert done.shape == (2000, 9)
    assert done.dtype == torch.float32
    assert done[:, 0].mean().item() == pytest.approx(0.5, abs=0.05)
    assert (done[:, 1:] != 0).any(1).float().mean().item() == pytest.approx(1 - 0.94 * 0.88**4, abs=0.05)
    assert EVERYTHING.dim == 19


def test_a_picture_is_changed_by_its_own_seed_alone():
    x0 = pictures(5)
    out, done = EVERYTHING(x0, SampleDraws([3, 4, 5, 6, 7]))
    alone, done_alone = EVERYTHING(x0[2:3], SampleDraws([5]))
    assert torch.allclose(out[2:3], alone, atol=1e-6)
    assert torch.equal(done[2:3], done_alone)
    again, _ = EVERYTHING(x0, SampleDraws([3, 4, 5, 6, 7]))
    assert torch.equal(out, again)


def test_nothing_is_drawn_from_the_global_generator_nor_written_into_the_pictures(untouched_rng):
    x0 = pictures()
    before = x0.clone()
    EVERYTHING(x0, seeded())
    assert torch.equal(x0, before)


# --- moves of whole pixels -------------------------------------------------------------------------------------------------


def test_flips_are_exact():
    x0 = pictures(1)
    for name, axis in (("xflip", 3), ("yflip", 2)):
        for u, expected, label in ((0.4, x0, 0.0), (0.6, x0.flip(axis), 1.0)):
            out, done = Augment(1.0, **{name: 1})(x0, KnownDraws(uniforms=[torch.tensor([u]), GATE]))
            assert torch.equal(out, expected)
            assert done.item() == label


@pytest.mark.parametrize(("turns", "label"), [(0, [0, 0]), (1, [1, 0]), (2, [1, 1]), (3, [0, 1])])
def test_quarter_turns_are_exact(turns, label):
    x0 = pictures(1)
    out, done = Augment(1.0, rotate_int=1)(x0, KnownDraws(uniforms=[torch.tensor([turns / 4 + 0.1]), GATE]))
    assert torch.equal(out, torch.rot90(x0, turns, (2, 3)))
    assert done.tolist() == [label]


def test_shifts_by_whole_pixels_are_exact_and_mirror_the_border():
    x0 = pictures(1, h=16, w=8)
    u = torch.tensor([[1.0, 0.75]])  # of -1..1: an eighth of the width to the right, half an eighth of the height up
    out, done = Augment(1.0, translate_int=1)(x0, KnownDraws(uniforms=[u, GATE]))
    assert torch.equal(out[..., :-1, 1:], x0[..., 1:, :-1])
    assert torch.equal(out[..., :-1, 0], x0[..., 1:, 1])
    assert torch.equal(out[..., -1, 1:], x0[..., -2, :-1])
    assert done.tolist() == [[1.0, 0.5]]  # up is positive, as in EDM's code


# --- geometry --------------------------------------------------------------------------------------------------------------


def test_the_filter_is_orthonormal():
    h = torch.tensor(_SYM6, dtype=torch.float64)
    for lag in range(6):
        assert (h[2 * lag :] * h[: 12 - 2 * lag]).sum().item() == pytest.approx(float(lag == 0), abs=1e-11)
    assert h.sum().item() == pytest.approx(2**0.5, rel=1e-11)


@pytest.mark.parametrize(("right", "down"), [(0, 0), (3, -2), (-8, 5)])
def test_resampling_without_a_turn_does_not_blur(right, down):
    # White noise is what a blur would show at once. The tiny stretch makes the identity take part in the resampling.
    x0 = normal(1, 3, 9, 12)
    back = torch.eye(3, dtype=torch.float64)[None].clone()
    back[0, 0, 2], back[0, 1, 2], back[0, 0, 0] = -right, -down, 1 + 1e-13
    i = [abs(k) if k < 9 else 16 - k for k in range(-down, 9 - down)]
    j = [abs(k) if k < 12 else 22 - k for k in range(-right, 12 - right)]
    assert torch.allclose(warp(x0, back), x0[..., i, :][..., j], atol=1e-9)


def geometry(name, *draws, h=24, w=24):
    """The result of one geometric change of the waves with known draws, and its labels."""
    uniforms = [d[0] for d in draws if d[1] == "u"]
    normals = [d[0] for d in draws if d[1] == "n"]
    return Augment(1.0, **{name: 1})(waves(h, w), KnownDraws(normals, uniforms))


def back(a, b, c, d, x=0.0, y=0.0):
    return torch.tensor([[a, b, x], [c, d, y], [0, 0, 1]], dtype=torch.float64)


def test_scaling_enlarges_about_the_centre():
    z = 1.5
    out, done = geometry("scale", (torch.tensor([[z]]), "n"), (GATE, "u"))
    s = 2 ** (-0.2 * z)
    assert torch.allclose(inside(out, 2), inside(waves(24, 24, back(s, 0, 0, s)), 2), atol=TENTH)
    assert done.tolist() == [[z]]


@pytest.mark.parametrize("u", [0.75, 0.1])
def test_turns_are_anticlockwise_as_the_quarter_turns_are(u):
    angle = (2 * u - 1) * math.pi
    out, done = geometry("rotate_frac", (torch.tensor([[u]]), "u"), (GATE, "u"))
    c, s = math.cos(angle), math.sin(angle)
    assert torch.allclose(inside(out, 6), inside(waves(24, 24, back(c, -s, s, c)), 6), atol=TENTH)
    if u == 0.75:
        assert torch.allclose(inside(out, 3), inside(torch.rot90(waves(24, 24), 1, (2, 3)), 3), atol=TENTH)
    assert done[0].tolist() == pytest.approx([c - 1, s], abs=1e-6)


@pytest.mark.parametrize(("turned", "axis"), [(0.4, math.pi / 3), (0.6, 0.0)])
def test_anisotropic_scaling_keeps_the_area_and_turns_its_axis_half_of_the_time(turned, axis):
    z, u = 1.25, (1 / 3 + 1) / 2
    out, done = geometry(
        "aniso", (torch.tensor([[z]]), "n"), (GATE, "u"), (torch.tensor([[u]]), "u"), (torch.tensor([turned]), "u")
    )
    s, turn = 2 ** (0.2 * z), back(math.cos(axis), math.sin(axis), -math.sin(axis), math.cos(axis))
    matrix = turn @ back(1 / s, 0, 0, s) @ turn.T  # stretched by s along (cos, -sin), as y points down
    assert torch.allclose(inside(out, 6), inside(waves(24, 24, matrix), 6), atol=TENTH)
    assert done[0].tolist() == pytest.approx([z * math.cos(axis), z * math.sin(axis)], abs=1e-6)
    assert torch.linalg.det(matrix).item() == pytest.approx(1)


def test_shifts_by_parts_of_a_pixel():
    out, done = geometry("translate_frac", (torch.tensor([[0.3, -0.7]]), "n"), (GATE, "u"), h=24, w=32)
    expected = waves(24, 32, back(1, 0, 0, 1, -0.3 * 4, 0.7 * 3))
    assert torch.allclose(inside(out, 4), inside(expected, 4), atol=TENTH)
    assert torch.allclose(done, torch.tensor([[0.3, -0.7]]))


def test_geometry_is_composed_in_edms_order():
    # Scale first, then turn, then stretch, then shift: the last is not scaled.
    z, n = torch.tensor([[2.0]]), torch.tensor([[0.5, 0.0]])
    out, done = Augment(1.0, scale=1, translate_frac=1)(waves(24, 24), KnownDraws([z, n], [GATE, GATE]))
    s = 2**-0.4
    assert torch.allclose(inside(out, 4), inside(waves(24, 24, back(s, 0, 0, s, -1.5 * s)), 4), atol=TENTH)
    assert done.tolist() == [[2.0, 0.5, 0.0]]


def test_a_large_shift_sees_the_mirror_picture_not_black():
    out, _ = Augment(1.0, translate_frac=1)(torch.ones(1, 3, 8, 8), KnownDraws([torch.tensor([[7.0, -7.3]])], [GATE]))
    assert torch.allclose(out, torch.ones(1, 3, 8, 8), atol=1e-5)


def test_pictures_turned_by_half_stay_in_place():
    x0 = cifar10_examples().x0.double()
    out = warp(x0, back(-1, 0, 0, -1)[None].repeat(len(x0), 1, 1))
    # EDM's code has 3.1180 grey levels (rms); filters centred where they pass the slowest waves have 5.2369.
    assert float((out - x0.flip(2, 3)).square().mean().sqrt() * 127.5) == pytest.approx(3.1180, abs=1e-4)


# --- colour ----------------------------------------------------------------------------------------------------------------


def colour(name, draw, x0=None):
    normals, uniforms = ([draw], [GATE]) if name in ("brightness", "contrast", "saturation") else ([], [draw, GATE])
    x0 = pictures(1) if x0 is None else x0
    return x0, *Augment(1.0, **{name: 1})(x0, KnownDraws(normals, uniforms))


def test_brightness_adds_and_contrast_multiplies():
    x0, out, done = colour("brightness", torch.tensor([[1.5]]))
    assert torch.allclose(out, x0 + 0.3, atol=1e-6)
    assert done.item() == 1.5
    x0, out, done = colour("contrast", torch.tensor([[-2.0]]))
    assert torch.allclose(out, x0 / 2, atol=1e-6)
    assert done.item() == -2


def test_luma_flip_mirrors_the_grey_part_and_keeps_the_colour():
    x0, out, done = colour("lumaflip", torch.tensor([0.9]))
    assert torch.allclose(out.mean(1), -x0.mean(1), atol=1e-6)
    assert torch.allclose(out - out.mean(1, keepdim=True), x0 - x0.mean(1, keepdim=True), atol=1e-6)
    assert done.item() == 1
    grey, out, _ = colour("lumaflip", torch.tensor([0.9]), pictures(1, c=1))
    assert torch.allclose(out, -grey, atol=1e-6)


def test_hue_turns_about_the_grey_axis():
    x0, out, done = colour("hue", torch.tensor([[(2 / 3 + 1) / 2]]))  # a third of a turn: r -> g -> b -> r
    assert torch.allclose(out, x0.roll(1, 1), atol=1e-6)
    assert done[0].tolist() == pytest.approx([-1.5, math.sqrt(0.75)], abs=1e-6)
    _, out, _ = colour("hue", torch.tensor([[0.7]]), x0)
    assert torch.allclose(out.mean(1), x0.mean(1), atol=1e-6)
    assert torch.allclose(out.square().sum(1), x0.square().sum(1), atol=1e-5)


def test_saturation_stretches_what_is_not_grey():
    x0, out, done = colour("saturation", torch.tensor([[1.0]]))
    mean = x0.mean(1, keepdim=True)
    assert torch.allclose(out, mean + 2 * (x0 - mean), atol=1e-6)
    assert done.item() == 1


def test_colours_are_changed_in_edms_order():
    # Brightness before contrast: the shift is stretched too.
    draws = KnownDraws([torch.tensor([[1.0]]), torch.tensor([[2.0]])], [GATE, GATE])
    x0 = pictures(1)
    out, _ = Augment(1.0, brightness=1, contrast=1)(x0, draws)
    assert torch.allclose(out, (x0 + 0.2) * 2, atol=1e-6)


def test_untouched_rows_of_a_batch_are_left_alone():
    x0 = normal(3, 3, 8, 8)
    m = torch.eye(4, dtype=torch.float64).repeat(3, 1, 1)
    m[1, 0, 3] = 1.0
    assert torch.equal(recolour(x0, m)[[0, 2]], x0[[0, 2]])
    turned = torch.eye(3, dtype=torch.float64).repeat(3, 1, 1)
    turned[1, 0, 0] = 0.9
    assert torch.equal(warp(x0, turned)[[0, 2]], x0[[0, 2]])
    assert not torch.equal(warp(x0, turned)[1], x0[1])


# --- errors ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"p": 1.5}, None, "p is a probability, got 1.5"),
        ({"p": math.nan}, None, "p is a probability"),
        ({"scale": -1.0}, None, "weight of scale must be at least 0"),
        ({"hue": math.nan}, None, "weight of hue"),
        ({"xflip": 1.0}, (2, 2), r"RGB or grey pictures \(B, C, H, W\), got \(2, 2\)"),
        ({"xflip": 1.0}, (2, 4, 8, 8), "RGB or grey"),
        ({"rotate_int": 1.0}, (2, 3, 8, 6), r"square pictures, got \(8, 6\)"),
        ({"saturation": 1.0}, (2, 1, 8, 8), "neither hue nor saturation"),
    ],
)
def test_what_cannot_be_done_is_an_error(options, shape, message):
    with pytest.raises(ValueError, match=message):
        augment = Augment(**options)
        augment(torch.zeros(shape or (1, 3, 8, 8)), seeded())


def test_nothing_enabled_gives_labels_without_columns():
    out, done = Augment()(pictures(2), seeded())
    assert torch.equal(out, pictures(2))
    assert done.shape == (2, 0)


def test_odd_pictures_and_double_precision():
    x0 = normal(2, 3, 7, 5)
    out, _ = Augment(1.0, scale=1, rotate_frac=1, aniso=1, translate_frac=1)(x0, seeded())
    assert out.dtype == torch.float64
    assert out.shape == x0.shape
    assert bool(out.isfinite().all())
