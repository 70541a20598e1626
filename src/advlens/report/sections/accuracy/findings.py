"""What the accuracy tables say about these models, in sentences."""

from collections.abc import Collection, Iterator

from advlens.report.blocks import Finding, Measured
from advlens.report.paired import Paired
from advlens.runs.results import Results, Rows
from advlens.runs.tables import Row
from advlens.words import (
    ATTACK,
    Direction,
    Estimate,
    Says,
    attack_name,
    listed,
    radius_text,
    ranked,
    ranking,
)

NATURAL = "accuracy on natural images"


def findings(results: Results, rows: Rows, sweep: Rows, checks: Rows) -> list[Finding]:
    """The most important ones first."""
    natural = naturally(rows)
    return [
        *_comparisons(rows, natural, results.table("differences")),
        *_sweep_findings(results, sweep),
        *_check_findings(checks),
    ]


def naturally(rows: Rows) -> dict[str, Estimate]:
    """For each model its accuracy on natural images."""
    return rows.where(attack="natural").estimates("top1")


def attacked(rows: Rows) -> Rows:
    """The rows of all attacks."""
    return Rows(row for row in rows if row["attack"] != "natural")


def bounded(rows: Rows) -> Rows:
    """The rows of attacks within a ball: without a limit, any model falls."""
    return attacked(rows).known("epsilon")


def strongest(models: tuple[str, ...], rows: Rows) -> dict[str, Row]:
    """For each model the row of the attack within a ball that leaves it the least."""
    mine = {model: bounded(rows).where(model=model) for model in models}
    return {model: min(each, key=lambda row: row["top1"]) for model, each in mine.items() if each}


def faced(rows: Rows, models: Collection[str]) -> Rows | None:
    """The rows of the attack that leaves the least, of those that all these models faced."""
    each = rows.split(*ATTACK, "settings")
    common = [mine for mine in each if mine.by("model").keys() == {*models}]
    return min(common, key=lambda mine: max(mine.values("top1")), default=None)


def _comparisons(rows: Rows, natural: dict[str, Estimate], differences: Rows) -> list[Finding]:
    """The models beside each other: natural, and under the strongest attack that all faced."""
    if len(natural) < 2:
        return []
    unattacked = rows.where(attack="natural")
    comparisons = [compared(NATURAL, "On natural images, ", unattacked, differences)]
    if worst := faced(bounded(rows), natural):
        name = attack_name(worst[0])
        comparisons.append(
            compared(f"accuracy under {name}", f"Under {name}, ", worst, differences)
        )
    return comparisons


def compared(measure: str, where: str, rows: Rows, differences: Rows) -> Finding:
    """Models under one attack: by paired differences if known, else by overlap of intervals."""
    estimates = rows.estimates("top1")
    named = {name: rows[0][name] for name in (*ATTACK, "settings")}
    paired = Paired.of(differences, estimates, measure="accuracy", **named)
    says = ranking(measure, estimates, established=paired.established)
    claim = ranked(says, "predictions of", "are right more often", where=where, what="accuracy")
    measured = Measured(name=measure, estimates=estimates, form="percent", paired=paired.known)
    return Finding(
        claim=f"{claim}.",
        says=says,
        estimates=[measured, *paired.measured("percent")],
        note=paired.note("McNemar's exact test"),
        important=True,
    )


def _sweep_findings(results: Results, sweep: Rows) -> list[Finding]:
    """For each norm the first radius measured at which a model keeps less than half."""
    findings = []
    larger = Rows(row for row in sweep.known("epsilon") if row["epsilon"] > 0)
    start = sweep.where(epsilon=0).estimates("top1")
    for norm in larger.values("norm"):
        name = norm.replace("Linf", "L∞")
        rows = larger.where(norm=norm).ordered("epsilon")
        says, estimates = list[Says](), list[Measured]()
        lost, kept = list[str](), list[str]()
        for model in results.models:
            mine = rows.where(model=model)
            if model not in start or not mine:
                continue
            halved = next((row for row in mine if row["top1"] < start[model].value / 2), None)
            row = halved or mine[-1]
            at = f"at ε = {radius_text(row)}"
            direction: Direction = "lower" if halved else "higher"
            says.append(Says(f"accuracy in {name}", (model,), direction, (f"half {at}",)))
            if halved:
                lost.append(f"in {model} by ε = {radius_text(row)}")
            else:
                kept.append(model)
            accuracies = {"on natural images": start[model], at: Estimate.of(row, "top1")}
            estimates.append(
                Measured(
                    name=f"accuracy in {name}", model=model, estimates=accuracies, form="percent"
                )
            )
        claims = [f"half of the natural accuracy is lost {listed(lost)}"] if lost else []
        if kept:
            keep = "keeps" if len(kept) == 1 else "keep"
            claims.append(
                f"{listed(kept)} {keep} at least half of the natural accuracy up to "
                f"ε = {radius_text(rows[-1])}"
            )
        if claims:
            radii = list(dict.fromkeys(map(radius_text, rows)))
            findings.append(
                Finding(
                    claim=f"In {name}, {'; '.join(claims)}.",
                    says=says,
                    estimates=estimates,
                    note="This is the first radius measured at which less than half is left, of "
                    f"{listed(radii)}, on a seeded subset.",
                )
            )
    return findings


def _check_findings(checks: Rows) -> Iterator[Finding]:
    if not checks:
        return
    failed = checks.where(passed=False)
    if not failed:
        yield Finding(
            claim=f"All {len(checks)} sanity checks for gradient masking passed.",
            note="Nothing here suggests that an attack failed for want of a usable "
            "gradient. The checks cannot prove that no stronger attack exists.",
        )
        return
    names = listed([f"“{row['check']}” for {row['model']} ({row['found']})" for row in failed])
    models = failed.values("model")
    yield Finding(
        claim=f"{len(failed)} of {len(checks)} sanity checks failed: the accuracy of "
        f"{listed(models)} under attack may be too high.",
        says=[Says("sanity checks", tuple(models), "lower", ("expected",))],
        note=f"Failed: {names}. A failure suggests that the attack was too weak for this "
        "model, for example because its gradients are masked. Do not rely on that accuracy "
        "until another attack confirms it.",
        important=True,
        warning=True,
    )
