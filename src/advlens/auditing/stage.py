"""What the audit and its stages say to each other."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol, Self

import torch
from torch import Tensor

from advlens.arrays import Ids, Images, Labels, Logits
from advlens.datasets import ImageData
from advlens.distributed import Processes
from advlens.errors import NumericError
from advlens.models import Classifier
from advlens.prepared import Prepared
from advlens.runs.folder import Run, Tables

Need = Literal["synsets", "units", "representation", "gradients", "pairs"]
"""What a stage may need and some models or data sets lack, such as the WordNet ids of the classes
(synsets), layers of units, a last linear layer (representation), a gradient at the pixels, or a
class of 4 images or more (pairs)."""


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
    processes: Processes = Processes()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run.folder

    @property
    def device(self) -> torch.device:
        """The model's."""
        return self.prepared.device

    def dealt(self, count: int, compute: Callable[[list[int]], Tensor]) -> Tensor:
        """A row for each of 0 … count − 1, in all processes; each computes its own whole batches.

        Args:
            count: of rows.
            compute: from some numbers to their rows; also from none, to a tensor of length 0.
        """
        processes, size = self.processes, self.batch_size
        own = compute(processes.deal(count, size))
        if processes.count == 1:
            return own
        whole = own.new_empty(count, *own.shape[1:])
        parts = processes.gathered(own.to(self.device).movedim(0, -1).contiguous())
        for rank, part in enumerate(parts):
            whole[processes.deal(count, size, rank=rank)] = part.movedim(-1, 0).to(whole.device)
        return whole


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
            if self.recording:
                logits, responses = self.prepared.record(self.images)
            else:
                logits, responses = self.prepared(self.images), {}
        if logits.isnan().any():
            raise NumericError(
                "the model returns NaN on images in [0, 1], so no number of it means anything: "
                "check its weights"
            )
        return logits, responses

    @property
    def logits(self) -> Logits:
        """Of the real images."""
        return self._recorded[0]

    @property
    def responses(self) -> dict[str, Tensor]:
        """Of every unit to the real images, by layer, N×units; only where a stage records."""
        return self._recorded[1]


class Work(Protocol):
    """A stage at work on one model.

    Of several processes each updates with its own images. Then their states are merged, by rank,
    in every one of them, and all compute together; the first one's tables count.

    Attributes:
        merges_itself: whether it exchanges with the other processes what they saw.
    """

    merges_itself: bool = False

    def update(self, view: View) -> None:
        """Take in a batch."""

    def state(self) -> dict[str, Tensor]:
        """All that is needed to go on after a kill."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take up a state."""

    @abstractmethod  # one that is forgotten would lose what the others saw, and say nothing
    def merge(self, other: Self) -> None:
        """Take in what another process saw, if that has not been exchanged yet."""

    def again(self) -> bool:
        """Whether the images must pass once more; asked at the end of each pass."""
        return False

    def compute(self) -> Tables:
        """The stage's rows for this model, by table."""


class Stage(Protocol):
    """An analysis: settings, what it streams over, and its tables; the report reads these."""

    @property
    def name(self) -> str:
        """A short word, for files."""

    @property
    def records(self) -> bool:
        """Whether it needs the units' responses."""

    @property
    def needs(self) -> Sequence[Need]:
        """What it cannot run without; looked at before anything is computed."""

    def images(self, data: ImageData) -> tuple[ImageData, Sequence[int]]:
        """The images that it streams over: of the audit's data, or of its own; and their ids."""

    def start(self, context: Context) -> Work:
        """Begin on a model."""
