"""Columns that several tables of a run share, their types, and what a table is."""

import functools
import math
import types
import typing
from typing import Any, Literal, NamedTuple


class Count(int):
    """Type of a column of whole numbers that count or number something, from 0."""

    low, high = 0, 2**31 - 1


class Some(Count):
    """Type of a column of counts that are at least 1."""

    low = 1


class Image(Count):
    """Type of a column of images' numbers in the run's data."""


class Amount(float):
    """Type of a column of numbers that are not negative."""

    low, high = 0, math.inf


class Share(Amount):
    """Type of a column of numbers from 0 to 1."""

    high = 1


class Digits(str):
    """Type of a column of texts in which each character is 0 or 1."""


class Numbers(str):
    """Type of a column of texts of numbers, nan among them, with spaces between them."""


Made = Literal["generated", "start", "real"]
"""Images that a class generation is about."""

Columns = dict[str, tuple[Any, str]]
"""For each column, its type, such as str, Share or float | None, and its meaning."""
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


def written(value: Any) -> str:
    """A value as the text of a cell: floats with six digits, truth values in lower case."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    return "" if value is None else str(value)


def is_float(kind: Any) -> bool:
    """Whether a column of a type holds floats, and empty cells if it may."""
    parts = typing.get_args(kind) or (kind,)
    return any(isinstance(part, type) and issubclass(part, float) for part in parts)


def parsed(text: str, kind: Any) -> Any:
    """The value of a cell in a column of a type.

    Raises:
        ValueError: the text is no such value; the message gives the reason.
    """
    kind, options, optional = _split(kind)
    if optional and text == "":
        return None
    if options:
        if text not in options:
            raise ValueError(f"not {' or '.join(map(repr, options))}")
        return text
    if issubclass(kind, str):
        if kind is Digits and text.strip("01"):
            raise ValueError("not zeros and ones")
        for word in text.split() if kind is Numbers else ():
            _number(word)
        return text
    if kind is bool:
        if text not in ("true", "false"):
            raise ValueError("not true or false")
        return text == "true"
    value = _number(text)
    if not math.isfinite(value):
        raise ValueError("not finite")
    whole = issubclass(kind, int)
    if whole and not (value.is_integer() and abs(value) < 2**53):
        raise ValueError("not a whole number")
    if value < getattr(kind, "low", -math.inf):
        raise ValueError(f"less than {kind.low}")
    if value > getattr(kind, "high", math.inf):
        raise ValueError(f"more than {kind.high:,}")
    return int(value) if whole else value


@functools.cache
def _split(kind: Any) -> tuple[Any, tuple[Any, ...], bool]:
    """A type without None, the texts that it names, and whether a cell may be empty."""
    optional = types.NoneType in typing.get_args(kind)
    if optional:
        kind = next(option for option in typing.get_args(kind) if option is not types.NoneType)
    return kind, typing.get_args(kind), optional


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("not a number") from None


MODEL: Columns = {"model": (str, "the model's name in the run")}
LAYER: Columns = MODEL | {"layer": (str, "the layer's dotted name")}
UNIT: Columns = LAYER | {"unit": (Count, "the unit's number, from 0")}
ATTACK: Columns = {
    "attack": (str, "the attack, or natural"),
    "norm": (str, "Linf or L2; empty where there is none"),
    "epsilon": (
        Amount | None,
        "the radius, of pixels in [0, 1]; the largest of several; empty without",
    ),
    "steps": (Count, "gradient steps"),
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
N: Columns = {"n": (Some, "number of images behind it")}
DIFFERENCE: Columns = {
    "difference": (float, "the first value less the second"),
    "low": (float, "its 95 % interval, lower end"),
    "high": (float, "its 95 % interval, upper end"),
    "p": (Share, "the probability of such a difference between equals"),
    "p_holm": (Share, "p corrected for all comparisons of this table (Holm 1979)"),
    **N,
}
RANK: Columns = {"rank": (Count, "rank, from 0")}
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
    | interval("top1", "share of images predicted right", Share)
    | {
        "top5": (
            Share | None,
            "share with the label among the five highest; empty where not counted",
        )
    }
    | N
    | {
        "draws": (Count | None, "fresh passes of a randomized model; else empty"),
        "top1_spread": (Amount | None, "standard deviation of top1 over draws"),
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
