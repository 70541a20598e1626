"""Attribution tables made up for tests of the report, beside those of `synthetic_run`."""

from pathlib import Path

import numpy as np

from synthetic_run import BOTH, Table, around, row, write_picture, write_table

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
SETTINGS = {
    "IntegratedGradients": ("probability", "10 noise images", 510, "trapezoid"),
    "ExpectedGradients": ("logit", "training images", 200, ""),
    "Random": ("", "", 0, ""),
}
"""What is explained, the baseline, points and formula."""
N = 100
"""Images."""


def write_attribution(
    run, *, models=BOTH, methods=METHODS, shown=3, labels=("cat", "dog", "ship"), texts=str
) -> Path:
    """Write the three tables of attribution and pictures; the last model's are the better ones."""
    random = np.random.default_rng(9)
    rows: Table = []
    settings: Table = []
    pictures: Table = []
    for index, model in enumerate(models):
        strength = index / max(len(models) - 1, 1)
        for method in methods:
            for measure, (better, first, last, chance) in MEASURES.items():
                mean = chance if method == "Random" else first + strength * (last - first)
                if mean is None:
                    continue
                mean += float(random.normal(0, 0.004))
                arm = (0.002 if method == "Random" else 0.2) / N**0.5
                found = row(model=model, method=method, measure=measure, better=better)
                rows.append(found | around(mean, arm) | row(n=N))
            target, baseline, points, formula = SETTINGS[method]
            found = row(model=model, method=method, target=target, baseline=texts(baseline))
            settings.append(found | row(points=points, formula=formula, n=N))
        for rank in range(shown):
            label, wrong = texts(labels[rank % len(labels)]), (rank + index) % 3 == 2
            for method in ("", *(name for name in methods if name != "Random")):
                file = f"figures/images/attribution-{index}-{rank}-{method}.png"
                write_picture(run, file, rank, len(method), int(100 * strength))
                found = row(model=model, rank=rank, id=10 * rank, method=method, label=label)
                found |= row(predicted=texts("truck") if wrong else label)
                found |= row(probability=0.912 - 0.1 * (rank % 9), file=file)
                pictures.append(found | row(gap=((0.31 if wrong else 0.02) if method else None)))
    write_table(run, "attribution", paired(rows))
    write_table(run, "attribution_methods", settings)
    write_table(run, "attribution_pictures", pictures)
    return run


def paired(rows: Table) -> Table:
    """The same rows, with how far each is ahead of the random ones of its model, ± its own arm."""
    chance = {(each["model"], each["measure"]): each for each in rows if each["method"] == "Random"}
    found = []
    for each in rows:
        other = chance.get((each["model"], each["measure"]))
        ahead = dict.fromkeys(("ahead", "ahead_low", "ahead_high"))
        if other is not None and each is not other:
            sign = 1 if each["better"] == "higher" else -1
            lead = sign * (float(each["mean"]) - float(other["mean"]))
            ahead = around(lead, float(each["mean"]) - float(each["low"]), "ahead")
        found.append({**each, **ahead})
    return found
