"""What an audit takes on this machine: forward passes, minutes and memory."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from advlens.arrays import Images
from advlens.attacks import Attack
from advlens.auditing.stage import Look, Stage
from advlens.auditing.subjects import Subject
from advlens.checks import Precision
from advlens.prepared import Prepared
from advlens.prepared.precision import stepping
from advlens.prepared.trial import untouched
from advlens.runs.record import peak_memory
from advlens.words import count, duration, listed

FEW = 4
"""Images that are measured first."""
LONGEST = 5.0
"""Seconds that measuring a whole batch may take; else the few count."""
UNTOLD = 50
"""Steps of an attack that does not tell them."""


def attack_passes(attack: Attack) -> float:
    """Forward passes that an attack takes on an image, and one on the attacked image.

    A gradient counts as one more pass; an attack that does not tell its steps has `UNTOLD`.
    """
    steps = attack.columns()["steps"]
    return (UNTOLD if steps is None else steps) * 2 * getattr(attack, "draws", 1) + 2


def passes_of(stage: Stage, images: int) -> float:
    """Forward passes that a stage takes on so many images; 0 if it does not tell."""
    tell = getattr(stage, "passes", None)
    return 0.0 if tell is None else float(tell(images))


def looks_of(stage: Stage, images: int) -> Sequence[Look]:
    """What a stage shows other networks on so many images; nothing if it does not tell."""
    tell = getattr(stage, "looks", None)
    return () if tell is None else tuple(tell(images))


def looking(stage: Stage, subject: Subject, images: int, *, first: bool) -> float:
    """Seconds that a stage spends in other networks than the model.

    Args:
        stage: the stage.
        subject: the model and its images.
        images: number of images that are audited.
        first: whether it is the first model of the audit, which does what is done for all once.
    """
    shape, device = tuple(subject.data.image_shape), subject.prepared.device
    return sum(
        look.images * _network_seconds(look.network, shape, device)
        for look in looks_of(stage, images)
        if first or not look.shared
    )


@dataclass(frozen=True)
class Forecast:
    """What the stages of one model take on this machine.

    Attributes:
        model: its name.
        passes: forward passes of one image by stage, about; a stage that does not tell takes none.
            A gradient counts as one more pass.
        untold: the stages that do not tell.
        looks: seconds in other networks by stage, such as that in which distances are measured.
        seconds: of one forward pass, as measured with one batch.
        memory: peak memory of the process in MB after that batch.
    """

    model: str
    passes: Mapping[str, float]
    untold: Sequence[str]
    looks: Mapping[str, float]
    seconds: float
    memory: float

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.each.values())

    @property
    def each(self) -> dict[str, float]:
        """Seconds of each stage that tells its passes."""
        return {
            name: self.seconds * n + self.looks.get(name, 0.0) for name, n in self.passes.items()
        }

    def __str__(self) -> str:
        each = listed([f"{name} {_about(n)}" for name, n in self.passes.items()])
        left_out = f", without {listed(self.untold)}" if self.untold else ""
        looks = f", {duration(sum(self.looks.values()))} of it in other networks"
        return (
            f"{self.model}: about {_about(sum(self.passes.values()))} forward passes ({each})"
            f"{left_out}; {duration(self.total)} at {1 / self.seconds:,.0f} a second, as measured "
            f"with one batch, which takes {count(round(self.memory))} MB"
            f"{looks if self.looks else ''}"
        )


def _about(passes: float) -> str:
    return count(int(round(passes, -2 if passes > 1000 else 0)))


def forecast(
    subject: Subject, stages: Sequence[Stage], batch_size: int, *, first: bool = True
) -> Forecast:
    """Measure one batch of a model, and count what its stages take.

    Args:
        subject: the model and its images.
        stages: the stages.
        batch_size: images per step.
        first: whether it is the first model of the audit, which does what is done for all once.

    Raises:
        ModelError: the model fails on the batch.
    """
    with untouched(subject.classifier):
        seconds = _seconds(subject, batch_size)
    images = len(subject.data)
    passes = {stage.name: passes_of(stage, images) for stage in stages}
    looks = {stage.name: looking(stage, subject, images, first=first) for stage in stages}
    return Forecast(
        model=subject.classifier.name,
        passes={name: n for name, n in passes.items() if n},
        untold=[name for name, n in passes.items() if not n],
        looks={name: n for name, n in looks.items() if n},
        seconds=seconds,
        memory=peak_memory(subject.prepared.device),
    )


def _seconds(subject: Subject, batch_size: int) -> float:
    """Seconds of a forward pass of one image within a batch, of which a gradient takes two."""
    each = 0.0
    for size in (FEW, FEW, batch_size):  # the first pass through a model takes longer
        some = range(min(size, len(subject.data)))
        if each * len(some) > LONGEST:
            break
        batch = next(iter(subject.data.batches(size, some, device=subject.prepared.device)))
        began = time.perf_counter()
        try:
            differentiable = _passed_both_ways(subject.prepared, batch.images)
        except torch.OutOfMemoryError:
            if not each:
                raise
            break  # the audit will halve its batches
        taken = max(time.perf_counter() - began, 1e-9)
        each = taken / (len(some) * (2 if differentiable else 1))
    return each


def _passed_both_ways(prepared: Prepared, images: Images) -> bool:
    """A forward pass, and a gradient if there is one: whether there is."""
    precision: Precision = "bf16" if prepared.mixes else "float32"  # most passes are of steps
    with torch.enable_grad(), stepping(prepared.device, precision):
        images = images.detach().requires_grad_()
        output = prepared(images).sum()
    if output.requires_grad:
        torch.autograd.grad(output, images, allow_unused=True)
    output.item()  # waits for the device
    return bool(output.requires_grad)


@lru_cache(maxsize=4)  # a network is not kept for ever
def _network_seconds(
    network: Callable[[Images], Any], shape: tuple[int, ...], device: torch.device
) -> float:
    """Seconds in which a network sees one image of a few."""
    images, taken = torch.zeros(FEW, *shape, device=device), 0.0
    with torch.no_grad():
        for _ in range(2):  # the first pass takes longer
            began = time.perf_counter()
            network(images)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken = time.perf_counter() - began
    return taken / FEW
