"""Folders of images: their layout, what does not belong there, and the threads that read them."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from advlens.datasets import FolderData, Transform, load_data, read_image, reading
from advlens.errors import DataError

SMALL = Transform(size=8, resize=8)


def add(path: Path) -> Path:
    """A small image at `path`, of pixels that its name determines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = list(path.name.encode())
    pixels = np.random.default_rng(seed).integers(256, size=(10, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, "PNG")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three classes, one of them nested."""
    root = tmp_path / "pets"
    for name in ("dog/2.png", "dog/10.JPEG", "cat/b.jpg", "cat/a.PNG", "ant/images/x.jpeg"):
        add(root / name)
    return root


def load(root: Path, **options: object) -> FolderData:
    data = load_data(f"folder:{root}", transform=SMALL, **options)
    assert isinstance(data, FolderData)
    return data


# layout


def test_layout(root: Path) -> None:
    data = load(root)
    assert data.classes == ("ant", "cat", "dog")
    assert data.files == ["ant/images/x.jpeg", "cat/a.PNG", "cat/b.jpg", "dog/10.JPEG", "dog/2.png"]
    assert data.labels.tolist() == [0, 1, 1, 2, 2]
    assert data.labels.dtype == torch.int64
    assert (data.name, data.synsets, data.image_shape) == ("folder pets", None, (3, 8, 8))
    for i, name in enumerate(data.files):
        assert torch.equal(data.images([i])[0], read_image(root / name, SMALL))


def test_layout_equals_torchvision(shared_data: Path) -> None:
    folder = shared_data / "tiny-imagenet-val"
    data, other = load(folder), ImageFolder(str(folder))
    assert list(data.classes) == other.classes
    ours = list(zip([str(folder / name) for name in data.files], data.labels.tolist(), strict=True))
    assert ours == other.samples
    assert data.synsets == data.classes


def test_wordnet_ids(tmp_path: Path) -> None:
    add(tmp_path / "n02123045" / "a.png")
    assert load(tmp_path).synsets == ("n02123045",)
    add(tmp_path / "n0212304" / "a.png")
    assert load(tmp_path).synsets is None


def test_relative_and_home_paths(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setenv("HOME", str(root.parent))
    for spec in ("folder:.", "folder:../pets", "folder:~/pets"):
        data = load_data(spec, transform=SMALL)
        assert (data.name, len(data)) == ("folder pets", 5)
    monkeypatch.chdir("/")
    assert len(data.images(range(5))) == 5


def test_splits(root: Path) -> None:
    assert len(load(root)) == 5
    with pytest.raises(DataError, match=f"{root} has no parts to train and to test on; put"):
        load(root, split="train")
    add(root / "train" / "cat" / "1.png")
    data = load(root, split="train")
    assert (data.name, data.classes, len(data)) == ("folder pets/train", ("cat",), 1)
    with pytest.raises(DataError, match=f"{root} has class folders in train but none in val"):
        load(root)
    add(root / "val" / "cat" / "1.png")
    add(root / "val" / "dog" / "1.png")
    assert load(root).name == "folder pets/val"
    assert load(root).classes == ("cat", "dog")
    assert load(root / "train").classes == ("cat",)


def test_a_class_of_trains_is_no_split(root: Path) -> None:
    add(root / "train" / "1.png")
    assert load(root).classes == ("ant", "cat", "dog", "train")


def test_ignored_files(root: Path) -> None:
    for name in (
        *("README.md", "train.csv", ".hidden/1.png", ".DS_Store", "archive.zip"),
        *("cat/.hidden", "cat/.cache/x.bin", "cat/Thumbs.db", "cat/desktop.ini", "cat/boxes.TXT"),
    ):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"x")
    assert len(load(root)) == 5


@pytest.mark.parametrize("name", ["a.gif", "a", "a.png.part", "deep/er/a.csv", "a.jpg\n", "a.npy"])
def test_foreign_files(root: Path, name: str) -> None:
    path = root / "cat" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x")
    with pytest.raises(DataError, match="is not an image file") as error:
        load(root)
    assert str(path) in str(error.value)


def test_special_files(root: Path) -> None:
    os.mkfifo(root / "cat" / "c.png")
    with pytest.raises(DataError, match=r"c\.png is not an image file"):
        load(root)


def test_empty_class(root: Path) -> None:
    (root / "bee" / "images").mkdir(parents=True)
    with pytest.raises(DataError, match=f"{root}/bee holds no images"):
        load(root)


@pytest.mark.parametrize("name", ["new\nline", "\udcff", "\x1b[31m"])
def test_unprintable_class(root: Path, name: str) -> None:
    add(root / name / "1.png")
    with pytest.raises(DataError, match="no printable name") as error:
        load(root)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("kind", ["absent", "empty", "file", "flat"])
def test_no_folder_of_classes(tmp_path: Path, kind: str) -> None:
    root = tmp_path / "root"
    if kind == "file":
        root.touch()
    elif kind != "absent":
        root.mkdir()
    if kind == "flat":
        add(root / "a.png")
    with pytest.raises(DataError, match=str(root)):
        load(root)


# links


def test_links_within(root: Path) -> None:
    (root / "cat" / "c.png").symlink_to("../dog/2.png")
    (root / "wolf").symlink_to("dog")
    data = load(root)
    assert data.classes == ("ant", "cat", "dog", "wolf")
    assert len(data) == 8
    assert torch.equal(data.images([3]), data.images([5]))


def test_link_to_the_root(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert len(load(tmp_path / "link")) == 5


@pytest.mark.parametrize(
    ("name", "target"),
    [
        ("cat/c.png", "/etc/hostname"),
        ("cat/c.png", "../../secret.png"),
        ("cat/deep", "../../other"),
        ("bee", "../other"),
        ("val", "../others"),
    ],
)
def test_links_that_leave(root: Path, tmp_path: Path, name: str, target: str) -> None:
    add(tmp_path / "secret.png")
    add(tmp_path / "other" / "1.png")
    add(tmp_path / "others" / "bee" / "1.png")
    (root / name).symlink_to(target)
    with pytest.raises(DataError, match="leads out of") as error:
        load(root)
    assert str(root / name) in str(error.value)


@pytest.mark.parametrize("target", ["gone.png", "c.png", "..", "."])
def test_links_to_nothing_or_in_circles(root: Path, target: str) -> None:
    (root / "cat" / "c.png").symlink_to(target)
    with pytest.raises(DataError, match=r"c\.png"):
        load(root)


# threads


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FolderData]:
    """200 images, the later the faster to read, and four threads."""
    monkeypatch.setattr(reading, "WORKERS", 4)
    first = add(tmp_path / "a" / "000.png")
    for i in range(1, 200):
        shutil.copy(first, tmp_path / "a" / f"{i:03}.png")
    data = load(tmp_path)
    before = threading.active_count()
    yield data
    assert threading.active_count() == before


def numbered(path: Path, transform: Transform) -> torch.Tensor:
    number = int(path.stem)
    time.sleep((200 - number) * 1e-5)
    return torch.full((3, 8, 8), number, dtype=torch.uint8)


def test_order(many: FolderData, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_exceptions_come_in_order(many: FolderData) -> None:
    (many.root / "a" / "025.png").write_bytes(b"damaged")
    batches = many.batches(10)
    assert [len(next(batches).ids) for _ in range(2)] == [10, 10]
    with pytest.raises(DataError, match=r"a/025\.png"):
        next(batches)
    with pytest.raises(DataError, match=r"a/025\.png"):
        many.images([24, 25, 26])


def test_image_removed_meanwhile(many: FolderData) -> None:
    (many.root / "a" / "003.png").unlink()
    with pytest.raises(DataError, match=r"a/003\.png"):
        many.images([3])
    with pytest.raises(DataError, match=r"a/003\.png"):
        many.fingerprint()


# fingerprint


def test_fingerprint(root: Path, tmp_path: Path) -> None:
    first = load(root).fingerprint()
    assert load(root).fingerprint() == first
    assert load_data(f"folder:{root}").fingerprint() != first  # another transform
    moved = shutil.copytree(root, tmp_path / "elsewhere")
    assert load(moved).fingerprint() == first
    prints = {first}
    path = root / "cat" / "a.PNG"
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))  # same name and size
    prints.add(load(root).fingerprint())
    path.rename(root / "cat" / "c.PNG")
    prints.add(load(root).fingerprint())
    (root / "cat").rename(root / "cow")
    prints.add(load(root).fingerprint())
    add(root / "cow" / "new.png")
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
