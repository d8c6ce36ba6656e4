"""Noise levels and seeded noise: what every other module stands on.

``sigma`` is the only "time" in this package (the papers' t equals sigma). Grids run downwards, because sampling does.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

SIGMA_MIN = 0.002
SIGMA_MAX = 80.0
SIGMA_DATA = 0.5
RHO = 7.0


def karras_sigmas(n: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO) -> Tensor:
    """``n`` decreasing noise levels, denser near zero (EDM, eq. 5).

    Returns a float64 tensor (n,) that starts at exactly ``sigma_max`` and, for n > 1, ends at exactly ``sigma_min``.
    Raises ValueError for n < 1 or levels out of order.
    """
    if n < 1:
        raise ValueError(f"a sigma grid needs at least 1 point, got {n}")
    if not 0 < sigma_min < sigma_max:
        raise ValueError(f"need 0 < sigma_min < sigma_max, got {sigma_min} and {sigma_max}")
    if rho <= 0:
        raise ValueError(f"rho must be above 0, got {rho}")
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    top, bottom = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    sigmas = (top + ramp * (bottom - top)) ** rho
    # The power leaves the end points a rounding error away, which would break f(x, sigma_min) == x.
    sigmas[-1] = sigma_min
    sigmas[0] = sigma_max
    return sigmas


def sampling_sigmas(n: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO) -> Tensor:
    """The Karras grid with a final 0: n + 1 levels for n solver steps (EDM, Algorithm 1)."""
    return torch.cat([karras_sigmas(n, sigma_min, sigma_max, rho), torch.zeros(1, dtype=torch.float64)])


def expand(sigma: Tensor, x: Tensor) -> Tensor:
    """``sigma``, () or (B,), shaped (B, 1, ..., 1) so that it multiplies ``x`` (B, *S).

    Raises ValueError when sigma has another number of entries than x has samples.
    """
    sigma = send(sigma, x.device)
    if sigma.ndim == 0:
        sigma = sigma.expand(x.shape[0])
    if sigma.ndim != 1 or sigma.shape[0] != x.shape[0]:
        raise ValueError(f"sigma must be a scalar or one value per sample: x is {tuple(x.shape)}, sigma is {tuple(sigma.shape)}")
    return sigma.reshape(-1, *[1] * (x.ndim - 1))


def send(value: Tensor, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """``value`` on ``device``. The host goes on at once: it does not wait until a GPU has taken what comes from here."""
    if device.type != "cuda" or value.device.type != "cpu":
        return value.to(device, dtype or value.dtype)
    if value.numel() > 1:  # a number alone is taken along with the call
        value = value.pin_memory()
    return value.to(device, dtype or value.dtype, non_blocking=True)


def state_dtype(device: torch.device) -> torch.dtype:
    """float64 for solver states; float32 on devices without float64 (Apple's mps)."""
    return torch.float32 if device.type == "mps" else torch.float64


class Draws(Protocol):
    """A source of randomness for a batch; row k depends on its seed alone, never on the other rows."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers, shape (B, *rest), float32 on the CPU."""
        ...

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """Uniform numbers in [0, 1), shape (B, *rest), float32 on the CPU."""
        ...


Source = Draws | torch.Generator | Sequence[int]  # whatever `as_draws` takes: ready draws, a generator, or one seed per sample


class SampleDraws:
    """One generator per sample, so image k is the same image in every batch, on every device (EDM's StackedRandomGenerator).

    >>> a, b = SampleDraws([7, 8]), SampleDraws([8])
    >>> bool((a.normal((2, 3))[1:] == b.normal((1, 3))).all())
    True
    """

    def __init__(self, seeds: Sequence[int]):
        if len(seeds) == 0:
            raise ValueError("there are no seeds: pass one whole number per sample")
        # With the highest of 32 bits flipped, no sample starts from the noise that a training step draws from the same seed.
        self._generators = [torch.Generator().manual_seed((_whole(seed) ^ 0x80000000) & 0xFFFFFFFF) for seed in seeds]

    def __len__(self) -> int:
        return len(self._generators)

    def _stack(self, draw, shape: Sequence[int]) -> Tensor:
        if shape[0] != len(self):
            raise ValueError(f"{len(self)} seeds cannot draw a batch of {shape[0]}: pass one seed per sample")
        return torch.stack([draw(tuple(shape[1:]), generator=g) for g in self._generators])

    def normal(self, shape: Sequence[int]) -> Tensor:
        return self._stack(torch.randn, shape)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return self._stack(torch.rand, shape)


def _whole(seed: object) -> int:
    try:
        number = int(seed)  # pyright: ignore[reportArgumentType]
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or number != seed:
        raise ValueError(f"a seed is a whole number, got {seed!r}: pass one per sample, such as range(16)")
    return number


class _GeneratorDraws:
    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=self.generator)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return torch.rand(tuple(shape), generator=self.generator)


def as_draws(source: Source) -> Draws:
    """A CPU generator, a list of per-sample seeds, or a ready source, as a source of draws. ValueError for anything else."""
    if isinstance(source, torch.Generator):
        return _GeneratorDraws(source)
    if isinstance(source, Sequence):
        return SampleDraws(source)
    if not (hasattr(source, "normal") or hasattr(source, "uniform")):
        raise ValueError(f"noise comes from a torch.Generator or a list of whole numbers, one per sample: got {source!r:.60}")
    return source


def noise_like(x: Tensor, draws: Draws) -> Tensor:
    """Unit noise of the shape, type and device of ``x`` (B, *S)."""
    return send(draws.normal(x.shape), x.device, x.dtype)


def seeds_from(seed: int, n: int) -> list[int]:
    """``n`` per-sample seeds ``seed, seed + 1, ...``: sample k of seed s is sample 0 of seed s + k."""
    return [seed + k for k in range(n)]
