"""The pictures that a unit responds to most, as one figure for a paper."""

from __future__ import annotations

import textwrap
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
CELL, GAP, MAP_GAP, CAPTION, LEFT, TOP = 0.84, 0.1, 0.05, 0.4, 0.32, 0.42  # inches


@styled
def unit_grid(grid: Grid, load: Callable[[str], Pixels]) -> Figure:
    """Real images over adversarial ones, with labels and predictions (figures 2, 4–9 of D22).

    Args:
        grid: the unit and its pictures; discrepancy maps stand below theirs.
        load: from a picture's file name to its pixels.
    """
    kinds = [
        (kind, cells)
        for kind, cells in (("Real", grid.real), ("Adversarial", grid.adversarial))
        if cells
    ]
    columns = max(len(cells) for _, cells in kinds)
    mapped = any(cell.map for _, cells in kinds for cell in cells)
    pitch = (CELL + MAP_GAP if mapped else 0) + CELL + CAPTION + GAP
    width, height = LEFT + columns * (CELL + GAP), TOP + len(kinds) * pitch
    figure = new_figure(height, width=width)
    figure.set_layout_engine("none")
    for row, (kind, cells) in enumerate(kinds):
        bottom = height - TOP - CELL - row * pitch
        below = bottom - CELL - MAP_GAP if mapped else bottom
        for column, cell in enumerate(cells):
            left = (LEFT + column * (CELL + GAP)) / width
            size = CELL / width, CELL / height
            axes = figure.add_axes((left, bottom / height, *size))
            _picture(axes, load(cell.file), framed=cell.framed)
            if cell.map:
                axes = figure.add_axes((left, below / height, *size))
                _picture(axes, load(cell.map), framed=False)
            figure.text(
                left + 0.5 * size[0], (below - 0.07 * CELL) / height, _caption(cell), ha="center",
                va="top", fontsize=9,
            )  # fmt: skip
        figure.text(
            0.5 * LEFT / width, (bottom + CELL / 2) / height, kind, rotation=90, ha="center",
            va="center", fontsize=9.5, color=MUTED.light,
        )  # fmt: skip
    measures = ", ".join(f"{name} {short(value)}" for name, value in grid.measures.items())
    title = f"{short(grid.model)}, {short(grid.layer)}, unit {grid.unit}: {measures}"
    figure.text(
        LEFT / width, 1 - 0.5 * TOP / height, va="center", fontsize=10,
        s=textwrap.fill(title, int(13 * width)),
    )  # fmt: skip
    return figure


def _picture(axes: Axes, pixels: Pixels, *, framed: bool) -> None:
    small = max(pixels.shape[:2]) <= SMALL
    axes.imshow(pixels, interpolation="none" if small else "antialiased")
    axes.set(xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set(visible=framed, edgecolor=FRAME.light, linewidth=2.5)


def _caption(cell: Cell) -> str:
    first, arrow, second = cell.caption.partition(" → ")
    return short(first, 12) + (f"\n→ {short(second, 10)}" if arrow else "")
