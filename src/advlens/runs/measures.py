"""The measures of attributions: what they are called, which values are better, what they mean."""

import math
from typing import Literal, NamedTuple


class Measure(NamedTuple):
    """A measure in words and numbers."""

    title: str
    adjective: str
    """Of attributions that are better by it."""
    better: Literal["higher", "lower", ""] = ""
    range: tuple[float, float] = (-math.inf, math.inf)
    """The least and the largest value that it can have."""
    meaning: str = ""
    claimed: bool = True
    """Whether it says something about a model; the completeness gap is about the computation."""


ATTRIBUTIONS = {
    "insertion": Measure(
        "Insertion",
        "more faithful by insertion",
        "higher",
        (0.0, 1.0),
        "Pixels are put into an image without content, the most important first. The area under "
        "the curve of the class's probability is large where the attribution is right about what "
        "matters. A confident model's is larger, so random attributions stand beside it.",
    ),
    "deletion": Measure(
        "Deletion",
        "more faithful by deletion",
        "lower",
        (0.0, 1.0),
        "The same with pixels taken out of the whole image: small where the attribution is right.",
    ),
    "variation": Measure(
        "Total variation",
        "smoother",
        "lower",
        (0.0, math.inf),
        "How much neighboring pixels differ, in a map whose sizes sum to 1: low for a smooth map, "
        "near 4 where every pixel stands alone.",
    ),
    "sparseness": Measure(
        "Sparseness",
        "sparser",
        "higher",
        (0.0, 1.0),
        "The Gini index of a map's sizes: 0 where all pixels matter alike, near 1 where few hold "
        "everything.",
    ),
    "stability": Measure(
        "Instability",
        "more stable",
        "lower",
        (0.0, math.inf),
        "How far the attribution moves, relative to its length, when noise too weak to be seen is "
        "added to the image: 0 for one that stays.",
    ),
    "agreement": Measure(
        "Agreement",
        "more alike between methods",
        "higher",
        (-1.0, 1.0),
        "Rank correlation with the map of the other method: 1 where both order the pixels alike, "
        "about 0 for random maps.",
    ),
    "gap": Measure(
        "Completeness gap",
        "more complete",
        "lower",
        (0.0, math.inf),
        "The share of the score that the attributions, summed up, miss or invent. It is an error "
        "of the computation, not of the model. Its value is the median of the images.",
        claimed=False,
    ),
}
"""By their names in `attribution.csv`, in the report's order."""
