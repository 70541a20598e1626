"""Figures show the rows they are given, and are written the same, byte for byte."""

import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from advlens.errors import RunError
from advlens.report import figures
from advlens.report.blocks import Cell, Grid, Picture, PictureColumn, PictureRow, PictureRowsBlock
from advlens.report.figures.pictures import ACROSS
from advlens.report.figures.style import BAD, CATEGORIES, INK, MARKERS, MODELS, RULE, SURFACE
from advlens.report.sections.dissection.tables import DissectionTables
from advlens.report.sections.neurons.tables import NeuronTables
from advlens.report.sections.training.tables import histories
from advlens.runs.results import Results, Rows
from synthetic_dissection import write_dissection
from synthetic_run import write_run, write_training

MODEL_NAMES = ("standard", "robust")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    run = write_run(tmp_path_factory.mktemp("figures") / "run", shown=1)
    return Results.read(write_dissection(write_training(run), maps=False))


@pytest.fixture(scope="module")
def tables(results: Results) -> NeuronTables:
    return NeuronTables.read(results)


def shares(results: Results, minimum: float | None = 0.04) -> Rows:
    """Rows of the last layer; at all IoU thresholds those of all categories."""
    tables = DissectionTables.read(results)
    assert tables
    return Rows(
        row
        for row in tables.shares
        if row["layer"] == "layer2.0.conv2"
        and (row["minimum"] == minimum if minimum else row["category"] == "all")
    )


def accuracy_rows(results: Results, name: str = "accuracy") -> Rows:
    rows = results.table(name)
    assert rows
    return rows


def pixels(file: str) -> np.ndarray:
    return np.random.default_rng(len(file)).integers(0, 256, (8, 8, 3), dtype=np.uint8)


GRID = Grid(
    name="unit",
    model="standard",
    layer="conv1",
    unit=3,
    measures={"LC": "0.5"},
    real=[Cell(file=f"{n}", label="cat", predicted="cat") for n in range(8)],
    adversarial=[Cell(file=f"a{n}", label="dog", predicted="cat", framed=n < 3) for n in range(8)],
)


MAPPED = Grid(
    name="mapped",
    model="standard",
    layer="conv1",
    unit=3,
    measures={"Real": "a concept of a long name, IoU 0.1", "Adversarial": "x" * 99},
    real=[Cell(file=f"{n}", label="", predicted="", map=f"m{n}") for n in range(3)],
    adversarial=[],
)
ROWS = PictureRowsBlock(
    name="rows",
    title="Rows",
    caption="Rows.",
    file="rows.csv",
    rows=[
        PictureRow(
            title=f"row {n}",
            model="standard" if n else "",
            columns=[
                PictureColumn(heading="Image", pictures=[Picture(file="i", alt="Image")]),
                *(
                    PictureColumn(
                        heading=model,
                        model=True,
                        pictures=[
                            Picture(file=f"{model}{n}{k}", alt="x", caption="cat 0.9", wrong=k == 1)
                            for k in range(3)
                        ],
                    )
                    for model in MODEL_NAMES
                ),
            ],
        )
        for n in range(2)
    ],
)
DOTS = Rows(
    {"panel": panel, "group": group, "model": model, "mean": mean, "low": low, "high": mean + 0.2}
    for model, shift in (("standard", 0.0), ("robust", 0.3))
    for panel, group, mean, low in (
        ("First", "one", 0.5 + shift, 0.4 + shift),
        ("First", "two", -0.1, -0.2),
        ("Second", "one", 5.0, 4.0),
        ("Third", "one", 0.0, -1.0),
        ("Fourth", "two", 1.0, 0.0),
    )
)
BARS = Rows(
    {"concept": f"{'long' * (n % 9)} {n}", "category": category, "real": 31 - n, "adversarial": n}
    for n, category in zip(range(31), 6 * [*CATEGORIES, "new"], strict=False)
)


@pytest.fixture(
    params=[
        "dots",
        "sweep",
        "histograms",
        "curves",
        "depth",
        "training",
        "shares",
        "thresholds",
        "bars",
        "grid",
        "mapped",
        "measures",
        "rows",
    ]
)
def draw(
    request: pytest.FixtureRequest, results: Results, tables: NeuronTables
) -> Callable[..., Figure]:
    live = [row for row in tables.units if row["layer"] == "layer2.0.conv2" and not row["dead"]]
    floors = {model: found.value for model, found in tables.random("lc").items()}
    training = [row for history in histories(results) for row in history.epochs]

    def drawn(models: tuple[str, ...] = MODEL_NAMES, **width: float) -> Figure:
        def named(rows: Rows) -> Rows:
            names = dict(zip(MODEL_NAMES, models, strict=False))
            return Rows({**row, "model": names[row["model"]]} for row in rows)

        match request.param:
            case "dots":
                rows = named(accuracy_rows(results))
                return figures.accuracy_dots(rows, models, chance=0.25, **width)
            case "sweep":
                rows = named(accuracy_rows(results, "sweep"))
                return figures.accuracy_sweep(rows, models, chance=0.25, **width)
            case "histograms":
                shown = named(live)
                return figures.consistency_histograms(shown, models, floors=floors, **width)
            case "curves":
                return figures.consistency_curves(named(tables.curves), models, **width)
            case "depth":
                rows = named(tables.layers)
                return figures.consistency_by_depth(rows, models, floors=floors, **width)
            case "training":
                return figures.training_curves(named(training), models, **width)
            case "shares":
                return figures.category_shares(named(shares(results)), **width)
            case "thresholds":
                rows = named(shares(results, None))
                return figures.shares_by_threshold(rows, models, minimum=0.04, **width)
            case "bars":
                rows = Rows({**row, "concept": models[0]} for row in BARS)
                return figures.concept_bars(rows, adversarial=True, **width)
            case "measures":
                return figures.measure_panels(named(DOTS), models, **width)
            case "rows":
                return figures.picture_rows(ROWS, pixels)
        return figures.unit_grid(GRID if request.param == "grid" else MAPPED, pixels)

    return drawn


# every figure


def test_saved_files_are_valid_and_the_same_twice(
    draw: Callable[..., Figure], tmp_path: Path
) -> None:
    contents = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        png, svg = figures.save_figure(draw(), folder, "name")
        assert (png, svg) == (folder / "figures/name.png", folder / "figures/name.svg")
        contents.append((png.read_bytes(), svg.read_bytes()))
    assert contents[0] == contents[1]
    png_bytes, svg_bytes = contents[0]
    with Image.open(io.BytesIO(png_bytes)) as image:
        image.load()
        assert image.format == "PNG"
        assert image.info.keys() <= {"dpi"}  # no date, no version
        assert np.asarray(image.convert("L")).std() > 5
    root = ElementTree.fromstring(svg_bytes)
    assert root.tag.endswith("svg")
    assert not re.search(rb"20\d\d-\d\d|matplotlib v|Matplotlib", svg_bytes)


def test_every_axes_holds_data_and_every_text_is_legible(draw: Callable[..., Figure]) -> None:
    for figure in (draw(), draw(width=figures.NARROW)):
        figure.draw_without_rendering()
        assert figure.axes
        for axes in figure.axes:
            assert axes.has_data()
        texts = [text for text in figure.findobj(Text) if text.get_text().strip()]
        assert min(text.get_fontsize() for text in texts) >= 9


def test_hostile_names_are_drawn_as_they_are(draw: Callable[..., Figure]) -> None:
    models = ("<script>$x^2$</a>&amp;", "模型 😀 " + "long" * 40)
    svg = figures.svg(draw(models))
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.text]
    assert "<script" not in svg.lower()
    if "unit 3" not in svg and "row 1" not in svg:
        assert any(models[0] in text for text in texts)


# colors


def test_dark_exchanges_every_color_and_nothing_else() -> None:
    figure = figures.unit_grid(GRID, pixels)
    svg = figures.svg(figure)
    dark = figures.dark(svg)
    assert INK.light in svg
    assert INK.light not in dark
    assert dark.count(INK.dark) == svg.count(INK.light)
    restored = dark
    for shade in (INK, RULE, SURFACE, *MODELS, *CATEGORIES.values()):
        restored = restored.replace(shade.dark, shade.light)
    for element in ("<text", "<image", "<path"):
        assert restored.count(element) == svg.count(element)
    assert figures.dark("url(#0072b2ff) href='#0072b2'") == "url(#0072b2ff) href='#0072b2'"


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


def test_a_model_has_one_color_and_marker_everywhere(
    results: Results, tables: NeuronTables
) -> None:
    drawn = [
        figures.accuracy_sweep(accuracy_rows(results, "sweep"), MODEL_NAMES, chance=0.1).axes[0],
        figures.consistency_curves(tables.curves, MODEL_NAMES).axes[0],
        figures.consistency_by_depth(tables.layers, MODEL_NAMES, floors={}).axes[1],
    ]
    for axes in drawn:
        lines = [line for line in axes.lines if line.get_linestyle() == "-"][:2]
        assert [line.get_color() for line in lines] == [MODELS[0].light, MODELS[1].light]
        assert [line.get_marker() for line in lines] == list(MARKERS[:2])


# the data


def lines(axes: Axes, index: int) -> list[tuple[list[float], list[float]]]:
    """The lines of a model that hold data, with their coordinates."""
    return [
        (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if line.get_color() == MODELS[index].light and len(line.get_xdata())
    ]


def bands(axes: Axes) -> list[PolyCollection]:
    return [artist for artist in axes.collections if isinstance(artist, PolyCollection)]


def test_dots_stand_at_the_accuracies(results: Results) -> None:
    rows = accuracy_rows(results)
    figure = figures.accuracy_dots(rows, MODEL_NAMES, chance=0.25)
    (axes,) = figure.axes
    for index, model in enumerate(MODEL_NAMES):
        ((values, heights),) = lines(axes, index)
        mine = [row for row in rows if row["model"] == model]
        assert values == pytest.approx([100 * row["top1"] for row in mine])
        assert heights == [3 * place + index for place in range(4)]
        whiskers = axes.collections[2 * index + 1]
        ends = [segment[:, 0].tolist() for segment in whiskers.get_segments()]
        wanted = [[100 * row["top1_low"], 100 * row["top1_high"]] for row in mine]
        assert np.allclose(ends, wanted)
    texts = {text.get_text() for text in axes.texts}
    assert texts == {f"{100 * row['top1']:.1f}" for row in rows}
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == "natural images"
    assert names[3] == "PGD-20\nL2 ε = 0.5"


def test_sweep_draws_each_norm_from_epsilon_zero(results: Results) -> None:
    rows = accuracy_rows(results, "sweep")
    figure = figures.accuracy_sweep(rows, MODEL_NAMES, chance=0.25)
    for axes, norm, scale in zip(figure.axes, ("L2", "Linf"), (1, 255), strict=True):
        for index, model in enumerate(MODEL_NAMES):
            ((radii, values),) = lines(axes, index)
            mine = [r for r in rows if r["model"] == model and r["norm"] in ("", norm)]
            mine.sort(key=lambda row: row["epsilon"])
            assert radii == pytest.approx([scale * row["epsilon"] for row in mine])
            assert radii[0] == 0
            assert values == pytest.approx([100 * row["top1"] for row in mine])
            heights = bands(axes)[index].get_paths()[0].vertices[:, 1]
            assert heights.max() == pytest.approx(100 * max(row["top1_high"] for row in mine))
        chance = [line for line in axes.lines if set(line.get_ydata()) == {25}]
        assert len(chance) == 1


def test_histograms_hold_every_unit_and_mark_the_mean(tables: NeuronTables) -> None:
    rows = tables.units.where(layer="layer1.0.conv2")
    figure = figures.consistency_histograms(rows, MODEL_NAMES, floors={"robust": 0.13})
    panels = np.array(figure.axes).reshape(2, 2)
    for column, model in enumerate(MODEL_NAMES):
        for axes, measure in zip(panels[:, column], ("lc", "consis_adv_fgsm"), strict=True):
            values = [row[measure] for row in rows if row["model"] == model]
            assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(100)
            inside = [
                sum(left <= value < left + width for value in values)
                for left, width in ((b.get_x(), b.get_width() / 0.92) for b in axes.patches)
            ]
            assert sum(inside) >= len(values) - 1  # a bar is narrower than its bin
            mean = axes.lines[0].get_xdata()[0]
            assert mean == pytest.approx(sum(values) / len(values))
            assert len(axes.lines) == (2 if model == "robust" else 1)
    assert panels[0, 0].get_xlim() == panels[1, 1].get_xlim()
    assert panels[0, 0].get_ylim() == panels[1, 1].get_ylim()


def test_more_models_stand_one_below_the_other(tables: NeuronTables) -> None:
    rows = tables.units.where(layer="conv1")
    models = ("standard", "robust", "third")
    rows += [{**row, "model": "third"} for row in rows.where(model="robust")]
    figure = figures.consistency_histograms(rows, models, floors={})
    panels = np.array(figure.axes).reshape(3, 2)
    assert [axes.get_title("left") for axes in panels[:, 0]] == list(models)
    for row, model in zip(panels, models, strict=True):
        for axes, measure in zip(row, ("lc", "consis_adv_fgsm"), strict=True):
            values = [row[measure] for row in rows if row["model"] == model]
            assert axes.lines[0].get_xdata()[0] == pytest.approx(sum(values) / len(values))


def test_curves_stand_at_the_bins_with_their_counts(tables: NeuronTables) -> None:
    figure = figures.consistency_curves(tables.curves, MODEL_NAMES)
    panels = np.array(figure.axes).reshape(3, 2)
    for column, kind in enumerate(("least-likely", "equal-success")):
        for index, model in enumerate(MODEL_NAMES):
            mine = [r for r in tables.curves if (r["model"], r["images"]) == (model, kind)]
            for axes, measure in zip(panels[:2, column], ("cs1", "cs2"), strict=True):
                for shown, (centers, values) in zip(
                    (
                        [r for r in mine if r["units"] >= figures.FEW],
                        [r for r in mine if r["units"] < figures.FEW],
                    ),
                    lines(axes, index),
                    strict=True,
                ):
                    assert centers == [row["lc"] for row in shown]
                    assert values == [row[measure] for row in shown]
                hollow = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
                assert {line.get_linestyle() for line in hollow} == {"None"}
            bars = [
                bar
                for bar in panels[2, column].patches
                if bar.get_facecolor()[:3] == pytest.approx(rgb(MODELS[index].light), abs=1e-6)
            ]
            assert [bar.get_height() for bar in bars] == [row["units"] for row in mine]
            for bar, row in zip(bars, mine, strict=True):
                assert (
                    row["bin_low"]
                    <= bar.get_x()
                    <= bar.get_x() + bar.get_width()
                    <= row["bin_high"]
                )


def rgb(color: str) -> tuple[float, ...]:
    return tuple(int(color[n : n + 2], 16) / 255 for n in (1, 3, 5))


def test_depth_shows_the_layer_means_in_order(tables: NeuronTables) -> None:
    rows = Rows([*tables.layers, {**tables.layers[0], "layer": "dead", "lc_mean": None}])
    figure = figures.consistency_by_depth(rows, MODEL_NAMES, floors={"robust": 0.13})
    for axes, measures in zip(figure.axes, (("lc", "consis_adv"), ("cs1",), ("cs2",)), strict=True):
        mine = [row for row in tables.layers if row["model"] == "robust"]
        for (_, values), measure in zip(lines(axes, 1), measures, strict=True):
            assert values == [row[f"{measure}_mean"] for row in mine]
    assert figure.axes[2].get_xlabel() == "Place of the convolution in its network"
    same = figures.consistency_by_depth(tables.layers, MODEL_NAMES, floors={})
    labels = [label.get_text() for label in same.axes[2].get_xticklabels()]
    assert labels == ["conv1", "layer1.0.conv2", "layer2.0.conv2"]


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
    (axes,) = figures.unit_grid(GRID, pixels).axes
    cells = (*GRID.real, *GRID.adversarial)
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
    figure = figures.unit_grid(MAPPED, pixels)
    (axes,) = figure.axes
    pictures, maps = axes.images[::2], axes.images[1::2]
    for picture, drawn, cell in zip(pictures, maps, MAPPED.real, strict=True):
        assert np.array_equal(drawn.get_array(), pixels(cell.map))
        assert corner(drawn)[0] == corner(picture)[0]
        assert corner(drawn)[1] >= picture.get_extent()[2]  # the lower edge
    assert not any(text.get_text() == "Adversarial" for text in axes.texts)
    title = next(text for text in axes.texts if "unit 3" in text.get_text())
    figure.draw_without_rendering()
    assert title.get_window_extent().x1 <= figure.bbox.x1


def test_picture_rows_show_every_picture_in_its_place() -> None:
    figure = figures.picture_rows(ROWS, pixels)
    (axes,) = figure.axes
    shown = [p for row in ROWS.rows for column in row.columns for p in column.pictures]
    assert len(axes.images) == len(shown) == 14
    places = set()
    for image, picture in zip(axes.images, shown, strict=True):
        assert np.array_equal(image.get_array(), pixels(picture.file))
        left, top = corner(image)
        places.add((round(left, 3), round(top, 3)))
    assert len(places) == 14
    captions = [text for text in axes.texts if text.get_text() == "cat 0.9"]
    assert len(captions) == 12
    assert [text.get_color() for text in captions].count(BAD.light) == 4
    titles = [text.get_text() for text in axes.texts if "row" in text.get_text()]
    assert titles == ["row 0", "standard, row 1"]


def row_of(*counts: int) -> PictureRow:
    columns = [
        PictureColumn(heading="", pictures=[Picture(file="", alt="")] * count) for count in counts
    ]
    return PictureRow(title="", columns=columns)


@pytest.mark.parametrize("counts", [(1, 5, 5), (4, 4, 4, 4, 4), (12,), (1, 8, 8), (30,), (0, 2)])
def test_no_row_is_wider_than_a_page(counts: tuple[int, ...]) -> None:
    found = figures.abreast(row_of(*counts))
    assert len(found) == len(counts)
    assert all(1 <= n <= max(count, 1) for n, count in zip(found, counts, strict=True))
    assert sum(found) <= ACROSS + len(counts)
    if sum(counts) <= ACROSS:
        assert found == [max(count, 1) for count in counts]


def test_measures_have_a_panel_each_with_its_own_scale() -> None:
    figure = figures.measure_panels(DOTS, MODEL_NAMES)
    assert [axes.get_title("left") for axes in figure.axes] == [
        "First",
        "Second",
        "Third",
        "Fourth",
    ]
    for axes in figure.axes:
        mine = [row for row in DOTS if row["panel"] == axes.get_title("left")]
        for index, model in enumerate(MODEL_NAMES):
            own = [row for row in mine if row["model"] == model]
            ((values, heights),) = lines(axes, index)
            assert values == [row["mean"] for row in own]
            assert heights == [3 * ("one", "two").index(row["group"]) + index for row in own]
            ends = [part[:, 0].tolist() for part in axes.collections[index].get_segments()]
            assert np.allclose(ends, [[row["low"], row["high"]] for row in own])
        low, high = axes.get_xlim()
        assert low <= min(0, *(row["low"] for row in mine))
        assert high > max(row["high"] for row in mine)


def test_a_measure_without_an_interval_is_a_dot() -> None:
    rows = Rows({**row, "low": None, "high": None} for row in DOTS)
    figure = figures.measure_panels(rows, MODEL_NAMES)
    assert not any(c.get_segments() for axes in figure.axes for c in axes.collections)
    assert lines(figure.axes[0], 1)[0][0] == [0.8, -0.1]


def test_shares_stack_the_categories_and_mark_chance(results: Results) -> None:
    rows = shares(results)
    (axes,) = figures.category_shares(rows).axes
    shown = [row for row in rows if row["images"] != "adversarial-reestimated"]
    stacked = [row for row in shown if row["category"] != "all"]
    assert len(axes.patches) == len(stacked) == 4 * 6
    left: dict[float, float] = {}
    for bar, row in zip(axes.patches, stacked, strict=True):
        assert bar.get_width() == pytest.approx(100 * row["share"])
        assert bar.get_x() == pytest.approx(left.get(bar.get_y(), 0.0), rel=1e-4)
        left[bar.get_y()] = bar.get_x() + bar.get_width()
        assert bar.get_facecolor()[:3] == pytest.approx(
            rgb(CATEGORIES[row["category"]].light), abs=1e-6
        )
    totals = [row for row in shown if row["category"] == "all"]
    assert sorted(left.values()) == pytest.approx(
        sorted(100 * row["share"] for row in totals), rel=1e-4
    )
    chance = [line.get_segments()[0][0][0] for line in axes.collections]
    assert chance == pytest.approx([100 * row["permuted_share"] for row in totals])
    names = [text.get_text() for text in axes.texts if "units" in text.get_text()]
    assert names == [f"{model}, layer2.0.conv2, 48 units" for model in MODEL_NAMES]


def test_shares_by_threshold_stand_beside_chance(results: Results) -> None:
    rows = shares(results, None)
    figure = figures.shares_by_threshold(rows, MODEL_NAMES, minimum=0.04)
    for axes, kind in zip(figure.axes, ("real", "adversarial"), strict=True):
        for index, model in enumerate(MODEL_NAMES):
            mine = [row for row in rows if (row["model"], row["images"]) == (model, kind)]
            for found, name in zip(lines(axes, index), ("share", "permuted_share"), strict=True):
                assert found[0] == [row["minimum"] for row in mine]
                assert found[1] == pytest.approx([100 * row[name] for row in mine])


def test_bars_pair_real_and_adversarial_detectors() -> None:
    (axes,) = figures.concept_bars(BARS, adversarial=True).axes
    half = len(axes.patches) // 2
    assert half == figures.CONCEPTS < len(BARS)
    for place, (real, adversarial) in enumerate(
        zip(axes.patches[:half], axes.patches[half:], strict=True)
    ):
        assert (real.get_width(), adversarial.get_width()) == (31 - place, place)
        assert real.get_facecolor()[:3] == adversarial.get_facecolor()[:3]
        assert real.get_facecolor()[3] > adversarial.get_facecolor()[3]
    (alone,) = figures.concept_bars(BARS, adversarial=False).axes
    assert len(alone.patches) == figures.CONCEPTS


def test_one_model_needs_no_legend(results: Results) -> None:
    rows = accuracy_rows(results).where(model="robust")
    assert not figures.accuracy_dots(rows, ("robust",), chance=0.1).legends
    assert figures.accuracy_dots(accuracy_rows(results), MODEL_NAMES, chance=0.1).legends


def test_a_figure_that_cannot_be_written_is_a_run_error(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("a file where the folder should be")
    with pytest.raises(RunError, match="cannot write"):
        figures.save_figure(figures.unit_grid(GRID, pixels), tmp_path, "name")
