"""A training, as settings that are called, and the loop that they run.

All randomness is a function of (seed, epoch, image id), so a checkpoint needs no generator state.
With several processes each one handles its part of every batch: gradients are summed over them,
batch normalization sees all of them, so the weights are the same everywhere.
"""

import contextlib
import copy
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from advlens.arrays import Ids, Images, Labels
from advlens.attacks import Attack, Pgd
from advlens.attacks.threat import L2
from advlens.checks import Precision, check_numbers, check_positive, check_types
from advlens.datasets import ImageData
from advlens.distributed import Processes
from advlens.errors import NumericError, SettingsError
from advlens.files import locked
from advlens.models import Classifier
from advlens.models.classifier import device_of
from advlens.prepared import CHECKED
from advlens.prepared.precision import rounded
from advlens.progress import Progress
from advlens.runs.tables import Row
from advlens.seeding import derived
from advlens.signals import ENDING, remembered_signals
from advlens.training.augmentation import Augmentation, centered
from advlens.training.images import TrainingImages, split
from advlens.training.network import LiveNetwork
from advlens.training.objectives import Objective, Standard, TrainingBatch
from advlens.training.schedule import Schedule, rate
from advlens.training.state import State, identity
from advlens.training.validation import MEASURED, measure


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
        momentum: SGD's momentum.
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
        seed: the source of order, augmentation and attacks.
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
    precision: Precision = "float32"
    channels_last: bool = True
    compile: bool = False
    checkpoint_every: float = 60.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        check_positive(self, "epochs", "batch_size", "learning_rate", "validation", "clip")
        check_numbers(self, "momentum", "average", least=0, below=1)

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
            classifier: the classifier to train, on its device.
            data: training images; those larger than the classifier's are cropped.
            out: the folder of the run.
            report: takes a line for each epoch.
            processes: those that train together (see `distributed.joined`); the first one writes.
            on_epoch: takes the row of each epoch in `metrics.jsonl`, after it is safe there; a
                continued run gives its earlier rows first.

        Raises:
            RunError: another process trains in `out`, or it holds a run with other settings.
            NumericError: a loss or gradient is not finite; the last checkpoint stays.
        """
        out = Path(out)
        with contextlib.ExitStack() as stack:
            if processes.first:
                stack.enter_context(locked(out))
            loop = Loop(self, classifier, data, out, report, processes, on_epoch)
            loop.images = TrainingImages(data, loop.network.device, shown=processes.first)
            # from here on there is something to save before the process may end
            return loop.train(stack.enter_context(remembered_signals()))


class Loop:
    """A training under way; `Training` explains the arguments, which are checked at once."""

    images: TrainingImages
    """Those of `data`, which may take a while to read."""

    def __init__(
        self,
        settings: Training,
        classifier: Classifier,
        data: ImageData,
        out: Path,
        report: Callable[[str], None],
        processes: Processes,
        on_epoch: Callable[[Row], None] | None,
    ):
        if settings.validation >= len(data):
            raise SettingsError(
                f"validation holds out {settings.validation} of {len(data)} training images, which "
                "leaves none to train on; give a smaller --validation"
            )
        if settings.batch_size < processes.count:
            raise SettingsError(
                f"a batch of {settings.batch_size} images is too small for {processes.count} "
                "processes; give at least one to each"
            )
        self.settings, self.out, self.processes = settings, out, processes
        self.report, self.on_epoch = report, on_epoch or (lambda row: None)
        self.size = min(classifier.image_size, data.image_shape[1])
        device = device_of(classifier)
        (first,) = data.batches(CHECKED, range(min(CHECKED, len(data))), device=device)
        self.network = LiveNetwork(
            classifier,
            first.images[..., : self.size, : self.size],
            processes,
            precision=settings.precision,
            channels_last=settings.channels_last,
            compiled=settings.compile,
        )
        data.fitted(classifier.name, self.network.shape)
        for note in self.network.notes:
            report(note)
        optimizer = make_optimizer(settings, self.network.parameters)
        self.ids, self.held_out = split(data, settings.validation, seed=settings.seed)
        steps_per_epoch = math.ceil(len(self.ids) / settings.batch_size)
        average = classifier.state_dict() if settings.average is not None else {}
        self.state = State(
            identity=identity(settings, classifier, data) if processes.first else "",
            classifier=classifier,
            optimizer=optimizer,
            steps_per_epoch=steps_per_epoch,
            steps=settings.epochs * steps_per_epoch,
            average={name: tensor.clone() for name, tensor in average.items()},
        )

    def train(self, interrupted: Callable[[], int]) -> Classifier:
        """Train to the end, or until `interrupted` gives the number of a signal."""
        self.interrupted, state = interrupted, self.state
        self._continue()
        self.saved = state.clock = time.monotonic()
        with self._progress() as show:
            while state.epoch < self.settings.epochs:
                with contextlib.closing(self._batches()) as batches:
                    for batch in batches:
                        stop = self._step(batch)
                        show(state.step)
                        state.busy += state.tick()
                        if stop:
                            self._stop(stop)
                        elif time.monotonic() - self.saved > self.settings.checkpoint_every:
                            self._save()
                if stop := self._validate():
                    self._stop(stop)
                self._save()
                self._publish()
                state.tick()
        state.classifier.load_state_dict(state.best_weights)
        return state.classifier.eval()

    # A step

    def _batches(self) -> Generator[TrainingBatch, None, None]:
        """This process's part of each batch left in the epoch."""
        settings, state = self.settings, self.state
        random = torch.Generator().manual_seed(derived(settings.seed, state.epoch) % 2**63)
        order = torch.randperm(len(self.ids), generator=random)
        draws = torch.rand(Augmentation.DRAWS, len(self.ids), generator=random)
        # all of nearly equal size, so that no small batch is left at the end
        batches = torch.tensor_split(order, state.steps_per_epoch)
        batches = batches[state.step - state.epoch * state.steps_per_epoch :]
        parts = [torch.tensor_split(b, self.processes.count)[self.processes.rank] for b in batches]
        with contextlib.closing(self.images.batches([self.ids[part] for part in parts])) as images:
            for batch, part, pixels in zip(batches, parts, images, strict=True):
                ids = self.ids[part]
                yield self.network.batch(
                    settings.augmentation(pixels, draws[:, part], self.size),
                    self.images.data.labels[ids],
                    ids,
                    seed=derived(settings.seed, state.epoch, 1),
                    share=len(part) / len(batch),
                )

    def _step(self, batch: TrainingBatch) -> int:
        """Take one step of the optimizer; return the signal that a process has received, or 0."""
        settings, state = self.settings, self.state
        losses = [row["loss"] for row in state.rows]
        progress = state.step / state.steps
        state.learning_rate = settings.learning_rate * rate(settings.schedule, progress, losses)
        for group in state.optimizer.param_groups:
            group["lr"] = state.learning_rate
        state.optimizer.zero_grad(set_to_none=True)
        with self.network.mixed():
            loss = settings.objective(batch)
        torch.autograd.backward(loss * batch.share, inputs=self.network.parameters)
        terms = {"loss": loss.detach(), **batch.terms}
        means, length, received = self._over_processes(terms, batch.share)
        if not (math.isfinite(means["loss"]) and math.isfinite(length)):
            raise NumericError(
                f"at step {state.step + 1} the loss is {means['loss']} and its gradient's length "
                f"{length} (first parameter concerned: {self.network.first_not_finite()}); lower "
                f"the learning rate (now up to {settings.learning_rate}); the last checkpoint in "
                f"{self.out} is intact"
            )
        if settings.clip is not None:
            torch.nn.utils.clip_grad_value_(self.network.parameters, settings.clip)
        state.optimizer.step()
        if settings.average is not None:
            state.update_average(settings.average)
        state.add(means, len(batch.ids) / batch.share)
        state.step += 1
        return received

    def _over_processes(
        self, terms: Mapping[str, Tensor], share: float
    ) -> tuple[dict[str, float], float, int]:
        """Sum the gradients over the processes, in place, and the rest of a step with them.

        One reduction and one transfer from the device: each of them makes the step wait.

        Returns:
            The means of the terms over the batch; the length of the gradient; the signal that a
            process has received, or 0.
        """
        gradients = self.network.gradients()
        values = torch.stack([term.float() for term in terms.values()]) * share
        values = torch.cat([values, self._received().to(values)])
        self.processes.total_each([*gradients, values])
        norm = torch.nn.utils.get_total_norm(gradients)
        *numbers, length = torch.cat([values, norm.view(1)]).tolist()
        means = dict(zip(terms, numbers, strict=False))
        return means, length, _signal(numbers[len(terms) :])

    # The end of an epoch

    def _validate(self) -> int:
        """Judge the epoch that has ended; on a signal return it and leave that to the next run."""
        state = self.state
        judged = state.classifier
        if state.average:
            judged = copy.deepcopy(judged)
            judged.load_state_dict(state.average)
        with rounded(), contextlib.closing(self._held_out()) as batches:
            sums = measure(judged, self.settings.validation_attack, batches)
        values = torch.cat([sums, self._received().to(sums)])
        totals = self.processes.total(values).tolist()
        if received := _signal(totals[len(MEASURED) :]):
            return received
        n = len(self.held_out)
        measured = {name: total / n for name, total in zip(MEASURED, totals, strict=False)}
        state.end_epoch(judged, measured, n=n, trained=len(self.ids), keep=self.settings.keep)
        return 0

    def _held_out(self) -> Generator[tuple[Ids, Images, Labels], None, None]:
        """This process's part of the held-out images, until a signal comes."""
        mine = self.held_out[list(self.processes.share(len(self.held_out)))]
        batches = torch.split(mine, self.settings.batch_size)
        with contextlib.closing(self.images.batches(batches)) as stream:
            for ids, pixels in zip(batches, stream, strict=True):
                if self.interrupted():
                    return
                labels = self.images.data.labels[ids].to(self.network.device)
                yield ids, centered(pixels, self.size), labels

    # What stays

    def _continue(self) -> None:
        """Take up what the folder holds, and tell of its epochs again."""
        state = self.state
        if state.load(self.out, self.processes):
            state.publish(self.out)
            self.report(f"continuing at step {state.step} of {state.steps}")
            for row in state.rows:
                self.on_epoch(row)

    def _save(self) -> None:
        self.saved = time.monotonic()
        if self.processes.first:
            self.state.save(self.out)
        self.state.tick()  # counts for no step

    def _publish(self) -> None:
        """Write what follows from the checkpoint of an epoch's end, and tell of the epoch."""
        if not self.processes.first:
            return
        self.state.publish(self.out)
        row = self.state.rows[-1]
        self.report(
            f"epoch {row['epoch']}/{self.settings.epochs}: loss {row['loss']:.4f}, validation "
            f"natural {row['natural']:.1%}, attacked {row['adversarial']:.1%} "
            f"(n = {row['n']}), {row['images_per_second']:.0f} images/s, {row['seconds']:.0f} s"
        )
        self.on_epoch(row)

    def _stop(self, number: int) -> None:
        self._save()
        if self.processes.first:
            step, steps = self.state.step, self.state.steps
            self.report(f"stopped at step {step} of {steps}; the same command continues")
        raise SystemExit(128 + number)

    def _received(self) -> Tensor:
        """Whether this process has received each of the ending signals, as 0 or 1."""
        number = self.interrupted()
        return torch.tensor([float(number == signal) for signal in ENDING])

    @contextlib.contextmanager
    def _progress(self) -> Iterator[Callable[[int], None]]:
        """A bar, or a line each minute, in the first process; takes the number of steps done."""
        if not self.processes.first:
            yield lambda step: None
            return
        state, count = self.state, len(self.ids)
        images = [step * count // state.steps_per_epoch for step in range(state.steps + 1)]
        with Progress("training", images[-1], done=images[state.step]) as progress:
            yield lambda step: progress.update(images[step] - images[step - 1])


def make_optimizer(settings: Training, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """SGD or Adam by the settings; the loop sets the learning rate at each step."""
    if settings.optimizer == "adam":
        return torch.optim.Adam(
            parameters, settings.learning_rate, weight_decay=settings.weight_decay
        )
    return torch.optim.SGD(
        parameters,
        settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        nesterov=settings.nesterov,
    )


def _signal(received: Sequence[float]) -> int:
    """The first of the ending signals that a process has received, or 0."""
    return next((n for n, times in zip(ENDING, received, strict=True) if times), 0)
