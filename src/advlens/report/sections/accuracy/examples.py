"""Images beside their adversarial twins and the amplified differences."""

from collections.abc import Iterator

from advlens.report.blocks import Block, PictureColumn, PictureRow, PictureRowsBlock
from advlens.runs.results import Results, Rows
from advlens.words import attack_name

TITLES = {
    "fooled": "Right before the attack, wrong after it",
    "error": "Wrong without an attack, and most confident",
    "least robust": "Least sure of the right class under attack",
    "most robust": "Surest of the right class under attack",
}


def blocks(results: Results) -> Iterator[Block]:
    """A block for each kind of examples, with a row for each model."""
    table = results.table("examples")
    yield from (_block(results, kind, rows) for kind in TITLES if (rows := table.where(kind=kind)))


def _block(results: Results, kind: str, rows: Rows) -> PictureRowsBlock:
    attacks = " or ".join(dict.fromkeys(map(attack_name, rows)))
    factors = " or ".join(map(str, dict.fromkeys(rows.values("factor"))))
    twins = (
        f"Images, the same under {attacks}, and the difference, {factors} times as large around "
        "gray. Percentages are confidences."
    )
    alone = "True and predicted class, and the confidence."
    return PictureRowsBlock(
        name=f"examples-{kind.replace(' ', '-')}",
        title=TITLES[kind],
        caption=alone if kind == "error" else twins,
        file="examples.csv",
        rows=[
            _row(model, mine.ordered("rank"), alone=kind == "error")
            for model in results.models
            if (mine := rows.where(model=model))
        ],
        folded=True,
    )


def _row(model: str, rows: Rows, *, alone: bool) -> PictureRow:
    shown = [
        {**row, "before": f"{row['label']} → " if row["label"] != row["predicted"] else ""}
        for row in rows
    ]
    columns = PictureColumn.of(
        "Image",
        shown,
        "Image of {label}, predicted as {predicted}",
        "{before}{predicted} {confidence:.0%}",
        file="natural",
        seen_as="predicted",
    )
    if not alone:
        columns += PictureColumn.of(
            "Under attack",
            shown,
            "The same image under attack, predicted as {attacked_as}",
            "{attacked_as} {attacked_confidence:.0%}",
            file="attacked",
            seen_as="attacked_as",
        )
        amplified = "Their difference, {factor} times as large around gray"
        columns += PictureColumn.of("Difference", shown, amplified, file="difference")
    return PictureRow(title=model, columns=columns)
