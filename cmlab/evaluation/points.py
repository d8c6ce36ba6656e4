"""How good are the samples? Sliced Wasserstein distances of points in the plane."""

import torch
from torch import Tensor

from ..denoiser import Denoise, traits_of
from ..noise import SIGMA_MAX, sampling_sigmas
from ..samplers import heun, last_state, multistep, plan


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
