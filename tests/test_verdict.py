"""The verdict at the top of the page: its claims and marks, for each kind of run."""

from pathlib import Path

import pytest

from advlens.report.verdict import ENOUGH, MARKS, TITLES, Claim, in_lines, not_measured, verdict
from advlens.runs.results import Results
from sections import copied, puts, remove
from synthetic_attribution import write_attribution
from synthetic_features import write_features
from synthetic_run import rows_of, write_run, write_table


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write_run(tmp_path_factory.mktemp("run"), classes=tuple("abcdefghij"))
    write_attribution(run)
    return write_features(run)


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return copied(made, tmp_path)


def claims(run: Path, model: str) -> dict[str, Claim]:
    each = verdict(Results.read(run))[model]
    assert all(claim.text.endswith(".") and claim.mark in MARKS for claim in each)
    assert all(claim.about in TITLES for claim in each)
    return {claim.about: claim for claim in each}


PGD = "accuracy model=robust attack=Pgd"
LINF = "sweep model=robust norm=Linf"
UNITS = "consistency model=robust images=equal-success"
CASES = {
    # robust, not robust, partly
    "robust": (f"{PGD}: top1=0.4", "L2", "holds", "at least half of its"),
    "less": (f"{PGD}: top1=0.38", "L2", "partly", "less than half of its"),
    "half": (f"{PGD}: top1=0.2", "L2", "partly", "less than half of its"),
    "broken": (f"{PGD}: top1=0.19", "L2", "fails", "less than a quarter of its"),
    "guessing": (f"{PGD}: top1=0.1", "L2", "fails", "no more than guessing"),
    "radius": (f"{LINF}: top1=0.5", "Linf", "holds", "Under PGD-10, L∞ ε = 8/255"),
    # masked gradients
    "masked": (f"{PGD}: top1=0.7; checks: passed=false", "L2", "unknown", "a check failed"),
    "broken all the same": (f"{PGD}: top1=0.1; checks: passed=false", "L2", "fails", "guessing"),
    # chance, too few
    "above chance": ("accuracy attack=natural: top1=0.2±0.09", "natural", "holds", "gives 10.0%."),
    "chance": ("accuracy attack=natural: top1=0.2±0.11", "natural", "fails", "nothing to trust"),
    "few": ("accuracy attack=natural: top1=0.4±0.31 n=5", "natural", "unknown", "5 images are too"),
    # units
    "success": (f"{UNITS}: success=0.79", "units", "unknown", "succeeds on 79.0% of images"),
    "kept": (f"{UNITS}: mean=0.9701; floors: value=0.91", "units", "holds", "units stand for what"),
    "some": (f"{UNITS}: mean=0.9699; floors: value=0.91", "units", "partly", "partly stand"),
    "few left": (f"{UNITS}: mean=0.9401; floors: value=0.91", "units", "partly", "partly stand"),
    "lost": (f"{UNITS}: mean=0.9399; floors: value=0.91", "units", "fails", "no longer stand"),
    # attributions
    "faith": ("attribution: ahead_low=0.01", "attributions", "holds", "what its predictions rest"),
    "one": (
        "attribution: ahead_low=0.01; attribution measure=deletion: ahead_low=0",
        *("attributions", "partly", "beat random ones in 3 of 6 comparisons (n"),
    ),
    "none": (
        f"attribution: ahead_low=-0.1 n={ENOUGH}",
        *("attributions", "fails", f"not shown to beat random ones (n = {ENOUGH})"),
    ),
    "none of few": (
        f"attribution: ahead_low=-0.1 n={ENOUGH - 1}",
        *("attributions", "unknown", f"{ENOUGH - 1} images are too few"),
    ),
    # features
    "made": ("generation: mean=0.55", "features", "holds", "recognizes 55.0%"),
    "half made": ("generation: mean=0.54", "features", "partly", "recognizes 54.0%"),
    "quarter": ("generation: mean=0.325", "features", "partly", "recognizes 32.5%"),
    "unmade": ("generation: mean=0.32", "features", "fails", "recognizes 32.0%"),
}


@pytest.mark.parametrize(("changes", "about", "mark", "words"), CASES.values(), ids=CASES)
def test_each_claim_has_its_mark(run: Path, changes: str, about: str, mark: str, words: str):
    puts(run, changes)
    claim = claims(run, "robust")[about]
    assert (claim.mark, words in claim.text) == (mark, True), claim


def test_a_single_step_is_no_worst_case_but_may_break_a_model(run: Path):
    remove(run, "sweep")
    puts(run, "accuracy attack=Fgsm: top1=0.6; accuracy model=standard attack=Fgsm: top1=0.1")
    robust, standard = (claims(run, model)["Linf"] for model in ("robust", "standard"))
    assert robust.mark == "unknown"
    assert "one step is no worst case in L∞" in robust.text
    assert standard.mark == "fails"


def test_the_worst_of_several_attacks_counts_and_one_without_a_ball_does_not(run: Path):
    rows = rows_of(run, "accuracy")
    (pgd,) = [row for row in rows if (row["attack"], row["model"]) == ("Pgd", "robust")]
    aa = pgd | {"attack": "AutoAttack", "steps": "0", "top1": "0.05"}
    adam = pgd | {"attack": "AdamAttack", "norm": "", "epsilon": "", "top1": "0"}
    write_table(run, "accuracy", [*rows, adam])
    assert "PGD-20" in claims(run, "robust")["L2"].text
    write_table(run, "accuracy", [*rows, adam, aa])
    assert "AutoAttack" in claims(run, "robust")["L2"].text
    assert "AutoAttack" not in not_measured(Results.read(run))


def test_what_was_not_measured_is_said(run: Path):
    assert not_measured(Results.read(run)) == ["AutoAttack", "concepts of units"]
    remove(run, "attribution", "generation", "layers", "consistency")
    assert {*claims(run, "robust")} == {"natural", "Linf", "L2"}
    assert not_measured(Results.read(run))[2:] == [
        *("concepts of units", "attributions", "generated images")
    ]
    remove(run, "accuracy")
    assert claims(run, "robust") == {}


def test_losers_are_named_as_winners_are(made: Path):
    """Each model has a claim about each thing."""
    about = [[claim.about for claim in each] for each in verdict(Results.read(made)).values()]
    assert about[0] == about[1] == ["natural", "Linf", "L2", "units", "attributions", "features"]


def test_the_terminal_says_the_same(made: Path):
    lines = in_lines(Results.read(made))
    assert lines[0] == "standard"
    assert lines[7] == "robust"
    assert lines[-1] == "Not measured: AutoAttack, concepts of units."
    claim = claims(made, "standard")["L2"]
    assert lines[3] == f"  ✗ Attacks in L2: does not hold. {claim.text}"
