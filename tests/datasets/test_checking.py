"""Damaged images are found before a run: named, or left out the same way wherever it goes on."""

import json
from pathlib import Path

import pytest
import torch

from advlens.datasets import FolderData, ImageData, Transform, load_data, readable, reading
from advlens.distributed import joined
from advlens.errors import DataError
from tiny_imagenet import jpeg, pet, pets, write
from together import end, start

DAMAGED = (3, 13, 17)
"""In the share of each of three processes, of neighbors or of every third image."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return pets(tmp_path, DAMAGED)


@pytest.fixture
def known(tmp_path: Path) -> Path:
    return tmp_path / "known.json"


def load(root: Path) -> ImageData:
    return load_data(f"folder:{root}", transform=Transform(size=8, resize=8))


def left_out(root: Path, known: Path, skip: bool = True) -> dict[int, str]:
    return readable(load(root), skip=skip, known=known)[1]


def mend(root: Path) -> None:
    for i in DAMAGED:
        pet(root, i).write_bytes(jpeg(i))


def test_all_damaged_images_are_named_at_once(root: Path, known: Path) -> None:
    with pytest.raises(DataError, match="3 of 20 images of folder pets") as error:
        left_out(root, known, skip=False)
    for name in ("cat/03.jpg", "dog/13.jpg", "dog/17.jpg", "--skip-damaged"):
        assert name in str(error.value)
    with pytest.raises(DataError, match="3 of 3 images of folder pets cannot be used"):
        readable(load(root).part(DAMAGED), skip=True, known=known.with_name("other.json"))
    assert not known.exists()  # they are read again, for they may be mended
    mend(root)
    data = load(root)
    assert readable(data, skip=False, known=known) == (data, {})
    assert known.exists()
    for i in range(8):
        pet(root, i).write_bytes(b"")
    with pytest.raises(DataError, match=r"8 of 20 .*; …; or leave them out") as error:
        left_out(root, known, skip=False)
    assert str(error.value).count("cannot read the image") == 5  # long lists are cut


def test_left_out_and_sets_in_memory(root, known):
    whole = load(root)
    seen: list[int] = []
    data, damaged = readable(whole, skip=True, known=known, on_images=seen.append)
    kept = [i for i in range(20) if i not in DAMAGED]
    assert (tuple(damaged), sum(seen)) == (DAMAGED, 20)
    assert data.labels.tolist() == whole.labels[kept].tolist()
    assert sum(len(batch.ids) for batch in data.batches(5)) == len(data) == 17
    assert torch.equal(data.images(range(17)), whole.images(kept))
    assert data.fingerprint() != whole.fingerprint()
    data = load_data("sample")
    assert readable(data, skip=False, known=known)[0] is data


def test_what_was_found_holds(root: Path, known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A resumed run reads no image again."""
    first, damaged = readable(load(root), skip=True, known=known)
    monkeypatch.setattr(FolderData, "_read", lambda *_: pytest.fail("read again"))
    again, same = readable(load(root), skip=True, known=known)
    assert (same, again.fingerprint()) == (damaged, first.fingerprint())
    monkeypatch.undo()
    known.write_text("[1")
    assert left_out(root, known) == damaged
    write(pet(root, 3), jpeg(3))  # another set
    assert list(left_out(root, known)) == [13, 17]
    assert len(json.loads(known.read_text())) == 2


def test_mended_in_place(root: Path, known: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that its fingerprint does not show to be mended: a run stays as it began."""
    monkeypatch.setattr(reading, "SAMPLE", 1)
    for i in DAMAGED:
        write(pet(root, i), bytes(len(jpeg(i))))
    damaged = left_out(root, known)
    mend(root)
    assert left_out(root, known) == damaged != {}
    assert left_out(root, known, skip=False) == {}


def share(root: Path, folder: Path) -> None:
    with joined(torch.device("cpu")) as processes:
        known = folder / "known.json"
        data, damaged = readable(load(root), skip=True, known=known, processes=processes)
        assert readable(load(root), skip=True, known=known, processes=processes)[1] == damaged
        write(folder / f"{processes.rank}.txt", f"{damaged} {data.fingerprint()}".encode())


def test_processes_agree(root: Path, known: Path, tmp_path: Path) -> None:
    """Three: each has a share of its own, of which the last is smaller."""
    data, damaged = readable(load(root), skip=True, known=known)
    folder = tmp_path / "together"
    folder.mkdir()
    assert end(start(3, share, root, folder)) == [0] * 3
    expected = f"{damaged} {data.fingerprint()}"
    assert {(folder / f"{rank}.txt").read_text() for rank in range(3)} == {expected}
    assert (folder / "known.json").exists()
