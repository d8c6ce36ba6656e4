"""Scores for a search of the levels of multistep sampling: how far its samples are from the data."""

import torch
from torch import Tensor

from ..data import Data
from ..denoiser import Denoiser
from ..methods.search import Score, sample_score
from ..noise import seeds_from
from .points import sliced_wasserstein


def wasserstein_score(
    model: Denoiser, data: Data, n: int, seed: int = 0, *, batch: int = 4096, device: torch.device | str = "cpu"
) -> Score:
    """The sliced Wasserstein distance of ``n`` samples to ``n`` draws from ``data``, points or small pictures as long vectors.

    Samples have the seeds seed, seed + 1, ...; a conditional model gets the classes of the drawn data.
    """
    reference, label = _reference(data, n, seed)
    if tuple(data.shape) != model.shape:
        raise ValueError(f"the model makes samples of shape {model.shape}, the data have shape {tuple(data.shape)}")
    label, seeds = label if model.classes else None, seeds_from(seed, n)
    return sample_score(
        model, lambda x: sliced_wasserstein(x.flatten(1), reference), seeds, label=label, batch=batch, device=device
    )


def data_floor(data: Data, n: int, seed: int = 0) -> float:
    """The distance of `wasserstein_score` between ``n`` draws from the data and ``n`` others: no model comes out much lower."""
    return sliced_wasserstein(_reference(data, n, seed)[0], _reference(data, n, seed, stream=1)[0])


def _reference(data: Data, n: int, seed: int, stream: int = 0) -> tuple[Tensor, Tensor | None]:
    if n < 1:
        raise ValueError(f"the number of samples must be at least 1, got {n}")
    x0, label = data.batch(n, torch.Generator().manual_seed(2 * seed + stream))
    return x0.flatten(1), label
