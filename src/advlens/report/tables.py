"""The tables of a run, as the sections of its report read them."""

from collections.abc import Collection
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

    def paired(self, models: Collection[str], **keys: Any) -> Paired:
        """The differences between these models in what columns of `differences.csv` say."""
        return Paired.of(self.differences, models, **keys)
