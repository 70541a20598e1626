"""What the report says of a training: the numbers of the table, and no more than they establish."""

from pathlib import Path
from typing import Any

import pytest

from advlens.intervals import wilson
from advlens.report.blocks import FigureBlock, TableBlock
from advlens.report.sections.training import section
from advlens.words import Estimate
from sections import Maker, cells, remove
from synthetic_run import BOTH, OBJECTIVES, change, put, rows_of, write_run, write_training

trainings = Maker(section)
OVER = "adversarial accuracy over epochs"
OLD = """\
learning_rate train_natural_loss train_natural_accuracy train_adversarial_loss
train_adversarial_accuracy train_divergence natural_loss adversarial_loss images_per_second"""
"""What the first trainings did not record."""
FALLS = [(-0.1, []), (0.05, ["open"]), (0.07, ["lower", "higher"])]
GAPS = [
    (0.81, None, ["open", "lower"], "{:.1f} points less adversarial accuracy than on"),
    (0.7, None, ["higher", "lower"], "10.0 points more natural and {:.1f} points less"),
    (0.8, 0.0, ["open", "open"], "differs from that on training images by no more than"),
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training(write_run(tmp_path_factory.mktemp("run"), shown=0))


def epochs(run: Path, model: str) -> list[dict[str, float]]:
    return [
        {key: float(value) for key, value in row.items() if key not in ("model", "kept") and value}
        | {"kept": row["kept"] == "true"}
        for row in rows_of(run, "training", model=model)
    ]


def share(row: dict[str, float], kind: str) -> Estimate:
    low, high = wilson(round(row[kind] * row["n"]), int(row["n"]))
    return Estimate(value=row[kind], low=low, high=high, n=int(row["n"]))


def put_last(run: Path, **values: Any) -> None:
    put(run, "training", {"model": "robust", "epoch": "60"}, **values)


def test_it_leads_with_what_was_trained_and_which_epoch_was_kept(run):
    for place, model in enumerate(BOTH):
        rows = epochs(run, model)
        kept = max(rows, key=lambda row: row["natural"] + row["adversarial"])
        found = trainings.made(run).findings[place]
        assert found.claim == (
            f"{model} was trained for 60 epochs by {OBJECTIVES[place]}; epoch {kept['epoch']:.0f} "
            "is kept."
        )
        assert found.important
        measured = trainings.measured(run, "accuracy", model)
        assert measured.n == "1,000 held-out images"
        assert measured.estimates == {
            "on natural images": share(kept, "natural"),
            "under PGD-10, L2 ε = 0.5": share(kept, "adversarial"),
        }
        best, last = (100 * (row["natural"] + row["adversarial"]) / 2 for row in (kept, rows[-1]))
        for part in (
            f"is {best:.1f}%, the best of all epochs; that of the last is {last:.1f}%.",
            "SGD with Nesterov momentum 0.9",
            f"It took 3,690 s, at {'300' if place else '900'} images/s (median).",
        ):
            assert part in found.note, part
        assert ("Recipe cifar10-standard: SGD" in found.note) == (model == "standard")
    put(run, "training", {}, kept="false")
    put(run, "training", {"epoch": "60"}, kept="true")
    note = trainings.finding(run, "accuracy", "standard").note
    assert "best of all epochs" not in note
    assert "the last is" not in note


def test_robust_overfitting_needs_a_fall_and_a_rise(run):
    rows = epochs(run, "robust")
    peak, last = max(rows, key=lambda row: row["adversarial"]), rows[-1]
    epoch, found = f"epoch {peak['epoch']:.0f}", trainings.finding(run, OVER, "robust")
    fall, rise = f"robust lower than {epoch}", f"robust higher than {epoch}"
    assert trainings.told(run, OVER).split(" | ")[1] == fall
    assert trainings.told(run, "adversarial accuracy on training images") == rise
    points = 100 * (peak["adversarial"] - last["adversarial"])
    words = f"loses {points:.1f} points of adversarial accuracy after {epoch}: robust overfitting."
    assert found.claim.endswith(words)
    assert found.important
    assert found.estimates[0].estimates == {
        f"at {epoch}": share(peak, "adversarial"),
        "at epoch 60, the last": share(last, "adversarial"),
    }
    before, after = (100 * row["train_adversarial_accuracy"] for row in (peak, last))
    assert f"rises meanwhile from {before:.1f}% to {after:.1f}%" in found.note
    put_last(run, train_adversarial_accuracy=0.1)
    assert trainings.told(run, "adversarial accuracy on training images") == ""
    # the images of standard training were not attacked, so its fall is no overfitting either
    for model in BOTH:
        found = trainings.finding(run, OVER, model)
        assert [said.direction for said in found.says] == ["lower"]
        assert "overfitting" not in found.claim
        assert not found.important


@pytest.mark.parametrize(("fall", "directions"), FALLS)
def test_a_fall_needs_disjoint_intervals(run, fall, directions):
    peak = max(epochs(run, "robust"), key=lambda row: row["adversarial"])
    put_last(run, adversarial=peak["adversarial"] - fall)
    found = trainings.findings(run, OVER, "robust")
    assert [said.direction for finding in found for said in finding.says] == directions
    if directions == ["open"]:
        assert found[0].claim.endswith(" does not fall beyond its interval in robust.")


@pytest.mark.parametrize(("natural", "adversarial", "directions", "words"), GAPS)
def test_the_gap_is_that_of_the_epoch_kept(run, natural, adversarial, directions, words):
    """Of .8 on 1000 held-out images, the interval reaches down to .774."""
    (kept,) = [row for row in epochs(run, "robust") if row["kept"]]
    put(run, "training", {}, natural=0.8, train_natural_accuracy=natural)
    if adversarial is not None:
        change(run, "training", lambda r: r.update(train_adversarial_accuracy=r["adversarial"]))
    found = trainings.finding(run, "natural accuracy", "robust")
    assert [said.direction for said in found.says] == directions
    assert {said.than for said in found.says} == {("training images",)}
    points = 100 * (kept["train_adversarial_accuracy"] - kept["adversarial"])
    assert words.format(points) in found.claim
    assert [each.value for each in found.estimates[0].estimates.values()] == [0.8, natural]
    assert f"At epoch {kept['epoch']:.0f}." in found.note


def test_the_table_and_the_alternative_text_tell_every_epoch(made):
    (table,) = trainings.blocks(made, TableBlock)
    rows, shown = rows_of(made, "training"), cells(table)
    assert table.folded
    assert (table.file, len(shown)) == ("training.csv", 120)
    assert "Adversarial, training" in shown[0]
    assert not {"Feature distance", "Divergence"} & shown[0].keys()
    assert shown[0]["Natural, held out"] == f"{100 * float(rows[0]['natural']):.1f}%"
    assert (shown[0]["Adversarial, training"], shown[0]["Images/s"]) == ("–", "900")
    assert [row[""] == "kept" for row in shown] == [row["kept"] == "true" for row in rows]
    (figure,) = trainings.blocks(made, FigureBlock)
    for model in BOTH:
        rows = epochs(made, model)
        (kept,) = [row for row in rows if row["kept"]]
        for row in (rows[0], kept, rows[-1]):
            for kind in ("natural", "adversarial"):
                assert f"{100 * row[kind]:.1f}% at epoch {row['epoch']:.0f}" in figure.alt
        assert f"epoch {kept['epoch']:.0f} is marked as kept" in figure.alt
    assert "n = 1,000" in figure.caption
    assert "under PGD-10, L2 ε = 0.5" in figure.caption


@pytest.mark.parametrize("described", [True, False])
def test_old_trainings_say_what_they_recorded(described, tmp_path):
    run = write_run(tmp_path, shown=0)
    write_training(run, epochs=10, left_out=OLD.split(), described=described)
    first = trainings.made(run).findings[0]
    assert ("by standard training" in first.claim) == described
    assert first.note.endswith("It took 615 s.")
    assert not trainings.findings(run, "natural accuracy")
    (table,) = trainings.cells(run, "training.csv")
    assert "|".join(table[0]) == (
        "Model|Epoch||Natural, held out|Adversarial, held out|Objective|Time (s)"
    )


def test_without_their_number_shares_have_no_interval(run):
    put(run, "training", {}, n="", seconds="")
    first = trainings.made(run).findings[0]
    assert {each.low for each in first.estimates[0].estimates.values()} == {None}
    assert not first.estimates[0].n
    assert "It took" not in first.note
    assert not trainings.findings(run, OVER)


def test_one_epoch_has_no_curve_and_no_best(tmp_path):
    run = write_run(tmp_path, models=("only",), shown=0)
    write_training(run, models=("only",), epochs=1)
    assert [type(block) for block in trainings.made(run).blocks] == [TableBlock]
    first = trainings.made(run).findings[0]
    assert first.claim.startswith("only was trained for 1 epoch by")
    assert "best" not in first.note
    assert not trainings.findings(run, OVER)


def test_models_without_a_training_are_left_out_and_so_is_the_section(run):
    write_training(run, models=("robust",), epochs=3)
    assert {m.model for f in trainings.made(run).findings for m in f.estimates} == {"robust"}
    (figure,) = trainings.blocks(run, FigureBlock)
    assert "standard" not in figure.alt
    assert figure.caption.endswith("The run has no training of standard.")
    trainings.check(run)
    remove(run, "training")
    assert trainings.absent(run)
