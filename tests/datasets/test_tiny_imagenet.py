"""Tiny-ImageNet-200 in its own layout, and the real one where it is at hand."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torchvision.datasets import ImageFolder

from advlens.datasets import FileData, Transform, load_data, read_image, tiny_imagenet
from advlens.errors import DataError
from tiny_imagenet import WNIDS, Edit, content, gone, jpeg, write

SIZE = Transform(size=64, resize=64)
CLASSES = (WNIDS[281], WNIDS[1], WNIDS[999])  # wnids.txt of the real one is unsorted as well


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tiny_imagenet, "CLASSES", 3)
    monkeypatch.setattr(tiny_imagenet, "IMAGES", {"train": 4, "test": 2})
    root = tmp_path / "tiny-imagenet-200"
    write(root / "wnids.txt", "".join(f"{wnid}\n" for wnid in CLASSES).encode())
    lines = []
    for number, wnid in enumerate(CLASSES):
        write(root / "train" / wnid / f"{wnid}_boxes.txt", b"x\t0\t0\t1\t1\n")
        for i in range(4):
            write(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", jpeg(i, 64, 64))
        for i in (number, 11 - number):
            write(root / "val" / "images" / f"val_{i}.JPEG", jpeg(i, 64, 64))
            lines.append(f"val_{i}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    write(root / "val" / "val_annotations.txt", "".join(lines).encode())
    write(root / "test" / "images" / "test_0.JPEG", jpeg(0, 64, 64))
    return root


def load(root: Path, split: str = "test") -> FileData:
    return load_data(f"tiny-imagenet:{root}", split=split, transform=SIZE)


def wnids(data: FileData) -> dict[str, str]:
    labels = data.labels.tolist()
    return {n: data.synsets[label] for n, label in zip(data.files, labels, strict=True)}


def test_validation(root: Path) -> None:
    lines = (root / "val" / "val_annotations.txt").read_text().splitlines()
    expected = dict(line.split("\t")[:2] for line in lines)
    for folder in (root, root.parent):
        data = load(folder)
        assert wnids(data) == expected
        assert data.files == sorted(expected)
        assert (data.name, len(data)) == ("Tiny-ImageNet val", 6)
        assert data.synsets == (WNIDS[1], WNIDS[281], WNIDS[999])
        assert data.classes == ("goldfish", "tabby", "toilet tissue")
        assert (data.training.name, len(data.training)) == ("Tiny-ImageNet train", 12)
        assert data.training.data.transform == SIZE
    raw = read_image(data.root / data.files[0], Transform(size=64, resize=None))
    assert torch.equal(data.images([0])[0], raw)  # for a model of 64 pixels, pixel for pixel


def test_training_equals_torchvision(root: Path) -> None:
    data, other = load(root, "train"), ImageFolder(str(root / "train"))
    files = [str(data.root / name) for name in data.files]
    assert list(zip(files, data.labels.tolist(), strict=True)) == other.samples
    assert data.name == "Tiny-ImageNet train"


def third_class(text: str) -> Edit:
    return content("wnids.txt", f"{CLASSES[0]}\n{CLASSES[1]}\n{text}\n")


def table(change: Callable[[str], str]) -> Edit:
    path = "val/val_annotations.txt"
    return lambda root: write(root / path, change((root / path).read_text()).encode())


TRAIN = f"train/{CLASSES[0]}"
REFUSED: dict[str, tuple[Edit, str]] = {
    "wnids missing": (gone("wnids.txt"), "cannot read .*wnids.txt: No such file"),
    "wnid twice": (third_class(CLASSES[0]), "names 2 classes in 3 lines, not 3"),
    "wnid unknown": (third_class("n00000000"), "'n00000000' is not a noun"),
    "wnids binary": (third_class("\xff"), "cannot read .*wnids.txt"),
    "image missing": (gone("val/images/val_1.JPEG"), "'val_1.JPEG' is not both in .*images and in"),
    "image more": (content("val/images/val_99.JPEG"), "'val_99.JPEG' is not both in .*val_annot"),
    "line twice": (table(lambda text: text + text[:30]), "line 7 of .* repeats an image"),
    "line without class": (table(lambda text: f"{text}val_99.JPEG"), "line 7 of .* names no class"),
    "line of another class": (table(lambda text: f"{text}val_99.JPEG\t{WNIDS[5]}"), "line 7 of "),
    "class short": (table(lambda t: t.replace(CLASSES[0], CLASSES[2], 1)), "holds 1 images of n02"),
    "train class missing": (gone(TRAIN), "lacks 1 of the 3 class folders"),
    "train class more": (content(f"train/{WNIDS[0]}/a.JPEG"), "n01440764 is not a class of Tiny-"),
    "train short": (gone(f"{TRAIN}/images/{CLASSES[0]}_0.JPEG"), "holds 3 images of n02123045"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(root: Path, case: str) -> None:
    edit, message = REFUSED[case]
    edit(root)
    with pytest.raises(DataError, match=message):
        load(root, "train" if case.startswith("train") else "test")


def test_the_real_one() -> None:
    folder = os.environ.get("ADVLENS_TINY_IMAGENET")
    if folder is None:
        pytest.skip("ADVLENS_TINY_IMAGENET does not name the folder of Tiny-ImageNet-200")
    data, top = load(Path(folder)), Path(folder)
    top = top if (top / "wnids.txt").exists() else top / "tiny-imagenet-200"
    annotations = (top / "val" / "val_annotations.txt").read_text().splitlines()
    expected = dict(line.split("\t")[:2] for line in annotations)
    assert wnids(data) == expected
    train, other = load(Path(folder), "train"), ImageFolder(str(top / "train"))
    assert (len(data), len(train)) == (10_000, 100_000)
    assert (list(train.synsets), train.labels.tolist()) == (other.classes, other.targets)
