"""Accuracy on natural images, under each attack, and against epsilon."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from advlens.report.figures.style import (
    DOTTED,
    INK,
    MUTED,
    RULE,
    SURFACE,
    WIDTH,
    colors,
    legend,
    look,
    new_figure,
    styled,
)
from advlens.runs.results import Rows
from advlens.words import NORMS, attack_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    groups = list(dict.fromkeys(attack_name(row) for row in rows))
    pitch = len(models) + 1  # lines of a group, and one between groups
    lines = pitch * len(groups)
    figure = new_figure(0.95 + 0.2 * lines, width=width)
    axes = figure.add_subplot()
    for index, model in enumerate(models):
        mine = rows.where(model=model)
        heights = [groups.index(attack_name(row)) * pitch + index for row in mine]
        values, low, high = (
            [100 * row[name] for row in mine] for name in ("top1", "top1_low", "top1_high")
        )
        color = colors(index).light
        axes.hlines(heights, 0, values, color=color, linewidth=1.6, alpha=0.28)
        axes.hlines(heights, low, high, color=color, linewidth=4, alpha=0.35)
        axes.plot(values, heights, **(look(index) | {"linestyle": ""}))
        for value, right, height in zip(values, high, heights, strict=True):
            axes.annotate(
                f"{value:.1f}",
                (right, height),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                fontsize=9.5,
                color=color,
                bbox={"facecolor": SURFACE.light, "edgecolor": "none", "pad": 1},
            )
    centers = [place * pitch + (len(models) - 1) / 2 for place in range(len(groups))]
    axes.set_yticks(centers, [name.replace(", ", "\n") for name in groups])
    axes.tick_params(axis="y", labelcolor=INK.light)
    axes.set_ylim(lines - 1, -1)
    axes.hlines(
        [place * pitch - 1 for place in range(1, len(groups))],
        -2,
        110,
        color=RULE.light,
        linewidth=0.8,
    )
    axes.set_xlim(-2, 110)
    axes.set_xticks(range(0, 101, 20))
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    axes.axvline(100 * chance, color=MUTED.light, linestyle=DOTTED, linewidth=1)
    axes.set_xlabel("Top-1 accuracy in %; dotted: chance")
    legend(figure, axes, models, linestyle="")
    return figure


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
    norms = list(dict.fromkeys(row["norm"] for row in rows if row["epsilon"] > 0))
    figure = new_figure(3.3, width=width)
    panels = figure.subplots(1, len(norms), sharey=True, squeeze=False)[0]
    for norm, axes in zip(norms, panels, strict=True):
        for index, model in enumerate(models):
            mine = rows.where(model=model)
            mine = Rows([*mine.where(epsilon=0), *mine.where(norm=norm)])
            _line(axes, mine.ordered("epsilon"), norm, index)
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


def _line(axes: Axes, rows: Rows, norm: str, index: int) -> None:
    scale = 255 if norm == "Linf" else 1
    radii = [scale * row["epsilon"] for row in rows]
    low, high = ([100 * row[f"top1_{end}"] for row in rows] for end in ("low", "high"))
    axes.fill_between(radii, low, high, color=colors(index).light, alpha=0.16, linewidth=0)
    axes.plot(radii, [100 * row["top1"] for row in rows], **look(index), clip_on=False, zorder=3)
