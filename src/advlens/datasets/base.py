"""Labeled images: the interface that every data set offers, whatever its files."""

import contextlib
import hashlib
import json
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from advlens.arrays import Ids, Images, Labels
from advlens.datasets.forms import check_labels, check_names, check_shape, check_stream
from advlens.datasets.matching import class_places, numbered_class
from advlens.errors import DataError, SettingsError

Stream = Generator[UInt8[Tensor, "n 3 h w"], None, None]
"""Batches of images on the CPU, 0 to 255; closing it stops the threads that work for it."""

UNLABELED = "has no labels; give each image its class, as in folder:DIR or csv:FILE"


@dataclass(frozen=True, eq=False)
class Batch:
    """Some images and their metadata."""

    ids: Ids
    images: Images
    """Pixels in [0, 1]."""
    labels: Labels
    targets: Labels | None = None
    """The class that targeted attacks aim at, where the set has one for each image."""


class ImageData(ABC):
    """A labeled image set. Image ids are 0 .. len - 1; each kind documents their order.

    Args:
        name: the set's name, for tables and errors.
        classes: the class names.
        synsets: the WordNet ids of the classes, if known.
        labels: class index of each image, int64, on the CPU.
        image_shape: channels (3), height and width of every image.

    Raises:
        DataError: labels are not one class for each image, or classes are indistinguishable.
    """

    open_training: Callable[[], "ImageData"] | None = None
    """Opens the training images that belong to these test images; `load_data` sets it."""
    labeled = True
    """Whether the labels mean anything; without them, they are 0 or what a model predicts."""
    numbered = False
    """Whether the classes have no names: a label is the number of a model's output."""
    targets: Labels | None = None
    """For targeted attacks, another class of each image, on the CPU."""
    made_by = ""
    """The call of `load_data` that made it, if one did, and perhaps of `subset`."""

    def __init__(
        self,
        *,
        name: str,
        classes: Sequence[str],
        synsets: Sequence[str] | None,
        labels: Labels,
        image_shape: tuple[int, int, int],
    ) -> None:
        self.name = name
        self.classes, self.synsets = check_names(name, classes, synsets)
        """The class names; their WordNet ids, such as n02123045, if known."""
        self.labels = check_labels(name, labels, len(self.classes))
        """Class index of each image, on the CPU."""
        self.image_shape = check_shape(name, image_shape)
        """Channels (3), height and width."""

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"<{self.name}: {len(self)} images, {len(self.classes)} classes>"

    def source(self, number: int) -> str:
        """Where an image comes from: its number in the whole set, or its file in the folder."""
        return str(number)

    @cached_property
    def training(self) -> "ImageData | None":
        """The training images that belong to this set, if any, opened when first asked for.

        Raises:
            DataError: they are incomplete, or have a class that this set lacks.
        """
        if self.open_training is None:
            return None
        whole = self.open_training()
        if foreign := sorted({*whole.classes} - {*self.classes}):
            raise DataError(
                f"{whole.name} has the class {foreign[0]!r}, which {self.name} lacks; give both "
                "the same classes"
            )
        return whole.aligned(self.classes, self.synsets)

    @abstractmethod
    def stream(self, batches: Sequence[Sequence[int]]) -> Stream:
        """The images of each list of ids, list after list; `images` and `batches` check ids.

        Callers use `read`, which checks what this yields.
        """

    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of all that defines the set: another image, label or class changes it."""

    def images(self, ids: Sequence[int]) -> UInt8[Tensor, "n 3 h w"]:
        """The images of some ids, on the CPU, 0 to 255.

        Raises:
            DataError: an image cannot be read, or the set has no such id.
        """
        ids = self._checked(ids)
        if not ids:
            return torch.empty((0, *self.image_shape), dtype=torch.uint8)
        (images,) = self.read([ids])
        return images

    def read(self, batches: Sequence[Sequence[int]]) -> Stream:
        """The batches of `stream`; checking the form of each costs nothing.

        Raises:
            DataError: an image cannot be read, or a batch is not uint8 n×3×H×W for its n ids.
        """
        return check_stream(self.name, self.stream(batches), batches, self.image_shape)

    def batches(
        self,
        batch_size: int,
        ids: Sequence[int] | None = None,
        *,
        device: torch.device | str = "cpu",
    ) -> Iterator[Batch]:
        """All images, or those of `ids`, in order; the last batch may be smaller.

        Args:
            batch_size: images of a batch.
            ids: the images to yield; default: all.
            device: target device of images and labels. Bytes are sent to a GPU, a quarter of the
                size of the float32 values that they become there.

        Raises:
            DataError: an image cannot be read, or the set has no such id.
        """
        if not isinstance(batch_size, int) or batch_size < 1:
            raise SettingsError(
                f"cannot make batches of {batch_size} images; ask for a whole number, 1 or more"
            )
        ids = self._checked(range(len(self)) if ids is None else ids)
        batches = [ids[start : start + batch_size] for start in range(0, len(ids), batch_size)]
        return self._batches(batches, torch.device(device))

    def _batches(self, batches: Sequence[Sequence[int]], device: torch.device) -> Iterator[Batch]:
        white = torch.tensor(255.0, device=device)  # a GPU would multiply by a number's inverse
        with contextlib.closing(self.read(batches)) as stream:
            for ids, images in zip(map(torch.tensor, batches), stream, strict=True):
                yield Batch(
                    ids=ids,
                    images=images.to(device).float().div_(white),
                    labels=self.labels[ids].to(device),
                    targets=None if self.targets is None else self.targets[ids].to(device),
                )

    def _checked(self, ids: Sequence[int]) -> list[int]:
        listed = ids.tolist() if isinstance(ids, Tensor | np.ndarray) else ids
        try:
            if any(isinstance(i, bool) for i in listed):
                raise TypeError  # a mask
            numbers = [operator.index(i) for i in listed]
        except TypeError as error:
            raise DataError(
                f"the ids of images of {self.name} must be a list of whole numbers, 0 to "
                f"{len(self) - 1}, not {str(ids)[:60]}"
            ) from error
        for i in numbers:
            if not 0 <= i < len(self):
                raise DataError(f"{self.name} has no image {i}; its ids are 0 to {len(self) - 1}")
        return numbers

    def subset(self, count: int, seed: int) -> "DataView":
        """A random subset in which no class has two images more than another with some left.

        The images keep their order and are renumbered from 0; `positions` holds their ids in this
        set. For one seed, a smaller subset is part of a larger one.

        Raises:
            SettingsError: the set has fewer images than `count`.
        """
        if not isinstance(count, int) or not 1 <= count <= len(self):
            raise SettingsError(
                f"cannot choose {count} images of {self.name}; ask for 1 to {len(self)}"
            )
        random = np.random.default_rng(seed)
        labels = self.labels.numpy()
        shuffled = random.permutation(len(self))
        rank = np.empty(len(self), np.int64)  # of an image among the shuffled ones of its class
        for label in np.unique(labels):
            members = shuffled[labels[shuffled] == label]
            rank[members] = np.arange(len(members))
        in_turns = shuffled[np.argsort(rank[shuffled], kind="stable")]
        chosen = np.sort(in_turns[:count])
        view = self.part(chosen.tolist())
        view.made_by = self.made_by and f"{self.made_by}.subset({count}, seed={seed})"
        return view

    def part(self, ids: Sequence[int]) -> "DataView":
        """The images of some ids, renumbered from 0; `positions` holds their ids in this set."""
        positions = torch.tensor(self._checked(ids), dtype=torch.int64)
        targets = None if self.targets is None else self.targets[positions]
        return DataView(
            self,
            positions=positions,
            labels=self.labels[positions],
            targets=targets,
        )

    def damaged(
        self, ids: Sequence[int] | None = None, *, on_images: Callable[[int], object] = int
    ) -> dict[int, str]:
        """Why each unusable image cannot be used, by id: a sentence with its path.

        Every image of a set in files is read once, as by `images`; other sets hold theirs in
        memory.

        Args:
            ids: the images to check; default: all.
            on_images: called with the number of images that were checked since its last call.

        Raises:
            DataError: the disk or the network fails.
        """
        return {}

    def aimed(self, target: str) -> "ImageData":
        """The images with targets.

        Args:
            target: a class, by its name, WordNet id or number, of all images that are not of it;
                the others are left out. Or "data": the targets that the set has.

        Raises:
            SettingsError: there is no such class, there are several, no other images, or no
                targets.
        """
        if target == "data":
            if self.targets is None:
                raise SettingsError(
                    f"{self.name} has no targets; give a table with the column target (csv:FILE), "
                    "or the class to aim at"
                )
            return self
        aim = self.labels.new_tensor(numbered_class(self.name, self.classes, self.synsets, target))
        others = (self.labels != aim).nonzero()[:, 0]
        if not len(others):
            raise SettingsError(f"all images of {self.name} are of {target}; aim at another class")
        labels = self.labels[others]
        targets = aim.expand(len(labels)).clone()
        return DataView(self, positions=others, labels=labels, targets=targets)

    def aligned(self, classes: Sequence[str] | None, synsets: Sequence[str] | None) -> "ImageData":
        """The same images, with labels as indices into a model's class list.

        Classes are matched by WordNet id if both sides know them, else by name. A model that knows
        neither is taken to have the classes of the data, in order. Classes without names are the
        model's, in order.

        Args:
            classes: the model's class names, by output.
            synsets: the WordNet ids of the model's classes, by output.

        Raises:
            DataError: the model lacks a class of the data, or has two with the same name; or the
                data have no labels.
        """
        if not self.labeled:
            raise DataError(f"{self.name} {UNLABELED}")
        known = classes and tuple(classes), synsets and tuple(synsets)
        if known in ((None, None), (self.classes, self.synsets)):
            return self
        own: tuple[str, ...] = self.classes
        if self.synsets is not None and synsets is not None:
            own, theirs = self.synsets, tuple(synsets)
        else:
            theirs = tuple(classes if classes is not None else synsets or ())
        index = torch.tensor(class_places(self.name, own, theirs, numbered=self.numbered))
        if synsets is None and self.synsets is not None and len(own) == len(theirs):
            synsets = [self.synsets[own.index(name)] for name in theirs]
        return DataView(
            self,
            positions=torch.arange(len(self)),
            labels=index[self.labels],
            targets=None if self.targets is None else index[self.targets],
            classes=theirs if classes is None else classes,
            synsets=synsets,
        )

    def fitted(self, model: str, shape: tuple[int, ...]) -> "ImageData":
        """The same images for a model that returns this shape for one image.

        Classes without names become as many as the model has outputs.

        Args:
            model: the model's name.
            shape: the shape of its output.

        Raises:
            DataError: it is not one output for each class.
        """
        if self.numbered and len(shape) == 1 and shape[0] >= len(self.classes):
            return self.aligned([str(number) for number in range(shape[0])], None)
        if shape != (len(self.classes),):
            raise DataError(
                f"{model} returns {shape} for one image, but {self.name} has {len(self.classes)} "
                "classes; give the model's class names or matching data"
            )
        return self


class DataView(ImageData):
    """Some images of another set, with new ids or labels; made by `subset` and `aligned`."""

    def __init__(
        self,
        data: ImageData,
        *,
        positions: Ids,
        labels: Labels,
        targets: Labels | None = None,
        classes: Sequence[str] | None = None,
        synsets: Sequence[str] | None = None,
    ) -> None:
        # not checked again: a model may have two classes with one name, a view may be empty
        self.name = data.name
        self.classes = data.classes if classes is None else tuple(classes)
        self.labeled, self.numbered = data.labeled, data.numbered and classes is None
        self.synsets = data.synsets
        if classes is not None:
            self.synsets = None if synsets is None else tuple(synsets)
        self.labels, self.targets = labels, targets
        self.image_shape = data.image_shape
        self.data = data
        self.positions = positions
        """Id of each image in the original set."""

    @cached_property
    def training(self) -> ImageData | None:
        whole = self.data.training
        if whole is None or (self.classes, self.synsets) == (self.data.classes, self.data.synsets):
            return whole
        return whole.aligned(self.classes, self.synsets)

    def source(self, number: int) -> str:
        return self.data.source(int(self.positions[number]))

    def stream(self, batches: Sequence[Sequence[int]]) -> Stream:
        return self.data.stream([self.positions[list(ids)].tolist() for ids in batches])

    def damaged(
        self, ids: Sequence[int] | None = None, *, on_images: Callable[[int], object] = int
    ) -> dict[int, str]:
        own = self._checked(range(len(self)) if ids is None else ids)
        places = self.positions[own].tolist()
        reasons = self.data.damaged(places, on_images=on_images)
        return {i: reasons[place] for i, place in zip(own, places, strict=True) if place in reasons}

    def fingerprint(self) -> str:
        own = (self.classes, self.synsets, self.positions, self.labels)
        return digest(self.data.fingerprint(), *own, *aims(self))


def aims(data: ImageData) -> list[Tensor]:
    """The targets of a set that has some, as a part of its fingerprint."""
    return [] if data.targets is None else [data.targets]


def digest(*parts: object) -> str:
    """SHA-256 of tensors (shape, type and bytes) and of values that JSON can hold."""
    result = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            array = np.ascontiguousarray(part.numpy())
            result.update(f"{array.dtype.str} {array.shape}\n".encode())
            result.update(array.data)
        else:
            result.update(json.dumps(part).encode() + b"\n")
    return result.hexdigest()
