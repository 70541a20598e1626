"""The report of a run: one page that needs nothing else to be read."""

import base64
import functools
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advlens.colors import AGAINST, FOR
from advlens.errors import AdvlensError, RunError
from advlens.files import atomic
from advlens.folders import held, open_plain, why
from advlens.plugins import SECTIONS, place
from advlens.report.blocks import (
    FigureBlock,
    PictureRowsBlock,
    Section,
    UnitBrowserBlock,
)
from advlens.report.evidence import Evidence, evidence
from advlens.report.figures.pictures import (
    SMALL,
    Pixels,
    abreast,
    picture_rows,
    unit_grid,
    unit_grids,
)
from advlens.report.figures.style import (
    BAD,
    FRAME,
    INK,
    MODELS,
    MUTED,
    NARROW,
    RULE,
    SURFACE,
    WIDTH,
    dark,
    save_figure,
    svg,
)
from advlens.report.grids import KINDS, Grid, GridBlock
from advlens.report.verdict import MARKS, TITLES, Choice, Claim, choices, not_measured, verdict
from advlens.runs.results import Results
from advlens.words import comparison, count, listed, number, percent

if TYPE_CHECKING:
    from jinja2 import BytecodeCache, Template
    from matplotlib.figure import Figure
    from PIL import Image

THUMBNAIL = 160
"""Pixels of the longer side above which the page holds a smaller JPEG of a picture."""
LARGE = 2**20
"""Bytes above which the page holds a JPEG of a picture that would fit it."""
MOST_PIXELS = 2**21
"""Of a picture: those that stages write have the size of a model's input, or of a unit's grid."""


Make = Callable[[Results], Section | None]
_TOGETHER = re.compile(
    r"(?:(-?\d+(?:\.\d+)?%?) )?"
    r"(\([\d.e-]+(?:–| to )[\d.e-]+\)|\b[nk] = [\d,]+|(?:L[2∞] )?ε = [\d./]*[\d])"
)


@dataclass(frozen=True)
class _Drawing:
    """An SVG as the page embeds it, for light and dark pages."""

    light: str
    dark: str
    width: int
    height: int


@dataclass(frozen=True)
class EmbeddedPicture:
    """A picture as the page embeds it; small ones are shown as squares of color."""

    source: str
    small: bool
    width: int
    """Of the file, in pixels."""


def write_report(run: Path, sections: Sequence[Make] | None = None) -> Path:
    """Write `report.html` and the figures of a run folder.

    The same run folder gives the same bytes.

    Args:
        run: the folder, with `run.json` and `results/`.
        sections: what makes each part of the page, or returns None (default: all there are).

    Returns:
        The path of the report.

    Raises:
        RunError: the run folder is damaged, or a file cannot be written.
    """
    run = Path(run)
    results = Results.read(run)
    try:
        with held(run):
            return _write(run, results, sections)
    except (AdvlensError, MemoryError):
        raise
    except Exception as error:  # tables that are right each by itself, and not together
        if place(error):
            raise
        raise RunError(
            f"cannot make a report of {run}: its tables do not fit together "
            f"({type(error).__name__}: {str(error)[:200]}); make the run again with `advlens audit`"
        ) from error


def _write(run: Path, results: Results, sections: Sequence[Make] | None) -> Path:
    if sections is None:
        sections = [SECTIONS.load(name) for name in SECTIONS.names]
    shown = [section for make in sections if (section := make(results)) is not None]
    blocks = [block for section in shown for block in section.blocks]
    claims = verdict(results)
    together = choices(results, claims)
    beside = evidence(results, claims, together)
    strips = [strip for told in beside.values() for each in told.values() for strip in each]
    files = [picture.file for strip in strips for picture in strip.pictures]
    for block in blocks:
        files += block.files if isinstance(block, GridBlock | PictureRowsBlock) else []
    pictures = {name: picture_of(results.file(name)) for name in dict.fromkeys(files)}
    plots = {block.name: _plot(block, run) for block in blocks if isinstance(block, FigureBlock)}

    def load(file: str) -> Pixels:
        return _pixels(results.file(file))

    sheets: dict[str, list[Grid]] = {}
    for block in blocks:
        for grid in block.grids if isinstance(block, GridBlock) else ():
            save_figure(unit_grid(grid, load), run, grid.name)
            sheets.setdefault(grid.sheet, []).append(grid)
        if isinstance(block, PictureRowsBlock):
            save_figure(picture_rows(block, load), run, block.name)
    for name, grids in sheets.items():
        if name:
            save_figure(unit_grids(grids, load), run, name)
    with atomic(run / "report.html", "w") as file:
        file.write(_page(results, shown, plots, pictures, claims, together, beside))
    return run / "report.html"


def _plot(block: FigureBlock, run: Path) -> dict[str, _Drawing]:
    wide, narrow = block.draw(width=WIDTH), block.draw(width=NARROW)
    saved = save_figure(wide, run, block.name)[1].read_text(encoding="utf-8")
    return {"wide": _drawing(wide, saved), "narrow": _drawing(narrow, svg(narrow))}


def _drawing(figure: "Figure", text: str) -> _Drawing:
    light_uri, dark_uri = (
        _data_uri("image/svg+xml", drawing.encode()) for drawing in (text, dark(text))
    )
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return _Drawing(light_uri, dark_uri, width, height)


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture_of(
    path: Path, box: tuple[int, int] = (THUMBNAIL, THUMBNAIL), most: int = MOST_PIXELS
) -> EmbeddedPicture:
    """A picture for a page: the file itself, or a JPEG that fits the box where it is large.

    Args:
        path: a PNG file.
        box: width and height in pixels.
        most: pixels that the file may have.

    Raises:
        RunError: the file is no such PNG.
    """
    content = _content(path, most)
    picture = _decoded(path, content, most)
    width = picture.width
    fits = width <= box[0] and picture.height <= box[1]
    if fits and len(content) <= LARGE:
        return EmbeddedPicture(_data_uri("image/png", content), max(picture.size) <= SMALL, width)
    small = picture.convert("RGB")
    small.thumbnail(box)
    shrunk = io.BytesIO()
    small.save(shrunk, "JPEG", quality=90)
    return EmbeddedPicture(_data_uri("image/jpeg", shrunk.getvalue()), False, width)


def _pixels(path: Path) -> Pixels:
    import numpy as np

    return np.asarray(_decoded(path, _content(path)).convert("RGB"))


def _content(path: Path, most: int = MOST_PIXELS) -> bytes:
    try:
        with open_plain(path, 8 * most) as file:
            return file.read()
    except (OSError, ValueError) as error:
        raise _no_picture(path, error) from error


def _decoded(path: Path, content: bytes, most: int = MOST_PIXELS) -> "Image.Image":
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as picture:
            pixels = picture.width * picture.height
            if pixels > most:
                raise ValueError(f"it has more than {most} pixels")
            if len(content) > 8 * pixels + 2**16:
                raise ValueError(f"{len(content)} bytes are too many for {pixels} pixels")
            picture.load()
            return picture
    except UnidentifiedImageError as error:
        raise _no_picture(path, ValueError("it is not a PNG")) from error
    except Exception as error:  # damaged bytes make Pillow's parsers raise almost anything
        raise _no_picture(path, error) from error


def _no_picture(path: Path, error: Exception) -> RunError:
    return RunError(
        f"cannot read the picture {path}: {why(error)}; make the run again with `advlens audit`"
    )


def _page(
    results: Results,
    sections: Sequence[Section],
    plots: Mapping[str, Mapping[str, _Drawing]],
    pictures: Mapping[str, EmbeddedPicture],
    claims: Mapping[str, Sequence[Claim]],
    together: Sequence[Choice],
    beside: Mapping[str, Evidence],
) -> str:
    from markupsafe import Markup

    script = (Path(__file__).parent / "templates" / "units.js").read_text(encoding="utf-8")
    digest = hashlib.sha256(script.encode()).digest()
    blocks = [block for section in sections for block in section.blocks]
    browsers = [block for block in blocks if isinstance(block, UnitBrowserBlock)]
    return template("report.html.j2", results.models).render(
        record=results.record,
        title=f"{listed(results.models)} on {results.record['data']['name']}",
        chance=results.chance,
        verdict=claims,
        choices=together,
        evidence=beside,
        marks=MARKS,
        titles=TITLES,
        unmeasured=not_measured(results),
        scores=[score for section in sections for score in section.scores if score.estimates],
        sections=sections,
        plots=plots,
        pictures=pictures,
        browsed={name for block in browsers for name in block.grids},
        scripted=bool(browsers),
        script=Markup(script),
        script_hash=f"sha256-{base64.b64encode(digest).decode()}",
        settings=list(_flat(results.record["settings"])),
        tables=sorted(path.name for path in (results.run / "results").glob("*.csv")),
    )


def template(name: str, models: Sequence[str], package: str = "advlens.report") -> "Template":
    """A packaged template, with what every page needs: filters, kinds of blocks and colors.

    Args:
        name: of the file in `templates/`.
        models: the models' names in order; a model's color goes by its place.
        package: the package of that folder; its templates may include those of this one.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    def tone(model: str) -> str:
        return f"m{models.index(model) % len(MODELS)}"

    def stored(block: UnitBrowserBlock) -> dict[str, Any]:
        return {**block.data, "tones": {model: tone(model) for model in models}}

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("advlens.report")]),
        autoescape=True,
        bytecode_cache=_compiled(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "percent": percent, "number": number, "flow": _flow}
    environment.filters |= {"stored": stored, "abreast": abreast, "comparison": comparison}
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":")}
    inks = {"ink": INK, "muted": MUTED, "rule": RULE, "page": SURFACE, "frame": FRAME, "bad": BAD}
    environment.globals |= {"kinds": KINDS, "tone": tone, "models": models, "inks": inks}
    environment.globals |= {"shades": MODELS, "heat": {"for": FOR, "against": AGAINST}}
    return environment.get_template(name)


@functools.cache
def _compiled() -> "BytecodeCache":
    """Keeps compiled templates in memory: `advlens view` writes a page at each request."""
    from jinja2 import BytecodeCache
    from jinja2.bccache import Bucket

    class InMemory(BytecodeCache):
        def __init__(self) -> None:
            self.kept: dict[str, bytes] = {}

        def load_bytecode(self, bucket: Bucket) -> None:
            if bucket.key in self.kept:
                bucket.bytecode_from_string(self.kept[bucket.key])

        def dump_bytecode(self, bucket: Bucket) -> None:
            self.kept[bucket.key] = bucket.bytecode_to_string()

    return InMemory()


def _flow(text: str) -> Any:
    """Text in which no value is parted from its interval, nor a letter from its number."""
    from markupsafe import Markup, escape

    def together(match: re.Match[str]) -> str:
        value = f"<strong>{match[1]}</strong> " if match[1] else ""
        return f'<span class="together">{value}{match[2]}</span>'

    return Markup(_TOGETHER.sub(together, str(escape(text))))


def _flat(settings: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as lines: {"attack": {"steps": 5}} -> ("attack.steps", "5")."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{before}{key}.")
        else:
            values = value if isinstance(value, list) else [value]
            yield f"{before}{key}", ", ".join(map(_plain, values))


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)
