"""A figure of lines, as plotly draws it."""

import math
from typing import Any

import pytest

from cmlab.plots.figures import COLORS
from cmlab.plots.hover import hovering
from cmlab.theory.experiments import EXPERIMENTS


def figures(experiment: str, **options: Any) -> tuple[Any, Any]:
    """An experiment's figure by matplotlib, and by plotly."""
    figure = EXPERIMENTS[experiment]({"seed": 0, "sizes": (4, 8, 16), "points": 4}, **options).figure()
    return figure, hovering(figure)


def test_a_curve_keeps_its_numbers_its_look_and_its_guide():
    drawn, shown = figures("thm1", solver="heun", checkpoint="two-moons-cd")
    ax = drawn.axes[0]
    assert len(shown.data) == len(ax.lines) >= 2
    for line, trace in zip(ax.lines, shown.data, strict=True):
        assert list(trace.y) == list(line.get_ydata())
        named = not str(line.get_label()).startswith("_")
        assert (trace.name == line.get_label()) is named and trace.showlegend is named
    curve, model = shown.data[0], next(t for t in shown.data if t.name == "two-moons-cd")
    assert curve.mode == "lines+markers" and curve.line.color == COLORS[0].lower() and curve.line.dash == "solid"
    assert tuple(model.x) == ax.get_xlim() and model.y[0] == model.y[1]  # across the panel
    assert shown.layout.xaxis.type == shown.layout.yaxis.type == "log"
    assert tuple(shown.layout.yaxis.range) == pytest.approx([math.log10(y) for y in ax.get_ylim()])
    assert shown.layout.font.size >= 12 and "error to the exact" in shown.layout.yaxis.title.text


def test_formulas_become_letters_and_sizes_are_the_ticks():
    _, shown = figures("thm2", data="soft3", distance="l2", target="other")
    assert [t.name for t in shown.data if t.name] == ["L<sub>CD</sub>", "L<sub>CT</sub>", "difference"]
    assert tuple(shown.layout.xaxis.tickvals) == (4, 8, 16)
    note = shown.layout.annotations[0]
    assert note.text == "slope -2" and note.x == pytest.approx(math.log10(4))


def test_panels_stand_side_by_side_with_one_legend():
    _, shown = figures("variance", checkpoint="8gaussians-edm", weight="1")
    assert [note.text for note in shown.layout.annotations[:3]][2] == "cosine with the true gradient"
    assert shown.layout.xaxis3.title.text == "N, number of noise levels" and shown.layout.yaxis.type == "log"
    names = [t.name for t in shown.data if t.showlegend]
    assert names and len(names) == len({*names})
