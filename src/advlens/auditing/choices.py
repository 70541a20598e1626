"""The stages that the settings ask for, of those that there are."""

import re
from collections.abc import Sequence

from advlens.auditing.needs import lacking
from advlens.auditing.stage import Stage
from advlens.auditing.stages.dissection import dissection_stage
from advlens.auditing.subjects import Subject
from advlens.errors import SettingsError
from advlens.plugins import STAGES
from advlens.settings import AuditSettings, DissectSettings
from advlens.words import listed


def audit_stages(subject: Subject, settings: AuditSettings) -> list[Stage]:
    """The stages of one model; a warning names those of the default that cannot run.

    Raises:
        AdvlensError: a stage that is asked for by name cannot run.
    """
    names = ["accuracy"] if settings.natural else settings.stages
    stages = [
        stage
        for name in STAGES.names
        if name in names
        for stage in STAGES.load(name)(subject, settings)
    ]
    _check_names(stages)
    return _able(subject, stages, by_name=settings.by_name, seed=settings.seed)


def dissect_stages(subject: Subject, settings: DissectSettings) -> list[Stage]:
    """The one stage of `dissect`.

    Raises:
        ModelError: the model has no units, or not those that are asked for.
    """
    stages = [dissection_stage(subject, settings)]
    return _able(subject, stages, by_name=True, seed=settings.seed)


def _check_names(stages: Sequence[Stage]) -> None:
    """What a stage leaves goes by its name, in files."""
    names = [stage.name for stage in stages]
    for name in names:
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
            raise SettingsError(
                f"a stage is named {name!r}, but files go by its name: use lower-case letters, "
                "digits, hyphens and underscores"
            )
        if names.count(name) > 1:
            raise SettingsError(f"two stages are named {name!r}; give one another name")


def _able(subject: Subject, stages: Sequence[Stage], *, by_name: bool, seed: int) -> list[Stage]:
    """Those that have what they need."""
    model, left_out = subject.classifier.name, dict[str, list[str]]()
    lacks = {need: lacking(subject, need, seed) for stage in stages for need in stage.needs}
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
