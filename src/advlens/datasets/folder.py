"""A folder of images with one folder for each class, as torchvision's ImageFolder reads it."""

import contextlib
import os
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from itertools import chain, islice
from pathlib import Path
from typing import Literal, TypeVar

import torch
from jaxtyping import UInt8
from torch import Tensor

from advlens.datasets.base import ImageData, Stream, Transform, digest
from advlens.datasets.decoding import read_image
from advlens.errors import DataError
from advlens.files import sha256

SUFFIXES = (".jpg", ".jpeg", ".png")
IGNORED = re.compile(r"\..*|.*\.txt|thumbs\.db|desktop\.ini", re.IGNORECASE | re.DOTALL)
WNID = re.compile(r"n\d{8}")
SPLITS = {"test": "val", "train": "train"}
WORKERS = min(16, os.cpu_count() or 1)

T = TypeVar("T")
R = TypeVar("R")


class FolderData(ImageData):
    """The images below `DIR/<class>/`, sorted by class name, then by path.

    `DIR/val` (test) or `DIR/train` is read instead where it holds class folders. Images may lie
    deeper, as in Tiny-ImageNet's `<wnid>/images/`. Files beside the class folders are ignored; in
    them, hidden files, `*.txt`, `Thumbs.db` and `desktop.ini`. Any other file that is not
    `.jpg`, `.jpeg` or `.png` is an error. Images are decoded when they are asked for, by threads
    that work ahead.
    """

    def __init__(self, folder: Path, split: Literal["test", "train"], transform: Transform) -> None:
        top = Path(os.path.realpath(folder))
        self.root = split_folder(top, split)
        """The folder that holds the class folders."""
        self.transform = transform
        classes = class_folders(self.root)
        if not classes:
            raise DataError(
                f"{folder} holds no class folders; give a folder of the form DIR/<class>/<image>"
            )
        self.files: list[str] = []
        """Path of each image, relative to `root`."""
        labels: list[int] = []
        for label, name in enumerate(classes):
            if not name.isprintable():
                raise DataError(f"the class folder {name!r} of {folder} has no printable name")
            files = sorted(image_files(self.root, name, top))
            if not files:
                raise DataError(f"the class folder {self.root / name} holds no images; remove it")
            self.files += files
            labels += [label] * len(files)
        super().__init__(
            name="folder " + "/".join([top.name, *self.root.relative_to(top).parts]),
            classes=classes,
            synsets=classes if all(map(WNID.fullmatch, classes)) else None,
            labels=torch.tensor(labels),
            image_shape=(3, transform.size, transform.size),
        )

    def stream(self, batches: Sequence[Sequence[int]]) -> Stream:
        ahead = 2 * WORKERS + max(map(len, batches), default=0)
        with contextlib.closing(ordered(self._read, chain(*batches), ahead)) as images:
            for ids in batches:
                yield torch.stack(list(islice(images, len(ids))))

    def _read(self, i: int) -> UInt8[Tensor, "3 h w"]:
        return read_image(self.root / self.files[i], self.transform)

    def fingerprint(self) -> str:
        """SHA-256 of names, labels, transform and the bytes of every file: it reads them all."""
        hashes = list(ordered(self._hash, range(len(self)), 4 * WORKERS))
        return digest(self.classes, self.files, self.labels, asdict(self.transform), hashes)

    def _hash(self, i: int) -> str:
        path = self.root / self.files[i]
        try:
            return sha256(path)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}; open the data again") from error


def split_folder(top: Path, split: Literal["test", "train"]) -> Path:
    """`top/val` or `top/train` where there are such, else `top` itself."""
    present = [
        name for name in SPLITS.values() if (top / name).is_dir() and class_folders(top / name)
    ]
    if not present:
        return top
    if SPLITS[split] not in present:
        raise DataError(
            f"{top} has class folders in {present[0]} but none in {SPLITS[split]}; add it,"
            f" or give {top / present[0]} itself"
        )
    root = top / SPLITS[split]
    check_link(root, top)
    return root


def class_folders(folder: Path) -> list[str]:
    """Sorted names of the folders in `folder` that are not hidden."""
    return sorted(
        e.name for e in listing(folder) if os.path.isdir(e.path) and not e.name.startswith(".")
    )


def image_files(root: Path, folder: str, top: Path) -> Iterator[str]:
    """Paths relative to `root` of the images below `folder`, unsorted.

    Raises:
        DataError: a file is no image, or a link leads out of `top` or to a folder.
    """
    check_link(root / folder, top)
    pending = [folder]
    while pending:
        folder = pending.pop()
        for entry in listing(root / folder):
            relative = f"{folder}/{entry.name}"
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
                    f"{root / relative} is no image file ({', '.join(SUFFIXES)});"
                    " remove it from the class folder"
                )


def listing(folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder; the entries know their kind without another look at the disk."""
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


def ordered(function: Callable[[T], R], items: Iterable[T], ahead: int) -> Generator[R, None, None]:
    """`map` by threads that are at most `ahead` items ahead of the consumer.

    An exception reaches the consumer at its item. When the iterator is closed or ends, its
    threads have ended.
    """
    pool = ThreadPoolExecutor(WORKERS)
    pending: deque[Future[R]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
