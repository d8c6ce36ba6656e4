"""Metrics on features: exact cases, what weights mean, and torch-fidelity's own numbers."""

import math

import pytest
import torch
from conftest import normal, seeded

from cmlab.evaluation.metrics import METRICS, Features, Reference, bootstrap_weights, error_bar, moments, value_of


def features(x: torch.Tensor, classes: int = 5, seed: int = 9) -> Features:
    """Features with logits and labels that vary."""
    return Features(x, 2 * normal(len(x), classes, seed=seed), torch.arange(len(x)) % classes)


def value(name: str, fake: Features, real: Features, weights: torch.Tensor | None = None) -> float:
    ones = torch.ones(1, len(fake), dtype=torch.float64)
    return float(METRICS[name](fake, Reference(real), ones if weights is None else weights[None]))


REAL, FAKE = features(normal(60, 4, seed=1)), features(1.3 * normal(50, 4, seed=2) + 0.4)


def test_moments_are_those_of_torch():
    mean, covariance = moments(REAL.features, torch.ones(1, 60, dtype=torch.float64))
    assert torch.allclose(mean[0], REAL.features.mean(0)) and torch.allclose(covariance[0], torch.cov(REAL.features.T))


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (1.0, 3.0), (2.5, 0.0), (0.2, -1.0)])
def test_frechet_distance_of_a_scaled_and_moved_set_is_exact(scale, shift):
    # The means differ by (s - 1) m + b; commuting covariances C and s^2 C give (s - 1)^2 tr C.
    x = REAL.features
    want = ((scale - 1) * x.mean(0) + shift).square().sum() + (scale - 1) ** 2 * torch.cov(x.T).trace()
    assert value("fd", features(scale * x + shift), REAL) == pytest.approx(float(want), abs=1e-10)


def test_frechet_distance_of_gaussians_that_do_not_commute():
    # In two dimensions tr (AB)^(1/2) = sqrt(tr AB + 2 sqrt(det AB)).
    a, b = normal(30, 2, seed=3) @ torch.tensor([[2.0, 1], [0, 0.5]]).double(), normal(40, 2, seed=4)
    ca, cb = torch.cov(a.T), torch.cov(b.T)
    root = torch.sqrt((ca @ cb).trace() + 2 * torch.sqrt(torch.det(ca) * torch.det(cb)))
    want = (a.mean(0) - b.mean(0)).square().sum() + ca.trace() + cb.trace() - 2 * root
    assert value("fd", features(a), features(b)) == pytest.approx(float(want))


def test_more_dimensions_than_samples_is_no_trouble():
    x = features(normal(12, 40, seed=5))
    assert value("fd", x, x) == pytest.approx(0, abs=1e-4)  # square roots of rounding errors, 40 of 1e-16
    assert math.isfinite(value("fd", features(normal(11, 40, seed=6)), x))


def test_kernel_distance_is_the_mean_over_pairs():
    x, y = FAKE.features, REAL.features
    k = lambda a, b: (a @ b / 4 + 1) ** 3  # noqa: E731
    xx = sum(k(x[i], x[j]) for i in range(50) for j in range(50) if i != j) / (50 * 49)
    yy = sum(k(y[i], y[j]) for i in range(60) for j in range(60) if i != j) / (60 * 59)
    xy = sum(k(a, b) for a in x for b in y) / (50 * 60)
    assert value("kd", FAKE, REAL) == pytest.approx(float(xx + yy - 2 * xy))


def test_kernel_distance_of_equal_distributions_is_zero_on_average():
    draws = torch.tensor([value("kd", features(normal(40, 3, seed=s)), features(normal(40, 3, seed=1000 + s))) for s in range(200)])
    assert draws.min() < 0 < draws.max() and abs(draws.mean()) < 4 * draws.std() / 200**0.5


def test_inception_score_of_certain_and_of_constant_answers():
    certain = Features(torch.zeros(12, 1), 1e3 * torch.eye(4).repeat(3, 1))
    assert value("is", certain, REAL) == pytest.approx(4)
    assert value("is", Features(torch.zeros(12, 1), torch.ones(12, 4)), REAL) == pytest.approx(1)


def test_precision_and_recall_on_a_line():
    # Third neighbours of 0, 1, 2, 3, 4 lie at 3, 2, 2, 2, 3.
    real = features(torch.arange(5.0)[:, None])
    fake = features(torch.tensor([[0.5], [-2.9], [-3.1], [6.9], [7.1]]))
    assert value("precision", fake, real) == pytest.approx(3 / 5)
    near = features(torch.tensor([[0.0], [0.1], [0.2], [0.3], [100.0]]))  # the last reaches from .1 to 199.9
    assert value("recall", near, features(torch.tensor([[-0.29], [-0.31], [0.15], [0.7], [199.0]]))) == pytest.approx(4 / 5)


def test_accuracy_counts_and_needs_labels():
    logits = torch.eye(3)[torch.tensor([0, 1, 2, 2])]
    assert value("accuracy", Features(torch.zeros(4, 1), logits, torch.tensor([0, 1, 1, 2])), REAL) == 0.75
    with pytest.raises(ValueError, match="leave it out of --metrics"):
        value("accuracy", Features(torch.zeros(4, 1), logits), REAL)


@pytest.mark.parametrize("name", [name for name in METRICS if name != "recall"])  # its radii stay those of all samples
def test_a_weight_of_zero_leaves_a_sample_out(name):
    kept = torch.rand(50, generator=seeded()) < 0.6
    part = Features(FAKE.features[kept], FAKE.logits[kept], FAKE.label[kept])  # type: ignore[index]
    assert value(name, FAKE, REAL, kept.double()) == pytest.approx(value(name, part, REAL))


@pytest.mark.parametrize("name", ["fd", "is", "precision", "accuracy"])
def test_a_weight_of_two_counts_a_sample_twice(name):
    twice = torch.cat([torch.arange(50), torch.arange(20)])
    double = Features(FAKE.features[twice], FAKE.logits[twice], FAKE.label[twice])  # type: ignore[index]
    weights = 1 + (torch.arange(50) < 20).double()
    assert value(name, FAKE, REAL, weights) == pytest.approx(value(name, double, REAL))


@pytest.mark.parametrize("name", METRICS)
def test_metrics_hold_in_parts_and_for_many_weights(name, monkeypatch):
    weights = bootstrap_weights(50, 3)
    whole = METRICS[name](FAKE, Reference(REAL), weights)
    monkeypatch.setattr("cmlab.evaluation.metrics._ROWS", 7)
    assert torch.allclose(METRICS[name](FAKE, Reference(REAL), weights), whole, rtol=1e-12)
    assert whole.shape == (3,) and whole.isfinite().all()


def test_recall_falls_when_samples_go():
    half = (torch.arange(50) < 25).double()
    assert value("recall", FAKE, REAL, half) < value("recall", FAKE, REAL)


def test_bootstrap_draws_n_of_n_from_its_own_seed(untouched_rng):
    weights = bootstrap_weights(30, 5, seed=3)
    assert weights.shape == (5, 30) and (weights.sum(1) == 30).all()
    assert torch.equal(weights, bootstrap_weights(30, 5, seed=3)) and not torch.equal(weights, bootstrap_weights(30, 5, seed=4))


def test_error_bar_of_a_share_is_binomial():
    n, p = 400, 0.75
    logits = torch.eye(2)[(torch.arange(n) >= n * p).long()]
    asked = METRICS["accuracy"], Features(torch.zeros(n, 1), logits, torch.zeros(n).long()), Reference(REAL)
    assert value_of(*asked) == p and error_bar(*asked, 2000) == pytest.approx(
        (p * (1 - p) / n) ** 0.5, rel=0.06
    )  # of 2,000 replicates: 1.6 %


def test_error_bar_is_the_spread_over_fresh_samples():
    real = Reference(features(normal(2000, 3, seed=7)))
    draws = [features(normal(300, 3, seed=s) + 0.5) for s in range(60)]
    spread = torch.tensor([float(METRICS["fd"](d, real, torch.ones(1, 300).double())) for d in draws]).std()
    assert error_bar(METRICS["fd"], draws[0], real, 200) == pytest.approx(float(spread), rel=0.35)


def test_they_agree_with_torch_fidelity():
    pytest.importorskip("torch_fidelity", reason="FID is an extra: pip install cmlab[metrics]")
    from torch_fidelity import metric_fid, metric_isc, metric_kid, metric_prc

    fake = Features(normal(300, 8, seed=1, dtype=torch.float32) + 0.3, FAKE.logits.float())
    real = Features(normal(300, 8, seed=2, dtype=torch.float32), REAL.logits.float())
    stats_a, stats_b = (metric_fid.fid_features_to_statistics(f.features) for f in (fake, real))
    fid = metric_fid.fid_statistics_to_metric(stats_a, stats_b, False)["frechet_inception_distance"]
    assert value("fd", fake, real) == pytest.approx(fid, rel=1e-4)  # their means are float32
    kid = metric_kid.kid_features_to_metric(fake.features, real.features, kid_subsets=1, kid_subset_size=300, verbose=False)
    assert value("kd", fake, real) == pytest.approx(kid["kernel_inception_distance_mean"], rel=1e-3)  # theirs is float32
    inception = metric_isc.isc_features_to_metric(fake.logits, splits=1)["inception_score_mean"]
    assert value("is", Features(fake.features[:50], fake.logits), real) == pytest.approx(inception)
    found = metric_prc.prc_features_to_metric(fake.features, real.features, verbose=False)
    assert (value("precision", fake, real), value("recall", fake, real)) == pytest.approx(
        (found["precision"], found["recall"]), abs=1e-6
    )
