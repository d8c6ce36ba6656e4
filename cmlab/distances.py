"""Distances d(a, b) between batches, one number per sample, not averaged over coordinates (CM, section 5.1).

The official codes average l1 and l2 over coordinates; divide by the number of coordinates to compare ("l2-32": 32 x 32 pixels).
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from .base.registry import DISTANCES
from .base.suggest import check_choice

PSEUDO_HUBER_C = 0.00054  # times sqrt(number of coordinates): iCT, section 3.3
Perceptual = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Distance:
    """A distance with its options: ``Distance("huber", c=0.03)(a, b)`` is (B,).

    Args:
        name: "l1" the sum of |a - b|; "l2" the *squared* Euclidean norm; "huber" sqrt(||a - b||^2 + c^2) - c; "l2-32" the l2 of
            images resized to 32 x 32; "lpips" the learned perceptual distance of images in [-1, 1] (`methods.lpips`).
        c: for "huber" alone: None takes 0.00054 sqrt(d) (iCT), 0 gives the plain Euclidean norm (ECT's default).
        resize, pooling, path, network: for "lpips" alone, see there; None takes the default.

    Raises ValueError for an unknown name and for options that the distance does not use.
    """

    name: str = "l2"
    c: float | None = None
    resize: int | None = None
    pooling: Literal["max", "avg"] | None = None
    path: str | None = None
    network: Perceptual | None = None

    def __post_init__(self):
        check_choice("distance", self.name, DISTANCES)
        for option in self._options:
            users = [name for name, distance in DISTANCES.items() if option in inspect.signature(distance).parameters]
            if self.name not in users:
                raise ValueError(f"{option} belongs to the distance {users[0]!r}; {self.name!r} does not use it")
        if self.network is not None and (self.pooling, self.path) != (None, None):
            raise ValueError("pooling and path describe the VGG network: leave them out, or leave out network")
        if self.pooling not in (None, "max", "avg"):
            raise ValueError(f"unknown pooling {self.pooling!r}: choose 'max' (LPIPS) or 'avg' (openai's consistency models)")
        if self.resize is not None and self.resize < 0:
            raise ValueError(f"resize is a side in pixels, 0 to keep the size: got {self.resize}")

    @property
    def _options(self) -> dict:
        options = {k: getattr(self, k) for k in ("c", "resize", "pooling", "path", "network")}
        return {k: v for k, v in options.items() if v is not None}

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return DISTANCES[self.name](a, b, **self._options)


def _equal_shapes(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"a distance needs equal shapes, got {tuple(a.shape)} and {tuple(b.shape)}")


def equal_images(a: Tensor, b: Tensor) -> None:
    _equal_shapes(a, b)
    if a.ndim != 4:
        raise ValueError(f"this distance compares images (B, C, H, W), got {tuple(a.shape)}: take l1, l2 or huber for points")


def _difference(a: Tensor, b: Tensor) -> Tensor:
    _equal_shapes(a, b)
    return (a - b).flatten(1)


@DISTANCES.register("l1", "l1", "the sum of absolute differences")
def l1(a: Tensor, b: Tensor) -> Tensor:
    """Sum of absolute differences, (B,)."""
    return _difference(a, b).abs().sum(1)


@DISTANCES.register("l2", "l2", "the squared Euclidean norm")
def l2(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean norm of the difference, (B,)."""
    return _difference(a, b).square().sum(1)


@DISTANCES.register("huber", "Pseudo-Huber", "sqrt(||a - b||^2 + c^2) - c")
def pseudo_huber(a: Tensor, b: Tensor, c: float | None = None) -> Tensor:
    """sqrt(||a - b||^2 + c^2) - c of the whole vector's norm, (B,) (iCT, eq. 8; Kinyugo's code takes it per coordinate)."""
    d = _difference(a, b)
    width = PSEUDO_HUBER_C * d.shape[1] ** 0.5 if c is None else c
    if width == 0:  # sqrt has no finite gradient at 0; vector_norm takes 0 there
        return torch.linalg.vector_norm(d, dim=1)
    return (d.square().sum(1) + width**2).sqrt() - width


def resized(x: Tensor, size: int) -> Tensor:
    """Bilinear and without a low-pass filter, as the consistency models' official code resizes."""
    return interpolate(x, size=(size, size), mode="bilinear", align_corners=False)


@DISTANCES.register("l2-32", "l2 at 32 x 32", "the squared Euclidean norm of images resized to 32 x 32")
def l2_32(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean norm of the difference of images (B, C, H, W) resized to 32 x 32, (B,)."""
    equal_images(a, b)
    return l2(resized(a, 32), resized(b, 32))
