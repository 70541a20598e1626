"""The Python code that a report prints as the way to make its run again."""

import dataclasses
from collections.abc import Sequence, Sized
from pathlib import Path

from torch import nn
from torch.utils.data import DataLoader

from advlens.datasets import ImageData
from advlens.models import Classifier
from advlens.settings import AuditSettings, DissectSettings
from advlens.words import counted


def call_of(
    verb: str,
    models: Sequence[str | nn.Module],
    data: object,
    out: str | Path,
    settings: AuditSettings | DissectSettings,
) -> str:
    """Code that makes a run again, with the settings that are not the default ones.

    Objects become variables: what `load_model` and `load_data` made is loaded again; the others are
    `...`, which the reader replaces by what the comment describes.
    """
    variables, shown = list[str](), list[str]()
    for number, model in enumerate(models, 1):
        name = f"model_{number}" if len(models) > 1 else "model"
        shown.append(_shown(model, name, variables))
    given = [
        f"{field.name}={_setting(value)}"
        for field in dataclasses.fields(settings)
        if (value := getattr(settings, field.name)) != field.default
    ]
    parts = [f"[{', '.join(shown)}]", _shown(data, "data", variables), repr(str(out))]
    if given:
        parts.append(f"settings=advlens.{type(settings).__name__}({', '.join(given)})")
    call = f"advlens.{verb}({', '.join(parts)})"
    imports = ["import pathlib", ""] if "pathlib." in call else []
    return "\n".join([*imports, "import advlens", "", *variables, call])


def _setting(value: object) -> str:
    if isinstance(value, Path):  # the record has ~ in place of the home folder
        return f"pathlib.Path({str(value)!r}).expanduser()"
    return repr(value)


def _shown(value: object, name: str, variables: list[str]) -> str:
    """A specification as it is, or the name of a variable whose line is added."""
    if isinstance(value, str):
        return repr(value)
    made = value.made_by if isinstance(value, Classifier | ImageData) else ""
    changed = " (weights as loaded)" if made and isinstance(value, Classifier) else ""
    variables.append(f"{name} = {made or '...'}  # {_described(value)}{changed}")
    return name


def _described(value: object) -> str:
    kind = type(value).__name__
    if isinstance(value, Classifier):
        classes = f", {counted(len(value.classes), 'class')}" if value.classes else ""
        return f"{kind} {value.name!r}{classes}"
    if isinstance(value, ImageData):
        return repr(value)[1:-1]
    if isinstance(value, DataLoader):
        return f"{kind} of {_described(value.dataset)}"
    if isinstance(value, tuple):
        images, labels = value
        return f"images {'×'.join(map(str, images.shape))} and {counted(len(labels), 'label')}"
    if isinstance(value, Sized) and not isinstance(value, nn.Module):
        return f"{kind}, {counted(len(value), 'image')}"
    return kind
