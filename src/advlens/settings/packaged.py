"""Settings that are packaged as TOML files: recipes and reproductions."""

import tomllib
from importlib import resources
from typing import Any, Literal

from advlens.errors import SettingsError
from advlens.words import perhaps

Kind = Literal["recipes", "reproductions"]
VERBS = {"recipes": "train", "reproductions": "reproduce"}
DESCRIPTIVE = ("about", "source", "needs", "expected")
"""Keys that are not settings: description, source, required data, and expected results."""


def packaged_names(kind: Kind) -> list[str]:
    """The names of one kind, sorted."""
    folder = resources.files("advlens") / kind
    return sorted(
        file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")
    )


def packaged(kind: Kind, name: str) -> dict[str, Any]:
    """The content of the file with this name.

    Raises:
        SettingsError: the name does not exist.
    """
    names = packaged_names(kind)
    if name not in names:
        raise SettingsError(
            f"there is no {name!r} among the {kind}{perhaps(name, names)}; advlens "
            f"{VERBS[kind]} --list shows them"
        )
    return tomllib.loads((resources.files("advlens") / kind / f"{name}.toml").read_text("utf-8"))


def recipe_settings(name: str) -> dict[str, Any]:
    """The training settings of a recipe.

    Raises:
        SettingsError: the name does not exist.
    """
    content = packaged("recipes", name)
    return {key: value for key, value in content.items() if key not in DESCRIPTIVE}


def listed(kind: Kind) -> str:
    """A listing of one kind for people to read, with each file's description."""
    lines = []
    for name in packaged_names(kind):
        content = packaged(kind, name)
        lines.append(f"{name}: {content['about']}")
        lines += [f"    {key}: {content[key]}" for key in DESCRIPTIVE[1:] if key in content]
    return "\n".join(lines)
