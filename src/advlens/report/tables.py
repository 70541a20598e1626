"""The tables of a run, as the sections of its report read them."""

from functools import cached_property
from typing import Any

from advlens.report.paired import Paired
from advlens.runs.results import Results, Rows


def table(name: str) -> "cached_property[Rows]":
    """An attribute of `Tables` that holds the rows of `results/<name>.csv`."""
    return cached_property(lambda tables: tables.results.table(name))


class Tables:
    """All rows of an analysis; an absent table has none."""

    differences = table("differences")
    changes = table("changes")

    def __init__(self, results: Results):
        self.results = results
        self.models = results.models

    def differing(self, **keys: Any) -> Paired:
        """The differences between models in what these columns of `differences.csv` say."""
        return Paired(self.differences.where(**keys), len(self.differences))
