"""What the report says of accuracy: the numbers of the tables, and no more than they establish."""

import re
from pathlib import Path
from typing import Any

import pytest

from advlens.report.blocks import FigureBlock, Finding, NoteBlock, Section, TableBlock
from advlens.report.sections.accuracy import section
from advlens.runs.results import Results
from synthetic_run import change, read, write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", shown=1)


def made(run: Path) -> Section:
    found = section(Results.read(run))
    assert found
    return found


def finding(run: Path, words: str) -> Finding:
    (found,) = [f for f in made(run).findings if re.search(words, f.claim)]
    return found


def test_without_its_table_there_is_no_section(run: Path) -> None:
    (run / "results" / "accuracy.csv").unlink()
    assert section(Results.read(run)) is None


def test_each_model_says_what_the_strongest_attack_leaves(run: Path) -> None:
    for model in ("standard", "robust"):
        rows = [row for row in read(run, "accuracy") if row["model"] == model]
        natural = float(rows[0]["top1"])
        worst = min(rows[1:], key=lambda row: float(row["top1"]))
        found = finding(run, f"^{model} (falls|loses|keeps).* under attack")
        loss = 100 * (natural - float(worst["top1"]))
        for text in (
            f"{100 * natural:.1f}%",
            f"{100 * float(worst['top1']):.1f}%",
            f"{loss:.1f} points",
            "PGD-20, L2 ε = 0.5",
            "n = 1,000",
        ):
            assert text in found.evidence
        assert found.important


@pytest.mark.parametrize(
    ("left", "verb"),
    [
        ("0.25", "falls to chance or below"),
        ("0.26", "loses more than half"),
        ("0.5", "keeps at least half"),
    ],
)
def test_the_verb_follows_what_is_left(run: Path, left: str, verb: str) -> None:
    """Chance is 1/4 here, natural accuracy .917."""
    change(run, "accuracy", lambda r: r["attack"] != "natural" and r.update(top1=left))
    assert finding(run, f"standard {verb}")


def test_the_order_of_the_models_may_turn(run: Path) -> None:
    found = finding(run, "more accurate")
    assert found.claim == "standard is more accurate on natural images, robust under attack."
    assert found.important
    assert found.evidence.count("the intervals are disjoint") == 2


def test_one_model_may_lead_everywhere(run: Path) -> None:
    change(
        run,
        "accuracy",
        lambda r: (
            r["model"] == "robust"
            and r["attack"] == "natural"
            and r.update(top1="0.99", top1_low="0.98", top1_high="1")
        ),
    )
    claims = [f.claim for f in made(run).findings if f.important]
    assert "robust is the most accurate on natural images." in claims
    assert "robust is the most accurate under PGD-20, L2 ε = 0.5." in claims


def overlapping(row: dict[str, Any]) -> None:
    row.update(top1_low="0", top1_high="1")


def test_overlapping_intervals_establish_nothing(run: Path) -> None:
    change(run, "accuracy", overlapping)
    claims = [f.claim for f in made(run).findings]
    assert "No model is established as the most accurate on natural images." in claims
    assert "No model is established as the most accurate under PGD-20, L2 ε = 0.5." in claims
    assert not [claim for claim in claims if "more accurate" in claim or "is the most" in claim]


def test_one_model_is_compared_with_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", models=("only",), shown=1)
    claims = [f.claim for f in made(run).findings]
    assert not [claim for claim in claims if "accurate" in claim]
    assert claims[0].startswith("only ")


def test_many_models_are_compared_in_one_sentence(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", models=("a", "b", "c", "d"), shown=1)
    important = [f for f in made(run).findings if f.important]
    assert [f.claim for f in important] == ["a is more accurate on natural images, d under attack."]
    assert "from a 91.7%" in important[0].evidence


def test_the_sweep_names_the_first_radius_that_halves(run: Path) -> None:
    for norm, claimed in (("L2", "L2"), ("Linf", "L∞")):
        found = finding(run, f"lost in {claimed}:")
        for model in ("standard", "robust"):
            rows = [row for row in read(run, "sweep") if row["model"] == model]
            half = float(rows[0]["top1"]) / 2
            mine = sorted(
                (float(r["epsilon"]), float(r["top1"])) for r in rows if r["norm"] == norm
            )
            radius = next(epsilon for epsilon, top1 in mine if top1 < half)
            text = f"{round(radius * 255)}/255" if norm == "Linf" else f"{radius:g}"
            assert f"{model} by ε = {text}" in found.claim
        assert "n = 50" in found.evidence


def test_a_sweep_that_halves_nothing_says_so(run: Path) -> None:
    change(run, "sweep", lambda row: row.update(top1="0.9"))
    assert "standard at none of these radii" in finding(run, "lost in L2").claim


def test_passed_checks_promise_no_more_than_they_show(run: Path) -> None:
    found = finding(run, "sanity checks")
    assert found.claim == "All 6 sanity checks for gradient masking passed."
    assert "cannot prove" in found.evidence
    assert not found.warning


def test_a_failed_check_is_a_warning_that_says_what_it_means(run: Path) -> None:
    change(
        run,
        "checks",
        lambda r: r["model"] == "robust" and "steps" in r["check"] and r.update(passed="false"),
    )
    found = finding(run, "sanity checks")
    assert found.claim.startswith("1 of 6 sanity checks failed")
    assert "robust" in found.claim
    assert "steps 1: 9.1%" in found.evidence
    assert "masked" in found.evidence
    assert found.warning
    assert found.important


def test_blocks_hold_every_row(run: Path) -> None:
    tables = {b.file: b for b in made(run).blocks if isinstance(b, TableBlock)}
    assert {name: len(block.rows) for name, block in tables.items()} == {
        "accuracy.csv": 8,
        "sweep.csv": 22,
        "checks.csv": 6,
    }
    cells = [
        column.cell(tables["accuracy.csv"].rows[0]) for column in tables["accuracy.csv"].columns
    ]
    assert cells == ["natural images", "standard", "91.7%", "90.0–93.4", "93.8%", "1,000"]
    assert [column.cell(tables["checks.csv"].rows[0]) for column in tables["checks.csv"].columns][
        2
    ] == ("passed")


def test_sweep_and_checks_may_be_absent(run: Path) -> None:
    (run / "results" / "sweep.csv").unlink()
    (run / "results" / "checks.csv").unlink()
    blocks = made(run).blocks
    assert [type(block) for block in blocks] == [FigureBlock, TableBlock]
    assert not [f for f in made(run).findings if "lost" in f.claim or "checks" in f.claim]
    assert not [block for block in blocks if isinstance(block, NoteBlock)]


def test_scores_are_the_natural_and_the_lowest_accuracy(run: Path) -> None:
    natural, worst = made(run).scores
    rows = [row for row in read(run, "accuracy") if row["model"] == "robust"]
    assert natural.estimates["robust"].value == float(rows[0]["top1"])
    assert worst.estimates["robust"].value == min(float(row["top1"]) for row in rows)
    assert worst.notes["robust"] == "PGD-20, L2 ε = 0.5"
