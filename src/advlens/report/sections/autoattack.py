"""What the report says of AutoAttack."""

from collections.abc import Callable

from advlens.report.blocks import MODEL, Column, Finding, Measured, N, Section, TableBlock
from advlens.runs.results import Results, Rows
from advlens.runs.tables import Row
from advlens.words import Estimate, attack_name, listed, percent, ranked, ranking

TITLES = {
    "natural": "Natural",
    "apgd-ce": "APGD-CE",
    "apgd-t": "APGD-T",
    "fab-t": "FAB-T",
    "square": "Square",
}


def section(results: Results) -> Section | None:
    """From `autoattack.csv`; None without it."""
    rows = results.table("autoattack")
    if not rows:
        return None
    order = rows.values("after")
    last = rows.where(after=order[-1])
    return Section(
        title="AutoAttack",
        anchor="autoattack",
        lead="AutoAttack runs four attacks one after the other, each on the images that the ones "
        "before it have left; an image counts as right only if none of the four changes the "
        "prediction. Published robust accuracies are usually measured so.",
        findings=_findings(last),
        blocks=[
            TableBlock(
                caption="Top-1 accuracy on a seeded subset, natural and after each attack in turn. "
                "The last column is the accuracy under AutoAttack, with its 95% Wilson interval. "
                "Where Square, which needs no gradient, takes away much that the others have left, "
                "gradients are masked.",
                file="autoattack.csv",
                columns=[
                    Column(header="Images", cell=attack_name, kind="text"),
                    MODEL,
                    *(Column(header=TITLES.get(a, a), cell=_after(rows, a)) for a in order),
                    Column(
                        header="95% interval",
                        cell=lambda row: Estimate.of(row, "top1").interval(as_percent=True),
                    ),
                    N,
                ],
                rows=last,
            )
        ],
    )


def _after(rows: Rows, after: str) -> Callable[[Row], str]:
    """The cell of a column: the accuracy of the same model and ball after this attack."""
    found = {(r["model"], attack_name(r)): r["top1"] for r in rows.where(after=after)}
    return lambda row: percent(found[row["model"], attack_name(row)])


def _findings(last: Rows) -> list[Finding]:
    findings = []
    for name in dict.fromkeys(map(attack_name, last)):
        found = Rows(row for row in last if attack_name(row) == name).estimates("top1")
        measure = f"accuracy under {name}"
        says = ranking(measure, found)
        under = f"Under {name}, "
        kept = [f"{model} keeps {percent(each.value)}" for model, each in found.items()]
        claim = f"{under}{listed(kept)}"
        if says:
            claim = ranked(
                says, "predictions of", "are right more often", where=under, what="accuracy"
            )
        findings.append(
            Finding(
                claim=f"{claim}.",
                says=says,
                estimates=[Measured(name=measure, estimates=found, form="percent")],
                note="Each image's worst case over AutoAttack's four attacks, on a seeded, "
                "class-balanced subset.",
            )
        )
    return findings
