"""Which classes are taken for which, and whether confidence means accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from advlens.report.figures.style import (
    DOTTED,
    INK,
    MUTED,
    NARROW,
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

SIDE = 2.2
"""Inches of the side of a confusion matrix beside another one."""


@styled
def confusions(
    rows: Rows, models: Sequence[str], classes: Sequence[str], *, width: float = WIDTH
) -> Figure:
    """Squares whose area is the share of a class's images that get each prediction.

    A row of matrices is of a model; right predictions are gray.

    Args:
        rows: panel (its title), model, label, predicted, and share of the label's images in [0, 1].
        models: names, in the order of the run.
        classes: names, in the order of the axes.
        width: inches.
    """
    titles = list(dict.fromkeys(row["panel"] for row in rows))
    panels = [(model, title) for model in models for title in titles]
    across = len(titles) if width > NARROW and len(classes) <= 10 else 1
    side = SIDE if across > 1 else width - 1.1
    down = -(-len(panels) // across)
    figure = new_figure(down * (side + 1.3), width=width)
    axes = figure.subplots(down, across, squeeze=False).flatten()
    names = [short(name, 11) for name in classes]
    for place, (model, title) in enumerate(panels):
        index, panel = models.index(model), axes[place]
        mine = rows.where(panel=title, model=model)
        _squares(panel, mine, classes, 72 * side / len(classes), colors(index).light)
        panel.set_title(f"{short(model)}\n{short(title, 30)}", color=INK.light)
        panel.set_xticks(range(len(names)), names, rotation=90)
        panel.set_yticks(range(len(names)), names)
        panel.set_xlim(-0.6, len(names) - 0.4)
        panel.set_ylim(len(names) - 0.4, -0.6)
        panel.set_aspect("equal")
        panel.set_xlabel("Predicted")
        panel.set_ylabel("True class")
        panel.grid(axis="both", visible=True)
    return figure


def _squares(axes: Axes, rows: Rows, classes: Sequence[str], side: float, color: str) -> None:
    """A square for each pair of classes; `side` is a full one's, in points."""
    for shown, right in ((MUTED.light, True), (color, False)):
        mine = [row for row in rows if (row["label"] == row["predicted"]) == right]
        axes.scatter(
            [classes.index(row["predicted"]) for row in mine],
            [classes.index(row["label"]) for row in mine],
            [row["share"] * (0.9 * side) ** 2 for row in mine],
            color=shown,
            marker="s",
            linewidths=0,
        )


@styled
def reliability(rows: Rows, models: Sequence[str], *, width: float = WIDTH) -> Figure:
    """Accuracy against confidence with 95 % whiskers (figure 1 of Guo et al. 2017).

    One panel a kind of images, one line a model; on the dotted line they are equal.

    Args:
        rows: panel (its title), model, confidence, accuracy, low and high, in [0, 1].
        models: names, in the order of the run.
        width: inches.
    """
    titles = list(dict.fromkeys(row["panel"] for row in rows))
    across = min(len(titles), 3 if width > NARROW else 2)
    down = -(-len(titles) // across)
    figure = new_figure(0.5 + 2.6 * down, width=width)
    panels = figure.subplots(down, across, sharey=True, squeeze=False).flatten()
    for title, axes in zip(titles, panels, strict=False):
        axes.plot([0, 100], [0, 100], color=MUTED.light, linestyle=DOTTED, linewidth=1)
        for index, model in enumerate(models):
            mine = rows.where(panel=title, model=model).ordered("confidence")
            sure, right, low, high = (
                [100 * row[name] for row in mine]
                for name in ("confidence", "accuracy", "low", "high")
            )
            axes.vlines(sure, low, high, color=colors(index).light, linewidth=3, alpha=0.3)
            axes.plot(sure, right, **look(index) | {"linewidth": 1.2, "markersize": 4})
        axes.set_title("\n".join(title.split(", ")))
        axes.set_xlabel("Confidence in %")
        axes.set_xlim(0, 103)
        axes.set_ylim(-3, 103)
        axes.set_xticks([0, 50, 100])
    for axes in panels[len(titles) :]:
        axes.remove()
    for axes in panels[::across]:
        axes.set_ylabel("Accuracy in %")
    legend(figure, panels[0], models)
    return figure
