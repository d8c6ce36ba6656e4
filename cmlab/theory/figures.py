"""Figures of the measured theorems, in the style of `plots`."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..plots.figures import COLORS, LINES, draw_curve, new_axes, new_panels
from .theorem_1 import Abscissa, Convergence, Error, Floor
from .theorem_2 import Theorem2
from .variance import CTGradient


def _sizes(ax: Axes, sizes: Sequence[int]) -> None:
    """A logarithmic axis with the sizes themselves as ticks, every second one where there are more than eight."""
    ax.set_xscale("log", base=2)
    ax.set_xticks(sizes[:: 2 if len(sizes) > 8 else 1])
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.set_xlabel("N, number of noise levels")


def _guide(ax: Axes, x: Sequence[float], end: float, slope: int, offset: tuple[int, int], align: str) -> None:
    """A dotted line through the last three of ``x`` that ends at ``end`` and has this slope in log-log axes."""
    ends = np.asarray(x[-3:], dtype=float)
    y = end * (ends / ends[-1]) ** slope
    ax.plot(ends, y, ":", color="0.3", lw=1)
    ax.annotate(f"slope {slope}", (ends[0], y[0]), offset, textcoords="offset points", fontsize=8, ha=align, va="top")


def plot_convergence(
    curves: Mapping[str, Convergence],
    against: Abscissa = "grid",
    of: Error = "max",
    floors: Mapping[str, Floor] | None = None,
    orders: Sequence[int] = (1, 2),
    title: str = "",
) -> Figure:
    """Errors of zero-loss models against the step size, on logarithmic axes.

    Dotted lines show the slopes of ``orders`` that some curve has; ``floors`` are horizontal lines, errors of trained models.
    """
    figure, ax = new_axes(5.6, 4.0, title)
    for k, (name, curve) in enumerate(curves.items()):
        draw_curve(ax, k, curve.abscissa(against), curve.errors(of), name)
    for k, (name, floor) in enumerate((floors or {}).items(), len(curves)):
        ax.axhline(floor.error(of), ls=LINES[k % len(LINES)], color=COLORS[k % len(COLORS)], lw=1.5, label=name)
    for order in orders:
        near = min(curves.values(), key=lambda c: abs(c.local_slopes(against, of)[-1] - order))
        if abs(near.local_slopes(against, of)[-1] - order) < 0.5:  # a curve to compare with
            _guide(ax, near.abscissa(against), 0.6 * near.errors(of)[-1], order, (4, -4), "left")
    ax.set(xscale="log", yscale="log", ylabel=f"{of} error to the exact consistency function")
    ax.set_xlabel("1 / (N - 1)" if against == "grid" else r"largest step $\sigma_i - \sigma_{i+1}$")
    ax.grid(True, alpha=0.3)
    ax.legend(fontsize=8)
    return figure


def plot_theorem2(result: Theorem2, title: str = "") -> Figure:
    """L_CD, L_CT and their difference against N; the dotted line falls like 1/N^2."""
    figure, ax = new_axes(5.6, 4.0, title)
    for k, (name, y) in enumerate({"$L_{CD}$": result.cd, "$L_{CT}$": result.ct, "difference": result.difference}.items()):
        draw_curve(ax, k, result.sizes, y, name)
    _guide(ax, result.sizes, 0.5 * result.difference[-1], -2, (0, -3), "right")
    _sizes(ax, result.sizes)
    ax.set(yscale="log", ylabel="loss")
    ax.grid(True, alpha=0.3)
    ax.legend(fontsize=8)
    return figure


def plot_ct_gradient(results: Mapping[str, CTGradient], title: str = "") -> Figure:
    """Against N: bias and spread of one sample, both relative to the true gradient, and the cosine with the true gradient."""
    names = ("bias / true gradient", "std of one sample / true gradient", "cosine with the true gradient")
    figure, panels = new_panels(names, 9.6, 3.4, title)
    for k, (name, r) in enumerate(results.items()):
        for ax, values in zip(panels, (r.bias, r.std, r.cosine), strict=True):
            draw_curve(ax, k, r.sizes, values, name)
    for ax in panels:
        _sizes(ax, next(iter(results.values())).sizes)
        ax.grid(True, alpha=0.3)
    panels[0].set_yscale("log")
    panels[1].set_ylim(bottom=0)
    panels[2].axhline(0, color="0.3", lw=1)
    panels[2].set_ylim(-1.05, 1.05)
    panels[0].legend(fontsize=8)
    return figure
