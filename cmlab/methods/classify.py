"""A conditional model as a classifier of clean samples: which class's denoiser restores them best."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..denoiser import Denoise


@torch.no_grad()
def likeliest_label(denoiser: Denoise, y: Tensor, classes: int, sigmas: Sequence[float] = (0.5, 1.0, 2.0)) -> Tensor:
    """The class whose denoiser restores y (B, *S) best from noise, (B,) int64: the model itself as a classifier.

    Mean squared error of D(y + sigma eps, sigma, label) over ``sigmas`` with the same eps for every class (Li et al., 2023).
    """
    if classes < 1:
        raise ValueError("this needs a model with classes")
    noise = torch.randn(y.shape, generator=torch.Generator().manual_seed(0)).to(y)
    errors = torch.zeros(len(y), classes, dtype=y.dtype, device=y.device)
    for sigma in sigmas:
        for k in range(classes):
            label = torch.full((len(y),), k, device=y.device)
            restored = denoiser(y + sigma * noise, torch.tensor(sigma, dtype=y.dtype, device=y.device), label)
            errors[:, k] += (restored - y).square().flatten(1).mean(1)
    return errors.argmin(1)
