"""The objectives, checked by what they must equal: exact oracles, each other, and the definition."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from conftest import KnownDraws, normal, randomise, seeded, soft3, tiny
from torch import nn

from cmlab.denoiser import CONSISTENCY, EDM, Denoiser, Precond
from cmlab.distances import Distance
from cmlab.losses import BRIDGES, LOSSES, WEIGHTS, ConsistencyLoss, DenoisingLoss, EDMLoss, cd, ct, ect, ict
from cmlab.methods.progressive import HalvingN, ProgressiveLoss
from cmlab.methods.scalings import IDDPMPrecond, LogUniform, TableUniform, VEPrecond, VPPrecond, VPTime, iddpm, ve, vp
from cmlab.noise import expand, karras_sigmas
from cmlab.oracle import Gaussian
from cmlab.samplers import euler
from cmlab.schedules import AdaptiveMu, DoublingN, EctPairs, FixedMu, FixedN, GridPairs, LogNormal, ProgressiveN


def data(n: int = 6, seed: int = 3):
    return soft3().sample(n, seeded(seed))


def grads(model: nn.Module) -> list[torch.Tensor]:
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


# --- diffusion -----------------------------------------------------------------------------------------------------------


def test_edm_loss_is_its_definition():
    z, eps = torch.tensor([-1.0, 0.5, 2.0]), normal(3, 2, seed=4)
    x0, model = data(3), tiny(precond=EDM, dtype=torch.float64)
    out = EDMLoss(LogNormal(-1.2, 1.2))(model, x0, draws=KnownDraws(normals=[z, eps]))
    sigma = (-1.2 + 1.2 * z.double()).exp()
    weight = 1 / EDM(sigma).c_out ** 2
    error = (model(x0 + sigma[:, None] * eps, sigma) - x0).square().sum(1)
    assert torch.allclose(out.sigma, sigma, rtol=1e-12)
    assert torch.allclose(out.weight, weight, rtol=1e-12)
    assert torch.allclose(out.loss, weight * error, rtol=1e-12)


@pytest.mark.parametrize("mean", [-4.0, -1.0, 3.0])
def test_edm_loss_of_the_exact_denoiser_is_the_dimension_at_every_level(mean):
    # On N(0, sigma_data^2) the posterior variance is c_out^2 per coordinate, which the weight 1/c_out^2 turns into 1.
    oracle = Gaussian(torch.zeros(2), 0.5)
    loss = EDMLoss(LogNormal(mean, 0.3))(oracle, oracle.sample(20_000, seeded()), draws=seeded(1)).loss
    assert loss.mean().item() == pytest.approx(2, abs=4 * 2 / math.sqrt(20_000))  # chi^2 with 2 degrees has std 2: four errors


def test_edm_loss_is_least_at_the_exact_denoiser():
    oracle, x0 = soft3(), data(4000)

    def mean_loss(shift: float) -> float:
        return EDMLoss()(lambda x, s, label=None: oracle(x, s) + shift, x0, draws=seeded(1)).loss.mean().item()

    assert mean_loss(0.0) < min(mean_loss(0.05), mean_loss(-0.05))


def test_edm_loss_options_change_it():
    x0, model = data(), tiny(precond=EDM, dtype=torch.float64)
    losses = [
        loss(model, x0, draws=seeded(1)).loss.detach()
        for loss in (EDMLoss(), EDMLoss(LogNormal(0.0, 1.2)), EDMLoss(sigma_data=0.7), EDMLoss(weight="uniform"))
    ]
    assert all(not torch.allclose(losses[0], other) for other in losses[1:])


@pytest.mark.parametrize("extra", ["target", "teacher"])
def test_edm_loss_refuses_what_it_would_ignore(extra):
    with pytest.raises(ValueError, match=f"leave {extra} out"):
        EDMLoss()(tiny(), data().float(), draws=seeded(), **{extra: soft3()})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "at_half", "at_two"),
    [("snr", 4.0, 0.25), ("snr+1", 5.0, 1.25), ("karras", 4 + 25, 0.25 + 25), ("truncated-snr", 4.0, 1.0), ("uniform", 1.0, 1.0)],
)
def test_weights_are_those_of_the_official_code(name, at_half, at_two):
    assert WEIGHTS[name](torch.tensor([0.5, 2.0], dtype=torch.float64), 0.2).tolist() == pytest.approx([at_half, at_two], rel=1e-14)


@pytest.mark.parametrize("make", [vp, ve, iddpm])
def test_vp_ve_and_iddpm_losses_are_the_squared_error_of_the_noise(make):
    # EDM, Table 1: lambda = 1/sigma^2 turns (D - x0)^2 into (eps_hat - eps)^2 with eps_hat = (x - D) / sigma.
    loss, x0, eps = make(), data(5), normal(5, 2, seed=4)
    model = tiny(precond=loss.precond, dtype=torch.float64)
    u = torch.tensor([0.0, 0.3, 0.5, 0.9, 0.99], dtype=torch.float64)
    out = loss(model, x0, draws=KnownDraws([eps], [u]))
    x = x0 + expand(out.sigma, x0) * eps
    eps_hat = (x - model(x, out.sigma)) / expand(out.sigma, x0)
    assert torch.allclose(out.loss, (eps_hat - eps).square().sum(1), rtol=1e-8)


@pytest.mark.parametrize(
    ("loss", "precond"),
    [
        (EDMLoss(sigma_data=0.7), Precond(0.7)),
        (DenoisingLoss(LogUniform(0.02, 80.0), sigma_data=0.7), Precond(0.7)),  # the density turns no other dial
        (DenoisingLoss(VPTime(15.0, 0.2, 1e-4), "snr", scalings="density"), VPPrecond(15.0, 0.2, epsilon=1e-4)),
        (DenoisingLoss(LogUniform(0.1, 50.0), "snr", scalings="density"), VEPrecond(0.1, 50.0)),
        (DenoisingLoss(TableUniform(500, 0.002, 0.01), "snr", scalings="density"), IDDPMPrecond(0.002, 0.01, 500)),
        (ProgressiveLoss(sigma_data=0.7), Precond(0.7)),
        (ict(), CONSISTENCY),
        (ConsistencyLoss(GridPairs(sigma_min=0.01), sigma_data=0.7), Precond(0.7, 0.01)),
        (ConsistencyLoss(EctPairs(sigma_min=0.0)), CONSISTENCY),
    ],
)
def test_losses_say_which_scalings_they_train(loss, precond):
    assert loss.precond == precond


@pytest.mark.parametrize(
    "make",
    [
        lambda: DenoisingLoss(weight="krras"),  # type: ignore[arg-type]
        lambda: ProgressiveLoss(weight="1/dt"),  # type: ignore[arg-type]
        lambda: ProgressiveLoss(teacher_from="student"),  # type: ignore[arg-type]
    ],
)
def test_unknown_choices_name_the_known_ones(make):
    with pytest.raises(ValueError, match="choose one of"):
        make()


# --- progressive distillation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "progress"), [(8, 0.0), (3, 0.0), (2, 0.0), (2, 1.0)])
def test_progressive_goal_is_the_student_step_that_arrives_where_two_teacher_steps_do(n, progress):
    # Whatever the student answers, its loss is 0 if and only if its own Euler step lands on the teacher's second point.
    teacher, x0, eps = tiny(precond=EDM, dtype=torch.float64), data(6), normal(6, 2, seed=4)
    loss = ProgressiveLoss(HalvingN(n), sigma_max=10.0, sigma_min=0.05, rho=3.0)
    steps = loss.n(progress)
    u = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1 - 2**-24])

    def student(x, sigma, label=None):
        grid = karras_sigmas(2 * steps + 1, 0.05, 10.0, 3.0)
        answers = []
        for row, level in zip(x, sigma, strict=True):
            i = int((grid - level).abs().argmin())
            assert i % 2 == 0  # the student's own grid is every second level
            end = list(euler(teacher, row[None], grid[i : i + 3]))[-1].x
            slope = (end - row) / (grid[i + 2] - level)
            answers.append(row - level * slope)
        return torch.cat(answers)

    out = loss(student, x0, teacher=teacher, progress=progress, draws=KnownDraws([eps], [u]))
    assert bool((out.loss < 1e-20).all())
    assert torch.equal(out.weight, WEIGHTS["truncated-snr"](out.sigma, 0.5))


def test_progressive_loss_is_weighted_distance_to_the_goal():
    # With D := x0 both teacher steps point at x0, so x0 is the goal.
    x0, model = data(6), tiny(precond=EDM, dtype=torch.float64)
    out = ProgressiveLoss(HalvingN(4))(model, x0, teacher=lambda x, sigma, label=None: x0, draws=seeded(2))
    again = seeded(2)
    torch.rand(6, generator=again)
    x = x0 + expand(out.sigma, x0) * torch.randn(6, 2, generator=again).double()
    expected = (1 / out.sigma**2).clamp_min(1) * (model(x, out.sigma) - x0).square().sum(1)
    assert torch.allclose(out.loss, expected, rtol=1e-10)


@pytest.mark.parametrize(
    "change",
    [
        {"n": HalvingN(32)},
        {"distance": Distance("l1")},
        {"weight": "uniform"},
        {"sigma_min": 0.1},
        {"sigma_max": 10.0},
        {"rho": 1.0},
        {"weight": "karras"},
    ],
)
def test_every_progressive_option_changes_the_loss(change):
    model, x0 = tiny(precond=EDM, dtype=torch.float64), data(16)
    a, b = (loss(model, x0, teacher=soft3(), draws=seeded()).loss for loss in (ProgressiveLoss(), ProgressiveLoss(**change)))
    assert not torch.allclose(a, b)


def test_progressive_stages_are_the_runs_of_equal_n():
    loss = ProgressiveLoss(HalvingN(16))  # 16, 8, 4: one unit each; 2 and 1: two each
    assert loss.stages(70) == [range(0, 10), range(10, 20), range(20, 30), range(30, 50), range(50, 70)]
    assert [loss.n(stage.start / 70) for stage in loss.stages(70)] == [16, 8, 4, 2, 1]
    assert loss.stages(1) == [range(0, 1)]


@pytest.mark.parametrize(("extra", "message"), [({}, "needs a teacher"), ({"teacher": soft3(), "target": soft3()}, "no target")])
def test_progressive_loss_refuses_what_does_not_fit(extra, message):
    with pytest.raises(ValueError, match=message):
        ProgressiveLoss()(tiny(precond=EDM), data().float(), draws=seeded(), **extra)


# --- consistency ---------------------------------------------------------------------------------------------------------


def test_consistency_loss_is_its_definition():
    x0, eps, model = data(3), normal(3, 2, seed=4), tiny(dtype=torch.float64)
    target = tiny(dtype=torch.float64)
    randomise(target, seed=8)
    u = torch.tensor([0.0, 0.5, 0.99])
    out = ConsistencyLoss(GridPairs(FixedN(5)), "noise", Distance("l2"), "1/dt", FixedMu(0.9))(
        model, x0, target=target, draws=KnownDraws([eps], [u])
    )
    grid = GridPairs(FixedN(5))
    sigma, lower = grid(3, 0.0, KnownDraws([], [u]))
    expected = (model(x0 + sigma[:, None] * eps, sigma) - target(x0 + lower[:, None] * eps, lower)).square().sum(1)
    assert torch.equal(out.sigma, sigma)
    assert torch.allclose(out.weight, 1 / (sigma - lower), rtol=1e-12)
    assert torch.allclose(out.loss, expected / (sigma - lower), rtol=1e-12)


@pytest.mark.parametrize("solver", BRIDGES)
@pytest.mark.parametrize("distance", [Distance("l2"), Distance("huber")])
def test_training_is_distillation_with_the_data_as_denoiser(solver, distance):
    # CM, Theorem 2: with D := x0 the slope is the noise itself, so one solver step is exact.
    x0, model = data(16), tiny(dtype=torch.float64)
    plain = ConsistencyLoss(GridPairs(FixedN(18)), "noise", distance)(model, x0, draws=seeded(5))
    distilled = ConsistencyLoss(GridPairs(FixedN(18)), solver, distance)(
        model, x0, teacher=lambda x, sigma, label=None: x0, draws=seeded(5)
    )
    # (x - x0) / sigma returns the noise up to rounding of x ~ 80, and 1/dt up to 1e3 multiplies that.
    assert torch.allclose(distilled.loss, plain.loss, rtol=1e-9, atol=1e-11)
    assert torch.equal(distilled.sigma, plain.sigma)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_distillation_of_the_exact_consistency_function_costs_the_squared_local_error(solver, order):
    oracle, n = Gaussian(torch.zeros(2), 0.5), 1024
    x0, eps, u = oracle.sample(n, seeded()), normal(n, 2), (torch.arange(n) + 0.5) / n

    def mean_loss(levels: int) -> float:
        loss = ConsistencyLoss(GridPairs(FixedN(levels)), solver, Distance("l2"), "1")
        return loss(oracle.consistency, x0, teacher=oracle, draws=KnownDraws([eps], [u])).loss.mean().item()

    # One step errs by dt^(order + 1); the residue of the next order is 3 % of the slope at these levels.
    assert math.log2(mean_loss(161) / mean_loss(321)) == pytest.approx(2 * (order + 1), abs=0.2)


@pytest.mark.parametrize("averaged", [False, True])
def test_no_gradient_reaches_target_or_teacher(averaged):
    model, teacher = tiny(dtype=torch.float64), tiny(precond=EDM, dtype=torch.float64)
    target = copy.deepcopy(model) if averaged else None
    loss = replace(cd(18), target=FixedMu(0.9 if averaged else 0.0))
    loss(model, data(), target=target, teacher=teacher, draws=seeded()).loss.sum().backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert target is None or all(p.grad is None for p in target.parameters())
    assert any(bool(g.abs().max() > 0) for g in grads(model))


def test_without_a_target_the_model_itself_stands_behind_a_stop_gradient():
    model = tiny(dtype=torch.float64)
    frozen = copy.deepcopy(model)
    collected = []
    for target in (None, frozen):
        model.zero_grad()
        loss = replace(ict(), target=FixedMu(0.0 if target is None else 0.9))
        loss(model, data(), target=target, draws=seeded()).loss.sum().backward()
        collected.append(grads(model))
    assert all(torch.equal(a, b) for a, b in zip(*collected, strict=True))


class DropoutMasks:
    """Records which units every Dropout layer of a model kept, pass by pass."""

    def __init__(self, *models: nn.Module):
        self.kept: list[torch.Tensor] = []
        for model in models:
            for layer in model.modules():
                if isinstance(layer, nn.Dropout):
                    layer.register_forward_hook(lambda _, given, out: self.kept.append(out[given[0] != 0] != 0))


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("kind", ["mlp", "unet"])
def test_online_and_target_drop_the_same_units(kind, averaged):
    model = tiny(kind, dropout=0.5).train()
    target = copy.deepcopy(model) if averaged else None
    masks = DropoutMasks(model, *([target] if target is not None else []))
    loss = replace(ict(), target=FixedMu(0.9 if averaged else 0.0))
    loss(model, normal(3, *model.shape, dtype=torch.float32), target=target, draws=seeded())
    half = len(masks.kept) // 2
    assert half >= 2
    assert all(torch.equal(a, b) for a, b in zip(masks.kept[:half], masks.kept[half:], strict=True))
    assert any(0 < float(m.float().mean()) < 1 for m in masks.kept)


@pytest.mark.parametrize("target_mode", ["itself", "train", "eval"])
def test_random_state_after_a_loss_is_that_of_one_pass(target_mode):
    model = tiny(dropout=0.5).train()
    target = None if target_mode == "itself" else copy.deepcopy(model).train(target_mode == "train")
    x0 = data().float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model(x0, torch.tensor(1.0))
        one_pass = torch.get_rng_state()
        torch.manual_seed(3)
        replace(ict(), target=FixedMu(0.0 if target is None else 0.9))(model, x0, target=target, draws=seeded())
        assert torch.equal(torch.get_rng_state(), one_pass)


@pytest.mark.parametrize(("mean", "calls"), [(-3.0, 1), (3.0, 2)])
def test_where_the_target_is_the_data_no_network_is_asked(mean, calls):
    asked = []

    def model(x, sigma, label=None):
        asked.append(sigma)
        return x / (1 + expand(sigma, x))

    loss = ConsistencyLoss(EctPairs(mean=mean, std=0.0, sigma_min=0.0), "noise", Distance("huber", 0.0))
    loss(model, data(4), draws=seeded())
    assert len(asked) == calls


def test_a_network_that_is_not_finite_at_zero_does_not_spoil_a_clean_target():
    def model(x, sigma, label=None):
        return x + (1 / expand(sigma, x) - 1 / expand(sigma, x))  # NaN at sigma = 0

    pairs = EctPairs(mean=0.5, std=1.5, sigma_min=0.0)  # some of these levels have 0 below them, some not
    lower = pairs(64, 0.0, KnownDraws([torch.linspace(-2, 2, 64)]))[1]
    assert 0 < int((lower == 0).sum()) < 64
    out = ConsistencyLoss(pairs)(model, data(64), draws=KnownDraws([torch.linspace(-2, 2, 64), normal(64, 2)]))
    assert bool(out.loss.isfinite().all())


def test_ect_starts_as_diffusion_training():
    # At stage 0 with sigma_min = 0, small levels have the clean data as target (ECT, section 4).
    loss = ConsistencyLoss(EctPairs(mean=-3.0, std=0.2, sigma_min=0.0), "noise", Distance("huber", 0.0), "1/dt")
    model, x0 = tiny(precond=EDM, dtype=torch.float64), data(8)
    eps, z = normal(8, 2, seed=1), torch.zeros(8)
    out = loss(model, x0, draws=KnownDraws([z, eps]))
    sigma = torch.full((8,), math.exp(-3), dtype=torch.float64)
    error = (model(x0 + expand(sigma, x0) * eps, sigma) - x0).norm(dim=1)
    assert torch.allclose(out.loss, error / sigma, rtol=1e-10)


@pytest.mark.parametrize(
    "change",
    [
        {"pairs": GridPairs(FixedN(9))},
        {"pairs": GridPairs(FixedN(80), "lognormal")},
        {"pairs": EctPairs()},
        {"bridge": "euler"},
        {"bridge": "heun"},
        {"bridge": "midpoint"},
        {"distance": Distance("l1")},
        {"distance": Distance("huber")},
        {"weight": "1"},
        {"weight": "snr"},
        {"weight": "snr+1"},
        {"weight": "karras"},
        {"weight": "truncated-snr"},
    ],
)
def test_every_option_changes_the_loss(change):
    model, x0 = tiny(dtype=torch.float64), data(16)
    out = []
    for loss in (ConsistencyLoss(), ConsistencyLoss(**change)):
        out.append(loss(model, x0, teacher=soft3() if loss.needs_teacher else None, draws=seeded()).loss)
    assert not torch.allclose(out[0], out[1])


@pytest.mark.parametrize("weight", ["snr", "snr+1", "karras", "truncated-snr"])
def test_consistency_weights_are_taken_at_the_larger_level(weight):
    loss = ConsistencyLoss(GridPairs(FixedN(9)), weight=weight, sigma_data=0.7)
    out = loss(tiny(dtype=torch.float64), data(8), draws=seeded())
    assert torch.allclose(out.weight, WEIGHTS[weight](out.sigma, 0.7), rtol=1e-14)


def test_progress_moves_the_pairs():
    model, x0 = tiny(dtype=torch.float64), data(16)
    early, late = (ct()(model, x0, target=model, progress=p, draws=seeded()).sigma for p in (0.0, 1.0))
    assert set(early.tolist()) == {80.0}  # two levels: the only pair starts at the top
    assert len(set(late.tolist())) > 8


@pytest.mark.parametrize("bridge", BRIDGES)
def test_a_distilling_loss_without_teacher_is_an_error(bridge):
    with pytest.raises(ValueError, match="needs a teacher"):
        ConsistencyLoss(bridge=bridge)(tiny(), data().float(), draws=seeded())


def test_a_teacher_that_would_be_ignored_is_an_error():
    with pytest.raises(ValueError, match="does not use a teacher"):
        ict()(tiny(), data().float(), teacher=soft3(), draws=seeded())


def test_a_missing_target_is_an_error():
    for loss in (ct(), ConsistencyLoss(target=FixedMu(0.9))):
        with pytest.raises(ValueError, match="needs a target"):
            loss(tiny(), data().float(), draws=seeded())


def test_a_target_that_would_be_ignored_is_an_error():
    for loss in (ict(), ect()):
        with pytest.raises(ValueError, match="leave target out"):
            loss(tiny(), data().float(), target=tiny(), draws=seeded())


@pytest.mark.parametrize("change", [{"bridge": "eular"}, {"weight": "1/t"}])
def test_unknown_options_name_the_known_ones(change):
    with pytest.raises(ValueError, match="choose one of"):
        ConsistencyLoss(**change)


@pytest.mark.parametrize(
    ("target", "expected"), [(FixedMu(), 0.0), (FixedMu(0.95), 0.95), (AdaptiveMu(2, 0.9), 0.9), (AdaptiveMu(2, 0.9, "code"), 0.81)]
)
def test_target_decay_at_the_start(target, expected):
    assert ConsistencyLoss(GridPairs(ProgressiveN()), target=target).target_decay(0.0) == pytest.approx(expected, rel=1e-12)


def test_target_decay_follows_the_grid():
    loss = ct(2, 150, 0.9)
    for progress in (0.01, 0.5, 1.0):
        assert loss.target_decay(progress) == pytest.approx(0.9 ** (2 / ProgressiveN(2, 150)(progress)), rel=1e-12)


def test_presets_are_those_of_the_papers():
    assert ct() == ConsistencyLoss(GridPairs(ProgressiveN(2, 150)), "noise", Distance("l2"), "1", AdaptiveMu(2, 0.9))
    assert ict() == ConsistencyLoss(
        GridPairs(DoublingN(10, 1280), "lognormal", -1.1, 2.0), "noise", Distance("huber", None), "1/dt", FixedMu(0.0)
    )
    assert ect() == ConsistencyLoss(EctPairs(2.0, 8, 8.0, 1.0, -1.1, 2.0), "noise", Distance("huber", 0.0), "1/dt", FixedMu(0.0))
    assert cd(18, "euler") == ConsistencyLoss(GridPairs(FixedN(18)), "euler", Distance("huber"), "1/dt", FixedMu(0.0))
    assert vp() == DenoisingLoss(VPTime(19.9, 0.1, 1e-5), "snr", scalings="density")
    assert ve() == DenoisingLoss(LogUniform(0.02, 100.0), "snr", scalings="density")
    assert iddpm() == DenoisingLoss(TableUniform(1000, 0.001, 0.008), "snr", scalings="density")
    assert LOSSES["pd"]() == ProgressiveLoss(HalvingN(64), Distance("l2"), "truncated-snr", "model", 0.5, 0.002, 80.0, 7.0)
    assert LOSSES["edm"]() == EDMLoss(LogNormal(-1.2, 1.2), "karras", 0.5)


def test_labels_reach_model_target_and_teacher():
    seen = []

    class Spy(Denoiser):
        def forward(self, x, sigma, label=None):
            seen.append(label)
            return super().forward(x, sigma, label)

    model = Spy(tiny(classes=3).net, CONSISTENCY, (2,), classes=3)
    label = torch.tensor([0, 1, 2])
    loss = replace(cd(18), target=FixedMu(0.9))
    loss(model, data(3).float(), label, target=model, teacher=model, draws=seeded())
    assert len(seen) == 4  # Heun's two slopes, the online and the target pass
    assert all(given is label for given in seen)
