"""A lock for file systems that have none: a file that names who holds it."""

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
"""Seconds between two looks at a lock that is waited for."""


@contextlib.contextmanager
def held_by_file(file: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a file that says host, process and time; one left by a process that died is taken over.

    Whether a process of another machine still lives cannot be seen from here: its file stays until
    somebody removes it.

    Args:
        file: the lock, which exists while it is held.
        wait: wait for another process of this machine instead of refusing.

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
    except FileNotFoundError:  # it has just been given up
        return
    here = host == socket.gethostname()
    if here and not _lives(pid):
        aside = file.with_name(f"{file.name}.{os.getpid()}")
        with contextlib.suppress(FileNotFoundError):  # another was faster
            os.rename(file, aside)
            if aside.read_text(encoding="utf-8") == content:
                aside.unlink()
            else:  # this is the lock of another, who was faster
                os.rename(aside, file)
    elif here and wait:
        time.sleep(POLL)
    else:
        raise RunError(
            f"another advlens process, {pid} on {host}, holds {file.parent} since {since}; wait "
            f"for it, or remove {file} if it is gone"
        )


def _read(file: Path) -> tuple[str, str, int, str]:
    """The content of a lock: all of it, host, process and time."""
    for _ in range(10):  # one that is just being made is empty
        content = file.read_text(encoding="utf-8", errors="replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            holder = json.loads(content)
            return content, str(holder["host"]), int(holder["pid"]), str(holder["since"])
        time.sleep(POLL)
    raise RunError(
        f"{file} does not say who holds {file.parent}; remove it if no advlens process does"
    )


def _lives(pid: int) -> bool:
    """Whether there is such a process on this machine."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # it is another user's
        return True
    return True


def _cannot_write(file: Path, error: OSError) -> RunError:
    return RunError(f"cannot write {file}: {error.strerror}; free space or choose another folder")
