"""Pictures beside a model's verdict: what its claims look like."""

from collections.abc import Callable, Mapping, Sequence

from advlens.report.blocks import Picture, PictureColumn
from advlens.report.sections.neurons.tables import NeuronTables
from advlens.report.verdict import Choice, Claim
from advlens.runs.results import Results, Rows
from advlens.runs.tables import Row
from advlens.words import NORMS, attack_name, layer_name

SHOWN = 4
"""Pictures next to each other."""
Evidence = Mapping[str, list[PictureColumn]]
"""By what a claim is about, as in `verdict.TITLES`; those of "" stand above all claims."""


def evidence(
    results: Results, claims: Mapping[str, Sequence[Claim]], choices: Sequence[Choice]
) -> dict[str, Evidence]:
    """For each model one image under attack, one unit and one class, as far as the run has them.

    Args:
        results: the run.
        claims: the verdict; what it says nothing about has no pictures.
        choices: what it says about several models together.
    """
    neurons, generated = NeuronTables(results), results.table("generation_pictures")
    attacked = _attacked(results, choices)
    made: dict[str, Callable[[str], list[PictureColumn]]] = {
        "": lambda model: _twins(attacked.get(model)),
        "units": lambda model: _unit(neurons, model),
        "features": lambda model: _class(generated.where(kind="generated"), model),
    }
    return {
        model: {about: make(model) for about, make in made.items() if about in abouts}
        for model, mine in claims.items()
        if (abouts := {"", *(claim.about for claim in mine)}) > {""}
    }


def _attacked(results: Results, choices: Sequence[Choice]) -> dict[str, Row]:
    """The example of each model: the image that shows the choice best, if all have it.

    That is one which all models name right before the same attack; under it, as many as possible
    of the chosen ones are right, and of the others wrong. Else each model shows one of its own.
    """
    examples = results.table("examples")
    shared = examples.where(kind="shared")
    count = len(results.models)
    if count > 1 and len({*map(attack_name, shared)}) == 1:
        best = [
            model for each in choices if each.about == shared[0]["norm"] for model in each.models
        ]
        alike = [
            {row["model"]: row for row in rows}
            for rows in shared.ordered("rank").split("id")
            if len(rows) == count and all(row["predicted"] == row["label"] for row in rows)
        ]
        if alike:
            return max(
                alike,
                key=lambda rows: sum(
                    (row["attacked_as"] == row["label"]) == (model in best)
                    for model, row in rows.items()
                ),
            )
    return {
        row["model"]: row
        for rows in examples.split("model")
        if (row := rows.one(kind="fooled") or rows.one(kind="least robust"))
    }


def _twins(row: Row | None) -> list[PictureColumn]:
    if row is None:
        return []
    pictures = [
        Picture(file=row["natural"], alt=f"An image of {row['label']}", caption=row["predicted"]),
        Picture(
            file=row["attacked"],
            alt=f"The same image under {attack_name(row)}",
            caption=row["attacked_as"],
            wrong=row["attacked_as"] != row["label"],
        ),
        Picture(
            file=row["difference"],
            alt="Their difference, amplified",
            caption=f"difference ×\N{NO-BREAK SPACE}{row['factor']}",
        ),
    ]
    norm = NORMS.get(row["norm"], row["norm"])
    chosen = ", of a chosen image" if row["kind"] == "shared" else ""
    heading = f"Predicted before and under attack in {norm}{chosen}"
    return [PictureColumn(heading=heading, pictures=pictures)]


def _unit(tables: NeuronTables, model: str) -> list[PictureColumn]:
    """The most consistent unit that the run shows, under the attack that reaches most images."""
    shown = tables.pictures.where(model=model).known("lc")
    first = max(shown, key=lambda row: row["lc"], default=None)
    rows = shown.where(layer=first["layer"], unit=first["unit"]) if first else shown
    attacked = rows.where(images="equal-success") or rows.where(images="adversarial")
    if first is None or not attacked:
        return []
    headings = {
        f"Unit {first['unit']} of {layer_name(first['layer'])} responds most to": rows.where(
            images="real"
        ),
        "Under attack, it responds most to": attacked,
    }
    return [
        PictureColumn(
            heading=heading,
            pictures=[
                Picture(
                    file=row["file"],
                    alt=f"Image of {row['label']}, predicted as {row['predicted']}",
                    caption=row["label"] if row["images"] == "real" else f"attacked {row['label']}",
                )
                for row in mine.ordered("rank")[:SHOWN]
            ],
        )
        for heading, mine in headings.items()
    ]


def _class(generated: Rows, model: str) -> list[PictureColumn]:
    """The first class that all models with generated images have some of."""
    models = set(generated.values("model"))
    for name, rows in generated.grouped("class").items():
        if model in models and models == {*rows.values("model")}:
            pictures = [
                Picture(file=row["file"], alt=f"Image generated for {name}")
                for row in rows.where(model=model).ordered("rank")[:SHOWN]
            ]
            return [PictureColumn(heading=f"Generated for {name}", pictures=pictures)]
    return []
