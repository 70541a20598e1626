"""Models compared on the same images: differences with intervals and p-values of their own.

Two intervals that overlap say little about a difference: models see the same images, so most of
what makes each of them uncertain cancels.
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from advlens.intervals import holm, mcnemar, paired_interval
from advlens.runs.tables import Row

NAMED = ("attack", "norm", "epsilon", "steps", "settings")
"""Columns that tell the attack."""


def differences(accuracy: Sequence[Row]) -> list[Row]:
    """The rows of `differences.csv`, for each attack and each pair of models that faced it.

    Args:
        accuracy: the rows of `accuracy_images.csv`.
    """
    right: dict[tuple[object, ...], dict[str, str]] = {}
    for row in sorted(accuracy, key=lambda row: row["first"]):
        faced = right.setdefault(tuple(row[name] for name in NAMED), {})
        faced[row["model"]] = faced.get(row["model"], "") + row["right"]
    rows = [
        {"measure": "accuracy", **dict(zip(NAMED, attack, strict=True)), **_compared(*pair)}
        for attack, faced in right.items()
        for pair in itertools.combinations(faced.items(), 2)
        if len(pair[0][1]) == len(pair[1][1])
    ]
    corrected = holm([row["p"] for row in rows])
    return [{**row, "p_holm": p, "n": row.pop("n")} for row, p in zip(rows, corrected, strict=True)]


def _compared(one: tuple[str, str], two: tuple[str, str]) -> dict[str, Any]:
    """Two models by the digits of the images that they predict right."""
    (model, digits), (other, others) = one, two
    seen = Counter(zip(digits, others, strict=True))
    first, second = seen["1", "0"], seen["0", "1"]
    low, high = paired_interval(seen["1", "1"], first, second, seen["0", "0"])
    return {
        "model": model,
        "other": other,
        "difference": (first - second) / len(digits),
        "low": low,
        "high": high,
        "p": mcnemar(first, second),
        "n": len(digits),
    }
