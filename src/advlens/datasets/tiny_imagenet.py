"""Tiny-ImageNet-200: 200 classes of ImageNet, images of 64x64 pixels.

Ya Le and Xuan Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS231N, 2015.
"""

import os
from pathlib import Path
from typing import Literal

import torch

from advlens.datasets.folder import listing
from advlens.datasets.imagenet import class_names, synset_folders
from advlens.datasets.reading import FileData
from advlens.datasets.transform import Transform
from advlens.errors import DataError
from advlens.wordnet import lemmas

FOLDER = "tiny-imagenet-200"
CLASSES = 200
IMAGES = {"train": 500, "test": 50}  # per class
MEND = "unpack tiny-imagenet-200.zip again"


def load_tiny_imagenet(
    folder: Path, split: Literal["test", "train"], transform: Transform
) -> FileData:
    """The 10 000 validation images (as test; the test images have no labels) or 100 000 training
    images, classes in the order of their wnids.

    Args:
        folder: `tiny-imagenet-200` or the folder that holds it.
        split: "test" or "train".
        transform: how files become inputs; a 64-pixel model without a resize takes them as they
            are.

    Raises:
        DataError: something is missing or duplicated.
    """
    top = Path(os.path.realpath(folder))
    if (top / FOLDER).is_dir():
        top = top / FOLDER
    wnids = sorted(_lines(top / "wnids.txt"))
    if len(set(wnids)) != len(wnids) or len(wnids) != CLASSES:
        raise DataError(
            f"{top / 'wnids.txt'} names {len(set(wnids))} classes in {len(wnids)} lines, not"
            f" {CLASSES}; {MEND}"
        )
    for wnid in wnids:
        lemmas(wnid)  # refuses what is not a noun of WordNet 3.0
    if split == "train":
        data = synset_folders(top / "train", wnids, top, "Tiny-ImageNet train", transform)
    else:
        data = _validation(top, wnids, transform)
    counts = data.labels.bincount(minlength=CLASSES)
    if wrong := (counts != IMAGES[split]).nonzero().flatten().tolist():
        raise DataError(
            f"{data.root} holds {counts[wrong[0]]} images of {wnids[wrong[0]]}, not"
            f" {IMAGES[split]}; {MEND}"
        )
    return data


def _validation(top: Path, wnids: list[str], transform: Transform) -> FileData:
    """Read all images from one folder; a table holds file, wnid and box of each."""
    table, root = top / "val" / "val_annotations.txt", top / "val" / "images"
    place = {wnid: label for label, wnid in enumerate(wnids)}
    labels: dict[str, int] = {}
    for number, line in enumerate(_lines(table), 1):
        name, wnid = (*line.split("\t"), "")[:2]
        if name in labels or wnid not in place:
            raise DataError(f"line {number} of {table} repeats an image or names no class; {MEND}")
        labels[name] = place[wnid]
    present = {entry.name for entry in listing(root) if entry.is_file(follow_symlinks=False)}
    if odd := sorted(present ^ {*labels}):
        raise DataError(f"{odd[0]!r} is not both in {root} and in {table}; {MEND}")
    files = sorted(labels)
    return FileData(
        root,
        files,
        transform=transform,
        name="Tiny-ImageNet val",
        classes=class_names(wnids),
        synsets=wnids,
        labels=torch.tensor([labels[name] for name in files]),
    )


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"cannot read {path}: {reason}; {MEND}") from error
