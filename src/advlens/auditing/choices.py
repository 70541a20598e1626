"""The choice of stages and of units: whether what the settings ask for exists."""

import difflib
import re
from collections.abc import Sequence

from advlens.auditing.needs import lacking
from advlens.auditing.stage import Stage
from advlens.auditing.stages.dissection import dissected_layers, dissection_stage
from advlens.auditing.subjects import Subject
from advlens.errors import SettingsError
from advlens.plugins import STAGES
from advlens.settings import AuditSettings, DissectSettings, parse_unit
from advlens.words import listed, shared

NEAR = 3
"""Names of layers that are offered in place of an unknown one."""


def audit_stages(subject: Subject, settings: AuditSettings) -> list[Stage]:
    """The stages of one model; a warning names the default stages that cannot run.

    Raises:
        AdvlensError: a stage that is requested by name cannot run.
    """
    names = ["accuracy"] if settings.natural else settings.stages
    stages = [
        stage
        for name in STAGES.names
        if name in names
        for stage in STAGES.load(name)(subject, settings)
    ]
    _check_names(stages)
    # what a flag adds to a stage comes last: AutoAttack takes hours
    stages.sort(key=lambda stage: stage.name not in STAGES.names)
    return _able(subject, stages, settings, by_name=settings.by_name)


def dissect_stages(subject: Subject, settings: DissectSettings) -> list[Stage]:
    """The only stage of `dissect`.

    Raises:
        ModelError: the model has no units, or lacks the requested ones.
    """
    stages = [dissection_stage(subject, settings)]
    return _able(subject, stages, settings, by_name=True)


def check_units(subjects: Sequence[Subject], settings: AuditSettings | DissectSettings) -> None:
    """Refuse a unit that is to be shown and that no model has, or no stage looks at.

    Raises:
        SettingsError: there is no such layer or unit; the message names what is near.
    """
    if isinstance(settings.units, int):  # how many, not which
        return
    every = isinstance(settings, AuditSettings) and "neurons" in settings.stages
    known = {
        subject.classifier.name: subject.prepared.layers
        if every
        else dissected_layers(subject.prepared, settings.layers)
        for subject in subjects
    }
    units = {layer: size for layers in known.values() for layer, size in layers.items()}
    for text in settings.units if units else ():  # a model without units is refused elsewhere
        layer, number = parse_unit(text)
        sizes = {model: layers[layer] for model, layers in known.items() if layer in layers}
        if any(number < size for size in sizes.values()):
            continue
        if sizes:
            counts = shared({model: f"{size} units" for model, size in sizes.items()}, "in")
            raise SettingsError(f"units names {text}, but {layer} has {counts}, numbered from 0")
        if any(layer in subject.prepared.layers for subject in subjects):
            raise SettingsError(
                f"units names {text}, but {layer} is not dissected; add it to layers"
            )
        near = difflib.get_close_matches(layer, units, n=NEAR, cutoff=0)
        raise SettingsError(
            f"units names {text}, but there is no layer {layer!r} in {listed(list(known))}; its "
            f"nearest are {listed([f'{name} ({units[name]} units)' for name in near])}"
        )


def _check_names(stages: Sequence[Stage]) -> None:
    """Check stage names, because files are named after the stage."""
    names = [stage.name for stage in stages]
    for name in names:
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
            raise SettingsError(
                f"a stage is named {name!r}, but its name becomes a file name: use lower-case "
                "letters, digits, hyphens and underscores"
            )
        if names.count(name) > 1:
            raise SettingsError(f"two stages are named {name!r}; give one another name")


def _able(
    subject: Subject,
    stages: Sequence[Stage],
    settings: AuditSettings | DissectSettings,
    *,
    by_name: bool,
) -> list[Stage]:
    """The stages whose needs are met."""
    model, left_out = subject.classifier.name, dict[str, list[str]]()
    lacks = {need: lacking(subject, need, settings) for stage in stages for need in stage.needs}
    able = list[Stage]()
    for stage in stages:
        error = next((error for need in stage.needs if (error := lacks[need])), None)
        if error is None:
            able.append(stage)
        elif by_name:
            raise type(error)(f"the stage {stage.name} cannot run on {model}: {error}")
        else:
            left_out.setdefault(str(error), []).append(stage.name)
    subject.warnings += [
        f"{model} is audited without {listed(names)}: {reason}"
        for reason, names in left_out.items()
    ]
    return able
