"""Noise levels and seeded noise: what every other module stands on.

``sigma`` is the only "time" in this package (the papers' t equals sigma). Grids run downwards, because sampling does.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
    if sigma.ndim == 0:
        sigma = sigma.expand(x.shape[0])
    if sigma.ndim != 1 or sigma.shape[0] != x.shape[0]:
        raise ValueError(f"sigma must be a scalar or one value per sample: x is {tuple(x.shape)}, sigma is {tuple(sigma.shape)}")
    return sigma.reshape(-1, *[1] * (x.ndim - 1))


def usable_device(name: torch.device | str) -> torch.device:
    """The device of that name; raises ValueError where torch knows none, or has no such GPU."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"there is no device {str(name)!r}: say 'cpu', or 'cuda' for a GPU") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"torch sees {torch.cuda.device_count()} GPUs here and cannot use {str(name)!r}: say device='cpu'")
    return device


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


class SampleDraws:
    """One generator per sample, so image k is the same image in every batch, on every device (EDM's StackedRandomGenerator).

    >>> a, b = SampleDraws([7, 8]), SampleDraws([8])
    >>> bool((a.normal((2, 3))[1:] == b.normal((1, 3))).all())
    True
    """

    def __init__(self, seeds: Sequence[int]):
        if len(seeds) == 0:
            raise ValueError("there are no seeds: pass one whole number per sample")
        # The upper half of the generator's 32 bits of seed: no sample starts from the noise that a training step has drawn.
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


class BatchDraws:
    """Rows ``start:stop`` of a batch of ``total``.

    Every ``BLOCK`` rows have a generator of their own, and only the blocks that these rows lie in are drawn. A batch that is split
    over accumulation steps or processes therefore sees the numbers of the unsplit batch, and no part pays for the others.
    """

    BLOCK = 64

    def __init__(self, seed: int, total: int, start: int = 0, stop: int | None = None):
        self.rows = slice(start, total if stop is None else stop)
        first = start // self.BLOCK
        self._before = first * self.BLOCK  # rows of the blocks that are left out
        # The CPU's generator reads 32 bits of its seed only.
        self._blocks = [
            (torch.Generator().manual_seed((seed + k * 0xC2B2AE35) & 0xFFFFFFFF), min(self.BLOCK, total - k * self.BLOCK))
            for k in range(first, -(-self.rows.stop // self.BLOCK))
        ]

    def _cut(self, draw, shape: Sequence[int]) -> Tensor:
        if shape[0] != self.rows.stop - self.rows.start:
            raise ValueError(f"this part of the batch has {self.rows.stop - self.rows.start} rows, asked for {shape[0]}")
        parts = [draw((rows, *shape[1:]), generator=generator) for generator, rows in self._blocks]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole[self.rows.start - self._before : self.rows.stop - self._before]

    def normal(self, shape: Sequence[int]) -> Tensor:
        return self._cut(torch.randn, shape)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return self._cut(torch.rand, shape)


class _GeneratorDraws:
    def __init__(self, generator: torch.Generator):
        self.generator = generator

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(tuple(shape), generator=self.generator)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return torch.rand(tuple(shape), generator=self.generator)


def as_draws(source: "Draws | torch.Generator | Sequence[int]") -> Draws:
    """A CPU generator, a list of per-sample seeds, or a ready source, as a source of draws. ValueError for anything else."""
    if isinstance(source, torch.Generator):
        return _GeneratorDraws(source)
    if isinstance(source, Sequence):
        return SampleDraws(source)
    if not (hasattr(source, "normal") or hasattr(source, "uniform")):
        raise ValueError(f"noise comes from a torch.Generator or a list of whole numbers, one per sample: got {source!r:.60}")
    return source


def seeds_from(seed: int, n: int) -> list[int]:
    """``n`` per-sample seeds ``seed, seed + 1, ...``: sample k of seed s is sample 0 of seed s + k."""
    return [seed + k for k in range(n)]


_GLOBAL_GENERATOR = threading.RLock()


@contextmanager
def global_seed(seed: int, device: torch.device | str = "cpu") -> Iterator[None]:
    """Run a block on torch's global generators seeded with ``seed``, and put them back as they were.

    Weight initialisation and dropout know no other source. Threads take turns: two models built at once get their own weights.
    """
    device = torch.device(device)
    with _GLOBAL_GENERATOR, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):  # else it is the current device that is seeded
                torch.cuda.manual_seed(seed)
        yield


@contextmanager
def replay_rng(device: torch.device) -> Iterator["Replay"]:
    """Record the random state of the CPU and of ``device``; ``replay.rewind()`` goes back to it.

    Online and target network must drop the same units (CM code, section 6); the official codes save only the CPU's or only
    CUDA's state. On leaving, the state is what one pass would have left behind.
    """
    replay = Replay(device)
    try:
        yield replay
    finally:
        replay.finish()


class Replay:
    def __init__(self, device: torch.device):
        self._device = device if device.type == "cuda" else None
        self._before, self._after = self._state(), None

    def _state(self) -> tuple[Tensor, Tensor | None]:
        return torch.get_rng_state(), torch.cuda.get_rng_state(self._device) if self._device else None

    def _set(self, state: tuple[Tensor, Tensor | None]) -> None:
        cpu, cuda = state
        torch.set_rng_state(cpu)
        if cuda is not None and self._device is not None:
            torch.cuda.set_rng_state(cuda, self._device)

    def rewind(self) -> None:
        self._after = self._after or self._state()
        self._set(self._before)

    def finish(self) -> None:
        # The second pass may draw less than the first (a target in eval mode, an oracle): its state must not stay behind.
        if self._after is not None:
            self._set(self._after)
