"""Whether a model is as often right as it is confident, natural and under attack."""

from collections.abc import Iterator
from functools import partial

from advlens.report.blocks import (
    IMAGES,
    MODEL,
    Block,
    Column,
    FigureBlock,
    Finding,
    Measured,
    N,
    NoteBlock,
    TableBlock,
)
from advlens.report.figures import accuracy as figures
from advlens.report.sections.accuracy.conditions import conditions, phrase
from advlens.runs.results import Results, Rows
from advlens.runs.tables import Row
from advlens.words import Direction, Estimate, Says, attack_name, moves, percent

AGAINST = {"higher": "lies above accuracy", "lower": "lies below accuracy", "open": "fits accuracy"}

FEW = 10
"""Images below which a bin says too little to be drawn."""


def findings(results: Results) -> list[Finding]:
    """How confidence and accuracy of the models compare, on each kind of images."""
    parts, says, measured = list[str](), list[Says](), list[Measured]()
    errors: dict[str, dict[str, Estimate]] = {}
    for name, rows in conditions(results.table("calibration_error")).items():
        mine = [
            Says(f"confidence {phrase(name)}", (row["model"],), _side(row), ("accuracy",))
            for row in rows
        ]
        parts.append(f"{moves(mine, AGAINST)} {phrase(name)}")
        says += mine
        for row in rows:
            error = Estimate.only(row["ece"], row["n"])
            errors.setdefault(row["model"], {})[phrase(name)] = error
    if not parts:
        return []
    measured = [
        Measured(name="calibration error", model=model, estimates=each, form="percent")
        for model, each in errors.items()
    ]
    return [
        Finding(
            claim=f"Mean confidence {'; it '.join(parts[:2])}.",
            says=says,
            estimates=measured,
            note="The expected calibration error is the mean distance of confidence and accuracy "
            "over 15 bins of confidence; few images make it too high.",
        )
    ]


def _side(row: Row) -> Direction:
    """Where mean confidence lies beside the interval of accuracy."""
    if row["low"] <= row["confidence"] <= row["high"]:
        return "open"
    return "higher" if row["confidence"] > row["accuracy"] else "lower"


def blocks(results: Results) -> Iterator[Block]:
    """The reliability diagram, and the errors as a table."""
    bins, errors = (results.table(name) for name in ("calibration", "calibration_error"))
    if not bins or not errors:
        return
    rows = Rows(
        {**row, "panel": name}
        for name, mine in conditions(bins).items()
        for row in mine
        if row["n"] >= FEW
    )
    values = "; ".join(
        f"{row['model']}, {attack_name(row)}: {percent(row['confidence'])} confident, "
        f"{percent(row['accuracy'])} right, error {percent(row['ece'])}"
        for row in errors
    )
    yield NoteBlock(
        title=findings(results)[0].claim.rstrip("."),
        text="A model whose confidence can be used is right on 80% of the images on which it "
        "is 80% confident: it lies on the dotted line.",
    )
    if rows:
        yield FigureBlock(
            name="reliability",
            draw=partial(figures.reliability, rows, results.models),
            alt=f"Reliability diagram: accuracy against confidence. {values}.",
            caption="Accuracy of images of about the same confidence, in up to 15 bins of equal "
            f"width that hold at least {FEW} images, with 95% Wilson intervals (figure 1 of Guo "
            "et al. 2017).",
        )
    yield TableBlock(
        caption="Confidence, accuracy and the expected calibration error (ECE).",
        file="calibration_error.csv",
        columns=[
            IMAGES,
            MODEL,
            Column.of("Mean confidence", "confidence", percent),
            Column.interval("Accuracy", "accuracy", as_percent=True),
            Column.of("ECE", "ece", percent),
            N,
        ],
        rows=[row for mine in conditions(errors).values() for row in mine],
        folded=True,
    )
