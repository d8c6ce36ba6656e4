"""Samplers against the exact oracles: orders, counts, forms, seeds, noise levels and error messages."""

import math
from itertools import pairwise

import pytest
import torch
from conftest import KnownDraws, normal, seeded, soft3, tiny

from cmlab.denoiser import CONSISTENCY, EDM, traits_of
from cmlab.methods.scalings import VEPrecond
from cmlab.noise import SampleDraws, expand, karras_sigmas, sampling_sigmas
from cmlab.oracle import Gaussian
from cmlab.samplers import (
    SAMPLERS,
    Step,
    adds_noise,
    ancestral_levels,
    default_sigmas,
    euler,
    euler_step,
    heun,
    heun_step,
    initial_noise,
    multistep,
    onestep,
    plan,
    sample,
)

GAUSSIAN = Gaussian(torch.tensor([0.3, -0.2]), 0.5)


def last(steps) -> Step:
    return list(steps)[-1]


def global_error(sampler, n: int, sigma_min: float, sigma_max: float) -> float:
    x = sigma_max * normal(64, 2)
    exact = GAUSSIAN.flow(x, sigma_max, sigma_min)
    return (last(sampler(GAUSSIAN, x, karras_sigmas(n + 1, sigma_min, sigma_max))).x - exact).square().mean().sqrt().item()


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1.0), (heun, 2.0)])
@pytest.mark.parametrize("levels", [(0.002, 80.0), (0.1, 10.0)])
def test_global_order_against_the_closed_form_flow(sampler, order, levels):
    # Doubling 80 -> 160 -> 320 steps is asymptotic: measured .987, .994 and 2.019, 2.010 on the full range.
    errors = [global_error(sampler, n, *levels) for n in (80, 160, 320)]
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("steps", [1, 2, 18])
@pytest.mark.parametrize(
    ("sampler", "to_zero", "nfe"),
    [
        (euler, True, lambda n: n),
        (euler, False, lambda n: n),
        (heun, True, lambda n: 2 * n - 1),
        (heun, False, lambda n: 2 * n),
    ],
)
def test_evaluations_of_ode_samplers(sampler, to_zero, nfe, steps):
    calls = []

    def counting(x, sigma, label=None):
        calls.append(float(sigma))
        return GAUSSIAN(x, sigma)

    grid = sampling_sigmas(steps) if to_zero else karras_sigmas(steps + 1)
    states = list(sampler(counting, normal(2, 2), grid))
    assert len(states) == steps
    assert states[-1].nfe == len(calls) == nfe(steps)
    assert min(calls) > 0  # no sampler asks for the score at sigma = 0


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_evaluations_of_multistep(steps):
    calls = []

    def counting(x, sigma, label=None):
        calls.append(float(sigma))
        return x

    grid = default_sigmas("multistep", steps)
    states = list(multistep(counting, normal(2, 2), grid, noise=[0, 1]))
    assert calls == grid.tolist()
    assert [s.nfe for s in states] == list(range(1, steps + 1))


@pytest.mark.parametrize("sampler", ["euler", "heun", "multistep"])
def test_steps_chain_and_count(sampler):
    grid = default_sigmas(sampler, 6)
    states = list(SAMPLERS[sampler](GAUSSIAN, 80 * normal(2, 2), grid, noise=[0, 1] if sampler == "multistep" else None))
    assert [s.i for s in states] == list(range(6))
    assert [s.sigma for s in states] == grid[:6].tolist()
    assert [s.sigma_next for s in states[:-1]] == grid[1:6].tolist()
    assert states[-1].sigma_next == 0
    assert torch.equal(states[-1].x, states[-1].x0_hat)  # at sigma = 0 the state is the estimate, bit by bit


def test_euler_is_ddim():
    oracle, x = soft3(), 80 * normal(5, 2)
    sigma, lower = torch.tensor(7.0, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)
    denoised = oracle(x, sigma)
    ddim = denoised + lower * (x - denoised) / sigma  # x0_hat + sigma_next * eps_hat
    ode = x + (lower - sigma) * (x - denoised) / sigma
    step = euler_step(oracle, x, sigma, lower).x
    assert torch.allclose(step, ddim, rtol=1e-14)
    assert torch.allclose(step, ode, rtol=1e-12)


def test_heun_is_the_trapezoid_rule():
    oracle, x = soft3(), 2 * normal(5, 2)
    a, b = torch.tensor(2.0, dtype=torch.float64), torch.tensor(1.5, dtype=torch.float64)
    slope = (x - oracle(x, a)) / a
    guess = x + (b - a) * slope
    expected = x + (b - a) * (slope + (guess - oracle(guess, b)) / b) / 2
    step = heun_step(oracle, x, a, b)
    assert torch.allclose(step.x, expected, rtol=1e-12)
    assert torch.equal(step.x0_hat, oracle(x, a))


@pytest.mark.parametrize("step", [euler_step, heun_step])
def test_one_level_per_sample_equals_each_alone(step):
    oracle, x = soft3(), normal(3, 2)
    sigma, lower = (torch.tensor(v, dtype=torch.float64) for v in ([3.0, 1.0, 0.5], [1.0, 0.0, 0.4]))
    together = step(oracle, x, sigma, lower).x
    for k in range(3):
        alone = step(oracle, x[k : k + 1], sigma[k], lower[k]).x
        assert torch.allclose(together[k : k + 1], alone, rtol=1e-12)


def test_multistep_with_one_level_is_one_evaluation_and_draws_nothing():
    model, x = tiny(), 80 * normal(3, 2)
    states = list(multistep(model, x, torch.tensor([80.0])))
    assert len(states) == 1
    assert torch.equal(states[0].x, model(x, torch.tensor(80.0, dtype=torch.float64)))
    assert torch.equal(last(onestep(model, x, torch.tensor([80.0]))).x, states[0].x)


@pytest.mark.parametrize(("options", "sigma_min"), [({}, 0.002), ({"sigma_min": 0.5}, 0.5)])
def test_multistep_adds_exactly_the_missing_noise(options, sigma_min):
    z = [normal(3, 2, seed=k) for k in (1, 2)]
    levels = [80.0, 5.0, 0.8]
    states = list(
        multistep(
            lambda x, s, label=None: torch.zeros_like(x),
            normal(3, 2),
            torch.tensor(levels).double(),
            noise=KnownDraws(z),
            **options,
        )
    )
    for state, noise, tau in zip(states, z, torch.tensor(levels[1:]).double(), strict=False):
        assert torch.allclose(state.x, noise * (tau**2 - sigma_min**2).sqrt(), rtol=1e-14)


def test_multistep_at_sigma_min_adds_nothing():
    x = normal(3, 2)
    states = list(multistep(lambda x, s, label=None: x, x, torch.tensor([1.0, 0.002], dtype=torch.float64), noise=[0, 1, 2]))
    assert torch.equal(states[0].x, x)


def test_multistep_with_the_exact_consistency_function_keeps_the_distribution():
    # Each re-noising to tau and mapping back must return N(mean, std^2): 5 steps would show a wrong noise level.
    x = sample(GAUSSIAN.consistency, (2,), range(4000), "multistep", 5)
    mean_error = (x.mean(0) - GAUSSIAN.means[0]).abs().max().item()
    assert mean_error < 4 * 0.5 / math.sqrt(4000)  # four standard errors
    assert (x - GAUSSIAN.means).square().mean().sqrt().item() == pytest.approx(0.5, rel=4 / math.sqrt(2 * 8000))


@pytest.mark.parametrize(
    ("sampler", "steps", "options"),
    [("euler", 4, {}), ("heun", 3, {}), ("heun", 3, {"churn": 5.0}), ("multistep", 3, {}), ("onestep", 1, {})],
)
def test_an_image_is_a_function_of_its_seed(sampler, steps, options):
    model = tiny("unet").eval()
    seeds = list(range(20, 36))
    whole = sample(model, model.shape, seeds, sampler, steps, **options)
    for size in (1, 3):
        for start in (0, 5):
            part = sample(model, model.shape, seeds[start : start + size], sampler, steps, **options)
            # Not bitwise: convolutions choose other float32 algorithms for other batch sizes.
            assert float((part - whole[start : start + size]).abs().max()) < 1e-5
    assert float((whole[0] - whole[1]).abs().max()) > 0.1


def test_sample_starts_from_initial_noise():
    x = sample(lambda x, s, label=None: x, (2,), [4, 9], "onestep", 1)
    assert torch.equal(x, initial_noise((2,), [4, 9]))
    assert x.dtype == torch.float64


def test_initial_noise_has_the_level_asked_for():
    assert initial_noise((1000,), [1], sigma=3.0).std().item() == pytest.approx(3, rel=4 / math.sqrt(2000))  # four errors


@pytest.mark.usefixtures("untouched_rng")
@pytest.mark.parametrize(("sampler", "options"), [("heun", {"churn": 5.0}), ("multistep", {})])
def test_sampling_leaves_the_global_generator_alone(sampler, options):
    sample(GAUSSIAN, (2,), [1, 2], sampler, 3, **options)


def test_an_int_is_one_seed():
    assert torch.equal(sample(GAUSSIAN, (2,), 7, "heun", 3), sample(GAUSSIAN, (2,), [7], "heun", 3))


def test_sample_options_change_the_sample():
    base = sample(GAUSSIAN, (2,), [0], "heun", 4)
    assert not torch.equal(base, sample(GAUSSIAN, (2,), [1], "heun", 4))
    assert not torch.equal(base, sample(GAUSSIAN, (2,), [0], "euler", 4))
    assert not torch.equal(base, sample(GAUSSIAN, (2,), [0], "heun", 5))
    assert not torch.equal(base, sample(GAUSSIAN, (2,), [0], "heun", sigmas=torch.tensor([80.0, 1.0, 0.0])))


def test_labels_reach_the_model():
    model = tiny(classes=2)
    x = [sample(model, (2,), [0], "heun", 2, label=torch.tensor([k])) for k in (0, 1)]
    assert not torch.equal(x[0], x[1])


def test_a_label_may_be_one_class_for_all_or_any_list():
    model = tiny(classes=3)
    ones = sample(model, (2,), range(3), "onestep", label=torch.tensor([1, 1, 1]))
    for label in (1, [1, 1, 1], torch.tensor(1), (1, 1, 1), torch.tensor([1, 1, 1], dtype=torch.uint8)):
        assert torch.equal(sample(model, (2,), range(3), "onestep", label=label), ones)
    mixed = sample(model, (2,), range(3), "onestep", label=[0, 1, 2])
    assert torch.equal(mixed[1], ones[1]) and not torch.equal(mixed[0], ones[0])


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (3, "no class 3"),
        (-1, "no class -1"),
        ([0, 3, 1], "no class 3"),
        (torch.tensor([0, 1]), r"3 seeds take 3 labels, or one number for all: got labels of shape \(2,\)"),
        ([[0, 1, 2]], r"shape \(1, 3\)"),
        (1.5, "a tensor of integers"),
        ("ship", "label is a class number, or one per seed .3 here.: got 'ship'"),
        (None, "this model has 3 classes: pass label="),
    ],
)
def test_a_label_that_does_not_fit_is_an_error(label, message):
    with pytest.raises(ValueError, match=message):
        sample(tiny(classes=3), (2,), range(3), "multistep", 2, label=label)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seeds": []}, "no seeds: pass one whole number per sample"),
        ({"seeds": [0.5]}, "a seed is a whole number, got 0.5"),
        ({"seeds": 0.5}, "a seed is a whole number, got 0.5"),
        ({"seeds": "ab"}, "a seed is a whole number, got 'a'"),
        ({"steps": 2.5}, "whole number of steps, at least 1 step: got 2.5"),
        (
            {"sampler": "onestep", "steps": 18},
            "use 'multistep' for more steps of a consistency model, 'heun' for a diffusion model",
        ),
        ({"device": "gpu"}, "there is no device 'gpu': say 'cpu'"),
        ({"device": "cuda:99"}, "cannot use 'cuda:99': say device='cpu'"),
    ],
)
def test_what_sample_cannot_use_is_an_error(change, message):
    arguments = {"seeds": [0], "sampler": "heun", "steps": 2} | change
    with pytest.raises(ValueError, match=message):
        sample(GAUSSIAN, (2,), **arguments)


def test_noise_of_another_kind_is_an_error():
    with pytest.raises(ValueError, match=r"a torch.Generator or a list of whole numbers.*got 5"):
        next(multistep(GAUSSIAN, normal(2, 2), torch.tensor([2.0, 1.0]), noise=5))  # type: ignore[arg-type]


def test_seeds_of_numpy_and_torch_are_seeds():
    expected = sample(GAUSSIAN, (2,), [3, 4], "heun", 2)
    for seeds in (torch.tensor([3, 4]), torch.tensor([3, 4]).numpy(), (3.0, 4)):
        assert torch.equal(sample(GAUSSIAN, (2,), seeds, "heun", 2), expected)  # type: ignore[arg-type]


def test_sampler_and_steps_by_default_are_those_of_the_kind_of_model():
    student, teacher = tiny(), tiny(precond=EDM)
    for model, sampler, steps in ((student, "multistep", 1), (teacher, "heun", 18), (GAUSSIAN, "heun", 18)):
        assert torch.equal(sample(model, (2,), [0, 1]), sample(model, (2,), [0, 1], sampler, steps))
    for sampler in ("onestep", "multistep"):
        assert torch.equal(sample(student, (2,), [0], sampler), sample(student, (2,), [0], "onestep", 1))
    assert torch.equal(sample(teacher, (2,), [0], "euler"), sample(teacher, (2,), [0], "euler", 18))


# --- churn ---------------------------------------------------------------------------------------------------------------


def test_churn_outside_its_window_draws_nothing():
    draws = KnownDraws()
    x = 80 * normal(3, 2)
    states = list(heun(GAUSSIAN, x, sampling_sigmas(6), noise=draws, churn=10.0, churn_min=100.0))
    assert draws.count == 0
    assert torch.equal(states[-1].x, last(heun(GAUSSIAN, x, sampling_sigmas(6))).x)


def test_churn_zero_accepts_no_noise():
    with pytest.raises(ValueError, match="leave noise out"):
        next(heun(GAUSSIAN, normal(2, 2), sampling_sigmas(3), noise=[0, 1]))


def test_churn_raises_the_level_by_edms_gamma():
    levels = sampling_sigmas(10)
    for churn, gamma in ((2.0, 0.2), (1000.0, math.sqrt(2) - 1)):
        states = list(heun(GAUSSIAN, normal(2, 2), levels, noise=[0, 1], churn=churn))
        assert [s.sigma for s in states] == pytest.approx([(1 + gamma) * s for s in levels[:-1].tolist()], rel=1e-12)


def test_churn_adds_the_variance_between_the_levels():
    z, x = normal(2, 2, seed=5), normal(2, 2)
    seen = []

    def spy(x, sigma, label=None):
        seen.append(x)
        return x

    next(heun(spy, x, torch.tensor([3.0, 1.0]), noise=KnownDraws([z]), churn=0.25, churn_noise=1.1))
    assert torch.allclose(seen[0], x + 1.1 * math.sqrt((3 * 1.25) ** 2 - 9) * z, rtol=1e-12)


def test_churn_keeps_the_marginal_at_every_level():
    x = math.hypot(80, 0.5) * normal(4000, 2) + GAUSSIAN.means
    for step in heun(GAUSSIAN, x, sampling_sigmas(160), noise=seeded(1), churn=15.0):
        spread = (step.x - GAUSSIAN.means).square().mean().sqrt().item()
        # Monte-Carlo error of the spread of 8,000 numbers: 0.8 %; four of them. Heun's own error at 160 steps is below 0.4 %.
        assert spread == pytest.approx(math.hypot(step.sigma_next, 0.5), rel=0.037)


@pytest.mark.parametrize("change", [{"churn": 1.0}, {"churn_min": 1.0}, {"churn_max": 1.0}, {"churn_noise": 1.1}])
def test_every_churn_option_changes_the_sample(change):
    options = {"churn": 3.0} | change
    x = [sample(GAUSSIAN, (2,), [0, 1], "heun", 8, **o) for o in ({"churn": 3.0}, options)]  # type: ignore[arg-type]
    assert not torch.equal(x[0], x[1])


# --- hooks, laziness, gradients ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_project_maps_every_estimate(sampler):
    steps = 1 if sampler == "onestep" else 4
    grid = default_sigmas(sampler, steps)
    noise = [0, 1] if adds_noise(sampler, len(grid)) else None
    given = 80 * normal(2, 2)
    states = list(SAMPLERS[sampler](GAUSSIAN, given, grid, noise=noise, project=lambda x: x * 0 + 7))
    assert all(bool((step.x0_hat == 7).all()) for step in states)
    # Every evaluation counts as 7: what the oracle would have said has left no trace.
    blind = list(SAMPLERS[sampler](lambda x, s, label=None: x * 0 + 7, given, grid, noise=noise))
    assert torch.equal(states[-1].x, blind[-1].x)
    assert not torch.equal(states[-1].x, last(SAMPLERS[sampler](GAUSSIAN, given, grid, noise=noise)).x)


@pytest.mark.parametrize("sampler", ["euler", "heun", "multistep"])
def test_samplers_are_lazy_and_keep_gradients_to_the_caller(sampler):
    calls = []
    model = tiny()

    def counting(x, sigma, label=None):
        calls.append(1)
        return model(x, sigma)

    states = SAMPLERS[sampler](counting, normal(2, 2), default_sigmas(sampler, 5), noise=[0, 1] if sampler == "multistep" else None)
    assert not calls
    step = next(states)
    assert len(calls) <= 2
    assert not step.x.requires_grad
    assert torch.is_grad_enabled()  # also while the generator waits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_state_keeps_its_dtype(dtype):
    assert last(heun(tiny(), normal(2, 2, dtype=dtype), sampling_sigmas(3))).x.dtype == dtype


# --- levels --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sampler", "extra"), [("euler", 1), ("heun", 1), ("multistep", 0)])
@pytest.mark.parametrize("steps", [1, 2, 3, 18])
def test_default_levels_give_as_many_steps(sampler, extra, steps):
    grid = default_sigmas(sampler, steps, sigma_max=20.0)
    assert len(grid) == steps + extra
    assert grid[0].item() == 20.0
    assert bool((grid.diff() < 0).all())
    assert (grid[-1].item() == 0) == bool(extra)


def test_two_consistency_steps_take_the_published_level():
    assert default_sigmas("multistep", 2).tolist() == [80.0, 0.821]


@pytest.mark.parametrize(
    ("sampler", "levels", "message"),
    [
        (euler, [80.0], "at least 2 noise levels"),
        (heun, [], "at least 2 noise levels"),
        (multistep, [], "at least 1 noise level"),
        (euler, [1.0, 2.0], "must decrease"),
        (heun, [2.0, 2.0, 0.0], "must decrease"),
        (multistep, [2.0, 3.0], "must decrease"),
        (euler, [1.0, -1.0], "not be negative"),
        (heun, [2.0, math.nan, 0.0], "must decrease"),
        (euler, [[2.0], [1.0]], "at least 2 noise levels"),
    ],
)
def test_bad_levels_are_errors_that_show_them(sampler, levels, message):
    noise = {"noise": [0, 1]} if sampler is multistep else {}
    with pytest.raises(ValueError, match=message):
        next(sampler(GAUSSIAN, normal(2, 2), torch.tensor(levels), **noise))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("multistp", 3), "did you mean .multistep."),
        (("foo", 3), "choose one of euler, heun, ancestral, multistep, onestep, progressive, ddim, dpm2"),
        (("predictor-corrector", 3), "predictor_corrector"),
        (("heun", 0), "at least 1 step"),
        (("onestep", 2), "multistep"),
    ],
)
def test_bad_defaults_are_errors_that_name_the_way_out(arguments, message):
    with pytest.raises(ValueError, match=message):
        default_sigmas(*arguments)


def test_sample_refuses_an_unknown_sampler_also_with_levels():
    with pytest.raises(ValueError, match="unknown sampler 'huen'"):
        sample(GAUSSIAN, (2,), [0], "huen", sigmas=torch.tensor([1.0, 0.0]))


def test_onestep_takes_one_level():
    with pytest.raises(ValueError, match="use 'multistep' for more"):
        onestep(GAUSSIAN, normal(2, 2), torch.tensor([80.0, 1.0]))


@pytest.mark.parametrize("options", [{"sampler": multistep}, {"sampler": heun, "churn": 3.0}])
def test_missing_noise_is_an_error(options):
    sampler = options.pop("sampler")
    with pytest.raises(ValueError, match="pass noise="):
        next(sampler(GAUSSIAN, normal(2, 2), torch.tensor([2.0, 1.0]), **options))


def test_negative_churn_is_an_error():
    with pytest.raises(ValueError, match="cannot be negative"):
        next(heun(GAUSSIAN, normal(2, 2), torch.tensor([2.0, 1.0]), noise=[0, 1], churn=-1.0))


def test_too_few_seeds_are_an_error():
    with pytest.raises(ValueError, match="one seed per sample"):
        next(multistep(GAUSSIAN, normal(3, 2), torch.tensor([2.0, 1.0]), noise=[0, 1]))


def test_expand_and_seeds_agree_with_sample():
    # sample() is initial noise plus the sampler fed by the same per-sample streams, nothing else.
    draws = SampleDraws([3, 4])
    levels = default_sigmas("multistep", 3)
    x = draws.normal((2, 2)).double() * expand(levels[0], torch.ones(2, 2))
    assert torch.equal(last(multistep(GAUSSIAN, x, levels, noise=draws)).x, sample(GAUSSIAN, (2,), [3, 4], "multistep", 3))


# --- how a model is sampled when nobody says ---------------------------------------------------------------------------------


def told(plan):
    return plan.sampler, plan.steps, plan.sigmas.tolist(), plan.chosen


def test_a_plan_is_what_is_given_and_the_usual_elsewhere():
    diffusion, student = tiny("mlp", EDM), tiny("mlp", CONSISTENCY)
    assert told(plan(diffusion)) == ("heun", 18, sampling_sigmas(18).tolist(), False)
    assert told(plan(student)) == ("multistep", 1, [80.0], False)
    assert told(plan(lambda x, sigma, label=None: x, "euler", 2)) == ("euler", 2, sampling_sigmas(2).tolist(), False)
    assert told(plan(student, "onestep")) == ("onestep", 1, [80.0], False)
    assert told(plan(diffusion, sigmas=[9.0, 1.0, 0.0])) == ("heun", 2, [9.0, 1.0, 0.0], True)
    assert told(plan(student, sigmas=[9.0, 1.0])) == ("multistep", 2, [9.0, 1.0], True)
    with pytest.raises(ValueError, match="did you mean 'euler'"):
        plan(diffusion, "eulr")


def test_a_plan_heeds_what_the_checkpoint_tells():
    student, diffusion = tiny("mlp", CONSISTENCY), tiny("mlp", EDM)
    searched = {"two_steps": {"sigmas": [80.0, 1.5]}}
    assert told(plan(student, steps=2, about=searched)) == ("multistep", 2, [80.0, 1.5], True)
    assert told(plan(student, steps=1, about=searched)) == ("multistep", 1, [80.0], False)
    assert told(plan(student, sigmas=[80.0, 2.0], about=searched))[2] == [80.0, 2.0]
    distilled = plan(diffusion, about={"sampler": "progressive", "steps": 4})
    assert told(distilled) == ("progressive", 4, karras_sigmas(5).tolist(), False)
    assert plan(diffusion, "heun", about={"sampler": "progressive", "steps": 4}).steps == 18


def test_a_plan_stays_within_the_levels_of_training():
    model = tiny("mlp", VEPrecond(0.02, 50.0))  # type: ignore[arg-type]
    low, high = traits_of(model).levels
    assert plan(model, steps=5).sigmas[0] == high == 50.0
    assert plan(model, steps=5).sigmas[-2] == low == 0.02


def test_ancestral_levels_are_numbers_in_single_precision():
    sigma = 10 ** (6 * torch.rand(200_000, generator=seeded()) - 3)
    sigma_next = sigma * 10 ** (-7 * torch.rand(200_000, generator=seeded(1)))
    for eta in (0.0, 0.3, 1.0):
        for single, double in zip(
            ancestral_levels(sigma, sigma_next, eta), ancestral_levels(sigma.double(), sigma_next.double(), eta), strict=True
        ):
            torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=0)
    down, up = ancestral_levels(torch.tensor(80.0), torch.tensor(0.0125))
    assert float(down) == pytest.approx(0.0125**2 / 80, rel=1e-5) and float(up) == pytest.approx(0.0125, rel=1e-5)
