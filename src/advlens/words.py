"""Numbers and comparisons in words, the same everywhere in the report."""

import difflib
import hashlib
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


def perhaps(name: str, known: Collection[str], count: int = 1) -> str:
    """What the author of an unknown name may have meant, as the end of a sentence, or nothing."""
    close = difflib.get_close_matches(name, known, n=count)
    return f"; perhaps you meant {' or '.join(close)}" if close else ""


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
    def of(cls, row: Mapping[str, Any], name: str) -> "Estimate":
        """From the columns `name` (or `name`_mean), `name`_low, `name`_high and n of a row."""
        value = row[name] if name in row else row[f"{name}_mean"]
        return cls(value=value, low=row[f"{name}_low"], high=row[f"{name}_high"], n=row["n"])

    def overlaps(self, other: "Estimate") -> bool:
        """Whether the intervals share a point; one without an interval overlaps everything."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return True
        return self.low <= other.high and other.low <= self.high

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
        """ "91.7% (91.2–92.2)"."""
        value = percent(self.value) if as_percent else number(self.value)
        return f"{value} ({self.interval(as_percent=as_percent)})"


def comparison(estimates: Mapping[str, Estimate], *, as_percent: bool = False) -> str:
    """The models from highest to lowest, and which differences the intervals leave open.

    "b 0.812 (0.790–0.830) and a 0.164 (0.150–0.180); the intervals are disjoint"
    """
    ordered = sorted(estimates.items(), key=lambda item: -item[1].value)
    texts = [f"{model} {found.text(as_percent=as_percent)}" for model, found in ordered]
    values = listed(texts) if len(texts) <= SEVERAL else f"from {texts[0]} down to {texts[-1]}"
    open_pairs = [
        f"{first} and {second}"
        for index, (first, one) in enumerate(ordered)
        for second, other in ordered[index + 1 :]
        if one.overlaps(other)
    ]
    if len(ordered) < 2:
        return values
    if not open_pairs:
        return f"{values}; the intervals are disjoint"
    if len(ordered) == 2:
        return f"{values}; the intervals overlap"
    return f"{values}; the intervals overlap of {'; of '.join(open_pairs)}"


def leader(estimates: Mapping[str, Estimate]) -> str | None:
    """The model that is highest beyond its interval, or None where that is not established."""
    first, *others = sorted(estimates, key=lambda model: -estimates[model].value)
    apart = not any(estimates[first].overlaps(estimates[other]) for other in others)
    return first if others and apart else None


def apart(estimates: Mapping[str, Estimate]) -> set[tuple[str, str]]:
    """Pairs of models, the higher one first, whose intervals share no point."""
    return {
        (first, second)
        for first, one in estimates.items()
        for second, other in estimates.items()
        if one.value > other.value and not one.overlaps(other)
    }


def grouped(
    pairs: Iterable[tuple[str, str]], models: Sequence[str]
) -> list[tuple[list[str], list[str]]]:
    """The same pairs as groups, each of models that come first and of those that come second.

    {(b, a), (c, a)} -> [([b, c], [a])]
    """
    known = set(pairs)
    found: dict[tuple[str, ...], list[str]] = {}
    for second in models:
        if firsts := tuple(first for first in models if (first, second) in known):
            found.setdefault(firsts, []).append(second)
    return [(list(firsts), seconds) for firsts, seconds in found.items()]


def attack_name(row: Mapping[str, Any]) -> str:
    """The attack of a row in words: "PGD-20, L2 ε = 0.5", "FGSM, L∞ ε = 4/255".

    Settings that are not the attack's defaults follow its name: "PGD-20 (step_size=0.1), …".
    """
    attack, steps = row["attack"], row["steps"]
    if attack == "natural":
        return "natural images"
    name: str = ATTACKS.get(attack, attack) + (f"-{steps}" if steps and steps > 1 else "")
    if settings := row.get("settings"):
        name += f" ({settings})"
    if row["epsilon"] is None:
        return name
    return f"{name}, {NORMS.get(row['norm'], row['norm'])} ε = {radius(row)}".replace(",  ", ", ")


def radius(row: Mapping[str, Any]) -> str:
    """Epsilon in pixel units of [0, 1]; as a fraction of 255 where that is the shorter way."""
    levels = 255 * row["epsilon"]
    if row["norm"] == "Linf" and abs(levels - round(levels)) < 0.01:
        return f"{round(levels)}/255"
    return f"{row['epsilon']:.3g}"


def file_name(*parts: str | int) -> str:
    """A file name that is safe, readable, and another one for other parts."""
    text = "/".join(map(str, parts))
    readable = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60]
    return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"
