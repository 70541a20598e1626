"""Whether a model can be trusted: a few claims about each, with a mark, at the top of the page."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from advlens.report.paired import Paired
from advlens.report.sections.accuracy.findings import faced
from advlens.report.sections.neurons.tables import NeuronTables, is_aimed
from advlens.runs.results import Results, Rows
from advlens.runs.tables import Row
from advlens.words import (
    ATTACK,
    NORMS,
    Estimate,
    attack_name,
    counted,
    number,
    percent,
    radius_text,
    ranking,
)

Mark = Literal["holds", "partly", "fails", "unknown"]

MARKS: dict[Mark, tuple[str, str]] = {
    "holds": ("✓", "holds"),
    "partly": ("◐", "partly"),
    "fails": ("✗", "does not hold"),
    "unknown": ("?", "not known"),
}
"""How the marks are written: sign and words."""
TITLES = {
    "natural": "Accuracy",
    "Linf": "Accuracy under attack in L∞",
    "L2": "Accuracy under attack in L2",
    "units": "Meaning of units",
    "attributions": "Attributions",
    "features": "Learned features",
}
"""What claims are about, in words."""
TOO_FEW = 1 / 2
"""Images are too few to tell a model from guessing where its accuracy may be above this."""
HELD, HALF_HELD = 1 / 2, 1 / 4
"""Shares of natural accuracy, or of the way from chance, from which a claim holds, or partly.

Where the interval of an accuracy under attack reaches from below one to above the other, it is not
known.
"""
KEPT, HALF_KEPT = 2 / 3, 1 / 3
"""The same for CS1 between the floor of random images and 1."""
ENOUGH = 16
"""Images from which attributions say something.

Where all of so many images agree, the 95 % Wilson interval of the share that does begins at 81 %.
"""
REACHED = 0.8
"""Attack success from which a CS says something."""
USUAL = {"Linf": (8 / 255, 4 / 255), "L2": (0.5, 3.0)}
"""The field's radii for small and for large images, in the sweep."""
LARGE = 96
"""Pixels from which images are large."""


@dataclass(frozen=True)
class Claim:
    """One claim about a model.

    Attributes:
        about: what it is about: natural, Linf, L2, units, attributions or features.
        mark: whether it holds.
        text: the sentence.
    """

    about: str
    mark: Mark
    text: str


WHERE = {
    "natural": "On unmodified images",
    "Linf": "Where an attack may change each pixel up to a limit (L∞)",
    "L2": "Where an attack may change all pixels together up to a limit (L2)",
}
"""Where one of several models is chosen."""


class Choice(NamedTuple):
    """Which of several models to take.

    Attributes:
        about: on what images: natural, Linf or L2.
        models: those that keep some accuracy and that no other is shown to be ahead of; none where
            none keeps any.
        text: the sentence.
    """

    about: str
    models: tuple[str, ...]
    text: str


def verdict(results: Results) -> dict[str, list[Claim]]:
    """The claims about each model that the tables of a run allow."""
    neurons = NeuronTables(results)
    return {
        model: [
            *_natural(results, model),
            *_robust(results, model),
            *_units(results, neurons, model),
            *_attributions(results, model),
            *_features(results, model),
        ]
        for model in results.models
    }


def choices(results: Results, claims: Mapping[str, Sequence[Claim]]) -> list[Choice]:
    """What the verdict on several models says together, on natural images and in each norm.

    A model is chosen if its claim holds, or holds partly, and no other such model is shown to be
    ahead of it: on natural images, or under the strongest iterated attack that all of them faced,
    by paired differences where the run has them, else by the intervals. Nothing is said about a
    norm in which one of the models was not attacked.
    """
    marks = {model: {claim.about: claim.mark for claim in each} for model, each in claims.items()}
    able = {model: each for model, each in marks.items() if each.get("natural") != "fails"}
    found = []
    for about, where in WHERE.items() if len(claims) > 1 else ():
        if not able or not all(about in each for each in able.values()):
            continue
        fit = [model for model, each in able.items() if each[about] in ("holds", "partly")]
        if not fit:
            unknown = any(each[about] == "unknown" for each in able.values())
            text = "no model is shown to hold" if unknown else "trust none of these models"
            found.append(Choice(about, (), f"{where}, {text}."))
            continue
        best = _ahead(results, about, fit)
        if not best and len(fit) > 1:
            continue
        names = [f"{row['model']} ({percent(row['top1'])} right)" for row in best] or fit
        level = "; no difference between them is established" if len(best) > 1 else ""
        chosen = tuple(best.values("model") or fit)
        found.append(Choice(about, chosen, f"{where}, choose {' or '.join(names)}{level}."))
    return found


def _ahead(results: Results, about: str, models: Sequence[str]) -> Rows:
    """The rows of models that no other is shown to be ahead of; none if no attack was the same."""
    rows = results.table("accuracy").where(model=tuple(models))
    if about == "natural":
        common: Rows | None = rows.where(attack="natural")
    else:
        common = faced(Rows(filter(_is_iterated, rows.where(norm=about).known("epsilon"))), models)
    if common is None:
        return Rows()
    named = {name: common[0][name] for name in (*ATTACK, "settings")}
    keys = named | {"model": tuple(models), "other": tuple(models), "measure": "accuracy"}
    paired = Paired.of(results.table("differences"), models, **keys)
    says = ranking("accuracy", common.estimates("top1"), established=paired.established)
    behind = {model for said in says if said.direction != "open" for model in said.than}
    return Rows(row for row in common if row["model"] not in behind)


def in_lines(results: Results) -> list[str]:
    """The verdict for a terminal."""
    claims_of = verdict(results)
    lines = [choice.text for choice in choices(results, claims_of)]
    for model, claims in claims_of.items():
        lines.append(model)
        for claim in claims:
            sign, mark = MARKS[claim.mark]
            lines.append(f"  {sign} {TITLES[claim.about]}: {mark}. {claim.text}")
    if missing := not_measured(results):
        lines.append(f"Not measured: {', '.join(missing)}.")
    return lines


def not_measured(results: Results) -> list[str]:
    """What the run says nothing about, in words."""
    rows = results.table("accuracy")
    missing = {
        "accuracy": rows,
        "AutoAttack": rows.where(attack="AutoAttack"),
        "the meaning of units under attack": results.table("layers"),
        "the concepts that units detect": results.table("dissection"),
        "attributions": results.table("attribution"),
        "generated images": results.table("generation"),
    }
    return [name for name, found in missing.items() if not found]


def _natural(results: Results, model: str) -> Iterator[Claim]:
    row = results.table("accuracy").one(model=model, attack="natural")
    if row is None:
        return
    accuracy, guessing = Estimate.of(row, "top1"), percent(results.chance)
    text = f"It is right on {accuracy.text(as_percent=True)} of {counted(row['n'], 'image')}"
    text += "; guessing gives"
    if accuracy.low is not None and accuracy.low > results.chance:
        yield Claim("natural", "holds", f"{text} {guessing}.")
    elif accuracy.high is not None and accuracy.high > TOO_FEW:
        yield Claim("natural", "unknown", f"{text} {guessing}; that is too few to tell.")
    else:
        yield Claim("natural", "fails", f"{text} {guessing}, so there is nothing to trust.")


def _may_guess(results: Results, model: str) -> bool:
    """Whether its natural accuracy was measured, and is not shown to be above chance."""
    row = results.table("accuracy").one(model=model, attack="natural")
    return row is not None and not Estimate.of(row, "top1").above(results.chance)


def _robust(results: Results, model: str) -> Iterator[Claim]:
    """The worst case in each norm."""
    accuracy = results.table("accuracy").where(model=model)
    natural = accuracy.one(attack="natural")
    if natural is None:
        return
    failed = results.table("checks").where(model=model, passed=False).values("check")
    rows: list[Row] = []
    for norm in USUAL:
        each = accuracy.where(norm=norm).known("epsilon")
        iterated = Rows(filter(_is_iterated, each))
        rows += filter(None, [_worst(iterated) or _usual(results, model, norm) or _lowest(each)])
    if _may_guess(results, model):
        text = "It is not shown to do better than guessing: an attack has nothing to take away."
        yield from (Claim(row["norm"], "unknown", text) for row in rows)
        return
    for row in sorted(rows, key=lambda row: row["attack"] != "AutoAttack"):
        yield _under(row, natural, results.chance, failed)


def _worst(iterated: Rows) -> Row | None:
    """Under AutoAttack where it was run, unless the intervals show that another one leaves less."""
    row = _lowest(iterated.where(attack="AutoAttack"))
    if row is None:
        return _lowest(iterated)
    within = [other for other in iterated if other["epsilon"] <= row["epsilon"]]
    return _lowest(Rows(other for other in within if other["top1_high"] < row["top1_low"])) or row


def _is_iterated(row: Row) -> bool:
    return bool(row["steps"] > 1 or row["attack"] == "AutoAttack")


def _lowest(rows: Rows) -> Row | None:
    return min(rows, key=lambda row: row["top1"], default=None)


def _usual(results: Results, model: str, norm: str) -> Row | None:
    """The row of the sweep at the field's radius."""
    radius = _usual_radius(results, model, norm)
    rows = results.table("sweep").where(model=model, norm=norm).known("epsilon")
    return next((row for row in rows if math.isclose(row["epsilon"], radius, rel_tol=1e-3)), None)


def _usual_radius(results: Results, model: str, norm: str) -> float:
    sizes = {each["name"]: each["image_size"] for each in results.record["models"]}
    return USUAL[norm][isinstance(sizes[model], int) and sizes[model] >= LARGE]


def _under(row: Row, natural: Row, chance: float, failed: list[str]) -> Claim:
    accuracy, norm = Estimate.of(row, "top1"), row["norm"]
    half, quarter = HELD * natural["top1"], HALF_HELD * natural["top1"]
    text = f"Under {attack_name(row)}, it is right on {accuracy.text(as_percent=True)}"
    text += f" of {counted(row['n'], 'image')}"
    if accuracy.spans(quarter, half):
        return Claim(norm, "unknown", f"{text}, too few to tell.")
    if accuracy.value <= chance:
        than = (
            "worse than" if accuracy.high is not None and accuracy.high < chance else "no more than"
        )
        return Claim(norm, "fails", f"{text}: {than} guessing.")
    if accuracy.value < quarter:
        return Claim(norm, "fails", f"{text}: less than a quarter of its accuracy is left.")
    if not _is_iterated(row):
        return Claim(norm, "unknown", f"{text}, but one step is no worst case in {NORMS[norm]}.")
    if failed:
        said = f"a check failed ({failed[0]}), so other attacks may do more"
        return Claim(norm, "unknown", f"{text}, but {said}.")
    if accuracy.value >= half:
        return Claim(norm, "holds", f"{text}: at least half of its accuracy is left.")
    return Claim(norm, "partly", f"{text}: less than half of its accuracy is left.")


def _units(results: Results, tables: NeuronTables, model: str) -> Iterator[Claim]:
    row = tables.at_last("equal-success", "cs1").one(model=model)
    floor = tables.random("cs1").get(model)
    if row is None or floor is None:
        return
    if _may_guess(results, model):
        text = "It is not shown to do better than guessing: its units have no meaning to lose."
        yield Claim("units", "unknown", text)
        return
    share = percent(row["success"])
    if row["success"] < REACHED:
        said = f"The strongest attack on its units reaches {share} of images"
        yield Claim("units", "unknown", f"{said}, so what they do where it succeeds is not known.")
        return
    attack = f"Under an attack that succeeds on {share} of the images"
    if not is_aimed([row]):
        attack = f"Under an attack that leaves {share} of the images misclassified"
    cs1 = Estimate.of(row)
    if floor.value >= 1:
        said = "Its units are as alike on random images as on those of highest response"
        yield Claim("units", "unknown", f"{said}: these are too few to tell.")
        return
    kept = (cs1.value - floor.value) / (1 - floor.value)
    mark: Mark = "holds" if kept >= KEPT else "partly" if kept >= HALF_KEPT else "fails"
    do = {"holds": "stand", "partly": "partly stand", "fails": "no longer stand"}[mark]
    yield Claim(
        "units",
        mark,
        f"{attack}{_size(results, row)}, its units {do} for what they stood for: CS1 is "
        f"{cs1.text()}, where 1 is no change and {number(floor.value)} is that of random images."
        + (" Noise of that length was not measured." if model in tables.beyond_noise else ""),
    )


def _size(results: Results, row: Row) -> str:
    """The size of the change where the attack has a ball, beside the usual one if it is larger."""
    if row["epsilon"] is None:
        return ""
    text = f"{NORMS.get(row['norm'], row['norm'])} ε = {radius_text(row)}"
    if row["norm"] in USUAL:
        usual = _usual_radius(results, row["model"], row["norm"])
        if (times := row["epsilon"] / usual) >= 2:
            text += f", {times:.0f} times the usual {radius_text({**row, 'epsilon': usual})}"
    return f" ({text})"


def _attributions(results: Results, model: str) -> Iterator[Claim]:
    """Whether each method is ahead of random attributions in both measures of faith."""
    rows = results.table("attribution").where(model=model, measure=("insertion", "deletion"))
    rows = rows.known("ahead_low")
    if not rows:
        return
    ahead = Rows(row for row in rows if row["ahead_low"] > 0)
    n, about = rows[0]["n"], "attributions"
    images = f"insertion and deletion, {counted(n, 'image')}"
    if n < ENOUGH:
        yield Claim(about, "unknown", f"{counted(n, 'image')}: too few to judge its attributions.")
    elif len(ahead) == len(rows):
        said = "Its attributions find what its predictions rest on: they beat random ones"
        yield Claim(about, "holds", f"{said} in all {len(rows)} comparisons ({images}).")
    elif ahead:
        said = f"Its attributions beat random ones in {len(ahead)} of {len(rows)} comparisons"
        yield Claim(about, "partly", f"{said} ({images}).")
    else:
        said = "Its attributions are not shown to beat random ones"
        yield Claim(about, "fails", f"{said} ({images}).")


def _features(results: Results, model: str) -> Iterator[Claim]:
    """Whether another network recognizes what the model generates, and finds it nearer to real."""
    rows = results.table("generation").where(model=model)
    row = rows.one(images="generated", measure="recognized")
    if row is None:
        return
    made = Estimate.of(row)
    way = (made.value - results.chance) / max(1 - results.chance, 1e-9)
    mark: Mark = "holds" if way >= HELD else "partly" if way >= HALF_HELD else "fails"
    text = (
        f"Another network recognizes the class in {made.text(as_percent=True)} of {made.n:,} "
        f"images generated from this model; guessing gives {percent(results.chance)}."
    )
    by_network = rows.where(measure="kid").split("features", "dimension", "resize")
    kid = by_network[0].estimates(by="images") if by_network else {}
    if {"generated", "start"} <= kid.keys():
        after, before = kid["generated"], kid["start"]
        if after.value > before.value and not after.overlaps(before):
            mark = "fails" if mark == "fails" else "partly"
            text += " They lie farther from real images than the blurs they were made from: "
            text += f"KID {after.text()}, before {before.text()}."
    yield Claim("features", mark, text)
