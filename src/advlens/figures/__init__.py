"""Plots of a run: plain functions from rows to a matplotlib `Figure`, and how figures are saved."""

from advlens.figures.accuracy import accuracy_dots, accuracy_sweep
from advlens.figures.neurons import (
    FEW,
    consistency_by_depth,
    consistency_curves,
    consistency_histograms,
)
from advlens.figures.pictures import unit_grid
from advlens.figures.style import NARROW, WIDTH, colors, dark, save_figure, svg
from advlens.figures.training import training_curves

__all__ = [
    "FEW",
    "NARROW",
    "WIDTH",
    "accuracy_dots",
    "accuracy_sweep",
    "colors",
    "consistency_by_depth",
    "consistency_curves",
    "consistency_histograms",
    "dark",
    "save_figure",
    "svg",
    "training_curves",
    "unit_grid",
]
