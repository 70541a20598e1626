"""What the report says of accuracy: the numbers of the tables, and no more than they establish."""

from pathlib import Path

import pytest

from advlens.report.blocks import FigureBlock, NoteBlock, TableBlock
from advlens.report.sections.accuracy import section
from advlens.words import Says
from sections import BOTH, Maker, around, cells, estimate, higher, nothing
from synthetic_run import put, read, write_run

accuracy = Maker(section)
NATURAL, PGD = "accuracy on natural images", "accuracy under PGD-20, L2 ε = 0.5"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run", shown=1)


def test_without_its_table_there_is_no_section(run: Path) -> None:
    accuracy.check(run)
    (run / "results" / "accuracy.csv").unlink()
    assert accuracy.absent(run)


def test_each_model_says_what_the_strongest_attack_leaves(run: Path) -> None:
    for model in BOTH:
        natural, *attacked = [row for row in read(run, "accuracy") if row["model"] == model]
        worst = min(attacked, key=lambda row: float(row["top1"]))
        found = accuracy.finding(run, "accuracy", model)
        assert found.important
        assert found.estimates[0].estimates == {
            "on natural images": estimate(natural, "top1"),
            "under PGD-20, L2 ε = 0.5": estimate(worst, "top1"),
        }
        loss = 100 * (float(natural["top1"]) - float(worst["top1"]))
        assert f"{loss:.1f} points" in found.note


@pytest.mark.parametrize(
    ("left", "said", "verb"),
    [
        (0.25, ("lower", ("chance",)), "falls to chance or below"),
        (0.251, ("lower", ("half",)), "loses more than half of its accuracy"),
        (0.449, ("lower", ("half",)), "loses more than half of its accuracy"),
        (0.45, ("higher", ("half",)), "keeps at least half of its accuracy"),
    ],
)
def test_the_verb_follows_what_is_left(run: Path, left: float, said: tuple, verb: str) -> None:
    """Chance is 1/4 here, natural accuracy .9. FGSM leaves more, and does not count."""
    put(run, "accuracy", {}, top1=0.9)
    put(run, "accuracy", {"attack": "Pgd"}, top1=left)
    found = accuracy.finding(run, "accuracy", "standard")
    assert found.says == [Says("accuracy", ("standard",), *said)]
    assert found.claim == f"standard {verb} under attack."


@pytest.mark.parametrize(("low", "than"), [(0.25, "chance"), (0.251, "half")])
def test_accuracy_that_is_not_above_chance_says_so_first(run: Path, low: float, than: str) -> None:
    put(run, "accuracy", {"attack": "natural"}, top1_low=low)
    for attack in ("Fgsm", "Pgd"):
        put(run, "accuracy", {"attack": attack}, top1=0.4)
    found = accuracy.finding(run, "accuracy", "standard")
    assert found.says[0].than == (than,)
    assert found.says[0].direction == ("open" if than == "chance" else "lower")


def test_the_order_of_the_models_may_turn(run: Path) -> None:
    natural, under = accuracy.finding(run, NATURAL), accuracy.finding(run, PGD)
    assert natural.says == (higher(NATURAL, "standard"),)
    assert under.says == (higher(PGD, "robust"),)
    assert natural.important
    assert under.important
    for found, attack in ((natural, "natural"), (under, "Pgd")):
        rows = [row for row in read(run, "accuracy") if row["attack"] == attack]
        wanted = {row["model"]: estimate(row, "top1") for row in rows}
        assert found.estimates[0].estimates == wanted
        assert found.estimates[0].form == "percent"
    assert natural.claim == (
        "On natural images, predictions of standard are right more often than those of robust."
    )


def test_one_model_may_lead_everywhere(run: Path) -> None:
    where = {"model": "robust", "attack": "natural"}
    put(run, "accuracy", where, **around(0.985, name="top1"))
    assert accuracy.says(run, NATURAL) == [higher(NATURAL, "robust")]
    assert accuracy.says(run, PGD) == [higher(PGD, "robust")]


def test_overlapping_intervals_establish_nothing(run: Path) -> None:
    put(run, "accuracy", {}, top1_low=0, top1_high=1)
    for measure in (NATURAL, PGD):
        assert accuracy.says(run, measure) == [nothing(measure)]
    claim = accuracy.finding(run, NATURAL).claim
    assert claim == (
        "On natural images, no difference in accuracy is established between standard and robust."
    )


def test_one_model_is_compared_with_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", models=("only",), shown=1)
    assert not accuracy.findings(run, NATURAL)
    assert accuracy.made(run).findings[0].says[0].of == ("only",)


def test_many_models_are_compared_in_one_sentence(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", models=("a", "b", "c", "d"), shown=1)
    important = [f for f in accuracy.made(run).findings if f.important]
    assert [f.says for f in important] == [
        (Says(NATURAL, ("a",), "higher", ("b", "c", "d")),),
        (Says(PGD, ("d",), "higher", ("a", "b", "c")),),
    ]


def test_models_that_faced_no_common_attack_are_compared_naturally(run: Path) -> None:
    put(run, "accuracy", {"model": "robust", "norm": "Linf"}, epsilon=0.5)
    put(run, "accuracy", {"model": "robust", "attack": "Pgd"}, steps=7)
    assert [len(accuracy.says(run, measure)) for measure in (NATURAL, PGD)] == [1, 0]


@pytest.mark.parametrize(("top1", "at"), [(0.399, "half at ε = 0.25"), (0.4, "half at ε = 0.5")])
def test_the_sweep_names_the_first_radius_that_halves(run: Path, top1: float, at: str) -> None:
    put(run, "sweep", {}, top1=0.8)
    put(run, "sweep", {"norm": "L2", "epsilon": "0.25"}, top1=top1)
    put(run, "sweep", {"norm": "L2", "epsilon": "0.5"}, top1=0.1)
    assert accuracy.says(run, "accuracy in L2") == [
        Says("accuracy in L2", (model,), "lower", (at,)) for model in BOTH
    ]
    radius = at.removeprefix("half ")
    found = accuracy.finding(run, "accuracy in L2")
    assert found.claim == (
        f"Half of the natural accuracy is lost in L2: standard by {radius[3:]} and robust by "
        f"{radius[3:]}."
    )
    (row,) = [
        row
        for row in read(run, "sweep")
        if (row["model"], row["norm"], row["epsilon"]) == ("robust", "L2", radius.split()[-1])
    ]
    measured = accuracy.measured(run, "accuracy in L2", "robust")
    assert measured.estimates[radius] == estimate(row, "top1")
    assert measured.estimates["on natural images"].value == 0.8


def test_radii_of_levels_are_fractions_of_255(run: Path) -> None:
    radii = {said.than[0] for said in accuracy.says(run, "accuracy in L∞")}
    assert all(radius.startswith("half at ε = ") and radius.endswith("/255") for radius in radii)


def test_a_sweep_that_halves_nothing_says_so(run: Path) -> None:
    put(run, "sweep", {}, top1=0.9)
    assert accuracy.says(run, "accuracy in L2") == [
        Says("accuracy in L2", (model,), "higher", ("half at ε = 2",)) for model in BOTH
    ]
    claim = accuracy.finding(run, "accuracy in L2").claim
    assert "standard at none of these radii" in claim


def test_passed_checks_promise_no_more_than_they_show(run: Path) -> None:
    found = accuracy.made(run).findings[-1]
    assert found.claim == "All 6 sanity checks for gradient masking passed."
    assert "cannot prove" in found.note
    assert not found.says
    assert not found.warning


def test_a_failed_check_is_a_warning_that_says_what_it_means(run: Path) -> None:
    where = {"model": "robust", "check": "accuracy falls with the number of steps"}
    put(run, "checks", where, passed="false")
    found = accuracy.finding(run, "sanity checks")
    assert found.says == [Says("sanity checks", ("robust",), "lower", ("expected",))]
    assert found.claim.startswith("1 of 6 sanity checks failed")
    assert "steps 1: 9.1%" in found.note
    assert found.warning
    assert found.important


def test_blocks_hold_every_row(run: Path) -> None:
    tables = {block.file: block for block in accuracy.blocks(run, TableBlock)}
    assert {name: len(block.rows) for name, block in tables.items()} == {
        "accuracy.csv": 8,
        "sweep.csv": 22,
        "checks.csv": 6,
    }
    shown = list(cells(tables["accuracy.csv"])[0].values())
    assert shown == ["natural images", "standard", "91.7%", "90.0–93.4", "93.8%", "1,000"]
    assert cells(tables["checks.csv"])[0]["Result"] == "passed"


def test_sweep_and_checks_may_be_absent(run: Path) -> None:
    (run / "results" / "sweep.csv").unlink()
    (run / "results" / "checks.csv").unlink()
    blocks = accuracy.made(run).blocks
    assert [type(block) for block in blocks] == [FigureBlock, TableBlock]
    assert not accuracy.findings(run, "accuracy in L2")
    assert len(accuracy.made(run).findings) == 4
    assert not [block for block in blocks if isinstance(block, NoteBlock)]


def test_scores_are_the_natural_and_the_lowest_accuracy(run: Path) -> None:
    natural, worst = accuracy.made(run).scores
    rows = [row for row in read(run, "accuracy") if row["model"] == "robust"]
    assert natural.estimates["robust"].value == float(rows[0]["top1"])
    assert worst.estimates["robust"].value == min(float(row["top1"]) for row in rows)
    assert worst.notes["robust"] == "PGD-20, L2 ε = 0.5"
