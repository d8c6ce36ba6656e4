"""The same networks and steps in the plainest PyTorch: eager, float32, channels first. What `run.py` measures cmlab against.

It is not kept up with cmlab on purpose: a faster cmlab should show.
"""

import copy
import itertools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from turns import Given


class Res(nn.Module):
    """A residual block of guided-diffusion's U-Net, the embedding as scale and shift."""

    def __init__(self, c_in: int, c_out: int, emb: int, groups: Callable[[int], int], resample: str = ""):
        super().__init__()
        self.resample = resample
        self.in_layers = nn.Sequential(nn.GroupNorm(groups(c_in), c_in), nn.SiLU(), nn.Conv2d(c_in, c_out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb, 2 * c_out))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(groups(c_out), c_out), nn.SiLU(), nn.Identity(), nn.Conv2d(c_out, c_out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if c_in == c_out else nn.Conv2d(c_in, c_out, 1)

    def resize(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 2) if self.resample == "down" else F.interpolate(x, scale_factor=2) if self.resample == "up" else x

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers[2](self.resize(self.in_layers[:2](x)))
        scale, shift = self.emb_layers(emb)[:, :, None, None].chunk(2, dim=1)
        h = self.out_layers[0](h) * (1 + scale) + shift
        return self.skip_connection(self.resize(x)) + self.out_layers[1:](h)


class Attend(nn.Module):
    """Self-attention as guided-diffusion computes it: two matrix products with a softmax between them."""

    def __init__(self, channels: int, heads: int, groups: Callable[[int], int]):
        super().__init__()
        self.heads, self.norm = heads, nn.GroupNorm(groups(channels), channels)
        self.qkv, self.proj_out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        b, c, *spatial = x.shape
        flat = x.reshape(b, c, -1)
        q, k, v = self.qkv(self.norm(flat)).reshape(b, 3, self.heads, c // self.heads, -1).unbind(1)
        scale = (c // self.heads) ** -0.25
        weight = torch.einsum("bhct,bhcs->bhts", q * scale, k * scale).softmax(-1)
        out = torch.einsum("bhts,bhcs->bhct", weight, v).reshape(b, c, -1)
        return (flat + self.proj_out(out)).reshape(b, c, *spatial)


class Both(nn.Sequential):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for layer in self:
            x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, emb)
        return x


class PlainUNet(nn.Module):
    """The ADM U-Net with heads of ``head_channels`` and 32 groups: its weights have the names of cmlab's and of OpenAI's."""

    def __init__(self, c: Any, colours: int, side: int):
        super().__init__()
        self.c, emb, size, width = c, c.emb or 4 * c.channels, side, int(c.mult[0] * c.channels)

        def groups(n: int) -> int:
            return min(n // c.group, c.max_groups or n)

        def block(c_in: int, c_out: int, attended: bool, resample: str = "") -> Both:
            attend = [Attend(c_out, c_out // c.head_channels, groups)] if attended else []
            return Both(Res(c_in, c_out, emb, groups, resample), *attend)

        self.time_embed = nn.Sequential(nn.Linear(c.channels, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.input_blocks, skips = nn.ModuleList([Both(nn.Conv2d(colours, width, 3, padding=1))]), [width]
        for level, times in enumerate(c.mult):
            if level:
                self.input_blocks.append(block(width, width, False, "down"))
                size //= 2
                skips.append(width)
            for _ in range(c.blocks):
                self.input_blocks.append(block(width, int(times * c.channels), size in c.attention))
                width = int(times * c.channels)
                skips.append(width)
        self.middle_block = Both(*block(width, width, True), *block(width, width, False))
        self.output_blocks = nn.ModuleList()
        for level, times in reversed(list(enumerate(c.mult))):
            for i in range(c.blocks + 1):
                layers = [*block(width + skips.pop(), int(times * c.channels), size in c.attention)]
                width = int(times * c.channels)
                if level and i == c.blocks:
                    layers += block(width, width, False, "up")
                    size *= 2
                self.output_blocks.append(Both(*layers))
        self.out = nn.Sequential(nn.GroupNorm(groups(width), width), nn.SiLU(), nn.Conv2d(width, colours, 3, padding=1))

    def forward(self, x: Tensor, c_noise: Tensor) -> Tensor:
        half = self.c.channels // 2
        freqs = torch.exp(-math.log(10000) * torch.arange(half, device=x.device) / half)
        angle = self.c.time_scale * c_noise[:, None] * freqs
        emb, skips = self.time_embed(torch.cat([angle.cos(), angle.sin()], dim=1)), []
        for block in self.input_blocks:
            x = block(x, emb)
            skips.append(x)
        x = self.middle_block(x, emb)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), emb)
        return self.out(x)


def plain_network(net: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The plain network with the weights of cmlab's ADM U-Net ``net``; of other networks and options a copy as it is."""
    c: Any = net.config
    usual = getattr(c, "head_channels", 0) and c.scale_shift and c.resample == "block" and c.patch == 1 and not c.dropout
    if not usual or c.augment or c.variance:
        return copy.deepcopy(net)
    plain = PlainUNet(c, shape[0], shape[1]).to(next(net.parameters()).device)
    plain.load_state_dict(net.state_dict())
    return plain


def steps(given: "Given") -> dict[str, Callable[[], object]]:
    """The rows of `turns.py`, as an evening's script would have them."""
    x0, few, device = given.x0, given.x0[: given.few], given.x0.device

    def new() -> nn.Module:
        return plain_network(given.net, tuple(x0.shape[1:]))

    def column(sigma: Tensor, x: Tensor) -> Tensor:
        return sigma.reshape(-1, *[1] * (x.ndim - 1))

    def denoise(net: nn.Module, x: Tensor, sigma: Tensor, low: float = 0.0) -> Tensor:
        s, data = column(sigma, x), 0.5
        skip, root = data**2 / ((s - low) ** 2 + data**2), (s**2 + data**2).sqrt()
        return skip * x + data * (s - low) / root * net(x / root, sigma.log() / 4)

    def heun(net: nn.Module, x: Tensor, s: Tensor, t: Tensor) -> Tensor:
        slope = (x - denoise(net, x, s)) / column(s, x)
        euler = x + column(t - s, x) * slope
        return x + column(t - s, x) * (slope + (euler - denoise(net, euler, t)) / column(t, x)) / 2

    def training(loss: Callable[[nn.Module, nn.Module], Tensor]) -> Callable[[], None]:
        net = new()
        ema, teacher = copy.deepcopy(net), copy.deepcopy(net)
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)

        def step() -> None:
            optimizer.zero_grad()
            loss(net, teacher).backward()
            optimizer.step()
            with torch.no_grad():
                for mean, p in zip(ema.parameters(), net.parameters(), strict=True):
                    mean.lerp_(p, 0.001)

        return step

    def edm(net: nn.Module, _: nn.Module) -> Tensor:
        sigma = (1.2 * torch.randn(len(x0), device=device) - 1.2).exp()
        weight = column(sigma**-2 + 4, x0)
        x = x0 + column(sigma, x0) * torch.randn_like(x0)
        return (weight * (denoise(net, x, sigma) - x0) ** 2).flatten(1).sum(1).mean()

    def pair(net: nn.Module, teacher: nn.Module | None) -> Tensor:
        i = torch.randint(79, (len(x0),), device=device)
        grid = ((80 ** (1 / 7)) + torch.linspace(0, 1, 80, device=device) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
        s, t, eps = grid[i], grid[i + 1], torch.randn_like(x0)
        x = x0 + column(s, x0) * eps
        with torch.no_grad():
            x_next = x0 + column(t, x0) * eps if teacher is None else heun(teacher, x, s, t)
            goal = denoise(net, x_next, t, 0.002)
        return ((denoise(net, x, s, 0.002) - goal) ** 2).flatten(1).sum(1).mean()

    net, level = new(), torch.ones(len(x0), device=device)

    def backward() -> None:
        net.zero_grad()
        net(x0, level).sum().backward()

    @torch.no_grad()
    def forward(x: Tensor) -> Tensor:
        return net(x, level[: len(x)])

    @torch.no_grad()
    def sampled() -> Tensor:
        x, grid = 80 * torch.randn_like(few), [80 * (1 - k / 18) ** 7 for k in range(19)]
        for s, t in itertools.pairwise(grid[:-1]):
            x = heun(net, x, s * level[: len(x)], t * level[: len(x)])
        return denoise(net, x, grid[-2] * level[: len(x)])

    @torch.no_grad()
    def once() -> Tensor:
        return denoise(net, 80 * torch.randn_like(x0), 80 * level, 0.002)

    return {
        "forward": lambda: forward(x0),
        "forward of few": lambda: forward(few),
        "forward + backward": backward,
        "EDM step": training(edm),
        "CT step": training(lambda net, _: pair(net, None)),
        "CD step": training(pair),
        "one step": once,
        "Heun 18": sampled,
    }
