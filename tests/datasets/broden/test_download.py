"""Downloads go on where they broke off, and hold what was asked for."""

import contextlib
import hashlib
import random
import re
import threading
from collections.abc import Iterator
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import HTTPSHandler

import pytest

from advlens import files
from advlens.datasets.broden import download
from advlens.datasets.broden.download import fetch_continued
from advlens.errors import DataError, RunError

BODY = random.Random(0).randbytes(300_000)
MD5 = hashlib.md5(BODY).hexdigest()
HALF = len(BODY) // 2


class Answers(BaseHTTPRequestHandler):
    """One way to answer for each path."""

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else None
        self.server.asked.append((self.path, start))
        with contextlib.suppress(OSError):  # the client has gone
            getattr(self, self.path.strip("/"))(start)

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes, **headers: object) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def good(self, start: int | None, body: bytes = BODY, end: int | None = None) -> None:
        if start is None:
            self.answer(200, body[:end], Content_Length=len(body))
        elif start >= len(body):
            self.answer(416, b"", Content_Range=f"bytes */{len(body)}", Content_Length=0)
        else:
            span = f"bytes {start}-{len(body) - 1}/{len(body)}"
            part = body[start:end]
            self.answer(206, part, Content_Range=span, Content_Length=len(body) - start)

    def breaks(self, start: int | None) -> None:
        self.good(start, end=(start or 0) + 100_000)

    def without_ranges(self, start: int | None) -> None:
        self.good(None)

    def without_length(self, start: int | None) -> None:
        self.answer(200, BODY)

    def other(self, start: int | None) -> None:
        self.good(start, bytes(len(BODY)))

    def shorter(self, start: int | None) -> None:
        self.good(start, BODY[:1000])

    def longer(self, start: int | None) -> None:
        self.good(start, BODY * 2)

    def wrong_span(self, start: int | None) -> None:
        self.answer(206, BODY, Content_Range=f"bytes 7-{len(BODY) - 1}/{len(BODY)}")

    def absent(self, start: int | None) -> None:
        self.answer(404, b"", Content_Length=0)

    def moved(self, start: int | None) -> None:
        self.answer(302, b"", Location=self.server.url.replace("https", "http") + "/good")

    def to_file(self, start: int | None) -> None:
        self.answer(302, b"", Location="file:///etc/hostname")

    def silent(self, start: int | None) -> None:
        self.server.end.wait(5)


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.asked: list[tuple[str, int | None]] = []
        self.end = threading.Event()
        self.url = f"https://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of http addresses, and of https ones without the encryption."""
    monkeypatch.setattr(
        HTTPSHandler, "https_open", lambda self, request: self.do_open(HTTPConnection, request)
    )
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(files, "TIMEOUT", 0.3)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.end.set()
        server.shutdown()
        thread.join()


def get(server: Server, path: Path, *names: str, md5: str | None = MD5) -> Path:
    urls = [f"{server.url}/{name}" for name in names]
    return fetch_continued(urls, path, md5=md5, most=400_000)


@pytest.mark.parametrize("md5", [MD5, None])
@pytest.mark.parametrize("name", ["good", "without_ranges", "without_length"])
def test_download(server: Server, tmp_path: Path, name: str, md5: str | None) -> None:
    for _ in range(2):
        assert get(server, tmp_path / "file", name, md5=md5).read_bytes() == BODY
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert server.asked == [(f"/{name}", None)]  # once: what is there is kept


@pytest.mark.parametrize("md5", [MD5, None])
def test_it_goes_on_where_it_broke_off(server: Server, tmp_path: Path, md5: str | None) -> None:
    for had in (100_000, 200_000):
        with pytest.raises(DataError, match=rf"broke off after {had} of 300000.* same command"):
            get(server, tmp_path / "file", "breaks", md5=md5)
        assert (tmp_path / "file.part").read_bytes() == BODY[:had]
        assert not (tmp_path / "file").exists()
    assert get(server, tmp_path / "file", "breaks", md5=md5).read_bytes() == BODY
    assert [start for _, start in server.asked] == [None, 100_000, 200_000]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["good", "without_ranges", "without_length"])
@pytest.mark.parametrize("had", [0, 1, HALF, len(BODY) - 1, len(BODY)])
def test_from_any_part(server: Server, tmp_path: Path, name: str, had: int) -> None:
    (tmp_path / "file.part").write_bytes(BODY[:had])
    assert get(server, tmp_path / "file", name).read_bytes() == BODY
    assert [start for _, start in server.asked] == [had or None]


def test_the_next_address_goes_on(server: Server, tmp_path: Path) -> None:
    path = get(server, tmp_path / "file", "absent", "breaks", "silent", "good")
    assert path.read_bytes() == BODY
    assert [start for _, start in server.asked] == [None, None, 100_000, 100_000]


def test_a_part_of_another_file(server: Server, tmp_path: Path) -> None:
    """The hash tells; the next call begins anew."""
    (tmp_path / "file.part").write_bytes(b"x" * HALF)
    with pytest.raises(DataError, match=f"its MD5 is .*, not {MD5}"):
        get(server, tmp_path / "file", "good")
    assert list(tmp_path.iterdir()) == []
    assert get(server, tmp_path / "file", "good").read_bytes() == BODY


BAD = {
    "absent": "404",
    "other": "its MD5 is",
    "shorter": "its MD5 is",
    "longer": "it has more than 400000 bytes",
    "to_file": "file:///etc/hostname.* not allowed",
    "silent": "timed out",
}


@pytest.mark.parametrize("name", BAD)
def test_refused(server: Server, tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=BAD[name]) as error:
        get(server, tmp_path / "file", name)
    assert f"{server.url}/{name}" in str(error.value)
    assert "--archive" in str(error.value)
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shorter", "less than what came before, which is removed"),
        ("wrong_span", f"asked for the bytes from {HALF}, it sends bytes 7-"),
    ],
)
def test_refused_to_go_on(server: Server, tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "file.part").write_bytes(BODY[:HALF])
    with pytest.raises(DataError, match=message):
        get(server, tmp_path / "file", name, md5=None)
    assert (tmp_path / "file.part").exists() == (name == "wrong_span")


def test_plain_http_only_where_the_hash_is_known(server: Server, tmp_path: Path) -> None:
    url = server.url.replace("https", "http")
    with pytest.raises(DataError, match="not an https address"):
        fetch_continued([f"{url}/good"], tmp_path / "file", md5=None, most=400_000)
    assert server.asked == []
    with pytest.raises(DataError, match=r"leads to http://.*, not an https address"):
        get(server, tmp_path / "file", "moved", md5=None)
    fetch_continued([f"{url}/good"], tmp_path / "file", md5=MD5, most=400_000)
    (tmp_path / "file").unlink()
    assert get(server, tmp_path / "file", "moved").read_bytes() == BODY


def test_too_slow(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "TIMEOUT", -1e9)
    with pytest.raises(DataError, match="bytes came in time"):
        get(server, tmp_path / "file", "good")


def test_a_folder_that_cannot_be_written(server: Server, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*none"):
        get(server, tmp_path / "none" / "file", "good")
