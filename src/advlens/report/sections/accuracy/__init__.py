"""What the report says of accuracy, natural and under attack."""

from collections.abc import Iterator
from functools import partial

from advlens.report.blocks import (
    IMAGES,
    MODEL,
    Block,
    Column,
    FigureBlock,
    N,
    NoteBlock,
    Score,
    Section,
    TableBlock,
)
from advlens.report.figures import accuracy as figures
from advlens.report.sections.accuracy import autoattack, calibration, classes, examples
from advlens.report.sections.accuracy.findings import bounded, findings, naturally, strongest
from advlens.runs.results import Results, Rows
from advlens.words import ATTACK, NORMS, Estimate, attack_name, count, listed, percent

MIXED = "precision=bf16"
"""What the column settings says of attacks whose gradients are in bfloat16."""


def section(results: Results) -> Section | None:
    """From `accuracy.csv`, `sweep.csv` and `checks.csv`; None without the first."""
    rows = results.table("accuracy")
    if not rows:
        return None
    sweep = results.table("sweep")
    checks = results.table("checks")
    blocks: list[Block] = [_accuracy_figure(results, rows), _accuracy_table(rows)]
    blocks += [NoteBlock(text=f"{told}.") for told in unattacked(results)]
    blocks += _target_blocks(results)
    blocks += autoattack.blocks(results)
    if any(row["epsilon"] > 0 for row in sweep):
        blocks += _sweep_blocks(results, sweep)
    if checks:
        blocks += _check_blocks(checks)
    for part in (examples, classes, calibration):
        blocks += part.blocks(results)
    return Section(
        title="Accuracy",
        anchor="accuracy",
        lead="How often a model names the right class: on the images as they are, and after an "
        "attack has changed each of them by at most ε to make the model err. Accuracy under an "
        "attack is an upper bound: a stronger attack could leave less.",
        findings=[
            *autoattack.findings(results),
            *findings(results, rows, sweep, checks),
            *classes.findings(results),
            *calibration.findings(results),
        ],
        blocks=blocks,
        scores=_scores(results.models, rows),
    )


def unattacked(results: Results) -> list[str]:
    """On how many images an attack could not begin, from `unattacked.csv`."""
    return [
        f"{attack_name(row)} found no image to start from for {count(row['unattacked'])} of "
        f"{count(row['n'])} images of {row['model']}: these count as not attacked"
        for row in results.table("unattacked")
    ]


def _scores(models: tuple[str, ...], rows: Rows) -> list[Score]:
    """Natural accuracy, and the worst case in each norm under attacks of several steps."""
    natural = naturally(rows)
    iterated = Rows(row for row in bounded(rows) if row["steps"] > 1)
    return [
        Score(
            label="Natural accuracy",
            estimates=natural,
            notes=dict.fromkeys(natural, ""),
            as_percent=True,
        ),
        *(
            Score(
                label=f"Accuracy under attack in {NORMS[norm]}",
                estimates={model: Estimate.of(row, "top1") for model, row in worst.items()},
                notes={model: attack_name(row) for model, row in worst.items()},
                as_percent=True,
            )
            for norm in NORMS
            if (worst := strongest(models, iterated.where(norm=norm)))
        ),
    ]


def _accuracy_columns(rows: Rows) -> list[Column]:
    spread = Column.of("Spread over draws", "top1_spread", percent)
    randomized = bool(rows.known("draws"))
    return [
        IMAGES,
        MODEL,
        Column.of("Top-1", "top1", percent),
        Column.ends("top1"),
        *([spread] if randomized else []),
        Column.of("Top-5", "top5", percent),
        N,
    ]


def _accuracy_figure(results: Results, rows: Rows) -> FigureBlock:
    return FigureBlock(
        name="accuracy",
        draw=partial(figures.accuracy_dots, rows, results.models, chance=results.chance),
        alt=f"Dot plot of top-1 accuracy. {_values(rows)}.",
        caption="Top-1 accuracy on natural images and under each attack. The pale bars are 95% "
        f"Wilson intervals; the dotted line is guessing ({percent(results.chance)}).",
    )


def _values(rows: Rows) -> str:
    return "; ".join(f"{row['model']}, {attack_name(row)}: {percent(row['top1'])}" for row in rows)


def _accuracy_table(rows: Rows) -> TableBlock:
    draws = sorted(rows.known("draws").values("draws"))
    randomized = (
        f" Of a randomized model it is the mean over {listed([str(n) for n in draws])} fresh "
        "passes over the same images, and the spread is the standard deviation of one pass; its "
        "classes, confusions and calibration are those of the mean softmax over these passes, and "
        "it has no examples, because an attack on it does not give the same image again."
    )
    rounded = (
        f" Attacks with {MIXED} took their gradient steps in bfloat16; whether an image is right "
        "was computed in float32."
    )
    return TableBlock(
        caption="Accuracy in numbers. Under attack, top-1 counts the images that are right both "
        "before and after it, top-5 those whose class is among the first five after it."
        + (randomized if draws else "")
        + (rounded if any(MIXED in row["settings"] for row in rows) else ""),
        file="accuracy.csv",
        columns=_accuracy_columns(rows),
        rows=[row for mine in rows.split(*ATTACK, "settings") for row in mine],
    )


def _target_blocks(results: Results) -> Iterator[Block]:
    if rows := results.table("targets"):
        yield TableBlock(
            caption="Attacks towards a target of each image, another class than its own. Success: "
            "the share of images that are predicted as their target.",
            file="targets.csv",
            columns=[
                IMAGES,
                MODEL,
                Column.of("Success", "success", percent),
                Column.ends("success"),
                N,
            ],
            rows=rows,
        )


def _sweep_blocks(results: Results, sweep: Rows) -> Iterator[Block]:
    n = max(sweep.values("n"))
    yield NoteBlock(
        title="Accuracy against the size of the change",
        text="One radius shows one point of a curve. Where curves cross, the answer to “which "
        "model is more robust” depends on ε.",
    )
    yield FigureBlock(
        name="accuracy-sweep",
        draw=partial(figures.accuracy_sweep, sweep, results.models, chance=results.chance),
        alt=f"Line plot of top-1 accuracy against epsilon. {_values(sweep)}.",
        caption=f"Top-1 accuracy against ε on a seeded subset (n = {count(n)}), with 95% "
        "Wilson bands.",
    )
    yield TableBlock(
        caption="The sweep in numbers.",
        file="sweep.csv",
        columns=[column for column in _accuracy_columns(sweep) if column.header != "Top-5"],
        rows=sweep,
        folded=True,
    )


def _check_blocks(checks: Rows) -> Iterator[Block]:
    yield NoteBlock(
        title="Can these attacks be trusted?",
        text="A model can look robust because the attack got no useful gradient. Then "
        "accuracy behaves in ways that a real defense does not cause, and a check below fails.",
    )
    yield TableBlock(
        caption="Sanity checks for gradient masking.",
        file="checks.csv",
        columns=[
            MODEL,
            Column.words("Check", "check", kind="long"),
            Column(
                header="Result",
                cell=lambda row: "passed" if row["passed"] else "failed",
                kind="check",
            ),
            Column.words("Expected", "expected", kind="long"),
            Column.words("Found", "found", kind="long"),
        ],
        rows=checks,
    )
