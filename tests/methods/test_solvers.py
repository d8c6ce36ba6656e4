"""Solvers and SDE samplers against exact oracles: measured orders, identities between methods, printed formulas, statistics."""

import math
from functools import lru_cache, partial
from itertools import pairwise

import pytest
import torch
from conftest import KnownDraws, normal, randomise, seeded, soft3, tiny

from cmlab.denoiser import Denoise, Denoiser, Precond, traits_of
from cmlab.methods.ablation import ablation, design
from cmlab.methods.scalings import IDDPMPrecond, VEPrecond
from cmlab.methods.sde import VE, VP, Linear
from cmlab.methods.solvers import adams_bashforth, ddim, deis, dpm2, dpm_solver3, dpmpp_2m, dpmpp_2s, predictor_corrector
from cmlab.networks import MLPConfig, build_network
from cmlab.noise import karras_sigmas, sampling_sigmas
from cmlab.oracle import Gaussian
from cmlab.samplers import (
    SAMPLERS,
    Step,
    adds_noise,
    ancestral,
    ancestral_levels,
    default_sigmas,
    euler,
    heun,
    last_state,
    level_range,
    multistep,
    round_level,
    sample,
)

GAUSSIAN = Gaussian(torch.tensor([0.3, -0.2]), 0.5)


def close(a, b, tolerance=1e-12) -> bool:
    return float((a - b).abs().max()) <= tolerance * max(1.0, float(b.abs().max()))


class Recorder:
    """A denoiser that notes the levels it was asked at."""

    def __init__(self, denoise: Denoise = GAUSSIAN):
        self.denoise, self.sigmas = denoise, []
        self.traits = traits_of(denoise)

    def __call__(self, x, sigma, label=None):
        self.sigmas.append(float(sigma))
        return self.denoise(x, sigma)


# --- order ---------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def reference_end():
    """soft3's flow from 80 to 0.002 by Runge-Kutta's fourth-order method in ln sigma: 1,500 steps are exact to 1e-10."""
    oracle, x = soft3(), 80 * normal(24, 2)
    start, end, n = math.log(80), math.log(0.002), 1500
    h = (end - start) / n

    def slope(u, state):
        return state - oracle(state, torch.tensor(math.exp(u), dtype=torch.float64))

    for k in range(n):
        u = start + k * h
        k1 = slope(u, x)
        k2 = slope(u + h / 2, x + h / 2 * k1)
        k3 = slope(u + h / 2, x + h / 2 * k2)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + slope(u + h, x + h * k3))
    return x


def error(sampler, n: int) -> float:
    """Root mean square over 24 trajectories, which no basin boundary dominates."""
    end = last_state(sampler(soft3(), 80 * normal(24, 2), karras_sigmas(n + 1)))
    return (end - reference_end()).square().mean().sqrt().item()


# name of the registry: expected order, tolerance between 72 and 288 steps (methods sheet, B: multistep methods start low)
ORDERS = {
    "euler": (1, 0.05),
    "ddim": (1, 0.05),
    "progressive": (1, 0.05),
    "heun": (2, 0.1),
    "dpm2": (2, 0.1),
    "dpmpp_2s": (2, 0.1),
    "dpmpp_2m": (2, 0.2),
    "dpm_solver3": (3, 0.15),
    "deis": (4, 0.3),
}


@pytest.mark.parametrize("name", SAMPLERS.of_kind("ode", "distilled"))
def test_ode_samplers_have_their_order(name):
    order, tolerance = ORDERS[name]
    for coarse, fine in pairwise([error(SAMPLERS[name], n) for n in (72, 144, 288)]):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=tolerance)


@pytest.mark.parametrize(
    ("sampler", "order"),
    [
        (partial(dpm2, rho=3.0), 2),
        (partial(dpm2, r1=0.7), 2),
        (partial(dpmpp_2m, order=1), 1),
        (partial(deis, order=1), 2),
        (partial(deis, order=2), 3),
    ],
)
def test_options_have_their_order(sampler, order):
    assert math.log2(error(sampler, 144) / error(sampler, 288)) == pytest.approx(order, abs=0.15)


def test_at_equal_cost_the_fast_solvers_win():
    # 36 evaluations: Euler 4.7e-2, Heun (18 steps) 3e-2, and DEIS of order 3 an order of magnitude better.
    assert error(deis, 36) < error(dpmpp_2m, 36) < error(heun, 18) < error(euler, 36)


# --- identities ----------------------------------------------------------------------------------------------------------

GRID = sampling_sigmas(9)
START = 80 * normal(4, 2)


def end(sampler, grid=GRID, **options):
    return last_state(sampler(soft3(), START, grid, **options))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (partial(ddim), euler),
        (partial(ancestral, eta=0.0), euler),
        (partial(dpmpp_2m, order=1), euler),
        (partial(deis, order=0), euler),
        (partial(ablation, solver="euler"), euler),
        (ablation, heun),
        (partial(ablation, solver="heun", alpha=1.0, schedule=Linear(), scaling="none"), heun),
    ],
)
def test_two_names_of_one_method(a, b):
    assert close(end(a), end(b))


def test_dpm2_is_dpm_solver_2_with_r1_one_half():
    # 2206.00927, Algorithm 1 in sigma coordinates (alpha = 1, lambda = -ln sigma), written out for one step.
    oracle, (t, to) = soft3(), torch.tensor([7.0, 3.0], dtype=torch.float64)
    h, r1 = torch.log(t / to), 0.5
    s = t * (-r1 * h).exp()

    def eps(x, level):
        return (x - oracle(x, level)) / level

    x = START
    u = x - s * torch.expm1(r1 * h) * eps(x, t)
    expected = x - to * torch.expm1(h) * eps(x, t) - to / (2 * r1) * torch.expm1(h) * (eps(u, s) - eps(x, t))
    assert close(last_state(dpm2(oracle, x, torch.stack([t, to]))), expected)
    assert close(s, (t * to).sqrt())


def test_dpm_solver_3_in_the_papers_symbols():
    oracle, (t, to) = soft3(), torch.tensor([7.0, 3.0], dtype=torch.float64)
    h, r1, r2, x = torch.log(t / to), 1 / 3, 2 / 3, START

    def eps(x, level):
        return (x - oracle(x, level)) / level

    s1, s2 = t * (-r1 * h).exp(), t * (-r2 * h).exp()
    d0 = eps(x, t)
    u1 = x - s1 * torch.expm1(r1 * h) * d0
    d1 = eps(u1, s1) - d0
    u2 = x - s2 * torch.expm1(r2 * h) * d0 - s2 * r2 / r1 * (torch.expm1(r2 * h) / (r2 * h) - 1) * d1
    d2 = eps(u2, s2) - d0
    expected = x - to * torch.expm1(h) * d0 - to / r2 * (torch.expm1(h) / h - 1) * d2
    assert close(last_state(dpm_solver3(oracle, x, torch.stack([t, to]))), expected)


def test_dpm_solver_pp_in_the_papers_symbols():
    oracle, x = soft3(), START
    t = torch.tensor([7.0, 3.0, 1.0], dtype=torch.float64)
    h = torch.log(t[:-1] / t[1:])
    mid = t[0] * (-h[0] / 2).exp()
    u = mid / t[0] * x - torch.expm1(-h[0] / 2) * oracle(x, t[0])
    single = t[1] / t[0] * x - torch.expm1(-h[0]) * oracle(u, mid)
    assert close(last_state(dpmpp_2s(oracle, x, t[:2])), single)
    first = oracle(x, t[0])
    x1 = t[1] / t[0] * x - torch.expm1(-h[0]) * first
    r = h[0] / h[1]
    target = (1 + 1 / (2 * r)) * oracle(x1, t[1]) - first / (2 * r)
    assert close(last_state(dpmpp_2m(oracle, x, t)), t[2] / t[1] * x1 - torch.expm1(-h[1]) * target)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_deis_weights_integrate_polynomials_exactly(order):
    nodes, (start, stop) = [3.0, 3.9, 5.1, 8.0][: order + 1], (3.0, 1.2)
    weights = adams_bashforth(nodes, start, stop)
    for degree in range(order + 1):
        exact = (stop ** (degree + 1) - start ** (degree + 1)) / (degree + 1)
        assert sum(c * node**degree for c, node in zip(weights, nodes, strict=True)) == pytest.approx(exact, rel=1e-12)


def test_deis_order_1_on_even_levels_is_adams_bashforth():
    assert adams_bashforth([2.0, 3.0], 2.0, 1.0) == pytest.approx([-1.5, 0.5], rel=1e-12)


# --- evaluations, hooks, errors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sampler", "nfe"),
    [
        (dpm2, lambda n: 2 * n - 1),
        (partial(dpm2, rho=3.0), lambda n: 2 * n),
        (dpm_solver3, lambda n: 3 * n - 2),
        (dpmpp_2s, lambda n: 2 * n - 1),
        (dpmpp_2m, lambda n: n),
        (deis, lambda n: n),
        (heun, lambda n: 2 * n - 1),
        (ablation, lambda n: 2 * n - 1),
        (partial(ablation, solver="euler"), lambda n: n),
        (partial(ancestral, noise=[0, 1]), lambda n: n),
        (partial(predictor_corrector, noise=[0, 1]), lambda n: 2 * n - 1),
        (partial(predictor_corrector, noise=[0, 1], corrections=3, corrector_first=True), lambda n: 4 * n),
        (partial(predictor_corrector, noise=[0, 1], corrections=0, sde="vp"), lambda n: n),
    ],
)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_evaluations_are_counted_and_never_at_zero(sampler, nfe, steps):
    model = Recorder()
    states: list[Step] = list(sampler(model, 80 * normal(2, 2), sampling_sigmas(steps) if steps > 1 else torch.tensor([80.0, 0.0])))
    assert len(states) == steps
    assert states[-1].nfe == len(model.sigmas) == nfe(steps)
    assert min(model.sigmas) > 0
    assert states[-1].sigma_next == 0
    assert bool(states[-1].x.isfinite().all())


def test_midpoints():
    geometric, cubic, early = Recorder(), Recorder(), Recorder()
    levels = torch.tensor([8.0, 1.0], dtype=torch.float64)
    for model, sampler in ((geometric, dpm2), (cubic, partial(dpm2, rho=3.0)), (early, partial(dpm2, r1=1 / 3))):
        last_state(sampler(model, normal(2, 2), levels))
    assert geometric.sigmas[1] == pytest.approx(math.sqrt(8))
    assert cubic.sigmas[1] == pytest.approx(1.5**3)
    assert early.sigmas[1] == pytest.approx(4.0)
    to_zero = Recorder()
    last_state(dpm2(to_zero, normal(2, 2), torch.tensor([8.0, 0.0]), rho=3.0))
    assert to_zero.sigmas == pytest.approx([8.0, 1.0])  # an eighth, where the geometric mean takes Euler's step


def test_dpm2_churns_like_heun():
    z, x = normal(2, 2, seed=3), 3 * normal(2, 2)
    step = next(dpm2(GAUSSIAN, x, torch.tensor([3.0, 1.0]), noise=KnownDraws([z]), churn=0.25))
    raised = x + math.sqrt(3.75**2 - 9) * z
    assert step.sigma == 3.75
    assert torch.equal(step.x, last_state(dpm2(GAUSSIAN, raised, torch.tensor([3.75, 1.0]))))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SAMPLERS)
def test_the_state_keeps_its_dtype(name, dtype):
    grid = default_sigmas(name, 1 if name == "onestep" else 3)
    noise = [0, 1] if adds_noise(name, len(grid)) else None
    assert last_state(SAMPLERS[name](tiny(), normal(2, 2, dtype=dtype), grid, noise=noise)).dtype == dtype


OPTIONS = [(n, {}) for n in SAMPLERS] + [
    ("ddim", {"eta": 0.5}),
    ("dpm2", {"churn": 3.0}),
    ("predictor_corrector", {"sde": "vp", "predictor": "ancestral", "corrector_first": True}),
]


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_an_image_is_a_function_of_its_seed(name, options):
    model, steps = tiny("unet").eval(), 1 if name == "onestep" else 2
    seeds = list(range(20, 36))
    whole = sample(model, model.shape, seeds, name, steps, **options)
    for size in (1, 3):
        part = sample(model, model.shape, seeds[4 : 4 + size], name, steps, **options)
        # Not bitwise: convolutions choose other float32 algorithms for other batch sizes.
        assert float((part - whole[4 : 4 + size]).abs().max()) < 1e-4 * float(whole.abs().max())
    assert float((whole[0] - whole[1]).abs().max()) > 0.05


def test_every_option_changes_the_sample():
    def draw(name, **options):
        return sample(soft3(), (2,), [0, 1], name, 6, **options)

    for name, changes in {
        "dpm2": [{"r1": 0.7}, {"rho": 3.0}, {"churn": 3.0}],
        "dpmpp_2m": [{"order": 1}],
        "deis": [{"order": 1}, {"order": 2}],
        "ddim": [{"eta": 0.5}],
        "ancestral": [{"eta": 0.5}, {"eta": 0.0}],
        "predictor_corrector": [
            {"sde": "vp"},
            {"predictor": "ancestral"},
            {"corrections": 2},
            {"corrections": 0},
            {"snr": 0.1},
            {"corrector_first": True},
            {"batch_norms": True},
        ],
        "multistep": [{"sigma_min": 0.5}],
    }.items():
        base = draw(name)
        for change in changes:
            assert not torch.equal(base, draw(name, **change)), (name, change)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("dpm2", {"r1": 0.0}, "r1 must lie"),
        ("dpm2", {"rho": 0.0}, "rho must be above 0"),
        ("dpmpp_2m", {"order": 3}, "order must be 1 or 2"),
        ("deis", {"order": 4}, "order must be 0, 1, 2 or 3"),
        ("ancestral", {"eta": 1.5}, "eta must lie"),
        ("heun", {"churn_min": 1.0}, "need churn > 0"),
        ("predictor_corrector", {"sde": "vpp"}, "choose one of ve, vp"),
        ("predictor_corrector", {"predictor": "euler"}, "choose one of reverse_diffusion, ancestral"),
        ("predictor_corrector", {"snr": 0.0}, "snr > 0"),
        ("predictor_corrector", {"corrections": -1}, "corrections >= 0"),
        ("progressive", {"sigmas": torch.tensor([2.0, 1.0, 0.0])}, "leave out the 0"),
        ("deis", {"sigmas": torch.tensor([2.0, 2.0, 0.0])}, "must decrease"),
        ("heun", {"eta": 0.5}, "heun has no option 'eta': it takes project, churn"),
        ("euler", {"churn": 1.0}, "euler has no option 'churn': it takes project"),
    ],
)
def test_wrong_options_are_errors(name, options, message):
    with pytest.raises(ValueError, match=message):
        sample(GAUSSIAN, (2,), [0], name, 3, **options)


@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_that_is_not_used_or_missing_is_an_error(name):
    grid = default_sigmas(name, 1 if name == "onestep" else 3)
    if name in SAMPLERS.of_kind("consistency", "sde") and len(grid) > 1:
        with pytest.raises(ValueError, match="pass noise="):
            last_state(SAMPLERS[name](GAUSSIAN, normal(2, 2), grid))
    elif name in SAMPLERS.of_kind("ode", "distilled"):
        with pytest.raises(ValueError, match="leave noise out"):
            last_state(SAMPLERS[name](GAUSSIAN, normal(2, 2), grid, noise=[0, 1]))


def test_names_are_known_before_their_modules_are_imported():
    assert list(SAMPLERS.texts()) == list(SAMPLERS)
    assert all(record.label and record.help and record.kind for record in SAMPLERS.texts().values())


# --- samplers that add noise ---------------------------------------------------------------------------------------------


def test_ancestral_levels_split_the_variance():
    a, b = torch.tensor([5.0, 0.3]).double(), torch.tensor([2.0, 0.0]).double()
    for eta in (0.0, 0.4, 1.0):
        down, up = ancestral_levels(a, b, eta)
        assert torch.allclose(down**2 + up**2, b**2)
        assert torch.allclose(up, eta * b * (1 - (b / a) ** 2).sqrt())
    assert torch.allclose(ancestral_levels(a, b)[0], b**2 / a)


def test_ancestral_draws_from_the_posterior():
    # q(x_next | x, x0) of the noise process: mean x0 + (t'/t)^2 (x - x0), variance t'^2 (t^2 - t'^2) / t^2 (DDPM, eqs. 6, 7).
    x, z, t, to = 5 * normal(3, 2), normal(3, 2, seed=1), 5.0, 2.0
    step = next(ancestral(GAUSSIAN, x, torch.tensor([t, to]).double(), noise=KnownDraws([z])))
    expected = step.x0_hat + (to / t) ** 2 * (x - step.x0_hat) + to * math.sqrt(1 - (to / t) ** 2) * z
    assert close(step.x, expected)


def vp(sigma):
    """sqrt(abar) of a level."""
    return 1 / math.sqrt(1 + sigma**2)


def test_ddim_with_eta_is_the_papers_in_vp_coordinates():
    # DDIM, eqs. 12 and 16, with alpha = abar.
    x, z, t, to, eta = 5 * normal(3, 2), normal(3, 2, seed=1), 5.0, 2.0, 0.7
    step = next(ddim(GAUSSIAN, x, torch.tensor([t, to]).double(), noise=KnownDraws([z]), eta=eta))
    a, a_next = vp(t) ** 2, vp(to) ** 2
    spread = eta * math.sqrt((1 - a_next) / (1 - a)) * math.sqrt(1 - a / a_next)
    y = vp(t) * x
    eps = (y - math.sqrt(a) * step.x0_hat) / math.sqrt(1 - a)
    y_next = math.sqrt(a_next) * step.x0_hat + math.sqrt(1 - a_next - spread**2) * eps + spread * z
    assert close(step.x, y_next / math.sqrt(a_next))


def langevin(x, score, z, alpha, snr, ratio):
    a = 2 * alpha * (snr * ratio) ** 2
    return x + a * score + math.sqrt(2 * a) * z


def test_predictor_corrector_ve_is_algorithm_1():
    t, to, below, snr = 5.0, 2.0, 0.7, 0.2
    x, (z, z1, z2) = 5 * normal(3, 2), (normal(3, 2, seed=k) for k in (1, 2, 3))
    levels = torch.tensor([t, to, below]).double()
    step = next(predictor_corrector(GAUSSIAN, x, levels, noise=KnownDraws([z, z1, z2]), corrections=2, snr=snr))
    y = x + (t**2 - to**2) * GAUSSIAN.score(x, levels[0]) + math.sqrt(t**2 - to**2) * z
    for noise in (z1, z2):
        y = langevin(y, GAUSSIAN.score(y, levels[1]), noise, 1.0, snr, to)
    assert close(step.x, y)
    assert (step.nfe, step.sigma, step.sigma_next) == (3, t, to)


def test_predictor_corrector_vp_is_algorithm_2():
    t, to, below, snr = 5.0, 2.0, 0.75, 0.2
    levels = torch.tensor([t, to, below]).double()
    x, (z, z1) = 5 * normal(3, 2), (normal(3, 2, seed=k) for k in (1, 2))
    step = next(predictor_corrector(GAUSSIAN, x, levels, noise=KnownDraws([z, z1]), sde="vp", snr=snr))

    def score(y, sigma):  # of the VP state y = sqrt(abar) x
        return GAUSSIAN.score(y / vp(sigma), torch.tensor(sigma).double()) / vp(sigma)

    beta = 1 - (vp(t) / vp(to)) ** 2
    y = (2 - math.sqrt(1 - beta)) * vp(t) * x + beta * score(vp(t) * x, t) + math.sqrt(beta) * z
    alpha = (vp(to) / vp(below)) ** 2  # 1 - beta of the step below
    y = langevin(y, score(y, to), z1, alpha, snr, math.sqrt(1 - vp(to) ** 2))
    assert close(step.x, y / vp(to))


def test_the_ancestral_predictor():
    t, to = torch.tensor([5.0, 2.0]).double()
    x, z = 5 * normal(3, 2), normal(3, 2, seed=1)
    options = {"predictor": "ancestral", "corrections": 0}
    ve = next(predictor_corrector(GAUSSIAN, x, torch.stack([t, to]), noise=KnownDraws([z]), **options))
    assert close(ve.x, next(ancestral(GAUSSIAN, x, torch.stack([t, to]), noise=KnownDraws([z]))).x)
    # DDPM's two choices of variance: the VP predictor has beta where q(x_next | x, x0) has beta (1 - abar') / (1 - abar).
    narrow, wide = (
        next(predictor_corrector(GAUSSIAN, x, torch.stack([t, to]), noise=KnownDraws([z]), sde=sde, **options)).x - ve.x0_hat
        for sde in ("ve", "vp")
    )
    mean = (to / t) ** 2 * (x - ve.x0_hat)
    ratio = math.sqrt((1 - vp(float(t)) ** 2) / (1 - vp(float(to)) ** 2))
    assert close(wide - mean, ratio * (narrow - mean))


def test_corrector_first_is_the_other_order():
    t, to, snr = torch.tensor(5.0).double(), torch.tensor(2.0).double(), 0.2
    x, (z, z1) = 5 * normal(3, 2), (normal(3, 2, seed=k) for k in (1, 2))
    levels = torch.stack([t, to])
    step = next(predictor_corrector(GAUSSIAN, x, levels, noise=KnownDraws([z1, z]), snr=snr, corrector_first=True))
    y = langevin(x, GAUSSIAN.score(x, t), z1, 1.0, snr, float(t))
    y = y + (t**2 - to**2) * GAUSSIAN.score(y, t) + (t**2 - to**2).sqrt() * z
    assert close(step.x, y)


def test_batch_norms_are_the_official_step_size():
    t, to, snr = 5.0, 2.0, 0.2
    levels = torch.tensor([t, to]).double()
    x, (z, z1) = 5 * normal(3, 2), (normal(3, 2, seed=k) for k in (1, 2))
    step = next(predictor_corrector(GAUSSIAN, x, levels, noise=KnownDraws([z, z1]), snr=snr, batch_norms=True))
    y = x + (t**2 - to**2) * GAUSSIAN.score(x, levels[0]) + math.sqrt(t**2 - to**2) * z
    score = GAUSSIAN.score(y, levels[1])
    ratio = float(z1.norm(dim=1).mean() / score.norm(dim=1).mean())
    assert close(step.x, langevin(y, score, z1, 1.0, snr, ratio))


def test_the_last_step_returns_the_mean():
    for sde in ("ve", "vp"):
        states = list(predictor_corrector(GAUSSIAN, 80 * normal(2, 2), sampling_sigmas(4), noise=[0, 1], sde=sde))
        # VP's reverse diffusion keeps a share 1 - sqrt(abar) = 2e-6 of the state.
        assert close(states[-1].x, states[-1].x0_hat, 0 if sde == "ve" else 1e-5)


CENTRED = Gaussian(torch.zeros(2), 0.5)


def final_variance(
    grid: list[float], eta=1.0, sde="ve", predictor="ancestral", corrections=0, snr=0.16, corrector_first=False
) -> float:
    """The variance that an SDE sampler leaves on N(0, I / 4): on a Gaussian every step is linear, so it is known exactly."""
    v = 0.25
    now = v + grid[0] ** 2

    def langevin_steps(now, sigma, below):
        alpha = (vp(sigma) / vp(below)) ** 2 if sde == "vp" else 1.0
        a = 2 * alpha * (snr * sigma) ** 2  # in x; VP's own is abar times that
        for _ in range(corrections):
            now = (1 - a / (v + sigma**2)) ** 2 * now + 2 * a
        return now

    for k, (t, to) in enumerate(pairwise(grid)):
        if corrector_first:
            now = langevin_steps(now, t, to)
        pull = (v / (v + t**2) - 1) / t**2  # score = pull x
        if sde == "ve":
            gain, spread2 = 1 + (t**2 - to**2) * pull, t**2 - to**2
            if predictor == "ancestral":
                down, up = (float(w) for w in ancestral_levels(torch.tensor(t).double(), torch.tensor(to).double(), eta))
                gain, spread2 = 1 + (t - down) * t * pull, up**2
        else:
            keep, r, r_next = vp(t) / vp(to), vp(t), vp(to)
            b = 1 - keep**2
            mean = (r + b * pull / r) / keep if predictor == "ancestral" else (2 - keep) * r + b * pull / r
            gain, spread2 = mean / r_next, b / r_next**2
        now = gain**2 * now + (spread2 if to > 0 else 0)
        if to > 0 and not corrector_first:
            now = langevin_steps(now, to, grid[k + 2] if k + 2 < len(grid) else 0.0)
    return now


SDES = [("ancestral", {}), ("ancestral", {"eta": 0.5})] + [
    ("predictor_corrector", {"sde": sde, "predictor": predictor, "corrections": m, "snr": 0.4, "corrector_first": first})
    for sde in ("ve", "vp")
    for predictor in ("reverse_diffusion", "ancestral")
    for m, first in ((0, False), (2, False), (2, True))
]


@pytest.mark.parametrize(("name", "options"), SDES)
def test_sde_samplers_have_the_statistics_of_their_recursion(name, options):
    # Few steps: the sampler's own error is large, and known exactly. What is left is the Monte-Carlo error of 20,000 numbers.
    grid, n = sampling_sigmas(12, 0.02, 20.0), 20_000
    x = math.hypot(20, 0.5) * normal(n // 2, 2, seed=7)
    drawn = last_state(SAMPLERS[name](CENTRED, x, grid, noise=seeded(5), **options))
    expected = final_variance(grid.tolist(), **options)
    assert float(drawn.square().mean()) == pytest.approx(expected, rel=4 * math.sqrt(2 / n))
    assert float(drawn.mean(0).abs().max()) < 4 * math.sqrt(expected / (n / 2))


@pytest.mark.parametrize("sde", ["ve", "vp"])
@pytest.mark.parametrize("predictor", ["reverse_diffusion", "ancestral"])
def test_the_corrector_mends_what_the_predictor_leaves(sde, predictor):
    grid = sampling_sigmas(12, 0.02, 20.0).tolist()
    alone, corrected = (abs(final_variance(grid, 1.0, sde, predictor, m, 0.4) - 0.25) for m in (0, 5))
    assert corrected < alone / 2


@pytest.mark.parametrize(("name", "options"), SDES[:3] + SDES[6:9])
def test_sde_samplers_are_of_first_order(name, options):
    options = {k: v for k, v in options.items() if k != "corrections"}
    errors = [abs(final_variance(sampling_sigmas(n, 0.02, 20.0).tolist(), **options) - 0.25) for n in (200, 400)]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1, abs=0.15)


# --- what the network knows ----------------------------------------------------------------------------------------------


def mlp(precond) -> Denoiser:
    return Denoiser(randomise(build_network(MLPConfig(width=12, depth=2, freqs=3), (2,))), precond, (2,))


def test_levels_stay_within_those_of_the_models_training():
    assert level_range(GAUSSIAN) == (0.002, 80.0)
    assert level_range(mlp(VEPrecond(0.02, 50.0))) == (0.02, 50.0)
    assert level_range(mlp(Precond(sigma_min=0.01))) == (0.01, 80.0)
    seen = Recorder(mlp(VEPrecond(0.02, 50.0)))
    sample(seen, (2,), [0], "euler", 5)
    assert (seen.sigmas[0], seen.sigmas[-1]) == (50.0, 0.02)


@pytest.mark.parametrize("name", SAMPLERS.of_kind("ode", "distilled", "sde"))
def test_a_network_with_a_table_is_asked_at_its_levels(name):
    precond = IDDPMPrecond(steps=20)
    seen = Recorder(mlp(precond))
    options: dict = {"churn": 8.0} if name == "heun" else {}
    x = sample(seen, (2,), [0, 1], name, 12, **options)  # 12 Karras levels, some of which are rounded to the same entry
    assert bool(x.isfinite().all())
    if name not in ("dpm2", "dpm_solver3", "dpmpp_2s"):  # those evaluate in between
        assert {round(s, 9) for s in seen.sigmas} <= {round(s, 9) for s in precond.table.tolist()}


def test_a_level_that_would_be_rounded_to_zero_is_an_error():
    model = mlp(IDDPMPrecond())
    assert round_level(model, torch.tensor([0.0])).tolist() == [0.0]
    with pytest.raises(ValueError, match=r"lowest level is 0\.00642"):
        last_state(euler(model, normal(2, 2), sampling_sigmas(4)))


def test_multistep_adds_noise_above_the_models_own_lowest_level():
    model = tiny(precond=Precond(sigma_min=0.5))
    z = normal(2, 2, seed=2)
    for sampler, floor in ((multistep, 0.5), (partial(multistep, sigma_min=0.0), 0.0)):
        first = next(sampler(model, 5 * normal(2, 2), torch.tensor([5.0, 1.0]).double(), noise=KnownDraws([z])))
        assert close(first.x - first.x0_hat, math.sqrt(1 - floor**2) * z)


# --- EDM's ablation sampler ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scaling", ["none", "vp"])
@pytest.mark.parametrize("schedule", ["linear", "vp", "ve"])
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_every_curve_and_scaling_integrates_the_same_ode(solver, schedule, scaling):
    # Time steps of their own curve, fine and coarse: all go to the exact flow, with the solver's order.
    steps = {"linear": "edm", "vp": "vp", "ve": "ve"}[schedule]
    errors = []
    for n in (100, 200, 400):
        grid, curve = design(n, steps, schedule, sigma_min=0.1, sigma_max=10.0, epsilon=0.01)
        states = list(ablation(GAUSSIAN, 10 * normal(8, 2), grid, solver=solver, schedule=curve, scaling=scaling))
        errors.append(float((states[-2].x - GAUSSIAN.flow(10 * normal(8, 2), 10.0, 0.1)).norm()))
        assert states[-2].sigma_next == pytest.approx(0.1)
    assert math.log2(errors[1] / errors[2]) == pytest.approx({"euler": 1, "heun": 2}[solver], abs=0.35)


def test_ablation_samplers_with_churn_are_edms():
    z, x = [normal(2, 2, seed=k) for k in range(6)], 80 * normal(2, 2)
    options: dict = {"churn": 3.0, "churn_min": 0.05, "churn_max": 50.0, "churn_noise": 1.01}
    a = last_state(ablation(soft3(), x, sampling_sigmas(6), noise=KnownDraws(z), **options))
    assert close(a, last_state(heun(soft3(), x, sampling_sigmas(6), noise=KnownDraws(z), **options)))


def test_designs():
    for name, low, high in (("edm", 0.002, 80.0), ("ve", 0.02, 100.0), ("vp", 0.010512, 152.167), ("iddpm", 0.0064, 81.0)):
        grid, _ = design(10, name)
        assert len(grid) == 11
        assert grid[-1] == 0
        assert grid[-2].item() == pytest.approx(low, rel=2e-2)
        assert grid[0].item() == pytest.approx(high, rel=2e-2)
        assert bool((grid.diff() < 0).all())
    grid, curve = design(5, "edm", "vp", sigma_min=0.05, sigma_max=20.0, epsilon=0.01)
    assert isinstance(curve, VP)
    assert curve.sigma(torch.tensor([0.01, 1.0]).double()).tolist() == pytest.approx([0.05, 20.0])
    assert (grid[0].item(), grid[-2].item()) == (20.0, 0.05)
    assert isinstance(design(5, "ve", "ve")[1], VE)
    limited, _ = design(5, "ve", denoise=mlp(VEPrecond(0.03, 40.0)))
    assert (limited[0].item(), limited[-2].item()) == pytest.approx((40.0, 0.03))
    assert not torch.equal(design(5, rho=3.0)[0], design(5)[0])
    assert not torch.equal(design(5, "iddpm", c2=0.01, steps=200)[0], design(5, "iddpm")[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: design(5, "dpm"), "unknown time steps 'dpm': choose one of vp"),
        (lambda: design(5, "vp", "cosine"), "unknown schedule 'cosine': choose one of vp"),
        (lambda: design(5, "vp", rho=3.0), "rho belongs to the time steps 'edm'"),
        (lambda: design(5, "vp", steps=10), "belong to the time steps 'iddpm'"),
        (lambda: end(partial(ablation, solver="rk4")), "unknown solver 'rk4': choose one of euler, heun"),
        (lambda: end(partial(ablation, scaling="ve")), "unknown scaling 've': choose one of vp, none"),
        (lambda: end(partial(ablation, alpha=0.0)), "alpha must lie"),
        (lambda: end(partial(ablation, solver="euler", alpha=0.5)), "alpha belongs to solver 'heun'"),
        (lambda: end(ablation, karras_sigmas(4)), "put a 0 at the end"),
        (lambda: end(partial(ablation, noise=[0, 1])), "leave noise out"),
    ],
)
def test_wrong_designs_are_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_alpha_one_half_is_the_midpoint_rule():
    oracle, (t, to) = soft3(), torch.tensor([7.0, 3.0], dtype=torch.float64)
    mid = (t + to) / 2
    u = START + (mid - t) * (START - oracle(START, t)) / t
    expected = START + (to - t) * (u - oracle(u, mid)) / mid
    assert close(next(ablation(oracle, START, torch.stack([t, to, torch.zeros_like(t)]), alpha=0.5)).x, expected)
