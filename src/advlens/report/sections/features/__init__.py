"""What the report says of features: what a model has learned, as pictures and as distances."""

from advlens.report.blocks import NoteBlock, Score, Section, Term
from advlens.report.sections.features import findings, generation, inversion, visualization
from advlens.report.sections.features.tables import STARTS, FeatureTables
from advlens.runs.results import Results

SOURCES = NoteBlock(
    title="Sources",
    text="B23: Boychev, Interpretable Computer Vision Models through Adversarial Training, 2023: "
    "figures 3 to 5, 7 to 9, 11, 12, 14, 15, 18 and 19, tables 2, 3, 5 and 6. The methods: "
    "Engstrom et al., Adversarial Robustness as a Prior for Learned Representations, 2019; "
    "Santurkar et al., Image Synthesis with a Single (Robust) Classifier, NeurIPS 2019. FID: "
    "Heusel et al., NeurIPS 2017; KID: Bińkowski et al., ICLR 2018. Intervals, KID, both bounds "
    "and recognition by other networks are additions of this report.",
)


def section(results: Results) -> Section | None:
    """From the tables of visualization, inversion and generation; None without any of them."""
    tables = FeatureTables.read(results)
    if tables is None:
        return None
    return Section(
        title="Features",
        anchor="features",
        lead="What has a model learned? Three experiments make it visible: images that raise one "
        "component of its representation, images that it represents like a given one, and images "
        "that show a class as the model sees it. All change pixels step by step, as an attack "
        "does, only farther.",
        findings=[*inversion.findings(tables), *findings.findings(tables)],
        terms=_terms(tables),
        blocks=[
            *visualization.blocks(tables),
            *inversion.blocks(tables),
            *generation.blocks(tables),
            SOURCES,
        ],
        scores=_scores(tables),
    )


def _terms(tables: FeatureTables) -> list[Term]:
    terms = [
        Term(
            name="Representation",
            meaning="The numbers from which the model's last layer reads the class.",
        )
    ]
    if tables.layers:
        terms.append(
            Term(
                name="Feature distance",
                meaning="How far two images lie apart in the features of a network that has no "
                "part in the audit. It stands in for a look at both.",
            )
        )
    if any(row["measure"] == "fid" for row in tables.distances):
        terms.append(
            Term(
                name="FID",
                meaning="Fréchet distance of two sets of images, by mean and covariance of their "
                "features: 0 for equal sets. Few images make it too high, so it compares only "
                "at equal numbers.",
            )
        )
    if any(row["measure"] == "kid" for row in tables.distances):
        terms.append(
            Term(
                name="KID",
                meaning="A distance of two sets of images without that bias, and with an "
                "interval: about 0 for equal sets, slightly below it by chance.",
            )
        )
    return terms


def _scores(tables: FeatureTables) -> list[Score]:
    scores = []
    for measure in tables.layers[:1]:
        for start in tables.starts[:1]:
            scores.append(
                Score(
                    label="Distance of inverted images",
                    explanation=f"Inverted from {STARTS.get(start, start)}, by "
                    f"{tables.layer(measure)}. Lower: the representation keeps more of an image.",
                    estimates=tables.inverted(start, measure),
                    notes=dict.fromkeys(tables.models, ""),
                    bar=False,
                )
            )
    for measured in tables.networks[:1]:
        scores.append(
            Score(
                label="Distance of generated images (KID)",
                explanation="From real images of the same classes, in the features of "
                f"{measured.features}. Lower: classes look to the model as they really do.",
                estimates=tables.distance("generated", "kid", measured),
                notes=dict.fromkeys(tables.models, ""),
                bar=False,
            )
        )
    return scores
