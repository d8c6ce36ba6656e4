"""Preconditioning, and the Denoiser that wraps a network.

One contract for everything in this package: ``denoise(x, sigma, label=None) -> x0_hat``.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from .base.registry import PRECONDS
from .noise import SIGMA_DATA, SIGMA_MIN, expand

Label = Tensor | None  # classes (B,) int64, or none


class Denoise(Protocol):
    """``denoise(x, sigma, label=None)``: x (B, *S), sigma (B,) or (), label (B,) int or None; returns x0_hat (B, *S)."""

    def __call__(self, x: Tensor, sigma: Tensor, label: Label = None, /) -> Tensor: ...


@dataclass(frozen=True)
class Traits:
    """What a denoiser may say about itself beyond being called, in its attribute ``traits``. The defaults are a plain function's.

    Args:
        consistency: whether it is a consistency model, D(x, lowest level) = x.
        levels: lowest and highest noise level that it was trained on; samplers stay between them.
        round: maps noise levels to the nearest that it knows, where it knows a table of them.
        classes: number of its classes, 0 for none.
        evaluations: how often networks are asked in one call with a label, 2 where the model is guided.
    """

    consistency: bool = False
    levels: tuple[float, float] = (0.0, math.inf)
    round: Callable[[Tensor], Tensor] = lambda sigma: sigma
    classes: int = 0
    evaluations: int = 1


def traits_of(denoise: Denoise | None) -> Traits:
    """The `Traits` of any denoiser: the one place that is asked for them. None says nothing, as a plain function."""
    known = getattr(denoise, "traits", None)
    precond = getattr(denoise, "precond", None)
    if known is None and precond is not None:  # a wrapper of one's own that carries the scalings alone
        return Traits(precond.consistency, precond.levels, precond.round)
    return known or Traits()


def classes_in_turn(classes: int, n: int, start: int = 0, device: torch.device | str = "cpu") -> Tensor | None:
    """Classes (n,) where nobody says, from k = ``start`` on: number k has the class k modulo ``classes``. None without classes."""
    return torch.arange(start, start + n, device=device) % classes if classes else None


class Coeffs(NamedTuple):
    """D(x) = c_skip x + c_out F(c_in x, c_noise); each has the shape of sigma."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


class Preconditioning(ABC):
    """The scalings of a Denoiser, and the noise levels that its network knows. Subclasses are frozen dataclasses."""

    consistency: bool = False  # whether D(x, lowest level) is x itself
    levels: tuple[float, float] = (0.0, math.inf)  # lowest and highest of training; samplers stay between them

    @abstractmethod
    def __call__(self, sigma: Tensor) -> Coeffs:
        """The coefficients at sigma, in its shape and dtype."""

    def round(self, sigma: Tensor) -> Tensor:
        """The nearest noise level that the network knows, for those with a table of them; else ``sigma`` itself."""
        return sigma


@PRECONDS.register("karras")
@dataclass(frozen=True)
class Precond(Preconditioning):
    """EDM's scalings (EDM, Table 1), shifted so that the output at ``sigma_min`` is the input itself (CM, eq. 5 and appendix C).

    ``sigma_min=0`` is EDM exactly, so changing this one number turns a diffusion model into the start of a consistency model.
    """

    sigma_data: float = SIGMA_DATA
    sigma_min: float = 0.0

    def __post_init__(self):
        if not (1e-6 <= self.sigma_data <= 1e6 and 0 <= self.sigma_min < math.inf):
            found = f"{self.sigma_data} and {self.sigma_min}"
            raise ValueError(f"sigma_data lies between 1e-6 and 1e6, sigma_min is at least 0: got {found}")

    def __call__(self, sigma: Tensor) -> Coeffs:
        # torch.full fills on the device; a torch.tensor is made on the host and waits for its copy.
        # Subtract in sigma's own dtype: the float32 level 0.002 must meet the float32 constant 0.002 for c_out to be 0.0.
        above = (sigma - torch.full((), self.sigma_min, dtype=sigma.dtype, device=sigma.device)).clamp_min(0)
        root = (sigma**2 + self.sigma_data**2).sqrt()
        # A tensor over a tensor: torch divides a number by a tensor through the reciprocal, and 0.09 * (1 / 0.09) is not 1.
        variance = torch.full((), self.sigma_data**2, dtype=sigma.dtype, device=sigma.device)
        return Coeffs(
            c_skip=variance / (above**2 + variance),
            c_out=self.sigma_data * above / root,
            c_in=1 / root,
            # Finite at sigma = 0, where c_out = 0 makes the network's answer irrelevant.
            c_noise=sigma.clamp_min(1e-6).log() / 4,
        )

    @property
    def consistency(self) -> bool:
        return self.sigma_min > 0

    @property
    def levels(self) -> tuple[float, float]:
        return self.sigma_min, math.inf


EDM = Precond()
CONSISTENCY = Precond(sigma_min=SIGMA_MIN)


def precond_name(precond: Preconditioning) -> str:
    """The registry name of a preconditioning's class; raises ValueError for one that has none."""
    for name, kind in PRECONDS.items():
        if isinstance(precond, kind):
            return name
    raise ValueError(f"no preconditioning is registered for {type(precond).__name__}: PRECONDS has {', '.join(PRECONDS)}")


class Denoiser(nn.Module):
    """A network with its preconditioning: D(x) = c_skip x + c_out F(c_in x, c_noise, label).

    Args:
        net: called as ``net(x, c_noise, label)`` with x (B, *S), c_noise (B,), label (B,) int64 or None.
        precond: the scalings; ``Precond(sigma_min=0.002)`` makes a consistency model.
        shape: shape S of one sample, ``(2,)`` or ``(C, H, W)``.
        classes: number of classes, 0 for an unconditional model.
        drops_labels: the model was also trained without its labels, so it can be called without one (classifier-free guidance);
            the network then gets label -1, "no class". Any other conditional model needs a label in every call.
        guidance: weight of that guidance in every call with a label, D_u + guidance (D_c - D_u), two evaluations of the network
            (Ho and Salimans, 2207.12598, whose w is guidance - 1; `methods.guidance.ClassifierFree` does the same from outside).
            1 is none. For diffusion models with ``drops_labels``; training sees the network without it (`fit`).

    The scalings are computed in the dtype of sigma (of ``x``, where sigma is an integer), the network runs in its own, and the
    answer has that of ``x``: float64 solver states stay float64. Raises ValueError for samples, levels and labels of other shapes
    and kinds than these, for levels below 0 and for classes that the model does not have (values are looked at on the CPU alone).
    """

    def __init__(
        self,
        net: nn.Module,
        precond: Preconditioning,
        shape: Sequence[int],
        classes: int = 0,
        drops_labels: bool = False,
        guidance: float = 1.0,
    ):
        super().__init__()
        if not isinstance(net, nn.Module):
            raise ValueError(f"net is a network, a torch.nn.Module, got {net!r:.80}")
        lacking = [name for name in ("__call__", "round", "levels", "consistency") if not hasattr(precond, name)]
        if lacking or isinstance(precond, type):
            wrong = f"{precond!r:.80} has no {', '.join(lacking) or 'values yet'}"
            way = "derive its class from cmlab.Preconditioning, which has all but __call__"
            raise ValueError(f"precond is a Preconditioning, such as cmlab.EDM, and {wrong}: {way}")
        if not isinstance(shape, Sequence) or not all(isinstance(n, int) and n > 0 for n in shape):
            raise ValueError(f"shape is that of one sample, such as (2,) or (3, 32, 32), got {shape!r:.80}")
        if classes < 0:
            raise ValueError(f"classes is their number, 0 for none, got {classes}")
        self.net, self.precond, self.shape, self.classes = net, precond, tuple(shape), classes
        if drops_labels and not classes:
            raise ValueError("drops_labels is for conditional models: this one has no classes")
        self.drops_labels, self.guidance = drops_labels, guidance
        self.compute: torch.dtype | None = None  # what the network computes in, where that is not the dtype of its weights
        self.uncertainty: nn.Module | None = None  # of a loss with adaptive weights, see `continuous.attach_uncertainty`

    @property
    def traits(self) -> Traits:
        evaluations = 1 if self.guidance == 1 else 2
        return Traits(self.precond.consistency, self.precond.levels, self.precond.round, self.classes, evaluations)

    @property
    def guidance(self) -> float:
        return self._guidance

    @guidance.setter
    def guidance(self, weight: float) -> None:
        if weight != 1 and (not self.drops_labels or self.precond.consistency):
            kind = "a consistency model" if self.precond.consistency else "never trained without its labels"
            able = "for diffusion models trained with label_dropout"
            raise ValueError(f"guidance {weight:g} is {able}, and this one is {kind}: take 1")
        if not 0 <= weight < math.inf:
            raise ValueError(f"guidance is a weight of at least 0, 1 for none, got {weight:g}")
        self._guidance = float(weight)

    @property
    def config(self) -> Any:
        """The frozen configuration that the network was built from; None for a network of one's own that has none."""
        return getattr(self.net, "config", None)

    def forward(self, x: Tensor, sigma: Tensor, label: Label = None, augment: Tensor | None = None) -> Tensor:
        """``augment`` (B, K) tells a network that takes it what was done to the training images; None is "nothing"."""
        if not isinstance(x, Tensor):
            raise ValueError(f"samples are a tensor, got {type(x).__name__}: torch.as_tensor takes arrays and lists")
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"this model works on samples of shape {self.shape}, got a batch of shape {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"samples are floating point numbers, got {x.dtype}: pass x.float(), pictures scaled to [-1, 1]")
        sigma = torch.as_tensor(sigma)
        if _any_on_cpu(sigma, lambda level: level < 0):
            raise ValueError(f"noise levels cannot be negative, got {float(torch.func.debug_unwrap(sigma).min()):.4g}")
        sigma = sigma.to(x.device, sigma.dtype if sigma.is_floating_point() else x.dtype)
        c = self.precond(expand(sigma, x))
        scaled, c_noise = c.c_in * x, c.c_noise.reshape(-1)
        out = self.raw(scaled, c_noise, label, augment)
        if self.guidance != 1 and label is not None:  # D is linear in F, so this is the guidance of D
            free = self.raw(scaled, c_noise, None, augment)
            out = free + self.guidance * (out - free)
        return (c.c_skip * x + c.c_out * out.to(x.dtype)).to(x.dtype)

    def raw(self, x: Tensor, c_noise: Tensor, label: Label = None, augment: Tensor | None = None) -> Tensor:
        """The network's own answer F to a scaled input (B, *S) and c_noise (B,), in the dtype of its weights."""
        weight = next(self.net.parameters())
        if weight.device.type != x.device.type:
            places = f"the model is on {weight.device}, the samples are on {x.device}"
            raise ValueError(f"{places}: pass device= or move one to the other")
        if label is not None:
            label = self.check_label(label, len(x)).to(x.device)
        elif self.classes > 0:
            if not self.drops_labels:
                raise ValueError(f"this model has {self.classes} classes: pass label=, one integer per sample")
            label = torch.full((len(x),), -1, device=x.device)
        dtype = weight.dtype
        told = () if augment is None else (augment.to(dtype),)
        with torch.autocast(x.device.type, self.compute) if self.compute else nullcontext():
            out = self.net(x.to(dtype), c_noise.to(dtype), label, *told)
        out = out[:, : x.shape[1]]  # a network that also predicts a variance has it in further channels
        if out.shape != x.shape:
            raise ValueError(f"{type(self.net).__name__} makes {tuple(out.shape)} of {tuple(x.shape)}: a network keeps the shape")
        return out.to(dtype) if self.compute else out

    def check_label(self, label: Tensor, n: int) -> Tensor:
        """``label`` as int64. Raises ValueError unless it holds one class of this model for each of ``n`` samples."""
        if self.classes == 0:
            raise ValueError("this model is unconditional: call it without a label")
        known = f"0..{self.classes - 1}" + (", or -1 for no class" if self.drops_labels else "")
        if not isinstance(label, Tensor) or label.dtype not in _INTEGERS:
            found = label.dtype if isinstance(label, Tensor) else f"{type(label).__name__} {label!r:.40}"
            raise ValueError(f"label is a tensor of integers {known}, one per sample, such as torch.tensor([0, 1]): got {found}")
        if label.shape != (n,):
            raise ValueError(f"label needs one integer per sample: {n} samples, but label has the shape {tuple(label.shape)}")
        lowest = -1 if self.drops_labels else 0
        if _any_on_cpu(label, lambda k: (k < lowest) | (k >= self.classes)):
            wrong = [k for k in torch.func.debug_unwrap(label).flatten().tolist() if not lowest <= k < self.classes]
            raise ValueError(f"label must lie in {known}: this model has no class {wrong[0]}")
        return label.long()


_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _any_on_cpu(tensor: Tensor, wrong: Callable[[Tensor], Tensor]) -> bool:
    """Whether ``wrong`` holds anywhere in a tensor whose numbers can be read without waiting for a device or a compiler."""
    if tensor.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    return bool(wrong(torch.func.debug_unwrap(tensor)).any())  # the numbers themselves also inside torch.func.vmap
