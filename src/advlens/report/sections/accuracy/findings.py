"""What the accuracy tables say about these models, in sentences."""

from collections.abc import Sequence

from advlens.report.blocks import Finding
from advlens.runs.results import Results, Row
from advlens.words import Estimate, attack_name, comparison, count, leader, listed, radius


def findings(
    results: Results, rows: Sequence[Row], sweep: Sequence[Row], checks: Sequence[Row]
) -> list[Finding]:
    """The most important ones first."""
    natural = naturally(rows)
    return [
        *_model_findings(results, natural, strongest(results.models, rows)),
        *_comparisons(rows, natural),
        *_sweep_findings(results, sweep),
        *_check_findings(checks),
    ]


def naturally(rows: Sequence[Row]) -> dict[str, Estimate]:
    """For each model its accuracy on natural images."""
    return {row["model"]: top1(row) for row in rows if row["attack"] == "natural"}


def top1(row: Row) -> Estimate:
    """Of a row of `accuracy.csv` or `sweep.csv`."""
    return Estimate.of(row, "top1")


def strongest(models: Sequence[str], rows: Sequence[Row]) -> dict[str, Row]:
    """For each model the row of the attack that leaves it the least."""
    found: dict[str, Row] = {}
    for model in models:
        attacked = [row for row in rows if row["model"] == model and row["attack"] != "natural"]
        if attacked:
            found[model] = min(attacked, key=lambda row: row["top1"])
    return found


def _model_findings(
    results: Results, natural: dict[str, Estimate], worst: dict[str, Row]
) -> list[Finding]:
    findings = []
    for model in results.models:
        if model not in natural or model not in worst:
            continue
        before, after = natural[model], top1(worst[model])
        if before.low is not None and before.low <= results.chance:
            verb = "is not established to be above chance, neither without an attack nor"
        elif after.value <= results.chance:
            verb = "falls to chance or below"
        elif after.value < before.value / 2:
            verb = "loses more than half of its accuracy"
        else:
            verb = "keeps at least half of its accuracy"
        findings.append(
            Finding(
                claim=f"{model} {verb} under attack.",
                evidence=f"Correct: {before.text(as_percent=True)} of the natural images, "
                f"{after.text(as_percent=True)} under {attack_name(worst[model])}, the strongest "
                f"attack tried: a loss of {100 * (before.value - after.value):.1f} points "
                f"({_sizes({'': before}, {'': after})}).",
                important=len(results.models) <= 2,
            )
        )
    return findings


def _comparisons(rows: Sequence[Row], natural: dict[str, Estimate]) -> list[Finding]:
    """The models beside each other: natural, and under the strongest attack that all faced."""
    if len(natural) < 2:
        return []
    shared: dict[str, dict[str, Estimate]] = {}
    for row in rows:
        if row["attack"] != "natural":
            shared.setdefault(attack_name(row), {})[row["model"]] = top1(row)
    faced = {name: found for name, found in shared.items() if found.keys() == natural.keys()}
    if not faced:
        return [_compared("on natural images", natural, important=True)]
    name = min(faced, key=lambda name: max(found.value for found in faced[name].values()))
    under = faced[name]
    first, last = leader(natural), leader(under)
    if first is None or last is None or first == last:
        return [
            _compared("on natural images", natural, important=True),
            _compared(f"under {name}", under, important=True),
        ]
    return [
        Finding(
            claim=f"{first} is more accurate on natural images, {last} under attack.",
            evidence=f"Natural: {comparison(natural, as_percent=True)}. Under {name}: "
            f"{comparison(under, as_percent=True)} ({_sizes(natural, under)}).",
            important=True,
        )
    ]


def _compared(where: str, estimates: dict[str, Estimate], *, important: bool) -> Finding:
    best = leader(estimates)
    if best is None:
        claim = f"No model is established as the most accurate {where}."
    else:
        claim = f"{best} is the most accurate {where}."
    values = comparison(estimates, as_percent=True)
    return Finding(claim=claim, evidence=f"{values} ({_sizes(estimates)}).", important=important)


def _sizes(*groups: dict[str, Estimate]) -> str:
    numbers = sorted({found.n for estimates in groups for found in estimates.values()})
    return f"n = {listed([count(n) for n in numbers])}"


def _sweep_findings(results: Results, sweep: Sequence[Row]) -> list[Finding]:
    """For each norm the first radius measured at which a model keeps less than half."""
    findings = []
    for norm in dict.fromkeys(row["norm"] for row in sweep if row["epsilon"] > 0):
        name = norm.replace("Linf", "L∞")
        parts, radii = [], []
        for model in results.models:
            mine = [row for row in sweep if row["model"] == model]
            start = [row["top1"] for row in mine if row["epsilon"] == 0]
            attacked = sorted(
                (row for row in mine if row["epsilon"] > 0 and row["norm"] == norm),
                key=lambda row: row["epsilon"],
            )
            if not start or not attacked:
                continue
            halved = next((row for row in attacked if row["top1"] < start[0] / 2), None)
            place = f"by ε = {radius(halved)}" if halved else "at none of these radii"
            parts.append(f"{model} {place}")
            radii = [radius(row) for row in attacked]
        if parts:
            n = max(row["n"] for row in sweep)
            findings.append(
                Finding(
                    claim=f"Half of the natural accuracy is lost in {name}: {listed(parts)}.",
                    evidence=f"The first radius measured at which less than half is left, of "
                    f"{listed(radii)}; on a seeded subset (n = {count(n)}).",
                )
            )
    return findings


def _check_findings(checks: Sequence[Row]) -> list[Finding]:
    if not checks:
        return []
    failed = [row for row in checks if not row["passed"]]
    if not failed:
        return [
            Finding(
                claim=f"All {len(checks)} sanity checks for gradient masking passed.",
                evidence="Nothing here suggests that an attack failed for want of a usable "
                "gradient. The checks cannot prove that no stronger attack exists.",
            )
        ]
    names = listed([f"“{row['check']}” for {row['model']} ({row['found']})" for row in failed])
    models = listed(list(dict.fromkeys(row["model"] for row in failed)))
    return [
        Finding(
            claim=f"{len(failed)} of {len(checks)} sanity checks failed: the accuracy of {models} "
            "under attack may be too high.",
            evidence=f"Failed: {names}. A failure suggests that the attack was too weak for this "
            "model, for example because its gradients are masked; do not rely on that accuracy "
            "until another attack confirms it.",
            important=True,
            warning=True,
        )
    ]
