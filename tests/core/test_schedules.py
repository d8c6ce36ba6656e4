"""Golden tables of N(k), mu(k), iCT and ECT (methods sheet, A4, A6, A7) and the densities of the pairs."""

import itertools
import math

import pytest
import torch
from conftest import KnownDraws, seeded
from hypothesis import given
from hypothesis import strategies as st

from cmlab.methods.progressive import HalvingN
from cmlab.methods.scalings import IDDPMPrecond, LogUniform, TableUniform, VPTime
from cmlab.noise import as_draws, karras_sigmas
from cmlab.schedules import AdaptiveMu, DoublingN, EctPairs, FixedMu, FixedN, GridPairs, LogNormal, ProgressiveN, lognormal_mass


def stratified(n: int) -> torch.Tensor:
    """n evenly spread numbers in (0, 1): sampling with them shows a density without Monte-Carlo noise."""
    return (torch.arange(n, dtype=torch.float64) + 0.5) / n


@pytest.mark.parametrize(
    ("progress", "n"), [(0, 2), (0.01, 16), (0.05, 34), (0.1, 48), (0.25, 76), (0.5, 107), (0.75, 131), (1, 151)]
)
def test_progressive_n_golden(progress, n):
    assert ProgressiveN(2, 150)(progress) == n


@pytest.mark.parametrize("stage", range(8))
def test_doubling_n_golden(stage):
    # K = 400k, s0 = 10, s1 = 1280: 50k steps at each of N - 1 = 10, 20, ..., 1280, up to the last step of the stage.
    for step in (stage * 50_000, stage * 50_000 + 49_999):
        assert DoublingN(10, 1280)(step / 400_000) - 1 == 10 * 2**stage


@pytest.mark.parametrize("total", [1000, 1003, 400_000, 123_457])
@pytest.mark.parametrize(("s0", "s1"), [(10, 1280), (10, 1000), (2, 2)])
def test_doubling_n_with_whole_steps_per_stage(s0, s1, total):
    # iCT: K' = floor(K / (log2 floor(s1/s0) + 1)), N = min(s0 2^floor(k/K'), s1) + 1, right at every border.
    length = math.floor(total / (math.log2(s1 // s0) + 1))
    grow = DoublingN(s0, s1, length / total)
    borders = [b for b in range(0, total + 1, length) if b <= total]
    for step in {min(max(b + d, 0), total) for b in borders for d in (-1, 0, 1)}:
        assert grow(step / total) == min(s0 * 2 ** (step // length), s1) + 1


def halving(step: int, start: int, length: int) -> int:
    """openai's formula in whole numbers (start a power of 2)."""
    n = max(start // 2 ** (step // length), 2)
    done = max(step - length * (start.bit_length() - 2), 0) // (2 * length)
    return n if n > 2 else max(2 // 2**done, 1)


@pytest.mark.parametrize(
    ("start", "length", "total"), [(64, 100, 1000), (4096, 50_000, 800_001), (8, 7, 61), (2, 3, 10), (16, 1, 3)]
)
def test_halving_n_is_right_at_every_border(start, length, total):
    n = HalvingN(start, length / total)
    steps = range(2 * total) if total < 2000 else [b * length + d for b in range(20) for d in (-1, 0, 1)][1:]
    assert [n(k / total) for k in steps] == [halving(k, start, length) for k in steps]


@pytest.mark.parametrize(("step", "n"), [(0, 4096), (49_999, 4096), (50_000, 2048), (550_000, 2), (649_999, 2), (650_000, 1)])
def test_halving_n_golden(step, n):
    assert HalvingN(4096, 50_000 / 800_001)(step / 800_001) == n


@pytest.mark.parametrize("start", [2, 8, 64])
def test_halving_n_ends_at_one_after_equal_last_stages(start):
    units = int(math.log2(start)) + 3
    seen = [HalvingN(start)(k / (10 * units)) for k in range(10 * units)]
    assert [seen.count(2**p) for p in range(int(math.log2(start)) + 1)] == [20, 20] + [10] * (int(math.log2(start)) - 1)
    assert HalvingN(start)(1.0) == 1


@pytest.mark.parametrize(
    "make", [lambda: HalvingN(1), lambda: HalvingN(8, 0.0), lambda: DoublingN(2, 8, -1.0), lambda: DoublingN(9, 8)]
)
def test_impossible_stages_are_errors(make):
    with pytest.raises(ValueError, match=r"must be|need"):
        make()


@pytest.mark.parametrize("schedule", [ProgressiveN(2, 150), DoublingN(10, 1280)])
def test_n_stops_growing_at_the_end_of_the_plan(schedule):
    assert schedule(2.0) == schedule(1.0)
    assert schedule(-1.0) == schedule(0.0)


def test_n_and_mu_depend_on_their_ends():
    assert ProgressiveN(2, 50)(1.0) == 51
    assert ProgressiveN(20, 150)(0.0) == 20
    assert DoublingN(5, 20)(1.0) == 21
    assert DoublingN(5, 20)(0.0) == 6
    assert FixedN(17)(0.3) == 17
    assert FixedMu(0.7)(0.3, 9) == 0.7


@pytest.mark.parametrize(("intervals", "mu"), [(1, 0.81), (15, 0.98605), (75, 0.99719), (150, 0.9986)])
def test_mu_golden_of_the_official_code(intervals, mu):
    assert AdaptiveMu(2, 0.9, "code")(0.0, intervals + 1) == pytest.approx(mu, abs=6e-6)  # five printed digits


@pytest.mark.parametrize(("n", "mu"), [(2, 0.9), (4, 0.9**0.5), (151, 0.9 ** (2 / 151))])
def test_mu_of_the_paper_divides_by_n(n, mu):
    assert AdaptiveMu(2, 0.9)(0.0, n) == pytest.approx(mu, rel=1e-14)


def test_mu_refuses_an_unknown_convention():
    with pytest.raises(ValueError, match="paper, code"):
        AdaptiveMu(convention="kode")  # type: ignore[arg-type]


def test_lognormal_is_exp_of_a_scaled_normal():
    z = torch.tensor([-1.0, 0.0, 2.0])
    sigma = LogNormal(-1.2, 1.5)(3, KnownDraws(normals=[z]))
    assert sigma.dtype == torch.float64
    assert sigma.log().tolist() == pytest.approx([-2.7, -1.2, 1.8], rel=1e-12)


def levels(density, u: list[float]) -> list[float]:
    drawn = density(len(u), KnownDraws(uniforms=[torch.tensor(u, dtype=torch.float64)]))
    assert drawn.dtype == torch.float64
    return drawn.tolist()


def test_vp_levels_are_even_in_the_schedule_s_time():
    # t = 1 + u (epsilon - 1) in sigma(t) = sqrt(exp(beta_d t^2 / 2 + beta_min t) - 1)
    expected = [math.sqrt(math.expm1(0.5 * 15 * t**2 + 0.3 * t)) for t in (1.0, 0.505, 0.01)]
    assert levels(VPTime(15.0, 0.3, 0.01), [0.0, 0.5, 1.0]) == pytest.approx(expected, rel=1e-12)
    assert levels(VPTime(), [0.0])[0] == pytest.approx(152.16698, rel=1e-6)


def test_vp_levels_are_computed_in_the_draws_precision():
    # The published VP networks were trained from 9.77e-4 on, a rounding of 1.0005e-3 in float32.
    u = torch.ones(1)
    assert VPTime()(1, KnownDraws(uniforms=[u])).item() == 0.0009765625
    assert VPTime()(1, KnownDraws(uniforms=[u.double()])).item() == pytest.approx(1.0005e-3, rel=1e-4)


def test_ve_levels_are_even_in_the_logarithm():
    assert levels(LogUniform(0.02, 100.0), [0.0, 0.5, 1.0]) == pytest.approx([0.02, math.sqrt(2), 100.0], rel=1e-12)


def test_iddpm_levels_are_those_that_its_network_knows():
    precond = IDDPMPrecond(0.002, 0.01, 50)
    drawn = TableUniform(50, 0.002, 0.01)(500, KnownDraws(uniforms=[stratified(500)]))
    assert torch.equal(drawn.unique(return_counts=True)[1], torch.full((50,), 10))
    assert torch.equal(drawn.unique(), precond.table[:-1].flip(0))
    assert levels(TableUniform(50, 0.002, 0.01), [1 - 2**-53])[0] > 0


@pytest.mark.parametrize("ends", [(0.0, 1.0), (2.0, 1.0)])
def test_log_uniform_refuses_ends_out_of_order(ends):
    with pytest.raises(ValueError, match="0 < low < high"):
        LogUniform(*ends)


def test_lognormal_mass_sums_to_one():
    mass = lognormal_mass(karras_sigmas(18), -1.1, 2.0)
    assert mass.sum().item() == pytest.approx(1, abs=1e-14)
    assert bool((mass > 0).all())


@pytest.mark.parametrize("density", ["uniform", "lognormal"])
def test_pairs_are_neighbours_of_the_grid(density):
    grid = karras_sigmas(18)
    sigma, sigma_next = GridPairs(FixedN(18), density)(500, 0.0, KnownDraws(uniforms=[stratified(500)]))
    i = torch.searchsorted(-grid, -sigma)
    assert torch.equal(grid[i], sigma)
    assert torch.equal(grid[i + 1], sigma_next)


def test_uniform_pairs_take_every_interval_equally_often():
    sigma, _ = GridPairs(FixedN(11))(1000, 0.0, KnownDraws(uniforms=[stratified(1000)]))
    assert torch.unique(sigma, return_counts=True)[1].tolist() == [100] * 10


@pytest.mark.parametrize(("mean", "std"), [(-1.1, 2.0), (0.5, 0.7)])
def test_lognormal_pairs_have_the_lognormal_mass_between_their_levels(mean, std):
    count = 100_000
    sigma, _ = GridPairs(FixedN(18), "lognormal", mean, std)(count, 0.0, KnownDraws(uniforms=[stratified(count)]))

    def below(level: float) -> float:
        return 0.5 * (1 + math.erf((math.log(level) - mean) / (math.sqrt(2) * std)))

    grid = karras_sigmas(18).tolist()
    mass = [below(a) - below(b) for a, b in itertools.pairwise(grid)]
    drawn = [(sigma == level).double().mean().item() for level in grid[:-1]]
    assert sum(drawn) == pytest.approx(1, abs=1e-12)
    # Stratified numbers hit each interval's share to one count at either end.
    assert drawn == pytest.approx([m / sum(mass) for m in mass], abs=2 / count)


@pytest.mark.parametrize("density", ["uniform", "lognormal"])
@pytest.mark.parametrize("u", [0.0, 1 - 2**-24])
def test_extreme_uniforms_stay_on_the_grid(density, u):
    sigma, sigma_next = GridPairs(FixedN(5), density)(1, 0.0, KnownDraws(uniforms=[torch.tensor([u])]))
    assert (sigma.item(), sigma_next.item()) == tuple(karras_sigmas(5)[:2].tolist() if u == 0 else karras_sigmas(5)[-2:].tolist())


def test_pairs_follow_n_of_progress():
    pairs = GridPairs(ProgressiveN(2, 150))
    draws = [KnownDraws(uniforms=[torch.tensor([0.0])]) for _ in range(2)]
    assert pairs(1, 0.0, draws[0])[1].item() == 0.002
    assert pairs(1, 1.0, draws[1])[1].item() == pytest.approx(80 - 2.87, abs=5e-3)


def test_pairs_follow_their_ends():
    pairs = GridPairs(FixedN(2), sigma_min=0.1, sigma_max=3.0)
    assert [s.item() for s in pairs(1, 0.0, as_draws(seeded()))] == [3.0, 0.1]
    bent = [GridPairs(FixedN(3), rho=rho)(1, 0.0, KnownDraws(uniforms=[torch.zeros(1)]))[1].item() for rho in (1.0, 7.0)]
    assert bent[0] > 2 * bent[1]


def test_pairs_refuse_a_grid_of_one_level():
    with pytest.raises(ValueError, match="at least 2"):
        GridPairs(FixedN(1))(4, 0.0, as_draws(seeded()))


def test_pairs_refuse_an_unknown_density():
    with pytest.raises(ValueError, match="uniform, lognormal"):
        GridPairs(density="unifrom")  # type: ignore[arg-type]


ECT_RATIOS = {
    0.1: [0, 0, 0.40, 0.70, 0.85, 0.925, 0.9625, 0.9812],
    10.0: [0.4998, 0.75, 0.875, 0.9375, 0.9687, 0.9844, 0.9922, 0.9961],
}


@pytest.mark.parametrize("stage", range(8))
@pytest.mark.parametrize("sigma", [0.1, 10.0])
def test_ect_golden_ratios(sigma, stage):
    pairs = EctPairs(mean=math.log(sigma), std=0.0, sigma_min=0.0)
    drawn, lower = pairs(1, stage / 8, as_draws(seeded()))
    assert drawn.item() == pytest.approx(sigma, rel=1e-12)
    assert (lower / drawn).item() == pytest.approx(ECT_RATIOS[sigma][stage], abs=1e-4)  # four printed digits


def test_ect_pairs_close_in_to_the_plan_and_no_further():
    gaps = [1 - (b / a).item() for a, b in (EctPairs(mean=3.0, std=0.0)(1, p, as_draws(seeded())) for p in (0.0, 0.5, 1.0, 9.0))]
    assert gaps[0] > gaps[1] > gaps[2] == gaps[3]


def test_ect_without_sigmoid_shrinks_every_level_alike():
    sigma = torch.tensor([0.01, 1.0, 70.0], dtype=torch.float64)
    assert torch.allclose(EctPairs(4.0, k=0.0, sigma_min=0.0).below(sigma, 1), sigma * (1 - 1 / 16), rtol=1e-14)


def test_ect_levels_come_as_close_as_they_may():
    sigma = torch.tensor([1.0], dtype=torch.float64)
    assert EctPairs(256.0, closest=0.0).below(sigma, 7).item() == 1.0
    assert EctPairs(256.0).below(sigma, 7).item() == pytest.approx(1 - 1e-4, rel=1e-12)
    with pytest.raises(ValueError, match="closest"):
        EctPairs(closest=1.0)


@pytest.mark.parametrize("stages", [3, 7, 11])
def test_ect_stages_change_at_their_own_step(stages):
    total = stages * 13
    seen = [EctPairs(stages=stages).stage(k / total) for k in range(total + 1)]
    assert seen == [k // 13 for k in range(total)] + [stages - 1]


@given(progress=st.floats(0, 1), seed=st.integers(0, 999), sigma_min=st.sampled_from([0.0, 0.002]))
def test_ect_levels_stay_in_range_and_apart(progress, seed, sigma_min):
    sigma, lower = EctPairs(sigma_min=sigma_min, std=4.0)(64, progress, as_draws(seeded(seed)))
    assert bool((sigma <= 80).all())
    assert bool((lower >= sigma_min).all())
    assert bool((lower < sigma).all())


@pytest.mark.parametrize(
    "change",
    [
        {"q": 4.0},
        {"stages": 2},
        {"k": 2.0},
        {"b": 3.0},
        {"mean": 0.0},
        {"std": 1.0},
        {"sigma_max": 0.3},
        {"sigma_min": 0.1},
        {"closest": 0.5},
    ],
)
def test_every_ect_option_changes_the_pairs(change):
    def lower(pairs):
        return pairs(64, 0.6, as_draws(seeded()))[1]

    assert not torch.equal(lower(EctPairs()), lower(EctPairs(**change)))
