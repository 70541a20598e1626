"""Damaged images are found before a run: named, or left out the same way wherever it goes on."""

import json
from pathlib import Path

import pytest
import torch

from advlens.datasets import FolderData, ImageData, Transform, load_data, readable, reading
from advlens.distributed import joined
from advlens.errors import DataError
from tiny_imagenet import jpeg, write
from together import end, start

SMALL = Transform(size=8, resize=8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twenty images, three of them damaged."""
    for i in range(20):
        write(tmp_path / "pets" / ("cat" if i < 9 else "dog") / f"{i:02}.jpg", jpeg(i))
    for name in ("cat/03.jpg", "dog/12.jpg", "dog/15.jpg"):
        write(tmp_path / "pets" / name, b"")
    return tmp_path / "pets"


def load(root: Path) -> ImageData:
    return load_data(f"folder:{root}", transform=SMALL)


def test_all_damaged_images_are_named_at_once(root: Path, tmp_path: Path) -> None:
    known = tmp_path / "known.json"
    with pytest.raises(DataError, match="3 of 20 images of folder pets") as error:
        readable(load(root), skip=False, known=known)
    for name in ("cat/03.jpg", "dog/12.jpg", "dog/15.jpg", "--skip-damaged"):
        assert name in str(error.value)
    assert not known.exists()  # they are read again, for they may be mended
    for name, i in (("cat/03.jpg", 3), ("dog/12.jpg", 12), ("dog/15.jpg", 15)):
        write(root / name, jpeg(i))
    data = load(root)
    assert readable(data, skip=False, known=known) == (data, {})
    assert known.exists()


def test_long_lists_are_cut(root: Path, tmp_path: Path) -> None:
    for i in range(9):
        write(root / "cat" / f"{i:02}.jpg", b"")
    with pytest.raises(DataError, match=r"11 of 20 .*; …; or leave them out") as error:
        readable(load(root), skip=False, known=tmp_path / "known.json")
    assert str(error.value).count("cannot read the image") == 5


def test_left_out(root: Path, tmp_path: Path) -> None:
    whole = load(root)
    seen: list[int] = []
    data, damaged = readable(whole, skip=True, known=tmp_path / "known.json", on_images=seen.append)
    kept = [i for i in range(20) if i not in (3, 12, 15)]
    assert list(damaged) == [3, 12, 15]
    assert sum(seen) == 20
    assert len(data) == 17
    assert data.labels.tolist() == whole.labels[kept].tolist()
    batches = list(data.batches(5))
    assert sum(len(batch.ids) for batch in batches) == 17
    expected = torch.cat([whole.images([i]) for i in kept])
    assert torch.equal(data.images(range(17)), expected)
    assert data.fingerprint() != whole.fingerprint()


def test_what_was_found_holds(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run reads no image again."""
    known = tmp_path / "known.json"
    first, damaged = readable(load(root), skip=True, known=known)
    monkeypatch.setattr(FolderData, "_read", lambda *_: pytest.fail("read again"))
    again, same = readable(load(root), skip=True, known=known)
    assert (same, again.fingerprint()) == (damaged, first.fingerprint())
    monkeypatch.undo()
    known.write_text("[1")
    assert readable(load(root), skip=True, known=known)[1] == damaged
    write(root / "cat" / "03.jpg", jpeg(3))  # another set
    assert list(readable(load(root), skip=True, known=known)[1]) == [12, 15]
    assert len(json.loads(known.read_text())) == 2


def test_mended_in_place(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that its fingerprint does not show to be mended: a run stays as it began."""
    monkeypatch.setattr(reading, "SAMPLE", 1)
    known = tmp_path / "known.json"
    for name, i in (("cat/03.jpg", 3), ("dog/12.jpg", 12), ("dog/15.jpg", 15)):
        write(root / name, bytes(len(jpeg(i))))
    left = readable(load(root), skip=True, known=known)[1]
    for name, i in (("cat/03.jpg", 3), ("dog/12.jpg", 12), ("dog/15.jpg", 15)):
        write(root / name, jpeg(i))
    assert readable(load(root), skip=True, known=known)[1] == left
    assert readable(load(root), skip=False, known=known)[1] == {}


def test_nothing_left(root: Path, tmp_path: Path) -> None:
    data = load(root).part([3, 12, 15])
    with pytest.raises(DataError, match="3 of 3 images of folder pets cannot be used"):
        readable(data, skip=True, known=tmp_path / "known.json")


def test_sets_in_memory(tmp_path: Path) -> None:
    data = load_data("sample")
    assert readable(data, skip=False, known=tmp_path / "known.json")[0] is data


def share(root: Path, folder: Path) -> None:
    """What each of several processes does."""
    with joined(torch.device("cpu")) as processes:
        known = folder / "known.json"
        data, damaged = readable(load(root), skip=True, known=known, processes=processes)
        again = readable(load(root), skip=True, known=known, processes=processes)
        assert again[1] == damaged
        found = f"{damaged} {data.fingerprint()}"
        write(folder / f"{processes.rank}.txt", found.encode())


@pytest.mark.parametrize("count", [2, 3])
def test_processes_agree(root: Path, tmp_path: Path, count: int) -> None:
    data, damaged = readable(load(root), skip=True, known=tmp_path / "known.json")
    folder = tmp_path / "together"
    folder.mkdir()
    assert end(start(count, share, root, folder)) == [0] * count
    expected = f"{damaged} {data.fingerprint()}"
    assert {(folder / f"{rank}.txt").read_text() for rank in range(count)} == {expected}
    assert (folder / "known.json").exists()
