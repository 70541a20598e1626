"""Numbers and comparisons in words, the same everywhere in the report."""

import difflib
import hashlib
import itertools
import re
import types
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

ATTACKS = {
    "Fgsm": "FGSM",
    "Bim": "BIM",
    "Pgd": "PGD",
    "LeastLikely": "least-likely PGD",
    "AdamAttack": "Adam attack",
    "FeatureAttack": "feature attack",
    "GaussianNoise": "Gaussian noise",
}
SEVERAL = 3
"""Models above which a sentence names only the first and the last."""
ENDS = ("low", "high")
ATTACK = ("attack", "norm", "epsilon", "steps")
"""Columns that an attack is known by, beside its settings."""
NORMS = {"Linf": "L∞", "L2": "L2"}


def percent(share: float) -> str:
    """0.9173 -> "91.7%"."""
    return f"{100 * share:.1f}%"


def number(value: float) -> str:
    """Three significant digits: 0.5 -> "0.500", 0.001342 -> "0.00134"; "0.0000" below 0.00005."""
    return f"{value:#.3g}".rstrip(".") if abs(value) >= 5e-5 else "0.0000"


def count(value: int) -> str:
    """10000 -> "10,000"."""
    return f"{value:,}"


def duration(seconds: float) -> str:
    """30.2 -> "30 s", 200 -> "3 min", 9000 -> "2.5 h"."""
    for limit, unit, name in ((90, 1, "s"), (90 * 60, 60, "min"), (2 * 86_400, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{1 if name == 'h' else 0}f} {name}"
    return f"{seconds / 86_400:,.0f} days"


def counted(value: int, one: str) -> str:
    """1, "image" -> "1 image"; 2000, "image" -> "2,000 images"; "class" becomes "classes"."""
    several = f"{one}es" if one.endswith("s") else f"{one}s"
    return f"{count(value)} {one if value == 1 else several}"


def perhaps(name: str, known: Collection[str], count: int = 1) -> str:
    """What the author of an unknown name may have meant, as the end of a sentence, or nothing."""
    names = {each.lower(): each for each in known}
    close = [names[each] for each in difflib.get_close_matches(name.lower(), names, n=count)]
    *first, last = close or [""]
    meant = f"{', '.join(first)} or {last}" if first else last
    return f"; perhaps you meant {meant}" if last else ""


def layer_name(name: str) -> str:
    """A layer in a sentence: those of a torch.nn.Sequential have numbers as names."""
    return f"layer {name}" if name[:1].isdigit() else name


def distinct(names: Sequence[str]) -> list[str]:
    """The names, numbered where they repeat: ["a", "b", "a"] -> ["a", "b", "a (2)"]."""
    made: list[str] = []
    for name in names:
        numbered = (f"{name} ({number})" for number in itertools.count(2))
        free = (each for each in numbered if each not in (*names, *made))
        made.append(next(free) if name in made else name)
    return made


def layer_text(name: str) -> str:
    """A layer's name in a sentence; "1", as in a torch.nn.Sequential, becomes "layer 1"."""
    return f"layer {name}" if name[:1].isdigit() else name


def listed(texts: Sequence[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"."""
    return " and ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value with its 95% interval (None: there is none) and the number of images behind it."""

    value: float
    low: float | None
    high: float | None
    n: int

    @classmethod
    def of(cls, row: Mapping[str, Any], name: str = "mean", n: str = "n") -> "Estimate":
        """From the columns `name` (or `name`_mean), `name`_low (or low), `name`_high and n."""
        value = row[name] if name in row else row[f"{name}_mean"]
        low, high = (row[f"{name}_{end}" if f"{name}_{end}" in row else end] for end in ENDS)
        return cls(value=value, low=low, high=high, n=row[n])

    @classmethod
    def only(cls, value: float, n: int) -> "Estimate":
        """A value without an interval."""
        return cls(value=value, low=None, high=None, n=n)

    def overlaps(self, other: "Estimate") -> bool:
        """Whether the intervals share a point; one without an interval overlaps everything."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return True
        return self.low <= other.high and other.low <= self.high

    def above(self, bound: float) -> bool:
        """Whether all of the interval lies above a bound; without an interval it does not."""
        return self.low is not None and self.low > bound

    def spans(self, low: float, high: float) -> bool:
        """Whether the interval reaches from below one value to above another."""
        return self.low is not None and self.high is not None and self.low < low <= high < self.high

    def interval(self, *, as_percent: bool = False) -> str:
        """ "91.2–92.2", "-0.100 to 0.300", or "no interval"."""
        if self.low is None or self.high is None:
            return "no interval"
        if as_percent:
            low, high = 100 * self.low, 100 * self.high
            digits = 1 if f"{low:.1f}" != f"{high:.1f}" else 2
            ends = f"{low:z.{digits}f}", f"{high:z.{digits}f}"
        else:
            ends = number(self.low), number(self.high)
        return (" to " if ends[0].startswith("-") else "–").join(ends)

    def text(self, *, as_percent: bool = False) -> str:
        """ "91.7% (91.2–92.2)", or "91.7%" where there is no interval."""
        value = percent(self.value) if as_percent else number(self.value)
        return value if self.low is None else f"{value} ({self.interval(as_percent=as_percent)})"


Direction = Literal["higher", "lower", "open"]


class Says(NamedTuple):
    """What a claim says of a measure, as data.

    Attributes:
        measure: its name.
        of: the models, or kinds of images, that it speaks of.
        direction: how they compare with `than`; open: the intervals do not establish it.
        than: other models or images, or a bound, such as "chance".
    """

    measure: str
    of: tuple[str, ...]
    direction: Direction
    than: tuple[str, ...] = ()


def ranking(
    measure: str,
    *estimates: Mapping[str, Estimate],
    lower: bool = False,
    established: Collection[tuple[str, str]] | None = None,
) -> tuple[Says, ...]:
    """Who is ahead of whom beyond the intervals, by all of these estimates.

    {a: .1, b: .5, c: .5} -> b and c higher than a. Where one is ahead of all others, only that is
    said; where nothing is established, that all of it is open. Less than two models say nothing.

    Args:
        measure: its name.
        estimates: of each model, once for each way in which it was measured.
        lower: lower is better.
        established: who is ahead of whom by a paired test, which intervals cannot replace.
    """
    models = tuple(dict.fromkeys(model for each in estimates for model in each))
    ahead = _apart(models, estimates, lower) if established is None else established
    direction: Direction = "lower" if lower else "higher"
    for model in models:
        others = tuple(other for other in models if other != model)
        if others and all((model, other) in ahead for other in others):
            return (Says(measure, (model,), direction, others),)
    groups: dict[tuple[str, ...], tuple[str, ...]] = {}
    for second in models:
        if firsts := tuple(first for first in models if (first, second) in ahead):
            groups[firsts] = (*groups.get(firsts, ()), second)
    if groups or len(models) < 2:
        return tuple(Says(measure, firsts, direction, rest) for firsts, rest in groups.items())
    return (Says(measure, models, "open"),)


def _apart(
    models: Sequence[str], estimates: Sequence[Mapping[str, Estimate]], lower: bool
) -> set[tuple[str, str]]:
    """Pairs of models of which the first is ahead of the second beyond the intervals."""
    return {
        (first, second)
        for first in models
        for second in models
        if all(
            {first, second} <= each.keys()
            and (each[second].value - each[first].value) * (1 if lower else -1) > 0
            and not each[first].overlaps(each[second])
            for each in estimates
        )
    }


def ranked(says: Sequence[Says], things: str, more: str, *, where: str = "", what: str = "") -> str:
    """A ranking as a sentence, without its stop.

    "On real images, units of b detect a concept more often than those of a", or "On real images,
    no difference in the share of detectors is established between a and b".

    Args:
        says: at least one.
        things: what is compared, such as "units of".
        more: what those ahead are or do, such as "detect a concept more often".
        where: what comes first, such as "On real images, ".
        what: in what there is no difference, where it is not the name of the measure.
    """
    parts = [
        f"{'those of' if place else things} {listed(said.of)} {more} than those of "
        f"{listed(said.than)}"
        for place, said in enumerate(says)
    ]
    if says[0].direction == "open":
        of = listed(says[0].of)
        parts = [f"no difference in {what or says[0].measure} is established between {of}"]
    text = where + "; ".join(parts)
    return text[0].upper() + text[1:]


def changed(
    measure: str, of: str, before: Estimate, after: Estimate, than: str = "real images"
) -> Says:
    """How a measure of a model changes, as far as its intervals establish it."""
    if before.overlaps(after):
        return Says(measure, (of,), "open", (than,))
    return Says(measure, (of,), "higher" if after.value > before.value else "lower", (than,))


FAR_APART = 0.1
"""Successes of an attack further apart than this make what it does to two models incomparable."""


def far_apart(successes: Mapping[str, Estimate]) -> bool:
    """Whether the highest success of an attack is far above the lowest, beyond the intervals."""
    ordered = sorted(successes.values(), key=lambda success: success.value)
    return (
        len(ordered) > 1
        and ordered[-1].value - ordered[0].value > FAR_APART
        and not ordered[0].overlaps(ordered[-1])
    )


MOVES = {"lower": "falls", "higher": "rises", "open": "is not shown to change"}


def moves(
    says: Iterable[Says],
    words: Mapping[str, str] = MOVES,
    more: Mapping[str, str] = types.MappingProxyType({}),
) -> str:
    """Changes in words: "falls in a (by 45%) and is not shown to change in b and c".

    Args:
        says: of each model.
        words: for each direction.
        more: for some models, what stands behind the name.
    """
    models: dict[str, list[str]] = {words[key]: [] for key in words}
    for said in says:
        models[words[said.direction]] += [f"{name}{more.get(name, '')}" for name in said.of]
    return listed([f"{verb} in {listed(names)}" for verb, names in models.items() if names])


def shared(texts: Mapping[str, str], word: str = "for") -> str:
    """One text where all models have the same: "0.13"; else "0.13 for a and 0.2 for b"."""
    if len(set(texts.values())) == 1:
        return next(iter(texts.values()))
    return listed([" ".join(filter(None, (text, word, name))) for name, text in texts.items()])


Form = Literal["number", "percent", "count"]
"""The way to write estimates, as 0.500, as 50.0%, or as 12 of 24, where n is the whole."""


def comparison(
    estimates: Mapping[str, Estimate],
    form: Form = "number",
    *,
    phrases: bool = False,
    paired: bool = False,
) -> str:
    """Estimates by model from highest to lowest, and which differences the intervals leave open.

    "b 0.812 (0.790–0.830) and a 0.164 (0.150–0.180); the intervals are disjoint"

    Args:
        estimates: by model, or by phrase.
        form: of the values.
        phrases: they are of one model, in their order, each by a phrase such as "on real images".
        paired: the intervals do not decide on the differences, so nothing is said of them.
    """

    def text(estimate: Estimate) -> str:
        if form == "count":
            return f"{count(round(estimate.value * estimate.n))} of {count(estimate.n)}"
        return estimate.text(as_percent=form == "percent")

    ordered = list(estimates.items())
    if not phrases:
        ordered.sort(key=lambda item: -item[1].value)
    texts = [f"{text(e)} {name}" if phrases else f"{name} {text(e)}" for name, e in ordered]
    values = listed(texts)
    if len(texts) > SEVERAL and not phrases:
        values = f"from {texts[0]} down to {texts[-1]}"
    if len(ordered) > 1 and len({text(estimate) for estimate in estimates.values()}) == 1:
        return f"{text(ordered[0][1])} {'' if phrases else 'for '}{listed(list(estimates))}"
    known = [(name, estimate) for name, estimate in ordered if estimate.low is not None]
    open_pairs = [
        f"{first} and {second}"
        for index, (first, one) in enumerate(known)
        for second, other in known[index + 1 :]
        if one.overlaps(other)
    ]
    if len(known) < 2 or form == "count" or paired or (phrases and len(known) > 2):
        return values
    if not open_pairs:
        return f"{values}; the intervals are disjoint"
    if 2 * len(open_pairs) == len(known) * (len(known) - 1):
        return f"{values}; the intervals overlap"
    return f"{values}; the intervals overlap for {'; for '.join(open_pairs)}"


AIMED = "label=target"
"""The setting of an attack that steps towards a target of each image."""


def attack_name(row: Mapping[str, Any]) -> str:
    """The attack of a row in words: "PGD-20, L2 ε = 0.5", "FGSM, L∞ ε = 4/255".

    Settings that are not the attack's defaults follow its name: "PGD-20 (step_size=0.1), …", or
    "PGD-20 towards targets, …".
    Without a ball: "Adam attack, 20 steps, λ = 0.5, at a mean L2 distance of 0.71".
    """
    attack, steps, settings = row["attack"], row["steps"], row.get("settings")
    if attack == "natural":
        return "natural images"
    name: str = ATTACKS.get(attack, attack)
    if row["epsilon"] is None:
        return name + _without_ball(row)
    name += f"-{steps}" if steps and steps > 1 else ""
    others = settings.split(", ") if settings else []
    if AIMED in others:
        others.remove(AIMED)
        name += " towards targets"
    if others:
        name += f" ({', '.join(others)})"
    return f"{name}, {NORMS.get(row['norm'], row['norm'])} ε = {radius_text(row)}".replace(
        ",  ", ", "
    )


def _without_ball(row: Mapping[str, Any]) -> str:
    settings, distance = row.get("settings"), row.get("distance")
    parts = settings.split(", ") if settings else []
    weights = [each.removeprefix("weight=") for each in parts if each.startswith("weight=")]
    weight = next(iter(weights), row.get("weight"))
    others = [each for each in parts if not each.startswith("weight=") and each != AIMED]
    text = " towards targets" if AIMED in parts else ""
    text += f", {row['steps']} steps" if row["steps"] and row["steps"] > 1 else ""
    text += "" if weight is None else f", λ = {float(weight):.3g}"
    text += f" ({', '.join(others)})" if others else ""
    return text if distance is None else f"{text}, at a mean L2 distance of {number(distance)}"


def radius_text(row: Mapping[str, Any]) -> str:
    """Epsilon in pixel units of [0, 1]; as a fraction of 255 where that is the shorter way."""
    levels = 255 * row["epsilon"]
    if row["norm"] == "Linf" and abs(levels - round(levels)) < 0.01:
        return f"{round(levels)}/255"
    return f"{row['epsilon']:.3g}"


def classes_text(row: Mapping[str, Any], most: int = 3) -> str:
    """The first classes of a unit's images and their shares: "cat 45%, dog 20%"."""
    pairs = [(row[f"class_{rank}"], row[f"share_{rank}"]) for rank in range(1, most + 1)]
    return ", ".join(f"{name} {share:.0%}" for name, share in pairs if name is not None)


def file_name(*parts: str | int) -> str:
    """A file name that is safe, readable, and another one for other parts."""
    text = "/".join(map(str, parts))
    return f"{readable(text)}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def file_names(kind: str, things: Iterable[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """A file name for each thing of a kind, such as "units-resnet18-layer4-1-conv2".

    A name is as plain as that unless it would be the name of two things.
    """
    plain = {thing: "-".join(filter(None, map(readable, (kind, *thing)))) for thing in things}
    names = Counter(plain.values())
    return {
        thing: name if names[name] == 1 else file_name(kind, *thing)
        for thing, name in plain.items()
    }


def printable(text: str) -> str:
    """A text with a mark in place of control, direction and unpaired surrogate characters."""
    if text.isascii() and text.isprintable():  # as nearly all are
        return text
    return re.sub(
        r"[^\n\t\u200d -~]",
        lambda found: "�" if unicodedata.category(found[0]) in ("Cc", "Cf", "Cs") else found[0],
        text,
    )


def one_line(text: str) -> str:
    """The same on one line, as messages are."""
    return " ".join(printable(text).split())


def readable(text: str) -> str:
    """A text as part of a file name: "Least likely, L∞" -> "least-likely-l"."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60]
