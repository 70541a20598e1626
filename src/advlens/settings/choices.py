"""Units and components that are named on a flag, with commas or spaces: `LAYER:147,LAYER:12`."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from tyro.constructors import PrimitiveConstructorSpec

from advlens.errors import SettingsError
from advlens.settings.numbers import NoHint

UNITS = 6
"""Units that are shown where none is named."""


def _words(words: Sequence[str]) -> Iterator[str]:
    return (part for word in words for part in word.split(",") if part)


def _number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a whole number") from None


def _how_many_or_which(words: Sequence[str]) -> int | tuple[str, ...]:
    return int(words[0]) if len(words) == 1 and words[0].isdecimal() else tuple(_words(words))


def _plain(value: object) -> list[str]:
    return [*map(str, value)] if isinstance(value, tuple) else [str(value)]


Units = Annotated[
    tuple[str, ...],
    NoHint,
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="LAYER:NUMBER[,…]",
        instance_from_str=lambda words: tuple(_words(words)),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=_plain,
    ),
]
CountOrUnits = Annotated[
    int | tuple[str, ...],
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="INT|LAYER:NUMBER[,…]",
        instance_from_str=_how_many_or_which,
        is_instance=lambda value: isinstance(value, int | tuple),
        str_from_instance=_plain,
    ),
]
Components = Annotated[
    tuple[int, ...],
    NoHint,
    PrimitiveConstructorSpec(
        nargs="*",
        metavar="INT[,…]",
        instance_from_str=lambda words: tuple(map(_number, _words(words))),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=_plain,
    ),
]


def parse_unit(text: str) -> tuple[str, int]:
    """The layer and the number of a unit written as LAYER:NUMBER.

    Raises:
        SettingsError: the text has another form.
    """
    match = re.fullmatch(r"(.+):([0-9]+)", text)
    if match is None:
        raise SettingsError(
            f"units names {text!r}, which is not LAYER:NUMBER, such as layer4.1.conv2:147"
        )
    return match[1], int(match[2])


def units_by_layer(named: Sequence[str], layers: Mapping[str, int]) -> dict[str, list[int]]:
    """Those of the named units that exist, by layer, in the order named.

    Args:
        named: units as LAYER:NUMBER.
        layers: the number of units of each layer.
    """
    found: dict[str, list[int]] = {}
    for layer, unit in dict.fromkeys(map(parse_unit, named)):
        if unit < layers.get(layer, 0):
            found.setdefault(layer, []).append(unit)
    return found
