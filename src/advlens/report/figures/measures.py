"""Measures side by side, each with its own axis: who is better, and by how much chance is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from advlens.report.figures.style import (
    INK,
    NARROW,
    RULE,
    WIDTH,
    colors,
    legend,
    look,
    new_figure,
    short,
    styled,
)
from advlens.runs.results import Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@styled
def measure_panels(
    rows: Rows, models: Sequence[str], *, label: str = "", width: float = WIDTH
) -> Figure:
    """Means as dots with 95 % whiskers: one panel a measure, one group a method, one line a model.

    Args:
        rows: panel (its title), group, model, mean, low and high (None: there is no interval).
        models: names, in the order of the run.
        label: of the horizontal axes, if their titles do not say what they show.
        width: inches.
    """
    titles = list(dict.fromkeys(row["panel"] for row in rows))
    groups = list(dict.fromkeys(row["group"] for row in rows))
    across = min(len(titles), 3 if width > NARROW else 2)
    down = -(-len(titles) // across)
    lines = (len(models) + 1) * len(groups)  # one between groups
    figure = new_figure(0.6 + down * (0.8 + 0.15 * lines), width=width)
    panels = figure.subplots(down, across, sharey=True, squeeze=False).flatten()
    for title, axes in zip(titles, panels, strict=False):
        mine = rows.where(panel=title)
        _panel(axes, mine, models, groups)
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.set_ylim(lines - 1, -1)
    for axes in panels[len(titles) :]:
        axes.remove()
    figure.set_layout_engine("constrained", h_pad=0.1)
    legend(figure, panels[0], models, linestyle="")
    return figure


def _panel(axes: Axes, rows: Rows, models: Sequence[str], groups: Sequence[str]) -> None:
    pitch = len(models) + 1
    for index, model in enumerate(models):
        mine = rows.where(model=model)
        heights = [groups.index(row["group"]) * pitch + index for row in mine]
        color = colors(index).light
        known = [(row, y) for row, y in zip(mine, heights, strict=True) if row["low"] is not None]
        axes.hlines(
            [y for _, y in known],
            [row["low"] for row, _ in known],
            [row["high"] for row, _ in known],
            color=color,
            linewidth=4,
            alpha=0.35,
        )
        axes.plot([row["mean"] for row in mine], heights, **(look(index) | {"linestyle": ""}))
    centers = [place * pitch + (len(models) - 1) / 2 for place in range(len(groups))]
    axes.set_yticks(centers, [short(group, 14) for group in groups])
    axes.tick_params(axis="y", labelcolor=INK.light)
    for place in range(1, len(groups)):
        axes.axhline(place * pitch - 1, color=RULE.light, linewidth=0.8)
    ends = [0, *(row[end] for row in rows for end in ("mean", "low", "high"))]
    low, high = (edge(end for end in ends if end is not None) for edge in (min, max))
    room = 0.08 * (high - low or 1)
    axes.set_xlim(low - room * (low < 0), high + room)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    axes.locator_params(axis="x", nbins=4)
