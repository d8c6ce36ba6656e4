"""Guidance: denoisers made of denoisers, so every sampler can be guided without knowing of it.

    guided = ClassifierFree(model, weight=2.0)
    sample(guided, model.shape, seeds, "heun", 18, label=labels)

Adding w grad log p(y|x) to the score (D - x) / sigma^2 is adding w sigma^2 grad log p to D: that is done here, once. The two
algorithms of classifier guidance (Dhariwal and Nichol, 2105.05233) in these coordinates:

* Algorithm 2 (DDIM) replaces e = (x - D) / sigma by e - sqrt(1 - abar) grad log p, by the VP state: exactly `ClassifierGuidance`
  under `euler` or `ddim`.
* Algorithm 1 (DDPM) draws from N(mu + w Sigma grad log p, Sigma) in VP coordinates: `guided_ancestral`. That is `ancestral` with
  `ClassifierGuidance` of the weight w (sigma_next / sigma)^2 sqrt((1 + sigma^2) / (1 + sigma_next^2)): the first factor is up^2
  over sigma^2 - sigma_next^2, the second the change of coordinates. It is weaker in steps of finite size and the same in the limit
  of many steps.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ..denoiser import Denoise, Label, Traits, traits_of
from ..noise import expand, noise_like, send
from ..samplers import Hook, Noise, Step, Steps, ancestral_levels, asking, euler_step, need_noise, solver_levels

LogProb = Callable[[Tensor, Tensor, Tensor], Tensor]
"""log p(label | x, sigma): x (B, *S), sigma (), label (B,) int64 -> (B,), differentiable in x."""


def log_prob_gradient(log_prob: LogProb, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
    """Gradient of log p(label | x, sigma) with respect to x, (B, *S). Raises ValueError unless ``log_prob`` returns (B,)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        values = log_prob(x, sigma, label)
        if values.shape != x.shape[:1]:
            raise ValueError(f"the classifier must return one log-probability per sample, got {tuple(values.shape)} for {len(x)}")
        return torch.autograd.grad(values.sum(), x)[0]


def _need_label(label: Label) -> Tensor:
    if label is None:
        raise ValueError("guidance leads to a class: pass label=, one integer per sample")
    return label


class _Guided:
    """Has the traits of the denoiser that it guides: samplers ask for its noise levels. ``more`` evaluations are the guide's."""

    denoise: Denoise
    more = 0

    @property
    def traits(self) -> Traits:
        own = traits_of(self.denoise)
        return replace(own, evaluations=own.evaluations + self.more)


@dataclass(frozen=True)
class ClassifierGuidance(_Guided):
    """D(x) + weight sigma^2 grad log p(label | x, sigma): a classifier of noisy samples leads the denoiser to its class.

    ``denoise`` is called without a label, or with it where ``conditional`` (ADM-G: a conditional model and a classifier).
    ``weight`` 1 gives the conditional denoiser when classifier and denoiser are exact.
    """

    denoise: Denoise
    log_prob: LogProb
    weight: float = 1.0
    conditional: bool = False

    def __call__(self, x: Tensor, sigma: Tensor, label: Label = None) -> Tensor:
        label = _need_label(label)
        sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device)
        pull = log_prob_gradient(self.log_prob, x, sigma, label)
        x0_hat = self.denoise(x, sigma, label) if self.conditional else self.denoise(x, sigma)
        return x0_hat + self.weight * expand(sigma, x) ** 2 * pull


@dataclass(frozen=True)
class ClassifierFree(_Guided):
    """D_u + weight (D_c - D_u): away from the unconditional estimate, past the conditional one (Ho and Salimans, 2207.12598).

    ``denoise`` is conditional. ``unconditional`` is another model, called without a label; by default ``denoise`` itself without
    one, which must have been trained so (``drops_labels``). 0 is unconditional, 1 conditional; the paper's w is weight - 1.
    Every call evaluates two networks.
    """

    denoise: Denoise
    weight: float = 2.0
    unconditional: Denoise | None = None
    more = 1

    def __call__(self, x: Tensor, sigma: Tensor, label: Label = None) -> Tensor:
        label = _need_label(label)
        free = (self.unconditional or self.denoise)(x, sigma)
        return free + self.weight * (self.denoise(x, sigma, label) - free)


@dataclass(frozen=True)
class AutoGuidance(_Guided):
    """D_weak + weight (D - D_weak): away from a worse version of the model, smaller or less trained (Karras et al., 2406.02507).

    Both are called with the same label, or both without. Every call evaluates two networks.
    """

    denoise: Denoise
    weak: Denoise
    weight: float = 2.0

    @property
    def more(self) -> int:
        return traits_of(self.weak).evaluations

    def __call__(self, x: Tensor, sigma: Tensor, label: Label = None) -> Tensor:
        weak = self.weak(x, sigma, label)
        return weak + self.weight * (self.denoise(x, sigma, label) - weak)


class conditioned:
    """``denoise`` with its classes fixed: row k of every batch has class label[k] (label (B,) int64).

    Code that passes no label can then use a conditional model.
    """

    def __init__(self, denoise: Denoise, label: Tensor):
        self._denoise, self._label = denoise, label
        self.traits = replace(traits_of(denoise), classes=0)

    def __call__(self, x: Tensor, sigma: Tensor, label: Label = None, /) -> Tensor:
        return self._denoise(x, sigma, self._label[: len(x)].to(x.device))


@torch.no_grad()
def guided_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    label: Label = None,
    *,
    noise: Noise = None,
    project: Hook = None,
    log_prob: LogProb,
    weight: float = 1.0,
    conditional: bool = False,
) -> Steps:
    """Classifier guidance as first printed (Algorithm 1): `ancestral`, its mean moved by weight Sigma grad log p in VP coordinates.

    Sigma is DDPM's smaller choice, the posterior's variance. ``log_prob`` is called with x = x0 + sigma eps, as everywhere here.
    ``conditional``: ``denoise`` is called with the label too. The steps' x0_hat are those of ``denoise`` alone.
    """
    label = _need_label(label)
    draws = need_noise(noise, "guided_ancestral")
    ask = asking(denoise, label if conditional else None, project)
    for i, (sigma, sigma_next) in enumerate(pairwise(solver_levels(denoise, x, sigmas))):
        down, up = ancestral_levels(sigma, sigma_next)
        pull = log_prob_gradient(log_prob, x, send(sigma, x.device), label)
        x, x0_hat, _ = euler_step(ask, x, sigma, down)
        if sigma_next > 0:
            by_vp_state = ((1 + sigma**2) / (1 + sigma_next**2)).sqrt()  # the gradient's coordinates, see the module's head
            x = x + weight * up**2 * by_vp_state * pull + up * noise_like(x, draws)
        yield Step(i, x, x0_hat, float(sigma), float(sigma_next), i + 1)
