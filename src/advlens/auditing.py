"""The audit: one pass over the data for each model, a run folder, a report."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advlens import __version__, wordnet
from advlens.attacks import Attack, Fgsm, Pgd
from advlens.config import AuditSettings
from advlens.datasets import ImageData, Transform, load_data
from advlens.datasets import View as DataView
from advlens.distributed import local_device
from advlens.errors import DataError, SettingsError
from advlens.files import locked
from advlens.models import Classifier, load_model
from advlens.prepared import Prepared, prepare
from advlens.progress import Progress
from advlens.records import (
    data_record,
    machine,
    model_record,
    peak_memory,
    versions,
    without_home,
)
from advlens.report import write_report
from advlens.runs import Run, Tables, fingerprint, write_json
from advlens.stages import Context, Stage, View, Work
from advlens.stages.accuracy import AccuracyStage, SweepStage
from advlens.stages.neurons import NeuronStage
from advlens.stages.training import left_beside
from advlens.stages.training import section as training_section
from advlens.threat import L2, Linf

SAVE_EVERY = 60.0  # seconds between states of a pass, all that a kill can cost


def audit(
    models: Sequence[str | nn.Module], data: str | ImageData, out: str | Path,
    *, settings: AuditSettings = AuditSettings(), command: str | None = None,  # noqa: B008 (frozen)
) -> Path:  # fmt: skip
    """Audit classifiers on a labeled image set, continuing what `out` holds.

    Args:
        models: specifications (see `load_model`) or modules from pixels in [0, 1] to logits.
        data: a specification (see `load_data`) or a data set.
        out: the run folder.
        settings: what is measured.
        command: shown in the report as the way to make it again.

    Returns:
        The path of the report.

    Raises:
        AdvlensError: one of its family, see `advlens.errors`; finished stages stay.
    """
    out = Path(out)
    if not models:
        raise SettingsError("an audit needs at least one model; name it with --model")
    device = local_device(settings.device)
    with locked(out):
        subjects = [_subject(model, data, settings, device) for model in models]
        _distinguish([subject.classifier for subject in subjects])
        run = Run(out, _identity(subjects, settings))
        stages = [_stages(subject, settings) for subject in subjects]
        parts: list[dict[str, dict[str, Any]]] = []
        for number, (subject, wanted) in enumerate(zip(subjects, stages, strict=True)):
            parts.append(_audit_model(run, number, subject, wanted, settings))
        tables: Tables = {}
        for part in (stage for model in parts for stage in model.values()):
            for name, rows in part["tables"].items():
                tables.setdefault(name, []).extend(rows)
        for subject in subjects:
            for name, rows in _training(subject).items():
                tables.setdefault(name, []).extend(rows)
        run.write_tables(tables)
        write_json(out / "run.json", _record(subjects, parts, settings, command))
        return write_report(out, [*(stage.section for stage in stages[0]), training_section])


@dataclass
class _Subject:
    """A model with the data as it sees them."""

    spec: str
    classifier: Classifier
    prepared: Prepared
    data: ImageData
    notes: list[str]


def _subject(
    model: str | nn.Module, data: str | ImageData, settings: AuditSettings, device: torch.device
) -> _Subject:
    if isinstance(model, str):
        spec, classifier = model, load_model(model, device=device, seed=settings.seed)
    else:
        spec = f"{type(model).__module__}.{type(model).__qualname__}"
        classifier = (
            model if isinstance(model, Classifier) else Classifier(model, name=type(model).__name__)
        )
        classifier = classifier.to(device)
    if isinstance(data, str):
        transform = Transform(
            size=classifier.image_size, resize=classifier.resize,
            interpolation=classifier.interpolation,
        )  # fmt: skip
        data = load_data(data, transform=transform)
    if settings.images is not None:
        data = data.subset(settings.images, seed=settings.seed)
    data, notes = data.aligned(classifier.classes, classifier.synsets), []
    if data.synsets is None:
        try:
            data = _named(data, _synsets(data.classes, settings.synsets))
        except DataError as error:
            if settings.synsets is not None:
                raise
            notes.append(f"Consistency was not measured: {error}")
    with torch.no_grad():
        (first,) = data.batches(1, [0])
        outputs = classifier.eval()(first.images.to(device)).shape
    if len(outputs) != 2 or outputs[1] != len(data.classes):
        raise DataError(
            f"{classifier.name} returns {tuple(outputs)} for one image, but {data.name} has "
            f"{len(data.classes)} classes; give the model's class names or matching data"
        )
    return _Subject(spec, classifier, prepare(classifier), data, notes)


def _named(data: ImageData, synsets: tuple[str, ...]) -> ImageData:
    everything = torch.arange(len(data))
    return DataView(
        data, positions=everything, labels=data.labels, classes=data.classes, synsets=synsets
    )


def _synsets(classes: Sequence[str], table: Path | None) -> tuple[str, ...]:
    if table is None:
        return wordnet.resolve(classes)
    try:
        lines = table.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the table of synsets {table}: {error}") from error
    pairs = [line.rpartition(",") for line in lines if "," in line]
    known = {name.strip(): wnid.strip() for name, _, wnid in pairs}
    missing = [name for name in classes if name not in known]
    if missing:
        raise DataError(
            f"{table} has no line for class {missing[0]!r}; give one line class,wnid for each"
        )
    for wnid in known.values():
        wordnet.lemmas(wnid)  # refuses what is no WordNet 3.0 noun
    return tuple(known[name] for name in classes)


def _distinguish(classifiers: list[Classifier]) -> None:
    """Give models of one name different names, in the order of the command."""
    names: dict[str, int] = {}
    for classifier in classifiers:
        count = names[classifier.name] = names.get(classifier.name, 0) + 1
        if count > 1:
            classifier.name = f"{classifier.name} ({count})"


def radius(settings: AuditSettings, image_size: int) -> float:
    """The L2 radius of PGD: the one asked for, or the field's usual one for this image size."""
    if settings.epsilon is not None:
        return settings.epsilon
    return 0.5 if image_size < 96 else 1.5 if image_size < 160 else 3.0


def _stages(subject: _Subject, settings: AuditSettings) -> list[Stage]:
    epsilon, seed = radius(settings, subject.data.image_shape[1]), settings.seed
    fgsm: list[Attack] = [Fgsm(threat=Linf(epsilon=e), seed=seed) for e in settings.fgsm]
    pgd = Pgd(threat=L2(epsilon=epsilon), steps=settings.steps, seed=seed)
    stages: list[Stage] = [
        AccuracyStage(attacks=[*fgsm, pgd]),
        SweepStage(
            epsilon=epsilon, images=settings.sweep_images, steps=settings.sweep_steps, seed=seed
        ),
    ]
    if subject.data.synsets is not None:
        stages.append(
            NeuronStage(
                epsilon=settings.neuron_epsilon or 2 * epsilon, steps=settings.neuron_steps,
                success=settings.success, fgsm_epsilon=min(settings.fgsm, default=1 / 255),
                top=settings.top, sigma=settings.sigma, seed=seed,
            )
        )  # fmt: skip
    return [stage for stage in stages if stage.name in settings.stages]


def _audit_model(
    run: Run, number: int, subject: _Subject, stages: Sequence[Stage], settings: AuditSettings
) -> dict[str, dict[str, Any]]:
    """All stages of one model, in as few passes over the data as they allow."""
    parts = {stage.name: run.part(number, stage.name) for stage in stages}
    missing = [stage for stage in stages if parts[stage.name] is None]
    if missing:
        context = Context(
            name=subject.classifier.name, classifier=subject.classifier,
            prepared=subject.prepared, data=subject.data, folder=run.folder,
            seed=settings.seed, batch_size=settings.batch_size,
        )  # fmt: skip
        passes: dict[tuple[int, ...], list[Stage]] = {}
        for stage in missing:
            passes.setdefault(tuple(stage.ids(subject.data)), []).append(stage)
        for ids, together in passes.items():
            parts.update(_pass(run, number, context, ids, together))
    return {stage.name: part for stage in stages if (part := parts[stage.name]) is not None}


def _pass(
    run: Run, number: int, context: Context, ids: Sequence[int], stages: Sequence[Stage]
) -> dict[str, dict[str, Any]]:
    name = "-".join(stage.name for stage in stages)
    works: dict[str, Work] = {stage.name: stage.start(context) for stage in stages}
    seconds = dict.fromkeys(works, 0.0)
    done = 0
    if (saved := run.state(number, name)) is not None:
        done, state = saved
        for stage_name, work in works.items():
            seconds[stage_name] = state[f"{stage_name}.seconds"].item()
            work.restore(state)
    recording = any(stage.records for stage in stages)
    device = next(context.classifier.parameters()).device
    last_save = time.monotonic()
    label = f"{context.name}: {', '.join(works)}"
    with Progress(label, len(ids), done=done) as progress:
        for batch in context.data.batches(context.batch_size, ids[done:]):
            view = View(
                context.prepared,
                batch.ids,
                batch.images.to(device),
                batch.labels.to(device),
                recording,
            )
            for stage_name, work in works.items():
                began = time.monotonic()
                work.update(view)
                seconds[stage_name] += time.monotonic() - began
            done += len(batch.ids)
            progress.update(len(batch.ids))
            if time.monotonic() - last_save > SAVE_EVERY and done < len(ids):
                state = {
                    key: value for work in works.values() for key, value in work.state().items()
                }
                state |= {f"{key}.seconds": torch.tensor(value) for key, value in seconds.items()}
                run.save_state(number, name, done, state)
                last_save = time.monotonic()
    parts = {}
    for stage_name, work in works.items():
        began = time.monotonic()
        tables = work.compute()
        seconds[stage_name] += time.monotonic() - began
        parts[stage_name] = {
            "tables": tables,
            "seconds": seconds[stage_name],
            "images": len(ids),
            "peak_memory_mb": peak_memory(device),
        }
        run.save_part(number, stage_name, parts[stage_name])
    run.drop_state(number, name)
    return parts


def _training(subject: _Subject) -> Tables:
    """The tables of the training that the weights come from, where it lies beside them."""
    try:
        return left_beside(Path(subject.spec.partition("@")[2]), subject.classifier.name)
    except DataError as error:
        subject.notes.append(
            f"The training of {subject.classifier.name} is not shown: {without_home(str(error))}"
        )
        return {}


def _identity(subjects: Sequence[_Subject], settings: AuditSettings) -> dict[str, Any]:
    """All that the numbers depend on."""
    return {
        "settings": _plain(settings),
        "models": [
            [s.classifier.name, fingerprint(s.classifier.state_dict(keep_vars=True).items()),
             s.classifier.mean.flatten().tolist(), s.classifier.std.flatten().tolist()]
            for s in subjects
        ],
        "data": [s.data.fingerprint() for s in subjects],
        "advlens": __version__,
    }  # fmt: skip


def _plain(settings: AuditSettings) -> dict[str, Any]:
    values = dataclasses.asdict(settings)
    return {key: str(v) if isinstance(v, Path) else v for key, v in values.items()}


def _record(
    subjects: Sequence[_Subject], parts: Sequence[dict[str, dict[str, Any]]],
    settings: AuditSettings, command: str | None,
) -> dict[str, Any]:  # fmt: skip
    """What run.json holds."""
    data = subjects[0].data
    epsilon = radius(settings, data.image_shape[1])
    return {
        "advlens": __version__,
        "command": without_home(command or "advlens.audit(…)"),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": settings.seed,
        "settings": _plain(settings)
        | {"epsilon": epsilon, "neuron_epsilon": settings.neuron_epsilon or 2 * epsilon},
        "models": [model_record(s.classifier, s.prepared, s.data, s.spec) for s in subjects],
        "data": data_record(data),
        "versions": versions(),
        "machine": machine(local_device(settings.device)),
        "stages": [
            {
                "stage": name,
                "model": subject.classifier.name,
                "seconds": round(part["seconds"], 1),
                "peak_memory_mb": round(part["peak_memory_mb"]),
                "images_per_second": round(part["images"] / max(part["seconds"], 1e-9), 1),
            }
            for subject, model_parts in zip(subjects, parts, strict=True)
            for name, part in model_parts.items()
        ],
        "notes": sorted({note for subject in subjects for note in subject.notes}),
    }
