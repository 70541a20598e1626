"""The runs that are looked at: found below folders, numbered, and compared when asked for."""

import os
import shlex
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from advlens.errors import AdvlensError, RunError, SettingsError
from advlens.report.verdict import Claim, verdict
from advlens.runs.results import Results
from advlens.words import listed

DEEPEST = 4
"""Levels of folders below a named one that are searched."""
MOST = 5_000
"""Folders below a named one that are searched, at most."""
REMEMBERED = 8
"""Runs whose tables are kept in memory."""
JUDGED = 1_000
"""Runs whose records and verdicts are."""


class Runs:
    """Numbered runs; a number stays that of its folder.

    Args:
        places: run folders, or folders that hold some.
        made: a folder for comparisons.

    Attributes:
        names: of each comparison by its number; other runs are named by their path.

    Raises:
        SettingsError: a place is no folder, or holds no run.
    """

    def __init__(self, places: Sequence[Path], made: Path):
        self._places, self._made = list(places), made
        self._folders: list[Path] = []
        self._compared: dict[tuple[tuple[Path, int], ...], int] = {}
        self._counting, self._comparing = threading.Lock(), threading.Lock()
        self.names: dict[int, str] = {}
        for place in places:
            if not place.is_dir():
                raise SettingsError(f"{place} is no folder; name a run folder, or one of runs")
            if not runs_below(place):
                raise SettingsError(
                    f"{place} holds no run; name a folder made by `advlens audit`, or one that "
                    f"holds such folders at most {DEEPEST} levels below"
                )
        self.look()

    def look(self) -> list[int]:
        """The numbers of the runs that are there now, comparisons last."""
        with self._counting:
            found = dict.fromkeys(run for place in self._places for run in runs_below(place))
            self._folders += [run for run in found if run not in self._folders]
            return [*map(self._folders.index, found), *self.names]

    def folder(self, number: str) -> Path | None:
        """The run of a number, if there is one."""
        with self._counting:
            return {str(each): run for each, run in enumerate(self._folders)}.get(number)

    def compare(self, numbers: Sequence[str]) -> int:
        """The number of the comparison of some runs, which is made when it is first asked for.

        Raises:
            SettingsError: fewer than two runs, or runs that do not compare.
            RunError: a run is unfinished, damaged or not there.
        """
        chosen = [run for number in numbers if (run := self.folder(number))]
        key = tuple((run, _changed(run)) for run in chosen)
        with self._comparing:  # one at a time: each takes the machine for a while
            if key not in self._compared:
                self._compared[key] = self._add(chosen)
            return self._compared[key]

    def _add(self, chosen: Sequence[Path]) -> int:
        from advlens.auditing.comparison import compare  # with torch, which takes seconds

        out, names = Path(mkdtemp(dir=self._made)), list(map(str, chosen))
        compare(chosen, out, command=shlex.join(["advlens", "compare", *names, "--out", "OUT"]))
        with self._counting:
            self._folders.append(out)
            self.names[len(self._folders) - 1] = f"Comparison of {listed(names)}"
            return len(self._folders) - 1


def runs_below(place: Path) -> list[Path]:
    """The run folders at or below a folder, by name; none within another, nor behind links."""
    found, level = list[Path](), [place]
    searched = 0
    for _ in range(DEEPEST + 1):
        runs = list(filter(_is_run, level))
        found += runs
        level = [below for folder in level if folder not in runs for below in _folders_of(folder)]
        level = level[: MOST - searched]
        searched += len(level)
    return sorted(found)


def _is_run(folder: Path) -> bool:
    """Whether a run, a training or a comparison is here, or has begun; not stored attacks."""
    signs = ("run.json", "parts/identity.json", "last.pt")
    return any((folder / sign).is_file() for sign in signs) and not (folder / "images").is_dir()


def _folders_of(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [
                entry.name
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")
            ]
    except OSError:  # not ours to read, or just removed
        return []
    return [folder / name for name in sorted(names)]


def results(run: Path) -> Results:
    """A run as it is now; tables are read once, until the run writes more.

    Raises:
        RunError: there is nothing to show yet, or the record is damaged.
    """
    return _read(run, _changed(run))


@lru_cache(maxsize=REMEMBERED)
def _read(run: Path, changed: int) -> Results:
    return Results.read(run)


def judged(run: Path) -> tuple[Mapping[str, Any], dict[str, list[Claim]]]:
    """The record of a run and its verdict, without its tables, which take memory.

    Raises:
        RunError: as `results`, or a table is damaged.
    """
    return _judged(run, _changed(run))


@lru_cache(maxsize=JUDGED)
def _judged(run: Path, changed: int) -> tuple[Mapping[str, Any], dict[str, list[Claim]]]:
    found = Results.read(run)
    with fitting(run):
        return found.record, verdict(found)


def _changed(run: Path) -> int:
    """When the record was written, which each stage does that finishes."""
    try:
        return os.stat(run / "run.json").st_mtime_ns
    except OSError:
        return 0


@contextmanager
def fitting(run: Path) -> Iterator[None]:
    """Within the block, tables that are right each by itself, and not together, are a RunError."""
    try:
        yield
    except (AdvlensError, MemoryError):
        raise
    except Exception as error:
        raise RunError(
            f"{run} cannot be shown: its tables do not fit together ({type(error).__name__}: "
            f"{str(error)[:200]}); make the run again with `advlens audit`"
        ) from error
