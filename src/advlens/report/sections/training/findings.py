"""What the tables of a training say about it, in sentences."""

import statistics
from collections.abc import Iterator, Sequence

from advlens.report.blocks import Finding, Measured
from advlens.report.sections.training.tables import History, share
from advlens.runs.tables import Row
from advlens.words import Estimate, Says, changed, count, listed, percent

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
    highest = len(history.epochs) > 1 and _mean(kept) == max(map(_mean, history.epochs))
    best = ", the best of all epochs" if highest else ""
    rest = "" if kept is last else f"; that of the last is {percent(_mean(last))}"
    notes = [f"The mean of both is {percent(_mean(kept))}{best}{rest}."]
    if words:
        recipe = f"Recipe {words['recipe']}: " if words["recipe"] else ""
        notes.append(f"{recipe}{words['settings']}.")
    under = {"natural": "on natural images", "adversarial": f"under {history.attack}"}
    return Finding(
        claim=f"{history.model} was trained for {epochs}{by}; epoch {kept['epoch']} is kept.",
        estimates=[
            _accuracy("accuracy", history, {under[kind]: share(kept, kind) for kind in KINDS})
        ],
        note=" ".join([*notes, *_cost(history)]),
        important=important,
    )


def _accuracy(name: str, history: History, accuracies: dict[str, Estimate]) -> Measured:
    return Measured(
        name=name,
        model=history.model,
        estimates=accuracies,
        form="percent",
        counted="held-out images",
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
    falls, steady, values = list[Finding](), list[Says](), list[Measured]()
    for history in trained:
        peak, last, model = history.peak, history.last, history.model
        if not peak["n"] or peak is last:
            continue
        highest, final = share(peak, "adversarial"), share(last, "adversarial")
        said = changed(
            "adversarial accuracy over epochs", model, highest, final, f"epoch {peak['epoch']}"
        )
        ends = {f"at epoch {peak['epoch']}": highest, f"at epoch {last['epoch']}, the last": final}
        measured = _accuracy("adversarial accuracy over epochs", history, ends)
        if said.direction == "open":
            steady.append(said)
            values.append(measured)
        else:
            falls.append(_fall(history, said, measured))
    if steady:
        models = listed([said.of[0] for said in steady])
        falls.append(
            Finding(
                claim="After its best epoch, adversarial accuracy on held-out images does not fall "
                f"beyond its interval in {models}.",
                says=steady,
                estimates=values,
            )
        )
    return falls


def _fall(history: History, said: Says, measured: Measured) -> Finding:
    peak, last, column = history.peak, history.last, KINDS["adversarial"]
    points = 100 * (peak["adversarial"] - last["adversarial"])
    rises = None not in (peak[column], last[column]) and last[column] > peak[column]
    then = f"epoch {peak['epoch']}"
    training = Says("adversarial accuracy on training images", (history.model,), "higher", (then,))
    also = (
        f"On training images it rises meanwhile from {percent(peak[column])} to "
        f"{percent(last[column])}. "
        if rises
        else ""
    )
    return Finding(
        claim=f"{history.model} loses {points:.1f} points of adversarial accuracy after {then}"
        f"{': robust overfitting' if rises else ''}.",
        says=[said, training] if rises else [said],
        estimates=[measured],
        note=f"{also}The epoch kept, {history.kept['epoch']}, has "
        f"{percent(history.kept['adversarial'])}.",
        important=rises,
    )


def _gap(history: History) -> Iterator[Finding]:
    """Training images against held-out ones, at the epoch kept."""
    kept, model = history.kept, history.model
    says, gaps, estimates = list[Says](), list[str](), list[Measured]()
    for kind, column in KINDS.items():
        if kept[column] is None:
            continue
        held_out, seen = share(kept, kind), float(kept[column])
        name, points = f"{kind} accuracy", 100 * (held_out.value - seen)
        both = {"on held-out images": held_out, "on training images": Estimate.only(seen, 0)}
        estimates.append(_accuracy(name, history, both))
        if held_out.low is None or held_out.high is None:
            continue
        there = Estimate(value=seen, low=seen, high=seen, n=0)
        says.append(changed(name, model, there, held_out, "training images"))
        if says[-1].direction != "open":
            gaps.append(f"{abs(points):.1f} points {'more' if points > 0 else 'less'} {kind}")
    if not estimates:
        return
    yield Finding(
        claim=f"On held-out images {model} has {listed(gaps)} accuracy than on training images."
        if gaps
        else f"Accuracy of {model} on held-out images differs from that on training images by "
        "no more than its interval.",
        says=says,
        estimates=estimates,
        note=f"At epoch {kept['epoch']}. Training images are augmented, and under the attack "
        "of the objective.",
    )
