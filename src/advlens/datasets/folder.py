"""A folder of images with one folder for each class, as torchvision's ImageFolder reads it."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch

from advlens.datasets.reading import FileData
from advlens.datasets.transform import Transform
from advlens.errors import DataError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
IGNORED = re.compile(r"\..*|.*\.txt|thumbs\.db|desktop\.ini", re.IGNORECASE | re.DOTALL)
WNID = re.compile(r"n\d{8}")
SPLITS = {"test": "val", "train": "train"}
"""The folder of each part of ImageNet, whose test images have no labels."""
PARTS = {
    "test": ("test", "testing", "val", "valid", "validation"),
    "train": ("train", "training"),
}
"""Names of the folders of each part, in any case, the first one preferred."""


class FolderData(FileData):
    """The images below `DIR/<class>/`, sorted by class name, then by path.

    A part such as `DIR/val` or `DIR/train` is read instead if it holds class folders; `PARTS` has
    their names. Images may lie deeper, as in Tiny-ImageNet's `<wnid>/images/`. Files beside the
    class folders are ignored, and so are hidden files, `*.txt`, `Thumbs.db` and `desktop.ini` in
    them. Any other file without a suffix of `SUFFIXES` is an error.
    """

    def __init__(self, folder: Path, split: Literal["test", "train"], transform: Transform) -> None:
        top = Path(os.path.realpath(folder))
        root = split_folder(top, split)
        if root == top and split == "train":  # a model would be tested on its training images
            raise DataError(
                f"{top} has no parts to train and to test on; put its class folders into "
                f"{top}/train and others into {top}/val, or name others with advlens train --test"
            )
        classes = class_folders(root)
        if not classes:
            raise DataError(
                f"{folder} holds no class folders; give a folder of the form DIR/<class>/<image>"
            )
        for name in classes:
            if not name.isprintable():
                raise DataError(f"the class folder {name!r} of {folder} has no printable name")
        files, labels = labeled_files(root, classes, top)
        super().__init__(
            root,
            files,
            transform=transform,
            name="folder " + "/".join([top.name, *root.relative_to(top).parts]),
            classes=classes,
            synsets=classes if all(map(WNID.fullmatch, classes)) else None,
            labels=torch.tensor(labels),
        )


class UnlabeledData(FileData):
    """All images below a folder, at any depth, sorted by path, without labels.

    They have one class, "unlabeled", until a model predicts others.

    Raises:
        DataError: there are none, or a file is not an image.
    """

    def __init__(self, folder: Path, split: Literal["test", "train"], transform: Transform) -> None:
        top = Path(os.path.realpath(folder))
        files = sorted(image_files(top, ".", top))
        if not files:
            raise DataError(f"{folder} holds no images; give a folder with some, at any depth")
        super().__init__(
            top,
            files,
            transform=transform,
            name=f"folder {top.name}",
            classes=("unlabeled",),
            synsets=None,
            labels=torch.zeros(len(files), dtype=torch.int64),
        )
        self.labeled = False


def labeled_files(root: Path, folders: Sequence[str], top: Path) -> tuple[list[str], list[int]]:
    """The sorted images of each of some folders, and the position of their folder among them.

    Args:
        root: the parent of the folders.
        folders: the folders' names.
        top: the folder that links must not leave.

    Raises:
        DataError: a folder is empty, or holds a file that is not an image.
    """
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(folders):
        images = sorted(image_files(root, name, top))
        if not images:
            raise DataError(f"the class folder {root / name} holds no images; remove it")
        files += images
        labels += [label] * len(images)
    return files, labels


def parts(top: Path) -> dict[str, str]:
    """The folders in `top` that hold class folders and are named as in `PARTS`, by these names."""
    known = {*PARTS["test"], *PARTS["train"]}
    return {
        name.lower(): name
        for name in class_folders(top)
        if name.lower() in known and class_folders(top / name)
    }


def split_folder(top: Path, split: Literal["test", "train"]) -> Path:
    """The folder of a part such as `top/val` or `top/train`; `top` itself if there are no parts."""
    present = parts(top)
    if not present:
        return top
    name = next((present[name] for name in PARTS[split] if name in present), None)
    if name is None:
        others = ", ".join(present.values())
        mend = "val with images that no model is trained on" if split == "test" else "train"
        raise DataError(f"{top} has class folders in {others} alone; add {mend}")
    check_link(top / name, top)
    return top / name


def class_folders(folder: Path) -> list[str]:
    """Sorted names of the folders in `folder` that are not hidden."""
    return sorted(
        e.name for e in listing(folder) if os.path.isdir(e.path) and not e.name.startswith(".")
    )


def image_files(root: Path, folder: str, top: Path) -> Iterator[str]:
    """Paths relative to `root` of the images below `folder`, unsorted.

    Raises:
        DataError: a file is not an image, or a link leads out of `top` or to a folder.
    """
    check_link(root / folder, top)
    pending = [folder]
    while pending:
        folder = pending.pop()
        for entry in listing(root / folder):
            relative = entry.name if folder == "." else f"{folder}/{entry.name}"
            if IGNORED.fullmatch(entry.name):
                continue
            if entry.is_symlink():
                check_link(root / relative, top)
            regular = entry.is_file(follow_symlinks=False) or os.path.isfile(entry.path)
            if entry.is_dir(follow_symlinks=False):
                pending.append(relative)
            elif regular and entry.name.lower().endswith(SUFFIXES):
                yield relative
            else:
                raise DataError(
                    f"{root / relative} is not an image file ({', '.join(SUFFIXES)}); put it "
                    "elsewhere"
                )


def listing(folder: Path) -> list[os.DirEntry[str]]:
    """The entries of a folder; they know their kind without another disk access."""
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(
            f"cannot read the folder {folder}: {error.strerror}; check its path and permissions"
        ) from error


def check_link(path: Path, top: Path) -> None:
    """Refuse a path whose target lies outside `top`: its images are not part of the folder."""
    if not Path(os.path.realpath(path)).is_relative_to(top):
        raise DataError(f"{path} is a link that leads out of {top}; copy its target there")
