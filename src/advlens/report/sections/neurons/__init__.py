"""What the report says of units: what they stand for, and whether that holds under attack."""

from advlens.report.blocks import Block, NoteBlock, Score, Section, Term
from advlens.report.sections.neurons import blocks as parts
from advlens.report.sections.neurons.findings import findings
from advlens.report.sections.neurons.tables import NeuronTables, effect
from advlens.runs.results import Results, Rows
from advlens.words import attack_name, percent

TERMS = (
    Term(
        name="LC, level of consistency (consis in D19)",
        meaning="Take the images to which a unit responds most and draw two of them: LC is how "
        "alike their classes are on average, by their distance in WordNet. It is 1 when all show "
        "one class, and falls to a floor when they show anything.",
    ),
    Term(
        name="consis_adv",
        meaning="The same for the adversarial images to which the unit responds most, by what "
        "they really show. Where it is lower than LC, the unit no longer stands for one thing "
        "under attack.",
    ),
    Term(
        name="CS1",
        meaning="How well what those adversarial images really show agrees with what the real "
        "ones show: 1 for the same mix of classes, 0 for unrelated classes.",
    ),
    Term(
        name="CS2",
        meaning="The same for the classes that the attack aimed at; under an attack that aims at "
        "none, for those that the model predicts. High CS2 beside low CS1: the unit follows the "
        "model's mistake, not the picture.",
    ),
)
SUCCESS_NOTE = NoteBlock(
    title="Real against adversarial: CS1 and CS2",
    text="A CS says little without the success of the attack behind it: where the attack fails, "
    "the model still sees the images as what they are, and CS1 stays near 1 whatever the units "
    "do. So success stands beside every CS, models are compared at equal ε and at equal success, "
    "and noise of the same length serves as a control.",
)

SOURCES = NoteBlock(
    title="Sources",
    text="D19: Dong, Bao, Su and Zhu, Towards Interpretable Deep Neural Networks by Leveraging "
    "Adversarial Examples, 2019. D22: Dong, Su and Zhu, Interpretability Analysis of Deep Neural "
    "Networks With Adversarial Examples, Acta Automatica Sinica 48(1), 2022. Success beside every "
    "CS, equal success, the control and the floors are additions of this audit.",
)


def section(results: Results) -> Section | None:
    """From the tables of the neuron stage; None without `layers.csv`."""
    tables = NeuronTables(results)
    if not tables.layers:
        return None
    blocks: list[Block] = [*parts.table1(tables), *parts.histograms(tables)]
    if tables.consistency:
        blocks += [SUCCESS_NOTE, parts.consistency_table(tables)]
    blocks += [
        *parts.curves(tables),
        *parts.depth(tables),
        *parts.pictures(tables),
        *parts.floors(tables),
        SOURCES,
    ]
    return Section(
        title="Neurons",
        anchor="neurons",
        lead="A unit is one channel of a convolution. What it stands for is read off the images "
        "to which it responds most; here this is asked twice, of real and of adversarial images.",
        findings=findings(tables),
        terms=TERMS,
        blocks=blocks,
        scores=_scores(tables),
    )


def _scores(tables: NeuronTables) -> list[Score]:
    last = tables.last_layers
    return [
        Score(
            label="Consistency (LC) on real images",
            estimates=last.estimates("lc"),
            notes={row["model"]: f"mean of {row['layer']}" for row in last},
        ),
        _score(tables.at_last("fgsm", "consis_adv"), "Consistency under attack (consis_adv)"),
        _score(tables.at_last("equal-success", "cs1"), "CS1 at equal attack success"),
        _score(tables.at_last("equal-success", "cs2"), "CS2 at equal attack success"),
    ]


def _score(rows: Rows, label: str) -> Score:
    return Score(
        label=label,
        estimates=rows.estimates(),
        notes={
            row["model"]: f"{attack_name(row)}; {effect([row])} {percent(row['success'])}"
            for row in rows
        },
    )
