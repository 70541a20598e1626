"""Attributions show which pixels drive a prediction; measures show how good an attribution is.

A method is a frozen set of settings, called as `method(model, images, labels) -> Attribution`.
Methods take pixels in [0, 1], run on the prepared copy of the model (evaluation mode, the model
itself untouched), work in chunks of `batch_size` whatever the number of steps, samples and images,
draw randomness per image id, and raise NumericError where the model's output or gradient is not
finite.
"""

from advlens.attribution.base import Attribution, RandomAttribution
from advlens.attribution.expected import ExpectedGradients
from advlens.attribution.integrated import IntegratedGradients
from advlens.attribution.measures import (
    Curves,
    Faithfulness,
    Stability,
    overlap,
    rank_correlation,
    sparseness,
    total_variation,
)

__all__ = [
    "Attribution",
    "Curves",
    "ExpectedGradients",
    "Faithfulness",
    "IntegratedGradients",
    "RandomAttribution",
    "Stability",
    "overlap",
    "rank_correlation",
    "sparseness",
    "total_variation",
]
