"""Plots of a run: plain functions from rows to a matplotlib `Figure`, and how figures are saved."""

from advlens.figures.accuracy import accuracy_dots, accuracy_sweep
from advlens.figures.dissection import (
    CONCEPTS,
    category_shares,
    concept_bars,
    shares_by_threshold,
)
from advlens.figures.heatmaps import AGAINST, FOR, heat_map
from advlens.figures.measures import measure_panels
from advlens.figures.neurons import (
    FEW,
    consistency_by_depth,
    consistency_curves,
    consistency_histograms,
)
from advlens.figures.pictures import abreast, picture_rows, unit_grid
from advlens.figures.style import NARROW, WIDTH, category_order, colors, dark, save_figure, svg
from advlens.figures.training import training_curves

__all__ = [
    "AGAINST",
    "CONCEPTS",
    "FEW",
    "FOR",
    "NARROW",
    "WIDTH",
    "abreast",
    "accuracy_dots",
    "accuracy_sweep",
    "category_order",
    "category_shares",
    "colors",
    "concept_bars",
    "consistency_by_depth",
    "consistency_curves",
    "consistency_histograms",
    "dark",
    "heat_map",
    "measure_panels",
    "picture_rows",
    "save_figure",
    "shares_by_threshold",
    "svg",
    "training_curves",
    "unit_grid",
]
