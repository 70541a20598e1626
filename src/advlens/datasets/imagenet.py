"""ImageNet (ILSVRC 2012), ImageNetV2, and sets whose classes have WordNet ids.

Olga Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015. Benjamin
Recht et al., Do ImageNet Classifiers Generalize to ImageNet?, ICML 2019.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Literal

import torch

from advlens.datasets.archives import TarData, tar_members
from advlens.datasets.devkit import validation_wnids
from advlens.datasets.folder import SPLITS, check_link, class_folders, labeled_files, listing
from advlens.datasets.reading import FileData
from advlens.datasets.transform import Transform
from advlens.errors import DataError, SettingsError
from advlens.wordnet import lemmas

VALIDATION_IMAGES = 50_000
V2_IMAGES = 10_000
ARCHIVE = "ILSVRC2012_img_val.tar"
FLAT = re.compile(r"ILSVRC2012_val_(\d{8})\.JPEG")
KAGGLE = Path("ILSVRC", "Data", "CLS-LOC")
LAYOUTS = (
    f"val with a folder for each wnid, {ARCHIVE} or ILSVRC2012_val_*.JPEG with the labels of"
    " ILSVRC2012_devkit_t12.tar.gz or LOC_val_solution.csv"
)


@cache
def imagenet_wnids() -> tuple[str, ...]:
    """The wnids of ImageNet's 1000 classes, in the order of every model's outputs: sorted."""
    table = resources.files("advlens") / "tables" / "imagenet-wnids.txt"
    return tuple(table.read_text(encoding="ascii").split())


def class_names(wnids: Sequence[str]) -> list[str]:
    """Each class's first WordNet word, followed by its wnid if two classes share the word."""
    names = [lemmas(wnid)[0] for wnid in wnids]
    count = Counter(names)
    return [
        f"{name} ({wnid})" if count[name] > 1 else name
        for name, wnid in zip(names, wnids, strict=True)
    ]


def load_imagenet(folder: Path, split: Literal["test", "train"], transform: Transform) -> FileData:
    """All of ImageNet's validation images (as test) or training images.

    Validation images lie in `val/<wnid>/`, or under their own names in `val/`, in the folder itself
    or in the archive, which is read in place; then they need their labels. Training images lie in
    `train/<wnid>/`. Kaggle's folder, with everything in ILSVRC/Data/CLS-LOC, also works.

    Raises:
        DataError: images, classes or labels are missing or too many.
    """
    top = Path(os.path.realpath(folder))
    base = top / KAGGLE if (top / KAGGLE).is_dir() else top
    name = f"ImageNet {SPLITS[split]}"
    root = base / SPLITS[split]
    if root.is_dir() and class_folders(root):
        data = synset_folders(root, imagenet_wnids(), top, name, transform)
    elif split == "train":
        raise DataError(f"{folder} holds no train/<wnid>/ with images; unpack the archives there")
    else:
        data = _unsorted(top, base, name, transform)
    if split == "test" and len(data) != VALIDATION_IMAGES:
        raise DataError(
            f"{data.root} holds {len(data)} images, not the {VALIDATION_IMAGES} of ImageNet's"
            " validation set; complete it, or sort it into val/<wnid>/ and give folder:DIR"
        )
    return data


def load_imagenet_v2(
    folder: Path, split: Literal["test", "train"], transform: Transform
) -> FileData:
    """One of ImageNetV2's three sets: 10 images in each of the folders 0 to 999, `<class>/<hash>`.

    The number of a folder is its class; sorted as text, 10 would come before 2.

    Raises:
        SettingsError: the split is "train", which ImageNetV2 does not have.
        DataError: folders or images are missing or too many.
    """
    if split != "test":
        raise SettingsError("ImageNetV2 holds test images only; to train, use imagenet:DIR")
    top = Path(os.path.realpath(folder))
    inner = [entry.name for entry in listing(top) if entry.name.startswith("imagenetv2-")]
    inner = [name for name in inner if (top / name).is_dir()]
    if len(inner) == 1:
        top = top / inner[0]
    data = _classes_in_order(
        top,
        [str(i) for i in range(1000)],
        imagenet_wnids(),
        top,
        f"ImageNetV2 {top.name}",
        transform,
    )
    if len(data) != V2_IMAGES:
        raise DataError(
            f"{top} holds {len(data)} images, not the {V2_IMAGES} of ImageNetV2; unpack its archive"
            " again"
        )
    return data


def synset_folders(
    root: Path, wnids: Sequence[str], top: Path, name: str, transform: Transform
) -> FileData:
    """The images of `root/<wnid>/`, which must exist for every wnid and for no other.

    Raises:
        DataError: folders differ, or a file is not an image.
    """
    return _classes_in_order(root, wnids, wnids, top, name, transform)


def _classes_in_order(
    root: Path,
    folders: Sequence[str],
    wnids: Sequence[str],
    top: Path,
    name: str,
    transform: Transform,
) -> FileData:
    present = set(class_folders(root))
    if missing := [folder for folder in folders if folder not in present]:
        raise DataError(
            f"{root} lacks {len(missing)} of the {len(folders)} class folders of {name}, first"
            f" {missing[0]}; complete it, or give a part of it as folder:DIR"
        )
    if foreign := sorted(present - {*folders}):
        raise DataError(f"{root / foreign[0]} is not a class of {name}; move it elsewhere")
    files, labels = labeled_files(root, folders, top)
    return FileData(
        root,
        files,
        transform=transform,
        name=name,
        classes=class_names(wnids),
        synsets=wnids,
        labels=torch.tensor(labels),
    )


def _unsorted(top: Path, base: Path, name: str, transform: Transform) -> FileData:
    """Validation images under their own names, in a folder or in the archive."""
    make: Callable[..., FileData]
    for root in (base / "val", base):
        entries = listing(root) if root.is_dir() else []
        if names := _numbered(entry.name for entry in entries):
            for path in (root, *(root / entry.name for entry in entries if entry.is_symlink())):
                check_link(path, top)
            make = partial(FileData, root)
            break
    else:
        root = top / ARCHIVE
        if not root.is_file():
            raise DataError(f"{top} holds no validation images of ImageNet; it needs {LAYOUTS}")
        members = tar_members(root, 2 * VALIDATION_IMAGES)
        names, make = _numbered(members), partial(TarData, root, members=members)
    wnids = validation_wnids(top, imagenet_wnids())
    if sorted(names) != list(range(1, len(wnids) + 1)):
        raise DataError(
            f"{root} holds {len(names)} images ILSVRC2012_val_<number>.JPEG, but there are labels"
            f" for {len(wnids)}, from number 1 on; complete the images"
        )
    place = {wnid: label for label, wnid in enumerate(imagenet_wnids())}
    return make(
        files=[names[number] for number in sorted(names)],
        transform=transform,
        name=name,
        classes=class_names(imagenet_wnids()),
        synsets=imagenet_wnids(),
        labels=torch.tensor([place[wnid] for wnid in wnids]),
    )


def _numbered(names: Iterable[str]) -> dict[int, str]:
    """The validation images among some files, by their numbers."""
    matches = ((name, FLAT.fullmatch(name)) for name in names)
    return {int(match[1]): name for name, match in matches if match}
