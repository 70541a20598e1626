"""What the report says of a training: the numbers of the table, and no more than they establish."""

from pathlib import Path
from typing import Any

import pytest

from advlens.intervals import wilson
from advlens.report.blocks import FigureBlock, TableBlock
from advlens.report.page import write_report
from advlens.report.sections.training import section
from advlens.words import Direction, Estimate, Says
from sections import Maker, cells
from synthetic_run import change, put, read, write_run, write_training

trainings = Maker(section)
OVER = "adversarial accuracy over epochs"
pytestmark = pytest.mark.usefixtures("no_rendering")

OLD = (
    "learning_rate",
    "train_natural_loss",
    "train_natural_accuracy",
    "train_adversarial_loss",
    "train_adversarial_accuracy",
    "train_divergence",
    "natural_loss",
    "adversarial_loss",
    "images_per_second",
)
"""What the first trainings did not record."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_training(write_run(tmp_path / "run", shown=1))


def epochs(run: Path, model: str) -> list[dict[str, float]]:
    """The table's rows of a model, empty cells left out."""
    return [
        {key: float(value) for key, value in row.items() if key not in ("model", "kept") and value}
        | {"kept": row["kept"] == "true"}
        for row in read(run, "training")
        if row["model"] == model
    ]


def share(row: dict[str, float], kind: str) -> Estimate:
    low, high = wilson(round(row[kind] * row["n"]), int(row["n"]))
    return Estimate(value=row[kind], low=low, high=high, n=int(row["n"]))


def at(run: Path, model: str, number: int, **values: Any) -> None:
    """Change an epoch's values."""
    put(run, "training", {"model": model, "epoch": str(number)}, **values)


def test_without_its_table_there_is_no_section(run: Path) -> None:
    trainings.check(run)
    (run / "results" / "training.csv").unlink()
    assert trainings.absent(run)


def test_it_leads_with_what_was_trained_and_which_epoch_was_kept(run: Path) -> None:
    for place, (model, by) in enumerate(
        (("standard", "standard training"), ("robust", "adversarial training (PGD-2, L2 ε = 0.5)"))
    ):
        rows = epochs(run, model)
        kept = max(rows, key=lambda row: row["natural"] + row["adversarial"])
        found = trainings.made(run).findings[place]
        assert found.claim == (
            f"{model} was trained for 60 epochs by {by}; epoch {kept['epoch']:.0f} is kept."
        )
        assert found.important
        measured = trainings.measured(run, "accuracy", model)
        assert measured.n == "1,000 held-out images"
        assert measured.estimates == {
            "on natural images": share(kept, "natural"),
            "under PGD-10, L2 ε = 0.5": share(kept, "adversarial"),
        }
        means = [100 * (row["natural"] + row["adversarial"]) / 2 for row in (kept, rows[-1])]
        for part in (
            f"is {means[0]:.1f}%, the best of all epochs; that of the last is {means[1]:.1f}%.",
            "SGD with Nesterov momentum 0.9",
            "It took 3,690 s",
        ):
            assert part in found.note, part
        assert ("Recipe cifar10-standard: SGD" in found.note) == (model == "standard")
    assert "at 900 images/s (median)." in trainings.finding(run, "accuracy", "standard").note


def test_an_epoch_that_is_kept_is_called_the_best_only_where_it_is(run: Path) -> None:
    put(run, "training", {}, kept="false")
    put(run, "training", {"epoch": "60"}, kept="true")
    note = trainings.finding(run, "accuracy", "standard").note
    assert "best of all epochs" not in note
    assert "the last is" not in note


def test_robust_overfitting_needs_a_fall_and_a_rise(run: Path) -> None:
    rows = epochs(run, "robust")
    peak = max(rows, key=lambda row: row["adversarial"])
    last, epoch = rows[-1], f"epoch {peak['epoch']:.0f}"
    found = trainings.finding(run, OVER, "robust")
    fall = Says(OVER, ("robust",), "lower", (epoch,))
    rise = Says("adversarial accuracy on training images", ("robust",), "higher", (epoch,))
    assert found.says == [fall, rise]
    points = 100 * (peak["adversarial"] - last["adversarial"])
    assert found.claim == (
        f"robust loses {points:.1f} points of adversarial accuracy after {epoch}: robust "
        "overfitting."
    )
    assert found.important
    assert found.estimates[0].estimates == {
        f"at {epoch}": share(peak, "adversarial"),
        "at epoch 60, the last": share(last, "adversarial"),
    }
    before, after = (100 * row["train_adversarial_accuracy"] for row in (peak, last))
    assert f"rises meanwhile from {before:.1f}% to {after:.1f}%" in found.note
    at(run, "robust", 60, train_adversarial_accuracy=0.1)
    found = trainings.finding(run, OVER, "robust")
    assert found.says == [fall]
    assert "overfitting" not in found.claim
    assert not found.important


def test_a_fall_where_training_images_were_not_attacked_is_no_overfitting(run: Path) -> None:
    found = trainings.finding(run, OVER, "standard")
    assert [said.direction for said in found.says] == ["lower"]
    assert not found.important


@pytest.mark.parametrize(("fall", "direction"), [(0.05, "open"), (0.07, "lower")])
def test_a_fall_needs_disjoint_intervals(run: Path, fall: float, direction: Direction) -> None:
    peak = max(epochs(run, "robust"), key=lambda row: row["adversarial"])
    at(run, "robust", 60, adversarial=peak["adversarial"] - fall)
    found = trainings.finding(run, OVER, "robust")
    assert found.says[0].direction == direction
    if direction == "open":
        assert found.claim.endswith(" does not fall beyond its interval in robust.")


def test_what_rises_to_the_end_does_not_fall(run: Path) -> None:
    at(run, "robust", 60, adversarial=0.9)
    assert not trainings.findings(run, OVER, "robust")


def test_the_gap_is_that_of_the_epoch_kept_beyond_its_interval(run: Path) -> None:
    (kept,) = [row for row in epochs(run, "robust") if row["kept"]]

    def gaps() -> list[Direction]:
        says = trainings.finding(run, "natural accuracy", "robust").says
        assert {said.than for said in says} == {("training images",)}
        return [said.direction for said in says]

    put(run, "training", {}, natural=0.8, train_natural_accuracy=0.81)
    points = 100 * (kept["train_adversarial_accuracy"] - kept["adversarial"])
    assert gaps() == ["open", "lower"]
    found = trainings.finding(run, "natural accuracy", "robust")
    assert found.claim == (
        f"On held-out images robust has {points:.1f} points less adversarial accuracy than on "
        "training images."
    )
    values = found.estimates[0].estimates
    assert [each.value for each in values.values()] == [0.8, 0.81]
    assert f"At epoch {kept['epoch']:.0f}." in found.note
    put(run, "training", {}, train_natural_accuracy=0.7)
    assert gaps() == ["higher", "lower"]
    claim = trainings.finding(run, "natural accuracy", "robust").claim
    assert "has 10.0 points more natural and" in claim
    change(
        run,
        "training",
        lambda r: r.update(
            train_natural_accuracy="0.8", train_adversarial_accuracy=r["adversarial"]
        ),
    )
    assert gaps() == ["open", "open"]


def test_the_table_has_every_epoch_and_only_columns_with_values(run: Path) -> None:
    (table,) = trainings.blocks(run, TableBlock)
    assert table.folded
    assert table.file == "training.csv"
    assert len(table.rows) == 120
    headers = [column.header for column in table.columns]
    assert "Adversarial, training" in headers
    assert not {"Feature distance", "Divergence"} & set(headers)
    row = read(run, "training")[0]
    shown = cells(table)[0]
    assert shown["Natural, held out"] == f"{100 * float(row['natural']):.1f}%"
    assert shown["Adversarial, training"] == "–"
    assert shown["Images/s"] == "900"
    kept = [r["epoch"] for r in table.rows if table.columns[2].cell(r) == "kept"]
    assert kept == [r["epoch"] for r in table.rows if r["kept"]]


def test_the_alternative_text_tells_the_curves(run: Path) -> None:
    (figure,) = trainings.blocks(run, FigureBlock)
    for model in ("standard", "robust"):
        rows = epochs(run, model)
        (kept,) = [row for row in rows if row["kept"]]
        for row in (rows[0], kept, rows[-1]):
            for kind in ("natural", "adversarial"):
                assert f"{100 * row[kind]:.1f}% at epoch {row['epoch']:.0f}" in figure.alt
        assert f"epoch {kept['epoch']:.0f} is marked as kept" in figure.alt
    assert "n = 1,000" in figure.caption
    assert "under PGD-10, L2 ε = 0.5" in figure.caption


@pytest.mark.parametrize("described", [True, False])
def test_old_trainings_say_what_they_recorded(described: bool, tmp_path: Path) -> None:
    run = write_training(
        write_run(tmp_path / "run", shown=1), epochs=10, left_out=OLD, described=described
    )
    first = trainings.made(run).findings[0]
    assert ("by standard training" in first.claim) == described
    assert first.note.endswith("It took 615 s.")
    assert not trainings.findings(run, "natural accuracy")
    (table,) = trainings.blocks(run, TableBlock)
    assert [column.header for column in table.columns] == [
        "Model",
        "Epoch",
        "",
        "Natural, held out",
        "Adversarial, held out",
        "Objective",
        "Time (s)",
    ]


def test_without_their_number_shares_have_no_interval(run: Path) -> None:
    put(run, "training", {}, n="", seconds="")
    first = trainings.made(run).findings[0]
    assert {each.low for each in first.estimates[0].estimates.values()} == {None}
    assert not first.estimates[0].n
    assert "It took" not in first.note
    assert not trainings.findings(run, OVER)


def test_one_epoch_has_no_curve_and_no_best(tmp_path: Path) -> None:
    run = write_training(
        write_run(tmp_path / "run", models=("only",), shown=1), models=("only",), epochs=1
    )
    assert [type(block) for block in trainings.made(run).blocks] == [TableBlock]
    first = trainings.made(run).findings[0]
    assert first.claim.startswith("only was trained for 1 epoch by")
    assert "best" not in first.note
    assert not trainings.findings(run, OVER)


def test_models_without_a_training_are_left_out(run: Path) -> None:
    write_training(run, models=("robust",))
    assert {m.model for f in trainings.made(run).findings for m in f.estimates} == {"robust"}
    (figure,) = trainings.blocks(run, FigureBlock)
    assert "standard" not in figure.alt
    assert figure.caption.endswith("The run has no training of standard.")


def test_the_page_shows_it(run: Path) -> None:
    page = write_report(run, [section]).read_text(encoding="utf-8")
    assert 'href="#training"' in page
    assert 'id="training"' in page
    assert page.count("figures/training.svg") == 1
    assert "robust overfitting" in page
