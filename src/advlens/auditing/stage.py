"""The interface between the audit and its stages."""

import contextlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, Self

import torch
from torch import Tensor

from advlens.arrays import Ids, Images, Labels, Logits
from advlens.auditing.course import Course
from advlens.datasets import ImageData
from advlens.distributed import Processes
from advlens.errors import NumericError
from advlens.models import Classifier
from advlens.prepared import Prepared
from advlens.progress import Progress
from advlens.runs.folder import Run, Tables

Need = Literal["labels", "synsets", "units", "representation", "gradients", "pairs"]
"""What a stage may need and some models or data sets lack, such as the images' own classes (labels)
and their WordNet ids (synsets), layers of units, a last linear layer (representation), a gradient
at the pixels, or a class of images to fit a Gaussian to, and others to compare with (pairs)."""


class CrowdedError(torch.OutOfMemoryError):
    """A process is out of memory, and all of them know."""


@dataclass(frozen=True)
class Context:
    """One model of an audit, and the data as this model sees them.

    Attributes:
        name: the model's name in tables.
        classifier: the model.
        prepared: its frozen evaluation copy.
        data: the images, with labels as indices into the model's classes.
        run: the run folder, for pictures and for the saved states of long computations.
        number: the model's number in the run.
        seed: the seed of all randomness.
        batch_size: images per step.
        smaller: whether the settings ask for more of them, which do not fit into memory.
        processes: those that share the images; the first one writes the files.
        course: how far the audit is as a whole.
    """

    name: str
    classifier: Classifier
    prepared: Prepared
    data: ImageData
    run: Run
    number: int
    seed: int
    batch_size: int
    smaller: bool = False
    processes: Processes = Processes()
    course: Course = field(default_factory=Course)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.run.folder

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.prepared.device

    def progress(
        self,
        stages: Sequence[str],
        label: str,
        total: int,
        *,
        done: int = 0,
        unit: str = "images",
    ) -> Progress:
        """Progress of some stages on this model; the first process shows it.

        Args:
            stages: those at work.
            label, total, done, unit: as for `Progress`.
        """
        shown, label = self.processes.first, f"{self.name}: {label}"
        return self.course.progress(
            self.number, stages, label, total, done=done, unit=unit, shown=shown
        )

    def own(self, name: str) -> str:
        """A name for the state of this process's share, which is another with smaller batches."""
        name, several = self.processes.own(name), self.processes.count > 1
        return f"{name}-by-{self.batch_size}" if several and self.smaller else name

    @contextlib.contextmanager
    def fitting(self) -> Iterator[None]:
        """Within the block each process computes; the others take its lack of memory as theirs.

        What else is in the block may be computed together only in blocks like this one.

        Raises:
            CrowdedError: the memory of a process does not suffice.
        """
        lack: torch.OutOfMemoryError | None = None
        try:
            yield
        except CrowdedError:
            raise
        except torch.OutOfMemoryError as error:
            lack = error
        if self.processes.total(torch.tensor(int(lack is not None), device=self.device)).item():
            raise CrowdedError(str(lack or "in another process")) from lack

    def dealt(self, count: int, compute: Callable[[list[int]], Tensor]) -> Tensor:
        """A row for each of 0 … count − 1, in all processes; each computes its own whole batches.

        Args:
            count: number of rows.
            compute: maps some numbers to their rows; no numbers give a tensor of length 0.
        """
        processes, size = self.processes, self.batch_size
        with self.fitting():
            own = compute(processes.deal(count, size))
        if processes.count == 1:
            return own
        whole = own.new_empty(count, *own.shape[1:])
        parts = processes.gathered(own.to(self.device).movedim(0, -1).contiguous())
        for rank, part in enumerate(parts):
            whole[processes.deal(count, size, rank=rank)] = part.movedim(-1, 0).to(whole.device)
        return whole


class View:
    """A batch of the pass; all stages share one forward pass on the real images."""

    def __init__(
        self,
        prepared: Prepared,
        ids: Ids,
        images: Images,
        labels: Labels,
        recording: bool,
        targets: Labels | None = None,
    ):
        self.prepared, self.ids, self.images, self.labels = prepared, ids, images, labels
        self.recording, self.targets = recording, targets

    @cached_property
    def _recorded(self) -> tuple[Logits, dict[str, Tensor]]:
        with torch.no_grad():
            if self.recording:
                logits, responses = self.prepared.record(self.images)
            else:
                logits, responses = self.prepared(self.images), {}
        if logits.isnan().any():
            raise NumericError(
                "the model returns NaN on images in [0, 1], so its results mean nothing: check "
                "its weights"
            )
        return logits, responses

    @property
    def logits(self) -> Logits:
        """The logits of the real images."""
        return self._recorded[0]

    @property
    def responses(self) -> dict[str, Tensor]:
        """Every unit's responses to the real images, by layer, N×units; only if a stage records."""
        return self._recorded[1]


class Work(Protocol):
    """A stage at work on one model.

    With several processes, each updates with its own images. Then their states are merged by rank
    in every process, and all compute together; the first one's tables count.

    Attributes:
        merges_itself: whether it exchanges what the processes saw by itself.
    """

    merges_itself: bool = False

    def update(self, view: View) -> None:
        """Process a batch."""

    def state(self) -> dict[str, Tensor]:
        """Everything needed to resume after a kill."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Resume from a state."""

    @abstractmethod  # forgetting one would silently lose what the other processes saw
    def merge(self, other: Self) -> None:
        """Add what another process saw, unless it has been exchanged already."""

    def again(self) -> bool:
        """Whether another pass over the images is needed; asked at the end of each pass."""
        return False

    def compute(self) -> Tables:
        """The stage's rows for this model, by table."""


class Look(NamedTuple):
    """What a stage shows another network than the model.

    Attributes:
        network: from images to anything.
        images: how many it sees.
        shared: whether all models share it, so that it is done once.
    """

    network: Callable[[Images], Any]
    images: int
    shared: bool = False


class Stage(Protocol):
    """An analysis: settings, the images it streams over, and tables that the report reads.

    It may also have a method `passes(images)`: about how many forward passes of one image it takes
    on a data set of that many, a gradient counting as one more; and a method `looks(images)`: each
    `Look` of another network. The forecast of an audit's time adds them up.
    """

    @property
    def name(self) -> str:
        """A short word, used in file names."""

    @property
    def records(self) -> bool:
        """Whether it needs the units' responses."""

    @property
    def needs(self) -> Sequence[Need]:
        """What it cannot run without; checked before any computation."""

    def images(self, data: ImageData) -> tuple[ImageData, Sequence[int]]:
        """The images that it streams over, from the audit's data or its own, and their ids."""

    def start(self, context: Context) -> Work:
        """Start on a model."""
