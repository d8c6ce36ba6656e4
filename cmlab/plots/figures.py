"""Every figure of the notebooks, the app and the README. Functions return figures and never touch pyplot's global state.

Colours are Okabe and Ito's (distinguishable with colour-blindness); series also differ by marker or line style.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from ..editing import luma

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X")
MAX_PIXELS = 50_000_000  # of a picture that is read
LINES = ("-", "--", "-.", ":")
_DATA = {"s": 3, "color": "0.75", "linewidths": 0, "zorder": 0}


# --- images --------------------------------------------------------------------------------------------------------------


def to_uint8(x: Tensor) -> np.ndarray:
    """Images (B, C, H, W) in [-1, 1] as uint8 (B, H, W, 3): rounded, values outside cut off, grey repeated over RGB."""
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        raise ValueError(f"need images (B, 1 or 3, H, W), got {tuple(x.shape)}")
    bytes_ = ((x.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
    return bytes_.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous().numpy()


def from_uint8(image: np.ndarray, channels: int = 3) -> Tensor:
    """One picture (H, W, 3) uint8 as (1, channels, H, W) float32 in [-1, 1]; one channel takes the luma."""
    x = torch.from_numpy(np.ascontiguousarray(image[..., :3])).float().permute(2, 0, 1)[None] / 127.5 - 1
    if channels == 1:
        return luma(x)
    return x


def read_picture(path: str | Path, shape: Sequence[int]) -> tuple[Tensor, list[str]]:
    """An image file as (1, C, H, W) in [-1, 1] for a model of ``shape``, and what had to be changed, in words.

    Raises ValueError for a file that is not a readable picture, and for one of more than 50 million pixels.
    """
    from PIL import Image, ImageOps

    channels, height, width = shape
    notes = []
    try:
        with Image.open(path) as file:
            if file.width * file.height > MAX_PIXELS:
                raise Image.DecompressionBombError  # as Pillow does for more than 179 million
            frames = getattr(file, "n_frames", 1)
            if frames > 1 and file.format != "MPO":  # a phone's MPO holds a preview of the same photo
                notes.append(f"reduced to the first of its {frames} frames")
            image = ImageOps.exif_transpose(file)
            image.load()
    except Image.DecompressionBombError as error:
        limit = f"{MAX_PIXELS // 10**6} million pixels"
        raise ValueError(f"{Path(path).name} is too large a picture: choose one of at most {limit}.") from error
    except Exception as error:  # Pillow raises many kinds, SyntaxError among them
        raise ValueError(f"{Path(path).name} is not a picture that can be read. Choose a PNG, JPEG, GIF or WebP file.") from error
    if image.mode not in (("RGB",) if channels == 3 else ("L", "RGB")):
        white = ", on white where it is transparent" if image.has_transparency_data else ""
        notes.append(f"converted to {'RGB colours' if channels == 3 else 'shades of grey'}{white}")
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=float)
        span = values.max() - values.min()
        image = Image.fromarray(((values - values.min()) / (span or 1) * 255).astype(np.uint8))
    image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    if image.size != (width, height):
        cut = "" if image.width * height == image.height * width else f"cut to a {'square' if width == height else 'part'} and "
        notes.append(f"{cut}resized from {image.width} x {image.height} to {width} x {height} pixels")
        image = ImageOps.fit(image, (width, height), Image.Resampling.BOX)
    return from_uint8(np.array(image), channels), notes


def image_grid(x: Tensor, columns: int | None = None, scale: int = 1, gap: int = 1) -> np.ndarray:
    """A batch (B, C, H, W) as one picture, uint8 (H', W', 3): row by row, ``gap`` white pixels between, then enlarged."""
    tiles = to_uint8(x)
    count, h, w, _ = tiles.shape
    columns = columns or int(np.ceil(np.sqrt(count)))
    rows = int(np.ceil(count / columns))
    canvas = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for k, tile in enumerate(tiles):
        r, c = divmod(k, columns)
        canvas[r * (h + gap) : r * (h + gap) + h, c * (w + gap) : c * (w + gap) + w] = tile
    return enlarge(canvas, scale)


def enlarge(image: np.ndarray, scale: int) -> np.ndarray:
    """Repeat each pixel ``scale`` times in both directions."""
    return image.repeat(scale, 0).repeat(scale, 1)


def plot_images(rows: Mapping[str, Tensor], title: str = "", scale: float = 0.55) -> Figure:
    """One labelled row of pictures per entry, (B, C, H, W) each."""
    columns = max(len(x) for x in rows.values())
    figure = _figure(max(columns * scale + 1.6, 3), len(rows) * scale * 1.15 + (0.4 if title else 0.1))
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for (name, x), axes in zip(rows.items(), grid, strict=True):
        for k, ax in enumerate(axes):
            ax.axis("off")
            if k < len(x):
                ax.imshow(to_uint8(x[k : k + 1])[0], interpolation="nearest")
        axes[0].text(-0.15, 0.5, name, transform=axes[0].transAxes, ha="right", va="center", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


# --- the plane -----------------------------------------------------------------------------------------------------------


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), layout="constrained", dpi=110)


def _points(x: Tensor) -> np.ndarray:
    return x.detach().double().cpu().numpy()


def _square(ax, half: float = 1.5) -> None:
    ax.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", xticks=[-1, 0, 1], yticks=[-1, 0, 1])


def plot_points(sets: Mapping[str, Tensor], title: str = "", half: float = 1.5, size: float = 2.4) -> Figure:
    """Small multiples of point sets (N, 2), one panel each, on one scale."""
    figure = _figure(size * len(sets) + 0.3, size + (0.55 if title else 0.3))
    for k, (ax, (name, x)) in enumerate(zip(figure.subplots(1, len(sets), squeeze=False)[0], sets.items(), strict=True)):
        ax.scatter(*_points(x).T, s=3, color=COLORS[k % len(COLORS)], linewidths=0)
        ax.set_title(name, fontsize=9)
        _square(ax, half)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def plot_trajectories(path: Tensor, sigmas: Tensor, title: str = "", data: Tensor | None = None) -> Figure:
    """PF-ODE paths (T, B, 2) at levels (T,): left in the plane once the noise is small, right one coordinate against sigma.

    ``data`` (N, 2) is drawn grey behind. The right panel divides x by sqrt(sigma^2 + 0.5^2), which makes every level equally wide.
    """
    figure = _figure(8.4, 4.0)
    plane, time = figure.subplots(1, 2)
    paths, levels = _points(path), np.asarray(sigmas, dtype=float)
    if data is not None:
        plane.scatter(*_points(data).T, **_DATA)
    for k in range(paths.shape[1]):
        color, line = COLORS[k % len(COLORS)], LINES[(k // len(COLORS)) % len(LINES)]
        plane.plot(*paths[:, k].T, line, color=color, lw=1)
        plane.plot(*paths[-1, k], "o", color=color, ms=4)
        scaled = paths[:, k, 0] / np.sqrt(levels**2 + 0.25)
        keep = levels > 0
        time.plot(levels[keep], scaled[keep], line, color=color, lw=1)
    _square(plane, 2.0)
    plane.set(xlabel="$x_1$", ylabel="$x_2$", title="paths in the plane (dots: where they end)")
    time.set(xscale="log", xlabel=r"noise level $\sigma$ (time runs to the right)", ylabel=r"$x_1\,/\sqrt{\sigma^2+0.5^2}$")
    time.invert_xaxis()
    time.set_title("the same paths against the noise level")
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def plot_consistency(x: Tensor, f: Tensor, title: str = "", data: Tensor | None = None) -> Figure:
    """The consistency function as arrows from noisy points x (B, 2) to f(x) (B, 2)."""
    figure = _figure(5.0, 4.6)
    ax = figure.subplots()
    start, end = _points(x), _points(f)
    if data is not None:
        ax.scatter(*_points(data).T, **_DATA)
    ax.quiver(
        *start.T, *(end - start).T, color=COLORS[0], angles="xy", scale_units="xy", scale=1, width=0.003, headwidth=4, alpha=0.8
    )
    ax.plot(*start.T, ".", color="0.4", ms=3)
    half = max(1.6, float(np.quantile(np.abs(start), 0.99)) * 1.1)
    ax.set(xlim=(-half, half), ylim=(-half, half), aspect="equal", xlabel="$x_1$", ylabel="$x_2$")
    if title:
        ax.set_title(title, fontsize=10)
    return figure


def plot_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    xlabel: str,
    ylabel: str,
    title: str = "",
    log: str = "",
) -> Figure:
    """Named curves (x, y); ``log`` names the logarithmic axes: "", "x", "y" or "xy"."""
    figure = _figure(5.6, 3.8)
    ax = figure.subplots()
    for k, (name, (x, y)) in enumerate(curves.items()):
        few = len(x) <= 24
        ax.plot(
            x,
            y,
            LINES[k % len(LINES)],
            color=COLORS[k % len(COLORS)],
            marker=MARKERS[k % len(MARKERS)] if few else None,
            ms=4,
            label=name,
        )
    ax.set(xlabel=xlabel, ylabel=ylabel)
    if "x" in log:
        ax.set_xscale("log")
    if "y" in log:
        ax.set_yscale("log")
    ax.grid(True, which="major", alpha=0.3)
    if len(curves) > 1:
        ax.legend(fontsize=8)
    if title:
        ax.set_title(title, fontsize=10)
    return figure


def trajectories_3d(path: Tensor, sigmas: Tensor, title: str = "") -> "go.Figure":
    """PF-ODE paths (T, B, 2) at levels (T,) as a plotly figure to turn: the plane and ln sigma, scaled to even width."""
    import plotly.graph_objects as go

    levels = np.asarray(sigmas, dtype=float)
    keep = levels > 0
    paths, levels = _points(path)[keep], levels[keep]
    scaled = paths / np.sqrt(levels**2 + 0.25)[:, None, None]
    figure = go.Figure()
    for k in range(paths.shape[1]):
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


# --- lessons -------------------------------------------------------------------------------------------------------------


def plot_fields(
    panels: Mapping[str, tuple[Tensor, Tensor]], title: str = "", data: Tensor | None = None, half: float = 1.5
) -> Figure:
    """Small multiples of vector fields: per entry points (N, 2) and vectors (N, 2), each panel's longest arrow of equal length."""
    figure = _figure(2.7 * len(panels) + 0.3, 3.1)
    for ax, (name, (x, v)) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        if data is not None:
            ax.scatter(*_points(data).T, **_DATA)
        start, arrow = _points(x), _points(v)
        longest = np.sqrt((arrow**2).sum(-1)).max()
        ax.quiver(*start.T, *(arrow / longest).T, color=COLORS[0], angles="xy", scale_units="xy", scale=3.2 / half, width=0.006)
        ax.set_title(name, fontsize=9)
        _square(ax, half)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def plot_fans(fans: Mapping[str, Tensor], sigmas: Tensor, title: str = "") -> Figure:
    """Side by side: one coordinate of each entry's paths (T, B, 2) against sigmas (T,) > 0, scaled to even width."""
    figure = _figure(4.2 * len(fans) + 0.2, 3.3)
    levels = np.asarray(sigmas, dtype=float)
    for ax, (name, path) in zip(figure.subplots(1, len(fans), sharey=True, squeeze=False)[0], fans.items(), strict=True):
        scaled = _points(path)[:, :, 0] / np.sqrt(levels**2 + 0.25)[:, None]
        for k in range(scaled.shape[1]):
            color, line = COLORS[k % len(COLORS)], LINES[k % len(LINES)]
            ax.plot(levels, scaled[:, k], line, color=color, lw=1)
            ax.plot(levels[-1], scaled[-1, k], MARKERS[k % len(MARKERS)], color=color, ms=5, clip_on=False)
        ax.set(xscale="log", xlabel=r"noise level $\sigma$ (time runs to the right)")
        ax.invert_xaxis()
        ax.set_title(name, fontsize=9)
        ax.grid(True, alpha=0.3)
    figure.axes[0].set_ylabel(r"$x_1\,/\sqrt{\sigma^2+0.5^2}$")
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def trajectories_3d_static(path: Tensor, sigmas: Tensor, title: str = "") -> Figure:
    """What `trajectories_3d` shows, as a still picture: PF-ODE paths (T, B, 2) at levels (T,) over the plane and ln sigma."""
    figure = _figure(6.4, 5.0)
    ax: Any = figure.add_subplot(projection="3d")
    ax.set_box_aspect(None, zoom=0.88)
    for axis in (ax.xaxis, ax.yaxis, ax.zaxis):
        axis.pane.set_facecolor("white")
    levels = np.asarray(sigmas, dtype=float)
    keep = levels > 0
    paths, levels = _points(path)[keep], levels[keep]
    scaled = paths / np.sqrt(levels**2 + 0.25)[:, None, None]
    for k in range(paths.shape[1]):
        color = COLORS[k % len(COLORS)]
        ax.plot(np.log(levels), scaled[:, k, 0], scaled[:, k, 1], LINES[(k // len(COLORS)) % len(LINES)], color=color, lw=1)
        ax.plot(*([v] for v in (np.log(levels[-1]), scaled[-1, k, 0], scaled[-1, k, 1])), "o", color=color, ms=4)
    ax.invert_xaxis()
    ax.set_xlabel(r"$\ln\,\sigma$")
    ax.set_ylabel(r"$x_1$, scaled", labelpad=8)
    ax.set_zlabel(r"$x_2$, scaled", labelpad=4)
    ax.view_init(22, -62)
    if title:
        ax.set_title(title, fontsize=10)
    return figure


def plot_orders(curves: Mapping[str, tuple[Sequence[int], Sequence[float]]], title: str = "") -> Figure:
    """Errors of solvers against calls of the denoiser, (calls, errors) per entry; dotted lines show first and second order."""
    figure = _figure(5.6, 3.8)
    ax = figure.subplots()
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    for k, (name, (calls, errors)) in enumerate(curves.items()):
        ax.plot(calls, errors, LINES[k], color=COLORS[k], marker=MARKERS[k], ms=4, label=name)
        end = np.asarray(calls[-3:], dtype=float)
        ax.plot(end, 0.6 * errors[-1] * (end[-1] / end) ** (k + 1), ":", color="0.3", lw=1)
        ax.annotate(f"slope -{k + 1}", (end[-1], 0.6 * errors[-1]), fontsize=8, ha="right", va="top")
    ax.xaxis.set_major_formatter("{x:.0f}")
    ax.set(xlabel="calls of the denoiser", ylabel="error of the end points (rms)")
    ax.grid(True, alpha=0.3)
    ax.legend(fontsize=8)
    if title:
        ax.set_title(title, fontsize=10)
    return figure
