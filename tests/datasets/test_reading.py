"""Sets in files: how many threads, what a fingerprint covers, which images are damaged."""

import os
from pathlib import Path

import pytest
import torch

from advlens.datasets import FolderData, Transform, load_data, reading
from advlens.errors import DataError
from tiny_imagenet import jpeg, write

SMALL = Transform(size=8, resize=8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(20):
        write(tmp_path / "pets" / ("cat" if i < 9 else "dog") / f"{i:02}.jpg", jpeg(i))
    return tmp_path / "pets"


def load(root: Path) -> FolderData:
    data = load_data(f"folder:{root}", transform=SMALL)
    assert isinstance(data, FolderData)
    return data


@pytest.mark.parametrize(("processes", "expected"), [(None, 32), (2, 16), (5, 6), (100, 1)])
def test_the_processes_of_torchrun_share_the_cores(
    processes: int | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(32), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert reading.cores() == expected


def test_a_device_gets_the_same_pixels(root: Path) -> None:
    data = load(root)
    for ours, plain in zip(data.batches(7, device="cpu"), data.batches(7), strict=True):
        assert torch.equal(ours.images, plain.images)
        assert torch.equal(ours.images, data.images(plain.ids.tolist()).float() / 255)
    meta = next(iter(data.batches(7, device="meta")))
    assert (meta.images.device.type, meta.labels.device.type, meta.ids.device.type) == (
        *("meta", "meta"),
        "cpu",
    )


# fingerprint


def test_fingerprint_of_a_large_set(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 images with a sample of 5 every fourth is read; sizes of all count."""
    monkeypatch.setattr(reading, "SAMPLE", 5)
    first, data = load(root).fingerprint(), load(root)
    seen = []
    for i, name in enumerate(data.files):
        path = root / name
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        seen.append(load(root).fingerprint() != first)
        path.write_bytes(content + b"x")
        assert load(root).fingerprint() != first, i
        path.write_bytes(content)
    assert [i for i, changed in enumerate(seen) if changed] == [0, 4, 8, 12, 16]
    assert load(root).fingerprint() == first


def test_fingerprint_is_computed_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load(root)
    first = data.fingerprint()
    monkeypatch.setattr(FolderData, "_hash", lambda *_: pytest.fail("read again"))
    assert data.fingerprint() == first


def test_parts_have_fingerprints_of_their_own(root: Path) -> None:
    data = load(root)
    prints = {
        data.fingerprint(),
        data.part(range(20)).fingerprint(),
        data.part([0, 1]).fingerprint(),
    }
    assert len({*prints, data.part([0, 2]).fingerprint()}) == 4


# damage


def test_damaged_images_are_named(root: Path) -> None:
    (root / "cat" / "03.jpg").write_bytes(jpeg(3)[:-40])
    (root / "dog" / "12.jpg").write_bytes(b"")
    (root / "dog" / "15.jpg").write_bytes(b"no image")
    data, seen = load(root), []
    found = data.damaged(on_images=seen.append)
    assert list(found) == [3, 12, 15]
    for i, reason in found.items():
        assert str(root / data.files[i]) in reason
        with pytest.raises(DataError) as error:
            data.images([i])
        assert str(error.value) == reason
    assert sum(seen) == 20
    assert list(data.damaged([4, 15])) == [15]
    view = data.aligned(("dog", "cat"), None).part([15, 0, 3])
    assert list(view.damaged()) == [0, 2]
    assert list(view.damaged([1, 2])) == [2]


def test_an_image_that_the_disk_does_not_give_is_no_damaged_one(root: Path) -> None:
    data = load(root)
    (root / "cat" / "03.jpg").unlink()
    with pytest.raises(DataError, match=r"03\.jpg"):
        data.damaged()


def test_sets_in_memory_have_no_damaged_images() -> None:
    assert load_data("sample").damaged() == {}
