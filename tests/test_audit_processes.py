"""The audit in several processes: the tables of one, byte for byte, also after kills."""

import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from advlens import auditing
from advlens.attacks import Fgsm
from advlens.auditing import audit, jobs, passes
from advlens.datasets import ArrayData
from advlens.distributed import joined
from advlens.interop import AutoAttack
from advlens.models import Classifier
from advlens.models.zoo import CIFAR10_CLASSES
from advlens.prepared import Prepared
from advlens.runs.folder import read_json
from advlens.settings import AuditSettings
from advlens.wordnet import CIFAR10_SYNSETS
from together import end, start

SETTINGS = AuditSettings(
    stages=(
        "accuracy",
        "sweep",
        "neurons",
        "attribution",
        "visualization",
        "inversion",
        "generation",
    ),
    epsilon=0.5,
    steps=2,
    sweep_images=20,
    sweep_steps=2,
    neuron_steps=2,
    top=0.05,
    explained=9,
    points=2,
    baselines=1,
    samples=2,
    visualized=7,
    visualization_steps=2,
    inverted=7,
    inversion_steps=3,
    autoattack=13,
    generated=2,
    generation_steps=2,
    batch_size=6,
    device="cpu",
)
IMAGES = 57  # ten batches, the last one not full: two processes have five each, three 4, 3 and 3


def images() -> ArrayData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (IMAGES, 3, 12, 12), generator=generator, dtype=torch.uint8)
    return ArrayData(
        pixels,
        name="noise",
        classes=CIFAR10_CLASSES,
        synsets=tuple(CIFAR10_SYNSETS.values()),
        labels=torch.arange(IMAGES) % 10,
    )


def classifier(seed: int) -> Classifier:
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.ReLU(),
        nn.Conv2d(6, 5, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(20, 10),
    )
    return Classifier(
        network,
        name=f"tiny{seed}",
        classes=CIFAR10_CLASSES,
        synsets=tuple(CIFAR10_SYNSETS.values()),
        image_size=12,
        resize=12,
    ).eval()


def results(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / "results").iterdir())}


def part(
    attack: AutoAttack, name: str, model: Prepared, images: Tensor, labels: Tensor, ids: Tensor
) -> Tensor:
    """In the place of AutoAttack's four attacks, which take their time."""
    return Fgsm(threat=attack.threat)(model, images, labels)


def one(out: Path, dies_after: int | None = None) -> None:
    """An audit as one of the processes, which may die after some batches or steps."""
    if dies_after is not None:
        left, update = dies_after, passes.Progress.update

        def dies(progress: passes.Progress, done: int) -> None:
            nonlocal left
            update(progress, done)
            left -= 1
            if left == 0:
                os._exit(9)

        passes.Progress.update = dies  # type: ignore[method-assign]
        passes.SAVE_EVERY = passes.SAVE_SHARE = jobs.SAVE_EVERY = 0.0
    AutoAttack.part = part  # type: ignore[method-assign]
    auditing.write_report = lambda out: out / "report.html"  # type: ignore[assignment]
    with joined(torch.device("cpu")) as processes:
        audit([classifier(0), classifier(1)], images(), out, settings=SETTINGS, processes=processes)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone")
    assert end(start(1, one, out)) == [0]
    return out


@pytest.mark.parametrize("count", [2, 3])
def test_processes_give_the_bytes_of_one(alone: Path, tmp_path: Path, count: int) -> None:
    assert end(start(count, one, tmp_path)) == [0] * count
    assert results(tmp_path) == results(alone)
    names = {path.relative_to(alone) for path in (alone / "figures").rglob("*.png")}
    for name in names:
        assert (tmp_path / name).read_bytes() == (alone / name).read_bytes()
    left = [path.name for path in (tmp_path / "parts").iterdir() if "state" in path.name]
    assert left == []


@pytest.mark.parametrize("dies_after", [3, 25])
def test_killed_processes_continue_to_the_same_bytes(
    alone: Path, tmp_path: Path, dies_after: int
) -> None:
    codes = end(start(2, one, tmp_path, dies_after))
    assert 9 in codes
    assert read_json(tmp_path / "run.json")["unfinished"]
    assert end(start(2, one, tmp_path)) == [0, 0]
    assert results(tmp_path) == results(alone)
