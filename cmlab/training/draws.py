"""What a training step draws: the same numbers for a batch, however it is split over accumulation steps and processes."""

from collections.abc import Sequence

import torch
from torch import Tensor


class BatchDraws:
    """Rows ``start:stop`` of a batch of ``total``, the same numbers as in the unsplit batch.

    Every ``BLOCK`` rows have a generator of their own, and only the blocks that these rows lie in are drawn.
    """

    BLOCK = 64

    def __init__(self, seed: int, total: int, start: int = 0, stop: int | None = None):
        self.rows = slice(start, total if stop is None else stop)
        first = start // self.BLOCK
        self._before = first * self.BLOCK  # rows of the blocks that are left out
        # The CPU's generator reads 32 bits of its seed only.
        self._blocks = [
            (torch.Generator().manual_seed((seed + k * 0xC2B2AE35) & 0xFFFFFFFF), min(self.BLOCK, total - k * self.BLOCK))
            for k in range(first, -(-self.rows.stop // self.BLOCK))
        ]

    def _cut(self, draw, shape: Sequence[int]) -> Tensor:
        if shape[0] != self.rows.stop - self.rows.start:
            raise ValueError(f"this part of the batch has {self.rows.stop - self.rows.start} rows, asked for {shape[0]}")
        parts = [draw((rows, *shape[1:]), generator=generator) for generator, rows in self._blocks]
        whole = parts[0] if len(parts) == 1 else torch.cat(parts)
        return whole[self.rows.start - self._before : self.rows.stop - self._before]

    def normal(self, shape: Sequence[int]) -> Tensor:
        return self._cut(torch.randn, shape)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return self._cut(torch.rand, shape)
