"""Labeled image sets: CIFAR-10, folders of images, the Broden layout, and a packaged sample."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

from advlens.datasets.base import ArrayData, Batch, ImageData, Transform, View
from advlens.datasets.broden import (
    Annotations,
    BrodenData,
    Concept,
    build_broden,
    fetch_broden,
)
from advlens.datasets.cifar10 import fetch_cifar10, load_cifar10
from advlens.datasets.decoding import read_image, read_rgb
from advlens.datasets.folder import FolderData
from advlens.datasets.sample import load_sample
from advlens.errors import SettingsError

__all__ = [
    "Annotations",
    "ArrayData",
    "Batch",
    "BrodenData",
    "Concept",
    "FolderData",
    "ImageData",
    "Transform",
    "View",
    "build_broden",
    "fetch_broden",
    "fetch_cifar10",
    "load_data",
    "read_image",
    "read_rgb",
]


def load_data(
    spec: str,
    *,
    split: Literal["test", "train"] = "test",
    transform: Transform = Transform(),  # noqa: B008 (it is frozen)
) -> ImageData:
    """Open the image set that a specification names.

    Args:
        spec: `sample`, `cifar10:DIR`, `folder:DIR`, `exact:DIR` for a folder whose images are
            taken pixel for pixel and must have the model's size, as stored attacks have, or
            `broden:DIR` for images with labels for every pixel.
        split: which part of it. The sample has test images only; a folder without `val` and
            `train` is the same for both, as is the Broden layout.
        transform: how image files become inputs; only folders use it, and the Broden layout its
            size, to which images are squeezed whole.

    Raises:
        SettingsError: no such kind of data, no folder given, or no such split.
        DataError: the files are missing or damaged.
    """
    kind, _, folder = spec.partition(":")
    path = Path(os.path.expanduser(folder))
    if kind == "cifar10" and folder:
        return load_cifar10(path, split)
    if kind == "folder" and folder:
        return FolderData(path, split, transform)
    if kind == "exact" and folder:
        return FolderData(path, split, replace(transform, resize=None))
    if kind == "broden" and folder:
        return BrodenData(path, size=transform.size)
    if spec == "sample" and split == "test":
        return load_sample()
    if spec == "sample":
        raise SettingsError(
            "the packaged sample holds test images only; to train, use cifar10:DIR"
            " (advlens data cifar10 --to DIR fetches it)"
        )
    raise SettingsError(
        f"data {spec!r} is not known; use sample, cifar10:DIR, folder:DIR, exact:DIR or broden:DIR"
    )
