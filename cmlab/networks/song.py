"""DDPM++ and NCSN++ (Song et al., 2021) as EDM trains them, for square images.

Names of modules and the channel order of the attention follow NVlabs' published networks, so their state dicts fit by name.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..base.registry import NETWORKS
from .attention import attend, check_attention
from .layers import Block, NetworkConfig, Norm, positional_features, run, zero

HALF = math.sqrt(0.5)  # two branches of equal variance are added and scaled by it


@dataclass(frozen=True)
class SongUNetConfig(NetworkConfig):
    """
    channels: width of the first convolution; ``mult`` times it is the width of each resolution (each half the one before).
    blocks: residual blocks per level on the way down (one more on the way up).
    attention: resolutions (in pixels) that get self-attention with ``heads`` heads; the middle always does.
    emb: width of the embedding; 0 means 4 * channels. noise_mult: ``noise_mult * channels`` features describe the noise level.
    embedding: "positional" (fixed sines) or "fourier" (random frequencies of standard deviation ``fourier_scale``: 16 in EDM and
        NCSN++, 0.02 in iCT and ECT, whose neighbouring noise levels must look alike).
    encoder: "standard"; "skip" adds the filtered and shrunk image at each level, "residual" a learned pyramid of it.
    decoder: "standard"; "skip" adds up an image from each level.
    fir: taps of the filter that changes resolution: (1, 1), or (1, 3, 3, 1) in NCSN++.
    variance: the network also predicts a variance: twice the output channels, the second half of which a Denoiser cuts off.
    augment: number of augmentation labels that ``forward`` takes, 0 for none.
    recompute: gradient checkpointing: less memory, a third more time, the same gradients.
    """

    channels: int = 128
    mult: tuple[int, ...] = (2, 2, 2)
    blocks: int = 4
    attention: tuple[int, ...] = (16,)
    heads: int = 1
    emb: int = 0
    dropout: float = 0.0
    embedding: str = "positional"
    noise_mult: int = 1
    fourier_scale: float = 16.0
    encoder: str = "standard"
    decoder: str = "standard"
    fir: tuple[int, ...] = (1, 1)
    variance: bool = False
    augment: int = 0
    recompute: bool = False


# EDM's networks for CIFAR-10: 55.7 M and 56.4 M parameters.
DDPMPP = SongUNetConfig()
NCSNPP = SongUNetConfig(embedding="fourier", noise_mult=2, encoder="residual", fir=(1, 3, 3, 1))

_CHOICES = {"embedding": ("positional", "fourier"), "encoder": ("standard", "skip", "residual"), "decoder": ("standard", "skip")}


class Conv2d(nn.Module):
    """A convolution of ``kernel`` x ``kernel`` (0: none) together with a change of resolution by two ("up", "down" or "").

    The filter comes first: fir x fir taps, outer product of ``fir``. ``fused``: downwards the convolution comes first, at full
    resolution; upwards the borders are padded once for both (NCSN++'s residual pyramid). The bias is added last.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, resample: str = "", fir: tuple[int, ...] = (1, 1), fused: bool = False):
        super().__init__()
        if not kernel and c_in != c_out:
            raise ValueError(f"without a kernel the channels stay as they are, got {c_in} and {c_out}")
        self.kernel, self.resample, self.fir, self.fused = kernel, resample, tuple(fir), fused
        self.taps: Tensor
        self.register_buffer("taps", torch.tensor(self.fir, dtype=torch.float32) if resample else None, persistent=False)
        self.weight = nn.Parameter(torch.empty(c_out, c_in, kernel, kernel)) if kernel else None
        self.bias = nn.Parameter(torch.zeros(c_out)) if kernel else None
        if self.weight is not None:
            nn.init.xavier_uniform_(self.weight)

    def _filter(self, x: Tensor, pad: int) -> Tensor:
        """Blur and drop every other pixel, or put zeros between the pixels and blur."""
        if self.fir == (1, 1) and pad == 0:  # the same numbers, sooner
            return F.avg_pool2d(x, 2) if self.resample == "down" else F.interpolate(x, scale_factor=2, mode="nearest")
        taps = self.taps.to(x.dtype)
        taps = taps / taps.sum() * (2 if self.resample == "up" else 1)
        channels = x.shape[1]
        weight = torch.outer(taps, taps).expand(channels, 1, -1, -1)
        filtered = F.conv_transpose2d if self.resample == "up" else F.conv2d
        return filtered(x, weight, stride=2, padding=pad, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        before, around = (len(self.fir) - 1) // 2, self.kernel // 2
        if self.weight is None or self.bias is None:
            return self._filter(x, before) if self.resample else x
        if self.fused and self.resample == "down":
            return self._filter(F.conv2d(x, self.weight, padding=around + before), 0) + self.bias.reshape(-1, 1, 1)
        if self.fused and self.resample == "up":
            x = self._filter(x, max(before - around, 0))
            return F.conv2d(x, self.weight, self.bias, padding=max(around - before, 0))
        if self.resample:
            x = self._filter(x, before)
        return F.conv2d(x, self.weight, self.bias, padding=around)


class UNetBlock(Block):
    """x (B, c_in, H, W), emb (B, emb) -> (B, c_out, H', W'): a residual block, with ``heads`` above 0 followed by attention."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        emb: int,
        resample: str = "",
        heads: int = 0,
        dropout: float = 0.0,
        fir: tuple[int, ...] = (1, 1),
    ):
        super().__init__()
        if heads and c_out % heads:
            raise ValueError(f"{c_out} channels do not divide into {heads} attention heads: change channels, mult or heads")
        self.dropout, self.heads = dropout, heads
        self.norm0 = Norm(c_in, 4, 32, eps=1e-6)
        self.conv0 = Conv2d(c_in, c_out, 3, resample, fir)
        self.affine = _linear(emb, c_out)
        self.norm1 = Norm(c_out, 4, 32, eps=1e-6)
        self.conv1 = zero(Conv2d(c_out, c_out, 3))
        self.skip = Conv2d(c_in, c_out, 1, resample, fir) if c_in != c_out or resample else None
        if heads:
            self.norm2 = Norm(c_out, 4, 32, eps=1e-6)
            self.qkv = Conv2d(c_out, 3 * c_out, 1)
            self.proj = zero(Conv2d(c_out, c_out, 1))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv0(F.silu(self.norm0(x))) + self.affine(emb)[:, :, None, None]
        h = F.dropout(F.silu(self.norm1(h)), self.dropout, self.training)
        x = ((x if self.skip is None else self.skip(x)) + self.conv1(h)) * HALF
        if self.heads:
            x = (x + self.proj(attend(self.qkv(self.norm2(x)), self.heads, interleaved=True))) * HALF
        return x


class _Fourier(nn.Module):
    """[cos | sin] of t (B,) at random, fixed frequencies."""

    def __init__(self, dim: int, scale: float):
        super().__init__()
        self.freqs = nn.Buffer(nn.init.normal_(torch.empty(dim // 2), std=scale))

    def forward(self, t: Tensor) -> Tensor:
        wide = torch.promote_types(t.dtype, torch.float32)
        angle = t[:, None].to(wide) * (2 * math.pi * self.freqs.to(wide))
        return torch.cat([angle.cos(), angle.sin()], 1).to(t.dtype)


def _linear(c_in: int, c_out: int, bias: bool = True) -> nn.Linear:
    layer = nn.Linear(c_in, c_out, bias)
    nn.init.xavier_uniform_(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def _check(config: SongUNetConfig, shape: tuple[int, ...]) -> None:
    shrink = 2 ** (len(config.mult) - 1)
    if len(shape) != 3 or shape[1] != shape[2] or shape[1] % shrink:
        levels = f"a SongUNet with {len(config.mult)} levels"
        raise ValueError(f"{levels} needs square images whose sides divide by {shrink}, got {shape}")
    for name, choices in _CHOICES.items():
        if getattr(config, name) not in choices:
            raise ValueError(f"{name} must be one of {', '.join(choices)}, got {getattr(config, name)!r}")
    if min(config.channels, config.blocks, config.heads, config.noise_mult, *config.mult) < 1:
        raise ValueError(f"channels, mult, blocks, heads and noise_mult must be at least 1, got {config}")
    if config.channels < 4 or config.channels % 2:
        why = "for the sines and cosines of the noise level"
        raise ValueError(f"channels must be even and at least 4, {why}, got {config.channels}")
    if min(config.emb, config.augment) < 0:
        raise ValueError(f"emb and augment cannot be negative, got {config}")
    if not 2 <= len(config.fir) <= 16 or len(config.fir) % 2 or sum(config.fir) == 0:
        raise ValueError(f"fir needs an even number of taps, at most 16, whose sum is not 0, such as 1 3 3 1, got {config.fir}")
    if config.embedding == "positional" and config.fourier_scale != SongUNetConfig.fourier_scale:
        raise ValueError("fourier_scale acts with embedding='fourier' only")
    check_attention(shape[1:], len(config.mult), config.attention)


@NETWORKS.register("song", "DDPM++ or NCSN++", config=SongUNetConfig)
class SongUNet(nn.Module):
    """F(x, c_noise, label): x (B, C, H, H) -> the same shape; the last layer starts at zero. H divides by 2^(levels-1)."""

    def __init__(self, config: SongUNetConfig, shape: tuple[int, ...], classes: int = 0):
        super().__init__()
        _check(config, shape)
        self.config, self.classes = config, classes
        channels, size, ch = shape[0], shape[1], config.channels
        out = channels * (2 if config.variance else 1)
        emb, noise = config.emb or 4 * ch, config.noise_mult * ch
        self.map_noise = _Fourier(noise, config.fourier_scale) if config.embedding == "fourier" else None
        self.map_label = _linear(classes, noise) if classes else None
        self.map_augment = _linear(config.augment, noise, bias=False) if config.augment else None
        self.map_layer0, self.map_layer1 = _linear(noise, emb), _linear(emb, emb)

        def block(c_in: int, c_out: int, resample: str = "", attends: bool = False) -> UNetBlock:
            return UNetBlock(c_in, c_out, emb, resample, config.heads if attends else 0, config.dropout, config.fir)

        enc: dict[str, nn.Module] = {f"{size}x{size}_conv": Conv2d(channels, ch, 3)}
        width, pyramid, skips = ch, channels, [ch]
        for level, m in enumerate(config.mult):
            side = size >> level
            at = f"{side}x{side}"
            if level:
                enc[f"{at}_down"] = block(width, width, "down")
                if config.encoder == "skip":
                    enc[f"{at}_aux_down"] = Conv2d(pyramid, pyramid, 0, "down", config.fir)
                    enc[f"{at}_aux_skip"] = Conv2d(pyramid, width, 1)
                elif config.encoder == "residual":
                    enc[f"{at}_aux_residual"] = Conv2d(pyramid, width, 3, "down", config.fir, fused=True)
                    pyramid = width
                skips.append(width)
            for i in range(config.blocks):
                enc[f"{at}_block{i}"] = block(width, ch * m, attends=side in config.attention)
                width = ch * m
                skips.append(width)
        dec: dict[str, nn.Module] = {}
        for level, m in reversed(list(enumerate(config.mult))):
            side = size >> level
            at, lowest = f"{side}x{side}", level == len(config.mult) - 1
            if lowest:
                dec[f"{at}_in0"] = block(width, width, attends=True)
                dec[f"{at}_in1"] = block(width, width)
            else:
                dec[f"{at}_up"] = block(width, width, "up")
            for i in range(config.blocks + 1):
                attends = i == config.blocks and side in config.attention
                dec[f"{at}_block{i}"] = block(width + skips.pop(), ch * m, attends=attends)
                width = ch * m
            if config.decoder == "skip" or level == 0:
                if config.decoder == "skip" and not lowest:
                    dec[f"{at}_aux_up"] = Conv2d(out, out, 0, "up", config.fir)
                dec[f"{at}_aux_norm"] = Norm(width, 4, 32, eps=1e-6)
                dec[f"{at}_aux_conv"] = zero(Conv2d(width, out, 3))
        self.enc, self.dec = nn.ModuleDict(enc), nn.ModuleDict(dec)

    def embed(self, c_noise: Tensor, label: Tensor | None, augment: Tensor | None) -> Tensor:
        """The embedding (B, emb) of noise level, class and augmentation that every block is told."""
        if self.map_noise is None:
            features = positional_features(c_noise, self.map_layer0.in_features, endpoint=True)
        else:
            features = self.map_noise(c_noise)
        features = features.roll(features.shape[1] // 2, 1)  # [sin | cos]
        if self.map_label is not None:
            if label is None:
                label = c_noise.new_full(c_noise.shape, -1, dtype=torch.int64)
            chosen = F.one_hot(label.clamp_min(0), self.classes) * (label >= 0)[:, None]
            features = features + self.map_label(chosen.to(features.dtype) * math.sqrt(self.classes))
        if augment is not None:
            if self.map_augment is None:
                raise ValueError("this network takes no augmentation labels: build it with augment=their number")
            features = features + self.map_augment(augment.to(features.dtype))
        return F.silu(self.map_layer1(F.silu(self.map_layer0(features))))

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None, augment: Tensor | None = None) -> Tensor:
        """label (B,) int64, -1 for no class; augment (B, config.augment), None for not augmented."""
        emb, recompute = self.embed(c_noise, label, augment), self.config.recompute
        skips: list[Tensor] = []
        aux = x
        for name, layer in self.enc.items():
            if name.endswith("aux_down"):
                aux = layer(aux)
            elif name.endswith("aux_skip"):
                x = skips[-1] = x + layer(aux)
            elif name.endswith("aux_residual"):
                x = skips[-1] = aux = (x + layer(aux)) * HALF
            else:
                x = run(layer, x, emb, recompute=recompute) if isinstance(layer, UNetBlock) else layer(x)
                skips.append(x)
        image, normed = x.new_zeros(()), x
        for name, layer in self.dec.items():
            if name.endswith("aux_up"):
                image = layer(image)
            elif name.endswith("aux_norm"):
                normed = F.silu(layer(x))
            elif name.endswith("aux_conv"):
                image = image + layer(normed)
            else:
                x = torch.cat([x, skips.pop()], 1) if "_block" in name else x
                x = run(layer, x, emb, recompute=recompute)
        return image
