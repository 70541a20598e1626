"""What the dissection tables say about these models, in sentences."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from advlens.report.blocks import Finding, Measured
from advlens.report.sections.dissection.tables import KINDS, DissectionTables, Fates, chance, share
from advlens.runs.tables import Row
from advlens.words import (
    Direction,
    Estimate,
    Says,
    attack_name,
    count,
    counted,
    far_apart,
    layer_text,
    listed,
    moves,
    percent,
    ranked,
    ranking,
    shared,
)

HEAVIEST = 1e6
"""The largest weight λ that the search of the Adam attack tries."""
WEAK = 0.5
"""Success below which an attack that changes little says little."""
BRODEN = {"n": 63_305, "labels": 1_197}
"""Images and labels of the full Broden 1.0, on which published shares rest."""
DETECTORS = "share of detectors"
REAL = "on real images"
AGAIN = "under attack, thresholds estimated again"
SHARES: Mapping[str, Any] = {"form": "percent", "counted": "units"}
OVER_UNITS = "Last dissected layer; intervals over units."


def findings(tables: DissectionTables) -> list[Finding]:
    """The most important ones first, then what limits their meaning."""
    return [
        *_real(tables),
        *_chance(tables),
        *_attacked(tables),
        *_fates(tables),
        *_by_category(tables),
        *_success(tables),
        *_weight(tables),
        *_data(tables),
        *_thresholds(tables),
    ]


def _real(tables: DissectionTables) -> Iterator[Finding]:
    shares = tables.detectors(tables.last, "real")
    if not shares:
        return
    measure = f"{DETECTORS} on real images"
    says = ranking(measure, shares)
    if says:
        more = "detect a concept more often"
        claim = ranked(says, "units of", more, where="On real images, ", what=f"the {DETECTORS}")
    else:
        ((model, value),) = shares.items()
        layer = dict(tables.last)[model]
        units = f"units of {layer_text(layer)} in {model}"
        claim = f"{percent(value.value)} of the {units} detect a concept"
        if row := tables.share((model, layer), "real"):
            claim += f", by chance {percent(row['permuted_share'])}"
    everywhere = tables.detectors(tables.together, "real")
    layers = {model: layer_text(layer) for model, layer in tables.last if model in shares}
    yield Finding(
        claim=f"{claim}.",
        says=says,
        estimates=Measured.each(
            {measure: shares, f"{measure}, all dissected layers": everywhere}, **SHARES
        ),
        note=f"Detectors are units with an IoU above {tables.minimum:g}. The last dissected "
        f"layer is {shared(layers, 'in')}; intervals are over units.",
        important=True,
    )


def _chance(tables: DissectionTables) -> Iterator[Finding]:
    """Whether the shares exceed those of the same masks with other images' labels."""
    says, by_chance, missed = list[Says](), dict[str, dict[str, Estimate]](), dict[str, list[str]]()
    for images in ("real", "adversarial"):
        name, rows = f"{DETECTORS} by chance on {images} images", tables.at_last(images)
        by_chance[name] = {model: chance(row) for model, row in rows.items()}
        above = tuple(model for model, row in rows.items() if _above_chance(row))
        missed[images] = [model for model in rows if model not in above]
        found: tuple[tuple[Sequence[str], Direction], ...]
        found = (above, "lower"), (missed[images], "open")
        says += [Says(name, tuple(of), way, (DETECTORS,)) for of, way in found if of]
    if not says:
        return
    claim, real = "On real images, more units detect a concept than by chance.", missed["real"]
    if real:
        claim = (
            f"In {listed(real)}, more detectors than by chance are not established: "
            "their concepts say little."
        )
    elif missed["adversarial"]:
        claim += f" Under attack this is not established for {listed(missed['adversarial'])}."
    yield Finding(
        claim=claim,
        says=says,
        estimates=Measured.each(by_chance, **SHARES),
        note="By chance: the same masks with the labels of other images. " + OVER_UNITS,
        important=bool(real),
        warning=bool(real),
    )


def _above_chance(row: Row) -> bool:
    by_chance = chance(row)
    return row["share"] > row["permuted_share"] and not share(row).overlaps(by_chance)


def _attacked(tables: DissectionTables) -> Iterator[Finding]:
    """D19's Table 2 in words."""
    says, estimates = list[Says](), list[Measured]()
    values, attacks, by_chance = dict[str, str](), dict[str, str](), dict[str, Estimate]()
    kinds = dict(zip(KINDS, (REAL, "under attack", AGAIN), strict=True))
    for place in tables.last:
        model = place[0]
        rows = {kind: row for images, kind in kinds.items() if (row := tables.share(place, images))}
        if not {REAL, "under attack"} <= rows.keys():
            continue
        shares, after = {kind: share(row) for kind, row in rows.items()}, rows["under attack"]
        says.append(tables.change(DETECTORS, place, rows[REAL], after))
        estimates.append(Measured(name=DETECTORS, model=model, estimates=shares, **SHARES))
        if AGAIN in rows:
            by_chance[model] = chance(rows[AGAIN])
        if says[-1].direction != "open":
            before, then = percent(rows[REAL]["share"]), percent(after["share"])
            falls = says[-1].direction == "lower" or _above_chance(after)
            beside = "" if falls else f", by chance {percent(after['permuted_share'])}"
            values[model] = f" (from {before} to {then}{beside})"
        if row := tables.attacked(model):
            attacks[model] = attack_name(row)
    if not says:
        return
    yield Finding(
        claim=f"Under attack the {DETECTORS} {moves(says, more=values)}.",
        says=says,
        estimates=[
            *estimates,
            *Measured.each({f"{DETECTORS} by chance, {AGAIN}": by_chance}, **SHARES),
        ],
        note=(f"The attack is {shared(attacks)}. " if attacks else "")
        + "Activation thresholds are those of the real images. "
        + OVER_UNITS
        + tables.tested,
        important=True,
    )


def _fates(tables: DissectionTables) -> Iterator[Finding]:
    """Which detectors keep their concept: what shares alone do not say."""
    fates = {
        model: fate
        for model, layer in tables.last
        if (fate := tables.fates((model, layer), "adversarial")) and fate.detectors
    }
    if not fates:
        return
    kept = {model: fate.estimate(fate.kept) for model, fate in fates.items()}
    gained = [f"{count(fate.gained)} in {model}" for model, fate in fates.items()]
    says = (
        ranking("detectors that keep their concept", kept)
        if not far_apart(_successes(tables))
        else ()
    )
    texts = [f"{percent(part.value)} of the detectors in {model}" for model, part in kept.items()]
    claim = f"Under attack, {listed(texts)} keep the same concept"
    if says:
        more, what = "keep the same concept more often", "how many keep their concept"
        claim = ranked(says, "detectors of", more, where="Under attack, ", what=what)
    yield Finding(
        claim=f"{claim}.",
        says=says,
        estimates=[
            Measured(
                name="detectors that keep their concept",
                estimates=kept,
                form="percent",
                counted="detectors",
            ),
            *(_fate(model, fate) for model, fate in fates.items()),
        ],
        note=f"Other units detect a concept only under attack: {listed(gained)}. Last "
        "dissected layer; intervals over detectors.",
        important=True,
    )


def _fate(model: str, fates: Fates) -> Measured:
    parts = {
        "keep their concept": fates.kept,
        "detect another one": fates.changed,
        "detect none": fates.lost,
    }
    return Measured(
        name="detectors",
        model=model,
        estimates={name: fates.estimate(units) for name, units in parts.items()},
        form="count",
    )


def _by_category(tables: DissectionTables) -> Iterator[Finding]:
    """Categories whose share is established to change."""
    says, estimates = list[Says](), list[Measured]()
    for model, layer in tables.last:
        for category in tables.categories:
            real, adversarial = (
                tables.share((model, layer), images, category) for images in ("real", "adversarial")
            )
            if not real or not adversarial:
                continue
            name = f"{category} detectors"
            said = tables.change(name, (model, layer), real, adversarial)
            if said.direction != "open":
                says.append(said)
                shares = {REAL: share(real), "under attack": share(adversarial)}
                estimates.append(Measured(name=name, model=model, estimates=shares, **SHARES))
    if not says:
        return
    changes = [
        f"{'fewer' if said.direction == 'lower' else 'more'} {said.measure} in {said.of[0]}"
        for said in says
    ]
    yield Finding(
        claim=f"By category, these changes under attack are established: {listed(changes)}.",
        says=says,
        estimates=estimates,
        note=OVER_UNITS
        + (tables.tested or " Where a category is not named, its intervals overlap."),
    )


def _successes(tables: DissectionTables) -> dict[str, Estimate]:
    rows = {model: tables.attacked(model) for model, _ in tables.last}
    return {
        model: Estimate.of(row, "success")
        for model, row in rows.items()
        if row and row["success"] is not None
    }


def _success(tables: DissectionTables) -> Iterator[Finding]:
    successes = _successes(tables)
    if not successes:
        return
    name = "attack success"
    if weak := tuple(model for model, success in successes.items() if success.value < WEAK):
        says = [Says(name, weak, "lower", (f"{WEAK}",))]
        claim = (
            f"The attack succeeded on less than {WEAK:.0%} of the images of {listed(weak)}: what "
            "holds there need not hold under a stronger one."
        )
    elif far_apart(successes):
        least, *_, most = sorted(successes, key=lambda model: successes[model].value)
        says = [Says(name, (most,), "higher", (least,))]
        claim = "Under attack the models cannot be compared: the attack's success differs."
    else:
        return
    yield Finding(
        claim=claim,
        says=says,
        estimates=[Measured(name=name, estimates=successes, form="percent")],
        note="Success is the share of images on which the attack reached its goal: its target "
        "class, or any class but the one before. Where the model still sees the images as what "
        "they are, its units mostly do too.",
        important=True,
        warning=True,
    )


def _weight(tables: DissectionTables) -> Iterator[Finding]:
    """An attack that was allowed any change may have removed what the units should find."""
    models = [row["model"] for row in tables.images.known("weight") if row["weight"] >= HEAVIEST]
    if not models:
        return
    yield Finding(
        claim=f"On {listed(models)} the attack changes images as far as its steps reach.",
        says=[Says("weight λ of the attack", tuple(models), "higher", (f"{HEAVIEST:g}",))],
        note=f"No weight λ below {HEAVIEST:g} reached the wanted success, so the size of "
        "the change plays no part. What units lose there may be lost from the images.",
        warning=True,
    )


def _data(tables: DissectionTables) -> Iterator[Finding]:
    small = {
        row["data"]: f"{row['data']} has {counted(row['n'], 'image')} and "
        f"{counted(row['labels'], 'label')}"
        for row in tables.images
        if any(row[name] < full / 2 for name, full in BRODEN.items())
    }
    if not small:
        return
    yield Finding(
        claim="These shares do not compare with published ones: the data set is much smaller.",
        says=[Says("images and labels", tuple(small), "lower", ("half of Broden 1.0",))],
        note=f"{listed(list(small.values()))}, Broden 1.0 {count(BRODEN['n'])} and "
        f"{count(BRODEN['labels'])}. A unit can only detect what is labeled, and chance "
        "depends on the labels; models and layers within this run do compare.",
        warning=True,
    )


def _thresholds(tables: DissectionTables) -> Iterator[Finding]:
    silent, rare = dict[str, Estimate](), dict[str, Estimate]()
    for rows in tables.units.where(images="real").split("model"):
        model, n = rows[0]["model"], len(rows)
        silent[model] = Estimate.only(len(rows.where(dead=True)) / n, n)
        low = [row for row in rows.where(dead=False) if row["threshold"] <= 0]
        rare[model] = Estimate.only(len(low) / n, n)
    dead, zero = (
        sum(round(e.value * e.n) for e in estimates.values()) for estimates in (silent, rare)
    )
    if not dead and not zero:
        return
    quantile = next((row["quantile"] for row in tables.images), 0.005)
    yield Finding(
        claim=f"Units that never respond to these images: {count(dead)}; that respond so "
        f"rarely that their threshold is 0: {count(zero)}.",
        estimates=Measured.each(
            {"units that are never positive": silent, "units with a threshold of 0": rare},
            form="count",
        ),
        note=f"A threshold is 0 where a unit is positive at no more than {100 * quantile:g}% "
        "of the positions; its mask is then every positive position. Both kinds count as "
        "units in every share, over all dissected layers.",
        warning=zero > 0,
    )
