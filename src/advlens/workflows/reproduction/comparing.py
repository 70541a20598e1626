"""The paper's values beside ours, and whether ours stand in the paper's order."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from advlens.errors import RunError
from advlens.intervals import holm, two_sample, wilson
from advlens.report.paired import SIGNIFICANT
from advlens.runs.results import Rows
from advlens.runs.tables import Row
from advlens.settings import parse_number
from advlens.wordnet import distance
from advlens.words import Estimate, attack_name, count, percent
from advlens.workflows.reproduction.content import Entry, Wanted
from advlens.workflows.reproduction.work import Audited

Runs = Mapping[str, Audited]
"""The finished audits by name."""
HOLDS, REVERSED = "holds here", "does not hold here"


@dataclass(frozen=True, kw_only=True)
class Order:
    """Two models of which the first has the higher value in the paper, and our difference.

    Attributes:
        what: the value.
        models: their labels.
        difference: our value of the first less that of the second.
        low, high: its 95 % interval, if there is one.
        p: the probability of such a difference between equals, corrected for the number of tests.
        n: the number behind it, and what it counts, such as "200" or "256 units".
        how: what was compared, and how.
        paired: by a test on the same images, which the audit has done and corrected.
    """

    what: str
    models: tuple[str, str]
    difference: float
    low: float | None = None
    high: float | None = None
    p: float | None = None
    n: str
    how: str
    paired: bool = False

    @property
    def verdict(self) -> str:
        """Whether the order holds here; neither is said unless it is established."""
        if self.p is None:
            return "cannot be told without an interval"
        if self.p >= SIGNIFICANT:
            return f"cannot be told with n = {self.n}"
        return HOLDS if self.difference > 0 else REVERSED

    def row(self, entry: str) -> Row:
        """Its columns in `results/reproduction_orders.csv`."""
        return {
            "entry": entry,
            "what": self.what,
            "higher": self.models[0],
            "lower": self.models[1],
            "verdict": self.verdict,
            "difference": self.difference,
            "low": self.low,
            "high": self.high,
            "p": self.p,
            "how": self.how,
        }


def compared(entry: Entry, runs: Runs) -> list[Row]:
    """The paper's values and ours, for each value and each of its models that was audited.

    Raises:
        RunError: the results hold no such row, or several.
    """
    rows: list[Row] = []
    for wanted in entry.rows:
        for label, paper in wanted.papers.items():
            named = {"entry": entry.name, "what": wanted.what, "model": label, "paper": paper}
            if wanted.wordnet:
                ours = Estimate.only(distance(*wanted.wordnet), 0)
            elif wanted.audit in runs and (not label or label in runs[wanted.audit].names):
                found = _found(wanted, label, wanted.where, runs)
                ours = _estimate(wanted, found)
            else:
                continue
            scale = 100 if wanted.percent else 1
            ends = [math.nan if end is None else end * scale for end in (ours.low, ours.high)]
            value = {"ours": ours.value * scale, "low": ends[0], "high": ends[1]}
            counted = {"n": ours.n or None, "counted": "images" if wanted.n == "n" else wanted.n}
            rows.append(named | value | counted)
    return rows


def conditions(entry: Entry, runs: Runs) -> list[str]:
    """How ours were measured, in words such as "steps: 100"; the same of all models once."""
    told, audited = entry.conditions, runs.get(entry.audit)
    if told is None or audited is None:
        return []
    names = {audited.names[one] for one in entry.needs()[entry.audit] if one in audited.names}
    rows = audited.table(told.table)
    where = {key: _present(value, key, rows) for key, value in told.where.items()}
    mine = [row for row in rows if row["model"] in names and _holds(row, where)]
    values = {column: [_told(row, column) for row in mine] for column in told.columns}
    return [
        f"{column.replace('_', ' ')}: {', '.join(texts)}"
        for column, found in values.items()
        if (texts := [*filter(None, dict.fromkeys(found))])
    ]


def _told(row: Row, column: str) -> str:
    value = row[column]
    if value is None or column == "attack":
        return attack_name(row) if value else ""
    if column == "success":
        return percent(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def orders(entry: Entry, runs: Runs) -> list[Order]:
    """For each value the paper's order of its models, neighbor by neighbor.

    Differences on the same images are those of the audit; the p of others are corrected for their
    number in this entry (Holm 1979). Models that the paper has equal have no order.
    """
    made = [
        _order(wanted, pair, runs)
        for wanted in entry.rows
        if wanted.ordered and wanted.audit in runs
        for group in entry.compare or [list(wanted.papers)]
        for pair in _pairs(wanted, group, runs)
    ]
    corrected = iter(holm([o.p for o in made if o.p is not None and not o.paired]))
    return [
        order if order.p is None or order.paired else dataclasses.replace(order, p=next(corrected))
        for order in made
    ]


def _pairs(wanted: Wanted, group: Sequence[str], runs: Runs) -> list[tuple[str, str]]:
    """Models of a group with a value of ours, each with the next lower one in the paper."""
    papers, names = wanted.papers, runs[wanted.audit].names
    mine = [one for one in group if one in papers and one in names]
    mine.sort(key=lambda label: -papers[label])
    ours = {one: _estimate(wanted, _found(wanted, one, wanted.where, runs)) for one in mine}
    known = [one for one in mine if not math.isnan(ours[one].value)]
    return [(a, b) for a, b in pairwise(known) if papers[a] > papers[b]]


def _order(wanted: Wanted, pair: tuple[str, str], runs: Runs) -> Order:
    """Our difference of two models, paired where the audit has that."""
    scale = 100 if wanted.percent else 1
    audited = runs[wanted.audit]
    first, second = (audited.names[label] for label in pair)
    rows = audited.table("differences") if wanted.paired else Rows()
    paired = {key: _present(value, key, rows) for key, value in wanted.paired.items()}
    for row in rows:
        sign = {(first, second): 1, (second, first): -1}.get((row["model"], row["other"]), 0)
        if sign and _holds(row, paired):
            low, high = sorted((sign * scale * row["low"], sign * scale * row["high"]))
            return Order(
                what=wanted.what,
                models=pair,
                difference=sign * scale * row["difference"],
                low=low,
                high=high,
                p=row["p_holm"],
                n=count(row["n"]),
                how="on the same images",
                paired=True,
            )
    by, change = next(iter(wanted.decided_by.items()), ("", {}))
    where = {**wanted.where, **change}
    one, two = (_estimate(wanted, _found(wanted, label, where, runs)) for label in pair)
    told = Order(
        what=wanted.what,
        models=pair,
        difference=scale * (one.value - two.value),
        n=f"{count(min(one.n, two.n))}{'' if wanted.n == 'n' else f' {wanted.n}'}",
        how=f"by {by} and its intervals" if by else "by the two intervals",
    )
    if one.low is None or one.high is None or two.low is None or two.high is None:
        return told
    _, low, high, p = two_sample((one.value, one.low, one.high), (two.value, two.low, two.high))
    return dataclasses.replace(told, low=scale * low, high=scale * high, p=p)


def _found(wanted: Wanted, label: str, where: Mapping[str, Any], runs: Runs) -> Row | None:
    """Our row for a model, or the first model's if none is named; None if the data lack it."""
    audited = runs[wanted.audit]
    rows = audited.table(wanted.table)
    where = {key: _present(value, key, rows) for key, value in where.items()}
    if rows and None in where.values():
        return None
    name = audited.names[label] if label else rows[0]["model"] if rows else ""
    fits = [row for row in rows if row["model"] == name and _holds(row, where)]
    if len(fits) != 1:
        path = audited.results.run / "results" / f"{wanted.table}.csv"
        raise RunError(
            f"{path} has {len(fits)} rows for {name} with {where}; remove {audited.results.run} "
            "and start again"
        )
    return fits[0]


def _present(value: Any, column: str, rows: Rows) -> Any:
    """The first of some values that the column of any row holds, or None."""
    values = value if isinstance(value, list) else [value]
    return next((v for v in values if any(_same(row[column], v) for row in rows)), None)


def _holds(row: Row, where: Mapping[str, Any]) -> bool:
    return all(_same(row[key], value) for key, value in where.items())


def _same(cell: Any, wanted: Any) -> bool:
    """Whether a cell holds a value: as it is, or as a number up to the digits of a table."""
    if cell == wanted:
        return True
    try:
        wanted = parse_number(wanted) if isinstance(wanted, str) else wanted
        return math.isclose(cell, wanted, rel_tol=1e-4)
    except (TypeError, ValueError):
        return False


def _estimate(wanted: Wanted, row: Row | None) -> Estimate:
    """Our value; NaN if there is none. A share without an interval gets Wilson's."""
    if row is None or row[wanted.column] is None:
        return Estimate.only(math.nan, 0 if row is None else row[wanted.n])
    if f"{wanted.column}_low" in row or "low" in row:
        return Estimate.of(row, wanted.column, wanted.n)
    value, n = row[wanted.column], row[wanted.n]
    if not wanted.percent:
        return Estimate.only(value, n)
    low, high = wilson(round(value * n), n)
    return Estimate(value=value, low=low, high=high, n=n)
