"""Images beside their adversarial twins and the amplified differences."""

from collections.abc import Iterator

from advlens.report.blocks import Block, Picture, PictureColumn, PictureRow, PictureRowsBlock
from advlens.runs.results import Results, Rows
from advlens.runs.tables import Row
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
    columns = [PictureColumn(heading="Image", pictures=list(map(_natural, rows)))]
    if not alone:
        columns += [
            PictureColumn(heading="Under attack", pictures=list(map(_attacked, rows))),
            PictureColumn(heading="Difference", pictures=list(map(_difference, rows))),
        ]
    return PictureRow(title=model, columns=columns)


def _natural(row: Row) -> Picture:
    wrong = row["label"] != row["predicted"]
    before = f"{row['label']} → " if wrong else ""
    return Picture(
        file=row["natural"],
        alt=f"Image of {row['label']}, predicted as {row['predicted']}",
        caption=f"{before}{row['predicted']} {row['confidence']:.0%}",
        wrong=wrong,
    )


def _attacked(row: Row) -> Picture:
    return Picture(
        file=row["attacked"],
        alt=f"The same image under attack, predicted as {row['attacked_as']}",
        caption=f"{row['attacked_as']} {row['attacked_confidence']:.0%}",
        wrong=row["attacked_as"] != row["label"],
    )


def _difference(row: Row) -> Picture:
    alt = f"Their difference, {row['factor']} times as large around gray"
    return Picture(file=row["difference"], alt=alt)
