"""The audit: one pass over the data for each model, a run folder, a report."""

import contextlib
import dataclasses
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advlens import __version__, wordnet
from advlens.attacks import AdamAttack, Attack, Fgsm, LeastLikely, Pgd
from advlens.config import AuditSettings, DissectSettings
from advlens.datasets import BrodenData, ImageData, Transform, load_data
from advlens.datasets import View as DataView
from advlens.dissection import Dissection
from advlens.distributed import Processes, local_device
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
from advlens.stages.dissection import DissectionStage
from advlens.stages.neurons import NeuronStage
from advlens.stages.training import left_beside
from advlens.stages.training import section as training_section
from advlens.threat import L2, Linf

SAVE_EVERY = 60.0  # seconds between states of a pass, all that a kill can cost
SAVE_SHARE = 20.0  # at least so many times as long as saving takes
Settings = AuditSettings | DissectSettings


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
    device = local_device(settings.device)
    with locked(out):
        subjects = [_subject(model, data, settings, device) for model in _named_models(models)]
        stages = [_stages(subject, settings) for subject in subjects]
        epsilon = radius(settings, subjects[0].data.image_shape[1])
        chosen = {"epsilon": epsilon, "neuron_epsilon": settings.neuron_epsilon or 2 * epsilon}
        return _walk(out, subjects, stages, settings, chosen, command or "advlens.audit(…)")


def dissect(
    models: Sequence[str | nn.Module], data: str | BrodenData, out: str | Path,
    *, settings: DissectSettings = DissectSettings(), command: str | None = None,  # noqa: B008
    processes: Processes = Processes(),  # noqa: B008 (frozen)
) -> Path:  # fmt: skip
    """Name what the units of some models detect, continuing what `out` holds.

    Args:
        models: specifications (see `load_model`) or modules from pixels in [0, 1] to logits, or to
            maps: then there is no attack.
        data: a specification such as broden:DIR, or a data set in the Broden layout.
        out: the run folder.
        settings: how they are dissected.
        command: shown in the report as the way to make it again.
        processes: those that share the images; the first one writes.

    Returns:
        The path of the report.

    Raises:
        AdvlensError: one of its family, see `advlens.errors`; finished models stay.
    """
    out = Path(out)
    device = local_device(settings.device)
    with locked(out) if processes.first else contextlib.nullcontext():
        subjects = [_opened(model, settings.seed, device) for model in _named_models(models)]
        for subject in subjects:
            images = subject.labeled(data)
            if settings.images is not None:
                images = images.subset(settings.images, seed=settings.seed)
            subject.data = subject.concepts = images
        stages: list[list[Stage]] = [[_dissection(subject, settings)] for subject in subjects]
        epsilon = dissection_radius(settings, subjects[0].data.image_shape[1])
        line = command or "advlens.dissect(…)"
        return _walk(out, subjects, stages, settings, {"epsilon": epsilon}, line, processes)


def _named_models(models: Sequence[str | nn.Module]) -> Sequence[str | nn.Module]:
    if not models:
        raise SettingsError("an audit needs at least one model; name it with --model")
    return models


def _walk(
    out: Path, subjects: "Sequence[_Subject]", stages: Sequence[Sequence[Stage]],
    settings: Settings, chosen: dict[str, float], command: str,
    processes: Processes = Processes(),  # noqa: B008 (frozen)
) -> Path:  # fmt: skip
    """All stages of all models, then the tables, the record and the report."""
    _distinguish([subject.classifier for subject in subjects])
    run = Run(out, _identity(subjects, settings)) if processes.first else None
    processes.spread(b"ready", local_device(settings.device))  # the folder is this run's
    run = run or Run(out, _identity(subjects, settings))
    parts: list[dict[str, dict[str, Any]]] = []
    for number, (subject, wanted) in enumerate(zip(subjects, stages, strict=True)):
        parts.append(_audit_model(run, number, subject, wanted, settings, processes))
    if processes.first:
        tables: Tables = {}
        for part in (stage for model in parts for stage in model.values()):
            for name, rows in part["tables"].items():
                tables.setdefault(name, []).extend(rows)
        for subject in subjects:
            for name, rows in _training(subject).items():
                tables.setdefault(name, []).extend(rows)
        run.write_tables(tables)
        write_json(out / "run.json", _record(subjects, parts, settings, chosen, command))
        return write_report(out, [*(stage.section for stage in stages[0]), training_section])
    return out / "report.html"


@dataclass
class _Subject:
    """A model with the data as it sees them."""

    spec: str
    classifier: Classifier
    prepared: Prepared
    notes: list[str] = dataclasses.field(default_factory=list)
    data: ImageData = dataclasses.field(init=False)
    concepts: BrodenData | None = None

    @property
    def transform(self) -> Transform:
        """How image files become this model's inputs."""
        return Transform(
            size=self.classifier.image_size, resize=self.classifier.resize,
            interpolation=self.classifier.interpolation,
        )  # fmt: skip

    def labeled(self, data: str | BrodenData) -> BrodenData:
        """Images with labeled pixels, of this model's size."""
        images = load_data(data, transform=self.transform) if isinstance(data, str) else data
        if not isinstance(images, BrodenData):
            raise SettingsError(
                f"units are dissected on images with labeled pixels, which {images.name} does not "
                "have; use broden:DIR (docs/broden.md tells how to get or make such data)"
            )
        return images


def _opened(model: str | nn.Module, seed: int, device: torch.device) -> _Subject:
    if isinstance(model, str):
        spec, classifier = model, load_model(model, device=device, seed=seed)
    else:
        spec = f"{type(model).__module__}.{type(model).__qualname__}"
        classifier = (
            model if isinstance(model, Classifier) else Classifier(model, name=type(model).__name__)
        )
        classifier = classifier.to(device)
    return _Subject(spec, classifier, prepare(classifier))


def _subject(
    model: str | nn.Module, data: str | ImageData, settings: AuditSettings, device: torch.device
) -> _Subject:
    subject = _opened(model, settings.seed, device)
    classifier = subject.classifier
    if isinstance(data, str):
        data = load_data(data, transform=subject.transform)
    if isinstance(data, BrodenData):
        raise SettingsError(
            f"the images of {data.name} belong to no classes, so there is no accuracy to measure; "
            "use advlens dissect, or give them with --concepts beside labeled images"
        )
    if settings.images is not None:
        data = data.subset(settings.images, seed=settings.seed)
    data = data.aligned(classifier.classes, classifier.synsets)
    if data.synsets is None:
        try:
            data = _named(data, _synsets(data.classes, settings.synsets))
        except DataError as error:
            if settings.synsets is not None:
                raise
            subject.notes.append(f"Consistency was not measured: {error}")
    outputs = _outputs(subject, data)
    if len(outputs) != 2 or outputs[1] != len(data.classes):
        raise DataError(
            f"{classifier.name} returns {outputs} for one image, but {data.name} has "
            f"{len(data.classes)} classes; give the model's class names or matching data"
        )
    subject.data = data
    if settings.concepts is not None:
        subject.concepts = subject.labeled(settings.concepts)
    return subject


def _outputs(subject: _Subject, data: ImageData) -> tuple[int, ...]:
    """The shape of what the model returns for one image."""
    device = next(subject.classifier.parameters()).device
    with torch.no_grad():
        (first,) = data.batches(1, [0])
        return tuple(subject.classifier.eval()(first.images.to(device)).shape)


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
            epsilon=epsilon, count=settings.sweep_images, steps=settings.sweep_steps, seed=seed
        ),
    ]
    if subject.data.synsets is not None:
        stages.append(
            NeuronStage(
                epsilon=settings.neuron_epsilon or 2 * epsilon, steps=settings.neuron_steps,
                success=settings.success, fgsm_epsilon=min(settings.fgsm, default=1 / 255),
                top=settings.top, sigma=settings.sigma, discrepancy=settings.discrepancy, seed=seed,
            )
        )  # fmt: skip
    if subject.concepts is not None:
        stages.append(
            _dissection(
                subject,
                DissectSettings(
                    layers=settings.layers, epsilon=settings.neuron_epsilon or 2 * epsilon,
                    steps=settings.neuron_steps, discrepancy=settings.discrepancy, seed=seed,
                ),
            )
        )  # fmt: skip
    return [stage for stage in stages if stage.name in settings.stages]


def dissection_radius(settings: DissectSettings, image_size: int) -> float:
    """The L2 radius of the attack: the one asked for, or that of an audit's attack on the units."""
    return settings.epsilon or 2 * radius(AuditSettings(), image_size)


def _dissection(subject: _Subject, settings: DissectSettings) -> DissectionStage:
    data = subject.concepts
    assert data is not None
    attack: Attack | None = None
    if len(_outputs(subject, data)) != 2:
        if settings.attack != "none":
            subject.notes.append(
                f"{subject.classifier.name} returns no logits, so its units were dissected on real "
                "images only."
            )
    elif settings.attack == "adam":
        attack = AdamAttack(steps=settings.steps, seed=settings.seed)
    elif settings.attack == "least-likely":
        epsilon = dissection_radius(settings, data.image_shape[1])
        attack = LeastLikely(threat=L2(epsilon=epsilon), steps=settings.steps, seed=settings.seed)
    if settings.upsampling == "receptive-field":
        unknown = [name for name in subject.prepared.layers if not subject.prepared.fields(name)]
        if unknown:
            subject.notes.append(
                f"Receptive fields of {subject.classifier.name} are not known for "
                f"{', '.join(unknown[:3])}{' …' if unknown[3:] else ''}; maps of these layers are "
                "upsampled plainly."
            )
    method = Dissection(
        layers=settings.layers, quantile=settings.quantile, upsampling=settings.upsampling,
        counting=settings.counting, seed=settings.seed,
    )  # fmt: skip
    return DissectionStage(
        data=data, method=method, attack=attack, minimum=settings.minimum, units=settings.units,
        discrepancy=settings.discrepancy,
    )  # fmt: skip


def _audit_model(
    run: Run, number: int, subject: _Subject, stages: Sequence[Stage], settings: Settings,
    processes: Processes,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """All stages of one model, in as few passes over the data as they allow."""
    parts = {stage.name: run.part(number, stage.name) for stage in stages}
    done = [name for name, part in parts.items() if part is not None]
    device = next(subject.classifier.parameters()).device
    done = json.loads(processes.spread(json.dumps(done).encode(), device))  # the first one's view
    missing = [stage for stage in stages if stage.name not in done]
    passes: dict[tuple[int, tuple[int, ...]], tuple[ImageData, list[Stage]]] = {}
    for stage in missing:
        data, ids = stage.images(subject.data)
        passes.setdefault((id(data), tuple(ids)), (data, []))[1].append(stage)
    for (_, ids), (data, together) in passes.items():
        context = Context(
            name=subject.classifier.name, classifier=subject.classifier,
            prepared=subject.prepared, data=data, folder=run.folder,
            seed=settings.seed, batch_size=settings.batch_size, processes=processes,
        )  # fmt: skip
        parts.update(_pass(run, number, context, ids, together))
    return {stage.name: part for stage in stages if (part := parts[stage.name]) is not None}


def _pass(
    run: Run, number: int, context: Context, ids: Sequence[int], stages: Sequence[Stage]
) -> dict[str, dict[str, Any]]:
    processes = context.processes
    name = "-".join(stage.name for stage in stages)
    if processes.count > 1:
        name += f"-{processes.rank}-of-{processes.count}"
    mine = [ids[place] for place in processes.share(len(ids))]
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
    label, streaming = f"{context.name}: {', '.join(works)}", works
    while streaming:
        saved_at, pause = time.monotonic(), SAVE_EVERY
        with Progress(label, len(mine), done=done) as progress:
            for batch in context.data.batches(context.batch_size, mine[done:]):
                view = View(
                    context.prepared,
                    batch.ids,
                    batch.images.to(device),
                    batch.labels.to(device),
                    recording,
                )
                for stage_name, work in streaming.items():
                    began = time.monotonic()
                    work.update(view)
                    seconds[stage_name] += time.monotonic() - began
                done += len(batch.ids)
                progress.update(len(batch.ids))
                if time.monotonic() - saved_at > pause and done < len(mine):
                    began = time.monotonic()
                    state = {
                        key: value for work in works.values() for key, value in work.state().items()
                    }
                    state |= {f"{key}.seconds": torch.tensor(v) for key, v in seconds.items()}
                    run.save_state(number, name, done, state)
                    saved_at = time.monotonic()
                    pause = max(SAVE_EVERY, SAVE_SHARE * (saved_at - began))
        streaming = {key: work for key, work in streaming.items() if work.again()}
        label, done = f"{context.name}: {', '.join(streaming)}, once more", 0
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
        if processes.first:
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


def _identity(subjects: Sequence[_Subject], settings: Settings) -> dict[str, Any]:
    """All that the numbers depend on."""
    return {
        "settings": _plain(settings),
        "models": [
            [s.classifier.name, fingerprint(s.classifier.state_dict(keep_vars=True).items()),
             s.classifier.mean.flatten().tolist(), s.classifier.std.flatten().tolist()]
            for s in subjects
        ],
        "data": [s.data.fingerprint() for s in subjects],
        "concepts": [s.concepts.fingerprint() for s in subjects if s.concepts is not None],
        "advlens": __version__,
    }  # fmt: skip


def _plain(settings: Settings) -> dict[str, Any]:
    values = dataclasses.asdict(settings)
    return {key: str(v) if isinstance(v, Path) else v for key, v in values.items()}


def _record(
    subjects: Sequence[_Subject], parts: Sequence[dict[str, dict[str, Any]]],
    settings: Settings, chosen: dict[str, float], command: str,
) -> dict[str, Any]:  # fmt: skip
    """What run.json holds."""
    data = subjects[0].data
    return {
        "advlens": __version__,
        "command": without_home(command),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": settings.seed,
        "settings": _plain(settings) | chosen,
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
