"""What the report says of dissection: what units detect, and whether they do under attack."""

from advlens.report.blocks import Block, Score, Section, Term, glossary
from advlens.report.sections.dissection import blocks as parts
from advlens.report.sections.dissection.findings import findings
from advlens.report.sections.dissection.tables import DissectionTables, share
from advlens.report.sections.dissection.units import browser, pictures
from advlens.runs.measures import DISSECTION
from advlens.runs.results import Results
from advlens.words import layer_text, percent


def section(results: Results) -> Section | None:
    """From the tables of the dissection stage; None without `dissection.csv`."""
    tables = DissectionTables(results)
    if not tables.units:
        return None
    blocks: list[Block] = [
        *parts.shares(tables),
        *parts.transitions(tables),
        *parts.concepts(tables),
        *parts.sweep(tables),
        *pictures(tables),
        *browser(tables),
    ]
    return Section(
        title="Dissection",
        anchor="dissection",
        lead="A unit is one channel of a convolution. Dissection compares where it responds with "
        "where people marked colors, textures, materials, scenes, parts and objects. A unit that "
        "responds mostly within one of these, its concept, is called a detector of it."
        + (
            " Under attack the same is asked again: an image still shows what it showed, so a unit "
            "that stands for a concept should still find it."
            if tables.under_attack
            else ""
        ),
        findings=findings(tables),
        terms=_terms(tables),
        blocks=blocks,
        scores=_scores(tables),
    )


def _terms(tables: DissectionTables) -> list[Term]:
    iou = DISSECTION["iou"]
    source = f"{iou.source}{'; under attack: D19, D22' * tables.under_attack}"
    quantile = next((row["quantile"] for row in tables.images), 0.005)
    counting = (
        " As in NetDissect-Lite, an image counts only where the response touches a pixel with a "
        "label of the concept's category."
        if tables.images.one(counting="netdissect-lite")
        else ""
    )
    return [
        *glossary([iou._replace(meaning=iou.meaning + counting, source=source)]),
        Term(
            name="Detector",
            meaning=f"A unit whose IoU with its concept exceeds {tables.minimum:g}. That seems "
            "little, but concepts are rare and activation maps coarse; hence chance beside it.",
        ),
        Term(
            name="Threshold",
            meaning=f"A unit responds where it exceeds the value that it exceeds at "
            f"{100 * quantile:g}% of all positions of the real images."
            + (
                " The same value serves under attack; re-estimated means taken from the "
                "adversarial images instead."
                if tables.under_attack
                else ""
            ),
        ),
        Term(
            name="Chance",
            meaning="The share of detectors when the same masks are compared with the labels of "
            "other images: what large masks and frequent concepts give without any meaning.",
        ),
    ]


def _scores(tables: DissectionTables) -> list[Score]:
    def score(images: str, label: str) -> Score:
        layers, rows = dict(tables.last), tables.at_last(images)
        return Score(
            label=label,
            estimates={model: share(row) for model, row in rows.items()},
            notes={
                model: f"{layer_text(layers[model])}; by chance {percent(row['permuted_share'])}"
                for model, row in rows.items()
            },
            as_percent=True,
            counted="units",
        )

    return [
        score("real", "Units that detect a concept"),
        score("adversarial", "Units that do under attack"),
    ]
