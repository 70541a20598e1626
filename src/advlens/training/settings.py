"""What a training run is: frozen settings that are called."""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from advlens.attacks import Attack, Pgd
from advlens.attacks.threat import L2
from advlens.datasets import ImageData
from advlens.distributed import Processes
from advlens.errors import SettingsError
from advlens.files import locked
from advlens.models import Classifier
from advlens.signals import remembered_signals
from advlens.training.augmentation import Augmentation
from advlens.training.loop import Loop, Row
from advlens.training.objectives import Objective, Standard
from advlens.training.schedule import Schedule
from advlens.typed import check_types


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of a training run.

    After each epoch natural and adversarial accuracy are measured on a validation split, cut from
    the training set.

    Attributes:
        objective: the loss.
        epochs: passes over the training set.
        batch_size: images per step, over all processes together.
        optimizer: "sgd" or "adam".
        learning_rate: the peak of the schedule.
        momentum: of SGD.
        nesterov: whether that momentum looks ahead.
        weight_decay: L2 penalty on all parameters.
        schedule: "one-cycle", "cosine", "plateau" or "constant" (see `schedule.rate`).
        clip: largest absolute value that an element of a gradient keeps.
        average: decay of an exponential moving average of the weights, such as .999; validation
            and the result then use the averaged ones. It starts lower, at (1 + step)/(10 + step).
        augmentation: how the images vary.
        validation: number of training images held out.
        validation_attack: the attack whose accuracy counts there.
        keep: whose weights are the result: the first epoch's with the "best" mean of natural and
            adversarial accuracy on held-out images, or the "last" one's, where few are held out.
        precision: "bf16" runs the step in mixed precision; validation is always float32.
        channels_last: memory layout of the network; the faster one nearly everywhere.
        compile: run the network through torch.compile.
        checkpoint_every: seconds between checkpoints.
        seed: of initialization, order, augmentation and attacks.
    """

    objective: Objective = field(default_factory=Standard)
    epochs: int = 20
    batch_size: int = 128
    optimizer: Literal["sgd", "adam"] = "sgd"
    learning_rate: float = 0.2
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    schedule: Schedule = "one-cycle"
    clip: float | None = None
    average: float | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    validation: int = 1000
    validation_attack: Attack = field(default_factory=lambda: Pgd(threat=L2(epsilon=0.5), steps=10))
    keep: Literal["best", "last"] = "best"
    precision: Literal["float32", "bf16"] = "float32"
    channels_last: bool = True
    compile: bool = False
    checkpoint_every: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("epochs", "batch_size", "learning_rate", "validation", "clip"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SettingsError(f"{name} must be a positive number, not {value}")
        for name in ("momentum", "average"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise SettingsError(f"{name} must lie between 0 and 1, not {value}")

    def __call__(
        self,
        classifier: Classifier,
        data: ImageData,
        out: Path,
        *,
        report: Callable[[str], None] = print,
        processes: Processes = Processes(),
        on_epoch: Callable[[Row], None] | None = None,
    ) -> Classifier:
        """Train in place, continuing what `out` holds; return the classifier with the weights kept.

        Writes `last.pt` (everything needed to continue), then `metrics.jsonl` (a line per epoch)
        and `best.safetensors`, which follow from it, into `out`. At SIGINT, SIGTERM or SIGHUP it
        writes them and exits with 128 + the signal's number.

        Args:
            classifier: to be trained, on its device.
            data: training images; those larger than the classifier's are cropped.
            out: the folder of the run.
            report: takes a line for each epoch.
            processes: those that train together (see `distributed.joined`); the first one writes.
            on_epoch: takes the row of each epoch in `metrics.jsonl`, after it is safe there; of a
                continued run, the earlier ones first.

        Raises:
            RunError: another process trains in `out`, or it holds a run with other settings.
            NumericError: a loss or gradient is not finite; the last checkpoint stays.
        """
        out = Path(out)
        with contextlib.ExitStack() as stack:
            if processes.first:
                stack.enter_context(locked(out))
            loop = Loop(self, classifier, data, out, report, processes, on_epoch)
            # from here on there is something to save before the process may end
            return loop.train(stack.enter_context(remembered_signals()))
