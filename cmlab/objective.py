"""What a training objective is. `losses` and `continuous` hold the objectives, `training` asks them for nothing else.

    loss(model, x0, label, progress=..., target=..., teacher=..., draws=...) -> LossOut(loss, sigma, weight)

with one number per sample and nothing reduced: whoever loops decides how to average, log or mask.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from .denoiser import Denoise, Preconditioning
from .noise import Draws


class LossOut(NamedTuple):
    """Per-sample loss (weight already in it), the noise level it was taken at, and the weight: all (B,)."""

    loss: Tensor
    sigma: Tensor
    weight: Tensor


class Loss(Protocol):
    """An objective; a frozen dataclass, so that presets can compare, print and change it."""

    @property
    def needs_teacher(self) -> bool:
        """Whether it distils: ``teacher`` is a diffusion model or an oracle, and may not be left out."""
        ...

    @property
    def needs_target(self) -> bool:
        """Whether ``target`` is a moving average of the model; the loss is then `Averaging`."""
        ...

    @property
    def needs_uncertainty(self) -> bool:
        """Whether it learns its weights, with parameters that `continuous.attach_uncertainty` gives the model."""
        ...

    @property
    def precond(self) -> Preconditioning:
        """The scalings of the models that this loss trains."""
        ...

    def __call__(
        self,
        model: Denoise,
        x0: Tensor,
        label: Tensor | None = None,
        *,
        progress: float = 0.0,
        target: Denoise | None = None,
        teacher: Denoise | None = None,
        draws: "Draws | torch.Generator | Sequence[int]",
    ) -> LossOut: ...


@runtime_checkable
class Averaging(Protocol):
    """A loss that sets the pace of its target."""

    def target_decay(self, progress: float) -> float:
        """mu(k), the decay of the target's moving average after the step at ``progress``."""
        ...
