"""What a reproduction shows, and the same as text."""

from collections.abc import Sequence

from advlens import __version__
from advlens.report.reproduction import Reproduction, Shown, difference_text, n_text, ours_text
from advlens.runs.tables import Row
from advlens.words import count, listed, readable
from advlens.workflows.reproduction.comparing import (
    HOLDS,
    REVERSED,
    Runs,
    compared,
    conditions,
    orders,
)
from advlens.workflows.reproduction.content import Entry
from advlens.workflows.reproduction.work import Audited, Work


def page(work: Work, runs: Runs) -> Reproduction:
    """All that the page shows.

    Raises:
        RunError: an audit's results lack a row, or have several for one.
    """
    content, plan = work.content, work.plan
    shown = [_shown(work, entry, runs) for entry in plan.entries]
    warnings = [f"{label} is left out: {reason}." for label, reason in plan.without.items()]
    if work.settings.quick:
        warnings.insert(0, f"This is the quick form. {content.quick.about}")
    form = "quick form" if work.settings.quick else "full form"
    labels = dict.fromkeys(label for part in plan.audits.values() for label in part.labels)
    return Reproduction(
        title=f"{content.name} ({form})",
        facts=f"{content.about} ({content.source})",
        warnings=warnings,
        summary=_summary(shown),
        models=[_model(work, label, runs) for label in labels],
        entries=shown,
        reports={name: f"{folder}/report.html" for name, folder in plan.folders.items()},
        version=__version__,
        command=work.command,
    )


def text(made: Reproduction) -> str:
    """The page as Markdown."""
    lines = [f"# {made.title}", "", made.facts, ""]
    for warning in made.warnings:
        lines += [warning, ""]
    for entry in made.entries:
        lines += [f"## {entry.name}: {entry.caption}", ""]
        if entry.rows:
            lines += [*table(entry.rows), ""]
        if entry.orders:
            lines += ["The paper's order:", ""]
            lines += [f"- {sentence(order)}" for order in entry.orders]
            lines.append("")
        lines += [f"Ours: `{file}`" for file in entry.figures]
        lines += [""] * bool(entry.figures)
        for note in entry.notes:
            lines += [note, ""]
    return "\n".join([*lines, f"Made by `{made.command}`."]) + "\n"


def table(rows: Sequence[Row]) -> list[str]:
    """The comparison as a Markdown table."""
    cells: list[tuple[str, ...]] = [("", "model", "paper", "ours (95 % interval)", "n")]
    cells += [
        (
            row["what"],
            row["model"],
            f"{row['paper']:.4g}",
            ours_text(row),
            n_text(row),
        )
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    cells.insert(1, tuple("-" * width for width in widths))
    return [
        "| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |"
        for line in cells
    ]


def sentence(order: Row) -> str:
    """An order in a sentence."""
    return (
        f"{order['what']}: {order['higher']} > {order['lower']} {order['verdict']} "
        f"(difference {difference_text(order)}, {order['how']})."
    )


def _shown(work: Work, entry: Entry, runs: Runs) -> Shown:
    if reason := work.plan.left_out.get(entry.name):
        return Shown(name=entry.name, caption=entry.caption, notes=[f"Left out: {reason}."])
    figures, missing = _figures(work, entry, runs)
    here = [
        f"{audited.results.record['data']['name']}, "
        f"{count(audited.results.record['data']['images'])} images"
        for name, audited in runs.items()
        if name in entry.needs()
    ]
    measured = [*here, *conditions(entry, runs)]
    notes = [
        f"A drawing. {entry.drawing}" if entry.drawing else "",
        f"Here: {'; '.join(measured)}." if measured else "",
        f"What differs: {entry.differs}" if entry.differs else "",
        f"This run has no figure {listed(missing)}." if missing else "",
    ]
    return Shown(
        name=entry.name,
        caption=entry.caption,
        rows=compared(entry, runs),
        orders=[order.row(entry.name) for order in orders(entry, runs)],
        figures=figures,
        notes=[*filter(None, notes)],
    )


def _figures(work: Work, entry: Entry, runs: Runs) -> tuple[list[str], list[str]]:
    """The files of our figures, relative to the folder, and the patterns that no file has."""
    found: list[str] = []
    missing: list[str] = []
    for pattern in entry.figures:
        for name in _filled(pattern, entry, runs[entry.audit]):
            files = sorted(runs[entry.audit].results.run.glob(f"figures/{name}.png"))
            found += [str(file.relative_to(work.out)) for file in files]
            missing += [] if files else [name]
    return found, missing


def _filled(pattern: str, entry: Entry, audited: Audited) -> list[str]:
    """A pattern for each model, if it names one."""
    if "{" not in pattern:
        return [pattern]
    layers = {
        model["name"]: model["layers"][-1]["name"] for model in audited.results.record["models"]
    }
    names = [audited.names[label] for label in entry.models if label in audited.names]
    return [
        pattern.format(model=readable(name), layer=readable(layers[name]))
        for name in dict.fromkeys(names)
    ]


def _model(work: Work, label: str, runs: Runs) -> Row:
    """A line of the table of models."""
    model, settings = work.content.models[label], work.settings
    names = [audited.names[label] for audited in runs.values() if label in audited.names]
    if label in settings.used:
        made = f"{settings.used[label]}, given by --use"
    elif label in work.plan.trained:
        made = f"trained by the recipe {model.recipe}, {work.training(label)[1].epochs} epochs"
    elif settings.quick and label in work.content.quick.models:
        made = f"the packaged {work.spec(label)}, which stands in for it"
    else:
        made = work.spec(label)
    return {"label": label, "here": names[0], "made": made}


def _summary(shown: Sequence[Shown]) -> list[str]:
    """How many of the paper's orders hold."""
    verdicts = [order["verdict"] for entry in shown for order in entry.orders]
    if not verdicts:
        return ["There is no order of models to compare with the paper's."]
    holds, reverse = verdicts.count(HOLDS), verdicts.count(REVERSED)
    rest = len(verdicts) - holds - reverse
    told = [
        f"The paper orders two models {count(len(verdicts))} times: {count(holds)} of these orders "
        f"hold here, {count(reverse)} do not, and {count(rest)} cannot be told."
    ]
    return told + [
        f"{entry.name}: {sentence(order)}"
        for entry in shown
        for order in entry.orders
        if order["verdict"] == REVERSED
    ]
