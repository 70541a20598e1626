"""Sets in files: how many threads, what a fingerprint covers, which images are damaged."""

import os
from pathlib import Path

import pytest

from advlens.datasets import FolderData, Transform, load_data, reading
from advlens.errors import DataError
from tiny_imagenet import jpeg, pet, pets


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return pets(tmp_path)


def load(root: Path) -> FolderData:
    data = load_data(f"folder:{root}", transform=Transform(size=8, resize=8))
    assert isinstance(data, FolderData)
    return data


@pytest.mark.parametrize(("processes", "expected"), [(None, 32), (2, 16), (5, 6), (100, 1)])
def test_the_processes_of_torchrun_share_the_cores(processes, expected, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(32), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if processes is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
    assert reading.cores() == expected


def test_fingerprint_of_a_large_set(root, monkeypatch):
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


def test_damaged_images_are_named(root):
    for i, content in ((3, jpeg(3)[:-40]), (12, b""), (15, b"no image")):
        pet(root, i).write_bytes(content)
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


def test_a_fingerprint_is_kept_and_an_image_that_cannot_be_read_is_no_damage(root, monkeypatch):
    data = load(root)
    pet(root, 3).unlink()
    for use in (data.damaged, data.fingerprint, lambda: data.images([3])):
        with pytest.raises(DataError, match=r"cat/03\.jpg"):
            use()
    data = load(root)
    first = data.fingerprint()
    monkeypatch.setattr(FolderData, "_hash", lambda *_: pytest.fail("read again"))
    assert data.fingerprint() == first
