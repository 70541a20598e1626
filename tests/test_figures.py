"""Figures are legible, whatever the names are, and are written the same, byte for byte."""

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from advlens.errors import RunError
from advlens.report.blocks import Picture, PictureColumn, PictureRow, PictureRowsBlock
from advlens.report.figures.accuracy import (
    accuracy_dots,
    accuracy_sweep,
    confusions,
    measure_panels,
    reliability,
)
from advlens.report.figures.dissection import category_shares, concept_bars, shares_by_threshold
from advlens.report.figures.neurons import (
    consistency_by_depth,
    consistency_curves,
    consistency_histograms,
)
from advlens.report.figures.pictures import ACROSS, abreast, picture_rows, unit_grid
from advlens.report.figures.style import (
    BAD,
    CATEGORIES,
    INK,
    MARKERS,
    MODELS,
    NARROW,
    RULE,
    SURFACE,
    dark,
    save_figure,
    svg,
)
from advlens.report.figures.training import training_curves
from advlens.report.sections.neurons.tables import NeuronTables
from advlens.report.sections.training.tables import histories
from advlens.runs.results import Results, Rows
from figure_data import BARS, BINS, DOTS, GRID, MAPPED, PAIRS, ROWS, made, pixels, shares
from synthetic_run import BOTH, LAYERS

FIGURES = """\
dots sweep histograms curves depth training shares thresholds bars measures confusions reliability \
rows grid mapped"""
HOSTILE = ("<script>$x^2$</a>&amp;", "模型 😀 " + "long" * 40)
PLOTS = FIGURES.split()[:-3]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return made(tmp_path_factory.mktemp("figures"))


@pytest.fixture(params=FIGURES.split())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def plotted(results: Results) -> dict[str, tuple[Callable[..., Figure], Rows, dict[str, Any]]]:
    """For each plot what draws it, its rows and its options."""
    tables = NeuronTables(results)
    floors = {model: found.value for model, found in tables.random("lc").items()}
    live = tables.units.where(layer=LAYERS[-1], dead=False)
    epochs = Rows(row for history in histories(results) for row in history.epochs)
    bars = Rows({**row, "model": "standard"} for row in BARS)

    def categories(rows: Rows, models: Sequence[str], **width: float) -> Figure:
        return category_shares(rows, **width)

    def concepts(rows: Rows, models: Sequence[str], **width: float) -> Figure:
        rows = Rows({**row, "concept": row["model"]} for row in rows)
        return concept_bars(rows, adversarial=True, **width)

    return {
        "dots": (accuracy_dots, results.table("accuracy"), {"chance": 0.25}),
        "sweep": (accuracy_sweep, results.table("sweep"), {"chance": 0.25}),
        "histograms": (consistency_histograms, live, {"floors": floors}),
        "curves": (consistency_curves, tables.curves, {"headings": tables.headings}),
        "depth": (consistency_by_depth, tables.layers, {"floors": floors}),
        "training": (training_curves, epochs, {}),
        "shares": (categories, shares(results), {}),
        "thresholds": (shares_by_threshold, shares(results, None), {"minimum": 0.04}),
        "bars": (concepts, bars, {}),
        "measures": (measure_panels, DOTS, {"label": "%"}),
        "confusions": (confusions, PAIRS, {"classes": ["cat", HOSTILE[0]]}),
        "reliability": (reliability, BINS, {}),
    }


@pytest.fixture
def draw(name: str, results: Results) -> Callable[..., Figure]:
    def drawn(models: Sequence[str] = BOTH, **width: float) -> Figure:
        if name == "rows":
            return picture_rows(ROWS, pixels)
        if name in ("grid", "mapped"):
            return unit_grid(GRID if name == "grid" else MAPPED, pixels)
        function, rows, options = plotted(results)[name]
        names = dict(zip(BOTH, models, strict=True))
        named = Rows({**row, "model": names[row["model"]]} for row in rows)
        return function(named, models, **options, **width)

    return drawn


def test_saved_files_are_valid_and_the_same_twice_with_names_as_they_are(name, draw, tmp_path):
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        png, svg = save_figure(draw(HOSTILE), folder, "name")
        assert (png, svg) == (folder / "figures/name.png", folder / "figures/name.svg")
        contents.append((png.read_bytes(), svg.read_bytes()))
    assert contents[0] == contents[1]
    png_bytes, svg_bytes = contents[0]
    with Image.open(io.BytesIO(png_bytes)) as image:
        assert image.format == "PNG"
        assert image.info.keys() <= {"dpi"}  # no date, no version
        assert np.asarray(image.convert("L")).std() > 5
    root = ElementTree.fromstring(svg_bytes)
    assert root.tag.endswith("svg")
    assert not re.search(rb"20\d\d-\d\d|matplotlib v|Matplotlib|<script", svg_bytes)
    assert name not in PLOTS or any(HOSTILE[0] in (element.text or "") for element in root.iter())


def test_every_axes_holds_data_and_every_text_is_legible(draw: Callable[..., Figure]) -> None:
    for figure in (draw(), draw(width=NARROW)):
        figure.draw_without_rendering()
        assert figure.axes
        assert all(axes.has_data() for axes in figure.axes)
        texts = [text for text in figure.findobj(Text) if text.get_text().strip()]
        assert min(text.get_fontsize() for text in texts) >= 9


def test_dark_exchanges_every_color_and_nothing_else() -> None:
    drawing = svg(unit_grid(GRID, pixels))
    night = dark(drawing)
    assert INK.light in drawing
    assert INK.light not in night
    assert night.count(INK.dark) == drawing.count(INK.light)
    restored = night
    for shade in (INK, RULE, SURFACE, *MODELS, *CATEGORIES.values()):
        restored = restored.replace(shade.dark, shade.light)
    for element in ("<text", "<image", "<path"):
        assert restored.count(element) == drawing.count(element)
    assert dark("url(#0072b2ff) href='#0072b2'") == "url(#0072b2ff) href='#0072b2'"


def luminance(color: str) -> float:
    parts = np.array([int(color[n : n + 2], 16) for n in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_model_colors_stand_out_on_their_ground() -> None:
    """WCAG 2 asks for a contrast of 3 for graphics."""
    for shade in MODELS:
        for color, ground in zip(shade, SURFACE, strict=True):
            low, high = sorted((luminance(color), luminance(ground)))
            assert (high + 0.05) / (low + 0.05) >= 3


def test_a_model_has_one_color_and_marker_everywhere(results: Results) -> None:
    tables = NeuronTables(results)
    for axes in (
        accuracy_sweep(results.table("sweep"), BOTH, chance=0.1).axes[0],
        consistency_curves(tables.curves, BOTH, headings=tables.headings).axes[0],
        consistency_by_depth(tables.layers, BOTH, floors={}).axes[1],
    ):
        lines = [line for line in axes.lines if line.get_linestyle() == "-"][:2]
        assert [line.get_color() for line in lines] == [MODELS[0].light, MODELS[1].light]
        assert [line.get_marker() for line in lines] == list(MARKERS[:2])


def corner(image: AxesImage) -> tuple[float, float]:
    """Left and top in inches; a picture is square and lies on the figure."""
    left, right, bottom, top = image.get_extent()
    figure = image.get_figure()
    assert isinstance(figure, Figure)
    assert right - left == pytest.approx(bottom - top)
    assert 0 <= left < right <= figure.get_figwidth()
    assert 0 <= top < bottom <= figure.get_figheight()
    return left, top


def test_unit_grid_shows_the_pictures_and_frames() -> None:
    (axes,) = unit_grid(GRID, pixels).axes
    cells = GRID.cells
    assert len({corner(image) for image in axes.images}) == len(cells) == 16
    captions = [text for text in axes.texts if text.get_va() == "top"]
    for image, caption, cell in zip(axes.images, captions, cells, strict=True):
        assert np.array_equal(image.get_array(), pixels(cell.file))
        assert caption.get_text() == cell.caption.replace(" →", "\n→")
        left, top = corner(image)
        assert caption.get_position()[0] > left
        assert caption.get_position()[1] > top
    frames = [patch.get_xy() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert frames == [corner(i) for i, c in zip(axes.images, cells, strict=True) if c.framed]
    assert frames


def test_unit_grid_shows_discrepancy_maps_below_their_pictures() -> None:
    figure = unit_grid(MAPPED, pixels)
    (axes,) = figure.axes
    for picture, drawn, cell in zip(
        axes.images[::2], axes.images[1::2], MAPPED.kinds["real"], strict=True
    ):
        assert np.array_equal(drawn.get_array(), pixels(cell.map))
        assert corner(drawn)[0] == corner(picture)[0]
        assert corner(drawn)[1] >= picture.get_extent()[2]  # the lower edge
    assert not any(text.get_text() == "Adversarial" for text in axes.texts)
    title = next(text for text in axes.texts if "unit 3" in text.get_text())
    figure.draw_without_rendering()
    assert title.get_window_extent().x1 <= figure.bbox.x1


def test_picture_rows_show_every_picture_in_its_place() -> None:
    (axes,) = picture_rows(ROWS, pixels).axes
    shown = [p for row in ROWS.rows for column in row.columns for p in column.pictures]
    assert len(axes.images) == len(shown) == 14
    for image, picture in zip(axes.images, shown, strict=True):
        assert np.array_equal(image.get_array(), pixels(picture.file))
    assert len({tuple(np.round(corner(image), 3)) for image in axes.images}) == 14
    captions = [text.get_color() for text in axes.texts if text.get_text() == "cat 0.9"]
    assert (len(captions), captions.count(BAD.light)) == (12, 4)
    titles = [text.get_text() for text in axes.texts if "row" in text.get_text()]
    assert titles == ["row 0", "standard\nrow 1"]


def test_rows_of_pictures_share_their_headings_if_they_have_the_same() -> None:
    def headings(block: PictureRowsBlock) -> list[str]:
        (axes,) = picture_rows(block, pixels).axes
        return [text.get_text() for text in axes.texts if text.get_va() == "bottom"]

    assert headings(ROWS) == ["Image", *BOTH]
    others = [replace(row, columns=row.columns[place:]) for place, row in enumerate(ROWS.rows)]
    assert headings(replace(ROWS, rows=others)) == ["Image", *BOTH, *BOTH]


@pytest.mark.parametrize("counts", [(1, 5, 5), (4, 4, 4, 4, 4), (12,), (1, 8, 8), (30,), (0, 2)])
def test_no_row_is_wider_than_a_page(counts: tuple[int, ...]) -> None:
    picture = Picture(file="", alt="")
    columns = [PictureColumn(heading="", pictures=[picture] * count) for count in counts]
    found = abreast(PictureRow(title="", columns=columns))
    assert len(found) == len(counts)
    assert all(1 <= n <= max(count, 1) for n, count in zip(found, counts, strict=True))
    assert sum(found) <= ACROSS + len(counts)
    if sum(counts) <= ACROSS:
        assert found == [max(count, 1) for count in counts]


def test_a_figure_that_cannot_be_written_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("a file where the folder should be")
    with pytest.raises(RunError, match="cannot write"):
        save_figure(unit_grid(GRID, pixels), tmp_path, "name")
