"""Downloads go on where they broke off, and hold what was asked for."""

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from advlens.datasets.broden import download
from advlens.datasets.broden.download import fetch_continued
from advlens.errors import DataError, RunError
from https_server import Answers, Server, serving

BODY = random.Random(0).randbytes(300_000)
MD5 = hashlib.md5(BODY).hexdigest()
HALF = len(BODY) // 2
BAD = {
    **{"absent": "404", "other": "its MD5 is", "shorter": "its MD5 is", "silent": "timed out"},
    **{"longer": "more than 400000 bytes", "to_file": "file:///etc/hostname.* not allowed"},
}
SHORTER = "less than what came before, which is removed"
WRONG_SPAN = f"asked for the bytes from {HALF}, it sends bytes 7-"


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


@pytest.mark.parametrize("name", BAD)
def test_refused(server: Server, path: Path, name: str) -> None:
    with pytest.raises(DataError, match=BAD[name]) as error:
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
