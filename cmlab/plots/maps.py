"""Figures of functions: values over the plane as colours, and values along paths against the noise level."""

from collections.abc import Mapping

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from torch import Tensor

from .figures import COLORS, LINES, MARKERS


def plot_maps(
    panels: Mapping[str, Tensor], half: float, label: str, title: str = "", low: float = 1e-3, high: float = 1.0, size: float = 2.7
) -> Figure:
    """Small multiples of positive functions over the square [-half, half]^2: brighter is larger, on one logarithmic scale.

    Args:
        panels: values (n, n) each; the first index is x_1, as `torch.cartesian_prod` runs.
        label: what the colours mean.
        low, high: ends of the scale; values beyond them have the colour of the end.
    """
    figure = Figure(figsize=(size * len(panels) + 1.0, size + (0.65 if title else 0.4)), layout="constrained", dpi=110)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    image = None
    for ax, (name, values) in zip(axes, panels.items(), strict=True):
        image = ax.imshow(
            values.detach().double().cpu().numpy().clip(low, high).T,
            origin="lower", extent=(-half, half, -half, half), cmap="cividis", norm=LogNorm(low, high), interpolation="nearest",
        )  # fmt: skip
        ax.set_title(name, fontsize=9)
        ax.set(xticks=[-half, 0, half], yticks=[-half, 0, half])
    if image is not None:
        figure.colorbar(image, ax=list(axes), label=label, shrink=0.9)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def plot_along(panels: Mapping[str, Tensor], sigmas: Tensor, ylabel: str, title: str = "") -> Figure:
    """Small multiples of one number per path, (T, B) each, against the levels (T,) > 0; time runs to the right."""
    figure = Figure(figsize=(3.1 * len(panels) + 0.3, 3.1), layout="constrained", dpi=110)
    levels = np.asarray(sigmas, dtype=float)
    for ax, (name, values) in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels.items(), strict=True):
        lines = values.detach().double().cpu().numpy()
        for k in range(lines.shape[1]):
            color = COLORS[k % len(COLORS)]
            ax.plot(levels, lines[:, k], LINES[k % len(LINES)], color=color, lw=1.3)
            ax.plot(levels[-1], lines[-1, k], MARKERS[k % len(MARKERS)], color=color, ms=5, clip_on=False)
        ax.set(xscale="log", xlabel=r"noise level $\sigma$")
        ax.invert_xaxis()
        ax.set_title(name, fontsize=9)
        ax.grid(True, alpha=0.3)
    figure.axes[0].set_ylabel(ylabel)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure
