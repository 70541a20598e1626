"""What the dissection tables say about these models, in sentences."""

from collections.abc import Mapping

from advlens.report.blocks import Finding
from advlens.report.sections.dissection.cautions import cautions, comparable
from advlens.report.sections.dissection.tables import (
    DissectionTables,
    Fates,
    attack,
    chance,
    estimate,
)
from advlens.runs.results import Row
from advlens.words import Estimate, apart, comparison, count, grouped, leader, listed, percent


def findings(tables: DissectionTables) -> list[Finding]:
    """The most important ones first."""
    return [
        *_real(tables),
        *_chance(tables),
        *_attacked(tables),
        *_fates(tables),
        *_by_category(tables),
        *cautions(tables),
    ]


def _real(tables: DissectionTables) -> list[Finding]:
    found = tables.detectors(tables.last, "real")
    if not found:
        return []
    if len(found) == 1:
        ((model, share),) = found.items()
        layer = dict(tables.last)[model]
        row = tables.share((model, layer), "real")
        claim = f"{percent(share.value)} of the units of {layer} in {model} detect a concept"
        claim += f", by chance {percent(row['permuted_share'])}." if row else "."
    elif best := leader(found):
        claim = f"On real images, the units of {best} detect a concept most often."
    elif groups := grouped(apart(found), list(found)):
        texts = [f"in {listed(more)} than in {listed(less)}" for more, less in groups]
        claim = f"On real images, more units detect a concept {listed(texts)}."
    else:
        claim = "On real images, no difference in the share of detectors is established."
    everywhere = tables.detectors(tables.together, "real")
    more = (
        f" Over all dissected layers: {comparison(everywhere, as_percent=True)}."
        if everywhere
        else ""
    )
    return [
        Finding(
            claim=claim,
            evidence=f"Units with an IoU above {tables.minimum:g} in the last dissected layer "
            f"({_units(tables, found)}): {comparison(found, as_percent=True)}.{more} "
            "Intervals are over units.",
            important=True,
        )
    ]


def _units(tables: DissectionTables, found: Mapping[str, Estimate]) -> str:
    return listed(
        [
            f"{count(found[model].n)} units of {layer} in {model}"
            for model, layer in tables.last
            if model in found
        ]
    )


def _chance(tables: DissectionTables) -> list[Finding]:
    """Whether the shares exceed those of the same masks with other images' labels."""
    numbers: dict[str, list[str]] = {}
    missed: dict[str, list[str]] = {"real": [], "adversarial": []}
    for images, models in missed.items():
        for place in tables.last:
            if row := tables.share(place, images):
                value = f"{chance(row).text(as_percent=True)} on {images} images"
                numbers.setdefault(place[0], []).append(value)
                if not _above_chance(row):
                    models.append(place[0])
    if not numbers:
        return []
    claim = "On real images, more units detect a concept than by chance."
    if missed["real"]:
        claim = (
            f"In {listed(missed['real'])}, more detectors than by chance are not established: "
            "their concepts say little."
        )
    elif missed["adversarial"]:
        claim += f" Under attack this is not established for {listed(missed['adversarial'])}."
    values = "; ".join(f"{model} {listed(found)}" for model, found in numbers.items())
    return [
        Finding(
            claim=claim,
            evidence="Share of detectors that the same masks give with the labels of other "
            f"images: {values}. Last dissected layer; intervals over units.",
            important=bool(missed["real"]),
            warning=bool(missed["real"]),
        )
    ]


def _above_chance(row: Row) -> bool:
    by_chance = chance(row)
    return row["share"] > row["permuted_share"] and not estimate(row).overlaps(by_chance)


def _attacked(tables: DissectionTables) -> list[Finding]:
    """D19's Table 2 in words."""
    changes, numbers = [], []
    for place in tables.last:
        real, adversarial, again = (
            tables.share(place, images)
            for images in ("real", "adversarial", "adversarial-reestimated")
        )
        if not real or not adversarial:
            continue
        before, after, model = estimate(real), estimate(adversarial), place[0]
        verb = "falls" if after.value < before.value else "rises"
        if before.overlaps(after):
            change = f"does not change beyond its intervals in {model}"
        else:
            change = f"{verb} from {percent(before.value)} to {percent(after.value)} in {model}"
            if verb == "rises" and not _above_chance(adversarial):
                change += f" (by chance alone {percent(adversarial['permuted_share'])})"
        changes.append(change)
        text = (
            f"{model} {before.text(as_percent=True)} before and {after.text(as_percent=True)} after"
        )
        if attacked := tables.attacked(model):
            text += f" {attack(attacked)}"
        if again:
            text += (
                f" ({percent(again['share'])} with thresholds estimated again, by chance "
                f"{percent(again['permuted_share'])})"
            )
        numbers.append(f"{text}, {count(before.n)} units of {place[1]}")
    if not changes:
        return []
    return [
        Finding(
            claim=f"Under attack the share of detectors {listed(changes)}.",
            evidence=f"{'; '.join(numbers)}. Activation thresholds are those of the real images. "
            "Intervals are over units.",
            important=True,
        )
    ]


def _fates(tables: DissectionTables) -> list[Finding]:
    """Which detectors keep their concept: what shares alone do not say."""
    fates = {
        model: found
        for model, layer in tables.last
        if (found := tables.fates((model, layer), "adversarial")) and found.detectors
    }
    if not fates:
        return []
    kept = {model: found.estimate(found.kept) for model, found in fates.items()}
    texts = [f"{kept[model].text(as_percent=True)} of the detectors in {model}" for model in fates]
    claim = f"Under attack, {listed(texts)} keep their very concept."
    if len(kept) > 1 and comparable(tables):
        best = leader(kept)
        claim = (
            f"Under attack, the detectors of {best} keep their very concept most often."
            if best
            else "No model's detectors are established to keep their concepts best under attack."
        )
    return [
        Finding(
            claim=claim,
            evidence=f"{' '.join(_fate(model, found) for model, found in fates.items())} "
            "Last dissected layer; intervals over detectors.",
            important=True,
        )
    ]


def _fate(model: str, fates: Fates) -> str:
    kept = fates.estimate(fates.kept).text(as_percent=True)
    return (
        f"Of {count(fates.detectors)} detectors on real images in {model}, "
        f"{count(fates.kept)} keep their concept, {kept}, "
        f"{count(fates.changed)} detect another one and {count(fates.lost)} none; "
        f"{count(fates.gained)} other units detect one only under attack."
    )


def _by_category(tables: DissectionTables) -> list[Finding]:
    """Categories whose share changes beyond its intervals."""
    changes, numbers = [], []
    for model, layer in tables.last:
        for verb, wanted in (("fewer", 1), ("more", -1)):
            found = []
            for category in tables.categories:
                rows = [
                    tables.share((model, layer), images, category)
                    for images in ("real", "adversarial")
                ]
                if None in rows:
                    continue
                before, after = (estimate(row) for row in rows if row)
                if not before.overlaps(after) and (before.value - after.value) * wanted > 0:
                    found.append(category)
                    numbers.append(
                        f"{category} in {model} {before.text(as_percent=True)} to "
                        f"{after.text(as_percent=True)}"
                    )
            if found:
                changes.append(f"{verb} detectors of {listed(found)} in {model}")
    if not changes:
        return []
    return [
        Finding(
            claim=f"By category, these changes under attack are established: {listed(changes)}.",
            evidence=f"{'; '.join(numbers)}. Last dissected layer; intervals over units. "
            "Where a category is not named, its intervals overlap.",
        )
    ]
