"""The pictures that a unit responds to most, as one figure for a paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from advlens.figures.style import FRAME, MUTED, new_figure, short, styled
from advlens.sections import Cell, Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pixels = UInt8[np.ndarray, "height width 3"]
SMALL = 64
"""Pixels per side up to which single pixels are drawn as squares."""
CELL, GAP, CAPTION, LEFT, TOP = 0.84, 0.1, 0.4, 0.32, 0.42  # inches


@styled
def unit_grid(grid: Grid, load: Callable[[str], Pixels]) -> Figure:
    """Real images over adversarial ones, with labels and predictions (figures 2, 4–9 of D22).

    Args:
        grid: the unit and its pictures.
        load: from a picture's file name to its pixels.
    """
    columns = max(len(grid.real), len(grid.adversarial))
    width, height = LEFT + columns * (CELL + GAP), TOP + 2 * (CELL + CAPTION + GAP)
    figure = new_figure(height, width=width)
    figure.set_layout_engine("none")
    for row, (kind, cells) in enumerate((("Real", grid.real), ("Adversarial", grid.adversarial))):
        bottom = height - TOP - CELL - row * (CELL + CAPTION + GAP)
        for column, cell in enumerate(cells):
            left = LEFT + column * (CELL + GAP)
            box = (left / width, bottom / height, CELL / width, CELL / height)
            _picture(figure.add_axes(box), cell, load(cell.file))
        figure.text(
            0.5 * LEFT / width, (bottom + CELL / 2) / height, kind, rotation=90, ha="center",
            va="center", fontsize=9.5, color=MUTED.light,
        )  # fmt: skip
    measures = ", ".join(f"{name} {value}" for name, value in grid.measures.items())
    figure.text(
        LEFT / width, 1 - 0.5 * TOP / height, va="center", fontsize=10,
        s=f"{short(grid.model)}, {short(grid.layer)}, unit {grid.unit}: {measures}",
    )  # fmt: skip
    return figure


def _picture(axes: Axes, cell: Cell, pixels: Pixels) -> None:
    small = max(pixels.shape[:2]) <= SMALL
    axes.imshow(pixels, interpolation="none" if small else "antialiased")
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set(visible=cell.framed, edgecolor=FRAME.light, linewidth=2.5)
    first, arrow, second = cell.caption.partition(" → ")
    text = short(first, 12) + (f"\n→ {short(second, 10)}" if arrow else "")
    axes.text(0.5, -0.07, text, transform=axes.transAxes, ha="center", va="top", fontsize=9)
