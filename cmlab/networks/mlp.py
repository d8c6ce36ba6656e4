"""A small residual MLP for points in the plane."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class MLPConfig:
    """``width`` units in ``depth`` residual SiLU blocks; ``freqs`` sine/cosine pairs of c_noise = ln(sigma)/4."""

    width: int = 64
    depth: int = 3
    freqs: int = 8
    dropout: float = 0.0


class MLP(nn.Module):
    """F(x, c_noise, label) for samples of any shape S, flattened. The last layer starts at zero, so D starts as c_skip x."""

    def __init__(self, config: MLPConfig, shape: tuple[int, ...], classes: int = 0):
        super().__init__()
        self.config = config
        dim = torch.Size(shape).numel()
        # c_noise * 4 = ln sigma spans 11 units: these frequencies turn between a third of a period and eleven periods over it.
        self.freqs: Tensor
        self.register_buffer("freqs", torch.linspace(0.25, 4.0, config.freqs), persistent=False)
        self.inp = nn.Linear(dim, config.width)
        self.time = nn.Linear(2 * config.freqs, config.width)
        self.label = nn.Embedding(classes, config.width) if classes else None
        self.blocks = nn.ModuleList(_Block(config.width, config.dropout) for _ in range(config.depth))
        self.out = nn.Linear(config.width, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor | None = None) -> Tensor:
        angle = 4 * c_noise[:, None] * self.freqs.to(c_noise)
        emb = self.time(torch.cat([angle.sin(), angle.cos()], 1))
        if self.label is not None and label is not None:
            emb = emb + self.label(label)
        h = self.inp(x.flatten(1))
        for block in self.blocks:
            h = block(h, emb)
        return self.out(torch.nn.functional.silu(h)).reshape(x.shape)


class _Block(nn.Module):
    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.lin1 = nn.Linear(width, width)
        self.emb = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout) if dropout else None
        self.lin2 = nn.Linear(width, width)

    def forward(self, h: Tensor, emb: Tensor) -> Tensor:
        silu = torch.nn.functional.silu
        y = self.lin1(silu(h)) + self.emb(silu(emb))
        y = silu(y)
        if self.drop is not None:
            y = self.drop(y)
        return h + self.lin2(y)
