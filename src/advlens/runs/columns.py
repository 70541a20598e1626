"""Columns that several tables of a run share, and what a table is."""

from typing import Any, NamedTuple

Columns = dict[str, tuple[Any, str]]
"""For each column, its type, such as str or float | None, and its meaning."""
OPEN = float | None


class Table(NamedTuple):
    """The contents of a table.

    Attributes:
        meaning: the meaning of a row.
        columns: the columns in any order; a column's type allows None if a cell may be empty.
        later: columns that runs of earlier versions lack; they are read as empty.
    """

    meaning: str
    columns: Columns
    later: tuple[str, ...] = ()

    @property
    def types(self) -> dict[str, Any]:
        """The type of each column."""
        return {name: kind for name, (kind, _) in self.columns.items()}


def interval(name: str, of: str, kind: Any = float, *, ends: Any = None, mean: str = "") -> Columns:
    """A value and the ends of its 95 % interval, which may be empty even if the value is not."""
    return {
        name + mean: (kind, of),
        f"{name}_low": (ends or kind, "its 95 % interval, lower end"),
        f"{name}_high": (ends or kind, "its 95 % interval, upper end"),
    }


MODEL: Columns = {"model": (str, "the model's name in the run")}
LAYER: Columns = MODEL | {"layer": (str, "the layer's dotted name")}
UNIT: Columns = LAYER | {"unit": (int, "the unit's number, from 0")}
ATTACK: Columns = {
    "attack": (str, "the attack, or natural"),
    "norm": (str, "Linf or L2; empty where there is none"),
    "epsilon": (OPEN, "the radius, of pixels in [0, 1]; the largest of several; empty without"),
    "steps": (int, "gradient steps"),
}
PREDICTED: Columns = (
    MODEL | ATTACK | {"settings": (str, "settings of the attack that are not its defaults")}
)
SET: Columns = {"attacked": (str | None, "the set of attacked images, as in consistency.csv")}
NAMED = "your choice"
"""Why a unit is shown that the user named."""
MEAN: Columns = {
    "mean": (float, "the mean"),
    "low": (OPEN, "its 95 % interval, lower end"),
    "high": (OPEN, "its 95 % interval, upper end"),
}
N: Columns = {"n": (int, "number of images behind it")}
DIFFERENCE: Columns = {
    "difference": (float, "the first value less the second"),
    "low": (float, "its 95 % interval, lower end"),
    "high": (float, "its 95 % interval, upper end"),
    "p": (float, "the probability of such a difference between equals"),
    "p_holm": (float, "p corrected for all comparisons of this table (Holm 1979)"),
    **N,
}
RANK: Columns = {"rank": (int, "rank, from 0")}
FILE: Columns = {"file": (str, "the picture, relative to the run folder")}
CLASSES: Columns = {
    "label": (str, "the image's class"),
    "predicted": (str, "the class that the model predicts"),
}
FRAMED: Columns = {
    "framed": (bool, "whether the predicted class is near the unit's real images"),
    **FILE,
    "map": (str, "the picture of its discrepancy map, or empty"),
}
ACCURACY: Columns = (
    MODEL
    | ATTACK
    | interval("top1", "share of images predicted right")
    | {"top5": (OPEN, "share with the label among the five highest; empty where not counted")}
    | N
    | {
        "draws": (int | None, "fresh passes of a randomized model; else empty"),
        "top1_spread": (OPEN, "standard deviation of top1 over draws"),
        "settings": (str, "settings of the attack that are not its defaults"),
    }
)
MEASURES = {
    "lc": "how alike the classes are of the real images to which the unit responds most",
    "consis_adv": "the same of the adversarial images",
    "cs1": "similarity of its real and its adversarial images",
    "cs2": "similarity of its real images and the targets of the adversarial ones",
}
"""Measures of consistency and their meanings."""
TERMS = (
    "natural_loss",
    "natural_accuracy",
    "adversarial_loss",
    "adversarial_accuracy",
    "distance",
    "divergence",
)
"""Terms that an objective may record for the training images of an epoch."""
