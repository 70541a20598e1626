"""What the report says of attributions: what a model looks at, and how much that is worth."""

from advlens.report.blocks import NoteBlock, Score, Section, Term
from advlens.report.sections.attribution import blocks
from advlens.report.sections.attribution.findings import findings
from advlens.report.sections.attribution.tables import RANDOM, AttributionTables, named
from advlens.runs.results import Results
from advlens.words import number

TERMS = {
    "IntegratedGradients": Term(
        name="Integrated Gradients",
        meaning="The gradient of the model's score for the class, added up along the straight line "
        "from a baseline without content, such as noise, to the image. Each pixel gets its share "
        "of what the score gains on the way: above 0 it speaks for the class, below against it.",
    ),
    "ExpectedGradients": Term(
        name="Expected Gradients",
        meaning="The same with real images as baselines, averaged over many of them: an estimate "
        "of Shapley values (SHAP).",
    ),
    RANDOM: Term(
        name="Random",
        meaning="Random numbers in place of an attribution: what a measure gives when nothing is "
        "explained.",
    ),
}
MEASURES = {
    "insertion": Term(
        name="Insertion and deletion",
        meaning="Pixels are put into an image without content, or taken out of the whole one, the "
        "most important first. The area under the curve of the class's probability is large for "
        "insertion, and small for deletion, where the attribution is right about what matters.",
    ),
    "sparseness": Term(
        name="Sparseness",
        meaning="The Gini index of a map's sizes: 0 where all pixels matter alike, near 1 where "
        "few hold everything.",
    ),
    "variation": Term(
        name="Total variation",
        meaning="How much neighboring pixels differ, in a map whose sizes sum to 1: low for a "
        "smooth map, near 4 where every pixel stands alone.",
    ),
    "stability": Term(
        name="Instability",
        meaning="How far the attribution moves, relative to its length, when noise too weak "
        "to be seen is added to the image: 0 for one that stays.",
    ),
    "agreement": Term(
        name="Agreement",
        meaning="Rank correlation with the map of the other method: 1 where both order the pixels "
        "alike, about 0 for random maps.",
    ),
    "gap": Term(
        name="Completeness gap",
        meaning="The share of the score that the attributions, summed up, miss or invent. It is an "
        "error of the computation, not of the model. Its value is the median of the images.",
    ),
}

SOURCES = NoteBlock(
    title="Sources",
    text="Integrated Gradients: Sundararajan, Taly and Yan, ICML 2017. Expected Gradients: Erion, "
    "Janizek, Sturmfels, Lundberg and Lee, 2020. Heat maps of a standard and a robust model side "
    "by side: B23 (Boychev, 2023). Insertion and deletion: Petsiuk, Das and Saenko, BMVC 2018; "
    "sparseness: Chalasani et al., ICML 2020; instability: Yeh et al., NeurIPS 2019. B23 judges by "
    "eye; measures, random attributions and intervals are additions of this report.",
)


def section(results: Results) -> Section | None:
    """From the tables of the attribution stage; None without `attribution.csv`."""
    tables = AttributionTables.read(results)
    if tables is None:
        return None
    shown = tables.rows.values("method")
    return Section(
        title="Attributions",
        anchor="attributions",
        lead="An attribution says how much each pixel of an image contributes to the model's "
        "prediction, and a heat map shows it: what the model looks at. Whether the map is true to "
        "the model cannot be seen, so it is measured.",
        findings=findings(tables),
        terms=[
            *(term for method, term in TERMS.items() if method in shown),
            *(term for measure, term in MEASURES.items() if measure in tables.measures),
        ],
        blocks=[*blocks.measures(tables), *blocks.heat_maps(tables), SOURCES],
        scores=_scores(tables),
    )


def _scores(tables: AttributionTables) -> list[Score]:
    """Two measures of the first method."""
    if not tables.methods:
        return []
    method = tables.methods[0]

    def score(measure: str, label: str, explanation: str) -> Score:
        chance = tables.values(RANDOM, measure)
        estimates = tables.values(method, measure)
        return Score(
            label=label,
            explanation=explanation,
            estimates=estimates,
            notes={
                model: f"random {number(chance[model].value)}" if model in chance else ""
                for model in estimates
            },
        )

    return [
        score(
            "insertion",
            "Faithfulness of attributions (insertion)",
            f"{named(method)}: how early the pixels it names suffice for the class. Higher is "
            "better; compare with random ones, for a confident model is higher in both.",
        ),
        score(
            "variation",
            "Roughness of attributions (total variation)",
            f"{named(method)}: how much neighboring pixels differ. Lower is smoother.",
        ),
    ]
