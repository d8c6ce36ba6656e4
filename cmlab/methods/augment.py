"""Augmentation that does not leak into what is learned: the network is told what was done to a picture (EDM, appendix F.2).

    x0, done = CIFAR10_AUGMENT(x0, source)      # done (B, 9): all zero says "nothing was done", and is what one samples with

Geometry is resampled through a picture of twice the size: Daubechies' sym6 filter up, bilinear in between, the same filter down.
That filter is orthonormal: what does not move, or by whole pixels, is not blurred. Borders are mirrored.
"""

import math
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from ..noise import Draws, Source, as_draws

# EDM's strengths: the largest whole and the typical fractional shift in widths; standard deviations. Turns are of any angle.
SHIFT, LOG2_SIZE, LOG2_CONTRAST, LOG2_SATURATION, BRIGHTNESS = 0.125, 0.2, 0.5, 1.0, 0.2
ANISO_TURNED = 0.5  # how often the axis of an anisotropic scaling is turned
# The scaling filter of the wavelet sym6 (Daubechies, Ten Lectures on Wavelets, table 6.3).
_SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466, 0.787641141030194,
    0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578, 0.0017677118642428036,
    -0.007800708325034148,
)  # fmt: skip
_ENDS = len(_SYM6) - 2
# Pixel i lies at 2 i + _CENTRE of the doubled picture, at the filter's largest tap (EDM's 5.5 counts from half a pixel on).
_CENTRE = 5


@dataclass(frozen=True)
class Augment:
    """Each change is made with probability ``p`` times its weight; 0 leaves it out; with 1e8 it is always made.

    The columns of the labels are, in this order: xflip 1, yflip 1, rotate_int 2 (quarter turns), translate_int 2 (whole pixels,
    to the right and up), scale 1, rotate_frac 2 (any angle), aniso 2, translate_frac 2 (any shift, to the right and down),
    brightness 1, contrast 1, lumaflip 1, hue 2, saturation 1. Flips and quarter turns are drawn uniformly and include "none".
    """

    p: float = 0.12
    xflip: float = 0.0
    yflip: float = 0.0
    rotate_int: float = 0.0
    translate_int: float = 0.0
    scale: float = 0.0
    rotate_frac: float = 0.0
    aniso: float = 0.0
    translate_frac: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    lumaflip: float = 0.0
    hue: float = 0.0
    saturation: float = 0.0

    def __post_init__(self):
        if not 0 <= self.p <= 1:
            raise ValueError(f"p is a probability, got {self.p}")
        if negative := [f.name for f in fields(self) if not getattr(self, f.name) >= 0]:
            raise ValueError(f"the weight of {negative[0]} must be at least 0, got {getattr(self, negative[0])}")

    @property
    def dim(self) -> int:
        """Number of label columns: the ``augment_dim`` of the network."""
        return sum(columns for name, columns in COLUMNS.items() if getattr(self, name))

    def __call__(self, x0: Tensor, source: Source) -> tuple[Tensor, Tensor]:
        """Pictures (B, C, H, W) -> changed ones and what was done, (B, dim) float32 on the device of ``x0``."""
        if x0.ndim != 4 or x0.shape[1] not in (1, 3):
            raise ValueError(f"augmentation changes RGB or grey pictures (B, C, H, W), got {tuple(x0.shape)}")
        if self.rotate_int and x0.shape[2] != x0.shape[3]:
            raise ValueError(f"rotate_int turns square pictures, got {tuple(x0.shape[2:])}")
        if x0.shape[1] == 1 and (self.hue or self.saturation):
            raise ValueError("grey pictures have neither hue nor saturation: leave them out")
        draw = _Gated(as_draws(source), len(x0))
        done: list[Tensor] = [torch.zeros(len(x0), 0)]
        x0 = self._move_pixels(x0, draw, done)
        x0 = warp(x0, self._geometry(draw, done, *x0.shape[2:]))
        x0 = recolour(x0, self._colour(draw, done))
        return x0, torch.cat([d.reshape(len(x0), -1).float() for d in done], 1).to(x0.device)

    def _move_pixels(self, x0: Tensor, draw: "_Gated", done: list[Tensor]) -> Tensor:
        """The changes that need no resampling."""
        if self.xflip:
            done.append(k := draw.choice(self.p * self.xflip, 2))
            x0 = _pick([x0, x0.flip(3)], k)
        if self.yflip:
            done.append(k := draw.choice(self.p * self.yflip, 2))
            x0 = _pick([x0, x0.flip(2)], k)
        if self.rotate_int:
            k = draw.choice(self.p * self.rotate_int, 4)
            done.append(torch.stack([(k == 1) | (k == 2), (k == 2) | (k == 3)], 1))
            x0 = _pick([x0.rot90(turns, (2, 3)) for turns in range(4)], k)
        if self.translate_int:
            width = torch.tensor(x0.shape[:1:-1])  # (W, H): x comes first
            shift = (draw.uniform(self.p * self.translate_int, 2) * width * SHIFT).round()
            done.append(shift / (width * SHIFT))
            x0 = shift_pixels(x0, shift.long() * torch.tensor([1, -1]))  # y upwards, as in EDM's code
        return x0

    def _geometry(self, draw: "_Gated", done: list[Tensor], h: int, w: int) -> Tensor:
        """(B, 3, 3) float64: where a point (x, y, 1) of the result lies in the picture, in pixels from the centre, y downwards."""
        back = torch.eye(3, dtype=torch.float64).repeat(draw.n, 1, 1)
        if self.scale:
            done.append(z := draw.normal(self.p * self.scale, 1))
            back = back @ _scaling(1 / _factor(z[:, 0], LOG2_SIZE), 1 / _factor(z[:, 0], LOG2_SIZE))
        if self.rotate_frac:
            angle = draw.uniform(self.p * self.rotate_frac, 1)[:, 0] * math.pi
            done.append(_turn_label(angle))
            back = back @ _rotation(angle)
        if self.aniso:
            z = draw.normal(self.p * self.aniso, 1)[:, 0]
            axis = draw.uniform(ANISO_TURNED, 1)[:, 0] * math.pi * (z != 0)
            done.append(torch.stack([z * axis.cos(), z * axis.sin()], 1))
            stretch = _factor(z, LOG2_SIZE)
            back = back @ _rotation(-axis) @ _scaling(1 / stretch, stretch) @ _rotation(axis)
        if self.translate_frac:
            done.append(z := draw.normal(self.p * self.translate_frac, 2))
            x, y = (-z * SHIFT * torch.tensor([w, h])).unbind(1)
            back = back @ _matrix([[1.0, 0.0, x], [0.0, 1.0, y], [0.0, 0.0, 1.0]], z)
        return back

    def _colour(self, draw: "_Gated", done: list[Tensor]) -> Tensor:
        """(B, 4, 4) float64, what becomes of a colour (r, g, b, 1) with r, g, b in [-1, 1]."""
        same, grey = torch.eye(4, dtype=torch.float64), torch.tensor([1.0, 1, 1, 0], dtype=torch.float64) / 3**0.5
        along = grey.outer(grey)  # the part of a colour on the grey axis
        m = same.repeat(draw.n, 1, 1)
        if self.brightness:
            done.append(z := draw.normal(self.p * self.brightness, 1))
            shift = torch.zeros(draw.n, 4, 4, dtype=torch.float64)
            shift[:, :3, 3] = z * BRIGHTNESS
            m = (same + shift) @ m
        if self.contrast:
            done.append(z := draw.normal(self.p * self.contrast, 1))
            factor = _factor(z, LOG2_CONTRAST)
            m = torch.diag_embed(torch.cat([factor, factor, factor, torch.ones_like(factor)], 1)) @ m
        if self.lumaflip:
            done.append(k := draw.choice(self.p * self.lumaflip, 2))
            m = (same - 2 * along * k.view(-1, 1, 1)) @ m
        if self.hue:
            angle = draw.uniform(self.p * self.hue, 1)[:, 0] * math.pi
            done.append(_turn_label(angle))
            m = _turn_about_grey(angle) @ m
        if self.saturation:
            done.append(z := draw.normal(self.p * self.saturation, 1))
            m = (along + (same - along) * _factor(z, LOG2_SATURATION).view(-1, 1, 1)) @ m
        return m


CIFAR10_AUGMENT = Augment(p=0.12, xflip=1e8, yflip=1, scale=1, rotate_frac=1, aniso=1, translate_frac=1)  # EDM's recipe
COLUMNS = {f.name: 2 if f.name in ("rotate_int", "translate_int", "rotate_frac", "aniso", "translate_frac", "hue") else 1
           for f in fields(Augment) if f.name != "p"}  # fmt: skip


class _Gated:
    """Draws per picture that are 0, "nothing is done", except with a given probability."""

    def __init__(self, source: Draws, n: int):
        self.source, self.n = source, n

    def _gate(self, probability: float, value: Tensor) -> Tensor:
        made = self.source.uniform((self.n,)).double() < probability
        return torch.where(made.view(-1, *[1] * (value.ndim - 1)), value, 0)

    def choice(self, probability: float, count: int) -> Tensor:
        return self._gate(probability, (self.source.uniform((self.n,)) * count).long())

    def uniform(self, probability: float, k: int) -> Tensor:
        return self._gate(probability, 2 * self.source.uniform((self.n, k)).double() - 1)

    def normal(self, probability: float, k: int) -> Tensor:
        return self._gate(probability, self.source.normal((self.n, k)).double())


def _factor(z: Tensor, log2: float) -> Tensor:
    """A log-normal factor, 1 at z = 0."""
    return (z * log2).exp2()


def _turn_label(angle: Tensor) -> Tensor:
    return torch.stack([angle.cos() - 1, angle.sin()], 1)


def _pick(variants: list[Tensor], k: Tensor) -> Tensor:
    """Picture b of ``variants[k[b]]``."""
    return torch.stack(variants)[k, torch.arange(len(k))] if bool(k.any()) else variants[0]


def _mirrored(i: Tensor, count: int) -> Tensor:
    """Indices of any size into ``count`` pixels that go on mirrored at both ends, the last pixel not repeated."""
    return (count - 1) - ((count - 1) - i % max(2 * count - 2, 1)).abs()


def shift_pixels(x0: Tensor, shift: Tensor) -> Tensor:
    """Pictures (B, C, H, W) moved by ``shift`` (B, 2) whole pixels (right, down)."""
    for column, axis in ((0, 3), (1, 2)):
        count = x0.shape[axis]
        i = _mirrored(torch.arange(count) - shift[:, column, None], count).to(x0.device)
        x0 = x0.gather(axis, i.view(len(i), 1, *([count, 1] if axis == 2 else [1, count])).expand_as(x0))
    return x0


def _matrix(rows: list[list[Tensor | float]], like: Tensor) -> Tensor:
    return torch.stack([torch.stack([torch.as_tensor(v, dtype=like.dtype).expand(len(like)) for v in row], -1) for row in rows], -2)


def _rotation(angle: Tensor) -> Tensor:
    c, s = angle.cos(), angle.sin()
    return _matrix([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]], angle)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return _matrix([[x, 0.0, 0.0], [0.0, y, 0.0], [0.0, 0.0, 1.0]], x)


@lru_cache(maxsize=32)
def _double(count: int) -> Tensor:
    """(2 count + 10, count) float64: ``count`` pixels doubled and filtered. Its transpose undoes it."""
    up = torch.zeros(2 * count + _ENDS, count, dtype=torch.float64)
    for k, h in enumerate(_SYM6):
        up[torch.arange(count) * 2 + k, torch.arange(count)] = h
    return up


@lru_cache(maxsize=32)
def _double_mirrored(count: int) -> Tensor:
    """(6 count + 10, count): as `_double`, with a mirror picture on each side, pixel i at 2 (i + count) + _CENTRE."""
    i = torch.arange(-count - _ENDS // 2, 2 * count + _ENDS // 2)
    mirror = torch.zeros(len(i), count, dtype=torch.float64)
    mirror[torch.arange(len(i)), _mirrored(i, count)] = 1
    return (_double(len(i)) @ mirror)[_ENDS:-_ENDS]  # the ends lack taps of the filter


def warp(x0: Tensor, back: Tensor) -> Tensor:
    """Pictures (B, C, H, W) seen through ``back`` (B, 3, 3), see `Augment._geometry`; untouched where it is the identity."""
    moved = (back != torch.eye(3, dtype=back.dtype)).any(2).any(1)
    if not bool(moved.any()):
        return x0
    there = moved.nonzero()[:, 0].to(x0.device)  # numbers, as a mask's count would have to be read from a GPU
    h, w = x0.shape[2:]
    rows, columns = (_double(n).to(x0) for n in (h, w))
    big = _double_mirrored(h).to(x0) @ x0[there] @ _double_mirrored(w).to(x0).T
    # Where each point of the doubled result lies: to pixels from the centre, back, and to the doubled, mirrored picture.
    y, x = ((torch.arange(2 * n + _ENDS, dtype=back.dtype) - _CENTRE) / 2 - (n - 1) / 2 for n in (h, w))
    points = torch.stack([*torch.meshgrid(x, y, indexing="xy"), torch.ones(len(y), len(x), dtype=back.dtype)], -1)
    points = points @ back[moved][:, None, :2].transpose(2, 3)
    middle, far = torch.tensor([w - 1, h - 1]) / 2 + torch.tensor([w, h]), torch.tensor([big.shape[3], big.shape[2]]) - 1
    grid = (2 * (points + middle) + _CENTRE) * 2 / far - 1
    seen = grid_sample(big, grid.to(x0), mode="bilinear", padding_mode="reflection", align_corners=True)
    out = x0.clone()
    out[there] = rows.T @ seen @ columns
    return out


def _turn_about_grey(angle: Tensor) -> Tensor:
    """Rodrigues' rotation of colours about the grey axis, (B, 4, 4)."""
    c, s = angle.cos(), angle.sin()
    on, plus, minus = (1 + 2 * c) / 3, (1 - c) / 3 + s / 3**0.5, (1 - c) / 3 - s / 3**0.5
    return _matrix([[on, minus, plus, 0.0], [plus, on, minus, 0.0], [minus, plus, on, 0.0], [0.0, 0.0, 0.0, 1.0]], angle)


def recolour(x0: Tensor, m: Tensor) -> Tensor:
    """Pictures (B, 3 or 1, H, W), each colour (r, g, b, 1) taken through ``m`` (B, 4, 4); untouched where that is the identity."""
    changed = (m != torch.eye(4, dtype=m.dtype)).any(2).any(1)
    if not bool(changed.any()):
        return x0
    chosen = changed.nonzero()[:, 0].to(x0.device)
    m = m[changed].to(x0)
    colours = x0[chosen].expand(-1, 3, -1, -1).flatten(2)
    out = x0.clone()
    out[chosen] = (m[:, :3, :3] @ colours + m[:, :3, 3:]).unflatten(2, x0.shape[2:])[:, : x0.shape[1]]
    return out
