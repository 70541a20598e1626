"""Files are whole or absent, locks end with their process, downloads are what was asked for."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import HTTPSHandler

import pytest

from advlens import files, lockfile
from advlens.errors import DataError, RunError
from advlens.files import atomic, fetch, locked, sha256
from advlens.lockfile import held_by_file

BODY = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@contextlib.contextmanager
def full_disk(room: int) -> Iterator[None]:
    """Makes every write fail that would extend a file beyond `room` bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# atomic


def test_atomic_writes_bytes_and_text(tmp_path: Path) -> None:
    with atomic(tmp_path / "new" / "a") as file:
        file.write(b"\x00\r\n")
    with atomic(tmp_path / "b", "w") as file:
        file.write("ε\n")
    assert (tmp_path / "new" / "a").read_bytes() == b"\x00\r\n"
    assert (tmp_path / "b").read_bytes() == "ε\n".encode()


def test_atomic_file_follows_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with atomic(tmp_path / "a") as file:
            file.write(b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize(
    ("module", "call"),
    [(tempfile, "mkstemp"), (os, "fsync"), (os, "chmod"), (os, "replace")],
    ids=lambda value: str(getattr(value, "__name__", value)),
)
def test_atomic_survives_a_failing_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, call: str, old: bytes | None
) -> None:
    path = tmp_path / "a"
    if old is not None:
        path.write_bytes(old)
    before = contents(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, call, fail)
    with pytest.raises(RunError, match=f"{path}: No space left"), atomic(path) as file:
        file.write(b"new")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("room", [0, 1, 8191, 8192, 65_536, 99_999])
def test_atomic_survives_a_full_disk(tmp_path: Path, room: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with full_disk(room), pytest.raises(RunError, match=str(path)), atomic(path) as file:
        file.writelines([b"x" * 1000] * 100)
    assert contents(tmp_path) == {"a": b"old"}


def test_atomic_keeps_the_old_file_after_an_exception(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), atomic(tmp_path / "a") as file:
        file.writelines(b"x" * (1 // left) for left in (2, 1, 0))
    assert contents(tmp_path) == {"a": b"old"}


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(BODY)
    assert sha256(tmp_path / "a") == SHA256


# locked


def test_locked_refuses_a_second_process_and_is_free_after_sigkill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = (
        "import sys, time, pathlib; from advlens.files import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with monkeypatch.context() as patched:
                patched.setattr(
                    time, "sleep", lambda seconds: pytest.fail(f"waits for {seconds} s")
                )
                with pytest.raises(RunError, match=str(tmp_path)), locked(tmp_path):
                    pass
        finally:
            holder.send_signal(signal.SIGKILL)
    with locked(tmp_path):
        pass


def test_locked_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file"), locked(tmp_path / "file"):
        pass


NO_LOCKS = [errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK]


@pytest.fixture(params=NO_LOCKS, ids=errno.errorcode.get)
def without_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no flock."""

    def flock(*args: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", flock)


def holder(folder: Path, **changes: object) -> Path:
    """The lock of a process of this machine that has died, but for changes."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    since = "2026-01-02T03:04:05+00:00"
    lock = folder / ".lock.held"
    held = {"host": socket.gethostname(), "pid": process.pid, "since": since, **changes}
    lock.write_text(json.dumps(held))
    return lock


@pytest.mark.usefixtures("without_locks")
def test_a_file_stands_for_a_lock_and_goes_with_it(tmp_path: Path) -> None:
    def work() -> None:
        with locked(tmp_path):
            found = json.loads((tmp_path / ".lock.held").read_text())
            assert (found["host"], found["pid"]) == (socket.gethostname(), os.getpid())
            with pytest.raises(
                RunError, match=rf"{os.getpid()} on .* since 20.* remove {tmp_path}"
            ):
                locked(tmp_path).__enter__()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        work()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.usefixtures("without_locks")
def test_a_lock_of_a_process_that_died_is_taken_over(tmp_path: Path) -> None:
    holder(tmp_path)
    with locked(tmp_path):
        assert json.loads((tmp_path / ".lock.held").read_text())["pid"] == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.usefixtures("without_locks")
def test_a_lock_of_another_machine_stays(tmp_path: Path) -> None:
    lock = holder(tmp_path, host="node7", pid=12)
    before = lock.read_text()
    sentence = f"another advlens process, 12 on node7, holds {tmp_path} since 2026-01-02T03:04:05"
    with pytest.raises(RunError, match=re.escape(sentence)), locked(tmp_path):
        pass
    assert lock.read_text() == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 3}', "\0"])
def test_a_lock_that_says_nothing_is_named(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lockfile, "POLL", 0.0)
    (tmp_path / "held").write_text(content)
    with pytest.raises(RunError, match="does not say who holds"), held_by_file(tmp_path / "held"):
        pass


def test_of_processes_that_take_over_at_once_one_holds(tmp_path: Path) -> None:
    """Each adds 1 to a number in a file while it holds the lock, and then waits for its turn."""
    holder(tmp_path)
    (tmp_path / "number").write_text("0")
    work = (
        "import sys, pathlib; from advlens.lockfile import held_by_file\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "for _ in range(50):\n"
        "    with held_by_file(folder / '.lock.held', wait=True):\n"
        "        number = folder / 'number'\n"
        "        number.write_text(str(int(number.read_text()) + 1))"
    )
    command = [sys.executable, "-c", work, str(tmp_path)]
    workers = [subprocess.Popen(command) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "150"


def test_a_lock_that_fails_otherwise_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def flock(*args: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(RunError, match=r"cannot lock .*Input/output error"), locked(tmp_path):
        pass


# fetch


class Answers(BaseHTTPRequestHandler):
    """One answer for each path, good and bad."""

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.requests += 1
        with contextlib.suppress(OSError):  # the client has gone, as it should
            getattr(self, self.path.strip("/"))()

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, body: bytes, length: int | None = None, status: int = 200) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def redirect(self, to: str) -> None:
        self.send_response(302)
        self.send_header("Location", to)
        self.end_headers()

    def whole(self) -> None:
        time.sleep(0.1)  # long enough for a second request to come
        self.answer(BODY, len(BODY))

    def moved(self) -> None:
        self.redirect("/whole")

    def flipped(self) -> None:
        self.answer(BODY[:7] + bytes([BODY[7] ^ 1]) + BODY[8:], len(BODY))

    def short(self) -> None:
        self.answer(BODY[:-1], len(BODY))

    def short_without_length(self) -> None:
        self.answer(BODY[:-1])

    def empty(self) -> None:
        self.answer(b"", 0)

    def longer(self) -> None:
        self.answer(BODY + b"x", len(BODY) + 1)

    def endless(self) -> None:
        self.answer(BODY)
        while True:
            self.wfile.write(BODY)

    def to_http(self) -> None:
        self.redirect(f"http://127.0.0.1:{self.server.server_port}/whole")

    def to_file(self) -> None:
        self.redirect("file:///etc/hostname")

    def in_circles(self) -> None:
        self.redirect("/in_circles")

    def absent(self) -> None:
        self.answer(b"", 0, 404)

    def silent(self) -> None:
        self.server.end.wait(5)

    def dripping(self) -> None:
        self.answer(b"", len(BODY))
        while not self.server.end.wait(0.02):
            self.wfile.write(b"x")

    def garbage(self) -> None:
        self.wfile.write(b"\xff\x00 no http\r\n\r\n")


class Server(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.requests, self.lock, self.end = 0, threading.Lock(), threading.Event()
        self.url = f"https://127.0.0.1:{self.server_port}"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of https addresses, without the encryption: all else is as for real ones."""
    monkeypatch.setattr(
        HTTPSHandler, "https_open", lambda self, request: self.do_open(HTTPConnection, request)
    )
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(files, "TIMEOUT", 0.3)
    monkeypatch.setattr(files, "SLOWEST", 10 * len(BODY))
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.end.set()
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("address", ["whole", "moved"])
def test_fetch(server: Server, tmp_path: Path, address: str) -> None:
    path = tmp_path / "new" / "file"
    for _ in range(2):
        assert fetch(f"{server.url}/{address}", path, sha256=SHA256, size=len(BODY)) == path
        assert contents(path.parent) == {"file": BODY}
    assert server.requests == 1 + (address == "moved")  # the second call found it whole


BAD = {
    "flipped": "SHA-256",
    "short": "299999 bytes, not 300000",
    "short_without_length": "299999 bytes, not 300000",
    "empty": "0 bytes, not 300000",
    "longer": "more than 300000 bytes",
    "endless": "more than 300000 bytes",
    "to_http": "not an https address",
    "to_file": "not allowed",
    "in_circles": "infinite loop",
    "absent": "404",
    "silent": "timed out",
    "dripping": "in time",
    "garbage": "no http",
}


@pytest.mark.parametrize("old", [None, b"old"])
@pytest.mark.parametrize("address", BAD)
def test_fetch_refuses(server: Server, tmp_path: Path, address: str, old: bytes | None) -> None:
    path = tmp_path / "file"
    if old is not None:
        path.write_bytes(old)
    before = contents(tmp_path)
    with pytest.raises(DataError, match=BAD[address]) as error:
        fetch(f"{server.url}/{address}", path, sha256=SHA256, size=len(BODY))
    assert contents(tmp_path) == before
    assert f"{server.url}/{address}" in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("scheme", ["http", "file", "ftp", "data", ""])
def test_fetch_asks_https_only(server: Server, tmp_path: Path, scheme: str) -> None:
    url = server.url.replace("https", scheme) + "/whole"
    with pytest.raises(DataError, match="not an https address"):
        fetch(url, tmp_path / "file", sha256=SHA256, size=len(BODY))
    assert server.requests == 0
    assert contents(tmp_path) == {}


def test_fetch_without_a_server(tmp_path: Path, server: Server) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match="refused"):
        fetch(f"{server.url}/whole", tmp_path / "file", sha256=SHA256, size=len(BODY))


def test_fetch_replaces_a_damaged_file(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(BODY[:-1] + b"x")
    fetch(f"{server.url}/whole", tmp_path / "file", sha256=SHA256, size=len(BODY))
    assert contents(tmp_path) == {"file": BODY}


def test_fetch_after_one_that_was_killed(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.lock").touch()  # what it leaves; the lock itself died with it
    fetch(f"{server.url}/whole", tmp_path / "file", sha256=SHA256, size=len(BODY))
    assert contents(tmp_path) == {"file": BODY}


def test_fetch_on_a_full_disk(server: Server, tmp_path: Path) -> None:
    with full_disk(1000), pytest.raises(RunError, match="file"):
        fetch(f"{server.url}/whole", tmp_path / "file", sha256=SHA256, size=len(BODY))
    assert contents(tmp_path) == {}


def test_concurrent_fetches_download_once(server: Server, tmp_path: Path) -> None:
    def one(_: int) -> Path:
        return fetch(f"{server.url}/whole", tmp_path / "file", sha256=SHA256, size=len(BODY))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(8))) == [tmp_path / "file"] * 8
    assert server.requests == 1
    assert contents(tmp_path) == {"file": BODY}


def test_concurrent_fetches_try_in_turn_after_failures(server: Server, tmp_path: Path) -> None:
    def one(_: int) -> str:
        with pytest.raises(DataError) as error:
            fetch(f"{server.url}/flipped", tmp_path / "file", sha256=SHA256, size=len(BODY))
        return str(error.value)

    with ThreadPoolExecutor(8) as pool:
        assert all("SHA-256" in message for message in pool.map(one, range(8)))
    assert contents(tmp_path) == {}


def test_a_lock_that_is_a_link_makes_no_file_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="cannot use the folder"), locked(folder):
        pass
    assert not (tmp_path / "elsewhere").exists()
