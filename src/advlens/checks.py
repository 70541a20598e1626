"""Checks of the types and limits of settings.

Each check says in one sentence what a setting must be and what it is. The sentence begins with the
name of the settings' class, or with `where`. Types matter because Python would, for example, take a
string for a tuple of letters.
"""

import contextlib
import math
import operator
from collections.abc import Sequence
from dataclasses import fields
from numbers import Integral, Real
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypedDict, Union, Unpack, get_args, get_origin, get_type_hints

from advlens.errors import SettingsError

Precision = Literal["float32", "bf16"]
"""The precision of a step's passes; what is measured is float32."""
WORDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "a string",
    Path: "a path",
    type(None): "None",
}
SIGNS: dict[str, tuple[Any, str]] = {
    "above": (operator.gt, ">"),
    "least": (operator.ge, "≥"),
    "below": (operator.lt, "<"),
    "most": (operator.le, "≤"),
}
PLAIN = (str, bytes, int, float, tuple, list, dict, set, type(None))


class Limits(TypedDict, total=False):
    """Where a number lies."""

    above: float
    least: float
    below: float
    most: float


def check_number(name: str, value: float, **limits: Unpack[Limits]) -> None:
    """Refuse a value that is not a finite number within the limits."""
    signs = [(*SIGNS[key], limit) for key, limit in limits.items()]
    if math.isfinite(value) and all(holds(value, limit) for holds, _, limit in signs):
        return
    wanted = "a finite number " + " and ".join(f"{sign} {limit:g}" for _, sign, limit in signs)
    wanted = "a positive number" if limits == {"above": 0} else wanted
    raise SettingsError(f"{name} must be {wanted}, not {value}")


def check_numbers(
    settings: object, *names: str, where: str | None = None, **limits: Unpack[Limits]
) -> None:
    """Refuse a setting that is neither None nor a finite number within the limits."""
    for name in names:
        value = getattr(settings, name)
        if value is not None:
            check_number(f"{_start(settings, where)}{name}", value, **limits)


def check_positive(settings: object, *names: str, where: str | None = None) -> None:
    """Refuse a setting that is neither None nor a finite number > 0."""
    check_numbers(settings, *names, where=where, above=0)


def check_seed(settings: Any, *, where: str | None = None) -> None:
    """Refuse a seed that is not 0 … 2⁶³ − 1."""
    if not 0 <= settings.seed < 2**63:
        start, seed = _start(settings, where), settings.seed
        raise SettingsError(f"{start}seed must be a whole number ≥ 0 and < 2⁶³, not {seed}")


def check_types(settings: Any, *, where: str | None = None) -> None:
    """Refuse a setting whose type differs from its field's; lists become tuples, strings paths.

    Args:
        settings: a dataclass.
        where: what the sentence begins with.

    Raises:
        SettingsError: a setting has the wrong type; the message names it and what it may be.
    """
    hints = get_type_hints(type(settings))
    for field in fields(settings):
        value = getattr(settings, field.name)
        try:
            fitted = _fitted(value, hints[field.name])
        except TypeError as error:
            name = f"{_start(settings, where)}{field.name}"
            raise SettingsError(f"{name} must be {error}, not {value!r}") from None
        object.__setattr__(settings, field.name, fitted)


def _start(settings: object, where: str | None) -> str:
    where = type(settings).__name__ if where is None else where
    return f"{where}: " if where else ""


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


def check_path(named: str, path: Path, kind: Literal["file", "folder"], mend: str = "") -> None:
    """Raise SettingsError if a path, named in words such as "synsets names the file", is no such.

    Args:
        named: the words before the path.
        path: the path.
        kind: what it must be.
        mend: what to give instead of the other kind, if the kind alone does not say it.
    """
    if path.is_file() if kind == "file" else path.is_dir():
        return
    other = "folder" if kind == "file" else "file"
    fault = f"is a {other}; give {mend or f'a {kind}'}" if path.exists() else "does not exist"
    raise SettingsError(f"{named} {path}, which {fault}")
