"""Guidance, spherical interpolation and augmentation against `originals`, which has them in their own coordinates."""

from collections.abc import Iterator

import torch
from conftest import KnownDraws
from torch import Tensor

from cmlab.editing import slerp
from cmlab.methods.augment import COLUMNS, Augment
from cmlab.methods.guidance import ClassifierFree, ClassifierGuidance, guided_ancestral
from cmlab.oracle import GaussianMixture
from cmlab.samplers import Step, euler

from .base import Case, Check, Skip, runs

EXACT = 1e-13


class Classes:
    """The mixture of the case as a denoiser with labels and as a classifier, in x = y / sqrt(abar)."""

    def __init__(self, case: Case):
        means, std = case.input("means"), case.scalars["var"] ** 0.5
        self.whole = GaussianMixture(torch.ones(len(means)), means, std)
        self.parts = [GaussianMixture([1.0], mean[None], std) for mean in means]

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        if label is None:
            return self.whole(x, sigma)
        return torch.stack([part(x, sigma) for part in self.parts])[label, torch.arange(len(x))]

    def log_prob(self, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        each = torch.stack([part.log_prob(x, sigma) for part in self.parts])
        return each[label, torch.arange(len(x))] - self.whole.log_prob(x, sigma)


def states(case: Case, steps: Iterator[Step]) -> Check:
    """The VP states after each step."""
    scale = case.input("abar")[1:].sqrt()
    return Check("states", torch.stack([step.x * s for step, s in zip(steps, scale, strict=True)]), EXACT)


@runs("l_guidance", "guided_ddpm", "guided_ddim", "classifier_free_ddim")
def guidance(case):
    model, abar, scale, label = Classes(case), case.input("abar"), case.scalars["scale"], case.input("label")
    x, sigmas = case.input("y") / abar[0].sqrt(), ((1 - abar) / abar).sqrt()
    if case.fn == "guided_ddpm":
        noise = KnownDraws(list(case.input("noise")))
        yield states(case, guided_ancestral(model, x, sigmas, label, noise=noise, log_prob=model.log_prob, weight=scale))
    else:
        free = case.fn == "classifier_free_ddim"  # the paper's w is the weight less 1
        guided = ClassifierFree(model, 1 + scale) if free else ClassifierGuidance(model, model.log_prob, scale)
        yield states(case, euler(guided, x, sigmas, label))


@runs("m_slerp", "slerp")
def interpolation(case):
    z1, z2 = case.input("z1"), case.input("z2")
    if bool(((z1.norm(dim=1) / z2.norm(dim=1) - 1).abs() > 1e-12).any()):
        yield Skip("z", "linear-length")
    else:
        yield Check("z", slerp(z1, z2, case.scalars["a"]), EXACT)


GATE = torch.zeros(1)  # a uniform number that lets a change through


def draws_of(drawn: dict[str, list[float]]) -> KnownDraws:
    """What a source of draws has to give, for one picture, so that the changes are those of the case."""
    normals, uniforms = [], []
    for name, numbers in drawn.items():
        value = torch.tensor(numbers, dtype=torch.float64)
        if name in ("xflip", "yflip", "rotate_int", "lumaflip"):
            uniforms.append((value + 0.5) / (4 if name == "rotate_int" else 2))
        elif name == "aniso":
            normals.append(value[None, :1])
            uniforms += [GATE, value[None, 1:2], value[2:]]
            continue
        elif name in ("rotate_frac", "hue"):
            uniforms.append(value[None])
        elif name == "translate_int":
            uniforms.append((value[None] + 1) / 2)
        else:
            normals.append(value[None])
        uniforms.append(GATE)
    return KnownDraws(normals, uniforms)


@runs("n_augment", "augmented")
def augmentation(case):
    drawn = {name: case.scalars["drawn"][name] for name in COLUMNS if name in case.scalars["drawn"]}
    out, done = Augment(1.0, **dict.fromkeys(drawn, 1.0))(case.input("picture")[None], draws_of(drawn))
    turned = case.name in ("rotate_frac", "cifar10", "everything")  # by other angles than quarter turns
    yield Check("picture", out[0], 1e-5 if turned else EXACT, deviation="short-margin" if turned else "")
    yield Check("labels", done[0], 1e-7)  # labels are float32
