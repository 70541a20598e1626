"""Attribution tables made up for tests of the report, beside those of `synthetic_run`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from synthetic_run import Table, write_table

METHODS = ("IntegratedGradients", "ExpectedGradients", "Random")
MEASURES = {
    "insertion": ("higher", 0.55, 0.62, 0.41),
    "deletion": ("lower", 0.31, 0.22, 0.4),
    "sparseness": ("higher", 0.52, 0.66, 0.41),
    "variation": ("lower", 1.7, 0.9, 2.8),
    "stability": ("lower", 0.9, 0.2, 1.4),
    "agreement": ("higher", 0.35, 0.6, 0.0),
    "gap": ("lower", 0.06, 0.02, None),
}
"""Which way is better, and the means of the first model, of the last, and of random numbers."""
Draw = Callable[[int, float, str], np.ndarray]


def noise(number: int, strength: float, method: str) -> np.ndarray:
    """An image of 8×8, or its heat map by a method."""
    return np.random.default_rng([number, len(method), int(100 * strength)]).integers(
        0, 256, (8, 8, 3), dtype=np.uint8
    )


def write_attribution(
    run: Path,
    *,
    models: Sequence[str] = ("standard", "robust"),
    methods: Sequence[str] = METHODS,
    n: int = 100,
    shown: int = 3,
    draw: Draw = noise,
    labels: Sequence[str] = ("cat", "dog", "ship"),
    texts: Callable[[str], str] = lambda text: text,
) -> Path:
    """Write the three tables of attribution and pictures; the last model's are the better ones.

    Args:
        run: the folder.
        models: their names.
        methods: the gradient methods, and "Random".
        n: images.
        shown: rows of pictures.
        draw: pixels of image `id`, and of its heat maps.
        labels: of images.
        texts: applied to every free text.
    """
    random = np.random.default_rng(9)
    rows, settings, pictures = [], [], []
    for index, model in enumerate(models):
        strength = index / max(len(models) - 1, 1)
        for method in methods:
            rows += _measures(random, model, strength, method, n)
            if method == "Random":
                settings.append(
                    {
                        "model": model,
                        "method": method,
                        "target": "",
                        "baseline": "",
                        "points": 0,
                        "formula": "",
                        "n": n,
                    }
                )
            else:
                integrated = method == METHODS[0]
                settings.append(
                    {
                        "model": model,
                        "method": method,
                        "target": "probability" if integrated else "logit",
                        "baseline": texts("10 noise images" if integrated else "training images"),
                        "points": 510 if integrated else 200,
                        "formula": "trapezoid" if integrated else "",
                        "n": n,
                    }
                )
        pictures += _pictures(run, model, index, strength, methods, shown, draw, labels, texts)
    write_table(run, "attribution", paired(rows))
    write_table(run, "attribution_methods", settings)
    write_table(run, "attribution_pictures", pictures)
    return run


def paired(rows: Table) -> Table:
    """The same rows, with how far each is ahead of the random ones of its model, ± its own arm."""
    chance = {(row["model"], row["measure"]): row for row in rows if row["method"] == "Random"}
    found = []
    for row in rows:
        other = chance.get((row["model"], row["measure"]))
        ahead = dict.fromkeys(("ahead", "ahead_low", "ahead_high"))
        if other is not None and row is not other:
            sign = 1 if row["better"] == "higher" else -1
            value = sign * (float(row["mean"]) - float(other["mean"]))
            ahead["ahead"] = value
            if row["low"] != "":
                arm = float(row["mean"]) - float(row["low"])
                ahead |= {"ahead_low": value - arm, "ahead_high": value + arm}
        found.append({**row, **ahead})
    return found


def _measures(random: Any, model: str, strength: float, method: str, n: int) -> Table:
    found = []
    for measure, (better, first, last, chance) in MEASURES.items():
        mean = chance if method == "Random" else first + strength * (last - first)
        if mean is None:
            continue
        mean += float(random.normal(0, 0.004))
        half = (0.002 if method == "Random" else 0.2) / n**0.5
        found.append(
            {
                "model": model,
                "method": method,
                "measure": measure,
                "better": better,
                "mean": mean,
                "low": mean - half,
                "high": mean + half,
                "n": n,
            }
        )
    return found


def _pictures(
    run: Path,
    model: str,
    index: int,
    strength: float,
    methods: Sequence[str],
    shown: int,
    draw: Draw,
    labels: Sequence[str],
    texts: Any,
) -> Table:
    rows = []
    folder = run / "figures" / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for rank in range(shown):
        label = texts(labels[rank % len(labels)])
        wrong = (rank + index) % 3 == 2
        for method in ("", *(m for m in methods if m != "Random")):
            file = f"figures/images/attribution-{index}-{rank}-{method}.png"
            Image.fromarray(draw(rank, strength, method)).save(run / file)
            rows.append(
                {
                    "model": model,
                    "rank": rank,
                    "id": 10 * rank,
                    "method": method,
                    "label": label,
                    "predicted": texts("truck") if wrong else label,
                    "probability": 0.912 - 0.1 * rank,
                    "file": file,
                    "gap": (0.31 if wrong else 0.02) if method else None,
                }
            )
    return rows
