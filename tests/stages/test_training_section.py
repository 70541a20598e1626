"""What the report says of a training: the numbers of the table, and no more than they establish."""

import re
from pathlib import Path

import pytest

from advlens.intervals import wilson
from advlens.report.blocks import FigureBlock, Finding, Section, TableBlock
from advlens.report.page import write_report
from advlens.report.sections.training import section
from advlens.runs.results import Results
from synthetic_run import change, read, write_run, write_training

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


def made(run: Path) -> Section:
    found = section(Results.read(run))
    assert found
    return found


def claims(run: Path) -> list[str]:
    return [finding.claim for finding in made(run).findings]


def finding(run: Path, words: str) -> Finding:
    (found,) = [f for f in made(run).findings if re.search(words, f.claim)]
    return found


def epochs(run: Path, model: str) -> list[dict[str, float]]:
    """The table's rows of a model, empty cells left out."""
    return [
        {key: float(value) for key, value in row.items() if key not in ("model", "kept") and value}
        | {"kept": row["kept"] == "true"}
        for row in read(run, "training")
        if row["model"] == model
    ]


def text(row: dict[str, float], kind: str) -> str:
    low, high = wilson(round(row[kind] * row["n"]), int(row["n"]))
    return f"{100 * row[kind]:.1f}% ({100 * low:.1f}–{100 * high:.1f})"


def at(run: Path, model: str, number: int, **values: object) -> None:
    """Change an epoch's values."""
    change(
        run,
        "training",
        lambda r: (r["model"], r["epoch"]) == (model, str(number)) and r.update(values),
    )


def test_without_its_table_there_is_no_section(run: Path) -> None:
    (run / "results" / "training.csv").unlink()
    assert section(Results.read(run)) is None


def test_it_leads_with_what_was_trained_and_which_epoch_was_kept(run: Path) -> None:
    for place, (model, by) in enumerate(
        (("standard", "standard training"), ("robust", "adversarial training (PGD-2, L2 ε = 0.5)"))
    ):
        rows = epochs(run, model)
        kept = max(rows, key=lambda row: row["natural"] + row["adversarial"])
        found = made(run).findings[place]
        assert found.claim == (
            f"{model} was trained for 60 epochs by {by}; epoch {kept['epoch']:.0f} is kept."
        )
        assert found.important
        means = [100 * (row["natural"] + row["adversarial"]) / 2 for row in (kept, rows[-1])]
        for part in (
            text(kept, "natural"),
            text(kept, "adversarial"),
            "under PGD-10, L2 ε = 0.5",
            f"a mean of {means[0]:.1f}%, the best of all epochs; the last has {means[1]:.1f}%.",
            "n = 1,000",
            "SGD with Nesterov momentum 0.9",
            "It took 3,690 s",
        ):
            assert part in found.evidence, part
    assert "Recipe cifar10-standard: SGD" in made(run).findings[0].evidence
    assert "at 900 images/s (median)." in made(run).findings[0].evidence
    assert "Recipe" not in made(run).findings[1].evidence


def test_an_epoch_that_is_kept_is_called_the_best_only_where_it_is(run: Path) -> None:
    assert ", the best of all epochs; the last has" in made(run).findings[0].evidence
    change(run, "training", lambda r: r.update(kept="true" if r["epoch"] == "60" else "false"))
    assert "best of all epochs" not in made(run).findings[0].evidence
    assert "the last has" not in made(run).findings[0].evidence


def test_robust_overfitting_needs_a_fall_and_a_rise(run: Path) -> None:
    rows = epochs(run, "robust")
    peak = max(rows, key=lambda row: row["adversarial"])
    last = rows[-1]
    points = 100 * (peak["adversarial"] - last["adversarial"])
    found = finding(run, "robust loses")
    assert found.claim == (
        f"robust loses {points:.1f} points of adversarial accuracy after epoch "
        f"{peak['epoch']:.0f}: robust overfitting."
    )
    assert found.important
    column = "train_adversarial_accuracy"
    for part in (
        f"{text(peak, 'adversarial')} at epoch {peak['epoch']:.0f}",
        f"{text(last, 'adversarial')} at the last",
        f"rises meanwhile from {100 * peak[column]:.1f}% to {100 * last[column]:.1f}%",
    ):
        assert part in found.evidence
    at(run, "robust", 60, train_adversarial_accuracy="0.1")
    found = finding(run, "robust loses")
    assert "overfitting" not in found.claim
    assert "rises" not in found.evidence
    assert not found.important


def test_a_fall_where_training_images_were_not_attacked_is_no_overfitting(run: Path) -> None:
    found = finding(run, "standard loses")
    assert re.search(r"after epoch \d+\.$", found.claim)
    assert not found.important


def test_a_fall_within_the_intervals_is_none(run: Path) -> None:
    peak = max(epochs(run, "robust"), key=lambda row: row["adversarial"])
    at(run, "robust", 60, adversarial=str(peak["adversarial"] - 0.05))
    assert not [claim for claim in claims(run) if "robust loses" in claim]
    found = finding(run, "does not fall")
    assert found.claim.endswith("beyond its interval in robust.")
    assert f"{text(peak, 'adversarial')} at epoch" in found.evidence
    at(run, "robust", 60, adversarial=str(peak["adversarial"] - 0.07))
    assert [claim for claim in claims(run) if "robust loses" in claim]


def test_what_rises_to_the_end_does_not_fall(run: Path) -> None:
    at(run, "robust", 60, adversarial="0.9")
    assert not [c for c in claims(run) if re.search(r"robust loses|not fall .* in robust", c)]


def test_the_gap_is_that_of_the_epoch_kept_beyond_its_interval(run: Path) -> None:
    (kept,) = [row for row in epochs(run, "robust") if row["kept"]]
    change(run, "training", lambda r: r.update(natural="0.8", train_natural_accuracy="0.81"))
    points = 100 * (kept["train_adversarial_accuracy"] - kept["adversarial"])
    found = finding(run, "On held-out images robust")
    assert found.claim == (
        f"On held-out images robust has {points:.1f} points less adversarial accuracy than on "
        "training images."
    )
    assert "natural 81.0% on training images, 80.0% (" in found.evidence
    assert f"At epoch {kept['epoch']:.0f}:" in found.evidence
    change(run, "training", lambda r: r.update(train_natural_accuracy="0.7"))
    assert "robust has 10.0 points more natural and" in finding(run, "images robust").claim
    change(
        run,
        "training",
        lambda r: r.update(
            train_natural_accuracy="0.8", train_adversarial_accuracy=r["adversarial"]
        ),
    )
    assert "no more than its interval" in finding(run, "Accuracy of robust").claim


def test_the_table_has_every_epoch_and_only_columns_with_values(run: Path) -> None:
    (table,) = [block for block in made(run).blocks if isinstance(block, TableBlock)]
    assert table.folded
    assert table.file == "training.csv"
    assert len(table.rows) == 120
    headers = [column.header for column in table.columns]
    assert "Adversarial, training" in headers
    assert not {"Feature distance", "Divergence"} & set(headers)
    row = read(run, "training")[0]
    cells = [column.cell(table.rows[0]) for column in table.columns]
    shown = dict(zip(headers, cells, strict=True))
    assert shown["Natural, held out"] == f"{100 * float(row['natural']):.1f}%"
    assert shown["Adversarial, training"] == "–"
    assert shown["Images/s"] == "900"
    kept = [r["epoch"] for r in table.rows if table.columns[2].cell(r) == "kept"]
    assert kept == [r["epoch"] for r in table.rows if r["kept"]]


def test_the_alternative_text_tells_the_curves(run: Path) -> None:
    (figure,) = [block for block in made(run).blocks if isinstance(block, FigureBlock)]
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
    first = made(run).findings[0]
    assert ("by standard training" in first.claim) == described
    assert first.evidence.endswith("It took 615 s.")
    assert not [claim for claim in claims(run) if "training images" in claim]
    (table,) = [block for block in made(run).blocks if isinstance(block, TableBlock)]
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
    change(run, "training", lambda row: row.update(n="", seconds=""))
    first = made(run).findings[0]
    assert "(no interval)" in first.evidence
    assert "n =" not in first.evidence
    assert "It took" not in first.evidence
    assert not [claim for claim in claims(run) if "loses" in claim or "fall" in claim]


def test_one_epoch_has_no_curve_and_no_best(tmp_path: Path) -> None:
    run = write_training(
        write_run(tmp_path / "run", models=("only",), shown=1), models=("only",), epochs=1
    )
    assert [type(block) for block in made(run).blocks] == [TableBlock]
    first = made(run).findings[0]
    assert first.claim.startswith("only was trained for 1 epoch by")
    assert "best" not in first.evidence
    assert not [claim for claim in claims(run) if "fall" in claim or "loses" in claim]


def test_models_without_a_training_are_left_out(run: Path) -> None:
    write_training(run, models=("robust",))
    assert len(claims(run)) == 3
    assert not [claim for claim in claims(run) if re.search(r"^standard|images standard", claim)]
    (figure,) = [block for block in made(run).blocks if isinstance(block, FigureBlock)]
    assert "standard" not in figure.alt
    assert figure.caption.endswith("The run has no training of standard.")


def test_the_page_shows_it(run: Path) -> None:
    page = write_report(run, [section]).read_text(encoding="utf-8")
    assert 'href="#training"' in page
    assert 'id="training"' in page
    assert page.count("figures/training.svg") == 1
    assert "robust overfitting" in page
