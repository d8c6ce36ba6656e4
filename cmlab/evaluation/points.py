"""How good are the samples? Sliced Wasserstein distance for points in the plane, a classifier for digits."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ..denoiser import Denoise, Denoiser, classes_in_turn, traits_of
from ..editing import luma
from ..noise import SIGMA_MAX, sampling_sigmas, seeds_from
from ..samplers import heun, last_state, multistep, plan, sample


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = 256, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance between two equally large sets of points (N, d): root mean square over fixed directions.

    In one dimension the optimal coupling pairs sorted values, so each direction is exact (Rabin et al., 2011).
    Raises ValueError for sets of different size.
    """
    if a.shape != b.shape or a.ndim != 2:
        raise ValueError(f"need two point sets of the same shape (N, d), got {tuple(a.shape)} and {tuple(b.shape)}")
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(a.shape[1], projections, generator=generator, dtype=torch.float64)
    direction = direction / direction.norm(dim=0)
    sorted_a, sorted_b = ((points.detach().double() @ direction).sort(dim=0).values for points in (a, b))
    return float((sorted_a - sorted_b).square().mean().sqrt())


def paired_rms(a: Tensor, b: Tensor) -> float:
    """Root mean square of the per-coordinate difference between samples made from the same noise."""
    return float((a - b).detach().double().square().mean().sqrt())


class ToyTest:
    """A 2D set's reference draw and one noise for every model: ``seed`` fixes both, ``n`` points each."""

    def __init__(self, data: str, seed: int = 0, n: int = 20_000):
        from ..data import load_toy

        self.oracle, self._seed = load_toy(data).oracle, seed
        self.reference = self.oracle.sample(n, self.generator(1))
        self.noise = torch.randn(n, 2, generator=self.generator(3)).double() * SIGMA_MAX
        self.floor = self.distance(self.oracle.sample(n, self.generator(2)))

    def generator(self, stream: int) -> torch.Generator:
        """Randomness of its own for every purpose (0 to 999)."""
        return torch.Generator().manual_seed(1000 * self._seed + stream)

    def distance(self, samples: Tensor) -> float:
        """Sliced Wasserstein distance of ``samples`` (n, 2) to the reference; `floor` is that of fresh data."""
        return sliced_wasserstein(self.reference, samples)

    def few_steps(self, model: Denoise) -> dict[str, Tensor]:
        """Samples (n, 2) of a consistency model from the noise, in one step and in two, at the levels of `samplers.plan`."""
        levels = {"1 step": plan(model, "multistep", 1).sigmas, "2 steps": plan(model, "multistep", 2).sigmas}
        return {way: last_state(multistep(model, self.noise, at, noise=self.generator(4))) for way, at in levels.items()}


def toy_report(model: Denoise, data: str, teacher: Denoise | None = None, seed: int = 0, n: int = 20_000) -> dict[str, float]:
    """Sliced Wasserstein distances of a 2D model to its data, with the data-against-data floor beside them.

    A diffusion model is sampled with 40 Heun steps; a consistency model in one step and in two; with a
    ``teacher``, also the paired rms to the teacher's 40 Heun steps from the same noise. ``seed`` fixes reference and noise.
    """
    test, grid = ToyTest(data, seed, n), sampling_sigmas(40)
    x, distance = test.noise, test.distance
    report = {"floor": test.floor, "exact score, 40 Heun steps": distance(last_state(heun(test.oracle, x, grid)))}
    if not is_consistency(model):
        return report | {"40 Heun steps": distance(last_state(heun(model, x, grid)))}
    drawn = test.few_steps(model)
    report |= {way: distance(samples) for way, samples in drawn.items()}
    if teacher is not None:
        report["paired rms to the teacher"] = paired_rms(drawn["1 step"], last_state(heun(teacher, x, grid)))
    return report


def is_consistency(model: Denoise) -> bool:
    """True for a Denoiser whose output at sigma_min > 0 is its input."""
    return traits_of(model).consistency


def digit_features(x: Tensor) -> np.ndarray:
    """Grey or RGB digits (B, C, 8, 8) as luma, each picture stretched to [0, 1] and flattened: blind to hue and contrast."""
    flat = (luma(x.float()) if x.shape[1] == 3 else x.float()).flatten(1)
    low, high = flat.amin(1, keepdim=True), flat.amax(1, keepdim=True)
    return ((flat - low) / (high - low).clamp_min(1e-6)).numpy()


@lru_cache(maxsize=2)
def digit_classifier(data: str = "digits"):
    """A support vector machine on two thirds of the real digits, and its accuracy on the other third of the scans."""
    from sklearn.svm import SVC

    from ..data import digits, held_out, load_images

    images = load_images(data)
    assert images.label is not None
    scans = len(digits().x0)
    test = held_out(scans).repeat(len(images.x0) // scans)  # all colourings of a scan fall on the same side
    features, label = digit_features(images.x0), images.label.numpy()
    model = SVC(C=10.0, gamma="scale").fit(features[~test], label[~test])
    return model, float(model.score(features[test], label[test]))


def digit_accuracy(model: Denoiser, data: str, sampler: str, steps: int, n: int = 2000, seed: int = 0) -> float:
    """Share of ``n`` class-conditional samples that the classifier puts into the class that was asked for."""
    label = classes_in_turn(10, n)
    assert label is not None
    x = sample(model, model.shape, seeds_from(seed, n), sampler, steps, label=label)
    return float((digit_classifier(data)[0].predict(digit_features(x)) == label.numpy()).mean())


def digit_report(model: Denoiser, data: str) -> dict[str, float]:
    """Classifier accuracy on class-conditional samples made as `samplers.plan` says, of a consistency model in two steps, too."""
    usual, consistency = plan(model), is_consistency(model)
    ways = {"1 step": usual, "2 steps": plan(model, steps=2)} if consistency else {f"{usual.steps} Heun steps": usual}
    report = {"classifier on real digits": digit_classifier(data)[1]}
    return report | {name: digit_accuracy(model, data, how.sampler, how.steps) for name, how in ways.items()}
