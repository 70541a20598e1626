"""A section of the report, as its tests look at it: findings by what they say and measure."""

import functools
import math
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from advlens.errors import RunError
from advlens.report.blocks import FigureBlock, Finding, Measured, Section, TableBlock
from advlens.runs.results import Results
from advlens.words import Estimate
from synthetic_run import around, change, put

Kind = TypeVar("Kind")


@dataclass(frozen=True)
class Maker:
    """A section, made anew from a run's tables whenever something of it is asked."""

    section: Callable[[Results], Section | None]

    def made(self, run: Path) -> Section:
        found = self.section(Results.read(run))
        assert found
        return found

    def absent(self, run: Path) -> bool:
        return self.section(Results.read(run)) is None

    def findings(self, run: Path, measure: str, model: str = "") -> list[Finding]:
        """Those that say something of a measure, or rest on it; of a model, if one is named."""
        return [
            found
            for found in self.made(run).findings
            if any(s.measure == measure and model in ("", *s.of) for s in found.says)
            or any(m.name == measure and model in ("", m.model) for m in found.estimates)
        ]

    def finding(self, run: Path, measure: str, model: str = "") -> Finding:
        (found,) = self.findings(run, measure, model)
        return found

    def told(self, run: Path, measure: str) -> str:
        """What the findings say of a measure, "warning: a, b higher than c | d open"."""
        texts = []
        for finding in self.made(run).findings:
            parts = [
                f"{', '.join(s.of)} {s.direction}"
                + (f" than {', '.join(s.than)}" if s.than else "")
                for s in finding.says
                if s.measure == measure
            ]
            if parts:
                texts.append(("warning: " if finding.warning else "") + "; ".join(parts))
        return " | ".join(texts)

    def tells(self, run: Path, changes: str, measure: str, told: str, words: str = "") -> None:
        """After these changes of tables this is told of a measure, in these words."""
        puts(run, changes)
        found = self.told(run, measure)
        assert found == told, found
        text = " ".join(f"{f.claim} {f.note}" for f in self.findings(run, measure))
        assert words in text, text

    def measured(self, run: Path, measure: str, model: str = "") -> Measured:
        (found,) = [
            measured
            for finding in self.made(run).findings
            for measured in finding.estimates
            if (measured.name, measured.model) == (measure, model)
        ]
        return found

    def blocks(self, run: Path, kind: type[Kind]) -> list[Kind]:
        return [block for block in self.made(run).blocks if isinstance(block, kind)]

    def tables(self, run: Path, file: str) -> list[TableBlock]:
        return [block for block in self.blocks(run, TableBlock) if block.file == file]

    def cells(self, run: Path, file: str) -> list[list[dict[str, str]]]:
        return [cells(block) for block in self.tables(run, file)]

    def check(self, run: Path) -> Section:
        """Every text is finished, and no measure is without estimates."""
        section = self.made(run)
        for text in texts(section):
            assert not re.search(r"[{}]|None|nan|\(\)|  |\.\.|:\.", text), text
            assert text.endswith("."), text
        for finding in section.findings:
            for measured in finding.estimates:
                assert measured.estimates
                assert re.fullmatch(r"\S(.*\S)?", measured.name)
                assert not measured.name.endswith(".")
        return section

    def refuses(self, run: Path, table: str, column: str, value: str, named: str) -> None:
        """With this value in a column of a table, there is no section, but one sentence."""
        put(run, table, {}, **{column: value})
        with pytest.raises(RunError, match=re.escape(named)) as caught:
            self.section(Results.read(run))
        assert f"{table}.csv is damaged" in str(caught.value)
        assert "\n" not in str(caught.value)


def puts(run: Path, changes: str) -> None:
    """Write values into rows: "sweep: top1=0.9; accuracy attack=Pgd model=robust: top1=0.4±0.1".

    An interval that is not given is widened to the new value.
    """
    for part in filter(None, changes.split("; ")):
        rows, _, values = part.partition(": ")
        table, *where = rows.split()
        found: dict[str, object] = {}
        for value in values.split():
            name, _, text = value.partition("=")
            middle, interval, arm = text.partition("±")
            found[name] = middle
            if interval:
                ends = around(float(middle), float(arm), "" if name in ("mean", "share") else name)
                found |= {end: ends[end] for end in list(ends)[1:]}
        wanted = dict(key.split("=") for key in where)
        put(run, table, wanted, **found)
        change(run, table, functools.partial(widen, wanted, found))


def widen(wanted: dict[str, str], values: dict[str, Any], row: dict[str, Any]) -> None:
    """Move an end of an interval, if a row's new value lies beyond it, to that value."""
    for name, value in values.items() if wanted.items() <= row.items() else ():
        stem = name.removesuffix("mean") and f"{name}_"
        for end, outer in ((f"{stem}low", min), (f"{stem}high", max)):
            if row.get(end):
                row[end] = outer(float(row[end]), float(value))


def copied(run: Path, folder: Path) -> Path:
    """A run that may be changed, without pictures, of which sections know only the names."""
    shutil.copytree(run / "results", folder / "results")
    shutil.copy(run / "run.json", folder)
    return folder


def remove(run: Path, *tables: str) -> None:
    for name in tables:
        (run / "results" / f"{name}.csv").unlink()


def texts(section: Section) -> list[str]:
    found = [finding.claim for finding in section.findings]
    found += [finding.note for finding in section.findings if finding.note]
    found += [block.caption for block in section.blocks if hasattr(block, "caption")]
    found += [block.alt for block in section.blocks if isinstance(block, FigureBlock)]
    return [*found, *(term.meaning for term in section.terms)]


def cells(block: TableBlock) -> list[dict[str, str]]:
    return [{c.header: c.cell(row) for c in block.columns} for row in block.rows]


def estimate(row: Mapping[str, str], name: str = "", n: str = "n") -> Estimate:
    """That of a row as text: the columns `name` and its ends, or mean, low and high."""
    value, *ends = (name, f"{name}_low", f"{name}_high") if name else ("mean", "low", "high")
    low, high = (float(row[end]) if row[end] else None for end in ends)
    return Estimate(value=float(row[value]), low=low, high=high, n=int(row[n]))


def number(x: float) -> str:
    """Three significant digits, derived a second time."""
    if abs(x) < 5e-5:
        return "0.0000"
    digits = 2 - math.floor(math.log10(abs(x)))
    return f"{x:.{max(digits, 0)}f}"


def in_words(found: Estimate) -> str:
    """A value and its interval, derived a second time."""
    if found.low is None or found.high is None:
        return number(found.value)
    to = "–" if found.low >= 0 else " to "
    return f"{number(found.value)} ({number(found.low)}{to}{number(found.high)})"
