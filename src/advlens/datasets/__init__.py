"""Labeled image sets: CIFAR-10, ImageNet and its variants, folders, the Broden layout, a sample."""

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

from advlens.datasets import cifar10, imagenet, tiny_imagenet
from advlens.datasets.base import Batch, DataView, ImageData
from advlens.datasets.broden import (
    Annotations,
    BrodenData,
    Concept,
    build_broden,
    fetch_broden,
)
from advlens.datasets.checking import readable
from advlens.datasets.cifar10 import fetch_cifar10, load_cifar10
from advlens.datasets.decoding import read_image, read_rgb
from advlens.datasets.folder import PARTS, FolderData, UnlabeledData, class_folders, parts
from advlens.datasets.imagenet import load_imagenet, load_imagenet_v2
from advlens.datasets.libraries import load_hf, load_torchvision
from advlens.datasets.memory import ArrayData
from advlens.datasets.reading import FileData
from advlens.datasets.sample import load_sample
from advlens.datasets.shards import load_shards
from advlens.datasets.small_imagenet import (
    build_small_imagenet,
    load_small_imagenet,
    load_small_imagenet_test,
)
from advlens.datasets.tables import load_csv, load_parquet
from advlens.datasets.tiny_imagenet import load_tiny_imagenet
from advlens.datasets.transform import Transform
from advlens.datasets.wrapped import DatasetData, load_factory
from advlens.errors import SettingsError
from advlens.settings.data import parse_data

__all__ = [
    "Annotations",
    "ArrayData",
    "Batch",
    "BrodenData",
    "Concept",
    "DataView",
    "DatasetData",
    "FileData",
    "FolderData",
    "ImageData",
    "Transform",
    "build_broden",
    "build_small_imagenet",
    "fetch_broden",
    "fetch_cifar10",
    "load_data",
    "read_image",
    "read_rgb",
    "readable",
]


def load_exact(folder: Path, split: Literal["test", "train"], transform: Transform) -> FolderData:
    """The images of a folder, taken pixel for pixel."""
    return FolderData(folder, split, replace(transform, resize=None))


def load_broden(folder: Path, split: Literal["test", "train"], transform: Transform) -> BrodenData:
    """Images with labels for every pixel, the same for both splits."""
    if transform.width is not None:
        raise SettingsError(
            f"broden:{folder} has square images, but the model takes {transform.size}×"
            f"{transform.width}; dissect one that takes square images"
        )
    return BrodenData(folder, size=transform.size)


def load_cifar(folder: Path, split: Literal["test", "train"], transform: Transform) -> ArrayData:
    """CIFAR-10, whose images have one size."""
    return load_cifar10(folder, split)


FILES: dict[str, Callable[[Path, Literal["test", "train"], Transform], ImageData]] = {
    "cifar10": load_cifar,
    "folder": FolderData,
    "exact": load_exact,
    "imagenet": load_imagenet,
    "imagenet-v2": load_imagenet_v2,
    "tiny-imagenet": load_tiny_imagenet,
    "small-imagenet": load_small_imagenet,
    "small-imagenet-test": load_small_imagenet_test,
    "broden": load_broden,
    "images": UnlabeledData,
    "torchvision": load_torchvision,
    "hf": load_hf,
    "webdataset": load_shards,
    "csv": load_csv,
    "parquet": load_parquet,
}
"""The loader of each kind of data in files."""
TEST_ONLY = ("sample", "images", "imagenet-v2")
"""Kinds that hold no training images."""
PARTLESS = ("webdataset", "csv", "parquet", "")
"""Kinds of one part, to test on unless the user says otherwise; a function is the last one."""
TRAINING = {
    "cifar10": [
        f"{inner}{name}"
        for inner in ("", f"{cifar10.FOLDER}/")
        for name in cifar10.BATCHES["train"]
    ],
    "imagenet": ["train", f"{imagenet.KAGGLE}/train"],
    "tiny-imagenet": ["train", f"{tiny_imagenet.FOLDER}/train"],
    "small-imagenet": ["train"],
}
"""For each other kind the files, or folders of class folders, any of which is training images."""


def load_data(
    spec: str,
    *,
    split: Literal["test", "train"] = "test",
    transform: Transform = Transform(),
) -> ImageData:
    """Open the image set that a specification names.

    Args:
        spec: `sample`; `cifar10:DIR`; `imagenet:DIR`, `imagenet-v2:DIR`, `tiny-imagenet:DIR`,
            `small-imagenet:DIR`, or `small-imagenet-test:DIR` for the test images of its paper;
            `folder:DIR`, with a folder for each class; `exact:DIR`, the same with images that are
            taken pixel for pixel and must have the model's size, such as stored attacks;
            `images:DIR`, all images below a folder, without labels;
            `torchvision:NAME@DIR`, a dataset of torchvision in its folder;
            `hf:NAME_OR_DIR`, one of Hugging Face's `datasets`, perhaps with `@COLUMN` of labels;
            `webdataset:SHARDS`, a folder of tar archives or a pattern of their names;
            `csv:FILE` or `parquet:FILE`, a table with the columns path, label and perhaps target;
            `broden:DIR` for images with labels for every pixel; `package.module:factory` for a
            function without arguments that returns a map-style `torch.utils.data.Dataset` of
            (image, label), see `DatasetData`, or an `ImageData`.
        split: the part of the set; ImageNet's test images are its validation images. The sample,
            ImageNetV2, tables, shards and functions have test images only; the Broden layout is the
            same for both splits.
        transform: how image files become inputs. CIFAR-10 and the sample ignore it; the Broden
            layout uses only its size, to which whole images are squeezed.

    Returns:
        The image set. Test images beside which training images lie have these as `training`.

    Raises:
        SettingsError: the spec is not a string, or names no known kind of data, no folder, or no
            such split; or a library is not installed.
        DataError: the files are missing or damaged, or a user's function fails.
    """
    if not isinstance(spec, str):
        raise SettingsError(
            "data are loaded by their name, such as 'sample' or 'folder:DIR', not by "
            f"{type(spec).__name__}; ArrayData makes a data set from arrays"
        )
    if not isinstance(transform, Transform):
        raise SettingsError(f"transform must be advlens.datasets.Transform(…), not {transform!r}")
    data = _opened(spec, split, transform)
    if split == "test" and _has_training(spec):
        data.open_training = partial(load_data, spec, split="train", transform=transform)
    others = [f", {split=}"] if split != "test" else []
    if transform != Transform():
        others.append(f", transform=advlens.datasets.{transform!r}")
    data.made_by = f"advlens.load_data({spec!r}{''.join(others)})"
    return data


def has_parts(spec: str) -> bool:
    """Whether data tell training from test images; others are one part, for either use.

    Raises:
        SettingsError: the spec names no known kind of data.
    """
    kind, folder = parse_data(spec)
    if kind in ("folder", "exact"):
        return bool(parts(Path(os.path.expanduser(folder))))
    return kind not in PARTLESS


def _has_training(spec: str) -> bool:
    kind, _, folder = spec.partition(":")
    path = Path(os.path.expanduser(folder))
    if kind in ("folder", "exact"):
        return not parts(path).keys().isdisjoint(PARTS["train"])
    places = [path / place for place in TRAINING.get(kind, ())]
    return any(place.is_file() or (place.is_dir() and class_folders(place)) for place in places)


def _opened(spec: str, split: Literal["test", "train"], transform: Transform) -> ImageData:
    kind, place = parse_data(spec)
    if split == "train" and kind in PARTLESS:
        raise SettingsError(
            f"{spec} has no parts to train and to test on; advlens train takes others, which it "
            "tests on, with --test"
        )
    if split == "train" and kind in TEST_ONLY:
        raise SettingsError(
            f"{spec} holds test images only; to train, use cifar10:DIR (advlens data cifar10 --to "
            "DIR fetches it), folder:DIR with subfolders train and val, data of hf: or "
            "torchvision: that have both parts, or csv:FILE with --test"
        )
    if kind == "sample":
        return load_sample()
    if not kind:
        return load_factory(spec, transform)
    return FILES[kind](Path(os.path.expanduser(place)), split, transform)
