"""A network, its images and a training that take a second."""

import json
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from advlens import L2, Classifier, Pgd, Training
from advlens.datasets import ArrayData
from advlens.distributed import Processes
from advlens.training.loop import Loop
from advlens.training.objectives import Adversarial, Standard, TrainingBatch

CLASSES = ("cat", "dog", "ship")
SHORT = Training(
    **{"objective": Adversarial(), "epochs": 6, "batch_size": 16, "validation": 12},
    **{"checkpoint_every": 0.0, "validation_attack": Pgd(threat=L2(epsilon=0.5), steps=2)},
)


def images(count: int = 60, side: int = 8) -> ArrayData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 3
    pixels[torch.arange(count), labels] //= 4
    return ArrayData(pixels, name="noise", classes=CLASSES, synsets=None, labels=labels)


def classifier(seed: int = 0) -> Classifier:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first, second = nn.Conv2d(3, 6, 3, bias=False), nn.Conv2d(6, 8, 3, 2)
        start = first, nn.BatchNorm2d(6), nn.ReLU(), second, nn.ReLU()
        network = nn.Sequential(*start, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return Classifier(network, name="tiny", classes=CLASSES, image_size=8, resize=8)


@dataclass(frozen=True)
class Watch:
    """The standard objective, which keeps the batches that it sees."""

    batches: list[TrainingBatch] = field(default_factory=list, repr=False)

    def __call__(self, batch: TrainingBatch) -> Tensor:
        self.batches.append(batch)
        return Standard()(batch)


class Whole(NamedTuple):
    weights: dict[str, Tensor]
    out: Path


def silent(text: str) -> None:
    pass


def train(out, settings=SHORT, processes=Processes(), dtype=torch.float32):
    trained = settings(classifier().to(dtype), images(), out, report=silent, processes=processes)
    return {name: tensor.clone() for name, tensor in trained.state_dict().items()}


def counted_steps(monkeypatch: pytest.MonkeyPatch, *, interrupt: int | None = None) -> list[int]:
    """The numbers of the steps of training from here on; one of them, from 1, gets SIGTERM."""
    steps: list[int] = []
    real = Loop._step

    def step(self: Loop, batch: TrainingBatch) -> int:
        steps.append(self.state.step)
        if len(steps) == interrupt:
            signal.raise_signal(signal.SIGTERM)
        return real(self, batch)

    monkeypatch.setattr(Loop, "_step", step)
    return steps


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def assert_ends_as(whole: Whole, out: Path, settings: Training = SHORT) -> None:
    """The training in `out` continues, and leaves the same bits as the whole one."""
    assert same(whole.weights, train(out, settings))
    assert same(load_file(whole.out / "best.safetensors"), load_file(out / "best.safetensors"))
    assert without_time(metrics(out)) == without_time(metrics(whole.out))


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def without_time(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    timing = ("seconds", "images_per_second")
    return [{key: value for key, value in row.items() if key not in timing} for row in rows]
