"""Models, each with the images as it sees them."""

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from advlens import wordnet
from advlens.datasets import (
    BrodenData,
    DataView,
    FileData,
    ImageData,
    Transform,
    load_data,
    read_rgb,
    readable,
)
from advlens.distributed import Processes
from advlens.errors import DataError, ModelError, SettingsError
from advlens.models import Classifier, load_model
from advlens.models.classifier import device_of, tensors_of
from advlens.prepared import Prepared, prepare
from advlens.prepared.mixing import check_steps
from advlens.progress import Progress
from advlens.runs.record import without_home
from advlens.runs.tables import Row
from advlens.settings import AuditSettings, DissectSettings
from advlens.settings.numbers import several
from advlens.words import counted

Data = TypeVar("Data", bound=ImageData)


@dataclass(frozen=True)
class Part:
    """A set of images under the name that tables and sentences give it."""

    name: str
    images: ImageData

    @cached_property
    def fingerprint(self) -> str:
        """That of the images."""
        return self.images.fingerprint()


def transform_of(classifier: Classifier, exif_orientation: bool) -> Transform:
    """How image files become a model's inputs."""
    return Transform(
        size=classifier.image_size,
        width=None if classifier.image_width == classifier.image_size else classifier.image_width,
        resize=classifier.resize,
        interpolation=classifier.interpolation,
        squeeze=classifier.squeeze,
        exif_orientation=exif_orientation,
    )


@dataclass
class Subject:
    """A model with the data as it sees them.

    Attributes:
        radii: of PGD on its accuracy, by norm.
        epsilon: the first L2 radius, which the other stages use.
        neuron_epsilon: L2 radius of the attack on its units.
        notes: notes at the end of the report.
        warnings: warnings at the top of the report, also printed before any computation.
        unnamed: why the WordNet ids of the classes are unknown.
        check: reads images once before the run, if it is one.
        training: the training images that stages asked for, by their largest number.
        exif_orientation: whether images are turned as their EXIF data say.
    """

    spec: str
    classifier: Classifier
    prepared: Prepared
    notes: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    unnamed: str = ""
    data: ImageData = dataclasses.field(init=False)
    concepts: BrodenData | None = None
    skipped: list[Row] = dataclasses.field(default_factory=list)
    check: "ImageCheck | None" = None
    training: dict[int, Part] = dataclasses.field(default_factory=dict)
    exif_orientation: bool = False
    radii: dict[str, tuple[float, ...]] = dataclasses.field(init=False)
    epsilon: float = dataclasses.field(init=False)
    neuron_epsilon: float = dataclasses.field(init=False)

    def choose_radii(self, settings: AuditSettings | DissectSettings) -> None:
        """Choose the requested radii, or the field's usual ones for images of this size."""
        size = self.data.image_shape[1]
        self.radii = {
            "Linf": (8 / 255 if size < 96 else 4 / 255,),
            "L2": (0.5 if size < 96 else 1.5 if size < 160 else 3.0,),
        }
        if isinstance(settings, AuditSettings):
            self.radii["Linf"] = several(settings.epsilon_linf) or self.radii["Linf"]
            self.radii["L2"] = several(settings.epsilon) or self.radii["L2"]
        self.epsilon = self.radii["L2"][0]
        asked = settings.neuron_epsilon if isinstance(settings, AuditSettings) else settings.epsilon
        self.neuron_epsilon = asked or 2 * self.epsilon

    def draws(self, settings: AuditSettings) -> int:
        """Number of passes that a result of this model is averaged over."""
        return settings.draws if self.prepared.randomized else 1

    def given(self, settings: AuditSettings) -> dict[str, Any]:
        """What the settings say to every attack of ours on this model."""
        return {
            "seed": settings.seed,
            "draws": self.draws(settings),
            "precision": settings.precision,
        }

    @property
    def transform(self) -> Transform:
        """How image files become this model's inputs."""
        return transform_of(self.classifier, self.exif_orientation)

    def training_images(self, most: int, seed: int) -> Part | None:
        """The training images beside the audited ones, of all classes alike; None without any.

        They are opened and checked, as the audited images are, when a stage first asks for them.

        Args:
            most: the largest number of them.
            seed: the seed of their choice.

        Raises:
            DataError: they are incomplete, or damaged and must not be skipped.
        """
        whole = self.data.training
        if whole is None:
            return None
        if most not in self.training:
            chosen: ImageData = whole.subset(min(most, len(whole)), seed=seed)
            if self.check is not None:
                chosen = self.check(self, chosen)
            self.training[most] = Part(whole.name, chosen)
        return self.training[most]

    def labeled(self, data: str | ImageData) -> BrodenData:
        """Images with labeled pixels, of this model's size."""
        images = load_data(data, transform=self.transform) if isinstance(data, str) else data
        if not isinstance(images, BrodenData):
            raise SettingsError(
                f"units are dissected on images with labeled pixels, which {images.name} does not "
                "have; use broden:DIR (docs/broden.md tells how to get or make such data)"
            )
        return images


@dataclass(frozen=True)
class ImageCheck:
    """Reads all images once before a run, so that a damaged one does not end it hours later.

    Attributes:
        folder: the run folder, which keeps the result.
        skip: leave damaged images out of all counts instead of raising an error.
        processes: those that share the work.
        device: the device over which they communicate.
    """

    folder: Path
    skip: bool
    processes: Processes
    device: torch.device

    def __call__(self, subject: Subject, data: Data) -> Data:
        """The readable part of the data; a note says what was left out."""
        with contextlib.ExitStack() as stack:
            bars: list[Progress] = []

            def show(read: int) -> None:
                if not bars:  # a set in memory reads no files
                    total = len(self.processes.share(len(data)))
                    shown = self.processes.first
                    progress = Progress(f"checking {data.name}", total, shown=shown)
                    bars.append(stack.enter_context(progress))
                bars[0].update(read)

            rest, damaged = readable(
                data,
                skip=self.skip,
                known=self.folder / "parts" / "checked.json",
                processes=self.processes,
                device=self.device,
                on_images=show,
            )
        if damaged:
            subject.notes.append(
                f"{len(damaged)} of {len(data)} images of {data.name} are damaged and were left "
                "out of all counts (results/skipped.csv)."
            )
        known = {row["reason"] for row in subject.skipped}
        subject.skipped += [
            {"data": data.name, "id": number, "reason": without_home(reason)}
            for number, reason in damaged.items()
            if without_home(reason) not in known
        ]
        return cast("Data", rest)  # a part of Broden data is Broden data


def opened(
    model: str | nn.Module, settings: AuditSettings | DissectSettings, device: torch.device
) -> Subject:
    if isinstance(model, str):
        spec, classifier = (
            model,
            load_model(
                model,
                device=device,
                seed=settings.seed,
                ignore_keys=settings.ignore_keys,
                head=settings.head,
            ),
        )
    else:
        spec = f"{type(model).__module__}.{type(model).__qualname__}"
        classifier = _given(model, device)
        if settings.head is not None:
            classifier.head = settings.head
    subject = Subject(spec, classifier, prepare(classifier))
    if settings.precision == "bf16":
        subject.warnings.append(
            "gradient steps of attacks, and of images that are made, are in bfloat16; what is "
            "counted is in float32"
        )
    return subject


def _given(model: nn.Module, device: torch.device) -> Classifier:
    """A user's module as a classifier on a device; the module itself stays unchanged."""
    if device_of(model) != device and any(True for _ in tensors_of(model)):
        try:
            model = copy.deepcopy(model).to(device)
        except Exception as error:  # a user's class can raise anything
            raise ModelError(
                f"cannot copy {type(model).__name__} to {device} ({error}); move it there before, "
                f"or choose --device {device_of(model).type}"
            ) from error
    if isinstance(model, Classifier):
        return copy.copy(model)  # an audit may give it another name
    return Classifier(model, name=type(model).__name__).to(device)


def labeled_subject(
    model: str | nn.Module,
    load: Callable[[Transform], ImageData],
    settings: AuditSettings,
    device: torch.device,
    check: ImageCheck | None = None,
) -> Subject:
    subject = opened(model, settings, device)
    classifier, subject.check = subject.classifier, check
    subject.exif_orientation = settings.exif_orientation
    data = load(subject.transform)
    if isinstance(data, BrodenData):
        raise SettingsError(
            f"the images of {data.name} belong to no classes, so there is no accuracy to measure; "
            "use advlens dissect, or pass them with --concepts beside labeled images"
        )
    if settings.target is not None:
        data = _aimed(subject, data, settings.target)
    if settings.images is not None:
        data = data.subset(settings.images, seed=settings.seed)
    if data.labeled:
        data = _understood(subject, data, settings.synsets)
    if check is not None:
        data = check(subject, data)
    if not data.labeled:
        data = predicted(classifier, subject.prepared, data, settings.batch_size)
        subject.warnings.append(
            f"{data.name} has no labels: what is shown as one is what {classifier.name} predicts"
        )
    data = data.fitted(classifier.name, outputs(subject, data, settings))
    subject.data = data
    subject.choose_radii(settings)
    if settings.concepts is not None:
        concepts = subject.labeled(settings.concepts)
        subject.concepts = concepts if check is None else check(subject, concepts)
    return subject


def _aimed(subject: Subject, data: ImageData, target: str) -> ImageData:
    """The images with targets; a warning says which are left out."""
    whole = data.aligned(subject.classifier.classes, subject.classifier.synsets)
    data = whole.aimed(target)
    if len(data) < len(whole):
        assert data.targets is not None
        left_out = counted(len(whole) - len(data), "image")
        aim = data.classes[int(data.targets[0])]
        subject.warnings.append(
            f"{left_out} of {aim}, at which attacks aim, are left out of all counts"
        )
    return data


def _understood(subject: Subject, data: ImageData, table: Path | None) -> ImageData:
    """The images with labels as the model's outputs, and the WordNet ids of their classes."""
    data = data.aligned(subject.classifier.classes, subject.classifier.synsets)
    if data.synsets is None:
        try:
            data = _named(data, _synsets(data.classes, table))
        except DataError as error:
            if table is not None:
                raise
            subject.unnamed = str(error)
    return data


def predicted(
    classifier: Classifier, prepared: Prepared, data: ImageData, batch_size: int
) -> ImageData:
    """Images without labels, with the classes that a model predicts in their place.

    Raises:
        ModelError: the model fails on the images, or does not return a row of logits for each.
    """
    guesses = list[Tensor]()
    for batch in data.batches(batch_size, device=prepared.device):
        prepared.check(batch.images)
        if len(prepared.shape) != 1:
            raise ModelError(
                f"{classifier.name} returns {prepared.shape} for one image, not its logits"
            )
        with torch.no_grad():
            guesses.append(prepared(batch.images).argmax(dim=1).cpu())
    return DataView(
        data,
        positions=torch.arange(len(data)),
        labels=torch.cat(guesses),
        classes=classifier.classes or [str(number) for number in range(prepared.shape[0])],
        synsets=classifier.synsets,
    )


def outputs(
    subject: Subject, data: ImageData, settings: AuditSettings | DissectSettings
) -> tuple[int, ...]:
    """The shape of the model's output for one image; its copy is compared with the model first."""
    size = min(settings.batch_size, len(data))
    (first,) = data.batches(size, range(size), device=subject.prepared.device)
    try:
        subject.prepared.check(first.images)
    except ModelError as error:
        raise type(error)(f"{error}{_smaller(subject, data)}") from error
    check_steps(subject.prepared, first.images, settings.precision)
    return subject.prepared.shape


def _smaller(subject: Subject, data: ImageData) -> str:
    """The size to try, as the end of a sentence, if image files are smaller than the inputs."""
    while isinstance(data, DataView):
        data = data.data
    if not isinstance(data, FileData) or not (file := data.root / data.files[0]).is_file():
        return ""
    side = min(read_rgb(file).size)
    if side >= min(subject.classifier.image_size, subject.classifier.image_width):
        return ""
    return (
        f"; the images have {side} pixels: if the model takes these, add :{side} to its name, or "
        f"give the Classifier image_size={side}"
    )


def _named(data: ImageData, synsets: tuple[str, ...]) -> ImageData:
    everything = torch.arange(len(data))
    return DataView(
        data,
        positions=everything,
        labels=data.labels,
        targets=data.targets,
        classes=data.classes,
        synsets=synsets,
    )


def _synsets(classes: Sequence[str], table: Path | None) -> tuple[str, ...]:
    if table is None:
        return wordnet.resolve(classes)
    try:
        lines = table.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the table of synsets {table}: {error}; give lines class,wnid in UTF-8"
        ) from error
    known = dict[str, str]()
    for name, wnid in (line.rsplit(",", 1) for line in lines if "," in line):
        if known.setdefault(name.strip(), wnid.strip()) != wnid.strip():
            raise DataError(f"{table} has two wnids for the class {name.strip()}; keep one")
    missing = [name for name in classes if name not in known]
    if missing:
        raise DataError(
            f"{table} has no line for {len(missing)} of {len(classes)} classes "
            f"({', '.join(missing[:5])}{', …' * (len(missing) > 5)}); give a line class,wnid for "
            "each, or leave --synsets out, which takes the classes as unrelated"
        )
    for wnid in known.values():
        wordnet.lemmas(wnid)  # refuses what is not a WordNet 3.0 noun
    return tuple(known[name] for name in classes)
