"""What the report says of units: what they stand for, and whether that holds under attack."""

from advlens.report.blocks import Block, NoteBlock, Score, Section, glossary
from advlens.report.sections.neurons import blocks as parts
from advlens.report.sections.neurons.findings import findings
from advlens.report.sections.neurons.tables import EQUAL, NeuronTables, effect
from advlens.runs.measures import NEURONS
from advlens.runs.results import Results, Rows
from advlens.words import attack_name, percent

SUCCESS_NOTE = NoteBlock(
    title="Real against adversarial: CS1 and CS2",
    text="A CS says little without the success of the attack behind it: where the attack fails, "
    "the model still sees the images as what they are, and CS1 stays near 1 whatever the units "
    "do. So success stands beside every CS, models are compared at equal ε and at equal success, "
    "and noise of the same length serves as a control.",
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
    ]
    return Section(
        title="Neurons",
        anchor="neurons",
        lead="A unit is one channel of a convolution. What it stands for is read off the images "
        "to which it responds most; here this is asked twice, of real and of adversarial images.",
        findings=findings(tables),
        terms=glossary(NEURONS.values()),
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
        _score(tables.at_last(EQUAL, "cs1"), "CS1 at equal attack success"),
        _score(tables.at_last(EQUAL, "cs2"), "CS2 at equal attack success"),
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
