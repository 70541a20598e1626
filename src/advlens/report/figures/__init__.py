"""Plots of a run: plain functions from rows to a matplotlib `Figure`, and how figures are saved."""

from advlens.report.figures.accuracy import accuracy_dots, accuracy_sweep
from advlens.report.figures.dissection import (
    CONCEPTS,
    category_shares,
    concept_bars,
    shares_by_threshold,
)
from advlens.report.figures.measures import measure_panels
from advlens.report.figures.neurons import (
    FEW,
    consistency_by_depth,
    consistency_curves,
    consistency_histograms,
)
from advlens.report.figures.pictures import abreast, picture_rows, unit_grid, unit_grids
from advlens.report.figures.predictions import confusions, reliability
from advlens.report.figures.style import (
    NARROW,
    WIDTH,
    category_order,
    colors,
    dark,
    save_figure,
    svg,
)
from advlens.report.figures.training import training_curves

__all__ = [
    "CONCEPTS",
    "FEW",
    "NARROW",
    "WIDTH",
    "abreast",
    "accuracy_dots",
    "accuracy_sweep",
    "category_order",
    "category_shares",
    "colors",
    "concept_bars",
    "confusions",
    "consistency_by_depth",
    "consistency_curves",
    "consistency_histograms",
    "dark",
    "measure_panels",
    "picture_rows",
    "reliability",
    "save_figure",
    "shares_by_threshold",
    "svg",
    "training_curves",
    "unit_grid",
    "unit_grids",
]
