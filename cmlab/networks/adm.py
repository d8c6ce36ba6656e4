"""The ADM U-Net of guided-diffusion (Dhariwal & Nichol, 2021) with all its options, small or large.

Module names follow the published checkpoints (``input_blocks.3.0.in_layers.2.weight``), so their state dicts fit by name
(`layouts` has the details). NVlabs' DhariwalUNet is the same network in other words.
"""

from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base.registry import NETWORKS
from .attention import attend, check_attention
from .layers import Block, NetworkConfig, Norm, class_embedding, positional_features, run, time_features, zero

RESAMPLING = ("block", "conv", "pool")


@dataclass(frozen=True)
class UNetConfig(NetworkConfig):
    """
    channels: width of the first level; ``mult`` multiplies it, one entry per resolution (each half the one before).
    blocks: residual blocks per level on the way down (one more on the way up).
    attention: resolutions (in pixels) that get self-attention; the middle always does. heads: its number of heads.
    emb: width of the time and class embedding; 0 means 4 * channels.
    group: channels per normalisation group. max_groups: no layer has more groups than this, 0 means no limit. The published
        networks have 32 groups everywhere: group 1, max_groups 32; NVlabs' have group 4, max_groups 32.
    time_scale: c_noise is multiplied by it before its sines. The published networks have 1000 (NVlabs' 1); consistency models
        want it small, or neighbouring noise levels look unrelated to the network (iCT, section 3.1).
    heads_up: heads on the way up, 0 means as many as on the way down.
    head_channels: channels per head, 0 means that ``heads`` counts. A block of C channels then has C // head_channels heads, and
        no attention at all if that is 0.
    scale_shift: the embedding scales and shifts the normalised features (FiLM); off: it is added before the normalisation.
    resample: "block" changes resolution in residual blocks, "conv" in one convolution, "pool" without parameters.
    variance: the network also predicts a variance: twice the output channels, the second half of which a Denoiser cuts off.
    augment: number of augmentation labels that ``forward`` takes, 0 for none.
    float32_freqs: the sines' frequencies are float32 numbers also in a float64 network, as in NVlabs' code.
    recompute: gradient checkpointing: less memory, a third more time, the same gradients.
    patch: the network works on patches of this many pixels a side, gathered into channels: 2 is about four times as fast as 1, for
        coarser details (Dosovitskiy et al., 2021).
    """

    channels: int = 32
    mult: tuple[float, ...] = (1, 2)
    blocks: int = 1
    attention: tuple[int, ...] = ()
    heads: int = 1
    emb: int = 0
    group: int = 4
    dropout: float = 0.0
    time_scale: float = 16.0
    heads_up: int = 0
    head_channels: int = 0
    max_groups: int = 0
    scale_shift: bool = True
    resample: str = "block"
    variance: bool = False
    augment: int = 0
    float32_freqs: bool = False
    recompute: bool = False
    patch: int = 1


_PUBLISHED = {"attention": (32, 16, 8), "head_channels": 64, "group": 1, "max_groups": 32, "time_scale": 1000.0}
# openai/consistency_models: 295.9 M parameters with 1000 classes, and 526.3 M without classes.
IMAGENET64 = UNetConfig(192, (1, 2, 3, 4), blocks=3, **_PUBLISHED)
LSUN256 = UNetConfig(256, (1, 1, 2, 2, 4, 4), blocks=2, scale_shift=False, **_PUBLISHED)


class _Conditioned(nn.Sequential):
    """Passes the embedding to the layers that take one."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x, emb) if isinstance(layer, ResBlock) else layer(x)
        return x


_halve, _double = partial(F.avg_pool2d, kernel_size=2), partial(F.interpolate, scale_factor=2, mode="nearest")


class ResBlock(Block):
    """x (B, c_in, H, W), emb (B, emb) -> (B, c_out, H', W'); ``resample`` "down" halves the sides and "up" doubles them."""

    def __init__(self, c_in: int, c_out: int, config: UNetConfig, emb: int, resample: str = ""):
        super().__init__()
        self.resample, self.scale_shift = resample, config.scale_shift
        group, most = config.group, config.max_groups
        self.in_layers = nn.Sequential(Norm(c_in, group, most), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * c_out if self.scale_shift else c_out))
        self.out_layers = nn.Sequential(
            Norm(c_out, group, most), nn.SiLU(), nn.Dropout(config.dropout), zero(nn.Conv2d(c_out, c_out, 3, padding=1))
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def _resize(self, x: Tensor) -> Tensor:
        return _halve(x) if self.resample == "down" else _double(x) if self.resample == "up" else x

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[-1](self._resize(self.in_layers[:-1](x)))
        e = self.emb_layers(emb)[:, :, None, None]
        if self.scale_shift:
            scale, shift = e.chunk(2, 1)
            h = self.out_layers[0](h) * (1 + scale) + shift
        else:
            h = self.out_layers[0](h + e)
        return self.skip_connection(self._resize(x)) + self.out_layers[1:](h)


class _Pointwise(nn.Conv1d):
    """A 1x1 convolution of images whose weight has the published shape (out, in, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight[..., None], self.bias)


class Attention(Block):
    """Self-attention between the pixels of x (B, C, H, W), added to x."""

    def __init__(self, channels: int, heads: int, config: UNetConfig):
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels do not divide into {heads} attention heads: change channels, mult or the heads")
        self.heads = heads
        self.norm = Norm(channels, config.group, config.max_groups)
        self.qkv = _Pointwise(channels, 3 * channels, 1)
        self.proj_out = zero(_Pointwise(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.proj_out(attend(self.qkv(self.norm(x)), self.heads))


def _downsample(channels: int, conv: bool) -> nn.Module:
    return nn.Sequential(OrderedDict(op=nn.Conv2d(channels, channels, 3, stride=2, padding=1))) if conv else nn.AvgPool2d(2)


def _upsample(channels: int, conv: bool) -> nn.Module:
    larger = nn.Upsample(scale_factor=2, mode="nearest")
    return nn.Sequential(OrderedDict(larger=larger, conv=nn.Conv2d(channels, channels, 3, padding=1))) if conv else larger


def _check(config: UNetConfig, shape: tuple[int, ...]) -> list[int]:
    """The width of each level, if all settings fit together."""
    shrink = 2 ** (len(config.mult) - 1) * max(config.patch, 1)
    if len(shape) != 3 or shape[1] % shrink or shape[2] % shrink:
        levels = f"a U-Net with {len(config.mult)} levels of {config.patch}-pixel patches"
        raise ValueError(f"{levels} needs images whose sides divide by {shrink}, got {shape}")
    widths = [int(config.channels * m) for m in config.mult]
    if min(config.group, config.heads, config.blocks, config.patch, *widths) < 1:
        raise ValueError(f"channels, mult, blocks, group, heads and patch must be at least 1, got {config}")
    if min(config.emb, config.heads_up, config.head_channels, config.max_groups, config.augment) < 0:
        raise ValueError(f"emb, heads_up, head_channels, max_groups and augment cannot be negative, got {config}")
    if config.resample not in RESAMPLING:
        raise ValueError(f"resample must be one of {', '.join(RESAMPLING)}, got {config.resample!r}")
    if config.head_channels and (config.heads > 1 or config.heads_up):
        raise ValueError("give either heads (and heads_up) or head_channels: with head_channels the others would be ignored")
    check_attention([side // config.patch for side in shape[1:]], len(widths), config.attention)
    return widths


@NETWORKS.register("unet", "ADM U-Net", config=UNetConfig)
class UNet(nn.Module):
    """F(x, c_noise, label): x (B, C, H, W) -> the same shape; the last layer starts at zero. Sides divide by 2^(levels-1)."""

    def __init__(self, config: UNetConfig, shape: tuple[int, ...], classes: int = 0):
        super().__init__()
        widths = _check(config, shape)
        self.config = config
        ch = config.channels
        emb = config.emb or 4 * ch
        self.time_embed = nn.Sequential(nn.Linear(ch, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.label_emb = nn.Embedding(classes, emb) if classes else None
        self.map_augment = nn.Linear(config.augment, ch, bias=False) if config.augment else None

        def res(c_in: int, c_out: int, resample: str = "") -> ResBlock:
            return ResBlock(c_in, c_out, config, emb, resample)

        def attend_to(width: int, heads: int) -> list[nn.Module]:
            heads = width // config.head_channels if config.head_channels else heads
            return [Attention(width, heads, config)] if heads else []

        size, width, colours = shape[1] // config.patch, widths[0], shape[0] * config.patch**2
        self.input_blocks = nn.ModuleList([_Conditioned(nn.Conv2d(colours, width, 3, padding=1))])
        skips = [width]
        for level, wide in enumerate(widths):
            if level:
                size //= 2
                down = res(width, width, "down") if config.resample == "block" else _downsample(width, config.resample == "conv")
                self.input_blocks.append(_Conditioned(down))
                skips.append(width)
            for _ in range(config.blocks):
                here = attend_to(wide, config.heads) if size in config.attention else []
                self.input_blocks.append(_Conditioned(res(width, wide), *here))
                width = wide
                skips.append(width)
        self.middle_block = _Conditioned(res(width, width), *attend_to(width, config.heads), res(width, width))
        self.output_blocks = nn.ModuleList()
        for level, wide in reversed(list(enumerate(widths))):
            for i in range(config.blocks + 1):
                here = attend_to(wide, config.heads_up or config.heads) if size in config.attention else []
                layers = [res(width + skips.pop(), wide), *here]
                width = wide
                if level and i == config.blocks:
                    up = res(width, width, "up") if config.resample == "block" else _upsample(width, config.resample == "conv")
                    layers.append(up)
                    size *= 2
                self.output_blocks.append(_Conditioned(*layers))
        out = colours * (2 if config.variance else 1)
        norm = Norm(width, config.group, config.max_groups)
        self.out = nn.Sequential(norm, nn.SiLU(), zero(nn.Conv2d(width, out, 3, padding=1)))

    def embed(self, c_noise: Tensor, label: Tensor | None, augment: Tensor | None) -> Tensor:
        """The embedding (B, emb) of noise level, class and augmentation that every residual block is told."""
        t, ch = self.config.time_scale * c_noise, self.config.channels
        features = positional_features(t, ch) if self.config.float32_freqs else time_features(t, ch)
        if augment is not None:
            if self.map_augment is None:
                raise ValueError("this network takes no augmentation labels: build it with augment=their number")
            features = features + self.map_augment(augment.to(features.dtype))
        emb = self.time_embed(features)
        if self.label_emb is not None and label is not None:
            emb = emb + class_embedding(self.label_emb, label)
        return emb

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        """label (B,) int64, -1 for no class; augment (B, config.augment), None for not augmented."""
        emb, recompute = self.embed(c_noise, label, augment), self.config.recompute
        skips: list[Tensor] = []
        h = F.pixel_unshuffle(x, self.config.patch) if self.config.patch > 1 else x
        for block in self.input_blocks:
            h = run(block, h, emb, recompute=recompute)
            skips.append(h)
        h = run(self.middle_block, h, emb, recompute=recompute)
        for block in self.output_blocks:
            h = run(block, torch.cat([h, skips.pop()], 1), emb, recompute=recompute)
        h = self.out(h)
        return F.pixel_shuffle(h, self.config.patch) if self.config.patch > 1 else h
