"""A lock for file systems without locks: a file that names its holder."""

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from advlens.errors import RunError

POLL = 0.1
"""Seconds between two checks of a lock that is waited for."""


@contextlib.contextmanager
def held_by_file(file: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a file that names host, process and time; a file left by a dead process is taken over.

    Whether a process on another machine is alive cannot be checked: its file stays until someone
    removes it.

    Args:
        file: the lock, which exists while it is held.
        wait: wait for another process on this machine instead of refusing.

    Raises:
        RunError: another process holds the file, or it cannot be written.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    own = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "since": now})
    while not _created(file, own):
        _take_over(file, wait=wait)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _created(file: Path, content: str) -> bool:
    try:
        lock = open(file, "x", encoding="utf-8")  # noqa: SIM115 (closed below)
    except FileExistsError:
        return False
    except OSError as error:
        raise _cannot_write(file, error) from error
    try:
        with lock:
            lock.write(content)
    except OSError as error:
        file.unlink(missing_ok=True)
        raise _cannot_write(file, error) from error
    return True


def _take_over(file: Path, *, wait: bool) -> None:
    """Remove a lock whose holder has died; otherwise refuse, or wait a little."""
    try:
        content, host, pid, since = _read(file)
    except FileNotFoundError:  # it has just been released
        return
    here = host == socket.gethostname()
    if here and not lives(pid):
        aside = file.with_name(f"{file.name}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):  # another was faster
            os.rename(file, aside)
            if aside.read_text(encoding="utf-8") == content:
                aside.unlink()
            else:  # this is the lock of another process that was faster
                os.rename(aside, file)
    elif here and wait:
        time.sleep(POLL)
    else:
        raise RunError(
            f"another advlens process, {pid} on {host}, holds {file.parent} since {since}; wait "
            f"for it, or remove {file} if it is gone"
        )


def _read(file: Path) -> tuple[str, str, int, str]:
    """The content of a lock: the whole text, host, process and time."""
    for _ in range(10):  # a lock that is being created is empty
        content = file.read_text(encoding="utf-8", errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            holder = json.loads(content)
            return content, str(holder["host"]), int(holder["pid"]), str(holder["since"])
        time.sleep(POLL)
    raise RunError(
        f"{file} does not say who holds {file.parent}; remove it if no advlens process does"
    )


def lives(pid: int) -> bool:
    """Whether this machine has such a process."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it belongs to another user
        return True
    return True


def _cannot_write(file: Path, error: OSError) -> RunError:
    return RunError(f"cannot write {file}: {error.strerror}; free space or choose another folder")
