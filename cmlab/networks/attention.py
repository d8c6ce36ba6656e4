"""Self-attention of the U-Nets: torch's fused kernels, and plain matrix products under forward-mode differentiation."""

from collections.abc import Sequence

import torch
import torch.autograd.forward_ad as forward_ad
import torch.nn.functional as F
from torch import Tensor

MOST_PIXELS = 1 << 16  # that attention compares, each with each: more than the published networks' 32 x 32 by far


def check_attention(sides: Sequence[int], levels: int, attention: Sequence[int]) -> None:
    """Raise ValueError where a U-Net of so many ``levels`` attends to too many pixels: no weight would tell of that.

    ``sides``: height and width of its first level. It attends at the heights in ``attention``, and at its last level.
    """
    for level in range(levels):
        height, width = (side >> level for side in sides)
        if (height in attention or level == levels - 1) and height * width > MOST_PIXELS:
            way = f"take more levels (mult), or leave {height} out of attention"
            raise ValueError(f"attention between {height} x {width} pixels, {MOST_PIXELS:,} are the most: {way}")


def in_forward_mode() -> bool:
    """True inside ``torch.func.jvp`` (and what is built on it) and inside ``torch.autograd.forward_ad.dual_level``."""
    return forward_ad._current_level >= 0  # torch.func.jvp enters such a level too


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v for q, k, v (B, heads, N, d); returns that shape.

    torch's fused kernels have no forward derivative, so under forward-mode differentiation this is computed step by step.
    """
    if in_forward_mode():
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        wide = torch.promote_types(scores.dtype, torch.float32)
        return scores.to(wide).softmax(-1).to(v.dtype) @ v
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))  # or the fused kernels refuse
    return F.scaled_dot_product_attention(q, k, v)


def attend(qkv: Tensor, heads: int, interleaved: bool = False) -> Tensor:
    """Attention between the pixels of qkv (B, 3C, H, W); returns (B, C, H, W).

    Channels are ordered `[q|k|v][head][channel of the head]` as in openai's networks, or with ``interleaved``
    `[head][channel of the head][q, k, v]` as in NVlabs'.
    """
    b, width, h, w = qkv.shape
    dim = width // 3 // heads
    if interleaved:
        q, k, v = qkv.reshape(b, heads, dim, 3, h * w).transpose(2, 4).unbind(3)
    else:
        q, k, v = qkv.reshape(b, 3, heads, dim, h * w).transpose(3, 4).unbind(1)
    return attention(q, k, v).transpose(2, 3).reshape(b, width // 3, h, w)
