"""Everything on a pretended accelerator: the CPU's numbers, and how often a step waits for it."""

import dataclasses
import functools
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import together
from advlens import (
    AuditSettings,
    AutoAttack,
    ClassGeneration,
    Consistency,
    DiscrepancyMap,
    Dissection,
    DissectSettings,
    ExpectedGradients,
    FeatureVisualization,
    IntegratedGradients,
    Inversion,
    LeastLikely,
    Linf,
    Pgd,
    Uniform,
    dissect,
)
from advlens.cli import main
from advlens.datasets import BrodenData
from advlens.interop.guests import library
from advlens.models import Classifier
from advlens.prepared import Prepared, prepare
from advlens.settings import ReproduceSettings
from advlens.statistics import TopK
from advlens.workflows.attacked import store_attack
from advlens.workflows.reproduction import reproduce
from every_attack import ATTACKS, BALL
from objectives_by_hand import OBJECTIVES, batch_of, step
from pretended_device import pretended, waits
from small_runs import SYNSETS, audited, noise, results, small, unreported
from smooth_network import SmoothNetwork
from test_pruning_run import SHORT, built
from test_reproduction import arranged
from tiny_broden import write_tiny_broden
from training import tiny

pytestmark = pytest.mark.timeout(300)  # the first test waits for all of it
METHODS: dict[str, Any] = {
    **ATTACKS,
    "pgd drawn radii": Pgd(threat=Linf(epsilon=Uniform(low=0.01, high=0.02)), steps=3),
    "integrated gradients": IntegratedGradients(steps=4, baselines=2),
    "expected gradients": ExpectedGradients(samples=4),
    "inversion": Inversion(steps=3),
    "visualization": FeatureVisualization(steps=3),
    "generation": ClassGeneration(steps=3),
}
AUDIT = AuditSettings(
    **{"steps": 1, "sweep_images": 3, "sweep_steps": 1, "neuron_steps": 1, "top": 0.2},
    **{"explained": 2, "points": 2, "baselines": 1, "samples": 2, "visualized": 1},
    **{"visualization_steps": 1, "inverted": 2, "inversion_steps": 1, "generated": 1},
    **{"generation_steps": 1, "batch_size": 6, "units": ("network.0:1",)},
    attack=("torchattacks:FGSM(epsilon=4/255)",),  # foolbox knows tensors by their class
    attribution=("captum:Saliency",),
)
IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([3, 3, 0, 0, 3, 1])  # the network's predictions, but the last
Case = Callable[[str, Path], Any]


@functools.cache
def network(device: str) -> Prepared:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return prepare(SmoothNetwork().eval().to(device), IMAGES)


def called(name: str, device: str, folder: Path, **changed: Any) -> Any:
    given: dict[str, Any] = {"inversion": (IMAGES,), "expected gradients": (None,)}
    more = {"background": IMAGES[:4]} if name == "expected gradients" else {}
    method = dataclasses.replace(METHODS[name], **changed)
    return method(network(device), IMAGES, *given.get(name, (LABELS,)), **more)


def outcomes(name: str, device: str, folder: Path, **changed: Any) -> Tensor:
    return dataclasses.replace(METHODS[name], **changed).outcomes(network(device), IMAGES, LABELS)


def stepped(name: str, device: str, folder: Path) -> Any:
    return step(OBJECTIVES[name], batch_of(device=device))


def consistency(device: str, folder: Path) -> Any:
    synsets = (*SYNSETS, "n01503061", "n02958343")
    method = Consistency(attack=LeastLikely(threat=BALL, steps=1), top=0.5)
    return method(network(device), IMAGES, LABELS, synsets)


def discrepancy(device: str, folder: Path) -> Tensor:
    return DiscrepancyMap()(network(device), IMAGES, units=[[0, 1]] * 6)


def detected(device: str, folder: Path, batch_size: int = 6) -> Any:
    data = BrodenData(write_tiny_broden(folder, images=6, size=8, label_size=8))
    return Dissection(quantile=0.03, batch_size=batch_size)(network(device), data)


def trained(device: str, folder: Path, batch_size: int = 24) -> Any:
    more = {"epochs": 1, "batch_size": batch_size, "average": 0.9, "clip": 1.0}
    short = dataclasses.replace(tiny.SHORT, **more)
    model = tiny.classifier().to(device)
    return short(model, tiny.images(), folder, report=tiny.silent).state_dict()


def autoattack(device: str, folder: Path) -> Tensor:
    """All four attacks of the reference, few steps of each; each gets some of the images."""
    package: Any = library("autoattack", "pyautoattack")

    class Short(package.AutoAttack):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            for part in (self.apgd, self.apgd_targeted, self.fab):
                part.n_iter = 2
            self.apgd.n_restarts = self.fab.n_restarts = 1
            self.square.n_queries = 4

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(package, "AutoAttack", Short)
        return AutoAttack(threat=Linf(epsilon=0.02))(network(device), IMAGES, LABELS)


def classifier(device: str, size: int) -> Classifier:
    return small(tiny.classifier, size=size, synsets=SYNSETS).to(device)


def audit(device: str, folder: Path) -> Any:
    settings = dataclasses.replace(AUDIT, device=device)
    data = noise(12, size=8, synsets=SYNSETS, telling=True)
    return results(audited(classifier(device, 8), data, folder, settings=settings))


def dissected(device: str, folder: Path) -> Any:
    few = {"steps": 1, "units": 2, "batch_size": 6, "quantile": 0.03}
    settings = DissectSettings(discrepancy=True, device=device, **few)
    data = BrodenData(write_tiny_broden(folder / "concepts", images=6, size=12, label_size=8))
    with unreported():
        dissect(classifier(device, 12), data, folder / "run", settings=settings)
    return results(folder / "run")


def stored(device: str, folder: Path) -> Any:
    made = store_attack(classifier(device, 12), noise(6), ATTACKS["pgd"], folder, batch_size=4)
    assert made[0].n == 6
    return (folder / "attack.csv").read_bytes()


def pruned(device: str, folder: Path) -> Any:
    """Trained, measured and audited, by the command line."""
    folder.mkdir(parents=True)
    with pytest.MonkeyPatch.context() as patch:
        built(folder, patch)
        patch.syspath_prepend(str(folder))
        assert main(SHORT.replace("--device cpu", f"--device {device}").split()) == 0
    return (folder / "out" / "results" / "pruning.csv").read_bytes()


def reproduced(device: str, folder: Path) -> Any:
    """Trained and audited, and the paper's numbers beside ours."""
    folder.mkdir(parents=True)
    settings = ReproduceSettings(device=device, quick=True, table=(1,))
    with pytest.MonkeyPatch.context() as patch, unreported():
        arranged(folder, patch)
        reproduce("tiny", None, folder / "out", settings=settings, command="")
    return (folder / "out" / "results" / "reproduction.csv").read_bytes()


def rough(device: str, folder: Path) -> Any:
    """Steps in bfloat16 on the device, which computes them in float32."""
    precision = "bf16" if device == "gpu" else "float32"
    return called("pgd last", device, folder, precision=precision)


CASES: dict[str, Case] = {
    **{name: functools.partial(called, name) for name in METHODS},
    **{
        f"outcomes of {name}": functools.partial(outcomes, name)
        for name in (*ATTACKS, "pgd drawn radii")
    },
    **{f"objective {name}": functools.partial(stepped, name) for name in OBJECTIVES},
    **{"consistency": consistency, "discrepancy maps": discrepancy, "training": trained},
    **{
        "steps in bf16": rough,
        "autoattack": autoattack,
        "dissection": detected,
        "audit": audit,
        "dissect": dissected,
        "attack": stored,
        "prune": pruned,
        "reproduce": reproduced,
    },
}

LONGER: dict[str, tuple[dict[str, int], int]] = {
    **dict.fromkeys(
        (
            *("pgd", "pgd last", "pgd linf", "bim", "least likely", "adam", "adam untargeted"),
            *("feature", "divergence", "inversion", "visualization", "generation"),
            "integrated gradients",
        ),
        ({"steps": 8}, 0),
    ),
    "pgd restarts": ({"restarts": 6}, 0),
    "expected gradients": ({"samples": 12}, 0),
    "outcomes of pgd linf": ({"steps": 8}, 5 * 1),
    "outcomes of pgd drawn radii": ({"steps": 8}, 5 * 1),
    "dissection": ({"batch_size": 3}, 1 * 31),
    "training": ({"batch_size": 12}, 2 * 4),
}
"""Settings with more steps or batches, and how many synchronizations these add.

A batch of dissection waits for masks and counts; a step of training for checked images, labels and
gradients of its attack, and for the loss.
"""


def plain(value: Any) -> Any:
    """What `torch.testing` compares, on the CPU."""
    if isinstance(value, bytes):
        return torch.frombuffer(bytearray(value), dtype=torch.uint8)
    if isinstance(value, Tensor):
        return value.detach().cpu()
    if isinstance(value, TopK):
        return plain(value.compute())
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [*map(plain, value)] if isinstance(value, list | tuple) else value


def seen(case: Case, folder: Path) -> tuple[str, int]:
    """What is wrong with a case on the device, empty if nothing is; and how often it waits."""
    waits.clear()
    try:
        with pretended():
            found = plain(case("gpu", folder / "gpu"))
        count = waits.total()
        wanted = plain(case("cpu", folder / "cpu"))
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6, equal_nan=True)
    except Exception:
        return traceback.format_exc(), 0
    return "", count


def measure(folder: Path) -> None:
    """Run all cases in a process of their own, which keeps the device."""
    longer = {
        f"longer {name}": functools.partial(CASES[name], **more)
        for name, (more, _) in LONGER.items()
    }
    cases = CASES | longer
    found = {name: seen(case, folder / str(n)) for n, (name, case) in enumerate(cases.items())}
    (folder / "seen.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def on_device(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, int]]:
    folder = tmp_path_factory.mktemp("device")
    assert together.end(together.start(1, measure, folder), 250) == [0]
    return json.loads((folder / "seen.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_the_device_gives_what_the_cpu_gives(name, on_device):
    error, waited = on_device[name]
    assert not error
    assert waited  # it was there


@pytest.mark.parametrize(("name", "most"), [(n, most) for n, (_, most) in LONGER.items()])
def test_steps_do_not_wait_for_the_device(name, most, on_device):
    (_, waited), (error, longer) = on_device[name], on_device[f"longer {name}"]
    assert not error
    assert longer - waited == most
