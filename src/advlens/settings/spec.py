"""A method with its settings in one string, such as `foolbox:LinfPGD(epsilon=8/255, steps=10)`."""

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from advlens.errors import SettingsError
from advlens.settings.numbers import parse_number

LONGEST = 1000
DOTTED = re.compile(r"""'[^']*'|"[^"]*"|(?<![\w.])([A-Za-z_]\w*(?:\.\w+)+)""")
"""Quoted texts; or, as a group, dotted words, which Python would parse otherwise."""


@dataclass(frozen=True)
class MethodSpec:
    """A parsed method string.

    Attributes:
        library: the part before the colon: a library, or the module of the user's own class; empty
            for a method of advlens.
        name: the method's name.
        settings: texts, numbers, truth values, None and tuples of them, by name.
    """

    library: str
    name: str
    settings: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.library}:{self.name}" if self.library else self.name

    def said(self, *leave_out: str) -> str:
        """The method with its settings, except for some."""
        others = ", ".join(f"{k}={v}" for k, v in self.without(*leave_out).items())
        return f"{self}({others})" if others else str(self)

    def without(self, *names: str) -> dict[str, Any]:
        """The settings, except for these."""
        return {key: value for key, value in self.settings.items() if key not in names}


def parse_method(text: str) -> MethodSpec:
    """Parse `library:Name(setting=value, …)`; the library and the parentheses are optional.

    A value is a number (also a fraction such as 8/255), a quoted text, an unquoted text if it is
    one word or a layer's name such as stages.0, True, False, None, or a tuple of such values.
    Nothing is ever evaluated.

    Raises:
        SettingsError: the string does not have this form.
    """
    if not isinstance(text, str):
        raise SettingsError(
            f"a method is named by a string such as 'Pgd(norm=L2, epsilon=.5)', not {text!r}"
        )
    match = re.fullmatch(r"\s*(?:([\w.]+)\s*:)?\s*(\w+)\s*(\(.*\))?\s*", text, re.DOTALL)
    if match is None or len(text) > LONGEST:
        raise _refused(text, "it is not of the form library:Name(setting=value, …)")
    library, name, settings = match.groups(default="")
    settings = DOTTED.sub(lambda word: repr(word[1]) if word[1] else word[0], settings)
    try:
        call = ast.parse(f"_{settings or '()'}", mode="eval").body
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name)):
            raise ValueError("there is more than one pair of parentheses")
        if call.args:
            raise ValueError(f"{ast.unparse(call.args[0])} has no name, as in steps=10")
        keys = [str(word.arg) for word in call.keywords]
        if len(set(keys)) < len(keys) or "None" in keys:
            raise ValueError("a setting is given twice, or is not setting=value")
        return MethodSpec(library, name, {str(w.arg): _value(w.value) for w in call.keywords})
    except SyntaxError as error:
        raise _refused(text, f"{error.msg}; write settings as steps=10, epsilon=8/255") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise _refused(text, str(error)) from error


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=bool() | int() | float() | str() | None as value):
            return value
        case ast.Name():
            return node.id
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.BinOp(op=ast.Div()):
            return parse_number(ast.unparse(node))
        case ast.Tuple() | ast.List():
            return tuple(_value(part) for part in node.elts)
    raise ValueError(f"{ast.unparse(node)} is not a number, text or tuple of them")


def _refused(text: str, reason: str) -> SettingsError:
    return SettingsError(
        f"{text[:100]!r} names no method such as 'foolbox:LinfPGD(epsilon=8/255, steps=10)': "
        f"{reason}"
    )
