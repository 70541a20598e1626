"""Attacked images as files: written losslessly, read back, measured again."""

import contextlib
import dataclasses
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from advlens import __version__
from advlens.attacks import (
    AdamAttack,
    Attack,
    Bim,
    FeatureAttack,
    Fgsm,
    GaussianNoise,
    LeastLikely,
    Pgd,
)
from advlens.attacks.adam import CALIBRATION
from advlens.attacks.threat import L2, Linf
from advlens.auditing.subjects import predicted
from advlens.datasets import ImageData, read_rgb
from advlens.distributed import Processes
from advlens.errors import DataError
from advlens.files import atomic, locked
from advlens.intervals import wilson
from advlens.models import Classifier
from advlens.models.classifier import device_of
from advlens.prepared import CHECKED, Prepared, prepare
from advlens.prepared.mixing import check_steps
from advlens.progress import Progress
from advlens.runs.folder import ABOUT, Run, fingerprint, open_run, write_csv, write_json
from advlens.runs.tables import Row
from advlens.settings import AttackSettings
from advlens.words import counted

PREDICTED = 128
"""Images at a time whose classes are predicted, where they have none."""


@dataclass(frozen=True)
class Success:
    """The number of n images on which an attack reached its goal."""

    hits: int
    n: int

    def compute(self) -> dict[str, float | int]:
        """The share in [0, 1] with its 95 % Wilson interval, and n."""
        low, high = wilson(self.hits, self.n)
        return {"share": self.hits / max(self.n, 1), "low": low, "high": high, "n": self.n}

    def __str__(self) -> str:
        return "{share:.1%} (95% interval {low:.1%} to {high:.1%}) of {of}".format(
            **self.compute(), of=counted(self.n, "image")
        )


def chosen_attack(settings: AttackSettings, classifier: Classifier, data: ImageData) -> Attack:
    """The attack of the settings; if the weight of the Adam attack is not set, it is calibrated.

    Args:
        settings: the method and its parameters.
        classifier: the model to attack.
        data: the images, with labels as indices into the model's classes.
    """
    linf = settings.norm == "linf"
    radius = settings.epsilon or (8 / 255 if linf else 0.5)
    threat = Linf(epsilon=radius) if linf else L2(epsilon=radius)
    prepared = prepare(classifier)
    (first,) = data.batches(1, range(1), device=prepared.device)
    with torch.no_grad():
        prepared(first.images)  # a pass shows whether it is randomized
        check_steps(prepared, first.images, settings.precision)
    draws = settings.draws if prepared.randomized else 1
    given: dict[str, Any] = {
        "seed": settings.seed,
        "draws": draws,
        "precision": settings.precision,
    }
    aim: dict[str, Any] = {} if settings.target is None else {"label": "target"}
    iterated = given | {"steps": settings.steps or 20, "step_size": settings.step_size}
    match settings.method:
        case "fgsm":
            return Fgsm(threat=threat, **given, **aim)
        case "bim":
            return Bim(threat=threat, **iterated, **aim)
        case "pgd":
            return Pgd(threat=threat, **iterated, **aim)
        case "least-likely":
            return LeastLikely(threat=threat, **iterated)
        case "feature":
            return FeatureAttack(threat=threat, layer=settings.layer, **iterated)
        case "noise":
            return GaussianNoise(threat=threat, seed=settings.seed)
        case "adam":
            adam = AdamAttack(**iterated | {"step_size": settings.step_size or 5 / 255}, **aim)
            if settings.weight is not None:
                return dataclasses.replace(adam, weight=settings.weight)
            few = data.subset(min(CALIBRATION, len(data)), seed=settings.seed)
            (batch,) = few.batches(len(few))
            labels = adam.given(batch.labels, batch.targets)
            return adam.calibrate(prepared, batch.images, labels)


def store_attack(
    classifier: Classifier,
    data: ImageData,
    attack: Attack,
    out: Path,
    *,
    batch_size: int = 128,
    command: str | None = None,
    processes: Processes = Processes(),
) -> tuple[Success, Success]:
    """Write attacked images as PNG files, read them back, and measure the attack again.

    This writes `out/images/<class>/<id>.png`, `out/run.json` and `out/attack.csv`, and continues
    what an earlier call left. The table has a row for each image: its id; its source, which is a
    file, or a number in the set; the stored file; its label; the predictions before and after; the
    target; whether the attack succeeds; and the length of the change in L∞ and L2. Rounding to 8
    bits changes each pixel value by up to 0.5/255: an image can leave the ball by as much, and an
    attack can lose its success.

    Args:
        classifier: the model to attack.
        data: the images; their class names become the folders.
        attack: the attack.
        out: the folder to write.
        batch_size: images per step.
        command: recorded as the way to reproduce the images.
        processes: those that share the images; each writes its own, and the first one writes the
            table.

    Returns:
        The attack's success on the images as computed, and as read back.

    Raises:
        DataError: a class name cannot be a folder name, or the model lacks classes.
        RunError: the folder is in use, belongs to another attack, or cannot be written.
    """
    prepared = prepare(classifier)
    aligned, files = planned(classifier, prepared, data, out)
    identity = {
        "attack": repr(attack),
        "weights": {
            classifier.name: fingerprint(
                (*classifier.named_parameters(), *classifier.named_buffers())
            )
        },
        "images": aligned.fingerprint(),
        "batch_size": batch_size,
        "version": __version__,
        ABOUT: {"images": f"{data.name}, {len(data):,} images"},
    }
    with locked(out) if processes.first else contextlib.nullcontext():
        run = open_run(out, identity, processes, device_of(classifier))
        before = _write_images(run, prepared, aligned, attack, files, batch_size, processes)
        rows, after = _measure(prepared, aligned, attack, files, batch_size, processes, Path(out))
        if not processes.first:
            return before, after
        write_csv(run.folder / "attack.csv", rows)
        record = {
            "advlens": __version__,
            "command": command or "advlens.workflows.attacked.store_attack(…)",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "attack": repr(attack),
            "model": {"name": classifier.name, "weights": classifier.weights},
            "data": {"name": data.name, "fingerprint": data.fingerprint(), "images": len(data)},
            "success": {"computed": before.compute(), "stored": after.compute()},
            "versions": {name: version(name) for name in ("torch", "numpy", "pillow")},
        }
        write_json(run.folder / "run.json", record)
    return before, after


def planned(
    classifier: Classifier, prepared: Prepared, data: ImageData, out: Path
) -> tuple[ImageData, list[Path]]:
    """The images with labels as the model's outputs, and the file to write for each.

    The prepared copy is compared with the model on the first of them.

    Raises:
        AdvlensError: the model fails on the images, or lacks classes; or a class name cannot be a
            folder name.
    """
    if data.labeled:
        aligned = data.aligned(classifier.classes, classifier.synsets)
    else:
        aligned = predicted(classifier, prepared, data, PREDICTED)
    (first,) = aligned.batches(CHECKED, range(min(CHECKED, len(data))), device=prepared.device)
    prepared.check(first.images)
    aligned = aligned.fitted(classifier.name, prepared.shape)
    named = aligned if data.numbered or not data.labeled else data
    return aligned, [_file(Path(out) / "images", named, i) for i in range(len(data))]


def _file(folder: Path, data: ImageData, number: int) -> Path:
    name = data.classes[int(data.labels[number])]
    if not name.isprintable() or "/" in name or name.startswith(".") or not name:
        raise DataError(f"the class name {name!r} of {data.name} cannot be a folder; rename it")
    return folder / name / f"{number:06d}.png"


def _write_images(
    run: Run,
    prepared: Prepared,
    data: ImageData,
    attack: Attack,
    files: list[Path],
    batch_size: int,
    processes: Processes,
) -> Success:
    """Attack the batches that are not complete; return the success before rounding."""
    hits, mine = 0, processes.deal(len(data), batch_size)
    with Progress(f"attack on {data.name}", len(mine), shown=processes.first) as progress:
        for start in mine[::batch_size]:
            ids = range(start, min(start + batch_size, len(data)))
            part = run.part(0, f"batch-{start}", partial(_problem, len(ids)))
            if part is None or not all(files[i].exists() for i in ids):
                (batch,) = data.batches(batch_size, ids, device=prepared.device)
                labels = attack.given(batch.labels, batch.targets)
                attacked = attack(prepared, batch.images, labels, ids=batch.ids)
                with torch.no_grad():
                    goal = attack.goal(prepared(batch.images), labels)
                    reached = goal.reached(prepared(attacked))
                pixels = attacked.mul(255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
                for i, image in zip(ids, pixels, strict=True):
                    with atomic(files[i]) as file:
                        Image.fromarray(image).save(file, "PNG")
                part = {"hits": int(reached.sum())}
                run.save_part(0, f"batch-{start}", part)
            hits += part["hits"]
            progress.update(len(ids))
    device = prepared.device
    return Success(int(processes.total(torch.tensor(hits, device=device))), len(data))


def _problem(n: int, part: dict[str, Any]) -> str:
    hits = part.get("hits")
    fits = type(hits) is int and 0 <= hits <= n
    return "" if fits else f"hits is {str(hits)[:40]!r}, of {n} images"


def _measure(
    prepared: Prepared,
    data: ImageData,
    attack: Attack,
    files: list[Path],
    batch_size: int,
    processes: Processes,
    out: Path,
) -> tuple[list[Row], Success]:
    """A row for each image, measured on the contents of the files."""
    rows: list[Row] = []
    mine = processes.deal(len(data), batch_size)
    for batch in data.batches(batch_size, mine, device=prepared.device):
        read = torch.stack([_read(files[i], data) for i in batch.ids.tolist()])
        attacked = read.to(batch.images).div_(255)
        with torch.no_grad():
            clean, logits = prepared(batch.images), prepared(attacked)
        goal = attack.goal(clean, attack.given(batch.labels, batch.targets))
        change = attacked - batch.images
        columns = {
            "id": batch.ids,
            "source": [data.source(number) for number in batch.ids.tolist()],
            "file": [str(files[number].relative_to(out)) for number in batch.ids.tolist()],
            "label": _names(data, batch.labels),
            "predicted": _names(data, clean.argmax(dim=1)),
            "predicted_attacked": _names(data, logits.argmax(dim=1)),
            "target": _names(data, goal.classes) if goal.targeted else [""] * len(batch.ids),
            "success": goal.reached(logits),
            "linf": Linf(epsilon=0.0).length(change),
            "l2": L2(epsilon=0.0).length(change),
        }
        lists = [v.tolist() if isinstance(v, Tensor) else v for v in columns.values()]
        rows += [dict(zip(columns, row, strict=True)) for row in zip(*lists, strict=True)]
    device, own = prepared.device, json.dumps(rows).encode()
    parts = (processes.spread(own, device, source=rank) for rank in range(processes.count))
    rows = sorted((row for part in parts for row in json.loads(part)), key=lambda row: row["id"])
    return rows, Success(sum(row["success"] for row in rows), len(rows))


def _read(file: Path, data: ImageData) -> UInt8[Tensor, "3 h w"]:
    pixels = torch.from_numpy(np.array(read_rgb(file))).permute(2, 0, 1)
    if tuple(pixels.shape) != data.image_shape:
        raise DataError(f"{file} was changed after it was written; remove it to write it again")
    return pixels


def _names(data: ImageData, labels: Tensor) -> list[str]:
    return [data.classes[label] for label in labels.tolist()]
