"""Guidance on a labelled Gaussian mixture, whose classifier and conditional denoisers are exact."""

import math
from dataclasses import replace

import pytest
import torch
from conftest import KnownDraws, normal, randomise, seeded, tiny

from cmlab.denoiser import CONSISTENCY, EDM, Denoiser, Preconditioning, Traits, traits_of
from cmlab.methods.guidance import AutoGuidance, ClassifierFree, ClassifierGuidance, guided_ancestral, log_prob_gradient
from cmlab.methods.scalings import IDDPMPrecond
from cmlab.networks import MLPConfig, build_network
from cmlab.noise import expand, karras_sigmas, sampling_sigmas
from cmlab.oracle import GaussianMixture
from cmlab.samplers import SAMPLERS, ancestral, euler, heun, last_state, sample

WEIGHTS = torch.tensor([0.3, 0.2, 0.4, 0.1]).double()
MEANS = torch.tensor([[0.6, 0.1], [-0.5, 0.5], [-0.1, -0.7], [0.4, 0.7]]).double()
STDS = torch.tensor([0.3, 0.2, 0.25, 0.4]).double()
CLASS = torch.tensor([0, 0, 1, 1])  # class of every component
WHOLE = GaussianMixture(WEIGHTS, MEANS, STDS)
PARTS = [GaussianMixture(WEIGHTS[k == CLASS], MEANS[k == CLASS], STDS[k == CLASS]) for k in (0, 1)]
PRIOR = [float(WEIGHTS[k == CLASS].sum()) for k in (0, 1)]


def conditional(x, sigma, label=None):
    """The exact denoiser of each sample's class; without a label, of all classes together."""
    if label is None:
        return WHOLE(x, sigma)
    both = torch.stack([part(x, sigma) for part in PARTS])
    return both[label, torch.arange(len(x))]


def log_prob(x, sigma, label):
    """Bayes: p(y|x) = p(x|y) p(y) / p(x)."""
    both = torch.stack([part.log_prob(x, sigma) + math.log(prior) for part, prior in zip(PARTS, PRIOR, strict=True)])
    return both[label, torch.arange(len(x))] - WHOLE.log_prob(x, sigma)


LABEL = torch.tensor([0, 1, 0, 1, 1])
X = normal(5, 2, seed=3)


@pytest.mark.parametrize("sigma", [0.01, 0.3, 2.0, 80.0])
def test_classifier_guidance_with_weight_1_is_the_conditional_denoiser(sigma):
    x, level = sigma * X, torch.tensor(sigma).double()
    assert float((ClassifierGuidance(WHOLE, log_prob)(x, level, LABEL) - conditional(x, level, LABEL)).abs().max()) < 1e-9
    # and differs from the unconditional one wherever the classifier knows something
    assert not torch.allclose(WHOLE(x, level), conditional(x, level, LABEL), rtol=0, atol=1e-9)


def test_classifier_guidance_takes_one_level_per_sample():
    sigma = torch.tensor([0.1, 0.5, 1.0, 5.0, 20.0]).double()
    together = ClassifierGuidance(WHOLE, log_prob, 2.0)(X, sigma, LABEL)
    for k in range(5):
        alone = ClassifierGuidance(WHOLE, log_prob, 2.0)(X[k : k + 1], sigma[k], LABEL[k : k + 1])
        assert torch.allclose(together[k : k + 1], alone, rtol=1e-12)


@pytest.mark.parametrize("weight", [0.0, 0.5, 3.0])
def test_classifier_and_classifier_free_guidance_are_one_with_exact_models(weight):
    # sigma^2 grad log p(y|x) = D_c - D_u, so both are D_u + w (D_c - D_u).
    level = torch.tensor(0.7).double()
    a, b = ClassifierGuidance(WHOLE, log_prob, weight), ClassifierFree(conditional, weight)
    assert torch.allclose(a(X, level, LABEL), b(X, level, LABEL), rtol=0, atol=1e-11)


def test_guidance_is_the_tilted_score():
    # Score of p(x) p(y|x)^w, up to its normalisation.
    level, w = torch.tensor(0.7).double(), 2.5
    x = X.clone().requires_grad_()
    tilted = torch.autograd.grad((WHOLE.log_prob(x, level) + w * log_prob(x, level, LABEL)).sum(), x)[0]
    guided = ClassifierGuidance(WHOLE, log_prob, w)(X, level, LABEL)
    assert torch.allclose((guided - X) / level**2, tilted, rtol=1e-9)


def test_the_ddim_form_is_the_papers_in_vp_coordinates():
    # Algorithm 2: eps <- eps - sqrt(1 - abar) grad log p, the gradient taken with respect to the VP state y = sqrt(abar) x.
    t, to, w = torch.tensor(3.0).double(), torch.tensor(1.2).double(), 1.7
    root, root_next = (1 + t**2).rsqrt(), (1 + to**2).rsqrt()
    y = (root * 3 * X).requires_grad_()
    pull = torch.autograd.grad(log_prob(y / root, t, LABEL).sum(), y)[0]
    x = 3 * X
    eps = (x - WHOLE(x, t)) / t - w * (1 - root**2).sqrt() * pull
    x0 = (root * x - (1 - root**2).sqrt() * eps) / root
    y_next = root_next * x0 + (1 - root_next**2).sqrt() * eps
    step = next(euler(ClassifierGuidance(WHOLE, log_prob, w), x, torch.stack([t, to]), LABEL))
    assert torch.allclose(step.x, y_next / root_next, rtol=1e-10)


def test_the_ddpm_form_is_the_papers_in_vp_coordinates():
    # Algorithm 1 on DDPM's own 25 of 1000 levels: mu, Sigma and the gradient are those of y = sqrt(abar) x.
    abar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000).double(), 0)[39::40].flip(0)
    sigmas, w = torch.cat([((1 - abar) / abar).sqrt(), torch.zeros(1).double()]), 1.7
    z, y = [normal(5, 2, seed=k) for k in range(24)], normal(5, 2, seed=30)
    steps = guided_ancestral(WHOLE, y / abar[0].sqrt(), sigmas, LABEL, noise=KnownDraws(list(z)), log_prob=log_prob, weight=w)
    for i, step in enumerate(steps):
        a, before = abar[i], abar[i + 1] if i < 24 else torch.ones(()).double()
        beta = 1 - a / before
        x0, y = WHOLE(y / a.sqrt(), sigmas[i]), y.requires_grad_()
        pull = torch.autograd.grad(log_prob(y / a.sqrt(), sigmas[i], LABEL).sum(), y)[0]
        mean = (before.sqrt() * beta * x0 + (a / before).sqrt() * (1 - before) * y.detach()) / (1 - a)
        variance = beta * (1 - before) / (1 - a)
        y = mean + w * variance * pull + (variance.sqrt() * z[i] if i < 24 else 0)
        error = float((step.x * before.sqrt() - y).abs().max() / y.abs().max())
        assert error < 2e-14, (i, error)
    assert i == 24


def test_the_ddpm_form_is_a_weaker_classifier_guidance():
    # The module's head: under `ancestral`, with the weight w (t'/t)^2 sqrt((1 + t^2) / (1 + t'^2)).
    t, to, w = torch.tensor(3.0).double(), torch.tensor(1.2, dtype=torch.float64), 1.7
    z, x = normal(5, 2, seed=4), 3 * X
    step = next(guided_ancestral(WHOLE, x, torch.stack([t, to]), LABEL, noise=KnownDraws([z]), log_prob=log_prob, weight=w))
    weaker = ClassifierGuidance(WHOLE, log_prob, w * 0.4**2 * math.sqrt(10 / 2.44))
    assert torch.allclose(step.x, next(ancestral(weaker, x, torch.stack([t, to]), LABEL, noise=KnownDraws([z]))).x, rtol=1e-10)


def test_both_forms_meet_in_many_steps():
    def gap(n: int) -> float:
        z, x, grid = [normal(5, 2, seed=k) for k in range(n)], 5 * X, karras_sigmas(n + 1, 0.05, 5.0)
        a = guided_ancestral(WHOLE, x, grid, LABEL, noise=KnownDraws(z), log_prob=log_prob)
        b = ancestral(ClassifierGuidance(WHOLE, log_prob), x, grid, LABEL, noise=KnownDraws(z))
        return float((last_state(a) - last_state(b)).norm())

    assert gap(160) < gap(40) / 2
    assert gap(160) < 0.1


@pytest.mark.parametrize(
    "guided", [ClassifierGuidance(WHOLE, log_prob), ClassifierFree(conditional, 1.0)], ids=["classifier", "classifier-free"]
)
def test_a_guided_sample_of_weight_1_is_a_conditional_sample(guided):
    label = torch.arange(8) % 2
    a = sample(guided, (2,), range(8), "heun", 8, label=label)
    assert torch.allclose(a, sample(conditional, (2,), range(8), "heun", 8, label=label), atol=1e-8)


def test_guided_samples_have_the_class_statistics():
    n = 4000
    x = 20 * normal(n, 2, seed=9)
    drawn = last_state(
        guided_ancestral(
            WHOLE, x, sampling_sigmas(80, 0.02, 20.0), torch.ones(n).long(), noise=seeded(2), log_prob=log_prob, weight=1.0
        )
    )
    part = PARTS[1]
    mean = (part.weights[:, None] * part.means).sum(0)
    second = (part.weights[:, None] * (part.stds[:, None] ** 2 + part.means**2)).sum(0)
    # Four standard errors are 0.04 of a standard deviation 0.56; the sampler's own error at 80 steps comes on top.
    assert float((drawn.mean(0) - mean).abs().max()) < 0.06
    assert float((drawn.square().mean(0) - second).abs().max()) < 0.06


def test_more_weight_makes_the_class_surer():
    label = torch.zeros(200).long()
    sureness = []
    for weight in (0.0, 1.0, 3.0):
        x = sample(ClassifierFree(conditional, weight), (2,), range(200), "heun", 12, label=label)
        sureness.append(float(log_prob(x, torch.tensor(0.05).double(), label).mean()))
    assert sureness[0] < sureness[1] < sureness[2]


def test_autoguidance_extrapolates_from_the_weak_model():
    level, weak = torch.tensor(0.7).double(), GaussianMixture(WEIGHTS, MEANS, STDS + 0.3)
    a, b = WHOLE(X, level), weak(X, level)
    assert torch.allclose(AutoGuidance(WHOLE, weak, 2.0)(X, level), 2 * a - b)
    assert torch.allclose(AutoGuidance(WHOLE, weak, 1.0)(X, level), a)
    assert torch.allclose(AutoGuidance(WHOLE, weak, 0.0)(X, level), b)
    assert torch.equal(AutoGuidance(conditional, conditional, 3.0)(X, level, LABEL), conditional(X, level, LABEL))
    # Away from the broader density: samples gather.
    spread = [float(sample(AutoGuidance(WHOLE, weak, w), (2,), range(300), "heun", 12).var()) for w in (1.0, 2.0)]
    assert spread[1] < spread[0]


def network(drops_labels: bool, precond: Preconditioning = EDM) -> Denoiser:
    net = randomise(build_network(MLPConfig(width=12, depth=2, freqs=3), (2,), 3))
    return Denoiser(net, precond, (2,), 3, drops_labels)


def test_one_network_with_and_without_its_labels():
    model, level, label = network(True), torch.tensor(0.7).double(), torch.tensor([0, 1, 2, 0, 1])
    with torch.no_grad():
        with_label, without = model(X, level, label), model(X, level)
        assert not torch.equal(with_label, without)
        expected = without + 3.0 * (with_label - without)
        assert torch.allclose(ClassifierFree(model, 3.0)(X, level, label), expected)


def test_two_networks():
    model, free, level, label = network(False), tiny(), torch.tensor(0.7).double(), torch.tensor([0, 1, 2, 0, 1])
    with torch.no_grad():
        guided = ClassifierFree(model, 3.0, free)(X, level, label)
        assert torch.allclose(guided, free(X, level) + 3.0 * (model(X, level, label) - free(X, level)))


def test_a_conditional_model_may_have_a_classifier_too():
    level = torch.tensor(0.7).double()
    guided = ClassifierGuidance(conditional, log_prob, 0.5, conditional=True)(X, level, LABEL)
    tilt = expand(level, X) ** 2 * log_prob_gradient(log_prob, X, level, LABEL)
    assert torch.allclose(guided, conditional(X, level, LABEL) + 0.5 * tilt)


def test_samplers_see_the_levels_of_the_model_within():
    model = network(True, IDDPMPrecond())
    for guided, asked in ((ClassifierFree(model), 2), (ClassifierGuidance(model, log_prob), 1), (AutoGuidance(model, model), 2)):
        assert guided.traits == replace(traits_of(model), evaluations=asked)
    assert ClassifierFree(conditional).traits == Traits(evaluations=2)


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_can_be_guided(name):
    model, label = network(True, CONSISTENCY if name in ("onestep", "multistep") else EDM), torch.tensor([0, 2])
    steps = 1 if name == "onestep" else 3
    plain = sample(model, (2,), [0, 1], name, steps, label=label)
    guided = sample(ClassifierFree(model, 2.0), (2,), [0, 1], name, steps, label=label)
    assert bool(guided.isfinite().all())
    assert not torch.equal(plain, guided)


def test_gradients_do_not_leak():
    steps = heun(ClassifierGuidance(WHOLE, log_prob), X, sampling_sigmas(3), LABEL)
    assert not next(steps).x.requires_grad


def test_errors():
    level = torch.tensor(1.0).double()
    for guided in (ClassifierGuidance(WHOLE, log_prob), ClassifierFree(conditional)):
        with pytest.raises(ValueError, match="pass label="):
            guided(X, level)
    with pytest.raises(ValueError, match="one log-probability per sample"):
        ClassifierGuidance(WHOLE, lambda x, s, y: x.sum())(X, level, LABEL)
    with pytest.raises(ValueError, match="pass label="):  # a model that was never trained without its labels
        ClassifierFree(network(False))(X, level, LABEL)
    with pytest.raises(ValueError, match="pass noise="):
        next(guided_ancestral(WHOLE, X, sampling_sigmas(3), LABEL, log_prob=log_prob))
