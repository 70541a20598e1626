"""Pictures of a run put together, as one figure for a paper."""

from __future__ import annotations

import itertools
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from advlens.report.blocks import PictureColumn, PictureRow, PictureRowsBlock
from advlens.report.figures.style import BAD, FRAME, INK, MUTED, new_figure, short, styled
from advlens.report.grids import KINDS, Cell, Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Pixels = UInt8[np.ndarray, "height width 3"]
SMALL = 64
"""Pixels per side up to which single pixels are drawn as squares."""
CELL, GAP, MAP_GAP, CAPTION, LEFT, TOP = 0.84, 0.1, 0.05, 0.4, 0.32, 0.42  # inches
LINE, LETTERS, UPWARD = 0.16, 14, 12  # inches; letters that fit on a picture's width and height
ACROSS, DEEP = 12, 8
"""Pictures next to each other in a row, and rows below each other where others fit beside them."""


def unit_grid(grid: Grid, load: Callable[[str], Pixels]) -> Figure:
    """Real images over adversarial ones, with labels and predictions (as in figure 2 of D22).

    Args:
        grid: the unit and its pictures; discrepancy maps stand below theirs.
        load: from a picture's file name to its pixels.
    """
    return unit_grids([grid], load)


@styled
def unit_grids(grids: Sequence[Grid], load: Callable[[str], Pixels]) -> Figure:
    """Units of a layer in reading order, two next to each other if there are more than three.

    Args:
        grids: the units and their pictures.
        load: from a picture's file name to its pixels.
    """
    columns = max(len(cells) for grid in grids for _, cells in _kinds(grid))
    width = LEFT + columns * (CELL + GAP)
    height = max(TOP + len(_kinds(grid)) * _pitch(grid) for grid in grids)
    across = 2 if len(grids) > 3 else 1
    figure, axes = _canvas(across * width, -(-len(grids) // across) * height)
    for place, grid in enumerate(grids):
        _unit(axes, grid, place % across * width, place // across * height, width, load)
    return figure


def _kinds(grid: Grid) -> list[tuple[str, Sequence[Cell]]]:
    return [(KINDS[kind], cells) for kind, cells in grid.kinds.items()]


def _mapped(grid: Grid) -> bool:
    return any(cell.map for cell in grid.cells)


def _pitch(grid: Grid) -> float:
    """From the top of a kind of images to that of the next one."""
    return (CELL + MAP_GAP if _mapped(grid) else 0) + CELL + CAPTION + GAP


def _unit(
    axes: Axes, grid: Grid, x: float, y: float, width: float, load: Callable[[str], Pixels]
) -> None:
    """A unit whose upper left corner is (x, y)."""
    from matplotlib.patches import Rectangle

    measures = ", ".join(f"{name} {short(value)}" for name, value in grid.measures.items())
    title = f"{short(grid.model)}, {short(grid.layer)}, unit {grid.unit}: {measures}"
    title = textwrap.fill(title, int(13 * width))
    axes.text(x + LEFT, y + TOP / 2, title, va="center", fontsize=10)
    for row, (kind, cells) in enumerate(_kinds(grid)):
        top = y + TOP + row * _pitch(grid)
        below = top + CELL + (MAP_GAP + CELL if _mapped(grid) else 0)
        for column, cell in enumerate(cells):
            left = x + LEFT + column * (CELL + GAP)
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
        _beside(axes, kind, x + LEFT / 2, top)


def _beside(axes: Axes, text: str, x: float, top: float) -> None:
    """A text that runs upward beside a picture."""
    axes.text(
        x,
        top + CELL / 2,
        text,
        rotation=90,
        ha="center",
        va="center",
        fontsize=9.5,
        color=MUTED.light,
    )


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
    """Rows of pictures below their columns' headings, captions below them.

    Rows of one title, each of a model, stand side by side. Rows with the same columns share the
    headings. More than `DEEP` rows go on beside the first ones, as far as there is room: 24 heat
    maps stand as in figure 10 of B23.

    Args:
        block: the rows.
        load: from a picture's file name to its pixels.
    """
    rows = list(_side_by_side(block.rows))
    across = [abreast(row) for row in rows]
    columns = [
        (column, count)
        for row, counts in zip(rows, across, strict=True)
        for column, count in zip(row.columns, counts, strict=True)
    ]
    shared = len({tuple((c.heading, len(c.pictures)) for c in row.columns) for row in rows}) == 1
    titles = ["\n".join(_wrapped(row.model, UPWARD) + _wrapped(row.title, UPWARD)) for row in rows]
    left = GAP + LINE * max(title.count("\n") + 1 for title in titles)
    heading = LINE * max(len(_wrapped(c.heading, n * LETTERS)) for c, n in columns) + GAP
    below = LINE * max(
        (len(_wrapped(p.caption)) for c, _ in columns for p in c.pictures), default=0
    )
    pitch = CELL + below + GAP
    depths = [
        max(-(-len(column.pictures) // n) for column, n in zip(row.columns, counts, strict=True))
        for row, counts in zip(rows, across, strict=True)
    ]
    apart = 2 * GAP if max(depths) > 1 else 0  # so that the lines of a row are seen to be one
    width = left + max(sum(counts) * (CELL + GAP) + (len(counts) + 1) * GAP for counts in across)
    beside = max(1, ACROSS // max(map(sum, across)))
    deep = -(-len(titles) // min(beside, -(-len(titles) // DEEP)))
    headed = [place % deep == 0 or not shared for place in range(len(titles))]
    tops: list[float] = []
    for place, has_heading in enumerate(headed):
        top = tops[-1] + depths[place - 1] * pitch + apart if place % deep else GAP
        tops.append(top + heading * has_heading)
    height = max(top + depth * pitch for top, depth in zip(tops, depths, strict=True))
    figure, axes = _canvas(-(-len(titles) // deep) * width, height)
    for place, (row, counts) in enumerate(zip(rows, across, strict=True)):
        x, top = place // deep * width, tops[place]
        _beside(axes, titles[place], x + left / 2, top)
        _columns(axes, row, counts, (x + left, top), pitch, load, headed=headed[place])
    return figure


def _side_by_side(rows: Iterable[PictureRow]) -> Iterator[PictureRow]:
    """Rows of one title as one row, in which each model is named above its first pictures."""
    for title, group in itertools.groupby(rows, key=lambda row: row.title):
        models = list(group)
        if len(models) == 1 or not all(row.model for row in models):
            yield from models
            continue
        columns = list[PictureColumn]()
        for row in models:
            first, *others = row.columns
            columns += [replace(first, heading=f"{row.model}: {first.heading.lower()}"), *others]
        yield PictureRow(title=title, columns=columns)


def _columns(
    axes: Axes,
    row: PictureRow,
    across: Sequence[int],
    corner: tuple[float, float],
    pitch: float,
    load: Callable[[str], Pixels],
    *,
    headed: bool,
) -> None:
    """The pictures of a row below that corner, their captions, and their headings above it."""
    left, top = corner
    for column, count in zip(row.columns, across, strict=True):
        if headed:
            axes.text(
                left,
                top - 0.04,
                "\n".join(_wrapped(column.heading, count * LETTERS)),
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


def _wrapped(text: str, letters: int = LETTERS) -> list[str]:
    """At most three lines of so many letters."""
    lines = textwrap.wrap(text, letters, max_lines=3, placeholder="…")
    return [short(line, letters) for line in lines]
