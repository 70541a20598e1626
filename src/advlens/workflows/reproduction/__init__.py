"""Reproductions: a paper's models trained and audited, each of its tables and figures beside ours.

Each is a file in `reproductions/` with the models and their recipes, the settings of the audits,
and for each table and figure the paper's values and the place of ours among the results.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path

from advlens.datasets import load_data
from advlens.distributed import Processes
from advlens.errors import SettingsError
from advlens.files import locked
from advlens.report.reproduction import write_reproduction
from advlens.runs.folder import Tables, write_tables, write_text
from advlens.settings import ReproduceSettings
from advlens.training.words import in_words
from advlens.workflows.reproduction.content import Content
from advlens.workflows.reproduction.plan import Plan
from advlens.workflows.reproduction.showing import page, text
from advlens.workflows.reproduction.work import Work
from advlens.workflows.training import make_training

__all__ = ["rehearsed", "reproduce"]


def reproduce(
    name: str,
    data: str | None,
    out: Path,
    *,
    settings: ReproduceSettings = ReproduceSettings(),
    command: str,
    processes: Processes = Processes(),
    report: Callable[[str], None] = print,
) -> Path:
    """Train the models that `out` does not hold yet, audit them, and write the page.

    Args:
        name: name of the reproduction.
        data: a specification (see `load_data`); the quick form uses the packaged sample.
        out: the folder to write: one for each model and audit, `results/reproduction.csv`,
            `reproduction.md` and `reproduction.html`.
        settings: which part of the paper, on which models.
        command: shown as the way to reproduce it.
        processes: those that train and audit together; the first one writes.
        report: called with lines for the user.

    Returns:
        The path of `reproduction.html`.

    Raises:
        SettingsError: the reproduction, a model or a table does not exist, or data is missing.
        AdvlensError: as in training and the audits; finished work is kept.
    """
    out = Path(out)
    work = _work(name, data, out, settings, command, processes)
    work.check()
    with locked(out) if processes.first else contextlib.nullcontext():
        for number, label in enumerate(work.plan.trained, start=1):
            report(f"model {number} of {len(work.plan.trained)}: {label}")
            work.train(label)
        runs = {}
        for title, part in work.plan.audits.items():
            report(f"{title} of {len(part.labels)} models")
            runs[title] = work.audit(title)
        if processes.first:
            made = page(work, runs)
            quick = {"quick": settings.quick}
            tables: Tables = {
                "reproduction": [{**row, **quick} for entry in made.entries for row in entry.rows],
                "reproduction_orders": [row for entry in made.entries for row in entry.orders],
            }
            for title, rows in tables.items():
                if not rows:  # of a command before
                    (out / "results" / f"{title}.csv").unlink(missing_ok=True)
            write_tables(out, tables)
            write_text(out / "reproduction.md", text(made))
            write_reproduction(out, made)
            report(f"\n{text(made)}")
    return out / "reproduction.html"


def rehearsed(name: str, data: str | None, out: Path, *, settings: ReproduceSettings) -> list[str]:
    """What `reproduce` would train, audit and show, in lines; nothing is computed or written.

    Raises:
        AdvlensError: as `reproduce` before its first training.
    """
    work = _work(name, data, out, settings, "", Processes())
    work.check()
    lines = [f"{work.content.name}: {work.content.about} ({work.content.source})"]
    for label in work.plan.trained:
        spec, training = work.training(label)
        words = in_words(make_training(training), work.content.models[label].recipe)
        count = (
            work.content.quick.train_images
            if settings.quick
            else len(load_data(work.data, split="train"))
        )
        lines.append(
            f"train {label}: {spec} by the recipe {words.recipe}, {training.epochs} epochs of "
            f"{count - training.validation:,} images: {words.objective}"
        )
    for title, part in work.plan.audits.items():
        specs = ", ".join(f"{label} ({work.spec(label)})" for label in part.labels)
        stages = f": {', '.join(part.stages)}" if part.stages else ""
        lines.append(f"{title} into {out / work.plan.folders[title]}{stages}; of {specs}")
    for label, reason in work.plan.without.items():
        lines.append(f"{label} is left out: {reason}")
    for entry in work.plan.entries:
        lacking = work.plan.left_out.get(entry.name)
        lines.append(f"{entry.name}: {f'left out: {lacking}' if lacking else entry.caption}")
    return lines


def _work(
    name: str,
    data: str | None,
    out: Path,
    settings: ReproduceSettings,
    command: str,
    processes: Processes,
) -> Work:
    content = Content.read(name)
    plan = Plan.of(content, settings)
    if data in (None, "sample") and not settings.quick:
        raise SettingsError(f"{name} needs {content.needs}")
    return Work(
        content=content,
        settings=settings,
        plan=plan,
        data=data or "sample",
        out=out,
        command=command,
        processes=processes,
    )
