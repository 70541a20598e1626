"""Units and components that are named on a flag, with commas or spaces: `LAYER:147,LAYER:12`."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any

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


def _flag(metavar: str, parse: Callable[[Sequence[str]], Any]) -> PrimitiveConstructorSpec[Any]:
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=metavar,
        instance_from_str=parse,
        is_instance=lambda value: isinstance(value, int | tuple),
        str_from_instance=_plain,
    )


Units = Annotated[
    tuple[str, ...], NoHint, _flag("LAYER:NUMBER[,…]", lambda words: tuple(_words(words)))
]
CountOrUnits = Annotated[int | tuple[str, ...], _flag("INT|LAYER:NUMBER[,…]", _how_many_or_which)]
Components = Annotated[
    tuple[int, ...], NoHint, _flag("INT[,…]", lambda words: tuple(map(_number, _words(words))))
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
