"""Distances d(a, b) between batches, one number per sample, not averaged over coordinates (CM, section 5.1).

The official codes average l1 and l2 over coordinates; divide by the number of coordinates to compare.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

PSEUDO_HUBER_C = 0.00054  # times sqrt(number of coordinates): iCT, section 3.3


@dataclass(frozen=True)
class Distance:
    """``name``: "l1" the sum of |a - b|; "l2" the *squared* Euclidean norm; "huber" sqrt(||a - b||^2 + c^2) - c.

    ``c`` is for "huber" alone: None takes 0.00054 sqrt(d) (iCT), 0 gives the plain Euclidean norm (ECT's default).
    """

    name: Literal["l1", "l2", "huber"] = "l2"
    c: float | None = None

    def __post_init__(self):
        if self.name not in DISTANCES:
            raise ValueError(f"unknown distance {self.name!r}: choose one of {', '.join(DISTANCES)}")
        if self.c is not None and self.name != "huber":
            raise ValueError(f"c belongs to the distance 'huber'; {self.name!r} does not use it")

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return DISTANCES[self.name](a, b) if self.c is None else pseudo_huber(a, b, self.c)


def _difference(a: Tensor, b: Tensor) -> Tensor:
    if a.shape != b.shape:
        raise ValueError(f"a distance needs equal shapes, got {tuple(a.shape)} and {tuple(b.shape)}")
    return (a - b).flatten(1)


def l1(a: Tensor, b: Tensor) -> Tensor:
    """Sum of absolute differences, (B,)."""
    return _difference(a, b).abs().sum(1)


def l2(a: Tensor, b: Tensor) -> Tensor:
    """Squared Euclidean norm of the difference, (B,)."""
    return _difference(a, b).square().sum(1)


def pseudo_huber(a: Tensor, b: Tensor, c: float | None = None) -> Tensor:
    """sqrt(||a - b||^2 + c^2) - c of the whole vector's norm, (B,) (iCT, eq. 8; Kinyugo's code takes it per coordinate)."""
    d = _difference(a, b)
    width = PSEUDO_HUBER_C * d.shape[1] ** 0.5 if c is None else c
    if width == 0:  # sqrt has no finite gradient at 0; vector_norm takes 0 there
        return torch.linalg.vector_norm(d, dim=1)
    return (d.square().sum(1) + width**2).sqrt() - width


DISTANCES = {"l1": l1, "l2": l2, "huber": pseudo_huber}
