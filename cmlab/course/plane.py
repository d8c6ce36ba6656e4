"""The plane in a notebook: exact paths, trained models and a point to drag, by one call."""

from collections.abc import Sequence
from html import escape

import torch

from ..base.registry import DATASETS
from . import teach


def plane(data: str = "two-moons", models: Sequence[str] | None = None, *, mode: str = "walk", height: int = 830) -> None:
    """Show the plane as a frame that holds all it needs: it works without a kernel, also when the saved notebook is opened again.

    Below the frame lies a still picture, for readers that show no frames (GitHub, a notebook that is not trusted).

    Args:
        data: the 2D set that it shows first; the others are there, too.
        models: checkpoints in the plane, called SET-METHOD; by default the bundled ones of ``data``, about 0.3 MB each in the file.
        mode: what it shows first: "walk", "maps" (where noise ends), or "jump" (multistep sampling by hand).
        height: of the frame, in pixels.

    Raises ValueError for another set or mode, and for models that are not in the plane.
    """
    from .. import plots
    from ..app.browser import bundled_models, page
    from ..data import load_toy
    from ..noise import sampling_sigmas
    from ..samplers import heun, initial_noise

    modes = ("walk", "maps", "jump")
    if mode not in modes:
        raise ValueError(f"mode is one of {', '.join(modes)}, got {mode!r}")
    toy, sigmas = load_toy(data), sampling_sigmas(40)
    noise = initial_noise((2,), range(24))
    path = torch.stack([noise, *(step.x for step in heun(toy.oracle, noise, sigmas))])
    still = plots.plot_trajectories(path, sigmas, data=toy.batch(600, torch.Generator().manual_seed(0))[0])
    alt = f"Exact paths from noise to {DATASETS.record(data).label}, a still picture of what the frame lets one drag"
    shown = [name for name in bundled_models() if name.startswith(f"{data}-")] if models is None else models
    frame = escape(page(shown, set=data, mode=mode), quote=True)
    teach._emit(
        f'<div style="position:relative;height:{height}px;overflow:hidden">{teach._img(still, alt)}'
        f'<iframe title="The plane: {escape(data)}" style="position:absolute;inset:0;width:100%;height:100%;border:0" '
        f'srcdoc="{frame}"></iframe></div>',
        f"[{alt}]",
        *teach._picture(still, alt),
    )
