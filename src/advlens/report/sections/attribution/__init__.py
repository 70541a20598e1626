"""What the report says of attributions: what a model looks at, and how much that is worth."""

from advlens.report.blocks import Score, Section, glossary
from advlens.report.sections.attribution import blocks
from advlens.report.sections.attribution.findings import findings
from advlens.report.sections.attribution.tables import (
    METHODS,
    RANDOM,
    AttributionTables,
    named,
)
from advlens.runs.results import Results
from advlens.words import number


def section(results: Results) -> Section | None:
    """From the tables of the attribution stage; None without `attribution.csv`."""
    tables = AttributionTables(results)
    if not tables.rows:
        return None
    return Section(
        title="Attributions",
        anchor="attributions",
        lead="An attribution says how much each pixel of an image contributes to the model's "
        "prediction, and a heat map shows it: what the model looks at. Whether the map is true to "
        "the model cannot be seen, so it is measured.",
        findings=findings(tables),
        terms=[
            *(METHODS[method] for method in tables.rows.values("method") if method in METHODS),
            *glossary(map(tables.described, tables.measures)),
        ],
        blocks=[*blocks.measures(tables), *blocks.heat_maps(tables)],
        scores=_scores(tables),
    )


def _scores(tables: AttributionTables) -> list[Score]:
    """Two measures of the first method."""
    if not tables.methods:
        return []
    method = tables.methods[0]

    def score(measure: str, label: str) -> Score:
        chance = tables.values(RANDOM, measure)
        estimates = tables.values(method, measure)
        return Score(
            label=label,
            estimates=estimates,
            notes={
                model: named(method)
                + (f"; random {number(chance[model].value)}" if model in chance else "")
                for model in estimates
            },
        )

    return [
        score("insertion", "Faithfulness of attributions (insertion)"),
        score("variation", "Roughness of attributions (total variation)"),
    ]
