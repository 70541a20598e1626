"""Downloads: they go on where they broke off; Broden's archive is checked, trusted with nothing."""

import hashlib
import io
import random
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from advlens.datasets import fetch_broden, load_data
from advlens.datasets.broden import download, fetching
from advlens.datasets.broden.download import fetch_continued
from advlens.errors import DataError, RunError
from https_server import Answers, Server, serving
from tiny_broden import write_tiny_broden

Entries = list[tuple[str, bytes, int]]
BODY = random.Random(0).randbytes(300_000)
MD5 = hashlib.md5(BODY).hexdigest()
HALF = len(BODY) // 2
REFUSED = {
    **{"absent": "404", "other": "its MD5 is", "shorter": "its MD5 is", "silent": "timed out"},
    **{"longer": "more than 400000 bytes", "to_file": "file:///etc/hostname.* not allowed"},
}
SHORTER = "less than what came before, which is removed"
WRONG_SPAN = f"asked for the bytes from {HALF}, it sends bytes 7-"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return read(write_tiny_broden(tmp_path_factory.mktemp("made") / "set", images=3))


def read(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def members(files: dict[str, bytes], top: str = "broden1_227/") -> Entries:
    """Name, content and file mode of each entry, as the real archive has them."""
    folders = [(f"{top}{name}", b"", 0o755 | stat.S_IFDIR) for name in ("", "images/", "images/a/")]
    return folders + [(top + name, data, 0o644 | stat.S_IFREG) for name, data in files.items()]


def pack(path: Path, entries: Entries) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data, mode in entries:
            info = zipfile.ZipInfo("x")
            info.filename = name  # as it is: the constructor would mend it
            info.external_attr = mode << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, data)
    return path


@pytest.fixture
def archive(files: dict[str, bytes], tmp_path: Path) -> Path:
    return pack(tmp_path / "b.zip", members(files))


def fetch(to: Path, archive: Path | None, say: Callable[[str], object] = str) -> Path:
    return fetch_broden(to, archive, resolution=227, say=say)


def test_a_local_archive(files, archive, tmp_path):
    said: list[str] = []
    folder = fetch(tmp_path / "to", archive, said.append)
    assert folder == tmp_path / "to" / "broden1_227"
    assert read(folder) == files
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    assert said == [f"no hash of broden1_227.zip has been published; its SHA-256 is {digest}"]
    assert {path.name for path in folder.parent.iterdir()} == {".lock", "broden1_227"}
    assert len(load_data(f"broden:{folder}")) == 3
    archive.unlink()
    before = (folder / "index.csv").stat().st_mtime_ns
    assert fetch(tmp_path / "to", None, said.append) == folder
    assert len(said) == 1
    assert (folder / "index.csv").stat().st_mtime_ns == before
    (folder / "images/a/1.jpg").unlink()
    with pytest.raises(DataError, match=r"no file .*1\.jpg"):
        fetch(tmp_path / "to", None)


def test_what_is_outside_or_left_by_one_that_was_killed_is_left(files, archive, tmp_path):
    half = tmp_path / ".broden1_227.partial"
    (half / "images").mkdir(parents=True)
    (half / "images" / "a").write_text("half a file")
    assert read(fetch(tmp_path, archive)) == files
    assert not half.exists()
    extra = [("__MACOSX/x", b"x", 0), ("README", b"x", 0), ("broden1_227.csv", b"x", 0)]
    assert read(fetch(tmp_path / "to", pack(archive, extra + members(files)))) == files


def test_a_full_disk(archive, tmp_path, monkeypatch):
    class Full(io.BytesIO):
        def __init__(self, path: Path, mode: str) -> None:
            super().__init__()

        def write(self, _: object) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetching, "open", Full, raising=False)
    with pytest.raises(RunError, match=r"cannot write .*No space left"):
        fetch(tmp_path / "to", archive)
    assert {path.name for path in (tmp_path / "to").iterdir()} == {".lock"}


def without(end: str) -> Callable[[Entries], Entries]:
    return lambda entries: [entry for entry in entries if not entry[0].endswith(end)]


def plus(name: str, data: bytes = b"x", mode: int = 0) -> Callable[[Entries], Entries]:
    return lambda entries: [*entries, (name, data, mode)]


INDEX, FILE = "broden1_227/index.csv", "broden1_227/images/x"
NAMES = ["../evil", "broden1_227/../../evil", "/evil", "broden1_227//evil", "broden1_227/./evil"]
NAMES += ["..\\evil", "broden1_227/a\nb", "broden1_227/\u202eevil", "C:\\evil"]
KINDS = (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK)
BAD: dict[str, tuple[Callable[[Entries], Entries], str]] = {
    "missing table": (without("index.csv"), "no file .*index.csv"),
    "missing image": (without("1.jpg"), "no file .*1.jpg"),
    "another set": (lambda entries: entries[:1], "no file"),
    "file twice": (plus(INDEX), "'broden1_227/index.csv', which occurs twice"),
    **{f"name {name!r}": (plus(name), "leads out of its folder") for name in NAMES},
    **{f"mode {kind:o}": (plus(FILE, b"/etc", kind), "not a regular file") for kind in KINDS},
    "many": (lambda entries: entries + [(f"x/{i}", b"", 0) for i in range(40)], "claims to hold 6"),
    "bomb": (plus("broden1_227/zeros", bytes(2_000_000)), "claims to hold .* bytes, so it is not"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("case", BAD)
def test_bad_archives(files, tmp_path, monkeypatch, case):
    monkeypatch.setattr(fetching, "SMALL", 100_000)
    monkeypatch.setattr(fetching, "MAX_MEMBERS", 40)
    change, message = BAD[case]
    archive = pack(tmp_path / "b.zip", change(members(files)))
    with pytest.raises(DataError, match=message):
        fetch(tmp_path / "in" / "to", archive)
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert found == {"b.zip", "in", "in/to", "in/to/.lock"}


def test_damaged_archives(files, archive, tmp_path):
    """Cut anywhere, or with any byte changed: refused, or nothing of it mattered."""
    content = archive.read_bytes()
    for place in range(0, len(content), len(content) // 30):
        changed = content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]
        for damaged in (content[:place], changed):
            (tmp_path / "c.zip").write_bytes(damaged)
            try:
                folder = fetch(tmp_path / "to", tmp_path / "c.zip")
            except DataError:
                assert {path.name for path in (tmp_path / "to").iterdir()} == {".lock"}
            else:
                assert damaged is changed
                found = read(folder)
                assert all(found[name] == files[name] for name in {*found} & {*files})
                shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["none.zip", "."])
@pytest.mark.parametrize("resolution", [224, 227])
def test_no_archive(tmp_path, name, resolution):
    with pytest.raises(DataError, match="cannot read the archive"):
        fetch_broden(tmp_path, tmp_path / name, resolution=resolution, say=str)


@pytest.mark.parametrize("resolution", [224, 227])
def test_by_download(files, tmp_path, monkeypatch, resolution):
    name, calls = f"broden1_{resolution}", []

    def download(urls: list[str], path: Path, *, md5: str | None, most: int) -> Path:
        calls.append((urls, md5, most))
        return pack(path, members(files, f"{name}/"))

    monkeypatch.setattr(fetching, "fetch_continued", download)
    said: list[str] = []
    assert read(fetch_broden(tmp_path, resolution=resolution, say=said.append)) == files
    address = f"netdissect.csail.mit.edu/data/{name}.zip"
    urls, md5 = [f"https://{address}", f"http://{address}"], "be13c292eaef3300da03f8d0e48eab1c"
    if resolution != 224:  # plain http only where the hash is known
        urls, md5 = urls[:1], None
    assert calls == [(urls, md5, 20_000_000_000)]
    assert said[0].startswith(f"fetching https://{address}")
    assert len(said) == (1 if resolution == 224 else 2)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", name}


@pytest.mark.parametrize(("resolution", "kept"), [(224, True), (227, False)])
def test_a_download_without_broden(tmp_path, monkeypatch, resolution, kept):
    """What is known to be the right file is kept; what may have been damaged is not."""
    monkeypatch.setattr(fetching, "fetch_continued", lambda _, path, **__: pack(path, []))
    with pytest.raises(DataError):
        fetch_broden(tmp_path, resolution=resolution, say=str)
    assert (tmp_path / f"broden1_{resolution}.zip").exists() == kept


def good(to: Answers, start: int | None, body: bytes = BODY, end: int | None = None) -> None:
    if start is None:
        to.answer(200, body[:end], Content_Length=len(body))
    elif start >= len(body):
        to.answer(416, Content_Range=f"bytes */{len(body)}", Content_Length=0)
    else:
        span = f"bytes {start}-{len(body) - 1}/{len(body)}"
        to.answer(206, body[start:end], Content_Range=span, Content_Length=len(body) - start)


ANSWERS = {
    "good": good,
    "breaks": lambda to, start: good(to, start, end=(start or 0) + 100_000),
    "without_ranges": lambda to, start: good(to, None),
    "without_length": lambda to, start: to.answer(200, BODY),
    "other": lambda to, start: good(to, start, bytes(len(BODY))),
    "shorter": lambda to, start: good(to, start, BODY[:1000]),
    "longer": lambda to, start: good(to, start, BODY * 2),
    "wrong_span": lambda to, start: to.answer(206, BODY, Content_Range="bytes 7-299999/300000"),
    "absent": lambda to, start: to.answer(404, Content_Length=0),
    "moved": lambda to, start: to.answer(302, Location=f"{to.server.plain}/good"),
    "to_file": lambda to, start: to.answer(302, Location="file:///etc/hostname"),
    "silent": lambda to, start: to.server.end.wait(5),
}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(ANSWERS) as server:
        yield server


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def get(server: Server, path: Path, *names: str, md5: str | None = MD5) -> Path:
    return fetch_continued([f"{server.url}/{name}" for name in names], path, md5=md5, most=400_000)


@pytest.mark.parametrize("md5", [MD5, None])
@pytest.mark.parametrize("name", ["good", "without_ranges", "without_length"])
def test_download(server: Server, path: Path, name: str, md5: str | None) -> None:
    for _ in range(2):
        assert get(server, path, name, md5=md5).read_bytes() == BODY
    assert [path.name for path in path.parent.iterdir()] == ["file"]
    assert server.asked == [(f"/{name}", None)]  # once: what is there is kept


@pytest.mark.parametrize("md5", [MD5, None])
def test_it_goes_on_where_it_broke_off(server: Server, path: Path, md5: str | None) -> None:
    for had in (100_000, 200_000):
        with pytest.raises(DataError, match=rf"broke off after {had} of 300000.* same command"):
            get(server, path, "breaks", md5=md5)
        assert path.with_suffix(".part").read_bytes() == BODY[:had]
        assert not path.exists()
    assert get(server, path, "breaks", md5=md5).read_bytes() == BODY
    assert [start for _, start in server.asked] == [None, 100_000, 200_000]
    assert [path.name for path in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["good", "without_ranges", "without_length"])
def test_from_any_part(server: Server, path: Path, name: str) -> None:
    places = (0, 1, HALF, len(BODY) - 1, len(BODY))
    for had in places:
        path.with_name(f"{had}.part").write_bytes(BODY[:had])
        assert get(server, path.with_name(str(had)), name).read_bytes() == BODY
    assert [start for _, start in server.asked] == [had or None for had in places]


def test_the_next_address_goes_on_and_a_part_of_another_file_is_told_by_its_hash(server, path):
    get(server, path, "absent", "breaks", "silent", "good")
    assert path.read_bytes() == BODY
    assert [start for _, start in server.asked] == [None, None, 100_000, 100_000]
    path.unlink()
    path.with_suffix(".part").write_bytes(b"x" * HALF)
    with pytest.raises(DataError, match=f"its MD5 is .*, not {MD5}"):
        get(server, path, "good")
    assert list(path.parent.iterdir()) == []
    assert get(server, path, "good").read_bytes() == BODY  # it begins anew


@pytest.mark.parametrize("name", REFUSED)
def test_refused(server: Server, path: Path, name: str) -> None:
    with pytest.raises(DataError, match=REFUSED[name]) as error:
        get(server, path, name)
    assert f"{server.url}/{name}" in str(error.value)
    assert "--archive" in str(error.value)
    assert not path.exists()


@pytest.mark.parametrize(("name", "message"), [("shorter", SHORTER), ("wrong_span", WRONG_SPAN)])
def test_refused_to_go_on(server: Server, path: Path, name: str, message: str) -> None:
    path.with_suffix(".part").write_bytes(BODY[:HALF])
    with pytest.raises(DataError, match=message):
        get(server, path, name, md5=None)
    assert path.with_suffix(".part").exists() == (name == "wrong_span")


def test_plain_http_only_where_the_hash_is_known(server: Server, path: Path) -> None:
    with pytest.raises(DataError, match="not an https address"):
        fetch_continued([f"{server.plain}/good"], path, md5=None, most=400_000)
    assert server.asked == []
    with pytest.raises(DataError, match=r"leads to http://.*, not an https address"):
        get(server, path, "moved", md5=None)
    fetch_continued([f"{server.plain}/good"], path, md5=MD5, most=400_000)
    path.unlink()
    assert get(server, path, "moved").read_bytes() == BODY


def test_what_cannot_be_had_or_written(server, path, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", -1e9)
    with pytest.raises(DataError, match="bytes came in time"):
        get(server, path, "good")
    with pytest.raises(RunError, match=r"cannot write .*none"):
        get(server, path.parent / "none" / "file", "good")
