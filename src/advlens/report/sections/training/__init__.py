"""What the report says of how models were trained: the epochs, and which one was kept."""

from collections.abc import Sequence
from functools import partial

from advlens.report.blocks import MODEL, Block, Column, FigureBlock, Section, TableBlock, Term
from advlens.report.figures import training as figures
from advlens.report.sections.training.findings import findings
from advlens.report.sections.training.tables import History, histories
from advlens.runs.results import Results, Rows
from advlens.words import count, listed, number, percent

TERMS = (
    Term(
        name="Held-out images",
        meaning="Images of the training set that the model is not trained on. They choose the "
        "epoch, so the accuracy of the chosen epoch on them is a little too high: what a model is "
        "worth is measured on the test set.",
    ),
    Term(
        name="Robust overfitting",
        meaning="From some epoch on, adversarial accuracy still rises on training images but falls "
        "on others (Rice, Wong and Kolter 2020). Keeping an earlier epoch avoids it.",
    ),
)
SHARES = {
    "train_natural_accuracy": "Natural, training",
    "natural": "Natural, held out",
    "train_adversarial_accuracy": "Adversarial, training",
    "adversarial": "Adversarial, held out",
}
VALUES = {
    "learning_rate": "Learning rate",
    "loss": "Objective",
    "train_natural_loss": "Natural loss, training",
    "natural_loss": "Natural loss, held out",
    "train_adversarial_loss": "Adversarial loss, training",
    "adversarial_loss": "Adversarial loss, held out",
    "train_distance": "Feature distance",
    "train_divergence": "Divergence",
}
COSTS = {"images_per_second": "Images/s", "seconds": "Time (s)"}


def section(results: Results) -> Section | None:
    """From `training.csv` and `training_settings.csv`; None without the first."""
    trained = histories(results)
    if not trained:
        return None
    rows = Rows(row for history in trained for row in history.epochs)
    blocks: list[Block] = [_table(rows)]
    if any(len(history.epochs) > 1 for history in trained):
        blocks.insert(0, _figure(results, trained, rows))
    return Section(
        title="Training",
        anchor="training",
        lead="How the models came about. After each epoch of training a model is judged on "
        "held-out images, as they are and under attack. Unless the settings say otherwise, "
        "the first epoch with the best mean of natural and adversarial accuracy is kept: its "
        "weights are the model.",
        findings=findings(trained),
        terms=TERMS,
        blocks=blocks,
    )


def _figure(results: Results, trained: Sequence[History], rows: Rows) -> FigureBlock:
    attacks = list(dict.fromkeys(history.attack for history in trained))
    sizes = sorted(filter(None, rows.values("n")))
    n = f" (n = {listed([count(size) for size in sizes])})" if sizes else ""
    known = [history.model for history in trained]
    unknown = [model for model in results.models if model not in known]
    return FigureBlock(
        name="training",
        draw=partial(figures.training_curves, rows, results.models),
        alt=f"Line plots by epoch of {_shown(rows)}. {' '.join(map(_seen, trained))}",
        caption=f"Solid: held-out images{n}, accuracies with 95% bands, under {listed(attacks)}. "
        "Dashed: training images, means over the epoch while the weights change, augmented and "
        "under the attack of the objective. Markers: the epoch kept."
        + (f" The run has no training of {listed(unknown)}." if unknown else ""),
    )


def _shown(rows: Rows) -> str:
    losses = rows.known("natural_loss")
    return "accuracy and " + ("cross entropy" if losses else "the objective's loss")


def _seen(history: History) -> str:
    """What the curves of a model look like, for those who cannot see them."""
    first, kept, last = history.epochs[0], history.kept, history.last
    parts = []
    for column in ("natural", "adversarial"):
        places = {1: percent(first[column]), kept["epoch"]: percent(kept[column])}
        places |= {last["epoch"]: percent(last[column])}
        path = [f"{value} at epoch {epoch}" for epoch, value in sorted(places.items())]
        parts.append(f"{column} accuracy on held-out images is {listed(path)}")
    return f"{history.model}: {'; '.join(parts)}; epoch {kept['epoch']} is marked as kept."


def _table(rows: Rows) -> TableBlock:
    columns = [
        MODEL,
        Column.of("Epoch", "epoch"),
        Column(header="", cell=lambda row: "kept" if row["kept"] else "", kind="text"),
    ]
    columns += [
        Column.of(header, name, text)
        for headers, text in ((SHARES, percent), (VALUES, number), (COSTS, _rounded))
        for name, header in headers.items()
        if rows.known(name)
    ]
    return TableBlock(
        caption="Every epoch in numbers. The objective is what training lowers; time is counted "
        "from the start of the training.",
        file="training.csv",
        columns=columns,
        rows=rows,
        folded=True,
    )


def _rounded(value: float) -> str:
    return count(round(value))
