"""The audit in several processes: the tables of one, byte for byte, also after kills."""

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from advlens import AuditSettings, AutoAttack, Classifier, Fgsm
from advlens.auditing import audit, jobs, passes
from advlens.distributed import joined
from advlens.models.zoo import CIFAR10_CLASSES
from advlens.plugins import STAGES
from advlens.runs.folder import read_json
from advlens.wordnet import CIFAR10_SYNSETS
from small_runs import noise, results, small, unreported, with_training
from together import end, start

SETTINGS = AuditSettings(
    stages=tuple(name for name in STAGES.names if name != "dissection"),
    **{"epsilon": 0.5, "steps": 2, "sweep_images": 20, "sweep_steps": 2, "neuron_steps": 2},
    **{"top": 0.1, "explained": 9, "points": 2, "baselines": 1, "samples": 2, "generated": 2},
    **{"visualized": 7, "visualization_steps": 2, "inverted": 7, "inversion_steps": 3},
    **{"generation_steps": 2, "autoattack": 13, "batch_size": 6, "device": "cpu"},
)
KNOWN = {"classes": CIFAR10_CLASSES, "synsets": tuple(CIFAR10_SYNSETS.values())}
IMAGES = 39  # seven batches, the last one not full: two processes have 4 and 3, three 3, 2 and 2


def network() -> nn.Module:
    layers = nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.ReLU()
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(20, 10))


def models() -> list[Classifier]:
    return [small(network, f"tiny{seed}", seed=seed, **KNOWN) for seed in (0, 1)]


def part(attack, name, model, images, labels, ids):
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

        passes.Progress.update = dies
        for module in (passes, jobs):
            module.SAVE_EVERY = module.SAVE_SHARE = 0.0
    AutoAttack.part = part
    with unreported(), joined(torch.device("cpu")) as processes:
        data = with_training(noise(IMAGES, **KNOWN), 130)
        audit(models(), data, out, settings=SETTINGS, processes=processes)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    out = tmp_path_factory.mktemp("alone")
    assert end(start(1, one, out)) == [0]
    return out


def test_processes_give_the_bytes_of_one(alone, tmp_path):
    assert end(start(3, one, tmp_path)) == [0, 0, 0]
    assert results(tmp_path) == results(alone)
    for picture in (alone / "figures").rglob("*.png"):
        assert (tmp_path / picture.relative_to(alone)).read_bytes() == picture.read_bytes()
    assert [path.name for path in (tmp_path / "parts").iterdir() if "state" in path.name] == []


def test_processes_killed_again_and_again_continue_to_the_same_bytes(alone, tmp_path):
    for dies_after in (3, 15, 22):  # the last with generated images on hand
        assert 9 in end(start(2, one, tmp_path, dies_after))
        assert read_json(tmp_path / "run.json")["unfinished"]
    assert end(start(2, one, tmp_path)) == [0, 0]
    assert results(tmp_path) == results(alone)
