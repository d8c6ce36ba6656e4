"""fit(): exact accumulation, exact seeds, exact averages, and one small training that really learns."""

import copy
import math
from typing import Any, Literal

import pytest
import torch
from conftest import normal, seeded, soft3, tiny
from torch import nn

from cmlab.data import ImageData, MixtureData, load_data
from cmlab.denoiser import CONSISTENCY, EDM, Denoiser
from cmlab.evaluation import sliced_wasserstein
from cmlab.losses import ConsistencyLoss, EDMLoss, cd, ct, ict
from cmlab.methods.progressive import HalvingN, ProgressiveLoss
from cmlab.networks import MLPConfig, build_network
from cmlab.noise import as_draws, karras_sigmas
from cmlab.oracle import Gaussian
from cmlab.samplers import euler, sample
from cmlab.schedules import FixedMu, FixedN, GridPairs, ProgressiveN
from cmlab.training import MicroBatch, TrainConfig, Trainer, fit, update_average
from cmlab.training.draws import BatchDraws

DATA = MixtureData(soft3())


def weights(model: nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def equal(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def trained(loss=None, data=DATA, precond=EDM, **options) -> list[torch.Tensor]:
    """The weights after a short training."""
    model = tiny(precond=precond)
    settings: dict[str, Any] = {"steps": 3, "batch": 8} | options
    for _ in fit(model, data, loss or EDMLoss(), **settings):
        pass
    return weights(model)


# --- accumulation --------------------------------------------------------------------------------------------------------


def gradient(loss, model: nn.Module, x0: torch.Tensor, parts: int, **extra) -> list[torch.Tensor]:
    model.zero_grad()
    rows = len(x0) // parts
    for start in range(0, len(x0), rows):
        draws = BatchDraws(7, len(x0), start, start + rows)
        (loss(model, x0[start : start + rows], draws=draws, progress=0.5, **extra).loss.sum() / len(x0)).backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("parts", [2, 3, 12])
@pytest.mark.parametrize("kind", ["mlp", "unet"])
@pytest.mark.parametrize("loss", [EDMLoss(), ict(), cd(18)], ids=["edm", "ict", "cd"])
def test_accumulated_gradient_is_that_of_the_batch(loss, kind, parts):
    model = tiny(kind, dtype=torch.float64)
    extra = {"teacher": tiny(kind, EDM, dtype=torch.float64)} if loss.needs_teacher else {}
    x0 = 0.5 * normal(12, *model.shape)
    whole, split = (gradient(loss, model, x0, k, **extra) for k in (1, parts))
    size = torch.cat([g.flatten() for g in whole]).norm()
    error = torch.cat([(a - b).flatten() for a, b in zip(whole, split, strict=True)]).norm()
    assert float(error / size) < 1e-12


@pytest.mark.parametrize("loss", [EDMLoss(), ict()], ids=["edm", "ict"])
def test_fit_accumulates_to_the_same_weights(loss):
    # Exact gradients meet RAdam in float32: the weights differ by rounding of the sum's order alone.
    whole, split = trained(loss, accumulate=1), trained(loss, accumulate=4)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, split, strict=True))


# --- steps and yields ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("steps", "every", "yields"), [(5, 1, [1, 2, 3, 4, 5]), (5, 2, [2, 4, 5]), (4, 2, [2, 4]), (3, 9, [3])])
def test_fit_stops_at_its_last_step(steps, every, yields):
    states = [(s.step, s.progress) for s in fit(tiny(precond=EDM), DATA, EDMLoss(), steps=steps, batch=4, every=every)]
    assert states == [(k, k / steps) for k in yields]


@pytest.mark.parametrize(
    ("name", "value"), [("clip", math.nan), ("rampup", math.nan), ("rampup", math.inf), ("beta2", math.nan), ("seed", 2**70)]
)
def test_numbers_that_would_change_nothing_or_break_a_run_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name}.* {value}"):
        TrainConfig(**{name: value})


@pytest.mark.parametrize("shape", [(), (8, 2)])
def test_a_loss_of_ones_own_is_one_number_per_sample(shape):
    class Mean(EDMLoss):
        def of_each(self, model, x0, label, given):
            out = super().of_each(model, x0, label, given)
            return out._replace(loss=out.loss.mean().expand(shape))

    with pytest.raises(ValueError, match=r"Mean returns one number per sample, \(8,\): got the shape"):
        trained(Mean())


def test_fit_trains_only_as_far_as_it_is_asked():
    model = tiny(precond=EDM)
    states = fit(model, DATA, EDMLoss(), steps=5, batch=4)
    start = weights(model)
    next(states)
    after_one = weights(model)
    assert not equal(start, after_one)
    states.close()  # type: ignore[attr-defined]
    assert equal(weights(model), after_one)


def test_loss_is_the_mean_since_the_last_yield():
    single = [s.loss for s in fit(tiny(precond=EDM), DATA, EDMLoss(), steps=6, batch=4, every=1)]
    grouped = [s.loss for s in fit(tiny(precond=EDM), DATA, EDMLoss(), steps=6, batch=4, every=3)]
    assert grouped == pytest.approx([sum(single[:3]) / 3, sum(single[3:]) / 3], rel=1e-5)  # float32 sums


# --- seeds ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("loss", [EDMLoss(), ct(2, 10)], ids=["edm", "ct"])
def test_fit_is_a_pure_function_of_its_seed(loss, dropout):
    results = []
    for global_seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(global_seed)
            model = tiny(precond=EDM, dropout=dropout)
            ema = [s.ema for s in fit(model, DATA, loss, steps=4, batch=8, seed=5)][-1]
            results.append(weights(model) + weights(ema))
    assert equal(*results)


@pytest.mark.usefixtures("untouched_rng")
def test_fit_does_not_touch_the_global_generator():
    for _ in fit(tiny(precond=EDM, dropout=0.3), DATA, EDMLoss(), steps=2, batch=4):
        pass


def test_no_step_repeats_the_draws_of_another():
    seen: list[float] = []

    class Spy(Denoiser):
        def forward(self, x, sigma, label=None):
            seen.extend(sigma.tolist())
            return super().forward(x, sigma, label)

    model = Spy(tiny(precond=EDM).net, EDM, (2,))
    for seed in (0, 1, 2):
        list(fit(model, DATA, EDMLoss(), steps=4, batch=4, seed=seed))
    assert len(set(seen)) == 3 * 4 * 4


# --- averages ------------------------------------------------------------------------------------------------------------


def test_ema_is_the_exponential_average_of_the_weights():
    # It starts as the initial weights, as in the official codes.
    model = tiny(precond=EDM)
    expected = {rate: weights(model) for rate in (0.7, 0.0, 1.0)}
    for state in fit(model, DATA, EDMLoss(), steps=5, batch=4, lr=0.05, ema=tuple(expected)):
        now = weights(state.model)
        for ema, rate in zip(state.emas, expected, strict=True):
            expected[rate] = [rate * e + (1 - rate) * w for e, w in zip(expected[rate], now, strict=True)]
            assert all(torch.allclose(a, e, atol=1e-6) for a, e in zip(weights(ema), expected[rate], strict=True))
            assert not ema.training
            assert not any(p.requires_grad for p in ema.parameters())
        assert state.ema is state.emas[0]


def test_update_average_takes_parameters_and_copies_buffers():
    a, b = nn.BatchNorm1d(2).double(), nn.BatchNorm1d(2).double()
    for k, module in enumerate((a, b)):
        nn.init.constant_(module.weight, 1.0 + k)
        module.running_mean.fill_(k)  # type: ignore[union-attr]
    update_average(a, b, 0.75)
    assert a.weight.tolist() == pytest.approx([1.25, 1.25], rel=1e-14)
    assert a.running_mean.tolist() == [1.0, 1.0]  # type: ignore[union-attr]
    assert b.weight.tolist() == [2.0, 2.0]


def test_target_decay_follows_mu_of_k():
    loss = ct(2, 30, 0.5)
    model = tiny()
    expected = weights(model)
    steps = 6
    for k, state in enumerate(fit(model, DATA, loss, steps=steps, batch=4, lr=0.05)):
        mu = 0.5 ** (2 / ProgressiveN(2, 30)(k / steps))  # the schedule at the step that was just made
        expected = [mu * e + (1 - mu) * w for e, w in zip(expected, weights(model), strict=True)]
        assert state.target is not None
        assert all(torch.allclose(a, e, atol=1e-6) for a, e in zip(weights(state.target), expected, strict=True))


def test_target_of_mu_1_never_moves():
    model = tiny()
    start = weights(model)
    state = list(fit(model, DATA, ConsistencyLoss(GridPairs(FixedN(9)), target=FixedMu(1.0)), steps=3, batch=4, lr=0.05))[-1]
    assert state.target is not None
    assert equal(weights(state.target), start)


def test_averaged_target_of_tiny_mu_trains_like_no_target():
    losses = [ConsistencyLoss(GridPairs(FixedN(9)), target=FixedMu(mu)) for mu in (0.0, 1e-12)]
    assert equal(*(trained(loss) for loss in losses))


def test_losses_without_an_averaged_target_have_none():
    assert next(fit(tiny(), DATA, ict(), steps=1, batch=4)).target is None


# --- one step ------------------------------------------------------------------------------------------------------------


def test_a_step_is_radam_on_the_mean_loss_then_the_averages():
    x0, loss = DATA.batch(6, seeded(1))[0], ct(2, 9, 0.5)
    model = tiny()
    by_hand, start = copy.deepcopy(model), weights(model)
    trainer = Trainer(model, loss, lr=0.02, weight_decay=0.1, ema=(0.5, 0.9))
    optimizer = torch.optim.RAdam(by_hand.parameters(), lr=0.02, weight_decay=0.1)
    value = loss(by_hand, x0, progress=0.5, target=copy.deepcopy(by_hand), draws=seeded(2)).loss.mean()
    value.backward()
    optimizer.step()
    mean = trainer.step([MicroBatch(x0, None, as_draws(seeded(2)))], 6, 0.5)
    assert mean.item() == pytest.approx(value.item(), rel=1e-6)
    assert equal(weights(model), weights(by_hand))
    assert trainer.target is not None
    mu = loss.target_decay(0.5)
    for average, rate in ((trainer.emas[0], 0.5), (trainer.emas[1], 0.9), (trainer.target, mu)):
        expected = [rate * a + (1 - rate) * b for a, b in zip(start, weights(model), strict=True)]
        assert all(torch.allclose(a, e, atol=1e-6) for a, e in zip(weights(average), expected, strict=True))


@pytest.mark.parametrize("ema", [(), 1.5, (0.9, -0.1)])
def test_averages_need_decays(ema):
    with pytest.raises(ValueError, match="decays in"):
        Trainer(tiny(), ict(), ema=ema)


# --- progressive distillation --------------------------------------------------------------------------------------------


class Watched(ProgressiveLoss):
    """A progressive loss that keeps what it was called with."""

    seen: list = []  # noqa: RUF012

    def __call__(self, model, x0, label=None, *, teacher=None, progress=0.0, **rest):
        self.seen.append((progress, teacher, weights(model), weights(teacher) if isinstance(teacher, nn.Module) else None))
        return super().__call__(model, x0, label, teacher=teacher, progress=progress, **rest)


def distilled(steps: int, teacher_from: Literal["model", "ema"] = "model", **options):
    """A small progressive distillation 4 -> 2 -> 1 (stages of one, two and two units), watched; the states after each step."""
    Watched.seen = []
    loss = Watched(HalvingN(4), teacher_from=teacher_from)
    model, first = tiny(precond=EDM), tiny(precond=EDM).requires_grad_(False)
    settings: dict[str, Any] = {"batch": 8, "lr": 0.01, "ema": 0.5} | options
    # States are live: keep what they were.
    states = [(weights(s.model), weights(s.ema)) for s in fit(model, DATA, loss, steps=steps, teacher=first, **settings)]
    return loss, first, states, Watched.seen


@pytest.mark.parametrize("teacher_from", ["model", "ema"])
def test_the_student_becomes_the_teacher_when_its_stage_ends(teacher_from):
    loss, first, states, seen = distilled(10, teacher_from)
    borders = [stage.start for stage in loss.stages(10)]
    assert borders == [0, 2, 6]
    assert all(teacher is first for _, teacher, _, _ in seen[:2])
    for border, end in zip(borders[1:], [6, 10], strict=True):
        source = states[border - 1][0 if teacher_from == "model" else 1]
        assert equal(seen[border][2], source)  # where the next student starts
        assert all(equal(given, source) for _, _, _, given in seen[border:end])  # and what it learns from, unmoved
        assert not equal(seen[border + 1][2], source)
        expected = [0.5 * a + 0.5 * b for a, b in zip(source, states[border][0], strict=True)]
        assert all(torch.allclose(a, e, atol=1e-6) for a, e in zip(states[border][1], expected, strict=True))


def test_every_stage_trains_like_a_run_of_its_own():
    # Optimizer and learning rate start again: stage 2 alone, from stage 1's end, with the draws of its steps.
    _, _, states, _ = distilled(10, every=1, lr_schedule="linear")
    model = tiny(precond=EDM)
    with torch.no_grad():
        for p, value in zip(model.parameters(), states[1][0], strict=True):
            p.copy_(value)
    teacher = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.RAdam(model.parameters(), lr=0.01)
    from cmlab.training.fit import _step_seed

    for k, step in enumerate(range(2, 6)):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - k / 4)
        x0 = DATA.batch(8, BatchDraws(_step_seed(0, step, 0), 8))[0]
        optimizer.zero_grad()
        draws = BatchDraws(_step_seed(0, step, 1), 8)
        ProgressiveLoss(HalvingN(4))(model, x0, teacher=teacher, progress=step / 10, draws=draws).loss.mean().backward()
        optimizer.step()
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(weights(model), states[step][0], strict=True))


def test_a_distilled_student_is_no_consistency_model():
    assert not ProgressiveLoss().precond.consistency


class Gains(nn.Module):
    """F(x, c_noise) = gain x with one gain per level of a grid: on Gaussian data exactly what a sampler's step needs."""

    def __init__(self, sigmas: torch.Tensor):
        super().__init__()
        self.levels, self.gains = EDM(sigmas).c_noise.float(), nn.Parameter(torch.zeros(len(sigmas)))

    def forward(self, x, c_noise, label=None):
        return self.gains[(c_noise[:, None] - self.levels).abs().argmin(1)][:, None] * x


def test_the_last_student_does_in_one_step_what_its_first_teacher_does_in_all_of_its_own():
    oracle = Gaussian(torch.zeros(2), 0.5)
    model = Denoiser(Gains(karras_sigmas(9)), EDM, (2,))
    loss = ProgressiveLoss(HalvingN(4))  # the first teacher takes 8 steps
    data = MixtureData(oracle)  # type: ignore[arg-type]
    list(fit(model, data, loss, steps=500, batch=64, lr=0.1, every=500, teacher=oracle))

    def spread(denoise, steps: int) -> float:
        with torch.no_grad():
            return list(euler(denoise, 80 * normal(500, 2), karras_sigmas(steps + 1)))[-1].x.std().item()

    assert spread(model, 1) == pytest.approx(spread(oracle, 8), rel=0.01)
    assert spread(oracle, 8) > 50 * spread(oracle, 1)


# --- labels that are dropped ---------------------------------------------------------------------------------------------


class LabelSpy(Denoiser):
    """Keeps every batch of labels."""

    def forward(self, x, sigma, label=None):
        self.labels = [*getattr(self, "labels", []), label.clone()]  # type: ignore[union-attr]
        return super().forward(x, sigma, label)


def labelled(drops: bool = True) -> tuple[LabelSpy, ImageData]:
    data = ImageData(torch.zeros(20, 2, 1, 1), torch.arange(20) % 2, ("a", "b"))
    return LabelSpy(build_network(MLPConfig(8, 1, 2), data.shape, 2), EDM, data.shape, 2, drops_labels=drops), data


def labels_seen(p: float, seed: int = 0, accumulate: int = 1) -> torch.Tensor:
    model, data = labelled()
    list(fit(model, data, EDMLoss(), steps=20, batch=50, label_dropout=p, seed=seed, accumulate=accumulate))
    return torch.cat(model.labels)


def test_dropped_labels_are_a_function_of_the_seed_alone():
    seen = labels_seen(0.3)
    dropped = (seen == -1).double().mean().item()
    assert dropped == pytest.approx(0.3, abs=4 * math.sqrt(0.3 * 0.7 / 1000))  # four errors of 1000 draws
    assert torch.equal(seen, labels_seen(0.3))
    assert torch.equal(seen, labels_seen(0.3, accumulate=5))
    assert not torch.equal(seen, labels_seen(0.3, seed=1))
    kept = labels_seen(0.0)
    assert bool((kept >= 0).all())
    assert torch.equal(seen[seen >= 0], kept[seen >= 0])  # the data do not change


@pytest.mark.parametrize(
    ("drops", "p", "message"), [(False, 0.1, "drops_labels=True"), (True, 1.0, r"\[0, 1\)"), (True, -0.1, r"\[0, 1\)")]
)
def test_labels_that_cannot_be_dropped_are_errors(drops, p, message):
    model, data = labelled(drops)
    with pytest.raises(ValueError, match=message):
        next(fit(model, data, EDMLoss(), steps=1, batch=2, label_dropout=p))


def test_a_teacher_that_knows_no_missing_label_is_refused():
    model, data = labelled()
    teacher = tiny(precond=EDM, classes=2)
    with pytest.raises(ValueError, match="the teacher knows no missing label"):
        next(fit(model, data, cd(9), steps=1, batch=2, label_dropout=0.1, teacher=teacher))


def test_data_without_labels_have_none_to_drop():
    with pytest.raises(ValueError, match="this set has none"):
        trained(label_dropout=0.1)


# --- options -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 4},
        {"batch": 9},
        {"lr": 2e-3},
        {"lr_schedule": "constant"},
        {"lr_schedule": "linear"},
        {"weight_decay": 0.5},
        {"seed": 1},
        {"loss": ict()},
        {"data": load_data("rings")},
    ],
)
def test_options_change_the_weights(change):
    assert not equal(trained(), trained(**change))


def test_a_configuration_and_the_same_values_by_name_are_one_training():
    rest: dict[str, Any] = {"lr": 0.01, "optimizer": "adam", "accumulate": 2}
    by_name = trained(seed=3, **rest)
    assert equal(by_name, trained(config=TrainConfig(seed=3, **rest)))
    assert equal(by_name, trained(config=TrainConfig(seed=4, **rest), seed=3))
    assert not equal(by_name, trained(config=TrainConfig(seed=4, **rest)))


def test_an_unknown_training_option_names_the_nearest():
    for start in (lambda: trained(lr_shedule="cosine"), lambda: Trainer(tiny(), ict(), lr_shedule="cosine")):
        with pytest.raises(TypeError, match="unknown training option 'lr_shedule': did you mean 'lr_schedule'"):
            start()


def test_ema_option_changes_the_average():
    averages = [weights(list(fit(tiny(), DATA, ict(), steps=3, batch=4, ema=e))[-1].ema) for e in (0.5, 0.9)]
    assert not equal(*averages)


def test_teacher_changes_the_weights():
    assert not equal(trained(cd(18), teacher=soft3()), trained(cd(18), teacher=load_data("rings").oracle))  # type: ignore[union-attr]


def test_teacher_stays_as_it_was():
    teacher = tiny(precond=EDM).requires_grad_(False)
    before = copy.deepcopy(teacher.state_dict())
    trained(cd(18), teacher=teacher)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_cosine_schedule_falls_from_lr_towards_zero():
    # RAdam's fifth and later steps scale with lr; the last of K steps runs at lr (1 + cos(pi (K-1)/K)) / 2.
    moves = {}
    for schedule in ("constant", "cosine"):
        path = [tiny(precond=EDM)]
        previous, sizes = weights(path[0]), []
        for state in fit(path[0], DATA, EDMLoss(), steps=10, batch=64, lr_schedule=schedule):
            now = weights(state.model)
            sizes.append(math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(now, previous, strict=True))))
            previous = now
        moves[schedule] = sizes
    assert moves["cosine"][0] == pytest.approx(moves["constant"][0], rel=1e-6)
    assert moves["cosine"][-1] / moves["constant"][-1] == pytest.approx(0.5 * (1 + math.cos(0.9 * math.pi)), rel=0.3)


def test_wsd_is_the_constant_run_until_it_falls():
    # 10 steps: eight at the whole rate, then one more whole (1 - 8/10 is a fifth still) and one at half of it.
    paths = {}
    for schedule in ("constant", "wsd"):
        model = tiny(precond=EDM)
        states = fit(model, DATA, EDMLoss(), steps=10, batch=64, optimizer="adam", lr_schedule=schedule)
        paths[schedule] = [weights(state.model) for state in states]
    for k in range(9):
        assert all(torch.equal(a, b) for a, b in zip(paths["constant"][k], paths["wsd"][k], strict=True)), k
    moved = [[b - a for a, b in zip(p[8], p[9], strict=True)] for p in paths.values()]
    for whole, half in zip(*moved, strict=True):
        torch.testing.assert_close(half, whole / 2, rtol=1e-3, atol=1e-7)


def test_labels_are_trained():
    x0 = torch.stack([torch.full((2,), v) for v in (-0.5, 0.5)])[torch.arange(40) % 2][:, :, None, None].expand(40, 2, 1, 1)
    data = ImageData(x0.contiguous(), torch.arange(40) % 2, ("low", "high"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # initial weights that do not depend on the tests that ran before
        net = build_network(MLPConfig(16, 1, 3), data.shape, data.classes)
    model = Denoiser(net, EDM, data.shape, data.classes)
    state = list(fit(model, data, EDMLoss(), steps=400, batch=32, lr=1e-2, every=400, ema=0.9))[-1]
    noise = torch.zeros(2, 2, 1, 1)
    with torch.no_grad():
        out = state.ema(noise, torch.tensor(3.0), torch.tensor([0, 1])).mean((1, 2, 3))
    assert (out[1] - out[0]).item() > 0.3  # the inputs are equal: without labels so were the outputs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "at least 1"),
        ({"every": 0}, "at least 1"),
        ({"batch": 0}, "at least 1"),
        ({"batch": 8, "accumulate": 3}, "accumulate must divide the batch"),
        ({"accumulate": 0}, "accumulate must divide the batch"),
        ({"lr_schedule": "cosin"}, "constant, linear, cosine"),
        ({"loss": cd()}, "pass teacher="),
        ({"teacher": soft3()}, "no use for a teacher"),
    ],
)
def test_options_that_do_not_fit_are_errors(options, message):
    with pytest.raises(ValueError, match=message):
        trained(**options)


@pytest.mark.parametrize("seed", [-1, 20240101, 2**40 + 1])
def test_any_integer_is_a_seed_of_its_own(seed):
    assert not equal(trained(seed=seed), trained(seed=0))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_run(value):
    x0 = torch.full((4, 2, 1, 1), value)
    model = Denoiser(build_network(MLPConfig(8, 1, 2), (2, 1, 1)), EDM, (2, 1, 1))
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        next(fit(model, ImageData(x0, None), EDMLoss(), steps=1, batch=2))


# --- one that learns -----------------------------------------------------------------------------------------------------


def test_a_short_training_learns_the_eight_gaussians():
    # Measured after 300 steps: .054 with 18 Heun steps; untrained D = c_skip x .144, exact score .027, data against data .020.
    data = load_data("8gaussians")
    reference = data.batch(2000, seeded(1))[0]

    def distance(model) -> float:
        return sliced_wasserstein(sample(model, (2,), range(2000), "heun", 18), reference)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Denoiser(build_network(MLPConfig(), (2,)), EDM, (2,))
    untrained = distance(model)
    ema = list(fit(model, data, EDMLoss(), steps=300, batch=256, lr=3e-3, ema=0.98, every=300))[-1].ema
    assert distance(ema) < 0.1 < untrained


def test_a_short_distillation_learns_to_jump():
    # The exact score as teacher. Measured: .26 for one evaluation of the student, .50 for one Euler step of the teacher.
    data = load_data("8gaussians")
    reference = data.batch(2000, seeded(1))[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Denoiser(build_network(MLPConfig(), (2,)), CONSISTENCY, (2,))
    teacher = data.oracle  # type: ignore[union-attr]
    ema = list(fit(model, data, cd(18), steps=400, batch=128, lr=3e-3, ema=0.98, every=400, teacher=teacher))[-1].ema
    jump = sliced_wasserstein(sample(ema, (2,), range(2000), "onestep", 1), reference)
    euler = sliced_wasserstein(sample(teacher, (2,), range(2000), "euler", 1), reference)
    assert jump < 0.65 * euler


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch": 0}, r"^steps, batch, max_skipped must be at least 1, got batch 0$"),
        ({"batch": 10**12}, "a batch of 1000000000000 is more than 16777216"),
        ({"every": 0, "steps": 0}, "every must be at least 1, got steps 0, every 0"),
        ({"device": "cuda:99"}, "say device='cpu'"),
    ],
)
def test_counts_and_devices_that_cannot_be_are_one_clean_line(change, message):
    arguments = {"steps": 1, "batch": 2, "every": lambda step: True} | change
    with pytest.raises(ValueError, match=message):
        next(fit(tiny(), load_data("rings"), EDMLoss(), **arguments))
