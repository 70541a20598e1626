"""Broden's archive: downloaded in pieces, checked, and trusted with nothing."""

import hashlib
import io
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from advlens.datasets import fetch_broden, load_data
from advlens.datasets.broden import fetching
from advlens.errors import DataError, RunError
from tiny_broden import write_tiny_broden


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the archive holds below broden1_227/."""
    folder = write_tiny_broden(tmp_path_factory.mktemp("made") / "set", images=3)
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def members(files: dict[str, bytes], top: str = "broden1_227/") -> list[tuple[str, bytes, int]]:
    """Name, content and file mode of each entry, as the real archive has them."""
    folders = [(f"{top}{name}", b"", 0o755 | stat.S_IFDIR) for name in ("", "images/", "images/a/")]
    return folders + [(top + name, data, 0o644 | stat.S_IFREG) for name, data in files.items()]


def pack(path: Path, entries: list[tuple[str, bytes, int]]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data, mode in entries:
            info = zipfile.ZipInfo("x")
            info.filename = name  # as it is: the constructor would mend it
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return path


def read(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_a_local_archive(files: dict[str, bytes], tmp_path: Path) -> None:
    archive = pack(tmp_path / "b.zip", members(files))
    said: list[str] = []
    folder = fetch_broden(tmp_path / "to", archive, resolution=227, say=said.append)
    assert folder == tmp_path / "to" / "broden1_227"
    assert read(folder) == files
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert said == [f"no hash of broden1_227.zip has been published; its SHA-256 is {digest}"]
    assert {path.name for path in folder.parent.iterdir()} == {".lock", "broden1_227"}
    assert len(load_data(f"broden:{folder}")) == 3
    archive.unlink()
    before = (folder / "index.csv").stat().st_mtime_ns
    assert fetch_broden(tmp_path / "to", resolution=227, say=said.append) == folder
    assert len(said) == 1
    assert (folder / "index.csv").stat().st_mtime_ns == before


def test_what_is_outside_the_folder_is_left(files: dict[str, bytes], tmp_path: Path) -> None:
    extra = [("__MACOSX/x", b"x", 0), ("README", b"x", 0), ("broden1_227.csv", b"x", 0)]
    archive = pack(tmp_path / "b.zip", extra + members(files))
    assert read(fetch_broden(tmp_path, archive, resolution=227, say=str)) == files


def test_the_pinned_hash(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(tmp_path / "b.zip", members(files, "broden1_224/"))
    assert fetching.MD5 == {224: "be13c292eaef3300da03f8d0e48eab1c"}
    with pytest.raises(DataError, match=r"the MD5 of .*b\.zip is .*, not be13c292"):
        fetch_broden(tmp_path / "to", archive)
    monkeypatch.setitem(fetching.MD5, 224, hashlib.md5(archive.read_bytes()).hexdigest())
    said: list[str] = []
    assert read(fetch_broden(tmp_path / "to", archive, say=said.append)) == files
    assert said == []


def test_a_folder_that_is_not_whole(files: dict[str, bytes], tmp_path: Path) -> None:
    archive = pack(tmp_path / "b.zip", members(files))
    folder = fetch_broden(tmp_path, archive, resolution=227, say=str)
    (folder / "images/a/1.jpg").unlink()
    with pytest.raises(DataError, match=r"no file .*1\.jpg"):
        fetch_broden(tmp_path, archive, resolution=227, say=str)


def test_after_one_that_was_killed(files: dict[str, bytes], tmp_path: Path) -> None:
    half = tmp_path / ".broden1_227.partial"
    (half / "images").mkdir(parents=True)
    (half / "images" / "a").write_text("half a file")
    archive = pack(tmp_path / "b.zip", members(files))
    assert read(fetch_broden(tmp_path, archive, resolution=227, say=str)) == files
    assert not half.exists()


def test_a_full_disk(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(tmp_path / "b.zip", members(files))

    class Full(io.BytesIO):
        def __init__(self, path: Path, mode: str) -> None:
            super().__init__()

        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching, "open", Full, raising=False)
    with pytest.raises(RunError, match=r"cannot write .*No space left"):
        fetch_broden(tmp_path / "to", archive, resolution=227, say=str)
    assert {path.name for path in (tmp_path / "to").iterdir()} == {".lock"}


INDEX = "broden1_227/index.csv"
Entries = list[tuple[str, bytes, int]]
BAD: dict[str, tuple[Callable[[Entries], object], str]] = {
    "missing table": (
        lambda e: e.__setitem__(slice(None), [x for x in e if x[0] != INDEX]),
        "no file .*index.csv",
    ),
    "missing image": (
        lambda e: e.__setitem__(slice(None), [x for x in e if not x[0].endswith("1.jpg")]),
        "no file .*1.jpg",
    ),
    "another set": (lambda e: e.__setitem__(slice(None), e[:1]), "no file"),
    "file twice": (
        lambda e: e.append((INDEX, b"x", 0)),
        "'broden1_227/index.csv', which occurs twice",
    ),
    **{
        f"name {name!r}": (
            lambda e, name=name: e.append((name, b"x", 0)),
            "leads out of its folder",
        )
        for name in [
            "../evil",
            "broden1_227/../../evil",
            "/evil",
            "broden1_227//evil",
            "broden1_227/./evil",
            "..\\evil",
            "broden1_227/a\nb",
            "broden1_227/\u202eevil",
            "C:\\evil",
        ]
    },
    **{
        f"mode {kind:o}": (
            lambda e, kind=kind: e.append(("broden1_227/images/x", b"/etc/passwd", kind | 0o777)),
            "not a regular file",
        )
        for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK)
    },
    "bomb": (
        lambda e: e.append(("broden1_227/zeros", bytes(2_000_000), 0)),
        "claims to hold .* bytes, so it is not Broden",
    ),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", BAD)
def test_bad_archives(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.setattr(fetching, "SMALL", 100_000)
    change, message = BAD[case]
    entries = members(files)
    change(entries)
    archive = pack(tmp_path / "b.zip", entries)
    with pytest.raises(DataError, match=message):
        fetch_broden(tmp_path / "in" / "to", archive, resolution=227, say=str)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found == {"b.zip", "in", "in/to", "in/to/.lock"}


def test_many_members(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "MAX_MEMBERS", 5)
    with pytest.raises(DataError, match="claims to hold"):
        fetch_broden(tmp_path, pack(tmp_path / "b.zip", members(files)), resolution=227, say=str)


def test_damaged_archives(files: dict[str, bytes], tmp_path: Path) -> None:
    """Cut anywhere, or with any byte changed: refused, or nothing of it mattered."""
    content = pack(tmp_path / "b.zip", members(files)).read_bytes()
    step = len(content) // 60
    for place in range(0, len(content), step):
        changed = content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]
        for damaged in (content[:place], changed):
            (tmp_path / "c.zip").write_bytes(damaged)
            try:
                folder = fetch_broden(tmp_path / "to", tmp_path / "c.zip", resolution=227, say=str)
            except DataError:
                assert {path.name for path in (tmp_path / "to").iterdir()} == {".lock"}
            else:
                assert damaged is changed
                found = read(folder)
                assert {name: found[name] for name in found if name in files} == {
                    name: data for name, data in files.items() if name in found
                }
                shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["none.zip", "."])
@pytest.mark.parametrize("resolution", [224, 227])
def test_no_archive(tmp_path: Path, name: str, resolution: int) -> None:
    with pytest.raises(DataError, match="cannot read the archive"):
        fetch_broden(tmp_path, tmp_path / name, resolution=resolution, say=str)


# downloads


@pytest.mark.parametrize("resolution", [224, 227])
def test_by_download(
    files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resolution: int
) -> None:
    name, calls = f"broden1_{resolution}", []

    def download(urls: list[str], path: Path, *, md5: str | None, most: int) -> Path:
        calls.append((urls, md5, most))
        return pack(path, members(files, f"{name}/"))

    monkeypatch.setattr(fetching, "fetch_continued", download)
    said: list[str] = []
    folder = fetch_broden(tmp_path, resolution=resolution, say=said.append)
    assert read(folder) == files
    address = f"netdissect.csail.mit.edu/data/{name}.zip"
    if resolution == 224:  # plain http only where the hash is known
        urls, md5 = [f"https://{address}", f"http://{address}"], "be13c292eaef3300da03f8d0e48eab1c"
    else:
        urls, md5 = [f"https://{address}"], None
    assert calls == [(urls, md5, 20_000_000_000)]
    assert said[0].startswith(f"fetching https://{address}")
    assert len(said) == (1 if resolution == 224 else 2)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", name}


@pytest.mark.parametrize(("resolution", "kept"), [(224, True), (227, False)])
def test_a_download_without_broden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resolution: int, kept: bool
) -> None:
    """What is known to be the right file is kept; what may have been damaged is not."""
    monkeypatch.setattr(fetching, "fetch_continued", lambda _, path, **__: pack(path, []))
    with pytest.raises(DataError):
        fetch_broden(tmp_path, resolution=resolution, say=str)
    assert (tmp_path / f"broden1_{resolution}.zip").exists() == kept
