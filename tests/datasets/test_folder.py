"""Folders of images: their layout, what does not belong there, and the threads that read them."""

import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from advlens.datasets import FolderData, Transform, load_data, read_image, reading
from advlens.datasets.folder import PARTS
from advlens.errors import DataError
from tiny_imagenet import Edit, cases, content, jpeg, linked, replaced, write

SMALL = Transform(size=8, resize=8)


@pytest.mark.parametrize("kind", ["folder", "exact"])
def test_training_images_beside_test_images(root: Path, kind: str) -> None:
    size = SMALL if kind == "folder" else Transform(size=12, resize=None)
    for name in ("val/cat/1.png", "val/dog/2.png", "train/dog/4.png", "train/dog/3.png"):
        write(root / name, jpeg(0, 12, 12))
    data = load_data(f"{kind}:{root}", transform=size)
    training = data.training
    assert training is data.training  # opened once
    assert (training.name, training.image_shape) == ("folder pets/train", data.image_shape)
    assert (training.classes, training.labels.tolist()) == (("cat", "dog"), [1, 1])
    assert torch.equal(training.images([0])[0], read_image(root / "train/dog/3.png", size))
    turned = data.aligned(("dog", "wolf", "cat"), None).subset(1, seed=0).training
    assert (turned.classes, turned.labels.tolist()) == (("dog", "wolf", "cat"), [0, 0])
    assert load_data(f"{kind}:{root}", split="train", transform=size).training is None
    write(root / "train/ant/1.png", jpeg(0, 12, 12))
    with pytest.raises(DataError, match="pets/train has the class 'ant', which folder pets/val"):
        _ = load_data(f"{kind}:{root}", transform=size).training


def test_a_folder_without_parts_has_no_training_images(root: Path) -> None:
    assert load(root).training is None
    add(root / "train" / "1.png")  # a class of trains
    assert load(root).training is None
    add(root / "val" / "cat" / "1.png")
    assert load(root).training is None
    assert load(root / "val").training is None


FOREIGN = ["a.gif", "a", "a.png.part", "deep/er/a.csv", "a.jpg\n", "a.npy"]
UNPRINTABLE = ["new\nline", "\udcff", "\x1b[31m"]
CIRCLES, OUT = ("gone", "c.png", "..", "."), "is a link that leads out of"
LEAVING = """
cat/c.png | /etc/hostname
cat/c.png | ../../secret.png
cat/deep  | ../../other
bee       | ../other
val       | ../others
"""
REFUSED: dict[str, tuple[Edit, str]] = {
    **{f"{name!r}": (content(f"cat/{name}"), f"/cat/{name} is not an image") for name in FOREIGN},
    **{f"class {name!r}": (content(f"{name}/1.png"), " has no printable") for name in UNPRINTABLE},
    "pipe": (replaced("cat/c.png", os.mkfifo), "/cat/c.png is not an image file"),
    "empty class": (lambda root: (root / "bee/images").mkdir(parents=True), "/bee holds no images"),
    "absent": (shutil.rmtree, ""),
    "empty": (lambda root: [shutil.rmtree(root), root.mkdir()], " holds no class folders"),
    "no folder": (lambda root: [shutil.rmtree(root), root.touch()], ""),
    "flat": (lambda root: [shutil.rmtree(root), add(root / "a.png")], " holds no class folders"),
    **{f"to {to}": (linked("cat/c.png", to), "/cat/c.png ") for to in CIRCLES},
    **{f"{name} to {to}": (linked(name, to), f"/{name} {OUT}") for name, to in cases(LEAVING)},
}


def add(path: Path) -> Path:
    """A small image at `path`, of pixels that its name determines."""
    return write(path, jpeg(sum(path.name.encode())))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("dog/2.png", "dog/10.JPEG", "cat/b.jpg", "cat/a.PNG", "ant/images/x.jpeg"):
        add(tmp_path / "pets" / name)
    return tmp_path / "pets"


def load(root: Path, **options: object) -> FolderData:
    data = load_data(f"folder:{root}", transform=SMALL, **options)
    assert isinstance(data, FolderData)
    return data


def test_layout_and_ignored_files(root):
    data = load(root)
    assert data.classes == ("ant", "cat", "dog")
    assert data.files == ["ant/images/x.jpeg", "cat/a.PNG", "cat/b.jpg", "dog/10.JPEG", "dog/2.png"]
    assert (data.labels.tolist(), data.labels.dtype) == ([0, 1, 1, 2, 2], torch.int64)
    assert (data.name, data.synsets, data.image_shape) == ("folder pets", None, (3, 8, 8))
    for i, name in enumerate(data.files):
        assert torch.equal(data.images([i])[0], read_image(root / name, SMALL))
    for name in ("README.md", "train.csv", ".hidden/1.png", ".DS_Store", "archive.zip"):
        write(root / name, b"x")
    for name in (".hidden", ".cache/x.bin", "Thumbs.db", "desktop.ini", "boxes.TXT"):
        write(root / "cat" / name, b"x")
    assert len(load(root)) == 5


def test_layout_equals_torchvision(shared_data: Path) -> None:
    folder = shared_data / "tiny-imagenet-val"
    data, other = load(folder), ImageFolder(str(folder))
    assert list(data.classes) == other.classes
    files = [str(folder / name) for name in data.files]
    assert list(zip(files, data.labels.tolist(), strict=True)) == other.samples
    assert data.synsets == data.classes


def test_wordnet_ids(tmp_path: Path) -> None:
    add(tmp_path / "n02123045" / "a.png")
    assert load(tmp_path).synsets == ("n02123045",)
    add(tmp_path / "n0212304" / "a.png")
    assert load(tmp_path).synsets is None


def test_paths_wordnet_ids_and_links_within(root, monkeypatch):
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(root.parent))
    for spec in ("folder:.", "folder:../pets", "folder:~/pets"):
        data = load_data(spec, transform=SMALL)
        assert (data.name, len(data)) == ("folder pets", 5)
    monkeypatch.chdir("/")
    assert len(data.images(range(5))) == 5
    (root / "cat" / "c.png").symlink_to("../dog/2.png")
    (root / "wolf").symlink_to("dog")
    data = load(root)
    assert data.classes == ("ant", "cat", "dog", "wolf")
    assert len(data) == 8
    assert torch.equal(data.images([3]), data.images([5]))
    root.with_name("link").symlink_to(root)
    assert len(load(root.with_name("link"))) == 8


def test_splits(root: Path) -> None:
    assert len(load(root)) == 5
    with pytest.raises(DataError, match=f"{root} has no parts to train and to test on; put"):
        load(root, split="train")
    add(root / "train" / "1.png")
    assert load(root).classes == ("ant", "cat", "dog", "train")  # a class of trains
    add(root / "train" / "cat" / "1.png")
    data = load(root, split="train")
    assert (data.name, data.classes, len(data)) == ("folder pets/train", ("cat",), 1)
    with pytest.raises(DataError, match=f"{root} has class folders in train alone; add val"):
        load(root)
    add(root / "val" / "cat" / "1.png")
    add(root / "val" / "dog" / "1.png")
    assert load(root).name == "folder pets/val"
    assert load(root).classes == ("cat", "dog")
    assert load(root / "train").classes == ("cat",)


@pytest.mark.parametrize("tested", [*PARTS["test"], "Test", "VALID", "test val", "validation val"])
@pytest.mark.parametrize("trained", [*PARTS["train"], "Train"])
def test_names_of_parts(tmp_path: Path, tested: str, trained: str) -> None:
    first, *others = sorted(tested.split(), key=lambda name: PARTS["test"].index(name.lower()))
    for name in (first, *others, trained):
        add(tmp_path / name / name / "1.png")
    training = load(tmp_path, split="train")
    assert (load(tmp_path).classes, training.classes) == ((first,), (trained,))
    add(tmp_path / first / trained / "1.png")
    assert load(tmp_path).training.source(0) == training.source(0)


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(root: Path, case: str) -> None:
    for other in ("secret.png", "other/1.png", "others/bee/1.png"):
        add(root.parent / other)
    edit, message = REFUSED[case]
    edit(root)
    with pytest.raises(DataError, match=f"{root}{message}") as error:
        load(root)
    assert str(error.value).isprintable() or not case.startswith("class")


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """200 images, the later the faster to read, and four threads."""
    monkeypatch.setattr(reading, "WORKERS", 4)
    for i in range(200):
        write(tmp_path / "a" / f"{i:03}.png", jpeg(0))
    data, before = load(tmp_path), threading.active_count()
    yield data
    assert threading.active_count() == before


def numbered(path: Path, transform: Transform) -> torch.Tensor:
    number = int(path.stem)
    time.sleep((200 - number) * 1e-5)
    return torch.full((3, 8, 8), number, dtype=torch.uint8)


def test_order_and_exceptions_in_it(many: FolderData, monkeypatch: pytest.MonkeyPatch) -> None:
    (many.root / "a" / "025.png").write_bytes(b"damaged")
    batches = many.batches(10)
    assert [len(next(batches).ids) for _ in range(2)] == [10, 10]
    for use in (lambda: next(batches), lambda: many.images([24, 25, 26])):
        with pytest.raises(DataError, match=r"a/025\.png"):
            use()
    monkeypatch.setattr(reading, "read_image", numbered)
    ids = np.random.default_rng(0).permutation(200).tolist()
    found = [batch.images[:, 0, 0, 0] * 255 for batch in many.batches(7, ids)]
    assert torch.cat(found).round().tolist() == ids
    assert many.images(ids)[:, 0, 0, 0].tolist() == ids


def test_bounded_and_ended(many: FolderData, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def read(path: Path, transform: Transform) -> torch.Tensor:
        started.append(path)
        return numbered(path, transform)

    monkeypatch.setattr(reading, "read_image", read)
    batches = many.batches(10)
    assert started == []
    next(batches)
    time.sleep(0.1)
    assert 10 < len(started) <= 10 + 10 + 2 * 4  # works ahead, but not far
    batches.close()
    after = len(started)
    time.sleep(0.05)
    assert len(started) == after
    assert not any("ThreadPool" in thread.name for thread in threading.enumerate())


def test_fingerprint(root: Path, tmp_path: Path) -> None:
    first = load(root).fingerprint()
    assert load(root).fingerprint() == first
    assert load_data(f"folder:{root}").fingerprint() != first  # another transform
    assert load(shutil.copytree(root, tmp_path / "elsewhere")).fingerprint() == first
    path, renamed, prints = root / "cat" / "a.PNG", root / "cat" / "c.PNG", {first}
    content = path.read_bytes()
    for change in (
        lambda: path.write_bytes(content[:-1] + bytes([content[-1] ^ 1])),  # same name and size
        lambda: path.rename(renamed),
        lambda: (root / "cat").rename(root / "cow"),
        lambda: add(root / "cow" / "new.png"),
    ):
        change()
        prints.add(load(root).fingerprint())
    assert len(prints) == 5


def test_exact_takes_pixel_for_pixel_and_refuses_another_size(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (10, 10, 3), dtype=np.uint8)
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels).save(tmp_path / "a" / "0.png")
    transform = Transform(size=10, resize=12)
    data = load_data(f"exact:{tmp_path}", transform=transform)
    assert np.array_equal(data.images([0])[0].permute(1, 2, 0).numpy(), pixels)
    resized = load_data(f"folder:{tmp_path}", transform=transform)
    assert not np.array_equal(resized.images([0]), data.images([0]))
    Image.fromarray(pixels[:9]).save(tmp_path / "a" / "1.png")
    with pytest.raises(DataError, match=r"1\.png has 10x9 pixels, not 10x10"):
        load_data(f"exact:{tmp_path}", transform=transform).images([1])
