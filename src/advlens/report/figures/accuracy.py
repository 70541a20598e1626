"""Accuracy on natural images and under attack, its errors, and measures side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from advlens.report.figures.style import (
    DOTTED,
    INK,
    MUTED,
    NARROW,
    RULE,
    SURFACE,
    WIDTH,
    across_only,
    banded,
    colors,
    legend,
    look,
    new_figure,
    short,
    styled,
    tiles,
)
from advlens.runs.results import Rows
from advlens.runs.tables import Row
from advlens.words import NORMS, attack_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE = 2.2
"""Inches of the side of a confusion matrix beside another one."""


@styled
def accuracy_dots(
    rows: Rows, models: Sequence[str], *, chance: float, width: float = WIDTH
) -> Figure:
    """Top-1 accuracy as dots with 95 % whiskers: one group a kind of images, one line a model.

    Args:
        rows: of `accuracy.csv`.
        models: names, in the order of the run.
        chance: accuracy of guessing, drawn as a line.
        width: inches.
    """
    ends = {"mean": "top1", "low": "top1_low", "high": "top1_high"}
    shown = Rows(
        {"group": attack_name(row).replace(", ", "\n"), "model": row["model"]}
        | {end: 100 * row[name] for end, name in ends.items()}
        for row in rows
    )
    groups = shown.values("group")
    lines = (len(models) + 1) * len(groups)
    figure = new_figure(0.95 + 0.2 * lines, width=width)
    axes = figure.add_subplot()
    for row, height in _dots(axes, shown, models, groups):
        axes.annotate(
            f"{row['mean']:.1f}",
            (row["high"], height),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color=colors(models.index(row["model"])).light,
            bbox={"facecolor": SURFACE.light, "edgecolor": "none", "pad": 1},
        )
    axes.set_xlim(-2, 110)
    axes.set_xticks(range(0, 101, 20))
    axes.axvline(100 * chance, color=MUTED.light, linestyle=DOTTED, linewidth=1)
    axes.set_xlabel("Top-1 accuracy in %; dotted: chance")
    legend(figure, axes, models, linestyle="")
    return figure


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
    groups = rows.values("group")
    height = 0.8 + 0.15 * (len(models) + 1) * len(groups)
    figure, panels = tiles(rows.values("panel"), height, width=width, room=0.6)
    for title, axes in panels.items():
        mine = rows.where(panel=title)
        _dots(axes, mine, models, groups)
        axes.set_yticks(axes.get_yticks(), [short(group, 14) for group in groups])
        axes.set_xlabel(label)
        ends = [0, *(row[end] for row in mine for end in ("mean", "low", "high"))]
        low, high = (edge(end for end in ends if end is not None) for edge in (min, max))
        room = 0.08 * (high - low or 1)
        axes.set_xlim(low - room * (low < 0), high + room)
        axes.locator_params(axis="x", nbins=4)
    figure.set_layout_engine("constrained", h_pad=0.1)
    legend(figure, figure.axes[0], models, linestyle="")
    return figure


def _dots(
    axes: Axes, rows: Rows, models: Sequence[str], groups: Sequence[str]
) -> list[tuple[Row, int]]:
    """Means in their intervals, a line for each model in each group; rows with their heights."""
    pitch = len(models) + 1  # one line between groups
    placed = [
        (row, groups.index(row["group"]) * pitch + models.index(row["model"])) for row in rows
    ]
    for index, model in enumerate(models):
        mine = [(row, height) for row, height in placed if row["model"] == model]
        sure = [(height, row["low"], row["high"]) for row, height in mine if row["low"] is not None]
        axes.hlines(
            *np.array(sure).reshape(-1, 3).T, color=colors(index).light, linewidth=4, alpha=0.35
        )
        means, heights = [row["mean"] for row, _ in mine], [height for _, height in mine]
        axes.plot(means, heights, **(look(index) | {"linestyle": ""}))
    centers = [place * pitch + (len(models) - 1) / 2 for place in range(len(groups))]
    axes.set_yticks(centers, groups)
    axes.tick_params(axis="y", labelcolor=INK.light)
    axes.set_ylim(pitch * len(groups) - 1, -1)
    for place in range(1, len(groups)):
        axes.axhline(place * pitch - 1, color=RULE.light, linewidth=0.8)
    across_only(axes)
    return placed


@styled
def accuracy_sweep(
    rows: Rows, models: Sequence[str], *, chance: float, width: float = WIDTH
) -> Figure:
    """Top-1 accuracy against epsilon with 95 % bands, one panel a norm.

    Args:
        rows: of `sweep.csv`; those at epsilon 0 begin the lines of every norm.
        models: names, in the order of the run.
        chance: accuracy of guessing, drawn as a line.
        width: inches.
    """
    norms = Rows(row for row in rows if row["epsilon"] > 0).values("norm")
    figure = new_figure(3.3, width=width)
    panels = figure.subplots(1, len(norms), sharey=True, squeeze=False)[0]
    for norm, axes in zip(norms, panels, strict=True):
        for index, model in enumerate(models):
            mine = rows.where(model=model)
            mine = Rows([*mine.where(epsilon=0), *mine.where(norm=norm)]).ordered("epsilon")
            radii = [(255 if norm == "Linf" else 1) * row["epsilon"] for row in mine]
            banded(axes, radii, mine, "top1", index, scale=100)
        axes.axhline(100 * chance, color=MUTED.light, linestyle=DOTTED, linewidth=1)
        axes.set_xlabel("ε in 1/255" if norm == "Linf" else "ε in pixel units")
        axes.set_title(NORMS.get(norm, norm))
        axes.set_ylim(0, 100)
        axes.set_xlim(left=0)
        axes.locator_params(axis="x", nbins=5, steps=[1, 2, 4, 5, 10])
    panels[0].set_ylabel("Top-1 accuracy in %")
    panels[0].annotate(
        "chance",
        (1, 100 * chance),
        xycoords=("axes fraction", "data"),
        xytext=(0, 3),
        textcoords="offset points",
        ha="right",
        fontsize=9,
        color=MUTED.light,
    )
    legend(figure, panels[0], models)
    return figure


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
    titles = rows.values("panel")
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
    figure, panels = tiles(rows.values("panel"), 2.6, width=width, room=0.5, label="Accuracy in %")
    for title, axes in panels.items():
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
    legend(figure, figure.axes[0], models)
    return figure
