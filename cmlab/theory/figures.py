"""Figures of the measured theorems (`theory`), in the style of `plots`."""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..plots.figures import COLORS, LINES, MARKERS
from .theorems import Abscissa, Convergence, CTGradient, Floor, Theorem2


def _curve(ax: Axes, k: int, x: Sequence[float], y: Sequence[float], label: str) -> None:
    ax.plot(x, y, LINES[k % len(LINES)], color=COLORS[k % len(COLORS)], marker=MARKERS[k % len(MARKERS)], ms=4, label=label)


def _sizes(ax: Axes, sizes: Sequence[int]) -> None:
    """A logarithmic axis that says the sizes themselves, every second one where they are many."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes[:: 2 if len(sizes) > 8 else 1])
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.set_xlabel("N, number of noise levels")


def plot_convergence(
    curves: Mapping[str, Convergence],
    against: Abscissa = "grid",
    of: Literal["max", "rms"] = "max",
    floors: Mapping[str, Floor] | None = None,
    orders: Sequence[int] = (1, 2),
    title: str = "",
) -> Figure:
    """Errors of zero-loss models against the step size; dotted lines show the slopes ``orders`` below curves that are as steep.

    Each entry of ``floors`` adds a horizontal line, the error of that trained model.
    """
    figure = Figure(figsize=(5.6, 4.0), layout="constrained", dpi=110)
    ax = figure.subplots()
    for k, (name, curve) in enumerate(curves.items()):
        _curve(ax, k, curve.abscissa(against), curve.errors(of), name)
    for k, (name, floor) in enumerate((floors or {}).items(), len(curves)):
        level = {"max": floor.max_error, "rms": floor.rms_error}[of]
        ax.axhline(level, ls=LINES[k % len(LINES)], color=COLORS[k % len(COLORS)], lw=1.5, label=name)
    for order in orders:
        near = min(curves.values(), key=lambda c: abs(c.local_slopes(against, of)[-1] - order))
        if abs(near.local_slopes(against, of)[-1] - order) < 0.5:  # a curve to compare with
            ends = np.asarray(near.abscissa(against)[-3:], dtype=float)
            guide = 0.6 * near.errors(of)[-1] * (ends / ends[-1]) ** order
            ax.plot(ends, guide, ":", color="0.3", lw=1)
            ax.annotate(f"slope {order}", (ends[0], guide[0]), (4, -4), textcoords="offset points", fontsize=8, ha="left", va="top")
    ax.set(xscale="log", yscale="log", ylabel=f"{of} error to the exact consistency function")
    ax.set_xlabel("1 / (N - 1)" if against == "grid" else r"largest step $\sigma_i - \sigma_{i+1}$")
    ax.grid(True, alpha=0.3)
    ax.legend(fontsize=8)
    if title:
        ax.set_title(title, fontsize=10)
    return figure


def plot_theorem2(result: Theorem2, title: str = "") -> Figure:
    """L_CD, L_CT and their difference against N; the dotted line falls like 1/N^2."""
    figure = Figure(figsize=(5.6, 4.0), layout="constrained", dpi=110)
    ax = figure.subplots()
    for k, (name, y) in enumerate({"$L_{CD}$": result.cd, "$L_{CT}$": result.ct, "difference": result.difference}.items()):
        _curve(ax, k, result.sizes, y, name)
    ends = np.asarray(result.sizes[-3:], dtype=float)
    guide = 0.5 * result.difference[-1] * (ends / ends[-1]) ** -2
    ax.plot(ends, guide, ":", color="0.3", lw=1)
    ax.annotate("slope -2", (ends[0], guide[0]), (0, -3), textcoords="offset points", fontsize=8, ha="right", va="top")
    _sizes(ax, result.sizes)
    ax.set(yscale="log", ylabel="loss")
    ax.grid(True, alpha=0.3)
    ax.legend(fontsize=8)
    if title:
        ax.set_title(title, fontsize=10)
    return figure


def plot_ct_gradient(results: Mapping[str, CTGradient], title: str = "") -> Figure:
    """Against N: bias and spread of one sample, both relative to the true gradient, and the cosine with the true gradient."""
    figure = Figure(figsize=(9.6, 3.4), layout="constrained", dpi=110)
    panels = figure.subplots(1, 3)
    for k, (name, r) in enumerate(results.items()):
        for ax, values in zip(panels, (r.bias, r.std, r.cosine), strict=True):
            _curve(ax, k, r.sizes, values, name)
    names = ("bias / true gradient", "std of one sample / true gradient", "cosine with the true gradient")
    for ax, name in zip(panels, names, strict=True):
        _sizes(ax, next(iter(results.values())).sizes)
        ax.set_title(name, fontsize=9)
        ax.grid(True, alpha=0.3)
    panels[0].set_yscale("log")
    panels[1].set_ylim(bottom=0)
    panels[2].axhline(0, color="0.3", lw=1)
    panels[2].set_ylim(-1.05, 1.05)
    panels[0].legend(fontsize=8)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure
