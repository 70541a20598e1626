"""Plots show the rows that they are given."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from advlens.intervals import wilson
from advlens.report.figures.accuracy import accuracy_dots, accuracy_sweep, measure_panels
from advlens.report.figures.dissection import (
    CONCEPTS,
    category_shares,
    concept_bars,
    shares_by_threshold,
)
from advlens.report.figures.neurons import (
    FEW,
    consistency_by_depth,
    consistency_curves,
    consistency_histograms,
)
from advlens.report.figures.style import CATEGORIES, MARKERS, MODELS
from advlens.report.figures.training import ON_TRAINING_IMAGES, training_curves
from advlens.report.sections.neurons.tables import NeuronTables
from advlens.report.sections.training.tables import histories
from advlens.runs.results import Results, Rows
from figure_data import BARS, DOTS, made, shares
from synthetic_run import BOTH, LAYERS, write_run, write_training

CONSISTENCY = ("lc", "consis_adv_fgsm")
LOSSES = ("natural_loss", "adversarial_loss", "train_natural_loss", "train_adversarial_loss")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return made(tmp_path_factory.mktemp("figures"))


@pytest.fixture(scope="module")
def tables(results: Results) -> NeuronTables:
    return NeuronTables(results)


def lines(axes: Axes, index: int) -> list[tuple[list[float], list[float]]]:
    """The lines of a model that hold data, with their coordinates."""
    return [
        (list(line.get_xdata()), list(line.get_ydata()))
        for line in axes.lines
        if line.get_color() == MODELS[index].light and len(line.get_xdata())
    ]


def bands(axes: Axes) -> list[PolyCollection]:
    return [artist for artist in axes.collections if isinstance(artist, PolyCollection)]


def rgb(color: str) -> tuple[float, ...]:
    return pytest.approx(tuple(int(color[n : n + 2], 16) / 255 for n in (1, 3, 5)), abs=1e-6)


def test_dots_stand_at_the_accuracies(results: Results) -> None:
    rows = results.table("accuracy")
    (axes,) = accuracy_dots(rows, BOTH, chance=0.25).axes
    for index, model in enumerate(BOTH):
        ((values, heights),) = lines(axes, index)
        mine = rows.where(model=model)
        assert values == pytest.approx([100 * row["top1"] for row in mine])
        assert heights == [3 * place + index for place in range(4)]
        ends = [part[:, 0].tolist() for part in axes.collections[index].get_segments()]
        assert np.allclose(ends, [[100 * row["top1_low"], 100 * row["top1_high"]] for row in mine])
    assert {text.get_text() for text in axes.texts} == {f"{100 * row['top1']:.1f}" for row in rows}
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[0] == "natural images"
    assert names[3] == "PGD-20\nL2 ε = 0.5"


def test_one_model_needs_no_legend(results: Results) -> None:
    rows = results.table("accuracy")
    assert not accuracy_dots(rows.where(model="robust"), ("robust",), chance=0.1).legends
    assert accuracy_dots(rows, BOTH, chance=0.1).legends


def test_sweep_draws_each_norm_from_epsilon_zero(results: Results) -> None:
    rows = results.table("sweep")
    figure = accuracy_sweep(rows, BOTH, chance=0.25)
    for axes, norm, scale in zip(figure.axes, ("L2", "Linf"), (1, 255), strict=True):
        for index, model in enumerate(BOTH):
            ((radii, values),) = lines(axes, index)
            mine = rows.where(model=model, norm=("", norm)).ordered("epsilon")
            assert radii == pytest.approx([scale * row["epsilon"] for row in mine])
            assert radii[0] == 0
            assert values == pytest.approx([100 * row["top1"] for row in mine])
            heights = bands(axes)[index].get_paths()[0].vertices[:, 1]
            assert heights.max() == pytest.approx(100 * max(row["top1_high"] for row in mine))
        assert sum(set(line.get_ydata()) == {25} for line in axes.lines) == 1


def test_histograms_hold_every_unit_and_mark_the_mean(tables: NeuronTables) -> None:
    rows = tables.units.where(layer=LAYERS[1])
    figure = consistency_histograms(rows, BOTH, floors={"robust": 0.13})
    panels = np.array(figure.axes).reshape(2, 2)
    for column, model in enumerate(BOTH):
        for axes, measure in zip(panels[:, column], CONSISTENCY, strict=True):
            values = [row[measure] for row in rows.where(model=model)]
            assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(100)
            bars = [(bar.get_x(), bar.get_width() / 0.92) for bar in axes.patches]
            inside = sum(left <= v < left + width for left, width in bars for v in values)
            assert inside >= len(values) - 1  # a bar is narrower than its bin
            assert axes.lines[0].get_xdata()[0] == pytest.approx(np.mean(values))
            assert len(axes.lines) == (2 if model == "robust" else 1)
    assert panels[0, 0].get_xlim() == panels[1, 1].get_xlim()
    assert panels[0, 0].get_ylim() == panels[1, 1].get_ylim()


def test_more_models_stand_one_below_the_other(tables: NeuronTables) -> None:
    rows, models = tables.units.where(layer="conv1"), (*BOTH, "third")
    rows += [{**row, "model": "third"} for row in rows.where(model="robust")]
    panels = np.array(consistency_histograms(rows, models, floors={}).axes).reshape(3, 2)
    assert [axes.get_title("left") for axes in panels[:, 0]] == list(models)
    for row, model in zip(panels, models, strict=True):
        for axes, measure in zip(row, CONSISTENCY, strict=True):
            mean = np.mean([unit[measure] for unit in rows.where(model=model)])
            assert axes.lines[0].get_xdata()[0] == pytest.approx(mean)


def test_curves_stand_at_the_bins_with_their_counts(tables: NeuronTables) -> None:
    figure = consistency_curves(tables.curves, BOTH, headings=tables.headings)
    panels = np.array(figure.axes).reshape(3, 2)
    for column, kind in enumerate(("least-likely", "equal-success")):
        for index, model in enumerate(BOTH):
            mine = tables.curves.where(model=model, images=kind)
            many, few = (
                [row for row in mine if (row["units"] < FEW) == small] for small in (False, True)
            )
            for axes, measure in zip(panels[:2, column], ("cs1", "cs2"), strict=True):
                assert lines(axes, index) == [
                    ([row["lc"] for row in shown], [row[measure] for row in shown])
                    for shown in (many, few)
                ]
                hollow = [line for line in axes.lines if line.get_markerfacecolor() == "none"]
                assert {line.get_linestyle() for line in hollow} == {"None"}
            color, patches = rgb(MODELS[index].light), panels[2, column].patches
            bars = [bar for bar in patches if bar.get_facecolor()[:3] == color]
            for bar, row in zip(bars, mine, strict=True):
                left, right = bar.get_x(), bar.get_x() + bar.get_width()
                assert row["bin_low"] <= left <= right <= row["bin_high"]
                assert bar.get_height() == row["units"]


def test_depth_shows_the_layer_means_in_order(tables: NeuronTables) -> None:
    rows = Rows([*tables.layers, {**tables.layers[0], "layer": "dead", "lc_mean": None}])
    figure = consistency_by_depth(rows, BOTH, floors={"robust": 0.13})
    for axes, measures in zip(figure.axes, (("lc", "consis_adv"), ("cs1",), ("cs2",)), strict=True):
        mine = tables.layers.where(model="robust")
        for (_, values), measure in zip(lines(axes, 1), measures, strict=True):
            assert values == [row[f"{measure}_mean"] for row in mine]
    assert figure.axes[2].get_xlabel() == "Place of the convolution in its network"
    same = consistency_by_depth(tables.layers, BOTH, floors={})
    assert [label.get_text() for label in same.axes[2].get_xticklabels()] == list(LAYERS)


def test_measures_have_a_panel_each_with_its_own_scale() -> None:
    figure = measure_panels(DOTS, BOTH)
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles == ["First", "Second", "Third", "Fourth"]
    for axes, title in zip(figure.axes, titles, strict=True):
        mine = DOTS.where(panel=title)
        for index, model in enumerate(BOTH):
            own = mine.where(model=model)
            ((values, heights),) = lines(axes, index)
            assert values == [row["mean"] for row in own]
            assert heights == [3 * ("one", "two").index(row["group"]) + index for row in own]
            ends = [part[:, 0].tolist() for part in axes.collections[index].get_segments()]
            assert np.allclose(ends, [[row["low"], row["high"]] for row in own])
        low, high = axes.get_xlim()
        assert low <= min(0, *(row["low"] for row in mine))
        assert high > max(row["high"] for row in mine)


def test_a_measure_without_an_interval_is_a_dot() -> None:
    figure = measure_panels(Rows({**row, "low": None, "high": None} for row in DOTS), BOTH)
    assert not any(c.get_segments() for axes in figure.axes for c in axes.collections)
    assert lines(figure.axes[0], 1)[0][0] == [0.8, -0.1]


def test_shares_stack_the_categories_and_mark_chance(results: Results) -> None:
    (axes,) = category_shares(shares(results)).axes
    shown = shares(results).where(images=("real", "adversarial"))
    stacked = [row for row in shown if row["category"] != "all"]
    assert len(axes.patches) == len(stacked) == 4 * 6
    left: dict[float, float] = {}
    for bar, row in zip(axes.patches, stacked, strict=True):
        assert bar.get_width() == pytest.approx(100 * row["share"])
        assert bar.get_x() == pytest.approx(left.get(bar.get_y(), 0.0), rel=1e-4)
        left[bar.get_y()] = bar.get_x() + bar.get_width()
        assert bar.get_facecolor()[:3] == rgb(CATEGORIES[row["category"]].light)
    totals = shown.where(category="all")
    whole = sorted(100 * row["share"] for row in totals)
    assert sorted(left.values()) == pytest.approx(whole, rel=1e-4)
    chance = [line.get_segments()[0][0][0] for line in axes.collections]
    assert chance == pytest.approx([100 * row["permuted_share"] for row in totals])
    names = [text.get_text() for text in axes.texts if "units" in text.get_text()]
    assert names == [f"{model}, layer2.0.conv2, 48 units" for model in BOTH]


def test_shares_by_threshold_stand_beside_chance(results: Results) -> None:
    rows = shares(results, None)
    figure = shares_by_threshold(rows, BOTH, minimum=0.04)
    for axes, kind in zip(figure.axes, ("real", "adversarial"), strict=True):
        for index, model in enumerate(BOTH):
            mine = rows.where(model=model, images=kind)
            for found, name in zip(lines(axes, index), ("share", "permuted_share"), strict=True):
                assert found[0] == [row["minimum"] for row in mine]
                assert found[1] == pytest.approx([100 * row[name] for row in mine])


def test_bars_pair_real_and_adversarial_detectors() -> None:
    (axes,) = concept_bars(BARS, adversarial=True).axes
    half = len(axes.patches) // 2
    assert half == CONCEPTS < len(BARS)
    pairs = zip(axes.patches[:half], axes.patches[half:], strict=True)
    for place, (real, adversarial) in enumerate(pairs):
        assert (real.get_width(), adversarial.get_width()) == (31 - place, place)
        assert real.get_facecolor()[:3] == adversarial.get_facecolor()[:3]
        assert real.get_facecolor()[3] > adversarial.get_facecolor()[3]
    (alone,) = concept_bars(BARS, adversarial=False).axes
    assert len(alone.patches) == CONCEPTS


def rows_of(folder: Path, epochs: int = 12, left_out: Sequence[str] = ()) -> Rows:
    run = write_training(write_run(folder, shown=0), epochs=epochs, left_out=left_out)
    return Rows(row for history in histories(Results.read(run)) for row in history.epochs)


def panels(figure: Figure) -> dict[str, Axes]:
    return {str(axes.get_label()): axes for axes in figure.axes}


def curve(axes: Axes, index: int, dashed: bool) -> list[tuple[float, float]]:
    """The points of a model's solid or dashed line; none where there is no such line."""
    found = [
        line
        for line in axes.lines
        if line.get_color() == MODELS[index].light
        and line.get_marker() == "None"
        and (line.get_linestyle() == "--") == dashed
    ]
    assert len(found) <= 1
    return [(x, y) for line in found for x, y in zip(*line.get_data(), strict=True)]


def marks(axes: Axes, index: int) -> list[tuple[float, float]]:
    return [
        (line.get_xdata()[0], line.get_ydata()[0])
        for line in axes.lines
        if line.get_color() == MODELS[index].light
        and line.get_marker() == MARKERS[index]
        and len(line.get_xdata())
    ]


def test_solid_is_held_out_dashed_is_training_and_the_kept_epoch_is_marked(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    drawn = panels(training_curves(rows, BOTH))
    assert list(drawn) == ["natural", "adversarial", "natural_loss", "adversarial_loss"]
    for name, axes in drawn.items():
        scale = 1 if name.endswith("loss") else 100
        for index, model in enumerate(BOTH):
            mine, kept = rows.where(model=model), []
            for column, dashed in ((ON_TRAINING_IMAGES[name], True), (name, False)):
                known = mine.known(column)
                wanted = [(row["epoch"], pytest.approx(scale * row[column])) for row in known]
                assert curve(axes, index, dashed) == wanted
                kept += [point for point, row in zip(wanted, known, strict=True) if row["kept"]]
            assert marks(axes, index) == kept
    assert not curve(drawn["adversarial"], 0, dashed=True)  # standard training attacks nothing
    assert curve(drawn["adversarial"], 1, dashed=True)


def test_bands_are_the_intervals_of_held_out_accuracies(tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    axes = panels(training_curves(rows, BOTH))["adversarial"]
    bands = [artist for artist in axes.collections if isinstance(artist, PolyCollection)]
    for band, model in zip(bands, BOTH, strict=True):
        ends = [wilson(round(row["adversarial"] * 1000), 1000) for row in rows.where(model=model)]
        heights = band.get_paths()[0].vertices[:, 1]
        assert heights.min() == pytest.approx(100 * min(low for low, _ in ends))
        assert heights.max() == pytest.approx(100 * max(high for _, high in ends))


def test_without_cross_entropy_the_loss_of_the_objective_is_shown(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, left_out=LOSSES)
    drawn = panels(training_curves(rows, BOTH))
    assert list(drawn) == ["natural", "adversarial", "loss"]
    mine = [(row["epoch"], row["loss"]) for row in rows.where(model="robust")]
    assert curve(drawn["loss"], 1, dashed=True) == mine
    assert not curve(drawn["loss"], 1, dashed=False)
    assert drawn["loss"].get_title("left") == "Loss of the objective"
    # one kind of cross entropy takes the whole row
    rows = Rows({**row, "natural_loss": 1.0} for row in rows)
    drawn = panels(training_curves(rows, BOTH))
    assert list(drawn) == ["natural", "adversarial", "natural_loss"]


def test_losses_far_apart_are_drawn_on_a_logarithmic_axis(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, left_out=("train_natural_loss",))
    near = panels(training_curves(rows, BOTH))["natural_loss"]
    assert (near.get_yscale(), near.get_ylim()[0]) == ("linear", 0)
    far = Rows({**row, "natural_loss": row["natural_loss"] / row["epoch"] ** 2} for row in rows)
    axes = panels(training_curves(far, BOTH))["natural_loss"]
    assert axes.get_yscale() == "log"
    axes.figure.canvas.draw()
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert "0.1" in shown
    assert not [label for label in shown if "$" in label]
    below = Rows({**row, "natural_loss": row["natural_loss"] - 1.5} for row in rows)
    axes = panels(training_curves(below, BOTH))["natural_loss"]
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] < 0


def test_epochs_are_whole_numbers_and_one_model_needs_only_the_key(tmp_path):
    for axes in training_curves(rows_of(tmp_path, epochs=2), BOTH).axes:
        assert all(float(tick).is_integer() for tick in axes.get_xticks())
    rows = rows_of(tmp_path).where(model="robust")
    (key,) = training_curves(rows, ("robust",)).legends
    assert [text.get_text() for text in key.get_texts()] == ["held out", "training", "epoch kept"]
    assert len(training_curves(rows, BOTH).legends) == 2
