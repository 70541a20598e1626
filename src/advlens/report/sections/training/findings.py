"""What the tables of a training say about it, in sentences."""

import statistics
from collections.abc import Sequence

from advlens.report.blocks import Finding
from advlens.report.sections.training.tables import History, share
from advlens.runs.results import Row
from advlens.words import count, listed, percent

KINDS = {"natural": "train_natural_accuracy", "adversarial": "train_adversarial_accuracy"}


def findings(trained: Sequence[History]) -> list[Finding]:
    """The most important ones first."""
    return [
        *(_made(history, important=len(trained) <= 2) for history in trained),
        *_falls(trained),
        *(gap for history in trained for gap in _gap(history)),
    ]


def _made(history: History, *, important: bool) -> Finding:
    """What was trained, how long, and which epoch was kept for what."""
    words, kept, last = history.words, history.kept, history.last
    epochs = f"{last['epoch']} epoch{'s' if last['epoch'] > 1 else ''}"
    by = f" by {words['objective']}" if words else ""
    natural, adversarial = (share(kept, kind).text(as_percent=True) for kind in KINDS)
    n = f" (n = {count(kept['n'])})" if kept["n"] else ""
    highest = len(history.epochs) > 1 and _mean(kept) == max(map(_mean, history.epochs))
    best = ", the best of all epochs" if highest else ""
    rest = "" if kept is last else f"; the last has {percent(_mean(last))}"
    evidence = [
        f"On held-out images{n} it has natural accuracy {natural} and accuracy {adversarial} "
        f"under {history.attack}: a mean of {percent(_mean(kept))}{best}{rest}."
    ]
    if words:
        recipe = f"Recipe {words['recipe']}: " if words["recipe"] else ""
        evidence.append(f"{recipe}{words['settings']}.")
    evidence += _cost(history)
    return Finding(
        claim=f"{history.model} was trained for {epochs}{by}; epoch {kept['epoch']} is kept.",
        evidence=" ".join(evidence),
        important=important,
    )


def _mean(row: Row) -> float:
    return float(row["natural"] + row["adversarial"]) / 2


def _cost(history: History) -> list[str]:
    seconds = history.last["seconds"]
    speeds = [row["images_per_second"] for row in history.epochs if row["images_per_second"]]
    speed = f", at {count(round(statistics.median(speeds)))} images/s (median)" if speeds else ""
    return [] if seconds is None else [f"It took {count(round(seconds))} s{speed}."]


def _falls(trained: Sequence[History]) -> list[Finding]:
    """Whether adversarial accuracy falls again, beyond what its intervals leave open."""
    found, steady = list[Finding](), dict[str, str]()
    for history in trained:
        peak, last = history.peak, history.last
        highest, final = share(peak, "adversarial"), share(last, "adversarial")
        if not highest.n or peak is last:
            continue
        values = (
            f"{highest.text(as_percent=True)} at epoch {peak['epoch']}, "
            f"{final.text(as_percent=True)} at the last"
        )
        if highest.overlaps(final):
            steady[history.model] = values
        else:
            found.append(_fall(history, values))
    if steady:
        found.append(
            Finding(
                claim="After its best epoch, adversarial accuracy on held-out images does not fall "
                f"beyond its interval in {listed(list(steady))}.",
                evidence="; ".join(f"{model}: {values}" for model, values in steady.items()) + ".",
            )
        )
    return found


def _fall(history: History, values: str) -> Finding:
    peak, last, column = history.peak, history.last, KINDS["adversarial"]
    points = 100 * (peak["adversarial"] - last["adversarial"])
    rises = None not in (peak[column], last[column]) and last[column] > peak[column]
    also = (
        f" On training images it rises meanwhile from {percent(peak[column])} to "
        f"{percent(last[column])}."
        if rises
        else ""
    )
    return Finding(
        claim=f"{history.model} loses {points:.1f} points of adversarial accuracy after epoch "
        f"{peak['epoch']}{': robust overfitting' if rises else ''}.",
        evidence=f"On held-out images: {values} (n = {count(last['n'])}).{also} The epoch kept, "
        f"{history.kept['epoch']}, has {percent(history.kept['adversarial'])}.",
        important=rises,
    )


def _gap(history: History) -> list[Finding]:
    """Training images against held-out ones, at the epoch kept."""
    kept, gaps, values = history.kept, [], []
    for kind, column in KINDS.items():
        if kept[column] is None:
            continue
        held_out = share(kept, kind)
        values.append(
            f"{kind} {percent(kept[column])} on training images, "
            f"{held_out.text(as_percent=True)} on held-out ones"
        )
        points = 100 * (kept[kind] - kept[column])
        if held_out.low is not None and not held_out.low <= kept[column] <= held_out.high:
            gaps.append(f"{abs(points):.1f} points {'more' if points > 0 else 'less'} {kind}")
    if not values:
        return []
    name = history.model
    return [
        Finding(
            claim=f"On held-out images {name} has {listed(gaps)} accuracy than on training images."
            if gaps
            else f"Accuracy of {name} on held-out images differs from that on training images by "
            "no more than its interval.",
            evidence=f"At epoch {kept['epoch']}: {'; '.join(values)}. Training images are "
            "augmented, and under the attack of the objective.",
        )
    ]
