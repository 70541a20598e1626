"""Finished runs on the same images as one: their models side by side, compared image by image."""

import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from advlens import __version__
from advlens.auditing.differences import compared
from advlens.errors import RunError, SettingsError
from advlens.files import atomic, locked
from advlens.plugins import STAGES
from advlens.report.page import picture_of, write_report
from advlens.runs.folder import Tables, differences, write_json, write_tables
from advlens.runs.record import without_home
from advlens.runs.results import Results
from advlens.runs.tables import TABLES, Row
from advlens.words import distinct, listed

FREE = (
    *("stages", "natural", "norm", "epsilon_linf", "attack", "attribution"),
    *("autoattack", "autoattack_linf"),
    *("quick", "expect_accuracy", "batch_size", "device", "ignore_keys", "head", "skip_damaged"),
)
"""Settings that say what is measured, or on what machine, and not how."""
UNITS = ("neurons", "dissection")
READERS = {
    **dict.fromkeys(("epsilon", "draws"), ("accuracy", "sweep", "autoattack", *UNITS)),
    "fgsm": ("accuracy", "neurons"),
    "steps": ("accuracy",),
    **dict.fromkeys(("sweep_images", "sweep_steps"), ("sweep",)),
    **dict.fromkeys(("preset", "neuron_attack", "neuron_epsilon", "neuron_steps"), UNITS),
    **dict.fromkeys(("neuron_step_size", "units", "discrepancy"), UNITS),
    **dict.fromkeys(("success", "top", "target"), ("neurons",)),
    **dict.fromkeys(("sigma", "similarity"), UNITS),
    **dict.fromkeys(("concepts", "layers", "concept_attack"), ("dissection",)),
    **dict.fromkeys(("explained", "points", "baselines", "samples"), ("attribution",)),
    **dict.fromkeys(("visualized", "components", "visualization_steps"), ("visualization",)),
    **dict.fromkeys(("inverted", "inversion_steps"), ("inversion",)),
    **dict.fromkeys(("generated", "generation_steps", "gaussians"), ("generation",)),
    "inception": ("inversion", "generation"),
    "precision": tuple(name for name in STAGES.names if name != "attribution"),
}
"""The stages that read a setting of an audit; the settings that are not here concern all stages."""
DERIVED = ("differences", "changes")
"""Tables that are computed from the others."""
PICTURES = "figures/images"


def compare(
    runs: Sequence[str | Path],
    out: str | Path,
    *,
    command: str | None = None,
) -> Path:
    """Put the models of several finished runs side by side, without measuring any of them again.

    Args:
        runs: run folders of audits, or of dissections, on the same images with the same settings;
            which stages and attacks they ran may differ. A model that several runs measured is
            taken from the first.
        out: the folder to write: tables, figures and report as an audit writes them. An earlier
            comparison there is replaced.
        command: recorded as the way to make it again.

    Returns:
        The path of the report.

    Raises:
        SettingsError: fewer than two runs, or runs that differ in their images or settings.
        RunError: a run is unfinished or damaged, or `out` holds something else.
    """
    folders, out = [Path(run) for run in runs], Path(out)
    if len(folders) < 2:
        raise SettingsError("a comparison needs at least two run folders")
    results = [Results.read(folder) for folder in folders]
    notes = set[str]()
    for each in results:
        _check_finished(each)
        notes |= _check_alike(results[0], each)
    _check_free(out, folders)
    line = shlex.join(map(str, ["advlens", "compare", *folders, "--out", out]))
    sources = _sources(results)
    tables = _tables(sources)
    with locked(out):  # everything has been read, so an earlier comparison may go
        for name in ("results", "figures"):
            shutil.rmtree(out / name, ignore_errors=True)
        for source in sources:
            source.copy_pictures(out)
        write_tables(out, tables)
        write_json(out / "run.json", _record(sources, notes, without_home(command or line)))
        return write_report(out)


@dataclass(frozen=True)
class _Source:
    """A run, and the names of its models in the comparison.

    Attributes:
        number: its place in the command.
        names: the new name of each model that is taken from this run.
        known: its models that are taken from an earlier run.
        pictures: by new name, the pictures of these models; `rows` collects them.
    """

    number: int
    results: Results
    names: Mapping[str, str]
    known: Sequence[str]
    pictures: dict[str, Path] = field(default_factory=dict)

    @property
    def tables(self) -> list[str]:
        files = (self.results.run / "results").glob("*.csv")
        return sorted(file.stem for file in files if file.stem not in DERIVED)

    def rows(self, name: str) -> list[Row]:
        """The rows of a table for these models, with the new names of models and pictures."""
        columns = None
        if name not in TABLES:  # of another package's stage
            columns = dict.fromkeys(self.results.columns(name), str)
        return [
            {key: self._renamed(value) for key, value in row.items()}
            | {key: self.names[row[key]] for key in ("model", "other") if key in row}
            for row in self.results.table(name, columns)
            if row.get("model") in self.names
        ]

    def _renamed(self, value: Any) -> Any:
        """The value; if it names a picture, its name in the comparison."""
        if not (isinstance(value, str) and value.startswith(f"{PICTURES}/")):
            return value
        name = f"{PICTURES}/{self.number}-{Path(value).name}"
        if name not in self.pictures:
            path = self.results.file(value)
            picture_of(path)  # refuses what a report could not show
            self.pictures[name] = path
        return name

    def copy_pictures(self, out: Path) -> None:
        """Write the pictures that the rows name."""
        for name, path in self.pictures.items():
            with atomic(out / name) as file:
                file.write(path.read_bytes())

    def renamed(self, part: str) -> list[dict[str, Any]]:
        """The entries of a part of the record for these models."""
        key = "name" if part == "models" else "model"
        return [
            entry | {key: self.names[entry[key]]}
            for entry in self.results.record[part]
            if entry[key] in self.names
        ]


def _sources(results: Sequence[Results]) -> list[_Source]:
    """Each run with the models that no earlier one has; models of one name get numbers."""
    earlier: list[tuple[object, ...]] = []
    kept: list[list[str]] = []
    for each in results:
        identities = {
            model["name"]: (model["spec"], model["weights"], model["mean"], model["std"])
            for model in each.record["models"]
        }
        kept.append(
            [name for name, key in identities.items() if key[1] is None or key not in earlier]
        )
        earlier += identities.values()
    renamed = iter(distinct([name for names in kept for name in names]))
    return [
        _Source(
            number,
            each,
            names={name: next(renamed) for name in names},
            known=[name for name in each.models if name not in names],
        )
        for number, (each, names) in enumerate(zip(results, kept, strict=True), start=1)
    ]


def _tables(sources: Sequence[_Source]) -> Tables:
    """All tables of the comparison.

    Raises:
        RunError: a table or a picture is damaged, or the tables of a run do not fit together.
    """
    tables: Tables = {}
    for source in sources:
        for name in source.tables:
            tables.setdefault(name, []).extend(source.rows(name))
    try:
        tables |= compared(tables)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        runs = listed([str(source.results.run) for source in sources])
        raise RunError(
            f"the tables of {runs} do not fit together ({type(error).__name__}: {error}); make "
            "the damaged run again with `advlens audit`"
        ) from error
    return tables


def _record(sources: Sequence[_Source], notes: set[str], command: str) -> dict[str, Any]:
    records = [source.results.record for source in sources]
    notes |= {note for record in records for note in record["notes"]} | {
        f"{name} was measured in {without_home(str(source.results.run))} too; its numbers are "
        "those of an earlier run."
        for source in sources
        for name in source.known
    }
    return dict(records[0]) | {
        "advlens": __version__,
        "command": command,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "compared": [record["command"] for record in records],
        "models": [model for source in sources for model in source.renamed("models")],
        "stages": [stage for source in sources for stage in source.renamed("stages")],
        "warnings": [text for record in records for text in record["warnings"]],
        "unfinished": [],
        "notes": sorted(notes),
    }


def _check_finished(results: Results) -> None:
    if missing := results.record["unfinished"]:
        texts = [f"{entry['stage']} of {entry['model']}" for entry in missing[:3]]
        raise RunError(
            f"the run in {results.run} is not finished ({listed(texts)} missing); the command that "
            "began it goes on with it"
        )


def _check_alike(first: Results, other: Results) -> set[str]:
    """Refuse runs that do not compare; a note names settings of stages that only one of them has.

    Raises:
        SettingsError: the images differ, or a setting that a stage of both of them reads.
    """
    one, two = first.record["data"], other.record["data"]
    if one["classes"] != two["classes"]:
        raise SettingsError(
            f"{first.run} and {other.run} measured different classes "
            f"({listed(one['classes'][:3])} … and {listed(two['classes'][:3])} …); audit "
            "one of them again with the other's"
        )
    if one["fingerprint"] != two["fingerprint"]:
        raise SettingsError(
            f"{first.run} measured {one['images']:,} images of {one['name']} and {other.run} "
            f"{two['images']:,} of {two['name']}, which differ in pixels, labels or synsets; audit "
            "one of them again on the other's images, with the same --synsets"
        )
    there, here = (results.record["settings"] for results in (first, other))
    names = [name for name in there if name in here and name not in FREE]  # settings may be new
    ran = [{stage["stage"] for stage in results.record["stages"]} for results in (first, other)]
    common = ran[0] & ran[1]
    readers = READERS if "stages" in there else {}  # not of a dissection
    apart = [name for name in names if name in readers and not common & {*readers[name]}]
    shared = [name for name in names if name not in apart]
    if said := differences({n: there[n] for n in shared}, {n: here[n] for n in shared}):
        raise SettingsError(
            f"{first.run} (there) and {other.run} (here) have other settings, so their numbers do "
            f"not compare: {said}; audit one of them again with the other's"
        )
    if not (said := differences({n: there[n] for n in apart}, {n: here[n] for n in apart})):
        return set()
    runs = [without_home(str(run)) for run in (first.run, other.run)]
    return {
        f"{runs[0]} (there) and {runs[1]} (here) differ in settings of stages that only one ran: "
        f"{said}."
    }


def _check_free(out: Path, folders: Sequence[Path]) -> None:
    """Refuse a folder that is compared, or holds something other than an earlier comparison."""
    if out.resolve() in [folder.resolve() for folder in folders]:
        raise RunError(f"{out} is one of the runs to compare; choose another --out")
    if not out.exists() or not any(name != ".lock" for name in os.listdir(out)):
        return
    try:
        earlier = "compared" in Results.read(out).record
    except RunError:
        earlier = False
    if not earlier:
        raise RunError(f"{out} holds something other than a comparison; choose another --out")
