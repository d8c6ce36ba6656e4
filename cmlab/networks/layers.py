"""What the U-Nets share: normalisation, embeddings of noise level and class, zero initialisation, recomputation."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .attention import in_forward_mode

Layer = TypeVar("Layer", bound=nn.Module)


@dataclass(frozen=True)
class NetworkConfig:
    """What a network is built from, a frozen dataclass. Raises ValueError for numbers whose product with a level is not finite."""

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            for number in value if isinstance(value, tuple | list) else (value,):
                if isinstance(number, int | float) and not abs(number) <= 1e6:
                    raise ValueError(f"{field.name} must be at most a million, got {number:.4g}")


class Block(nn.Module):
    """A part that a network repeats: compiled by itself, once for all of its places that have the same shapes."""


def compile_blocks(net: nn.Module) -> None:
    """Let torch compile each `Block` of ``net``, or all of ``net`` where it has none, when it is first called.

    A compiled block keeps its bits up to rounding: dropout draws what it draws without a compiler.
    """
    blocks = [module for module in net.modules() if isinstance(module, Block)] or [net]
    dynamo: Any = importlib.import_module("torch._dynamo")
    # torch gives up a function that it compiled for 8 shapes, and this is one function for all blocks.
    dynamo.config.recompile_limit = max(dynamo.config.recompile_limit, 8 * len(blocks))
    for block in blocks:
        block.compile(dynamic=False, options={"fallback_random": True})


class Norm(nn.GroupNorm):
    """Group normalisation in at least float32: ``channels // group`` groups, at most ``most`` (0: no limit).

    (1, 32) is openai's rule, 32 groups always; (4, 32) is NVlabs'. Raises ValueError where the groups would be unequal.
    """

    def __init__(self, channels: int, group: int, most: int = 0, eps: float = 1e-5):
        groups = min(channels // group, most or channels)
        if groups < 1 or channels % groups:
            wrong = f"{channels} channels do not divide into {groups} equal normalisation groups"
            raise ValueError(f"{wrong}: change channels or group")
        super().__init__(groups, channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        weight, bias = self.weight.to(wide), self.bias.to(wide)
        return nn.functional.group_norm(x.to(wide), self.num_groups, weight, bias, self.eps).to(x.dtype)


def time_features(t: Tensor, dim: int, max_period: float = 10000.0) -> Tensor:
    """[cos | sin | 0 if dim is odd] of t (B,) at dim // 2 frequencies from 1 down to nearly 1 / max_period; returns (B, dim).

    Guided-diffusion's order and frequencies. Computed in at least float32, in float64 for float64 times.
    """
    half, dtype = dim // 2, torch.promote_types(t.dtype, torch.float32)
    steps = torch.arange(half, dtype=dtype, device=t.device)
    freqs = torch.exp(-torch.log(torch.tensor(max_period, dtype=dtype)) * steps / half)
    angle = t[:, None].to(dtype) * freqs
    return torch.cat([angle.cos(), angle.sin(), angle.new_zeros(len(t), dim % 2)], 1).to(t.dtype)


def positional_features(t: Tensor, dim: int, max_positions: float = 10000.0, endpoint: bool = False) -> Tensor:
    """[cos | sin] of t (B,) at dim / 2 frequencies from 1 down to 1 / max_positions, which is reached with ``endpoint`` only.

    NVlabs' form: the frequencies are float32 numbers, also in a float64 network. Returns (B, dim).
    """
    steps = torch.arange(dim // 2, dtype=torch.float32, device=t.device)
    freqs = (1 / max_positions) ** (steps / (dim // 2 - endpoint))
    wide = torch.promote_types(t.dtype, torch.float32)
    angle = t[:, None].to(wide) * freqs.to(wide)
    return torch.cat([angle.cos(), angle.sin()], 1).to(t.dtype)


def class_embedding(table: nn.Embedding, label: Tensor) -> Tensor:
    """Row ``label`` of the table, zeros for label -1 ("no class"); label (B,) int64, returns (B, width)."""
    return table(label.clamp_min(0)) * (label >= 0)[:, None]


def zero(layer: Layer) -> Layer:
    """The layer with all its parameters set to zero."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


def run(block: Callable[..., Tensor], *inputs: Tensor, recompute: bool) -> Tensor:
    """``block(*inputs)``; with ``recompute`` its activations are computed again in the backward pass instead of being kept.

    Dropout masks are the same both times. Under forward-mode differentiation everything is kept: torch cannot recompute there.
    """
    if recompute and torch.is_grad_enabled() and not in_forward_mode():
        return checkpoint(block, *inputs, use_reentrant=False)
    return block(*inputs)


def orders_by_pixel(model: nn.Module, device: torch.device) -> bool:
    """Whether ``model`` may be trained with images and filters ordered by pixel (channels last) on ``device``.

    Not on a CPU with 1x1 convolutions whose channels are no multiples of 8: there oneDNN writes beyond their gradient (torch 2.14,
    AVX2, jit_avx2_1x1_convolution_bwd_weights under valgrind), and the process dies later.
    """
    if device.type != "cpu":
        return True
    points = (m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1))
    return all(m.in_channels % 8 == m.out_channels % 8 == 0 for m in points)
