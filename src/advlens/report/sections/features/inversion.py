"""What a model's representation keeps of an image."""

from advlens.report.blocks import (
    Block,
    Column,
    Finding,
    NoteBlock,
    Picture,
    PictureColumn,
    PictureRow,
    PictureRowsBlock,
    TableBlock,
)
from advlens.report.sections.features.reference import inversion_table
from advlens.report.sections.features.tables import STARTS, FeatureTables, layer_name, nearer
from advlens.runs.results import Row
from advlens.words import Estimate, comparison, count, file_name, listed, number

UNMATCHED = 0.5
"""Relative distance of representations above which an inversion has hardly reached its target."""
TITLES = {"representation": "Own representation", "pixels": "Pixels"}
MODEL = Column(header="Model", cell=lambda row: row["model"], kind="model")


def findings(tables: FeatureTables) -> list[Finding]:
    """Whose inversions look like their targets, and whether they reached them at all."""
    found = [
        _distance(tables, measure, important=place == 0)
        for place, measure in enumerate(tables.layers or ["pixels"])
    ]
    return [*filter(None, found), *_unmatched(tables)]


def _each(tables: FeatureTables, measure: str) -> dict[str, dict[str, Estimate]]:
    """For each start the models' mean distances."""
    found = {start: tables.inverted(start, measure) for start in tables.starts}
    return {start: distances for start, distances in found.items() if distances}


def _distance(tables: FeatureTables, measure: str, *, important: bool) -> Finding | None:
    each = _each(tables, measure)
    if not each:
        return None
    where = "by pixels" if measure == "pixels" else f"by {tables.layer(measure)}"
    each_groups = {start: nearer(distances, tables.models) for start, distances in each.items()}
    groups = next(iter(each_groups.values()))
    if all(len(distances) == 1 for distances in each.values()):
        ((model, _),) = next(iter(each.values())).items()
        text = "; ".join(f"{d[model].text()} from {_start(start)}" for start, d in each.items())
        claim = f"Inverted images of {model} lie at a distance of {text}, {where}."
    elif not any(each_groups.values()):
        claim = f"No difference in how near inverted images come {where} is established."
    elif all(found == groups for found in each_groups.values()):
        claim = f"Inverted images come nearer to their targets {_pairs(groups)}, {where}."
    else:
        texts = [
            f"from {_start(start)} {_pairs(found) if found else 'no difference is established'}"
            for start, found in each_groups.items()
        ]
        claim = f"Inverted images come nearer to their targets, {where}: {'; '.join(texts)}."
    matched = _each(tables, "representation")
    numbers = [
        f"From {_start(start)}: {comparison(distances)}"
        + (
            f", with representations matched to {_values(matched[start])}"
            if start in matched
            else ""
        )
        + f" (n = {count(max(d.n for d in distances.values()))} images)."
        for start, distances in each.items()
    ]
    return Finding(
        claim=claim,
        evidence=" ".join(numbers) + " Means of each image's distance from its target; lower is "
        "nearer.",
        important=important,
    )


def _pairs(groups: list[tuple[str, str]]) -> str:
    return " and ".join(f"in {first} than in {second}" for first, second in groups)


def _start(start: str) -> str:
    return STARTS.get(start, start)


def _values(found: dict[str, Estimate]) -> str:
    return listed([f"{number(estimate.value)} in {model}" for model, estimate in found.items()])


def _unmatched(tables: FeatureTables) -> list[Finding]:
    """An inversion that did not reach its target says nothing about the representation."""
    far = {
        (start, model): found
        for start, distances in _each(tables, "representation").items()
        for model, found in distances.items()
        if found.value > UNMATCHED
    }
    if not far:
        return []
    models = list(dict.fromkeys(model for _, model in far))
    numbers = "; ".join(
        f"{model}, from {_start(start)}: {found.text()}" for (start, model), found in far.items()
    )
    steps = listed([count(n) for n in sorted({row["steps"] for row in tables.inversion})])
    return [
        Finding(
            claim=f"Inversions did not reach the representations of {listed(models)}.",
            evidence="Distance of representations, as a part of the target's length, after "
            f"{steps} steps: {numbers}. Above {UNMATCHED} the pictures show how far the steps "
            "went, not what the representation keeps.",
            important=True,
            warning=True,
        )
    ]


def blocks(tables: FeatureTables) -> list[Block]:
    """Triptychs and distances (figures 4, 8, 11 and 18, tables 3 and 6 of B23)."""
    if not tables.inversion and not tables.inversion_pictures:
        return []
    return [
        NoteBlock(
            title="What does a representation keep of an image?",
            text="An image is changed until the model represents it as it represents the target. "
            "Where the result looks like the target, the representation holds what people see "
            "of it; where it does not, the model takes two very different images for the same.",
        ),
        *_pictures(tables),
        *_table(tables),
        *inversion_table(tables),
    ]


def _pictures(tables: FeatureTables) -> list[Block]:
    rows = tables.inversion_pictures
    return [
        PictureRowsBlock(
            name=file_name("inversion", start),
            title=f"From {_start(start)}",
            caption="Below each inverted image stands the distance of its representation from the "
            f"target's, relative to the target's length.{_steps(tables, start)}",
            file="inversion_pictures.csv",
            rows=[
                _row(tables, [row for row in rows if _key(row) == key])
                for key in dict.fromkeys(map(_key, sorted(rows, key=lambda row: row["rank"])))
                if key[0] == start
            ],
        )
        for start in dict.fromkeys(row["start"] for row in rows)
    ]


def _key(row: Row) -> tuple[str, int, str, str]:
    """Models share a row where they share the start and the target."""
    return row["start"], row["rank"], row["start_label"], row["target_label"]


def _steps(tables: FeatureTables, start: str) -> str:
    texts = dict.fromkeys(
        f"{count(row['steps'])} steps of {row['step_size']:g}, L2 ε = {row['epsilon']:g}"
        for row in tables.inversion
        if row["start"] == start
    )
    return f" {listed(list(texts))}." if texts else ""


def _row(tables: FeatureTables, rows: list[Row]) -> PictureRow:
    first = rows[0]
    label, target = first["start_label"], first["target_label"] or "target"
    start = f"an image of {label}" if label else _start(first["start"])
    columns = [
        _reference("Start", first["start_file"], f"Start of the inversion: {start}"),
        _reference("Target", first["target_file"], f"Target of the inversion: {target}"),
    ]
    columns += [
        PictureColumn(
            heading=model,
            model=True,
            pictures=[
                Picture(
                    file=row["file"],
                    alt=f"What {model} represents like the target, {target}, at a distance of "
                    f"{number(row['distance'])}",
                    caption=number(row["distance"]),
                )
                for row in rows
                if row["model"] == model
            ],
        )
        for model in tables.models
        if any(row["model"] == model for row in rows)
    ]
    return PictureRow(title=f"{label} → {target}" if label else target, columns=columns)


def _reference(heading: str, file: str, alt: str) -> PictureColumn:
    return PictureColumn(heading=heading, pictures=[Picture(file=file, alt=alt)])


def _networks(tables: FeatureTables) -> str:
    found = dict.fromkeys(r["features"] for r in tables.inversion if r["measure"] in tables.layers)
    return f", of features by {listed(list(found))}" if found else ""


def _table(tables: FeatureTables) -> list[Block]:
    if not tables.inversion:
        return []

    def column(measure: str) -> Column:
        def cell(row: Row) -> str:
            found = tables.inverted(row["start"], measure).get(row["model"])
            if not found:
                return "–"
            before = tables.untouched(row["model"], row["start"], measure)
            return f"{found.text()}; start {number(before)}"

        title = TITLES.get(measure) or layer_name(measure).capitalize()
        return Column(header=title, cell=cell)

    keys = dict.fromkeys((row["start"], row["model"]) for row in tables.inversion)
    n = {(row["start"], row["model"]): row["n"] for row in tables.inversion}
    return [
        TableBlock(
            caption="Mean distance of inverted images from their targets, with 95% intervals over "
            "images, beside that of the untouched starts; lower is nearer. Own representation: "
            f"relative to its length; the others are L2 distances{_networks(tables)}.",
            file="inversion.csv",
            columns=[
                Column(header="Start", cell=lambda row: row["start"], kind="text"),
                MODEL,
                *map(column, dict.fromkeys(row["measure"] for row in tables.inversion)),
                Column(header="Images (n)", cell=lambda row: count(n[row["start"], row["model"]])),
            ],
            rows=[
                {"start": start, "model": model}
                for start in tables.starts
                for model in tables.models
                if (start, model) in keys
            ],
        )
    ]
