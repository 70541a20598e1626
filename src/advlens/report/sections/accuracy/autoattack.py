"""What the report says of AutoAttack, the strongest evidence where it was run."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from advlens.report.blocks import (
    IMAGES,
    MODEL,
    Block,
    Column,
    Finding,
    Measured,
    N,
    NoteBlock,
    TableBlock,
)
from advlens.report.sections.accuracy.findings import compared
from advlens.runs.results import Results, Rows
from advlens.runs.tables import Row
from advlens.words import ATTACK, attack_name, percent

TITLES = {
    "natural": "Natural",
    "apgd-ce": "APGD-CE",
    "apgd-t": "APGD-T",
    "fab-t": "FAB-T",
    "square": "Square",
}


def findings(results: Results) -> list[Finding]:
    """What models keep under AutoAttack, from `accuracy.csv`."""
    rows, differences = results.table("accuracy"), results.table("differences")
    return [_finding(mine, differences) for mine in rows.where(attack="AutoAttack").split(*ATTACK)]


def blocks(results: Results) -> Iterator[Block]:
    """The accuracy after each of its attacks, if it was run."""
    rows = results.table("autoattack")
    if not rows:
        return
    yield NoteBlock(
        title="AutoAttack",
        text="AutoAttack runs four attacks one after the other, each on the images that the "
        "ones before it have left; an image counts as right only if none of the four changes "
        "the prediction. Published robust accuracies are usually measured so.",
    )
    yield TableBlock(
        caption="Top-1 accuracy on a seeded subset, natural and after each attack in turn. The "
        "last is the accuracy under AutoAttack, with its 95% Wilson interval. Where Square, which "
        "needs no gradient, takes away much that the others have left, gradients are masked.",
        file="autoattack.csv",
        columns=[
            IMAGES,
            MODEL,
            *(
                Column(header=TITLES.get(after, after), cell=_after(rows, after))
                for after in rows.values("after")
            ),
            Column.interval("AutoAttack", "top1", as_percent=True),
            N,
        ],
        rows=_final(results),
    )


def _final(results: Results) -> Rows:
    """The rows after the last attack."""
    rows = results.table("autoattack")
    return rows.where(after=rows[-1]["after"]) if rows else Rows()


def _after(rows: Rows, after: str) -> Callable[[Row], str]:
    """The cell of a column: the accuracy of the same model and ball after this attack."""
    mine = rows.where(after=after)

    def cell(row: Row) -> str:
        step = mine.one(**{name: row[name] for name in ("model", *ATTACK)})
        return percent(step["top1"]) if step else "–"

    return cell


def _finding(mine: Rows, differences: Rows) -> Finding:
    """What the models keep under one attack."""
    accuracies, name = mine.estimates("top1"), attack_name(mine[0])
    measure, under = f"accuracy under {name}", f"Under {name}, "
    note = "Each image's worst case over AutoAttack's four attacks, on a seeded, class-balanced "
    note += "subset."
    if len(accuracies) > 1:
        found = compared(measure, under, mine, differences)
        return replace(found, note=f"{note} {found.note}".strip())
    ((model, kept),) = accuracies.items()
    return Finding(
        claim=f"{under}{model} keeps {percent(kept.value)}.",
        estimates=[Measured(name=measure, estimates=accuracies, form="percent")],
        note=note,
        important=True,
    )
