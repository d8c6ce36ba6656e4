"""scikit-learn's handwritten digits, grey and in colour."""

from functools import lru_cache

import torch
from torch import Tensor

from ..base.registry import DATASETS
from .sets import ImageData

DIGIT_NAMES = tuple("0123456789")


@DATASETS.register(
    "digits", "Digits", "8 x 8 grey scans of handwriting, 1,797 of them", kind="images", shape=(1, 8, 8), class_names=DIGIT_NAMES
)
@lru_cache(maxsize=1)
def digits() -> ImageData:
    """scikit-learn's 1,797 scanned digits: (1797, 1, 8, 8) in [-1, 1], ten classes. Ships with scikit-learn."""
    from sklearn.datasets import load_digits

    pixels, target = load_digits(return_X_y=True)
    x0 = torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    return ImageData(x0, torch.as_tensor(target, dtype=torch.int64), DIGIT_NAMES)


def _hue(h: Tensor, saturation: float, value: Tensor) -> Tensor:
    """HSV to RGB, (N,) each -> (N, 3) in [0, 1]."""
    k = (torch.tensor([5.0, 3.0, 1.0]) + 6 * h[:, None]) % 6
    return value[:, None] * (1 - saturation * torch.minimum(k, 4 - k).clamp(0, 1))


def inks(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """``n`` random bright inks and dimmed papers of another hue: two of (n, 3, 1, 1) in [0, 1].

    In one pair of a hundred the hues turn the luma round (bright blue on dim yellow): colour carries what grey does not.
    """
    g = torch.Generator().manual_seed(seed)
    ink_hue = torch.rand(n, generator=g)
    paper_hue = (ink_hue + 0.25 + 0.5 * torch.rand(n, generator=g)) % 1  # never the ink's own hue
    ink = _hue(ink_hue, 0.85, 0.75 + 0.25 * torch.rand(n, generator=g))
    paper = _hue(paper_hue, 0.7, 0.15 + 0.2 * torch.rand(n, generator=g))
    return ink[:, :, None, None], paper[:, :, None, None]


@DATASETS.register(
    "digits-color",
    "Digits in colour",
    "the digits in bright ink on paper of another hue",
    kind="images",
    shape=(3, 8, 8),
    class_names=DIGIT_NAMES,
)
@lru_cache(maxsize=1)
def digits_color() -> ImageData:
    """The digits in bright ink on dimmed paper of another hue, six random pairs each (`inks`): (10782, 3, 8, 8), ten classes."""
    grey, copies = digits(), 6
    assert grey.label is not None
    ink, paper = inks(copies * len(grey.x0))
    shade = (grey.x0.repeat(copies, 1, 1, 1) + 1) / 2
    return ImageData((shade * ink + (1 - shade) * paper) * 2 - 1, grey.label.repeat(copies), DIGIT_NAMES)


def held_out(scans: int) -> Tensor:
    """Which of the digits' scans no classifier is trained on, a third: (scans,) bool."""
    return torch.randperm(scans, generator=torch.Generator().manual_seed(0)) < scans // 3
