"""User additions: analyses of installed packages, and users' own classes and functions by name."""

import contextlib
import importlib
import os
import pkgutil
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from advlens.errors import SettingsError

_others: set[str] = set()
"""Packages and modules of others that have been requested."""


@dataclass(frozen=True)
class Family:
    """Functions that analyses add in one place: stages to the audit, or sections to the report.

    Each file of the folder defines one, under its name; so does an entry point of an installed
    package.

    Attributes:
        folder: a folder in the package.
        function: the function that each file of the folder defines.
        group: the group of entry points, each of which names such a function.
        first: names that come first, in this order; all others follow in alphabetical order.
    """

    folder: str
    function: str
    group: str
    first: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all of them, in order.

        Raises:
            SettingsError: two have the same name.
        """
        return tuple(_sources(self))

    def load(self, name: str) -> Any:
        """The function with this name.

        Raises:
            SettingsError: the package that provides it fails to load.
        """
        source = _sources(self)[name]
        if source.dist is None:
            return source.load()
        _others.add(source.module.partition(".")[0])
        try:
            return source.load()
        except Exception as error:  # the code of others can raise anything
            raise SettingsError(
                f"{source.dist.name} brings {name!r} ({self.group}: {source.value}), which cannot "
                f"be loaded: {type(error).__name__}: {error}; fix that package, or uninstall it"
            ) from error


@cache
def _sources(family: Family) -> dict[str, EntryPoint]:
    root = Path(__file__).parent
    modules = [module.name for module in pkgutil.iter_modules([str(root / family.folder)])]
    package = ".".join((root.name, *Path(family.folder).parts))
    sources = [EntryPoint(m, f"{package}.{m}:{family.function}", family.group) for m in modules]
    sources += entry_points(group=family.group)
    places = {name: place for place, name in enumerate(family.first)}
    known: dict[str, EntryPoint] = {}
    for source in sorted(sources, key=lambda s: (places.get(s.name, len(places)), s.name)):
        if known.setdefault(source.name, source) is not source:
            brings = [s.dist.name if s.dist else "advlens" for s in (known[source.name], source)]
            raise SettingsError(
                f"{' and '.join(sorted(brings))} both bring {source.name!r} ({family.group}); "
                "uninstall one of them"
            )
    return known


@contextlib.contextmanager
def from_here() -> Iterator[None]:
    """Within the block, modules are imported from the working directory first."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def named(module: str, name: str) -> Any:
    """The factory or class with this name in a module, which may lie in the working directory.

    Raises:
        Exception: any exception that the import raises.
    """
    _others.add(module.partition(".")[0])
    with from_here():
        return getattr(importlib.import_module(module), name)


def place(error: BaseException) -> str:
    """The place in others' code where an error was raised; empty if it is in advlens."""
    for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
        package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if package in (__package__, *_others):
            return "" if package == __package__ else f"{frame.f_code.co_filename}, line {line}"
    return ""


STAGES = Family(
    folder="auditing/stages",
    function="stages",
    group="advlens.stages",
    first=(
        "accuracy",
        "sweep",
        "neurons",
        "dissection",
        "attribution",
        "visualization",
        "inversion",
        "generation",
    ),
)
"""Functions (subject, settings) → the stages that an audit of a model runs."""
SECTIONS = Family(
    folder="report/sections",
    function="section",
    group="advlens.sections",
    first=(
        "accuracy",
        "neurons",
        "dissection",
        "attribution",
        "features",
        "training",
    ),
)
"""Functions (results) → a section of the report, or None if the run lacks its tables."""
