"""The parts of a section. All texts are plain: the report escapes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from advlens.report.grids import GridBlock
from advlens.runs.measures import PAPERS, Measure
from advlens.words import Estimate, Form, Says, attack_name, count, listed, shared

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A measure of several models, or of one under several conditions: what a claim rests on."""

    name: str
    estimates: Mapping[str, Estimate]
    """By model; or, of one model, by phrases such as "on real images"."""
    model: str = ""
    """The one model."""
    form: Form = "number"
    counted: str = "images"
    """What n counts."""
    paired: bool = False
    """A paired test decides on the differences, not whether intervals overlap."""

    @classmethod
    def each(
        cls, named: Mapping[str, Mapping[str, Estimate]], **options: Any
    ) -> Sequence[Measured]:
        """Several by their names, with the same options; those without estimates are left out."""
        return [cls(name=name, estimates=each, **options) for name, each in named.items() if each]

    @property
    def n(self) -> str:
        """ "1,000 images", if it is the same for all; nothing where it is not known."""
        known = {
            name: f"{count(estimate.n)} {self.counted}"
            for name, estimate in self.estimates.items()
            if estimate.n and self.form != "count"
        }
        return shared(known, "" if self.model else "for") if known else ""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something true of these models, and the numbers that it rests on."""

    claim: str
    """One plain sentence."""
    says: Sequence[Says] = ()
    """The same as data."""
    estimates: Sequence[Measured] = ()
    """The report writes out their values, their intervals and n."""
    note: str = ""
    """How it was measured; what it does not establish."""
    important: bool = False
    """Also shown at the top of the report."""
    warning: bool = False
    """Something that limits what the other numbers mean, such as a failed check."""

    @property
    def leading(self) -> bool:
        """Whether the report shows it without being asked."""
        return self.important or self.warning


@dataclass(frozen=True, kw_only=True)
class Score:
    """One line of the overview: a measure, with an estimate or nothing for each model."""

    label: str
    estimates: Mapping[str, Estimate]
    notes: Mapping[str, str]
    """For each model what the number rests on, such as the attack and its success."""
    as_percent: bool = False
    counted: str = ""
    """What n counts, where it is not images."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """A measure's name and one sentence that explains it to a newcomer."""

    name: str
    meaning: str


def glossary(measures: Iterable[Measure]) -> list[Term]:
    """Measures with their floors and sources, then the papers among these."""
    shown = list(measures)
    terms = [
        Term(
            name=measure.name,
            meaning=measure.meaning
            + (f" Beside it: {measure.floor}." if measure.floor else "")
            + (f" Source: {measure.source}." if measure.source else ""),
        )
        for measure in shown
        if measure.meaning
    ]
    named = [paper for paper in PAPERS if any(paper in measure.source for measure in shown)]
    return [*terms, *(Term(name=paper, meaning=PAPERS[paper]) for paper in named)]


@dataclass(frozen=True, kw_only=True)
class NoteBlock:
    """A paragraph, under a heading of its own where `title` is given."""

    macro: ClassVar = "note"
    text: str
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column of a table: its header (with the unit) and the text of a row's cell."""

    header: str
    cell: Callable[[Mapping[str, Any]], str]
    kind: Literal["number", "text", "long", "model", "check"] = "number"
    """A "long" text may take several lines, a "model" is shown in its color, a "check" is
    "passed" or "failed"."""

    @classmethod
    def of(cls, header: str, name: str, text: Callable[[Any], str] = str) -> Column:
        """The numbers of a column of the table, "–" where there is none."""
        return cls(header=header, cell=lambda row: "–" if row[name] is None else text(row[name]))

    @classmethod
    def words(cls, header: str, name: str, kind: Literal["text", "long"] = "text") -> Column:
        """The texts of a column of the table."""
        return cls(header=header, cell=lambda row: str(row[name]), kind=kind)

    @classmethod
    def interval(cls, header: str, name: str = "mean", *, as_percent: bool = False) -> Column:
        """The values of a column of the table with their 95% intervals."""

        def cell(row: Mapping[str, Any]) -> str:
            estimate = Estimate.of(row, name)
            return "–" if estimate.value is None else estimate.text(as_percent=as_percent)

        return cls(header=header, cell=cell)

    @classmethod
    def ends(cls, name: str) -> Column:
        """The 95% intervals of a share alone."""
        return cls(
            header="95% interval", cell=lambda row: Estimate.of(row, name).interval(as_percent=True)
        )

    @classmethod
    def looked_up(
        cls, header: str, find: Callable[[Mapping[str, Any]], Mapping[str, Estimate]]
    ) -> Column:
        """The estimate of a row's model among those that are found for the row."""

        def cell(row: Mapping[str, Any]) -> str:
            estimate = find(row).get(row["model"])
            return estimate.text() if estimate else "–"

        return cls(header=header, cell=cell)


MODEL = Column(header="Model", cell=lambda row: row["model"], kind="model")
IMAGES = Column(header="Images", cell=attack_name, kind="text")
LAYER = Column.words("Layer", "layer")
N = Column.of("Images (n)", "n", count)


@dataclass(frozen=True, kw_only=True)
class TableBlock:
    """A table made from rows of `results/<file>`, which the report links."""

    macro: ClassVar = "table"
    caption: str
    file: str
    columns: Sequence[Column]
    rows: Sequence[Mapping[str, Any]]
    folded: bool = False
    """Closed until the reader opens it, for long tables."""


@dataclass(frozen=True, kw_only=True)
class FigureBlock:
    """A plot; the report draws it at several widths and saves `figures/<name>.png` and `.svg`."""

    macro: ClassVar = "figure"
    name: str
    draw: Callable[..., Figure]
    """From `width`, in inches."""
    alt: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class ImageBlock:
    """A figure that a run holds as a PNG file; the page shows it, smaller where it is large."""

    macro: ClassVar = "image"
    file: str
    """Relative to the folder of the page."""
    alt: str
    caption: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture among others; `file` is a PNG, relative to the run folder."""

    file: str
    alt: str
    """What is seen, for those who do not see it."""
    caption: str = ""
    wrong: bool = False
    """The caption names a wrong prediction."""


@dataclass(frozen=True, kw_only=True)
class PictureColumn:
    """The pictures of a row that belong together, below a heading."""

    heading: str
    pictures: Sequence[Picture]
    model: bool = False
    """The heading is a model's name, shown in its color."""


@dataclass(frozen=True, kw_only=True)
class PictureRow:
    """Pictures to be compared with each other: an image as several models treat it, or a class."""

    title: str
    columns: Sequence[PictureColumn]
    model: str = ""
    """The model that all of them are of, named before the title."""


@dataclass(frozen=True, kw_only=True)
class PictureRowsBlock:
    """Rows of pictures with the same columns, all saved as one figure `figures/<name>`."""

    macro: ClassVar = "rows"
    name: str
    title: str
    caption: str
    file: str
    """The table behind them, in `results/`."""
    rows: Sequence[PictureRow]
    heat: bool = False
    """The pictures are heat maps: their colors are explained."""
    folded: bool = False
    """Closed until the reader opens it, for what the verdict already shows."""

    @property
    def files(self) -> list[str]:
        """Of all pictures."""
        columns = [column for row in self.rows for column in row.columns]
        return [picture.file for column in columns for picture in column.pictures]


@dataclass(frozen=True, kw_only=True)
class BrowserColumn:
    """A column of the unit browser, and how the reader narrows the rows by it."""

    header: str
    kind: Literal["model", "text", "unit", "number"]
    filter: Literal["", "choice", "minimum", "search"] = ""
    """One of its values, at least a number, or a part of its text."""

    def text(self, cell: str | float | None) -> str:
        """A cell as the reader sees it."""
        if cell is None or cell == "":
            return "–"
        return f"{cell:.4f}" if self.kind == "number" else str(cell)


@dataclass(frozen=True, kw_only=True)
class UnitBrowserBlock:
    """Every unit as a row that the reader finds by sorting and filtering, all within the page."""

    macro: ClassVar = "browser"
    title: str
    caption: str
    file: str
    """The table behind it, in `results/`."""
    columns: Sequence[BrowserColumn]
    rows: Sequence[Sequence[str | float | None]]
    grids: Sequence[str]
    """For each row the name of the grid with the unit's pictures, or nothing."""

    @property
    def data(self) -> dict[str, Any]:
        """The rows for the page's script, each text held once."""
        texts = list(
            dict.fromkeys(cell for row in self.rows for cell in row if isinstance(cell, str))
        )
        places = {text: place for place, text in enumerate(texts)}

        def stored(column: BrowserColumn, cell: str | float | None) -> float | None:
            if isinstance(cell, str):
                return places[cell]
            return cell if cell is None or column.kind == "unit" else round(cell, 4)

        return {
            "kinds": [column.kind for column in self.columns],
            "texts": texts,
            "rows": [
                [stored(column, cell) for column, cell in zip(self.columns, row, strict=True)]
                for row in self.rows
            ],
            "grids": {place: name for place, name in enumerate(self.grids) if name},
        }


Block = (
    NoteBlock
    | TableBlock
    | FigureBlock
    | ImageBlock
    | GridBlock
    | PictureRowsBlock
    | UnitBrowserBlock
)


@dataclass(frozen=True, kw_only=True)
class Section:
    """What a stage has to say; a stage returns None where its tables are absent."""

    title: str
    anchor: str
    """Of the section in the page: letters, digits and hyphens."""
    lead: str
    findings: Sequence[Finding]
    blocks: Sequence[Block]
    terms: Sequence[Term] = ()
    """The measures, for the page's glossary."""
    scores: Sequence[Score] = ()
    whole: bool = False
    """Nothing of it is folded."""

    @property
    def open(self) -> list[Block]:
        """What is seen at once: the first figure, and some of the first pictures."""
        if self.whole:
            return [*self.blocks]
        kinds = (FigureBlock, ImageBlock), (GridBlock, PictureRowsBlock)
        able = [
            each for each in self.blocks if not (isinstance(each, PictureRowsBlock) and each.folded)
        ]
        every = ([each for each in able if isinstance(each, kind)] for kind in kinds)
        return [block for mine in every for block in mine[:1]]

    @property
    def folded(self) -> list[Block]:
        """The other blocks, closed until the reader opens them."""
        shown = [*map(id, self.open)]
        return [block for block in self.blocks if id(block) not in shown]

    @property
    def more(self) -> str:
        """What is folded, in words: "2 findings, 3 figures and 4 tables more"."""
        kinds: Mapping[str, Any] = {
            "figure": (FigureBlock, ImageBlock, GridBlock, PictureRowsBlock),
            "table": (TableBlock, UnitBrowserBlock),
        }
        counts = {
            "finding": sum(not finding.leading for finding in self.findings),
            **{
                name: sum(isinstance(block, kind) for block in self.folded)
                for name, kind in kinds.items()
            },
        }
        told = [f"{n} {name}{'s' * (n > 1)}" for name, n in counts.items() if n]
        return f"More: {listed(told)}" if told else "More"
