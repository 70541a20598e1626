"""What units stand for, on real images and under attack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from advlens.report.figures.style import (
    DOTTED,
    INK,
    MUTED,
    NARROW,
    SURFACE,
    WIDTH,
    banded,
    colors,
    legend,
    new_figure,
    short,
    styled,
)
from advlens.runs.results import Rows
from advlens.words import number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FEW = 5
"""Units below which a bin of a curve says little by itself."""


@styled
def consistency_histograms(
    rows: Rows, models: Sequence[str], *, floors: Mapping[str, float], width: float = WIDTH
) -> Figure:
    """How consistent the units of a layer are: Figure 5 of D19, on shared axes.

    A solid line marks the mean, a dotted one chance.

    Args:
        rows: live units of `units.csv`, of one layer for each model.
        models: names, in the order of the run.
        floors: LC of random images for each model that has it.
        width: inches.
    """
    shown = [model for model in models if any(row["model"] == model for row in rows)]
    beside = len(shown) <= 2  # as in D19; more models stand one below the other
    figure = new_figure(4.2 if beside else 0.8 + 1.3 * len(shown), width=width)
    shape = (2, len(shown)) if beside else (len(shown), 2)
    panels = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    panels = panels if beside else panels.T
    highest = max(row[measure] for row in rows for measure in ("lc", "consis_adv_fgsm"))
    edges = np.linspace(0, highest * 1.0001, 21)
    for column, model in enumerate(shown):
        mine = rows.where(model=model)
        color = colors(models.index(model)).light
        for axes, measure, alpha in zip(
            panels[:, column], ("lc", "consis_adv_fgsm"), (0.85, 0.45), strict=True
        ):
            values = [row[measure] for row in mine]
            shares = [100 / len(values)] * len(values)
            axes.hist(values, edges, weights=shares, color=color, alpha=alpha, rwidth=0.92)
            _mark_mean(axes, float(np.mean(values)), highest)
            if model in floors:
                axes.axvline(floors[model], color=MUTED.light, linestyle=DOTTED, linewidth=1.2)
        panels[0, column].set_title(
            short(model, 18 if beside and width <= NARROW else 26), color=color
        )
    kinds = ("Real images", "Adversarial images")
    if beside:
        for axes, kind in zip(panels[:, 0], kinds, strict=True):
            axes.set_ylabel(f"{kind}\n% of units")
        for axes in panels[-1]:
            axes.set_xlabel("Consistency")
    else:  # no title of a panel has room for both
        for axes, kind in zip(panels[:, -1], kinds, strict=True):
            axes.set_xlabel(f"Consistency\n{kind}")
        for axes in panels[0]:
            axes.set_ylabel("% of units")
    panels[0, 0].set_xlim(0, None)
    panels[0, 0].locator_params(axis="x", nbins=5 if width > NARROW else 3)
    panels[0, 0].margins(y=0.18)
    return figure


def _mark_mean(axes: Axes, mean: float, highest: float) -> None:
    axes.axvline(mean, color=INK.light, linewidth=1.4)
    left = mean < 0.6 * highest
    axes.annotate(
        f"mean {number(mean)}",
        (mean, 0.97),
        xycoords=("data", "axes fraction"),
        xytext=(5 if left else -5, 0),
        textcoords="offset points",
        ha="left" if left else "right",
        va="top",
        fontsize=9.5,
        bbox={"facecolor": SURFACE.light, "edgecolor": "none", "pad": 1},
    )


@styled
def consistency_curves(
    rows: Rows, models: Sequence[str], *, headings: Mapping[str, str], width: float = WIDTH
) -> Figure:
    """CS1 and CS2 against LC over the units of all layers: Figure 10 of D22.

    One column a kind of adversarial images; under the curves, the number of units in each bin.

    Args:
        rows: of `curves.csv`.
        models: names, in the order of the run.
        headings: what each kind of images is called.
        width: inches.
    """
    kinds = rows.values("images")
    figure = new_figure(5.6, width=width)
    panels = figure.subplots(
        3, len(kinds), sharex=True, sharey="row", squeeze=False, height_ratios=(1, 1, 0.42)
    )
    for column, kind in enumerate(kinds):
        for index, model in enumerate(models):
            mine = rows.where(model=model, images=kind)
            for axes, measure in zip(panels[:2, column], ("cs1", "cs2"), strict=True):
                _curve(axes, mine, measure, index)
            _counts(panels[2, column], mine, index, len(models))
        panels[0, column].set_title(headings[kind])
        panels[2, column].set_xlabel("LC (real images)")
    for axes, label in zip(
        panels[:, 0], ("CS1: same content", "CS2: follows target", "Units"), strict=True
    ):
        axes.set_ylabel(label)
    for axes in panels[:2].flat:
        axes.set_ylim(0, 1)
    figure.align_ylabels(panels[:, 0])
    legend(figure, panels[0, 0], models)
    return figure


def _curve(axes: Axes, rows: Rows, measure: str, index: int) -> None:
    """The bins with enough units as a line in its band, the others as hollow markers."""
    hollow: dict[str, Any] = {
        "linestyle": "",
        "markerfacecolor": "none",
        "markeredgecolor": colors(index).light,
    }
    many = [row for row in rows if row["units"] >= FEW]
    few = [row for row in rows if row["units"] < FEW]
    for shown, alpha, drawn in ((many, 0.16, {}), (few, 0, hollow)):
        if shown:  # without data, matplotlib takes room for a marker outside the axes
            centers = [row["lc"] for row in shown]
            banded(axes, centers, shown, measure, index, n="units", alpha=alpha, **drawn)


def _counts(axes: Axes, rows: Rows, index: int, models: int) -> None:
    for row in rows:
        width = (row["bin_high"] - row["bin_low"]) * 0.86 / models
        left = row["bin_low"] + (row["bin_high"] - row["bin_low"]) * 0.07 + index * width
        axes.bar(left, row["units"], width, align="edge", color=colors(index).light, linewidth=0)


@styled
def consistency_by_depth(
    rows: Rows, models: Sequence[str], *, floors: Mapping[str, float], width: float = WIDTH
) -> Figure:
    """Layer means along the network with 95 % bands: LC over consis_adv, CS1, CS2.

    Args:
        rows: of `layers.csv`, in the order of the layers; those without a live unit are left out.
        models: names, in the order of the run.
        floors: LC of random images for each model that has it.
        width: inches.
    """
    layers = {model: rows.where(model=model).values("layer") for model in models}
    same = len({tuple(names) for names in layers.values()}) == 1
    figure = new_figure(6.2, width=width)
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(1.25, 1, 1))
    for index, model in enumerate(models):
        mine = rows.where(model=model)
        place = {
            name: position if same else position / max(len(layers[model]) - 1, 1)
            for position, name in enumerate(layers[model])
        }
        live = mine.known("lc_mean")
        if not live:
            continue
        positions = [place[row["layer"]] for row in live]
        for axes, measure, dashes in (
            (panels[0], "lc", "-"),
            (panels[0], "consis_adv", (0, (4, 2))),
            (panels[1], "cs1", "-"),
            (panels[2], "cs2", "-"),
        ):
            line: dict[str, Any] = {"linestyle": dashes, "alpha": 0.14, "zorder": 2}
            if measure == "consis_adv":
                hollow = {"markerfacecolor": "none", "markeredgecolor": colors(index).light}
                line |= hollow | {"alpha": 0.07}
            banded(axes, positions, live, measure, index, **line)
        if model in floors:
            panels[0].axhline(floors[model], color=MUTED.light, linestyle=DOTTED, linewidth=1)
    panels[0].set_title("Solid: LC; dashed: consis_adv")
    panels[1].set_title("CS1: adversarial content as real")
    panels[2].set_title("CS2: attack's targets as real")
    panels[0].set_ylim(bottom=0)
    for axes in panels[1:]:
        axes.set_ylim(0, 1)
    names = next(iter(layers.values()))
    if same:
        every = -(-len(names) // (7 if width > NARROW else 4))
        ticks = list(range(len(names) - 1, -1, -every))[::-1]
        panels[2].set_xticks(
            ticks, [short(names[tick], 18) for tick in ticks], rotation=28, ha="right"
        )
        panels[2].set_xlabel("Convolution, from the input to the output")
    else:
        panels[2].set_xticks([0, 0.25, 0.5, 0.75, 1], ["first", "¼", "½", "¾", "last"])
        panels[2].set_xlabel("Place of the convolution in its network")
    legend(figure, panels[0], models)
    return figure
