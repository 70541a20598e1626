"""Which concepts units detect, on real images and under attack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from advlens.report.figures.style import (
    DOTTED,
    INK,
    MUTED,
    NARROW,
    SURFACE,
    WIDTH,
    across_only,
    banded,
    category_color,
    category_order,
    colors,
    legend,
    new_figure,
    short,
    styled,
)
from advlens.runs.results import Rows
from advlens.words import layer_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CONCEPTS = 24
"""Concepts shown by a bar chart; the rarer ones are cut off."""
KINDS = ("real", "adversarial")


@styled
def category_shares(rows: Rows, *, width: float = WIDTH) -> Figure:
    """Share of units that detect a concept, stacked by category: Table 2 of D19 as bars.

    A line across each bar marks the share by chance.

    Args:
        rows: of `dissection_shares.csv` at one IoU threshold, the category "all" included.
        width: inches.
    """
    bars, names, height = [], [], 0.0
    for group in rows.split("model", "layer", "units"):
        height += 0.85  # room for the name above
        names.append((height, group[0]))
        for kind in KINDS:
            if mine := group.where(images=kind):
                bars.append((height, kind, mine))
                height += 1
    figure = new_figure(1.15 + 0.235 * height, width=width)
    axes = figure.add_subplot()
    for place, _, mine in bars:
        left = 0.0
        for row in (row for row in mine if row["category"] != "all"):
            axes.barh(
                place,
                100 * row["share"],
                left=left,
                height=0.8,
                linewidth=0.8,
                color=category_color(row["category"]).light,
                edgecolor=SURFACE.light,
            )
            left += 100 * row["share"]
        (total,) = mine.where(category="all")
        axes.annotate(
            f"{100 * total['share']:.1f}",
            (100 * max(total["share"], total["permuted_share"]), place),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
        )
        axes.vlines(
            100 * total["permuted_share"], place - 0.48, place + 0.48, color=INK.light, linewidth=2
        )
    letters = 44 if width > NARROW else 24
    for first, row in names:
        model, layer = (short(row[name], letters // 2) for name in ("model", "layer"))
        axes.annotate(
            f"{model}, {layer_text(layer)}, {row['units']} units",
            (0, first - 0.5),
            xytext=(0, 2),
            textcoords="offset points",
            fontsize=9.5,
        )
    axes.set_yticks([place for place, _, _ in bars], [kind for _, kind, _ in bars])
    axes.set_ylim(height - 0.35, -0.1)
    axes.set_xlim(0, _room(max(100 * row["share"] for row in rows), 1.14))
    across_only(axes)
    axes.set_xlabel("Units in %; line: by chance")
    _categories(figure, [row["category"] for row in rows if row["share"] > 0])
    return figure


def _room(value: float, factor: float) -> float:
    """A limit of an axis that leaves room for numbers, and is none of width 0."""
    return max(value, 1e-3) * factor


def _categories(figure: Figure, categories: Sequence[str]) -> None:
    from matplotlib.patches import Patch

    names = category_order({*categories} - {"all"})
    handles = [Patch(color=category_color(name).light, label=short(name)) for name in names]
    columns = max(1, int(11 * figure.get_figwidth() // (3 + max(map(len, ["", *names])))))
    figure.legend(
        handles=handles, loc="outside upper left", ncols=columns, borderaxespad=0.2, handlelength=1
    )


@styled
def shares_by_threshold(
    rows: Rows, models: Sequence[str], *, minimum: float, width: float = WIDTH
) -> Figure:
    """Share of detectors against the IoU threshold, with 95 % bands; dotted: by chance.

    Args:
        rows: of `dissection_shares.csv`, category "all", one layer for each model.
        models: names, in the order of the run.
        minimum: the threshold of the other figures, marked.
        width: inches.
    """
    kinds = [kind for kind in KINDS if rows.one(images=kind)]
    figure = new_figure(3.3, width=width)
    panels = figure.subplots(1, len(kinds), sharex=True, sharey=True, squeeze=False)[0]
    for kind, axes in zip(kinds, panels, strict=True):
        for index, model in enumerate(models):
            mine = rows.where(model=model, images=kind)
            if mine:
                mine = mine.ordered("minimum")
                minima, by_chance = (
                    [scale * row[name] for row in mine]
                    for name, scale in (("minimum", 1), ("permuted_share", 100))
                )
                banded(axes, minima, mine, "share", index, n="units", scale=100)
                color = colors(index).light
                axes.plot(minima, by_chance, color=color, linestyle=DOTTED, linewidth=1.4)
        axes.axvline(minimum, color=MUTED.light, linewidth=1)
        axes.set_title(f"{kind.capitalize()} images")
        axes.set_xlabel("IoU threshold")
        axes.locator_params(axis="x", nbins=5)
    panels[0].set_ylabel("Detectors in % of units")
    panels[0].set_ylim(0, None)
    legend(figure, panels[0], models)
    return figure


@styled
def concept_bars(rows: Rows, *, adversarial: bool, width: float = WIDTH) -> Figure:
    """Detectors of each concept, most frequent first; under each bar, pale, those under attack.

    Args:
        rows: concept, category, and its detectors on `real` and `adversarial` images.
        adversarial: draw the second bars.
        width: inches.
    """
    shown = rows[:CONCEPTS]
    pitch = 0.3 if adversarial else 0.2
    figure = new_figure(0.95 + pitch * len(shown), width=width)
    axes = figure.add_subplot()
    bars = [("real", -0.2, 1.0), ("adversarial", 0.2, 0.45)] if adversarial else [("real", 0, 1.0)]
    for kind, offset, alpha in bars:
        for place, row in enumerate(shown):
            axes.barh(
                place + offset,
                row[kind],
                height=0.8 / len(bars),
                alpha=alpha,
                linewidth=0,
                color=category_color(row["category"]).light,
            )
            axes.annotate(
                str(row[kind]),
                (row[kind], place + offset),
                xytext=(4, 0),
                textcoords="offset points",
                va="center",
                fontsize=9,
                color=INK.light if kind == "real" else MUTED.light,
            )
    letters = 26 if width > NARROW else 16
    axes.set_yticks(range(len(shown)), [short(row["concept"], letters) for row in shown])
    axes.tick_params(axis="y", labelcolor=INK.light)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, _room(max(max(row["real"], row["adversarial"]) for row in shown), 1.08))
    axes.locator_params(axis="x", integer=True)
    across_only(axes)
    axes.set_xlabel("Units; pale: under attack" if adversarial else "Units")
    _categories(figure, [row["category"] for row in shown])
    return figure
