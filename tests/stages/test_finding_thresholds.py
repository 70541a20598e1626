"""Where a number turns one sentence of the report into another: just within and just beyond."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from advlens.report.blocks import Section
from advlens.report.sections import accuracy, attribution, dissection, features, neurons
from advlens.runs.results import Results
from synthetic_attribution import write_attribution
from synthetic_dissection import write_dissection
from synthetic_features import write_features
from synthetic_run import change, write_run

Make = Callable[[Results], Section | None]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tables of a run of two models, "standard" and "robust", as they were written."""
    run = write_run(tmp_path_factory.mktemp("made") / "run", shown=1)
    for write in (write_attribution, write_dissection, write_features):
        write(run)
    return {path.name: path.read_text(encoding="utf-8") for path in run.glob("results/*.csv")}


@pytest.fixture
def run(tmp_path: Path, tables: dict[str, str]) -> Path:
    run = write_run(tmp_path / "run", shown=1)
    for name, text in tables.items():
        (run / "results" / name).write_text(text, encoding="utf-8")
    return run


def says(make: Make, run: Path, words: str) -> bool:
    section = make(Results.read(run))
    assert section
    return any(re.search(words, finding.claim) for finding in section.findings)


def apart(higher: float, lower: float) -> Callable[[dict[str, Any]], None]:
    """The attack's success on one model and on the other, both nearly exact."""

    def alter(row: dict[str, Any]) -> None:
        success = higher if row["model"] == "standard" else lower
        row.update(success=success, success_low=success - 0.001, success_high=success + 0.001)

    return alter


@pytest.mark.parametrize(("lower", "said"), [(0.84, True), (0.86, False), (0.9, False)])
@pytest.mark.parametrize(
    ("make", "table", "words"),
    [
        (neurons.section, "consistency", "^At equal ε the models cannot be compared"),
        (neurons.section, "consistency", "^Equal success was not reached"),
        (dissection.section, "dissection_images", "^Under attack the models cannot be compared"),
    ],
)
def test_successes_more_than_ten_points_apart(
    make: Make, table: str, words: str, lower: float, said: bool, run: Path
) -> None:
    change(run, table, apart(0.95, lower))
    assert says(make, run, words) == said


@pytest.mark.parametrize(("success", "said"), [(0.49, True), (0.51, False)])
def test_an_attack_that_fails_more_often_than_not_is_weak(
    success: float, said: bool, run: Path
) -> None:
    change(run, "dissection_images", apart(success, success))
    assert says(dissection.section, run, "^The attack rarely reached its target") == said


@pytest.mark.parametrize(
    ("n", "labels", "said"),
    [(63_305, 1_197, False), (31_653, 599, False), (31_652, 1_197, True), (63_305, 598, True)],
)
def test_less_than_half_of_broden_is_small(n: int, labels: int, said: bool, run: Path) -> None:
    change(run, "dissection_images", lambda row: row.update(n=n, labels=labels))
    assert says(dissection.section, run, "do not compare with published ones") == said


@pytest.mark.parametrize(("low", "said"), [("0.17", True), ("0.18", False)])
def test_more_detectors_than_by_chance_hang_on_the_intervals(
    low: str, said: bool, run: Path
) -> None:
    """A share of .3 against 10 of 100 units by chance, whose interval ends at .174 (Wilson)."""

    def alter(row: dict[str, Any]) -> None:
        row.update(share="0.3", low=low, high="0.4", units="100")
        row.update(permuted_detectors="10", permuted_share="0.1")

    change(run, "dissection_shares", alter)
    assert says(dissection.section, run, "more detectors than by chance are not") == said


@pytest.mark.parametrize(("mean", "said"), [("0.949", True), ("0.951", False)])
def test_noise_must_leave_a_cs1_of_95_percent(mean: str, said: bool, run: Path) -> None:
    change(run, "consistency", lambda row: row["images"] == "noise" and row.update(mean=mean))
    assert says(neurons.section, run, "^Noise alone changes") == said


@pytest.mark.parametrize(("gap", "said"), [("0.101", True), ("0.099", False)])
def test_a_gap_above_ten_percent_is_large(gap: str, said: bool, run: Path) -> None:
    change(run, "attribution", lambda row: row["measure"] == "gap" and row.update(mean=gap))
    assert says(attribution.section, run, "^Attributions do not add up") == said


@pytest.mark.parametrize(("mean", "said"), [("0.51", True), ("0.49", False)])
def test_an_inversion_more_than_half_away_is_not_there(mean: str, said: bool, run: Path) -> None:
    change(
        run,
        "inversion",
        lambda row: row["measure"] == "representation" and row.update(mean=mean),
    )
    assert says(features.section, run, "^Inversions did not reach") == said


@pytest.mark.parametrize(
    ("natural", "low", "attacked", "verb"),
    [
        (0.9, 0.88, 0.45, "keeps at least half of its accuracy"),
        (0.9, 0.88, 0.449, "loses more than half of its accuracy"),
        (0.9, 0.88, 0.251, "loses more than half of its accuracy"),
        (0.9, 0.88, 0.25, "falls to chance or below"),
        (0.3, 0.251, 0.2, "falls to chance or below"),
        (0.3, 0.25, 0.2, "is not established to be above chance"),
    ],
)
def test_half_of_the_accuracy_and_chance(
    natural: float, low: float, attacked: float, verb: str, run: Path
) -> None:
    """Chance is 1/4 here. One attack leaves more than the others, and does not count."""

    def alter(row: dict[str, Any]) -> None:
        left = attacked if row["attack"] == "Pgd" else natural
        row.update(top1=left, top1_low=low if left == natural else 0.0, top1_high=1.0)

    change(run, "accuracy", alter)
    assert says(accuracy.section, run, f"^standard {verb}")


@pytest.mark.parametrize(("left", "said"), [(0.45, True), (0.449, False)])
def test_exactly_half_of_the_accuracy_is_not_lost(left: float, said: bool, run: Path) -> None:
    change(run, "sweep", lambda row: row.update(top1=0.9 if float(row["epsilon"]) == 0 else left))
    assert says(accuracy.section, run, "standard at none of these radii") == said
