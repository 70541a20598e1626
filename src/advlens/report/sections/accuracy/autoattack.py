"""What the report says of AutoAttack, the strongest evidence where it was run."""

from collections.abc import Callable, Iterator

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
from advlens.runs.results import Results, Rows
from advlens.runs.tables import Row
from advlens.words import ATTACK, attack_name, percent, ranked, ranking

TITLES = {
    "natural": "Natural",
    "apgd-ce": "APGD-CE",
    "apgd-t": "APGD-T",
    "fab-t": "FAB-T",
    "square": "Square",
}


def findings(results: Results) -> list[Finding]:
    """What models keep under AutoAttack, from `autoattack.csv`."""
    return [_finding(mine) for mine in _final(results).split(*ATTACK)]


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
            Column.ends("top1"),
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


def _finding(mine: Rows) -> Finding:
    """What the models keep under one attack."""
    accuracies, name = mine.estimates("top1"), attack_name(mine[0])
    measure, under = f"accuracy under {name}", f"Under {name}, "
    says = ranking(measure, accuracies)
    if says:
        more = "are right more often"
        claim = ranked(says, "predictions of", more, where=under, what="accuracy")
    else:
        ((model, kept),) = accuracies.items()
        claim = f"{under}{model} keeps {percent(kept.value)}"
    return Finding(
        claim=f"{claim}.",
        says=says,
        estimates=[Measured(name=measure, estimates=accuracies, form="percent")],
        note="Each image's worst case over AutoAttack's four attacks, on a seeded, class-balanced "
        "subset.",
        important=True,
    )
