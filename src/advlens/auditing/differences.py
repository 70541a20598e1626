"""Models compared on the same images: differences with intervals and p-values of their own.

Two intervals that overlap say little about a difference: models see the same images, so most of
what makes each of them uncertain cancels.
"""

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from advlens.attacks.base import NATURAL
from advlens.auditing.per_image import by_model
from advlens.auditing.stages.attribution import RANDOM
from advlens.auditing.stages.dissection.rows import NONE, TOGETHER
from advlens.auditing.stages.inversion import OWN
from advlens.auditing.stages.neurons.attacked import EQUAL
from advlens.intervals import holm, mcnemar, paired_interval, paired_jackknife, paired_mean
from advlens.runs.folder import Tables
from advlens.runs.tables import Row
from advlens.words import ATTACK

Means = Mapping[tuple[Any, ...], Mapping[str, "_Mean"]]
"""By set of images and measure, then by model."""


@dataclass(frozen=True)
class _Mean:
    """A mean over the units of a model's last convolution, without bias, and its influences."""

    row: Row
    influences: list[float]

    @property
    def attack(self) -> dict[str, Any]:
        """The columns of the attack; at equal success each model has its own radius."""
        own = {"epsilon": None} if self.row["images"] == EQUAL else {}
        return {name: self.row[name] for name in ATTACK} | own

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
        *_inversions(tables.get("inversion_images", [])),
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
    columns, made = (*ATTACK, "settings"), list[Row]()
    for attack, models in by_model(rows, *columns).items():
        right = {model: "".join(row["right"] for row in part) for model, part in models.items()}
        named = {"measure": "accuracy", "images": "", "method": ""}
        named |= dict(zip(columns, attack, strict=True))
        for (model, one), (other, two) in itertools.combinations(right.items(), 2):
            if len(one) == len(two):
                pair = {"model": model, "other": other}
                made.append(
                    {**named, **pair, **_paired_shares(Counter(zip(one, two, strict=True)))}
                )
    return made


def _paired_shares(seen: Counter[tuple[str, str]]) -> dict[str, Any]:
    """The columns of two shares of the same trials, from how often each pair of digits is seen."""
    first, second, n = seen["1", "0"], seen["0", "1"], seen.total()
    ends = paired_interval(seen["1", "1"], first, second, seen["0", "0"])
    return _columns((first - second) / n, *ends, mcnemar(first, second), n)


def _means(rows: Sequence[Row]) -> Means:
    """The means that are known."""
    return {
        key: {
            model: _Mean(part[0], [float(v) for row in part for v in row["influences"].split()])
            for model, part in models.items()
            if part[0]["corrected"] is not None
        }
        for key, models in by_model(rows, "images", "measure").items()
    }


def _consistencies(means: Means) -> list[Row]:
    """Each pair of models, for each set of images that both faced, and each measure."""
    rows: list[Row] = []
    for (images, measure), models in means.items():
        for (model, one), (other, two) in itertools.combinations(models.items(), 2):
            if one.attack == two.attack and one.comparable(two):
                named = {"measure": measure, "images": images, "method": "", **one.attack}
                named |= {"settings": "", "model": model, "other": other}
                rows.append(named | one.less(two))
    return rows


def _attributions(rows: Sequence[Row], measured: Sequence[Row]) -> list[Row]:
    """Each pair of models, for each method and measure, by leads over random attributions."""
    signs = {row["measure"]: 1 if row["better"] == "higher" else -1 for row in measured}
    values = _values(rows, "method", "measure")
    made: list[Row] = []
    for (method, measure), models in values.items():
        chance = values[RANDOM, measure]
        leads = {
            model: [signs[measure] * (a - b) for a, b in zip(own, chance[model], strict=True)]
            for model, own in models.items()
            if method != RANDOM and measure in signs
        }
        made += _paired_means(leads, measure=measure, method=method)
    return made


def _inversions(rows: Sequence[Row]) -> list[Row]:
    """Each pair of models, for each start and distance that does not lie in their own features."""
    return [
        row
        for (start, measure), models in _values(rows, "start", "measure").items()
        if measure != OWN
        for row in _paired_means(models, measure=measure, method=start)
    ]


def _values(rows: Sequence[Row], *keys: str) -> dict[tuple[Any, ...], dict[str, list[float]]]:
    """The values of each model's images, by what some columns hold."""
    return {
        key: {
            model: [float(v) for row in part for v in row["values"].split()]
            for model, part in models.items()
        }
        for key, models in by_model(rows, *keys).items()
    }


def _paired_means(values: Mapping[str, list[float]], *, measure: str, method: str) -> Iterator[Row]:
    """Each pair of models, by Student's t of the differences between their images' values."""
    for (model, one), (other, two) in itertools.combinations(values.items(), 2):
        known = [a - b for a, b in zip(one, two, strict=False) if math.isfinite(a - b)]
        if len(one) == len(two) and len(known) > 1:
            ends = paired_mean(known)
            named = {"measure": measure, "images": "", "method": method, **NATURAL}
            named |= {"settings": "", "model": model, "other": other}
            yield named | _columns(*ends, len(known))


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
    last = {row["model"]: row["layer"] for row in transitions if row["layer"] != TOGETHER}
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
            seen = Counter[tuple[str, str]]()
            for (before, after), units in cells.items():
                seen[f"{after in wanted:d}", f"{before in wanted:d}"] += units
            named = {"measure": measure, "model": model, "layer": layer, "images": "adversarial"}
            rows.append(named | _paired_shares(seen))
    return rows
