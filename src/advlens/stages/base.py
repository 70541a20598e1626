"""What the audit and its stages say to each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from advlens.arrays import Ids, Images, Labels, Logits
from advlens.datasets import ImageData
from advlens.distributed import Processes
from advlens.models import Classifier
from advlens.prepared import Prepared
from advlens.runs import Row, Run, Tables
from advlens.sections import Results, Section


@dataclass(frozen=True)
class Context:
    """One model of an audit, and the data as this model sees them.

    Attributes:
        name: the model's name in tables.
        classifier: the model.
        prepared: its frozen evaluation copy.
        data: labels counted in the model's classes.
        run: the run folder, for pictures and for what a long computation keeps of itself.
        number: of the model in the run.
        seed: of everything random.
        batch_size: images per step.
        processes: those that share the images; the first one writes.
    """

    name: str
    classifier: Classifier
    prepared: Prepared
    data: ImageData
    run: Run
    number: int
    seed: int
    batch_size: int
    processes: Processes = Processes()  # noqa: RUF009 (frozen)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run.folder


class View:
    """A batch of the pass; the forward pass on the real images is done once for all stages."""

    def __init__(
        self, prepared: Prepared, ids: Ids, images: Images, labels: Labels, recording: bool
    ):
        self.prepared, self.ids, self.images, self.labels = prepared, ids, images, labels
        self.recording = recording

    @cached_property
    def _recorded(self) -> tuple[Logits, dict[str, Tensor]]:
        with torch.no_grad():
            return (
                self.prepared.record(self.images)
                if self.recording
                else (self.prepared(self.images), {})
            )

    @property
    def logits(self) -> Logits:
        """Of the real images."""
        return self._recorded[0]

    @property
    def responses(self) -> dict[str, Tensor]:
        """Of every unit to the real images, by layer, N×units; only where a stage records."""
        return self._recorded[1]


class Work(Protocol):
    """A stage at work on one model."""

    def update(self, view: View) -> None:
        """Take in a batch."""

    def state(self) -> dict[str, Tensor]:
        """All that is needed to go on after a kill."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a state."""

    def again(self) -> bool:
        """Whether the images must pass once more; asked at the end of each pass."""
        return False

    def compute(self) -> Tables:
        """The stage's rows for this model, by table."""


class Stage(Protocol):
    """An analysis: settings, what it streams over, its tables and its section of the report."""

    @property
    def name(self) -> str:
        """A short word, for files."""

    @property
    def records(self) -> bool:
        """Whether it needs the units' responses."""

    def images(self, data: ImageData) -> tuple[ImageData, Sequence[int]]:
        """The images that it streams over: of the audit's data, or of its own; and their ids."""

    def start(self, context: Context) -> Work:
        """Begin on a model."""

    def section(self, results: Results) -> Section | None:
        """Its part of the report, if the run holds its tables."""


def attack_columns(attack: Any) -> Row:
    """The columns that name an attack in every table."""
    threat = getattr(attack, "threat", None)
    return {
        "attack": type(attack).__name__,
        "norm": threat.norm if threat else "",
        "epsilon": float(threat.epsilon) if threat else "",
        "steps": getattr(attack, "steps", 1),
    }
