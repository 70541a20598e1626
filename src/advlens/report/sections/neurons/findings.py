"""What the neuron tables say about these models, in sentences."""

from collections.abc import Sequence

from advlens.report.blocks import Finding
from advlens.report.sections.neurons.tables import NeuronTables, mean, success
from advlens.runs.results import Row
from advlens.words import (
    Estimate,
    apart,
    attack_name,
    comparison,
    count,
    grouped,
    leader,
    listed,
    number,
    percent,
)

FAR_APART = 0.1
"""Successes further apart than this make CS values of two models incomparable."""
CONTROL = 0.95
"""CS1 that noise must leave, so that a low CS1 under attack is the attack's doing."""
FEW = 10
"""Units below which a bin of the curves is not spoken of."""


def findings(tables: NeuronTables) -> list[Finding]:
    """The most important ones first."""
    return [
        *_under_fgsm(tables),
        *_at_equal_epsilon(tables),
        *_at_equal_success(tables),
        *_control(tables),
        *_trends(tables),
        *_chance(tables),
        *_bias(tables),
        *_dead(tables),
        *_frames(tables),
    ]


def _under_fgsm(tables: NeuronTables) -> list[Finding]:
    """D19's Table 1 in words."""
    behind = tables.at_last("fgsm", "consis_adv")
    attacks = {row["model"]: attack_name(row) for row in behind}
    changes, numbers = [], []
    for row in tables.table1:
        real, adversarial = Estimate.of(row, "consis"), Estimate.of(row, "consis_adv")
        share = abs(1 - adversarial.value / real.value)
        verb = "falls" if adversarial.value < real.value else "rises"
        changes.append(
            f"does not change beyond its intervals in {row['model']}"
            if real.overlaps(adversarial)
            else f"{verb} by {100 * share:.0f}% in {row['model']}"
        )
        numbers.append(
            f"{row['model']} {real.text()} on real images, {adversarial.text()} under "
            f"{attacks.get(row['model'], 'FGSM')}, which gets {percent(row['success'])} "
            "of them misclassified"
        )
    if not numbers:
        return []
    n = count(max(row["n"] for row in tables.table1))
    return [
        Finding(
            claim=f"Under FGSM, the consistency of the last convolution's units {listed(changes)}.",
            evidence=f"Mean consistency: {'; '.join(numbers)} (n = {n})."
            + (
                " Where fewer images are misclassified, less can change."
                if behind and _far_apart(behind)
                else ""
            ),
            important=True,
        )
    ]


def _at_equal_epsilon(tables: NeuronTables) -> list[Finding]:
    rows = tables.at_last("least-likely", "cs1")
    if not rows:
        return []
    attack = listed(list(dict.fromkeys(attack_name(row) for row in rows)))
    claim, caution = _highest(rows, "At equal ε"), ""
    if _far_apart(rows):
        claim = "At equal ε the models cannot be compared by CS: the attack's success differs."
        caution = (
            " CS then says mostly where the attack failed: compare the models at equal success."
        )
    return [
        Finding(
            claim=claim,
            evidence=f"The attack ({attack}) reached its target on {_successes(rows)} of the "
            f"images. In the last convolution {_both(tables, 'least-likely')}.{caution}",
            important=True,
            warning=_far_apart(rows),
        )
    ]


def _at_equal_success(tables: NeuronTables) -> list[Finding]:
    rows = tables.at_last("equal-success", "cs1")
    if len(rows) < 2:
        return []
    attacks = listed(
        [f"{percent(row['success'])} for {row['model']} by {attack_name(row)}" for row in rows]
    )
    missed, claim, matched = _far_apart(rows), _highest(rows, "At equal attack success"), ""
    if missed:
        claim = "Equal success was not reached, so CS does not compare the models."
    else:
        leads = {
            pair: lead
            for pair in sorted(apart({row["model"]: mean(row) for row in rows}))
            if (lead := _lead_at_equal_lc(tables, *pair)) is not None
        }
        if leads:
            matched = " Among units of equal LC, over all convolutions, CS1 of " + listed(
                [
                    f"{best} less that of {other} is {lead:+.3f}"
                    for (best, other), lead in leads.items()
                ]
            )
            matched += " (bins with at least 10 units in both)."
        if less := list(dict.fromkeys(best for (best, _), lead in leads.items() if lead <= 0)):
            claim = (
                f"At equal attack success CS1 is higher in {listed(less)}, but not among units of "
                "equal LC: these units are less specific, and so have less to lose."
            )
    return [
        Finding(
            claim=claim,
            evidence=f"Success: {attacks}. In the last convolution "
            f"{_both(tables, 'equal-success')}.{matched}",
            important=True,
            warning=missed,
        )
    ]


def _lead_at_equal_lc(tables: NeuronTables, best: str, other: str) -> float | None:
    """How much CS1 of one model exceeds that of another in the bins of LC that both fill.

    Means of a layer mix what attack does to a unit with how specific the unit is: random images
    alone give unspecific units a high CS1. A bin counts as much as its smaller number of units.
    """
    mine, theirs = (
        {
            round(row["bin_low"], 6): row
            for row in tables.curves
            if (row["model"], row["images"]) == (model, "equal-success") and row["units"] >= FEW
        }
        for model in (best, other)
    )
    weights = {low: min(mine[low]["units"], theirs[low]["units"]) for low in mine if low in theirs}
    if not weights:
        return None
    total = sum(weight * (mine[low]["cs1"] - theirs[low]["cs1"]) for low, weight in weights.items())
    return float(total / sum(weights.values()))


def _highest(rows: Sequence[Row], where: str) -> str:
    """Which model's units keep most of what they stand for."""
    if len(rows) == 1:
        return f"Under the targeted attack, CS1 of {rows[0]['model']} is {number(rows[0]['mean'])}."
    found = {row["model"]: mean(row) for row in rows}
    if best := leader(found):
        return f"{where}, the units of {best} best keep the classes they stand for (highest CS1)."
    groups = grouped(apart(found), list(found))
    if not groups:
        return f"{where}, no difference in CS1 between the models is established."
    texts = [f"those of {listed(more)} more than those of {listed(less)}" for more, less in groups]
    return f"{where}, units keep the classes they stand for to different degrees: {listed(texts)}."


def _both(tables: NeuronTables, images: str) -> str:
    values = {
        measure: {row["model"]: mean(row) for row in tables.at_last(images, measure)}
        for measure in ("cs1", "cs2")
    }
    parts = [
        f"{measure.upper()} is {comparison(found)}" for measure, found in values.items() if found
    ]
    return "; ".join(parts) + f" (n = {count(tables.images)})"


def _successes(rows: Sequence[Row]) -> str:
    return listed([f"{success(row).text(as_percent=True)} for {row['model']}" for row in rows])


def _far_apart(rows: Sequence[Row]) -> bool:
    low, high = (edge(rows, key=lambda row: row["success"]) for edge in (min, max))
    apart = high["success"] - low["success"] > FAR_APART
    return bool(apart and not success(low).overlaps(success(high)))


def _control(tables: NeuronTables) -> list[Finding]:
    rows = tables.at_last("noise", "cs1")
    if not rows:
        return []
    values = listed([f"{mean(row).text()} for {row['model']}" for row in rows])
    weak = [row["model"] for row in rows if row["mean"] < CONTROL]
    return [
        Finding(
            claim=f"Noise alone changes what units of {listed(weak)} respond to."
            if weak
            else "Noise of the same length changes little: the effect is the attack's.",
            evidence=f"Under Gaussian noise as long as the attack at equal ε, CS1 is {values} "
            f"(n = {count(rows[0]['n'])}); at least {CONTROL} is expected"
            + (
                ". A part of a low CS1 is then the size of the change, not its aim."
                if weak
                else "."
            ),
            warning=bool(weak),
        )
    ]


def _trends(tables: NeuronTables) -> list[Finding]:
    """D22's Figure 10 in words: do the units of highest LC hold less, or more?"""
    rows = [
        row for row in tables.curves if row["images"] == "equal-success" and row["units"] >= FEW
    ]
    changes: dict[str, list[str]] = {}
    numbers = []
    for model in tables.models:
        mine = sorted((row for row in rows if row["model"] == model), key=lambda row: row["lc"])
        if len(mine) < 2:
            continue
        first, last = mine[0], mine[-1]
        ends = {m: (_at(first, m), _at(last, m)) for m in ("cs1", "cs2")}
        change = listed([_change(m, *pair) for m, pair in ends.items()])
        changes.setdefault(change, []).append(model)
        texts = [f"{m.upper()} {a.text()} to {b.text()}" for m, (a, b) in ends.items()]
        numbers.append(
            f"{model}: {', '.join(texts)} from LC {number(first['lc'])} ({first['units']} units) "
            f"to {number(last['lc'])} ({last['units']} units)"
        )
    if not changes:
        return []
    where = "; ".join(f"{change} in {listed(models)}" for change, models in changes.items())
    return [
        Finding(
            claim=f"From units of low LC to units of high LC, {where}.",
            evidence=f"{'; '.join(numbers)}. All convolutions, at equal success; intervals over "
            f"units; first and last bin with at least {FEW} units.",
        )
    ]


def _at(row: Row, measure: str) -> Estimate:
    low, high = row[f"{measure}_low"], row[f"{measure}_high"]
    return Estimate(value=row[measure], low=low, high=high, n=row["units"])


def _change(measure: str, before: Estimate, after: Estimate) -> str:
    if before.overlaps(after):
        return f"{measure.upper()} stays within its intervals"
    return f"{measure.upper()} {'falls' if after.value < before.value else 'rises'}"


def _chance(tables: NeuronTables) -> list[Finding]:
    lc, cs1 = tables.random("lc"), tables.random("cs1")
    if not lc or not cs1:
        return []
    return [
        Finding(
            claim="CS1 is telling only for units whose LC is well above the floor.",
            evidence=f"Random images in place of a unit's top ones give LC {_each(lc)} and CS1 "
            f"{_each(cs1)}: a unit that stands for nothing reaches this CS1 by itself.",
        )
    ]


def _each(values: dict[str, float]) -> str:
    """One number if all models have the same, else each model's."""
    texts = {model: number(value) for model, value in values.items()}
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return listed([f"{text} for {model}" for model, text in texts.items()])


def _bias(tables: NeuronTables) -> list[Finding]:
    rows = [row for row in tables.last_layers if row["lc_corrected_mean"] is not None]
    if not rows:
        return []
    most = max(row["lc_mean"] - row["lc_corrected_mean"] for row in rows)
    values = listed(
        [
            f"{number(row['lc_mean'])} becomes {number(row['lc_corrected_mean'])} for "
            f"{row['model']} (k = {row['top']})"
            for row in rows
        ]
    )
    return [
        Finding(
            claim=f"LC from so few images is too high, by up to {number(most)} in the last "
            "convolution; the corrected value stands beside it.",
            evidence="From the top k images LC is biased upward by (1 − LC)/(k − 1), because each "
            f"image is also compared with itself. Without it, {values}.",
        )
    ]


def _dead(tables: NeuronTables) -> list[Finding]:
    parts, dead = [], 0
    for model in tables.models:
        mine = [row for row in tables.layers if row["model"] == model]
        if mine:
            found, units = (sum(row[name] for row in mine) for name in ("dead", "units"))
            dead += found
            parts.append(f"{count(found)} of {count(units)} in {model}")
    return [
        Finding(
            claim=f"{count(dead) if dead else 'No'} unit{'' if dead == 1 else 's'} "
            f"{'is' if dead == 1 else 'are'} dead.",
            evidence=f"{listed(parts)} are positive on none of the {count(tables.images)} real "
            "images; dead units are left out of all means.",
        )
    ]


def _frames(tables: NeuronTables) -> list[Finding]:
    parts = []
    for model in tables.models:
        shown = [
            row
            for row in tables.pictures
            if (row["model"], row["images"]) == (model, "adversarial")
        ]
        if shown:
            framed = sum(is_framed(row) for row in shown)
            parts.append(f"{framed} of {len(shown)} for {model}")
    if not parts:
        return []
    return [
        Finding(
            claim="Adversarial pictures below that are mistaken for what the unit stands for: "
            f"{listed(parts)}.",
            evidence="These are framed: misclassified as a class near the unit's real images "
            "(D22). A few chosen units are no sample, so the shares carry no interval.",
        )
    ]


def is_framed(row: Row) -> bool:
    """D22 §2: misclassified, as a class near those of the unit's real images."""
    return bool(row["framed"] and row["label"] != row["predicted"])
