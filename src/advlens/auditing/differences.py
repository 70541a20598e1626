"""Models compared on the same images: differences with intervals and p-values of their own.

Two intervals that overlap say little about a difference: models see the same images, so most of
what makes each of them uncertain cancels.
"""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from advlens.attacks.base import NATURAL
from advlens.intervals import holm, mcnemar, paired_interval, paired_jackknife, paired_mean
from advlens.runs.folder import Tables
from advlens.runs.tables import Row

ATTACK = ("attack", "norm", "epsilon", "steps")
Means = Mapping[tuple[str, str], Mapping[str, "_Mean"]]
ALL, NONE = "all layers", "none"
"""Names in `dissection_transitions.csv`."""
EQUAL, RANDOM = "equal-success", "Random"
"""The set whose attack is another one for each model."""


@dataclass
class _Mean:
    """A mean over the units of a model's last convolution, without bias, and its influences."""

    row: Row
    influences: list[float] = field(default_factory=list)

    def comparable(self, other: "_Mean") -> bool:
        """Whether both are of top sets of one size from the same images."""
        sizes = [(len(mean.influences), mean.row["top"]) for mean in (self, other)]
        return sizes[0] == sizes[1]

    def less(self, other: "_Mean") -> dict[str, Any]:
        """The columns of this mean less the other one."""
        difference = self.row["corrected"] - other.row["corrected"]
        both = self.influences, other.influences
        ends = paired_jackknife(difference, *both, self.row["top"])
        return _columns(difference, *ends, len(self.influences))


def compared(tables: Tables) -> Tables:
    """The tables `differences` and `changes` from the per-image tables of a run."""
    means = _means(tables.get("consistency_images", []))
    differences = [
        *_accuracies(tables.get("accuracy_images", [])),
        *_consistencies(means),
        *_attributions(tables.get("attribution_images", []), tables.get("attribution", [])),
    ]
    changes = [*_changes(means), *_detectors(tables.get("dissection_transitions", []))]
    return {"differences": _corrected(differences), "changes": _corrected(changes)}


def _corrected(rows: Sequence[Row]) -> list[Row]:
    corrected = holm([row["p"] for row in rows])
    return [row | {"p_holm": p} for row, p in zip(map(dict, rows), corrected, strict=True)]


def _columns(difference: float, low: float, high: float, p: float, n: int) -> dict[str, Any]:
    return {"difference": difference, "low": low, "high": high, "p": p, "p_holm": p, "n": n}


def _accuracies(rows: Sequence[Row]) -> list[Row]:
    """Each pair of models, for each attack that both faced."""
    right: dict[tuple[object, ...], dict[str, str]] = {}
    for row in sorted(rows, key=lambda row: row["first"]):
        faced = right.setdefault(tuple(row[name] for name in (*ATTACK, "settings")), {})
        faced[row["model"]] = faced.get(row["model"], "") + row["right"]
    return [
        {
            "measure": "accuracy",
            "images": "",
            "method": "",
            **dict(zip((*ATTACK, "settings"), attack, strict=True)),
            "model": model,
            "other": other,
            **_paired_shares(faced[model], faced[other]),
        }
        for attack, faced in right.items()
        for model, other in itertools.combinations(faced, 2)
        if len(faced[model]) == len(faced[other])
    ]


def _paired_shares(digits: str, others: str) -> dict[str, Any]:
    """Two models by the digits of the images that they predict right."""
    seen = Counter(zip(digits, others, strict=True))
    first, second = seen["1", "0"], seen["0", "1"]
    ends = paired_interval(seen["1", "1"], first, second, seen["0", "0"])
    n = len(digits)
    return _columns((first - second) / n, *ends, mcnemar(first, second), n)


def _means(rows: Sequence[Row]) -> dict[tuple[str, str], dict[str, _Mean]]:
    """By set of images and measure, then by model; unknown means are left out."""
    means: dict[tuple[str, str], dict[str, _Mean]] = {}
    for row in sorted(rows, key=lambda row: row["first"]):
        if row["corrected"] is not None:
            faced = means.setdefault((row["images"], row["measure"]), {})
            mean = faced.setdefault(row["model"], _Mean(row))
            mean.influences += map(float, row["influences"].split())
    return means


def _consistencies(means: Means) -> list[Row]:
    """Each pair of models, for each set of images that both faced, and each measure."""
    rows: list[Row] = []
    for (images, measure), faced in means.items():
        for (model, one), (other, two) in itertools.combinations(faced.items(), 2):
            attack = {name: one.row[name] for name in ATTACK}
            if images == EQUAL:
                attack["epsilon"] = None  # each model has its own
            elif attack != {name: two.row[name] for name in ATTACK}:
                continue
            if one.comparable(two):
                named = {"measure": measure, "images": images, "method": "", **attack}
                named["settings"] = ""
                rows.append({**named, "model": model, "other": other, **one.less(two)})
    return rows


def _attributions(rows: Sequence[Row], measured: Sequence[Row]) -> list[Row]:
    """Each pair of models, for each method and measure, by leads over random attributions."""
    signs = {row["measure"]: 1 if row["better"] == "higher" else -1 for row in measured}
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for row in sorted(rows, key=lambda row: row["first"]):
        of_models = values.setdefault((row["method"], row["measure"]), {})
        of_models.setdefault(row["model"], []).extend(map(float, row["values"].split()))
    made: list[Row] = []
    for (method, measure), of_models in values.items():
        random = values[RANDOM, measure]
        leads = {
            model: [signs[measure] * (a - b) for a, b in zip(own, random[model], strict=True)]
            for model, own in of_models.items()
            if method != RANDOM and measure in signs
        }
        for (model, one), (other, two) in itertools.combinations(leads.items(), 2):
            known = [a - b for a, b in zip(one, two, strict=False) if math.isfinite(a - b)]
            if len(one) == len(two) and len(known) > 1:
                difference, low, high, p = paired_mean(known)
                named = {"measure": measure, "images": "", "method": method, **NATURAL}
                named |= {"settings": "", "model": model, "other": other}
                made.append(named | _columns(difference, low, high, p, len(known)))
    return made


def _changes(means: Means) -> list[Row]:
    """Each model's consistency on each set of adversarial images less that on real ones."""
    real = means.get(("real", "lc"), {})
    return [
        {
            "measure": "consistency",
            "model": model,
            "layer": mean.row["layer"],
            "images": images,
            **mean.less(real[model]),
        }
        for (images, measure), faced in means.items()
        if measure == "consis_adv"
        for model, mean in faced.items()
        if model in real and mean.comparable(real[model])
    ]


def _detectors(transitions: Sequence[Row]) -> list[Row]:
    """How many units of each model's last layer detect something, or a category, under attack."""
    rows: list[Row] = []
    last = {row["model"]: row["layer"] for row in transitions if row["layer"] != ALL}
    for model, layer in last.items():
        cells = {
            (row["before"], row["after"]): row["units"]
            for row in transitions
            if (row["model"], row["layer"], row["images"]) == (model, layer, "adversarial")
        }
        categories = dict.fromkeys(before for before, _ in cells if before != NONE)
        measures = {"detectors": (*categories,)}
        measures |= {f"{category} detectors": (category,) for category in categories}
        for measure, wanted in measures.items():
            seen = Counter[tuple[bool, bool]]()
            for (before, after), units in cells.items():
                seen[after in wanted, before in wanted] += units
            gained, lost, n = seen[True, False], seen[False, True], seen.total()
            ends = paired_interval(seen[True, True], gained, lost, seen[False, False])
            named = {"measure": measure, "model": model, "layer": layer, "images": "adversarial"}
            change = _columns((gained - lost) / n, *ends, mcnemar(gained, lost), n)
            rows.append(named | change)
    return rows
