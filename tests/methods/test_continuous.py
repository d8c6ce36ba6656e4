"""Continuous-time objectives, checked as limits of the discrete ones, by finite differences and on closed forms."""

import math
from typing import Any

import pytest
import torch
from conftest import TINY, KnownDraws, normal, seeded, soft3, tiny
from torch import Tensor, nn

from cmlab.denoiser import EDM, Denoiser
from cmlab.distances import Distance
from cmlab.losses import LOSSES, ConsistencyLoss, EDMLoss
from cmlab.methods.continuous import (
    ContinuousLoss,
    KarrasWarp,
    SCMLoss,
    TrigLoss,
    attach_uncertainty,
    hessian_product,
    rate_of_change,
    trig_tangent,
)
from cmlab.methods.scalings import TrigPrecond
from cmlab.noise import karras_sigmas
from cmlab.oracle import Gaussian
from cmlab.schedules import FixedN, GridPairs, LogNormal

SCM = TrigPrecond(consistency=True)


def trig(precond: TrigPrecond = SCM) -> Denoiser:
    return Denoiser(tiny(dtype=torch.float64).net, precond, (2,))


def gradient(loss: Tensor, model: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


def relative(a: Tensor, b: Tensor) -> float:
    return float(((a - b).norm() / b.norm()).detach())


# --- building blocks -----------------------------------------------------------------------------------------------------


def test_the_warp_is_the_karras_grid_and_its_slope():
    u = torch.linspace(0, 1, 41, dtype=torch.float64, requires_grad=True)
    sigma, speed = KarrasWarp()(u)
    assert torch.allclose(sigma, karras_sigmas(41), rtol=1e-12)
    assert torch.allclose(speed, -torch.autograd.grad(sigma.sum(), u)[0], rtol=1e-12)
    with pytest.raises(ValueError, match="sigma_min < sigma_max"):
        KarrasWarp(sigma_min=0.0)


@pytest.mark.parametrize("kind", TINY)
def test_the_rate_of_change_is_the_central_difference_along_the_ode(kind):
    model = tiny(kind, dtype=torch.float64)
    oracle = Gaussian(torch.full(model.shape, 0.1), 0.4)
    sigma = torch.tensor([0.01, 0.3, 2.0, 60.0], dtype=torch.float64)
    x = oracle.sample(4, seeded()) + sigma.reshape(-1, *[1] * len(model.shape)) * normal(4, *model.shape)
    velocity = (x - oracle(x, sigma)) / sigma.reshape(-1, *[1] * len(model.shape))
    value, rate = rate_of_change(model, x, sigma, velocity)
    assert torch.allclose(value, model(x, sigma), rtol=1e-12)
    up, down = ((1 + k) * sigma for k in (1e-5, -1e-5))
    difference = model(oracle.flow(x, sigma, up), up) - model(oracle.flow(x, sigma, down), down)
    for a, b, width in zip(rate, difference, up - down, strict=True):
        assert relative(a, b / width) < 1e-6


def test_the_exact_consistency_function_does_not_change_along_the_ode():
    oracle = Gaussian(torch.full((2,), 0.2), 0.3)
    for stop_gradient in (True, False):
        loss = ContinuousLoss("teacher", stop_gradient=stop_gradient)
        out = loss(oracle.consistency, oracle.sample(64, seeded()), teacher=oracle, draws=seeded(1))
        assert float(out.loss.abs().max()) < 1e-20


@pytest.mark.parametrize(("distance", "factor"), [(Distance("l2"), 2.0), (Distance("huber", 0.25), 4.0)])
def test_the_hessian_of_a_radial_distance_is_a_number(distance, factor):
    y, v = normal(3, 2, 4), normal(3, 2, 4, seed=1)
    assert torch.allclose(hessian_product(distance, y, v), factor * v, rtol=1e-12)


def perceptual(a: Tensor, b: Tensor) -> Tensor:
    """A small LPIPS: squared differences of normalised convolutional features."""
    weight = normal(4, 3, 3, 3, seed=9).to(a)

    def features(x: Tensor) -> Tensor:
        h = torch.nn.functional.conv2d(torch.nn.functional.interpolate(x, size=12, mode="bilinear"), weight).relu()
        h = torch.nn.functional.max_pool2d(h, 2)
        return h / (h.square().sum(1, keepdim=True) + 1e-10).sqrt()

    return (features(a) - features(b)).square().flatten(1).sum(1)


def test_the_hessian_of_a_perceptual_distance_is_the_full_one():
    y, v = normal(1, 3, 8, 8), normal(1, 3, 8, 8, seed=1)
    full = torch.autograd.functional.hessian(lambda a: perceptual(a, y).sum(), y)
    assert isinstance(full, Tensor)
    expected = full.reshape(192, 192) @ v.flatten()
    assert relative(hessian_product(perceptual, y, v).flatten(), expected) < 1e-10


# --- the limits of the discrete losses -----------------------------------------------------------------------------------

COUNT = 8192


def common(x0_seed: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    x0, eps = soft3().sample(COUNT, seeded(x0_seed)), normal(COUNT, 2, seed=4)
    return x0, eps, (torch.arange(COUNT, dtype=torch.float64) + 0.5) / COUNT


def discrete(model: Denoiser, n: int, distance: Distance, weight, bridge: Any = "euler") -> Tensor:
    x0, eps, u = common()
    loss = ConsistencyLoss(GridPairs(FixedN(n)), bridge, distance, weight)
    return loss(model, x0, teacher=None if bridge == "noise" else soft3(), draws=KnownDraws([eps], [u])).loss.mean()


def continuous(model: Denoiser, distance: Any, weight, bridge: Any = "teacher", stop_gradient: bool = True) -> Tensor:
    x0, eps, u = common()
    loss = ContinuousLoss(bridge, distance, stop_gradient, weight)
    return loss(model, x0, teacher=None if bridge == "noise" else soft3(), draws=KnownDraws([eps], [u])).loss.mean()


@pytest.mark.parametrize(
    ("distance", "order"), [(Distance("l2"), 2), (Distance("huber", 0.5), 2), (Distance("l1"), 1), (Distance("huber", 0.0), 1)]
)
def test_the_loss_is_the_limit_of_distillation(distance, order):
    # CM, Theorem 3 (smooth distances) and Theorem 4 (norms).
    model = tiny(dtype=torch.float64)
    limit = continuous(model, distance, "1", stop_gradient=False).item()
    errors = [(n - 1) ** order * discrete(model, n, distance, "1").item() / limit - 1 for n in (160, 640)]
    assert abs(errors[1]) < 0.01
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)  # first order in 1/N


@pytest.mark.parametrize("weight", ["1", "1/dt"])
@pytest.mark.parametrize(("bridge", "solver"), [("teacher", "euler"), ("teacher", "heun"), ("noise", "noise")])
def test_the_gradient_is_the_limit_for_a_frozen_target(bridge, solver, weight):
    # CM, Theorem 5 (teacher) and Theorem 6 (noise); with weight 1/dt the factor N - 1 is in the weight.
    model, distance = tiny(dtype=torch.float64), Distance("l2")
    limit = gradient(continuous(model, distance, weight, bridge), model)
    errors = []
    for n in (320, 1280):
        scale = n - 1 if weight == "1" else 1
        errors.append(relative(scale * gradient(discrete(model, n, distance, weight, solver), model), limit))
    assert errors[1] < 3e-3
    assert math.log(errors[0] / errors[1], 4) == pytest.approx(1, abs=0.1)


def test_a_frozen_target_halves_the_gradient_of_the_value_and_keeps_the_value():
    model = tiny(dtype=torch.float64)
    frozen, free = (continuous(model, Distance("l2"), "1", stop_gradient=s) for s in (True, False))
    x0, eps, u = common()
    speed = KarrasWarp()(u)[1]
    frozen_rows = ContinuousLoss("teacher", weight="1")(model, x0, teacher=soft3(), draws=KnownDraws([eps], [u]))
    free_rows = ContinuousLoss("teacher", stop_gradient=False, weight="1")(model, x0, teacher=soft3(), draws=KnownDraws([eps], [u]))
    assert torch.allclose(frozen_rows.weight, speed)
    assert torch.allclose(free_rows.weight, speed**2)
    assert torch.allclose(frozen_rows.loss * speed, free_rows.loss)
    assert frozen.item() > 0
    assert free.item() > 0


def test_a_callable_distance_may_stand_for_l2():
    model = tiny(dtype=torch.float64)
    own = [continuous(model, d, "1/dt") for d in (Distance("l2"), lambda a, b: (a - b).square().flatten(1).sum(1))]
    assert own[0].item() == pytest.approx(own[1].item(), rel=1e-12)
    assert relative(gradient(own[0], model), gradient(own[1], model)) < 1e-12


def test_a_perceptual_distance_trains_an_image_model():
    model = tiny("unet", dtype=torch.float64)
    teacher, x0 = Gaussian(torch.zeros(3, 8, 8), 0.5), 0.5 * normal(2, 3, 8, 8)
    draws = KnownDraws([normal(2, 3, 8, 8, seed=1)] * 2, [torch.tensor([0.6, 0.9])] * 2)
    for stop_gradient in (True, False):
        out = ContinuousLoss("teacher", perceptual, stop_gradient)(model, x0, teacher=teacher, draws=draws)
        assert bool((out.loss > 0).all())
        assert bool(gradient(out.loss.sum(), model).isfinite().all())


def test_training_is_distillation_averaged_over_the_data_behind_x():
    # Df is linear in the velocity, whose mean over x0 given x is the PF-ODE's (CM, Lemma 1): pairs about the posterior mean.
    oracle, model = Gaussian(torch.full((2,), 0.2), 0.4), tiny(dtype=torch.float64)
    u = torch.linspace(0.05, 0.95, 8, dtype=torch.float64)
    sigma = KarrasWarp()(u)[0][:, None]
    x = oracle.sample(8, seeded()) + sigma * normal(8, 2)
    mean, spread = oracle(x, sigma[:, 0]), 0.4 * sigma / (0.16 + sigma**2).sqrt() * normal(8, 2, seed=1)
    x0 = torch.cat([mean + spread, mean - spread])
    eps = (torch.cat([x, x]) - x0) / torch.cat([sigma, sigma])
    cases: Any = (("noise", None), ("teacher", oracle))
    grads = [
        gradient(
            ContinuousLoss(bridge)(model, x0, teacher=teacher, draws=KnownDraws([eps], [torch.cat([u, u])])).loss.mean(), model
        )
        for bridge, teacher in cases
    ]
    assert relative(*grads) < 1e-9


def test_value_and_rate_come_from_one_pass():
    model, calls = tiny(dtype=torch.float64, dropout=0.5).train(), []
    model.net.register_forward_hook(lambda *_: calls.append(1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ContinuousLoss()(model, normal(4, 2), draws=seeded()).loss.sum().backward()
    assert len(calls) == 1  # so the dropped units are the same without any replay


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ContinuousLoss("euler"), "unknown bridge"),  # type: ignore[arg-type]
        (lambda: ContinuousLoss(weight="2"), "unknown weight"),  # type: ignore[arg-type]
        (lambda: ContinuousLoss(distance=Distance("l1")), "no second derivative"),
        (lambda: ContinuousLoss(distance=Distance("huber", 0.0)), "no second derivative"),
        (lambda: ContinuousLoss("noise", stop_gradient=False), "needs stop_gradient"),
        (lambda: SCMLoss("heun"), "unknown bridge"),  # type: ignore[arg-type]
        (lambda: SCMLoss(tangent="clip-norm"), "unknown tangent"),  # type: ignore[arg-type]
        (lambda: SCMLoss(tangent="none", c=0.1), "does not use it"),
        (lambda: SCMLoss(c=0.0), "above 0"),
        (lambda: SCMLoss(warmup=2.0), "0 to 1"),
        (lambda: SCMLoss(precond=TrigPrecond()), "consistency=True"),
        (lambda: TrigLoss(precond=SCM), "consistency=False"),
        (lambda: TrigPrecond(network="ddpm"), "unknown network"),  # type: ignore[arg-type]
    ],
)
def test_options_that_would_be_ignored_are_errors(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["ccd", "cct", "scd", "sct", "trigflow"])
def test_models_that_would_be_ignored_are_errors(name):
    loss, model = LOSSES[name](), tiny()
    x0 = normal(2, 2, dtype=torch.float32)
    with pytest.raises(ValueError, match="target"):
        loss(model, x0, target=model, teacher=soft3() if loss.needs_teacher else None, draws=seeded())
    with pytest.raises(ValueError, match="teacher"):
        loss(model, x0, teacher=None if loss.needs_teacher else soft3(), draws=seeded())


# --- TrigFlow ------------------------------------------------------------------------------------------------------------


class Flipped(nn.Module):
    """An EDM network told t instead of ln(sigma)/4, and with the sign of its answer turned."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net, self.config = net, net.config

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        return -self.net(x, (0.5 * t.tan()).log() / 4, label)


@pytest.mark.parametrize("consistency", [False, True])
def test_trigflow_and_edm_are_one_map(consistency):
    edm = tiny(precond=EDM, dtype=torch.float64)
    x, sigma = 3 * normal(5, 2), torch.tensor([0.002, 0.1, 0.5, 4.0, 80.0], dtype=torch.float64)
    flipped = Denoiser(Flipped(edm.net), TrigPrecond(consistency=consistency), (2,))
    assert torch.allclose(flipped(x, sigma), edm(x, sigma), rtol=1e-12, atol=1e-12)
    same = Denoiser(edm.net, TrigPrecond(network="edm", consistency=consistency), (2,))
    assert torch.equal(same(x, sigma), edm(x, sigma))
    assert torch.equal(same(x, torch.tensor(0.0)), x)


def test_trigflow_returns_its_input_at_zero():
    x = normal(5, 2)
    assert torch.equal(trig()(x, torch.tensor(0.0)), x)


def test_trigflow_is_its_definition():
    model = trig(TrigPrecond())
    t = torch.tensor([[0.1], [0.8], [1.5]], dtype=torch.float64)
    x_t = normal(3, 2)
    expected = t.cos() * x_t - t.sin() * 0.5 * model.raw(x_t / 0.5, t[:, 0])
    assert torch.allclose(model(x_t / t.cos(), 0.5 * t[:, 0].tan()), expected, rtol=1e-12)


@pytest.mark.parametrize("precond", [TrigPrecond(), TrigPrecond(0.7), TrigPrecond(network="edm")])
def test_the_trigflow_loss_is_its_definition_and_edms_up_to_a_constant(precond):
    model, x0, eps, z = trig(precond), soft3().sample(6, seeded()), normal(6, 2), torch.randn(6)
    density, data = LogNormal(-1.0, 1.4), precond.sigma_data
    out = TrigLoss(density, precond=precond)(model, x0, draws=KnownDraws([z, eps]))
    sigma = (-1.0 + 1.4 * z.double()).exp()
    t = (sigma / data).arctan()[:, None]
    x_t = t.cos() * x0 + t.sin() * data * eps
    network = precond.sign * model.raw(x_t / data, precond(sigma).c_noise)
    expected = (data * network - (t.cos() * data * eps - t.sin() * x0)).square()
    assert torch.allclose(out.loss, expected.mean(1), rtol=1e-9)
    edm = EDMLoss(density, sigma_data=data)(model, x0, draws=KnownDraws([z, eps])).loss
    assert torch.allclose(out.loss, data**2 / 2 * edm, rtol=1e-9)
    assert torch.allclose(out.weight, torch.full((6,), 0.5, dtype=torch.float64))


def trig_state(oracle: Gaussian, t: Tensor, data: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """x_t, sigma and dx_t/dt on the PF-ODE of an oracle, at times t (B, 1)."""
    sigma = data * t.tan()
    x = oracle.sample(len(t), seeded()) + sigma * normal(len(t), 2)
    return t.cos() * x, sigma[:, 0], (t.cos() ** 2 * x - oracle(x, sigma[:, 0])) / t.sin()


@pytest.mark.parametrize("network", ["trig", "edm"])
def test_the_tangent_is_the_central_difference_along_the_ode(network):
    oracle = Gaussian(torch.full((2,), 0.1), 0.4)
    model = trig(TrigPrecond(network=network, consistency=True))
    t = torch.tensor([[0.02], [0.3], [0.9], [1.4], [1.56]], dtype=torch.float64)
    x_t, sigma, slope = trig_state(oracle, t)
    _, g = trig_tangent(model, x_t, sigma, slope)
    h = 1e-5 * (math.pi / 2 - t) * t
    ends = []
    for time in (t + h, t - h):
        moved = oracle.flow(x_t / t.cos(), sigma, 0.5 * time[:, 0].tan())
        ends.append(model(moved, 0.5 * time[:, 0].tan()))
    expected = t.cos() * (ends[0] - ends[1]) / (2 * h)
    for a, b in zip(g, expected, strict=True):
        assert relative(a, b) < 1e-6


def test_warmup_leaves_out_the_unstable_part():
    model, t = trig(), torch.tensor([[0.3], [1.2]], dtype=torch.float64)
    x_t, sigma, slope = trig_state(Gaussian(torch.zeros(2), 0.4), t)
    out, cold = trig_tangent(model, x_t, sigma, slope, warmup=0.0)
    half, whole = (trig_tangent(model, x_t, sigma, slope, warmup=r)[1] for r in (0.5, 1.0))
    assert torch.allclose(cold, -(t.cos() ** 2) * (0.5 * out - slope), rtol=1e-12)
    assert torch.allclose(half, (cold + whole) / 2, rtol=1e-12)
    assert out.requires_grad
    assert not whole.requires_grad


# --- sCM -----------------------------------------------------------------------------------------------------------------


class ExactF(nn.Module):
    """TrigFlow's F of the exact consistency function of N(0, std^2), f = std / sqrt(std^2 + sigma^2) x, times a parameter."""

    def __init__(self, std: float):
        super().__init__()
        self.std, self.gain = std, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        scale = self.std / (self.std**2 * t.cos() ** 2 + 0.25 * t.sin() ** 2).sqrt()
        return self.gain * ((t.cos() - scale) / t.sin())[:, None] * x


@pytest.mark.parametrize("tangent", ["normalize", "clip", "none"])
def test_the_gradient_vanishes_at_the_exact_consistency_function(tangent):
    oracle, model = Gaussian(torch.zeros(2), 0.3), Denoiser(ExactF(0.3), SCM, (2,))
    loss = SCMLoss("teacher", warmup=0.0, tangent=tangent, adaptive=False)
    x0, sigma = oracle.sample(64, seeded()), torch.full((64,), 2.0, dtype=torch.float64)
    assert torch.allclose(model(x0, sigma), oracle.consistency(x0, sigma, sigma_min=1e-12), rtol=1e-9)
    out = loss(model, x0, teacher=oracle, draws=seeded(1)).loss.mean()
    assert out.item() < 1e-20
    assert abs(float(gradient(out, model))) < 1e-10
    # Elsewhere it does not vanish, and it points home.
    with torch.no_grad():
        model.net.get_parameter("gain").fill_(1.3)
    assert float(gradient(loss(model, x0, teacher=oracle, draws=seeded(1)).loss.mean(), model)) > 1e-3


@pytest.mark.parametrize("bridge", ["noise", "teacher"])
def test_the_scm_loss_is_its_definition(bridge):
    model, x0, eps, z = trig(), soft3().sample(6, seeded()), normal(6, 2), torch.linspace(-2, 2, 6)
    teacher = trig(TrigPrecond())
    t = ((-1.0 + 1.4 * z.double()).exp() / 0.5).arctan()[:, None]
    x_t = t.cos() * x0 + t.sin() * 0.5 * eps
    slope = t.cos() * 0.5 * eps - t.sin() * x0 if bridge == "noise" else 0.5 * teacher.raw(x_t / 0.5, t[:, 0])
    network, g = trig_tangent(model, x_t, 0.5 * t[:, 0].tan(), slope.detach(), warmup=0.5)
    norm = g.norm(dim=1, keepdim=True)
    stabilised = {("normalize", None): g / (norm + 0.1), ("clip", 0.2): g.clamp(-0.2, 0.2), ("none", None): g}
    for (tangent, c), expected in stabilised.items():
        loss = SCMLoss(bridge, warmup=0.25, tangent=tangent, c=c, adaptive=False)  # type: ignore[arg-type]
        out = loss(model, x0, progress=0.125, teacher=teacher if bridge == "teacher" else None, draws=KnownDraws([z, eps]))
        assert torch.allclose(out.loss, expected.square().mean(1), rtol=1e-9)
        pull = -2 * (network * expected).mean(1).sum()
        assert relative(gradient(out.loss.sum(), model), gradient_kept(pull, model)) < 1e-9


def gradient_kept(value: Tensor, model: nn.Module) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()), retain_graph=True)])


def test_options_of_scm_change_it():
    model, x0 = attach_uncertainty(trig()), soft3().sample(6, seeded())
    base = {"warmup": 0.5, "adaptive": False}
    options = [
        {},
        {"c": 0.5},
        {"tangent": "clip", "c": 0.1},
        {"tangent": "none"},
        {"warmup": 0.0},
        {"density": LogNormal()},
        {"sigma_max": 0.2},
    ]
    losses = [SCMLoss(**{**base, **o})(model, x0, progress=0.1, draws=seeded(1)).loss.sum().item() for o in options]  # type: ignore[arg-type]
    assert len(set(losses)) == len(options)


@pytest.mark.parametrize("loss", [TrigLoss(adaptive=True), SCMLoss(adaptive=True)])
def test_the_adaptive_weight_is_learned_towards_one_over_the_loss(loss):
    model, x0 = trig(loss.precond), soft3().sample(64, seeded())
    with pytest.raises(ValueError, match="attach_uncertainty"):
        loss(model, x0, draws=seeded(1))
    attach_uncertainty(model)
    assert model.uncertainty is not None
    plain = loss(model, x0, progress=1.0, draws=seeded(1))
    w = model.uncertainty.get_parameter("bias")
    # d/dw of e^w L - w is L - 1 at w = 0, so w rises where L < 1.
    assert torch.allclose(torch.autograd.grad(plain.loss.mean(), w)[0], plain.loss.detach().mean() - 1)
    with torch.no_grad():
        w.fill_(-plain.loss.mean().log().item())
    least = loss(model, x0, progress=1.0, draws=seeded(1))
    assert torch.allclose(least.weight, plain.weight / plain.loss.detach().mean())
    assert abs(float(torch.autograd.grad(least.loss.mean(), w)[0])) < 1e-9
    assert "uncertainty" not in str(model.net.state_dict().keys())


def test_scm_needs_trigflow_scalings():
    x = normal(2, 2)
    for model in (tiny(dtype=torch.float64), trig(TrigPrecond(0.7, consistency=True)), trig(TrigPrecond())):
        with pytest.raises(ValueError, match="build the model with"):
            SCMLoss(adaptive=False)(model, x, draws=seeded())
    with pytest.raises(ValueError, match="TrigPrecond"):
        trig_tangent(tiny(dtype=torch.float64), x, torch.ones(2).double(), x)


@pytest.mark.parametrize("name", ["ccd", "cct", "scd", "sct", "trigflow"])
def test_losses_know_the_scalings_of_their_models(name):
    loss, x = LOSSES[name](), normal(3, 2)
    if loss.precond.consistency:
        model = Denoiser(tiny(dtype=torch.float64).net, loss.precond, (2,))
        assert torch.equal(model(x, torch.tensor(loss.precond.levels[0], dtype=torch.float64)), x)
    else:
        assert loss.precond == TrigPrecond()


@pytest.mark.usefixtures("untouched_rng")
def test_the_weights_parameters_start_without_a_draw():
    uncertainty = attach_uncertainty(trig()).uncertainty
    assert uncertainty is not None
    assert torch.equal(uncertainty(torch.tensor([0.01, 1.0, 80.0])), torch.zeros(3, dtype=torch.float64))
