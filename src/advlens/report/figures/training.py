"""A training over its epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from advlens.intervals import wilson
from advlens.report.figures.style import (
    MUTED,
    NARROW,
    SURFACE,
    WIDTH,
    colors,
    legend,
    look,
    new_figure,
    styled,
)
from advlens.runs.results import Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DASHES = (0, (3, 1.5))
ON_TRAINING_IMAGES = {
    "natural": "train_natural_accuracy",
    "adversarial": "train_adversarial_accuracy",
    "natural_loss": "train_natural_loss",
    "adversarial_loss": "train_adversarial_loss",
    "loss": "loss",
}
"""The column beside each one of held-out images; the objective's loss has no such."""
TITLES = {
    "natural": "Natural images",
    "adversarial": "Adversarial images",
    "natural_loss": "",
    "adversarial_loss": "",
    "loss": "Loss of the objective",
}
FAR = 20
"""Ratio of a panel's largest loss to its smallest from which its axis is logarithmic."""


@styled
def training_curves(rows: Rows, models: Sequence[str], *, width: float = WIDTH) -> Figure:
    """Accuracy over cross entropy by epoch: natural on the left, adversarial on the right.

    Solid lines are held-out images, their accuracies with 95 % bands; dashed ones are training
    images; a marker shows the epoch that was kept. Where no cross entropy was recorded, the
    objective's loss on training images takes its place.

    Args:
        rows: of `training.csv`.
        models: names, in the order of the run.
        width: inches.
    """
    losses = [name for name in ("natural_loss", "adversarial_loss") if _recorded(rows, name)]
    below = losses if len(losses) == 2 else 2 * (losses or ["loss"])
    layout: list[Any] = [["natural", "adversarial"], below]
    figure = new_figure(5.2, width=width)
    panels = figure.subplot_mosaic(layout, sharex=True)
    for name, axes in panels.items():
        for index, model in enumerate(models):
            _curves(axes, rows.where(model=model), name, index)
        axes.set_title(TITLES[name])
        axes.margins(x=0.04)
        axes.locator_params(axis="x", integer=True, nbins=6 if width > NARROW else 4)
    for name in ("natural", "adversarial"):
        panels[name].set_ylim(0, 100)
        panels[name].tick_params(labelbottom=True)
    for name in dict.fromkeys(below):
        _loss_axis(panels[name], rows, name)
        panels[name].set_xlabel("Epoch")
    panels["natural"].set_ylabel("Accuracy in %")
    panels[below[0]].set_ylabel("Loss" if below[0] == "loss" else "Cross entropy")
    panels["adversarial"].tick_params(labelleft=False)
    figure.align_ylabels([panels["natural"], panels[below[0]]])
    legend(figure, panels["natural"], models)
    _key(figure, panels["natural"])
    return figure


def _recorded(rows: Rows, name: str) -> bool:
    columns = (name, ON_TRAINING_IMAGES[name])
    return any(rows.known(column) for column in columns)


def _curves(axes: Axes, rows: Rows, name: str, index: int) -> None:
    """One model in one panel."""
    share = name in ("natural", "adversarial")
    scale, color = 100 if share else 1, colors(index).light
    for column in dict.fromkeys((ON_TRAINING_IMAGES[name], name)):
        shown = rows.known(column)
        held_out = column == name != "loss"
        epochs, values = ([r["epoch"] for r in shown], [scale * r[column] for r in shown])
        if shown:
            dashes = look(index)["linestyle"] if held_out else DASHES
            axes.plot(
                epochs, values, color=color, linestyle=dashes, linewidth=1.8 if held_out else 1.2
            )
        if held_out and share:
            known = [row for row in shown if row["n"]]
            bounds = [wilson(round(row[column] * row["n"]), row["n"]) for row in known]
            low, high = ([100 * bound[end] for bound in bounds] for end in (0, 1))
            axes.fill_between(
                [row["epoch"] for row in known], low, high, color=color, alpha=0.16, linewidth=0
            )
        for epoch in shown.where(kept=True):
            mark = look(index) | {"linestyle": "", "zorder": 3, "clip_on": False}
            if not held_out:
                mark |= {"markerfacecolor": SURFACE.light, "markeredgecolor": color}
            axes.plot(epoch["epoch"], scale * epoch[column], **mark)


def _loss_axis(axes: Axes, rows: Rows, name: str) -> None:
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    columns = {name, ON_TRAINING_IMAGES[name]}
    values = [row[column] for row in rows for column in columns if row[column] is not None]
    if min(values) > 0 and max(values) > FAR * min(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(bottom=min(0, *values))


def _key(figure: Figure, axes: Axes) -> None:
    """What dashes and markers mean, under the plot."""
    handles = [
        axes.plot([], [], color=MUTED.light, **line)[0]
        for line in (
            {"label": "held out"},
            {"label": "training", "linestyle": DASHES, "linewidth": 1.2},
            {"label": "epoch kept", "linestyle": "", "marker": "o"},
        )
    ]
    figure.legend(
        handles=handles,
        loc="outside lower left",
        ncols=3,
        borderaxespad=0.2,
        labelcolor=MUTED.light,
    )
