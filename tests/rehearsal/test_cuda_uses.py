"""The rest of the CUDA path without a GPU: guidance inside a model, 16 bits, likelihood, augmentation, features of samples."""

from typing import Any, cast

import pytest
import torch
from conftest import normal, seeded
from pretend import CUDA, backward, rehearse
from test_cuda import SHAPE, small

from cmlab.denoiser import CONSISTENCY, EDM
from cmlab.evaluation.classifier import ClassifierConfig, build_classifier
from cmlab.evaluation.report import model_source
from cmlab.methods.augment import CIFAR10_AUGMENT
from cmlab.methods.likelihood import log_likelihood
from cmlab.noise import sampling_sigmas
from cmlab.samplers import SAMPLERS, plan
from cmlab.training.trainer import PRECISIONS


def sampling(kind: str, precision: str, guidance: float = 1.0):
    """The waits of a sampler whose network computes in ``precision``, guided from inside or not; its state stays float64."""

    def case(device):
        once = kind == "consistency"
        model = small("unet", CONSISTENCY if once else EDM, 3, drops_labels=not once).to(CUDA).eval()
        model.compute, model.guidance = PRECISIONS[precision], guidance
        x, label = normal(2, *SHAPE).to(CUDA), torch.arange(2).to(CUDA)
        sampler, levels = ("multistep", torch.tensor([80.0, 1.0])) if once else ("heun", sampling_sigmas(3))
        before = len(device.waits)
        *_, last = SAMPLERS[sampler](model, x, levels, label, noise=[0, 1] if once else None)
        assert last.x.device == CUDA and last.x.dtype == torch.float64
        return device.waits[before:]

    return case


def likelihood(trace: str):
    """The waits of one evaluation of the ODE's right side; the solver itself reads the error of each of its steps."""

    def case(device):
        import torchdiffeq

        seen = []

        def once(drift, state, ends, **_):
            before = len(device.waits)
            end = state + drift(ends[0], state)
            seen.extend(device.waits[before:])
            return torch.stack([state, end])

        def grad(y, x, v, **_):
            backward((y * v).sum())
            found, x.grad = x.grad, None
            return (found,)

        torchdiffeq.odeint, torch.autograd.grad = once, grad
        model, noise = small("mlp").to(CUDA).eval(), seeded(0) if trace == "hutchinson" else None
        found = log_likelihood(model, normal(3, 2).to(CUDA), trace=cast(Any, trace), noise=noise)
        assert found.log_prob.device == found.latent.device == CUDA and found.log_prob.shape == (3,)
        return seen

    return case


def augmented(device):
    x0, told = CIFAR10_AUGMENT(normal(4, 3, 8, 8).float().to(CUDA), seeded(0))
    assert x0.device == told.device == CUDA and told.shape == (4, CIFAR10_AUGMENT.dim)


def features(kind: str):
    def case(device):
        model = small("unet", CONSISTENCY, 3).to(CUDA).eval()
        pixels, _ = model_source(model, plan(model), n=10, batch=10).draw(0, 10)
        network = build_classifier(ClassifierConfig((4, 4), kind=cast(Any, kind)), (3, 8, 8), 3).to(CUDA).eval()
        found, logits = network(pixels.repeat(1, 1, 2, 2).to(CUDA))
        assert pixels.dtype == torch.uint8 and found.device == logits.device == CUDA and logits.shape == (10, 3)

    return case


def cases():
    samplings = {("sampling", kind, p): sampling(kind, p) for kind in ("diffusion", "consistency") for p in PRECISIONS}
    samplings |= {("sampling", "guided", p): sampling("diffusion", p, 3.0) for p in ("float32", "bf16")}
    return (
        samplings
        | {("likelihood", trace): likelihood(trace) for trace in ("exact", "hutchinson")}
        | {("features", kind): features(kind) for kind in ("residual", "fast")}
        | {("augment",): augmented}
    )


@pytest.fixture(scope="module")
def used():
    return rehearse(cases())


@pytest.mark.parametrize("case", cases(), ids="-".join)
def test_one_device_and_no_wait_in_a_step(used, case):
    assert used[case].error == ""
    if case[0] in ("sampling", "likelihood"):
        assert used[case].result == []
