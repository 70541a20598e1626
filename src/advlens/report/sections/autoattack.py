"""What the report says of AutoAttack."""

from collections.abc import Callable, Sequence

from advlens.report.blocks import Column, Finding, Section, TableBlock
from advlens.runs.results import Results, Row
from advlens.words import Estimate, attack_name, comparison, count, percent

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
    order = list(dict.fromkeys(row["after"] for row in rows))
    last = [row for row in rows if row["after"] == order[-1]]
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
                    Column(header="Model", cell=lambda row: row["model"], kind="model"),
                    *(Column(header=TITLES.get(a, a), cell=_after(rows, a)) for a in order),
                    Column(
                        header="95% interval",
                        cell=lambda row: _top1(row).interval(as_percent=True),
                    ),
                    Column(header="Images (n)", cell=lambda row: count(row["n"])),
                ],
                rows=last,
            )
        ],
    )


def _after(rows: Sequence[Row], after: str) -> Callable[[Row], str]:
    """The cell of a column: the accuracy of the same model and ball after this attack."""
    found = {(r["model"], attack_name(r)): r["top1"] for r in rows if r["after"] == after}
    return lambda row: percent(found[row["model"], attack_name(row)])


def _top1(row: Row) -> Estimate:
    return Estimate.of(row, "top1")


def _findings(last: Sequence[Row]) -> list[Finding]:
    findings = []
    for name in dict.fromkeys(map(attack_name, last)):
        estimates = {row["model"]: _top1(row) for row in last if attack_name(row) == name}
        sizes = {found.n for found in estimates.values()}
        findings.append(
            Finding(
                claim=f"Under {name}, {comparison(estimates, as_percent=True)}.",
                evidence="Each image's worst case over AutoAttack's four attacks, on a seeded, "
                f"class-balanced subset (n = {count(max(sizes))}).",
            )
        )
    return findings
