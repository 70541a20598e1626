"""Measures of several models side by side, each in a panel with its own axis."""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from advlens.report.blocks import FigureBlock
from advlens.report.figures import accuracy as figures
from advlens.runs.measures import Measure
from advlens.runs.results import Rows
from advlens.words import Estimate, number


class Dots(NamedTuple):
    """The models' values of a measure in one group, such as a method, of its panel."""

    measure: Measure
    group: str
    estimates: Mapping[str, Estimate]


def panels(name: str, models: Sequence[str], dots: Iterable[Dots], caption: str) -> FigureBlock:
    """The figure `figures/<name>`, and its values as a text."""
    rows = Rows(
        {
            "panel": each.measure.name,
            "group": each.group,
            "model": model,
            "mean": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "told": f"{each.measure.title}, {each.group}, {model}: {number(estimate.value)}",
        }
        for each in dots
        for model, estimate in each.estimates.items()
    )
    return FigureBlock(
        name=name,
        draw=partial(figures.measure_panels, rows, models),
        alt=f"Dots with intervals, a panel for each measure. {'; '.join(rows.values('told'))}.",
        caption=caption,
    )
