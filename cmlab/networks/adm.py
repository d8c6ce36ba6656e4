"""The ADM U-Net of guided-diffusion (Dhariwal & Nichol, 2021), small or large, for square images.

Module names follow the published checkpoints (``input_blocks.3.0.in_layers.2.weight``), so their state dicts fit by name.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class UNetConfig:
    """
    channels: width of the first level; ``mult`` multiplies it, one entry per resolution (each half the one before).
    blocks: residual blocks per level on the way down (one more on the way up).
    attention: resolutions (in pixels) that get self-attention; the middle always does. heads: its number of heads.
    emb: width of the time and class embedding; 0 means 4 * channels.
    group: channels per normalisation group (ADM: channels / 32).
    time_scale: c_noise is multiplied by it before its sines. The published networks have 1000; consistency models want it small,
        or neighbouring noise levels look unrelated to the network (iCT, section 3.1).
    """

    channels: int = 32
    mult: tuple[int, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[int, ...] = ()
    heads: int = 1
    emb: int = 0
    group: int = 4
    dropout: float = 0.0
    time_scale: float = 16.0


class _Norm(nn.GroupNorm):
    def forward(self, x: Tensor) -> Tensor:  # statistics in at least float32, also under autocast
        return super().forward(x.to(torch.promote_types(x.dtype, torch.float32))).to(x.dtype)


class _Conditioned(nn.Sequential):
    """Passes the embedding to the layers that take one."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, emb) if isinstance(layer, _ResBlock) else layer(x)
        return x


class _ResBlock(nn.Module):
    def __init__(self, c_in: int, c_out: int, emb: int, group: int, dropout: float, resample: str = ""):
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(_Norm(c_in // group, c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * c_out))
        self.out_layers = nn.Sequential(
            _Norm(c_out // group, c_out), nn.SiLU(), nn.Dropout(dropout), _zero(nn.Conv2d(c_out, c_out, 3, padding=1))
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def _resize(self, x: Tensor) -> Tensor:
        if self.resample == "down":
            return F.avg_pool2d(x, 2)
        return F.interpolate(x, scale_factor=2, mode="nearest") if self.resample == "up" else x

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self._resize(self.in_layers[:-1](x))
        h = self.in_layers[-1](h)
        scale, shift = self.emb_layers(emb)[:, :, None, None].chunk(2, 1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(self._resize(x)) + self.out_layers[1:](h)


class _Attention(nn.Module):
    def __init__(self, channels: int, heads: int, group: int):
        super().__init__()
        self.heads = heads
        self.norm = _Norm(channels // group, channels)
        self.qkv = nn.Conv1d(channels, 3 * channels, 1)
        self.proj_out = _zero(nn.Conv1d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        flat = x.reshape(b, c, h * w)
        # channel order of the published weights: [q | k | v][head][dim]
        q, k, v = self.qkv(self.norm(flat)).reshape(b, 3, self.heads, c // self.heads, h * w).transpose(-1, -2).unbind(1)
        out = F.scaled_dot_product_attention(q, k, v).transpose(-1, -2).reshape(b, c, h * w)
        return (flat + self.proj_out(out)).reshape(x.shape)


def _zero(layer: nn.Module) -> nn.Module:
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


def _time_features(t: Tensor, dim: int) -> Tensor:
    """cos and sin of t at ``dim``/2 frequencies from 1 down to 1/10000 (guided-diffusion's order)."""
    half = dim // 2
    freqs = torch.exp(-torch.log(torch.tensor(10000.0)) * torch.arange(half, device=t.device) / half)
    angle = t[:, None].to(torch.promote_types(t.dtype, torch.float32)) * freqs
    return torch.cat([angle.cos(), angle.sin()], 1).to(t.dtype)


class UNet(nn.Module):
    """F(x, c_noise, label): x (B, C, H, W) -> the same shape; the last layer starts at zero. Sides divide by 2^(levels-1)."""

    def __init__(self, config: UNetConfig, shape: tuple[int, ...], classes: int = 0):
        super().__init__()
        shrink = 2 ** (len(config.mult) - 1)
        if len(shape) != 3 or shape[1] % shrink or shape[2] % shrink:
            raise ValueError(f"a U-Net with {len(config.mult)} levels needs images whose sides divide by {shrink}, got {shape}")
        widths = [config.channels * m for m in config.mult]
        if min(config.group, config.heads, config.blocks, *widths) < 1:
            raise ValueError(f"channels, mult, blocks, group and heads must be at least 1, got {config}")
        if config.channels % config.group or any(w % config.heads for w in widths):
            raise ValueError(
                f"channels ({config.channels}) must be a multiple of group ({config.group}) and of heads ({config.heads})"
            )
        self.config = config
        ch, group, drop = config.channels, config.group, config.dropout
        emb = config.emb or 4 * ch
        self.channels, self.time_scale = ch, config.time_scale
        self.time_embed = nn.Sequential(nn.Linear(ch, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.label_emb = nn.Embedding(classes, emb) if classes else None

        def res(c_in: int, c_out: int, resample: str = "") -> _ResBlock:
            return _ResBlock(c_in, c_out, emb, group, drop, resample)

        size, width = shape[1], ch * config.mult[0]
        self.input_blocks = nn.ModuleList([_Conditioned(nn.Conv2d(shape[0], width, 3, padding=1))])
        skips = [width]
        for level, m in enumerate(config.mult):
            if level:
                size //= 2
                self.input_blocks.append(_Conditioned(res(width, width, "down")))
                skips.append(width)
            for _ in range(config.blocks):
                layers: list[nn.Module] = [res(width, ch * m)]
                width = ch * m
                if size in config.attention:
                    layers.append(_Attention(width, config.heads, group))
                self.input_blocks.append(_Conditioned(*layers))
                skips.append(width)
        self.middle_block = _Conditioned(res(width, width), _Attention(width, config.heads, group), res(width, width))
        self.output_blocks = nn.ModuleList()
        for level, m in reversed(list(enumerate(config.mult))):
            for i in range(config.blocks + 1):
                layers = [res(width + skips.pop(), ch * m)]
                width = ch * m
                if size in config.attention:
                    layers.append(_Attention(width, config.heads, group))
                if level and i == config.blocks:
                    layers.append(res(width, width, "up"))
                    size *= 2
                self.output_blocks.append(_Conditioned(*layers))
        self.out = nn.Sequential(_Norm(width // group, width), nn.SiLU(), _zero(nn.Conv2d(width, shape[0], 3, padding=1)))

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        emb = self.time_embed(_time_features(self.time_scale * c_noise, self.channels))
        if self.label_emb is not None and label is not None:
            emb = emb + self.label_emb(label)
        skips, h = [], x
        for block in self.input_blocks:
            h = block(h, emb)
            skips.append(h)
        h = self.middle_block(h, emb)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], 1), emb)
        return self.out(h)
