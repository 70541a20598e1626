"""A quick audit: as much as about five minutes allow on this machine."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advlens.auditing.forecasting import forecast, looking, passes_of
from advlens.auditing.stage import Stage
from advlens.auditing.subjects import Subject
from advlens.folders import read_object
from advlens.settings import AuditSettings
from advlens.settings.audit import QUICK
from advlens.words import count, listed

BUDGET = 240.0
"""Seconds of forward passes, which leave a minute of five for everything else."""
IMAGES = (500, 300, 200, 100)
"""Numbers of images to choose from: the largest for which all stages fit, or the least."""
FEWEST = 20
"""Images of the accuracy of a model for which even that would take longer."""


def shortened(settings: AuditSettings) -> AuditSettings:
    """The settings with fewer steps where the user gave none."""
    usual: Any = AuditSettings
    fewer = {k: v for k, v in QUICK.items() if getattr(settings, k) == getattr(usual, k)}
    return dataclasses.replace(settings, **fewer)


def chosen_before(settings: AuditSettings, out: Path) -> AuditSettings | None:
    """The settings that a quick audit chose when it began in this folder, if one did."""
    try:
        kept: Any = read_object(out / "parts" / "identity.json").get("settings")
        images, stages = kept["images"], tuple(map(str, kept["stages"]))
    except (OSError, ValueError, LookupError, TypeError):
        return None
    if kept.get("quick") is not True or not (images is None or isinstance(images, int)):
        return None
    return dataclasses.replace(settings, images=images, stages=stages)


def fitting(
    settings: AuditSettings, subjects: Sequence[Subject], stages: Sequence[Sequence[Stage]]
) -> tuple[AuditSettings, str]:
    """The settings with images and stages that take about five minutes, and what that leaves out.

    Args:
        settings: already shortened.
        subjects: the models, with all images.
        stages: those that can run on each model.

    Returns:
        The settings, and a sentence about them.
    """
    size = settings.batch_size
    speeds = [forecast(*each, size).seconds for each in zip(subjects, stages, strict=True)]
    total = len(subjects[0].data)

    def takes(name: str, images: int) -> float:
        """Seconds of a stage of all models."""
        return sum(
            speed * passes_of(stage, images)
            + looking(stage, subject, images, first=subject is subjects[0])
            for speed, subject, own in zip(speeds, subjects, stages, strict=True)
            for stage in own
            if stage.name == name
        )

    named = list(dict.fromkeys(stage.name for own in stages for stage in own))
    wanted = [name for name in named if name in settings.stages]
    flagged = [name for name in named if name not in wanted]  # AutoAttack has a flag of its own
    numbers = [n for n in IMAGES if n < total] or [total]
    if settings.images is not None:
        numbers = [total]

    def fits(names: Sequence[str], images: int) -> bool:
        return sum(takes(name, images) for name in [*names, *flagged]) <= BUDGET

    kept, images = wanted[:1], next((n for n in numbers if fits(wanted, n)), numbers[-1])
    for name in wanted[1:]:
        kept += [name] if fits([*kept, name], images) else []
    if not fits(kept, images) and settings.images is None:
        images = min(FEWEST, images)
    left_out = [name for name in wanted if name not in kept]
    asked = tuple(name for name in settings.stages if name not in left_out)
    without = f", without {listed(left_out)}" if left_out else ""
    note = f"a quick audit: {count(images)} of {count(total)} images and fewer steps{without}"
    return dataclasses.replace(settings, images=images, stages=asked), note
