"""Folders that others may have made, changed or removed; they are checked before use."""

import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from advlens.errors import RunError

LARGEST = 2**26
"""Maximum size of a run's table or record, in bytes."""
MOST_VALUES = 2_000_000
"""Maximum number of values in a JSON file: each can take a hundred bytes of memory."""
MOST_BEYOND_ASCII = 2**24
"""Maximum size of a JSON file with non-ASCII characters: each can take four bytes in memory."""
DEEPEST = 20
"""Maximum nesting of lists and objects."""
WRITTEN = ("parts", "results", "figures", "images")
"""Folders in a run folder that are written to and read from."""

_HELD: dict[Path, tuple[int, int]] = {}


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Within the block, refuse to write into this folder once it has been removed or replaced.

    Raises:
        RunError: it was removed or replaced, and the block has failed for that reason; or the
            folder leads elsewhere, see `check_folder`.
    """
    check_folder(folder)
    key = Path(os.path.abspath(folder))
    before = _HELD.get(key)
    _HELD[key] = _identity(key)
    try:
        yield
    except OSError:
        check_held(key)
        raise
    finally:
        if before is None:
            del _HELD[key]
        else:
            _HELD[key] = before


def check_held(path: Path) -> None:
    """Refuse to write a file whose held folder has been removed or replaced.

    Raises:
        RunError: the folder was removed or replaced; the message names it.
    """
    path = Path(os.path.abspath(path))
    for folder, identity in _HELD.items():
        if path.is_relative_to(folder) and _identity(folder) != identity:
            raise RunError(
                f"the folder {folder} was removed or replaced while it was written to; "
                "start the command again"
            )


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError:
        return -1, -1
    return status.st_dev, status.st_ino


def check_folder(folder: Path) -> None:
    """Check that all reads and writes in a run folder stay in it.

    Raises:
        RunError: the folder holds a link, a pipe or a device in place of a run's files and folders.
    """
    folder = Path(folder)
    waiting = [folder]
    try:
        while waiting:
            within = waiting.pop()
            with os.scandir(within) as entries:
                for entry in entries:
                    if within == folder and entry.name not in WRITTEN:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(within / entry.name)
                    elif not entry.is_file(follow_symlinks=False):
                        kind = "a link" if entry.is_symlink() else "neither file nor folder"
                        raise RunError(
                            f"{_cut(within / entry.name)} is {kind}, which no run leaves behind; "
                            "remove it, or choose another folder"
                        )
    except OSError as error:
        raise RunError(f"cannot look through {_cut(within)}: {why(error)}") from error


def open_plain(path: Path, most: int = LARGEST) -> BinaryIO:
    """Open a file to read: not a link or a pipe, and at most `most` bytes.

    Raises:
        OSError, ValueError: the file does not exist, or is not such a file; see `why`.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if os.path.islink(path):
            raise ValueError("it is a link") from error
        raise
    try:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("it is not a file")
        if status.st_size > most:
            raise ValueError(f"it has {status.st_size:,} bytes, more than {most:,}")
        return open(number, "rb")
    except BaseException:
        os.close(number)
        raise


def read_object(path: Path, most: int = LARGEST) -> dict[str, Any]:
    """Read a JSON object: finite numbers of at most a hundred digits, not deeply nested.

    Raises:
        OSError, ValueError: the file is not such an object; see `why`.
    """
    with open_plain(path, most) as file:
        content = file.read(most + 1)
    return parse_object(content)


def parse_object(content: bytes) -> dict[str, Any]:
    """Parse the same from bytes.

    Raises:
        ValueError: the bytes are not such an object.
    """
    if sum(map(content.count, (b",", b"[", b"{"))) > MOST_VALUES:
        raise ValueError(f"it holds more than {MOST_VALUES:,} values")
    if len(content) > MOST_BEYOND_ASCII and not content.isascii():
        raise ValueError(f"it has {len(content):,} bytes, not all of them ASCII")
    try:
        parsed = json.loads(
            content.decode(), parse_constant=_refused, parse_float=_finite, parse_int=_whole
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(parsed, dict):
        raise ValueError("it holds no JSON object")
    level: list[Any] = [parsed]
    for _ in range(DEEPEST):
        level = [
            item
            for value in level
            for item in (value.values() if isinstance(value, dict) else value)
            if isinstance(item, dict | list)
        ]
    if level:
        raise ValueError("it is nested too deeply")
    return parsed


def is_amount(value: object) -> bool:
    """Whether the value is a number ≥ 0, such as a time, a count or a memory size."""
    return isinstance(value, int | float) and type(value) is not bool and 0 <= value < 1e15


def why(error: Exception) -> str:
    """The reason for an error, without the path, in a few words."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return reason.split("\n")[0][:200] or type(error).__name__


def _cut(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 300 else f"{text[:300]}…"


def _refused(text: str) -> None:
    raise ValueError(f"{text} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > 100:
        raise ValueError(f"a number of {len(text)} digits is too large")
    return int(text)
