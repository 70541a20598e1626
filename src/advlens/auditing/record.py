"""The record that a run keeps of itself."""

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from advlens import __version__
from advlens.auditing.subjects import Subject
from advlens.errors import DataError
from advlens.files import sha256
from advlens.models import Classifier
from advlens.runs.folder import ABOUT, Tables, fingerprint
from advlens.runs.record import data_record, machine, model_record, versions, without_home
from advlens.settings import AuditSettings, DissectSettings
from advlens.training.history import left_beside

Settings = AuditSettings | DissectSettings


def training_tables(subject: Subject) -> Tables:
    """The tables of the training behind the weights, if they lie beside them."""
    try:
        return left_beside(
            Path(subject.spec.partition("@")[2]).expanduser(), subject.classifier.name
        )
    except DataError as error:
        subject.notes.append(
            f"The training of {subject.classifier.name} is not shown: {without_home(str(error))}"
        )
        return {}


def identity(subjects: Sequence[Subject], settings: Settings) -> dict[str, Any]:
    """Everything that the numbers depend on."""
    described = [f"{s.data.name}, {len(s.data):,} images" for s in subjects[:1]]
    return {
        "settings": {k: v for k, v in _plain(settings).items() if k != "expect_accuracy"},
        "models": [s.classifier.name for s in subjects],
        "weights or normalization": {s.classifier.name: _model(s.classifier) for s in subjects},
        "images": [s.data.fingerprint() for s in subjects],
        "training images": [part.fingerprint for s in subjects for part in s.training.values()],
        "images with labeled pixels": [
            s.concepts.fingerprint() for s in subjects if s.concepts is not None
        ],
        "version": __version__,
        ABOUT: {"images": described[0]},
    }


def _model(classifier: Classifier) -> str:
    state = classifier.state_dict(keep_vars=True)
    return fingerprint([*state.items(), ("mean", classifier.mean), ("std", classifier.std)])


def _plain(settings: Settings) -> dict[str, Any]:
    values = dataclasses.asdict(settings)
    if isinstance(settings, AuditSettings) and (file := settings.similarity_file) is not None:
        values["similarity"] = f"{settings.similarity}, SHA-256 {sha256(file)[:16]}"
    return {key: str(v) if isinstance(v, Path) else v for key, v in values.items()}


def radii(subject: Subject, settings: Settings) -> dict[str, Any]:
    """The settings that are radii, as chosen for a model's images; those that mean something."""
    if isinstance(settings, DissectSettings):
        return {"epsilon": subject.neuron_epsilon} if settings.attack == "least-likely" else {}
    named = settings.attack_on_units is not None
    return {
        "epsilon": settings.epsilon or subject.epsilon,
        "epsilon_linf": settings.epsilon_linf or subject.radii["Linf"][0],
    } | ({} if named else {"neuron_epsilon": subject.neuron_epsilon})


def record(
    subjects: Sequence[Subject],
    parts: Sequence[dict[str, dict[str, Any]]],
    settings: Settings,
    device: torch.device,
    command: str,
    unfinished: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """The contents of run.json; `unfinished` lists pairs of a model and a stage."""
    first = subjects[0]
    return {
        "advlens": __version__,
        "command": without_home(command),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "seed": settings.seed,
        "settings": _plain(settings) | radii(first, settings),
        "models": [model_record(s.classifier, s.prepared, s.data, s.spec) for s in subjects],
        "data": data_record(first.data),
        "training_images": [
            {"name": part.name, "images": len(part.images), "fingerprint": part.fingerprint}
            for part in first.training.values()
        ],
        "versions": versions(),
        "machine": machine(device),
        "stages": [
            {
                "stage": name,
                "model": subject.classifier.name,
                "seconds": round(part["seconds"], 1),
                "peak_memory_mb": round(part["peak_memory_mb"]),
                "images_per_second": round(part["images"] / max(part["seconds"], 1e-9), 1)
                if part["images"]
                else None,
            }
            for subject, model_parts in zip(subjects, parts, strict=True)
            for name, part in model_parts.items()
        ],
        "warnings": [warning for subject in subjects for warning in subject.warnings],
        "unfinished": [{"model": model, "stage": stage} for model, stage in unfinished],
        "notes": sorted({note for subject in subjects for note in subject.notes}),
    }
