"""Zero-shot editing: an edit is a projection of the denoiser's estimate (CM, appendix D, Algorithm 4).

    x0_hat  ->  A_inv( A(y) (1 - free) + A(x0_hat) free )

``y`` is the reference, ``A`` an orthogonal change of coordinates, ``free`` marks the coordinates that the model decides (1) and
that are kept (0). The sampler is the ordinary multistep sampler with this projection as its hook.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .base.registry import EDITS
from .base.suggest import check_choice
from .denoiser import Denoise, Label
from .noise import SIGMA_MAX, SIGMA_MIN, Draws, Source, as_draws, noise_like, state_dtype
from .samplers import Steps, last_state, multistep

STROKE_SIGMAS = (5.38, 2.24)  # CM, appendix D
EDIT_STEPS, LAST_SIGMA = 40, 0.05
LUMA = (0.2989, 0.5870, 0.1140)  # what red, green and blue add to brightness
COLOR_DRAWS = 4  # samples of which a colourisation is the mean


class Operator(NamedTuple):
    """An orthogonal change of coordinates and its inverse, both (B, *S) -> (B, *S')."""

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


IDENTITY = Operator(lambda x: x, lambda x: x)


@dataclass(frozen=True)
class Edit:
    """One editing task.

    Args:
        y: reference, (B, *S) in [-1, 1].
        free: 1 where the model decides, 0 where y is kept; broadcasts to A(y).
        operator: A and its inverse.
        sigmas: decreasing noise levels of the multistep sampler.
        noisy: y is itself a noisy sample at sigmas[0] (denoising), so no noise is added to it.
        shown: what to show as the input when that is not `kept` (a grey picture instead of a projection).
        draws: number of samples of each picture; the result is their mean, nearer to the truth than one sample and less varied.
    """

    y: Tensor
    free: Tensor
    operator: Operator = IDENTITY
    sigmas: tuple[float, ...] = (SIGMA_MAX,)
    noisy: bool = False
    shown: Tensor | None = None
    draws: int = 1

    def __post_init__(self):
        if self.draws < 1:
            raise ValueError(f"draws must be at least 1, got {self.draws}")

    @property
    def degraded(self) -> Tensor:
        """What a person is shown as the input: ``shown`` where the edit has something better than `kept`."""
        return self.kept if self.shown is None else self.shown

    @property
    def kept(self) -> Tensor:
        """A_inv(A(y) (1 - free)): what is known of y, where the sampler starts. All of y where all is free."""
        if self.is_free:
            return self.y
        return self.operator.inverse(self.operator.forward(self.y) * (1 - self.free))

    @property
    def is_free(self) -> bool:
        """True where nothing is kept exactly: strokes and denoising guide by where they start."""
        return bool((self.free == 1).all())

    def project(self, x0_hat: Tensor) -> Tensor:
        """Replace the kept coordinates of ``x0_hat`` by those of y; the free ones stay."""
        if self.is_free:
            return x0_hat
        a_y, free = self.operator.forward(self.y.to(x0_hat)), self.free.to(x0_hat)
        return self.operator.inverse(a_y * (1 - free) + self.operator.forward(x0_hat) * free)


@EDITS.register(
    "inpaint",
    "Inpaint",
    "The pixels outside the mask are kept exactly; the model fills in the rest so that the whole looks like data.",
)
def inpaint(y: Tensor, free: Tensor, steps: int = EDIT_STEPS, fill: float = 0.0) -> Edit:
    """Fill in ``free`` (1 = generate), a mask that broadcasts to y, from what surrounds it.

    ``fill`` is the value in which the missing pixels are shown, 0 (grey) or -1 (black); the sampler does not see it.
    Raises ValueError for a mask that marks nothing, or whose size is not y's.
    """
    free = _check_mask(y, free)
    return Edit(y, free, IDENTITY, grid_sigmas(steps), shown=y * (1 - free) + fill * free if fill else None)


@EDITS.register(
    "colorize",
    "Colorize",
    "The brightness of every pixel is kept exactly; the model chooses the colours. Another seed, other colours.",
)
def colorize(y: Tensor, steps: int = EDIT_STEPS, draws: int = COLOR_DRAWS) -> Edit:
    """Keep the luma of y (B, 3, H, W), generate the colours. y may be grey (three equal channels) or the colour original.

    The result is the mean of ``draws`` colourings; the paper takes 1. On 200 photographs the mean of four was nearer to the truth
    in features than the grey pictures were, and a single one was not (`benchmarks/edits.py`).
    """
    if y.ndim != 4 or y.shape[1] != 3:
        needs = "a model of RGB images (B, 3, H, W), such as digits-color-cd"
        raise ValueError(f"to colorize takes {needs}: these are {tuple(y.shape)}")
    free = torch.ones(1, 3, 1, 1)
    free[:, 0] = 0
    return Edit(y, free, luma_operator(), grid_sigmas(steps), shown=luma(y).expand_as(y), draws=draws)


@EDITS.register(
    "super_resolve",
    "Super-resolve",
    "The mean of every block is kept exactly; the model adds the detail inside the blocks.",
)
def super_resolve(y: Tensor, patch: int = 2, steps: int = EDIT_STEPS) -> Edit:
    """Keep the mean of every ``patch`` x ``patch`` block of y (B, C, H, W), generate the detail.

    y may be the original, or a small picture enlarged by repeating its pixels. Raises ValueError where patch does not
    divide H and W.
    """
    if y.ndim != 4:
        raise ValueError(f"super-resolution needs images (B, C, H, W), got {tuple(y.shape)}")
    operator = patch_operator(patch, y.shape[1:])
    free = torch.ones(1, 1, patch * patch, 1, 1)
    free[:, :, 0] = 0
    return Edit(y, free, operator, grid_sigmas(steps))


@EDITS.register(
    "stroke",
    "Stroke",
    "Noise hides a rough painting's flaws but not its layout; the model makes a picture of what is left. "
    "Paint on the canvas, or leave it as it is: then the picture in coarse blocks is the painting.",
)
def stroke(y: Tensor, sigma: float | None = None) -> Edit:
    """Turn a rough painting into a picture: start from y + sigma eps, go on at 0.42 sigma, keep nothing exactly (SDEdit).

    None takes the paper's 5.38 and 2.24 (CM, appendix D) at 256 pixels, less for smaller pictures, whose strokes cover fewer
    pixels and drown sooner: in proportion to the square root of the side, 0.95 at 8 and 1.9 at 32 pixels (our choice).
    """
    if sigma is None:
        sigma = STROKE_SIGMAS[0] * min(1.0, math.sqrt(y.shape[-1] / 256))
    second = sigma * STROKE_SIGMAS[1] / STROKE_SIGMAS[0]
    if not SIGMA_MIN <= second < sigma <= SIGMA_MAX:
        lowest = SIGMA_MIN * STROKE_SIGMAS[0] / STROKE_SIGMAS[1]
        raise ValueError(f"the noise level must lie in [{lowest:.4f}, {SIGMA_MAX}], got {sigma}")
    return Edit(y, torch.ones(1), IDENTITY, (sigma, second))


@EDITS.register(
    "denoise",
    "Denoise",
    "One evaluation at the known noise level takes the noise away: f(x, σ) is what a consistency model computes.",
)
def denoise(y: Tensor, sigma: float = 0.5) -> Edit:
    """Remove Gaussian noise of standard deviation ``sigma`` from y in one evaluation, f(y, sigma)."""
    if not SIGMA_MIN <= sigma <= SIGMA_MAX:
        raise ValueError(f"the noise level must lie in [{SIGMA_MIN}, {SIGMA_MAX}], got {sigma}")
    return Edit(y, torch.ones(1), IDENTITY, (float(sigma),), noisy=True)


def edit_of(task: str, y: Tensor, noise: Source, **options: Any) -> Edit:
    """The edit ``task``, a name in EDITS, of clean pictures y (B, *S), with ``options`` of its function.

    An edit that takes noise away gets y with that noise, drawn from ``noise``. Raises the edit's own ValueErrors.
    """
    edit = EDITS[task](y, **options)
    if edit.noisy:
        edit = EDITS[task](y + edit.sigmas[0] * as_draws(noise).normal(y.shape).to(y), **options)
    return edit


@torch.no_grad()
def run_edit(denoiser: Denoise, edit: Edit, noise: Source, label: Label = None, device: torch.device | str = "cpu") -> Steps:
    """Algorithm 4 of CM as a generator of `Step`: the multistep sampler, started at y + sigmas[0] eps, with the edit's projection.

    ``noise``: one seed per image, or another source of draws. The last step's ``x`` is the result: kept coordinates equal y's.
    Where the edit asks for several draws, states and estimates are their means, and all are evaluated in one call.
    """
    draws, n = as_draws(noise), edit.draws
    dtype = state_dtype(torch.device(device))
    edit = replace(edit, y=edit.y.to(device, dtype), free=edit.free.to(device, dtype))
    if n > 1:
        draws, edit, label = _Several(draws, n), _repeated(edit, n), None if label is None else label.repeat(n)
    x = edit.kept
    if not edit.noisy:
        x = x + edit.sigmas[0] * noise_like(x, draws)
    for step in multistep(denoiser, x, torch.tensor(edit.sigmas, dtype=torch.float64), label, noise=draws, project=edit.project):
        yield step if n == 1 else step._replace(x=_mean_of(step.x, n), x0_hat=_mean_of(step.x0_hat, n))


class _Several:
    """Draws for ``n`` samples of each image, one copy of the batch behind the other; an image's numbers come from its own seed."""

    def __init__(self, draws: Draws, n: int):
        self.draws, self.n = draws, n

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.cat([self.draws.normal((shape[0] // self.n, *shape[1:])) for _ in range(self.n)])

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return torch.cat([self.draws.uniform((shape[0] // self.n, *shape[1:])) for _ in range(self.n)])


def _repeated(edit: Edit, n: int) -> Edit:
    """``n`` copies of the edit's batch, one behind the other."""
    own = edit.free.ndim == edit.operator.forward(edit.y).ndim and len(edit.free) == len(edit.y)  # a mask for each picture
    return replace(edit, y=torch.cat([edit.y] * n), free=torch.cat([edit.free] * n) if own else edit.free, draws=1)


def _mean_of(x: Tensor, n: int) -> Tensor:
    return x.unflatten(0, (n, -1)).mean(0)


def apply_edit(denoiser: Denoise, edit: Edit, noise: Source, **kwargs) -> Tensor:
    """The result of `run_edit`, (B, *S) float64."""
    return last_state(run_edit(denoiser, edit, noise, **kwargs))


def grid_sigmas(steps: int) -> tuple[float, ...]:
    """``steps`` noise levels of an edit: from sigma_max to 0.05, in geometric progression.

    The official notebook takes the Karras grid of 18 and the released code one of 40, both down to sigma_min. Even steps of
    ln(sigma) spend more of them where pictures take shape: 40 of these came nearer to the truth in features than either, in five
    edits of 100 photographs that were tried. Below 0.05 there is little left to decide. Raises ValueError for less than one step.
    """
    if steps < 1:
        raise ValueError(f"need at least 1 step, got {steps}")
    shares = [k / (steps - 1) for k in range(steps)] if steps > 1 else [0.0]
    return tuple(SIGMA_MAX * (LAST_SIGMA / SIGMA_MAX) ** share for share in shares)


def slerp(z1: Tensor, z2: Tensor, a: float | Tensor) -> Tensor:
    """Spherical interpolation of whole samples: the direction turns evenly, the length changes linearly.

    For vectors of equal length this is the formula of CM, appendix D. That one weights z1 and z2 themselves: where their lengths
    differ, its direction turns unevenly and its length need not lie between theirs; near opposite vectors it has no bound. Noise of
    many dimensions has nearly equal lengths, and there the two hardly differ.

    z1, z2: (B, *S). a: a number or (B,); 0 gives z1, 1 gives z2. For opposite vectors the way round is not defined: it then goes
    by the coordinate axis that is least parallel to z1. Raises ValueError for a zero vector.
    """
    if z1.shape != z2.shape:
        raise ValueError(f"slerp needs equal shapes, got {tuple(z1.shape)} and {tuple(z2.shape)}")
    flat1, flat2 = z1.flatten(1).double(), z2.flatten(1).double()
    n1, n2 = flat1.norm(dim=1, keepdim=True), flat2.norm(dim=1, keepdim=True)
    if bool((n1 == 0).any()) or bool((n2 == 0).any()):
        raise ValueError("slerp of a zero vector has no direction")
    u1, u2 = flat1 / n1, flat2 / n2
    a = torch.as_tensor(a, dtype=torch.float64, device=z1.device).reshape(-1, 1)
    # Half-angle form: keeps its digits for nearly parallel and nearly opposite vectors, where arccos loses them.
    angle = 2 * torch.atan2((u1 - u2).norm(dim=1, keepdim=True), (u1 + u2).norm(dim=1, keepdim=True))
    ortho = u2 - (u1 * u2).sum(1, keepdim=True) * u1
    size = ortho.norm(dim=1, keepdim=True)
    spare = torch.zeros_like(u1).scatter_(1, u1.abs().argmin(1, keepdim=True), 1.0)
    spare = spare - (u1 * spare).sum(1, keepdim=True) * u1
    side = torch.where(size > 1e-12, ortho / size.clamp_min(1e-300), spare / spare.norm(dim=1, keepdim=True).clamp_min(1e-300))
    direction = torch.cos(a * angle) * u1 + torch.sin(a * angle) * side
    return ((n1 + a * (n2 - n1)) * direction).reshape(z1.shape).to(z1.dtype)


# --- masks and operators -------------------------------------------------------------------------------------------------


MASKS = ("centre", "left", "right", "top", "bottom", "random")


def preset_mask(name: str, shape: Sequence[int], seed: int = 0) -> Tensor:
    """A mask (1, 1, H, W), 1 = generate: "centre" (the middle half of each side), "left", "right", "top", "bottom" (half) or
    "random" (half of the pixels, by ``seed``)."""
    check_choice("mask", name, MASKS)
    h, w = shape[-2], shape[-1]
    free = torch.zeros(1, 1, h, w)
    if name == "random":
        order = torch.randperm(h * w, generator=torch.Generator().manual_seed(seed))
        free.view(-1)[order[: h * w // 2]] = 1
        return free
    top, bottom = {"centre": (h // 4, h - h // 4), "top": (0, h // 2), "bottom": (h - h // 2, h)}.get(name, (0, h))
    left, right = {"centre": (w // 4, w - w // 4), "left": (0, w // 2), "right": (w - w // 2, w)}.get(name, (0, w))
    free[..., top:bottom, left:right] = 1
    return free


def _check_mask(y: Tensor, free: Tensor) -> Tensor:
    free = torch.as_tensor(free, dtype=y.dtype)
    try:
        size = torch.broadcast_shapes(free.shape, y.shape)
    except RuntimeError:
        size = None
    if size != y.shape:
        raise ValueError(f"the mask's size {tuple(free.shape)} does not fit the images' {tuple(y.shape)}: resize one of them")
    if bool(((free != 0) & (free != 1)).any()):
        raise ValueError("a mask holds 0 (keep) and 1 (generate) only: threshold it first")
    if not bool(free.any()):
        raise ValueError("the mask is empty: mark at least one pixel to generate (1 = generate, 0 = keep)")
    return free


def orthogonal_basis(first: Tensor) -> Tensor:
    """An orthogonal matrix (n, n) float64 whose first column points along ``first`` (n,)."""
    n = len(first)
    frame = torch.eye(n, dtype=torch.float64)
    frame[:, 0] = first.double() / first.double().norm()
    q, r = torch.linalg.qr(frame)
    return q * torch.sign(r[0, 0])  # QR is free to return minus the first column


def luma(x: Tensor) -> Tensor:
    """The brightness of RGB images, (B, 3, H, W) -> (B, 1, H, W): a weighted mean, so grey pictures keep their values."""
    weights = torch.tensor(LUMA, dtype=x.dtype, device=x.device)
    return (x * (weights / weights.sum()).view(1, 3, 1, 1)).sum(1, keepdim=True)


@lru_cache(maxsize=16)
def _basis(first: tuple[float, ...]) -> Tensor:
    return orthogonal_basis(torch.tensor(first))


def _rotate(basis: Tensor, x: Tensor, dim: int, inverse: bool = False) -> Tensor:
    q = basis.to(x)
    return torch.tensordot(x.movedim(dim, -1), q.T if inverse else q, dims=1).movedim(-1, dim)


def luma_operator() -> Operator:
    """Rotate RGB so that component 0 is the luma direction (.2989, .587, .114): (B, 3, H, W) -> the same shape."""
    return Operator(lambda x: _rotate(_basis(LUMA), x, 1), lambda x: _rotate(_basis(LUMA), x, 1, inverse=True))


def patch_operator(patch: int, shape: Sequence[int]) -> Operator:
    """Rotate every patch so that component 0 is its mean times patch: (B, C, H, W) -> (B, C, patch^2, H/patch, W/patch)."""
    c, h, w = shape
    if patch < 1 or h % patch or w % patch:
        fits = [p for p in range(2, min(h, w) + 1) if math.gcd(h, w) % p == 0]
        raise ValueError(f"patch {patch} does not divide the image size {h}x{w}: choose one of {fits or [1]}")
    basis = _basis((1.0,) * patch**2)

    def forward(x: Tensor) -> Tensor:
        cells = x.reshape(len(x), c, h // patch, patch, w // patch, patch).permute(0, 1, 3, 5, 2, 4)
        return _rotate(basis, cells.reshape(len(x), c, patch * patch, h // patch, w // patch), 2)

    def inverse(a: Tensor) -> Tensor:
        cells = _rotate(basis, a, 2, inverse=True).reshape(len(a), c, patch, patch, h // patch, w // patch)
        return cells.permute(0, 1, 4, 2, 5, 3).reshape(len(a), c, h, w)

    return Operator(forward, inverse)
