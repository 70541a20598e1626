"""The page of a reproduction: each table and figure of the paper, and ours beside it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advlens.files import atomic
from advlens.report.blocks import Block, Column, ImageBlock, NoteBlock, Section, TableBlock
from advlens.report.page import picture_of, template
from advlens.runs.tables import Row
from advlens.words import count

BOX = 1280, 2**15
"""Width and height of a figure on the page, in pixels, at most."""
MOST = 2**26
"""Pixels of a figure's file, at most."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A table or figure of the paper, and ours.

    Attributes:
        name: such as "Table 1".
        caption: what it shows.
        rows: the paper's values and ours: what, model, paper, ours, low, high, n, counted.
        orders: the paper's orders of two models: what, higher, lower, verdict, difference, low,
            high, how.
        figures: our figures, relative to the folder of the reproduction.
        notes: paragraphs: how ours was made, and what differs.
    """

    name: str
    caption: str
    rows: Sequence[Row] = ()
    orders: Sequence[Row] = ()
    figures: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def anchor(self) -> str:
        """Its place in the page."""
        return self.name.lower().replace(" ", "-")


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """All that a page shows.

    Attributes:
        title: its heading.
        facts: one line below it.
        warnings: what limits all numbers, first of all.
        summary: sentences in short.
        models: for each of the paper's models: label, here, made.
        entries: in the paper's order.
        reports: names of the audits, and their reports relative to the folder.
        version: of advlens.
        command: the command that makes it again.
    """

    title: str
    facts: str
    warnings: Sequence[str]
    summary: Sequence[str]
    models: Sequence[Row]
    entries: Sequence[Shown]
    reports: Mapping[str, str]
    version: str
    command: str


def write_reproduction(out: Path, made: Reproduction) -> Path:
    """Write `reproduction.html`, which needs nothing else to be read.

    Args:
        out: the folder of the reproduction, with the figures that `made` names.
        made: what it shows.

    Returns:
        The path of the page.

    Raises:
        RunError: a figure is no PNG file, or the page cannot be written.
    """
    first: dict[str, Shown] = {}  # a figure is shown once, where it comes first
    for entry in made.entries:
        for file in entry.figures:
            first.setdefault(file, entry)
    page = template("reproduction.html.j2", [row["label"] for row in made.models]).render(
        record={"advlens": made.version},
        made=made,
        title=made.title,
        sections=[_section(entry, first) for entry in made.entries],
        pictures={file: picture_of(out / file, BOX, MOST) for file in first},
        verdict={},  # of an audit
        choices=[],
        scripted=False,
    )
    with atomic(out / "reproduction.html", "w") as target:
        target.write(page)
    return out / "reproduction.html"


def _section(entry: Shown, first: Mapping[str, Shown]) -> Section:
    blocks: list[Block] = []
    if entry.rows:
        blocks.append(_values(entry))
    if entry.orders:
        blocks.append(_orders(entry))
    notes = list(entry.notes)
    for file in entry.figures:
        name = Path(file).stem
        if first[file] is entry:
            alt = f"{entry.name} here: {entry.caption} ({name})"
            blocks.append(ImageBlock(file=file, alt=alt, caption=f"Ours: {name}."))
        else:
            notes.insert(0, f"Ours: {name}, shown at {first[file].name}.")
    blocks += [NoteBlock(text=text) for text in notes]
    lead = entry.caption[0].upper() + entry.caption[1:] + "."
    return Section(
        title=entry.name, anchor=entry.anchor, lead=lead, findings=(), blocks=blocks, whole=True
    )


def _values(entry: Shown) -> TableBlock:
    return TableBlock(
        caption="The paper's values and ours; n: the number behind ours.",
        file="reproduction.csv",
        columns=[
            Column.words("Value", "what"),
            Column.words("Model", "model"),
            Column(header="Paper", cell=lambda row: f"{row['paper']:.4g}"),
            Column(header="Ours (95% interval)", cell=ours_text),
            Column(header="n", cell=n_text),
        ],
        rows=entry.rows,
    )


def n_text(row: Mapping[str, Any]) -> str:
    """The number behind our value of a row, and what it counts: "128 units"."""
    return f"{count(row['n'])} {row['counted']}" if row["n"] else "–"


def ours_text(row: Mapping[str, Any]) -> str:
    """Our value of a row with its interval: "55.6 (51.4 to 59.9)"."""
    if math.isnan(row["ours"]):
        return "none"
    if math.isnan(row["low"]):
        return f"{row['ours']:.3g}"
    return f"{row['ours']:.3g} ({row['low']:.3g} to {row['high']:.3g})"


def difference_text(row: Mapping[str, Any]) -> str:
    """The difference of an order with its interval: "9 (3.7 to 14.6)"."""
    if row["low"] is None:
        return f"{row['difference']:.3g}"
    return f"{row['difference']:.3g} ({row['low']:.3g} to {row['high']:.3g})"


def _orders(entry: Shown) -> TableBlock:
    return TableBlock(
        caption="The paper's order of the models, and what our difference, first less second, says "
        "of it.",
        file="reproduction_orders.csv",
        columns=[
            Column.words("Value", "what"),
            Column(
                header="In the paper",
                cell=lambda row: f"{row['higher']} > {row['lower']}",
                kind="text",
            ),
            Column.words("Here", "verdict"),
            Column(header="Difference (95% interval)", cell=difference_text),
            Column.words("Compared", "how"),
        ],
        rows=entry.orders,
    )
