"""What limits the meaning of the other findings of dissection."""

from advlens.report.blocks import Finding
from advlens.report.sections.dissection.tables import DissectionTables
from advlens.words import Estimate, count, listed

HEAVIEST = 1e6
"""The largest weight λ that the search of the Adam attack tries."""
FAR_APART = 0.1
"""Successes further apart than this make two models incomparable under attack."""
WEAK = 0.5
"""Success below which an attack that changes little says little."""
BRODEN = {"n": 63_305, "labels": 1_197}
"""Images and labels of the full Broden 1.0, on which published shares rest."""


def cautions(tables: DissectionTables) -> list[Finding]:
    """Weak attacks, small data sets, units without a threshold."""
    return [*_success(tables), *_weight(tables), *_data(tables), *_thresholds(tables)]


def _successes(tables: DissectionTables) -> dict[str, Estimate]:
    rows = {model: tables.attacked(model) for model, _ in tables.last}
    return {
        model: Estimate.of(row, "success")
        for model, row in rows.items()
        if row and row["success"] is not None
    }


def comparable(tables: DissectionTables) -> bool:
    """Whether the attack's success is alike on all models."""
    found = sorted(_successes(tables).values(), key=lambda success: success.value)
    return not found or bool(
        found[-1].value - found[0].value <= FAR_APART or found[0].overlaps(found[-1])
    )


def _success(tables: DissectionTables) -> list[Finding]:
    found = _successes(tables)
    if not found:
        return []
    weak = [model for model, success in found.items() if success.value < WEAK]
    if weak:
        claim = (
            f"The attack rarely reached its target on {listed(weak)}: that little changes there "
            "says little."
        )
    elif not comparable(tables):
        claim = "Under attack the models cannot be compared: the attack's success differs."
    else:
        return []
    attacks = "; ".join(
        f"{success.text(as_percent=True)} of the images of {model} (n = {count(success.n)})"
        for model, success in found.items()
    )
    return [
        Finding(
            claim=claim,
            evidence=f"Predicted as the attack's target: {attacks}. Where the model still sees "
            "the images as what they are, its units mostly do too.",
            important=True,
            warning=True,
        )
    ]


def _weight(tables: DissectionTables) -> list[Finding]:
    """An attack that was allowed any change may have removed what the units should find."""
    models = [row["model"] for row in tables.images if (row["weight"] or 0) >= HEAVIEST]
    if not models:
        return []
    return [
        Finding(
            claim=f"On {listed(models)} the attack changes images as far as its steps reach.",
            evidence=f"No weight λ below {HEAVIEST:g} reached the wanted success, so the size of "
            "the change plays no part. What units lose there may be lost from the images.",
            warning=True,
        )
    ]


def _data(tables: DissectionTables) -> list[Finding]:
    small = {
        row["data"]: f"{row['data']} has {count(row['n'])} images and {count(row['labels'])} labels"
        for row in tables.images
        if any(row[name] < full / 2 for name, full in BRODEN.items())
    }
    if not small:
        return []
    return [
        Finding(
            claim="These shares do not compare with published ones: the data set is much smaller.",
            evidence=f"{listed(list(small.values()))}, Broden 1.0 {count(BRODEN['n'])} and "
            f"{count(BRODEN['labels'])}. A unit can only detect what is labeled, and chance "
            "depends on the labels; models and layers within this run do compare.",
            warning=True,
        )
    ]


def _thresholds(tables: DissectionTables) -> list[Finding]:
    parts, silent, zero = [], 0, 0
    for model, layers in tables.layers.items():
        mine = [r for r in tables.units if (r["model"], r["images"]) == (model, "real")]
        dead = sum(row["dead"] for row in mine)
        rare = sum(not row["dead"] and row["threshold"] <= 0 for row in mine)
        silent, zero = silent + dead, zero + rare
        parts.append(
            f"{count(dead)} and {count(rare)} of {count(len(mine))} in {model} "
            f"({count(len(layers))} layer{'s' if len(layers) > 1 else ''})"
        )
    if not silent and not zero:
        return []
    quantile = next((row["quantile"] for row in tables.images), 0.005)
    return [
        Finding(
            claim=f"Units that never respond to these images: {count(silent)}; that respond so "
            f"rarely that their threshold is 0: {count(zero)}.",
            evidence=f"Never positive, and positive at no more than {100 * quantile:g}% of the "
            f"positions: {listed(parts)}. A threshold of 0 makes a mask of every "
            "positive position; both kinds count as units in every share.",
            warning=zero > 0,
        )
    ]
