"""Small ImageNet, the same from the same seed whatever happens; Tiny-ImageNet-200 in its layout."""

import csv
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import CenterCrop, Compose, PILToTensor, Resize

from advlens.cli import main
from advlens.datasets import FileData, Transform, imagenet, load_data, read_image, small_imagenet
from advlens.datasets.small_imagenet import Counts, build_small_imagenet
from advlens.errors import DataError, RunError, SettingsError
from tiny_imagenet import WNIDS, Edit, cases, class_folders, content, gone, jpeg, write
from together import FORKSERVER

COUNTS = Counts(classes=4, train=5, val=2)
SMALL = Transform(size=16, resize=16)
CLASSES = WNIDS[100:110]
CHANGES: dict[str, Callable[[Path], object]] = {
    **{"missing": Path.unlink, "class": lambda path: shutil.rmtree(path.parent)},
    "more": lambda path: shutil.copy(path, path.with_name("more.png")),
    "no table": lambda path: (path.parents[2] / "classes.csv").unlink(),
}
WRONG = """
2 | small-imagenet --to {tmp}/small | small-imagenet needs --images
2 | small-imagenet --to {tmp}/imagenet/x --images {tmp}/imagenet | lies in
2 | small-imagenet --to {tmp}/small --images {tmp}/imagenet --size 64 | --size does not
2 | small-imagenet --to {tmp}/small --images {tmp}/imagenet --seed x | seed
2 | cifar10 --to {tmp}/small --seed 1 | --seed does not go with cifar10
1 | small-imagenet --to {tmp}/small --images {tmp}/none | cannot read the folder .*none
1 | small-imagenet --to {tmp}/small --images {tmp}/imagenet | has 0 class .* 650 images, not 150
"""
SIZE = Transform(size=64, resize=64)
TINY = (WNIDS[281], WNIDS[1], WNIDS[999])  # wnids.txt of the real one is unsorted as well


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Ten classes of 9 images, of which two have too few."""
    root = tmp_path / "imagenet"
    for number, wnid in enumerate(CLASSES):
        for i in range(6 if number in (2, 5) else 9):
            write(root / "train" / wnid / f"{wnid}_{i}.JPEG", jpeg(10 * number + i, 30, 20))
    write(root / "val" / CLASSES[0] / "x.JPEG", jpeg(0))  # is not looked at
    return root


def build(images: Path, to: Path, **options: object) -> Path:
    options = {"counts": COUNTS, "size": 16, "say": lambda _: None, **options}
    return build_small_imagenet(images, to, **options)


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def first(names: list[str], count: int, seed: int) -> list[str]:
    """The choice as the documentation tells it."""
    keys = {hashlib.sha256(f"{seed} {name}".encode()).hexdigest(): name for name in names}
    return [keys[key] for key in sorted(keys)][:count]


@pytest.mark.parametrize("seed", [0, 1])
def test_contents(images, tmp_path, seed):
    to = build(images, tmp_path / "small", seed=seed)
    enough = [wnid for number, wnid in enumerate(CLASSES) if number not in (2, 5)]
    wnids, table = sorted(first(enough, 4, seed)), rows(to / "classes.csv")
    assert [(row["label"], row["wnid"]) for row in table] == [*zip("0123", wnids, strict=True)]
    sources = {row["image"]: row["source"] for row in rows(to / "sources.csv")}
    for wnid in wnids:
        chosen = first([f"{wnid}/{wnid}_{i}.JPEG" for i in range(9)], 7, seed)
        for split, expected in (("train", chosen[:5]), ("val", chosen[5:])):
            made = {f"{split}/{name.replace('JPEG', 'png')}": name for name in expected}
            assert {k: v for k, v in sources.items() if k.startswith(f"{split}/{wnid}")} == made
    steps = Compose([Resize(16), CenterCrop(16), PILToTensor()])
    for image, source in sources.items():
        with Image.open(to / image) as file:
            assert (file.format, file.mode, file.size) == ("PNG", "RGB", (16, 16))
            pixels = torch.from_numpy(np.array(file)).permute(2, 0, 1)
        assert torch.equal(pixels, steps(pil_loader(str(images / "train" / source))))
    assert rows(to / "damaged.csv") == []
    for split, count in (("train", 20), ("test", 8)):
        data = load_data(f"small-imagenet:{to}", split=split, transform=SMALL)
        assert len(data.training or ()) == (20 if split == "test" else 0)
        folder = load_data(f"folder:{to}", split=split, transform=SMALL)
        assert (len(data), data.synsets, data.files) == (count, tuple(wnids), folder.files)
        assert torch.equal(data.labels, folder.labels)
        assert data.classes == tuple(row["name"] for row in table)
    assert {path.name for path in tmp_path.iterdir()} == {"imagenet", "small"}


def test_a_finished_set_is_kept_and_made_of_the_class_folders_alike(images, tmp_path):
    whole, inner = (
        build(each, tmp_path / f"of-{each.name}") for each in (images, images / "train")
    )
    assert contents(whole) == contents(inner)
    to = build(images, tmp_path / "small")
    before = {path: path.stat().st_mtime_ns for path in to.rglob("*")}
    assert build(images, to) == to
    assert {path: path.stat().st_mtime_ns for path in to.rglob("*")} == before
    with pytest.raises(RunError, match="was not made from these images with this seed"):
        build(images, to, seed=1)
    write(tmp_path / "other" / "file", b"x")
    with pytest.raises(RunError, match="was not made from these images"):
        build(images, tmp_path / "other")


def test_damaged_images_are_replaced_and_listed(images, tmp_path):
    wnid = rows(build(images, tmp_path / "whole") / "classes.csv")[1]["wnid"]
    order = first([f"{wnid}/{wnid}_{i}.JPEG" for i in range(9)], 9, 0)
    for name, damaged in ((order[0], jpeg(1)[:200]), (order[6], b"")):
        write(images / "train" / name, damaged)
    said: list[object] = []
    to = build(images, tmp_path / "small", say=said.append)
    splits = {"train": [*order[1:5], order[7]], "val": [order[5], order[8]]}
    sources = {row["source"]: row["image"].split("/")[0] for row in rows(to / "sources.csv")}
    for split, names in splits.items():
        assert {name for name in order if sources.get(name) == split} == {*names}
    damaged = rows(to / "damaged.csv")
    assert {row["source"] for row in damaged} == {order[0], order[6]}
    for row in damaged:
        assert f"left out: {row['reason']}" in said
        assert str(images / "train" / row["source"]) in row["reason"]
    write(images / "train" / order[1], b"")
    with pytest.raises(DataError, match=f"{wnid} has 6 images that can be used, not 7"):
        build(images, tmp_path / "short")
    assert not (tmp_path / "short").exists()


def test_v2(images, tmp_path, monkeypatch):
    monkeypatch.setattr(imagenet, "V2_IMAGES", 1000)
    class_folders(tmp_path / "v2", [str(i) for i in range(1000)], "jpeg")
    to = build(images, tmp_path / "small", v2=tmp_path / "v2")
    wnids = [row["wnid"] for row in rows(to / "classes.csv")]
    found = [row for row in rows(to / "sources.csv") if row["image"].startswith("v2/")]
    assert [row["image"].split("/")[1] for row in found] == wnids
    assert [row["source"].split("/")[0] for row in found] == [str(WNIDS.index(w)) for w in wnids]
    later = load_data(f"folder:{to}/v2", transform=SMALL)
    assert (later.synsets, later.labels.tolist()) == (tuple(wnids), [0, 1, 2, 3])
    val = load_data(f"small-imagenet:{to}", transform=SMALL)
    both = load_data(f"small-imagenet-test:{to}", transform=SMALL)
    assert (len(val), len(both), both.classes) == (8, 8 + len(later), val.classes)
    for part, ids in ((val, range(8)), (later, range(8, len(both)))):
        assert torch.equal(both.images(ids), part.images(range(len(part))))
        assert [both.synsets[both.labels[i]] for i in ids] == [
            part.synsets[label] for label in part.labels
        ]
    train = [f"{kind}:{to}" for kind in ("small-imagenet", "small-imagenet-test")]
    one, two = (load_data(spec, split="train", transform=SMALL) for spec in train)
    assert one.fingerprint() == two.fingerprint()
    without = build(images, tmp_path / "without")
    with pytest.raises(DataError, match=r"holds no TopImages in v2; .* --v2 TOPIMAGES, or give"):
        load_data(f"small-imagenet-test:{without}", transform=SMALL)


def build_slowly(images: Path, to: Path) -> None:
    """For a process that is to be killed."""
    plain = small_imagenet.read_image

    def read_image(path: Path, transform: Transform) -> torch.Tensor:
        time.sleep(0.02)
        return plain(path, transform)

    small_imagenet.read_image = read_image
    build(images, to)


def test_a_killed_process_is_continued(images, tmp_path):
    expected = contents(build(images, tmp_path / "whole"))
    to, done = tmp_path / "small", tmp_path / ".small.partial" / "done"
    for classes in (1, 3):
        process = FORKSERVER.Process(target=build_slowly, args=(images, to))
        process.start()
        while len(list(done.glob("*.json"))) < classes:
            assert process.is_alive()
            time.sleep(0.002)
        time.sleep(0.03)  # into the midst of the next class
        process.kill()
        process.join()
        assert not to.exists()
    build(images, to)
    assert contents(to) == expected
    assert not list(tmp_path.glob(".*"))


def test_no_room_and_too_little(images, tmp_path):
    to = tmp_path / "small"
    with pytest.raises(SettingsError, match=r"lies in .*, which is read"):
        build(images, images / "small")
    with pytest.raises(DataError, match=r"has 8 class folders .* at least 7 images, not 9"):
        build(images, to, counts=Counts(classes=9, train=5, val=2))
    write(images / "train" / CLASSES[0] / f"{CLASSES[0]}_0.png", jpeg(0))
    with pytest.raises(DataError, match="differ in their suffix alone"):
        build(images, to, counts=Counts(classes=8, train=5, val=2))
    write(tmp_path / ".small.partial" / small_imagenet.ORIGIN, b"another\n")
    with pytest.raises(RunError, match=r"\.small\.partial exists and was not made from these"):
        build(images, to)
    assert not to.exists()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_set(images, tmp_path, change):
    to = build(images, tmp_path / "small")
    change(sorted((to / "val").glob("*/*.png"))[0])
    with pytest.raises(DataError, match=str(to)):
        load_data(f"small-imagenet:{to}", transform=SMALL)


@pytest.mark.parametrize("case", cases(WRONG))
def test_wrong_use_of_the_command(tmp_path, images, case, capsys):
    code, words, message = case
    assert main(["data", *words.format(tmp=tmp_path).split()]) == int(code)
    assert re.search(message, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["imagenet"]
    assert not (images / "x").exists()


def test_the_command(images, tmp_path, monkeypatch, capsys):
    small = dict(build_small_imagenet.__kwdefaults__, counts=COUNTS)  # 150 classes take a while
    monkeypatch.setattr(build_small_imagenet, "__kwdefaults__", small)
    to = tmp_path / "small"
    assert main(f"data small-imagenet --images {images} --to {to} --seed 5".split()) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(to)
    assert contents(to) == contents(build(images, tmp_path / "again", seed=5, size=128))


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("advlens.datasets.tiny_imagenet.CLASSES", 3)
    monkeypatch.setattr("advlens.datasets.tiny_imagenet.IMAGES", {"train": 4, "test": 2})
    root = tmp_path / "tiny-imagenet-200"
    write(root / "wnids.txt", "".join(f"{wnid}\n" for wnid in TINY).encode())
    lines = []
    for number, wnid in enumerate(TINY):
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
        assert data.training.transform == SIZE
    raw = read_image(data.root / data.files[0], Transform(size=64, resize=None))
    assert torch.equal(data.images([0])[0], raw)  # for a model of 64 pixels, pixel for pixel


def test_training_equals_torchvision(root: Path) -> None:
    data, other = load(root, "train"), ImageFolder(str(root / "train"))
    files = [str(data.root / name) for name in data.files]
    assert list(zip(files, data.labels.tolist(), strict=True)) == other.samples
    assert data.name == "Tiny-ImageNet train"


def third_class(text: str) -> Edit:
    return content("wnids.txt", f"{TINY[0]}\n{TINY[1]}\n{text}\n")


def table(change: Callable[[str], str]) -> Edit:
    path = "val/val_annotations.txt"
    return lambda root: write(root / path, change((root / path).read_text()).encode())


TRAIN = f"train/{TINY[0]}"
REFUSED: dict[str, tuple[Edit, str]] = {
    "wnids missing": (gone("wnids.txt"), "cannot read .*wnids.txt: No such file"),
    "wnid twice": (third_class(TINY[0]), "names 2 classes in 3 lines, not 3"),
    "wnid unknown": (third_class("n00000000"), "'n00000000' is not a noun"),
    "wnids binary": (third_class("\xff"), "cannot read .*wnids.txt"),
    "image missing": (gone("val/images/val_1.JPEG"), "'val_1.JPEG' is not both in .*images and in"),
    "image more": (content("val/images/val_99.JPEG"), "'val_99.JPEG' is not both in .*val_annot"),
    "line twice": (table(lambda text: text + text[:30]), "line 7 of .* repeats an image"),
    "line without class": (table(lambda text: f"{text}val_99.JPEG"), "line 7 of .* names no class"),
    "line of another class": (table(lambda text: f"{text}val_99.JPEG\t{WNIDS[5]}"), "line 7 of "),
    "class short": (table(lambda t: t.replace(TINY[0], TINY[2], 1)), "holds 1 images of n02"),
    "train class missing": (gone(TRAIN), "lacks 1 of the 3 class folders"),
    "train class more": (content(f"train/{WNIDS[0]}/a.JPEG"), "n01440764 is not a class of Tiny-"),
    "train short": (gone(f"{TRAIN}/images/{TINY[0]}_0.JPEG"), "holds 3 images of n02123045"),
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
    assert wnids(data) == dict(line.split("\t")[:2] for line in annotations)
    train, other = load(Path(folder), "train"), ImageFolder(str(top / "train"))
    assert (len(data), len(train)) == (10_000, 100_000)
    assert (list(train.synsets), train.labels.tolist()) == (other.classes, other.targets)
