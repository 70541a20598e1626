"""One look for all figures, and how they are written."""

from __future__ import annotations

import functools
import io
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from advlens.files import atomic
from advlens.words import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 6.4
"""Inches, for a page or a paper's two columns."""
NARROW = 4.0
"""Inches, for a phone or one column: the same text, on less room."""
DPI = 200
LONGEST = 30_000
"""Pixels of a side of a PNG: twice as many are more than matplotlib draws."""
DOTTED = (0, (2, 2))


class Shade(NamedTuple):
    """A color on white and its counterpart on near-black."""

    light: str
    dark: str


INK = Shade("#1c2630", "#e6eaee")
MUTED = Shade("#5c6873", "#9aa7b3")
RULE = Shade("#dfe4e8", "#323c46")
SURFACE = Shade("#ffffff", "#12171c")
FRAME = Shade("#e0a100", "#ffc53d")
BAD = Shade("#b42318", "#ff8f80")
MODELS = (
    Shade("#0072b2", "#5cb8f0"),
    Shade("#cc4e00", "#ff9a5c"),
    Shade("#00805e", "#3ecfa3"),
    Shade("#a8447f", "#ec9fcc"),
    Shade("#7a6a00", "#dcc64a"),
    Shade("#5a6672", "#aab6c2"),
)
"""After Okabe and Ito: told apart under the common color blindnesses, each ≥ 3:1 on its ground."""
CATEGORIES = {
    "color": Shade("#8a56c2", "#b794e8"),
    "texture": Shade("#c23b5a", "#f2849b"),
    "material": Shade("#9a7b00", "#d9b83d"),
    "scene": Shade("#2e8b3d", "#6fcf7f"),
    "part": Shade("#0b8796", "#4fc3d0"),
    "object": Shade("#3a6fc4", "#86b0f5"),
}
"""Of concepts, in the papers' order; other categories are gray."""
OTHER = Shade("#6b7785", "#a3b0bd")
MARKERS = "osD^vP"

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "Helvetica", "Arial", "sans-serif"],
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.6,
    "text.color": INK.light,
    "axes.labelcolor": MUTED.light,
    "axes.titlecolor": INK.light,
    "axes.edgecolor": MUTED.light,
    "xtick.color": MUTED.light,
    "ytick.color": MUTED.light,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": RULE.light,
    "grid.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.facecolor": "none",
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.linewidth": 1.8,
    "lines.markersize": 6,
    "lines.markeredgewidth": 1,
    "lines.markeredgecolor": SURFACE.light,
    "figure.constrained_layout.use": True,
    "text.parse_math": False,  # a model may be called "$x$"
    "image.composite_image": False,  # each picture keeps its own pixels
    "svg.fonttype": "none",
    "svg.hashsalt": "advlens",
    "axes.unicode_minus": True,
}


@contextmanager
def style() -> Iterator[None]:
    """The look, for the figures made and saved inside; characters without a glyph are no fault."""
    from matplotlib import rc_context

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from font")
        with rc_context(STYLE):
            yield


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the look of the report."""

    @functools.wraps(draw)
    def drawn(*arguments: Any, **options: Any) -> Figure:
        with style():
            return draw(*arguments, **options)

    return drawn


def new_figure(height: float, *, width: float = WIDTH) -> Figure:
    """An empty figure of this size in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def colors(index: int) -> Shade:
    """The color of the model with this place in the run, the same in all figures."""
    return MODELS[index % len(MODELS)]


def category_color(category: str) -> Shade:
    """The color of a concept's category, the same in all figures."""
    return CATEGORIES.get(category, OTHER)


def category_order(names: Iterable[str]) -> list[str]:
    """Categories in the papers' order, others after them."""
    return sorted(set(names), key=lambda name: ([*CATEGORIES, name].index(name), name))


def look(index: int) -> dict[str, Any]:
    """Color, marker and dashes of a model's lines; past the palette the dashes change."""
    dashes = "-" if index < len(MODELS) else "--"
    return {
        "color": colors(index).light,
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": dashes,
    }


def short(text: str, length: int = 26) -> str:
    """A text on one line, cut in its middle, where names differ least."""
    text = " ".join(text.split())
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def legend(figure: Figure, axes: Axes, models: Sequence[str], **line: Any) -> None:
    """The models above the plot, in order, unless there is only one."""
    if len(models) < 2:
        return
    handles = [
        axes.plot([], [], label=short(model), **(look(index) | line))[0]
        for index, model in enumerate(models)
    ]
    letters = 11 * figure.get_figwidth()
    columns = max(1, int(letters // (6 + max(len(short(model)) for model in models))))
    figure.legend(handles=handles, loc="outside upper left", ncols=columns, borderaxespad=0.2)


def across_only(axes: Axes) -> None:
    """Lines of the grid for the horizontal axis alone."""
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)


def tiles(
    titles: Sequence[str], height: float, *, width: float, room: float, label: str = ""
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel for each title, three abreast or two on a phone.

    Args:
        titles: of the panels, in reading order.
        height: of a panel in inches.
        width: of the figure in inches.
        room: above the panels in inches.
        label: of the vertical axes.
    """
    across = min(len(titles), 3 if width > NARROW else 2)
    down = -(-len(titles) // across)
    figure = new_figure(room + down * height, width=width)
    panels = figure.subplots(down, across, sharey=True, squeeze=False).flatten()
    for axes in panels[len(titles) :]:
        axes.remove()
    for title, axes in zip(titles, panels, strict=False):
        axes.set_title(title)
    for axes in panels[::across]:
        axes.set_ylabel(label)
    return figure, dict(zip(titles, panels, strict=False))


def banded(
    axes: Axes,
    places: Sequence[float],
    rows: Sequence[Mapping[str, Any]],
    name: str,
    index: int,
    *,
    n: str = "n",
    scale: float = 1,
    alpha: float = 0.16,
    **line: Any,
) -> None:
    """A model's line through the values of a column, in the band of its intervals.

    Args:
        axes: the panel.
        places: of the rows on the horizontal axis.
        rows: with the columns of `Estimate.of`.
        name: of the column.
        index: the model's place in the run.
        n: column of their number.
        scale: by which values are drawn larger.
        alpha: opacity of the band.
        line: options of the line.
    """
    estimates = [Estimate.of(row, name, n) for row in rows]
    values = [scale * each.value for each in estimates]
    low, high = (
        [value if end is None else scale * end for value, end in zip(values, ends, strict=True)]
        for ends in ([each.low for each in estimates], [each.high for each in estimates])
    )
    axes.fill_between(places, low, high, color=colors(index).light, alpha=alpha, linewidth=0)
    axes.plot(places, values, **look(index) | {"clip_on": False, "zorder": 3} | line)


def save_figure(figure: Figure, run: Path, name: str) -> tuple[Path, Path]:
    """Write `figures/<name>.png` (white) and `.svg` (transparent) into a run folder.

    A PNG has 200 dots per inch, or fewer where one of its sides would be longer than `LONGEST`.
    The same figure gives the same bytes: ids are salted, and no date or version is written.

    Returns:
        The paths of the PNG and of the SVG.

    Raises:
        RunError: a file cannot be written.
    """
    paths = run / "figures" / f"{name}.png", run / "figures" / f"{name}.svg"
    png = io.BytesIO()
    dpi = min(DPI, LONGEST / max(figure.get_size_inches()))
    with _laid_out(figure):
        figure.savefig(png, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    for path, content in zip(paths, (png.getvalue(), svg(figure).encode()), strict=True):
        with atomic(path) as file:
            file.write(content)
    return paths


def svg(figure: Figure) -> str:
    """A figure as SVG on a transparent ground; texts stay texts."""
    content = io.BytesIO()
    with _laid_out(figure):
        figure.savefig(
            content,
            format="svg",
            dpi=DPI,  # of the pictures in it
            facecolor="none",
            metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")),
        )
    return content.getvalue().decode()


@contextmanager
def _laid_out(figure: Figure) -> Iterator[None]:
    """The look, with the axes in place: with a layout engine, each saving draws twice."""
    from matplotlib import rc_context

    with style():
        if figure.axes and (engine := figure.get_layout_engine()):
            engine.execute(figure)
        with rc_context({"figure.constrained_layout.use": False}):
            figure.set_layout_engine(None)
            yield


def dark(drawing: str) -> str:
    """The same drawing for a dark page: every color of the look gives way to its counterpart."""
    shades = (INK, MUTED, RULE, SURFACE, FRAME, BAD, OTHER, *MODELS, *CATEGORIES.values())
    exchanged = {shade.light: shade.dark for shade in shades}
    return re.sub(
        r"(?<=[: \"])#[0-9a-f]{6}(?=[;\"])",
        lambda color: exchanged.get(color.group(), color.group()),
        drawing,
    )
