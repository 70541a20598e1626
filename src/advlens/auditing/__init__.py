"""The audit: one pass over the data for each model, a run folder, a report."""

import contextlib
import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advlens.auditing.calls import call_of
from advlens.auditing.choices import audit_stages, check_units, dissect_stages
from advlens.auditing.course import Course
from advlens.auditing.differences import compared
from advlens.auditing.forecasting import forecast
from advlens.auditing.given import Data, opener
from advlens.auditing.naming import distinguish
from advlens.auditing.opening import check_expected, looked_at, warn
from advlens.auditing.passes import finished, run_stages
from advlens.auditing.quick import chosen_before, fitting, shortened
from advlens.auditing.record import Settings, identity, record, training_tables
from advlens.auditing.stage import Stage
from advlens.auditing.subjects import ImageCheck, Subject, labeled_subject, opened
from advlens.datasets import BrodenData, ImageData, Transform
from advlens.distributed import Processes, local_device
from advlens.errors import RunError, SettingsError
from advlens.files import locked
from advlens.prepared.precision import rounded
from advlens.report.page import write_report
from advlens.report.sections.accuracy import unattacked
from advlens.runs.folder import Tables, open_run, write_json
from advlens.runs.results import Results
from advlens.settings import AuditSettings, DissectSettings

__all__ = ["audit", "dissect", "rehearsed", "rehearsed_dissection"]

Models = str | nn.Module | Sequence[str | nn.Module]


def audit(
    models: Models,
    data: Data,
    out: str | Path,
    *,
    settings: AuditSettings = AuditSettings(),
    command: str | None = None,
    processes: Processes = Processes(),
) -> Path:
    """Audit classifiers on a labeled image set and continue what `out` holds.

    Args:
        models: specifications (see `load_model`) or modules from pixels in [0, 1] to logits; one,
            or a list of them.
        data: a specification (see `load_data`), a data set, a DataLoader or Dataset of PyTorch (see
            `advlens.datasets.DatasetData`; the order is that of the Dataset), or a pair of tensors,
            images (uint8, or floats in [0, 1]) and labels.
        out: the run folder.
        settings: what is measured.
        command: shown in the report as the way to reproduce it (default: this call).
        processes: those that share the images; the first one writes the files.

    Returns:
        The path of the report.

    Raises:
        AdvlensError: one of the errors in `advlens.errors`; finished stages are kept.
    """
    models = _listed(models)
    _checked(settings, AuditSettings)
    load = opener(data)
    line = command or call_of("audit", models, data, out, settings)
    out = Path(out).expanduser()
    device = local_device(settings.device)
    with (
        rounded(**settings.rounding),
        locked(out) if processes.first else contextlib.nullcontext(),
    ):
        if settings.quick:
            settings = _quick(models, load, settings, device, out, processes)
        check = ImageCheck(out, settings.skip_damaged, processes, device)
        subjects, stages = _planned(models, load, settings, device, check)
        return _walk(out, subjects, stages, settings, device, line, processes)


def rehearsed(
    models: Models, data: Data, settings: AuditSettings, out: Path | None = None
) -> tuple[list[Subject], list[list[Stage]]]:
    """The models, and the stages that an audit would run on each.

    Args:
        models, data, settings: as for `audit`.
        out: the run folder, which may hold the choices of a quick audit.

    Raises:
        AdvlensError: as `audit` before its first stage, but damaged images are not searched for.
    """
    models = _listed(models)
    _checked(settings, AuditSettings)
    load = opener(data)
    device = local_device(settings.device)
    if settings.quick:
        settings = _quick(models, load, settings, device, out, Processes())
    return _planned(models, load, settings, device, None)


def _quick(
    models: Sequence[str | nn.Module],
    load: Callable[[Transform], ImageData],
    settings: AuditSettings,
    device: torch.device,
    out: Path | None,
    processes: Processes,
) -> AuditSettings:
    """Settings for about five minutes: chosen once for a folder, by the first process for all."""
    settings = shortened(settings)
    chosen = chosen_before(settings, out) if processes.first and out is not None else None
    if processes.first and chosen is None:
        chosen, note = fitting(settings, *_planned(models, load, settings, device, None))
        warn([note], processes)
    text = b"" if chosen is None else json.dumps([chosen.images, chosen.stages]).encode()
    images, stages = json.loads(processes.spread(text, device))
    return dataclasses.replace(settings, images=images, stages=tuple(stages))


def _planned(
    models: Sequence[str | nn.Module],
    load: Callable[[Transform], ImageData],
    settings: AuditSettings,
    device: torch.device,
    check: ImageCheck | None,
) -> tuple[list[Subject], list[list[Stage]]]:
    subjects = [labeled_subject(model, load, settings, device, check) for model in models]
    distinguish(subjects)
    check_units(subjects, settings)
    return subjects, [audit_stages(subject, settings) for subject in subjects]


def dissect(
    models: Models,
    data: str | BrodenData,
    out: str | Path,
    *,
    settings: DissectSettings = DissectSettings(),
    command: str | None = None,
    processes: Processes = Processes(),
) -> Path:
    """Name what the units of models detect and continue what `out` holds.

    Args:
        models: specifications (see `load_model`) or modules from pixels in [0, 1] to logits, or to
            feature maps, which are not attacked; one, or a list of them.
        data: a specification such as broden:DIR, or a data set in the Broden layout.
        out: the run folder.
        settings: how the units are dissected.
        command: shown in the report as the way to reproduce it.
        processes: those that share the images; the first one writes the files.

    Returns:
        The path of the report.

    Raises:
        AdvlensError: one of the errors in `advlens.errors`; finished models are kept.
    """
    models = _listed(models)
    _checked(settings, DissectSettings)
    load = opener(data)
    line = command or call_of("dissect", models, data, out, settings)
    out = Path(out).expanduser()
    device = local_device(settings.device)
    with (
        rounded(**settings.rounding),
        locked(out) if processes.first else contextlib.nullcontext(),
    ):
        check = ImageCheck(out, settings.skip_damaged, processes, device)
        subjects, stages = _dissected(models, load, settings, device, check)
        return _walk(out, subjects, stages, settings, device, line, processes)


def rehearsed_dissection(
    models: Models, data: str | BrodenData, settings: DissectSettings
) -> list[Subject]:
    """The models that `dissect` would take.

    Raises:
        AdvlensError: as `dissect` before its first image, but damaged images are not searched for.
    """
    models = _listed(models)
    _checked(settings, DissectSettings)
    load = opener(data)
    return _dissected(models, load, settings, local_device(settings.device), None)[0]


def _dissected(
    models: Sequence[str | nn.Module],
    load: Callable[[Transform], ImageData],
    settings: DissectSettings,
    device: torch.device,
    check: ImageCheck | None,
) -> tuple[list[Subject], list[list[Stage]]]:
    subjects = [opened(model, settings, device) for model in models]
    known: dict[Transform, BrodenData] = {}  # models of one size share the opened data
    for subject in subjects:
        if subject.transform not in known:
            images = subject.labeled(load(subject.transform))
            if settings.images is not None:
                images = images.subset(settings.images, seed=settings.seed)
            known[subject.transform] = images if check is None else check(subject, images)
        subject.data = subject.concepts = known[subject.transform]
        subject.choose_radii(settings)
    distinguish(subjects)
    check_units(subjects, settings)
    return subjects, [dissect_stages(subject, settings) for subject in subjects]


def _listed(models: Models) -> Sequence[str | nn.Module]:
    if isinstance(models, str | nn.Module) and not isinstance(models, nn.ModuleList):
        return [models]
    if not isinstance(models, Sequence | nn.ModuleList):
        raise SettingsError(
            f"models must be a specification such as cifar10-l2, a torch.nn.Module, or a list of "
            f"them, not {type(models).__name__}"
        )
    if not len(models):
        raise SettingsError("an audit needs at least one model; name it with --model")
    for model in models:
        if not isinstance(model, str | nn.Module):
            raise SettingsError(
                f"each model must be a specification such as cifar10-l2 or a torch.nn.Module, not "
                f"{type(model).__name__}"
            )
    return [*models]


def _checked(settings: object, kind: type[Settings]) -> None:
    if not isinstance(settings, kind):
        raise SettingsError(
            f"settings must be advlens.{kind.__name__}(…), not {type(settings).__name__}"
        )


def _walk(
    out: Path,
    subjects: Sequence[Subject],
    stages: Sequence[Sequence[Stage]],
    settings: Settings,
    device: torch.device,
    command: str,
    processes: Processes,
) -> Path:
    """Run all stages of all models, then write the tables, the record and the report."""
    said = list[str]()
    for subject in subjects:
        found = [*subject.warnings, *looked_at(subject, settings.batch_size, settings.seed)]
        subject.warnings = [text for text in found if text not in said]  # some hold for all models
        warn(subject.warnings, processes)
        said += subject.warnings
    if isinstance(settings, AuditSettings):
        check_expected(subjects, settings, processes)
    run = open_run(out, identity(subjects, settings), processes, device)
    trainings = [training_tables(subject) for subject in subjects] if processes.first else []
    parts = [finished(run, n, *pair) for n, pair in enumerate(zip(subjects, stages, strict=True))]

    def publish(*, comparing: bool = False) -> None:
        """Write the tables and the record of what is finished so far.

        Models are compared before and after the computing, not each time that a stage finishes.
        """
        done: list[dict[str, Any]] = [
            {stage.name: part[stage.name] for stage in wanted if stage.name in part}
            for part, wanted in zip(parts, stages, strict=True)
        ]
        tables: Tables = {}
        for part in (stage for model in done for stage in model.values()):
            for name, rows in part["tables"].items():
                tables.setdefault(name, []).extend(rows)
        for subject, training in zip(subjects, trainings, strict=True):
            name = subject.classifier.name
            tables.setdefault("skipped", []).extend({"model": name, **r} for r in subject.skipped)
            for name, rows in training.items():
                tables.setdefault(name, []).extend(rows)
        try:
            tables |= compared(tables) if comparing else {}
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise RunError(
                f"the tables in {out / 'parts'} do not fit together ({type(error).__name__}: "
                f"{error}); remove the folder {out} to start again"
            ) from error
        missing = [
            (subject.classifier.name, stage.name)
            for subject, part, wanted in zip(subjects, parts, stages, strict=True)
            for stage in wanted
            if stage.name not in part
        ]
        run.write_tables(tables)
        write_json(out / "run.json", record(subjects, done, settings, device, command, missing))

    if processes.first:
        publish(comparing=True)
    course = _course(subjects, stages, parts, settings.batch_size)
    for number, (subject, wanted) in enumerate(zip(subjects, stages, strict=True)):
        run_stages(
            run, number, subject, wanted, settings, processes, parts[number], publish, course
        )
    run.drop_states()  # those of all models, and what a kill has left of finished passes
    if processes.first:
        publish(comparing=True)
        warn(unattacked(Results.read(out)), processes)
        return write_report(out)
    return out / "report.html"


def _course(
    subjects: Sequence[Subject],
    stages: Sequence[Sequence[Stage]],
    parts: Sequence[dict[str, Any]],
    batch_size: int,
) -> Course:
    """The time that each unfinished stage is expected to take, for the progress of the whole."""
    expected = list[dict[str, float]]()
    for number, (subject, wanted, part) in enumerate(zip(subjects, stages, parts, strict=True)):
        missing = [stage for stage in wanted if stage.name not in part]
        told = forecast(subject, missing, batch_size, first=not number) if missing else None
        expected.append({s.name: told.each.get(s.name, 0.0) for s in missing} if told else {})
    return Course(expected, list(map(len, parts)))
