"""The curves of a training are those of its table."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from advlens.intervals import wilson
from advlens.report import figures
from advlens.report.figures.style import MARKERS, MODELS
from advlens.report.figures.training import ON_TRAINING_IMAGES
from advlens.report.sections.training.tables import histories
from advlens.runs.results import Results, Rows
from synthetic_run import BOTH, write_run, write_training

LOSSES = ("natural_loss", "adversarial_loss", "train_natural_loss", "train_adversarial_loss")


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
    drawn = panels(figures.training_curves(rows, BOTH))
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
    axes = panels(figures.training_curves(rows, BOTH))["adversarial"]
    bands = [artist for artist in axes.collections if isinstance(artist, PolyCollection)]
    for band, model in zip(bands, BOTH, strict=True):
        mine = rows.where(model=model)
        ends = [wilson(round(row["adversarial"] * 1000), 1000) for row in mine]
        heights = band.get_paths()[0].vertices[:, 1]
        assert heights.min() == pytest.approx(100 * min(low for low, _ in ends))
        assert heights.max() == pytest.approx(100 * max(high for _, high in ends))


def test_without_cross_entropy_the_loss_of_the_objective_is_shown(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, left_out=LOSSES)
    drawn = panels(figures.training_curves(rows, BOTH))
    assert list(drawn) == ["natural", "adversarial", "loss"]
    mine = [(row["epoch"], row["loss"]) for row in rows.where(model="robust")]
    assert curve(drawn["loss"], 1, dashed=True) == mine
    assert not curve(drawn["loss"], 1, dashed=False)
    assert drawn["loss"].get_title("left") == "Loss of the objective"
    # one kind of cross entropy takes the whole row
    rows = Rows({**row, "natural_loss": 1.0} for row in rows)
    drawn = panels(figures.training_curves(rows, BOTH))
    assert list(drawn) == ["natural", "adversarial", "natural_loss"]


def test_losses_far_apart_are_drawn_on_a_logarithmic_axis(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, left_out=("train_natural_loss",))
    near = panels(figures.training_curves(rows, BOTH))["natural_loss"]
    assert (near.get_yscale(), near.get_ylim()[0]) == ("linear", 0)
    far = Rows({**row, "natural_loss": row["natural_loss"] / row["epoch"] ** 2} for row in rows)
    axes = panels(figures.training_curves(far, BOTH))["natural_loss"]
    assert axes.get_yscale() == "log"
    axes.figure.canvas.draw()
    shown = [label.get_text() for label in axes.get_yticklabels()]
    assert "0.1" in shown
    assert not [label for label in shown if "$" in label]
    below = Rows({**row, "natural_loss": row["natural_loss"] - 1.5} for row in rows)
    axes = panels(figures.training_curves(below, BOTH))["natural_loss"]
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] < 0


def test_epochs_are_whole_numbers_and_one_model_needs_only_the_key(tmp_path):
    figure = figures.training_curves(rows_of(tmp_path, epochs=2), BOTH)
    for axes in figure.axes:
        assert all(float(tick).is_integer() for tick in axes.get_xticks())
    rows = rows_of(tmp_path).where(model="robust")
    (key,) = figures.training_curves(rows, ("robust",)).legends
    assert [text.get_text() for text in key.get_texts()] == ["held out", "training", "epoch kept"]
    assert len(figures.training_curves(rows, BOTH).legends) == 2
