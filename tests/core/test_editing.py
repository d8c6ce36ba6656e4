"""Zero-shot editing: the invariants of the projection for any image size, and slerp."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from conftest import normal, seeded, tiny
from hypothesis import given
from hypothesis import strategies as st

from cmlab.data import LUMA, luma
from cmlab.editing import (
    MASKS,
    STROKE_SIGMAS,
    Edit,
    apply_edit,
    colorize,
    denoise,
    grid_sigmas,
    inpaint,
    luma_operator,
    orthogonal_basis,
    patch_operator,
    preset_mask,
    run_edit,
    slerp,
    stroke,
    super_resolve,
)
from cmlab.noise import SampleDraws
from cmlab.oracle import Gaussian
from cmlab.samplers import multistep

side = st.integers(1, 9)
EXACT = 1e-12  # float64 rounding through two orthogonal matrices


@st.composite
def edits(draw) -> Edit:
    """Any inpainting, colouring or enlarging of random images of any size, with any mask that marks something."""
    kind = draw(st.sampled_from(["inpaint", "colorize", "super_resolve"]))
    patch = draw(st.integers(2, 4))
    channels = 3 if kind == "colorize" else draw(st.integers(1, 4))
    scale = patch if kind == "super_resolve" else 1
    y = normal(draw(st.integers(1, 3)), channels, scale * draw(side), scale * draw(side), seed=draw(st.integers(0, 99)))
    if kind == "super_resolve":
        return super_resolve(y, patch, steps=2)
    if kind == "colorize":
        return colorize(y, steps=2)
    free = (torch.rand(1, 1, *y.shape[2:], generator=seeded(draw(st.integers(0, 99)))) < draw(st.floats(0, 1))).double()
    free[0, 0, 0, 0] = 1
    return inpaint(y, free, steps=2)


def coordinates(edit: Edit, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A(x) and the mask, equally shaped."""
    a = edit.operator.forward(x)
    return a, edit.free.to(a).expand_as(a)


@given(edits())
def test_operator_is_invertible(edit):
    x = normal(*edit.y.shape, seed=100)
    assert float((edit.operator.inverse(edit.operator.forward(x)) - x).abs().max()) < EXACT


@given(edits())
def test_operator_keeps_lengths(edit):
    assert edit.operator.forward(edit.y).norm().item() == pytest.approx(edit.y.norm().item(), rel=EXACT)


@given(edits())
def test_kept_coordinates_become_those_of_the_reference(edit):
    projected, free = coordinates(edit, edit.project(torch.ones_like(edit.y)))
    reference, _ = coordinates(edit, edit.y)
    assert float(((projected - reference) * (1 - free)).abs().max()) < EXACT


@given(edits())
def test_free_coordinates_are_untouched(edit):
    x = normal(*edit.y.shape, seed=100)
    projected, free = coordinates(edit, edit.project(x))
    given_, _ = coordinates(edit, x)
    assert float(((projected - given_) * free).abs().max()) < EXACT


@given(edits())
def test_projection_is_idempotent(edit):
    once = edit.project(normal(*edit.y.shape, seed=100))
    assert float((edit.project(once) - once).abs().max()) < EXACT


@given(edits())
def test_reference_is_a_fixed_point(edit):
    assert float((edit.project(edit.y) - edit.y).abs().max()) < EXACT


@given(edits())
def test_result_keeps_what_was_to_be_kept(edit):
    oracle = Gaussian(torch.zeros(edit.y.shape[1:]), 0.5)
    result = apply_edit(oracle.consistency, edit, list(range(len(edit.y))))
    reached, free = coordinates(edit, result)
    reference, _ = coordinates(edit, edit.y)
    assert float(((reached - reference) * (1 - free)).abs().max()) < 1e-5
    assert bool((result - edit.y).abs().max() > 1e-3) == bool(free.any())


@given(n=st.integers(1, 20), seed=st.integers(0, 99))
def test_basis_is_orthogonal_and_starts_along_the_given_vector(n, seed):
    first = normal(n, seed=seed)
    q = orthogonal_basis(first)
    assert float((q.T @ q - torch.eye(n)).abs().max()) < 1e-14 * max(n, 4)
    assert float((q[:, 0] - first / first.norm()).abs().max()) < 1e-14


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_basis_along_an_axis(axis):
    q = orthogonal_basis(torch.eye(3)[axis])
    assert torch.allclose(q.T @ q, torch.eye(3, dtype=torch.float64), atol=1e-15)
    assert torch.equal(q[:, 0].abs().round(), torch.eye(3, dtype=torch.float64)[axis])


# --- the tasks -----------------------------------------------------------------------------------------------------------


def test_luma_basis_is_that_of_the_methods_sheet():
    q = luma_operator().forward(torch.eye(3, dtype=torch.float64)[:, :, None, None]).squeeze()
    expected = torch.tensor([[0.4471, -0.8204, 0.3564], [0.8781, 0.4785, 0.0], [0.1705, -0.3129, -0.9343]], dtype=torch.float64)
    assert torch.allclose(q[:, 0], expected[:, 0], atol=5e-5)  # four printed digits
    # The other two columns span the chroma plane, in whatever frame QR gives: compare the projector.
    assert torch.allclose(q[:, 1:] @ q[:, 1:].T, expected[:, 1:] @ expected[:, 1:].T, atol=2e-4)


def test_colourisation_keeps_the_luma_of_grey_and_colour_alike():
    original = normal(2, 3, 4, 4)
    grey = (original * torch.tensor(LUMA, dtype=torch.float64)[:, None, None]).sum(1, keepdim=True).expand(-1, 3, -1, -1)
    x = normal(2, 3, 4, 4, seed=7)
    # The three weights sum to 0.9999, so a grey picture of the luma differs by 1e-4 of it.
    assert torch.allclose(colorize(grey).project(x), colorize(original).project(x), atol=1e-3)


@pytest.mark.parametrize("patch", [2, 3, 4])
def test_super_resolution_keeps_the_mean_of_every_patch(patch):
    y = normal(2, 3, 12, 12)
    pool = torch.nn.functional.avg_pool2d
    projected = super_resolve(y, patch).project(normal(2, 3, 12, 12, seed=7))
    assert torch.allclose(pool(projected, patch), pool(y, patch), atol=EXACT)
    small = pool(y, patch)
    enlarged = small.repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    assert torch.allclose(super_resolve(enlarged, patch).project(projected), projected, atol=EXACT)
    assert torch.allclose(super_resolve(y, patch).kept, enlarged, atol=EXACT)


def test_super_resolution_component_zero_is_patch_times_the_mean():
    y = normal(1, 2, 6, 9)
    a = patch_operator(3, (2, 6, 9)).forward(y)
    assert a.shape == (1, 2, 9, 2, 3)
    assert torch.allclose(a[:, :, 0], 3 * torch.nn.functional.avg_pool2d(y, 3), atol=EXACT)


def test_patch_one_leaves_nothing_to_generate():
    y = normal(1, 2, 3, 3)
    assert torch.allclose(super_resolve(y, 1).project(normal(1, 2, 3, 3, seed=1)), y, atol=EXACT)


def test_inpainting_in_the_plane_keeps_one_coordinate_and_draws_the_other():
    # The coordinates of an isotropic Gaussian are independent, so replacement is exact here: the other one is N(0, 0.5^2).
    y = torch.tensor([[0.7, 0.0]]).double().expand(2000, 2)
    result = apply_edit(Gaussian(torch.zeros(2), 0.5).consistency, inpaint(y, torch.tensor([0.0, 1.0]), steps=4), seeded(1))
    assert torch.equal(result[:, 0], y[:, 0])
    assert result[:, 1].mean().item() == pytest.approx(0, abs=4 * 0.5 / math.sqrt(2000))  # four standard errors
    assert result[:, 1].std().item() == pytest.approx(0.5, rel=4 / math.sqrt(2 * 2000))


def test_all_free_from_sigma_max_is_multistep_sampling_around_the_reference():
    model, y, steps = tiny(), torch.zeros(3, 2).double(), 4
    edited = apply_edit(model, inpaint(y, torch.ones(2), steps), seeded(4))
    g = seeded(4)
    x = 80 * torch.randn(3, 2, generator=g).double()
    sampled = [s.x for s in multistep(model, x, torch.tensor(grid_sigmas(steps), dtype=torch.float64), noise=g)][-1]
    assert torch.equal(edited, sampled)


def test_denoising_is_one_evaluation_of_the_given_picture():
    model, y = tiny("unet"), normal(2, 3, 8, 8)
    steps = list(run_edit(model, denoise(y, 0.3), [0, 1]))
    assert len(steps) == 1
    assert torch.equal(steps[0].x, model(y, torch.tensor(0.3, dtype=torch.float64)))


def test_denoising_at_sigma_min_changes_nothing():
    y = normal(2, 3, 8, 8)
    assert torch.equal(apply_edit(tiny("unet"), denoise(y, 0.002), [0, 1]), y)


def test_strokes_start_from_the_painting():
    seen = []

    def spy(x, sigma, label=None):
        seen.append(x)
        return x

    y = normal(2, 3, 8, 8)
    list(run_edit(spy, stroke(y, 1.5), seeded(2)))
    assert len(seen) == 2
    assert torch.allclose(seen[0], y + 1.5 * torch.randn(y.shape, generator=seeded(2)).double(), atol=EXACT)
    assert stroke(y, 1.5).sigmas == pytest.approx((1.5, 1.5 * 2.24 / 5.38))


@pytest.mark.parametrize(("side", "level"), [(256, 5.38), (512, 5.38), (64, 2.69), (16, 1.345)])
def test_small_pictures_get_less_noise_than_the_papers_256(side, level):
    sigmas = stroke(torch.zeros(1, 3, side, side)).sigmas
    assert sigmas[0] == pytest.approx(level)
    assert sigmas[1] / sigmas[0] == pytest.approx(STROKE_SIGMAS[1] / STROKE_SIGMAS[0])


def test_colorize_shows_the_grey_picture_and_keeps_the_projection():
    y = normal(2, 3, 8, 8)
    edit = colorize(y)
    assert torch.allclose(edit.degraded, luma(y).expand_as(y))
    assert not torch.allclose(edit.kept, edit.degraded, atol=0.1)


@pytest.mark.parametrize("masks", [1, 2])
def test_several_draws_are_averaged_and_keep_what_is_kept(masks):
    model, y = tiny("unet"), normal(2, 3, 8, 8)
    free = torch.cat([preset_mask("left", (8, 8)), preset_mask("top", (8, 8))])[:masks]
    one = inpaint(y, free, steps=3)
    many = list(run_edit(model, replace(one, draws=3), [5, 6]))
    assert [step.nfe for step in many] == [1, 2, 3] and many[-1].x.shape == y.shape
    assert torch.allclose(many[-1].x * (1 - free), y * (1 - free), atol=1e-15)

    class OneOfThree(SampleDraws):
        """What one of three draws of each picture sees."""

        number = 0

        def normal(self, shape):
            return [SampleDraws.normal(self, shape) for _ in range(3)][self.number]

    def draw(number: int) -> torch.Tensor:
        draws = OneOfThree([5, 6])
        draws.number = number
        return apply_edit(model, one, draws)

    assert torch.allclose(many[-1].x, torch.stack([draw(k) for k in range(3)]).mean(0), atol=1e-6)
    assert (many[-1].x - draw(0)).abs().max() > 0.01
    with pytest.raises(ValueError, match="draws must be at least 1"):
        replace(one, draws=0)


def test_edits_start_from_what_is_kept():
    seen = []

    def spy(x, sigma, label=None):
        seen.append(x)
        return x

    y, free = normal(1, 1, 4, 4), preset_mask("left", (4, 4))
    next(run_edit(spy, inpaint(y, free), seeded(2)))
    noise = 80 * torch.randn(y.shape, generator=seeded(2)).double()
    assert torch.allclose(seen[0] - noise, y * (1 - free), atol=1e-11)


@pytest.mark.parametrize("make", [lambda y: inpaint(y, preset_mask("left", (8, 8))), colorize, super_resolve, stroke, denoise])
def test_result_is_a_function_of_the_picture_s_own_seed(make):
    model, y = tiny("unet"), normal(3, 3, 8, 8)
    whole = apply_edit(model, make(y), [5, 6, 7])
    alone = apply_edit(model, make(y[1:2]), [6])
    # Only convolution algorithms differ between batch sizes (float32).
    assert float((whole[1:2] - alone).abs().max()) < 1e-5


def test_labels_reach_the_model():
    model, y = tiny(classes=2), torch.zeros(1, 2).double()
    results = [apply_edit(model, inpaint(y, torch.tensor([0.0, 1.0]), 2), [0], label=torch.tensor([k])) for k in (0, 1)]
    assert not torch.equal(results[0], results[1])


@pytest.mark.parametrize("steps", [2, 17, 40])
def test_grid_falls_evenly_in_the_logarithm(steps):
    sigmas = torch.tensor(grid_sigmas(steps), dtype=torch.float64)
    assert (len(sigmas), float(sigmas[0])) == (steps, 80.0) and float(sigmas[-1]) == pytest.approx(0.05)
    gaps = sigmas.log().diff()
    torch.testing.assert_close(gaps, gaps.mean().expand_as(gaps))


def test_grid_of_one_step_is_sigma_max():
    assert grid_sigmas(1) == (80.0,)
    with pytest.raises(ValueError, match="at least 1 step"):
        grid_sigmas(0)


# --- masks and errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "share"), [("centre", 0.25), ("left", 0.5), ("right", 0.5), ("top", 0.5), ("bottom", 0.5), ("random", 0.5)]
)
@pytest.mark.parametrize("size", [(8, 8), (4, 16)])
def test_preset_masks_mark_their_share(name, share, size):
    mask = preset_mask(name, (3, *size))
    assert mask.shape == (1, 1, *size)
    assert mask.mean().item() == share
    assert set(mask.unique().tolist()) == {0.0, 1.0}


def test_preset_masks_mark_their_side():
    middle = torch.zeros(8, 8)
    middle[2:6, 2:6] = 1
    assert torch.equal(preset_mask("centre", (8, 8))[0, 0], middle)
    assert torch.equal(preset_mask("left", (8, 8)), 1 - preset_mask("right", (8, 8)))
    assert torch.equal(preset_mask("top", (8, 8)), 1 - preset_mask("bottom", (8, 8)))
    assert bool(preset_mask("left", (8, 8))[..., :4].all())
    assert bool(preset_mask("top", (8, 8))[..., :4, :].all())


def test_random_mask_follows_its_seed():
    assert torch.equal(preset_mask("random", (8, 8), 1), preset_mask("random", (8, 8), 1))
    assert not torch.equal(preset_mask("random", (8, 8), 1), preset_mask("random", (8, 8), 2))


@pytest.mark.parametrize("name", MASKS)
@given(h=st.integers(2, 9), w=st.integers(2, 9))
def test_preset_masks_of_any_size_can_be_inpainted(name, h, w):
    y = normal(1, 3, h, w)
    assert inpaint(y, preset_mask(name, y.shape)).project(y).shape == y.shape


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: preset_mask("middle", (8, 8)), "centre, left, right"),
        (lambda: inpaint(torch.zeros(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)), "mask is empty"),
        (lambda: inpaint(torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 4, 4)), "does not fit"),
        (lambda: inpaint(torch.zeros(1, 3, 8, 8), torch.ones(5, 1, 8, 8)), "does not fit"),
        (lambda: inpaint(torch.zeros(1, 3, 8, 8), torch.full((1, 1, 8, 8), 0.5)), "threshold"),
        (lambda: colorize(torch.zeros(1, 1, 8, 8)), r"RGB images \(B, 3, H, W\)"),
        (lambda: colorize(torch.zeros(3, 8, 8)), r"RGB images \(B, 3, H, W\)"),
        (lambda: super_resolve(torch.zeros(1, 3, 8, 12), 3), r"3 does not divide the image size 8x12: choose one of \[2, 4\]"),
        (lambda: super_resolve(torch.zeros(1, 3, 8, 8), 0), "does not divide"),
        (lambda: super_resolve(torch.zeros(1, 2), 2), r"\(B, C, H, W\)"),
        (lambda: stroke(torch.zeros(1, 2), 0.002), "noise level must lie in"),
        (lambda: stroke(torch.zeros(1, 2), 81.0), "noise level must lie in"),
        (lambda: inpaint(torch.zeros(1, 3, 8, 8), torch.ones(1, 1, 8, 8), steps=0), "at least 1 step"),
        (lambda: denoise(torch.zeros(1, 2), 0.0), r"\[0.002, 80.0\]"),
        (lambda: denoise(torch.zeros(1, 2), 81.0), r"\[0.002, 80.0\]"),
    ],
)
def test_bad_requests_are_errors_that_name_the_way_out(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- slerp ---------------------------------------------------------------------------------------------------------------

vectors = st.tuples(st.integers(0, 999), st.integers(1000, 1999), st.integers(2, 12))


def pair(seeds) -> tuple[torch.Tensor, torch.Tensor]:
    a, b, dim = seeds
    return normal(3, dim, seed=a), 2 * normal(3, dim, seed=b)


@given(vectors)
def test_slerp_ends_at_its_ends(seeds):
    z1, z2 = pair(seeds)
    assert torch.allclose(slerp(z1, z2, 0.0), z1, atol=1e-12)
    assert torch.allclose(slerp(z1, z2, 1.0), z2, atol=1e-12)


@given(vectors, st.floats(0, 1))
def test_slerp_changes_the_length_linearly(seeds, a):
    z1, z2 = pair(seeds)
    expected = (1 - a) * z1.norm(dim=1) + a * z2.norm(dim=1)
    assert torch.allclose(slerp(z1, z2, a).norm(dim=1), expected, rtol=1e-12)


@given(vectors)
def test_slerp_turns_evenly(seeds):
    z1, z2 = pair(seeds)
    z1, z2 = z1 / z1.norm(dim=1, keepdim=True), z2 / z2.norm(dim=1, keepdim=True)
    path = [slerp(z1, z2, k / 8) for k in range(9)]
    chords = torch.stack([(q - p).norm(dim=1) for p, q in pairwise(path)])
    assert torch.allclose(chords, chords[:1].expand_as(chords), atol=1e-12)


def test_slerp_is_the_formula_of_the_paper():
    z1, z2 = pair((1, 1001, 5))
    z1, z2 = z1 / z1.norm(dim=1, keepdim=True), z2 / z2.norm(dim=1, keepdim=True)
    psi = torch.arccos((z1 * z2).sum(1, keepdim=True))
    expected = torch.sin(0.7 * psi) / torch.sin(psi) * z1 + torch.sin(0.3 * psi) / torch.sin(psi) * z2
    assert torch.allclose(slerp(z1, z2, 0.3), expected, atol=1e-12)


def test_slerp_takes_one_share_per_sample_and_whole_images():
    z1, z2 = normal(3, 2, 4, 4, seed=1), normal(3, 2, 4, 4, seed=2)
    a = torch.tensor([0.0, 0.3, 1.0])
    together = slerp(z1, z2, a)
    alone = torch.cat([slerp(z1[k : k + 1], z2[k : k + 1], float(a[k])) for k in range(3)])
    assert torch.allclose(together, alone, atol=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e-300, 1e-15, 1e-9, 1e-6])
def test_slerp_of_nearly_parallel_vectors(offset):
    z1 = torch.tensor([[1.0, 2.0, 2.0]], dtype=torch.float64)
    z2 = z1 + torch.tensor([[0.0, offset, -offset]], dtype=torch.float64)
    # Between neighbours the arc is the chord, to the square of their distance.
    assert torch.allclose(slerp(z1, z2, 0.25), z1 + 0.25 * (z2 - z1), atol=1e-14 + offset**2)


@pytest.mark.parametrize("offset", [0.0, 1e-9])
def test_slerp_of_opposite_vectors_keeps_length_and_speed(offset):
    z1 = torch.tensor([[1.0, 2.0, 2.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
    z2 = -z1 + torch.tensor([offset, 0.0, 0.0], dtype=torch.float64)
    path = [slerp(z1, z2, k / 4) for k in range(5)]
    # The arc of a half turn around radius 3, in four chords.
    chord = 6 * math.sin(math.pi / 8)
    for p, q in pairwise(path):
        assert torch.allclose((q - p).norm(dim=1), torch.full((2,), chord, dtype=torch.float64), atol=1e-8)
    assert torch.allclose(path[-1], z2, atol=1e-8)


def test_slerp_keeps_the_dtype():
    assert slerp(torch.ones(1, 2), torch.tensor([[1.0, -1.0]]), 0.5).dtype == torch.float32


@pytest.mark.parametrize("which", [0, 1])
def test_slerp_of_a_zero_vector_is_an_error(which):
    z = [torch.ones(2, 3), torch.ones(2, 3)]
    z[which] = torch.stack([torch.ones(3), torch.zeros(3)])
    with pytest.raises(ValueError, match="no direction"):
        slerp(z[0], z[1], 0.5)


def test_slerp_of_unequal_shapes_is_an_error():
    with pytest.raises(ValueError, match="equal shapes"):
        slerp(torch.ones(2, 3), torch.ones(1, 3), 0.5)


def test_fill_is_shown_and_changes_nothing_else():
    y, free = normal(2, 3, 4, 4), preset_mask("left", (4, 4)).double()
    grey, black = inpaint(y, free, 3), inpaint(y, free, 3, fill=-1.0)
    assert torch.equal(black.degraded, torch.where(free.bool(), -1.0, y))
    assert torch.equal(grey.degraded, grey.kept)
    model = tiny("unet", channels=8, attention=())
    y8 = normal(2, 3, 8, 8)
    results = [apply_edit(model, inpaint(y8, preset_mask("left", (8, 8)), 3, fill), [0, 1]) for fill in (0.0, -1.0)]
    assert torch.equal(*results)
