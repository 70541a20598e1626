"""What the report says of who is wrong: classes, confusions, calibration, and examples."""

from pathlib import Path

import pytest

from advlens.report.blocks import FigureBlock, NoteBlock, PictureRowsBlock, TableBlock
from advlens.report.evidence import evidence
from advlens.report.sections.accuracy import section
from advlens.report.verdict import Choice, Claim
from advlens.runs.results import Results
from sections import Maker, estimate, puts, remove
from synthetic_predictions import CONDITIONS, KINDS, write_predictions
from synthetic_run import BOTH, Table, change, put, rows_of, write_run, write_table

accuracy = Maker(section)
CLASSES = "accuracy by class on natural images"
CONFUSIONS = "confusions on natural images"
NATURAL, LINF = "confidence on natural images", "confidence under PGD-20, L∞ ε = 8/255"
SHIP, PLANE = "class_accuracy class=ship", "class_accuracy class=airplane"
NEW = ("examples", "class_accuracy", "confusion", "calibration", "calibration_error")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_predictions(write_run(tmp_path_factory.mktemp("run"), shown=0))


@pytest.mark.parametrize(
    ("measure", "changes", "told", "words"),
    [
        # the class that is right least often, if its interval lies below that of the best
        (
            CLASSES,
            "",
            "standard lower than airplane; robust lower than airplane",
            "Recognized least often on natural images: ship.",
        ),
        (
            CLASSES,
            "class_accuracy model=standard: low=0.1 high=0.9",
            "standard open than airplane; robust lower than airplane",
            "least often on natural images: ship by robust.",
        ),
        (
            CLASSES,
            "class_accuracy: low=0.1 high=0.9",
            "standard open than airplane; robust open than airplane",
            "No class is established to be harder than another on natural images.",
        ),
        (
            CLASSES,
            "class_accuracy model=robust class=cat attack=natural: right=1 low=0 high=0.1",
            "standard lower than airplane; robust lower than airplane",
            "ship by standard and cat by robust.",
        ),
        # attacked images are no natural ones
        (
            CLASSES,
            "class_accuracy class=cat attack=Pgd: right=0 low=0 high=0.1",
            "standard lower than airplane; robust lower than airplane",
            "natural images: ship.",
        ),
        (
            CONFUSIONS,
            "",
            "standard higher than ship for dog; robust higher than ship for dog",
            "The most frequent confusion on natural images: ship for dog.",
        ),
        (
            CONFUSIONS,
            "confusion model=robust label=cat predicted=airplane: count=590",
            "standard higher than ship for dog; robust higher than cat for airplane",
            "ship for dog by standard and cat for airplane by robust.",
        ),
        # mean confidence beside the interval of accuracy
        (
            NATURAL,
            "calibration_error: confidence=0.8 accuracy=0.7 low=0.6 high=0.79",
            "standard higher than accuracy; robust higher than accuracy",
            "lies above accuracy in standard and robust on natural images",
        ),
        (
            NATURAL,
            "calibration_error: confidence=0.8 accuracy=0.7 low=0.6 high=0.8",
            "standard open than accuracy; robust open than accuracy",
            "fits accuracy in standard and robust on natural images",
        ),
        (
            LINF,
            "calibration_error model=robust: confidence=0.8 accuracy=0.9 low=0.85 high=0.95",
            "standard higher than accuracy; robust lower than accuracy",
            "it lies above accuracy in standard and lies below accuracy in robust under PGD-20",
        ),
    ],
)
def test_what_is_said(run: Path, measure: str, changes: str, told: str, words: str) -> None:
    accuracy.tells(run, changes, measure, told, words)
    accuracy.check(run)


def test_where_no_class_is_taken_for_another_that_is_said(run: Path) -> None:
    change(run, "confusion", lambda row: row.update(predicted=row["label"]))
    claims = [finding.claim for finding in accuracy.check(run).findings]
    assert "No class is taken for another on natural images." in claims


def test_findings_carry_their_estimates(made: Path) -> None:
    (plane,) = rows_of(
        made, "class_accuracy", model="robust", attack="natural", **{"class": "ship"}
    )
    found = accuracy.measured(made, CLASSES, "robust").estimates["on ship"]
    share = int(plane["right"]) / int(plane["n"])
    assert found == estimate({**plane, "mean": str(share)})
    (error,) = rows_of(made, "calibration_error", model="robust", norm="Linf")
    found = accuracy.measured(made, "calibration error", "robust").estimates
    assert list(found) == ["on natural images", *(f"under PGD-20, {each}" for each in RADII)]
    assert found["under PGD-20, L∞ ε = 8/255"].value == float(error["ece"])
    found = accuracy.measured(made, CONFUSIONS, "robust").estimates["ship for dog"]
    (cell,) = rows_of(
        made, "confusion", model="robust", attack="natural", label="ship", predicted="dog"
    )
    assert (found.value, found.n) == (int(cell["count"]) / 600, 600)


RADII = ("L∞ ε = 8/255", "L2 ε = 0.5")


def test_each_table_gives_its_blocks_and_none_without_it(run: Path) -> None:
    def kinds() -> list[str]:
        return [
            getattr(block, "name", "") or getattr(block, "file", "")
            for block in accuracy.made(run).blocks
            if isinstance(block, FigureBlock | TableBlock | PictureRowsBlock)
        ]

    whole = kinds()
    assert whole[-10:] == [
        *(f"examples-{kind.replace(' ', '-')}" for kind in KINDS),
        *("accuracy-classes", "class_accuracy.csv", "confusions", "confusion.csv"),
        *("reliability", "calibration_error.csv"),
    ]
    for table in NEW[:-1]:  # a diagram without its errors has no finding
        remove(run, table)
        kept = kinds()
        assert len(kept) < len(whole)
        whole = kept
    assert whole[-1] == "checks.csv"


def test_tables_hold_every_row_and_are_folded(made: Path) -> None:
    new = [block for block in accuracy.blocks(made, TableBlock) if block.file[:-4] in NEW]
    assert all(block.folded for block in new)
    ((classes,), (pairs,), (errors,)) = (
        accuracy.cells(made, f"{name}.csv")
        for name in ("class_accuracy", "confusion", "calibration_error")
    )
    assert len(classes) == 2 * 3 * 4
    first = rows_of(made, "class_accuracy")[0]
    assert (classes[0]["Class"], classes[0]["Images"]) == ("airplane", "natural images")
    assert classes[0]["Right"] == f"{100 * int(first['right']) / 600:.1f}%"
    assert all(row["True class"] != row["Predicted"] for row in pairs)
    assert {row["Share of the class"] for row in pairs if row["Model"] == "standard"} >= {"100.0%"}
    assert len(errors) == 6
    assert errors[0]["ECE"] == f"{100 * float(rows_of(made, 'calibration_error')[0]['ece']):.1f}%"


def test_of_many_classes_the_ends_and_the_most_frequent_confusions_are_shown(
    tmp_path: Path,
) -> None:
    names = [f"class {number:02d}" for number in range(30)]
    run = write_run(tmp_path, classes=names, shown=0)
    write_predictions(run, classes=names, shown=0)
    figures = {block.name: block for block in accuracy.blocks(run, FigureBlock)}
    assert "confusions" not in figures
    alt = figures["accuracy-classes"].alt
    assert [name for name in names if f" {name}:" in alt] == [*names[:10], *names[-10:]]
    assert "Of 30 classes, the 10 of lowest and of highest" in figures["accuracy-classes"].caption
    (pairs,) = accuracy.cells(run, "confusion.csv")
    assert len(pairs) == 10 * 2 * 3
    assert pairs[0]["True class"] == names[-1]


def test_attacks_that_differ_between_models_are_named_by_their_norm(run: Path) -> None:
    for table in ("class_accuracy", "confusion", "calibration", "calibration_error"):
        puts(run, f"{table} model=robust norm=Linf: epsilon=0.1")
    alt = {block.name: block.alt for block in accuracy.blocks(run, FigureBlock)}
    assert "standard, attacks in L∞, ship: 0.0%" in alt["accuracy-classes"]
    assert "standard, PGD-20 L2 ε = 0.5, ship" in alt["accuracy-classes"]


def test_examples_stand_in_rows_of_a_model_beside_their_twins(made: Path) -> None:
    blocks = {block.name: block for block in accuracy.blocks(made, PictureRowsBlock)}
    fooled, error = blocks["examples-fooled"], blocks["examples-error"]
    assert "PGD-20, L∞ ε = 8/255" in fooled.caption
    assert "15 times as large" in fooled.caption
    assert [row.title for row in fooled.rows] == ["standard", "robust"]
    captions = [[p.caption for p in column.pictures] for column in fooled.rows[0].columns]
    assert captions == [["airplane 99%"] * 2, ["ship 65%"] * 2, [""] * 2]
    wrong = [[p.wrong for p in column.pictures] for column in fooled.rows[0].columns]
    assert wrong == [[False] * 2, [True] * 2, [False] * 2]
    ((column,), _) = (row.columns for row in error.rows)
    assert [picture.caption for picture in column.pictures] == ["airplane → cat 99%"] * 2
    titles = [block.title for block in accuracy.blocks(made, NoteBlock) if block.title]
    assert "Recognized least often on natural images: ship" in titles
    assert CONDITIONS[1]["norm"] == "Linf"


def shown_by(run: Path, chosen: tuple[str, ...]) -> dict[str, str]:
    results = Results.read(run)
    claims = {model: [Claim("Linf", "holds", "")] for model in results.models}
    found = evidence(results, claims, [Choice("Linf", chosen, "")])
    return {model: strips[""][0].pictures[0].file for model, strips in found.items()}


def test_the_image_beside_the_verdict_is_one_that_shows_it_of_all_models(run: Path) -> None:
    """Right before the attack by all; under it by those chosen, and by no other where there is."""
    after = {5: (True, True), 6: (True, False), 7: (False, True), 8: (False, False)}
    shared: Table = []
    for rank, (image, held) in enumerate(after.items()):
        for row in rows_of(run, "examples", kind="fooled", rank="0"):
            right = held[BOTH.index(row["model"])]
            row |= {"kind": "shared", "rank": rank, "id": image}
            row |= {"natural": f"{row['model']}-{image}.png"}
            shared.append(row | {"attacked_as": row["label" if right else "attacked_as"]})
    own = {
        row["model"]: row["natural"] for row in rows_of(run, "examples", kind="fooled", rank="0")
    }
    assert shown_by(run, ()) == own
    write_table(run, "examples", [*rows_of(run, "examples"), *shared])
    for chosen, image in (((), 8), (BOTH, 5), (("robust",), 7), (("standard",), 6)):
        assert shown_by(run, chosen) == {model: f"{model}-{image}.png" for model in BOTH}
    put(run, "examples", {"kind": "shared", "id": "7", "model": "standard"}, predicted="ship")
    assert shown_by(run, ("robust",)) == {model: f"{model}-5.png" for model in BOTH}
    put(run, "examples", {"kind": "shared", "model": "standard"}, epsilon=0.1)
    assert shown_by(run, ("robust",)) == own  # another attack
