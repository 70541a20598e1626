"""A `torch.utils.data.Dataset` of (image, label) as an image set."""

import contextlib
import threading
from functools import cached_property
from operator import index
from typing import Any

import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from advlens.arrays import conversion
from advlens.datasets.base import ImageData, digest
from advlens.datasets.decoding import ImageError, as_rgb, fit_image
from advlens.datasets.forms import check_pixels
from advlens.datasets.reading import ReadData, spread
from advlens.datasets.tables import MOST_CLASSES
from advlens.datasets.transform import Transform
from advlens.errors import DataError
from advlens.plugins import named
from advlens.settings.data import DATA
from advlens.words import perhaps

REPEATED = 4
"""Images that are read twice at first, to find random transforms."""
LISTS = ("targets", "labels", "_labels")
"""Attributes of torchvision's datasets, one of which lists the labels."""
ITEM = "each item must be a pair (image, label)"


class DatasetData(ReadData):
    """The images of a map-style Dataset, in its order.

    Images are PIL's, which are resized and cropped as files are, or tensors 3×H×W or 1×H×W, uint8
    or float in [0, 1], all of one size, which are taken as they are: floats are rounded to 8 bits.
    Class names are those of its attribute `classes`; without it, labels are the numbers of the
    model's outputs. Labels come from its attribute `targets` or `labels`, or from reading every
    item once; whenever an image is read, its label is compared. Items are read one at a time.

    Args:
        dataset: the Dataset.
        name: the set's name.
        transform: how PIL images become inputs.

    Raises:
        DataError: it has no length, or an item is no such pair, cannot be read, or differs from
            time to time.
    """

    def __init__(
        self, dataset: Any, *, name: str = "dataset", transform: Transform = Transform()
    ) -> None:
        self.name, self.dataset, self.transform = name, dataset, transform
        self.turn: contextlib.AbstractContextManager[object] = threading.Lock()
        """Held while an item is read: few datasets can be read by several threads."""
        try:
            count = len(dataset)
        except Exception as error:  # a user's class can raise anything
            raise DataError(
                f"{name} is a {type(dataset).__name__} without a length; give a map-style Dataset, "
                "with __len__ and __getitem__"
            ) from error
        if not count:
            raise DataError(f"{name} holds no images; give at least one image and its label")
        labels = self._targets(count)
        if labels is None:
            labels = [self._label(self._item(i)[1], i) for i in range(count)]
        for i, label in enumerate(labels):
            if not 0 <= label < MOST_CLASSES:
                raise DataError(
                    f"image {i} of {name} has the label {label}; count classes from 0 to at most "
                    f"{MOST_CLASSES - 1}, in the order of the model's outputs, and leave out "
                    "images without one"
                )
        self.labels = torch.tensor(labels)  # compared with those of the first images
        first = [self._pixels(i) for i in range(min(REPEATED, count))]
        if any(not torch.equal(self._pixels(i), image) for i, image in enumerate(first)):
            raise DataError(
                f"{name} gives another image each time that one is read; leave random transforms "
                "out of it"
            )
        classes, synsets = getattr(dataset, "classes", None), getattr(dataset, "wnids", None)
        self.numbered = classes is None
        if classes is None:
            classes = [str(number) for number in range(max(0, *labels) + 1)]
        elif synsets is not None:  # torchvision's ImageNet has a tuple of words for each
            classes = [each if isinstance(each, str) else each[0] for each in classes]
        _, height, width = first[0].shape
        super().__init__(
            name=name,
            classes=classes,
            synsets=synsets,
            labels=self.labels,
            image_shape=(3, height, width),
        )

    def fingerprint(self) -> str:
        """SHA-256 of names, labels, the transform, and the pixels of 1024 images, or of all.

        The 1024 are spread evenly over the set.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        own = (self.classes, self.synsets, self.labels, self.transform.identity())
        return digest(
            *own, *(digest(image[0]) for image in self.stream([[i] for i in spread(len(self))]))
        )

    def _targets(self, count: int) -> list[int] | None:
        """The labels that the dataset lists, if these are what its items have."""
        lists = (getattr(self.dataset, name, None) for name in LISTS)
        given = next((each for each in lists if each is not None), None)
        if given is None or getattr(self.dataset, "target_transform", None) is not None:
            return None
        try:
            labels = [index(each) for each in given]
        except Exception:  # of any kind, such as a tensor without values
            return None
        return labels if len(labels) == count else None

    def _item(self, i: int) -> tuple[Any, Any]:
        try:
            with self.turn:
                image, label = self.dataset[i]
                if isinstance(image, Image.Image):
                    image.load()  # it may still lie in a file
        except Exception as error:  # a user's class can raise anything
            raise ImageError(
                f"image {i} of {self.name} cannot be read: {type(error).__name__}: {error}; {ITEM}"
            ) from error
        return image, label

    def _label(self, label: Any, i: int) -> int:
        try:
            return index(label)
        except Exception as error:  # of any kind, such as a tensor without values
            raise DataError(
                f"image {i} of {self.name} has a label of type {type(label).__name__} "
                f"({str(label)[:40]!r}); {ITEM}, the label a whole number from 0"
            ) from error

    def _read(self, i: int) -> UInt8[Tensor, "3 h w"]:
        image = self._pixels(i)
        if tuple(image.shape) != self.image_shape:
            raise DataError(
                f"image {i} of {self.name} has the shape {tuple(image.shape)}, but the first one "
                f"{self.image_shape}; give all the same size, or PIL images"
            )
        return image

    def _pixels(self, i: int) -> UInt8[Tensor, "3 h w"]:
        image, label = self._item(i)
        if self._label(label, i) != self.labels[i]:
            raise DataError(
                f"image {i} of {self.name} has the label {label}, but was said to have "
                f"{self.labels[i]}; make its targets agree with its items"
            )
        if isinstance(image, Image.Image):
            name = f"{i} of {self.name}"
            image = as_rgb(image, name, self.transform.exif_orientation)
            return fit_image(image, self.transform, name)
        if isinstance(image, Tensor) and not conversion(image, "images"):
            image = image.detach().as_subclass(Tensor)
            if image.ndim == 3 and len(image) == 1:
                image = image.expand(3, -1, -1)
            if image.is_floating_point() and image.numel() and 0 <= image.min() <= image.max() <= 1:
                image = (image * 255).round().to(torch.uint8)
            image = image[None] if image.ndim == 3 else image
        return check_pixels(f"image {i} of {self.name}", image)[0]


def load_factory(spec: str, transform: Transform) -> ImageData:
    """What a user's function without arguments returns, which a specification names.

    Raises:
        DataError: there is no such function, or it returns no image set.
    """
    module, _, attribute = spec.partition(":")
    try:
        built = named(module, attribute)()
    except Exception as error:  # user code can raise anything
        raise DataError(
            f"cannot make the data {spec}: {type(error).__name__}: {error}; it must name a "
            "function without arguments, in a module that can be imported from here"
            f"{perhaps(module, DATA)}"
        ) from error
    if isinstance(built, ImageData):
        return built
    return DatasetData(built, name=attribute, transform=transform)
