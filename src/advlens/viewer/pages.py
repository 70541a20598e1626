"""The pages, each made from run folders as they are when it is asked for."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

from advlens.errors import AdvlensError, RunError
from advlens.folders import open_plain, why
from advlens.report import page
from advlens.report.verdict import MARKS, TITLES
from advlens.runs.results import Results
from advlens.viewer.progress import progress
from advlens.viewer.runs import Runs, fitting, judged, results
from advlens.viewer.units import COLUMNS, LEAST, NUMBERS, chosen, unit_rows, unit_tables

HTML = "text/html; charset=utf-8"
KINDS = {
    ".html": HTML,
    ".json": "application/json",
    ".csv": "text/plain; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
}
LARGEST_FILE = 2**28
"""Bytes of a file that is shown, at most."""
AT_ONCE = 50
"""Units of one page of the table."""
MOST_FIELDS = 200
"""Parameters of a query, at most."""


@dataclass(frozen=True)
class Reply:
    """What a browser gets.

    Attributes:
        content: the bytes.
        kind: their media type.
        status: the HTTP status.
        scripts: hashes of the scripts that may run in it.
        to: the address that it leads to instead, relative to the one asked for.
    """

    content: bytes = b""
    kind: str = HTML
    status: int = 200
    scripts: Sequence[str] = ()
    to: str = ""


def reply(runs: Runs, parts: Sequence[str], query: str) -> Reply:
    """The reply to the parts of a path, below the token, and a query.

    Args:
        runs: those that are shown.
        parts: compared with what there is, and never made a path themselves.
        query: with its percent signs.
    """
    home = "../" * (len(parts) - 1) or "./"
    try:
        match parts:
            case [""]:
                return _list(runs)
            case ["compare"]:
                made = runs.compare(_asked(query).get("run", []))
                return Reply(status=303, to=f"run/{made}/report.html")
            case ["run", number, *inside] if folder := runs.folder(number):
                with fitting(folder):
                    found = _of_run(folder, runs.names.get(int(number), str(folder)), inside, query)
                if found:
                    return found
        return _message("Not found", "There is no such page.", home, 404)
    except AdvlensError as error:
        title = "Not compared" if parts == ["compare"] else "This cannot be shown"
        return _message(title, str(error), home, 400)


def _of_run(folder: Path, name: str, inside: Sequence[str], query: str) -> Reply | None:
    """A page or a file of a run, if there is such a one."""
    match inside:
        case [""]:
            return _run(folder, name)
        case ["units"]:
            return _units(results(folder), name, {k: v[-1] for k, v in _asked(query).items()})
        case ["unit"]:
            return _unit(results(folder), name, {k: v[-1] for k, v in _asked(query).items()})
    return _file(folder, "/".join(inside)) if "/".join(inside) in _offered(folder) else None


def _asked(query: str) -> dict[str, list[str]]:
    try:
        return parse_qs(query, max_num_fields=MOST_FIELDS)
    except ValueError:
        return {}


def _offered(folder: Path) -> set[str]:
    """The files that a report links."""
    kinds = ("run.json", "report.html", "results/*.csv", "figures/*.svg", "figures/*.png")
    return {str(path.relative_to(folder)) for kind in kinds for path in folder.glob(kind)}


def _file(folder: Path, name: str) -> Reply:
    path = results(folder).file(name)
    try:
        with open_plain(path, LARGEST_FILE) as file:
            content = file.read()
    except (OSError, ValueError) as error:
        raise RunError(f"cannot read {path}: {why(error)}") from error
    return Reply(content, KINDS[path.suffix], scripts=_own() if name == "report.html" else ())


def _own() -> list[str]:
    """Hashes of the scripts that reports of this version have."""
    scripts = sorted((Path(page.__file__).parent / "templates").glob("*.js"))
    digests = [hashlib.sha256(script.read_bytes()).digest() for script in scripts]
    return [f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests]


def _rendered(file: str, title: str, home: str, models: Sequence[str] = (), **values: Any) -> bytes:
    made = page.template(file, models, "advlens.viewer")
    return made.render(title=title, home=home, **values).encode(errors="replace")


def _message(title: str, text: str, home: str, status: int) -> Reply:
    return Reply(_rendered("base.html.j2", title, home, text=text), status=status)


def _list(runs: Runs) -> Reply:
    shown = []
    for number in runs.look():
        folder = runs.folder(str(number))
        assert folder is not None
        shown.append(_entry(number, folder, runs.names.get(number, str(folder))))
    text = _rendered("runs.html.j2", "Runs", "./", shown=shown, marks=MARKS, titles=TITLES)
    return Reply(text)


def _entry(number: int, folder: Path, name: str) -> dict[str, Any]:
    """What the list of runs says of one."""
    entry = {"number": number, "name": name, "problem": "", **_there(folder)}
    try:
        entry["record"], entry["verdict"] = judged(folder)
    except RunError as error:
        entry["problem"] = str(error)
    return entry


def _there(folder: Path) -> dict[str, bool]:
    """Which pages a run has."""
    units = [folder / "results" / f"{name}.csv" for name in ("units", "dissection")]
    reported = (folder / "report.html").is_file()
    return {"reported": reported, "units": any(table.is_file() for table in units)}


def _run(folder: Path, name: str) -> Reply:
    """How far a run is, and its verdict."""
    record: Mapping[str, Any] | None = None
    claims: Mapping[str, Any] = {}
    problem = ""
    try:
        record, claims = judged(folder)
    except RunError as error:
        problem = str(error)
    far = progress(folder, record)
    made = _rendered(
        "run.html.j2",
        name,
        "../../",
        [model["name"] for model in record["models"]] if record else [],
        record=record,
        problem=problem,
        progress=far,
        columns=list(dict.fromkeys(model for each in far.stages.values() for model in each)),
        verdict=claims,
        marks=MARKS,
        titles=TITLES,
        **_there(folder),
    )
    return Reply(made)


def _units(found: Results, name: str, asked: Mapping[str, str]) -> Reply:
    rows = unit_rows(found)
    kept = chosen(rows, asked)
    pages = max(1, -(-len(kept) // AT_ONCE))
    # of any length, so not made a number before it is known to be a page
    at = {str(number): number for number in range(1, pages + 1)}.get(asked.get("page", ""), 1)

    def link(**changes: str) -> str:
        """The same query with changes; an empty value leaves a parameter out."""
        return "?" + urlencode({k: v for k, v in {**asked, **changes}.items() if v})

    def turned(column: str) -> str:
        """The table sorted by a column, numbers from the highest; a second time the other way."""
        same, down = asked.get("sort") == column, "down" in asked
        again = not down if same else column in NUMBERS and column != "unit"
        return link(sort=column, down="1" if again else "", page="")

    columns = {
        key: header for key, header in COLUMNS.items() if any(row[key] is not None for row in rows)
    }
    made = _rendered(
        "units.html.j2",
        "Units",
        "../../",
        found.models,
        name=name,
        asked=asked,
        all=len(rows),
        kept=len(kept),
        first=AT_ONCE * (at - 1),
        rows=kept[AT_ONCE * (at - 1) : AT_ONCE * at],
        page=at,
        pages=pages,
        columns=columns,
        numbers=NUMBERS,
        least=[key for key in LEAST if key in columns],
        layers=list(dict.fromkeys(row["layer"] for row in rows)),
        link=link,
        turned=turned,
        unit_link=_unit_link,
    )
    return Reply(made)


def _unit_link(row: Mapping[str, Any]) -> str:
    return f"unit?{urlencode({key: row[key] for key in ('model', 'layer', 'unit')})}"


def _unit(found: Results, name: str, asked: Mapping[str, str]) -> Reply | None:
    tables = unit_tables(found, asked)
    if not any(tables.values()):
        return None
    made = _rendered(
        "unit.html.j2",
        f"Unit {asked['unit']} of {asked['layer']}",
        "../../",
        found.models,
        name=name,
        model_name=asked["model"],
        layer_link=f"units?{urlencode({key: asked[key] for key in ('model', 'layer')})}",
        tables=tables,
        picture=lambda file: page.picture_of(found.file(file)),
    )
    return Reply(made)
