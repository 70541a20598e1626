"""CIFAR-10: records read to the byte, archives trusted with nothing."""

import contextlib
import gzip
import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from advlens.datasets import cifar10, fetch_cifar10, load_data
from advlens.errors import DataError
from advlens.wordnet import CIFAR10_SYNSETS

RECORDS = 20
NAMES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """A CIFAR-10 of 20 random records a file, in place of the real one."""
    random = np.random.default_rng(0)
    content = {}
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
def folder(batches: dict[str, bytes], tmp_path: Path) -> Path:
    """The folder of that CIFAR-10."""
    folder = tmp_path / "data" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, data in batches.items():
        (folder / name).write_bytes(data)
    return folder


# reading


@pytest.mark.parametrize("parent", [False, True])
@pytest.mark.parametrize("split", ["test", "train"])
def test_records(folder: Path, batches: dict[str, bytes], parent: bool, split: str) -> None:
    data = load_data(f"cifar10:{folder.parent if parent else folder}", split=split)
    names = NAMES[-1:] if split == "test" else NAMES[:-1]
    assert data.name == f"CIFAR-10 {split}"
    assert (len(data), data.image_shape) == (RECORDS * len(names), (3, 32, 32))
    images = data.images(range(len(data)))
    assert images.dtype == torch.uint8
    random = np.random.default_rng(1)
    for i in range(len(data)):
        record = batches[names[i // RECORDS]][i % RECORDS * 3073 :][:3073]
        assert data.labels[i] == record[0]
        channel, row, column = random.integers((3, 32, 32))
        assert images[i, channel, row, column] == record[1 + channel * 1024 + row * 32 + column]


def test_classes(folder: Path) -> None:
    data = load_data(f"cifar10:{folder}")
    assert data.classes[:4] == ("airplane", "automobile", "bird", "cat")
    assert dict(zip(data.classes, data.synsets, strict=True)) == CIFAR10_SYNSETS


@pytest.mark.parametrize("change", [-1, 1, 3073, -RECORDS * 3073])
def test_wrong_size(folder: Path, change: int) -> None:
    path = folder / "data_batch_3.bin"
    expected = RECORDS * 3073
    path.write_bytes((path.read_bytes() + b"x" * 3073)[: expected + change])
    with pytest.raises(
        DataError, match=f"{path} has {expected + change} bytes, expected {expected}"
    ):
        load_data(f"cifar10:{folder}", split="train")
    assert len(load_data(f"cifar10:{folder}")) == RECORDS


@pytest.mark.parametrize("label", [10, 255])
def test_wrong_label(folder: Path, label: int) -> None:
    path = folder / "test_batch.bin"
    content = bytearray(path.read_bytes())
    content[3073 * 7] = label
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{path} has a label {label}"):
        load_data(f"cifar10:{folder}")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"test_batch\.bin: No such file"):
        load_data(f"cifar10:{tmp_path}")


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


# fetching


def member(name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, len(data), link
    return info, data


def official(batches: dict[str, bytes]) -> list[tuple]:
    """The members of the archive, as the official one orders them."""
    files = [member(f"cifar-10-batches-bin/{name}", data) for name, data in batches.items()]
    readme = member("cifar-10-batches-bin/readme.html", b"<html>")
    return [member("cifar-10-batches-bin", kind=tarfile.DIRTYPE), *files, readme]


def pack(path: Path, members: list[tuple], **options: object) -> Path:
    with tarfile.open(path, "w:gz", compresslevel=1, **options) as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return path


def tree(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize("prefix", ["", "./"])
def test_fetch_from_an_archive(batches: dict[str, bytes], tmp_path: Path, prefix: str) -> None:
    members = official(batches)
    for info, _ in members:
        info.name = prefix + info.name
    archive = pack(tmp_path / "a.tar.gz", members)
    to = tmp_path / "new" / "to"
    folder = fetch_cifar10(to, archive)
    assert folder == to / "cifar-10-batches-bin"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == batches
    archive.unlink()
    before = [path.stat().st_mtime_ns for path in sorted(folder.iterdir())]
    assert fetch_cifar10(to, archive) == folder  # nothing to do, so nothing is read or written
    assert [path.stat().st_mtime_ns for path in sorted(folder.iterdir())] == before


def test_fetch_mends_a_damaged_file(
    batches: dict[str, bytes], folder: Path, tmp_path: Path
) -> None:
    (folder / "data_batch_2.bin").write_bytes(b"damaged")
    (folder / "my notes").write_bytes(b"mine")
    fetch_cifar10(folder.parent, pack(tmp_path / "a.tar.gz", official(batches)))
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found == batches | {"my notes": b"mine"}


def test_fetch_by_download(
    batches: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def download(url: str, path: Path, *, sha256: str, size: int) -> Path:
        calls.append((url, sha256[:8], size))
        return pack(path, official(batches))

    monkeypatch.setattr(cifar10, "fetch", download)
    for _ in range(2):
        folder = fetch_cifar10(tmp_path)
    assert calls == [
        ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c4a38c50", 170_052_171)
    ]
    assert {path.name for path in folder.iterdir()} == set(batches)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "cifar-10-batches-bin"}


FIRST = "cifar-10-batches-bin/data_batch_1.bin"
Change = Callable[[list[tuple], dict[str, bytes]], None]
BAD: dict[str, tuple[Change, str]] = {
    "missing": (lambda members, _: members.pop(1), "holds no .*data_batch_1.bin"),
    "twice": (lambda members, _: members.append(members[1]), "data_batch_1.bin twice"),
    "too long": (
        lambda members, files: members.__setitem__(
            1, member(FIRST, files["data_batch_1.bin"] + b"x")
        ),
        "data_batch_1.bin in .* is not the file",
    ),
    "too short": (
        lambda members, files: members.__setitem__(
            1, member(FIRST, files["data_batch_1.bin"][:-1])
        ),
        "data_batch_1.bin in .* is not the file",
    ),
    "changed": (
        lambda members, files: members.__setitem__(1, member(FIRST, files["data_batch_2.bin"])),
        "data_batch_1.bin in .* is not the file",
    ),
    "many members": (
        lambda members, _: members.__setitem__(
            slice(0), [member(f"x/{i}") for i in range(cifar10.MAX_MEMBERS)]
        ),
        "holds no .*data_batch_1.bin",
    ),
    "bomb beside": (
        lambda members, _: members.insert(0, member("x/zeros", bytes(30_000_000))),
        "more than 3000000 bytes",
    ),
    "bomb within": (
        lambda members, _: members.__setitem__(1, member(FIRST, bytes(30_000_000))),
        "more than 3000000 bytes",
    ),
    **{
        f"{name} for a file": (
            lambda members, _, kind=kind: members.__setitem__(
                1, member(FIRST, kind=kind, link="/etc/passwd")
            ),
            "not as a file",
        )
        for name, kind in {
            "symbolic link": tarfile.SYMTYPE,
            "hard link": tarfile.LNKTYPE,
            "character device": tarfile.CHRTYPE,
            "block device": tarfile.BLKTYPE,
            "pipe": tarfile.FIFOTYPE,
            "folder": tarfile.DIRTYPE,
        }.items()
    },
}


@pytest.mark.parametrize("case", BAD)
def test_bad_archives(batches: dict[str, bytes], tmp_path: Path, case: str) -> None:
    change, message = BAD[case]
    members = official(batches)
    change(members, batches)
    archive = pack(tmp_path / "a.tar.gz", members)
    with pytest.raises(DataError, match=message) as error:
        fetch_cifar10(tmp_path / "to", archive)
    assert str(archive) in str(error.value)
    whole = {f"to/cifar-10-batches-bin/{name}" for name in batches}
    assert tree(tmp_path) <= whole | {"a.tar.gz", "to", "to/.lock", "to/cifar-10-batches-bin"}
    for name in whole & tree(tmp_path):  # what is there is right
        assert (tmp_path / name).read_bytes() == batches[Path(name).name]


@pytest.mark.parametrize(
    "extra",
    [
        member("../evil", b"x"),
        member("/tmp/advlens-evil", b"x"),
        member("cifar-10-batches-bin/../../evil", b"x"),
        member("cifar-10-batches-bin/../test_batch.bin", b"x"),
        member("cifar-10-batches-bin/deep/test_batch.bin", b"x"),
        member("evil", kind=tarfile.SYMTYPE, link="/etc"),
        member("cifar-10-batches-bin", kind=tarfile.SYMTYPE, link=".."),
        member("cifar-10-batches-bin/link", kind=tarfile.LNKTYPE, link="../../evil"),
        member("cifar-10-batches-bin/null", kind=tarfile.CHRTYPE),
        member("cifar-10-batches-bin/\udcff\n", b"x"),
    ],
    ids=range(10),
)
def test_other_members_are_not_written(
    batches: dict[str, bytes], tmp_path: Path, extra: tuple
) -> None:
    archive = pack(tmp_path / "a.tar.gz", [extra, *official(batches), extra])
    folder = fetch_cifar10(tmp_path / "to", archive)
    files = {f"to/cifar-10-batches-bin/{name}" for name in batches}
    assert tree(tmp_path) == files | {"a.tar.gz", "to", "to/.lock", "to/cifar-10-batches-bin"}
    assert not Path("/tmp/advlens-evil").exists()
    assert all(path.is_file() and not path.is_symlink() for path in folder.iterdir())


def test_long_headers_do_not_fill_the_memory(batches: dict[str, bytes], tmp_path: Path) -> None:
    info, data = member("x")
    info.pax_headers = {"comment": "x" * 30_000_000}
    archive = pack(tmp_path / "a.tar.gz", [(info, data)], format=tarfile.PAX_FORMAT)
    with pytest.raises(DataError, match="more than 3000000 bytes"):
        fetch_cifar10(tmp_path / "to", archive)


@pytest.mark.parametrize("end", [0, 1, 10, 500, 100_000])
def test_cut_archives(batches: dict[str, bytes], tmp_path: Path, end: int) -> None:
    archive = pack(tmp_path / "a.tar.gz", official(batches))
    archive.write_bytes(archive.read_bytes()[:end])
    with pytest.raises(DataError, match=str(archive)):
        fetch_cifar10(tmp_path / "to", archive)


@pytest.mark.parametrize(
    "content",
    [b"no archive at all", gzip.compress(b"no tar" * 1000, mtime=0), b"PK"],
    ids=["text", "gzip", "zip"],
)
def test_other_files(batches: dict[str, bytes], tmp_path: Path, content: bytes) -> None:
    archive = tmp_path / "a.tar.gz"
    archive.write_bytes(content)
    with pytest.raises(DataError, match=str(archive)):
        fetch_cifar10(tmp_path / "to", archive)


def test_flipped_bytes(batches: dict[str, bytes], tmp_path: Path) -> None:
    good = pack(tmp_path / "a.tar.gz", official(batches)).read_bytes()
    random = np.random.default_rng(0)
    archive = tmp_path / "b.tar.gz"
    for place in random.integers(len(good), size=20):
        archive.write_bytes(good[:place] + bytes([good[place] ^ 0x55]) + good[place + 1 :])
        to = tmp_path / str(place)
        with contextlib.suppress(DataError):  # no error for a byte that says nothing, as a time
            fetch_cifar10(to, archive)
        for path in to.glob("cifar*/*"):
            assert path.read_bytes() == batches[path.name]


def test_missing_archive(batches: dict[str, bytes], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        fetch_cifar10(tmp_path / "to", tmp_path / "a.tar.gz")
