"""Training as the command line offers it: a recipe, a test at the end, a model card."""

import json
import platform
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from advlens import __version__
from advlens.attacks import Attack, Pgd
from advlens.config import TrainSettings
from advlens.datasets import ImageData
from advlens.evaluation import Accuracy
from advlens.files import locked, sha256
from advlens.models import Classifier, load_weights, save_weights
from advlens.objectives import Adversarial, FeatureConsistency, Objective, Standard
from advlens.prepared import prepare
from advlens.progress import Progress
from advlens.runs import fingerprint, read_json, write_json, write_text
from advlens.threat import L2, Linf, Threat
from advlens.training import Training

TEST_STEPS = 20
VALIDATION_STEPS = 10


@dataclass(frozen=True)
class Recipe:
    """What the settings of the command line stand for."""

    training: Training
    test_attack: Attack

    @classmethod
    def of(cls, settings: TrainSettings) -> "Recipe":
        """The training, and the attack of the final test."""
        threat = _threat(settings)
        training = Training(
            objective=_objective(settings, threat),
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            validation=settings.validation,
            validation_attack=Pgd(threat=threat, steps=VALIDATION_STEPS),
            precision=settings.precision,
            seed=settings.seed,
        )
        return cls(training, Pgd(threat=threat, steps=TEST_STEPS, seed=settings.seed))


def _threat(settings: TrainSettings) -> Threat:
    if settings.norm == "linf":
        return Linf(epsilon=settings.epsilon or 8 / 255)
    return L2(epsilon=settings.epsilon or 0.5)


def _objective(settings: TrainSettings, threat: Threat) -> Objective:
    if settings.objective == "standard":
        return Standard()
    if settings.objective == "consistency":
        return FeatureConsistency(alpha=settings.alpha, beta=settings.beta)
    steps = settings.attack_steps
    step_size = settings.step_size or 1.2 * float(threat.epsilon) / steps
    return Adversarial(attack=Pgd(threat=threat, steps=steps, step_size=step_size, select="last"))


def finish(
    classifier: Classifier,
    test: ImageData,
    out: Path,
    recipe: Recipe,
    *,
    half: bool,
    data: str,
    command: str,
) -> dict[str, Any]:
    """Store the trained weights, measure them as stored, once, and write the model card.

    Args:
        classifier: with the weights to store.
        test: images that training has not seen, labels counted in the model's classes.
        out: the folder of the training.
        recipe: how it was trained.
        half: store float16.
        data: name of the training set, for the card.
        command: for the card.

    Returns:
        Accuracy on the test set, "natural" and "attacked": top1, its 95 % interval, top5, n.
    """
    with locked(out):
        path, record = out / "model.safetensors", out / "test.json"
        asked = {
            "trained": fingerprint(classifier.state_dict().items()),
            "attack": repr(recipe.test_attack),
            "half": half,
        }
        found = read_json(record) if record.exists() and path.exists() else {}
        if any(found.get(key) != value for key, value in asked.items()):
            save_weights(classifier, path, dtype=torch.float16 if half else torch.float32)
            load_weights(classifier, path)
            found = asked | {"weights": sha256(path)} | _measure(classifier, test, recipe)
            write_json(record, found)
        write_text(
            out / "model.md", _card(classifier, test, out, recipe, found, half, data, command)
        )
    return found


def _measure(classifier: Classifier, test: ImageData, recipe: Recipe) -> dict[str, Any]:
    prepared, natural, attacked = prepare(classifier), Accuracy(), Accuracy()
    device = next(classifier.parameters()).device
    with Progress("test", len(test)) as progress:
        for batch in test.batches(recipe.training.batch_size):
            images, labels = batch.images.to(device), batch.labels.to(device)
            with torch.no_grad():
                clean = prepared(images)
            natural.update(clean, labels)
            attacked.update(
                recipe.test_attack.outcomes(prepared, images, labels, ids=batch.ids, clean=clean),
                labels,
            )
            progress.update(len(labels))
    return {"natural": natural.compute(), "attacked": attacked.compute()}


def _card(
    classifier: Classifier, test: ImageData, out: Path, recipe: Recipe, found: dict[str, Any],
    half: bool, data: str, command: str,
) -> str:  # fmt: skip
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    best = max(rows, key=lambda row: row["natural"] + row["adversarial"])
    training, weights = recipe.training, out / "model.safetensors"
    parameters = sum(p.numel() for p in classifier.parameters())
    about = {
        "architecture": f"{classifier.name}, {parameters:,} parameters",
        "weights": f"{weights.name}, {'float16' if half else 'float32'}, "
        f"{weights.stat().st_size:,} bytes, SHA-256 {found['weights']}",
        "training data": f"{data}, of which {training.validation} images chose the epoch",
        "command": f"`{command}`",
        "settings": f"`{training!r}`",
        "seed": training.seed,
        "time": f"{rows[-1]['seconds']:,.0f} s for {len(rows)} epochs on "
        f"{next(classifier.parameters()).device}, {torch.get_num_threads()} threads",
        "versions": f"advlens {__version__}, torch {version('torch')}, "
        f"Python {platform.python_version()}",
    }
    lines = [f"# {classifier.name}", "", "| | |", "| --- | --- |"]
    lines += [f"| {name} | {value} |" for name, value in about.items()]
    lines += ["", f"## Accuracy on {test.name}", ""]
    lines += ["Measured once, after training, on the weights as stored.", ""]
    lines += ["| images | top-1 | 95 % interval | top-5 | n |", "| --- | --- | --- | --- | --- |"]
    for name, key in (("natural", "natural"), (f"`{recipe.test_attack!r}`", "attacked")):
        row = found[key]
        lines.append(
            f"| {name} | {row['top1']:.2%} | {row['top1_low']:.2%} to {row['top1_high']:.2%} "
            f"| {row['top5']:.2%} | {row['n']:,} |"
        )
    lines += ["", f"## Epochs (held-out images, n = {best['n']:,}; epoch {best['epoch']} is kept)"]
    lines += ["", "| epoch | loss | natural | attacked | s |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {row['epoch']} | {row['loss']:.4f} | {row['natural']:.1%} | {row['adversarial']:.1%} "
        f"| {row['seconds']:,.0f} |"
        for row in rows
    ]
    return "\n".join(lines) + "\n"
