"""What the report says of accuracy: the numbers of the tables, and no more than they establish."""

from pathlib import Path

import pytest

from advlens.report.blocks import FigureBlock, TableBlock
from advlens.report.sections.accuracy import section
from sections import Maker, cells, estimate, remove
from synthetic_run import BOTH, put, rows_of, write_run, write_table

accuracy = Maker(section)
NATURAL, PGD = "accuracy on natural images", "accuracy under PGD-20, L2 ε = 0.5"
L2, LINF = "accuracy in L2", "accuracy in L∞"
APART = "accuracy model=robust norm=Linf: epsilon=0.5; accuracy model=robust attack=Pgd: steps=7"
SWEPT = "sweep: top1=0.8; sweep norm=L2 epsilon=0.5: top1=0.1; sweep norm=L2 epsilon=0.25: top1="
SAID = [
    # the order of the models may turn, or not
    (NATURAL, "", "standard higher than robust", "of standard are right more often than those"),
    (PGD, "", "robust higher than standard", "Under PGD-20, L2 ε = 0.5, predictions of robust"),
    (NATURAL, "accuracy model=robust: top1=0.985±0.01", "robust higher than standard", ""),
    (NATURAL, "accuracy: top1=0.5±0.4", "standard, robust open", "On natural images, no diff"),
    (PGD, "accuracy attack=Pgd: top1=0.1±0.1", "standard, robust open", ""),
    (NATURAL, APART, "standard higher than robust", ""),
    (PGD, APART, "", ""),  # no attack is common to them
    # the first radius at which less than half is left
    (L2, f"{SWEPT}0.399", "lower than half at ε = 0.25", "and in robust by ε = 0.25."),
    (L2, f"{SWEPT}0.4", "lower than half at ε = 0.5", "and in robust by ε = 0.5."),
    (L2, "sweep: top1=0.9", "higher than half at ε = 2", "robust keep at least half of"),
    (LINF, "", "standard lower than half at ε = 1/255; robust lower than half at ε = 16/255", ""),
]
MODELS = [("a", "", ""), ("abcd", "a higher than b, c, d", "d higher than a, b, c")]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), shown=0)


def test_tables_may_be_absent(run: Path) -> None:
    accuracy.check(run)
    remove(run, "sweep", "checks")
    assert [type(block) for block in accuracy.made(run).blocks] == [FigureBlock, TableBlock]
    assert not accuracy.findings(run, L2)
    assert len(accuracy.made(run).findings) == 2
    remove(run, "accuracy")
    assert accuracy.absent(run)


@pytest.mark.parametrize(("measure", "changes", "told", "words"), SAID)
def test_what_is_said(run: Path, measure: str, changes: str, told: str, words: str) -> None:
    if measure == L2:  # the same of both models
        told = "; ".join(f"{model} {told}" for model in BOTH)
    accuracy.tells(run, changes, measure, told, words)


def test_comparisons_carry_their_estimates(made: Path) -> None:
    for measure, attack in ((NATURAL, "natural"), (PGD, "Pgd")):
        found = accuracy.finding(made, measure)
        assert found.important
        rows = rows_of(made, "accuracy", attack=attack)
        wanted = {row["model"]: estimate(row, "top1") for row in rows}
        assert (found.estimates[0].estimates, found.estimates[0].form) == (wanted, "percent")
    (row,) = rows_of(made, "sweep", model="robust", norm="Linf", epsilon="0.0627451")
    found = accuracy.measured(made, LINF, "robust").estimates
    assert found["at ε = 16/255"] == estimate(row, "top1")


@pytest.mark.parametrize(("models", "natural", "pgd"), MODELS)
def test_one_model_and_many(models: str, natural: str, pgd: str, tmp_path: Path) -> None:
    run = write_run(tmp_path, models=tuple(models), shown=0)
    assert (accuracy.told(run, NATURAL), accuracy.told(run, PGD)) == (natural, pgd)
    important = [f.says[0].measure for f in accuracy.made(run).findings if f.important]
    assert important == ([NATURAL, PGD] if natural else [])


def test_a_failed_check_is_a_warning_that_says_what_it_means(run: Path) -> None:
    found = accuracy.made(run).findings[-1]
    assert found.claim == "All 6 sanity checks for gradient masking passed."
    assert "cannot prove" in found.note
    assert not found.says
    assert not found.warning
    where = {"model": "robust", "check": "accuracy falls with the number of steps"}
    put(run, "checks", where, passed="false")
    assert accuracy.told(run, "sanity checks") == "warning: robust lower than expected"
    found = accuracy.finding(run, "sanity checks")
    assert found.claim.startswith("1 of 6 sanity checks failed")
    assert "steps 1: 9.1%" in found.note
    assert found.important


def test_blocks_hold_every_row_and_scores_the_natural_and_the_lowest_accuracy(made):
    tables = {block.file: cells(block) for block in accuracy.blocks(made, TableBlock)}
    sizes = {name: len(rows) for name, rows in tables.items()}
    assert sizes == {"accuracy.csv": 8, "sweep.csv": 22, "checks.csv": 6}
    shown = list(tables["accuracy.csv"][0].values())
    assert shown == ["natural images", "standard", "91.7% (90.0–93.4)", "93.8%", "1,000"]
    assert tables["checks.csv"][0]["Result"] == "passed"
    natural, worst = accuracy.made(made).scores
    values = [float(row["top1"]) for row in rows_of(made, "accuracy", model="robust")]
    assert natural.estimates["robust"].value == values[0]
    assert worst.estimates["robust"].value == min(values)
    assert worst.notes["robust"] == "PGD-20, L2 ε = 0.5"


def test_neither_an_attack_without_a_ball_nor_a_weaker_one_is_the_strongest(
    made: Path, run: Path
) -> None:
    rows = rows_of(run, "accuracy")
    adam = {
        "attack": "AdamAttack",
        "norm": "",
        "epsilon": "",
        "settings": "weight=100",
        "top1": 0,
        "top1_low": 0,
    }
    weaker = {"steps": 3, "top1": 0.9, "top1_low": 0.88, "top1_high": 0.92}
    pgd = [row for row in rows if row["attack"] == "Pgd"]
    write_table(run, "accuracy", rows + [row | other for row in pgd for other in (adam, weaker)])
    before, after = accuracy.made(made), accuracy.check(run)
    assert [f.claim for f in after.findings] == [f.claim for f in before.findings]
    assert after.scores == before.scores
