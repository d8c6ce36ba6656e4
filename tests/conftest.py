"""What the tests share: one thread, small randomised models, and sources of draws whose numbers are known."""

import os
import re
from collections.abc import Sequence

import pytest
import torch
from hypothesis import settings
from torch import Tensor, nn

from cmlab.denoiser import CONSISTENCY, Denoiser, Precond
from cmlab.networks import MLPConfig, SongUNetConfig, UNetConfig, build_network
from cmlab.oracle import GaussianMixture

# Threads of several test runs fight over few cores, and one thread makes float sums reproducible.
torch.set_num_threads(1)
# Derandomised: a property that holds today holds tomorrow. No deadline: speed is never a timed test.
settings.register_profile("cmlab", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("cmlab")

TINY = {
    "mlp": (MLPConfig(width=12, depth=2, freqs=3), (2,)),
    "unet": (UNetConfig(channels=8, mult=(1, 2), attention=(4,), heads=2, emb=12), (3, 8, 8)),
    "song": (SongUNetConfig(channels=8, mult=(1, 2), blocks=1, attention=(4,), emb=12), (3, 8, 8)),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def randomise(module: nn.Module, seed: int = 0, scale: float = 0.2) -> nn.Module:
    """Every parameter drawn anew, the zero-initialised output layers too: nothing may hold only because F = 0."""
    g = seeded(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=g))
    return module


def tiny(
    kind: str = "mlp",
    precond: Precond = CONSISTENCY,
    classes: int = 0,
    dtype: torch.dtype = torch.float32,
    **changes,
) -> Denoiser:
    """A small Denoiser with random weights in every layer."""
    from dataclasses import replace

    config, shape = TINY[kind]
    with torch.random.fork_rng(devices=[]):
        net = build_network(replace(config, **changes), shape, classes)
    return Denoiser(randomise(net).to(dtype), precond, shape, classes)


def soft3() -> GaussianMixture:
    """Three broad, unequal Gaussians: a smooth mixture on which solver orders are clean (methods sheet, D1)."""
    return GaussianMixture([0.5, 0.3, 0.2], torch.tensor([[0.6, 0.1], [-0.5, 0.5], [-0.1, -0.7]]), [0.3, 0.4, 0.5])


class KnownDraws:
    """A source of draws that hands out given tensors in turn, and counts."""

    def __init__(self, normals: Sequence[Tensor] = (), uniforms: Sequence[Tensor] = ()):
        self.normals, self.uniforms, self.count = list(normals), list(uniforms), 0

    def normal(self, shape: Sequence[int]) -> Tensor:
        self.count += 1
        value = self.normals.pop(0)
        assert tuple(value.shape) == tuple(shape)
        return value

    def uniform(self, shape: Sequence[int]) -> Tensor:
        self.count += 1
        value = self.uniforms.pop(0)
        assert tuple(value.shape) == tuple(shape)
        return value


def said(box: str) -> str:
    """What tyro says in the boxes that it draws, as one line of text; their lines are ASCII where stderr is no terminal."""
    return " ".join(re.sub("[\u2500-\u257f]|-{5,}", " ", box).split())


@pytest.fixture
def oracle() -> GaussianMixture:
    return soft3()


@pytest.fixture
def untouched_rng():
    """Fails the test if it moved the global random state."""
    before = torch.get_rng_state()
    yield
    assert torch.equal(torch.get_rng_state(), before), "something drew from the global generator"


@pytest.hookimpl(optionalhook=True)  # without xdist there are no workers
def pytest_xdist_auto_num_workers(config) -> int:
    """One more than there are cores, since a test in a browser mostly waits; each takes a gigabyte."""
    return min((os.cpu_count() or 1) + 1, 8)


def pytest_terminal_summary(terminalreporter):
    """The largest relative error of every reference file (tests/core/test_reference.py)."""
    worst: dict[str, tuple[float, str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, value in getattr(report, "user_properties", ()):
                if name == "relative_error" and value[1] >= worst.get(value[0], (-1.0, ""))[0]:
                    worst[value[0]] = (value[1], value[2])
    if worst:
        terminalreporter.section("largest relative error per reference file")
        for stem, (error, where) in sorted(worst.items()):
            terminalreporter.write_line(f"{stem:26} {error:.1e}  {where}")
