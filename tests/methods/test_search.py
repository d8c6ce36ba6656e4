"""The search for multistep time points: exact on every curve with one valley, honest on noisy ones, paired between candidates."""

import math
import random

import pytest
import torch
from conftest import tiny

from cmlab.data import load_data
from cmlab.denoiser import CONSISTENCY, EDM, Denoiser, Precond
from cmlab.evaluation import sliced_wasserstein
from cmlab.evaluation.levels import data_floor, wasserstein_score
from cmlab.methods.search import candidates, full_sweep, greedy_search, is_unimodal, sample_score, search_grid, ternary_search
from cmlab.networks import MLPConfig, build_network
from cmlab.noise import karras_sigmas, seeds_from
from cmlab.samplers import sample

# --- one point -----------------------------------------------------------------------------------------------------------


def curve(rng: random.Random, gap: int, best: int, flat: float = 0.0) -> list[float]:
    """Values on 0..gap that fall to ``best`` and rise after it; a share ``flat`` of the steps are level."""

    def step() -> float:
        return 0.0 if rng.random() < flat else rng.expovariate(1.0) * 10 ** rng.uniform(-6, 3)

    values = [0.0] * (gap + 1)
    for i in range(best - 1, -1, -1):
        values[i] = values[i + 1] + step()
    for i in range(best + 1, gap + 1):
        values[i] = values[i - 1] + step()
    return values


class Counting:
    def __init__(self, values: list[float]):
        self.values, self.asked = values, []

    def __call__(self, i: int) -> float:
        self.asked.append(i)
        return self.values[i]


@pytest.mark.parametrize("gap", range(61))
def test_finds_the_optimum_of_strictly_unimodal_curves_wherever_it_lies(gap):
    rng = random.Random(gap)
    for best in range(gap + 1):  # the ends too; 1,891 curves in all
        score = Counting(curve(rng, gap, best))
        assert ternary_search(score, 0, gap) == best
        assert len(score.asked) == len(set(score.asked)), "a candidate was scored twice"
        # Two scores take a third off: 2 log_1.5(gap) and the last few, where no two scores are equal.
        assert len(score.asked) <= 2 * math.log(max(gap, 1), 1.5) + 3


@pytest.mark.parametrize("flat", [0.3, 0.8, 1.0])
def test_plateaus_on_the_slopes_or_in_the_valley_hide_nothing(flat):
    rng = random.Random(1)
    for gap in range(41):
        for best in range(gap + 1):
            values = curve(rng, gap, best, flat)
            found = ternary_search(lambda i: values[i], 0, gap)  # noqa: B023
            assert values[found] == min(values)


def test_symmetric_valleys_cost_no_sweep():
    for best in range(100, 200):
        score = Counting([abs(i - best) for i in range(300)])
        assert ternary_search(score, 0, 299) == best
        assert len(score.asked) <= 31


def test_range_may_start_anywhere():
    assert ternary_search(lambda i: (i - 13) ** 2, 10, 20) == 13
    assert ternary_search(lambda i: -i, 5, 5) == 5


def test_within_the_noise_when_scores_are_noisy():
    """With noise of at most e and tolerance 2 e the found value is within 2 e of the best, on every curve."""
    rng = random.Random(2)
    cheaper = 0
    for trial in range(300):
        gap, noise = rng.randrange(61), 0.5
        best = rng.randrange(gap + 1)
        truth = [0.02 * (i - best) ** 2 for i in range(gap + 1)]
        seen = Counting([t + rng.uniform(-noise, noise) for t in truth])
        found = ternary_search(seen, 0, gap, tolerance=2 * noise)
        assert truth[found] <= 2 * noise, trial
        cheaper += len(seen.asked) < gap + 1
    assert cheaper > 150  # most searches still leave points out


def test_without_tolerance_noise_leads_astray():
    """The reason for the option: one unlucky comparison throws the optimum away."""
    values = [10.0, 9.0, 8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    values[3], values[6] = 4.2, 4.3  # true 7 and 4, read with an error of up to 2.8
    assert ternary_search(lambda i: values[i], 0, 9) < 6
    assert ternary_search(lambda i: values[i], 0, 9, tolerance=1.0) == 9


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_an_error(bad):
    with pytest.raises(ValueError, match="finite"):
        ternary_search(lambda i: bad, 0, 9)


def test_ranges_and_tolerances_are_checked():
    with pytest.raises(ValueError, match="nothing to search"):
        ternary_search(float, 3, 2)
    for tolerance in (-1.0, math.nan):
        with pytest.raises(ValueError, match="tolerance"):
            ternary_search(float, 0, 2, tolerance=tolerance)


# --- several points ------------------------------------------------------------------------------------------------------

GRID = karras_sigmas(40)


def distance_to(*levels: float):
    """A score with one valley for every added point: squared distance in ln sigma, missing points counted as 9."""

    def score(sigmas):
        pairs = zip(sigmas[1:], levels, strict=False)
        return sum((math.log(a) - math.log(b)) ** 2 for a, b in pairs) + 9 * max(0, len(levels) + 1 - len(sigmas))

    return score


def test_greedy_search_adds_points_one_after_the_other():
    levels = [float(GRID[i]) for i in (9, 22, 30)]
    found = greedy_search(distance_to(*levels), GRID, 3)
    assert found.sigmas == (80.0, *levels)
    assert [e.sigmas for e in found.best] == [found.sigmas[: k + 1] for k in range(4)]
    assert found.score == found.best[-1].score == pytest.approx(0)
    assert [round(e.score) for e in found.best] == [27, 18, 9, 0]
    asked = [e.sigmas for e in found.history]
    assert found.evaluations == len(asked) == len(set(asked)) < 45  # three full sweeps would take 38 + 30 + 17
    assert all(list(s) == sorted(s, reverse=True) and s[-1] > float(GRID[-1]) for s in asked)


@pytest.mark.parametrize("size", range(2, 12))
def test_every_gap_down_to_none(size):
    """The grid's interior shrinks to nothing: the best of what is there, then a clear error."""
    grid = karras_sigmas(size)
    if size == 2:
        with pytest.raises(ValueError, match="no level of the grid is left"):
            greedy_search(distance_to(1.0), grid, 1)
        return
    for target in range(1, size - 1):
        assert greedy_search(distance_to(float(grid[target])), grid, 1).sigmas[1] == float(grid[target])


def test_no_room_for_the_last_point_is_an_error():
    with pytest.raises(ValueError, match=r"point 2 of 2: search fewer points"):
        greedy_search(distance_to(1e-9, 1e-9), GRID, 2)


def test_search_continues_from_given_levels():
    levels = [float(GRID[i]) for i in (9, 22)]
    whole = greedy_search(distance_to(*levels), GRID, 2)
    assert greedy_search(distance_to(*levels), GRID, 1, start=whole.sigmas[:2]).sigmas == whole.sigmas


def test_repeats_average_a_score_that_draws_anew():
    rng = random.Random(3)
    truth = distance_to(float(GRID[17]))
    calls = []

    def noisy(sigmas):
        calls.append(sigmas)
        return truth(sigmas) + rng.gauss(0, 0.3)

    found = greedy_search(noisy, GRID, 1, repeats=16, tolerance=6 * 0.3 / 4)  # 6 standard errors of a mean of 16
    assert truth(found.sigmas) <= 6 * 0.3 / 4
    assert len(calls) == 16 * found.evaluations


@pytest.mark.parametrize(
    "options, message",
    [
        ({"points": 0}, "at least 1 point"),
        ({"repeats": 0}, "repeats must be"),
        ({"tolerance": -1.0}, "tolerance"),
        ({"start": ()}, "at least one level"),
        ({"start": (1.0, 2.0)}, "decreasing order"),
        ({"grid": [1.0]}, "decreasing noise levels"),
        ({"grid": [0.1, 1.0, 80.0]}, "decreasing noise levels"),
    ],
)
def test_wrong_searches_say_so(options, message):
    with pytest.raises(ValueError, match=message):
        greedy_search(distance_to(1.0), **({"grid": GRID, "points": 1} | options))


def test_candidates_lie_below_the_last_level_and_above_the_grids():
    assert candidates([80.0, 5.0, 1.0, 0.1], [80.0]) == (5.0, 1.0)
    assert candidates([80.0, 5.0, 1.0, 0.1], [80.0, 2.0]) == (1.0,)  # the fixed level need not be on the grid
    assert candidates([80.0, 0.1], [80.0]) == ()


def test_sweep_shows_whether_there_is_one_valley():
    sweep = full_sweep(distance_to(1.0), GRID, [80.0])
    assert [e.sigmas for e in sweep] == [(80.0, s) for s in candidates(GRID, [80.0])]
    scores = [e.score for e in sweep]
    assert is_unimodal(scores)
    assert not is_unimodal([*scores[:20], -1.0, *scores[20:], -2.0])
    assert is_unimodal([5, 4, 4.1, 3, 2.9, 6, 5.95, 7], 0.1 + 1e-9)
    assert not is_unimodal([5, 4, 4.1, 3, 2.9, 6, 5.95, 7], 0.05)
    assert not is_unimodal([2, 0, 1, 0.95, 0.9, 0.85, 0.8, 3], 0.06)  # small steps that add up
    assert is_unimodal([1.0]) and is_unimodal([2, 1]) and is_unimodal([1, 2])


# --- scores of models ----------------------------------------------------------------------------------------------------


def test_candidates_share_their_seeds_and_samples_are_those_of_sample(untouched_rng):
    model = tiny("mlp")
    got = []
    score = sample_score(model, lambda x: got.append(x) or 0.0, seeds_from(5, 7), batch=3)
    for sigmas in ((80.0,), (80.0, 1.0), (80.0, 1.0, 0.2), (80.0, 1.0)):
        score(sigmas)
        levels = torch.tensor(sigmas, dtype=torch.float64)
        assert torch.allclose(got[-1], sample(model, (2,), seeds_from(5, 7), "multistep", sigmas=levels), atol=1e-6)
    assert torch.equal(got[1], got[3]) and not torch.equal(got[0], got[1])


def test_conditional_pictures_are_scored_against_their_own_classes():
    data = load_data("digits-color")
    model = tiny("unet", classes=10)
    score = wasserstein_score(model, data, 20, seed=3)
    assert score((80.0,)) == score((80.0,)) > data_floor(data, 20, seed=3) > 0


def test_the_search_finds_the_sweeps_optimum_for_a_model_with_a_known_best_level():
    """The model's samples have the right spread at one level and too much elsewhere: search and sweep find that level."""

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, x, c_noise, label):
            # Output of the whole denoiser: a Gaussian of the right size where ln sigma = 0, off by |ln sigma| / 4 elsewhere.
            sigma = (4 * c_noise).exp()[:, None]
            root = (sigma**2 + 0.25).sqrt()
            want = (x * root) / root * 0.5 * (1 + c_noise.abs()[:, None])
            skip = 0.25 / ((sigma - 0.002) ** 2 + 0.25) * x * root
            return (want - skip) * root / (0.5 * (sigma - 0.002))

    model = Denoiser(Scaled(), CONSISTENCY, (2,))
    data = load_data("8gaussians")
    score = wasserstein_score(model, data, 2000, seed=1)
    grid = search_grid(model, 20)
    sweep = full_sweep(score, grid, [80.0])
    best = min(sweep, key=lambda e: e.score)
    assert is_unimodal([e.score for e in sweep])
    found = greedy_search(score, grid, 1)
    assert found.best[1] == best
    assert abs(math.log(best.sigmas[1])) < 0.8  # the nearest level of the grid to 1
    assert best.score < 0.5 * score((80.0,))


def test_a_diffusion_model_and_wrong_data_are_refused():
    data = load_data("8gaussians")
    with pytest.raises(ValueError, match="diffusion model"):
        wasserstein_score(tiny("mlp", EDM), data, 10)
    with pytest.raises(ValueError, match="data have shape"):
        wasserstein_score(tiny("unet"), data, 10)
    with pytest.raises(ValueError, match="at least 1"):
        wasserstein_score(tiny("mlp"), data, 0)
    with pytest.raises(ValueError, match="at least one seed"):
        sample_score(tiny("mlp"), lambda x: 0.0, [])


def test_the_models_grid_ends_at_its_own_level():
    net = build_network(MLPConfig(width=4), (2,), 0)
    grid = search_grid(Denoiser(net, Precond(sigma_min=0.01), (2,)), 9)
    assert torch.equal(grid, karras_sigmas(9, sigma_min=0.01))


def test_the_floor_is_the_distance_of_data_to_data():
    data = load_data("8gaussians")
    a, b = (data.batch(500, torch.Generator().manual_seed(s))[0] for s in (8, 9))
    assert data_floor(data, 500, seed=4) == sliced_wasserstein(a, b)
