"""Training by settings: what they stand for, and what is measured and written at the end."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from advlens import recipes as recipes_module
from advlens.attacks import Pgd
from advlens.config import TrainSettings
from advlens.datasets import ArrayData
from advlens.files import sha256
from advlens.models import Classifier
from advlens.objectives import Adversarial, FeatureConsistency, Standard
from advlens.recipes import Recipe, finish
from advlens.runs import read_json
from advlens.threat import L2, Linf
from advlens.training import Training

CLASSES = ("cat", "dog", "ship", "truck", "frog")
METRICS = """\
{"epoch": 1, "loss": 2.5, "natural": 0.25, "adversarial": 0.25, "n": 8, "seconds": 3.0}
{"epoch": 2, "loss": 1.5, "natural": 0.75, "adversarial": 0.5, "n": 8, "seconds": 6.0}
{"epoch": 3, "loss": 1.25, "natural": 0.875, "adversarial": 0.25, "n": 8, "seconds": 1234.5}
"""


def test_the_settings_default_to_what_the_classes_default_to() -> None:
    assert Recipe.of(TrainSettings()).training == Training()
    assert Recipe.of(TrainSettings(objective="adversarial")).training.objective == Adversarial()
    consistency = Recipe.of(TrainSettings(objective="consistency")).training.objective
    assert consistency == FeatureConsistency()


def test_every_setting_arrives() -> None:
    recipe = Recipe.of(
        TrainSettings(
            objective="adversarial", epochs=3, batch_size=7, learning_rate=0.1, weight_decay=1e-4,
            validation=5, precision="bf16", norm="linf", epsilon=4 / 255, attack_steps=5, seed=9,
        )
    )  # fmt: skip
    linf = Linf(epsilon=4 / 255)
    assert recipe.training == Training(
        objective=Adversarial(
            attack=Pgd(threat=linf, steps=5, step_size=1.2 * 4 / 255 / 5, select="last")
        ),
        epochs=3, batch_size=7, learning_rate=0.1, weight_decay=1e-4, validation=5,
        precision="bf16", validation_attack=Pgd(threat=linf, steps=10), seed=9,
    )  # fmt: skip
    assert recipe.test_attack == Pgd(threat=linf, steps=20, seed=9)
    settings = TrainSettings(objective="adversarial", epsilon=1.0, step_size=0.25)
    objective = Recipe.of(settings).training.objective
    assert isinstance(objective, Adversarial)
    assert objective.attack == Pgd(threat=L2(epsilon=1.0), steps=2, step_size=0.25, select="last")
    settings = TrainSettings(objective="consistency", alpha=0.1, beta=9.0)
    assert Recipe.of(settings).training.objective == FeatureConsistency(alpha=0.1, beta=9.0)
    assert Recipe.of(TrainSettings()).training.objective == Standard()


@pytest.fixture
def test_set(pixels: torch.Tensor, labels: torch.Tensor) -> ArrayData:
    whole = (pixels * 255).round().byte()
    return ArrayData(whole, name="noise test", classes=CLASSES, synsets=None, labels=labels)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_the_stored_weights_are_measured_once_and_described(
    half: bool, smooth: nn.Module, test_set: ArrayData, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recipe = Recipe.of(TrainSettings(batch_size=10, epsilon=0.3))
    (tmp_path / "metrics.jsonl").write_text(METRICS)

    start = {name: tensor.clone() for name, tensor in smooth.state_dict().items()}

    def run() -> dict[str, dict[str, float]]:
        smooth.load_state_dict(start)
        classifier = Classifier(smooth, name="smooth", classes=CLASSES)
        return finish(
            classifier, test_set, tmp_path, recipe, half=half, data="noise train",
            command="advlens train --model smooth",
        )  # fmt: skip

    found = run()
    weights = load_file(tmp_path / "model.safetensors")
    assert {t.dtype for t in weights.values()} == {torch.float16 if half else torch.float32}
    smooth.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
    images = test_set.pixels.float() / 255
    attacked = recipe.test_attack(smooth, images, test_set.labels)
    with torch.no_grad():
        natural = (smooth(images).argmax(dim=1) == test_set.labels).double().mean().item()
        robust = (smooth(attacked).argmax(dim=1) == test_set.labels).double().mean().item()
    assert found["natural"]["top1"] == natural
    assert found["attacked"]["top1"] == robust < natural
    assert found["attacked"]["n"] == 24

    card = (tmp_path / "model.md").read_text()
    parameters = sum(p.numel() for p in smooth.parameters())
    for part in (
        f"smooth, {parameters:,} parameters",
        f"{'float16' if half else 'float32'}, {(tmp_path / 'model.safetensors').stat().st_size:,}",
        sha256(tmp_path / "model.safetensors"),
        "noise train, of which 1000 images chose the epoch",
        "`advlens train --model smooth`",
        f"`{recipe.training!r}`",
        "1,234 s for 3 epochs on cpu, 1 threads",
        f"| natural | {natural:.2%} |",
        f"| `{recipe.test_attack!r}` | {robust:.2%} |",
        "n = 8; epoch 2 is kept",
        "| 2 | 1.5000 | 75.0% | 50.0% | 6 |",
    ):
        assert part in card, part
    assert len(re.findall(r"^\| \d", card, re.MULTILINE)) == 3

    monkeypatch.setattr(recipes_module, "_measure", None)  # a second call would fail
    assert run() == found == read_json(tmp_path / "test.json")
    assert (tmp_path / "model.md").read_text() == card
