"""CIFAR-10: records read to the byte, archives trusted with nothing, and the packaged sample."""

import contextlib
import csv
import gzip
import hashlib
import io
import shutil
import tarfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from advlens.datasets import cifar10, fetch_cifar10, load_data, sample
from advlens.errors import DataError, SettingsError
from advlens.wordnet import CIFAR10_SYNSETS

Files = dict[str, bytes]
Member = tuple[tarfile.TarInfo, bytes]
RECORDS = 10
NAMES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
Change = Callable[[list[Member]], list[Member]]
PLACE = 7 * 3073
WRONG: list[tuple[Callable[[bytes], bytes], str]] = [
    (lambda content: content[:-1], "has 30729 bytes, expected 30730"),
    (lambda content: content + b"x", "has 30731 bytes, expected 30730"),
    (lambda content: content + bytes(3073), "has 33803 bytes, expected 30730"),
    (lambda content: b"", "has 0 bytes, expected 30730"),
    (lambda content: content[:PLACE] + b"\x0a" + content[PLACE + 1 :], "has a label 10"),
    (lambda content: content[:PLACE] + b"\xff" + content[PLACE + 1 :], "has a label 255"),
]
TABLES = Path(str(resources.files("advlens"))) / "tables"
with open(TABLES / "cifar10-sample.csv", newline="") as file:
    ROWS = [(int(row["position"]), int(row["label"])) for row in csv.DictReader(file)]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> Files:
    """A CIFAR-10 of 10 random records a file, in place of the real one."""
    random, content = np.random.default_rng(0), {}
    for name in NAMES:
        records = random.integers(256, size=(RECORDS, 3073), dtype=np.uint8)
        records[:, 0] %= 10
        content[name] = records.tobytes()
    content["batches.meta.txt"] = b"airplane\n"
    monkeypatch.setattr(cifar10, "RECORDS", RECORDS)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    monkeypatch.setattr(cifar10, "FILES", hashes)
    monkeypatch.setattr(cifar10, "MAX_UNPACKED", 3_000_000)
    return content


@pytest.fixture
def folder(batches: Files, tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, data in batches.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.parametrize("parent", [False, True])
@pytest.mark.parametrize("split", ["test", "train"])
def test_records(folder: Path, batches: Files, parent: bool, split: str) -> None:
    data = load_data(f"cifar10:{folder.parent if parent else folder}", split=split)
    names = NAMES[-1:] if split == "test" else NAMES[:-1]
    assert data.name == f"CIFAR-10 {split}"
    assert (len(data), data.image_shape) == (RECORDS * len(names), (3, 32, 32))
    assert data.classes[:4] == ("airplane", "automobile", "bird", "cat")
    assert dict(zip(data.classes, data.synsets, strict=True)) == CIFAR10_SYNSETS
    assert len(data.training or ()) == (50 if split == "test" else 0)
    images = data.images(range(len(data)))
    assert images.dtype == torch.uint8
    random = np.random.default_rng(1)
    for i in range(len(data)):
        record = batches[names[i // RECORDS]][i % RECORDS * 3073 :][:3073]
        assert data.labels[i] == record[0]
        channel, row, column = random.integers((3, 32, 32))
        assert images[i, channel, row, column] == record[1 + channel * 1024 + row * 32 + column]


def test_training_images_may_be_absent_but_not_incomplete(folder: Path) -> None:
    batches = sorted(folder.glob("data_batch_*.bin"))
    batches[0].unlink()
    with pytest.raises(DataError, match=r"cannot read .*data_batch_1\.bin: No such file"):
        _ = load_data(f"cifar10:{folder}").training
    for path in batches[1:]:
        path.unlink()
    assert load_data(f"cifar10:{folder.parent}").training is None


@pytest.mark.parametrize(("change", "message"), WRONG, ids=range(6))
def test_wrong_files(folder: Path, change: Callable[[bytes], bytes], message: str) -> None:
    path = folder / "data_batch_3.bin"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=f"{path} {message}"):
        load_data(f"cifar10:{folder}", split="train")
    assert len(load_data(f"cifar10:{folder}")) == RECORDS
    path.unlink()
    with pytest.raises(DataError, match=f"{path}: No such file"):
        load_data(f"cifar10:{folder}", split="train")


def test_the_real_one(cifar10_folder: Path) -> None:
    test, train = (load_data(f"cifar10:{cifar10_folder}", split=s) for s in ("test", "train"))
    assert test.labels.bincount().tolist() == [1000] * 10
    assert train.labels.bincount().tolist() == [5000] * 10
    levels = np.arange(256) / 255
    published = [(0.49139968, 0.24703223), (0.48215841, 0.24348513), (0.44653091, 0.26158784)]
    for channel, (mean, std) in enumerate(published):
        share = np.bincount(train.pixels[:, channel].flatten(), minlength=256) / (50_000 * 1024)
        assert share @ levels == pytest.approx(mean, abs=1e-7)
        assert np.sqrt(share @ (levels - mean) ** 2) == pytest.approx(std, abs=1e-7)
    top = cifar10_folder.parent if (cifar10_folder / "test_batch.bin").exists() else cifar10_folder
    fetch_cifar10(top, archive=Path("not needed, all files are whole"))


def member(name, data=b"", kind=tarfile.REGTYPE, link="", comment=""):
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(data), link
    info.pax_headers = {"comment": comment} if comment else {}
    return info, data


def official(batches: Files) -> list[Member]:
    files = [member(f"cifar-10-batches-bin/{name}", data) for name, data in batches.items()]
    readme = member("cifar-10-batches-bin/readme.html", b"<html>")
    return [member("cifar-10-batches-bin", kind=tarfile.DIRTYPE), *files, readme]


def pack(path: Path, members: list[Member]) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1, format=tarfile.PAX_FORMAT) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("prefix", ["", "./"])
def test_fetch_from_an_archive(batches: Files, tmp_path: Path, prefix: str) -> None:
    members = official(batches)
    for info, _ in members:
        info.name = prefix + info.name
    archive, to = pack(tmp_path / "a.tar.gz", members), tmp_path / "new" / "to"
    folder = fetch_cifar10(to, archive)
    assert folder == to / "cifar-10-batches-bin"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == batches
    archive.unlink()
    before = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    assert fetch_cifar10(to, archive) == folder  # nothing to do, so nothing is read or written
    assert [path.stat().st_mtime_ns for path in sorted(folder.iterdir())] == before


def test_fetch_mends_a_damaged_file(batches: Files, folder: Path, tmp_path: Path) -> None:
    (folder / "data_batch_2.bin").write_bytes(b"damaged")
    (folder / "my notes").write_bytes(b"mine")
    fetch_cifar10(folder.parent, pack(tmp_path / "a.tar.gz", official(batches)))
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found == batches | {"my notes": b"mine"}


def test_fetch_by_download(batches: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def download(url: str, path: Path, *, sha256: str, size: int) -> Path:
        calls.append((url, sha256[:8], size))
        return pack(path, official(batches))

    monkeypatch.setattr(cifar10, "fetch", download)
    for _ in range(2):
        folder = fetch_cifar10(tmp_path)
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    assert calls == [(url, "c4a38c50", 170_052_171)]
    assert {path.name for path in folder.iterdir()} == set(batches)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "cifar-10-batches-bin"}


def first(change: Callable[[bytes], bytes], **options: Any) -> Change:
    name = "cifar-10-batches-bin/data_batch_1.bin"
    return lambda m: [m[0], member(name, change(m[1][1]), **options), *m[2:]]


OTHER, BOMB = "data_batch_1.bin in .* is not the file", "more than 3000000 bytes"
MANY = [f"x/{i}" for i in range(cifar10.MAX_MEMBERS)]
KINDS = [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"5"]
BAD: dict[str, tuple[Change, str]] = {
    "missing": (lambda m: [m[0], *m[2:]], "holds no .*data_batch_1.bin"),
    "twice": (lambda m: [*m, m[1]], "data_batch_1.bin twice"),
    "too long": (first(lambda data: data + b"x"), OTHER),
    "too short": (first(lambda data: data[:-1]), OTHER),
    "changed": (first(lambda data: data[1:] + data[:1]), OTHER),
    "many": (lambda m: [*map(member, MANY), *m], "holds no .*data_batch_1.bin"),
    "bomb beside": (lambda m: [member("x/0", bytes(6_000_000)), *m], BOMB),
    "long header": (lambda m: [member("x", comment="x" * 6_000_000), *m], BOMB),
    "bomb within": (first(lambda data: bytes(6_000_000)), BOMB),
    **{f"{kind!r}": (first(lambda _: b"", kind=kind, link="/etc"), "not as a") for kind in KINDS},
}


@pytest.mark.parametrize("case", BAD)
def test_bad_archives(batches: Files, tmp_path: Path, case: str) -> None:
    change, message = BAD[case]
    archive = pack(tmp_path / "a.tar.gz", change(official(batches)))
    with pytest.raises(DataError, match=message) as error:
        fetch_cifar10(tmp_path / "to", archive)
    assert str(archive) in str(error.value)
    whole = {f"to/cifar-10-batches-bin/{name}" for name in batches}
    assert tree(tmp_path) <= whole | {"a.tar.gz", "to", "to/.lock", "to/cifar-10-batches-bin"}
    for name in whole & tree(tmp_path):  # what is there is right
        assert (tmp_path / name).read_bytes() == batches[Path(name).name]


EXTRA = [
    *[member(name, b"x") for name in ("../evil", "/tmp/advlens-evil", "cifar-10-batches-bin/evil")],
    *[member(f"cifar-10-batches-bin/{deep}/test_batch.bin", b"x") for deep in ("..", "deep")],
    member("cifar-10-batches-bin/../../evil", b"x"),
    member("evil", kind=tarfile.SYMTYPE, link="/etc"),
    member("cifar-10-batches-bin", kind=tarfile.SYMTYPE, link=".."),
    member("cifar-10-batches-bin/link", kind=tarfile.LNKTYPE, link="../../evil"),
    member("cifar-10-batches-bin/null", kind=tarfile.CHRTYPE),
    member("cifar-10-batches-bin/\udcff\n", b"x"),
]


@pytest.mark.parametrize("extra", EXTRA, ids=range(len(EXTRA)))
def test_other_members_are_not_written(batches: Files, tmp_path: Path, extra: Member) -> None:
    archive = pack(tmp_path / "a.tar.gz", [extra, *official(batches), extra])
    folder = fetch_cifar10(tmp_path / "to", archive)
    files = {f"to/cifar-10-batches-bin/{name}" for name in batches}
    assert tree(tmp_path) == files | {"a.tar.gz", "to", "to/.lock", "to/cifar-10-batches-bin"}
    assert not Path("/tmp/advlens-evil").exists()
    assert all(path.is_file() and not path.is_symlink() for path in folder.iterdir())


def test_cut_and_other_files(batches: Files, tmp_path: Path) -> None:
    archive = pack(tmp_path / "a.tar.gz", official(batches))
    good = archive.read_bytes()
    contents = [*(good[:end] for end in (0, 1, 10, 500, 100_000)), b"no archive at all", b"PK"]
    for content in (*contents, gzip.compress(b"no tar" * 1000, mtime=0)):
        archive.write_bytes(content)
        with pytest.raises(DataError, match=f"cannot read the archive {archive}"):
            fetch_cifar10(tmp_path / "to", archive)
    archive.unlink()
    with pytest.raises(DataError, match="No such file"):
        fetch_cifar10(tmp_path / "to", archive)


def test_flipped_bytes(batches: Files, tmp_path: Path) -> None:
    good = pack(tmp_path / "a.tar.gz", official(batches)).read_bytes()
    random, archive = np.random.default_rng(0), tmp_path / "b.tar.gz"
    for place in random.integers(len(good), size=20):
        archive.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        to = tmp_path / str(place)
        with contextlib.suppress(DataError):  # no error for a byte that says nothing, as a time
            fetch_cifar10(to, archive)
        for path in to.glob("cifar*/*"):
            assert path.read_bytes() == batches[path.name]


def test_sample_its_size_and_its_source():
    data = load_data("sample")
    assert (data.name, len(data), data.image_shape) == ("CIFAR-10 sample", 2000, (3, 32, 32))
    assert data.classes == tuple(CIFAR10_SYNSETS)
    assert data.synsets == tuple(CIFAR10_SYNSETS.values())
    assert data.labels.bincount().tolist() == [200] * 10
    assert data.labels.tolist() == [label for _, label in ROWS]
    assert len({image.numpy().tobytes() for image in data.images(range(2000))}) == 2000
    positions = [position for position, _ in ROWS]
    assert positions == sorted(set(positions))
    assert 0 <= positions[0] < positions[-1] < 10_000
    assert sum(path.stat().st_size for path in TABLES.glob("cifar10-sample.*")) < 4_000_000
    cited = "Alex Krizhevsky, Learning Multiple Layers"
    assert cited in (TABLES / "cifar10-sample.txt").read_text()
    with pytest.raises(SettingsError, match="test images only"):
        load_data("sample", split="train")


def test_sample_is_the_original(cifar10_folder: Path) -> None:
    data, original = load_data("sample"), load_data(f"cifar10:{cifar10_folder}")
    positions = [position for position, _ in ROWS]
    assert torch.equal(data.images(range(2000)), original.images(positions))
    assert torch.equal(data.labels, original.labels[positions])
    for label in range(10):  # the first 200 of each class
        of_class = (original.labels == label).nonzero().flatten().tolist()
        assert [position for position, own in ROWS if own == label] == of_class[:200]


@pytest.mark.parametrize("name", ["cifar10-sample.webp", "cifar10-sample.csv"])
def test_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "tables").mkdir()
    for path in TABLES.glob("cifar10-sample.*"):
        shutil.copyfile(path, tmp_path / "tables" / path.name)
    monkeypatch.setattr(sample.resources, "files", lambda _: tmp_path)
    assert len(sample.load_sample()) == 2000
    path = tmp_path / "tables" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    for damage in (lambda: path.write_bytes(content), path.unlink):
        damage()
        with pytest.raises(DataError, match=f"{path} is missing or damaged"):
            sample.load_sample()
