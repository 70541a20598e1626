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
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from advlens import DataError, RunError, files, lockfile
from advlens.files import atomic, fetch, is_held, locked
from advlens.lockfile import held_by_file
from https_server import serving

BODY = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(BODY).hexdigest()
NO_LOCKS = [errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK]
without_locks = pytest.mark.usefixtures("_without_locks")
DIFFERENT = dict.fromkeys(("short", "short_without_length"), "299999 bytes, not 300000")
BAD = DIFFERENT | dict.fromkeys(("longer", "endless"), "more than 300000 bytes")
BAD |= {"flipped": "SHA-256", "empty": "0 bytes, not 300000", "absent": "404"}
BAD |= {"to_http": "not an https address", "to_file": "not allowed", "in_circles": "infinite loop"}
BAD |= {"silent": "timed out", "dripping": "in time", "garbage": "no http"}
SIZE = len(BODY)
CALLS = [(tempfile, "mkstemp"), (os, "fsync"), (os, "chmod"), (os, "replace")]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def failing(number: int):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@contextlib.contextmanager
def full_disk(room: int):
    """Makes every write fail that would extend a file beyond `room` bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_atomic_writes_bytes_and_text_and_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic(tmp_path / "new" / "a") as file:
            file.write(b"\x00\r\n")
    finally:
        os.umask(before)
    with atomic(tmp_path / "b", "w") as file:
        file.write("ε\n")
    assert (tmp_path / "new" / "a").read_bytes() == b"\x00\r\n"
    assert (tmp_path / "new" / "a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "b").read_bytes() == "ε\n".encode()


@pytest.mark.parametrize("old", [{}, {"a": b"old"}], ids=["new", "old"])
@pytest.mark.parametrize(("module", "call"), CALLS, ids=["mkstemp", "fsync", "chmod", "replace"])
def test_atomic_survives_a_failing_call(tmp_path, monkeypatch, module, call, old):
    path = tmp_path / "a"
    for content in old.values():
        path.write_bytes(content)
    monkeypatch.setattr(module, call, failing(errno.ENOSPC))
    with pytest.raises(RunError, match=f"{path}: No space left"), atomic(path) as file:
        file.write(b"new")
    assert contents(tmp_path) == old


@pytest.mark.parametrize("room", [0, 1, 8191, 8192, 65_536, 99_999])
def test_atomic_survives_a_full_disk_and_an_exception(tmp_path, room):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with full_disk(room), pytest.raises(RunError, match=str(path)), atomic(path) as file:
        file.writelines([b"x" * 1000] * 100)
    with pytest.raises(ZeroDivisionError), atomic(path) as file:
        file.writelines(b"x" * (1 // left) for left in (2, 1, 0))
    assert contents(tmp_path) == {"a": b"old"}


@contextlib.contextmanager
def dying(work: str, *arguments: object):
    """A process that does this with `path`, says so, and waits; in the end it gets SIGKILL."""
    lines = "import sys, time, pathlib; from advlens.files import atomic, locked\n"
    lines += f"path = pathlib.Path(sys.argv[1])\n{work}: print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", lines, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield
        finally:
            process.send_signal(signal.SIGKILL)


def test_locked_refuses_a_second_process_and_is_free_after_sigkill(tmp_path, monkeypatch):
    with dying("with locked(path)", tmp_path), monkeypatch.context() as patched:
        patched.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
        with pytest.raises(RunError, match=str(tmp_path)), locked(tmp_path):
            pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("name", ["run.json", "results/a.csv", "images/b/c.png"])
def test_only_what_a_killed_process_left_is_removed(tmp_path, name):
    path = tmp_path / name
    kept = tmp_path / ".a.original", tmp_path / "results" / ".a.csv.original"
    with dying("with atomic(path)", path):
        for other in kept:
            other.parent.mkdir(exist_ok=True)
            other.touch()
        with locked(tmp_path):
            assert len(list(path.parent.glob(".advlens-*"))) == 1
    with locked(tmp_path):
        assert list(tmp_path.rglob(".advlens-*")) == []
    assert all(other.exists() for other in kept)


def test_a_held_folder_is_seen_without_taking_it(tmp_path):
    assert is_held(tmp_path) is False
    with locked(tmp_path):
        assert is_held(tmp_path) is True
    assert is_held(tmp_path) is False
    os.mkfifo(tmp_path / ".lock.held")  # nobody waits for what it may say
    assert is_held(tmp_path) is False
    assert {path.name for path in tmp_path.iterdir()} == {".lock", ".lock.held"}


@pytest.mark.parametrize(
    ("changes", "seen"), [({}, False), ({"pid": os.getpid()}, True), ({"host": "another"}, True)]
)
def test_the_file_of_a_lock_is_seen_too(tmp_path, changes, seen):
    holder(tmp_path, **changes)
    assert is_held(tmp_path) is seen


def test_locked_needs_a_folder_and_a_lock_and_follows_no_link(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file"), locked(tmp_path / "file"):
        pass
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="cannot use the folder"), locked(tmp_path / "run"):
        pass
    assert not (tmp_path / "elsewhere").exists()
    monkeypatch.setattr(fcntl, "flock", failing(errno.EIO))
    with pytest.raises(RunError, match=r"cannot lock .*Input/output error"), locked(tmp_path):
        pass


@pytest.fixture(params=NO_LOCKS, ids=errno.errorcode.get)
def _without_locks(request, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", failing(request.param))


def holder(folder: Path, **changes: object) -> Path:
    """The lock of a process of this machine that has died, but for changes."""
    process = subprocess.Popen(["true"])
    process.wait()
    since, lock = "2026-01-02T03:04:05+00:00", folder / ".lock.held"
    held = {"host": socket.gethostname(), "pid": process.pid, "since": since, **changes}
    lock.write_text(json.dumps(held))
    return lock


@without_locks
def test_a_file_stands_for_a_lock_and_goes_with_it(tmp_path):
    holder(tmp_path)  # of a process that died: it is taken over

    def work():
        with locked(tmp_path):
            found = json.loads((tmp_path / ".lock.held").read_text())
            assert (found["host"], found["pid"]) == (socket.gethostname(), os.getpid())
            said = rf"{os.getpid()} on .* since 20.* remove {tmp_path}"
            with pytest.raises(RunError, match=said):
                locked(tmp_path).__enter__()
            raise ZeroDivisionError

    for _ in ("taken over", "new"):
        with pytest.raises(ZeroDivisionError):
            work()
        assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@without_locks
def test_a_lock_of_another_machine_stays(tmp_path):
    lock = holder(tmp_path, host="node7", pid=12)
    before = lock.read_text()
    sentence = f"another advlens process, 12 on node7, holds {tmp_path} since 2026-01-02T03:04:05"
    with pytest.raises(RunError, match=re.escape(sentence)), locked(tmp_path):
        pass
    assert lock.read_text() == before


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 3}', "\0"])
def test_a_lock_that_says_nothing_is_named(tmp_path, content, monkeypatch):
    monkeypatch.setattr(lockfile, "POLL", 0.0)
    (tmp_path / "held").write_text(content)
    with pytest.raises(RunError, match="does not say who holds"), held_by_file(tmp_path / "held"):
        pass


def test_of_processes_that_take_over_at_once_one_holds(tmp_path):
    """Each adds 1 to a number in a file while it holds the lock, and then waits for its turn."""
    holder(tmp_path)
    (tmp_path / "number").write_text("0")
    work = (
        "import sys, pathlib; from advlens import lockfile\n"
        "folder, lockfile.POLL = pathlib.Path(sys.argv[1]), 0.01\n"
        "for _ in range(50):\n"
        "    with lockfile.held_by_file(folder / '.lock.held', wait=True):\n"
        "        number = folder / 'number'\n"
        "        number.write_text(str(int(number.read_text()) + 1))"
    )
    command = [sys.executable, "-c", work, str(tmp_path)]
    workers = [subprocess.Popen(command) for _ in range(3)]
    assert [worker.wait(60) for worker in workers] == [0, 0, 0]
    assert (tmp_path / "number").read_text() == "150"


def sends(body: bytes, length: int | None, after=lambda to: None):
    """The body, of a length that is announced; and what comes after."""
    headers = {} if length is None else {"Content_Length": length}
    return lambda to, _: [to.answer(200, body, **headers), after(to)]


def leads(place: str):
    return lambda to, _: to.answer(302, Location=place.format(server=to.server))


def without_end(to) -> None:
    while True:
        to.wfile.write(BODY)


def dripping(to) -> None:
    while not to.server.end.wait(0.02):
        to.wfile.write(b"x")


ANSWERS = {
    # long enough for a second request to come
    "whole": lambda to, start: [time.sleep(0.1), sends(BODY, SIZE)(to, start)],
    "flipped": sends(BODY[:7] + bytes([BODY[7] ^ 1]) + BODY[8:], SIZE),
    "short": sends(BODY[:-1], SIZE),
    "short_without_length": sends(BODY[:-1], None),
    "empty": sends(b"", 0),
    "longer": sends(BODY + b"x", SIZE + 1),
    "endless": sends(BODY, None, without_end),
    "dripping": sends(b"", SIZE, dripping),
    "absent": lambda to, _: to.answer(404, Content_Length=0),
    "moved": leads("/whole"),
    "to_http": leads("{server.plain}/whole"),
    "to_file": leads("file:///etc/hostname"),
    "in_circles": leads("/in_circles"),
    "garbage": lambda to, _: to.wfile.write(b"\xff\x00 no http\r\n\r\n"),
    "silent": lambda to, _: to.server.end.wait(5),
}


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(files, "SLOWEST", 10 * SIZE)
    with serving(ANSWERS) as server:
        yield server


def get(server, name: str, path: Path) -> Path:
    return fetch(f"{server.url}/{name}", path, sha256=SHA256, size=SIZE)


@pytest.mark.parametrize("address", ["whole", "moved"])
def test_fetch(server, tmp_path, address):
    path = tmp_path / "new" / "file"
    for _ in range(2):
        assert get(server, address, path) == path
        assert contents(path.parent) == {"file": BODY}
    assert len(server.asked) == 1 + (address == "moved")  # the second call found it whole


@pytest.mark.parametrize("old", [{}, {"file": b"old"}], ids=["new", "old"])
@pytest.mark.parametrize("address", BAD)
def test_fetch_refuses(server, tmp_path, address, old):
    path = tmp_path / "file"
    for content in old.values():
        path.write_bytes(content)
    with pytest.raises(DataError, match=BAD[address]) as error:
        get(server, address, path)
    assert contents(tmp_path) == old
    assert f"{server.url}/{address}" in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("scheme", ["http", "file", "ftp", "data", ""])
def test_fetch_asks_https_only(server, tmp_path, scheme):
    server.url = server.url.replace("https", scheme)
    with pytest.raises(DataError, match="not an https address"):
        get(server, "whole", tmp_path / "file")
    assert len(server.asked) == 0
    assert contents(tmp_path) == {}


def test_fetch_mends_a_damaged_file_and_keeps_none_on_a_full_disk(server, tmp_path):
    with full_disk(1000), pytest.raises(RunError, match="file"):
        get(server, "whole", tmp_path / "file")
    assert contents(tmp_path) == {}
    (tmp_path / "file").write_bytes(BODY[:-1] + b"x")
    for left in (".file.lock", ".advlens-file.12345678"):  # by a process that was killed
        (tmp_path / left).touch()
    get(server, "whole", tmp_path / "file")
    assert contents(tmp_path) == {"file": BODY}


def test_concurrent_fetches_download_once_and_after_failures_in_turn(server, tmp_path):
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda _: get(server, "whole", tmp_path / "file"), range(8))
        assert list(found) == [tmp_path / "file"] * 8
    assert len(server.asked) == 1
    assert contents(tmp_path) == {"file": BODY}

    def one(_):
        with pytest.raises(DataError, match="SHA-256"):
            get(server, "flipped", tmp_path / "other")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, range(8)))
    assert len(server.asked) == 9
    assert contents(tmp_path) == {"file": BODY}
