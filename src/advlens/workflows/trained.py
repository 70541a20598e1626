"""The end of a training: its weights are stored and measured, a card and a report describe them."""

import contextlib
import dataclasses
import hashlib
import json
import platform
import statistics
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from advlens import __version__
from advlens.attacks import Attack, GradientAttack
from advlens.attacks.base import NATURAL
from advlens.datasets import ImageData
from advlens.distributed import Processes
from advlens.errors import RunError
from advlens.evaluation import Accuracy
from advlens.files import locked, sha256
from advlens.folders import is_amount
from advlens.models import Classifier, load_weights, save_weights
from advlens.models.classifier import device_of
from advlens.prepared import prepare
from advlens.progress import Progress
from advlens.report.page import write_report
from advlens.runs.folder import Tables, fingerprint, read_json, write_json, write_tables, write_text
from advlens.runs.record import (
    data_record,
    machine,
    model_record,
    peak_memory,
    versions,
    without_home,
)
from advlens.runs.tables import Row
from advlens.settings import DRAWS
from advlens.training import Training
from advlens.training.history import training_tables
from advlens.training.words import in_words


def finish(
    classifier: Classifier,
    test: ImageData,
    out: Path,
    training: Training,
    test_attack: Attack,
    *,
    half: bool,
    data: str,
    command: str,
    recipe: str | None = None,
    processes: Processes = Processes(),
) -> dict[str, Any]:
    """Store the trained weights, measure the stored ones once, and write what describes them.

    Files: `model.safetensors`, `test.json`, a model card `model.md`, `run.json`, `results/` and
    `report.html`. If `test.json` holds the accuracy of these weights on these images under this
    attack, nothing is measured again.

    Args:
        classifier: the classifier with the weights to store, the same in all processes.
        test: images that training has not seen, with labels that number the model's classes.
        out: the folder of the training, with its `metrics.jsonl`.
        training: how the classifier was trained.
        test_attack: the attack of the test.
        half: whether to store float16.
        data: name of the training set.
        command: the command line, which the model card shows.
        recipe: name of the recipe, if any.
        processes: those that measure together; the first one writes.

    Returns:
        Accuracy on the test set, "natural" and "attacked", each as `Accuracy.compute` gives it.

    Raises:
        RunError: another process writes into `out`, or the disk is full.
        DataError: `metrics.jsonl` is damaged.
    """
    out = Path(out)
    with locked(out) if processes.first else contextlib.nullcontext():
        measured = _tested(classifier, test, out, training, test_attack, half, processes)
        if processes.first:
            words = in_words(training, recipe)
            _Trained(
                classifier,
                test,
                out,
                training,
                test_attack,
                half,
                data,
                command,
                recipe,
                measured,
                training_tables(out, classifier.name, words),
            ).write()
    return measured


def _tested(
    classifier: Classifier,
    test: ImageData,
    out: Path,
    training: Training,
    attack: Attack,
    half: bool,
    processes: Processes,
) -> dict[str, Any]:
    """The content of `test.json`, measured unless the file has it; the same in all processes."""
    device = device_of(classifier)
    path, record = out / "model.safetensors", out / "test.json"
    asked = {
        "trained": fingerprint(classifier.state_dict().items()),
        "data": test.fingerprint(),
        "attack": repr(attack),
        "half": half,
    }
    known: dict[str, Any] = {}
    if processes.first and record.exists() and path.exists():
        recorded = read_json(record)
        if asked.items() <= recorded.items() and recorded.get("weights") == sha256(path):
            if problem := _problem(recorded, len(test)):
                raise RunError(f"{record} is damaged: {problem}; remove it to measure again")
            known = recorded
    known = json.loads(processes.spread(json.dumps(known).encode(), device))
    if known:
        return known
    content = b""
    if processes.first:
        save_weights(classifier, path, dtype=torch.float16 if half else torch.float32)
        content = path.read_bytes()
    content = processes.spread(content, device)
    with tempfile.NamedTemporaryFile(suffix=path.suffix) as file:  # `out` may be the first's alone
        file.write(content)
        file.flush()
        load_weights(classifier, Path(file.name))
    measured = asked | {"weights": hashlib.sha256(content).hexdigest()}
    measured |= _measure(
        classifier, test, attack, training.batch_size // processes.count, processes
    )
    if processes.first:
        write_json(record, measured)
    return measured


def _problem(recorded: dict[str, Any], n: int) -> str:
    """What is wrong with the content of a `test.json`, or nothing."""
    for kind in ("natural", "attacked"):
        row = recorded.get(kind)
        shares = ("top1", "top1_low", "top1_high", "top5")
        if not (
            isinstance(row, dict)
            and row.keys() >= {*shares, "n"}
            and row["n"] == n
            and all(is_amount(row[key]) and row[key] <= 1 for key in shares)
        ):
            return f"{kind} is no accuracy on {n} images"
    if not all(is_amount(recorded.get(key)) for key in ("seconds", "peak_memory_mb")):
        return "its time or memory is no number"
    created = recorded.get("created")
    if not isinstance(created, str) or len(created) > 40:
        return "it does not say when it was created"
    return ""


def _measure(
    classifier: Classifier, test: ImageData, attack: Attack, batch_size: int, processes: Processes
) -> dict[str, Any]:
    """Accuracy with time and memory. Each image counts once, in one of the processes."""
    prepared, device = prepare(classifier), device_of(classifier)
    (first,) = test.batches(1, [0])
    with torch.no_grad():
        prepared(first.images.to(device))  # a pass shows whether it is randomized
    draws = DRAWS if prepared.randomized else 1
    if isinstance(attack, GradientAttack):
        attack = dataclasses.replace(attack, draws=draws)
    natural, attacked = Accuracy(draws=draws), Accuracy(draws=draws)
    ids = processes.share(len(test))
    began = time.monotonic()
    with Progress("test", len(ids), shown=processes.first) as progress:
        for batch in test.batches(batch_size, ids):
            images, labels = batch.images.to(device), batch.labels.to(device)
            with torch.no_grad():
                clean = prepared(images)
            for accuracy, how in ((natural, None), (attacked, attack)):
                accuracy.update_under(how, prepared, images, labels, ids=batch.ids, clean=clean)
            progress.update(len(labels))
    counts = torch.tensor([natural.counts(), attacked.counts()], device=device)
    for accuracy, row in zip((natural, attacked), processes.total(counts).tolist(), strict=True):
        accuracy.restore(row)
    return {
        "natural": natural.compute(),
        "attacked": attacked.compute(),
        "seconds": time.monotonic() - began,
        "peak_memory_mb": peak_memory(device),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@dataclass(frozen=True)
class _Trained:
    """A finished training, and the files that describe it."""

    classifier: Classifier
    test: ImageData
    out: Path
    training: Training
    test_attack: Attack
    half: bool
    data: str
    command: str
    recipe: str | None
    measured: dict[str, Any]
    tables: Tables

    def write(self) -> None:
        model = {"model": self.classifier.name}
        settings = self.test_attack.unusual(seed=self.training.seed)
        tables = self.tables | {
            "accuracy": [
                {**model, **NATURAL, **self.measured["natural"], "settings": ""},
                {
                    **model,
                    **self.test_attack.columns(),
                    **self.measured["attacked"],
                    "settings": settings,
                },
            ]
        }
        write_tables(self.out, tables)
        write_text(self.out / "model.md", self._card())
        write_json(self.out / "run.json", self._record())
        write_report(self.out)

    @cached_property
    def _epochs(self) -> list[Row]:
        return self.tables["training"]

    @cached_property
    def _device(self) -> torch.device:
        return device_of(self.classifier)

    def _record(self) -> dict[str, Any]:
        """The content of `run.json`."""
        classifier, measured, n = self.classifier, self.measured, self.measured["natural"]["n"]
        classifier.weights = measured["weights"]
        settings = {
            field.name: _plain(getattr(self.training, field.name))
            for field in dataclasses.fields(self.training)
        }
        speeds = [row["images_per_second"] for row in self._epochs if row["images_per_second"]]
        return {
            "advlens": __version__,
            "command": without_home(self.command),
            "created": measured["created"],
            "seed": self.training.seed,
            "settings": {"recipe": self.recipe, "training_data": self.data}
            | settings
            | {"test_attack": repr(self.test_attack), "half": self.half},
            "models": [
                model_record(
                    classifier,
                    prepare(classifier),
                    self.test,
                    f"{type(classifier.network).__name__}@model.safetensors",
                )
            ],
            "data": data_record(self.test),
            "versions": versions(),
            "machine": machine(self._device),
            "stages": [
                {
                    "stage": "training",
                    "model": classifier.name,
                    "seconds": self._epochs[-1]["seconds"] or 0.0,
                    "peak_memory_mb": None,
                    "images_per_second": statistics.median(speeds) if speeds else None,
                },
                {
                    "stage": "test",
                    "model": classifier.name,
                    "seconds": round(measured["seconds"], 1),
                    "peak_memory_mb": round(measured["peak_memory_mb"]),
                    "images_per_second": round(n / max(measured["seconds"], 1e-9), 1),
                },
            ],
            "notes": [
                f"{self.test.name} was measured once, after training, on the weights as stored "
                f"({self._stored_as})."
            ],
        }

    @property
    def _stored_as(self) -> str:
        return "float16" if self.half else "float32"

    def _card(self) -> str:
        """The model card, in Markdown."""
        rows, weights = self._epochs, self.out / "model.safetensors"
        kept = next(row for row in rows if row["kept"])
        parameters = sum(p.numel() for p in self.classifier.parameters())
        about = {
            "architecture": f"{self.classifier.name}, {parameters:,} parameters",
            "weights": f"{weights.name}, {self._stored_as}, {weights.stat().st_size:,} bytes, "
            f"SHA-256 {self.measured['weights']}",
            "training data": f"{self.data}, of which {self.training.validation} images were held "
            "out",
            **({"recipe": self.recipe} if self.recipe else {}),
            "command": f"`{self.command}`",
            "settings": f"`{self.training!r}`",
            "seed": self.training.seed,
            "time": f"{rows[-1]['seconds'] or 0:,.0f} s for {len(rows)} epochs on {self._device}, "
            f"{torch.get_num_threads()} threads",
            "versions": f"advlens {__version__}, torch {version('torch')}, "
            f"Python {platform.python_version()}",
        }
        lines = [f"# {self.classifier.name}", "", "| | |", "| --- | --- |"]
        lines += [f"| {name} | {value} |" for name, value in about.items()]
        lines += ["", f"## Accuracy on {self.test.name}", ""]
        lines += ["Measured once, after training, on the weights as stored.", ""]
        lines += ["| images | top-1 | 95 % interval | top-5 | n |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for name, key in (("natural", "natural"), (f"`{self.test_attack!r}`", "attacked")):
            row = self.measured[key]
            lines.append(
                f"| {name} | {row['top1']:.2%} | {row['top1_low']:.2%} to {row['top1_high']:.2%} "
                f"| {row['top5']:.2%} | {row['n']:,} |"
            )
        n = kept["n"] or self.training.validation
        lines += ["", f"## Epochs (held-out images, n = {n:,}; epoch {kept['epoch']} is kept)"]
        lines += [
            "",
            "| epoch | loss | natural | attacked | s |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {row['epoch']} | {row['loss']:.4f} | {row['natural']:.1%} "
            f"| {row['adversarial']:.1%} | {row['seconds'] or 0:,.0f} |"
            for row in rows
        ]
        return "\n".join(lines) + "\n"


def _plain(value: Any) -> Any:
    """A setting as run.json holds it."""
    return value if isinstance(value, str | int | float | None) else repr(value)
