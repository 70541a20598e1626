"""A section of the report, as its tests look at it: findings by what they say and measure."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from advlens.report.blocks import FigureBlock, Finding, Measured, Section, TableBlock
from advlens.runs.results import Results
from advlens.words import Estimate, Says

BOTH = ("standard", "robust")
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

    def says(self, run: Path, measure: str) -> list[Says]:
        """What the findings say of a measure."""
        return [s for f in self.made(run).findings for s in f.says if s.measure == measure]

    def measured(self, run: Path, measure: str, model: str = "") -> Measured:
        """The estimates of a measure, of one finding."""
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


def texts(section: Section) -> list[str]:
    """Sentences of a section."""
    found = [finding.claim for finding in section.findings]
    found += [finding.note for finding in section.findings if finding.note]
    found += [block.caption for block in section.blocks if hasattr(block, "caption")]
    found += [block.alt for block in section.blocks if isinstance(block, FigureBlock)]
    return [*found, *(term.meaning for term in section.terms)]


def cells(block: TableBlock) -> list[dict[str, str]]:
    """A table's rows, by header."""
    return [{c.header: c.cell(row) for c in block.columns} for row in block.rows]


def estimate(row: Mapping[str, str], name: str = "", n: str = "n") -> Estimate:
    """That of a row as text: the columns `name` and its ends, or mean, low and high."""
    value, low, high = (
        (f"{name}", f"{name}_low", f"{name}_high") if name else ("mean", "low", "high")
    )
    ends = (float(row[end]) if row[end] else None for end in (low, high))
    return Estimate(value=float(row[value]), low=next(ends), high=next(ends), n=int(row[n]))


def higher(measure: str, one: str, other: str = "") -> Says:
    """One model is higher than another; of two, than the other one."""
    return Says(measure, (one,), "higher", (other or BOTH[one == BOTH[0]],))


def nothing(measure: str) -> Says:
    """No difference between the two models is established."""
    return Says(measure, BOTH, "open")


def number(x: float) -> str:
    """Three significant digits, derived a second time."""
    if abs(x) < 5e-5:
        return "0.0000"
    digits = 2 - math.floor(math.log10(abs(x)))
    return f"{x:.{max(digits, 0)}f}"


def around(value: float, arm: float = 0.01, name: str = "") -> dict[str, Any]:
    """Columns of a value with an interval of ± arm."""
    names = (f"{name}", f"{name}_low", f"{name}_high") if name else ("mean", "low", "high")
    return dict(zip(names, (value, value - arm, value + arm), strict=True))
