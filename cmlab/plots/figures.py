"""Every figure of the notebooks, the app and the README. Functions return figures and never touch pyplot's global state.

Colours are Okabe and Ito's (distinguishable with colour-blindness); series also differ by marker or line style.
"""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import Tensor

from ..data.pixels import MAX_PIXELS as MAX_PIXELS  # where pictures were read and written before
from ..data.pixels import from_uint8 as from_uint8
from ..data.pixels import read_picture as read_picture
from ..data.pixels import to_uint8

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
LINES = ("-", "--", "-.", ":")
TIME = r"noise level $\sigma$ (time runs to the right)"
SCALED = r"$x_1\,/\sqrt{\sigma^2+0.5^2}$"


# --- images --------------------------------------------------------------------------------------------------------------


def image_grid(x: Tensor, columns: int | None = None, scale: int = 1, gap: int = 1) -> np.ndarray:
    """A batch (B, C, H, W) as one picture, uint8 (H', W', 3): rows with ``gap`` white pixels between, enlarged ``scale`` times."""
    tiles = to_uint8(x)
    count, h, w, _ = tiles.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = int(np.ceil(count / columns))
    canvas = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for k, tile in enumerate(tiles):
        r, c = divmod(k, columns)
        canvas[r * (h + gap) : r * (h + gap) + h, c * (w + gap) : c * (w + gap) + w] = tile
    return canvas.repeat(scale, 0).repeat(scale, 1)


def plot_images(rows: Mapping[str, Tensor], title: str = "", scale: float | None = None) -> Figure:
    """One labelled row of pictures per entry, (B, C, H, W) each, ``scale`` inches wide: by default 1, less where a page is full."""
    columns = max(len(x) for x in rows.values())
    scale = scale or min(1.0, 7.4 / columns)
    figure = new_figure(max(columns * scale + 1.6, 3), len(rows) * scale * 1.15 + (0.4 if title else 0.1), title)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for (name, x), axes in zip(rows.items(), grid, strict=True):
        for k, ax in enumerate(axes):
            ax.axis("off")
            if k < len(x):
                ax.imshow(to_uint8(x[k : k + 1])[0], interpolation="nearest")
        axes[0].text(-0.15, 0.5, name, transform=axes[0].transAxes, ha="right", va="center", fontsize=9)
    return figure


# --- what the figures share ----------------------------------------------------------------------------------------------


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """An empty figure, sizes in inches, with ``title`` over all of it."""
    figure = Figure(figsize=(width, height), layout="constrained", dpi=110)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def new_axes(width: float, height: float, title: str = "") -> tuple[Figure, Axes]:
    """A figure of one panel, sizes in inches."""
    figure = new_figure(width, height)
    ax = figure.subplots()
    ax.set_title(title, fontsize=10)
    return figure, ax


def new_panels(
    names: Sequence[str], width: float, height: float, title: str = "", sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure with a row of panels under their names, sizes in inches."""
    figure = new_figure(width, height, title)
    axes = list(figure.subplots(1, len(names), sharey=sharey, squeeze=False)[0])
    for ax, name in zip(axes, names, strict=True):
        ax.set_title(name, fontsize=9)
    return figure, axes


def draw_curve(ax: Axes, k: int, x: Sequence[float], y: Sequence[float], label: str) -> None:
    """Curve number ``k`` of a panel in its own colour and line style, with markers where it has at most 24 points."""
    marker = MARKERS[k % len(MARKERS)] if len(x) <= 24 else None
    ax.plot(x, y, LINES[k % len(LINES)], color=COLORS[k % len(COLORS)], marker=marker, ms=4, label=label)


def _array(x: Tensor) -> np.ndarray:
    return x.detach().double().cpu().numpy()


def _scaled(path: Tensor, sigmas: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Levels (T,) above 0, and paths (T, B, 2) at these levels divided by sqrt(sigma^2 + 0.5^2): equally wide at every level."""
    levels = np.asarray(sigmas, dtype=float)
    keep = levels > 0
    return levels[keep], _array(path)[keep] / np.sqrt(levels[keep] ** 2 + 0.25)[:, None, None]


def _draw_data(ax: Axes, data: Tensor | None) -> None:
    """Points (N, 2) in grey, behind everything else."""
    if data is not None:
        ax.scatter(*_array(data).T, s=3, color="0.75", linewidths=0, zorder=0)


def _square(ax: Axes, half: float = 1.5) -> None:
    ax.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])


def side_by_side(figures: Mapping[str, Figure], columns: int, dpi: int = 72) -> Figure:
    """Figures as tiles of one, row by row, each with its name below it. All are drawn at ``dpi``, at which to save the result."""
    tiles = []
    for figure in figures.values():
        figure.savefig(raw := io.BytesIO(), format="png", dpi=dpi)
        tiles.append(imread(io.BytesIO(raw.getvalue())))
    width, height = max(t.shape[1] for t in tiles), max(t.shape[0] for t in tiles) + dpi * 2 // 5  # room for the name
    rows = -(-len(tiles) // columns)
    whole = Figure(figsize=(width * columns / dpi, height * rows / dpi), dpi=dpi)
    for k, (name, tile) in enumerate(zip(figures, tiles, strict=True)):
        left, top = width * (k % columns), height * (rows - k // columns)
        whole.figimage(tile, left + (width - tile.shape[1]) // 2, top - tile.shape[0], origin="upper")
        middle, bottom = (left + width / 2) / (width * columns), (top - height + dpi // 7) / (height * rows)
        whole.text(middle, bottom, name, ha="center", va="bottom", fontsize=9)
    return whole


# --- the plane -----------------------------------------------------------------------------------------------------------


def plot_points(sets: Mapping[str, Tensor], title: str = "", half: float = 1.5, size: float = 2.4) -> Figure:
    """Small multiples of point sets (N, 2), one panel each, on one scale."""
    figure, axes = new_panels([*sets], size * len(sets) + 0.3, size + (0.55 if title else 0.3), title)
    for k, (ax, x) in enumerate(zip(axes, sets.values(), strict=True)):
        ax.scatter(*_array(x).T, s=3, color=COLORS[k % len(COLORS)], linewidths=0)
        _square(ax, half)
    return figure


def plot_trajectories(path: Tensor, sigmas: Tensor, title: str = "", data: Tensor | None = None) -> Figure:
    """PF-ODE paths (T, B, 2) at levels (T,): left in the plane once the noise is small, right one coordinate against sigma.

    ``data`` (N, 2) is drawn grey behind. The right panel divides x by sqrt(sigma^2 + 0.5^2), which makes every level equally wide.
    """
    figure = new_figure(8.4, 4.0, title)
    plane, time = figure.subplots(1, 2)
    paths, (levels, scaled) = _array(path), _scaled(path, sigmas)
    _draw_data(plane, data)
    for k in range(paths.shape[1]):
        color, line = COLORS[k % len(COLORS)], LINES[(k // len(COLORS)) % len(LINES)]
        plane.plot(*paths[:, k].T, line, color=color, lw=1)
        plane.plot(*paths[-1, k], "o", color=color, ms=4)
        time.plot(levels, scaled[:, k, 0], line, color=color, lw=1)
    _square(plane, 2.0)
    plane.set(xlabel="$x_1$", ylabel="$x_2$", title="paths in the plane (dots: where they end)")
    time.set(xscale="log", xlabel=TIME, ylabel=SCALED, title="the same paths against the noise level")
    time.invert_xaxis()
    return figure


def plot_consistency(x: Tensor, f: Tensor, title: str = "", data: Tensor | None = None) -> Figure:
    """The consistency function as arrows from noisy points x (B, 2) to f(x) (B, 2)."""
    figure, ax = new_axes(5.0, 4.6, title)
    start, end = _array(x), _array(f)
    _draw_data(ax, data)
    ax.quiver(
        *start.T, *(end - start).T, color=COLORS[0], angles="xy", scale_units="xy", scale=1, width=0.003, headwidth=4, alpha=0.8
    )
    ax.plot(*start.T, ".", color="0.4", ms=3)
    half = max(1.6, float(np.quantile(np.abs(start), 0.99)) * 1.1)
    ax.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
    return figure


def plot_fields(
    panels: Mapping[str, tuple[Tensor, Tensor]], title: str = "", data: Tensor | None = None, half: float = 1.5
) -> Figure:
    """Small multiples of vector fields: per entry points (N, 2) and vectors (N, 2), each panel's longest arrow of equal length."""
    figure, axes = new_panels([*panels], 2.7 * len(panels) + 0.3, 3.1, title)
    for ax, (x, v) in zip(axes, panels.values(), strict=True):
        _draw_data(ax, data)
        start, arrow = _array(x), _array(v)
        longest = np.sqrt((arrow**2).sum(-1)).max()
        ax.quiver(*start.T, *(arrow / longest).T, color=COLORS[0], angles="xy", scale_units="xy", scale=3.2 / half, width=0.006)
        _square(ax, half)
    return figure


def plot_maps(
    panels: Mapping[str, Tensor],
    half: float,
    label: str | Sequence[str],
    title: str = "",
    low: float = 1e-3,
    high: float = 1.0,
    size: float = 2.7,
) -> Figure:
    """Small multiples of positive functions over the square [-half, half]^2: brighter is larger, on a logarithmic scale.

    Args:
        panels: values (n, n) each; the first index is x_1, as `torch.cartesian_prod` runs.
        label: what the colours mean; a word for each panel gives each a scale of its own, down from its largest value.
        low, high: ends of the common scale; values beyond them have the colour of the end.
    """
    own = [] if isinstance(label, str) else list(label)
    figure, axes = new_panels([*panels], size * len(panels) + max(1.0, 0.9 * len(own)), size + (0.65 if title else 0.4), title)
    image = None
    for k, (ax, values) in enumerate(zip(axes, panels.values(), strict=True)):
        if own:
            high, low = float(values.max()), float(values.max()) / 300
        image = ax.imshow(
            _array(values).clip(low, high).T,
            origin="lower", extent=(-half, half, -half, half), cmap="cividis", norm=LogNorm(low, high), interpolation="nearest",
        )  # fmt: skip
        ax.set(xticks=[-half, 0, half], yticks=[-half, 0, half])
        if own:
            figure.colorbar(image, ax=ax, label=own[k], shrink=0.9)
    if image is not None and not own:
        figure.colorbar(image, ax=axes, label=label, shrink=0.9)
    return figure


# --- paths in three dimensions -------------------------------------------------------------------------------------------


def trajectories_3d(path: Tensor, sigmas: Tensor, title: str = "") -> "go.Figure":
    """PF-ODE paths (T, B, 2) at levels (T,) as a plotly figure to turn: the plane and ln sigma, scaled to even width."""
    import plotly.graph_objects as go

    levels, scaled = _scaled(path, sigmas)
    figure = go.Figure()
    for k in range(scaled.shape[1]):
        figure.add_scatter3d(
            x=np.log(levels), y=scaled[:, k, 0], z=scaled[:, k, 1], mode="lines",
            line={"color": COLORS[k % len(COLORS)], "width": 3},
            showlegend=False, hovertemplate="ln σ %{x:.2f}<br>x₁ %{y:.2f}<br>x₂ %{z:.2f}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(
        title=title, height=480, margin={"l": 0, "r": 0, "t": 40, "b": 0}, template="plotly_white",
        scene={
            "xaxis": {"title": "ln σ", "autorange": "reversed"},
            "yaxis": {"title": "x₁/√(σ²+½²)", "nticks": 5},
            "zaxis": {"title": "x₂/√(σ²+½²)", "nticks": 5},
            # All ticks and names stay inside a picture 560 pixels wide; "auto" would make the long axis run out of it.
            "aspectmode": "manual", "aspectratio": {"x": 1.4, "y": 1, "z": 1},
            "camera": {"eye": {"x": 1.7, "y": 1.9, "z": 1.0}, "center": {"x": 0, "y": 0, "z": -0.2}},
        },
    )  # fmt: skip
    return figure


def trajectories_3d_static(path: Tensor, sigmas: Tensor, title: str = "") -> Figure:
    """What `trajectories_3d` shows, as a still picture: PF-ODE paths (T, B, 2) at levels (T,) over the plane and ln sigma."""
    figure = new_figure(6.4, 5.0)
    ax: Any = figure.add_subplot(projection="3d")
    ax.set_box_aspect(None, zoom=0.88)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.pane.set_facecolor("white")
    levels, scaled = _scaled(path, sigmas)
    for k in range(scaled.shape[1]):
        color = COLORS[k % len(COLORS)]
        ax.plot(np.log(levels), *scaled[:, k].T, LINES[(k // len(COLORS)) % len(LINES)], color=color, lw=1)
        ax.plot(np.log(levels[-1:]), *scaled[-1:, k].T, "o", color=color, ms=4)
    ax.invert_xaxis()
    ax.set_xlabel(r"$\ln\,\sigma$")
    ax.set_ylabel(r"$x_1$, scaled", labelpad=8)
    ax.set_zlabel(r"$x_2$, scaled", labelpad=4)
    ax.view_init(22, -62)
    ax.set_title(title, fontsize=10)
    return figure


# --- curves --------------------------------------------------------------------------------------------------------------


def plot_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], xlabel: str, ylabel: str, title: str = "", log: str = ""
) -> Figure:
    """Named curves (x, y); ``log`` names the logarithmic axes: "", "x", "y" or "xy"."""
    figure, ax = new_axes(5.6, 3.8, title)
    for k, (name, (x, y)) in enumerate(curves.items()):
        draw_curve(ax, k, x, y, name)
    ax.set(xlabel=xlabel, ylabel=ylabel, **{f"{axis}scale": "log" for axis in log})
    ax.grid(True, which="major", alpha=0.3)
    if len(curves) > 1:
        ax.legend(fontsize=8)
    return figure


def plot_fans(fans: Mapping[str, Tensor], sigmas: Tensor, title: str = "") -> Figure:
    """Side by side: one coordinate of each entry's paths (T, B, 2) against sigmas (T,) > 0, scaled to even width."""
    values = {name: _scaled(path, sigmas)[1][..., 0] for name, path in fans.items()}
    figure, axes = new_panels([*fans], 4.2 * len(fans) + 0.2, 3.3, title, sharey=True)
    _draw_paths(axes, values, sigmas, TIME, SCALED, width=1)
    return figure


def plot_along(panels: Mapping[str, Tensor], sigmas: Tensor, ylabel: str, title: str = "") -> Figure:
    """Small multiples of one number per path, (T, B) each, against the levels (T,) > 0; time runs to the right."""
    values = {name: _array(v) for name, v in panels.items()}
    figure, axes = new_panels([*panels], 3.1 * len(panels) + 0.3, 3.1, title, sharey=True)
    _draw_paths(axes, values, sigmas, r"noise level $\sigma$", ylabel, width=1.3)
    return figure


def _draw_paths(
    axes: Sequence[Axes], panels: Mapping[str, np.ndarray], sigmas: Tensor, xlabel: str, ylabel: str, width: float
) -> None:
    """One number per path, (T, B) for each panel, against the levels (T,): a line of ``width`` points, and a marker at its end."""
    levels = np.asarray(sigmas, dtype=float)
    for ax, lines in zip(axes, panels.values(), strict=True):
        for k, line in enumerate(lines.T):
            color = COLORS[k % len(COLORS)]
            ax.plot(levels, line, LINES[k % len(LINES)], color=color, lw=width)
            ax.plot(levels[-1], line[-1], MARKERS[k % len(MARKERS)], color=color, ms=5, clip_on=False)
        ax.set(xscale="log", xlabel=xlabel)
        ax.invert_xaxis()
        ax.grid(True, alpha=0.3)
    axes[0].set_ylabel(ylabel)


def plot_orders(curves: Mapping[str, tuple[Sequence[int], Sequence[float]]], title: str = "") -> Figure:
    """Errors of solvers against calls of the denoiser, (calls, errors) per entry; dotted lines show first and second order."""
    figure, ax = new_axes(5.6, 3.8, title)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    for k, (name, (calls, errors)) in enumerate(curves.items()):
        draw_curve(ax, k, calls, errors, name)
        end = np.asarray(calls[-3:], dtype=float)
        ax.plot(end, 0.6 * errors[-1] * (end[-1] / end) ** (k + 1), ":", color="0.3", lw=1)
        ax.annotate(f"slope -{k + 1}", (end[-1], 0.6 * errors[-1]), fontsize=8, ha="right", va="top")
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.set(xlabel="calls of the denoiser", ylabel="error of the end points (rms)")
    ax.grid(True, alpha=0.3)
    ax.legend(fontsize=8)
    return figure


def edit_picture(original: Tensor, known: Tensor, results: Tensor) -> np.ndarray:
    """An edit as one picture: the original (1, C, H, W), what is known of it, and the results (N, C, H, W), side by side."""
    row = torch.cat([original, known[:1].to(original), results.to(original)])
    return image_grid(row, len(row), max(1, 160 // original.shape[-2]))


def picture_of(x: Tensor, title: str) -> Any:
    """Samples as `write_png` takes them: pictures (N, C, H, W) as a grid, points (N, 2) as a scatter plot under ``title``."""
    return plot_points({title: x}, size=4) if x.ndim == 2 else image_grid(x, scale=max(1, 64 // x.shape[-1]))
