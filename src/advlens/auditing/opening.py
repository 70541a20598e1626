"""What an audit checks before its first attack: some natural images, and expected accuracies."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from advlens.arrays import Images, Labels, Logits
from advlens.auditing.mistakes import FEWEST, FirstNorm, Seen, mistakes
from advlens.auditing.needs import lacking
from advlens.auditing.subjects import Subject
from advlens.distributed import Processes
from advlens.errors import ModelError, NumericError, SettingsError
from advlens.evaluation import Accuracy
from advlens.models import Classifier
from advlens.prepared import Prepared
from advlens.prepared.forms import model_origin
from advlens.prepared.trial import untouched
from advlens.settings import AuditSettings
from advlens.words import Estimate, count, one_line, percent

IMAGES = 300
"""Maximum number of natural images to check."""


def warn(texts: Sequence[str], processes: Processes) -> None:
    """Warn the user on stderr, once for all processes."""
    if processes.first:
        for text in texts:
            print(f"advlens: warning: {one_line(text)}", file=sys.stderr, flush=True)


def looked_at(subject: Subject, batch_size: int, seed: int) -> list[str]:
    """Warnings about common mistakes, from one pass over at most `IMAGES` natural images.

    Differences between the prepared copy and the model come first.

    Raises:
        ModelError: the model fails on a batch.
        NumericError: it returns NaN.
    """
    data, name = subject.data, subject.classifier.name
    some = data.subset(min(IMAGES, len(data)), seed=seed)
    labels = some.labels if data.labeled else None
    batches = some.batches(batch_size, device=subject.prepared.device)
    with torch.no_grad(), untouched(subject.classifier):
        watched = _Watched(subject.classifier, subject.prepared)
        seen = watched.look((batch.images for batch in batches), labels)
    notes = [*subject.classifier.notes, *subject.prepared.notes]
    if seen is None:  # the units of a partial network are dissected without logits
        return notes
    return [*notes, *mistakes(name, data.classes, seen)]


def check_expected(
    subjects: Sequence[Subject], settings: AuditSettings, processes: Processes
) -> None:
    """Measure natural accuracy on all images if an accuracy is expected.

    Raises:
        ModelError: the 95 % interval of a model's natural accuracy excludes the expected value.
        SettingsError: the number of values is neither one nor the number of models.
    """
    expected = settings.expect_accuracy
    if not expected:
        return
    for subject in subjects:
        if (lack := lacking(subject, "labels", settings)) is not None:
            raise type(lack)(f"expect_accuracy cannot be checked: {lack}")
    if len(expected) not in (1, len(subjects)):
        raise SettingsError(
            f"expect_accuracy has {len(expected)} values for {len(subjects)} models; give one for "
            "all, or one for each"
        )
    values = expected if len(expected) > 1 else expected * len(subjects)
    for subject, value in zip(subjects, values, strict=True):
        accuracy = _natural(subject, settings, processes)
        estimate = Estimate.of(accuracy.compute(), "top1")
        low, high = estimate.low or 0.0, estimate.high or 1.0
        if not low <= value <= high:
            raise ModelError(
                f"{model_origin(subject.classifier)} is right on "
                f"{estimate.text(as_percent=True)} of the {count(estimate.n)} images of "
                f"{subject.data.name}, but {percent(value)} is expected; check its weights, the "
                "order of its classes, mean, std and resize, or give another --expect-accuracy"
            )


def _natural(subject: Subject, settings: AuditSettings, processes: Processes) -> Accuracy:
    data, prepared = subject.data, subject.prepared
    accuracy = Accuracy(draws=settings.draws if prepared.randomized else 1)
    device = subject.prepared.device
    mine = processes.deal(len(data), settings.batch_size)
    with torch.no_grad():
        for batch in data.batches(settings.batch_size, mine, device=device):
            accuracy.update_under(
                None,
                prepared,
                batch.images,
                batch.labels,
                ids=batch.ids,
                clean=prepared(batch.images),
            )
    counts = torch.tensor(accuracy.counts(), device=device)
    accuracy.restore(processes.total(counts).tolist())
    return accuracy


class _Watched:
    """A classifier in evaluation mode, and the input of its first batch normalization."""

    def __init__(self, classifier: Classifier, prepared: Prepared):
        self.classifier, self.prepared = classifier, prepared
        self.layer = ""
        self.norm: Any = None
        self.pixels, self.arriving = _Moments(), _Moments()

    def look(self, batches: Iterator[Images], labels: Labels | None) -> Seen | None:
        """What the images show; None for a model that returns no logits."""
        outputs: list[Logits] = []
        heard = True
        for images in batches:
            logits = self._run(images)
            if logits.ndim != 2:
                return None
            outputs.append(logits.cpu())
            self.pixels.update(self.classifier.normalized(images))
            heard = heard and self._sent(images)
        return Seen(
            logits=torch.cat(outputs),
            labels=labels,
            norm=self._first_norm(),
            means=self.pixels.mean.tolist(),
            deviations=self.pixels.variance.sqrt().tolist(),
        )

    def _run(self, images: Images) -> Logits:
        logits: Logits = self.prepared(images)
        if logits.isnan().any():
            raise NumericError(
                f"{model_origin(self.classifier)} returns NaN on images in [0, 1], so its results "
                "mean nothing: check its weights"
            )
        return logits

    def _sent(self, images: Images) -> bool:
        """Whether hooks listen to the model's own layers, which the prepared copy may fold."""
        try:
            with self._heard() as there_is_one:
                if there_is_one:
                    self.classifier(images)
        except Exception:  # a batch size that the model does not take
            self.norm = None
            return False
        return there_is_one

    @contextlib.contextmanager
    def _heard(self) -> Iterator[bool]:
        """Whether a batch normalization exists to hook; the hooks last for the block."""

        def hear(name: str, module: Any, inputs: tuple[Any, ...]) -> None:
            if self.norm is None:
                self.layer, self.norm = name.removeprefix("network."), module
            if module is self.norm and inputs and isinstance(inputs[0], Tensor):
                self.arriving.update(inputs[0])

        handles = [
            module.register_forward_pre_hook(
                lambda module, inputs, name=name: hear(name, module, inputs)
            )
            for name, module in self.classifier.named_modules()
            if isinstance(getattr(module, "running_mean", None), Tensor)
            and isinstance(getattr(module, "running_var", None), Tensor)
            and not isinstance(module, torch.jit.ScriptModule)  # a module that takes no hooks
        ]
        try:
            yield bool(handles)
        finally:
            for handle in handles:
                handle.remove()

    def _first_norm(self) -> FirstNorm | None:
        if self.norm is None or self.pixels.images < FEWEST or not self.arriving.images:
            return None
        mean, variance = (
            values.double().cpu() for values in (self.norm.running_mean, self.norm.running_var)
        )
        if len(mean) != len(self.arriving.mean):
            return None
        alive = variance > 1e-6 * variance.amax()
        off = (self.arriving.mean - mean).abs() / variance.sqrt()
        ratio = self.arriving.variance / variance
        return FirstNorm(
            layer=self.layer,
            fresh=not mean.any() and bool((variance == 1).all()),
            variance=float(ratio[alive].median()),
            off=float(off[alive].median()),
        )


class _Moments:
    """Mean and variance of each channel of N×channels×… values, streamed in float64."""

    def __init__(self) -> None:
        self.images = self.n = 0
        self.sums: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    def update(self, values: Tensor) -> None:
        channels = values.detach().transpose(0, 1).flatten(1).double()
        self.images += len(values)
        self.n += channels.shape[1]
        self.sums = self.sums + channels.sum(dim=1).cpu()
        self.squares = self.squares + channels.square().sum(dim=1).cpu()

    @property
    def mean(self) -> Tensor:
        return torch.as_tensor(self.sums) / self.n

    @property
    def variance(self) -> Tensor:
        return (torch.as_tensor(self.squares) / self.n - self.mean.square()).clamp_min(0)
