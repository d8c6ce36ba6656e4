"""The measured theorems: zero-loss models, orders of convergence, CT against CD, and their gradients (methods sheet, D1 to D5)."""

import copy
import json
import math
from typing import cast

import pytest
import torch
from conftest import normal, seeded

from cmlab import CONSISTENCY, Denoiser, Distance, Gaussian, MLPConfig, Precond, build_network, karras_sigmas, load_data, theory
from cmlab.base.rng import global_seed
from cmlab.commands.main import main
from cmlab.data import MixtureData
from cmlab.formats import checkpoints
from cmlab.losses import ConsistencyLoss
from cmlab.schedules import FixedMu, FixedN, GridPairs
from cmlab.theory.base import FixedDraws, fit_slope, posterior, stratified
from cmlab.theory.variance import _mean_gradient, _second_moments
from cmlab.training import fit
from cmlab.training.presets import find

SIZES = (40, 80, 160, 320)  # over 40 to 1280, too slow for a test, the slopes are 0.992 and 2.018: `cmlab theory thm1`


def level(sigma: float) -> torch.Tensor:
    return torch.tensor(sigma, dtype=torch.float64)


def bundled(name: str):
    return checkpoints.load(find(name))[0]


# --- the zero-loss model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["euler", "heun", "midpoint"])
@pytest.mark.parametrize("n", [2, 18, 40])
def test_the_loss_of_a_composed_solver_is_zero_bitwise(solver, n):
    assert theory.zero_loss(n, solver, points=200) == 0.0


def test_the_loss_of_another_solver_is_not_zero():
    oracle, loss = theory.soft3(), ConsistencyLoss(GridPairs(FixedN(18)), "euler")
    out = loss(theory.zero_loss_model(oracle, 18, "heun"), oracle.sample(64, seeded()), teacher=oracle, draws=seeded())
    assert float(out.loss.mean()) > 1e-4


def test_a_zero_loss_model_is_the_identity_at_its_last_level_and_constant_along_its_own_path():
    model, x = theory.zero_loss_model(theory.soft3(), 12, "heun"), normal(5, 2)
    assert torch.equal(model(x, level(0.002)), x)
    start = 80 * x
    assert torch.equal(model(model.walk(start, 0, 4), model.sigmas[4]), model(start, level(80.0)))


def test_levels_per_sample_are_those_one_by_one():
    model, x = theory.zero_loss_model(theory.soft3(), 10, "euler"), normal(10, 2)
    together = model(x, model.sigmas)
    alone = torch.cat([model(x[k : k + 1], model.sigmas[k]) for k in range(10)])
    assert float((together - alone).abs().max()) < 1e-13


def test_a_zero_loss_model_knows_the_levels_of_its_grid_alone():
    model = theory.zero_loss_model(theory.soft3(), 10)
    assert model(normal(2, 2, dtype=torch.float32), model.sigmas[3].float()).dtype == torch.float32
    with pytest.raises(ValueError, match="10 levels of its grid"):
        model(normal(2, 2), level(1.0))
    with pytest.raises(ValueError, match="did you mean 'heun'"):
        theory.zero_loss_model(theory.soft3(), 10, "hen")
    with pytest.raises(ValueError, match="two decreasing noise levels"):
        theory.zero_loss_model(theory.soft3(), torch.tensor([1.0, 2.0]))


# --- Theorem 1 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_theorem1_the_slope_is_the_solvers_order(solver, order):
    result = theory.theorem1(solver, sizes=SIZES, points=32)
    assert result.slope() == pytest.approx(order, abs=0.05)
    assert all(abs(s - order) < 0.05 for s in result.local_slopes())
    assert result.slope(of="rms") == pytest.approx(order, abs=0.05)


def test_the_largest_step_is_a_misleading_abscissa_on_coarse_grids():
    result = theory.theorem1("heun", sizes=(18, 40, 80), points=32)
    grid, largest = result.local_slopes()[-1], result.local_slopes("largest")[-1]
    assert abs(grid - 2) < 0.05 < 0.1 < largest - 2  # methods sheet: 2.045 and 2.137
    assert result.largest[0] / 80 > 0.25


def test_sharp_mixtures_hide_the_order_from_the_largest_error_alone():
    result = theory.theorem1("heun", theory.ring(0.1), (80, 160, 320), points=192, levels=[80.0])
    assert result.slope(80, 320) < 1.95 < result.slope(80, 320, of="rms")


def test_the_midpoint_rule_in_sigma_seems_of_third_order_on_one_gaussian():
    gaussian = Gaussian(torch.zeros(2), 0.5)
    slopes = {
        name: theory.theorem1(name, gaussian, (40, 80, 160), points=16).slope() for name in ("midpoint", "midpoint-sigma", "heun")
    }
    assert slopes["midpoint-sigma"] == pytest.approx(3, abs=0.05)
    assert slopes["midpoint"] == pytest.approx(2, abs=0.05) and slopes["heun"] == pytest.approx(2, abs=0.05)
    assert theory.theorem1("midpoint-sigma", sizes=(80, 160, 320), points=32).slope() == pytest.approx(2, abs=0.1)


def test_even_spacing_is_far_from_asymptotic():
    result = theory.theorem1("euler", Gaussian(torch.zeros(2), 0.5), (20, 40, 80), points=16, rho=1.0)
    assert result.slope(20, 80) < 0.5


def test_a_trained_model_has_a_floor_that_finer_grids_pass():
    oracle = load_data("8gaussians").oracle  # type: ignore[union-attr]
    floor = theory.trained_floor(
        bundled("8gaussians-cd"), oracle, sizes=(10, 40, 80), teacher=bundled("8gaussians-edm"), points=64, levels=[80.0, 1.0]
    )
    assert floor.curve.rms_error[0] > floor.rms_error > floor.curve.rms_error[1]
    assert floor.takes_over() == 40 and floor.takes_over("max") in (40, 80)
    # Distilled from a teacher that errs: nearer to the teacher's flow than to the data's.
    assert floor.teacher_rms is not None and floor.teacher_rms < floor.rms_error < 0.1


def test_errors_come_from_the_middle_levels():
    gaussian = Gaussian(torch.zeros(2), 0.5)
    for solver, share in (("euler", 0.81), ("heun", 0.89)):  # methods sheet, caveat d
        origins = theory.error_origins(solver, gaussian, 80)
        assert origins.share(0.2, 2) == pytest.approx(share, abs=0.02)
        assert origins.share(10, 80) < 0.02
    assert float(origins.sigma[0]) == 80.0 and len(origins.rms) == 79


def test_stretch_of_a_gaussian_is_its_closed_form():
    s = theory.stretch(2.0, Gaussian(torch.zeros(2), 0.5), points=8)
    slope = math.sqrt((0.25 + 0.002**2) / (0.25 + 4))
    assert torch.allclose(s.largest, torch.full((8,), slope, dtype=torch.float64), rtol=1e-12)
    assert torch.allclose(s.det, s.largest * s.smallest) and s.quantile(0.5) == pytest.approx(2 * slope)


def test_the_consistency_function_is_invertible_and_steep_at_the_borders_of_modes():
    s = theory.stretch(80.0, theory.ring(), points=128)
    assert float(s.det.min()) > 0
    assert s.quantile(0.5) < 0.5 < 3 < s.quantile(1.0)


# --- Theorem 2 -----------------------------------------------------------------------------------------------------------


def test_the_quadrature_has_the_moments_of_the_posterior():
    oracle, sigma = theory.ring(0.3), torch.tensor([0.05, 0.5, 3.0, 80.0], dtype=torch.float64)
    x = oracle.sample(4, seeded()) + sigma[:, None] * normal(4, 2)
    points, weights = posterior(oracle, x, sigma, 4)
    mean = (weights.unsqueeze(-1) * points).sum(1)
    trace = (weights * (points - mean.unsqueeze(1)).square().sum(-1)).sum(1)
    assert torch.allclose(weights.sum(1), torch.ones(4, dtype=torch.float64))
    assert torch.allclose(mean, oracle(x, sigma), atol=1e-12)
    assert torch.allclose(trace, oracle.covariance_trace(x, sigma), rtol=1e-9)


def test_theorem2_takes_the_librarys_own_losses():
    oracle, n = theory.soft3(), 20
    model, aim = theory.random_model(0), theory.random_model(1)
    result = theory.theorem2(sizes=(n, 2 * n), points=2, strata=4, nodes=5)
    x0, draws = stratified(oracle, 2, 4, 0)

    def loss(bridge, x0, draws):
        teacher = oracle if bridge == "euler" else None
        kind = ConsistencyLoss(GridPairs(FixedN(n)), bridge, Distance("l2"), "1", FixedMu(0.5))
        return kind(model, x0, target=aim, teacher=teacher, draws=draws).loss.detach()

    assert result.cd[0] == pytest.approx(float(loss("euler", x0, draws).mean()), rel=1e-12)
    u = draws.uniform((8,))
    sigma = GridPairs(FixedN(n))(8, 0.0, draws)[0]
    x = x0 + sigma[:, None] * draws.normal(x0.shape)
    points, weights = posterior(oracle, x, sigma, 5)
    eps = (x.unsqueeze(1) - points) / sigma.reshape(-1, 1, 1)
    many = FixedDraws(u.repeat_interleave(points.shape[1]), eps.flatten(0, 1))
    every = loss("noise", points.flatten(0, 1), many).reshape(weights.shape)
    assert result.ct[0] == pytest.approx(float((weights * every).sum(1).mean()), rel=1e-9)


def test_theorem2_the_difference_falls_with_the_square_of_the_step():
    result = theory.theorem2(sizes=(80, 160, 320, 640), points=24, strata=48, nodes=5)
    assert result.slope(80, 640) == pytest.approx(2, abs=0.1)
    assert abs(result.slope(80, 640, "cd")) < 0.05 and result.ratio[-1] == pytest.approx(1, abs=1e-3)
    assert all(b > a for a, b in zip(result.ct_per_step, result.ct_per_step[1:], strict=False))


def test_theorem2_with_the_online_target_leaves_a_ratio_other_than_one():
    result = theory.theorem2(target="online", sizes=(160, 320, 640), points=24, strata=48, nodes=5)
    assert result.slope(160, 640) == pytest.approx(2, abs=0.1) and result.slope(160, 640, "cd") == pytest.approx(2, abs=0.1)
    assert min(result.ratio) > 1.2 and max(result.ratio) - min(result.ratio) < 0.02


def test_theorem2_needs_a_distance_with_a_second_derivative():
    result = theory.theorem2("l1", "online", sizes=(160, 320, 640), points=24, strata=48, nodes=5)
    for of in ("difference", "cd", "ct"):
        assert result.slope(160, 640, of) == pytest.approx(1, abs=0.05)
    assert min(result.ratio) > 1.05


def test_theorem2_with_l1_holds_where_the_two_networks_differ():
    result = theory.theorem2("l1", "other", sizes=(80, 640), points=24, strata=48, nodes=5)
    assert result.slope(80, 640) == pytest.approx(2, abs=0.2)  # 2.12: l1 has kinks
    assert result.ratio[-1] == pytest.approx(1, abs=1e-3)


# --- the CT gradient -----------------------------------------------------------------------------------------------------


def test_the_gradients_are_those_of_the_librarys_losses():
    """CD's mean gradient and the second moment of one sample's, by autograd on one sample after the other."""
    oracle, model, n = theory.soft3(), theory.random_model(3).requires_grad_(True), 12
    x0, draws = stratified(oracle, 2, 3, 0)
    weights = list(model.parameters())
    loss = ConsistencyLoss(GridPairs(FixedN(n)), "euler", Distance("l2"), "1")(model, x0, teacher=oracle, draws=draws).loss
    each = [torch.cat([g.flatten() for g in torch.autograd.grad(one, weights, retain_graph=True)]) for one in loss]
    sigma, sigma_next = GridPairs(FixedN(n))(6, 0.0, draws)
    x = x0 + sigma[:, None] * draws.normal(x0.shape)
    with torch.no_grad():
        d = oracle(x, sigma)
        y = d + (sigma_next / sigma)[:, None] * (x - d)
        gap = 2 * (model(x, sigma) - model(y, sigma_next))
    assert torch.allclose(_mean_gradient(model, x, sigma, gap), torch.stack(each).mean(0), rtol=1e-9, atol=1e-12)
    square = _second_moments(model, x, sigma, (gap.unsqueeze(2) * gap.unsqueeze(1))[None])
    assert float(square[0]) == pytest.approx(float(torch.stack(each).square().sum(1).mean()), rel=1e-9)


def test_the_bias_falls_like_one_over_n_and_turns_the_gradient_round_late_in_training():
    """Near the end the CT gradient at its N has vanished: the true gradient is the bias with its sign turned."""
    with global_seed(0):
        start = Denoiser(build_network(MLPConfig(width=16, depth=2), (2,)), CONSISTENCY, (2,))
    loss, data = ConsistencyLoss(GridPairs(FixedN(16)), "noise", weight="1"), MixtureData(theory.soft3())
    *_, state = fit(copy.deepcopy(start), data, loss, steps=500, batch=128, lr=1e-3, ema=0.995, every=500)
    late = cast(Denoiser, state.ema)
    before, after = (theory.ct_gradient(m, sizes=(2, 32, 64, 128), points=24, spread=32) for m in (start, late))
    for result in (before, after):
        assert result.slope(32, 128) == pytest.approx(-1, abs=0.1)
        assert result.cosine[-1] > 0.99
        assert result.std[-1] == pytest.approx(result.std[-2], rel=0.1), "the variance saturates"
        assert result.std[-1] > result.cd_std[-1]
    assert after.cosine[0] < -0.8, "with two levels the gradient points backwards"
    assert after.bias[0] > 1.5 * before.bias[0] and after.bias[-1] > 1.5 * before.bias[-1]


def test_every_sample_alike_has_no_bias_where_the_data_are_one_point():
    """One Gaussian of no width: given x there is one x0, so CT's target is the exact flow's and nothing varies but x."""
    oracle = Gaussian(torch.tensor([0.3, -0.2]), 1e-6)
    result = theory.ct_gradient(theory.random_model(0), oracle, (4, 16), points=2, strata=8, spread=16, nodes=2)
    assert max(result.bias) < 1e-4 and min(result.cosine) > 1 - 1e-8
    assert result.std == pytest.approx(result.cd_std, rel=1e-4)


# --- continuous time -----------------------------------------------------------------------------------------------------


def test_losses_and_gradients_tend_to_their_continuous_limits():
    result = theory.continuous_limit((80, 160, 320, 640), points=4, strata=640)
    assert abs(result.value[-1] - 1) < 0.01
    for of in ("cd", "ct"):
        assert result.slope(80, 640, of) == pytest.approx(1, abs=0.15)
    assert max(result.cd_gradient[-1], result.ct_gradient[-1]) < 0.02


# --- arguments and the command line --------------------------------------------------------------------------------------


def test_slopes_are_those_of_powers():
    x = [0.5, 0.25, 0.125]
    assert fit_slope(x, [3 * v**1.7 for v in x]) == pytest.approx(1.7)
    with pytest.raises(ValueError, match="at least two sizes"):
        fit_slope([0.5], [1.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: theory.theorem1(sizes=(40, 20)), "growing and at least 2"),
        (lambda: theory.theorem1(sizes=(10, 20), points=0), "at least 1 point"),
        (lambda: theory.theorem1(sizes=(10, 20), levels=[100.0]), "choose other levels"),
        (lambda: theory.theorem2(target="ema"), "unknown target 'ema'"),  # type: ignore[arg-type]
        (lambda: theory.ct_gradient(theory.random_model(), weight="2"), "unknown weight '2'"),  # type: ignore[arg-type]
        (lambda: theory.error_origins("hen"), "did you mean 'heun'"),
    ],
)
def test_wrong_arguments_say_what_to_do(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_nothing_is_drawn_from_the_global_generator(untouched_rng):
    theory.theorem2(sizes=(10, 20), points=1, strata=2, nodes=2)
    theory.theorem1(sizes=(3, 4), points=2)


def test_random_models_are_consistency_models():
    model, x = theory.random_model(1).requires_grad_(False), normal(4, 2)
    assert torch.equal(model(x, level(0.002)), x) and model.precond == Precond(sigma_min=0.002)
    assert not torch.equal(model(x, level(5.0)), theory.random_model(2)(x, level(5.0)))


@pytest.mark.parametrize(
    ("words", "keys"),
    [
        ("thm1 --solver euler --sizes 10 20 40 --points 8", ("grid", "largest")),
        ("thm1 --checkpoint 8gaussians-cd --sizes 4 8 --points 4", ("grid", "largest")),
        ("thm2 --target online --distance huber --sizes 10 20 40 --points 2", ("difference", "cd", "ct")),
        ("variance --weight 1/dt --sizes 4 8 --points 1", ("bias",)),
    ],
)
def test_command(words, keys, tmp_path, capsys):
    assert main(["theory", *words.split(), "--json", f"{tmp_path}/a.json", "--figure", f"{tmp_path}/a.png"]) == 0
    text = capsys.readouterr().out
    slope = json.loads((tmp_path / "a.json").read_text())["slope"]
    assert tuple(slope) == keys and f"{next(iter(slope.values())):.3f}" in text
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert main(["theory", *words.split(), "--json", f"{tmp_path}/a.json"]) == 1
    assert "--overwrite" in capsys.readouterr().err


def test_grids_of_the_model_are_the_losss_own():
    assert torch.equal(theory.zero_loss_model(theory.soft3(), 30).sigmas, karras_sigmas(30))
