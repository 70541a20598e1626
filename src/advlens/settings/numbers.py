"""Numbers in settings: how they are written, read and checked."""

from collections.abc import Sequence
from typing import Annotated

from tyro.conf import arg
from tyro.constructors import PrimitiveConstructorSpec

DRAWS = 10
"""Default passes of a randomized model: a single pass would be an accident."""


def parse_number(text: str) -> float:
    """A number written as 0.0157 or as 4/255.

    Raises:
        ValueError: the text is neither.
    """
    numerator, slash, denominator = text.partition("/")
    try:
        return float(numerator) / float(denominator if slash else 1)
    except (ValueError, ZeroDivisionError):
        raise ValueError(f"{text!r} is not a number such as 0.0157 or 4/255") from None


def show_number(value: float | None) -> str:
    """The shorter of the two ways to write a radius; "auto" for None."""
    if value is None:
        return "auto"
    steps = value * 255
    return (
        f"{round(steps)}/255"
        if steps and abs(steps - round(steps)) < 1e-9 and value < 1
        else f"{value:g}"
    )


def several(value: float | tuple[float, ...] | None) -> tuple[float, ...]:
    """One radius or several as a tuple; none for auto."""
    return () if value is None else value if isinstance(value, tuple) else (value,)


def _one_or_several(words: Sequence[str]) -> float | tuple[float, ...] | None:
    if [*words] == ["auto"]:
        return None
    numbers = tuple(map(parse_number, words))
    return numbers[0] if len(numbers) == 1 else numbers


Radius = Annotated[
    float,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="NUMBER",
        instance_from_str=lambda words: parse_number(words[0]),
        is_instance=lambda value: isinstance(value, float),
        str_from_instance=lambda value: [show_number(value)],
    ),
]
AutoRadius = Annotated[
    float | None,
    PrimitiveConstructorSpec(
        nargs=1,
        metavar="NUMBER|auto",
        instance_from_str=lambda words: None if words[0] == "auto" else parse_number(words[0]),
        is_instance=lambda value: value is None or isinstance(value, float),
        str_from_instance=lambda value: [show_number(value)],
    ),
]
AutoRadii = Annotated[
    float | tuple[float, ...] | None,
    PrimitiveConstructorSpec(
        nargs="+",
        metavar="NUMBER …|auto",
        instance_from_str=lambda words: _one_or_several(words),
        is_instance=lambda value: value is None or isinstance(value, float | tuple),
        str_from_instance=lambda value: [*map(show_number, several(value))] or ["auto"],
    ),
]
NoHint = arg(help_behavior_hint="")
"""For settings with default None: the help says in words what that means."""
Range = Annotated[
    tuple[float, float] | None,
    NoHint,
    PrimitiveConstructorSpec(
        nargs=2,
        metavar="LOW HIGH",
        instance_from_str=lambda words: (parse_number(words[0]), parse_number(words[1])),
        is_instance=lambda value: value is None or isinstance(value, tuple),
        str_from_instance=lambda value: [show_number(v) for v in value or (None, None)],
    ),
]
