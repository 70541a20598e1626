"""Convert the values of TOML files to settings."""

import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from advlens.errors import SettingsError
from advlens.settings.models import ModelSettings
from advlens.settings.numbers import parse_number
from advlens.words import perhaps

Settings = TypeVar("Settings", bound=ModelSettings)


def settings_from(kind: type[Settings], values: Mapping[str, object], origin: str) -> Settings:
    """The settings with a file's values; the others have their defaults.

    Args:
        kind: a dataclass of settings.
        values: values by key, as TOML gives them; a number may be a text such as "4/255", and
            "auto" stands for None.
        origin: the source of the values, for error messages.

    Raises:
        SettingsError: a key is unknown, or a value has the wrong type or range; the message names
            the origin and the key.
    """
    hints = typing.get_type_hints(kind)
    given: dict[str, Any] = {}
    for name, value in values.items():
        key = name.replace("-", "_")
        if key not in hints:
            raise SettingsError(f"{origin}: there is no setting named {key}{perhaps(key, hints)}")
        try:
            given[key] = _number(value, hints[key])
        except ValueError as error:
            raise SettingsError(f"{origin}: {key}: {error}") from None
    try:
        return kind(**given)
    except SettingsError as error:
        raise SettingsError(f"{origin}: {error}") from error


def _number(value: Any, kind: Any) -> Any:
    """A value as a number if its type allows one; any other value unchanged.

    Raises:
        ValueError: the text is not a number.
    """
    parts = typing.get_args(kind)
    if isinstance(value, list):
        inner = next((part for part in (kind, *parts) if typing.get_origin(part) is tuple), None)
        return value if inner is None else [_number(v, typing.get_args(inner)[0]) for v in value]
    if float not in (kind, *parts) or isinstance(value, bool):
        return value
    if value == "auto" and type(None) in parts:
        return None
    if isinstance(value, str):
        return parse_number(value)
    return float(value) if isinstance(value, int) else value
