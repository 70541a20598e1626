"""Tables of who is wrong made up for tests of the report, beside those of `synthetic_run`."""

from collections.abc import Sequence
from pathlib import Path

from advlens.intervals import wilson
from synthetic_run import BOTH, Row, Table, row, write_picture, write_table

CONDITIONS = (
    row(attack="natural", norm="", epsilon=0.0, steps=0, settings=""),
    row(attack="Pgd", norm="Linf", epsilon=8 / 255, steps=20, settings=""),
    row(attack="Pgd", norm="L2", epsilon=0.5, steps=20, settings=""),
)
EACH = 600
"""Images of a class."""
KINDS = ("fooled", "error", "least robust", "most robust")


def ends(right: int, n: int) -> Row:
    return dict(zip(("low", "high"), wilson(right, n), strict=True))


def write_predictions(
    run: Path,
    *,
    models: Sequence[str] = BOTH,
    classes: Sequence[str] = ("airplane", "cat", "dog", "ship"),
    shown: int = 2,
) -> Path:
    """Write the tables; classes are the harder the later, and taken for the one before them."""
    tables: dict[str, Table] = {
        name: []
        for name in ("class_accuracy", "confusion", "calibration", "calibration_error", "examples")
    }
    for index, model in enumerate(models):
        for strength, condition in zip((0.95, 0.3 * index, 0.6 * index), CONDITIONS, strict=True):
            told = row(model=model, **condition)
            right = [
                round(EACH * strength * (1 - 0.5 * c / len(classes))) for c in range(len(classes))
            ]
            for c, (name, count) in enumerate(zip(classes, right, strict=True)):
                tables["class_accuracy"].append(
                    {**told, "class": name, "right": count, "n": EACH, **ends(count, EACH)}
                )
                for guess, number in ((name, count), (classes[c - 1], EACH - count)):
                    if number:
                        cell = row(label=name, predicted=guess, count=number)
                        tables["confusion"].append(told | cell)
            n = EACH * len(classes)
            for number in (8, 15):
                sure = row(bin=number, confidence=number / 15 - 0.01, accuracy=sum(right) / n)
                tables["calibration"].append(told | sure | ends(sum(right), n) | row(n=n // 2))
            sure = row(ece=abs(0.75 - sum(right) / n), confidence=0.75, accuracy=sum(right) / n)
            tables["calibration_error"].append(told | sure | ends(sum(right), n) | row(n=n))
        for kind in KINDS:
            tables["examples"] += [
                _example(run, model, kind, rank, classes) for rank in range(shown)
            ]
    for name, rows in tables.items():
        write_table(run, name, rows)
    return run


def _example(run: Path, model: str, kind: str, rank: int, classes: Sequence[str]) -> Row:
    files = {}
    for number, name in enumerate(("natural", "attacked", "difference")):
        stem = f"figures/images/example-{BOTH.index(model) if model in BOTH else 0}-{kind[:5]}"
        files[name] = write_picture(run, f"{stem.replace(' ', '')}-{rank}-{name}.png", number)
    wrong = kind == "error"
    return row(
        model=model,
        **CONDITIONS[1],
        kind=kind,
        rank=rank,
        id=rank,
        label=classes[0],
        predicted=classes[1] if wrong else classes[0],
        confidence=0.987,
        attacked_as=classes[-1],
        attacked_confidence=0.654,
        distance=8 / 255,
        factor=15,
        **files,
    )
