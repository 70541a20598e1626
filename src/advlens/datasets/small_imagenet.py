"""Small ImageNet 150: 150 classes of ImageNet at 128x128 pixels, made by a seeded command.

The third paper (B23, section 2.1.2) picks 150 classes at random, with 600 random training and 50
random validation images each, at 128x128 pixels; for testing it adds the 1500 images of these
classes in ImageNetV2's TopImages. It published no list and names no filter. Here classes and images
are ordered by the SHA-256 of "<seed> <name>", which any language and version reproduces.
"""

import contextlib
import csv
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from PIL import Image

from advlens.datasets.base import digest
from advlens.datasets.decoding import ImageError, read_image
from advlens.datasets.folder import (
    SPLITS,
    WNID,
    class_folders,
    image_files,
    split_folder,
)
from advlens.datasets.imagenet import (
    class_names,
    imagenet_wnids,
    load_imagenet_v2,
    synset_folders,
)
from advlens.datasets.reading import WORKERS, FileData, ordered
from advlens.datasets.transform import Transform
from advlens.errors import DataError, RunError, SettingsError
from advlens.files import atomic, locked

ORIGIN = "made-from.txt"
"""A file in a set with the SHA-256 of its sources."""
CLASSES, SOURCES, DAMAGED = "classes.csv", "sources.csv", "damaged.csv"
V2 = "v2"


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Numbers of classes and images; the defaults are the paper's."""

    classes: int = 150
    train: int = 600
    val: int = 50


@dataclass(frozen=True)
class Choice:
    """One class: its files, in the order in which they are taken."""

    wnid: str
    root: Path
    files: Sequence[str]
    """Paths below `root`; files beyond the required number replace damaged ones."""
    v2_root: Path
    v2: Sequence[str]


def load_small_imagenet(
    folder: Path, split: Literal["test", "train"], transform: Transform
) -> FileData:
    """The validation images (as test) or training images of a set that `build_small_imagenet` made.

    Raises:
        DataError: the folder is not such a set, or was changed.
    """
    return _part(folder, SPLITS[split], transform)


def load_small_imagenet_test(
    folder: Path, split: Literal["test", "train"], transform: Transform
) -> FileData:
    """The same, but its test images are the paper's: validation images, then TopImages.

    Raises:
        DataError: the folder is not such a set, was made without TopImages, or was changed.
    """
    if split == "train":
        return load_small_imagenet(folder, split, transform)
    names = SPLITS[split], V2
    parts = [_part(folder, name, transform) for name in names]
    return FileData(
        Path(os.path.realpath(folder)),
        [f"{name}/{file}" for name, part in zip(names, parts, strict=True) for file in part.files],
        transform=transform,
        name=f"{parts[0].name} + TopImages",
        classes=parts[0].classes,
        synsets=parts[0].synsets,
        labels=torch.cat([part.labels for part in parts]),
    )


def _part(folder: Path, name: str, transform: Transform) -> FileData:
    top = Path(os.path.realpath(folder))
    try:
        with open(top / CLASSES, encoding="utf-8", newline="") as file:
            wnids = [row["wnid"] for row in csv.DictReader(file)]
        with open(top / SOURCES, encoding="utf-8", newline="") as file:
            images = [row["image"] for row in csv.DictReader(file)]
    except (OSError, UnicodeDecodeError, KeyError, csv.Error) as error:
        raise DataError(
            f"{folder} holds no {CLASSES} and {SOURCES} of a Small ImageNet ({error}); make one"
            " with: advlens data small-imagenet"
        ) from error
    if name == V2 and not (top / V2).is_dir():
        raise DataError(
            f"{folder} holds no TopImages in {V2}; make the set with advlens data small-imagenet"
            " --v2 TOPIMAGES, or give folder:DIR, whose val is then tested"
        )
    data = synset_folders(top / name, wnids, top, f"Small ImageNet {len(wnids)} {name}", transform)
    listed = {image.removeprefix(f"{name}/") for image in images if image.startswith(f"{name}/")}
    if odd := sorted(listed ^ {*data.files}):
        raise DataError(
            f"{odd[0]} is not both in {data.root} and in {SOURCES}; make the set again with:"
            " advlens data small-imagenet"
        )
    return data


def build_small_imagenet(
    images: Path,
    to: Path,
    *,
    seed: int = 0,
    v2: Path | None = None,
    counts: Counts = Counts(),
    size: int = 128,
    say: Callable[[object], object] = print,
) -> Path:
    """Make Small ImageNet from ImageNet's training images; one made from identical sources is kept.

    Each image is resized, shorter side to `size` (bilinear, antialiased), center-cropped and
    written as PNG. A damaged image is reported, listed in damaged.csv and replaced by the next of
    its class. The same call continues after a kill, class by class.

    Args:
        images: ImageNet: a folder with `train/<wnid>/`, or the class folders themselves.
        to: the folder to write; it appears once it is complete.
        seed: the seed of the choice of classes and images.
        v2: ImageNetV2's TopImages; its images of these classes go to `v2/<wnid>/`.
        counts: numbers of classes and images.
        size: side of the images, in pixels.
        say: called with messages about progress and damage.

    Returns:
        `to`.

    Raises:
        DataError: there are too few classes or images, or an image cannot be read.
        RunError: `to` holds something else, is in use by another process, or cannot be written.
    """
    target = Path(os.path.realpath(to))
    for folder in (images, v2):
        if folder is not None and target.is_relative_to(os.path.realpath(folder)):
            raise SettingsError(f"{to} lies in {folder}, which is read; choose another folder")
    choices = choose(images, seed, counts, v2)
    names = [[choice.wnid, *choice.files, *choice.v2] for choice in choices]
    origin = digest(seed, counts.train, counts.val, size, names)
    if target.is_dir() and any(target.iterdir()):
        _same(target, origin)
        return to
    unfinished = target.with_name(f".{target.name}.partial")
    with locked(unfinished):
        try:
            if (unfinished / ORIGIN).exists():
                _same(unfinished, origin)
            with atomic(unfinished / ORIGIN, "w") as file:
                file.write(f"{origin}\n")
            for number, choice in enumerate(choices, 1):
                for reason in _make(choice, unfinished, counts, size):
                    say(f"left out: {reason}")
                say(f"{number} of {len(choices)} classes: {choice.wnid}")
            _finish(choices, unfinished)
            (unfinished / ".lock").unlink()
            os.rename(unfinished, target)
        except OSError as error:
            raise RunError(
                f"cannot write {to}: {error.strerror or error}; free space or choose another folder"
            ) from error
    return to


def choose(images: Path, seed: int, counts: Counts, v2: Path | None) -> list[Choice]:
    """The classes, sorted by wnid, each with its images in the order in which they are taken.

    Raises:
        DataError: too few classes have enough images.
    """
    top = Path(os.path.realpath(images))
    root = split_folder(top, "train")
    wnids = [name for name in class_folders(root) if WNID.fullmatch(name)]
    chosen: dict[str, list[str]] = {}
    for wnid in _shuffled(wnids, seed):
        files = sorted(image_files(root, wnid, top))
        if len(files) >= counts.train + counts.val:
            chosen[wnid] = _shuffled(files, seed)
        if len(chosen) == counts.classes:
            break
    if len(chosen) < counts.classes:
        raise DataError(
            f"{root} has {len(chosen)} class folders named by wnids with at least"
            f" {counts.train + counts.val} images, not {counts.classes}; give ImageNet's folder"
        )
    later: dict[str, list[str]] = {wnid: [] for wnid in chosen}
    v2_root = Path()
    if v2 is not None:
        data = load_imagenet_v2(v2, "test", Transform())
        v2_root = data.root
        for file, label in zip(data.files, data.labels.tolist(), strict=True):
            if (wnid := imagenet_wnids()[label]) in later:
                later[wnid].append(file)
        if lacking := [wnid for wnid, files in later.items() if not files]:
            raise DataError(f"{v2} has no images of the class {lacking[0]}; leave --v2 out")
    return [Choice(wnid, root, chosen[wnid], v2_root, later[wnid]) for wnid in sorted(chosen)]


def _shuffled(names: Iterable[str], seed: int) -> list[str]:
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())


def _same(folder: Path, origin: str) -> None:
    path = folder / ORIGIN
    if not path.is_file() or path.read_text(errors="replace").strip() != origin:
        raise RunError(
            f"{folder} exists and was not made from these images with this seed; choose another"
            " folder or remove it"
        )


def _make(choice: Choice, folder: Path, counts: Counts, size: int) -> list[str]:
    """Write the images of a class and, once they are complete, the source of each.

    Returns:
        Why some images could not be used; empty if the class was already finished.
    """
    done = folder / "done" / f"{choice.wnid}.json"
    if done.exists():
        return []
    for name in ("train", "val", V2):
        shutil.rmtree(folder / name / choice.wnid, ignore_errors=True)  # left by a killed process
    wanted = ["train"] * counts.train + ["val"] * counts.val
    made = _convert(choice.wnid, choice.root, choice.files, wanted, folder, size)
    if len(made.images) < len(wanted):
        raise DataError(
            f"{choice.root / choice.wnid} has {len(made.images)} images that can be used, not"
            f" {len(wanted)}; the first that cannot: {made.damaged[0][1]}"
        )
    later = _convert(choice.wnid, choice.v2_root, choice.v2, [V2] * len(choice.v2), folder, size)
    damaged = made.damaged + later.damaged
    with atomic(done, "w") as file:
        json.dump({"images": made.images + later.images, "damaged": damaged}, file)
    return [reason for _, reason in damaged]


class Made(NamedTuple):
    """The result for some images."""

    images: list[tuple[str, str]]
    """Pairs of an image and its source."""
    damaged: list[tuple[str, str]]
    """Pairs of a source and why it cannot be used."""


def _convert(
    wnid: str, root: Path, files: Sequence[str], wanted: Sequence[str], folder: Path, size: int
) -> Made:
    """Write an image to each folder of `wanted`, from the first usable files."""
    if len({Path(name).stem for name in files}) < len(files):
        raise DataError(f"two images of {wnid} in {root} differ in their suffix alone; remove one")

    def write(job: tuple[str, str]) -> tuple[str, str | None]:
        target, name = job
        image = f"{target}/{wnid}/{Path(name).stem}.png"
        try:
            pixels = read_image(root / name, Transform(size=size, resize=size))
        except ImageError as error:
            return image, str(error)
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / image, "PNG")
        return image, None

    made, place = Made([], []), 0
    for target in {*wanted}:
        (folder / target / wnid).mkdir(parents=True)
    while wanted and place < len(files):
        jobs = list(zip(wanted, files[place:], strict=False))
        place, wanted = place + len(jobs), []
        with contextlib.closing(ordered(write, jobs, 2 * WORKERS)) as results:
            for (target, name), (image, reason) in zip(jobs, results, strict=True):
                if reason is None:
                    made.images.append((image, name))
                else:
                    made.damaged.append((name, reason))
                    wanted.append(target)
    return made


def _finish(choices: Sequence[Choice], folder: Path) -> None:
    """Write the tables of the whole set."""
    parts = [json.loads((folder / "done" / f"{c.wnid}.json").read_text()) for c in choices]
    wnids = [choice.wnid for choice in choices]
    names = class_names(wnids)
    _table(folder / CLASSES, "label,wnid,name", zip(count(), wnids, names, strict=False))
    _table(folder / SOURCES, "image,source", sorted(r for part in parts for r in part["images"]))
    _table(folder / DAMAGED, "source,reason", sorted(r for part in parts for r in part["damaged"]))
    shutil.rmtree(folder / "done")


def _table(path: Path, columns: str, rows: Iterable[Sequence[object]]) -> None:
    with atomic(path, "w") as file:
        csv.writer(file, lineterminator="\n").writerows([columns.split(","), *rows])
