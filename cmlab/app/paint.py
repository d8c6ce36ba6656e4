"""Paint on the app's canvases, without gradio: masks to fill in, and pictures painted over."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

MAX_DRAWN = 4_000_000  # pixels of a painting


def painted_mask(editor: dict | None, shape: Sequence[int]) -> Tensor:
    """The painted area of an image editor as a mask (1, 1, H, W), 1 where at least a quarter of a pixel is covered.

    Raises ValueError when nothing is painted.
    """
    alpha = paint_of(editor)
    if alpha is not None:
        covered = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(alpha).float()[None, None], (shape[-2], shape[-1]))
        free = (covered >= 0.25).float()
        if bool(free.any()):
            return free
    raise ValueError("The mask is empty: paint over the area to generate, or choose a preset mask.")


def paint_of(editor: dict | None) -> np.ndarray | None:
    """True where any layer holds paint, (H, W). Paint is what is not transparent: its colour says nothing."""
    for part in [*((editor or {}).get("layers") or []), (editor or {}).get("composite")]:
        if part is not None and part.shape[0] * part.shape[1] > MAX_DRAWN:
            raise ValueError(f"The painting has {part.shape[1]} x {part.shape[0]} pixels: paint on a smaller picture.")
    layers = [
        layer for layer in (editor or {}).get("layers") or [] if layer is not None and layer.ndim == 3 and layer.shape[2] == 4
    ]
    return np.any([layer[..., 3] > 0 for layer in layers], axis=0) if layers else None


def painted_over(editor: dict | None, shape: Sequence[int]) -> Tensor | None:
    """The edited picture with its paint, (1, C, H, W), or None when nothing is painted."""
    from PIL import Image

    from ..data.pixels import flatten, from_uint8

    if editor is None or not is_painted(editor) or editor.get("composite") is None:
        return None
    image = flatten(Image.fromarray(editor["composite"]))[0].convert("RGB").resize((shape[2], shape[1]), Image.Resampling.BOX)
    return from_uint8(np.array(image), shape[0])


def is_painted(editor: dict | None) -> bool:
    """Whether there is any paint on the canvas."""
    painted = paint_of(editor)
    return painted is not None and bool(painted.any())
