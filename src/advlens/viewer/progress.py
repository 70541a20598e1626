"""How far a run is: by its record, by what lies in `parts/`, and by who holds the folder."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from advlens.files import is_held
from advlens.folders import open_plain, parse_object, read_object

HEADER = 2**23
"""Bytes of a state's list of tensors, at most."""


@dataclass(frozen=True)
class Pass:
    """The saved state of a pass under way.

    Attributes:
        model: its model, or "all models".
        stages: the stages that it is for, joined by hyphens.
        images: those behind the state; empty where it does not say.
        saved: when it was written.
    """

    model: str
    stages: str
    images: str
    saved: str


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        held: whether a process is at work; None where the system does not tell.
        stages: for each stage and model its seconds, True if it is finished, False if it is
            missing; nothing where the model has no such stage.
        passes: the saved states.
    """

    held: bool | None
    stages: dict[str, dict[str, float | bool]]
    passes: list[Pass]


def progress(run: Path, record: Mapping[str, Any] | None) -> Progress:
    """How far a run is; nothing in its folder is taken or changed.

    Args:
        run: the folder.
        record: its record, if there is one yet.
    """
    stages: dict[str, dict[str, float | bool]] = {}
    models, passes = _planned(run), list[Pass]()
    if record is not None:
        models = [model["name"] for model in record["models"]]
        for entry in record["stages"]:
            stages.setdefault(entry["stage"], {})[entry["model"]] = entry["seconds"]
        for entry in record["unfinished"]:
            stages.setdefault(entry["stage"], {})[entry["model"]] = False
    for path in sorted((run / "parts").glob("*-*")):
        place, _, name = path.name.partition("-")
        model = dict(enumerate(models)).get(int(place)) if re.fullmatch("[0-9]{1,3}", place) else ""
        if path.suffix == ".json" and model:
            own = stages.setdefault(path.stem.partition("-")[2], {})
            own[model] = own.get(model) or True
        elif name.endswith(".state.safetensors"):
            stage = name.removesuffix(".state.safetensors")
            passes.append(Pass(model or "all models", stage, _position(path), _saved(path)))
    return Progress(is_held(run), stages, passes)


def _planned(run: Path) -> list[str]:
    """The models of a run without a record."""
    try:
        models: Any = read_object(run / "parts" / "identity.json").get("models")
    except (OSError, ValueError):
        return []
    return list(map(str, models)) if isinstance(models, list) else []


def _position(path: Path) -> str:
    """The number of images that a state says are behind it."""
    try:
        with open_plain(path, 2**48) as file:
            length = int.from_bytes(file.read(8), "little")
            header = parse_object(file.read(length)) if length <= HEADER else {}
        return str(header["__metadata__"]["position"])[:20]
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _saved(path: Path) -> str:
    try:
        moment = datetime.fromtimestamp(path.lstat().st_mtime).astimezone()
    except OSError:  # the pass has just ended
        return ""
    return moment.isoformat(" ", "seconds")
