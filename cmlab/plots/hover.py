"""Curves whose points tell their numbers: a matplotlib figure of lines, as plotly draws it."""

import math
import re
from typing import Any, cast

import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator
from plotly.subplots import make_subplots

DASHES = {"-": "solid", "--": "dash", "-.": "dashdot", ":": "dot"}


def hovering(figure: Figure) -> go.Figure:
    """The lines of ``figure`` with their names, colours, dashes, notes, axes and panels, in letters of 13 pixels.

    A line across a panel (matplotlib's axhline) ends with its axis. Lines without a name are guides, which tell nothing.
    """
    panels = figure.axes
    new = make_subplots(1, len(panels), subplot_titles=[_html(ax.get_title()) for ax in panels] if len(panels) > 1 else None)
    for column, ax in enumerate(panels, 1):
        place: dict[str, Any] = {"row": 1, "col": column}
        for line in ax.lines:
            name, (x, y) = str(line.get_label()), line.get_data()
            guide = name.startswith("_")
            told = {"hoverinfo": "skip"} if guide else {"name": _html(name), "legendgroup": name}
            look = {"color": to_hex(line.get_color()), "dash": DASHES[str(line.get_linestyle())], "width": line.get_linewidth()}
            mode = "lines" if line.get_marker() in (None, "None") else "lines+markers"
            across = line.get_transform() != ax.transData
            shown = {"showlegend": not guide and column == 1}
            new.add_scatter(x=ax.get_xlim() if across else x, y=y, mode=mode, line=look, **told, **shown, **place)
        for note in ax.texts:
            spot = zip("xy", cast(Any, note).xy, (ax.get_xscale(), ax.get_yscale()), strict=True)
            at = {axis: math.log10(v) if scale == "log" else v for axis, v, scale in spot}
            new.add_annotation(
                at, text=note.get_text(), showarrow=False, xanchor=note.get_horizontalalignment(), yanchor="top", **place
            )
        new.update_xaxes(_axis(ax, "x"), **place)
        new.update_yaxes(_axis(ax, "y"), **place)
    new.update_annotations(font_size=13)
    above = {"orientation": "h", "x": 0, "y": 1.06 + 0.06 * (len(panels) > 1), "yanchor": "bottom"}
    frame = {"height": 430, "margin": {"l": 70, "r": 20, "t": 80, "b": 60}, "modebar": {"remove": ["lasso2d", "select2d"]}}
    frame |= {"width": 280 * len(panels)} if len(panels) > 1 else {}  # which a phone moves sideways; one panel takes what there is
    new.update_layout(template="plotly_white", font_size=13, hovermode="x", legend=above, **frame)
    return new


def _axis(ax: Axes, name: str) -> dict[str, Any]:
    """Title, scale and range of an axis, and its ticks where the figure chose them."""
    axis, log = getattr(ax, f"{name}axis"), getattr(ax, f"get_{name}scale")() == "log"
    ends = [math.log10(end) if log else end for end in getattr(ax, f"get_{name}lim")()]
    title = {"text": _html(axis.get_label_text()), "font": {"size": 13}}
    look: dict[str, Any] = {"title": title, "type": "log" if log else "linear", "range": ends}
    if isinstance(axis.get_major_locator(), FixedLocator):
        return look | {"tickvals": list(axis.get_ticklocs())}
    return look | ({"dtick": 1, "exponentformat": "power"} if log else {})


def _html(text: str) -> str:
    """matplotlib's formulas in letters, with indices."""
    for tex, letter in ((r"\sigma", "σ"), ("$", ""), (r"\,", " ")):
        text = text.replace(tex, letter)
    return re.sub(r"_(?:\{([^}]*)\}|(\w))", lambda m: f"<sub>{m[1] or m[2]}</sub>", text)
