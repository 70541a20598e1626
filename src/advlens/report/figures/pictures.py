"""Pictures of a run put together, as one figure for a paper."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from advlens.report.blocks import Cell, Grid, PictureRow, PictureRowsBlock
from advlens.report.figures.style import BAD, FRAME, INK, MUTED, new_figure, short, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pixels = UInt8[np.ndarray, "height width 3"]
SMALL = 64
"""Pixels per side up to which single pixels are drawn as squares."""
CELL, GAP, MAP_GAP, CAPTION, LEFT, TOP = 0.84, 0.1, 0.05, 0.4, 0.32, 0.42  # inches
TITLE, LINE, LETTERS = 0.24, 0.16, 14  # inches, inches, letters that fit on a picture's width
ACROSS = 12
"""Pictures next to each other in a row, at most."""


@styled
def unit_grid(grid: Grid, load: Callable[[str], Pixels]) -> Figure:
    """Real images over adversarial ones, with labels and predictions (figures 2, 4–9 of D22).

    Args:
        grid: the unit and its pictures; discrepancy maps stand below theirs.
        load: from a picture's file name to its pixels.
    """
    from matplotlib.patches import Rectangle

    kinds = [
        (kind, cells)
        for kind, cells in (("Real", grid.real), ("Adversarial", grid.adversarial))
        if cells
    ]
    columns = max(len(cells) for _, cells in kinds)
    mapped = any(cell.map for _, cells in kinds for cell in cells)
    pitch = (CELL + MAP_GAP if mapped else 0) + CELL + CAPTION + GAP
    width, height = LEFT + columns * (CELL + GAP), TOP + len(kinds) * pitch
    figure, axes = _canvas(width, height)
    for row, (kind, cells) in enumerate(kinds):
        top = TOP + row * pitch
        below = top + CELL + (MAP_GAP + CELL if mapped else 0)
        for column, cell in enumerate(cells):
            left = LEFT + column * (CELL + GAP)
            _picture(axes, load(cell.file), left, top)
            if cell.framed:
                axes.add_patch(
                    Rectangle((left, top), CELL, CELL, fill=False, ec=FRAME.light, lw=2.5)
                )
            if cell.map:
                _picture(axes, load(cell.map), left, top + CELL + MAP_GAP)
            axes.text(
                left + CELL / 2,
                below + 0.07 * CELL,
                _caption(cell),
                ha="center",
                va="top",
                fontsize=9,
            )
        axes.text(
            LEFT / 2,
            top + CELL / 2,
            kind,
            rotation=90,
            ha="center",
            va="center",
            fontsize=9.5,
            color=MUTED.light,
        )
    measures = ", ".join(f"{name} {short(value)}" for name, value in grid.measures.items())
    title = f"{short(grid.model)}, {short(grid.layer)}, unit {grid.unit}: {measures}"
    axes.text(LEFT, TOP / 2, textwrap.fill(title, int(13 * width)), va="center", fontsize=10)
    return figure


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure whose coordinates are inches from its upper left corner.

    One pair of axes for all pictures: a pair for each would take most of the drawing's time.
    """
    figure = new_figure(height, width=width)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    return figure, axes


def _picture(axes: Axes, pixels: Pixels, left: float, top: float) -> None:
    """A picture on a canvas, CELL wide and high."""
    small = max(pixels.shape[:2]) <= SMALL
    axes.imshow(
        pixels,
        extent=(left, left + CELL, top + CELL, top),
        aspect="auto",
        interpolation="none" if small else "antialiased",
    )


def _caption(cell: Cell) -> str:
    first, arrow, second = cell.caption.partition(" → ")
    return short(first, 12) + (f"\n→ {short(second, 10)}" if arrow else "")


def abreast(row: PictureRow) -> list[int]:
    """How many pictures of each column stand next to each other, so that a row is not too wide."""
    counts = [len(column.pictures) for column in row.columns]
    lines = max(1, -(-sum(counts) // ACROSS))
    return [max(1, -(-count // lines)) for count in counts]


@styled
def picture_rows(block: PictureRowsBlock, load: Callable[[str], Pixels]) -> Figure:
    """Rows of pictures below their columns' headings, captions below them (figures 2–19 of B23).

    Args:
        block: the rows.
        load: from a picture's file name to its pixels.
    """
    across = [abreast(row) for row in block.rows]
    columns = [
        (column, count)
        for row, counts in zip(block.rows, across, strict=True)
        for column, count in zip(row.columns, counts, strict=True)
    ]
    above = TITLE + LINE * max(len(_wrapped(c.heading, n)) for c, n in columns)
    below = LINE * max(
        (len(_wrapped(p.caption)) for c, _ in columns for p in c.pictures), default=0
    )
    pitch = CELL + below + GAP
    depths = [
        max(-(-len(column.pictures) // n) for column, n in zip(row.columns, counts, strict=True))
        for row, counts in zip(block.rows, across, strict=True)
    ]
    width = max(sum(counts) * (CELL + GAP) + (len(counts) + 1) * GAP for counts in across)
    height = GAP + sum(above + depth * pitch for depth in depths)
    figure, axes = _canvas(width, height)
    top = GAP
    for row, counts, depth in zip(block.rows, across, depths, strict=True):
        title = ", ".join(filter(None, (short(row.model), short(row.title, 60))))
        axes.text(GAP, top, title, va="top", fontsize=10, weight="bold")
        _columns(axes, row, counts, top + above, pitch, load)
        top += above + depth * pitch
    return figure


def _columns(
    axes: Axes,
    row: PictureRow,
    across: Sequence[int],
    top: float,
    pitch: float,
    load: Callable[[str], Pixels],
) -> None:
    """The pictures of a row, which begin at `top`, and what stands above and below them."""
    left = GAP
    for column, count in zip(row.columns, across, strict=True):
        axes.text(
            left,
            top - 0.04,
            "\n".join(_wrapped(column.heading, count)),
            va="bottom",
            fontsize=9.5,
            color=MUTED.light,
        )
        for place, picture in enumerate(column.pictures):
            x, y = left + place % count * (CELL + GAP), top + place // count * pitch
            _picture(axes, load(picture.file), x, y)
            axes.text(
                x + CELL / 2,
                y + CELL + 0.03,
                "\n".join(_wrapped(picture.caption)),
                ha="center",
                va="top",
                fontsize=9,
                color=BAD.light if picture.wrong else INK.light,
            )
        left += count * (CELL + GAP) + GAP


def _wrapped(text: str, pictures: int = 1) -> list[str]:
    """At most three lines that fit on the width of some pictures."""
    letters = LETTERS * pictures
    lines = textwrap.wrap(text, letters, max_lines=3, placeholder="…")
    return [short(line, letters) for line in lines]
