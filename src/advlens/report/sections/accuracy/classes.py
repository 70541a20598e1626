"""Which classes a model confuses: the accuracy of each, and what it is taken for."""

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
from advlens.words import Estimate, Says, count, listed, percent, shared

MANY = 20
"""Classes above which only the ends of their order, and the most frequent confusions, are shown."""
SQUARES = "A square's area is the share of a true class's images that gets a prediction."


def findings(results: Results) -> list[Finding]:
    """For each model the classes that are right least and most often, and its main confusion."""
    return [
        *_class_findings(conditions(results.table("class_accuracy"))),
        *_confusion_findings(conditions(results.table("confusion"))),
    ]


def blocks(results: Results) -> Iterator[Block]:
    """A figure and a table of each; of many classes the confusions have the table alone."""
    classes, pairs = (conditions(results.table(n)) for n in ("class_accuracy", "confusion"))
    for found in _class_findings(classes):
        yield _titled(found, "A class has few of the images, so its interval is wide.")
        yield _class_figure(results, classes)
        yield _class_table(results.table("class_accuracy"))
    for found in _confusion_findings(pairs):
        rows = _with_shares(pairs)
        names = _names(results, rows)
        few = len(names) <= MANY
        yield _titled(found, SQUARES if few else "Of many classes, only the table shows it.")
        if few:
            yield _confusion_figure(results, rows, names)
        yield _confusion_table(rows)


def _titled(found: Finding, text: str) -> NoteBlock:
    return NoteBlock(title=found.claim.rstrip("."), text=text)


def _estimate(row: Row) -> Estimate:
    return Estimate(value=row["right"] / row["n"], low=row["low"], high=row["high"], n=row["n"])


def _ends(rows: Rows) -> tuple[Row, Row]:
    """The rows of the classes that are right least and most often."""
    ordered = sorted(rows, key=lambda row: row["right"] / row["n"])
    return ordered[0], ordered[-1]


def _class_findings(found: dict[str, Rows]) -> Iterator[Finding]:
    """Whether the class that is right least often is so beyond the intervals: of natural images."""
    if not found:
        return
    name, rows = next(iter(found.items()))
    about, says, measured = f"accuracy by class {phrase(name)}", list[Says](), list[Measured]()
    least: dict[str, str] = {}
    for model, mine in rows.grouped("model").items():
        worst, best = _ends(mine)
        ends = {f"on {row['class']}": _estimate(row) for row in (worst, best)}
        apart = not _estimate(worst).overlaps(_estimate(best))
        says.append(Says(about, (model,), "lower" if apart else "open", (best["class"],)))
        measured.append(Measured(name=about, model=model, estimates=ends, form="percent"))
        least |= {model: worst["class"]} if apart else {}
    claim = f"Recognized least often {phrase(name)}: {_by_model(least, rows)}."
    if not least:
        claim = f"No class is established to be harder than another {phrase(name)}."
    yield Finding(claim=claim, says=says, estimates=measured)


def _by_model(texts: dict[str, str], rows: Rows) -> str:
    """What holds for some models, or one text that holds for all."""
    if texts.keys() == {*rows.values("model")}:
        return shared(texts, "by")
    return listed([f"{text} by {model}" for model, text in texts.items()])


def _with_shares(found: dict[str, Rows]) -> Rows:
    """Confusions with the name of their condition, and their share of the label's images."""
    made = Rows()
    for name, rows in found.items():
        for mine in rows.split("model", "label"):
            n = sum(row["count"] for row in mine)
            made += [{**row, "panel": name, "share": row["count"] / n, "n": n} for row in mine]
    return made


def _wrong(rows: Rows) -> list[Row]:
    """Confusions of two classes, the most frequent first."""
    wrong = [row for row in rows if row["label"] != row["predicted"]]
    return sorted(wrong, key=lambda row: -row["count"])


def _confusion_findings(found: dict[str, Rows]) -> Iterator[Finding]:
    """The most frequent confusion of natural images."""
    if not found:
        return
    name, rows = next(iter(_with_shares(found).grouped("panel").items()))
    about, says, measured = f"confusions {phrase(name)}", list[Says](), list[Measured]()
    most: dict[str, str] = {}
    for model, mine in rows.grouped("model").items():
        for row in _wrong(mine)[:1]:
            most[model] = f"{row['label']} for {row['predicted']}"
            says.append(Says(about, (model,), "higher", (most[model],)))
            value = {most[model]: Estimate.only(row["share"], row["n"])}
            measured.append(Measured(name=about, model=model, estimates=value, form="percent"))
    claim = f"The most frequent confusion {phrase(name)}: {_by_model(most, rows)}."
    if not most:
        claim = f"No class is taken for another {phrase(name)}."
    yield Finding(claim=claim, says=says, estimates=measured)


def _class_figure(results: Results, found: dict[str, Rows]) -> FigureBlock:
    natural = next(iter(found.values()))
    shares = {
        name: sum(row["right"] / row["n"] for row in mine) / len(mine)
        for name, mine in natural.grouped("class").items()
    }
    order = sorted(shares, key=lambda name: shares[name])
    few = order if len(order) <= MANY else [*order[: MANY // 2], *order[-MANY // 2 :]]
    rows = Rows(
        {
            "panel": name.replace(", ", "\n"),
            "group": row["class"],
            "model": row["model"],
            **_hundredfold(row),
        }
        for group in few
        for name, mine in found.items()
        for row in mine.where(**{"class": group})
    )
    values = "; ".join(
        f"{row['model']}, {' '.join(row['panel'].split())}, {row['group']}: {row['mean']:.1f}%"
        for row in rows
    )
    left_out = f" Of {len(order)} classes, the {MANY // 2} of lowest and of highest accuracy."
    return FigureBlock(
        name="accuracy-classes",
        draw=partial(figures.measure_panels, rows, results.models, label="Accuracy in %"),
        alt=f"Dot plot of the accuracy of each class. {values}.",
        caption="Accuracy of each class, lowest natural accuracy first, with 95% Wilson intervals."
        + (left_out if len(order) > len(few) else ""),
    )


def _hundredfold(row: Row) -> Row:
    return {
        "mean": 100 * row["right"] / row["n"],
        "low": 100 * row["low"],
        "high": 100 * row["high"],
    }


def _class_table(rows: Rows) -> TableBlock:
    return TableBlock(
        caption="The accuracy of each class in numbers.",
        file="class_accuracy.csv",
        columns=[
            Column.words("Class", "class"),
            IMAGES,
            MODEL,
            Column(header="Right", cell=lambda row: percent(row["right"] / row["n"])),
            Column(
                header="95% interval", cell=lambda row: _estimate(row).interval(as_percent=True)
            ),
            N,
        ],
        rows=[row for mine in rows.split("class") for row in mine],
        folded=True,
    )


def _names(results: Results, rows: Rows) -> list[str]:
    """The classes that occur, in the order of the data."""
    order = {name: place for place, name in enumerate(results.record["data"]["classes"])}
    seen = {*rows.values("label"), *rows.values("predicted")}
    return sorted(seen, key=lambda name: (order.get(name, len(order)), name))


def _confusion_figure(results: Results, rows: Rows, names: list[str]) -> FigureBlock:
    """Of natural images, and under the first attack."""
    shown = tuple(rows.values("panel")[:2])
    mine = rows.where(panel=shown)
    values = "; ".join(
        f"{row['model']}, {row['panel']}: {row['label']} for {row['predicted']} "
        f"{percent(row['share'])}"
        for model in results.models
        for row in _wrong(mine.where(model=model))[:5]
    )
    return FigureBlock(
        name="confusions",
        draw=partial(figures.confusions, mine, results.models, names),
        alt=f"Matrices of true and predicted classes. Most frequent: {values or 'none'}.",
        caption="Each row is a model; gray squares are predicted right.",
    )


def _confusion_table(rows: Rows) -> TableBlock:
    most = [row for mine in rows.split("panel", "model") for row in _wrong(mine)[:10]]
    return TableBlock(
        caption="The most frequent confusions, ten of each model.",
        file="confusion.csv",
        columns=[
            IMAGES,
            MODEL,
            Column.words("True class", "label"),
            Column.words("Predicted", "predicted"),
            Column.of("Images", "count", count),
            Column.of("Share of the class", "share", percent),
        ],
        rows=most,
        folded=True,
    )
