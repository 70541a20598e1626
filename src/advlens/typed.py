"""Type checks of settings: Python makes none, and would read a string as a tuple of letters."""

import contextlib
from collections.abc import Sequence
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from advlens.errors import SettingsError

WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Path: "a path",
    type(None): "None",
}
PLAIN = (str, bytes, int, float, tuple, list, dict, set, type(None))


def check_types(settings: Any, *, named: bool = True) -> None:
    """Refuse a setting whose type differs from its field's; lists become tuples, strings paths.

    Args:
        settings: a dataclass.
        named: whether the message begins with the class name.

    Raises:
        SettingsError: a setting has the wrong type; the message names it and what it may be.
    """
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        value = getattr(settings, field.name)
        try:
            fitted = _fitted(value, hints[field.name])
        except TypeError as error:
            where = f"{type(settings).__name__}: " if named else ""
            raise SettingsError(f"{where}{field.name} must be {error}, not {value!r}") from None
        object.__setattr__(settings, field.name, fitted)


def _fitted(value: Any, hint: Any) -> Any:
    """The value converted to the type.

    Raises:
        TypeError: the value has another type; the message names the required one.
    """
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        for part in parts:
            try:
                return _fitted(value, part)
            except TypeError:
                continue
    elif origin is Literal:
        if value in parts:
            return value
    elif origin is tuple:
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            kinds = parts[:1] * len(value) if parts[1:] == (...,) else parts
            with contextlib.suppress(TypeError, ValueError):
                return tuple(_fitted(each, kind) for each, kind in zip(value, kinds, strict=True))
    elif hint is Path and isinstance(value, str | Path):
        return Path(value)
    elif hint in (int, float):
        if isinstance(value, Integral if hint is int else Real) and not isinstance(value, bool):
            return value if isinstance(value, int | float) else hint(value)
    elif hint is Any or isinstance(value, origin or getattr(hint, "array_type", hint)):
        return value
    elif hint not in WORDS and origin is None and not isinstance(value, PLAIN):
        return value  # a user's own class may replace one of ours
    raise TypeError(_words(hint))


def _words(hint: Any) -> str:
    """A type in words."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(map(_words, parts))
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin is tuple:
        if parts[1:] == (...,):
            return f"a tuple, each part {_words(parts[0])}"
        return f"a tuple of {len(parts)} parts, {' and '.join(map(_words, parts))}"
    if hasattr(hint, "array_type"):  # jaxtyping's; its shape is checked where it is used
        return "a tensor"
    return WORDS.get(hint) or f"{hint.__name__}(…)"
